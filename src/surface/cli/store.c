/* Verbs about the Nix stores of nodes. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/http/http.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "surface/cli/private.h"

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

enum { HASH_CHARS = 32 };

/* ---- Targets ---- */

/* "/v1/store/" + rest, at the node that `flag` names. */
static void write_target(struct buffer *target, const struct arguments *arguments, const char *rest,
                         const char *flag)
{
    buffer_append_format(target, "/v1/store/%s", rest);
    request_add_query(target, "node", flag_value(arguments, flag));
}

/* HASH-NAME: the folder is the node's to know. */
static const char *base_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash == NULL ? path : slash + 1;
}

static const char *place(const struct arguments *arguments, const char *flag)
{
    const char *node = flag_value(arguments, flag);
    return node == NULL ? "this node" : node;
}

/* ---- Looking ---- */

int verb_store_list(const struct arguments *arguments, struct error *err)
{
    static const struct column columns[] = {
        {"PATH", "path", AS_TEXT},
        {"SIZE", "nar_bytes", AS_BYTES},
        {"SINCE", "registered_at", AS_TEXT},
    };
    BUFFER_OWNED struct buffer target = {0};
    write_target(&target, arguments, "paths", "node");
    request_add_query(&target, "match", flag_value(arguments, "match"));
    request_add_query(&target, "limit", flag_value(arguments, "limit"));
    request_add_query(&target, "after", flag_value(arguments, "after"));
    return print_target(arguments, buffer_string(&target), "paths", columns, COUNT(columns), err);
}

static void print_list(const json_t *document, const char *key, const char *title)
{
    size_t index = 0;
    json_t *text = NULL;
    json_array_foreach(json_object_get(document, key), index, text)
    {
        MEMORY_OWNED char *path = memory_copy_string(json_string_value(text));
        print_fact(index == 0 ? title : "", path);
    }
}

int verb_store_show(const struct arguments *arguments, struct error *err)
{
    static const struct column facts[] = {
        {"path", "path", AS_TEXT},
        {"size", "nar_bytes", AS_BYTES},
        {"hash", "nar_hash", AS_TEXT},
        {"closure paths", "closure_paths", AS_TEXT},
        {"closure size", "closure_bytes", AS_BYTES},
        {"since", "registered_at", AS_TEXT},
        {"built from", "deriver", AS_TEXT},
    };
    BUFFER_OWNED struct buffer target = {0};
    JSON_OWNED json_t *path = NULL;
    enum output output = OUTPUT_TABLE;
    buffer_append_string(&target, "paths/");
    const char *base = base_of(arguments->words[0]);
    http_percent_encode(&target, text_of(base, strlen(base)));
    MEMORY_OWNED char *rest = buffer_take(&target);
    write_target(&target, arguments, rest, "node");
    int r = output_of(arguments, &output, err);
    r = r < 0 ? r : request_json("GET", buffer_string(&target), NULL, &path, err);
    if (r == 0 && output != OUTPUT_TABLE) {
        print_document(path, output);
    } else if (r == 0) {
        print_facts(path, facts, COUNT(facts));
        print_list(path, "references", "refers to");
        print_list(path, "signatures", "signed");
        print_list(path, "roots", "kept by");
    }
    return r;
}

int verb_store_roots(const struct arguments *arguments, struct error *err)
{
    static const struct column columns[] = {
        {"ROOT", "root", AS_TEXT},
        {"PATH", "path", AS_TEXT},
        {"VALID", "valid", AS_TEXT},
    };
    BUFFER_OWNED struct buffer target = {0};
    write_target(&target, arguments, "roots", "node");
    return print_target(arguments, buffer_string(&target), "roots", columns, COUNT(columns), err);
}

int verb_store_key(const struct arguments *arguments, struct error *err)
{
    JSON_OWNED json_t *key = NULL;
    int r = request_json("GET", "/v1/store/key", NULL, &key, err);
    return r < 0 ? r : print_done(arguments, key, err, "%s", json_text(key, "public_key"));
}

/* ---- Pins ---- */

/* Of a path its name, with what no name of a pin has as '-'. */
static char *pin_name(const struct arguments *arguments)
{
    const char *given = flag_value(arguments, "name");
    const char *base = base_of(arguments->words[0]);
    if (given != NULL) {
        return memory_copy_string(given);
    }
    char *name = memory_copy_string(
        strlen(base) > HASH_CHARS + 1 && base[HASH_CHARS] == '-' ? base + HASH_CHARS + 1 : base);
    for (char *at = name; *at != '\0'; at++) {
        *at = strchr("+?=", *at) != NULL ? '-' : *at;
    }
    return name;
}

static void pin_target(struct buffer *target, const struct arguments *arguments, const char *name)
{
    BUFFER_OWNED struct buffer rest = {0};
    buffer_append_string(&rest, "pins/");
    http_percent_encode(&rest, text_of(name, strlen(name)));
    write_target(target, arguments, buffer_string(&rest), "node");
}

int verb_store_pin(const struct arguments *arguments, struct error *err)
{
    BUFFER_OWNED struct buffer target = {0};
    MEMORY_OWNED char *name = pin_name(arguments);
    JSON_OWNED json_t *body = json_pack("{s:s}", "path", arguments->words[0]);
    JSON_OWNED json_t *said = json_pack("{s:s, s:s}", "pin", name, "path", arguments->words[0]);
    pin_target(&target, arguments, name);
    int r = body == NULL ? error_set(err, ERROR_INVALID, "the path is no UTF-8")
                         : request_send("PUT", buffer_string(&target), body, NULL, err);
    return r < 0 ? r
                 : print_done(arguments, said, err, "%s keeps %s on %s: blixard store unpin %s",
                              name, arguments->words[0], place(arguments, "node"), name);
}

int verb_store_unpin(const struct arguments *arguments, struct error *err)
{
    BUFFER_OWNED struct buffer target = {0};
    JSON_OWNED json_t *said = json_pack("{s:s}", "unpinned", arguments->words[0]);
    pin_target(&target, arguments, arguments->words[0]);
    int r = request_json("DELETE", buffer_string(&target), NULL, NULL, err);
    return r < 0 ? r
                 : print_done(arguments, said, err, "%s keeps nothing on %s any more",
                              arguments->words[0], place(arguments, "node"));
}

/* ---- Operations ---- */

/* Begin it, and wait for it unless --no-wait: *ret_operation is the one that ended, or NULL. */
static int carry_out(const struct arguments *arguments, const char *rest, const char *flag,
                     const json_t *body, json_t **ret_operation, struct error *err)
{
    BUFFER_OWNED struct buffer target = {0};
    JSON_OWNED json_t *reference = NULL;
    *ret_operation = NULL;
    write_target(&target, arguments, rest, flag);
    int r = request_send("POST", buffer_string(&target), body, &reference, err);
    const char *operation = json_text(reference, "operation");
    if (r < 0) {
        return r;
    }
    return flag_value(arguments, "no-wait") != NULL
        ? print_done(arguments, reference, err, "%s", operation)
        : operation_wait_for(operation, ret_operation, err);
}

int verb_store_gc(const struct arguments *arguments, struct error *err)
{
    JSON_OWNED json_t *body = json_object();
    JSON_OWNED json_t *operation = NULL;
    const char *most = flag_value(arguments, "max");
    bool is_trial = flag_value(arguments, "dry-run") != NULL;
    uint64_t bytes = 0;
    if (most != NULL && (!text_parse_size(most, &bytes) || bytes > INT64_MAX)) {
        return error_set(err, ERROR_INVALID, "--max %.40s is no size, as 10GiB", most);
    }
    json_object_set_new(body, "dry_run", json_boolean(is_trial));
    if (most != NULL) {
        json_object_set_new(body, "bytes_max", json_integer((json_int_t)bytes));
    }
    int r = carry_out(arguments, "gc", "node", body, &operation, err);
    if (r < 0 || operation == NULL) {
        return r;
    }
    json_t *result = json_object_get(operation, "result");
    uint64_t paths = json_u64(result, "paths");
    char size[TEXT_SIZE_MAX];
    return print_done(arguments, result, err, "%" PRIu64 " path%s, %s %s on %s", paths,
                      paths == 1 ? "" : "s", text_write_size(json_u64(result, "freed_bytes"), size),
                      is_trial ? "would go" : "are gone", place(arguments, "node"));
}

int verb_store_verify(const struct arguments *arguments, struct error *err)
{
    JSON_OWNED json_t *body = json_object();
    JSON_OWNED json_t *operation = NULL;
    if (arguments->word_count > 0) {
        json_object_set_new(body, "path", json_string(arguments->words[0]));
    }
    int r = carry_out(arguments, "verify", "node", body, &operation, err);
    return r < 0 || operation == NULL
        ? r
        : print_done(arguments, json_object_get(operation, "result"), err,
                     "all of it is what it was on %s", place(arguments, "node"));
}

int verb_store_copy(const struct arguments *arguments, struct error *err)
{
    JSON_OWNED json_t *body = json_object();
    JSON_OWNED json_t *operation = NULL;
    const char *from = flag_value(arguments, "from");
    json_object_set_new(body, "path", json_string(arguments->words[0]));
    if (from != NULL) {
        json_object_set_new(body, "from", json_string(from));
    }
    int r = carry_out(arguments, "copies", "to", body, &operation, err);
    return r < 0 || operation == NULL
        ? r
        : print_done(arguments, json_object_get(operation, "result"), err, "%s is on %s",
                     arguments->words[0], place(arguments, "to"));
}
