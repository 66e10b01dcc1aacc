/*
 * JavaScript functions: QuickJS as a reactor.
 *
 * wizer.initialize makes the engine, runs what scripts find (Request, Response, console ...: the
 * other files here, in the order of parts[]) and loads the script, /main.js of the function's
 * assets, with the modules it imports; all of that is in the snapshot.  handle() answers one
 * request: it calls what the script exports and runs jobs and timers until the answer is written.
 *
 * Natives are few and small: whatever can be said in JavaScript is.  What the host can be asked is
 * the module "blixard": host.c, host.js.
 */
#include "engine.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "blixard.h"
#include "scripts.h" /* encoding_js[] ...: encoding.js ... as text */

#define MAIN "/main.js"

enum { SCRIPT_BYTES_MAX = 16 << 20, READ_BYTES_MAX = 1 << 16, STACK_BYTES = 384 << 10 };

static JSRuntime *runtime;
static JSContext *context;
static JSValue answer; /* of serve.js: what answers a request */

/* ---- Errors ---- */

static void log_value(enum blixard_level level, JSValueConst value)
{
    const char *text = JS_ToCString(context, value);
    blixard_log(level, text != NULL ? text : "an error that has no text");
    JS_FreeCString(context, text);
}

/* The error that was thrown, with where it was. */
static void log_error(JSValueConst error)
{
    log_value(BLIXARD_ERROR, error);
    if (JS_IsError(context, error)) {
        JSValue stack = JS_GetPropertyStr(context, error, "stack");
        const char *text = JS_IsUndefined(stack) ? NULL : JS_ToCString(context, stack);
        char *copy = text != NULL ? strdup(text) : NULL;
        for (char *line = copy != NULL ? strtok(copy, "\n") : NULL; line != NULL;
             line = strtok(NULL, "\n")) {
            blixard_log(BLIXARD_ERROR, line);
        }
        free(copy);
        JS_FreeCString(context, text);
        JS_FreeValue(context, stack);
    }
}

static void fail(void)
{
    JSValue error = JS_GetException(context);
    log_error(error);
    JS_FreeValue(context, error);
}

/* ---- Scripts ---- */

static char *read_script(const char *path, size_t *ret_length)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        return NULL;
    }
    char *text = NULL;
    size_t used = 0;
    for (size_t size = 1 << 16; size <= SCRIPT_BYTES_MAX; size *= 2) {
        char *larger = realloc(text, size + 1); /* a NUL behind it: the engine's parser wants one */
        if (larger == NULL) {
            break;
        }
        text = larger;
        used += fread(text + used, 1, size - used, file);
        if (used < size) {
            text[used] = '\0';
            *ret_length = used;
            fclose(file);
            return text;
        }
    }
    fclose(file);
    free(text);
    errno = EFBIG;
    return NULL;
}

static JSModuleDef *load_module(JSContext *js, const char *name, void *opaque)
{
    (void)opaque;
    size_t length = 0;
    if (strcmp(name, "blixard") == 0) {
        return load_host(js, name);
    }
    char *text = read_script(name, &length);
    if (text == NULL) {
        JS_ThrowReferenceError(js, "cannot load %s: %s", name, strerror(errno));
        return NULL;
    }
    size_t name_length = strlen(name);
    JSValue module = JS_UNDEFINED;
    if (name_length > 5 && strcmp(name + name_length - 5, ".json") == 0) {
        /* JSON is an expression but for __proto__, which JSON.parse() takes as a name. */
        JSValue value = JS_ParseJSON(js, text, length, name);
        JSValue again = JS_IsException(value)
            ? JS_EXCEPTION
            : JS_JSONStringify(js, value, JS_UNDEFINED, JS_UNDEFINED);
        JSValue quoted = JS_IsException(again)
            ? JS_EXCEPTION
            : JS_JSONStringify(js, again, JS_UNDEFINED, JS_UNDEFINED);
        const char *literal = JS_IsException(quoted) ? NULL : JS_ToCString(js, quoted);
        size_t size = literal != NULL ? strlen(literal) + 64 : 0;
        char *source = literal != NULL ? malloc(size) : NULL;
        if (source != NULL) {
            int wrote = snprintf(source, size, "export default JSON.parse(%s);", literal);
            module = JS_Eval(js, source, (size_t)wrote, name,
                             JS_EVAL_TYPE_MODULE | JS_EVAL_FLAG_COMPILE_ONLY);
        } else {
            module = JS_EXCEPTION;
        }
        free(source);
        JS_FreeCString(js, literal);
        JS_FreeValue(js, quoted);
        JS_FreeValue(js, again);
        JS_FreeValue(js, value);
    } else {
        module = JS_Eval(js, text, length, name, JS_EVAL_TYPE_MODULE | JS_EVAL_FLAG_COMPILE_ONLY);
    }
    free(text);
    if (JS_IsException(module)) {
        return NULL;
    }
    JSModuleDef *loaded = JS_VALUE_GET_PTR(module);
    JS_FreeValue(js, module);
    return loaded;
}

/* ---- Natives: what `native` has in scripts ---- */

static JSValue error_value(const char *what)
{
    return JS_ThrowInternalError(context, "%s failed", what);
}

static JSValue native_environment(JSContext *js, JSValueConst self, int count, JSValueConst *values)
{
    (void)self;
    (void)count;
    (void)values;
    JSValue all = JS_NewObject(js);
    blixard_read_environment_();
    for (__wasi_size_t i = 0; i < blixard_.variable_count; i++) {
        const char *variable = (const char *)blixard_.variables[i];
        const char *equals = strchr(variable, '=');
        if (equals != NULL) {
            JSAtom name = JS_NewAtomLen(js, variable, (size_t)(equals - variable));
            JS_DefinePropertyValue(js, all, name, JS_NewString(js, equals + 1), JS_PROP_C_W_E);
            JS_FreeAtom(js, name);
        }
    }
    return all;
}

/* Bytes of the request's body as an ArrayBuffer; null at its end. */
static JSValue native_read(JSContext *js, JSValueConst self, int count, JSValueConst *values)
{
    (void)self;
    (void)count;
    (void)values;
    static uint8_t bytes[READ_BYTES_MAX];
    int32_t got = blixard_request_read(bytes, sizeof(bytes));
    return got < 0 ? error_value("reading the request")
        : got == 0 ? JS_NULL
                   : JS_NewArrayBufferCopy(js, bytes, (size_t)got);
}

static JSValue native_status(JSContext *js, JSValueConst self, int count, JSValueConst *values)
{
    (void)self;
    int32_t status = 0;
    if (count < 1 || JS_ToInt32(js, &status, values[0]) < 0) {
        return JS_EXCEPTION;
    }
    return JS_NewBool(js, blixard_response_status(status) == 0);
}

static JSValue native_header(JSContext *js, JSValueConst self, int count, JSValueConst *values)
{
    (void)self;
    const char *name = count >= 2 ? JS_ToCString(js, values[0]) : NULL;
    const char *value = name != NULL ? JS_ToCString(js, values[1]) : NULL;
    bool is_sent = value != NULL && blixard_response_header(name, value) == 0;
    JS_FreeCString(js, name);
    JS_FreeCString(js, value);
    return value == NULL ? JS_EXCEPTION : JS_NewBool(js, is_sent);
}

/* A string in UTF-8.  Halves of pairs that stand alone are no characters: the engine writes three
 * bytes for each, and so has the replacement character (U+FFFD).  What is not ASCII is a copy of
 * its own. */
static const char *utf8_of(JSContext *js, size_t *ret_length, JSValueConst value)
{
    const char *text = JS_ToCStringLen(js, ret_length, value);
    const char *end = text != NULL ? text + *ret_length : NULL;
    for (const char *at = text; at != NULL && (at = memchr(at, 0xed, (size_t)(end - at))) != NULL;
         at++) {
        if (end - at >= 3 && (uint8_t)at[1] >= 0xa0) {
            memcpy((char *)(uintptr_t)at, "\xef\xbf\xbd", 3);
        }
    }
    return text;
}

bool bytes_of(JSContext *js, JSValueConst value, const uint8_t **ret_bytes, size_t *ret_length,
              const char **ret_text)
{
    *ret_text = NULL;
    if (JS_IsString(value)) {
        *ret_text = utf8_of(js, ret_length, value);
        *ret_bytes = (const uint8_t *)*ret_text;
        return *ret_text != NULL;
    }
    size_t offset = 0;
    size_t length = 0;
    JSValue whole = JS_GetTypedArrayBuffer(js, value, &offset, &length, NULL);
    if (!JS_IsException(whole)) {
        size_t size = 0;
        uint8_t *bytes = JS_GetArrayBuffer(js, &size, whole);
        JS_FreeValue(js, whole);
        *ret_bytes = bytes != NULL ? bytes + offset : NULL;
        *ret_length = length;
        return bytes != NULL || length == 0;
    }
    JS_FreeValue(js, JS_GetException(js));
    *ret_bytes = JS_GetArrayBuffer(js, ret_length, value);
    return *ret_bytes != NULL;
}

static JSValue native_write(JSContext *js, JSValueConst self, int count, JSValueConst *values)
{
    (void)self;
    const uint8_t *bytes = NULL;
    const char *text = NULL;
    size_t length = 0;
    if (count < 1 || !bytes_of(js, values[0], &bytes, &length, &text)) {
        return JS_EXCEPTION;
    }
    int32_t r = blixard_response_write(bytes, length);
    JS_FreeCString(js, text);
    return r < 0 ? error_value("writing the answer") : JS_UNDEFINED;
}

static JSValue native_log(JSContext *js, JSValueConst self, int count, JSValueConst *values)
{
    (void)self;
    int32_t level = 0;
    const char *text =
        count >= 2 && JS_ToInt32(js, &level, values[0]) == 0 ? JS_ToCString(js, values[1]) : NULL;
    if (text == NULL) {
        return JS_EXCEPTION;
    }
    blixard_log((enum blixard_level)level, text);
    JS_FreeCString(js, text);
    return JS_UNDEFINED;
}

/* UTF-8 bytes of a string, and the string of UTF-8 bytes. */
static JSValue native_encode(JSContext *js, JSValueConst self, int count, JSValueConst *values)
{
    (void)self;
    size_t length = 0;
    const char *text = count >= 1 ? utf8_of(js, &length, values[0]) : NULL;
    JSValue bytes =
        text != NULL ? JS_NewArrayBufferCopy(js, (const uint8_t *)text, length) : JS_EXCEPTION;
    JS_FreeCString(js, text);
    return bytes;
}

static JSValue native_decode(JSContext *js, JSValueConst self, int count, JSValueConst *values)
{
    (void)self;
    const uint8_t *bytes = NULL;
    const char *text = NULL;
    size_t length = 0;
    if (count < 1 || !bytes_of(js, values[0], &bytes, &length, &text)) {
        return JS_EXCEPTION;
    }
    JSValue string = JS_NewStringLen(js, (const char *)bytes, length);
    JS_FreeCString(js, text);
    return string;
}

/* Where in bytes, from a place on, a string is; -1: nowhere. */
static JSValue native_find(JSContext *js, JSValueConst self, int count, JSValueConst *values)
{
    (void)self;
    const uint8_t *bytes[2] = {NULL};
    const char *text[2] = {NULL};
    size_t length[2] = {0};
    int64_t from = 0;
    for (int i = 0; i < 2; i++) {
        if (count < 3 || !bytes_of(js, values[i], &bytes[i], &length[i], &text[i])) {
            JS_FreeCString(js, text[0]);
            return JS_EXCEPTION;
        }
    }
    JS_ToInt64(js, &from, values[2]);
    const uint8_t *found = from >= 0 && (uint64_t)from <= length[0]
        ? memmem(bytes[0] + from, length[0] - (size_t)from, bytes[1], length[1])
        : NULL;
    JSValue at = JS_NewInt64(js, found != NULL ? found - bytes[0] : -1);
    JS_FreeCString(js, text[0]);
    JS_FreeCString(js, text[1]);
    return at;
}

/* Fill a view of an ArrayBuffer. */
static JSValue native_random(JSContext *js, JSValueConst self, int count, JSValueConst *values)
{
    (void)self;
    const uint8_t *bytes = NULL;
    const char *text = NULL;
    size_t length = 0;
    if (count < 1 || JS_IsString(values[0]) || !bytes_of(js, values[0], &bytes, &length, &text)) {
        return JS_IsString(values[0]) ? error_value("filling a string") : JS_EXCEPTION;
    }
    return __wasi_random_get((uint8_t *)(uintptr_t)bytes, length) == 0 ? JS_UNDEFINED
                                                                       : error_value("random");
}

static JSValue native_now(JSContext *js, JSValueConst self, int count, JSValueConst *values)
{
    (void)self;
    (void)count;
    (void)values;
    struct timespec now = {0};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return JS_NewFloat64(js, (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6);
}

static JSValue native_sleep(JSContext *js, JSValueConst self, int count, JSValueConst *values)
{
    (void)self;
    double ms = 0;
    if (count < 1 || JS_ToFloat64(js, &ms, values[0]) < 0) {
        return JS_EXCEPTION;
    }
    if (ms > 0) {
        struct timespec left = {.tv_sec = (time_t)(ms / 1e3),
                                .tv_nsec = (long)((ms - (double)(time_t)(ms / 1e3) * 1e3) * 1e6)};
        nanosleep(&left, NULL);
    }
    return JS_UNDEFINED;
}

static const JSCFunctionListEntry natives[] = {
    JS_CFUNC_DEF("environment", 0, native_environment),
    JS_CFUNC_DEF("read", 0, native_read),
    JS_CFUNC_DEF("status", 1, native_status),
    JS_CFUNC_DEF("header", 2, native_header),
    JS_CFUNC_DEF("write", 1, native_write),
    JS_CFUNC_DEF("log", 2, native_log),
    JS_CFUNC_DEF("encode", 1, native_encode),
    JS_CFUNC_DEF("decode", 1, native_decode),
    JS_CFUNC_DEF("find", 3, native_find),
    JS_CFUNC_DEF("random", 1, native_random),
    JS_CFUNC_DEF("now", 0, native_now),
    JS_CFUNC_DEF("sleep", 1, native_sleep),
};

/* ---- Jobs ---- */

/* Promises that have something to do; false: one threw. */
static bool run_jobs(void)
{
    JSContext *of = NULL;
    int r = 1;
    while (r > 0) {
        r = JS_ExecutePendingJob(runtime, &of);
    }
    if (r < 0) {
        fail();
    }
    return r == 0;
}

/* ---- Before and during requests ---- */

/*
 * The exports of a module: this engine has no call for them, so the script is imported by a module
 * that gives them to serve.js.
 */
static const char entry[] = "import * as script from '" MAIN "';\nglobalThis.__take(script);\n";

/* What scripts find, each part a function of the natives and of what the parts before it give. */
static const struct {
    const char *name, *text;
    size_t length;
} parts[] = {
    {"encoding.js", encoding_js, sizeof(encoding_js) - 1},
    {"event.js", event_js, sizeof(event_js) - 1},
    {"console.js", console_js, sizeof(console_js) - 1},
    {"url.js", url_js, sizeof(url_js) - 1},
    {"stream.js", stream_js, sizeof(stream_js) - 1},
    {"form.js", form_js, sizeof(form_js) - 1},
    {"message.js", message_js, sizeof(message_js) - 1},
    {"fetch.js", fetch_js, sizeof(fetch_js) - 1},
    {"time.js", time_js, sizeof(time_js) - 1},
    {"serve.js", serve_js, sizeof(serve_js) - 1},
};

/* `answer` is what the last of them gives, or an exception. */
static void make_answer(void)
{
    JSValue arguments[] = {JS_NewObject(context), JS_NewObject(context)};
    JS_SetPropertyFunctionList(context, arguments[0], natives,
                               sizeof(natives) / sizeof(natives[0]));
    add_fetch(context, arguments[0]);
    answer = JS_UNDEFINED;
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]) && !JS_IsException(answer); i++) {
        JSValue made =
            JS_Eval(context, parts[i].text, parts[i].length, parts[i].name, JS_EVAL_TYPE_GLOBAL);
        JS_FreeValue(context, answer);
        answer = JS_IsException(made) ? JS_EXCEPTION
                                      : JS_Call(context, made, JS_UNDEFINED, 2, arguments);
        JS_FreeValue(context, made);
    }
    JS_FreeValue(context, arguments[0]);
    JS_FreeValue(context, arguments[1]);
}

__attribute__((export_name("wizer.initialize"))) void initialize(void)
{
    runtime = JS_NewRuntime();
    context = runtime != NULL ? JS_NewContext(runtime) : NULL;
    if (context == NULL) {
        blixard_log(BLIXARD_ERROR, "no memory for the JavaScript engine");
        abort();
    }
    JS_SetMaxStackSize(runtime, STACK_BYTES);
    JS_SetModuleLoaderFunc(runtime, NULL, load_module, NULL);
    make_answer();
    JSValue loaded = JS_IsException(answer)
        ? JS_EXCEPTION
        : JS_Eval(context, entry, sizeof(entry) - 1, "/", JS_EVAL_TYPE_MODULE);
    if (JS_IsException(loaded)) {
        fail();
        abort();
    }
    JS_FreeValue(context, loaded);
    if (!run_jobs()) {
        abort();
    }
    JS_RunGC(runtime); /* what the snapshot need not carry */
}

BLIXARD_HANDLER
{
    JSValue done = JS_Call(context, answer, JS_UNDEFINED, 0, NULL);
    if (JS_IsException(done)) {
        fail();
        exit(1);
    }
    JSValue step = JS_GetPropertyStr(context, done, "step");
    for (;;) {
        /* step(): true when the answer is written; else it slept until the next timer. */
        if (!run_jobs()) {
            exit(1);
        }
        JSValue is_over = JS_Call(context, step, done, 0, NULL);
        if (JS_IsException(is_over)) {
            fail();
            exit(1);
        }
        if (JS_ToBool(context, is_over)) {
            break;
        }
    }
    JS_FreeValue(context, step);
    JS_FreeValue(context, done);
}
