/*
 * Where the machines and functions of a plan would be: asked of the API, project by project, in the
 * order in which they are made.  That it cannot be told is no hindrance to a plan.
 */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"

#include "service/manifest/parts.h"

struct previewing {
    struct manifest_service *service;
    struct action *actions;
    size_t count;
    size_t *asked; /* numbers of the actions that are asked for */
    size_t asked_count;
    bool *is_done;
    void (*done)(void *context);
    void *context;
};

static bool is_placed(const struct action *action)
{
    return (strcmp(action->kind->name, "Machine") == 0 || action->kind->way == WAY_FUNCTION) &&
        (action->what == ACTION_CREATE || action->what == ACTION_UPDATE ||
         action->what == ACTION_REPLACE);
}

/* What a machine is made of, but for what is large and of no weight. */
static json_t *machine_of(const struct action *action)
{
    static const char *const hidden[] = {"user_data", "ssh_keys", "environment", "health"};
    json_t *machine = calls_creation(action);
    if (action->what == ACTION_UPDATE && json_object_get(machine, "image") == NULL) {
        json_object_set(machine, "image", json_object_get(action->observed, "image"));
    }
    for (size_t i = 0; i < sizeof(hidden) / sizeof(hidden[0]); i++) {
        json_object_del(machine, hidden[i]);
    }
    return machine;
}

static json_t *item_of(const struct action *action)
{
    json_t *item = json_object();
    if (action->kind->way != WAY_FUNCTION) {
        json_object_set_new(item, "machine", machine_of(action));
        json_object_set_new(item, "replaces", json_boolean(action->what == ACTION_REPLACE));
        return item;
    }
    JSON_OWNED json_t *whole = calls_whole(action);
    json_object_set_new(item, "function", json_string(action->name));
    if (json_is_object(json_object_get(whole, "placement"))) {
        json_object_set(item, "placement", json_object_get(whole, "placement"));
    }
    return item;
}

static void ask_next(struct previewing *previewing);

static void finish(struct previewing *previewing)
{
    previewing->done(previewing->context);
    free(previewing->asked);
    free(previewing->is_done);
    free(previewing);
}

/* What the plan changes before anything is placed, and the answer does not know of; NULL: nothing.
 */
static const struct action *unsettled(const struct previewing *previewing)
{
    static const char *const kinds[] = {"Node", "PlacementStrategy", "PlacementGroup",
                                        "Reservation"};
    for (size_t i = 0; i < previewing->count; i++) {
        const struct action *action = &previewing->actions[i];
        bool changes = action->what == ACTION_CREATE || action->what == ACTION_UPDATE ||
            action->what == ACTION_REPLACE || action->what == ACTION_DELETE;
        for (size_t k = 0; changes && k < sizeof(kinds) / sizeof(kinds[0]); k++) {
            if (strcmp(action->kind->name, kinds[k]) == 0) {
                return action;
            }
        }
    }
    return NULL;
}

static json_t *answer_of(const struct action *before, const json_t *item)
{
    json_t *answer = item != NULL ? json_deep_copy(item) : NULL;
    if (answer != NULL && before != NULL) {
        MEMORY_OWNED char *reason =
            memory_format("%s; as it is now, before %s %s changes", json_text(answer, "reason"),
                          before->kind->name, before->name);
        json_object_set_new(answer, "reason", json_string(reason));
    }
    return answer;
}

static void on_answer(int status, const json_t *answer, const struct error *error, void *context)
{
    struct previewing *previewing = context;
    const json_t *items = json_object_get(answer, "items");
    const struct action *before = unsettled(previewing);
    (void)status;
    if (error != NULL) {
        log_debug("manifest: where things would be: %s", error->text);
        finish(previewing);
        return;
    }
    for (size_t i = 0; i < previewing->asked_count; i++) {
        previewing->actions[previewing->asked[i]].placement =
            answer_of(before, json_array_get(items, i));
    }
    ask_next(previewing);
}

/* All of the next project. */
static void ask_next(struct previewing *previewing)
{
    JSON_OWNED json_t *body = json_object();
    json_t *items = json_array();
    const char *project = NULL;
    json_object_set_new(body, "items", items);
    previewing->asked_count = 0;
    for (size_t i = 0; i < previewing->count; i++) {
        const struct action *action = &previewing->actions[i];
        if (!previewing->is_done[i] && is_placed(action) &&
            (project == NULL || strcmp(project, action->project) == 0)) {
            project = action->project;
            previewing->is_done[i] = true;
            previewing->asked[previewing->asked_count++] = i;
            json_array_append_new(items, item_of(action));
        }
    }
    if (project == NULL) {
        finish(previewing);
    } else {
        MEMORY_OWNED char *target = memory_format("/v1/placement/preview?project=%s", project);
        ask(previewing->service, "POST", target, body, on_answer, previewing);
    }
}

void preview_make(struct manifest_service *service, struct action *actions, size_t count,
                  void (*done)(void *context), void *context)
{
    struct previewing *previewing = NEW(struct previewing);
    *previewing = (struct previewing){.service = service,
                                      .actions = actions,
                                      .count = count,
                                      .asked = memory_new(count + 1, sizeof(size_t)),
                                      .is_done = memory_new(count + 1, sizeof(bool)),
                                      .done = done,
                                      .context = context};
    ask_next(previewing);
}
