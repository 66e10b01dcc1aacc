/* The routes: spec/operations.def, walked. */
#include <string.h>

#include "base/check.h"

#include "service/route/route.h"

#include "surface/api/parts.h"

#define OPERATION(id, method, path, permission, body, reply, status, summary) \
    {#id, path, permission, #body, #reply, summary, api_##id, HTTP_##method, status},
static const struct api_route routes[] = {
#include "operations.def"
};
#undef OPERATION

enum { ROUTE_COUNT = sizeof(routes) / sizeof(routes[0]) };

size_t api_route_count(void)
{
    return ROUTE_COUNT;
}

const struct api_route *api_route_at(size_t index)
{
    return &routes[index];
}

/* Every parameter of a path has a value. */
static bool path_matches(const char *pattern, struct text path, struct text *ret_parameters)
{
    struct pattern_match match;
    if (!pattern_matches(pattern, path, &match)) {
        return false;
    }
    CHECK(match.count <= API_PARAMETERS_MAX);
    for (size_t i = 0; i < match.count; i++) {
        if (match.parameters[i].value.length == 0) {
            return false;
        }
        ret_parameters[i] = match.parameters[i].value;
    }
    return true;
}

void api_route_match(enum http_method method, struct text path, struct api_match *ret_match)
{
    *ret_match = (struct api_match){0};
    enum http_method wanted = method == HTTP_HEAD ? HTTP_GET : method;
    for (size_t i = 0; i < ROUTE_COUNT; i++) {
        struct text parameters[API_PARAMETERS_MAX] = {{0}};
        if (!path_matches(routes[i].path, path, parameters)) {
            continue;
        }
        ret_match->allowed |= 1u << routes[i].method;
        if (routes[i].method == HTTP_GET) {
            ret_match->allowed |= 1u << HTTP_HEAD;
        }
        if (routes[i].method == wanted) {
            ret_match->route = &routes[i];
            memcpy(ret_match->parameters, parameters, sizeof(parameters));
        }
    }
}

bool api_route_waits(const struct api_route *route)
{
    static const char *const others[] = {"blob_get",       "image_get",   "cluster_backup",
                                         "event_list",     "log_get",     "openapi_get",
                                         "operation_wait", "stream_read", "machine_export"};
    bool waits = route->method == HTTP_GET && text_starts_with(route->path, "/v1/");
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        waits = waits && strcmp(route->id, others[i]) != 0;
    }
    return waits;
}

const char *api_route_nearest(const char *path)
{
    const char *paths[ROUTE_COUNT];
    for (size_t i = 0; i < ROUTE_COUNT; i++) {
        paths[i] = routes[i].path;
    }
    return text_nearest(path, paths, ROUTE_COUNT);
}
