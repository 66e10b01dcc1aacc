/* Verbs about manifests: documents go to the node as they are; what comes back is shown. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"
#include "base/yaml.h"

#include "surface/cli/private.h"

enum { MODULE_BYTES_MAX = 64 << 20, EXIT_CHANGES = 1, EXIT_TROUBLE = 255 };

/* ---- Documents ---- */

static bool is_hash(const char *text)
{
    size_t length = strspn(text, "0123456789abcdef");
    return length == HASH_TEXT_SIZE - 1 && text[length] == '\0';
}

static int upload(const struct buffer *module, struct error *err)
{
    static const char *const fields[] = {"Content-Type: application/wasm", NULL};
    ANSWER_OWNED struct answer answer = {0};
    return request("POST", "/v1/blobs", fields, module->data, module->used, &answer, err);
}

/* A module that is a file beside the document: known by what is in it. */
static int take_module(const char *folder, const char *module, bool uploads,
                       char ret_digest[HASH_TEXT_SIZE], struct error *err)
{
    BUFFER_OWNED struct buffer content = {0};
    MEMORY_OWNED char *path =
        module[0] == '/' ? memory_copy_string(module) : memory_format("%s/%s", folder, module);
    int r = file_read(path, MODULE_BYTES_MAX, &content, err);
    if (r < 0) {
        return error_wrap(err, "module %.120s", module);
    }
    hash_bytes(content.data, content.used, ret_digest);
    return uploads ? upload(&content, err) : 0;
}

/* Documents of two folders may say the same flake, and mean two. */
static int take_built(const char *flake, const char *built, json_t *blobs, struct error *err)
{
    const char *other = json_text(blobs, flake);
    if (other[0] != '\0' && strcmp(other, built) != 0) {
        return error_set(err, ERROR_INVALID,
                         "flake %.100s is another one in another folder: say its whole path",
                         flake);
    }
    json_object_set_new(blobs, flake, json_string(built));
    return 0;
}

/* What is built of a flake is built for a plan, too: what would change is known by what comes of
 * it. */
static int take_runner(const char *folder, const char *flake, json_t *blobs, struct error *err)
{
    static const struct arguments none = {0};
    MEMORY_OWNED char *path = NULL;
    int r = flake_build(&none, flake, folder, &path, err);
    return r < 0 ? r : take_built(flake, path, blobs, err);
}

static int take_package(const char *folder, const char *flake, bool uploads, json_t *blobs,
                        struct error *err)
{
    MEMORY_OWNED char *name = NULL;
    MEMORY_OWNED char *module = NULL;
    char digest[HASH_TEXT_SIZE];
    int r = flake_build_function(flake, folder, false, &name, &module, err);
    r = r < 0 ? r : take_module(folder, module, uploads, digest, err);
    return r < 0 ? r : take_built(flake, digest, blobs, err);
}

/* A Linux function's machine by the key "guest:" and what is said of it; by "" its code, where
 * there is none besides the guest: an archive of nothing. */
static int take_guest(const char *folder, const json_t *spec, bool uploads, json_t *blobs,
                      struct error *err)
{
    static const struct arguments none = {0};
    const char *runner = json_text(spec, "runner");
    const char *flake = json_text(spec, "flake");
    uint64_t memory_bytes = 0;
    MEMORY_OWNED char *path = runner[0] == '\0' || runner[0] == '/'
        ? memory_copy_string(runner)
        : memory_format("%s/%s", folder, runner);
    MEMORY_OWNED char *built = NULL;
    MEMORY_OWNED char *name = NULL;
    if (runner[0] != '\0' && flake[0] != '\0') {
        return error_set(err, ERROR_INVALID, "runner and flake exclude each other");
    }
    int r = flake[0] != '\0' ? flake_build(&none, flake, folder, &built, err) : 0;
    r = r < 0 ? r
              : image_of_runner(built != NULL ? built : path, uploads, &name, &memory_bytes, err);
    MEMORY_OWNED char *key = memory_format("guest:%s", flake[0] != '\0' ? flake : runner);
    return r < 0 ? r : take_built(key, name, blobs, err);
}

static int take_no_code(bool uploads, json_t *blobs, struct error *err)
{
    static const uint8_t end[1024] = {0}; /* of a tar archive */
    BUFFER_OWNED struct buffer archive = {0};
    char digest[HASH_TEXT_SIZE];
    buffer_append(&archive, end, sizeof(end));
    hash_bytes(archive.data, archive.used, digest);
    json_object_set_new(blobs, "", json_string(digest));
    return uploads ? upload(&archive, err) : 0;
}

/* What of a document is not in it: a module's file, what its flake comes to. */
static int take_parts(const char *folder, const json_t *document, bool uploads, json_t *blobs,
                      struct error *err)
{
    const json_t *spec = json_object_get(document, "spec");
    const char *kind = json_text(document, "kind");
    const char *module = json_text(spec, "module");
    const char *flake = json_text(spec, "flake");
    char digest[HASH_TEXT_SIZE];
    if (strcmp(kind, "Machine") == 0) {
        return flake[0] == '\0' || json_object_get(spec, "runner") != NULL
            ? 0
            : take_runner(folder, flake, blobs, err);
    }
    if (strcmp(kind, "Function") != 0) {
        return 0;
    }
    bool is_linux = strcmp(json_text(spec, "runtime"), "linux") == 0;
    int r = is_linux && (flake[0] != '\0' || json_text(spec, "runner")[0] != '\0')
        ? take_guest(folder, spec, uploads, blobs, err)
        : 0;
    if (r < 0 || is_hash(module)) {
        return r;
    }
    if (module[0] == '\0' && is_linux) {
        return take_no_code(uploads, blobs, err);
    }
    if (module[0] == '\0') {
        return flake[0] == '\0' ? 0 : take_package(folder, flake, uploads, blobs, err);
    }
    r = take_module(folder, module, uploads, digest, err);
    if (r == 0) {
        json_object_set_new(blobs, module, json_string(digest));
    }
    return r;
}

/* The node says what is wrong with a text that cannot be read. */
static int take_modules(const char *folder, const struct buffer *text, bool uploads, json_t *blobs,
                        struct error *err)
{
    JSON_OWNED json_t *documents = NULL;
    JSON_OWNED json_t *lines = NULL;
    struct error ignored = {0};
    size_t index = 0;
    json_t *document = NULL;
    int r = 0;
    if (yaml_read_all((const char *)text->data, text->used, &documents, &lines, &ignored) < 0) {
        return 0;
    }
    json_array_foreach(documents, index, document)
    {
        r = r < 0 ? r : take_parts(folder, document, uploads, blobs, err);
    }
    return r;
}

struct reading {
    json_t *documents;
    json_t *blobs;
    bool uploads;
};

static int read_one(struct reading *reading, const char *path, struct error *err)
{
    BUFFER_OWNED struct buffer text = {0};
    bool is_input = strcmp(path, "-") == 0;
    int r = file_read(is_input ? "/dev/stdin" : path, YAML_BYTES_MAX, &text, err);
    if (r < 0) {
        return r;
    }
    const char *slash = strrchr(path, '/');
    MEMORY_OWNED char *folder = slash != NULL
        ? memory_copy_text(path, slash == path ? 1 : (size_t)(slash - path))
        : memory_copy_string(".");
    json_t *document =
        json_pack("{s:s,s:s}", "file", is_input ? "stdin" : path, "text", buffer_string(&text));
    if (document == NULL) {
        return error_set(err, ERROR_INVALID, "%s is not UTF-8", path);
    }
    json_array_append_new(reading->documents, document);
    return take_modules(folder, &text, reading->uploads, reading->blobs, err);
}

static int is_document(const struct dirent *entry)
{
    return entry->d_name[0] != '.' &&
        (text_ends_with(entry->d_name, ".yaml") || text_ends_with(entry->d_name, ".yml") ||
         text_ends_with(entry->d_name, ".json"));
}

static int read_folder(struct reading *reading, const char *folder, struct error *err)
{
    struct dirent **entries = NULL;
    int r = 0;
    int count = scandir(folder, &entries, is_document, alphasort);
    if (count < 0) {
        return error_os(err, errno, "reading %s", folder);
    }
    if (count == 0) {
        r = error_set(err, ERROR_NOT_FOUND, "%s has no .yaml, .yml or .json", folder);
    }
    for (int i = 0; i < count; i++) {
        MEMORY_OWNED char *path = memory_format("%s/%s", folder, entries[i]->d_name);
        r = r < 0 ? r : read_one(reading, path, err);
        free(entries[i]);
    }
    free(entries);
    return r;
}

static int read_all(const struct arguments *arguments, struct reading *reading, struct error *err)
{
    for (unsigned i = 0; i < arguments->flag_count; i++) {
        struct stat status;
        const char *path = arguments->flags[i].value;
        if (strcmp(arguments->flags[i].name, "file") != 0) {
            continue;
        }
        int r = stat(path, &status) == 0 && S_ISDIR(status.st_mode)
            ? read_folder(reading, path, err)
            : read_one(reading, path, err);
        if (r < 0) {
            return r;
        }
    }
    return json_array_size(reading->documents) > 0
        ? 0
        : error_set(err, ERROR_INVALID, "-f FILE, a folder, or - for standard input is needed");
}

/* ---- What is asked for ---- */

static int take_selector(const struct arguments *arguments, json_t *labels, struct error *err)
{
    for (unsigned i = 0; i < arguments->flag_count; i++) {
        const char *text = arguments->flags[i].value;
        if (strcmp(arguments->flags[i].name, "selector") != 0) {
            continue;
        }
        const char *equals = strchr(text, '=');
        if (equals == NULL || equals == text) {
            return error_set(err, ERROR_INVALID, "-l %.80s: expected NAME=VALUE", text);
        }
        MEMORY_OWNED char *name = memory_copy_text(text, (size_t)(equals - text));
        json_object_set_new(labels, name, json_string(equals + 1));
    }
    return 0;
}

static void take_switch(const struct arguments *arguments, const char *flag, const char *field,
                        json_t *body)
{
    if (flag_value(arguments, flag) != NULL) {
        json_object_set_new(body, field, json_true());
    }
}

static int take_numbers(const struct arguments *arguments, json_t *body, struct error *err)
{
    const char *timeout = flag_value(arguments, "timeout");
    const char *index = flag_value(arguments, "if-index");
    uint64_t value = 0;
    if (timeout != NULL && (!text_parse_duration_ms(timeout, &value) || value == 0)) {
        return error_set(err, ERROR_INVALID, "--timeout %.40s is no time, for example 5m", timeout);
    }
    if (timeout != NULL) {
        json_object_set_new(body, "timeout_ms", json_integer((json_int_t)value));
    }
    if (index != NULL && !text_parse_u64(text_of(index, strlen(index)), &value)) {
        return error_set(err, ERROR_INVALID, "--if-index %.40s is no index", index);
    }
    if (index != NULL) {
        json_object_set_new(body, "if_index", json_integer((json_int_t)value));
    }
    return 0;
}

static int make_body(const struct arguments *arguments, bool uploads, json_t **ret_body,
                     struct error *err)
{
    static const char *const texts[] = {"owner", "wait", "plan"};
    JSON_OWNED json_t *body = json_object();
    JSON_OWNED json_t *labels = json_object();
    struct reading reading = {json_array(), json_object(), uploads};
    json_object_set_new(body, "documents", reading.documents);
    json_object_set_new(body, "blobs", reading.blobs);
    json_object_set(body, "labels", labels);
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        const char *value = flag_value(arguments, texts[i]);
        if (value != NULL) {
            json_object_set_new(body, texts[i], json_string(value));
        }
    }
    take_switch(arguments, "prune", "prune", body);
    take_switch(arguments, "force-conflicts", "force_conflicts", body);
    take_switch(arguments, "replace", "replace", body);
    take_switch(arguments, "delete", "delete", body);
    int r = take_selector(arguments, labels, err);
    r = r < 0 ? r : take_numbers(arguments, body, err);
    r = r < 0 ? r : read_all(arguments, &reading, err);
    if (r == 0) {
        *ret_body = json_incref(body);
    }
    return r;
}

/* ---- Showing a plan ---- */

struct paint {
    const char *sign;
    const char *colour;
    const char *words;
};

static struct paint paint_of(const char *action)
{
    static const struct {
        const char *action;
        struct paint paint;
    } paints[] = {
        {"create", {"+", "\033[32m", ""}},
        {"update", {"~", "\033[33m", ""}},
        {"replace", {"-/+", "\033[31m", "  must be deleted and made anew"}},
        {"delete", {"-", "\033[31m", ""}},
        {"missing", {"!", "\033[31m", "  is not there, and cannot be made from a manifest"}},
    };
    for (size_t i = 0; i < sizeof(paints) / sizeof(paints[0]); i++) {
        if (strcmp(paints[i].action, action) == 0) {
            return paints[i].paint;
        }
    }
    return (struct paint){" ", "", ""};
}

static bool is_coloured(void)
{
    const char *none = getenv("NO_COLOR");
    return isatty(STDOUT_FILENO) == 1 && (none == NULL || none[0] == '\0');
}

static void print_printable(const char *text)
{
    enum { SHOWN_MAX = 400 };
    MEMORY_OWNED char *shown = memory_copy_text(text, strnlen(text, SHOWN_MAX));
    printf("%s%s", text_make_printable(shown, false), strlen(text) > SHOWN_MAX ? "..." : "");
}

static void print_change(const json_t *change, bool colours)
{
    const char *before = json_string_value(json_object_get(change, "before"));
    const char *after = json_string_value(json_object_get(change, "after"));
    const char *effect = json_text(change, "effect");
    const char *sign = before == NULL ? "+" : after == NULL ? "-" : "~";
    const char *colour = before == NULL ? "\033[32m" : after == NULL ? "\033[31m" : "\033[33m";
    printf("      %s%s%s ", colours ? colour : "", sign, colours ? "\033[0m" : "");
    print_printable(json_text(change, "path"));
    printf(": ");
    print_printable(before != NULL ? before : after != NULL ? after : "null");
    if (before != NULL) {
        printf(" -> ");
        print_printable(after != NULL ? after : "its default");
    }
    printf("%s\n",
           strcmp(effect, "restart") == 0       ? "   (from its next start on)"
               : strcmp(effect, "replace") == 0 ? "   (needs a replacement)"
                                                : "");
}

static void print_conflict(const json_t *conflict, bool colours)
{
    printf("      %s!%s ", colours ? "\033[31m" : "", colours ? "\033[0m" : "");
    print_printable(json_text(conflict, "path"));
    printf(": owner %s wants ", json_text(conflict, "owner"));
    print_printable(json_text(conflict, "value"));
    printf(" (--force-conflicts takes it over)\n");
}

static bool is_changed(const json_t *action, const char *path)
{
    size_t index = 0;
    json_t *change = NULL;
    json_array_foreach(json_object_get(action, "changes"), index, change)
    {
        if (strcmp(json_text(change, "path"), path) == 0) {
            return true;
        }
    }
    return false;
}

/* What this owner's documents say no more: it is another's, or nothing that goes back by itself. */
static void print_released(const json_t *action)
{
    size_t index = 0;
    json_t *path = NULL;
    json_array_foreach(json_object_get(action, "released"), index, path)
    {
        if (!is_changed(action, json_string_value(path))) {
            printf("      . ");
            print_printable(json_string_value(path));
            printf(" is not this owner's any more, and stays\n");
        }
    }
}

/* Where it would be, and what rules the others out. */
static void print_placement(const json_t *placement)
{
    enum { REFUSED_SHOWN = 4 };
    size_t index = 0;
    size_t refused = 0;
    json_t *node = NULL;
    if (placement == NULL) {
        return;
    }
    bool fits = json_is_true(json_object_get(placement, "fits"));
    bool is_known = json_is_true(json_object_get(placement, "is_known"));
    printf("      @ %s",
           !is_known  ? "its place cannot be told yet"
               : fits ? "on "
                      : "fits nowhere");
    print_printable(fits ? json_text(placement, "node") : "");
    printf(": ");
    print_printable(json_text(placement, "reason"));
    putchar('\n');
    json_array_foreach(json_object_get(placement, "nodes"), index, node)
    {
        bool is_shown = !json_is_true(json_object_get(node, "fits"));
        refused += is_shown;
        if (is_shown && refused <= REFUSED_SHOWN) {
            printf("        not on %s: ", json_text(node, "name"));
            print_printable(json_text(node, "reason"));
            putchar('\n');
        }
    }
    if (refused > REFUSED_SHOWN) {
        printf("        nor on %zu other%s (--output json says why)\n", refused - REFUSED_SHOWN,
               refused - REFUSED_SHOWN == 1 ? "" : "s");
    }
}

static void print_action(const json_t *action, bool colours)
{
    struct paint paint = paint_of(json_text(action, "action"));
    const json_t *conflicts = json_object_get(action, "conflicts");
    const json_t *lacks = json_object_get(action, "lacks");
    size_t index = 0;
    json_t *item = NULL;
    if (strcmp(json_text(action, "action"), "none") == 0 && json_array_size(conflicts) == 0 &&
        json_array_size(json_object_get(action, "released")) == 0 && json_array_size(lacks) == 0) {
        return;
    }
    printf("%s%3s %s ", colours ? paint.colour : "", paint.sign, json_text(action, "kind"));
    print_printable(json_text(action, "name"));
    printf("%s%s   (", paint.words, colours && paint.colour[0] != '\0' ? "\033[0m" : "");
    print_printable(json_text(action, "place"));
    printf(")\n");
    json_array_foreach(json_object_get(action, "changes"), index, item)
    {
        print_change(item, colours);
    }
    json_array_foreach(conflicts, index, item)
    {
        print_conflict(item, colours);
    }
    json_array_foreach(lacks, index, item)
    {
        printf("      %s!%s ", colours ? "\033[31m" : "", colours ? "\033[0m" : "");
        print_printable(json_string_value(item));
        putchar('\n');
    }
    print_released(action);
    print_placement(json_object_get(action, "placement"));
}

static void print_plan(const json_t *plan)
{
    bool colours = is_coloured();
    size_t index = 0;
    json_t *action = NULL;
    json_array_foreach(json_object_get(plan, "actions"), index, action)
    {
        print_action(action, colours);
    }
    if (json_u64(plan, "changes") == 0) {
        uint64_t same = json_u64(plan, "unchanged");
        printf("No changes: %" PRIu64 " object%s to be.\n", same,
               same == 1 ? " is as it is" : "s are as they are");
        return;
    }
    printf("Plan %s at index %" PRIu64 ": %" PRIu64 " to create, %" PRIu64 " to update, %" PRIu64
           " to replace, %" PRIu64 " to delete, %" PRIu64 " unchanged.\n",
           json_text(plan, "plan"), json_u64(plan, "index"), json_u64(plan, "create"),
           json_u64(plan, "update"), json_u64(plan, "replace"), json_u64(plan, "delete"),
           json_u64(plan, "unchanged"));
}

/* ---- plan ---- */

static int plan(const struct arguments *arguments, json_t **ret_plan, struct error *err)
{
    JSON_OWNED json_t *body = NULL;
    int r = make_body(arguments, false, &body, err);
    return r < 0 ? r : request_send("POST", "/v1/plan", body, ret_plan, err);
}

/* The exit codes are for scripts, which tell "would change" from "cannot be told". */
int verb_plan(const struct arguments *arguments, struct error *err)
{
    JSON_OWNED json_t *document = NULL;
    enum output output = OUTPUT_TABLE;
    int r = output_of(arguments, &output, err);
    r = r < 0 ? r : plan(arguments, &document, err);
    if (r < 0) {
        print_flush();
        fprintf(stderr, "blixard: %s\n", text_make_printable(err->text, true));
        _exit(EXIT_TROUBLE);
    }
    if (output == OUTPUT_TABLE) {
        print_plan(document);
    } else {
        print_document(document, output);
    }
    if (json_u64(document, "changes") > 0) {
        _exit(print_flush() == 0 ? EXIT_CHANGES : EXIT_TROUBLE);
    }
    return 0;
}

/* ---- apply, delete ---- */

static void print_end(const json_t *operation)
{
    const json_t *result = json_object_get(operation, "result");
    size_t index = 0;
    json_t *note = NULL;
    json_array_foreach(json_object_get(result, "notes"), index, note)
    {
        printf("Note: ");
        print_printable(json_string_value(note));
        putchar('\n');
    }
    printf("Done: %" PRIu64 " changed.\n", json_u64(result, "changed"));
}

static int finish(const struct arguments *arguments, const json_t *plan, const char *id,
                  enum output output, struct error *err)
{
    JSON_OWNED json_t *operation = NULL;
    if (flag_value(arguments, "no-wait") != NULL) {
        JSON_OWNED json_t *document = json_pack("{s:s,s:O}", "operation", id, "plan", plan);
        return print_done(arguments, document, err, "%s", id);
    }
    print_flush();
    int r = operation_wait_for(id, &operation, err);
    if (output != OUTPUT_TABLE && operation != NULL) {
        JSON_OWNED json_t *document = json_pack("{s:O,s:O}", "operation", operation, "plan", plan);
        print_document(document, output);
    } else if (r == 0) {
        print_end(operation);
    }
    return r;
}

/* What was shown is what is done, or nothing. */
static int apply(const struct arguments *arguments, bool deletes, struct error *err)
{
    JSON_OWNED json_t *body = NULL;
    JSON_OWNED json_t *plan = NULL;
    JSON_OWNED json_t *begun = NULL;
    enum output output = OUTPUT_TABLE;
    int r = output_of(arguments, &output, err);
    r = r < 0 ? r : make_body(arguments, true, &body, err);
    if (r < 0) {
        return r;
    }
    if (deletes) {
        json_object_set_new(body, "delete", json_true());
    }
    r = request_send("POST", "/v1/plan", body, &plan, err);
    if (r == 0 && output == OUTPUT_TABLE && flag_value(arguments, "no-wait") == NULL) {
        print_plan(plan);
    }
    if (r == 0 && json_object_get(body, "plan") == NULL) {
        json_object_set(body, "plan", json_object_get(plan, "plan"));
    }
    r = r < 0 ? r : request_send("POST", "/v1/apply", body, &begun, err);
    return r < 0 ? r : finish(arguments, plan, json_text(begun, "operation"), output, err);
}

int verb_apply(const struct arguments *arguments, struct error *err)
{
    return apply(arguments, false, err);
}

int verb_delete(const struct arguments *arguments, struct error *err)
{
    return apply(arguments, true, err);
}

/* ---- export ---- */

int verb_export(const struct arguments *arguments, struct error *err)
{
    BUFFER_OWNED struct buffer target = {0};
    JSON_OWNED json_t *document = NULL;
    enum output output = OUTPUT_TABLE;
    size_t index = 0;
    json_t *manifest = NULL;
    static const char *const keys[] = {"kind", "name"};
    buffer_append_string(&target, "/v1/manifests");
    for (unsigned i = 0; i < arguments->word_count; i++) {
        request_add_query(&target, keys[i], arguments->words[i]);
    }
    int r = output_of(arguments, &output, err);
    r = r < 0 ? r : request_json("GET", buffer_string(&target), NULL, &document, err);
    if (r < 0) {
        return r;
    }
    if (output == OUTPUT_JSON) {
        print_document(json_object_get(document, "manifests"), output);
        return 0;
    }
    json_array_foreach(json_object_get(document, "manifests"), index, manifest)
    {
        printf("---\n");
        print_document(manifest, OUTPUT_YAML);
    }
    return 0;
}
