/* Verbs about aliases and old versions. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/http/http.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "surface/cli/private.h"

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

static char *target_of(const char *function, const char *alias_or_null, const char *rest)
{
    BUFFER_OWNED struct buffer target = {0};
    buffer_append_string(&target, "/v1/functions/");
    http_percent_encode(&target, text_of(function, strlen(function)));
    if (alias_or_null != NULL) {
        buffer_append_string(&target, "/aliases/");
        http_percent_encode(&target, text_of(alias_or_null, strlen(alias_or_null)));
    }
    buffer_append_string(&target, rest);
    return buffer_take(&target);
}

/* "7" or "v7" */
static bool parse_version(struct text text, uint64_t *ret_version)
{
    if (text.length > 0 && text.data[0] == 'v') {
        text = text_of(text.data + 1, text.length - 1);
    }
    return text_parse_u64(text, ret_version) && *ret_version > 0 && *ret_version <= INT64_MAX;
}

/* The words behind NAME ALIAS: one version, or versions with weights. */
static int write_target(const struct arguments *arguments, struct json_writer *writer,
                        struct error *err)
{
    JSON_OWNED json_t *seen = json_object();
    uint64_t version = 0;
    const char *first = arguments->words[2];
    if (arguments->word_count == 3 && strchr(first, '=') == NULL) {
        if (!parse_version(text_of(first, strlen(first)), &version)) {
            return error_set(err, ERROR_INVALID, "%.40s is not a version (1, 2, 3, ...)", first);
        }
        json_write_field_u64(writer, "version", version);
        return 0;
    }
    json_write_key(writer, "weights");
    json_write_begin_object(writer);
    for (unsigned i = 2; i < arguments->word_count; i++) {
        const char *word = arguments->words[i];
        const char *equals = strchr(word, '=');
        if (equals == NULL || !parse_version(text_of(word, (size_t)(equals - word)), &version)) {
            return error_set(err, ERROR_INVALID, "%.40s is not VERSION=WEIGHT (for example v7=90)",
                             word);
        }
        char number[24];
        snprintf(number, sizeof(number), "%" PRIu64, version);
        if (json_object_get(seen, number) != NULL) {
            return error_set(err, ERROR_INVALID, "version %s is named twice", number);
        }
        json_object_set_new(seen, number, json_true());
        json_write_field_string(writer, number, equals + 1);
    }
    json_write_end_object(writer);
    return 0;
}

static const char *target_in(const json_t *function, const char *alias)
{
    const char *text =
        json_string_value(json_object_get(json_object_get(function, "aliases"), alias));
    return text != NULL ? text : "";
}

int verb_fn_alias_set(const struct arguments *arguments, struct error *err)
{
    const char *name = arguments->words[0];
    const char *alias = arguments->words[1];
    BUFFER_OWNED struct buffer body = {0};
    JSON_OWNED json_t *function = NULL;
    struct json_writer writer = json_writer_to(&body);
    const char *sticky = flag_value(arguments, "sticky");
    json_write_begin_object(&writer);
    int r = write_target(arguments, &writer, err);
    if (sticky != NULL) {
        json_write_field_string(&writer, "sticky", sticky);
    }
    json_write_end_object(&writer);
    MEMORY_OWNED char *target = target_of(name, alias, "");
    r = r < 0 ? r : request_json("PUT", target, &body, &function, err);
    if (r < 0) {
        return r;
    }
    const char *text = target_in(function, alias);
    return print_done(arguments, function, err, "%s:%s is %s%s", name, alias,
                      strchr(text, '=') == NULL ? "version " : "", text);
}

/* Its versions side by side, as what they have done in the last minutes. */
int verb_fn_alias_get(const struct arguments *arguments, struct error *err)
{
    const char *name = arguments->words[0];
    const char *alias = arguments->word_count > 1 ? arguments->words[1] : "live";
    GATHERED_OWNED struct gathered gathered = {0};
    JSON_OWNED json_t *function = NULL;
    enum output output = OUTPUT_TABLE;
    MEMORY_OWNED char *target = target_of(name, NULL, "");
    int r = output_of(arguments, &output, err);
    r = r < 0 ? r : request_json("GET", target, NULL, &function, err);
    const char *text = target_in(function, alias);
    if (r == 0 && text[0] == '\0') {
        return error_set(err, ERROR_NOT_FOUND,
                         "%.80s has no alias %.80s: blixard fn alias list %.80s", name, alias,
                         name);
    }
    r = r < 0 ? r : usage_gather(name, &gathered, err);
    if (r < 0) {
        return r;
    }
    JSON_OWNED json_t *usage = usage_of(&gathered, name);
    JSON_OWNED json_t *rows = usage_alias_rows(usage, text);
    const json_t *sticky = json_object_get(json_object_get(function, "sticky"), alias);
    JSON_OWNED json_t *document = json_pack(
        "{s:s, s:s, s:s, s:O*, s:O, s:O, s:O, s:O}", "function", name, "alias", alias, "target",
        text, "sticky", sticky, "window_ms", json_object_get(usage, "window_ms"), "versions", rows,
        "nodes", json_object_get(usage, "nodes"), "silent", json_object_get(usage, "silent"));
    if (output != OUTPUT_TABLE) {
        print_document(document, output);
        return 0;
    }
    static const struct column columns[] = {
        {"alias", "alias", AS_TEXT}, {"version", "target", AS_TEXT}, {"sticky", "sticky", AS_TEXT}};
    print_facts(document, columns, COUNT(columns));
    usage_print_window(usage);
    putchar('\n');
    usage_print_versions(rows);
    return 0;
}

int verb_fn_alias_list(const struct arguments *arguments, struct error *err)
{
    JSON_OWNED json_t *function = NULL;
    enum output output = OUTPUT_TABLE;
    MEMORY_OWNED char *target = target_of(arguments->words[0], NULL, "");
    int r = output_of(arguments, &output, err);
    r = r < 0 ? r : request_json("GET", target, NULL, &function, err);
    if (r < 0) {
        return r;
    }
    static const struct column columns[] = {
        {"ALIAS", "alias", AS_TEXT}, {"VERSION", "target", AS_TEXT}, {"STICKY", "sticky", AS_TEXT}};
    const json_t *sticky = json_object_get(function, "sticky");
    JSON_OWNED json_t *list = json_array();
    const char *name;
    json_t *text;
    json_object_foreach(json_object_get(function, "aliases"), name, text)
    {
        json_array_append_new(list,
                              json_pack("{s:s, s:O, s:O*}", "alias", name, "target", text, "sticky",
                                        json_object_get(sticky, name)));
    }
    if (output == OUTPUT_TABLE) {
        print_table(list, columns, COUNT(columns));
    } else {
        JSON_OWNED json_t *document = json_pack("{s:O}", "aliases", list);
        print_document(document, output);
    }
    return 0;
}

int verb_fn_alias_history(const struct arguments *arguments, struct error *err)
{
    static const struct column columns[] = {
        {"NUMBER", "number", AS_TEXT},
        {"VERSION", "target", AS_TEXT},
        {"STICKY", "sticky", AS_TEXT},
        {"SINCE", "set_at", AS_TEXT},
    };
    JSON_OWNED json_t *document = NULL;
    enum output output = OUTPUT_TABLE;
    MEMORY_OWNED char *target = target_of(
        arguments->words[0], arguments->word_count > 1 ? arguments->words[1] : "live", "/history");
    int r = output_of(arguments, &output, err);
    r = r < 0 ? r : request_json("GET", target, NULL, &document, err);
    if (r == 0 && output == OUTPUT_TABLE) {
        print_table(json_object_get(document, "history"), columns, COUNT(columns));
    } else if (r == 0) {
        print_document(document, output);
    }
    return r;
}

int verb_fn_alias_delete(const struct arguments *arguments, struct error *err)
{
    const char *name = arguments->words[0];
    const char *alias = arguments->words[1];
    MEMORY_OWNED char *target = target_of(name, alias, "");
    int r = request_json("DELETE", target, NULL, NULL, err);
    if (r < 0) {
        return r;
    }
    JSON_OWNED json_t *document = json_pack("{s:s, s:s}", "deleted", name, "alias", alias);
    return print_done(arguments, document, err, "deleted %s:%s", name, alias);
}

int verb_fn_rollback(const struct arguments *arguments, struct error *err)
{
    const char *name = arguments->words[0];
    const char *alias = arguments->word_count > 1 ? arguments->words[1] : "live";
    JSON_OWNED json_t *function = NULL;
    MEMORY_OWNED char *target = target_of(name, alias, "/rollback");
    int r = request_json("POST", target, NULL, &function, err);
    if (r < 0) {
        return r;
    }
    const char *text = target_in(function, alias);
    return print_done(arguments, function, err, "%s:%s is %s%s again", name, alias,
                      strchr(text, '=') == NULL ? "version " : "", text);
}

/* ---- Old versions ---- */

int verb_fn_prune(const struct arguments *arguments, struct error *err)
{
    const char *name = arguments->words[0];
    const char *keep_text = flag_value(arguments, "keep");
    uint64_t keep = 10;
    unsigned deleted = 0;
    JSON_OWNED json_t *list = NULL;
    MEMORY_OWNED char *target = target_of(name, NULL, "/versions");
    if (keep_text != NULL && !text_parse_u64(text_of(keep_text, strlen(keep_text)), &keep)) {
        return error_set(err, ERROR_INVALID, "--keep %.40s is not a number", keep_text);
    }
    int r = request_json("GET", target, NULL, &list, err);
    const json_t *versions = json_object_get(list, "versions"); /* the newest first */
    for (size_t i = (size_t)keep; r == 0 && i < json_array_size(versions); i++) {
        const json_t *number = json_object_get(json_array_get(versions, i), "number");
        MEMORY_OWNED char *one =
            memory_format("%s/%" JSON_INTEGER_FORMAT, target, json_integer_value(number));
        struct error refused = {0};
        r = request_json("DELETE", one, NULL, NULL, &refused);
        if (r == 0) {
            deleted++;
        } else if (r == -ERROR_CONFLICT || r == -ERROR_EXISTS || r == -ERROR_NOT_FOUND) {
            r = 0; /* an alias points to it: it stays */
        } else {
            *err = refused;
        }
    }
    JSON_OWNED json_t *document = json_pack("{s:i}", "deleted", (int)deleted);
    return r < 0 ? r
                 : print_done(arguments, document, err, "deleted %u version%s of %s", deleted,
                              deleted == 1 ? "" : "s", name);
}
