/* Calling what a module exports, once or by a script. */
#include "surface/cli/run_invoke.h"

#include <ctype.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/error.h"
#include "base/json.h"
#include "base/memory.h"

#include "engine/vmm/hostcall.h"
#include "engine/vmm/vmm.h"

#include "surface/cli/private.h"
#include "surface/cli/run_value.h"

enum { LINE_WORDS_MAX = WASM_VALUES_MAX + 4, QUESTION_HEAD = 12 };

/* ---- What to call ---- */

struct line {
    struct buffer words[LINE_WORDS_MAX];
    unsigned count;
};

static void line_done(struct line *line)
{
    for (unsigned i = 0; i < line->count; i++) {
        buffer_done(&line->words[i]);
    }
    free(line);
}

static int digit_of(char c)
{
    return isdigit((unsigned char)c) ? c - '0' : tolower((unsigned char)c) - 'a' + 10;
}

/* Behind the opening quote; NULL: no closing one, or an unknown escape. */
static const char *read_quoted(const char *at, struct buffer *word)
{
    for (; *at != '"' && *at != '\0'; at++) {
        char c = *at;
        if (c == '\\' && (at[1] == '"' || at[1] == '\\')) {
            c = *++at;
        } else if (c == '\\' && isxdigit((unsigned char)at[1]) && isxdigit((unsigned char)at[2])) {
            c = (char)(digit_of(at[1]) << 4 | digit_of(at[2]));
            at += 2;
        } else if (c == '\\') {
            return NULL;
        }
        buffer_append(word, &c, 1);
    }
    return *at == '"' ? at + 1 : NULL;
}

static int read_words(const char *at, struct line *line, struct error *err)
{
    for (at += strspn(at, " \t\r\n"); *at != '\0' && *at != '#'; at += strspn(at, " \t\r\n")) {
        if (line->count == LINE_WORDS_MAX) {
            return error_set(err, ERROR_LIMIT, "more than %d words", LINE_WORDS_MAX);
        }
        struct buffer *word = &line->words[line->count++];
        if (*at == '"') {
            at = read_quoted(at + 1, word);
            if (at == NULL) {
                return error_set(err, ERROR_INVALID,
                                 "a quote without its end, or a \\ without two hex digits");
            }
        } else {
            size_t length = strcspn(at, " \t\r\n");
            buffer_append(word, at, length);
            at += length;
        }
    }
    return 0;
}

/* Exports are numbered through all modules. */
static uint64_t number_of(const struct run_modules *modules, size_t module,
                          const struct wasm_export *export)
{
    uint64_t number = (uint64_t)(export - modules->exports[module].items);
    for (size_t i = 0; i < module; i++) {
        number += modules->exports[i].count;
    }
    return number;
}

/* Behind the exports: its instantiation. */
static uint64_t number_of_module(const struct run_modules *modules, size_t module)
{
    uint64_t number = module;
    for (size_t i = 0; i < modules->count; i++) {
        number += modules->exports[i].count;
    }
    return number;
}

/* What a reactor wants called before anything else; NULL: the module is none. */
static const struct wasm_export *find_initialize(const struct run_modules *modules, size_t module)
{
    static const char name[] = "_initialize";
    const struct wasm_exports *exports = &modules->exports[module];
    for (size_t i = 0; i < exports->count; i++) {
        const struct wasm_export *export = &exports->items[i];
        if (export->kind == WASM_EXPORT_FUNCTION && strcmp(export->name, name) == 0 &&
            export->parameters[0] == '\0' && export->results[0] == '\0') {
            return export;
        }
    }
    return NULL;
}

static int find_module(const struct run_invoke *invoke, const char *name, size_t *ret_module,
                       struct error *err)
{
    for (size_t i = 0; i + 1 < invoke->modules->count; i++) {
        if (strcmp(invoke->modules->names[i], name) == 0) {
            *ret_module = i;
            return 0;
        }
    }
    return error_set(err, ERROR_NOT_FOUND, "no --preload is called \"%.60s\"", name);
}

static const struct wasm_export *find(const struct wasm_exports *exports, const char *name,
                                      size_t length, enum wasm_export_kind kind)
{
    for (size_t i = 0; i < exports->count; i++) {
        const struct wasm_export *export = &exports->items[i];
        if (export->kind == kind && export->name_length == length &&
            memcmp(export->name, name, length) == 0) {
            return export;
        }
    }
    return NULL;
}

static int no_such_export(const struct wasm_exports *exports, const char *name,
                          enum wasm_export_kind kind, struct error *err)
{
    BUFFER_OWNED struct buffer names = {0};
    for (size_t i = 0; i < exports->count && names.used < 200; i++) {
        if (exports->items[i].kind == kind) {
            buffer_append_format(&names, "%s%s", names.used > 0 ? ", " : "",
                                 exports->items[i].name);
        }
    }
    const char *what = kind == WASM_EXPORT_FUNCTION ? "function" : "global";
    return names.used > 0
        ? error_set(err, ERROR_NOT_FOUND, "the module exports no %s \"%.60s\"; it exports %.200s",
                    what, name, buffer_string(&names))
        : error_set(err, ERROR_NOT_FOUND, "the module exports no %s at all", what);
}

/* A call: words in quotes may hold NULs, so the name has a length. */
struct wanted {
    size_t module;
    enum wasm_export_kind kind;
    const char *name;
    size_t name_length;
    const char *const *values;
    unsigned value_count;
};

/* Append the call to `reply`: u64 which, u64 arguments. */
static int encode(const struct run_invoke *invoke, const struct wanted *wanted,
                  struct buffer *reply, const struct wasm_export **ret_export, struct error *err)
{
    const struct wasm_exports *exports = &invoke->modules->exports[wanted->module];
    const struct wasm_export *export =
        find(exports, wanted->name, wanted->name_length, wanted->kind);
    if (export == NULL) {
        return no_such_export(exports, wanted->name, wanted->kind, err);
    }
    size_t count = strlen(export->parameters);
    uint64_t which = number_of(invoke->modules, wanted->module, export);
    if (wanted->value_count != count) {
        return error_set(err, ERROR_INVALID, "%.60s takes %zu argument%s, not %u", export->name,
                         count, count == 1 ? "" : "s", wanted->value_count);
    }
    buffer_append(reply, &which, sizeof(which));
    for (unsigned i = 0; i < count; i++) {
        uint64_t value = 0;
        int r = run_value_parse(export->parameters[i], wanted->values[i], &value, err);
        if (r < 0) {
            return r;
        }
        buffer_append(reply, &value, sizeof(value));
    }
    *ret_export = export;
    return 0;
}

static int encode_words(const struct run_invoke *invoke, struct buffer *reply,
                        const struct wasm_export **ret_export, struct error *err)
{
    const struct wanted wanted = {.module = invoke->modules->count - 1,
                                  .kind = WASM_EXPORT_FUNCTION,
                                  .name = invoke->words[0],
                                  .name_length = strlen(invoke->words[0]),
                                  .values = invoke->words + 1,
                                  .value_count = invoke->word_count - 1};
    return encode(invoke, &wanted, reply, ret_export, err);
}

int run_invoke_check(const struct run_invoke *invoke, struct error *err)
{
    BUFFER_OWNED struct buffer ignored = {0};
    const struct wasm_export *export = NULL;
    return invoke->script != NULL ? 0 : encode_words(invoke, &ignored, &export, err);
}

/* A module that lines instantiate: NULL, or why nothing of it can be called. */
static const char *why_not(const struct run_invoke *invoke, size_t module)
{
    if (invoke->is_dead[module]) {
        return "its instantiation has trapped";
    }
    return invoke->is_stepwise && module >= invoke->instantiated ? "it is not instantiated yet"
                                                                 : NULL;
}

static int encode_instantiation(struct run_invoke *invoke, size_t module, struct error *err)
{
    if (invoke->line_count == 0) {
        invoke->is_stepwise = true;
    } else if (!invoke->is_stepwise) {
        return error_set(err, ERROR_INVALID,
                         "all were instantiated before the first line, which was another one");
    }
    if (module < invoke->instantiated) {
        return error_set(err, ERROR_INVALID, "it was instantiated before");
    }
    invoke->wanted = module + 1;
    invoke->is_asked = true;
    return 0;
}

static int encode_line(struct run_invoke *invoke, struct line *line, struct error *err)
{
    const char *values[LINE_WORDS_MAX];
    struct wanted wanted = {.module = invoke->modules->count - 1, .values = values};
    unsigned at = 0;
    if (line->count > 2 && strcmp(buffer_string(&line->words[0]), "in") == 0) {
        int r = find_module(invoke, buffer_string(&line->words[1]), &wanted.module, err);
        if (r < 0) {
            return r;
        }
        at = 2;
    }
    const char *verb = buffer_string(&line->words[at++]);
    if (strcmp(verb, "instantiate") == 0 && line->count == at) {
        return encode_instantiation(invoke, wanted.module, err);
    }
    bool is_get = strcmp(verb, "get") == 0;
    if (!is_get && strcmp(verb, "invoke") != 0) {
        return error_set(err, ERROR_INVALID, "\"%.40s\" is neither invoke nor get", verb);
    }
    if (line->count == at) {
        return error_set(err, ERROR_INVALID, "%s needs the name of an export", verb);
    }
    const char *reason = why_not(invoke, wanted.module);
    if (reason != NULL) {
        return error_set(err, ERROR_INVALID, "of this module nothing can be called: %s", reason);
    }
    wanted.kind = is_get ? WASM_EXPORT_GLOBAL : WASM_EXPORT_FUNCTION;
    wanted.name = buffer_string(&line->words[at]);
    wanted.name_length = line->words[at++].used;
    for (; at < line->count; at++) {
        values[wanted.value_count++] = buffer_string(&line->words[at]);
    }
    invoke->wanted = invoke->is_stepwise ? invoke->wanted : invoke->modules->count;
    return encode(invoke, &wanted, &invoke->call, &invoke->running, err);
}

/* ---- How it ended ---- */

static void print_json(const struct run_invoke *invoke, const char *member, json_t *owned_value)
{
    JSON_OWNED json_t *document = json_object();
    if (invoke->script != NULL) {
        json_object_set_new(document, "line", json_integer((json_int_t)invoke->line));
    }
    json_object_set_new(document, member, owned_value);
    json_dumpf(document, stdout, JSON_COMPACT);
    fputc('\n', stdout);
}

static void print_text(const struct run_invoke *invoke, const char *how, const char *text)
{
    if (invoke->is_json) {
        print_json(invoke, how, json_string(text));
    } else {
        printf("%s %s\n", how, text);
    }
}

static void print_results(const struct run_invoke *invoke, const uint64_t *values)
{
    const char *letters = invoke->running->results;
    json_t *list = json_array();
    bool is_script = invoke->script != NULL;
    if (is_script && !invoke->is_json) {
        fputs("ok", stdout);
    }
    for (size_t i = 0; letters[i] != '\0'; i++) {
        BUFFER_OWNED struct buffer text = {0};
        run_value_print(letters[i], values[i], &text);
        const char *type = run_value_type(letters[i]);
        json_array_append_new(list,
                              json_pack("{s:s, s:s}", "type", type, "value", buffer_string(&text)));
        if (!invoke->is_json) {
            printf("%s%s:%s%s", is_script ? " " : "", type, buffer_string(&text),
                   is_script ? "" : "\n");
        }
    }
    if (is_script && !invoke->is_json) {
        fputc('\n', stdout);
    }
    if (invoke->is_json) {
        print_json(invoke, "results", json_incref(list));
    }
    json_decref(list);
}

static void print_instantiated(struct run_invoke *invoke)
{
    if (invoke->is_json) {
        print_json(invoke, "results", json_array());
    } else {
        puts("ok");
    }
    fflush(stdout);
}

/* The question's part, checked: false when it is none. */
static bool read_question(const void *request, size_t length, struct hostcall_ended *ret_ended,
                          uint64_t results[WASM_VALUES_MAX])
{
    uint32_t head[3];
    if (length < QUESTION_HEAD + sizeof(*ret_ended)) {
        return false;
    }
    memcpy(head, request, sizeof(head));
    size_t bytes = length - QUESTION_HEAD - sizeof(*ret_ended);
    if (head[1] != 1 || head[2] != length - QUESTION_HEAD ||
        bytes > WASM_VALUES_MAX * sizeof(uint64_t)) {
        return false;
    }
    const uint8_t *at = (const uint8_t *)request + QUESTION_HEAD;
    memcpy(ret_ended, at, sizeof(*ret_ended));
    memset(results, 0, WASM_VALUES_MAX * sizeof(uint64_t));
    memcpy(results, at + sizeof(*ret_ended), bytes);
    return true;
}

/* The module is left as it is.  A line that asked for it is answered; else that was all. */
static void tell_dead(struct run_invoke *invoke, const char *trap)
{
    invoke->is_dead[invoke->instantiated++] = true;
    invoke->wanted = invoke->instantiated;
    if (invoke->is_asked) {
        invoke->is_asked = false;
        print_text(invoke, "trap", trap);
        return;
    }
    invoke->is_over = true;
    if (strcmp(trap, "incompatible import type") == 0) {
        invoke->result = error_set(invoke->err, ERROR_INVALID,
                                   "a memory or table that the module imports is smaller than it "
                                   "wants; a script can let it grow before (instantiate)");
        return;
    }
    invoke->result =
        error_set(invoke->err, ERROR_TRAP, "trap: %s, while the module was instantiated", trap);
}

static void tell(struct run_invoke *invoke, const struct hostcall_ended *ended,
                 const uint64_t *results)
{
    const char *trap = vmm_trap_text(ended->trap);
    bool is_good = ended->how == HOSTCALL_RETURNED;
    if (invoke->step == RUN_CALL && is_good) {
        print_results(invoke, results);
    } else if (invoke->step == RUN_CALL && invoke->script != NULL) {
        print_text(invoke, "trap", trap);
    } else if (invoke->step == RUN_CALL) {
        invoke->result = error_set(invoke->err, ERROR_TRAP, "trap: %s", trap);
    } else if (invoke->step != RUN_NOTHING && !is_good) {
        tell_dead(invoke, trap);
        invoke->step = RUN_NOTHING;
    }
    fflush(stdout);
}

/* ---- Answering ---- */

static void take_line(struct run_invoke *invoke, const char *text)
{
    struct error err = {0};
    struct line *line = NEW(struct line);
    int r = read_words(text, line, &err);
    bool is_empty = r == 0 && line->count == 0;
    r = r == 0 && !is_empty ? encode_line(invoke, line, &err) : r;
    invoke->line_count += !is_empty;
    if (r < 0) {
        invoke->call.used = 0;
        print_text(invoke, "error", err.text);
        fflush(stdout);
    }
    line_done(line);
}

static bool has_to_do(const struct run_invoke *invoke)
{
    return invoke->call.used > 0 || invoke->instantiated < invoke->wanted;
}

/* The next line that can be carried out; at their end what is not instantiated yet, so that its
 * failure is told.  False: that is all. */
static bool next_line(struct run_invoke *invoke)
{
    char *text = NULL;
    size_t size = 0;
    while (!has_to_do(invoke) && getline(&text, &size, invoke->script) >= 0) {
        invoke->line++;
        take_line(invoke, text);
    }
    free(text);
    if (!has_to_do(invoke) && !invoke->is_stepwise) {
        invoke->wanted = invoke->modules->count;
    }
    return has_to_do(invoke);
}

static bool next_wanted(struct run_invoke *invoke)
{
    if (invoke->script != NULL) {
        return next_line(invoke);
    }
    if (invoke->was_called) {
        return false;
    }
    invoke->was_called = true;
    invoke->wanted = invoke->modules->count;
    invoke->result = encode_words(invoke, &invoke->call, &invoke->running, invoke->err);
    return invoke->result == 0;
}

static void ask_for(struct run_invoke *invoke, enum run_step step, uint64_t which,
                    struct buffer *reply)
{
    invoke->step = step;
    buffer_append(reply, &which, sizeof(which));
}

/* Instantiate the next module that has to be, or call its `_initialize`; false: all are there. */
static bool next_instantiation(struct run_invoke *invoke, struct buffer *reply)
{
    const struct run_modules *modules = invoke->modules;
    if (invoke->step == RUN_INSTANTIATION) {
        const struct wasm_export *export = find_initialize(modules, invoke->instantiated);
        if (export != NULL) {
            ask_for(invoke, RUN_INITIALIZATION, number_of(modules, invoke->instantiated, export),
                    reply);
            return true;
        }
    }
    if (invoke->step == RUN_INSTANTIATION || invoke->step == RUN_INITIALIZATION) {
        invoke->instantiated++;
    }
    invoke->step = RUN_NOTHING;
    if (invoke->instantiated < invoke->wanted) {
        ask_for(invoke, RUN_INSTANTIATION, number_of_module(modules, invoke->instantiated), reply);
        return true;
    }
    if (invoke->is_asked) {
        invoke->is_asked = false;
        print_instantiated(invoke);
    }
    return false;
}

static bool next(struct run_invoke *invoke, struct buffer *reply)
{
    if (invoke->is_over) {
        return false;
    }
    do {
        if (next_instantiation(invoke, reply)) {
            return true;
        }
        if (invoke->call.used > 0) {
            invoke->step = RUN_CALL;
            buffer_append(reply, invoke->call.data, invoke->call.used);
            invoke->call.used = 0;
            return true;
        }
    } while (next_wanted(invoke));
    return false;
}

int run_invoke_answer(const void *request, size_t length, struct buffer *reply,
                      struct run_invoke *invoke)
{
    struct hostcall_ended ended;
    uint64_t results[WASM_VALUES_MAX];
    struct hostcall_reply head = {.number = HOSTCALL_NEXT_END};
    BUFFER_OWNED struct buffer call = {0};
    if (!read_question(request, length, &ended, results)) {
        return -1;
    }
    tell(invoke, &ended, results);
    if (next(invoke, &call)) {
        head.number = HOSTCALL_NEXT_CALL;
    }
    buffer_append(reply, &head, sizeof(head));
    if (head.number == HOSTCALL_NEXT_CALL) {
        buffer_append(reply, call.data, call.used);
    }
    return 0;
}
