/*
 * What is kept of traces on this node.  One thread takes the records out of the buffers; a trace is
 * undecided until a span of it is to be kept for itself, and then all that is here of it is, and
 * all that still comes.  Both kinds are bounded in number and bytes, and the oldest goes.
 */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "base/check.h"
#include "base/error.h"
#include "base/memory.h"

#include "service/telemetry/trace_parts.h"

enum { TRACES_MAX = 1000, BYTES_MAX = 32 << 20, SLOW_MS = 1000 };

/* ---- Entries ---- */

static void entry_remove(struct tracer *tracer, struct trace_entry *entry)
{
    list_remove(&entry->link);
    map_remove(&tracer->entries, entry->id);
    if (entry->is_kept) {
        tracer->kept_count--;
        tracer->kept_bytes -= entry->records.used;
    } else {
        tracer->undecided_count--;
        tracer->undecided_bytes -= entry->records.used;
    }
    buffer_done(&entry->records);
    free(entry);
}

static void shrink(struct tracer *tracer)
{
    while (tracer->kept_count > tracer->traces_max || tracer->kept_bytes > tracer->bytes_max) {
        entry_remove(tracer, LIST_FIRST(&tracer->kept, struct trace_entry, link));
    }
    while (tracer->undecided_count > TRACE_UNDECIDED_MAX ||
           tracer->undecided_bytes > TRACE_UNDECIDED_BYTES_MAX) {
        entry_remove(tracer, LIST_FIRST(&tracer->undecided, struct trace_entry, link));
    }
}

static struct trace_entry *find_entry(struct tracer *tracer, const struct trace_record *record)
{
    char id[TRACE_ID_SIZE];
    trace_write_id(&record->context, id);
    struct trace_entry *entry = map_get(&tracer->entries, id);
    if (entry == NULL) {
        entry = NEW(struct trace_entry);
        memcpy(entry->id, id, sizeof(id));
        map_set(&tracer->entries, id, entry);
        list_push_back(&tracer->undecided, &entry->link);
        tracer->undecided_count++;
    }
    return entry;
}

static void send_on(struct tracer *tracer, const struct trace_record *record)
{
    if (tracer->export != NULL) {
        trace_export_add(tracer->export, record);
    }
}

static void keep(struct tracer *tracer, struct trace_entry *entry)
{
    list_remove(&entry->link);
    tracer->undecided_count--;
    tracer->undecided_bytes -= entry->records.used;
    entry->is_kept = true;
    list_push_back(&tracer->kept, &entry->link);
    tracer->kept_count++;
    tracer->kept_bytes += entry->records.used;
    for (size_t at = 0; at < entry->records.used;) {
        const struct trace_record *record =
            (const struct trace_record *)(const void *)(entry->records.data + at);
        send_on(tracer, record);
        at += record->size;
    }
}

static void take_record(struct tracer *tracer, const struct trace_record *record)
{
    struct trace_entry *entry = find_entry(tracer, record);
    if (record->is_kept && !entry->is_kept) { /* for what it has, though it may have no room */
        keep(tracer, entry);
    }
    if (entry->span_count >= TRACE_SPANS_MAX) {
        entry->dropped++;
        atomic_fetch_add_explicit(&tracer->dropped, 1, memory_order_relaxed);
        shrink(tracer);
        return;
    }
    buffer_append(&entry->records, record, record->size);
    entry->span_count++;
    if (entry->is_kept) {
        tracer->kept_bytes += record->size;
        send_on(tracer, record);
    } else {
        tracer->undecided_bytes += record->size;
    }
    shrink(tracer);
}

void trace_collect(struct tracer *tracer)
{
    for (unsigned i = 0; i < tracer->ring_count; i++) {
        struct trace_ring *ring = tracer->rings[i];
        atomic_store_explicit(&ring->is_urgent, false, memory_order_relaxed);
        for (const struct trace_record *record = trace_ring_peek(ring); record != NULL;
             record = trace_ring_peek(ring)) {
            take_record(tracer, record);
            trace_ring_consume(ring, record);
        }
    }
}

/* ---- The thread ---- */

static void wait_for(sem_t *semaphore)
{
    while (sem_wait(semaphore) < 0 && errno == EINTR) {
    }
}

/* Some time passes, so that many records are taken at once; less when a buffer fills. */
static void wait_a_moment(struct tracer *tracer)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += TRACE_COLLECT_MS * 1000000L;
    if (until.tv_nsec >= 1000000000L) {
        until.tv_nsec -= 1000000000L;
        until.tv_sec++;
    }
    while (sem_timedwait(&tracer->urgent, &until) < 0 && errno == EINTR) {
    }
}

static void collect_locked(struct tracer *tracer)
{
    pthread_mutex_lock(&tracer->lock);
    trace_collect(tracer);
    pthread_mutex_unlock(&tracer->lock);
}

static void *collector(void *argument)
{
    struct tracer *tracer = argument;
    pthread_setname_np(pthread_self(), "traces");
    while (!atomic_load(&tracer->stops)) {
        wait_for(&tracer->wake);
        if (!atomic_load(&tracer->stops)) {
            wait_a_moment(tracer);
        }
        /* What is written after this wakes it again; what was written before is seen below. */
        atomic_store(&tracer->is_awake, false);
        collect_locked(tracer);
    }
    return NULL;
}

/* ---- Beginning and end ---- */

int tracer_new(const struct telemetry_options *options, struct tracer **ret_tracer,
               struct error *err)
{
    static _Atomic uint64_t numbers;
    struct tracer *tracer = NEW(struct tracer);
    tracer->number = atomic_fetch_add(&numbers, 1) + 1;
    tracer->traces_max = options->traces_max > 0 ? options->traces_max : TRACES_MAX;
    tracer->bytes_max = options->trace_bytes_max > 0 ? options->trace_bytes_max : BYTES_MAX;
    tracer->slow_ns =
        (options->trace_slow_ms > 0 ? options->trace_slow_ms : SLOW_MS) * UINT64_C(1000000);
    tracer->per_second = options->traces_per_second;
    tracer->sample_percent = options->trace_sample_percent;
    tracer->node = memory_copy_string(options->node_name != NULL ? options->node_name : "");
    list_init(&tracer->kept);
    list_init(&tracer->undecided);
    pthread_mutex_init(&tracer->lock, NULL);
    sem_init(&tracer->wake, 0, 0);
    sem_init(&tracer->urgent, 0, 0);
    int r = pthread_create(&tracer->collector, NULL, collector, tracer);
    if (r != 0) {
        free(tracer->node);
        free(tracer);
        return error_os(err, r, "starting the thread for traces");
    }
    *ret_tracer = tracer;
    return 0;
}

void tracer_free(struct tracer *tracer)
{
    atomic_store(&tracer->stops, true);
    sem_post(&tracer->wake);
    sem_post(&tracer->urgent);
    pthread_join(tracer->collector, NULL);
    while (!list_is_empty(&tracer->kept)) {
        entry_remove(tracer, LIST_FIRST(&tracer->kept, struct trace_entry, link));
    }
    while (!list_is_empty(&tracer->undecided)) {
        entry_remove(tracer, LIST_FIRST(&tracer->undecided, struct trace_entry, link));
    }
    for (unsigned i = 0; i < tracer->ring_count; i++) {
        trace_ring_unref(tracer->rings[i]);
    }
    map_done(&tracer->entries);
    pthread_mutex_destroy(&tracer->lock);
    sem_destroy(&tracer->wake);
    sem_destroy(&tracer->urgent);
    free(tracer->node);
    free(tracer);
}
