/* Verbs about asynchronous invocations. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "surface/cli/private.h"

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

enum { BASE64_INVALID = 64, TURN_MS = 60000 };

/* ---- The answer ---- */

static unsigned digit_value(char digit)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *place = digit != '\0' ? strchr(digits, digit) : NULL;
    return place != NULL ? (unsigned)(place - digits) : BASE64_INVALID;
}

/* RFC 4648, 4; up to what is none. */
static void print_base64(const char *text)
{
    unsigned bits = 0;
    unsigned count = 0;
    for (; digit_value(*text) != BASE64_INVALID; text++) {
        bits = bits << 6 | digit_value(*text);
        count += 6;
        if (count >= 8) {
            count -= 8;
            putchar((int)(bits >> count & 255));
        }
    }
}

static void print_answer(const json_t *invocation)
{
    const json_t *response = json_object_get(invocation, "response");
    const char *encoded = json_string_value(json_object_get(response, "body_base64"));
    const json_t *body = json_object_get(response, "body");
    if (encoded != NULL) {
        print_base64(encoded);
    } else if (json_is_string(body)) {
        fwrite(json_string_value(body), 1, json_string_length(body), stdout);
    }
}

/* How one that has ended did. */
static int judge(const json_t *invocation, struct error *err)
{
    const char *state = json_text(invocation, "state");
    if (strcmp(state, "succeeded") == 0) {
        return 0;
    }
    enum error_kind kind = error_kind_parse(json_text(invocation, "error_code"));
    const char *text = json_text(invocation, "error");
    if (text[0] == '\0' && strcmp(state, "failed") == 0) {
        return error_set(err, ERROR_TRAP, "invocation %s failed: the function answered %d",
                         json_text(invocation, "id"),
                         (int)json_integer_value(json_object_get(invocation, "status")));
    }
    kind = kind != ERROR_NONE ? kind : ERROR_CANCELLED;
    return error_set(err, kind, "invocation %s is %s%s%.300s", json_text(invocation, "id"), state,
                     text[0] != '\0' ? ": " : "", text);
}

static int wait_for(const char *id, uint64_t end_ms, json_t **ret_invocation, struct error *err)
{
    interrupt_says(memory_format("the invocation goes on: blixard invocation wait %s", id));
    for (;;) {
        JSON_OWNED json_t *invocation = NULL;
        MEMORY_OWNED char *rest =
            memory_format("/wait?timeout=%" PRIu64 "ms", patience_turn_ms(end_ms, TURN_MS));
        MEMORY_OWNED char *target = request_target("invocations", id, rest);
        int r = request_json("GET", target, NULL, &invocation, err);
        const char *state = json_text(invocation, "state");
        if (r < 0) {
            return r;
        }
        if (strcmp(state, "pending") != 0 && strcmp(state, "running") != 0) {
            interrupt_says(NULL);
            *ret_invocation = json_incref(invocation);
            return 0;
        }
        if (clock_monotonic_ms() >= end_ms) {
            interrupt_says(NULL);
            return error_set(err, ERROR_TIMEOUT, "invocation %s is still %s, and goes on", id,
                             state);
        }
    }
}

static int wait_and_print(const struct arguments *arguments, const char *id, uint64_t end_ms,
                          struct error *err)
{
    JSON_OWNED json_t *invocation = NULL;
    enum output output = OUTPUT_TABLE;
    int r = output_of(arguments, &output, err);
    r = r < 0 ? r : wait_for(id, end_ms, &invocation, err);
    if (r < 0) {
        return r;
    }
    if (output != OUTPUT_TABLE) {
        print_document(invocation, output);
    } else {
        print_answer(invocation);
    }
    return judge(invocation, err);
}

/* ---- Beginning ---- */

static int add_preferences(const struct arguments *arguments, struct buffer *prefer,
                           struct error *err)
{
    static const char *const names[] = {"retries", "backoff",    "max-age",
                                        "keep",    "on-success", "on-failure"};
    buffer_append_string(prefer, "Prefer: respond-async");
    for (size_t i = 0; i < COUNT(names); i++) {
        const char *value = flag_value(arguments, names[i]);
        if (value != NULL && strpbrk(value, "\r\n\",;") != NULL) {
            return error_set(err, ERROR_INVALID, "--%s %.40s cannot be read", names[i], value);
        }
        if (value != NULL) {
            buffer_append_format(prefer, ", %s=\"%s\"", names[i], value);
        }
    }
    return 0;
}

int invocation_begin(const struct arguments *arguments, const char *target, const char *header,
                     const struct buffer *input, struct error *err)
{
    ANSWER_OWNED struct answer answer = {0};
    BUFFER_OWNED struct buffer prefer = {0};
    JSON_OWNED json_t *invocation = NULL;
    const char *key = flag_value(arguments, "idempotency-key");
    if (key != NULL && strpbrk(key, "\r\n") != NULL) {
        return error_set(err, ERROR_INVALID, "--idempotency-key is visible ASCII characters");
    }
    bool is_waiting = flag_value(arguments, "wait") != NULL;
    if (!is_waiting && flag_value(arguments, "timeout") != NULL) {
        return error_set(err, ERROR_INVALID, "--timeout goes with --wait");
    }
    MEMORY_OWNED char *key_field = memory_format("Idempotency-Key: %s", key != NULL ? key : "");
    uint64_t end_ms = 0;
    int r = add_preferences(arguments, &prefer, err);
    r = r < 0 ? r : patience_of(arguments, &end_ms, err);
    const char *fields[4] = {buffer_string(&prefer), NULL, NULL, NULL};
    size_t count = 1;
    if (key != NULL) {
        fields[count++] = key_field;
    }
    if (header != NULL) {
        fields[count++] = header;
    }
    r = r < 0 ? r : request("POST", target, fields, input->data, input->used, &answer, err);
    r = r < 0 ? r : json_read(answer.body.data, answer.body.used, &invocation, err);
    if (r < 0) {
        return r;
    }
    const char *id = json_text(invocation, "id");
    if (is_waiting) {
        return wait_and_print(arguments, id, end_ms, err);
    }
    return print_done(arguments, invocation, err, "%s", id);
}

/* ---- Looking ---- */

int verb_invocation_list(const struct arguments *arguments, struct error *err)
{
    static const struct column columns[] = {
        {"ID", "id", AS_TEXT},
        {"FUNCTION", "function", AS_TEXT},
        {"STATE", "state", AS_TEXT},
        {"ATTEMPTS", "attempts", AS_TEXT},
        {"STATUS", "status", AS_TEXT},
        {"CREATED", "created_at", AS_TEXT},
        {"UPDATED", "updated_at", AS_TEXT},
        {"ERROR", "error", AS_TEXT},
    };
    JSON_OWNED json_t *document = NULL;
    BUFFER_OWNED struct buffer target = {0};
    enum output output = OUTPUT_TABLE;
    buffer_append_string(&target, "/v1/invocations");
    request_add_query(&target, "function", arguments->word_count > 0 ? arguments->words[0] : NULL);
    request_add_query(&target, "state", flag_value(arguments, "state"));
    request_add_query(&target, "dead", flag_value(arguments, "dead") != NULL ? "true" : NULL);
    request_add_query(&target, "count", flag_value(arguments, "count"));
    int r = output_of(arguments, &output, err);
    r = r < 0 ? r : request_json("GET", buffer_string(&target), NULL, &document, err);
    if (r == 0 && output == OUTPUT_TABLE) {
        print_table(json_object_get(document, "invocations"), columns, COUNT(columns));
    } else if (r == 0) {
        print_document(document, output);
    }
    return r;
}

static void print_invocation(const json_t *invocation)
{
    static const struct column facts[] = {
        {"id", "id", AS_TEXT},
        {"function", "function", AS_TEXT},
        {"state", "state", AS_TEXT},
        {"node", "node", AS_TEXT},
        {"key", "idempotency_key", AS_TEXT},
        {"status", "status", AS_TEXT},
        {"error", "error", AS_TEXT},
        {"destination", "destination_error", AS_TEXT},
        {"next attempt", "due_at", AS_TEXT},
        {"answer", "response.body", AS_TEXT},
        {"created", "created_at", AS_TEXT},
        {"updated", "updated_at", AS_TEXT},
    };
    static const struct column columns[] = {
        {"STARTED", "started_at", AS_TEXT}, {"TIME", "duration_ms", AS_TIME},
        {"FUNCTION", "function", AS_TEXT},  {"STATUS", "status", AS_TEXT},
        {"TRACE", "trace", AS_TEXT},        {"ERROR", "error", AS_TEXT},
    };
    const json_t *attempts = json_object_get(invocation, "attempt_list");
    print_facts(invocation, facts, COUNT(facts));
    if (json_array_size(attempts) > 0) {
        putchar('\n');
        print_table(attempts, columns, COUNT(columns));
    }
}

int verb_invocation_get(const struct arguments *arguments, struct error *err)
{
    JSON_OWNED json_t *document = NULL;
    enum output output = OUTPUT_TABLE;
    MEMORY_OWNED char *target = request_target("invocations", arguments->words[0], "");
    int r = output_of(arguments, &output, err);
    r = r < 0 ? r : request_json("GET", target, NULL, &document, err);
    if (r == 0 && output == OUTPUT_TABLE) {
        print_invocation(document);
    } else if (r == 0) {
        print_document(document, output);
    }
    return r;
}

int verb_invocation_wait(const struct arguments *arguments, struct error *err)
{
    uint64_t end_ms = 0;
    int r = patience_of(arguments, &end_ms, err);
    return r < 0 ? r : wait_and_print(arguments, arguments->words[0], end_ms, err);
}

int verb_invocation_cancel(const struct arguments *arguments, struct error *err)
{
    const char *id = arguments->words[0];
    MEMORY_OWNED char *target = request_target("invocations", id, "");
    int r = request_json("DELETE", target, NULL, NULL, err);
    if (r < 0) {
        return r;
    }
    JSON_OWNED json_t *document = json_pack("{s:s}", "cancelled", id);
    return print_done(arguments, document, err, "cancelled %s", id);
}

int verb_invocation_logs(const struct arguments *arguments, struct error *err)
{
    JSON_OWNED json_t *document = NULL;
    MEMORY_OWNED char *target = request_target("invocations", arguments->words[0], "");
    int r = request_json("GET", target, NULL, &document, err);
    const json_t *attempts = json_object_get(document, "attempt_list");
    MEMORY_OWNED char *name =
        memory_format("%.*s", (int)strcspn(json_text(document, "function"), ":"),
                      json_text(document, "function"));
    for (size_t i = 0; r == 0 && i < json_array_size(attempts); i++) {
        struct arguments one = *arguments;
        one.words[0] = name;
        if (one.flag_count < FLAGS_MAX) {
            one.flags[one.flag_count].name = "trace";
            one.flags[one.flag_count++].value = json_text(json_array_get(attempts, i), "trace");
        }
        r = verb_fn_logs(&one, err);
    }
    return r;
}

/* ---- Trying again ---- */

static int redrive(const char *id, json_t **ret_document, struct error *err)
{
    MEMORY_OWNED char *target = request_target("invocations", id, "/redrive");
    return request_json("POST", target, NULL, ret_document, err);
}

static int redrive_all(const struct arguments *arguments, const char *function, struct error *err)
{
    JSON_OWNED json_t *list = NULL;
    BUFFER_OWNED struct buffer target = {0};
    unsigned count = 0;
    buffer_append_string(&target, "/v1/invocations?dead=true&count=1000");
    request_add_query(&target, "function", function);
    int r = request_json("GET", buffer_string(&target), NULL, &list, err);
    const json_t *invocations = json_object_get(list, "invocations");
    for (size_t i = 0; r == 0 && i < json_array_size(invocations); i++) {
        struct error one = {0};
        JSON_OWNED json_t *ignored = NULL;
        r = redrive(json_text(json_array_get(invocations, i), "id"), &ignored, &one);
        if (r == -ERROR_CONFLICT || r == -ERROR_NOT_FOUND) {
            r = 0; /* somebody else was faster */
        } else if (r < 0) {
            *err = one;
        } else {
            count++;
        }
    }
    JSON_OWNED json_t *document = json_pack("{s:i}", "redriven", (int)count);
    return r < 0 ? r : print_done(arguments, document, err, "redriven %u", count);
}

int verb_invocation_redrive(const struct arguments *arguments, struct error *err)
{
    const char *function = flag_value(arguments, "function");
    if ((function != NULL) == (arguments->word_count > 0)) {
        return error_set(err, ERROR_INVALID,
                         "say which: an ID, or --function NAME for all of a function");
    }
    if (function != NULL) {
        return redrive_all(arguments, function, err);
    }
    JSON_OWNED json_t *document = NULL;
    int r = redrive(arguments->words[0], &document, err);
    return r < 0 ? r : print_done(arguments, document, err, "redriven %s", arguments->words[0]);
}
