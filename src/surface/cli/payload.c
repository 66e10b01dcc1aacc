#include "surface/cli/payload.h"

#include <stdio.h>
#include <string.h>

#include "base/base64.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

enum { INPUT_MAX = 64 << 20, SHOWN_MAX = 60 };

static int take_number(const char *flag, const char *value, bool is_good, const char *wanted,
                       struct error *err)
{
    return is_good ? 0 : error_set(err, ERROR_INVALID, "--%s %.40s is no %s", flag, value, wanted);
}

int payload_take_flags(const struct arguments *arguments, const struct payload_flag *flags,
                       size_t count, json_t *ret_object, struct error *err)
{
    for (size_t i = 0; i < count; i++) {
        const char *value = flag_value(arguments, flags[i].flag);
        uint64_t number = 0;
        int r = 0;
        if (value == NULL) {
            continue;
        }
        switch (flags[i].kind) {
        case FLAG_DURATION:
            r = take_number(flags[i].flag, value, text_parse_duration_ms(value, &number),
                            "time (for example 30s)", err);
            break;
        case FLAG_COUNT:
            r = take_number(flags[i].flag, value,
                            text_parse_u64(text_of(value, strlen(value)), &number), "number", err);
            break;
        case FLAG_SIZE:
            r = take_number(flags[i].flag, value, text_parse_size(value, &number),
                            "size (for example 512MiB)", err);
            break;
        case FLAG_RATE:
            r = take_number(flags[i].flag, value, text_parse_rate(value, &number),
                            "rate (for example 20MiB/s)", err);
            break;
        case FLAG_TEXT:
            break;
        }
        if (r < 0) {
            return r;
        }
        json_object_set_new(ret_object, flags[i].field,
                            flags[i].kind == FLAG_TEXT ? json_string(value)
                                                       : json_integer((json_int_t)number));
    }
    return 0;
}

int payload_read(const struct arguments *arguments, struct buffer *ret_bytes, struct error *err)
{
    const char *data = flag_value(arguments, "data");
    const char *file = flag_value(arguments, "file");
    const char *word = arguments->word_count > 1 ? arguments->words[1] : NULL;
    if (word != NULL && strcmp(word, "-") != 0) {
        return error_set(err, ERROR_INVALID,
                         "\"%.40s\" is unexpected: --data TEXT, --file FILE or -", word);
    }
    if ((data != NULL) + (file != NULL) + (word != NULL) != 1) {
        return error_set(err, ERROR_INVALID, "say what to send with one of --data, --file and -");
    }
    if (data != NULL) {
        buffer_append_string(ret_bytes, data);
        return 0;
    }
    return file_read(file != NULL ? file : "/dev/stdin", INPUT_MAX, ret_bytes, err);
}

static int take_attributes(const struct arguments *arguments, json_t *message, struct error *err)
{
    json_t *attributes = NULL;
    for (unsigned i = 0; i < arguments->flag_count; i++) {
        const char *value = arguments->flags[i].value;
        if (strcmp(arguments->flags[i].name, "attribute") != 0) {
            continue;
        }
        const char *equals = strchr(value, '=');
        if (equals == NULL || equals == value) {
            return error_set(err, ERROR_INVALID, "--attribute %.40s is not NAME=VALUE", value);
        }
        if (attributes == NULL) {
            attributes = json_object();
            json_object_set_new(message, "attributes", attributes);
        }
        MEMORY_OWNED char *name = memory_copy_text(value, (size_t)(equals - value));
        if (json_object_set_new(attributes, name, json_string(equals + 1)) < 0) {
            return error_set(err, ERROR_INVALID, "--attribute is no UTF-8");
        }
    }
    return 0;
}

int payload_make(const struct arguments *arguments, const void *bytes, size_t length,
                 json_t **ret_object, struct error *err)
{
    static const struct payload_flag flags[] = {{"content-type", "content_type", FLAG_TEXT}};
    json_t *message = json_object();
    if (text_is_utf8(bytes, length) && memchr(bytes, '\0', length) == NULL) {
        json_object_set_new(message, "body", json_stringn(bytes, length));
    } else {
        BUFFER_OWNED struct buffer text = {0};
        base64_write(&text, bytes, length);
        json_object_set_new(message, "body_base64", json_string(buffer_string(&text)));
    }
    int r = payload_take_flags(arguments, flags, 1, message, err);
    r = r < 0 ? r : take_attributes(arguments, message, err);
    if (r < 0) {
        json_decref(message);
        return r;
    }
    *ret_object = message;
    return 0;
}

/* ---- Sending ---- */

static int add(const struct arguments *arguments, const struct payload_batch *batch, json_t *list,
               const void *bytes, size_t length, struct error *err)
{
    json_t *message = NULL;
    int r = payload_make(arguments, bytes, length, &message, err);
    if (r < 0) {
        return r;
    }
    json_array_append_new(list, message);
    return payload_take_flags(arguments, batch->flags, batch->flag_count, message, err);
}

static int flush(const struct payload_batch *batch, json_t *list, json_t *accepted,
                 struct error *err)
{
    JSON_OWNED json_t *body = json_pack("{s:O}", batch->member, list);
    JSON_OWNED json_t *answer = NULL;
    if (json_array_size(list) == 0) {
        return 0;
    }
    int r = request_send("POST", batch->target, body, &answer, err);
    if (r == 0) {
        json_array_extend(accepted, json_object_get(answer, batch->member));
        json_array_clear(list);
    }
    return r;
}

/* Many lines are many requests; what was accepted before one was refused is said. */
static int send_lines(const struct arguments *arguments, const struct payload_batch *batch,
                      const struct buffer *input, json_t *accepted, struct error *err)
{
    JSON_OWNED json_t *list = json_array();
    const char *at = (const char *)input->data;
    const char *end = at + input->used;
    size_t bytes = 0;
    int r = 0;
    while (r == 0 && at < end) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        size_t length = (size_t)((newline != NULL ? newline : end) - at);
        if (json_array_size(list) == batch->count_max || bytes + length > batch->bytes_max) {
            r = flush(batch, list, accepted, err);
            bytes = 0;
        }
        r = r < 0 ? r : add(arguments, batch, list, at, length, err);
        bytes += length;
        at += length + 1;
    }
    r = r < 0 ? r : flush(batch, list, accepted, err);
    return r < 0 && json_array_size(accepted) > 0
        ? error_wrap(err, "after %zu %s", json_array_size(accepted), batch->done)
        : r;
}

int payload_send_all(const struct arguments *arguments, const struct payload_batch *batch,
                     const struct buffer *input, json_t *ret_accepted, struct error *err)
{
    if (flag_value(arguments, "lines") != NULL) {
        return input->used > 0 ? send_lines(arguments, batch, input, ret_accepted, err) : 0;
    }
    JSON_OWNED json_t *list = json_array();
    int r = add(arguments, batch, list, input->used > 0 ? (const void *)input->data : "",
                input->used, err);
    return r < 0 ? r : flush(batch, list, ret_accepted, err);
}

/* ---- For people ---- */

void payload_describe(json_t *message)
{
    const char *body = json_string_value(json_object_get(message, "body"));
    const char *encoded = json_string_value(json_object_get(message, "body_base64"));
    MEMORY_OWNED char *shown = NULL;
    if (body != NULL) {
        size_t length = strlen(body);
        size_t cut = length <= SHOWN_MAX ? length : SHOWN_MAX - 3;
        while (cut < length && cut > 0 && ((unsigned char)body[cut] & 0xC0) == 0x80) {
            cut--;
        }
        shown = memory_format("%.*s%s", (int)cut, body, cut < length ? "..." : "");
        text_make_printable(shown, false);
    } else {
        shown = memory_format("%zu bytes", encoded != NULL ? strlen(encoded) / 4 * 3 : 0);
    }
    json_object_set_new(message, "shown", json_string(shown));
}
