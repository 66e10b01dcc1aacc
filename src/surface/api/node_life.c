/* Drains of nodes, and what ends them. */
#include "service/node/node.h"

#include "surface/api/parts.h"

static void drain(struct request *request, const json_t *body)
{
    node_drain(request->api->options.node_life, request->project, request->parameters[0], body,
               api_answer_begun, api_begin(request, request->parameters[0]));
}

void api_node_drain(struct request *request)
{
    api_body_read(request, "NodeDrain", drain);
}

static void restore(struct request *request, const json_t *body)
{
    node_restore(request->api->options.node_life, request->project, request->parameters[0], body,
                 api_answer_begun, api_begin(request, request->parameters[0]));
}

void api_node_restore(struct request *request)
{
    api_body_read(request, "NodeRestore", restore);
}

static void on_planned(const struct error *error, struct buffer *plan, void *context)
{
    struct request *request = context;
    if (error != NULL) {
        api_answer_error(request, error);
    } else {
        api_answer_json(request, request->status, plan);
    }
}

static void rebalance(struct request *request, const json_t *body)
{
    node_rebalance(request->api->options.node_life, request->project, body, on_planned, request);
}

void api_cluster_rebalance(struct request *request)
{
    api_body_read(request, "ClusterRebalance", rebalance);
}
