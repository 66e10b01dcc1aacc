/* Keys and values.  A value is a body of its own; as JSON, with ?format=json. */
#include "service/kv/kv.h"

#include <inttypes.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"

#include "surface/api/parts.h"

enum { LIST_DEFAULT = 100 };

static struct kv_service *service_of(const struct request *request)
{
    return request->api->options.kv;
}

/* ---- Reading ---- */

static void write_facts(struct json_writer *writer, const struct kv_entry *entry)
{
    json_write_begin_object(writer);
    json_write_field_string(writer, "key", entry->key);
    json_write_field_u64(writer, "revision", entry->revision);
    json_write_field_u64(writer, "size_bytes", entry->length);
    json_write_field_time_ms(writer, "updated_at", entry->updated_ms);
    json_write_field_time_ms(writer, "expires_at", entry->expires_ms);
}

/* The value as text where it is one, and as base64 always: JSON has no bytes. */
static void write_entry(const struct kv_entry *entry, void *context)
{
    struct json_writer *writer = context;
    write_facts(writer, entry);
    if (entry->value != NULL) {
        MEMORY_OWNED char *base64 = memory_new(4 * (entry->length / 3 + 1) + 1, 1);
        EVP_EncodeBlock((unsigned char *)base64, entry->value, (int)entry->length);
        bool is_text = text_is_utf8(entry->value, entry->length) &&
            memchr(entry->value, 0, entry->length) == NULL;
        json_write_key(writer, "value");
        if (is_text) {
            json_write_text(writer, entry->value, entry->length);
        } else {
            json_write_null(writer);
        }
        json_write_field_string(writer, "value_base64", base64);
    }
    json_write_end_object(writer);
}

static void answer_entry(const struct kv_entry *entry, void *context)
{
    struct request *request = context;
    char text[CLOCK_TEXT_SIZE];
    snprintf(text, sizeof(text), "\"%" PRIu64 "\"", entry->revision);
    api_add_fields(request);
    http_exchange_add_field(request->exchange, "Content-Type", "application/octet-stream");
    http_exchange_add_field(request->exchange, "ETag", text);
    snprintf(text, sizeof(text), "%" PRIu64, entry->revision);
    http_exchange_add_field(request->exchange, "X-Blixard-Revision", text);
    if (entry->expires_ms > 0) {
        clock_format_ms(entry->expires_ms, text);
        http_exchange_add_field(request->exchange, "X-Blixard-Expires", text);
    }
    http_exchange_respond(request->exchange, request->status, entry->value, entry->length);
    api_request_end(request);
}

void api_kv_get(struct request *request)
{
    char format[64] = "";
    struct error err = {0};
    bool is_json =
        http_query_get(http_exchange_query(request->exchange), "format", format, sizeof(format)) &&
        strcmp(format, "json") == 0;
    if (format[0] != '\0' && !is_json && strcmp(format, "raw") != 0) {
        error_set(&err, ERROR_INVALID, "?format is raw or json, not %s", format);
        api_answer_error(request, &err);
        return;
    }
    BUFFER_OWNED struct buffer body = {0};
    struct json_writer writer = json_writer_to(&body);
    int r = is_json ? kv_read(service_of(request), request->project, request->parameters[0],
                              write_entry, &writer, &err)
                    : kv_read(service_of(request), request->project, request->parameters[0],
                              answer_entry, request, &err);
    if (r < 0) {
        api_answer_error(request, &err);
    } else if (is_json) {
        api_answer_json(request, request->status, &body);
    }
}

static int write_list(struct request *request, struct buffer *out, struct error *err)
{
    char prefix[KV_KEY_MAX + 1] = "";
    char after[KV_KEY_MAX + 1] = "";
    bool more = false;
    struct kv_usage usage;
    struct text query = http_exchange_query(request->exchange);
    http_query_get(query, "prefix", prefix, sizeof(prefix));
    http_query_get(query, "after", after, sizeof(after));
    const struct kv_listing listing = {.prefix = prefix,
                                       .after = after,
                                       .max = api_query_u64(request, "limit", LIST_DEFAULT),
                                       .with_values = api_query_flag(request, "values", false)};
    struct json_writer writer = json_writer_to(out);
    json_write_begin_object(&writer);
    json_write_key(&writer, "keys");
    json_write_begin_array(&writer);
    int r =
        kv_list(service_of(request), request->project, &listing, write_entry, &writer, &more, err);
    r = r < 0 ? r : kv_read_usage(service_of(request), request->project, &usage, err);
    if (r < 0) {
        return r;
    }
    json_write_end_array(&writer);
    json_write_field_bool(&writer, "more", more);
    json_write_field_u64(&writer, "used_keys", usage.keys);
    json_write_field_u64(&writer, "used_bytes", usage.bytes);
    json_write_field_u64(&writer, "keys_max", usage.keys_max);
    json_write_field_u64(&writer, "bytes_max", usage.bytes_max);
    json_write_end_object(&writer);
    return 0;
}

void api_kv_list(struct request *request)
{
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    int r = write_list(request, &body, &err);
    api_answer_written(request, r, &body, &err);
}

/* ---- Writing ---- */

static int read_condition(struct request *request, struct kv_write *write, struct error *err)
{
    char text[32];
    struct text query = http_exchange_query(request->exchange);
    if (http_query_get(query, "ttl", text, sizeof(text)) &&
        (!text_parse_duration_ms(text, &write->ttl_ms) || write->ttl_ms == 0)) {
        return error_set(err, ERROR_INVALID, "?ttl=%s is no time (for example 30s, 10m, 7d)", text);
    }
    bool if_absent = api_query_flag(request, "if_absent", false);
    bool if_revision = http_query_get(query, "if_revision", text, sizeof(text));
    if (if_absent && if_revision) {
        return error_set(err, ERROR_INVALID, "?if_absent and ?if_revision exclude each other");
    }
    write->condition = if_absent ? KV_IF_ABSENT : if_revision ? KV_IF_REVISION : KV_ALWAYS;
    write->revision = api_query_u64(request, "if_revision", 0);
    return 0;
}

static void on_set(const struct error *error, uint64_t revision, void *context)
{
    struct request *request = context;
    if (error != NULL) {
        api_answer_error(request, error);
        return;
    }
    BUFFER_OWNED struct buffer body = {0};
    struct json_writer writer = json_writer_to(&body);
    json_write_begin_object(&writer);
    json_write_field_string(&writer, "key", request->parameters[0]);
    json_write_field_u64(&writer, "revision", revision);
    json_write_end_object(&writer);
    api_answer_json(request, request->status, &body);
}

static void on_value(struct buffer *body, const struct error *error, void *context)
{
    struct request *request = context;
    struct error err = {0};
    struct kv_write write = {.key = request->parameters[0]};
    int r = read_condition(request, &write, &err);
    if (error != NULL || r < 0) {
        api_answer_error(request, error != NULL ? error : &err);
        return;
    }
    write.value = body->data != NULL ? (const void *)body->data : "";
    write.length = body->used;
    kv_set(service_of(request), request->project, &write, on_set, request);
}

void api_kv_set(struct request *request)
{
    http_exchange_read_all(request->exchange, KV_VALUE_MAX, on_value, request);
}

void api_kv_delete(struct request *request)
{
    kv_delete(service_of(request), request->project, request->parameters[0],
              api_query_u64(request, "if_revision", 0), api_answer_done, request);
}
