/* Calls to the node's API, one after the other: the loop runs until the answer has come. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/http/http.h"
#include "base/json.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/text.h"

#include "surface/cli/private.h"

void answer_done(struct answer *answer)
{
    buffer_done(&answer->body);
    free(answer->server_timing);
    free(answer->instance);
    free(answer->isolation);
    free(answer->request_id);
    free(answer->node);
    *answer = (struct answer){0};
}

/* The address that answered last. */
static const char *alive = NULL;

struct running {
    struct loop *loop;
    struct answer *answer;
    struct error error;
    bool has_enough;
    bool was_sent;
};

static char *field(const struct http_call *call, const char *name)
{
    struct text value = http_call_field(call, name);
    return memory_copy_text(value.data != NULL ? value.data : "", value.length);
}

static void on_head(struct http_call *call, int status, void *context)
{
    struct running *running = context;
    running->answer->status = status;
    running->answer->server_timing = field(call, "Server-Timing");
    running->answer->instance = field(call, "X-Blixard-Instance");
    running->answer->isolation = field(call, "X-Blixard-Isolation");
    running->answer->request_id = field(call, "X-Request-Id");
    running->answer->node = field(call, "X-Blixard-Node");
    text_parse_u64(http_call_field(call, "X-Blixard-Index"), &running->answer->index);
}

static void on_data(struct http_call *call, const void *bytes, size_t length, void *context)
{
    struct running *running = context;
    struct answer *answer = running->answer;
    if (answer->on_data != NULL && answer->status < 300) {
        if (!answer->on_data(bytes, length, answer->context)) {
            running->has_enough = true;
            http_call_cancel(call);
        }
    } else {
        buffer_append(&answer->body, bytes, length);
    }
}

static void on_end(struct http_call *call, const struct error *error, void *context)
{
    struct running *running = context;
    if (error != NULL && !running->has_enough) {
        running->error = *error;
        running->was_sent = http_call_was_sent(call);
    }
    loop_stop(running->loop);
}

int request_take_problem(const struct answer *answer, struct error *err)
{
    JSON_OWNED json_t *problem = NULL;
    struct error ignored = {0};
    const char *code = NULL;
    const char *detail = NULL;
    if (json_read(answer->body.data != NULL ? (const char *)answer->body.data : "",
                  answer->body.used, &problem, &ignored) == 0) {
        code = json_string_value(json_object_get(problem, "code"));
        detail = json_string_value(json_object_get(problem, "detail"));
    }
    enum error_kind kind = code != NULL ? error_kind_parse(code) : ERROR_NONE;
    if (kind == ERROR_NONE) {
        return error_set(err, ERROR_PROTOCOL, "the answer's status is %d %s", answer->status,
                         http_status_text(answer->status));
    }
    return error_set(err, kind, "%s", detail != NULL ? detail : error_kind_text(kind));
}

/* ---- Asking ---- */

struct question {
    const char *method;
    const char *path;
    const char *const *fields;
    const void *body;
    size_t length;
};

/* A failure is in running->error. */
static int ask_one(const struct target *target, const char *address,
                   const struct question *question, struct running *running, struct error *err)
{
    static const struct http_call_events events = {on_head, on_data, on_end};
    const struct http_client_options options = {.tls = target->tls};
    struct http_client *client = NULL;
    int r = loop_new("cli", &running->loop, err);
    if (r < 0) {
        return r;
    }
    r = http_client_new(running->loop, address, &options, &client, err);
    if (r == 0) {
        http_client_call(client, question->method, question->path, question->fields, question->body,
                         question->length, &events, running);
        loop_run(running->loop);
        http_client_free(client);
    }
    loop_free(running->loop);
    return r;
}

static int nobody_answers(const struct target *target, const struct error *last, struct error *err)
{
    if (target->tls != NULL) {
        return error_set(err, ERROR_UNAVAILABLE, "no node of %s answers (%zu tried): %s",
                         target->name, target->address_count, last->text);
    }
    return error_set(err, ERROR_UNAVAILABLE,
                     "no node answers at %s: start one with `blixard dev`, or say where it is with "
                     "--addr, BLIXARD_ADDR or `blixard context use` (%s)",
                     target->name, last->text);
}

enum verdict { VERDICT_ANSWER, VERDICT_NEXT, VERDICT_FAILURE };

/* The next address while no node can have seen anything of the call; and for a read, when a node
 * answers that it cannot now: it has just started, or is stopping. */
static enum verdict judge(const struct question *question, const struct running *running)
{
    if (running->error.kind != ERROR_NONE) {
        return running->was_sent ? VERDICT_FAILURE : VERDICT_NEXT;
    }
    return running->answer->status == 503 && strcmp(question->method, "GET") == 0 ? VERDICT_NEXT
                                                                                  : VERDICT_ANSWER;
}

/* What one node said is not what the next one says. */
static void forget(struct answer *answer)
{
    const struct answer fresh = {.on_data = answer->on_data, .context = answer->context};
    answer_done(answer);
    *answer = fresh;
}

static void settle_on(const struct target *target, size_t index)
{
    alive = target->addresses[index];
    if (index > 0 && target->context != NULL) {
        context_prefer(target->context, alive);
    }
}

/* The connection was lost in the middle: where nobody listens now, the node has ended; where that
 * happens again, those are others than they are taken for. */
static int broken_off(const struct target *target, const char *address, const struct error *lost,
                      struct error *err)
{
    static const struct question look = {.method = "GET", .path = "/healthz"};
    ANSWER_OWNED struct answer answer = {0};
    struct running running = {.answer = &answer};
    int r = ask_one(target, address, &look, &running, err);
    if (r < 0) {
        return r;
    }
    if (target->tls == NULL && running.error.kind != ERROR_NONE && running.was_sent) {
        return error_set(err, ERROR_UNAVAILABLE,
                         "%.300s: if that is where the nodes of a cluster listen, log in first "
                         "(blixard login) and say https://",
                         lost->text);
    }
    return error_set(
        err, ERROR_UNAVAILABLE,
        "%.300s: %s before it answered; whether it did what was asked is not known", lost->text,
        running.error.kind != ERROR_NONE ? "the node ended" : "the connection was lost");
}

static int ask(const struct target *target, const struct question *question, struct answer *answer,
               struct error *err)
{
    struct error silence = {0};
    struct error refusal = {0}; /* it says more than a dead address does */
    enum verdict verdict = VERDICT_NEXT;
    const char *address = NULL;
    for (size_t i = 0; i < target->address_count && verdict == VERDICT_NEXT; i++) {
        struct running running = {.answer = answer};
        address = target->addresses[i];
        int r = ask_one(target, address, question, &running, err);
        if (r < 0) {
            return r;
        }
        verdict = judge(question, &running);
        if (verdict == VERDICT_ANSWER) {
            settle_on(target, i);
            return answer->status >= 300 ? request_take_problem(answer, err) : 0;
        }
        if (running.error.kind == ERROR_NONE) {
            request_take_problem(answer, &refusal);
        } else if (silence.kind == ERROR_NONE || error_kind_retry(silence.kind)) {
            silence = running.error; /* the first that says more than that nobody is there */
        }
        if (verdict == VERDICT_NEXT) {
            forget(answer);
        }
    }
    if (verdict == VERDICT_NEXT && refusal.kind == ERROR_NONE &&
        silence.kind == ERROR_UNAVAILABLE) {
        return nobody_answers(target, &silence, err);
    }
    *err = verdict == VERDICT_NEXT && refusal.kind != ERROR_NONE ? refusal : silence;
    return verdict == VERDICT_FAILURE && silence.kind == ERROR_UNAVAILABLE
        ? broken_off(target, address, &silence, err)
        : -(int)err->kind;
}

int request_to(const struct target *target, const char *method, const char *path,
               const char *const *fields, const void *body, size_t length, struct answer *answer,
               struct error *err)
{
    const char *all[FIELDS_MAX + 2] = {0};
    size_t count = 0;
    for (; fields != NULL && fields[count] != NULL && count < FIELDS_MAX; count++) {
        all[count] = fields[count];
    }
    if (target->authorization != NULL) {
        all[count++] = target->authorization;
    }
    MEMORY_OWNED char *full = target_path(path);
    const struct question question = {method, full, all, body, length};
    return ask(target, &question, answer, err);
}

int request(const char *method, const char *path, const char *const *fields, const void *body,
            size_t length, struct answer *answer, struct error *err)
{
    const struct target *target = NULL;
    int r = target_find(&target, err);
    return r < 0 ? r : request_to(target, method, path, fields, body, length, answer, err);
}

int request_json(const char *method, const char *target, const struct buffer *json,
                 json_t **ret_document, struct error *err)
{
    ANSWER_OWNED struct answer answer = {0};
    const char *const fields[] = {"Content-Type: application/json", NULL};
    int r = request(method, target, json != NULL ? fields : NULL, json != NULL ? json->data : NULL,
                    json != NULL ? json->used : 0, &answer, err);
    if (r < 0 || ret_document == NULL) {
        return r;
    }
    return json_read(answer.body.data != NULL ? (const char *)answer.body.data : "",
                     answer.body.used, ret_document, err);
}

const char *request_alive(const struct target *target)
{
    return alive != NULL ? alive : target->addresses[0];
}

int request_reach(const struct target **ret_target, struct error *err)
{
    struct error answer = {0};
    JSON_OWNED json_t *node = NULL;
    int r = target_find(ret_target, err);
    if (r < 0 || alive != NULL || request_json("GET", "/v1/node", NULL, &node, &answer) == 0 ||
        alive != NULL) { /* whatever it said: it is there */
        return r;
    }
    *err = answer;
    return -(int)err->kind;
}

int request_send(const char *method, const char *target, const json_t *body, json_t **ret_document,
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

char *request_target(const char *folder, const char *name, const char *rest)
{
    BUFFER_OWNED struct buffer target = {0};
    buffer_append_format(&target, "/v1/%s/", folder);
    http_percent_encode(&target, text_of(name, strlen(name)));
    buffer_append_string(&target, rest);
    return buffer_take(&target);
}

void request_add_query(struct buffer *target, const char *name, const char *value_or_null)
{
    if (value_or_null != NULL) {
        bool is_first = strchr(buffer_string(target), '?') == NULL;
        buffer_append_format(target, "%c%s=", is_first ? '?' : '&', name);
        http_percent_encode(target, text_of(value_or_null, strlen(value_or_null)));
    }
}
