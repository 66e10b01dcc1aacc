/*
 * Devices of nodes, as the engine counts them: by class and model, each of a kind by its
 * number. Which of a node's devices a machine has is in the state (machine_device of
 * service/machine).
 */
#include <stdio.h>
#include <string.h>

#include "engine/device/device.h"

#include "service/placement/parts.h"

struct devices {
    size_t count;
    struct numbered {
        char address[DEVICE_ADDRESS_SIZE];
        char class_name[DEVICE_NAME_SIZE];
        char model[DEVICE_MODEL_SIZE];
        uint16_t kind, index; /* the engine's */
    } list[DEVICE_LIST_MAX];
};

/* ---- What nodes have ---- */

static size_t kind_of(const struct numbered *device, const struct placement_device *kinds,
                      size_t count)
{
    size_t kind = 0;
    while (kind < count &&
           (strcmp(kinds[kind].class_name, device->class_name) != 0 ||
            strcmp(kinds[kind].model, device->model) != 0)) {
        kind++;
    }
    return kind;
}

static void take_device(struct devices *devices, const json_t *value,
                        struct placement_device *kinds, size_t *kind_count)
{
    struct numbered *device = &devices->list[devices->count];
    *device = (struct numbered){0};
    snprintf(device->address, sizeof(device->address), "%s", json_text(value, "address"));
    snprintf(device->class_name, sizeof(device->class_name), "%s", json_text(value, "class"));
    snprintf(device->model, sizeof(device->model), "%s", json_text(value, "model"));
    size_t kind = kind_of(device, kinds, *kind_count);
    if (kind == PLACEMENT_DEVICE_KINDS_MAX ||
        (kind < *kind_count && kinds[kind].count == PLACEMENT_DEVICES_MAX)) {
        return;
    }
    if (kind == *kind_count) {
        kinds[(*kind_count)++] = (struct placement_device){.class_name = json_text(value, "class"),
                                                           .model = json_text(value, "model")};
    }
    device->kind = (uint16_t)kind;
    device->index = (uint16_t)kinds[kind].count++;
    devices->count++;
}

static bool are_same(const struct devices *a, const struct devices *b)
{
    bool same = a->count == b->count;
    for (size_t i = 0; same && i < a->count; i++) {
        same = strcmp(a->list[i].address, b->list[i].address) == 0 &&
            a->list[i].kind == b->list[i].kind && a->list[i].index == b->list[i].index;
    }
    return same;
}

size_t devices_take(struct placement_service *service, const char *node, const json_t *list,
                    struct placement_device *ret_kinds)
{
    struct devices *devices = NEW(struct devices);
    const struct devices *before = map_get(&service->devices, node);
    size_t kind_count = 0;
    size_t index = 0;
    json_t *value = NULL;
    json_array_foreach(list, index, value)
    {
        bool is_given = json_text(value, "problem")[0] == '\0' &&
            json_text(value, "class")[0] != '\0' && json_text(value, "model")[0] != '\0';
        if (is_given && devices->count < DEVICE_LIST_MAX) {
            take_device(devices, value, ret_kinds, &kind_count);
        }
    }
    /* Numbers of others are no more what they were. */
    service->is_all_stale = service->is_all_stale || (before != NULL && !are_same(before, devices));
    free(map_set(&service->devices, node, devices));
    return kind_count;
}

/* ---- What a machine has ---- */

/* "0000:01:00.0,usb:1-2": an address may be the beginning of another one. */
static bool is_among(const char *addresses, const char *address)
{
    size_t length = strlen(address);
    for (const char *at = strstr(addresses, address); at != NULL; at = strstr(at + 1, address)) {
        if ((at == addresses || at[-1] == ',') && (at[length] == ',' || at[length] == '\0')) {
            return true;
        }
    }
    return false;
}

void devices_grant(const struct placement_service *service, const char *node, const char *addresses,
                   struct placement_grant_device *devices, struct placement_grant *ret_grant)
{
    const struct devices *has = map_get(&service->devices, node);
    size_t count = 0;
    for (size_t i = 0; has != NULL && i < has->count && count < DEVICE_LIST_MAX; i++) {
        const struct numbered *device = &has->list[i];
        if (is_among(addresses, device->address)) {
            devices[count++] = (struct placement_grant_device){0, device->kind, device->index};
        }
    }
    ret_grant->devices = devices;
    ret_grant->device_count = count;
}

/* ---- What one asks for ---- */

struct finding {
    const struct device_ask *ask;
    struct asked_device *found;
    const json_t *taken; /* nodes where another machine has it */
    struct buffer nodes; /* that have it free: "a|b" */
};

/* Of a model, and of what is at an address, the engine is told class and model. */
static void find_at(const char *node, void *value, void *context)
{
    struct finding *finding = context;
    const struct devices *has = value;
    struct asked_device *found = finding->found;
    for (size_t i = 0; i < has->count; i++) {
        const struct numbered *device = &has->list[i];
        if (!device_ask_takes(finding->ask, device->class_name, device->model, device->address) ||
            json_object_get(finding->taken, node) != NULL) {
            continue;
        }
        size_t used = strlen(found->models);
        snprintf(found->class_name, sizeof(found->class_name), "%s", device->class_name);
        if (strstr(found->models, device->model) == NULL &&
            used + sizeof(device->model) < sizeof(found->models)) {
            snprintf(found->models + used, sizeof(found->models) - used, "%s%s",
                     used > 0 ? "|" : "", device->model);
        }
        buffer_append_format(&finding->nodes, "%s%s", finding->nodes.used > 0 ? "|" : "", node);
        return;
    }
}

static bool take_node(sqlite3_stmt *row, void *context)
{
    json_object_set_new(context, store_text(row, 0), json_true());
    return true;
}

/* The engine counts; that it is this very device, a rule says. */
static void find_address(struct placement_service *service, const struct asked_of *of,
                         struct finding *finding, json_t *rules)
{
    JSON_OWNED json_t *taken = json_object();
    struct error ignored = {0};
    if (picture_knows_devices(service)) {
        store_query(service->options.store, &ignored, take_node, taken,
                    "SELECT node FROM machine_device WHERE address = ? AND machine <> ?", "tt",
                    finding->ask->what, of->id != NULL ? of->id : "");
    }
    finding->taken = taken;
    map_each(&service->devices, find_at, finding);
    /* Of so many that they are no rule the log decides. */
    if (finding->nodes.used > 0 && finding->nodes.used + 8 < PLACEMENT_VALUE_MAX && rules != NULL) {
        MEMORY_OWNED char *line =
            memory_format("${node.name} regexp ^(%s)$", buffer_string(&finding->nodes));
        json_t *constraints = json_object_get(rules, "constraints");
        if (constraints == NULL) {
            constraints = json_array();
            json_object_set_new(rules, "constraints", constraints);
        }
        json_array_append_new(constraints, json_string(line));
    }
}

static void ask_one(struct placement_service *service, const struct asked_of *of,
                    const struct device_ask *ask, struct asked_device *found, json_t *rules)
{
    struct finding finding = {.ask = ask, .found = found};
    *found = (struct asked_device){0};
    switch (ask->kind) {
    case DEVICE_ASK_CLASS:
        snprintf(found->class_name, sizeof(found->class_name), "%s", ask->what);
        break;
    case DEVICE_ASK_MODEL:
        map_each(&service->devices, find_at, &finding);
        break;
    case DEVICE_ASK_ADDRESS:
        find_address(service, of, &finding, rules);
        break;
    }
    buffer_done(&finding.nodes);
    if (found->class_name[0] == '\0') { /* nobody has such */
        snprintf(found->class_name, sizeof(found->class_name), "%s", ask->what);
    }
}

void devices_ask(struct asked *asked, struct placement_service *service, const struct asked_of *of,
                 json_t *rules_or_null)
{
    struct placement_demand *demand = &asked->request.demand;
    size_t index = 0;
    json_t *text = NULL;
    demand->devices = asked->devices;
    demand->device_count = 0;
    json_array_foreach(json_object_get(of->config, "devices"), index, text)
    {
        struct device_ask ask = {0};
        struct error ignored = {0};
        size_t at = demand->device_count;
        if (at < PLACEMENT_DEVICE_KINDS_MAX &&
            device_ask_parse(json_string_value(text), &ask, &ignored) == 0) {
            struct asked_device *found = &asked->found[at];
            ask_one(service, of, &ask, found, rules_or_null);
            asked->devices[at] = (struct placement_device_demand){
                .class_name = found->class_name, .models = found->models, .count = ask.count};
            demand->device_count++;
        }
    }
}
