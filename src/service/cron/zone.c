/*
 * TZif (RFC 8536): a header, a block with 32-bit times, and from version 2 on another header, a
 * block with 64-bit times and a rule for what comes after it.  Big-endian.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"

#include "service/cron/parts.h"

enum {
    HEADER_SIZE = 44,
    TRANSITIONS_MAX = 4096,
    TYPES_MAX = 256,
    FILE_MAX = 1 << 18,
    NAME_MAX_BYTES = 64,
    OFFSET_MAX = 26 * 3600,
};

struct cron_zone {
    size_t count;
    int64_t *times;   /* of transitions, ascending */
    int32_t *offsets; /* from each one on */
    int32_t first;    /* before all of them */
    bool has_rule;
    struct posix_zone rule; /* after the last one */
};

void cron_zone_free(struct cron_zone *zone)
{
    if (zone != NULL) {
        free(zone->times);
        free(zone->offsets);
        free(zone);
    }
}

static uint32_t read_u32(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static int64_t read_i64(const uint8_t *at)
{
    return (int64_t)((uint64_t)read_u32(at) << 32 | read_u32(at + 4));
}

struct counts {
    uint32_t ut, standard, leap, time, type, character;
};

static bool read_header(const uint8_t *bytes, size_t length, struct counts *counts)
{
    if (length < HEADER_SIZE || memcmp(bytes, "TZif", 4) != 0) {
        return false;
    }
    uint32_t *const into[] = {&counts->ut,   &counts->standard, &counts->leap,
                              &counts->time, &counts->type,     &counts->character};
    for (size_t i = 0; i < 6; i++) {
        *into[i] = read_u32(bytes + 20 + 4 * i);
    }
    return counts->time <= TRANSITIONS_MAX && counts->type <= TYPES_MAX && counts->type > 0 &&
        counts->character <= 4096 && counts->leap <= 4096 && counts->ut <= TYPES_MAX &&
        counts->standard <= TYPES_MAX;
}

static size_t block_size(const struct counts *counts, size_t time_size)
{
    return counts->time * (time_size + 1) + counts->type * 6 + counts->character +
        counts->leap * (time_size + 4) + counts->standard + counts->ut;
}

static int corrupt(struct error *err)
{
    return error_set(err, ERROR_CORRUPT, "it is no time-zone file as RFC 8536 has it");
}

static int read_block(const uint8_t *at, const struct counts *counts, struct cron_zone *zone,
                      struct error *err)
{
    const uint8_t *indices = at + (size_t)counts->time * 8;
    const uint8_t *types = indices + counts->time;
    zone->count = counts->time;
    zone->times = memory_new(counts->time + 1, sizeof(*zone->times));
    zone->offsets = memory_new(counts->time + 1, sizeof(*zone->offsets));
    for (size_t i = 0; i < counts->type; i++) {
        int32_t offset = (int32_t)read_u32(types + i * 6);
        if (offset < -OFFSET_MAX || offset > OFFSET_MAX) {
            return corrupt(err);
        }
    }
    zone->first = (int32_t)read_u32(types);
    for (size_t i = 0; i < counts->time; i++) {
        zone->times[i] = read_i64(at + i * 8);
        if (indices[i] >= counts->type || (i > 0 && zone->times[i] <= zone->times[i - 1])) {
            return corrupt(err);
        }
        zone->offsets[i] = (int32_t)read_u32(types + (size_t)indices[i] * 6);
    }
    return 0;
}

static int read_rule(const uint8_t *at, size_t length, struct cron_zone *zone, struct error *err)
{
    char text[128];
    const uint8_t *end = length > 1 ? memchr(at + 1, '\n', length - 1) : NULL;
    if (end == NULL || at[0] != '\n' || (size_t)(end - at) > sizeof(text)) {
        return corrupt(err);
    }
    size_t size = (size_t)(end - at) - 1;
    memcpy(text, at + 1, size);
    text[size] = '\0';
    zone->has_rule = size > 0;
    return size == 0 || posix_zone_parse(text, &zone->rule) ? 0 : corrupt(err);
}

static int read_zone(const uint8_t *bytes, size_t length, struct cron_zone *zone, struct error *err)
{
    struct counts counts = {0};
    if (!read_header(bytes, length, &counts) || bytes[4] < '2') {
        return corrupt(err); /* version 1 has been out of use since 2005 */
    }
    size_t skipped = HEADER_SIZE + block_size(&counts, 4);
    if (skipped > length || !read_header(bytes + skipped, length - skipped, &counts)) {
        return corrupt(err);
    }
    if (counts.leap > 0) {
        return error_set(err, ERROR_INVALID,
                         "the time zone counts leap seconds, which the clock does not: name it "
                         "without right/");
    }
    const uint8_t *block = bytes + skipped + HEADER_SIZE;
    size_t left = length - skipped - HEADER_SIZE;
    size_t size = block_size(&counts, 8);
    if (size > left) {
        return corrupt(err);
    }
    int r = read_block(block, &counts, zone, err);
    return r < 0 ? r : read_rule(block + size, left - size, zone, err);
}

int cron_zone_read(const void *bytes, size_t length, struct cron_zone **ret_zone, struct error *err)
{
    struct cron_zone *zone = NEW(struct cron_zone);
    int r = read_zone(bytes, length, zone, err);
    if (r < 0) {
        cron_zone_free(zone);
        return r;
    }
    *ret_zone = zone;
    return 0;
}

/* Names are paths below the folder: nothing in them leads out of it. */
static bool is_zone_name(const char *name)
{
    size_t length = strlen(name);
    if (length == 0 || length > NAME_MAX_BYTES || strstr(name, "..") != NULL || name[0] == '/') {
        return false;
    }
    return strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_+-/") ==
        length;
}

int cron_zone_open(const char *name, struct cron_zone **ret_zone, struct error *err)
{
    if (name[0] == '\0' || strcmp(name, "UTC") == 0) {
        *ret_zone = NEW(struct cron_zone);
        return 0;
    }
    if (!is_zone_name(name)) {
        return error_set(err, ERROR_INVALID, "\"%.64s\" is no time zone; they are called like %s",
                         name, "Europe/Berlin");
    }
    BUFFER_OWNED struct buffer bytes = {0};
    const char *said = getenv("TZDIR"); /* where there is no /usr/share */
    const char *folder = said != NULL && said[0] == '/' ? said : "/usr/share/zoneinfo";
    MEMORY_OWNED char *path = memory_format("%s/%s", folder, name);
    struct error problem = {0};
    if (file_read(path, FILE_MAX, &bytes, &problem) < 0) {
        return error_set(err, ERROR_NOT_FOUND,
                         "there is no time zone \"%.64s\" on this node (%.200s; package tzdata)",
                         name, folder);
    }
    int r = cron_zone_read(bytes.data, bytes.used, ret_zone, err);
    return r < 0 ? error_wrap(err, "%s", path) : 0;
}

/* How many transitions are not after `time`. */
static size_t passed(const struct cron_zone *zone, int64_t time)
{
    size_t low = 0;
    size_t high = zone->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (zone->times[middle] <= time) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

int32_t cron_zone_offset(const struct cron_zone *zone, int64_t time)
{
    size_t count = passed(zone, time);
    if (count == zone->count && zone->has_rule) {
        return posix_zone_offset(&zone->rule, time);
    }
    return count == 0 ? zone->first : zone->offsets[count - 1];
}

bool cron_zone_next_change(const struct cron_zone *zone, int64_t time, int64_t *ret_time)
{
    int32_t now = cron_zone_offset(zone, time);
    for (size_t i = passed(zone, time); i < zone->count; i++) {
        if (cron_zone_offset(zone, zone->times[i]) != now) {
            *ret_time = zone->times[i];
            return true;
        }
    }
    int64_t last = zone->count > 0 ? zone->times[zone->count - 1] : INT64_MIN;
    return zone->has_rule &&
        posix_zone_next_change(&zone->rule, time > last ? time : last, ret_time);
}
