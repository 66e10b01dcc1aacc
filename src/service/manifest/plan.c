/* A plan: what is there is read, object by object, then it is decided what each takes. */
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/json.h"
#include "base/memory.h"

#include "engine/store/store.h"

#include "service/manifest/parts.h"

struct planning {
    struct manifest_service *service;
    struct manifest_plan *plan;
    size_t at;
    struct error error; /* of what it is about */
    manifest_planned *done;
    void *context;
};

/* ---- What it is about ---- */

static void add_manifest(struct manifest_plan *plan, const struct manifest *manifest, bool goes)
{
    plan->actions[plan->count++] = (struct action){
        .kind = manifest->kind,
        .name = memory_copy_string(manifest->name),
        .project = memory_copy_string(manifest->project),
        .place = memory_copy_string(manifest->place),
        .labels = json_incref(manifest->labels),
        .spec = goes ? NULL : json_incref(manifest->spec),
    };
}

static bool is_in_set(const struct manifest_set *set, const json_t *object)
{
    for (size_t i = 0; i < set->count; i++) {
        if (strcmp(set->items[i].kind->name, json_text(object, "kind")) == 0 &&
            strcmp(set->items[i].name, json_text(object, "name")) == 0 &&
            strcmp(set->items[i].project, json_text(object, "project")) == 0) {
            return true;
        }
    }
    return false;
}

/* What this owner has applied with these labels before, and is in no document any more. */
static int add_pruned(struct manifest_service *service, struct manifest_plan *plan,
                      struct error *err)
{
    JSON_OWNED json_t *objects = NULL;
    size_t index = 0;
    json_t *object = NULL;
    struct error ignored = {0};
    int r = owners_list(service->options.store, plan->set, &objects, err);
    if (r < 0) {
        return r;
    }
    plan->actions = memory_resize(
        plan->actions, (plan->count + json_array_size(objects) + 1) * sizeof(*plan->actions));
    json_array_foreach(objects, index, object)
    {
        const struct manifest_kind *kind = kind_find(json_text(object, "kind"), &ignored);
        if (kind != NULL && !is_in_set(plan->set, object)) {
            plan->actions[plan->count++] = (struct action){
                .kind = kind,
                .name = memory_copy_string(json_text(object, "name")),
                .project = memory_copy_string(json_text(object, "project")),
                .place = memory_copy_string("applied before"),
                .labels = json_object(),
            };
        }
    }
    return 0;
}

static int begin(struct manifest_service *service, struct manifest_plan *plan, struct error *err)
{
    const struct manifest_set *set = plan->set;
    plan->actions = memory_new(set->count + 1, sizeof(*plan->actions));
    for (size_t i = 0; i < set->count; i++) {
        add_manifest(plan, &set->items[i], set->deletes);
    }
    return set->prunes ? add_pruned(service, plan, err) : 0;
}

/* ---- Reading what is there ---- */

bool plan_is_there(const struct manifest_kind *kind, const char *name, int status,
                   const json_t *answer)
{
    return status >= 200 && status < 300 &&
        (kind->way != WAY_ALIAS ||
         json_object_get(json_object_get(answer, "aliases"), strchr(name, ':') + 1) != NULL);
}

static void finish(struct planning *planning, const struct error *error)
{
    struct manifest_plan *plan = planning->plan;
    if (error != NULL) {
        manifest_plan_free(plan);
        plan = NULL;
    }
    planning->done(error, plan, planning->context);
    free(planning);
}

static void digest_of(struct manifest_plan *plan)
{
    BUFFER_OWNED struct buffer text = {0};
    for (size_t i = 0; i < plan->count; i++) {
        const struct action *action = &plan->actions[i];
        MEMORY_OWNED char *changes = json_dumps(action->changes, JSON_COMPACT | JSON_SORT_KEYS);
        buffer_append_format(&text, "%s/%s/%s %s %s\n", action->project, action->kind->name,
                             action->name, action_text(action->what), changes);
    }
    hash_bytes(buffer_string(&text), text.used, plan->digest);
    plan->digest[16] = '\0';
}

static void on_previewed(void *context)
{
    finish(context, NULL);
}

static void on_checked(const struct error *error, void *context)
{
    struct planning *planning = context;
    struct manifest_plan *plan = planning->plan;
    if (error != NULL) {
        finish(planning, error);
    } else {
        preview_make(planning->service, plan->actions, plan->count, on_previewed, planning);
    }
}

static void decide(struct planning *planning)
{
    struct manifest_plan *plan = planning->plan;
    struct error err = {0};
    int r = 0;
    for (size_t i = 0; i < plan->count && r == 0; i++) {
        struct action *action = &plan->actions[i];
        r = owners_of(planning->service->options.store, action, &action->rows, &err);
        r = r < 0 ? r : action_decide(action, plan->set->owner, &err);
    }
    if (r == 0) {
        order_actions(plan->actions, plan->count);
        plan->index = store_index(planning->service->options.store);
        digest_of(plan);
    }
    if (r < 0) {
        finish(planning, &err);
    } else {
        check_make(planning->service, plan->actions, plan->count, on_checked, planning);
    }
}

static void read_next(struct planning *planning);

static void on_read(int status, const json_t *answer, const struct error *error, void *context)
{
    struct planning *planning = context;
    struct action *action = &planning->plan->actions[planning->at];
    if (error != NULL && error->kind != ERROR_NOT_FOUND) {
        struct error err = *error;
        error_wrap(&err, "%s %s", action->kind->name, action->name);
        finish(planning, &err);
        return;
    }
    if (plan_is_there(action->kind, action->name, status, answer)) {
        action->observed = observe_spec(action->kind, action->name, answer);
    }
    planning->at++;
    read_next(planning);
}

static void read_next(struct planning *planning)
{
    if (planning->at == planning->plan->count) {
        decide(planning);
        return;
    }
    const struct action *action = &planning->plan->actions[planning->at];
    MEMORY_OWNED char *target = ask_target(action->kind, action->project, action->name);
    ask(planning->service, "GET", target, NULL, on_read, planning);
}

/* There is nothing to be read; by way of the API, so that the answer comes later, as always. */
static void on_nothing(int status, const json_t *answer, const struct error *error, void *context)
{
    struct planning *planning = context;
    (void)status;
    (void)answer;
    if (planning->error.kind != ERROR_NONE || error != NULL) {
        const struct error err = planning->error.kind != ERROR_NONE ? planning->error : *error;
        finish(planning, &err);
    } else {
        decide(planning);
    }
}

void manifest_plan_make(struct manifest_service *service, struct manifest_set *owned_set,
                        manifest_planned *done, void *context)
{
    struct planning *planning = NEW(struct planning);
    planning->service = service;
    planning->plan = NEW(struct manifest_plan);
    planning->plan->set = owned_set;
    planning->done = done;
    planning->context = context;
    int r = begin(service, planning->plan, &planning->error);
    if (r < 0 || planning->plan->count == 0) {
        ask(service, "GET", "/healthz", NULL, on_nothing, planning);
    } else {
        read_next(planning);
    }
}

void manifest_plan_free(struct manifest_plan *plan)
{
    if (plan == NULL) {
        return;
    }
    for (size_t i = 0; i < plan->count; i++) {
        action_done(&plan->actions[i]);
    }
    free(plan->actions);
    manifest_set_free(plan->set);
    free(plan);
}

size_t manifest_plan_count(const struct manifest_plan *plan)
{
    return plan->count;
}

const char *manifest_plan_permission(const struct manifest_plan *plan, size_t index)
{
    const struct action *action = &plan->actions[index];
    return action->what == ACTION_NONE && !action->adopts ? NULL : action->kind->write;
}

/* ---- As JSON ---- */

static void write_value(struct json_writer *writer, const char *key, const json_t *value)
{
    MEMORY_OWNED char *text =
        json_is_null(value) ? NULL : json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
    json_write_field_string(writer, key, text);
}

static void write_change(struct json_writer *writer, const json_t *change)
{
    json_write_begin_object(writer);
    json_write_field_string(writer, "path", json_text(change, "path"));
    write_value(writer, "before", json_object_get(change, "before"));
    write_value(writer, "after", json_object_get(change, "after"));
    json_write_field_string(writer, "effect", json_text(change, "effect"));
    json_write_end_object(writer);
}

static void write_conflict(struct json_writer *writer, const json_t *conflict)
{
    json_write_begin_object(writer);
    json_write_field_string(writer, "path", json_text(conflict, "path"));
    json_write_field_string(writer, "owner", json_text(conflict, "owner"));
    write_value(writer, "value", json_object_get(conflict, "value"));
    json_write_end_object(writer);
}

static void write_action(struct json_writer *writer, const struct action *action)
{
    size_t index = 0;
    json_t *item = NULL;
    json_write_begin_object(writer);
    json_write_field_string(writer, "kind", action->kind->name);
    json_write_field_string(writer, "name", action->name);
    json_write_field_string(writer, "project", action->project);
    json_write_field_string(writer, "place", action->place);
    json_write_field_string(writer, "action", action_text(action->what));
    json_write_field_bool(writer, "adopts", action->adopts);
    json_write_key(writer, "changes");
    json_write_begin_array(writer);
    json_array_foreach(action->changes, index, item)
    {
        write_change(writer, item);
    }
    json_write_end_array(writer);
    json_write_key(writer, "conflicts");
    json_write_begin_array(writer);
    json_array_foreach(action->conflicts, index, item)
    {
        write_conflict(writer, item);
    }
    json_write_end_array(writer);
    json_write_key(writer, "released");
    json_write_begin_array(writer);
    json_array_foreach(action->released, index, item)
    {
        json_write_string(writer, json_string_value(item));
    }
    json_write_end_array(writer);
    json_write_key(writer, "lacks");
    json_write_begin_array(writer);
    json_array_foreach(action->lacks, index, item)
    {
        json_write_string(writer, json_string_value(item));
    }
    json_write_end_array(writer);
    if (action->placement != NULL) {
        MEMORY_OWNED char *text = json_dumps(action->placement, JSON_COMPACT);
        json_write_key(writer, "placement");
        json_write_raw(writer, text, strlen(text));
    }
    json_write_end_object(writer);
}

void manifest_plan_write(const struct manifest_plan *plan, struct buffer *out)
{
    uint64_t counts[ACTION_MISSING + 1] = {0};
    struct json_writer writer = json_writer_to(out);
    for (size_t i = 0; i < plan->count; i++) {
        counts[plan->actions[i].what]++;
    }
    json_write_begin_object(&writer);
    json_write_field_u64(&writer, "index", plan->index);
    json_write_field_string(&writer, "plan", plan->digest);
    json_write_field_string(&writer, "owner", plan->set->owner);
    json_write_field_u64(&writer, "changes", plan->count - counts[ACTION_NONE]);
    json_write_field_u64(&writer, "unchanged", counts[ACTION_NONE]);
    for (enum action_what what = ACTION_CREATE; what <= ACTION_MISSING; what++) {
        json_write_field_u64(&writer, action_text(what), counts[what]);
    }
    json_write_key(&writer, "actions");
    json_write_begin_array(&writer);
    for (size_t i = 0; i < plan->count; i++) {
        write_action(&writer, &plan->actions[i]);
    }
    json_write_end_array(&writer);
    json_write_end_object(&writer);
}
