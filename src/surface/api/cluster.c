/* The cluster: what it is, its nodes, who may join it and who may log in. */
#include "service/cluster/cluster.h"

#include <string.h>

#include "surface/api/parts.h"

static void on_reply(const struct error *error, struct buffer *answer, void *context)
{
    struct request *request = context;
    if (error != NULL) {
        api_answer_error(request, error);
    } else if (answer == NULL) {
        api_answer_nothing(request);
    } else {
        api_answer_json(request, request->status, answer);
    }
}

static struct cluster_reply reply_to(struct request *request)
{
    return (struct cluster_reply){on_reply, request};
}

static struct cluster *cluster_of(const struct request *request)
{
    return request->api->options.cluster;
}

/* ---- Looking ---- */

static void answer_written(struct request *request,
                           int (*write)(struct cluster *cluster, struct buffer *out,
                                        struct error *err))
{
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    int r = write(cluster_of(request), &body, &err);
    api_answer_written(request, r, &body, &err);
}

void api_cluster_get(struct request *request)
{
    answer_written(request, cluster_write);
}

void api_node_list(struct request *request)
{
    answer_written(request, cluster_write_nodes);
}

void api_token_list(struct request *request)
{
    answer_written(request, cluster_write_tokens);
}

void api_client_list(struct request *request)
{
    answer_written(request, cluster_write_clients);
}

void api_node_show(struct request *request)
{
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    int r = cluster_write_node(cluster_of(request), request->parameters[0], &body, &err);
    api_answer_written(request, r, &body, &err);
}

/* ---- The cluster ---- */

static void init(struct request *request, const json_t *body)
{
    json_int_t servers = json_integer_value(json_object_get(body, "servers"));
    cluster_init(cluster_of(request), api_body_text(body, "name"),
                 servers > 0 && servers < 100 ? (unsigned)servers
                     : servers == 0           ? 0
                                              : 100,
                 api_body_text(body, "address"), reply_to(request));
}

void api_cluster_init(struct request *request)
{
    api_body_read(request, "ClusterInit", init);
}

static void set_leader(struct request *request, const json_t *body)
{
    cluster_set_leader(cluster_of(request), api_body_text(body, "node"), reply_to(request));
}

void api_leader_set(struct request *request)
{
    api_body_read(request, "LeaderSet", set_leader);
}

/* ---- Nodes ---- */

static void update(struct request *request, const json_t *body)
{
    cluster_update_node(cluster_of(request), request->parameters[0], api_body_text(body, "role"),
                        api_body_text(body, "failure_domain"), api_body_text(body, "pool"),
                        reply_to(request));
}

void api_node_update(struct request *request)
{
    api_body_read(request, "NodeUpdate", update);
}

static void label(struct request *request, const json_t *body)
{
    cluster_label_node(cluster_of(request), request->parameters[0], request->parameters[1],
                       api_body_text(body, "value"), reply_to(request));
}

void api_node_label(struct request *request)
{
    api_body_read(request, "LabelSet", label);
}

void api_node_unlabel(struct request *request)
{
    cluster_label_node(cluster_of(request), request->parameters[0], request->parameters[1], NULL,
                       reply_to(request));
}

void api_node_remove(struct request *request)
{
    cluster_remove_node(cluster_of(request), request->parameters[0], reply_to(request));
}

void api_node_cordon(struct request *request)
{
    cluster_cordon_node(cluster_of(request), request->parameters[0], true, reply_to(request));
}

void api_node_uncordon(struct request *request)
{
    cluster_cordon_node(cluster_of(request), request->parameters[0], false, reply_to(request));
}

static void taint(struct request *request, const json_t *body)
{
    cluster_taint_node(cluster_of(request), request->parameters[0], request->parameters[1],
                       api_body_text(body, "value"), api_body_text(body, "effect"),
                       reply_to(request));
}

void api_node_taint(struct request *request)
{
    api_body_read(request, "TaintSet", taint);
}

void api_node_untaint(struct request *request)
{
    cluster_taint_node(cluster_of(request), request->parameters[0], request->parameters[1], NULL,
                       NULL, reply_to(request));
}

static void set_window(struct request *request, const json_t *body)
{
    cluster_set_window(cluster_of(request), request->parameters[0], request->parameters[1], body,
                       reply_to(request));
}

void api_node_window_set(struct request *request)
{
    api_body_read(request, "NodeWindowSet", set_window);
}

void api_node_window_delete(struct request *request)
{
    cluster_delete_window(cluster_of(request), request->parameters[0], request->parameters[1],
                          reply_to(request));
}

/* ---- Who may come in ---- */

static void create_token(struct request *request, const json_t *body)
{
    struct error err = {0};
    uint64_t ttl_ms = 0;
    const json_t *uses = json_object_get(body, "uses");
    int r = api_body_duration(body, "ttl", &ttl_ms, &err);
    if (r == 0 && json_is_integer(uses) && json_integer_value(uses) == 0) {
        r = error_set(&err, ERROR_INVALID, "$.uses is at least 1");
    }
    if (r < 0) {
        api_answer_error(request, &err);
        return;
    }
    cluster_create_token(cluster_of(request), api_body_text(body, "role"), ttl_ms,
                         (uint64_t)json_integer_value(uses), reply_to(request));
}

void api_token_create(struct request *request)
{
    api_body_read(request, "TokenCreate", create_token);
}

void api_token_delete(struct request *request)
{
    cluster_delete_token(cluster_of(request), request->parameters[0], reply_to(request));
}

static void create_client(struct request *request, const json_t *body)
{
    struct error err = {0};
    uint64_t ttl_ms = 0;
    if (api_body_duration(body, "ttl", &ttl_ms, &err) < 0) {
        api_answer_error(request, &err);
        return;
    }
    cluster_create_client(cluster_of(request), api_body_text(body, "name"),
                          api_body_text(body, "kind"), ttl_ms, reply_to(request));
}

void api_client_create(struct request *request)
{
    api_body_read(request, "ClientCreate", create_client);
}

void api_client_delete(struct request *request)
{
    cluster_delete_client(cluster_of(request), request->parameters[0], reply_to(request));
}

/* ---- Newcomers: secrets never go in the clear ---- */

static bool refuse_in_the_clear(struct request *request)
{
    if (http_exchange_is_tls(request->exchange)) {
        return false;
    }
    struct error err = {0};
    error_set(&err, ERROR_DENIED, "this is asked with TLS, at the cluster's address");
    api_answer_error(request, &err);
    return true;
}

static void join(struct request *request, const json_t *body)
{
    cluster_join(cluster_of(request), body, reply_to(request));
}

void api_join(struct request *request)
{
    if (!refuse_in_the_clear(request)) {
        api_message_read(request, "Join", join);
    }
}

static void login(struct request *request, const json_t *body)
{
    cluster_login(cluster_of(request), body, reply_to(request));
}

void api_login(struct request *request)
{
    if (!refuse_in_the_clear(request)) {
        api_message_read(request, "Login", login);
    }
}

/* ---- Peers ---- */

static void take_heartbeat(struct request *request, const json_t *body)
{
    cluster_take_heartbeat(cluster_of(request), request->caller.node, body, reply_to(request));
}

void api_node_heartbeat(struct request *request)
{
    api_message_read(request, "Heartbeat", take_heartbeat);
}

static void renew_certificate(struct request *request, const json_t *body)
{
    cluster_renew_certificate(cluster_of(request), request->caller.node, body, reply_to(request));
}

void api_certificate_renew(struct request *request)
{
    api_message_read(request, "CertificateRequest", renew_certificate);
}

void api_key_get(struct request *request)
{
    cluster_give_key(cluster_of(request), request->caller.node, reply_to(request));
}
