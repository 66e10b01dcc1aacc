/*
 * JSON to another node and back.  Clients are kept, one per node: HTTP/2 lets many calls share a
 * connection.  What an answer says is input: bounded, parsed strictly.
 */
#include <stdio.h>
#include <string.h>

#include "base/json.h"

#include "service/cluster/parts.h"

enum { ANSWER_TIMEOUT_MS = 5000 };

struct peer {
    struct list_node link;
    uint64_t id;
    char address[CLUSTER_ADDRESS_SIZE];
    struct http_client *client;
};

struct call {
    struct cluster *cluster; /* NULL: of a client that is not kept */
    uint64_t id;
    struct http_client *client;
    int status;
    struct buffer answer;
    bool is_too_long;
    call_done done;
    void *context;
};

/* ---- One call ---- */

static void on_head(struct http_call *http, int status, void *context)
{
    struct call *call = context;
    (void)http;
    call->status = status;
}

static void on_data(struct http_call *http, const void *bytes, size_t length, void *context)
{
    struct call *call = context;
    (void)http;
    call->is_too_long = call->is_too_long || length > CLUSTER_MESSAGE_MAX - call->answer.used;
    if (!call->is_too_long) {
        buffer_append(&call->answer, bytes, length);
    }
}

/* What a problem document (RFC 9457) says. */
static void take_problem(const struct call *call, const json_t *answer, struct error *err)
{
    enum error_kind kind = error_kind_parse(json_text(answer, "code"));
    const char *detail = json_text(answer, "detail");
    if (kind == ERROR_NONE) {
        error_set(err, ERROR_PROTOCOL, "the other node answered %d", call->status);
    } else {
        error_set(err, kind, "%.400s", detail[0] != '\0' ? detail : error_kind_text(kind));
    }
}

static void drop_peer(struct cluster *cluster, uint64_t id, const struct http_client *client);

static void on_end(struct http_call *http, const struct error *error, void *context)
{
    struct call *call = context;
    struct error err = {0};
    JSON_OWNED json_t *answer = NULL;
    (void)http;
    if (error != NULL) {
        err = *error;
        if (call->cluster != NULL &&
            (error->kind == ERROR_TIMEOUT || error->kind == ERROR_UNAVAILABLE)) {
            drop_peer(call->cluster, call->id, call->client);
        }
    } else if (call->is_too_long) {
        error_set(&err, ERROR_PROTOCOL, "the other node's answer is too long");
    } else if (call->answer.used > 0) {
        json_read(call->answer.data, call->answer.used, &answer, &err);
    }
    if (error == NULL && call->status >= 300) {
        take_problem(call, answer, &err);
    }
    call->done(err.kind == ERROR_NONE ? answer : NULL, err.kind == ERROR_NONE ? NULL : &err,
               call->context);
    if (call->answer.data != NULL) {
        explicit_bzero(call->answer.data, call->answer.used);
    }
    buffer_done(&call->answer);
    free(call);
}

static void begin(struct call *call, const char *method, const char *target,
                  const struct buffer *body)
{
    static const struct http_call_events events = {on_head, on_data, on_end};
    static const char *const fields[] = {"Content-Type: application/json", NULL};
    http_client_call(call->client, method, target, body != NULL ? fields : NULL,
                     body != NULL ? body->data : NULL, body != NULL ? body->used : 0, &events,
                     call);
}

static struct call *call_new(struct http_client *client, call_done done, void *context)
{
    struct call *call = NEW(struct call);
    call->client = client;
    call->done = done;
    call->context = context;
    return call;
}

void call_send(struct http_client *client, const char *method, const char *target,
               const struct buffer *body_or_null, call_done done, void *context)
{
    begin(call_new(client, done, context), method, target, body_or_null);
}

/* ---- The kept ones ---- */

static void free_retired(void *context)
{
    struct cluster *cluster = context;
    while (!list_is_empty(&cluster->retired)) {
        struct peer *peer = LIST_FIRST(&cluster->retired, struct peer, link);
        list_remove(&peer->link);
        http_client_free(peer->client);
        free(peer);
    }
}

/* Not at once: perhaps this is inside of a call of its own. */
static void retire(struct cluster *cluster, struct peer *peer)
{
    if (cluster->retire_timer == NULL) {
        cluster->retire_timer = loop_timer_new(cluster->loop, free_retired, cluster);
    }
    list_remove(&peer->link);
    list_push_back(&cluster->retired, &peer->link);
    loop_timer_start(cluster->retire_timer, 0);
}

static struct peer *find_peer(struct cluster *cluster, uint64_t id)
{
    LIST_EACH(node, &cluster->peers)
    {
        struct peer *peer = LIST_ITEM(node, struct peer, link);
        if (peer->id == id) {
            return peer;
        }
    }
    return NULL;
}

static void drop_peer(struct cluster *cluster, uint64_t id, const struct http_client *client)
{
    struct peer *peer = find_peer(cluster, id);
    if (peer != NULL && peer->client == client) {
        retire(cluster, peer);
    }
}

static int peer_of(struct cluster *cluster, uint64_t id, struct peer **ret_peer, struct error *err)
{
    const char *address = member_address(cluster, id);
    struct peer *peer = find_peer(cluster, id);
    if (peer != NULL && (address == NULL || strcmp(peer->address, address) != 0)) {
        retire(cluster, peer);
        peer = NULL;
    }
    if (address == NULL || cluster->dial_tls == NULL || cluster->is_stopping) {
        return error_set(err, ERROR_UNAVAILABLE, "there is no way to that node");
    }
    if (peer == NULL) {
        char identity[128];
        identity_format_uri(cluster->identity.cluster, id, identity, sizeof(identity));
        const struct http_client_options options = {.tls = cluster->dial_tls,
                                                    .identity = identity,
                                                    .is_to_node = true,
                                                    .connections_max = 2,
                                                    .answer_timeout_ms = ANSWER_TIMEOUT_MS};
        struct http_client *client = NULL;
        int r = http_client_new(cluster->loop, address, &options, &client, err);
        if (r < 0) {
            return r;
        }
        peer = NEW(struct peer);
        peer->id = id;
        peer->client = client;
        snprintf(peer->address, sizeof(peer->address), "%s", address);
        list_push_back(&cluster->peers, &peer->link);
    }
    *ret_peer = peer;
    return 0;
}

struct refusal {
    struct error error;
    call_done done;
    void *context;
};

static void on_refused(void *context)
{
    struct refusal *refusal = context;
    refusal->done(NULL, &refusal->error, refusal->context);
    free(refusal);
}

void call_node(struct cluster *cluster, uint64_t id, const char *method, const char *target,
               const struct buffer *body_or_null, call_done done, void *context)
{
    struct error err = {0};
    struct peer *peer = NULL;
    if (peer_of(cluster, id, &peer, &err) < 0) {
        struct refusal *refusal = NEW(struct refusal);
        *refusal = (struct refusal){err, done, context};
        loop_post(cluster->loop, on_refused, refusal);
        return;
    }
    struct call *call = call_new(peer->client, done, context);
    call->cluster = cluster;
    call->id = id;
    begin(call, method, target, body_or_null);
}

void call_forget(struct cluster *cluster)
{
    LIST_EACH(node, &cluster->peers)
    {
        retire(cluster, LIST_ITEM(node, struct peer, link));
    }
}

void call_close(struct cluster *cluster)
{
    LIST_EACH(node, &cluster->peers)
    {
        struct peer *peer = LIST_ITEM(node, struct peer, link);
        list_remove(&peer->link);
        list_push_back(&cluster->retired, &peer->link);
    }
    free_retired(cluster);
    loop_timer_free(cluster->retire_timer);
    cluster->retire_timer = NULL;
}
