/* The life of the service, and looks at what this node has: see node.h. */
#include "service/node/node.h"

#include "service/cluster/cluster.h"
#include "service/node/parts.h"

enum { LOOK_MS = 60000 };

static void look(void *context)
{
    static const struct attributes_roots roots = {"/proc", "/sys"};
    struct node_service *service = context;
    BUFFER_OWNED struct buffer attributes = {0};
    attributes_write(&service->options, &roots, &attributes);
    cluster_set_attributes(service->options.cluster, buffer_string(&attributes));
    loop_timer_start(service->look, LOOK_MS);
}

int node_service_new(const struct node_options *options, struct node_service **ret_service,
                     struct error *err)
{
    struct node_service *service = NEW(struct node_service);
    (void)err;
    service->options = *options;
    service->node_name = memory_copy_string(options->node_name);
    service->options.node_name = service->node_name;
    service->look = loop_timer_new(options->loop, look, service);
    look(service);
    *ret_service = service;
    return 0;
}

void node_service_free(struct node_service *service)
{
    if (service == NULL) {
        return;
    }
    service->is_over = true;
    loop_timer_free(service->look);
    free(service->node_name);
    free(service);
}
