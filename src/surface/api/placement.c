/* Placement: where machines are, and why; groups, reservations, strategies. */
#include "service/placement/placement.h"

#include <string.h>

#include "base/json.h"
#include "base/memory.h"

#include "surface/api/parts.h"

static struct placement_service *service_of(const struct request *request)
{
    return request->api->options.placement;
}

/* ---- Several machines ---- */

static void create_gang(struct request *request, const json_t *body)
{
    placement_service_create_gang(service_of(request), request->project, body,
                                  api_answer_machines_begun, request);
}

void api_machine_gang_create(struct request *request)
{
    api_body_read(request, "MachineGang", create_gang);
}

/* ---- Looking ---- */

void api_placement_list(struct request *request)
{
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    int r = placement_service_write_list(service_of(request), request->project, &body, &err);
    api_answer_written(request, r, &body, &err);
}

void api_placement_explain(struct request *request)
{
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    int r = placement_service_explain(service_of(request), request->project, request->parameters[0],
                                      &body, &err);
    api_answer_written(request, r, &body, &err);
}

static void preview(struct request *request, const json_t *body)
{
    BUFFER_OWNED struct buffer answer = {0};
    struct error err = {0};
    int r = placement_service_preview(service_of(request), request->project, body, &answer, &err);
    api_answer_written(request, r, &answer, &err);
}

void api_placement_preview(struct request *request)
{
    api_body_read(request, "PlacementPreviewAsk", preview);
}

/* ---- What was made or said, by a name that the path does not have ---- */

struct making {
    struct request *request;
    char *name;
    int (*write)(struct placement_service *service, const char *project, const char *name,
                 struct buffer *out, struct error *err);
};

static struct making *make(struct request *request, const char *name,
                           int (*write)(struct placement_service *service, const char *project,
                                        const char *name, struct buffer *out, struct error *err))
{
    struct making *making = NEW(struct making);
    *making = (struct making){request, memory_copy_string(name), write};
    return making;
}

static void on_made(const struct error *error, uint64_t index, void *context)
{
    struct making *making = context;
    struct request *request = making->request;
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    (void)index;
    if (error != NULL) {
        api_answer_error(request, error);
    } else {
        int r = making->write(service_of(request), request->project, making->name, &body, &err);
        api_answer_written(request, r, &body, &err);
    }
    free(making->name);
    free(making);
}

/* ---- Reservations ---- */

static void reserve(struct request *request, const json_t *body)
{
    placement_service_reserve(
        service_of(request), request->project, body, on_made,
        make(request, api_body_text(body, "name"), placement_service_reservation_write));
}

void api_reservation_create(struct request *request)
{
    api_body_read(request, "ReservationCreate", reserve);
}

void api_reservation_delete(struct request *request)
{
    placement_service_release(service_of(request), request->project, request->parameters[0],
                              api_answer_done, request);
}

void api_reservation_list(struct request *request)
{
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    int r = placement_service_reservation_write_list(service_of(request), request->project, &body,
                                                     &err);
    api_answer_written(request, r, &body, &err);
}

void api_reservation_get(struct request *request)
{
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    int r = placement_service_reservation_write(service_of(request), request->project,
                                                request->parameters[0], &body, &err);
    api_answer_written(request, r, &body, &err);
}

/* ---- Groups ---- */

void api_placement_group_list(struct request *request)
{
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    int r = placement_service_group_write_list(service_of(request), request->project, &body, &err);
    api_answer_written(request, r, &body, &err);
}

void api_placement_group_get(struct request *request)
{
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    int r = placement_service_group_write(service_of(request), request->project,
                                          request->parameters[0], &body, &err);
    api_answer_written(request, r, &body, &err);
}

static void create_group(struct request *request, const json_t *body)
{
    placement_service_group_create(
        service_of(request), request->project, body, on_made,
        make(request, api_body_text(body, "name"), placement_service_group_write));
}

void api_placement_group_create(struct request *request)
{
    api_body_read(request, "PlacementGroupCreate", create_group);
}

void api_placement_group_delete(struct request *request)
{
    placement_service_group_delete(service_of(request), request->project, request->parameters[0],
                                   api_answer_done, request);
}

/* ---- Strategies ---- */

static int write_strategy(struct placement_service *service, const char *project, const char *name,
                          struct buffer *out, struct error *err)
{
    (void)project;
    return placement_service_write_strategy(service, name, out, err);
}

void api_placement_strategy_get(struct request *request)
{
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    int r = placement_service_write_strategy(service_of(request), request->project, &body, &err);
    api_answer_written(request, r, &body, &err);
}

static void set_strategy(struct request *request, const json_t *body)
{
    placement_service_set_strategy(service_of(request), request->project, body, on_made,
                                   make(request, request->project, write_strategy));
}

void api_placement_strategy_set(struct request *request)
{
    api_body_read(request, "PlacementStrategy", set_strategy);
}

static void set_cluster_strategy(struct request *request, const json_t *body)
{
    placement_service_set_strategy(service_of(request), "", body, on_made,
                                   make(request, "", write_strategy));
}

void api_cluster_strategy_set(struct request *request)
{
    api_body_read(request, "PlacementStrategy", set_cluster_strategy);
}

/* ---- What a project says itself: it is named as the project, so that it is an object ---- */

static bool is_of_project(struct request *request)
{
    struct error err = {0};
    if (strcmp(request->parameters[0], request->project) == 0) {
        return true;
    }
    error_set(&err, ERROR_INVALID, "the strategy of a project is called as the project is: %.64s",
              request->project);
    api_answer_error(request, &err);
    return false;
}

void api_strategy_list(struct request *request)
{
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    int r =
        placement_service_strategy_write_list(service_of(request), request->project, &body, &err);
    api_answer_written(request, r, &body, &err);
}

void api_strategy_get(struct request *request)
{
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    if (is_of_project(request)) {
        int r = placement_service_strategy_write(service_of(request), request->project,
                                                 request->project, &body, &err);
        api_answer_written(request, r, &body, &err);
    }
}

static void put_strategy(struct request *request, const json_t *body)
{
    placement_service_set_strategy(
        service_of(request), request->project, body, on_made,
        make(request, request->project, placement_service_strategy_write));
}

void api_strategy_put(struct request *request)
{
    if (is_of_project(request)) {
        api_body_read(request, "StrategySpec", put_strategy);
    }
}

void api_strategy_delete(struct request *request)
{
    if (is_of_project(request)) {
        placement_service_strategy_delete(service_of(request), request->project, api_answer_done,
                                          request);
    }
}
