/*
 * Drivers that no node has.  What is wanted by one comes to be when somebody installs it, and by
 * nothing that happens in a cluster by itself: that is told at once, and waited for only by who
 * asks to.
 */
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/json.h"
#include "base/memory.h"

#include "service/cluster/cluster.h"
#include "service/placement/parts.h"

enum { NODES_NAMED = 3, DRIVERS_TEXT = 64 };

/* "qemu, cloud-hypervisor", or "none"; whether `driver` is among them. */
static bool list_drivers(const json_t *drivers, const char *driver, char ret_text[DRIVERS_TEXT])
{
    size_t index = 0;
    size_t used = 0;
    bool has_it = false;
    json_t *one = NULL;
    snprintf(ret_text, DRIVERS_TEXT, "none");
    json_array_foreach(drivers, index, one)
    {
        const char *name = json_text(one, "name");
        has_it = has_it || strcmp(name, driver) == 0;
        if (used + strlen(name) + 3 < DRIVERS_TEXT) {
            used += (size_t)snprintf(ret_text + used, DRIVERS_TEXT - used, "%s%s",
                                     used > 0 ? ", " : "", name);
        }
    }
    return has_it;
}

bool drivers_explain(struct placement_service *service, const char *driver,
                     char ret_reason[PLACEMENT_REASON_MAX])
{
    BUFFER_OWNED struct buffer text = {0};
    BUFFER_OWNED struct buffer nodes = {0};
    JSON_OWNED json_t *document = NULL;
    struct error ignored = {0};
    size_t index = 0;
    json_t *node = NULL;
    char has[DRIVERS_TEXT];
    if (driver[0] == '\0' || cluster_write_nodes(service->options.cluster, &text, &ignored) < 0 ||
        json_read(text.data, text.used, &document, &ignored) < 0) {
        return false;
    }
    const json_t *list = json_object_get(document, "nodes");
    json_array_foreach(list, index, node)
    {
        const json_t *drivers = json_object_get(json_object_get(node, "attributes"), "drivers");
        if (drivers == NULL || list_drivers(drivers, driver, has)) {
            return false; /* it has said nothing yet, and may have any */
        }
        if (index < NODES_NAMED) {
            buffer_append_format(&nodes, "%s%.24s: %s", index > 0 ? "; " : "",
                                 json_text(node, "name"), has);
        }
    }
    if (json_array_size(list) > NODES_NAMED) {
        buffer_append_format(&nodes, "; and %zu more", json_array_size(list) - NODES_NAMED);
    }
    int length = snprintf(ret_reason, PLACEMENT_REASON_MAX,
                          "no node has the driver %.20s: install it on one and start its daemon "
                          "anew, or ask for another driver or none (",
                          driver);
    snprintf(ret_reason + length, PLACEMENT_REASON_MAX - (size_t)length, "%.*s)",
             PLACEMENT_REASON_MAX - length - 2, buffer_string(&nodes));
    return true;
}
