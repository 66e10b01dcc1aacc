#include "surface/cli/payload.h"

#include <stdio.h>
#include <string.h>

#include "base/base64.h"
#include "base/file.h"
#include "base/http/http.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

enum { INPUT_MAX = 64 << 20, SHOWN_MAX = 60 };

static int take_number(const char *flag, const char *value, bool is_good, struct error *err)
{
    return is_good ? 0 : error_set(err, ERROR_INVALID, "--%s %.40s is no such value", flag, value);
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
            r = take_number(flags[i].flag, value, text_parse_duration_ms(value, &number), err);
            break;
        case FLAG_COUNT:
            r = take_number(flags[i].flag, value,
                            text_parse_u64(text_of(value, strlen(value)), &number), err);
            break;
        case FLAG_SIZE:
            r = take_number(flags[i].flag, value, text_parse_size(value, &number), err);
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

int payload_send(const char *method, const char *target, const json_t *body, json_t **ret_document,
                 struct error *err)
{
    BUFFER_OWNED struct buffer text = {0};
    char *dumped = json_dumps(body, 0);
    if (dumped == NULL) {
        return error_set(err, ERROR_INVALID, "a value is no UTF-8");
    }
    buffer_append_string(&text, dumped);
    free(dumped);
    return request_json(method, target, &text, ret_document, err);
}

char *payload_target(const char *folder, const char *name, const char *rest)
{
    BUFFER_OWNED struct buffer target = {0};
    buffer_append_format(&target, "/v1/%s/", folder);
    http_percent_encode(&target, text_of(name, strlen(name)));
    buffer_append_string(&target, rest);
    return buffer_take(&target);
}

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
