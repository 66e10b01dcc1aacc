/* Keys and values, as kv.h says.  Rows are PROJECT/KEY, so a list of a project is a range of keys.
 */
#include "service/kv/kv.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/list.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/text.h"

#include "engine/store/store.h"

enum { SWEEP_EVERY_MS = 1000, ROW_KEY_SIZE = 64 + 1 + KV_KEY_MAX + 2 };

#define LIVE "(expires_ms IS NULL OR expires_ms > ?)"

struct kv_service {
    struct kv_options options;
    struct loop_timer *sweep_timer;
    bool is_sweeping;
    bool has_more;   /* than what is swept now */
    unsigned posted; /* answers on their way */
};

static uint64_t now_of(const struct kv_service *service)
{
    return service->options.now_ms();
}

static int check_key(const char *key, struct error *err)
{
    size_t length = strlen(key);
    if (length == 0 || length > KV_KEY_MAX) {
        return error_set(err, ERROR_INVALID, "a key has 1 to %d bytes, not %zu", KV_KEY_MAX,
                         length);
    }
    if (!text_is_printable(key)) {
        return error_set(err, ERROR_INVALID, "a key is UTF-8 without control characters");
    }
    return 0;
}

/* `tail` "\xff" is behind every key that begins so: no UTF-8 has that byte. */
static void format_row(char ret_row[ROW_KEY_SIZE], const char *project, const char *key,
                       const char *tail)
{
    int length = snprintf(ret_row, ROW_KEY_SIZE, "%s/%s%s", project, key, tail);
    CHECK(length > 0 && length < ROW_KEY_SIZE);
}

/* ---- Reading ---- */

struct reading {
    void (*visit)(const struct kv_entry *entry, void *context);
    void *context;
    size_t skip; /* of the row's key, to that of the user */
    size_t count;
    size_t max;
};

#define COLUMNS "key, revision, updated_ms, expires_ms, length(value)"

static bool read_row(sqlite3_stmt *row, void *context)
{
    struct reading *reading = context;
    if (reading->count++ == reading->max) {
        return false; /* there are more */
    }
    struct kv_entry entry = {
        .key = (const char *)sqlite3_column_text(row, 0) + reading->skip,
        .revision = (uint64_t)sqlite3_column_int64(row, 1),
        .updated_ms = (uint64_t)sqlite3_column_int64(row, 2),
        .expires_ms = (uint64_t)sqlite3_column_int64(row, 3),
        .length = (size_t)sqlite3_column_int64(row, 4),
    };
    if (sqlite3_column_count(row) > 5) {
        const void *value = sqlite3_column_blob(row, 5);
        entry.value = value != NULL ? value : "";
    }
    reading->visit(&entry, reading->context);
    return true;
}

int kv_read(struct kv_service *service, const char *project, const char *key,
            void (*visit)(const struct kv_entry *entry, void *context), void *context,
            struct error *err)
{
    char row[ROW_KEY_SIZE];
    struct reading reading = {visit, context, strlen(project) + 1, 0, 1};
    int r = check_key(key, err);
    if (r < 0) {
        return r;
    }
    format_row(row, project, key, "");
    r = store_query(service->options.store, err, read_row, &reading,
                    "SELECT " COLUMNS ", value FROM kv WHERE key = ? AND " LIVE, "tu", row,
                    now_of(service));
    return r < 0 || reading.count > 0
        ? r
        : error_set(err, ERROR_NOT_FOUND, "there is no key \"%.200s\" in project %s", key, project);
}

int kv_list(struct kv_service *service, const char *project, const struct kv_listing *listing,
            void (*visit)(const struct kv_entry *entry, void *context), void *context,
            bool *ret_more, struct error *err)
{
    char first[ROW_KEY_SIZE];
    char after[ROW_KEY_SIZE];
    char end[ROW_KEY_SIZE];
    struct reading reading = {visit, context, strlen(project) + 1, 0, listing->max};
    if (listing->max < 1 || listing->max > KV_LIST_MAX) {
        return error_set(err, ERROR_INVALID, "a list has 1 to %d keys", KV_LIST_MAX);
    }
    if (strlen(listing->prefix) > KV_KEY_MAX || strlen(listing->after) > KV_KEY_MAX) {
        return error_set(err, ERROR_INVALID, "a key has at most %d bytes", KV_KEY_MAX);
    }
    format_row(first, project, listing->prefix, "");
    format_row(after, project, listing->after, "");
    format_row(end, project, listing->prefix, "\xff");
    int r = store_query(service->options.store, err, read_row, &reading,
                        listing->with_values
                            ? "SELECT " COLUMNS ", value FROM kv WHERE key >= ? AND key > ? AND "
                              "key < ? AND " LIVE " ORDER BY key LIMIT ?"
                            : "SELECT " COLUMNS " FROM kv WHERE key >= ? AND key > ? AND "
                              "key < ? AND " LIVE " ORDER BY key LIMIT ?",
                        "tttuu", first, after, end, now_of(service), (uint64_t)listing->max + 1);
    *ret_more = r == 0 && reading.count > listing->max;
    return r;
}

static bool read_usage(sqlite3_stmt *row, void *context)
{
    struct kv_usage *usage = context;
    usage->keys = (uint64_t)sqlite3_column_int64(row, 0);
    usage->bytes = (uint64_t)sqlite3_column_int64(row, 1);
    return true;
}

int kv_read_usage(struct kv_service *service, const char *project, struct kv_usage *ret_usage,
                  struct error *err)
{
    struct kv_usage usage = {.keys_max = service->options.project_keys_max,
                             .bytes_max = service->options.project_bytes_max};
    int r = store_query(service->options.store, err, read_usage, &usage,
                        "SELECT keys, bytes FROM kv_usage WHERE key = ?", "t", project);
    if (r == 0) {
        *ret_usage = usage;
    }
    return r;
}

/* ---- Answers that come later ---- */

struct asked {
    struct kv_service *service;
    char project[64];
    char key[KV_KEY_MAX + 1];
    struct error error; /* kind NONE: read */
    void (*done)(const struct error *error, const struct kv_entry *entry, void *context);
    void (*written)(const struct error *error, uint64_t index, void *context);
    void *context;
};

static void give_entry(const struct kv_entry *entry, void *context)
{
    const struct asked *asked = context;
    asked->done(NULL, entry, asked->context);
}

static void answer(void *argument)
{
    struct asked *asked = argument;
    struct error err = asked->error;
    asked->service->posted--;
    if (asked->written != NULL) {
        asked->written(&err, 0, asked->context);
    } else if (err.kind != ERROR_NONE ||
               kv_read(asked->service, asked->project, asked->key, give_entry, asked, &err) < 0) {
        asked->done(&err, NULL, asked->context);
    }
    free(asked);
}

static void answer_later(struct asked *asked)
{
    loop_post(asked->service->options.loop, answer, asked);
}

static void on_barrier(const struct error *error, void *context)
{
    struct asked *asked = context;
    if (error != NULL) {
        asked->error = *error;
    }
    answer_later(asked);
}

void kv_get(struct kv_service *service, const char *project, const char *key, bool linearizable,
            void (*done)(const struct error *error, const struct kv_entry *entry, void *context),
            void *context)
{
    struct asked *asked = NEW(struct asked);
    asked->service = service;
    asked->done = done;
    asked->context = context;
    service->posted++;
    snprintf(asked->project, sizeof(asked->project), "%s", project);
    if (check_key(key, &asked->error) == 0) {
        snprintf(asked->key, sizeof(asked->key), "%s", key);
    }
    if (linearizable && asked->error.kind == ERROR_NONE) {
        store_barrier(service->options.store, on_barrier, asked);
    } else {
        answer_later(asked);
    }
}

static void refuse(struct kv_service *service, const struct error *error,
                   void (*done)(const struct error *error, uint64_t index, void *context),
                   void *context)
{
    struct asked *asked = NEW(struct asked);
    asked->service = service;
    asked->error = *error;
    asked->written = done;
    asked->context = context;
    service->posted++;
    answer_later(asked);
}

/* ---- Writing ---- */

#define EXPIRED                                                              \
    "FROM kv WHERE expires_ms <= ?1 AND (?2 = '' OR project = ?2) ORDER BY " \
    "expires_ms, key LIMIT ?3"

/* At most KV_SWEEP rows whose time is over go, of a project ("": of all), and count no more. */
static void add_sweep(struct store_command *command, const char *project, uint64_t now_ms)
{
    store_command_add(command,
                      "UPDATE kv_usage SET keys = keys - gone.n, bytes = bytes - gone.b "
                      "FROM (SELECT project, count(*) AS n, sum(size) AS b FROM (SELECT "
                      "project, size " EXPIRED ") GROUP BY project) AS gone "
                      "WHERE kv_usage.key = gone.project",
                      "utu", now_ms, project, (uint64_t)KV_SWEEP);
    store_command_add(command, "DELETE FROM kv WHERE key IN (SELECT key " EXPIRED ")", "utu",
                      now_ms, project, (uint64_t)KV_SWEEP);
}

/* Rows whose time is over make room for what would have none. */
static void add_room(struct kv_service *service, struct store_command *command, const char *project,
                     uint64_t size)
{
    struct kv_usage usage = {0};
    struct error ignored = {0};
    if (kv_read_usage(service, project, &usage, &ignored) == 0 &&
        (usage.keys >= usage.keys_max || usage.bytes + size > usage.bytes_max)) {
        add_sweep(command, project, now_of(service));
    }
}

/* What the row counts for is taken off first, and put on again by what writes it. */
static void add_uncount(struct store_command *command, const char *project, const char *row)
{
    store_command_add(command,
                      "UPDATE kv_usage SET keys = keys - (SELECT count(*) FROM kv WHERE key = ?1), "
                      "bytes = bytes - (SELECT coalesce(sum(size), 0) FROM kv WHERE key = ?1) "
                      "WHERE key = ?2",
                      "tt", row, project);
}

static void add_count(const struct kv_service *service, struct store_command *command,
                      const char *project, uint64_t size)
{
    store_command_add_expecting(
        command, ERROR_LIMIT,
        "the project's keys and values are at their limit: delete some, or let them expire (--ttl)",
        "UPDATE kv_usage SET keys = keys + 1, bytes = bytes + ?1 "
        "WHERE key = ?2 AND keys < ?3 AND bytes + ?1 <= ?4",
        "utuu", size, project, service->options.project_keys_max,
        service->options.project_bytes_max);
}

#define INSERT                                                                         \
    "INSERT INTO kv (key, project, value, size, expires_ms, updated_ms, revision) "    \
    "VALUES (?1, ?2, ?3, ?4, nullif(?5, 0), ?6, ?7) ON CONFLICT (key) DO UPDATE SET "  \
    "value = excluded.value, size = excluded.size, expires_ms = excluded.expires_ms, " \
    "updated_ms = excluded.updated_ms, revision = excluded.revision"

static void add_write(struct store_command *command, const char *project, const char *row,
                      const struct kv_write *write, uint64_t size, uint64_t now_ms)
{
    uint64_t expires_ms = write->ttl_ms > 0 ? now_ms + write->ttl_ms : 0;
    switch (write->condition) {
    case KV_ALWAYS:
        store_command_add(command, INSERT, "ttbuuur", row, project, write->value, write->length,
                          size, expires_ms, now_ms);
        break;
    case KV_IF_ABSENT:
        store_command_add_expecting(command, ERROR_CONFLICT, "the key is there already",
                                    INSERT " WHERE kv.expires_ms <= ?6", "ttbuuur", row, project,
                                    write->value, write->length, size, expires_ms, now_ms);
        break;
    case KV_IF_REVISION:
        store_command_add_expecting(
            command, ERROR_CONFLICT,
            "the key is at another revision, or not there: read it again and decide anew",
            "UPDATE kv SET value = ?1, size = ?2, expires_ms = nullif(?3, 0), updated_ms = ?4, "
            "revision = ?5 WHERE key = ?6 AND revision = ?7 AND "
            "(expires_ms IS NULL OR expires_ms > ?4)",
            "buuurtu", write->value, write->length, size, expires_ms, now_ms, row, write->revision);
        break;
    }
}

static int check_write(const struct kv_write *write, struct error *err)
{
    int r = check_key(write->key, err);
    if (r == 0 && write->length > KV_VALUE_MAX) {
        r = error_set(err, ERROR_TOO_LARGE, "the value has %zu bytes; at most %d are allowed",
                      write->length, KV_VALUE_MAX);
    }
    if (r == 0 && write->ttl_ms > KV_TTL_MAX_MS) {
        r = error_set(err, ERROR_INVALID, "a time to live is at most 3650d");
    }
    return r;
}

void kv_set(struct kv_service *service, const char *project, const struct kv_write *write,
            void (*done)(const struct error *error, uint64_t revision, void *context),
            void *context)
{
    char row[ROW_KEY_SIZE];
    struct error err = {0};
    if (check_write(write, &err) < 0) {
        refuse(service, &err, done, context);
        return;
    }
    format_row(row, project, write->key, "");
    uint64_t size = strlen(write->key) + write->length;
    struct store_command *command = store_command_new();
    store_command_add(command,
                      "INSERT INTO kv_usage (key, keys, bytes) VALUES (?, 0, 0) "
                      "ON CONFLICT (key) DO NOTHING",
                      "t", project);
    add_room(service, command, project, size);
    add_uncount(command, project, row);
    add_write(command, project, row, write, size, now_of(service));
    add_count(service, command, project, size);
    store_propose(service->options.store, command, done, context);
}

void kv_delete(struct kv_service *service, const char *project, const char *key, uint64_t revision,
               void (*done)(const struct error *error, uint64_t index, void *context),
               void *context)
{
    char row[ROW_KEY_SIZE];
    char text[ERROR_TEXT_MAX];
    struct error err = {0};
    if (check_key(key, &err) < 0) {
        refuse(service, &err, done, context);
        return;
    }
    format_row(row, project, key, "");
    snprintf(text, sizeof(text), "there is no key \"%.200s\" in project %s", key, project);
    struct store_command *command = store_command_new();
    add_uncount(command, project, row);
    store_command_add_expecting(command, revision > 0 ? ERROR_CONFLICT : ERROR_NOT_FOUND,
                                revision > 0 ? "the key is at another revision, or not there"
                                             : text,
                                "DELETE FROM kv WHERE key = ?1 AND (?2 = 0 OR revision = ?2) AND "
                                "(expires_ms IS NULL OR expires_ms > ?3)",
                                "tuu", row, revision, now_of(service));
    store_propose(service->options.store, command, done, context);
}

/* ---- Sweeping ---- */

/* How many rows could go, as far as one command takes them. */
static uint64_t count_expired(struct kv_service *service)
{
    uint64_t count = 0;
    struct error ignored = {0};
    store_query(service->options.store, &ignored, store_take_u64, &count,
                "SELECT count(*) FROM (SELECT key " EXPIRED ")", "utu", now_of(service), "",
                (uint64_t)KV_SWEEP);
    return count;
}

static void on_swept(const struct error *error, uint64_t index, void *context)
{
    struct kv_service *service = context;
    (void)index;
    service->is_sweeping = false;
    if (error != NULL && !error_kind_retry(error->kind)) {
        log_warn("keys and values: removing what has expired: %s", error->text);
    } else if (error == NULL && service->has_more) {
        loop_timer_start(service->sweep_timer, 0);
    }
}

static void on_sweep_timer(void *context)
{
    struct kv_service *service = context;
    struct store_status status;
    loop_timer_start(service->sweep_timer, SWEEP_EVERY_MS);
    store_status(service->options.store, &status);
    /* A state of before: there is no such table until all nodes know it. */
    if (!status.is_leader || service->is_sweeping || store_schema_now(service->options.store) < 4) {
        return;
    }
    uint64_t count = count_expired(service);
    if (count > 0) {
        struct store_command *command = store_command_new();
        add_sweep(command, "", now_of(service));
        service->is_sweeping = true;
        service->has_more = count == KV_SWEEP;
        store_propose(service->options.store, command, on_swept, service);
    }
}

/* ---- Life ---- */

struct kv_service *kv_service_new(const struct kv_options *options)
{
    struct kv_service *service = NEW(struct kv_service);
    service->options = *options;
    if (service->options.now_ms == NULL) {
        service->options.now_ms = clock_real_ms;
    }
    if (service->options.project_bytes_max == 0) {
        service->options.project_bytes_max = UINT64_C(256) << 20;
    }
    if (service->options.project_keys_max == 0) {
        service->options.project_keys_max = 1000000;
    }
    service->sweep_timer = loop_timer_new(options->loop, on_sweep_timer, service);
    loop_timer_start(service->sweep_timer, SWEEP_EVERY_MS);
    return service;
}

void kv_service_free(struct kv_service *service)
{
    if (service == NULL) {
        return;
    }
    service->has_more = false;
    loop_timer_free(service->sweep_timer);
    store_settle(service->options.store);
    while (service->posted > 0) {
        loop_flush(service->options.loop);
    }
    free(service);
}
