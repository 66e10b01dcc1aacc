/* Accepting: the row of an invocation, and the one that was there before under the same key. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/random.h"

#include "service/cluster/cluster.h"
#include "service/function/function.h"
#include "service/gateway/gateway.h"
#include "service/instance/instance.h"
#include "service/invocation/parts.h"

enum { SCHEMA_WITH_INVOCATIONS = 4 };

struct accept {
    struct invocation_service *service;
    char id[INVOCATION_ID_SIZE];
    char project[64];
    char name[64];
    char idempotency[INVOCATION_TEXT_SIZE];
    char digest[HASH_TEXT_SIZE];
    bool is_repeated;
    struct run *run; /* it is claimed with its row; NULL: it waits for an owner */
    struct error error;
    void (*done)(const struct error *error, const char *id, bool is_repeated, void *context);
    void *context;
};

static void tell(void *argument)
{
    struct accept *accept = argument;
    accept->done(accept->error.kind != ERROR_NONE ? &accept->error : NULL, accept->id,
                 accept->is_repeated, accept->context);
    free(accept);
}

/* ---- The same request again ---- */

static bool take_earlier(sqlite3_stmt *row, void *context)
{
    struct accept *accept = context;
    const char *digest = (const char *)sqlite3_column_text(row, 1);
    accept->is_repeated = true;
    snprintf(accept->id, sizeof(accept->id), "%s", (const char *)sqlite3_column_text(row, 0));
    if (strcmp(digest, accept->digest) != 0) {
        error_set(&accept->error, ERROR_UNSUPPORTED,
                  "Idempotency-Key %.80s was used for another request (invocation %s); use a new "
                  "key",
                  accept->idempotency, accept->id);
    }
    return false;
}

static bool find_earlier(struct accept *accept)
{
    struct error ignored = {0};
    if (accept->idempotency[0] != '\0') {
        store_query(accept->service->options.store, &ignored, take_earlier, accept,
                    "SELECT key, digest FROM invocation WHERE project = ? AND name = ? AND "
                    "idempotency = ?",
                    "ttt", accept->project, accept->name, accept->idempotency);
    }
    return accept->is_repeated;
}

/* ---- The row ---- */

static void add_row(struct store_command *command, const struct accept *accept,
                    const struct invocation_request *request, const char *json, const char *policy,
                    uint64_t max_age_ms, uint64_t owner)
{
    uint64_t now_ms = clock_real_ms();
    bool has_key = accept->idempotency[0] != '\0';
    store_command_add_expecting(
        command, ERROR_EXISTS, "the idempotency key was used before",
        "INSERT INTO invocation (key, project, function, name, state, idempotency, digest, "
        "request, body, policy, attempts, due_ms, deadline_ms, owner, epoch, size, history, "
        "created_ms, updated_ms, revision) VALUES (?, ?, ?, ?, iif(? > 0, 'running', 'pending'), "
        "?, ?, ?, ?, ?, iif(? > 0, 1, 0), ?, ?, ?, ?, ?, '[]', ?, ?, ?) ON CONFLICT DO NOTHING",
        "ttttutttbtuuuuruuur", accept->id, accept->project, request->function, accept->name, owner,
        has_key ? accept->idempotency : NULL, has_key ? accept->digest : NULL, json,
        request->body != NULL ? request->body : "", request->body_length, policy, owner, now_ms,
        now_ms + max_age_ms, owner, (uint64_t)request->body_length + 1024, now_ms, now_ms);
    store_command_add(command,
                      "INSERT INTO invocation_load (project, live, bytes) VALUES (?, 0, 0) ON "
                      "CONFLICT (project) DO NOTHING",
                      "t", accept->project);
    store_command_add_expecting(
        command, ERROR_LIMIT,
        "the project has as many invocations waiting as it may; try again when some have ended",
        "UPDATE invocation_load SET live = live + 1, bytes = bytes + ? WHERE project = ? AND live "
        "< ? AND bytes < ?",
        "utuu", (uint64_t)request->body_length + 1024, accept->project,
        (uint64_t)INVOCATION_LIVE_MAX, (uint64_t)INVOCATION_BYTES_MAX);
}

void accept_add(struct store_command *command, const struct invocation_request *request,
                const char *json, uint64_t now_ms)
{
    BUFFER_OWNED struct buffer policy = {0};
    char id[INVOCATION_ID_SIZE];
    char name[64];
    uint64_t size = (uint64_t)request->body_length + 1024;
    random_hex(id, INVOCATION_ID_SIZE - 1);
    policy_write(request->policy, &policy);
    snprintf(name, sizeof(name), "%.*s", (int)strcspn(request->function, ":"), request->function);
    store_command_add(
        command,
        "INSERT INTO invocation (key, project, function, name, state, request, body, policy, "
        "attempts, due_ms, deadline_ms, owner, epoch, size, history, created_ms, updated_ms, "
        "revision) VALUES (?, ?, ?, ?, 'pending', ?, ?, ?, 0, ?, ?, 0, 0, ?, '[]', ?, ?, ?)",
        "tttttbtuuuuur", id, request->project, request->function, name, json, request->body,
        request->body_length, buffer_string(&policy), now_ms, now_ms + request->policy->max_age_ms,
        size, now_ms, now_ms);
    store_command_add(command,
                      "UPDATE invocation_load SET live = live + 1, bytes = bytes + ? WHERE project "
                      "= ?",
                      "ut", size, request->project);
}

static void on_written(const struct error *error, uint64_t index, void *context)
{
    struct accept *accept = context;
    (void)index;
    if (error == NULL) {
        if (accept->run != NULL) {
            run_start(accept->run);
        }
    } else {
        if (accept->run != NULL) {
            run_drop(accept->run);
        }
        if (error->kind != ERROR_EXISTS || !find_earlier(accept)) {
            accept->error = *error;
        }
    }
    tell(accept);
}

/* Who was let in, and by which route: asked for when it was accepted, not when it runs. */
static void write_origin(const struct gateway_origin *origin, struct json_writer *writer)
{
    const char *const fields[][2] = {{"pattern", origin->pattern},
                                     {"user", origin->caller.user},
                                     {"subject", origin->caller.subject},
                                     {"fingerprint", origin->caller.fingerprint}};
    json_write_key(writer, "origin");
    json_write_begin_object(writer);
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        if (fields[i][1][0] != '\0') {
            json_write_field_string(writer, fields[i][0], fields[i][1]);
        }
    }
    json_write_field_bool(writer, "secure", origin->is_secure);
    json_write_end_object(writer);
}

static void write_request(const struct invocation_request *request, struct buffer *out)
{
    struct json_writer writer = json_writer_to(out);
    json_write_begin_object(&writer);
    json_write_field_string(&writer, "method", request->method != NULL ? request->method : "POST");
    json_write_field_string(&writer, "path", request->path != NULL ? request->path : "");
    json_write_field_string(&writer, "query", request->query != NULL ? request->query : "");
    json_write_key(&writer, "fields");
    json_write_begin_array(&writer);
    for (size_t i = 0; request->fields != NULL && request->fields[i] != NULL; i++) {
        json_write_string(&writer, request->fields[i]);
    }
    json_write_end_array(&writer);
    if (request->origin != NULL) {
        write_origin(request->origin, &writer);
    }
    json_write_end_object(&writer);
}

/* What makes two requests the same: what is called, how, and with what; not the fields, which
 * change from hop to hop, but for the type of the body. */
static void digest_request(const struct invocation_request *request, struct accept *accept)
{
    struct hash *hash = hash_new();
    const struct gateway_origin *origin = request->origin;
    const char *const parts[] = {
        request->function,
        request->method,
        request->path,
        request->query,
        /* One client's key is no other one's. */
        origin != NULL && origin->caller.user[0] != '\0' ? origin->caller.user : NULL,
        origin != NULL && origin->caller.subject[0] != '\0' ? origin->caller.subject : NULL,
    };
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        const char *part = parts[i] != NULL ? parts[i] : "";
        if (i < 4 || parts[i] != NULL) { /* as it always was, where nobody was asked for */
            hash_add(hash, part, strlen(part) + 1);
        }
    }
    for (size_t i = 0; request->fields != NULL && request->fields[i] != NULL; i++) {
        if (strncasecmp(request->fields[i], "Content-Type:", 13) == 0) {
            hash_add(hash, request->fields[i], strlen(request->fields[i]) + 1);
        }
    }
    if (request->body_length > 0) {
        hash_add(hash, request->body, request->body_length);
    }
    hash_finish(hash, accept->digest);
}

/* Is there such a function at all?  One that is being built will be there. */
static int check_function(struct invocation_service *service, const char *project,
                          const char *function, struct error *err)
{
    struct instance_target *target = NULL;
    struct text name = text_of(function, strlen(function));
    int r = function_route_find(service->options.functions, project, name, &target, err);
    instance_target_unref(target);
    if (r == -ERROR_NOT_FOUND) {
        return r;
    }
    *err = (struct error){0};
    return 0;
}

static int check(struct invocation_service *service, const struct invocation_request *request,
                 struct error *err)
{
    if (service->is_stopping) {
        return error_set(err, ERROR_UNAVAILABLE, "the node is shutting down");
    }
    if (store_schema_now(service->options.store) < SCHEMA_WITH_INVOCATIONS) {
        return error_set(err, ERROR_UNAVAILABLE,
                         "asynchronous invocations are known when every node of the cluster runs "
                         "this version");
    }
    if (request->body_length > INVOCATION_BODY_MAX) {
        return error_set(err, ERROR_TOO_LARGE,
                         "the body has %zu bytes; an asynchronous invocation takes at most %d",
                         request->body_length, (int)INVOCATION_BODY_MAX);
    }
    int r = function_policy_check(request->policy, err);
    return r < 0 ? r : check_function(service, request->project, request->function, err);
}

/* Queues and streams are not made by what is sent to them. */
static int check_stored(struct invocation_service *service, const char *project, const char *scheme,
                        const char *name, const char *preference, struct error *err)
{
    uint64_t count = 0;
    bool is_queue = strcmp(scheme, "queue") == 0;
    MEMORY_OWNED char *key = memory_format("%s/%s", project, name);
    int r = store_query(service->options.store, err, store_take_u64, &count,
                        is_queue ? "SELECT count(*) FROM queue WHERE key = ?"
                                 : "SELECT count(*) FROM stream WHERE key = ?",
                        "t", key);
    return r < 0 || count > 0
        ? r
        : error_set(err, ERROR_NOT_FOUND,
                    "there is no %s %s in project %s to be told of the end (%s); make it first: "
                    "blixard %s create %s",
                    scheme, name, project, preference, scheme, name);
}

static int check_destination(struct invocation_service *service, const char *project,
                             const char *destination, const char *preference, struct error *err)
{
    static const char *const stored[] = {"queue", "stream"};
    const char *colon = strchr(destination, ':');
    for (size_t i = 0; colon != NULL && i < 2; i++) {
        if (text_equal(text_of(destination, (size_t)(colon - destination)), stored[i])) {
            return check_stored(service, project, stored[i], colon + 1, preference, err);
        }
    }
    if (colon == NULL || check_function(service, project, colon + 1, err) == 0) {
        return 0;
    }
    return error_set(err, ERROR_NOT_FOUND,
                     "there is no function %s in project %s to be told of the end (%s); deploy it "
                     "first: blixard fn deploy %.*s",
                     colon + 1, project, preference, (int)strcspn(colon + 1, ":"), colon + 1);
}

/* What was asked for and is not there would be told for a day, in vain and far from whoever could
 * mend it.  A function's own default refuses no work: `destination_error` tells of it. */
static int check_destinations(struct invocation_service *service,
                              const struct invocation_request *request, struct error *err)
{
    const struct function_policy *asked = request->policy;
    struct function_policy usual;
    int r = 0;
    if (asked->on_success[0] == '\0' && asked->on_failure[0] == '\0') {
        return 0; /* nobody is to be told */
    }
    function_read_policy(service->options.functions, request->project, request->function, &usual);
    if (strcmp(asked->on_success, usual.on_success) != 0) {
        r = check_destination(service, request->project, asked->on_success, "on-success", err);
    }
    if (r == 0 && strcmp(asked->on_failure, usual.on_failure) != 0) {
        r = check_destination(service, request->project, asked->on_failure, "on-failure", err);
    }
    return r;
}

void invocation_create(struct invocation_service *service, const struct invocation_request *request,
                       void (*done)(const struct error *error, const char *id, bool is_repeated,
                                    void *context),
                       void *context)
{
    struct accept *accept = NEW(struct accept);
    const struct invocation_options *options = &service->options;
    accept->service = service;
    accept->done = done;
    accept->context = context;
    random_hex(accept->id, INVOCATION_ID_SIZE - 1);
    snprintf(accept->project, sizeof(accept->project), "%s", request->project);
    snprintf(accept->name, sizeof(accept->name), "%.*s", (int)strcspn(request->function, ":"),
             request->function);
    snprintf(accept->idempotency, sizeof(accept->idempotency), "%s",
             request->idempotency != NULL ? request->idempotency : "");
    digest_request(request, accept);
    if (check(service, request, &accept->error) < 0 || find_earlier(accept) ||
        check_destinations(service, request, &accept->error) < 0) {
        loop_post(options->loop, tell, accept);
        return;
    }
    BUFFER_OWNED struct buffer json = {0};
    BUFFER_OWNED struct buffer policy = {0};
    write_request(request, &json);
    policy_write(request->policy, &policy);
    bool is_owner = options->cluster == NULL || cluster_is_owner(options->cluster);
    if (is_owner && !service->has_backlog &&
        policy_may_run(run_count_of(service, accept->project), service->run_count)) {
        accept->run = run_new(service, accept->project, accept->id);
    }
    struct store_command *command = store_command_new();
    add_row(command, accept, request, buffer_string(&json), buffer_string(&policy),
            request->policy->max_age_ms, accept->run != NULL ? own_node(service) : 0);
    store_propose(options->store, command, on_written, accept);
}
