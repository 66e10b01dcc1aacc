/* From an exchange to a handler, and the life of the listeners. */
#include "surface/api/api.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/random.h"

#include "engine/store/store.h"

#include "service/gateway/gateway.h"
#include "service/manifest/manifest.h"
#include "service/peer/peer.h"

#include "surface/api/parts.h"

#define BLOB_BYTES_MAX (UINT64_C(64) << 20)

/* ---- One request ---- */

/* The client's own, if it is harmless. */
static void take_request_id(struct request *request)
{
    struct text given = http_exchange_field(request->exchange, "X-Request-Id");
    bool good = given.length > 0 && given.length < API_REQUEST_ID_SIZE;
    for (size_t i = 0; good && i < given.length; i++) {
        good = isalnum((unsigned char)given.data[i]) || strchr("-_.", given.data[i]) != NULL;
    }
    if (good) {
        memcpy(request->id, given.data, given.length);
        request->id[given.length] = '\0';
    } else {
        random_hex(request->id, 32);
    }
}

static int take_parameters(struct request *request, const struct api_match *match,
                           struct error *err)
{
    if (api_query_check(request, match->route, err) < 0) {
        return -(int)err->kind;
    }
    for (size_t i = 0; i < API_PARAMETERS_MAX; i++) {
        if (match->parameters[i].length > 0 &&
            !http_percent_decode(match->parameters[i], request->parameters[i],
                                 API_PARAMETER_SIZE)) {
            return error_set(err, ERROR_INVALID, "a part of the path is too long or badly encoded");
        }
        if (!text_is_utf8(request->parameters[i], strlen(request->parameters[i]))) {
            return error_set(err, ERROR_INVALID, "a part of the path is not UTF-8");
        }
    }
    struct text query = http_exchange_query(request->exchange);
    if (!http_query_get(query, "project", request->project, sizeof(request->project))) {
        snprintf(request->project, sizeof(request->project), "default");
    }
    if (!text_is_name(request->project)) {
        return error_set(
            err, ERROR_INVALID,
            "\"%.64s\" is no name of a project: 1 to 63 of a-z, 0-9 and '-', beginning "
            "with a letter",
            request->project);
    }
    return 0;
}

static void answer_no_path(struct request *request, struct text path)
{
    struct error err = {0};
    MEMORY_OWNED char *text = memory_copy_text(path.data, path.length < 256 ? path.length : 256);
    const char *nearest = api_route_nearest(text);
    if (nearest != NULL) {
        error_set(&err, ERROR_NOT_FOUND, "there is no %s; did you mean %s?", text, nearest);
    } else {
        error_set(&err, ERROR_NOT_FOUND, "there is no %s; /v1/openapi.json lists what there is",
                  text);
    }
    api_answer_error(request, &err);
}

static void answer_no_method(struct request *request, unsigned allowed)
{
    BUFFER_OWNED struct buffer methods = {0};
    BUFFER_OWNED struct buffer body = {0};
    for (enum http_method method = HTTP_GET; method < HTTP_OTHER; method++) {
        if ((allowed & (1u << method)) != 0) {
            buffer_append_format(&methods, "%s%s", methods.used > 0 ? ", " : "",
                                 http_method_text(method));
        }
    }
    struct json_writer writer = json_writer_to(&body);
    json_write_begin_object(&writer);
    json_write_field_string(&writer, "type", "about:blank");
    json_write_field_string(&writer, "title", "Method Not Allowed");
    json_write_field_u64(&writer, "status", 405);
    MEMORY_OWNED char *detail = memory_format("this path takes %s", buffer_string(&methods));
    json_write_field_string(&writer, "detail", detail);
    json_write_field_string(&writer, "code", "method_not_allowed");
    json_write_field_bool(&writer, "retryable", false);
    json_write_field_string(&writer, "instance", request->id);
    json_write_end_object(&writer);
    http_exchange_add_field(request->exchange, "Allow", buffer_string(&methods));
    api_answer_text(request, 405, "application/problem+json", buffer_string(&body));
}

/* A call that another node passes on, whatever its path is: see gateway.h. */
static void serve_hop(struct request *request)
{
    struct error err = {0};
    struct gateway *gateway = request->api->options.gateway;
    if (api_access_judge(request, "peer", &err) < 0) {
        api_answer_error(request, &err);
        return;
    }
    if (gateway == NULL) {
        error_set(&err, ERROR_UNAVAILABLE, "this node has no gateway");
        api_answer_error(request, &err);
        return;
    }
    gateway_serve_hop(gateway, http_exchange_ref(request->exchange));
    api_request_end(request);
}

void api_handle(struct http_exchange *exchange, void *context)
{
    struct api *api = context;
    struct request *request = NEW(struct request);
    request->api = api;
    request->exchange = exchange;
    list_push_back(&api->requests, &request->link);
    take_request_id(request);

    struct error err = {0};
    if (api_access_begin(request, &err) < 0) {
        api_answer_error(request, &err);
        return;
    }
    if (http_exchange_is_tls(exchange) &&
        http_exchange_field(exchange, PEER_FIELD_FUNCTION).data != NULL) {
        serve_hop(request);
        return;
    }
    struct text path = http_exchange_path(exchange);
    struct api_match match;
    api_route_match(http_exchange_method(exchange), path, &match);
    if (match.allowed == 0) {
        answer_no_path(request, path);
    } else if (match.route == NULL) {
        answer_no_method(request, match.allowed);
    } else if (api_access_judge(request, match.route->permission, &err) < 0 ||
               take_parameters(request, &match, &err) < 0) {
        api_answer_error(request, &err);
    } else if (!api_pass_to_named(request, match.route)) {
        request->status = match.route->status;
        request->handle = match.route->handle;
        if (api_route_waits(match.route)) {
            api_read_begin(request, match.route->handle);
        } else {
            match.route->handle(request);
        }
    }
}

/* ---- Revoking ---- */

static void on_recheck(void *context)
{
    api_access_recheck(context);
}

/* The command is still being told of. */
static void on_rights(const struct store_event *event, void *context)
{
    struct api *api = context;
    if (event->operation == 'R' || strcmp(event->table, "client") == 0 ||
        strcmp(event->table, "node") == 0) {
        loop_timer_start(api->recheck, 0);
    }
}

/* ---- Life ---- */

static void api_free(struct api *api)
{
    free(api->node_name);
    free(api->gateway_address);
    free(api->data_folder);
    free(api->isolation_reason);
    free(api->own_host);
    free(api->not_ready);
    free(api);
}

static char *copy_or(const char *text, const char *otherwise)
{
    return memory_copy_string(text != NULL ? text : otherwise);
}

static int listen_all(struct api *api, struct error *err)
{
    const struct api_options *options = &api->options;
    if (options->address != NULL && !api_address_is_loopback(options->address)) {
        return error_set(err, ERROR_DENIED,
                         "the API does not listen on %s without TLS: use 127.0.0.1, [::1] or the "
                         "unix socket; from elsewhere it is reached at cluster_address",
                         options->address);
    }
    struct http_server_options server = http_server_defaults();
    int r = http_server_new(options->loop, &server, api_handle, api, &api->server, err);
    if (r == 0 && options->socket_path != NULL) {
        MEMORY_OWNED char *address = memory_format("unix:%s", options->socket_path);
        r = http_server_listen(api->server, address, NULL, err);
    }
    if (r == 0 && options->address != NULL) {
        r = http_server_listen(api->server, options->address, &api->port, err);
    }
    return r;
}

/* "127.0.0.1:0" with the port it became. */
static char *own_address(const struct api *api)
{
    const char *address = api->options.address;
    if (address == NULL) {
        return memory_format("unix:%s", api->options.socket_path);
    }
    const char *colon = strrchr(address, ':');
    int length = colon != NULL ? (int)(colon - address) : (int)strlen(address);
    return memory_format("%.*s:%u", length, address, api->port);
}

static int start_manifests(struct api *api, struct error *err)
{
    const struct api_options *options = &api->options;
    MEMORY_OWNED char *address = options->socket_path != NULL
        ? memory_format("unix:%s", options->socket_path)
        : own_address(api);
    const struct manifest_options manifests = {
        .loop = options->loop,
        .store = options->store,
        .operations = options->operations,
        .address = address,
    };
    return manifest_service_new(&manifests, &api->manifests, err);
}

int api_start(const struct api_options *options, struct api **ret_api, struct error *err)
{
    CHECK(options->socket_path != NULL || options->address != NULL);
    struct api *api = NEW(struct api);
    api->options = *options;
    list_init(&api->requests);
    if (api->options.blob_bytes_max == 0) {
        api->options.blob_bytes_max = BLOB_BYTES_MAX;
    }
    int r = listen_all(api, err);
    r = r < 0 ? r : start_manifests(api, err);
    if (r < 0) {
        if (api->server != NULL) {
            http_server_free(api->server);
        }
        api_free(api);
        return r;
    }
    api->node_name = copy_or(options->node_name, "");
    api->gateway_address = copy_or(options->gateway_address, "");
    api->data_folder = copy_or(options->data_folder, "");
    api->not_ready = memory_copy_string("the node is starting");
    if (options->isolation_reason != NULL) {
        api->isolation_reason = memory_copy_string(options->isolation_reason);
    }
    api->own_host = own_address(api);
    api->recheck = loop_timer_new(options->loop, on_recheck, api);
    api->rights = store_watch_new(options->store, NULL, on_rights, api);
    api->started_ms = clock_real_ms();
    *ret_api = api;
    return 0;
}

uint16_t api_port(const struct api *api)
{
    return api->port;
}

void api_set_ready(struct api *api, const char *reason_or_null)
{
    free(api->not_ready);
    api->not_ready = reason_or_null != NULL ? memory_copy_string(reason_or_null) : NULL;
}

static void on_drained(void *context)
{
    struct api *api = context;
    api->drained = true;
    loop_stop(api->options.loop);
}

static void on_too_long(void *context)
{
    struct api *api = context;
    api->gives_up = true;
    loop_stop(api->options.loop);
}

void api_stop(struct api *api, uint64_t timeout_ms)
{
    struct loop *loop = api->options.loop;
    api->stopping = true;
    store_watch_free(api->rights);
    loop_timer_free(api->recheck);
    manifest_service_free(api->manifests);
    LIST_EACH(node, &api->requests)
    {
        struct request *request = LIST_ITEM(node, struct request, link);
        if (request->stop != NULL) {
            request->stop(request);
        }
    }
    http_server_drain(api->server, timeout_ms, on_drained, api);
    struct loop_timer *timer = loop_timer_new(loop, on_too_long, api);
    loop_timer_start(timer, timeout_ms + 1000);
    while ((!api->drained || !list_is_empty(&api->requests)) && !api->gives_up) {
        loop_run(loop);
    }
    loop_timer_free(timer);
    bool ended = api->drained && list_is_empty(&api->requests);
    http_server_free(api->server);
    if (!ended) {
        /* Somebody still refers to them: better a leak at the end than a use after free. */
        log_warn("api: requests were left behind that did not end");
        return;
    }
    api_free(api);
}
