/* One client per node and loop, kept while the node is where it was. */
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/http/http.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "service/peer/inside.h"

struct peer_call {
    struct peer_clients *clients;
    struct peer_client *client;
    struct http_call *http; /* NULL: it could not begin */
    struct loop_timer *timer;
    struct buffer answer;
    size_t answer_bytes_max;
    int status;
    bool is_cut;  /* the answer: too large, or too late */
    bool is_left; /* by its owner, before its end was told */
    bool was_sent;
    void (*on_head)(struct http_call *http, int status, void *context);
    struct error error;
    void (*done)(const struct error *error, int status, struct buffer *answer, void *context);
    void *context;
};

/* ---- Clients ---- */

static void client_free(struct peer_client *client)
{
    list_remove(&client->link);
    http_client_free(client->http);
    free(client);
}

static void on_sweep(void *context)
{
    struct peer_clients *clients = context;
    LIST_EACH(node, &clients->known)
    {
        struct peer_client *client = LIST_ITEM(node, struct peer_client, link);
        if (client->is_old && client->calls == 0) {
            client_free(client);
        }
    }
}

struct peer_clients *peer_clients_new(struct loop *loop, struct cluster *cluster)
{
    struct peer_clients *clients = NEW(struct peer_clients);
    clients->loop = loop;
    clients->cluster = cluster;
    list_init(&clients->known);
    clients->sweep = loop_timer_new(loop, on_sweep, clients);
    return clients;
}

void peer_clients_free(struct peer_clients *clients)
{
    if (clients == NULL) {
        return;
    }
    LIST_EACH(node, &clients->known)
    {
        client_free(LIST_ITEM(node, struct peer_client, link));
    }
    loop_timer_free(clients->sweep);
    free(clients);
}

struct cluster_view *peer_view(const struct peer_clients *clients)
{
    return clients->cluster != NULL ? cluster_view_ref(clients->cluster) : NULL;
}

static struct peer_client *find(const struct peer_clients *clients, uint64_t id)
{
    LIST_EACH(node, &clients->known)
    {
        struct peer_client *client = LIST_ITEM(node, struct peer_client, link);
        if (client->node == id && !client->is_old) {
            return client;
        }
    }
    return NULL;
}

unsigned peer_calls_of(const struct peer_clients *clients, uint64_t node)
{
    const struct peer_client *client = find(clients, node);
    return client != NULL ? client->calls : 0;
}

static int client_new(struct peer_clients *clients, const struct cluster_view *view,
                      const struct cluster_node *node, struct peer_client **ret_client,
                      struct error *err)
{
    struct peer_client *client = NEW(struct peer_client);
    client->node = node->id;
    snprintf(client->name, sizeof(client->name), "%s", node->name);
    snprintf(client->address, sizeof(client->address), "%s", node->address);
    snprintf(client->identity, sizeof(client->identity), "%s", node->identity);
    int r = cluster_client_new(clients->loop, view, node, 0, &client->http, err);
    if (r < 0) {
        free(client);
        return r;
    }
    list_push_back(&clients->known, &client->link);
    *ret_client = client;
    return 0;
}

static int enter(struct peer_clients *clients, const struct cluster_view *view, uint64_t id,
                 struct peer_client **ret_client, struct error *err)
{
    const struct cluster_node *node = view != NULL ? cluster_view_find(view, id) : NULL;
    if (node == NULL || view->tls == NULL) {
        return error_set(err, ERROR_UNAVAILABLE, "a node that was asked for is not in the cluster");
    }
    struct peer_client *client = find(clients, id);
    if (client != NULL &&
        (strcmp(client->address, node->address) != 0 ||
         strcmp(client->identity, node->identity) != 0)) {
        client->is_old = true;
        loop_timer_start(clients->sweep, 0);
        client = NULL;
    }
    if (client == NULL) {
        int r = client_new(clients, view, node, &client, err);
        if (r < 0) {
            return r;
        }
    }
    *ret_client = client;
    return 0;
}

int peer_client_enter(struct peer_clients *clients, uint64_t node, struct peer_client **ret_client,
                      struct error *err)
{
    struct cluster_view *view = peer_view(clients);
    int r = enter(clients, view, node, ret_client, err);
    if (view != NULL) {
        cluster_view_unref(view);
    }
    if (r == 0) {
        (*ret_client)->calls++;
    }
    return r;
}

void peer_client_leave(struct peer_clients *clients, struct peer_client *client)
{
    CHECK(client->calls > 0);
    client->calls--;
    if (client->is_old && client->calls == 0) {
        loop_timer_start(clients->sweep, 0);
    }
}

void peer_name_error(const struct peer_client *client, const struct error *error,
                     struct error *ret_error)
{
    struct error named = {.os_errno = error->os_errno};
    error_set(&named, error->kind, "node %s: %s", client->name, error->text);
    *ret_error = named;
}

/* ---- Calls ---- */

static void call_end(struct peer_call *call)
{
    if (call->client != NULL) {
        peer_client_leave(call->clients, call->client);
    }
    loop_timer_free(call->timer);
    buffer_done(&call->answer);
    free(call);
}

static void cut(struct peer_call *call, const struct error *error)
{
    if (!call->is_cut) {
        call->is_cut = true;
        peer_name_error(call->client, error, &call->error);
        loop_timer_start(call->timer, 0);
    }
}

static void on_head(struct http_call *http, int status, void *context)
{
    struct peer_call *call = context;
    call->status = status;
    if (call->on_head != NULL && call->done != NULL) {
        call->on_head(http, status, call->context);
    }
}

static void on_data(struct http_call *http, const void *bytes, size_t length, void *context)
{
    struct peer_call *call = context;
    (void)http;
    if (call->is_cut) {
        return;
    }
    if (length > call->answer_bytes_max - call->answer.used) {
        struct error err;
        error_set(&err, ERROR_TOO_LARGE, "its answer has more than %zu bytes",
                  call->answer_bytes_max);
        cut(call, &err);
        return;
    }
    buffer_append(&call->answer, bytes, length);
}

static void finish(struct peer_call *call, const struct error *error)
{
    call->done(error, call->status, &call->answer, call->context);
    call_end(call);
}

static void on_end(struct http_call *http, const struct error *error, void *context)
{
    struct peer_call *call = context;
    call->was_sent = call->was_sent || http_call_was_sent(http);
    call->http = NULL;
    if (call->done == NULL) {
        if (call->is_left) {
            call_end(call);
        }
        return;
    }
    if (call->is_cut) {
        finish(call, &call->error);
        return;
    }
    if (error != NULL) {
        peer_name_error(call->client, error, &call->error);
    }
    finish(call, error != NULL ? &call->error : NULL);
}

static void on_timer(void *context)
{
    struct peer_call *call = context;
    if (call->http == NULL) {
        finish(call, &call->error);
        return;
    }
    if (!call->is_cut) {
        struct error err;
        error_set(&err, ERROR_TIMEOUT, "no answer in time");
        call->is_cut = true;
        peer_name_error(call->client, &err, &call->error);
    }
    http_call_cancel(call->http); /* on_end() */
}

struct peer_call *peer_call_new(struct peer_clients *clients, const struct peer_request *request,
                                void (*done)(const struct error *error, int status,
                                             struct buffer *answer, void *context),
                                void *context)
{
    static const struct http_call_events events = {on_head, on_data, on_end};
    struct peer_call *call = NEW(struct peer_call);
    call->clients = clients;
    call->answer_bytes_max = request->answer_bytes_max;
    call->on_head = request->on_head;
    call->done = done;
    call->context = context;
    call->timer = loop_timer_new(clients->loop, on_timer, call);
    if (peer_client_enter(clients, request->node, &call->client, &call->error) < 0) {
        loop_timer_start(call->timer, 0);
        return call;
    }
    loop_timer_start(call->timer, request->timeout_ms);
    call->http =
        http_client_call(call->client->http, request->method, request->target, request->fields,
                         request->body, request->body_length, &events, call);
    return call;
}

bool peer_call_was_sent(const struct peer_call *call)
{
    return call->was_sent;
}

void peer_call_free(struct peer_call *call)
{
    if (call == NULL) {
        return;
    }
    call->done = NULL;
    if (call->http != NULL) {
        http_call_cancel(call->http); /* may tell the end at once, or later */
    }
    call->is_left = call->http != NULL;
    if (!call->is_left) {
        call_end(call);
    }
}
