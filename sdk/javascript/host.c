/*
 * The module "blixard" of JavaScript functions: natives over the host API, which host.js dresses.
 *
 * A native gives what was answered, or, when the host refused, the negative number that it said;
 * host.js makes an error of that.  Exceptions are for arguments that are no bytes.
 */
#include <stdio.h>
#include <stdlib.h>

#include "blixard.h"
#include "engine.h"
#include "scripts.h" /* host_js[]: host.js as text */

enum { PARTS_MAX = 6, REPLY_BYTES = 16 << 10, PIECE_BYTES = 64 << 10 };

/* ---- Arguments: bytes, where nothing is none, and numbers ---- */

struct part {
    const uint8_t *bytes;
    size_t length;
    const char *text;
};

static void parts_done(JSContext *js, struct part *parts, int count)
{
    for (int i = 0; i < count; i++) {
        JS_FreeCString(js, parts[i].text);
    }
}

/* The first `wanted` arguments as bytes; false: an exception, and nothing is held. */
static bool take_parts(JSContext *js, int count, JSValueConst *values, struct part *parts,
                       int wanted)
{
    memset(parts, 0, (size_t)wanted * sizeof(*parts));
    for (int i = 0; i < wanted && i < count; i++) {
        if (JS_IsUndefined(values[i]) || JS_IsNull(values[i])) {
            continue;
        }
        if (!bytes_of(js, values[i], &parts[i].bytes, &parts[i].length, &parts[i].text)) {
            parts_done(js, parts, i);
            return false;
        }
    }
    return true;
}

/* A whole number from 0; whatever else is 0. */
static uint64_t number_at(JSContext *js, int count, JSValueConst *values, int i)
{
    int64_t number = 0;
    if (i >= count || JS_ToInt64(js, &number, values[i]) < 0) {
        return 0;
    }
    return number > 0 ? (uint64_t)number : 0;
}

/* ---- Answers ---- */

struct answer {
    uint8_t *bytes;
    int32_t length; /* or, negative, why not */
    uint8_t *longer;
};

static uint8_t reply[REPLY_BYTES];

/* All of an answer, of which the beginning is in `reply`. */
static struct answer whole(int32_t length)
{
    struct answer answer = {.bytes = reply, .length = length};
    if (length > REPLY_BYTES) {
        answer.longer = answer.bytes = malloc((size_t)length);
        if (answer.longer == NULL) {
            answer.length = -48; /* ENOMEM */
            return answer;
        }
        memcpy(answer.longer, reply, REPLY_BYTES);
        blixard_reply_read(REPLY_BYTES, answer.longer + REPLY_BYTES, (size_t)length - REPLY_BYTES);
    }
    return answer;
}

static JSValue as_bytes(JSContext *js, int32_t length)
{
    struct answer answer = whole(length);
    JSValue value = answer.length < 0
        ? JS_NewInt32(js, answer.length)
        : JS_NewArrayBufferCopy(js, answer.bytes, (size_t)answer.length);
    free(answer.longer);
    return value;
}

static JSValue as_text(JSContext *js, int32_t length)
{
    struct answer answer = whole(length);
    JSValue value = answer.length < 0
        ? JS_NewInt32(js, answer.length)
        : JS_NewStringLen(js, (const char *)answer.bytes, (size_t)answer.length);
    free(answer.longer);
    return value;
}

static JSValue as_number(JSContext *js, int32_t result, uint64_t number)
{
    return result < 0 ? JS_NewInt32(js, result) : JS_NewInt64(js, (int64_t)number);
}

static JSValue as_pair(JSContext *js, JSValue first, uint64_t second)
{
    JSValue pair = JS_NewArray(js);
    JS_SetPropertyUint32(js, pair, 0, first);
    JS_SetPropertyUint32(js, pair, 1, JS_NewInt64(js, (int64_t)second));
    return pair;
}

/* ---- Natives; each says its arguments ---- */

#define NATIVE(name)                                                                     \
    static JSValue host_##name(JSContext *js, JSValueConst self __attribute__((unused)), \
                               int count __attribute__((unused)),                        \
                               JSValueConst *values __attribute__((unused)))

/* A part as the imports take one: where it is, and how long. */
#define P(i) (const void *)parts[i].bytes, parts[i].length
#define T(i) (const char *)parts[i].bytes, parts[i].length

/* key: [value, revision] */
NATIVE(kv_get)
{
    struct part parts[1];
    uint64_t revision = 0;
    if (!take_parts(js, count, values, parts, 1)) {
        return JS_EXCEPTION;
    }
    int32_t length = blixard_v1_kv_get_(T(0), reply, sizeof(reply), &revision);
    parts_done(js, parts, 1);
    JSValue value = as_bytes(js, length);
    return length < 0 ? value : as_pair(js, value, revision);
}

/* key, value, time to live: the revision */
NATIVE(kv_set)
{
    struct part parts[2];
    uint64_t revision = 0;
    if (!take_parts(js, count, values, parts, 2)) {
        return JS_EXCEPTION;
    }
    int32_t r = blixard_v1_kv_set_(T(0), P(1), number_at(js, count, values, 2), &revision);
    parts_done(js, parts, 2);
    return as_number(js, r, revision);
}

/* key, value, time to live, revision that is expected: the new one */
NATIVE(kv_cas)
{
    struct part parts[2];
    uint64_t revision = 0;
    if (!take_parts(js, count, values, parts, 2)) {
        return JS_EXCEPTION;
    }
    int32_t r = blixard_v1_kv_cas_(T(0), P(1), number_at(js, count, values, 2),
                                   number_at(js, count, values, 3), &revision);
    parts_done(js, parts, 2);
    return as_number(js, r, revision);
}

/* key, revision that is expected: 0 */
NATIVE(kv_delete)
{
    struct part parts[1];
    if (!take_parts(js, count, values, parts, 1)) {
        return JS_EXCEPTION;
    }
    int32_t r = blixard_v1_kv_delete_(T(0), number_at(js, count, values, 1));
    parts_done(js, parts, 1);
    return JS_NewInt32(js, r);
}

/* prefix, after, most: an array of keys */
NATIVE(kv_list)
{
    struct part parts[2];
    if (!take_parts(js, count, values, parts, 2)) {
        return JS_EXCEPTION;
    }
    struct answer answer = whole(blixard_v1_kv_list_(
        T(0), T(1), (uint32_t)number_at(js, count, values, 2), reply, sizeof(reply)));
    parts_done(js, parts, 2);
    if (answer.length < 0) {
        return JS_NewInt32(js, answer.length);
    }
    JSValue keys = JS_NewArray(js);
    size_t position = 0;
    size_t length = 0;
    uint32_t at = 0;
    const char *key = NULL;
    while ((key = blixard_kv_next(answer.bytes, (size_t)answer.length, &position, &length)) !=
           NULL) {
        JS_SetPropertyUint32(js, keys, at++, JS_NewStringLen(js, key, length));
    }
    free(answer.longer);
    return keys;
}

/* name: the value */
NATIVE(secret_get)
{
    struct part parts[1];
    if (!take_parts(js, count, values, parts, 1)) {
        return JS_EXCEPTION;
    }
    int32_t length = blixard_v1_secret_get_(T(0), reply, sizeof(reply));
    parts_done(js, parts, 1);
    return as_bytes(js, length);
}

/* queue, body, content type, attributes, group, delay, priority: the id */
NATIVE(queue_send)
{
    struct part parts[5];
    if (!take_parts(js, count, values, parts, 5)) {
        return JS_EXCEPTION;
    }
    int32_t length =
        blixard_v1_queue_send_(T(0), P(1), T(2), T(3), T(4), number_at(js, count, values, 5),
                               (uint32_t)number_at(js, count, values, 6), reply, sizeof(reply));
    parts_done(js, parts, 5);
    return as_text(js, length);
}

/* stream, key, body, content type, attributes: [partition, sequence] */
NATIVE(stream_append)
{
    struct part parts[5];
    uint64_t sequence = 0;
    if (!take_parts(js, count, values, parts, 5)) {
        return JS_EXCEPTION;
    }
    int32_t r = blixard_v1_stream_append_(T(0), T(1), P(2), T(3), T(4), &sequence);
    parts_done(js, parts, 5);
    return r < 0 ? JS_NewInt32(js, r) : as_pair(js, JS_NewInt32(js, r), sequence);
}

/* function, method, path, fields, body, timeout: the response as it came */
NATIVE(invoke)
{
    struct part parts[5];
    if (!take_parts(js, count, values, parts, 5)) {
        return JS_EXCEPTION;
    }
    int32_t length =
        blixard_v1_invoke_(T(0), T(1), T(2), T(3), P(4), (uint32_t)number_at(js, count, values, 5),
                           reply, sizeof(reply));
    parts_done(js, parts, 5);
    return as_bytes(js, length);
}

/* name: the span */
NATIVE(span_begin)
{
    struct part parts[1];
    if (!take_parts(js, count, values, parts, 1)) {
        return JS_EXCEPTION;
    }
    int32_t r = blixard_v1_span_begin_(T(0));
    parts_done(js, parts, 1);
    return JS_NewInt32(js, r);
}

/* name, value, span */
NATIVE(span_attribute)
{
    struct part parts[2];
    if (!take_parts(js, count, values, parts, 2)) {
        return JS_EXCEPTION;
    }
    int32_t r = blixard_v1_span_attribute_((int32_t)number_at(js, count, values, 2), T(0), T(1));
    parts_done(js, parts, 2);
    return JS_NewInt32(js, r);
}

/* why it failed, span */
NATIVE(span_end)
{
    struct part parts[1];
    if (!take_parts(js, count, values, parts, 1)) {
        return JS_EXCEPTION;
    }
    int32_t r = blixard_v1_span_end_((int32_t)number_at(js, count, values, 1), T(0));
    parts_done(js, parts, 1);
    return JS_NewInt32(js, r);
}

/* text, fields (name, NUL, value, NUL ...), level */
NATIVE(log)
{
    struct part parts[2];
    if (!take_parts(js, count, values, parts, 2)) {
        return JS_EXCEPTION;
    }
    int32_t r = blixard_v1_log_((int32_t)number_at(js, count, values, 2), T(0), T(1));
    parts_done(js, parts, 2);
    return JS_NewInt32(js, r);
}

NATIVE(deadline)
{
    return JS_NewInt64(js, (int64_t)blixard_deadline_ms());
}

/* which: its text */
NATIVE(metadata)
{
    uint32_t which = (uint32_t)number_at(js, count, values, 0);
    return as_text(js, blixard_v1_metadata_(which, (char *)reply, sizeof(reply)));
}

NATIVE(flush)
{
    return JS_NewInt32(js, blixard_v1_flush_());
}

NATIVE(why)
{
    return JS_NewString(js, blixard_error());
}

static const JSCFunctionListEntry natives[] = {
    JS_CFUNC_DEF("kvGet", 1, host_kv_get),
    JS_CFUNC_DEF("kvSet", 3, host_kv_set),
    JS_CFUNC_DEF("kvCas", 4, host_kv_cas),
    JS_CFUNC_DEF("kvDelete", 2, host_kv_delete),
    JS_CFUNC_DEF("kvList", 3, host_kv_list),
    JS_CFUNC_DEF("secretGet", 1, host_secret_get),
    JS_CFUNC_DEF("queueSend", 7, host_queue_send),
    JS_CFUNC_DEF("streamAppend", 5, host_stream_append),
    JS_CFUNC_DEF("invoke", 6, host_invoke),
    JS_CFUNC_DEF("spanBegin", 1, host_span_begin),
    JS_CFUNC_DEF("spanAttribute", 3, host_span_attribute),
    JS_CFUNC_DEF("spanEnd", 2, host_span_end),
    JS_CFUNC_DEF("log", 3, host_log),
    JS_CFUNC_DEF("deadline", 0, host_deadline),
    JS_CFUNC_DEF("metadata", 1, host_metadata),
    JS_CFUNC_DEF("flush", 0, host_flush),
    JS_CFUNC_DEF("why", 0, host_why),
};

/* ---- Elsewhere ---- */

/* method, URL, fields, body, how: its number */
NATIVE(fetch_begin)
{
    struct part parts[4];
    if (!take_parts(js, count, values, parts, 4)) {
        return JS_EXCEPTION;
    }
    uint32_t how = (uint32_t)number_at(js, count, values, 4) | BLIXARD_FETCH_LATER_;
    int32_t r = blixard_v1_fetch_(T(0), T(1), T(2), P(3), 0, how, NULL, 0, NULL);
    parts_done(js, parts, 4);
    return JS_NewInt32(js, r);
}

/* a set of numbers, most ms: the number of one that can be taken or read, or 0 */
NATIVE(fetch_wait)
{
    uint64_t most_ms = number_at(js, count, values, 1);
    return JS_NewInt32(
        js,
        blixard_v1_fetch_wait_((uint32_t)number_at(js, count, values, 0),
                               most_ms < UINT32_MAX ? (uint32_t)most_ms : UINT32_MAX));
}

/* number: [the response as it came, who has the rest] */
NATIVE(fetch_take)
{
    uint32_t rest = 0;
    int32_t which = (int32_t)number_at(js, count, values, 0);
    int32_t length = blixard_v1_fetch_take_(which, reply, sizeof(reply), &rest);
    JSValue value = as_bytes(js, length);
    return length < 0 ? value : as_pair(js, value, rest);
}

/* number: more, none at the end */
NATIVE(fetch_read)
{
    static uint8_t piece[PIECE_BYTES];
    int32_t which = (int32_t)number_at(js, count, values, 0);
    int32_t length = blixard_v1_fetch_read_(which, piece, sizeof(piece));
    return length < 0 ? JS_NewInt32(js, length) : JS_NewArrayBufferCopy(js, piece, (size_t)length);
}

NATIVE(fetch_close)
{
    return JS_NewInt32(js, blixard_v1_fetch_close_((int32_t)number_at(js, count, values, 0)));
}

static const JSCFunctionListEntry fetch_natives[] = {
    JS_CFUNC_DEF("fetchBegin", 5, host_fetch_begin), JS_CFUNC_DEF("fetchWait", 2, host_fetch_wait),
    JS_CFUNC_DEF("fetchTake", 1, host_fetch_take),   JS_CFUNC_DEF("fetchRead", 1, host_fetch_read),
    JS_CFUNC_DEF("fetchClose", 1, host_fetch_close), JS_CFUNC_DEF("why", 0, host_why),
};

void add_fetch(JSContext *js, JSValueConst native)
{
    JS_SetPropertyFunctionList(js, native, fetch_natives,
                               sizeof(fetch_natives) / sizeof(fetch_natives[0]));
}

/* ---- The module ---- */

/* What host.js makes, under the same names. */
static const char *const exports[] = {
    "kv",       "queue",    "stream", "invoke", "span",      "log",
    "deadline", "metadata", "flush",  "secret", "HostError",
};

enum { EXPORTS = sizeof(exports) / sizeof(exports[0]) };

static int make_exports(JSContext *js, JSModuleDef *module)
{
    JSValue maker = JS_Eval(js, host_js, sizeof(host_js) - 1, "host.js", JS_EVAL_TYPE_GLOBAL);
    JSValue native = JS_NewObject(js);
    JS_SetPropertyFunctionList(js, native, natives, sizeof(natives) / sizeof(natives[0]));
    JSValue made =
        JS_IsException(maker) ? JS_EXCEPTION : JS_Call(js, maker, JS_UNDEFINED, 1, &native);
    int r = JS_IsException(made) ? -1 : 0;
    for (int i = 0; i < EXPORTS && r == 0; i++) {
        r = JS_SetModuleExport(js, module, exports[i], JS_GetPropertyStr(js, made, exports[i]));
    }
    JS_FreeValue(js, made);
    JS_FreeValue(js, native);
    JS_FreeValue(js, maker);
    return r;
}

JSModuleDef *load_host(JSContext *js, const char *name)
{
    JSModuleDef *module = JS_NewCModule(js, name, make_exports);
    for (int i = 0; i < EXPORTS && module != NULL; i++) {
        if (JS_AddModuleExport(js, module, exports[i]) < 0) {
            return NULL;
        }
    }
    return module;
}
