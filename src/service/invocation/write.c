/* Invocations as JSON: types Invocation, InvocationList. */
#include <stdio.h>
#include <string.h>

#include "base/memory.h"

#include "service/invocation/parts.h"

/* RFC 4648, 4. */
static void append_base64(struct buffer *out, const uint8_t *bytes, size_t length)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < length; i += 3) {
        size_t left = length - i;
        uint32_t group = (uint32_t)bytes[i] << 16 | (left > 1 ? (uint32_t)bytes[i + 1] << 8 : 0) |
            (left > 2 ? bytes[i + 2] : 0);
        buffer_append_byte(out, (uint8_t)digits[group >> 18]);
        buffer_append_byte(out, (uint8_t)digits[group >> 12 & 63]);
        buffer_append_byte(out, left > 1 ? (uint8_t)digits[group >> 6 & 63] : '=');
        buffer_append_byte(out, left > 2 ? (uint8_t)digits[group & 63] : '=');
    }
}

void write_bytes(struct json_writer *writer, const void *bytes, size_t length)
{
    if (length == 0) {
        json_write_field_string(writer, "body", "");
    } else if (text_is_utf8(bytes, length) && memchr(bytes, 0, length) == NULL) {
        json_write_key(writer, "body");
        json_write_text(writer, bytes, length);
    } else {
        BUFFER_OWNED struct buffer text = {0};
        append_base64(&text, bytes, length);
        json_write_field_string(writer, "body_base64", buffer_string(&text));
    }
}

enum { SCHEMA_WITH_DESTINATION_ERROR = 15 };

struct writing {
    struct json_writer writer;
    bool is_whole; /* with body, answer, attempts */
    uint64_t count;
};

static const char *column(sqlite3_stmt *row, int index)
{
    return (const char *)sqlite3_column_text(row, index);
}

static void write_text(struct json_writer *writer, const char *name, const char *text_or_null)
{
    if (text_or_null != NULL) {
        json_write_field_string(writer, name, text_or_null);
    }
}

static void write_json(struct json_writer *writer, const char *name, const char *json)
{
    json_write_key(writer, name);
    json_write_raw(writer, json, strlen(json));
}

static void write_whole(sqlite3_stmt *row, struct json_writer *writer)
{
    write_json(writer, "attempt_list", column(row, 12));
    write_json(writer, "policy", column(row, 13));
    if (sqlite3_column_type(row, 14) != SQLITE_NULL) {
        json_write_key(writer, "request");
        json_write_begin_object(writer);
        write_bytes(writer, sqlite3_column_blob(row, 14), (size_t)sqlite3_column_bytes(row, 14));
        json_write_end_object(writer);
    }
    if (sqlite3_column_type(row, 9) != SQLITE_NULL) {
        json_write_key(writer, "response");
        json_write_begin_object(writer);
        json_write_field_u64(writer, "status", (uint64_t)sqlite3_column_int64(row, 9));
        write_json(writer, "fields", column(row, 15) != NULL ? column(row, 15) : "[]");
        write_bytes(writer, sqlite3_column_blob(row, 16), (size_t)sqlite3_column_bytes(row, 16));
        json_write_end_object(writer);
    }
}

static bool write_row(sqlite3_stmt *row, void *context)
{
    struct writing *writing = context;
    struct json_writer *writer = &writing->writer;
    writing->count++;
    json_write_begin_object(writer);
    json_write_field_string(writer, "id", column(row, 0));
    json_write_field_string(writer, "function", column(row, 1));
    json_write_field_string(writer, "state", column(row, 2));
    json_write_field_u64(writer, "attempts", (uint64_t)sqlite3_column_int64(row, 3));
    write_text(writer, "node", column(row, 4));
    write_text(writer, "idempotency_key", column(row, 5));
    if (strcmp(column(row, 2), "pending") == 0) {
        json_write_field_time_ms(writer, "due_at", (uint64_t)sqlite3_column_int64(row, 6));
    }
    write_text(writer, "error", column(row, 7));
    write_text(writer, "error_code", column(row, 8));
    write_text(writer, "destination_error", column(row, 17));
    if (sqlite3_column_type(row, 9) != SQLITE_NULL) {
        json_write_field_u64(writer, "status", (uint64_t)sqlite3_column_int64(row, 9));
    }
    if (writing->is_whole) {
        write_whole(row, writer);
    }
    json_write_field_time_ms(writer, "created_at", (uint64_t)sqlite3_column_int64(row, 10));
    json_write_field_time_ms(writer, "updated_at", (uint64_t)sqlite3_column_int64(row, 11));
    json_write_end_object(writer);
    return true;
}

bool invocation_keeps_destination_error(const struct invocation_service *service)
{
    return store_schema_now(service->options.store) >= SCHEMA_WITH_DESTINATION_ERROR;
}

static char *selecting(const struct invocation_service *service, const char *where)
{
    return memory_format(
        "SELECT i.key, i.function, i.state, attempts, n.key, idempotency, due_ms, error, "
        "error_code, status, created_ms, updated_ms, history, policy, body, fields, answer, %s "
        "FROM invocation i LEFT JOIN node n ON n.id = i.owner AND i.owner > 0 %s",
        invocation_keeps_destination_error(service) ? "destination_error" : "NULL", where);
}

int invocation_write(struct invocation_service *service, const char *project, const char *id,
                     struct buffer *out, struct error *err)
{
    struct writing writing = {.writer = json_writer_to(out), .is_whole = true};
    MEMORY_OWNED char *sql = selecting(service, "WHERE i.key = ? AND i.project = ?");
    int r = store_query(service->options.store, err, write_row, &writing, sql, "tt", id, project);
    if (r == 0 && writing.count == 0) {
        return error_set(err, ERROR_NOT_FOUND,
                         "there is no invocation %.80s (results are kept for a time only)", id);
    }
    return r;
}

int invocation_write_list(struct invocation_service *service, const char *project,
                          const struct invocation_filter *filter, struct buffer *out,
                          struct error *err)
{
    struct writing writing = {.writer = json_writer_to(out)};
    json_write_begin_object(&writing.writer);
    json_write_key(&writing.writer, "invocations");
    json_write_begin_array(&writing.writer);
    MEMORY_OWNED char *sql = selecting(
        service,
        "WHERE i.project = ? AND (? IS NULL OR i.name = ?) AND (? IS NULL OR i.state = ?) AND "
        "(NOT ? OR i.state IN ('failed', 'expired')) ORDER BY created_ms DESC, i.key LIMIT ?");
    int r = store_query(service->options.store, err, write_row, &writing, sql, "tttttuu", project,
                        filter->function, filter->function, filter->state, filter->state,
                        (uint64_t)filter->only_dead, filter->count_max);
    json_write_end_array(&writing.writer);
    json_write_end_object(&writing.writer);
    return r;
}
