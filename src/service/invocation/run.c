/*
 * Running: claim, call, and the end of the attempt, each of the two a command.  The end expects the
 * epoch of the claim, and holds all that comes of it: the result, the next attempt, and the
 * invocation of the destination.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/random.h"

#include "service/cluster/cluster.h"
#include "service/event/event.h"
#include "service/gateway/gateway.h"
#include "service/gateway/invoke.h"
#include "service/invocation/parts.h"
#include "service/telemetry/telemetry.h"

enum { HISTORY_MAX = 20, WRITE_RETRY_MS = 1000 };

/* ---- Life ---- */

struct run *run_new(struct invocation_service *service, const char *project, const char *id)
{
    struct run *run = NEW(struct run);
    run->service = service;
    snprintf(run->id, sizeof(run->id), "%s", id);
    snprintf(run->project, sizeof(run->project), "%s", project);
    void *before = map_set(&service->runs, run->id, run);
    CHECK(before == NULL);
    service->run_count++;
    return run;
}

static void run_free(struct run *run)
{
    struct invocation_service *service = run->service;
    if (map_get(&service->runs, run->id) == run) {
        map_remove(&service->runs, run->id);
    }
    service->run_count--;
    gateway_invoke_free(run->invoke);
    free(run->request);
    free(run->history);
    buffer_done(&run->body);
    free(run);
    if (service->has_backlog) {
        pass_soon(service);
    }
}

void run_drop(struct run *run)
{
    run_free(run);
}

void run_stop(struct run *run)
{
    if (run->invoke != NULL) { /* otherwise a command is under way, whose answer ends it */
        run_free(run);
    }
}

/* ---- The end of an attempt ---- */

static void on_end_written(const struct error *error, uint64_t index, void *context)
{
    struct run *run = context;
    (void)index;
    if (error != NULL && error->kind != ERROR_CONFLICT) {
        log_warn("invocation %s: its end is not recorded, it will run again: %s", run->id,
                 error->text);
    }
    run_free(run); /* where it failed, the sweep finds that nobody runs it */
}

static void write_history(const struct run *run, const struct error *error,
                          const struct gateway_result *result, uint64_t now_ms, struct buffer *out)
{
    JSON_OWNED json_t *before = json_loads(run->history, 0, NULL);
    struct json_writer writer = json_writer_to(out);
    size_t count = json_array_size(before);
    json_write_begin_array(&writer);
    for (size_t i = count >= HISTORY_MAX ? count - HISTORY_MAX + 1 : 0; i < count; i++) {
        char *text = json_dumps(json_array_get(before, i), JSON_COMPACT);
        json_write_raw(&writer, text, strlen(text));
        free(text);
    }
    json_write_begin_object(&writer);
    json_write_field_time_ms(&writer, "started_at", run->begun_ms);
    json_write_field_u64(&writer, "duration_ms",
                         now_ms > run->begun_ms ? now_ms - run->begun_ms : 0);
    json_write_field_string(&writer, "function", result->function);
    json_write_field_string(&writer, "trace", result->trace);
    if (error != NULL) {
        json_write_field_string(&writer, "error", error->text);
        json_write_field_string(&writer, "error_code", error_kind_name(error->kind));
    } else {
        json_write_field_u64(&writer, "status", (uint64_t)result->status);
    }
    json_write_end_object(&writer);
    json_write_end_array(&writer);
}

static void write_fields(const struct gateway_result *result, struct buffer *out)
{
    struct json_writer writer = json_writer_to(out);
    json_write_begin_array(&writer);
    for (size_t i = 0; i < result->field_count; i++) {
        MEMORY_OWNED char *line = memory_format(
            "%.*s: %.*s", (int)result->fields[i].name.length, result->fields[i].name.data,
            (int)result->fields[i].value.length, result->fields[i].value.data);
        json_write_string(&writer, line);
    }
    json_write_end_array(&writer);
}

/* What was asked, and what came of it. */
static void write_event_data(const struct run *run, const char *state, const struct error *error,
                             const struct gateway_result *result, struct buffer *out)
{
    struct json_writer writer = json_writer_to(out);
    json_write_begin_object(&writer);
    json_write_field_string(&writer, "invocation", run->id);
    json_write_field_string(&writer, "function", run->name);
    json_write_field_string(&writer, "state", state);
    json_write_field_u64(&writer, "attempts", run->attempts);
    json_write_key(&writer, "request");
    json_write_begin_object(&writer);
    write_bytes(&writer, run->body.data, run->body.used);
    json_write_end_object(&writer);
    json_write_key(&writer, "response");
    json_write_begin_object(&writer);
    if (error != NULL) {
        json_write_field_string(&writer, "error", error->text);
        json_write_field_string(&writer, "error_code", error_kind_name(error->kind));
    } else {
        json_write_field_u64(&writer, "status", (uint64_t)result->status);
        write_bytes(&writer, result->body, result->body_length);
    }
    json_write_end_object(&writer);
    json_write_end_object(&writer);
}

static void write_event_request(const struct run *run, const char *state, uint64_t now_ms,
                                struct buffer *out)
{
    char id[INVOCATION_ID_SIZE];
    char time[CLOCK_TEXT_SIZE];
    random_hex(id, INVOCATION_ID_SIZE - 1);
    clock_format_ms(now_ms, time);
    const char *const lines[][2] = {
        {"Content-Type: application/json", ""},
        {"ce-specversion: 1.0", ""},
        {"ce-id: ", id},
        {"ce-source: /projects/", run->project},
        {"ce-type: blixard.invocation.", state},
        {"ce-subject: ", run->id},
        {"ce-time: ", time},
    };
    struct json_writer writer = json_writer_to(out);
    json_write_begin_object(&writer);
    json_write_field_string(&writer, "method", "POST");
    json_write_key(&writer, "fields");
    json_write_begin_array(&writer);
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        MEMORY_OWNED char *line = memory_format("%s%s", lines[i][0], lines[i][1]);
        json_write_string(&writer, line);
    }
    json_write_end_array(&writer);
    json_write_end_object(&writer);
}

static void add_notice(const struct run *run, struct store_command *command, const char *to,
                       const char *state, const struct buffer *data, uint64_t now_ms)
{
    EVENT_OWNED struct event event = {0};
    BUFFER_OWNED struct buffer text = {0};
    struct error ignored = {0};
    char id[INVOCATION_ID_SIZE];
    MEMORY_OWNED char *source = memory_format("/projects/%s", run->project);
    MEMORY_OWNED char *type = memory_format("blixard.invocation.%s", state);
    random_hex(id, INVOCATION_ID_SIZE - 1);
    event_init(&event, id, source, type, "application/json", data->data, data->used);
    event_set(&event, "subject", run->id, &ignored);
    event_set_time(&event, now_ms);
    event_write(&event, &text);
    notice_add(command, id, run->project, to, buffer_string(&text), now_ms);
}

/* What the destination is told: a CloudEvent in binary mode. */
static void add_destination(const struct run *run, struct store_command *command, const char *state,
                            const struct error *error, const struct gateway_result *result,
                            uint64_t now_ms)
{
    const char *to =
        strcmp(state, "succeeded") == 0 ? run->policy.on_success : run->policy.on_failure;
    if (to[0] == '\0') {
        return;
    }
    struct function_policy policy;
    BUFFER_OWNED struct buffer data = {0};
    BUFFER_OWNED struct buffer request = {0};
    function_policy_init(&policy);
    write_event_data(run, state, error, result, &data);
    if (strncmp(to, "function:", 9) != 0) {
        add_notice(run, command, to, state, &data, now_ms);
        return;
    }
    write_event_request(run, state, now_ms, &request);
    const struct invocation_request wanted = {
        .project = run->project,
        .function = to + strlen("function:"),
        .body = data.data,
        .body_length = data.used,
        .policy = &policy,
    };
    accept_add(command, &wanted, buffer_string(&request), now_ms);
}

static void end_attempt(struct run *run, const struct error *error,
                        const struct gateway_result *result)
{
    uint64_t now_ms = clock_real_ms();
    struct verdict verdict = policy_judge(&run->policy, error, result->status, result->is_untouched,
                                          run->attempts, now_ms, run->deadline_ms, random_u64());
    bool is_over = strcmp(verdict.state, "pending") != 0;
    bool is_good = strcmp(verdict.state, "succeeded") == 0;
    BUFFER_OWNED struct buffer history = {0};
    BUFFER_OWNED struct buffer fields = {0};
    write_history(run, error, result, now_ms, &history);
    write_fields(result, &fields);
    uint64_t expires_ms =
        now_ms + (is_good ? run->policy.keep_ms : (uint64_t)INVOCATION_DEAD_KEEP_MS);
    struct store_command *command = store_command_new();
    store_command_add_expecting(
        command, ERROR_CONFLICT, "another node has it by now, or it was cancelled",
        "UPDATE invocation SET state = ?, attempts = ?, due_ms = ?, owner = 0, body = iif(?, NULL, "
        "body), status = iif(? > 0, ?, NULL), fields = ?, answer = ?, error = ?, error_code = ?, "
        "history = ?, expires_ms = iif(?, ?, NULL), updated_ms = ?, revision = ? WHERE key = ? AND "
        "state = 'running' AND epoch = ?",
        "tuuuuut"
        "b"
        "tttuuurtu",
        verdict.state, verdict.attempts, verdict.due_ms > 0 ? verdict.due_ms : now_ms,
        (uint64_t)is_good, (uint64_t)result->status, (uint64_t)result->status,
        buffer_string(&fields), result->body_length > 0 ? result->body : "", result->body_length,
        error != NULL ? error->text : NULL, error != NULL ? error_kind_name(error->kind) : NULL,
        buffer_string(&history), (uint64_t)is_over, expires_ms, now_ms, run->id, run->epoch);
    if (is_over) {
        store_command_add(
            command,
            "UPDATE invocation_load SET live = live - 1, bytes = bytes - ? WHERE project = ?", "ut",
            run->size, run->project);
        add_destination(run, command, verdict.state, error, result, now_ms);
    }
    store_propose(run->service->options.store, command, on_end_written, run);
}

static void on_done(const struct error *error, const struct gateway_result *result, void *context)
{
    struct run *run = context;
    run->invoke = NULL;
    end_attempt(run, error, result);
}

/* ---- The attempt ---- */

#define SELECT_RUN                                                                              \
    "SELECT epoch, project, name, request, body, policy, attempts, deadline_ms, history, size " \
    "FROM invocation "

static bool take_row(sqlite3_stmt *row, void *context)
{
    struct run *run = context;
    run->epoch = (uint64_t)sqlite3_column_int64(row, 0);
    snprintf(run->project, sizeof(run->project), "%s", (const char *)sqlite3_column_text(row, 1));
    snprintf(run->name, sizeof(run->name), "%s", (const char *)sqlite3_column_text(row, 2));
    run->request = memory_copy_string((const char *)sqlite3_column_text(row, 3));
    buffer_append(&run->body, sqlite3_column_blob(row, 4), (size_t)sqlite3_column_bytes(row, 4));
    policy_read((const char *)sqlite3_column_text(row, 5), &run->policy);
    run->attempts = (uint64_t)sqlite3_column_int64(row, 6);
    run->deadline_ms = (uint64_t)sqlite3_column_int64(row, 7);
    run->history = memory_copy_string((const char *)sqlite3_column_text(row, 8));
    run->size = (uint64_t)sqlite3_column_int64(row, 9);
    return false;
}

static bool take_function(sqlite3_stmt *row, void *context)
{
    snprintf(context, INVOCATION_TEXT_SIZE, "%s", (const char *)sqlite3_column_text(row, 0));
    return false;
}

static void read_origin(const json_t *object, struct gateway_origin *ret_origin)
{
    struct gateway_caller *caller = &ret_origin->caller;
    *ret_origin =
        (struct gateway_origin){.is_secure = json_is_true(json_object_get(object, "secure"))};
    snprintf(ret_origin->pattern, sizeof(ret_origin->pattern), "%s", json_text(object, "pattern"));
    snprintf(caller->user, sizeof(caller->user), "%s", json_text(object, "user"));
    snprintf(caller->subject, sizeof(caller->subject), "%s", json_text(object, "subject"));
    snprintf(caller->fingerprint, sizeof(caller->fingerprint), "%s",
             json_text(object, "fingerprint"));
}

static void call(struct run *run)
{
    struct error ignored = {0};
    struct gateway_origin origin;
    JSON_OWNED json_t *request = json_loads(run->request, 0, NULL);
    const json_t *list = json_object_get(request, "fields");
    const char *fields[GATEWAY_INVOKE_FIELDS_MAX + 1] = {0};
    char function[INVOCATION_TEXT_SIZE] = "";
    size_t count = 0;
    const char *traceparent = NULL;
    for (size_t i = 0; i < json_array_size(list) && count < GATEWAY_INVOKE_FIELDS_MAX; i++) {
        const char *line = json_string_value(json_array_get(list, i));
        if (strncasecmp(line, "traceparent: ", 13) == 0) {
            traceparent = line + 13;
        } else {
            fields[count++] = line;
        }
    }
    store_query(run->service->options.store, &ignored, take_function, function,
                "SELECT function FROM invocation WHERE key = ?", "t", run->id);
    uint64_t now_ms = clock_real_ms();
    uint64_t left_ms = run->deadline_ms > now_ms ? run->deadline_ms - now_ms : 1;
    uint64_t timeout_ms = run->policy.timeout_ms > 0 && run->policy.timeout_ms < left_ms
        ? run->policy.timeout_ms
        : left_ms;
    read_origin(json_object_get(request, "origin"), &origin);
    run->begun_ms = now_ms;
    run->invoke = gateway_invoke_new(run->service->options.gateway,
                                     &(struct gateway_invocation){
                                         .project = run->project,
                                         .name = function,
                                         .method = json_text(request, "method"),
                                         .path = json_text(request, "path"),
                                         .query = json_text(request, "query"),
                                         .origin = &origin,
                                         .fields = fields,
                                         .body = run->body.data,
                                         .body_length = run->body.used,
                                         .timeout_ms = timeout_ms,
                                         .answer_bytes_max = INVOCATION_ANSWER_MAX,
                                         .request_id = run->id,
                                         .traceparent = traceparent,
                                         .caller = "invocation",
                                         .what = "invocation",
                                         .trigger = TELEMETRY_TRIGGER_OTHER,
                                     },
                                     on_done, run);
}

void run_start(struct run *run)
{
    struct error err = {0};
    store_query(run->service->options.store, &err, take_row, run,
                SELECT_RUN "WHERE key = ? AND state = 'running' AND owner = ?", "tu", run->id,
                own_node(run->service));
    if (run->epoch == 0 || run->service->is_stopping) {
        run_free(run); /* it was taken away at once */
    } else {
        call(run);
    }
}

/* ---- Claiming ---- */

static void on_claimed(const struct error *error, uint64_t index, void *context)
{
    struct run *run = context;
    (void)index;
    if (error != NULL) {
        if (error->kind != ERROR_CONFLICT) {
            loop_timer_start(run->service->timer, WRITE_RETRY_MS);
        }
        run_drop(run);
    } else {
        run_start(run);
    }
}

void run_claim(struct invocation_service *service, const char *project, const char *id,
               uint64_t revision)
{
    struct run *run = run_new(service, project, id);
    struct store_command *command = store_command_new();
    store_command_add_expecting(
        command, ERROR_CONFLICT, "another node has claimed it",
        "UPDATE invocation SET state = 'running', owner = ?, epoch = ?, attempts = attempts + 1, "
        "updated_ms = ?, revision = ? WHERE key = ? AND state = 'pending' AND revision = ?",
        "urur"
        "tu",
        own_node(service), clock_real_ms(), run->id, revision);
    store_propose(service->options.store, command, on_claimed, run);
}

void run_expire(struct invocation_service *service, const char *id, uint64_t revision)
{
    uint64_t now_ms = clock_real_ms();
    struct store_command *command = store_command_new();
    store_command_add_expecting(
        command, ERROR_CONFLICT, "it was changed",
        "UPDATE invocation SET state = 'expired', error = coalesce(error, 'it was not run within "
        "its maximum age'), error_code = coalesce(error_code, 'timeout'), expires_ms = ?, "
        "updated_ms = ?, revision = ? WHERE key = ? AND state = 'pending' AND revision = ?",
        "uurtu", now_ms + INVOCATION_DEAD_KEEP_MS, now_ms, id, revision);
    store_command_add(command,
                      "UPDATE invocation_load SET live = live - 1, bytes = bytes - (SELECT size "
                      "FROM invocation WHERE key = ?) WHERE project = (SELECT project FROM "
                      "invocation WHERE key = ?)",
                      "tt", id, id);
    struct run past = {.service = service}; /* one that has ended before it began */
    struct gateway_result none = {0};
    struct error err = {0};
    snprintf(past.id, sizeof(past.id), "%s", id);
    store_query(service->options.store, &err, take_row, &past,
                SELECT_RUN "WHERE key = ? AND revision = ?", "tu", id, revision);
    error_set(&err, ERROR_TIMEOUT, "it was not run within its maximum age");
    if (past.request != NULL) {
        add_destination(&past, command, "expired", &err, &none, now_ms);
    }
    store_propose(service->options.store, command, NULL, NULL);
    free(past.request);
    free(past.history);
    buffer_done(&past.body);
}
