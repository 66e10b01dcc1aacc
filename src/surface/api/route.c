/* Routes of the gateway. */
#include "service/route/route.h"

#include "surface/api/parts.h"

static struct route_service *service_of(const struct request *request)
{
    return request->api->options.routes;
}

static void write_one(struct request *request)
{
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    int r = route_write(service_of(request), request->project, request->parameters[0], &body, &err);
    api_answer_written(request, r, &body, &err);
}

static void on_changed(const struct error *error, uint64_t index, void *context)
{
    struct request *request = context;
    (void)index;
    if (error != NULL) {
        api_answer_error(request, error);
    } else {
        write_one(request);
    }
}

void api_route_list(struct request *request)
{
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    int r = route_write_list(service_of(request), request->project, &body, &err);
    api_answer_written(request, r, &body, &err);
}

void api_route_get(struct request *request)
{
    write_one(request);
}

static void set(struct request *request, const json_t *body)
{
    route_set(service_of(request), request->project, request->parameters[0], body, true, on_changed,
              request);
}

void api_route_set(struct request *request)
{
    api_body_read(request, "RouteSet", set);
}

static void update(struct request *request, const json_t *body)
{
    route_set_paused(service_of(request), request->project, request->parameters[0],
                     json_is_true(json_object_get(body, "paused")), on_changed, request);
}

void api_route_update(struct request *request)
{
    api_body_read(request, "RouteUpdate", update);
}

void api_route_delete(struct request *request)
{
    route_delete(service_of(request), request->project, request->parameters[0], api_answer_done,
                 request);
}
