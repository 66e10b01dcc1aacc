/* Machines.  What is done to one is done at its node: requests are passed on to it. */
#include "service/machine/machine.h"

#include <string.h>

#include "base/memory.h"

#include "engine/store/store.h"

#include "service/placement/placement.h"

#include "surface/api/parts.h"

static struct machine_service *service_of(const struct request *request)
{
    return request->api->options.machines;
}

static void explain_lost(struct request *request, struct error *err)
{
    machine_explain_lost(service_of(request), request->project, request->parameters[0], err);
}

bool api_machine_is_elsewhere(struct request *request)
{
    struct error err = {0};
    MEMORY_OWNED char *node = NULL;
    if (machine_node(service_of(request), request->project, request->parameters[0], &node, &err) <
        0) {
        if (!api_looks_again(request)) { /* it may be new */
            api_answer_error(request, &err);
        }
        return true;
    }
    request->explain_lost = explain_lost;
    return node[0] != '\0' && api_pass_to_node(request, node); /* it may wait for one */
}

/* Its node is, or was removed: what the state says of it is all that can be told. */
static bool is_lost(struct request *request)
{
    struct error ignored = {0};
    MEMORY_OWNED char *node = NULL;
    return machine_node(service_of(request), request->project, request->parameters[0], &node,
                        &ignored) == 0 &&
        node[0] != '\0' && api_check_reach(request->api, node, &ignored) < 0;
}

/* ---- Looking ---- */

void api_machine_list(struct request *request)
{
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    int r = machine_write_list(service_of(request), request->project, &body, &err);
    api_answer_written(request, r, &body, &err);
}

static void answer_from_state(struct request *request, const struct error *silence)
{
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    int r = machine_write(service_of(request), request->project, request->parameters[0],
                          silence != NULL ? silence->text : NULL, &body, &err);
    api_answer_written(request, r, &body, &err);
}

void api_machine_get(struct request *request)
{
    request->answer_without = answer_from_state;
    if (is_lost(request) || !api_machine_is_elsewhere(request)) {
        answer_from_state(request, NULL);
    }
}

void api_hypervisor_list(struct request *request)
{
    BUFFER_OWNED struct buffer body = {0};
    machine_write_drivers(service_of(request), &body);
    api_answer_json(request, request->status, &body);
}

void api_machine_usage(struct request *request)
{
    machine_usage(service_of(request), request->project, api_answer_object, request);
}

/* ---- Changing ---- */

/* ?node=NAME is a machine's node: as "node" in the body. */
static int take_node(const struct request *request, const json_t *body, json_t **ret_body,
                     struct error *err)
{
    char name[256];
    *ret_body = json_deep_copy(body);
    if (!http_query_get(http_exchange_query(request->exchange), "node", name, sizeof(name))) {
        return 0;
    }
    const char *said = json_text(body, "node");
    json_object_set_new(*ret_body, "node", json_string(name));
    return said[0] == '\0' || strcmp(said, name) == 0
        ? 0
        : error_set(err, ERROR_INVALID, "node is %.80s, and ?node= says %.80s", said, name);
}

/* Where it suits; from another node, which has decided that already: here. */
static void create(struct request *request, const json_t *body)
{
    struct placement_service *placement = request->api->options.placement;
    char pending[1024];
    struct error err = {0};
    JSON_OWNED json_t *machine = NULL;
    if (take_node(request, body, &machine, &err) < 0) {
        api_answer_error(request, &err);
        return;
    }
    struct beginning *beginning = api_begin(request, api_body_text(body, "name"));
    if (!api_is_passed_on(request)) {
        placement_service_create(placement, request->project, machine, api_answer_begun, beginning);
    } else if (http_query_get(http_exchange_query(request->exchange), "pending", pending,
                              sizeof(pending))) {
        placement_service_create_pending(placement, request->project, machine, pending,
                                         api_answer_begun, beginning);
    } else {
        machine_create(service_of(request), request->project, machine, api_answer_begun, beginning);
    }
}

void api_machine_create(struct request *request)
{
    api_body_read(request, "MachineCreate", create);
}

static void on_changed(const struct error *error, const char *name, const char *operation,
                       const json_t *at_next_start, void *context)
{
    struct request *request = context;
    BUFFER_OWNED struct buffer body = {0};
    struct json_writer writer = json_writer_to(&body);
    if (error != NULL) {
        api_answer_error(request, error);
        return;
    }
    JSON_OWNED json_t *rest = json_pack("{s:O}", "at_next_start", at_next_start);
    json_write_begin_object(&writer);
    json_write_field_string(&writer, "name", name);
    json_write_field_string(&writer, "operation", operation);
    json_write_members(&writer, rest);
    json_write_end_object(&writer);
    api_answer_json(request, request->status, &body);
}

static void update(struct request *request, const json_t *body)
{
    machine_update(service_of(request), request->project, request->parameters[0], body, on_changed,
                   request);
}

void api_machine_update(struct request *request)
{
    if (!api_machine_is_elsewhere(request)) {
        api_body_read(request, "MachineUpdate", update);
    }
}

static void act(struct request *request, const char *action)
{
    const char *name = request->parameters[0];
    if (!api_machine_is_elsewhere(request)) {
        machine_act(service_of(request), request->project, name, action,
                    api_query_ms(request, "timeout", MACHINE_STOP_MS_NODE), api_answer_begun,
                    api_begin(request, name));
    }
}

/* To delete has a method of its own. */
void api_machine_act(struct request *request)
{
    bool deletes = strcmp(request->parameters[1], "delete") == 0;
    act(request, deletes ? "" : request->parameters[1]);
}

/* Whoever leads says that the node is lost, and may give to others what was its. */
void api_machine_delete(struct request *request)
{
    const char *name = request->parameters[0];
    struct store_status status;
    if (!api_query_flag(request, "force", false) || !is_lost(request)) {
        act(request, "delete");
        return;
    }
    store_status(request->api->options.store, &status);
    if (!status.is_leader && status.leader_id != 0 && !api_is_passed_on(request)) {
        api_pass_on(request, status.leader_id);
        return;
    }
    machine_give_up(service_of(request), request->project, name, api_answer_begun,
                    api_begin(request, name));
}
