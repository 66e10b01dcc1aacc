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
