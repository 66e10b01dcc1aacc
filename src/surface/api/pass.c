/*
 * Requests that are another node's: what ?node=NAME names, and operations that it carries out. Sent
 * there as they came, marked with how often they were.
 *
 * Two nodes may not agree for a moment on where a machine is, as one is behind.  So the one that
 * was sent a request which is not its own waits for its log, looks again, and sends it on once
 * more; the third one answers.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"

#include "engine/store/store.h"

#include "service/cluster/cluster.h"
#include "service/peer/peer.h"

#include "surface/api/parts.h"

enum {
    NAME_SIZE = 256,
    HOPS_MAX = 2,
    LOST_MS = 5000, /* for one that may be back, and is not known to be */
};

static int say_lost(const struct cluster_node *node, struct error *err)
{
    uint64_t seconds = (clock_boot_ms() - node->lost_ms) / 1000;
    uint64_t minutes = seconds / 60;
    return error_set(err, ERROR_UNAVAILABLE, "node %s has been lost for %" PRIu64 " %s", node->name,
                     minutes < 2         ? seconds
                         : minutes < 120 ? minutes
                                         : minutes / 60,
                     minutes < 2         ? "s"
                         : minutes < 120 ? "min"
                                         : "h");
}

static int check_lost(const struct api *api, uint64_t id, struct error *err)
{
    struct cluster_view *view = peer_view(api->options.peers);
    const struct cluster_node *node = view != NULL ? cluster_view_find(view, id) : NULL;
    bool is_lost = node != NULL && !node->is_self && node->health == CLUSTER_LOST;
    int r = is_lost ? say_lost(node, err) : 0;
    if (view != NULL) {
        cluster_view_unref(view);
    }
    return r;
}

/* It counts as lost some seconds after it is: until then the connection alone tells. */
static void say_why(struct request *request, struct error *err)
{
    const struct error silent = *err;
    if (check_lost(request->api, request->passed_to, err) == 0) {
        const char *why = strchr(silent.text, ':'); /* behind "node NAME" */
        if (silent.kind == ERROR_UNAVAILABLE && why != NULL) {
            error_set(err, silent.kind,
                      "%.*s does not answer (%.200s): try again in some seconds, when it is back "
                      "or counts as lost (blixard node list)",
                      (int)(why - silent.text), silent.text, why + 2);
        }
    } else if (request->explain_lost != NULL) {
        request->explain_lost(request, err);
    }
}

static void on_end(const struct error *error, bool is_untouched, void *context)
{
    struct request *request = context;
    (void)is_untouched;
    request->stop = NULL;
    if (error != NULL && !http_exchange_has_begun(request->exchange)) {
        struct error err = *error;
        say_why(request, &err);
        if (err.kind == ERROR_UNAVAILABLE && request->answer_without != NULL) {
            request->answer_without(request, &err);
        } else {
            api_answer_error(request, &err);
        }
    } else {
        api_request_end(request);
    }
}

static void on_stop(struct request *request)
{
    peer_pass_cancel(request->state);
}

/* Nodes that have passed it on. */
static unsigned hops_of(const struct request *request)
{
    struct text hop = http_exchange_field(request->exchange, PEER_FIELD_HOP);
    if (request->caller.kind != CALLER_NODE || hop.data == NULL) {
        return 0;
    }
    return text_equal(hop, "1") ? 1 : HOPS_MAX;
}

bool api_is_passed_on(const struct request *request)
{
    return hops_of(request) > 0;
}

void api_pass_on(struct request *request, uint64_t node)
{
    static const struct peer_pass_events events = {.on_end = on_end};
    static const char *const first[] = {PEER_FIELD_HOP ": 1", NULL};
    static const char *const second[] = {PEER_FIELD_HOP ": 2", NULL};
    struct text path = http_exchange_path(request->exchange);
    struct text query = http_exchange_query(request->exchange);
    MEMORY_OWNED char *target =
        memory_format("%.*s%s%.*s", (int)path.length, path.data, query.length > 0 ? "?" : "",
                      (int)query.length, query.length > 0 ? query.data : "");
    struct error ignored = {0};
    request->passed_to = node;
    const struct peer_passing passing = {
        .node = node,
        .timeout_ms = check_lost(request->api, node, &ignored) < 0 ? LOST_MS : 0,
        .target = target,
        .fields = hops_of(request) == 0 ? first : second};
    request->state =
        peer_pass_new(request->api->options.peers, request->exchange, &passing, &events, request);
    request->stop = on_stop;
}

enum whose { HERE, ELSEWHERE, NOWHERE };

static enum whose find_node(const struct api *api, const char *name, uint64_t *ret_node)
{
    struct cluster_view *view = peer_view(api->options.peers);
    enum whose whose = strcmp(name, api->node_name) == 0 ? HERE : NOWHERE;
    const struct cluster_node *node = view != NULL ? cluster_view_find_name(view, name) : NULL;
    if (node != NULL) {
        whose = node->is_self ? HERE : ELSEWHERE;
        *ret_node = node->id;
    }
    if (view != NULL) {
        cluster_view_unref(view);
    }
    return whose;
}

int api_check_reach(const struct api *api, const char *name, struct error *err)
{
    uint64_t node = 0;
    switch (find_node(api, name, &node)) {
    case HERE:
        return 0;
    case ELSEWHERE:
        return check_lost(api, node, err);
    case NOWHERE:
        break;
    }
    return error_set(err, ERROR_UNAVAILABLE, "node %.63s is not in the cluster any more", name);
}

static void on_current(const struct error *error, void *context)
{
    struct request *request = context;
    (void)error; /* nobody leads: what is here is all that can be told */
    request->handle(request);
}

bool api_looks_again(struct request *request)
{
    if (request->is_current || !api_is_passed_on(request)) {
        return false;
    }
    request->is_current = true;
    store_barrier(request->api->options.store, on_current, request);
    return true;
}

bool api_pass_to_node(struct request *request, const char *name)
{
    uint64_t node = 0;
    struct error err = {0};
    switch (find_node(request->api, name, &node)) {
    case HERE:
        return false;
    case ELSEWHERE:
        if (api_looks_again(request)) {
            return true;
        }
        if (hops_of(request) < HOPS_MAX) {
            api_pass_on(request, node);
            return true;
        }
        error_set(&err, ERROR_UNAVAILABLE, "it is on node %.80s, which this one is not", name);
        break;
    case NOWHERE:
        if (request->explain_lost == NULL) {
            error_set(&err, ERROR_NOT_FOUND, "there is no node %.80s", name);
        } else if (api_check_reach(request->api, name, &err) < 0) {
            request->explain_lost(request, &err);
        }
        break;
    }
    api_answer_error(request, &err);
    return true;
}

bool api_pass_to_named(struct request *request, const struct api_route *route)
{
    char name[NAME_SIZE];
    return http_query_get(http_exchange_query(request->exchange), "node", name, sizeof(name)) &&
        api_query_passes(route) && !api_is_passed_on(request) && api_pass_to_node(request, name);
}
