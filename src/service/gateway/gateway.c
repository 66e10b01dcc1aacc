/* Listening, routing, draining.  See gateway.h. */
#include "service/gateway/gateway.h"

#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/http/http.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/random.h"

#include "engine/vmm/vmm.h"

#include "service/cluster/cluster.h"
#include "service/gateway/deflate.h"
#include "service/gateway/lane.h"
#include "service/quota/quota.h"

static const uint64_t body_bytes_default = 64 << 20;
static const uint64_t cache_bytes_default = 32 << 20;

/* ---- Routing ---- */

/* "NAME.fn.anything[:port]" -> NAME. */
static bool name_of_host(struct text host, struct text *ret_name)
{
    const char *dot = host.length > 0 ? memchr(host.data, '.', host.length) : NULL;
    if (dot == NULL || dot == host.data) {
        return false;
    }
    struct text rest = text_of(dot, host.length - (size_t)(dot - host.data));
    if (rest.length < 5 || strncasecmp(rest.data, ".fn.", 4) != 0) {
        return false;
    }
    *ret_name = text_of(host.data, (size_t)(dot - host.data));
    return true;
}

/* "/fn/NAME/rest" -> NAME and "/rest". */
static bool name_of_path(struct text path, struct text *ret_name, struct text *ret_rest)
{
    if (path.length < 5 || memcmp(path.data, "/fn/", 4) != 0 || path.data[4] == '/') {
        return false;
    }
    const char *name = path.data + 4;
    size_t left = path.length - 4;
    const char *slash = memchr(name, '/', left);
    size_t length = slash != NULL ? (size_t)(slash - name) : left;
    *ret_name = text_of(name, length);
    *ret_rest = text_of(name + length, left - length);
    return true;
}

bool gateway_admit(struct gateway *gateway, struct http_exchange *exchange, const char *project)
{
    struct error err = {0};
    if (quota_take_request(gateway->options.quotas, project, clock_monotonic_ms(), &err) == 0) {
        return true;
    }
    http_exchange_respond_error(exchange, &err, NULL);
    return false;
}

static void on_request(struct http_exchange *exchange, void *context)
{
    struct lane *lane = context;
    struct text name;
    struct text rest = http_exchange_path(exchange);
    if (routed_serve(lane->gateway, exchange)) {
        return;
    }
    if (name_of_host(http_exchange_field(exchange, "Host"), &name) ||
        name_of_path(http_exchange_path(exchange), &name, &rest)) {
        struct gateway *gateway = lane->gateway;
        const struct gateway_origin origin = {.is_secure = http_exchange_is_tls(exchange)};
        if (!gateway_admit(gateway, exchange, "default")) {
            http_exchange_unref(exchange);
            return;
        }
        if (gateway->take_later == NULL ||
            !gateway->take_later(exchange, "default", name, rest, &origin,
                                 gateway->later_context)) {
            gateway_serve(gateway, exchange, "default", name, rest, NULL);
        }
        return;
    }
    struct error err;
    error_set(&err, ERROR_NOT_FOUND,
              "no function here; they are at /fn/NAME, and where routes say");
    http_exchange_respond_error(exchange, &err, NULL);
    http_exchange_unref(exchange);
}

/* ---- Lanes ---- */

static void on_hold_timer(void *context)
{
    struct lane *lane = context;
    uint64_t now_ms = loop_now_ms(lane->loop);
    lane->hold_timer_runs = false;
    LIST_EACH(node, &lane->held)
    {
        struct call *call = LIST_ITEM(node, struct call, held_link);
        if (now_ms - call->held_ms < GATEWAY_HOLD_MS) {
            lane->hold_timer_runs = true; /* the others are younger still */
            loop_timer_start(lane->hold_timer, GATEWAY_HOLD_MS);
            return;
        }
        answer_flush_held(call);
    }
}

static struct http_server_options server_options(const struct gateway *gateway)
{
    struct http_server_options options = http_server_defaults();
    options.body_bytes_max = gateway->options.body_bytes_max;
    return options;
}

static int lane_open(struct gateway *gateway, struct lane *lane, struct error *err)
{
    struct http_server_options options = server_options(gateway);
    random_bytes(lane->id_seeds, sizeof(lane->id_seeds));
    int r = http_server_new(lane->loop, &options, on_request, lane, &lane->server, err);
    if (r < 0) {
        return r;
    }
    char address[300];
    const char *at = gateway->address;
    if (gateway->port != 0) { /* the others share the port that the first one was given */
        const char *colon = strrchr(gateway->address, ':');
        int host = colon != NULL ? (int)(colon - gateway->address) : (int)strlen(gateway->address);
        snprintf(address, sizeof(address), "%.*s:%u", host, gateway->address,
                 (unsigned)gateway->port);
        at = address;
    }
    uint16_t port = 0;
    r = http_server_listen(lane->server, at, &port, err);
    if (r < 0) {
        http_server_free(lane->server);
        lane->server = NULL;
        return r;
    }
    gateway->port = port;
    lane->hold_timer = loop_timer_new(lane->loop, on_hold_timer, lane);
    lane->websocket_timer = loop_timer_new(lane->loop, websocket_tick, lane);
    lane->peers = peer_clients_new(lane->loop, gateway->options.cluster);
    return 0;
}

/* ---- HTTPS ---- */

static bool asks(const char *name, void *context)
{
    const struct gateway *gateway = context;
    return gateway->options.routes != NULL &&
        route_asks_for_certificate(gateway->options.routes, text_of(name, strlen(name)));
}

static bool is_given(const char *text)
{
    return text != NULL && text[0] != '\0';
}

static int open_secure(struct gateway *gateway, struct error *err)
{
    const struct gateway_options *options = &gateway->options;
    const struct secure_options secure = {.certificate_file = options->tls_certificate,
                                          .key_file = options->tls_key,
                                          .who = "gateway",
                                          .asks = asks,
                                          .context = gateway};
    if (!is_given(options->tls_certificate) && !is_given(options->tls_key)) {
        return 0;
    }
    if (!is_given(options->tls_certificate) || !is_given(options->tls_key)) {
        return error_set(err, ERROR_INVALID,
                         "HTTPS needs both gateway_tls_certificate and gateway_tls_key");
    }
    int r = secure_new(gateway->loop, &secure, &gateway->secure, err);
    if (r < 0) {
        return error_wrap(err, "gateway_tls_certificate, gateway_tls_key");
    }
    r = http_server_listen_tls(gateway->lanes[0].server, options->tls_address,
                               secure_context(gateway->secure), NULL, NULL, NULL,
                               &gateway->tls_port, err);
    return r < 0 ? error_wrap(err, "gateway_tls_address") : 0;
}

void gateway_reload(struct gateway *gateway)
{
    if (gateway->secure != NULL) {
        secure_reload(gateway->secure);
    }
}

/* ---- The cluster ---- */

/* On the instances' loop. */
static void on_view(void *context)
{
    struct gateway *gateway = context;
    struct cluster_view *view = cluster_view_ref(gateway->options.cluster);
    gateway->passes_on =
        view->count > 1 && view->nodes[0].is_self && view->nodes[0].duty != CLUSTER_ACTIVE;
    cluster_view_unref(view);
}

static void listen_to_cluster(struct gateway *gateway)
{
    static const struct cluster_events events = {.on_view = on_view};
    if (gateway->options.cluster != NULL) {
        gateway->listener = cluster_listen(gateway->options.cluster, &events, gateway);
        on_view(gateway);
    }
}

/* ---- Starting ---- */

static int lane_start(struct gateway *gateway, unsigned index, struct error *err)
{
    struct lane *lane = &gateway->lanes[index];
    if (index == 0) {
        lane->loop = gateway->loop;
        return lane_open(gateway, lane, err);
    }
    char name[16];
    snprintf(name, sizeof(name), "gateway-%u", index % 1000);
    int r = loop_new(name, &lane->loop, err);
    if (r == 0) {
        r = lane_open(gateway, lane, err);
    }
    return r < 0 ? r : loop_start(lane->loop, err);
}

/* Never run, or not running any more. */
static void lane_done(struct lane *lane, bool owns_loop)
{
    if (lane->server != NULL) {
        http_server_free(lane->server);
    }
    loop_timer_free(lane->hold_timer);
    loop_timer_free(lane->websocket_timer);
    peer_clients_free(lane->peers);
    deflater_free(lane->deflater);
    if (owns_loop && lane->loop != NULL) {
        loop_stop(lane->loop);
        loop_join(lane->loop);
        loop_free(lane->loop);
    }
    LIST_EACH(node, &lane->free_calls)
    {
        struct call *call = LIST_ITEM(node, struct call, link);
        buffer_done(&call->environment);
        buffer_done(&call->input);
        buffer_done(&call->output);
        free(call);
    }
}

static void gateway_free(struct gateway *gateway)
{
    for (unsigned i = 0; i < gateway->lane_count; i++) {
        lane_done(&gateway->lanes[i], i > 0);
    }
    secure_free(gateway->secure);
    cache_free(gateway->cache);
    free(gateway->lanes);
    free(gateway->address);
    free(gateway->node_name);
    free(gateway);
}

int gateway_start(const struct gateway_options *options, struct gateway **ret_gateway,
                  struct error *err)
{
    struct gateway *gateway = NEW(struct gateway);
    gateway->options = *options;
    gateway->loop = instance_loop(options->instances);
    gateway->isolation = vmm_isolation_text(instance_isolation(options->instances));
    if (gateway->options.body_bytes_max == 0) {
        gateway->options.body_bytes_max = body_bytes_default;
    }
    gateway->address = memory_copy_string(options->address);
    gateway->cache =
        cache_new(options->cache_bytes_max > 0 ? options->cache_bytes_max : cache_bytes_default);
    gateway->node_name = options->node_name != NULL ? memory_copy_string(options->node_name) : NULL;
    gateway->lane_count = options->threads > 0 ? options->threads : 1;
    gateway->lanes = memory_new(gateway->lane_count, sizeof(struct lane));
    for (unsigned i = 0; i < gateway->lane_count; i++) {
        gateway->lanes[i].gateway = gateway;
        list_init(&gateway->lanes[i].free_calls);
        list_init(&gateway->lanes[i].held);
        list_init(&gateway->lanes[i].websockets);
        list_init(&gateway->lanes[i].passed);
    }
    for (unsigned i = 0; i < gateway->lane_count; i++) {
        int r = lane_start(gateway, i, err);
        if (r < 0) {
            error_wrap(err, "gateway_address");
            gateway_free(gateway);
            return r;
        }
    }
    int r = open_secure(gateway, err);
    if (r < 0) {
        gateway_free(gateway);
        return r;
    }
    listen_to_cluster(gateway);
    *ret_gateway = gateway;
    return 0;
}

void gateway_set_later(struct gateway *gateway, gateway_take_later *take, void *context)
{
    gateway->take_later = take;
    gateway->later_context = context;
}

uint16_t gateway_port(const struct gateway *gateway)
{
    return gateway->port;
}

uint16_t gateway_tls_port(const struct gateway *gateway)
{
    return gateway->tls_port;
}

/* ---- Stopping ---- */

static void stop_running(struct gateway *gateway)
{
    loop_stop(gateway->loop);
}

/* On the instances' loop. */
static void count_closed(void *argument)
{
    struct lane *lane = argument;
    struct gateway *gateway = lane->gateway;
    CHECK(gateway->lanes_open > 0);
    gateway->lanes_open--;
    if (gateway->lanes_open == 0 && !gateway->gives_up) {
        stop_running(gateway);
    }
}

void lane_report_closed(struct lane *lane)
{
    lane->is_closing = false;
    loop_post(lane->gateway->loop, count_closed, lane);
}

/* Exchanges that are left see their client go, and cancel their calls. */
static void lane_close(void *argument)
{
    struct lane *lane = argument;
    http_server_free(lane->server);
    lane->server = NULL;
    lane->is_closing = true;
    if (lane->live == 0) {
        lane_report_closed(lane);
    }
}

static void on_drained(void *context)
{
    struct lane *lane = context;
    loop_post(lane->loop, lane_close, lane); /* not from inside the server */
}

static void lane_drain(void *argument)
{
    struct lane *lane = argument;
    websocket_drain(lane);
    http_server_drain(lane->server, lane->gateway->drain_timeout_ms, on_drained, lane);
}

static void on_too_long(void *context)
{
    struct gateway *gateway = context;
    gateway->gives_up = true;
    stop_running(gateway);
}

void gateway_stop(struct gateway *gateway, uint64_t timeout_ms)
{
    struct loop *loop = gateway->loop;
    CHECK(!loop_is_current(loop));

    if (gateway->listener != NULL) {
        cluster_unlisten(gateway->listener);
    }
    gateway->drain_timeout_ms = timeout_ms;
    gateway->lanes_open = gateway->lane_count;
    for (unsigned i = 0; i < gateway->lane_count; i++) {
        loop_post(gateway->lanes[i].loop, lane_drain, &gateway->lanes[i]);
    }
    struct loop_timer *timer = loop_timer_new(loop, on_too_long, gateway);
    loop_timer_start(timer, timeout_ms + GATEWAY_CANCEL_MS);
    while (gateway->lanes_open > 0 && !gateway->gives_up) {
        loop_run(loop);
    }
    loop_timer_free(timer);
    if (gateway->lanes_open > 0) {
        /* Somebody still refers to them: better a leak at the end than a use after free. */
        log_warn("gateway: calls were left behind that did not end when they were cancelled");
        loop_timer_free(gateway->lanes[0].hold_timer);
        loop_timer_free(gateway->lanes[0].websocket_timer);
        secure_free(gateway->secure);
        return;
    }
    gateway_free(gateway);
}
