/* Verbs about keys and values. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/http/http.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "surface/cli/private.h"

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

enum { VALUE_MAX = 1 << 20, PAGE = 1000 }; /* the node says what its limit is */

static void begin_target(struct buffer *target, const struct arguments *arguments)
{
    const char *key = arguments->words[0];
    buffer_append_string(target, "/v1/kv/");
    http_percent_encode(target, text_of(key, strlen(key)));
}

static bool write_value(const void *bytes, size_t length, void *context)
{
    (void)context;
    return fwrite(bytes, 1, length, stdout) == length || print_flush() == 0;
}

int verb_kv_get(const struct arguments *arguments, struct error *err)
{
    enum output output = OUTPUT_TABLE;
    BUFFER_OWNED struct buffer target = {0};
    begin_target(&target, arguments);
    request_add_query(&target, "consistency",
                      flag_value(arguments, "linearizable") != NULL ? "linearizable" : NULL);
    int r = output_of(arguments, &output, err);
    if (r < 0) {
        return r;
    }
    if (output == OUTPUT_TABLE) {
        ANSWER_OWNED struct answer answer = {.on_data = write_value};
        return request("GET", buffer_string(&target), NULL, NULL, 0, &answer, err);
    }
    JSON_OWNED json_t *document = NULL;
    request_add_query(&target, "format", "json");
    r = request_json("GET", buffer_string(&target), NULL, &document, err);
    if (r == 0) {
        print_document(document, output);
    }
    return r;
}

/* From the command line, a file or standard input. */
static int take_value(const struct arguments *arguments, struct buffer *value, struct error *err)
{
    const char *word = arguments->word_count > 1 ? arguments->words[1] : NULL;
    const char *file = flag_value(arguments, "file");
    if (word != NULL && file != NULL) {
        return error_set(err, ERROR_INVALID, "the value is given twice: VALUE and --file");
    }
    if (word != NULL && strcmp(word, "-") != 0) {
        buffer_append_string(value, word);
        return 0;
    }
    if (word == NULL && file == NULL) {
        return error_set(err, ERROR_INVALID,
                         "there is no value: give VALUE, --file FILE, or - for standard input");
    }
    bool is_stdin = file == NULL || strcmp(file, "-") == 0;
    return file_read(is_stdin ? "/dev/stdin" : file, VALUE_MAX, value, err);
}

int verb_kv_set(const struct arguments *arguments, struct error *err)
{
    BUFFER_OWNED struct buffer target = {0};
    BUFFER_OWNED struct buffer value = {0};
    JSON_OWNED json_t *document = NULL;
    ANSWER_OWNED struct answer answer = {0};
    int r = take_value(arguments, &value, err);
    if (r < 0) {
        return r;
    }
    begin_target(&target, arguments);
    request_add_query(&target, "ttl", flag_value(arguments, "ttl"));
    request_add_query(&target, "if_revision", flag_value(arguments, "if-revision"));
    request_add_query(&target, "if_absent",
                      flag_value(arguments, "if-absent") != NULL ? "true" : NULL);
    r = request("PUT", buffer_string(&target), NULL, buffer_string(&value), value.used, &answer,
                err);
    r = r < 0 ? r : json_read(answer.body.data, answer.body.used, &document, err);
    return r < 0
        ? r
        : print_done(arguments, document, err, "%s is at revision %lld", arguments->words[0],
                     (long long)json_integer_value(json_object_get(document, "revision")));
}

int verb_kv_delete(const struct arguments *arguments, struct error *err)
{
    BUFFER_OWNED struct buffer target = {0};
    begin_target(&target, arguments);
    request_add_query(&target, "if_revision", flag_value(arguments, "if-revision"));
    int r = request_json("DELETE", buffer_string(&target), NULL, NULL, err);
    if (r < 0) {
        return r;
    }
    JSON_OWNED json_t *document = json_pack("{s:s}", "deleted", arguments->words[0]);
    return print_done(arguments, document, err, "deleted %s", arguments->words[0]);
}

/* Page by page, until there are as many as wanted or no more. */
static int collect(const struct arguments *arguments, uint64_t wanted, json_t *all,
                   struct error *err)
{
    MEMORY_OWNED char *after = memory_copy_string(
        flag_value(arguments, "after") != NULL ? flag_value(arguments, "after") : "");
    for (bool more = true; more && json_array_size(all) < wanted;) {
        BUFFER_OWNED struct buffer target = {0};
        JSON_OWNED json_t *page = NULL;
        uint64_t left = wanted - json_array_size(all);
        buffer_append_format(&target, "/v1/kv?limit=%" PRIu64, left < PAGE ? left : PAGE);
        request_add_query(&target, "prefix",
                          arguments->word_count > 0 ? arguments->words[0] : NULL);
        request_add_query(&target, "after", after);
        int r = request_json("GET", buffer_string(&target), NULL, &page, err);
        if (r < 0) {
            return r;
        }
        const json_t *keys = json_object_get(page, "keys");
        const char *last = json_string_value(
            json_object_get(json_array_get(keys, json_array_size(keys) - 1), "key"));
        json_array_extend(all, (json_t *)(uintptr_t)keys);
        more = json_is_true(json_object_get(page, "more")) && last != NULL;
        if (more) {
            free(after);
            after = memory_copy_string(last);
        }
    }
    return 0;
}

int verb_kv_list(const struct arguments *arguments, struct error *err)
{
    static const struct column columns[] = {
        {"KEY", "key", AS_TEXT},
        {"REVISION", "revision", AS_TEXT},
        {"SIZE", "size_bytes", AS_BYTES},
        {"UPDATED", "updated_at", AS_TEXT},
        {"EXPIRES", "expires_at", AS_TEXT},
    };
    const char *limit = flag_value(arguments, "limit");
    enum output output = OUTPUT_TABLE;
    uint64_t wanted = UINT64_MAX;
    if (limit != NULL && (!text_parse_u64(text_of(limit, strlen(limit)), &wanted) || wanted == 0)) {
        return error_set(err, ERROR_INVALID, "--limit %.40s is no number", limit);
    }
    JSON_OWNED json_t *document = json_object();
    json_t *all = json_array();
    json_object_set_new(document, "keys", all);
    int r = output_of(arguments, &output, err);
    r = r < 0 ? r : collect(arguments, wanted, all, err);
    if (r == 0 && output == OUTPUT_TABLE) {
        print_table(all, columns, COUNT(columns));
    } else if (r == 0) {
        print_document(document, output);
    }
    return r;
}
