/*
 * What a forecaster knows, on disk: a cache of this machine, so numbers are as the processor has
 * them.  What it is for, what it knows, its arrays, and a hash of all of that.
 */
#include <string.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/hash.h"

#include "engine/forecast/parts.h"

static const char MAGIC[16] = "blixard-fcast-1";

struct head {
    char magic[sizeof(MAGIC)];
    uint64_t step_ms;
    double quantile;
};

static struct head head_of(const struct forecaster *forecaster)
{
    struct head head = {.step_ms = forecaster->step_ms, .quantile = forecaster->quantile};
    memcpy(head.magic, MAGIC, sizeof(MAGIC));
    return head;
}

void forecaster_write(const struct forecaster *forecaster, struct buffer *buffer)
{
    struct head head = head_of(forecaster);
    char hash[HASH_TEXT_SIZE];
    size_t from = buffer->used;
    buffer_append(buffer, &head, sizeof(head));
    buffer_append(buffer, &forecaster->knows, sizeof(forecaster->knows));
    buffer_append(buffer, forecaster->values, forecaster->values_count * sizeof(float));
    buffer_append(buffer, forecaster->visits, forecaster->visits_count);
    hash_bytes(buffer->data + from, buffer->used - from, hash);
    buffer_append(buffer, hash, sizeof(hash));
}

static bool is_for(const struct forecaster *forecaster, const uint8_t *bytes)
{
    struct head head;
    memcpy(&head, bytes, sizeof(head));
    return memcmp(head.magic, MAGIC, sizeof(MAGIC)) == 0 && head.step_ms == forecaster->step_ms &&
        head.quantile == forecaster->quantile;
}

int forecaster_read(struct forecaster *forecaster, const void *bytes, size_t length,
                    struct error *err)
{
    const uint8_t *at = bytes;
    size_t values_size = forecaster->values_count * sizeof(float);
    size_t content =
        sizeof(struct head) + sizeof(forecaster->knows) + values_size + forecaster->visits_count;
    char hash[HASH_TEXT_SIZE];
    if (length != content + sizeof(hash) || !is_for(forecaster, at)) {
        return error_set(err, ERROR_INVALID, "this is no forecast of such a series");
    }
    hash_bytes(at, content, hash);
    if (memcmp(at + content, hash, sizeof(hash)) != 0) {
        return error_set(err, ERROR_INVALID, "this forecast was damaged");
    }
    at += sizeof(struct head);
    memcpy(&forecaster->knows, at, sizeof(forecaster->knows));
    at += sizeof(forecaster->knows);
    memcpy(forecaster->values, at, values_size);
    memcpy(forecaster->visits, at + values_size, forecaster->visits_count);
    return 0;
}
