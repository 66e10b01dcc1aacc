/* What the files of this room share. */
#ifndef SERVICE_EVENTSTREAM_PARTS_H
#define SERVICE_EVENTSTREAM_PARTS_H

#include "base/buffer.h"
#include "base/error.h"
#include "base/list.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/store/store.h"

#include "service/eventstream/eventstream.h"

enum { EVENTSTREAM_NAME_SIZE = 64, EVENTSTREAM_SHORT_KEY_SIZE = 2 * EVENTSTREAM_NAME_SIZE };

struct eventstream_service {
    struct eventstream_options options;
    struct store_watch *watch;
    struct list waits;
    struct loop_timer *wake; /* those of them whose stream has changed are looked at */
    struct loop_timer *tick;
    bool is_trimming;
    bool is_behind;                            /* some partition has more to be trimmed */
    char trim_key[EVENTSTREAM_SHORT_KEY_SIZE]; /* of the stream where trimming goes on; "": the
                                                  first */
    unsigned trim_partition;
    bool is_stopping;
};

/* A row of table stream. */
struct stream_row {
    char key[EVENTSTREAM_SHORT_KEY_SIZE];
    char name[EVENTSTREAM_NAME_SIZE];
    uint64_t number;
    struct eventstream_settings settings;
    uint64_t created_ms;
    uint64_t revision;
};

/* A row of table stream_partition. */
struct partition_row {
    uint64_t first;
    uint64_t next;
    uint64_t bytes;
};

uint64_t eventstream_now_ms(const struct eventstream_service *service);

/* NOT_FOUND, with what there is to do. */
int stream_find(struct eventstream_service *service, const char *project, const char *name,
                struct stream_row *ret_row, struct error *err);
int stream_each(struct eventstream_service *service, const char *project_or_null,
                void (*visit)(const struct stream_row *row, void *context), void *context,
                struct error *err);
/* NOT_FOUND: the stream has fewer. */
int partition_find(struct eventstream_service *service, const struct stream_row *row,
                   unsigned partition, struct partition_row *ret_row, struct error *err);

/* The first sequence whose `column` (one that never decreases: time_ms, command) is at least
 * `least`; the next one to come when there is none. */
uint64_t stream_search(struct eventstream_service *service, const struct stream_row *row,
                       unsigned partition, const struct partition_row *bounds, const char *column,
                       uint64_t least);

/* Answer later what is known now; `error` NULL: it is a success. */
void eventstream_answer(struct eventstream_service *service, const struct error *error,
                        struct eventstream_reply reply);
/* Propose, and reply with what became of it. */
void eventstream_propose(struct eventstream_service *service, struct store_command *owned_command,
                         struct eventstream_reply reply);

void eventstream_trim_start(struct eventstream_service *service);

#endif
