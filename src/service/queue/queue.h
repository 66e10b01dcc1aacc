/*
 * Queues: durable, replicated, built in.
 *
 * A message that was accepted is a row of the state: committed by Raft before `done` says so.  It
 * is handed to one receiver at a time, hidden for the visibility timeout, and gone when it is
 * acknowledged; what is not acknowledged comes again (at least once).  Who has a message shows it
 * by a receipt, "ID-EPOCH": the epoch is the index of the command that handed it out, so a receipt
 * of an earlier delivery is refused, however late it comes (compare nats-server#4786, where it is
 * taken).  After `receives_max` deliveries a message goes to the dead-letter queue, from where
 * queue_redrive() brings it back.
 *
 * Order.  Higher priorities first, then as accepted; delayed ones when they are due.  In a FIFO
 * queue each group has at most one message in flight, and its next one comes when that one is gone
 * (acknowledged, dead or expired), never before: also when it is returned.
 *
 * Limits refuse and lose nothing: a queue that is full answers LIMIT, a body beyond QUEUE_BODY_MAX
 * TOO_LARGE.  Dead letters are taken by their queue beyond its limit.
 *
 * All nodes serve all queues.  Claims that wait on one node become one command.  The leader removes
 * what is older than the retention, and what deleted queues have left, QUEUE_SWEEP rows at a time.
 *
 * Main loop thread.  Every `done` is called later, once, unless what asked was freed.  Times are
 * milliseconds since 1970 by the clock of the node that decided; nodes' clocks differ little
 * (service/cluster watches them), and a visibility timeout is to be longer than that.
 *
 * Sources: Amazon SQS Developer Guide (visibility, FIFO, dead letters, deduplication).
 */
#ifndef SERVICE_QUEUE_QUEUE_H
#define SERVICE_QUEUE_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer;
struct error;
struct loop;
struct queue_service;
struct store;

enum {
    QUEUE_BODY_MAX = 256 << 10,
    QUEUE_ATTRIBUTES_MAX = 16 << 10, /* bytes of their JSON */
    QUEUE_TEXT_MAX = 128,            /* bytes of a group, a dedup id, a content type */
    QUEUE_BATCH_MAX = 256,           /* messages of one send, receive or settling */
    QUEUE_BATCH_BYTES = 768 << 10,   /* of bodies and attributes in one send or receive */
    QUEUE_PRIORITY_MAX = 9,
    QUEUE_SWEEP = 250,
    QUEUE_RECEIPT_SIZE = 48,
    QUEUE_HIDDEN_MAX_MS = 12 * 3600 * 1000,
};
#define QUEUE_DEFAULT UINT64_MAX /* of a time: the queue's own */

/* ---- Life ---- */

struct queue_options {
    struct loop *loop;
    struct store *store;
    uint64_t (*now_ms)(void); /* NULL: clock_real_ms() */
};

int queue_service_new(const struct queue_options *options, struct queue_service **ret_service,
                      struct error *err);
/* Receivers that still wait are told UNAVAILABLE by queue_service_stop(), and what was asked is
 * waited for by queue_service_free(). */
void queue_service_stop(struct queue_service *service);
void queue_service_free(struct queue_service *service);

/* ---- Queues ---- */

/* Of a new queue: what is not given is as queue_settings_init() says. */
struct queue_settings {
    bool is_fifo;            /* for good */
    uint64_t visibility_ms;  /* 30 s; 1 ms to 12 h */
    uint64_t retention_ms;   /* 4 d; 1 s to 14 d */
    uint64_t delay_ms;       /* 0; at most 15 min */
    uint64_t dedup_ms;       /* 5 min: how long a dedup id is remembered; at most 1 h */
    uint64_t depth_max;      /* 100000 messages; 1 to 10 million */
    uint64_t bytes_max;      /* 256 MiB of bodies and attributes; the state is in memory */
    uint64_t receives_max;   /* 0: any number; with a dead-letter queue 5; at most 1000 */
    const char *dead_letter; /* name of another queue of the project; NULL: none */
};
void queue_settings_init(struct queue_settings *settings);

/* How a change ends: error NULL, or why not. */
struct queue_reply {
    void (*done)(const struct error *error, void *context);
    void *context;
};

/* EXISTS (with other settings; with the same it is a success), INVALID, NOT_FOUND (no such
 * dead-letter queue). */
void queue_create(struct queue_service *service, const char *project, const char *name,
                  const struct queue_settings *settings, struct queue_reply reply);
/* All settings but is_fifo.  NOT_FOUND, INVALID, CONFLICT (changed at the same moment). */
void queue_update(struct queue_service *service, const char *project, const char *name,
                  const struct queue_settings *settings, struct queue_reply reply);
/* With its messages.  NOT_FOUND, CONFLICT (it takes the dead letters of another). */
void queue_delete(struct queue_service *service, const char *project, const char *name,
                  struct queue_reply reply);

/* NOT_FOUND.  ret_settings->dead_letter is the caller's to free. */
int queue_read_settings(struct queue_service *service, const char *project, const char *name,
                        struct queue_settings *ret_settings, struct error *err);

struct queue_status {
    uint64_t depth; /* all messages: ready, delayed and in flight */
    uint64_t ready;
    uint64_t in_flight;
    uint64_t delayed;
    uint64_t blocked; /* behind another of their group */
    uint64_t bytes;
    uint64_t oldest_ms;                  /* age of the oldest; 0: empty */
    uint64_t dead;                       /* its messages in the dead-letter queue */
    uint64_t sent, acked, expired, died; /* ever */
};
int queue_read_status(struct queue_service *service, const char *project, const char *name,
                      struct queue_status *ret_status, struct error *err);

/* A Queue or QueueList of spec/types.def, as JSON. */
int queue_write(struct queue_service *service, const char *project, const char *name,
                struct buffer *out, struct error *err);
int queue_write_list(struct queue_service *service, const char *project, struct buffer *out,
                     struct error *err);

/* Prometheus text: depth, in flight, delayed, oldest age, dead, per queue. */
void queue_write_metrics(struct queue_service *service, struct buffer *out);

/* ---- Sending ---- */

struct queue_outgoing {
    const void *body;
    size_t length;
    const char *content_type; /* NULL: application/octet-stream */
    const char *attributes;   /* a JSON object of strings, checked here; NULL: none */
    const char *group;        /* of a FIFO queue; NULL: "" */
    const char *dedup;        /* NULL: never a duplicate */
    uint64_t delay_ms;        /* QUEUE_DEFAULT: the queue's; at most 15 min */
    unsigned priority;        /* 0 to 9, higher first; not in a FIFO queue */
};

struct queue_sent {
    uint64_t id;
    bool is_duplicate; /* nothing was added: `id` is the one that was sent before */
};

/*
 * All of them or none, in order (lent for the call).  NOT_FOUND, LIMIT (full), TOO_LARGE, INVALID,
 * and what store_propose() says.
 */
void queue_send(struct queue_service *service, const char *project, const char *name,
                const struct queue_outgoing *messages, size_t count,
                void (*done)(const struct error *error, const struct queue_sent *sent, size_t count,
                             void *context),
                void *context);

/* ---- Receiving ---- */

struct queue_message { /* lent for the call */
    uint64_t id;
    char receipt[QUEUE_RECEIPT_SIZE]; /* "" when only looked at */
    const void *body;
    size_t length;
    const char *content_type;
    const char *attributes; /* JSON object */
    const char *group;      /* NULL: of a queue that is not FIFO */
    const char *dedup;      /* NULL: none */
    unsigned priority;
    uint64_t sent_ms;
    uint64_t receives; /* with this one */
    uint64_t visible_ms;
    const char *source; /* of a dead letter: the name of its queue; else NULL */
    uint64_t died_ms;
};

struct queue_receive_options {
    size_t max;             /* messages, 1 to QUEUE_BATCH_MAX */
    uint64_t wait_ms;       /* for the first one; 0: not at all */
    uint64_t visibility_ms; /* QUEUE_DEFAULT: the queue's */
};

/*
 * Take messages: `done` with those that are now this receiver's, at most as many bytes as
 * QUEUE_BATCH_BYTES but at least one message, or none when the time is over; NOT_FOUND, also when
 * the queue is deleted meanwhile.  Freed before that, nothing is called; what was claimed on the
 * way is given back.
 */
struct queue_receive;
struct queue_receive *
queue_receive_new(struct queue_service *service, const char *project, const char *name,
                  const struct queue_receive_options *options,
                  void (*done)(const struct error *error, const struct queue_message *messages,
                               size_t count, void *context),
                  void *context);
/* Before `done`; after it the receive is gone by itself.  Accepts NULL. */
void queue_receive_free(struct queue_receive *receive);

/*
 * Settle deliveries.  `done` has one error per receipt, in order; kind NONE: done.  CONFLICT: the
 * receipt is of an earlier delivery, or the message is gone.  A receipt is good as long as nobody
 * else was given the message, also when its visibility timeout is over.
 */
enum queue_settling {
    QUEUE_ACK,    /* done with: remove it */
    QUEUE_NACK,   /* back, visible after time_ms; dead when it was received too often */
    QUEUE_RETURN, /* back, visible after time_ms, as if this delivery had not been */
    QUEUE_EXTEND, /* hidden for time_ms from now on; at most 12 h */
};
void queue_settle(struct queue_service *service, const char *project, const char *name,
                  enum queue_settling settling, const char *const *receipts, size_t count,
                  uint64_t time_ms,
                  void (*done)(const struct error *error, const struct error *errors, size_t count,
                               void *context),
                  void *context);

/* ---- All messages of a queue ---- */

/* Look without taking, oldest first, at most `max`.  `source`: only dead letters of that queue
 * (NULL: all). */
int queue_peek(struct queue_service *service, const char *project, const char *name,
               const char *source, size_t max,
               void (*visit)(const struct queue_message *message, void *context), void *context,
               struct error *err);

/* Remove all that is in it now, also what is in flight; in steps.  `done` with how many. */
void queue_purge(struct queue_service *service, const char *project, const char *name,
                 void (*done)(const struct error *error, uint64_t count, void *context),
                 void *context);

/* Bring at most `max` (0: all) dead letters of this queue back into it, as never received; in
 * steps.  LIMIT when it is full: `count` says how many were brought until then. */
void queue_redrive(struct queue_service *service, const char *project, const char *name,
                   uint64_t max,
                   void (*done)(const struct error *error, uint64_t count, void *context),
                   void *context);

#endif
