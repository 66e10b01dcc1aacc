/*
 * What the guest says, made into what callers see.
 *
 * Numbers are cut to the range of what they stand for, texts to the size of their place; lists are
 * cut at their limits.  Fields that are missing count as 0 or "".
 */
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/text.h"

#include "engine/agent/private.h"

void agent_read_text(const struct agent_field *field, char *ret_text, size_t size)
{
    CHECK(size > 1);
    size_t length = field->length < size - 1 ? field->length : size - 1;
    memcpy(ret_text, field->bytes, length);
    ret_text[length] = '\0';
    bool is_utf8 = text_is_utf8(ret_text, strlen(ret_text));
    for (char *at = ret_text; !is_utf8 && *at != '\0'; at++) {
        *at = (char)((*at & 0x80) != 0 ? '?' : *at);
    }
    text_make_printable(ret_text, false);
}

static uint64_t at_most(const struct agent_field *field, uint64_t most)
{
    uint64_t value = agent_field_number(field);
    return value < most ? value : most;
}

/* ---- Tables: which field goes where ---- */

enum part { PART_TEXT, PART_U64, PART_U32, PART_MAC };

struct row {
    unsigned tag;
    enum part part;
    size_t offset;
    size_t size;
};

#define ROW(tag, part, type, member)                                                     \
    {                                                                                    \
        (tag), (part), offsetof(struct type, member), sizeof(((struct type *)0)->member) \
    }

static void fill(const struct row *rows, size_t count, const struct agent_field *field, void *place)
{
    for (size_t i = 0; i < count; i++) {
        char *at = (char *)place + rows[i].offset;
        if (rows[i].tag != field->tag) {
            continue;
        }
        uint64_t number = agent_field_number(field);
        uint32_t narrow = (uint32_t)at_most(field, UINT32_MAX);
        if (rows[i].part == PART_TEXT) {
            agent_read_text(field, at, rows[i].size);
        } else if (rows[i].part == PART_U64) {
            CHECK(rows[i].size == sizeof(number));
            memcpy(at, &number, sizeof(number));
        } else if (rows[i].part == PART_U32) {
            CHECK(rows[i].size == sizeof(narrow));
            memcpy(at, &narrow, sizeof(narrow));
        } else if (field->length == rows[i].size) {
            memcpy(at, field->bytes, rows[i].size);
        }
    }
}

/* All fields; false: it was no row of them. */
static bool fill_all(struct agent_reader reader, const struct row *rows, size_t count, void *place)
{
    struct agent_field field;
    while (agent_next(&reader, &field)) {
        fill(rows, count, &field, place);
    }
    return !reader.is_bad;
}

#define COUNT_OF(rows) (sizeof(rows) / sizeof((rows)[0]))

/* ---- HELLO, INFO ---- */

struct hello {
    struct agent_info info;
    uint64_t nonce;
    uint64_t spoken;
    uint64_t init;
};

static const struct row hello_rows[] = {
    ROW(AGENT_NONCE, PART_U64, hello, nonce),
    ROW(AGENT_SPOKEN, PART_U64, hello, spoken),
    ROW(AGENT_PROGRAM, PART_TEXT, hello, info.program),
    ROW(AGENT_KERNEL, PART_TEXT, hello, info.kernel),
    ROW(AGENT_MACHINE, PART_TEXT, hello, info.machine),
    ROW(AGENT_HOSTNAME, PART_TEXT, hello, info.hostname),
    ROW(AGENT_BOOT_ID, PART_TEXT, hello, info.boot_id),
    ROW(AGENT_INIT, PART_U64, hello, init),
    ROW(AGENT_PROBLEM, PART_TEXT, hello, info.problem),
    ROW(AGENT_UPTIME_MS, PART_U64, hello, info.uptime_ms),
    ROW(AGENT_TIME_NS, PART_U64, hello, info.time_ns),
};

bool agent_read_info(struct agent_reader reader, struct agent_info *ret_info, uint64_t *ret_nonce)
{
    struct hello hello = {.spoken = AGENT_VERSION};
    if (!fill_all(reader, hello_rows, COUNT_OF(hello_rows), &hello)) {
        return false;
    }
    hello.info.version = hello.spoken == AGENT_VERSION ? AGENT_VERSION : 0;
    hello.info.init = hello.init < AGENT_INITS ? (enum agent_init)hello.init : AGENT_INIT_OTHER;
    *ret_info = hello.info;
    *ret_nonce = hello.nonce;
    return true;
}

/* ---- EVENT ---- */

bool agent_read_event(struct agent_reader reader, struct agent_event *ret_event)
{
    struct agent_event event = {0};
    struct agent_field field;
    uint64_t kind = 0;
    while (agent_next(&reader, &field)) {
        if (field.tag == AGENT_EVENT_KIND) {
            kind = agent_field_number(&field);
        } else if (field.tag == AGENT_PID) {
            event.pid = (int)at_most(&field, INT32_MAX);
        } else if (field.tag == AGENT_EXIT_CODE) {
            event.exit_code = (int)at_most(&field, 255);
        } else if (field.tag == AGENT_SIGNAL) {
            event.signal = (int)at_most(&field, 64);
        } else if (field.tag == AGENT_POWER) {
            event.power = (enum agent_power)at_most(&field, AGENT_POWERS - 1);
        }
    }
    if (reader.is_bad || kind == 0 || kind >= AGENT_EVENT_KINDS) {
        return false; /* a kind of a later version: of no interest */
    }
    event.kind = (enum agent_event_kind)kind;
    event.exit_code = event.signal != 0 ? -1 : event.exit_code;
    *ret_event = event;
    return true;
}

/* ---- STAT ---- */

static const struct row stat_rows[] = {
    ROW(AGENT_KIND, PART_U32, agent_stat, kind),
    ROW(AGENT_MODE, PART_U32, agent_stat, mode),
    ROW(AGENT_USER, PART_U32, agent_stat, user),
    ROW(AGENT_GROUP, PART_U32, agent_stat, group),
    ROW(AGENT_SIZE, PART_U64, agent_stat, size_bytes),
    ROW(AGENT_MTIME_NS, PART_U64, agent_stat, mtime_ns),
    ROW(AGENT_TARGET, PART_TEXT, agent_stat, target),
};

bool agent_read_stat(struct agent_reader reader, struct agent_stat *ret_stat)
{
    struct agent_stat stat = {0};
    bool is_good = fill_all(reader, stat_rows, COUNT_OF(stat_rows), &stat);
    stat.mode &= 07777;
    stat.kind &= 0170000;
    *ret_stat = stat;
    return is_good;
}

/* ---- METRICS ---- */

static const struct row metric_rows[] = {
    ROW(AGENT_UPTIME_MS, PART_U64, agent_metrics, uptime_ms),
    ROW(AGENT_MEMORY_TOTAL, PART_U64, agent_metrics, memory_bytes.total),
    ROW(AGENT_MEMORY_FREE, PART_U64, agent_metrics, memory_bytes.free),
    ROW(AGENT_MEMORY_AVAILABLE, PART_U64, agent_metrics, memory_bytes.available),
    ROW(AGENT_MEMORY_CACHED, PART_U64, agent_metrics, memory_bytes.cached),
    ROW(AGENT_SWAP_TOTAL, PART_U64, agent_metrics, memory_bytes.swap_total),
    ROW(AGENT_SWAP_FREE, PART_U64, agent_metrics, memory_bytes.swap_free),
    ROW(AGENT_LOAD_1, PART_U32, agent_metrics, load_1),
    ROW(AGENT_LOAD_5, PART_U32, agent_metrics, load_5),
    ROW(AGENT_LOAD_15, PART_U32, agent_metrics, load_15),
    ROW(AGENT_PROCESSES, PART_U32, agent_metrics, processes),
};

static const struct row cpu_rows[] = {
    ROW(AGENT_CPU_COUNT, PART_U32, agent_metrics, cpu_count),
    ROW(AGENT_CPU_USER, PART_U64, agent_metrics, cpu_ms.user),
    ROW(AGENT_CPU_NICE, PART_U64, agent_metrics, cpu_ms.nice),
    ROW(AGENT_CPU_SYSTEM, PART_U64, agent_metrics, cpu_ms.system),
    ROW(AGENT_CPU_IDLE, PART_U64, agent_metrics, cpu_ms.idle),
    ROW(AGENT_CPU_IOWAIT, PART_U64, agent_metrics, cpu_ms.iowait),
    ROW(AGENT_CPU_IRQ, PART_U64, agent_metrics, cpu_ms.irq),
    ROW(AGENT_CPU_SOFTIRQ, PART_U64, agent_metrics, cpu_ms.softirq),
    ROW(AGENT_CPU_STEAL, PART_U64, agent_metrics, cpu_ms.steal),
};

static const struct row disk_rows[] = {
    ROW(AGENT_NAME, PART_TEXT, agent_disk, name),
    ROW(AGENT_SERIAL, PART_TEXT, agent_disk, serial),
    ROW(AGENT_SIZE, PART_U64, agent_disk, size_bytes),
    ROW(AGENT_READ_BYTES, PART_U64, agent_disk, read_bytes),
    ROW(AGENT_READ_OPERATIONS, PART_U64, agent_disk, read_operations),
    ROW(AGENT_WRITE_BYTES, PART_U64, agent_disk, write_bytes),
    ROW(AGENT_WRITE_OPERATIONS, PART_U64, agent_disk, write_operations),
};

static const struct row mounted_rows[] = {
    ROW(AGENT_PATH, PART_TEXT, agent_mounted, path),
    ROW(AGENT_SOURCE, PART_TEXT, agent_mounted, source),
    ROW(AGENT_FILE_SYSTEM, PART_TEXT, agent_mounted, file_system),
    ROW(AGENT_SIZE, PART_U64, agent_mounted, size_bytes),
    ROW(AGENT_SIZE_AVAILABLE, PART_U64, agent_mounted, available_bytes),
    ROW(AGENT_INODES, PART_U64, agent_mounted, inodes),
    ROW(AGENT_INODES_AVAILABLE, PART_U64, agent_mounted, inodes_available),
};

static const struct row link_rows[] = {
    ROW(AGENT_NAME, PART_TEXT, agent_link, name),
    ROW(AGENT_MAC, PART_MAC, agent_link, mac),
    ROW(AGENT_RECEIVED_BYTES, PART_U64, agent_link, received_bytes),
    ROW(AGENT_RECEIVED_PACKETS, PART_U64, agent_link, received_packets),
    ROW(AGENT_RECEIVED_DROPPED, PART_U64, agent_link, received_dropped),
    ROW(AGENT_SENT_BYTES, PART_U64, agent_link, sent_bytes),
    ROW(AGENT_SENT_PACKETS, PART_U64, agent_link, sent_packets),
    ROW(AGENT_SENT_DROPPED, PART_U64, agent_link, sent_dropped),
};

bool agent_read_metrics(struct agent_reader reader, struct agent_metrics *ret_metrics)
{
    struct agent_metrics *metrics = ret_metrics;
    struct agent_field field;
    bool is_good = true;
    *metrics = (struct agent_metrics){0};
    while (agent_next(&reader, &field)) {
        struct agent_reader inner = agent_reader_in(&field);
        if (field.tag == AGENT_CPU) {
            is_good = fill_all(inner, cpu_rows, COUNT_OF(cpu_rows), metrics) && is_good;
        } else if (field.tag == AGENT_DISK && metrics->disk_count < AGENT_DISKS_MAX) {
            struct agent_disk *disk = &metrics->disks[metrics->disk_count++];
            is_good = fill_all(inner, disk_rows, COUNT_OF(disk_rows), disk) && is_good;
        } else if (field.tag == AGENT_MOUNTED && metrics->mounted_count < AGENT_MOUNTED_MAX) {
            struct agent_mounted *mounted = &metrics->mounted[metrics->mounted_count++];
            is_good = fill_all(inner, mounted_rows, COUNT_OF(mounted_rows), mounted) && is_good;
        } else if (field.tag == AGENT_LINK && metrics->link_count < AGENT_LINKS_MAX) {
            struct agent_link *link = &metrics->links[metrics->link_count++];
            is_good = fill_all(inner, link_rows, COUNT_OF(link_rows), link) && is_good;
        } else {
            fill(metric_rows, COUNT_OF(metric_rows), &field, metrics);
        }
    }
    return is_good && !reader.is_bad;
}

/* ---- ANSWER ---- */

/* Kinds that tell a caller something about the daemon's own affairs are not the guest's to say. */
static enum error_kind kind_of(uint64_t number)
{
    static const enum error_kind allowed[] = {
        ERROR_INVALID,   ERROR_DENIED, ERROR_NOT_FOUND,   ERROR_TIMEOUT,   ERROR_EXISTS,
        ERROR_CONFLICT,  ERROR_LIMIT,  ERROR_UNSUPPORTED, ERROR_TOO_LARGE, ERROR_UNAVAILABLE,
        ERROR_CANCELLED, ERROR_FULL,   ERROR_PROTOCOL,
    };
    for (size_t i = 0; i < COUNT_OF(allowed); i++) {
        if (number == (uint64_t)allowed[i]) {
            return allowed[i];
        }
    }
    return ERROR_OS;
}

int agent_read_answer(struct agent_reader reader, struct agent_result *ret_result,
                      struct error *err)
{
    struct agent_field field;
    uint64_t kind = 0;
    char text[384] = "";
    struct agent_result *result = ret_result;
    while (agent_next(&reader, &field)) {
        if (field.tag == AGENT_ERROR_KIND) {
            kind = agent_field_number(&field);
        } else if (field.tag == AGENT_ERROR_TEXT) {
            agent_read_text(&field, text, sizeof(text));
        } else if (field.tag == AGENT_EXIT_CODE) {
            result->exit.exit_code = (int)at_most(&field, 255);
        } else if (field.tag == AGENT_SIGNAL) {
            result->exit.signal = (int)at_most(&field, 64);
        } else if (field.tag == AGENT_TIMED_OUT) {
            result->exit.timed_out = agent_field_number(&field) != 0;
        } else if (field.tag == AGENT_SIZE) {
            result->size_bytes = agent_field_number(&field);
        } else if (field.tag == AGENT_COUNT) {
            result->count = agent_field_number(&field);
        } else if (field.tag == AGENT_STATUS) {
            result->http_status = (unsigned)at_most(&field, 999);
        } else if (field.tag == AGENT_BYTES) {
            result->failure = field.bytes;
            result->failure_length = field.length;
        }
    }
    if (result->exit.signal != 0) {
        result->exit.exit_code = -1;
    }
    if (reader.is_bad) {
        return error_set(err, ERROR_PROTOCOL, "the agent's answer makes no sense");
    }
    if (kind != 0) {
        return error_set(err, kind_of(kind), "%s", text[0] != '\0' ? text : "the agent refused");
    }
    return 0;
}
