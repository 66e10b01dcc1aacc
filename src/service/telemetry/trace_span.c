/* Spans, from their beginning to the buffer of their thread.  See trace.h. */
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/memory.h"
#include "base/random.h"

#include "service/telemetry/private.h"
#include "service/telemetry/trace_parts.h"

enum { RANDOM_KEPT = 512, ITEM_HEAD = 4, KEY_MAX = 127 };

/* ---- Ids ---- */

/* A system call gives many. */
static _Thread_local uint8_t random_kept[RANDOM_KEPT];
static _Thread_local size_t random_left;

static void make_id(uint8_t *ret_id, size_t length)
{
    static const uint8_t none[16];
    do {
        if (random_left < length) {
            random_bytes(random_kept, sizeof(random_kept));
            random_left = sizeof(random_kept);
        }
        random_left -= length;
        memcpy(ret_id, random_kept + random_left, length);
    } while (memcmp(ret_id, none, length) == 0);
}

/* ---- The head's decision ---- */

/* The first ones of each second, so that a quiet node shows everything and a busy one is not slowed
 * down; then a share. */
static bool choose_sampled(struct tracer *tracer, const uint8_t trace[16], uint64_t now_ns)
{
    uint64_t second = now_ns / UINT64_C(1000000000);
    uint64_t seen = atomic_load_explicit(&tracer->second, memory_order_relaxed);
    uint64_t count = seen >> 32 == (second & UINT32_MAX) ? (seen & UINT32_MAX) : 0;
    if (count < tracer->per_second) {
        uint64_t next = (second & UINT32_MAX) << 32 | (count + 1);
        if (atomic_compare_exchange_strong(&tracer->second, &seen, next)) {
            return true;
        }
    }
    uint64_t lot;
    memcpy(&lot, trace + 8, sizeof(lot));
    return lot % 100 < tracer->sample_percent;
}

static void begin_trace(struct telemetry *telemetry, struct trace_context *context, uint64_t now_ns)
{
    make_id(context->trace, sizeof(context->trace));
    context->flags = telemetry != NULL && choose_sampled(telemetry->tracer, context->trace, now_ns)
        ? TRACE_SAMPLED
        : 0;
}

/* ---- Building ---- */

static void add_item(struct trace_span *span, enum trace_item_type type, const char *key,
                     const void *value, size_t value_length)
{
    size_t key_length = strlen(key);
    CHECK(key_length <= KEY_MAX && value_length <= UINT16_MAX);
    size_t need = ITEM_HEAD + key_length + value_length;
    if (need > sizeof(span->bytes) - span->used) {
        span->dropped++;
        return;
    }
    uint8_t *at = span->bytes + span->used;
    at[0] = (uint8_t)type;
    at[1] = (uint8_t)key_length;
    at[2] = (uint8_t)(value_length & 255);
    at[3] = (uint8_t)(value_length >> 8);
    /* NOLINTNEXTLINE(bugprone-not-null-terminated-result): it has its length */
    memcpy(at + ITEM_HEAD, key, key_length);
    if (value_length > 0) {
        /* NOLINTNEXTLINE(bugprone-not-null-terminated-result): it has its length */
        memcpy(at + ITEM_HEAD + key_length, value, value_length);
    }
    span->used = (uint16_t)(span->used + need);
}

void trace_begin(struct telemetry *telemetry, struct trace_span *span,
                 const struct trace_start *start)
{
    uint64_t now_ns = start->start_ns != 0 ? start->start_ns : clock_monotonic_ns();
    span->kind = (uint8_t)(start->kind != 0 ? start->kind : TRACE_INTERNAL);
    span->is_error = false;
    span->is_open = true;
    span->used = span->dropped = 0;
    span->start_ns = now_ns;
    trace_rename(span, start->name);
    memcpy(span->parent, start->parent.span, sizeof(span->parent));
    if (trace_context_is_set(&start->own)) {
        span->context = start->own;
    } else if (trace_context_is_set(&start->parent)) {
        span->context = trace_child(&start->parent);
    } else {
        memset(span->parent, 0, sizeof(span->parent));
        begin_trace(telemetry, &span->context, now_ns);
        make_id(span->context.span, sizeof(span->context.span));
    }
    if (start->state.length > 0 && trace_state_is_fine(start->state)) {
        add_item(span, TRACE_ITEM_STATE, "", start->state.data, start->state.length);
    }
}

void trace_rename(struct trace_span *span, const char *name)
{
    size_t length = strnlen(name, TRACE_NAME_MAX);
    memcpy(span->name, name, length);
    span->name[length] = '\0';
}

struct trace_context trace_child(const struct trace_context *parent)
{
    struct trace_context child = *parent;
    make_id(child.span, sizeof(child.span));
    return child;
}

void trace_bytes(struct trace_span *span, const char *key, struct text value)
{
    add_item(span, TRACE_ITEM_TEXT, key, value.data,
             value.length < TRACE_VALUE_MAX ? value.length : TRACE_VALUE_MAX);
}

void trace_text(struct trace_span *span, const char *key, const char *value)
{
    trace_bytes(span, key, text_of(value, strnlen(value, TRACE_VALUE_MAX)));
}

void trace_number(struct trace_span *span, const char *key, int64_t value)
{
    add_item(span, TRACE_ITEM_NUMBER, key, &value, sizeof(value));
}

void trace_flag(struct trace_span *span, const char *key, bool value)
{
    uint8_t byte = value;
    add_item(span, TRACE_ITEM_FLAG, key, &byte, sizeof(byte));
}

void trace_event(struct trace_span *span, const char *name)
{
    uint64_t after_ns = clock_monotonic_ns() - span->start_ns;
    add_item(span, TRACE_ITEM_EVENT, name, &after_ns, sizeof(after_ns));
}

void trace_fail(struct trace_span *span, const char *type, const char *text_or_null)
{
    span->is_error = true;
    trace_text(span, "error.type", type);
    if (text_or_null != NULL) {
        add_item(span, TRACE_ITEM_ERROR, "", text_or_null, strnlen(text_or_null, TRACE_VALUE_MAX));
    }
}

/* ---- Into the buffer of the thread ---- */

static struct trace_record *ring_reserve(struct trace_ring *ring, size_t size)
{
    uint64_t written = atomic_load_explicit(&ring->written, memory_order_relaxed);
    uint64_t read = atomic_load_explicit(&ring->read, memory_order_acquire);
    size_t at = written & (TRACE_RING_BYTES - 1);
    size_t until_end = TRACE_RING_BYTES - at;
    size_t skip = until_end < size ? until_end : 0;
    if (written + skip + size - read > TRACE_RING_BYTES) {
        return NULL;
    }
    if (skip > 0) {
        uint32_t none = 0;
        memcpy(ring->bytes + at, &none, sizeof(none));
        atomic_store_explicit(&ring->written, written + skip, memory_order_release);
        at = 0;
    }
    return (struct trace_record *)(void *)(ring->bytes + at);
}

static void ring_commit(struct tracer *tracer, struct trace_ring *ring, size_t size)
{
    uint64_t written = atomic_load_explicit(&ring->written, memory_order_relaxed) + size;
    atomic_store(&ring->written, written);
    if (!atomic_load(&tracer->is_awake) && !atomic_exchange(&tracer->is_awake, true)) {
        sem_post(&tracer->wake);
    }
    uint64_t read = atomic_load_explicit(&ring->read, memory_order_relaxed);
    if (written - read > TRACE_RING_BYTES / 2 &&
        !atomic_exchange_explicit(&ring->is_urgent, true, memory_order_relaxed)) {
        sem_post(&tracer->urgent);
    }
}

static void write_record(struct tracer *tracer, const struct trace_span *span,
                         uint64_t real_start_ns, uint64_t duration_ns, bool is_kept)
{
    size_t size = (sizeof(struct trace_record) + span->used + 7) & ~(size_t)7;
    struct trace_ring *ring = trace_ring_mine(tracer);
    struct trace_record *record = ring != NULL ? ring_reserve(ring, size) : NULL;
    if (record == NULL) {
        atomic_fetch_add_explicit(&tracer->dropped, 1, memory_order_relaxed);
        return;
    }
    record->size = (uint32_t)size;
    record->used = span->used;
    record->dropped = span->dropped;
    record->kind = span->kind;
    record->is_error = span->is_error;
    record->is_kept = is_kept;
    record->context = span->context;
    memcpy(record->parent, span->parent, sizeof(record->parent));
    record->start_ns = real_start_ns;
    record->duration_ns = duration_ns;
    memcpy(record->name, span->name, sizeof(record->name));
    memcpy(record->bytes, span->bytes, span->used);
    ring_commit(tracer, ring, size);
}

static bool has_parent(const struct trace_span *span)
{
    static const uint8_t none[8];
    return memcmp(span->parent, none, sizeof(none)) != 0;
}

static bool is_kept(const struct tracer *tracer, const struct trace_span *span,
                    uint64_t duration_ns)
{
    return (span->context.flags & TRACE_SAMPLED) != 0 || span->is_error ||
        duration_ns >= tracer->slow_ns;
}

bool trace_is_wanted(const struct telemetry *telemetry, const struct trace_span *span)
{
    return telemetry != NULL && span->is_open &&
        is_kept(telemetry->tracer, span, clock_monotonic_ns() - span->start_ns);
}

void trace_end_at(struct telemetry *telemetry, struct trace_span *span, uint64_t end_ns)
{
    CHECK(span->is_open);
    span->is_open = false;
    if (telemetry == NULL) {
        return;
    }
    uint64_t duration_ns = end_ns > span->start_ns ? end_ns - span->start_ns : 0;
    bool keeps = is_kept(telemetry->tracer, span, duration_ns);
    if (keeps || has_parent(span)) {
        uint64_t ago_ns = clock_monotonic_ns() - span->start_ns;
        write_record(telemetry->tracer, span, clock_real_ns() - ago_ns, duration_ns, keeps);
    }
}

void trace_end(struct telemetry *telemetry, struct trace_span *span)
{
    trace_end_at(telemetry, span, clock_monotonic_ns());
}

void trace_drop(struct trace_span *span)
{
    span->is_open = false;
}
