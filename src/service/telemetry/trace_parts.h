/*
 * Traces inside the room: the buffers of threads, the store, and what is sent on.
 *
 * A record is an ended span: the fixed head, then `used` bytes of items.  An item is one byte of
 * type, one of the key's length, two of the value's length, the key, the value.
 */
#ifndef SERVICE_TELEMETRY_TRACE_PARTS_H
#define SERVICE_TELEMETRY_TRACE_PARTS_H

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>

#include "base/buffer.h"
#include "base/list.h"
#include "base/map.h"

#include "service/telemetry/telemetry.h"
#include "service/telemetry/trace.h"

enum {
    TRACE_RING_BYTES = 256 << 10, /* per thread; a power of two */
    TRACE_THREADS_MAX = 256,
    TRACE_SPANS_MAX = 1024,              /* per trace */
    TRACE_UNDECIDED_MAX = 2048,          /* traces that nobody has asked to keep yet */
    TRACE_UNDECIDED_BYTES_MAX = 8 << 20, /* of them */
    TRACE_COLLECT_MS = 100,
};

enum trace_item_type {
    TRACE_ITEM_TEXT = 1,
    TRACE_ITEM_NUMBER, /* int64_t */
    TRACE_ITEM_FLAG,   /* one byte */
    TRACE_ITEM_EVENT,  /* the key is its name; uint64_t nanoseconds after the span's start */
    TRACE_ITEM_STATE,  /* no key: the tracestate */
    TRACE_ITEM_ERROR,  /* no key: what the error said */
};

struct trace_record {
    uint32_t size; /* with the items, and rounded up to 8; 0: the buffer goes on at its beginning */
    uint16_t used;
    uint16_t dropped;
    uint8_t kind;
    bool is_error;
    bool is_kept; /* for itself: sampled, an error, or slow */
    struct trace_context context;
    uint8_t parent[8];
    uint64_t start_ns; /* real time */
    uint64_t duration_ns;
    char name[TRACE_NAME_MAX + 1];
    uint8_t bytes[];
};

struct trace_item {
    enum trace_item_type type;
    struct text key;
    struct text value;
};

/* Walk: begins with *offset 0; false: there is no further one.  Of attributes with one key the last
 * is shown. */
bool trace_next_item(const struct trace_record *record, size_t *offset,
                     struct trace_item *ret_item);
/* The text of an attribute, or an empty one. */
struct text trace_item_text(const struct trace_record *record, const char *key);
int64_t trace_item_number(const struct trace_item *item);

/* The buffer of one thread: written by it alone, emptied under the store's lock. */
struct trace_ring {
    _Atomic unsigned references; /* the thread's and the tracer's */
    _Atomic bool is_orphan;      /* its thread has ended: another one may have it */
    _Atomic bool is_urgent;
    _Atomic uint64_t written;
    _Atomic uint64_t read;
    uint8_t bytes[TRACE_RING_BYTES] __attribute__((aligned(8)));
};

/* What is known of one trace. */
struct trace_entry {
    struct list_node link; /* in `kept` or `undecided`, the oldest first */
    bool is_kept;
    char id[TRACE_ID_SIZE];
    struct buffer records;
    unsigned span_count;
    unsigned dropped; /* spans that had no room */
};

/* export.c; any thread. */
struct trace_export;
void trace_export_add(struct trace_export *export, const struct trace_record *record);

struct tracer {
    uint64_t number; /* never the same twice in a process */
    uint64_t slow_ns;
    uint64_t per_second;
    uint64_t sample_percent;
    uint64_t traces_max;
    uint64_t bytes_max;
    char *node;

    _Atomic uint64_t second; /* second << 32 | traces begun and sampled in it */
    _Atomic uint64_t dropped;
    _Atomic uint64_t sampled;
    _Atomic bool is_awake;
    sem_t wake;
    sem_t urgent;
    pthread_t collector;
    _Atomic bool stops;

    pthread_mutex_t lock; /* guards what follows */
    struct trace_ring *rings[TRACE_THREADS_MAX];
    unsigned ring_count;
    struct map entries; /* by id */
    struct list kept;
    struct list undecided;
    size_t kept_count;
    size_t kept_bytes;
    size_t undecided_count;
    size_t undecided_bytes;
    struct trace_export *export; /* NULL: nobody collects */
};

int tracer_new(const struct telemetry_options *options, struct tracer **ret_tracer,
               struct error *err);
void tracer_free(struct tracer *tracer);

/* Of the calling thread; NULL: there are too many. */
struct trace_ring *trace_ring_mine(struct tracer *tracer);
void trace_ring_unref(struct trace_ring *ring);

/* The oldest record, or NULL; trace_ring_consume() takes it away.  With the tracer's lock held. */
const struct trace_record *trace_ring_peek(struct trace_ring *ring);
void trace_ring_consume(struct trace_ring *ring, const struct trace_record *record);

/* Take in what is in the buffers.  With the lock held. */
void trace_collect(struct tracer *tracer);

#endif
