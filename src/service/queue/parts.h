/* What the files of this room share. */
#ifndef SERVICE_QUEUE_PARTS_H
#define SERVICE_QUEUE_PARTS_H

#include "base/buffer.h"
#include "base/error.h"
#include "base/list.h"
#include "base/loop/loop.h"
#include "base/map.h"
#include "base/memory.h"

#include "engine/store/store.h"

#include "service/queue/queue.h"

enum {
    QUEUE_NAME_SIZE = 64,
    QUEUE_KEY_SIZE = 2 * QUEUE_NAME_SIZE,
    QUEUE_PLACES = 1024, /* ids of messages: index of the command * QUEUE_PLACES + place in it */
    QUEUE_DELAY_MAX_MS = 15 * 60 * 1000,
};

struct queue_service {
    struct queue_options options;
    struct store_watch *watch;
    struct map lanes; /* by key: struct lane, of queues that somebody here waits for */
    struct loop_timer *tick;
    struct list claims; /* on their way */
    uint64_t refused;   /* messages, since the start */
    bool is_sweeping;
    bool is_stopping;
};

/* A row of table queue. */
struct queue_row {
    char key[QUEUE_KEY_SIZE];
    char name[QUEUE_NAME_SIZE];
    uint64_t number;
    struct queue_settings settings; /* dead_letter NULL: see the next */
    uint64_t dead_letter;           /* number; 0: none */
    uint64_t depth;
    uint64_t bytes;
    uint64_t sent, acked, expired, died;
    uint64_t created_ms;
    uint64_t revision;
};

uint64_t queue_now_ms(const struct queue_service *service);

/* NOT_FOUND, with what there is to do. */
int queue_find(struct queue_service *service, const char *project, const char *name,
               struct queue_row *ret_row, struct error *err);
int queue_find_key(struct queue_service *service, const char *key, struct queue_row *ret_row,
                   struct error *err);
/* False: there is none. */
bool queue_find_number(struct queue_service *service, uint64_t number, struct queue_row *ret_row);
int queue_each(struct queue_service *service, const char *project_or_null,
               void (*visit)(const struct queue_row *row, void *context), void *context,
               struct error *err);

/* Answer later what is known now. */
void queue_refuse(struct queue_service *service, const struct error *error,
                  struct queue_reply reply);

/* ---- Parts of commands ---- */

/* The next one of its group may be taken, because message `id` goes; before it does. */
void queue_add_promotion(struct store_command *command, uint64_t id);

/* Message `id`, which is claimed as said, goes to the dead letters: a command of its own, CONFLICT
 * when it is no longer so. */
struct store_command *queue_death(const struct queue_row *row, uint64_t id, uint64_t claimed,
                                  uint64_t now_ms);

/* Remove the first QUEUE_SWEEP messages that entered until then; *ret_count: how many there are. */
struct store_command *queue_removal(struct queue_service *service, uint64_t number, bool is_fifo,
                                    uint64_t entered_ms, bool is_expiry, size_t *ret_count);

/* ---- receive.c ---- */

void queue_wake(struct queue_service *service, const char *key_or_null);
void queue_end_lanes(struct queue_service *service);

/* ---- sweep.c ---- */

void queue_sweep_start(struct queue_service *service);

/* Columns of queue_message in the order that queue_take_message() wants, from 0 on. */
#define QUEUE_MESSAGE_COLUMNS                                                          \
    "m.id, m.claimed, m.priority, m.receives, m.sent_ms, m.entered_ms, m.visible_ms, " \
    "m.message_group, m.dedup, m.content_type, m.attributes, m.body, "                 \
    "(SELECT s.name FROM queue s WHERE s.number = m.source)"
struct sqlite3_stmt;
/* Lent as long as the row is. */
void queue_take_message(sqlite3_stmt *row, struct queue_message *ret_message);

#endif
