/* What the clients of brokers share. */
#ifndef SERVICE_BROKER_PRIVATE_H
#define SERVICE_BROKER_PRIVATE_H

#include <pthread.h>

#include "base/error.h"
#include "base/list.h"
#include "base/loop/loop.h"

#include "service/broker/broker.h"

enum { RETRY_FIRST_MS = 500, RETRY_MOST_MS = 30000, LAG_EVERY_MS = 5000 };

/* An answer on its way to the client's thread. */
struct verdict {
    struct list_node link;
    uint64_t token;
    bool is_acknowledged;
};

/* One kind of broker.  `run` is the body of a thread that the room makes for it. */
struct broker_kind {
    const char *name;
    const char *const *schemes; /* of its URLs; NULL at the end */
    const char *const *keys;    /* of its settings, besides url and in_flight; NULL at the end */
    const char *const *needed;  /* of them; NULL at the end */
    int (*check)(const json_t *settings, struct error *err); /* further; or NULL */
    void (*run)(struct broker *broker);
};

extern const struct broker_kind broker_redis;
extern const struct broker_kind broker_nats;
extern const struct broker_kind broker_kafka;
extern const struct broker_kind broker_amqp;
extern const struct broker_kind broker_mqtt;

/* After the last client has ended: the library has threads and memory of its own, if it was used.
 */
void broker_nats_end(void);

struct broker {
    const struct broker_kind *kind;
    struct loop *loop;
    struct broker_events events;
    void *context;
    json_t *settings;
    char *name;
    char *username;
    char *password;

    /* Loop thread. */
    bool is_closed;
    struct broker_status status;

    /* Both, under `mutex`. */
    pthread_mutex_t mutex;
    bool is_stopping;
    bool is_paused;
    unsigned in_flight_max;
    unsigned in_flight; /* given, and the client has not taken an answer */
    struct list verdicts;

    struct list_node turn; /* of its client, under a mutex of all brokers */
    int wake_fd;           /* an eventfd: something of what is under `mutex` has changed */

    _Atomic unsigned references; /* the owner's, the thread's, and one per post */
};

/* ---- Settings ---- */

struct broker_url {
    char scheme[16];
    char host[256]; /* of unix:/PATH the path */
    unsigned port;  /* 0: none is said */
    char path[256]; /* without the first '/' */
};

/* INVALID, also for one with a password: that is a secret. */
int broker_url_parse(const char *text, struct broker_url *ret_url, struct error *err);

/* A text of the settings, or `fallback`; a number. */
const char *broker_text(const struct broker *broker, const char *key, const char *fallback);
uint64_t broker_number(const struct broker *broker, const char *key, uint64_t fallback);
bool broker_starts_with_all(const struct broker *broker);

/* ---- The client's thread ---- */

bool broker_is_stopping(struct broker *broker);

/* How many more messages may be given now; 0 while paused. */
unsigned broker_room(struct broker *broker);

/* Wait until there is room, an answer, or an end, for at most so long. */
void broker_wait(struct broker *broker, uint64_t timeout_ms);

/* Or until a socket is ready for `events`; returns what it is ready for, as poll(2). */
short broker_wait_socket(struct broker *broker, int socket, short events, uint64_t timeout_ms);

/* The next answer; false: there is none. */
bool broker_next_verdict(struct broker *broker, uint64_t *ret_token, bool *ret_acknowledged);

/* Give a message; it is copied (a body that is too large is not), but for `fields`, which are
 * taken. */
void broker_give(struct broker *broker, const struct broker_message *message, json_t *owned_fields);

void broker_note_state(struct broker *broker, bool is_connected, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Nobody is there, or who is does not let us in; port 0: the host is a path. */
void broker_note_unreached(struct broker *broker, const struct broker_url *url, int port,
                           const char *why);
void broker_note_lag(struct broker *broker, uint64_t lag);

/* Wait before the next try: twice as long each time, with chance in it. */
void broker_back_off(struct broker *broker, uint64_t *delay_ms);

/* Add a field, if both are text (UTF-8). */
void broker_add_field(json_t *fields, const char *name, const void *value, size_t length);

#endif
