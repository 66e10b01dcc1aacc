/* The buffers of threads: who has which, and what is taken out of them.  See trace_parts.h. */
#include <string.h>

#include "base/check.h"
#include "base/memory.h"

#include "service/telemetry/trace_parts.h"

struct mine {
    uint64_t tracer_number;
    struct trace_ring *ring;
};

static _Thread_local struct mine mine;
static pthread_key_t end_key;
static pthread_once_t end_once = PTHREAD_ONCE_INIT;

void trace_ring_unref(struct trace_ring *ring)
{
    if (atomic_fetch_sub(&ring->references, 1) == 1) {
        free(ring);
    }
}

/* The thread ends, or turns to another tracer. */
static void give_up(void *argument)
{
    struct trace_ring *ring = argument;
    atomic_store(&ring->is_orphan, true);
    trace_ring_unref(ring);
}

static void make_key(void)
{
    int r = pthread_key_create(&end_key, give_up);
    CHECK(r == 0);
}

/* One that another thread has left, or a new one. */
static struct trace_ring *adopt(struct tracer *tracer)
{
    struct trace_ring *ring = NULL;
    pthread_mutex_lock(&tracer->lock);
    for (unsigned i = 0; i < tracer->ring_count && ring == NULL; i++) {
        if (atomic_exchange(&tracer->rings[i]->is_orphan, false)) {
            ring = tracer->rings[i];
        }
    }
    if (ring == NULL && tracer->ring_count < TRACE_THREADS_MAX) {
        ring = NEW(struct trace_ring);
        ring->references = 1;
        tracer->rings[tracer->ring_count++] = ring;
    }
    pthread_mutex_unlock(&tracer->lock);
    if (ring != NULL) {
        atomic_fetch_add(&ring->references, 1);
    }
    return ring;
}

struct trace_ring *trace_ring_mine(struct tracer *tracer)
{
    if (mine.tracer_number == tracer->number) {
        return mine.ring;
    }
    pthread_once(&end_once, make_key);
    if (mine.ring != NULL) {
        give_up(mine.ring);
    }
    mine.ring = adopt(tracer);
    mine.tracer_number = tracer->number;
    pthread_setspecific(end_key, mine.ring);
    return mine.ring;
}

const struct trace_record *trace_ring_peek(struct trace_ring *ring)
{
    uint64_t written = atomic_load(&ring->written);
    uint64_t read = atomic_load_explicit(&ring->read, memory_order_relaxed);
    while (read != written) {
        size_t at = read & (TRACE_RING_BYTES - 1);
        const struct trace_record *record =
            (const struct trace_record *)(const void *)(ring->bytes + at);
        if (record->size != 0) {
            CHECK(record->size <= written - read);
            return record;
        }
        read += TRACE_RING_BYTES - at;
        atomic_store_explicit(&ring->read, read, memory_order_release);
    }
    return NULL;
}

void trace_ring_consume(struct trace_ring *ring, const struct trace_record *record)
{
    uint64_t read = atomic_load_explicit(&ring->read, memory_order_relaxed);
    atomic_store_explicit(&ring->read, read + record->size, memory_order_release);
}

/* ---- Items ---- */

static bool next_item(const struct trace_record *record, size_t *offset,
                      struct trace_item *ret_item)
{
    if (*offset >= record->used) {
        return false;
    }
    const uint8_t *at = record->bytes + *offset;
    size_t key_length = at[1];
    size_t value_length = at[2] | (size_t)at[3] << 8;
    CHECK(4 + key_length + value_length <= record->used - *offset);
    ret_item->type = at[0];
    ret_item->key = text_of((const char *)at + 4, key_length);
    ret_item->value = text_of((const char *)at + 4 + key_length, value_length);
    *offset += 4 + key_length + value_length;
    return true;
}

static bool is_attribute(const struct trace_item *item)
{
    return item->type == TRACE_ITEM_TEXT || item->type == TRACE_ITEM_NUMBER ||
        item->type == TRACE_ITEM_FLAG;
}

/* Is it said again behind `offset`?  The last word counts. */
static bool is_said_again(const struct trace_record *record, size_t offset,
                          const struct trace_item *item)
{
    struct trace_item other;
    while (next_item(record, &offset, &other)) {
        if (is_attribute(&other) && other.key.length == item->key.length &&
            memcmp(other.key.data, item->key.data, item->key.length) == 0) {
            return true;
        }
    }
    return false;
}

bool trace_next_item(const struct trace_record *record, size_t *offset, struct trace_item *ret_item)
{
    bool is_there = next_item(record, offset, ret_item);
    while (is_there && is_attribute(ret_item) && is_said_again(record, *offset, ret_item)) {
        is_there = next_item(record, offset, ret_item);
    }
    return is_there;
}

struct text trace_item_text(const struct trace_record *record, const char *key)
{
    size_t offset = 0;
    struct trace_item item;
    while (trace_next_item(record, &offset, &item)) {
        if (item.type == TRACE_ITEM_TEXT && text_equal(item.key, key)) {
            return item.value;
        }
    }
    return text_of("", 0);
}

int64_t trace_item_number(const struct trace_item *item)
{
    int64_t value = 0;
    CHECK(item->value.length <= sizeof(value));
    memcpy(&value, item->value.data, item->value.length);
    return value;
}
