/*
 * Applying a plan: an operation that makes one request after the other.
 *
 * After each object it is read again, and what became of its values is noted with the owner's
 * fields: so that an apply that ends in the middle has told what it did, and the next one finds it
 * done.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/memory.h"

#include "engine/store/store.h"

#include "service/manifest/parts.h"

#define APPLY_KIND "manifest.apply"

enum { DONE_TEXT_SIZE = 200, WHY_SIZE = 320, WAIT_MS = 2000 }; /* so late is a cancel noticed */

struct apply {
    struct list_node link;
    struct manifest_service *service;
    struct manifest_plan *plan;
    char operation[OPERATION_ID_SIZE];
    operation_begun *begun;
    void *context;
    size_t at;     /* of the actions */
    json_t *calls; /* of this one */
    size_t call_at;
    char *waits_for; /* id of another operation */
    json_t *notes;   /* what people should know */
    size_t done;
    char done_text[DONE_TEXT_SIZE];
    uint64_t deadline_ms;
    char why[WHY_SIZE]; /* what is waited for is not so yet; "": nothing is known of that */
    bool is_cancelled;
};

static void next_action(struct apply *apply);
static void next_call(struct apply *apply);

static struct action *current(struct apply *apply)
{
    CHECK(apply->at < apply->plan->count);
    return &apply->plan->actions[apply->at];
}

static void apply_free(struct apply *apply)
{
    if (list_contains_node(&apply->link)) {
        list_remove(&apply->link);
    }
    manifest_plan_free(apply->plan);
    json_decref(apply->calls);
    json_decref(apply->notes);
    free(apply->waits_for);
    free(apply);
}

/* ---- Its end ---- */

static void fail(struct apply *apply, const struct error *error)
{
    struct error err = *error;
    if (apply->at < apply->plan->count && err.kind != ERROR_CANCELLED) {
        error_wrap(&err, "%s %.64s", current(apply)->kind->name, current(apply)->name);
    }
    struct error whole = {0};
    error_set(&whole, err.kind, "%s (done before: %s; applying again goes on from there)", err.text,
              apply->done > 0 ? apply->done_text : "nothing");
    operation_on_cancel(apply->service->options.operations, apply->operation, NULL, NULL);
    operation_fail(apply->service->options.operations, apply->operation, &whole);
    apply_free(apply);
}

static void succeed(struct apply *apply)
{
    JSON_OWNED json_t *result =
        json_pack("{s:I,s:O}", "changed", (json_int_t)apply->done, "notes", apply->notes);
    MEMORY_OWNED char *text = json_dumps(result, JSON_COMPACT);
    operation_on_cancel(apply->service->options.operations, apply->operation, NULL, NULL);
    operation_succeed(apply->service->options.operations, apply->operation, text);
    apply_free(apply);
}

/* False: it has ended here. */
static bool goes_on(struct apply *apply)
{
    struct error err = {0};
    if (apply->service->ends) {
        error_set(&err, ERROR_CANCELLED, "the node stops");
    } else if (apply->is_cancelled) {
        error_set(&err, ERROR_CANCELLED, "cancelled");
    } else if (clock_monotonic_ms() > apply->deadline_ms) {
        error_set(&err, ERROR_TIMEOUT, "it took longer than the timeout%s", apply->why);
    }
    if (err.kind != ERROR_NONE) {
        fail(apply, &err);
        return false;
    }
    return true;
}

/* Of one request: so long at most, and no longer than the whole may take. */
static uint64_t wait_ms(const struct apply *apply)
{
    uint64_t now_ms = clock_monotonic_ms();
    uint64_t left_ms = apply->deadline_ms > now_ms ? apply->deadline_ms - now_ms + 1 : 1;
    return left_ms < WAIT_MS ? left_ms : WAIT_MS;
}

static void on_cancel(void *context)
{
    struct apply *apply = context;
    apply->is_cancelled = true; /* what has begun ends first */
}

/* ---- Noting ---- */

static void on_noted(const struct error *error, uint64_t index, void *context)
{
    struct apply *apply = context;
    const struct action *action = current(apply);
    (void)index;
    if (error != NULL) {
        fail(apply, error);
        return;
    }
    if (action->what != ACTION_NONE) {
        size_t used = strlen(apply->done_text);
        apply->done++;
        snprintf(apply->done_text + used, DONE_TEXT_SIZE - used, "%s%s %s", used > 0 ? ", " : "",
                 action->kind->name, action->name);
    }
    apply->at++;
    apply->why[0] = '\0';
    next_action(apply);
}

static void note(struct apply *apply, const json_t *settled)
{
    struct action *action = current(apply);
    struct store_command *command = store_command_new();
    if (action->spec == NULL) {
        owners_add_gone(command, action);
    } else {
        owners_add_applied(command, action, apply->plan->set->owner, settled);
    }
    store_propose(apply->service->options.store, command, on_noted, apply);
}

static bool is_healthy(const json_t *machine)
{
    const char *health = json_text(machine, "health_state");
    return health[0] == '\0' ? strcmp(json_text(machine, "state"), "running") == 0
                             : strcmp(health, "healthy") == 0;
}

/* A machine that is not to run is not waited for. */
static bool must_wait(const struct apply *apply, const struct action *action, const json_t *answer)
{
    return apply->plan->set->wants_healthy && strcmp(action->kind->name, "Machine") == 0 &&
        strcmp(json_text(answer, "desired"), "running") == 0 && !is_healthy(answer);
}

static void note_why(struct apply *apply, const json_t *machine)
{
    const char *reason = json_text(machine, "reason");
    const char *health = json_text(machine, "health_reason");
    reason = reason[0] != '\0' ? reason : health;
    snprintf(apply->why, sizeof(apply->why), ", and is %.20s%s%.200s", json_text(machine, "state"),
             reason[0] != '\0' ? ": " : "", reason);
}

static void on_seen(int status, const json_t *answer, const struct error *error, void *context);

static void look(struct apply *apply, uint64_t after)
{
    const struct action *action = current(apply);
    MEMORY_OWNED char *target = ask_target(action->kind, action->project, action->name);
    MEMORY_OWNED char *waiting =
        memory_format("%s&index=%" PRIu64 "&wait=%" PRIu64 "ms", target, after, wait_ms(apply));
    if (goes_on(apply)) {
        ask(apply->service, "GET", after > 0 ? waiting : target, NULL, on_seen, apply);
    }
}

static void on_seen(int status, const json_t *answer, const struct error *error, void *context)
{
    struct apply *apply = context;
    const struct action *action = current(apply);
    struct error err = {0};
    if (error != NULL) {
        fail(apply, error);
    } else if (!plan_is_there(action->kind, action->name, status, answer)) {
        error_set(&err, ERROR_CONFLICT, "it was deleted at the same moment");
        fail(apply, &err);
    } else if (must_wait(apply, action, answer)) {
        note_why(apply, answer);
        look(apply, store_index(apply->service->options.store));
    } else {
        JSON_OWNED json_t *settled = observe_spec(action->kind, action->name, answer);
        note(apply, settled);
    }
}

/* ---- Doing ---- */

static void on_waited(int status, const json_t *answer, const struct error *error, void *context);

static void wait_for(struct apply *apply)
{
    MEMORY_OWNED char *target =
        memory_format("/v1/operations/%s/wait?timeout=%" PRIu64 "ms&project=%s", apply->waits_for,
                      wait_ms(apply), current(apply)->project);
    if (goes_on(apply)) {
        ask(apply->service, "GET", target, NULL, on_waited, apply);
    }
}

static void on_waited(int status, const json_t *answer, const struct error *error, void *context)
{
    struct apply *apply = context;
    const char *state = json_text(answer, "state");
    struct error err = {0};
    (void)status;
    if (error != NULL) {
        fail(apply, error);
    } else if (strcmp(state, "pending") == 0 || strcmp(state, "running") == 0) {
        wait_for(apply);
    } else if (strcmp(state, "succeeded") == 0) {
        apply->call_at++;
        next_call(apply);
    } else {
        enum error_kind kind = error_kind_parse(json_text(answer, "error_code"));
        error_set(&err, kind != ERROR_NONE ? kind : ERROR_CONFLICT, "%s: %s", state,
                  json_text(answer, "error"));
        fail(apply, &err);
    }
}

static void take_notes(struct apply *apply, const json_t *answer)
{
    size_t index = 0;
    json_t *field = NULL;
    json_array_foreach(json_object_get(answer, "at_next_start"), index, field)
    {
        json_array_append_new(apply->notes,
                              json_sprintf("machine %s has its %s from its next start on: blixard "
                                           "vm restart %s",
                                           current(apply)->name, json_string_value(field),
                                           current(apply)->name));
    }
}

static void on_called(int status, const json_t *answer, const struct error *error, void *context)
{
    struct apply *apply = context;
    const json_t *call = json_array_get(apply->calls, apply->call_at);
    bool was_gone = error != NULL && error->kind == ERROR_NOT_FOUND &&
        strcmp(json_text(call, "method"), "DELETE") == 0;
    const char *operation = json_text(answer, "operation");
    (void)status;
    if (error != NULL && !was_gone) {
        fail(apply, error);
        return;
    }
    take_notes(apply, answer);
    if (error == NULL && operation[0] != '\0') {
        free(apply->waits_for);
        apply->waits_for = memory_copy_string(operation);
        wait_for(apply);
        return;
    }
    apply->call_at++;
    next_call(apply);
}

static void next_call(struct apply *apply)
{
    if (apply->call_at < json_array_size(apply->calls)) {
        const json_t *call = json_array_get(apply->calls, apply->call_at);
        if (goes_on(apply)) {
            ask(apply->service, json_text(call, "method"), json_text(call, "target"),
                json_object_get(call, "body"), on_called, apply);
        }
    } else if (current(apply)->spec == NULL) {
        note(apply, NULL);
    } else {
        look(apply, 0);
    }
}

static void next_action(struct apply *apply)
{
    const struct manifest_plan *plan = apply->plan;
    while (apply->at < plan->count && plan->actions[apply->at].what == ACTION_NONE &&
           !plan->actions[apply->at].adopts && !plan->set->wants_healthy) {
        apply->at++;
    }
    if (apply->at == plan->count) {
        succeed(apply);
        return;
    }
    if (!goes_on(apply)) {
        return;
    }
    const struct action *action = current(apply);
    MEMORY_OWNED char *text =
        memory_format("%s %s: %s", action->kind->name, action->name, action_text(action->what));
    operation_progress(apply->service->options.operations, apply->operation,
                       (unsigned)(apply->at * 100 / plan->count), text);
    json_decref(apply->calls);
    apply->calls = calls_of(action);
    apply->call_at = 0;
    next_call(apply);
}

/* ---- Its beginning ---- */

static int refuse_conflict(const struct action *action, struct error *err)
{
    const json_t *conflict = json_array_get(action->conflicts, 0);
    MEMORY_OWNED char *value =
        json_dumps(json_object_get(conflict, "value"), JSON_ENCODE_ANY | JSON_COMPACT);
    return error_set(err, ERROR_CONFLICT,
                     "%s: %s %s: %s is %s's, who wants %.100s; --force-conflicts takes it over",
                     action->place, action->kind->name, action->name, json_text(conflict, "path"),
                     json_text(conflict, "owner"), value);
}

static int check_action(const struct manifest_set *set, const struct action *action,
                        struct error *err)
{
    if (action->what == ACTION_MISSING) {
        return action->kind->way == WAY_NODE
            ? error_set(err, ERROR_NOT_FOUND, "%s: there is no node %s; nodes join by themselves",
                        action->place, action->name)
            : error_set(err, ERROR_NOT_FOUND,
                        "%s: there is no secret %s: its value is in no manifest; blixard secret "
                        "set %s",
                        action->place, action->name, action->name);
    }
    if (json_array_size(action->conflicts) > 0 && !set->forces) {
        return refuse_conflict(action, err);
    }
    if (action->what == ACTION_REPLACE && !set->replaces) {
        return error_set(err, ERROR_INVALID,
                         "%s: %s %s would be deleted, with what is in it, and made anew; --replace "
                         "allows that",
                         action->place, action->kind->name, action->name);
    }
    for (size_t i = 0; i < json_array_size(action->rows); i++) {
        if (set->if_index > 0 &&
            json_u64(json_array_get(action->rows, i), "revision") > set->if_index) {
            return error_set(err, ERROR_CONFLICT,
                             "%s: %s %s was applied since index %" PRIu64 "; plan again",
                             action->place, action->kind->name, action->name, set->if_index);
        }
    }
    return 0;
}

static int check(struct manifest_service *service, const struct manifest_plan *plan,
                 struct error *err)
{
    const struct manifest_set *set = plan->set;
    int r = 0;
    if (!owners_are_kept(service->options.store)) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "a node of the cluster is too old for manifests: update it first");
    }
    for (size_t i = 0; i < plan->count && r == 0; i++) {
        r = check_action(set, &plan->actions[i], err);
    }
    if (r == 0 && set->plan_digest[0] != '\0' && strcmp(set->plan_digest, plan->digest) != 0) {
        return error_set(err, ERROR_CONFLICT,
                         "it would do something else than plan %.32s said; plan again",
                         set->plan_digest);
    }
    return r;
}

static void on_begun(const struct error *error, uint64_t index, void *context)
{
    struct apply *apply = context;
    struct operation_service *operations = apply->service->options.operations;
    (void)index;
    if (!operation_tell(operations, apply->operation, error, apply->begun, apply->context)) {
        apply_free(apply);
        return;
    }
    operation_on_cancel(operations, apply->operation, on_cancel, apply);
    next_action(apply);
}

/* One owner applies one thing at a time in a project: the second one would see half of the first.
 */
static void add_lock(struct store_command *command, const struct apply *apply)
{
    const struct manifest_set *set = apply->plan->set;
    MEMORY_OWNED char *key = memory_format("%s/%s", set->project, set->owner);
    MEMORY_OWNED char *resource = memory_format("owners/%s", set->owner);
    store_command_add_expecting(
        command, ERROR_CONFLICT, "this owner is applying something else to the project already",
        "INSERT INTO manifest_owner (key, applied_ms, revision) SELECT ?, ?, ? WHERE NOT EXISTS "
        "(SELECT 1 FROM operation WHERE kind = '" APPLY_KIND "' AND project = ? AND resource = ? "
        "AND state IN ('pending', 'running')) ON CONFLICT (key) DO UPDATE SET applied_ms = "
        "excluded.applied_ms, revision = excluded.revision",
        "turtt", key, clock_real_ms(), set->project, resource);
}

void manifest_apply(struct manifest_service *service, struct manifest_plan *owned_plan,
                    operation_begun *begun, void *context)
{
    struct error err = {0};
    if (check(service, owned_plan, &err) < 0) {
        manifest_plan_free(owned_plan);
        begun(&err, NULL, context);
        return;
    }
    struct apply *apply = NEW(struct apply);
    apply->service = service;
    apply->plan = owned_plan;
    apply->begun = begun;
    apply->context = context;
    apply->notes = json_array();
    apply->deadline_ms = clock_monotonic_ms() + owned_plan->set->timeout_ms;
    list_push_back(&service->applies, &apply->link);
    struct store_command *command = store_command_new();
    add_lock(command, apply);
    MEMORY_OWNED char *resource = memory_format("owners/%s", owned_plan->set->owner);
    const struct operation_start start = {
        .kind = APPLY_KIND, .project = owned_plan->set->project, .resource = resource};
    operation_add(service->options.operations, command, &start, apply->operation);
    store_propose(service->options.store, command, on_begun, apply);
}

/* ---- The service ---- */

int manifest_service_new(const struct manifest_options *options,
                         struct manifest_service **ret_service, struct error *err)
{
    const struct http_client_options client = {.connections_max = 8};
    struct manifest_service *service = NEW(struct manifest_service);
    service->options = *options;
    list_init(&service->asks);
    list_init(&service->applies);
    int r = http_client_new(options->loop, options->address, &client, &service->client, err);
    if (r < 0) {
        free(service);
        return r;
    }
    *ret_service = service;
    return 0;
}

void manifest_service_free(struct manifest_service *service)
{
    if (service == NULL) {
        return;
    }
    service->ends = true;
    http_client_free(service->client); /* which ends what is asked */
    store_settle(service->options.store);
    CHECK(list_is_empty(&service->asks));
    CHECK(list_is_empty(&service->applies));
    free(service);
}
