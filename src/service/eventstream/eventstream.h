/*
 * Streams of records: durable, replicated, partitioned, append-only.
 *
 * A record goes to the partition that its key hashes to, and has the next sequence there: 1, 2, 3
 * and so on, without gaps.  Records of one key are in order; readers read (partition, sequence) as
 * often as they like.  A group remembers how far it is with checkpoints, which are compared and
 * set: of two that go on from the same place one is told CONFLICT.  The lag of a group is the
 * number of records behind its checkpoint.
 *
 * Old records go by age and by size: the leader removes them, EVENTSTREAM_TRIM at a time.  A stream
 * that is written faster than that answers LIMIT at twice its size.  A record's size is that of its
 * content, key, type and attributes, and EVENTSTREAM_OVERHEAD: also empty ones take room.
 *
 * Main loop thread.  Every `done` is called later, once.  Times are milliseconds since 1970; within
 * a partition they never decrease, whatever the nodes' clocks say.
 *
 * Sources: Amazon Kinesis Data Streams Developer Guide (iterator types); Kreps, Narkhede, Rao,
 * "Kafka: a Distributed Messaging System for Log Processing", 2011.
 */
#ifndef SERVICE_EVENTSTREAM_EVENTSTREAM_H
#define SERVICE_EVENTSTREAM_EVENTSTREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer;
struct error;
struct eventstream_service;
struct loop;
struct store;
struct store_command;

enum {
    EVENTSTREAM_BODY_MAX = 256 << 10,
    EVENTSTREAM_ATTRIBUTES_MAX = 16 << 10,
    EVENTSTREAM_KEY_MAX = 256,
    EVENTSTREAM_BATCH_MAX = 1000,
    EVENTSTREAM_BATCH_BYTES = 768 << 10,
    EVENTSTREAM_PARTITIONS_MAX = 64,
    EVENTSTREAM_OVERHEAD = 100,
    EVENTSTREAM_TRIM = 500,
};

/* ---- Life ---- */

struct eventstream_options {
    struct loop *loop;
    struct store *store;
    uint64_t (*now_ms)(void); /* NULL: clock_real_ms() */
};
int eventstream_service_new(const struct eventstream_options *options,
                            struct eventstream_service **ret_service, struct error *err);
void eventstream_service_stop(struct eventstream_service *service); /* waiting reads end: none */
void eventstream_service_free(struct eventstream_service *service);

/* ---- Streams ---- */

struct eventstream_settings {
    unsigned partitions;      /* 4; 1 to EVENTSTREAM_PARTITIONS_MAX; for good */
    uint64_t retention_ms;    /* 24 h; 1 s to 365 d */
    uint64_t retention_bytes; /* 64 MiB over all partitions; 1 MiB to 64 GiB */
};
void eventstream_settings_init(struct eventstream_settings *settings);

struct eventstream_reply {
    void (*done)(const struct error *error, void *context);
    void *context;
};

/* EXISTS (with other settings; with the same it is a success), INVALID. */
void eventstream_create(struct eventstream_service *service, const char *project, const char *name,
                        const struct eventstream_settings *settings,
                        struct eventstream_reply reply);
/* Retention only. */
void eventstream_update(struct eventstream_service *service, const char *project, const char *name,
                        const struct eventstream_settings *settings,
                        struct eventstream_reply reply);
void eventstream_delete(struct eventstream_service *service, const char *project, const char *name,
                        struct eventstream_reply reply);
int eventstream_read_settings(struct eventstream_service *service, const char *project,
                              const char *name, struct eventstream_settings *ret_settings,
                              struct error *err);

/* A Stream or StreamList of spec/types.def, as JSON. */
int eventstream_write(struct eventstream_service *service, const char *project, const char *name,
                      struct buffer *out, struct error *err);
int eventstream_write_list(struct eventstream_service *service, const char *project,
                           struct buffer *out, struct error *err);
/* A StreamGroup.  NOT_FOUND. */
int eventstream_write_group(struct eventstream_service *service, const char *project,
                            const char *name, const char *group, struct buffer *out,
                            struct error *err);

/* ---- Appending ---- */

struct eventstream_outgoing {
    const void *body;
    size_t length;
    const char *key;          /* NULL: any partition */
    const char *content_type; /* NULL: application/octet-stream */
    const char *attributes;   /* a JSON object of strings; NULL: none */
};

struct eventstream_place {
    unsigned partition;
    uint64_t sequence;
};

/* All of them or none (lent for the call).  NOT_FOUND, LIMIT, TOO_LARGE, INVALID. */
void eventstream_append(struct eventstream_service *service, const char *project, const char *name,
                        const struct eventstream_outgoing *records, size_t count,
                        void (*done)(const struct error *error,
                                     const struct eventstream_place *places, size_t count,
                                     void *context),
                        void *context);

/* Which partition a key belongs to: FNV-1a, 64 bit, modulo their number. */
unsigned eventstream_partition_of(const char *key, unsigned partitions);

/* ---- Reading ---- */

struct eventstream_record { /* lent for the call */
    unsigned partition;
    uint64_t sequence;
    uint64_t time_ms;
    const char *key; /* NULL: none */
    const void *body;
    size_t length;
    const char *content_type;
    const char *attributes;
};

/* Where a reader is: the sequence that it reads next, of each partition that it reads. */
struct eventstream_cursor {
    unsigned first; /* partition */
    unsigned count; /* of them; 0 for eventstream_begin(): all */
    uint64_t next[EVENTSTREAM_PARTITIONS_MAX];
};

enum eventstream_start {
    EVENTSTREAM_OLDEST, /* that is kept */
    EVENTSTREAM_LATEST, /* the next one to come */
    EVENTSTREAM_SINCE,  /* the first one of a time, or after it */
};

/* Set `count` and `next` of a cursor.  NOT_FOUND: the stream, or it has fewer partitions. */
int eventstream_begin(struct eventstream_service *service, const char *project, const char *name,
                      enum eventstream_start start, uint64_t time_ms,
                      struct eventstream_cursor *cursor, struct error *err);

/*
 * What there is from a cursor on (what is trimmed is skipped), which moves on with it.  Each
 * partition is in order, and of several the oldest record comes first, as far as it is known now.
 * At most `max` records and EVENTSTREAM_BATCH_BYTES, but at least one.  NOT_FOUND.
 */
int eventstream_read(struct eventstream_service *service, const char *project, const char *name,
                     struct eventstream_cursor *cursor, size_t max,
                     void (*visit)(const struct eventstream_record *record, void *context),
                     void *context, struct error *err);

/* Wait until something can be read from a cursor on, the stream is gone, or `wait_ms` are over;
 * then `done`.  Freed before that: nothing is called; after it, it is gone. */
struct eventstream_wait;
struct eventstream_wait *eventstream_wait_new(struct eventstream_service *service,
                                              const char *project, const char *name,
                                              const struct eventstream_cursor *cursor,
                                              uint64_t wait_ms, void (*done)(void *context),
                                              void *context);
void eventstream_wait_free(struct eventstream_wait *wait);

/* ---- Groups ---- */

/* The last sequence that the group is done with; 0: none. */
int eventstream_checkpoint(struct eventstream_service *service, const char *project,
                           const char *name, const char *group, unsigned partition,
                           uint64_t *ret_sequence, struct error *err);

/* Set it when it is `expected` now: CONFLICT otherwise.  NOT_FOUND, INVALID (not yet written). */
void eventstream_set_checkpoint(struct eventstream_service *service, const char *project,
                                const char *name, const char *group, unsigned partition,
                                uint64_t sequence, uint64_t expected,
                                struct eventstream_reply reply);
/* Add to a command that a group which is new begins behind what there is when that is carried out.
 * One that is there already stays where it is; without such a stream nothing is added.  INVALID
 * (the group's name), UNSUPPORTED. */
int eventstream_add_group(struct eventstream_service *service, const char *project,
                          const char *name, const char *group, struct store_command *command,
                          struct error *err);
/* Of all partitions. */
void eventstream_forget_group(struct eventstream_service *service, const char *project,
                              const char *name, const char *group, struct eventstream_reply reply);
/* Records behind its checkpoints, all partitions together. */
int eventstream_lag(struct eventstream_service *service, const char *project, const char *name,
                    const char *group, uint64_t *ret_lag, struct error *err);

#endif
