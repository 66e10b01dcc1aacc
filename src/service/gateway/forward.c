/* A call that another node runs: which one, and what it is told.  See gateway.h and choose.h. */
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/http/http.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "service/cluster/cluster.h"
#include "service/gateway/choose.h"
#include "service/gateway/lane.h"
#include "service/instance/instance.h"
#include "service/telemetry/telemetry.h"

enum {
    TRIES_MAX = FORWARD_TRIES_MAX,
    GRACE_MS = FORWARD_GRACE_MS,
    FIELD_SIZE = 640,
    FIELDS_MAX = 15,
};

/* ---- Nodes ---- */

bool forward_find_node(const struct gateway *gateway, const char *name, uint64_t *ret_node,
                       bool *ret_is_self)
{
    struct cluster *cluster = gateway->options.cluster;
    struct cluster_view *view = cluster != NULL ? cluster_view_ref(cluster) : NULL;
    const struct cluster_node *node = view != NULL ? cluster_view_find_name(view, name) : NULL;
    bool found = node != NULL;
    if (found) {
        *ret_node = node->id;
        *ret_is_self = node->is_self;
    }
    if (view != NULL) {
        cluster_view_unref(view);
    }
    if (!found && gateway->node_name != NULL && strcmp(gateway->node_name, name) == 0) {
        *ret_is_self = found = true;
    }
    return found;
}

void forward_own_name(const struct gateway *gateway, char ret_name[GATEWAY_NODE_NAME_SIZE])
{
    struct cluster *cluster = gateway->options.cluster;
    struct cluster_view *view = cluster != NULL ? cluster_view_ref(cluster) : NULL;
    const char *name = gateway->node_name != NULL ? gateway->node_name : "";
    if (view != NULL && view->count > 0 && view->nodes[0].is_self &&
        view->nodes[0].name[0] != '\0') {
        name = view->nodes[0].name;
    }
    snprintf(ret_name, GATEWAY_NODE_NAME_SIZE, "%s", name);
    if (view != NULL) {
        cluster_view_unref(view);
    }
}

/* What this node has now, for as many CPUs as it tells the others. */
static struct cluster_load own_load(const struct gateway *gateway, const struct cluster_view *view)
{
    uint64_t running = 0;
    uint64_t waiting = 0;
    instance_count_calls(gateway->options.instances, &running, &waiting);
    return (struct cluster_load){.running = (uint32_t)running,
                                 .waiting = (uint32_t)waiting,
                                 .cpus = view->nodes[0].is_self ? view->nodes[0].load.cpus : 0};
}

/* Cheap, as it is asked for each call: without a look at the other nodes. */
static bool may_be_for_others(const struct gateway *gateway)
{
    uint64_t running = 0;
    uint64_t waiting = 0;
    instance_count_calls(gateway->options.instances, &running, &waiting);
    return waiting > 0 || atomic_load_explicit(&gateway->passes_on, memory_order_relaxed);
}

bool forward_is_for_others(struct lane *lane, const char *project, struct text name,
                           struct function_holders *ret_holders)
{
    const struct gateway *gateway = lane->gateway;
    bool passes_on = atomic_load_explicit(&gateway->passes_on, memory_order_relaxed);
    if (gateway->options.cluster == NULL || !may_be_for_others(gateway) ||
        !function_route_others(gateway->options.functions, project, name, ret_holders)) {
        return false;
    }
    struct cluster_view *view = peer_view(lane->peers);
    struct cluster_load own = {0};
    size_t count = 0;
    if (view != NULL && view->count > 0) {
        own = own_load(gateway, view);
    }
    for (size_t i = 0; view != NULL && i < ret_holders->count; i++) {
        const struct cluster_node *node = cluster_view_find(view, ret_holders->nodes[i]);
        if (node != NULL && node->health == CLUSTER_HEALTHY && node->duty == CLUSTER_ACTIVE &&
            (passes_on || choose_is_relief(&own, &node->load))) {
            ret_holders->nodes[count++] = node->id;
        }
    }
    if (view != NULL) {
        cluster_view_unref(view);
    }
    ret_holders->count = count;
    return count > 0;
}

/* One of those that are left, which is taken out of them; 0: none. */
uint64_t forward_take_node(struct lane *lane, struct function_holders *holders)
{
    struct choose_node nodes[FUNCTION_HOLDERS_MAX];
    size_t places[FUNCTION_HOLDERS_MAX];
    size_t count = 0;
    struct cluster_view *view = peer_view(lane->peers);
    for (size_t i = 0; view != NULL && i < holders->count; i++) {
        const struct cluster_node *node = cluster_view_find(view, holders->nodes[i]);
        if (node != NULL && !node->is_self) {
            places[count] = i;
            nodes[count++] = (struct choose_node){
                /* One that takes nothing new gets what nobody else can take. */
                .health = node->duty != CLUSTER_ACTIVE ? CLUSTER_LOST : node->health,
                .place = choose_place_of(&view->nodes[0], node),
                .rtt_us = node->rtt_us,
                .calls = peer_calls_of(lane->peers, node->id),
                .load = node->load,
            };
        }
    }
    if (view != NULL) {
        cluster_view_unref(view);
    }
    if (count == 0) {
        return 0;
    }
    size_t place = places[choose_node(nodes, count, lane_random(lane))];
    uint64_t chosen = holders->nodes[place];
    holders->count--;
    holders->nodes[place] = holders->nodes[holders->count];
    return chosen;
}

/* ---- One try ---- */

static void forward_next(struct call *call);

static void on_pass_end(const struct error *error, bool is_untouched, void *context)
{
    struct call *call = context;
    call->pass = NULL;
    call->is_related = false;
    list_remove(&call->passed_link);
    traced_forwarded(call, call->passed_to, call->passed_ns, error);
    if (error == NULL || error->kind == ERROR_CANCELLED ||
        http_exchange_has_begun(call->exchange)) {
        call->is_answering = false;
    } else if (is_untouched && call_time_left(call) > 0 &&
               ((call->tries < TRIES_MAX && call->holders.count > 0) || call->target != NULL)) {
        call->body_error = *error; /* kept, if nobody else is there */
        forward_next(call);
        return;
    } else {
        answer_error(call, error, NULL);
    }
    call_settle(call);
}

static void on_pass_head(int status, void *context)
{
    struct call *call = context;
    if (call->is_websocket && status == 200) {
        websocket_add_fields(call);
        traced_note_status(call, 101);
    }
    if (call->route != NULL) {
        cache_forget(call->lane->gateway->cache, call, status);
        routed_add_cors(call->exchange, call->route);
    }
}

/* Not more than the function may take; twice: waiting and running. */
static uint64_t time_for(const struct call *call)
{
    uint64_t own_ms = call->holders.timeout_ms > 0 ? 2 * call->holders.timeout_ms
                                                   : (uint64_t)GATEWAY_DEADLINE_MAX_MS;
    uint64_t left_ms = call_time_left(call);
    return left_ms < own_ms ? left_ms : own_ms;
}

static char *target_of(const struct call *call)
{
    struct text path = http_exchange_path(call->exchange);
    struct text query = http_exchange_query(call->exchange);
    char *target = memory_resize(NULL, path.length + 1 + query.length + 1);
    char *at = mempcpy(target, path.data, path.length);
    if (query.length > 0) {
        *at++ = '?';
        at = mempcpy(at, query.data, query.length);
    }
    *at = '\0';
    return target;
}

/* Lines "NAME: VALUE", without a printf() for each field of each call. */
struct lines {
    char at[FIELDS_MAX][FIELD_SIZE];
    const char *fields[FIELDS_MAX + 1];
    size_t count;
};

static void add_text(struct lines *lines, const char *name, struct text value)
{
    CHECK(lines->count < FIELDS_MAX);
    char *line = lines->at[lines->count];
    size_t length = strlen(name);
    size_t most = FIELD_SIZE - length - 3;
    size_t part = value.length < most ? value.length : most;
    memcpy(line, name, length);
    memcpy(line + length, ": ", 2);
    memcpy(line + length + 2, value.data, part);
    line[length + 2 + part] = '\0';
    lines->fields[lines->count++] = line;
}

static void add_string(struct lines *lines, const char *name, const char *value)
{
    add_text(lines, name, text_of(value, strlen(value)));
}

static void add_number(struct lines *lines, const char *name, uint64_t value)
{
    char digits[TEXT_U64_SIZE];
    add_text(lines, name, text_of(digits, text_write_u64(value, digits)));
}

/* What the node is told beside what the client said. */
static void add_lines(struct call *call, uint64_t time_ms, struct lines *lines)
{
    struct text host = http_exchange_field(call->exchange, "Host");
    char function[sizeof(call->project) + sizeof(call->function)];
    char traceparent[TRACE_PARENT_SIZE];
    char terms[WEBSOCKET_TERMS_SIZE];
    stpcpy(stpcpy(stpcpy(function, call->project), "/"), call->function);
    call->trace.inner = trace_child(&call->trace.span.context);
    trace_write_parent(&call->trace.inner, traceparent);
    add_string(lines, PEER_FIELD_HOP, "1");
    add_string(lines, PEER_FIELD_FUNCTION, function);
    add_number(lines, PEER_FIELD_SCRIPT, call->script_length);
    add_string(lines, PEER_FIELD_CLIENT, http_exchange_peer(call->exchange));
    add_number(lines, PEER_FIELD_DEADLINE, time_ms);
    add_string(lines, "X-Request-Id", call->request_id);
    add_string(lines, "traceparent", traceparent);
    if (host.length > 0 && host.length < FIELD_SIZE - 32) {
        add_text(lines, PEER_FIELD_HOST, host);
    }
    if (call->pattern[0] != '\0') {
        add_string(lines, PEER_FIELD_PATTERN, call->pattern);
    }
    if (call->caller.user[0] != '\0') {
        add_string(lines, PEER_FIELD_USER, call->caller.user);
    }
    if (call->caller.subject[0] != '\0') {
        add_string(lines, PEER_FIELD_SUBJECT, call->caller.subject);
        add_string(lines, PEER_FIELD_FINGERPRINT, call->caller.fingerprint);
    }
    if (call->is_secure) {
        add_string(lines, PEER_FIELD_SCHEME, "https");
    }
    if (call->streams) {
        add_string(lines, PEER_FIELD_STREAMS, "1");
    }
    if (call->is_websocket) {
        websocket_write_terms(&call->terms, terms);
        add_string(lines, PEER_FIELD_WEBSOCKET, terms);
    }
    lines->fields[lines->count] = NULL;
}

static void pass_to(struct call *call, uint64_t node)
{
    static const struct peer_pass_events events = {.on_head = on_pass_head, .on_end = on_pass_end};
    struct lines lines;
    lines.count = 0;
    uint64_t time_ms = time_for(call);
    add_lines(call, time_ms, &lines);
    MEMORY_OWNED char *target = target_of(call);
    const struct peer_passing passing = {
        .node = node,
        .target = target,
        .fields = lines.fields,
        .timeout_ms = time_ms + GRACE_MS,
        .upgrade = call->is_websocket ? "websocket" : NULL,
        .takes_refusal =
            (call->tries < TRIES_MAX && call->holders.count > 0) || call->target != NULL,
    };
    telemetry_add(call->lane->gateway->options.telemetry, TELEMETRY_CALLS_FORWARDED, 1);
    if (call->is_websocket) {
        list_push_back(&call->lane->passed, &call->passed_link);
    } else {
        http_exchange_set_body_max(call->exchange, call->lane->gateway->options.body_bytes_max);
    }
    call->passed_to = node;
    call->passed_ns = clock_monotonic_ns();
    call->pass = peer_pass_new(call->lane->peers, call->exchange, &passing, &events, call);
    call->is_related = true;
}

static void forward_next(struct call *call)
{
    uint64_t node = call->tries < TRIES_MAX ? forward_take_node(call->lane, &call->holders) : 0;
    call->tries++;
    if (node != 0) {
        pass_to(call, node);
        return;
    }
    struct error err = call->body_error;
    call->body_error.kind = ERROR_NONE;
    if (call->target != NULL) {
        call_run_after_all(call);
        return;
    }
    if (err.kind == ERROR_NONE) {
        error_set(&err, ERROR_UNAVAILABLE,
                  "function %s cannot run on this node yet, and no node that can run it is there",
                  call->function);
    }
    answer_error(call, &err, NULL);
    call_settle(call);
}

void forward_begin(struct call *call)
{
    forward_next(call);
}
