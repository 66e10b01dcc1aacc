/* Nodes in the picture. */
#include <string.h>

#include "service/cluster/cluster.h"

const struct cluster_node *cluster_view_find(const struct cluster_view *view, uint64_t id)
{
    for (size_t i = 0; i < view->count; i++) {
        if (view->nodes[i].id == id) {
            return &view->nodes[i];
        }
    }
    return NULL;
}

const struct cluster_node *cluster_view_find_name(const struct cluster_view *view, const char *name)
{
    for (size_t i = 0; i < view->count; i++) {
        if (strcmp(view->nodes[i].name, name) == 0) {
            return &view->nodes[i];
        }
    }
    return NULL;
}
