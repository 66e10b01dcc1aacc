/* Of the subsystems: what a node is to the others, and where things run. */
#include <unistd.h>

#include "service/cluster/cluster.h"
#include "service/function/function.h"
#include "service/instance/instance.h"
#include "service/node/node.h"
#include "service/placement/placement.h"

#include "main/subsystems.h"

static int find_other(void *context, const char *id, const char *but, char ret_node[64],
                      struct error *err)
{
    const struct node *node = context;
    return node->placement != NULL
        ? placement_service_find_other(node->placement, id, but, ret_node, err)
        : error_set(err, ERROR_UNAVAILABLE, "this node begins, or ends");
}

static size_t look_at_functions(void *context, uint64_t *ret_calls, char *ret_names, size_t size)
{
    const struct node *node = context;
    uint64_t running = 0;
    uint64_t waiting = 0;
    instance_count_calls(node->instances, &running, &waiting);
    *ret_calls = running + waiting;
    ret_names[0] = '\0';
    return node->is_running ? function_only_here(node->functions, ret_names, size) : 0;
}

static void read_load(struct cluster_load *ret_load, void *context)
{
    const struct node *node = context;
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    uint64_t running = 0;
    uint64_t waiting = 0;
    instance_count_calls(node->instances, &running, &waiting);
    *ret_load = (struct cluster_load){.running = (uint32_t)running,
                                      .waiting = (uint32_t)waiting,
                                      .cpus = cpus > 0 ? (uint32_t)cpus : 1};
}

static int plan_moves(void *context, const struct placement_rebalance_options *options,
                      struct placement_rebalance *ret_plan, struct error *err)
{
    const struct node *node = context;
    return node->placement != NULL
        ? placement_service_plan_moves(node->placement, options, ret_plan, err)
        : error_set(err, ERROR_UNAVAILABLE, "this node begins, or ends");
}

int places_start_node_life(struct node *node, struct error *err)
{
    const struct options *options = &node->options;
    const struct node_options settings = {
        .loop = node->loop,
        .store = node->store,
        .cluster = node->cluster,
        .operations = node->operations,
        .machines = node->machines,
        .hypervisor = node->hypervisor,
        .node_name = node->name,
        .data_folder = node->folder,
        .kvm = !node->probe.kvm_usable    ? "none"
            : node->probe.kvm_paravirtual ? "paravirtual"
                                          : "hardware",
        .devices = options->machine_devices,
        .region = options->region,
        .zone = options->zone,
        .rack = options->rack,
        .reserved_cpu_millis = options->reserved_cpu_millis,
        .reserved_memory_bytes = options->reserved_memory_bytes,
        .reserved_disk_bytes = options->reserved_disk_bytes,
        .overcommit_cpu_percent = options->overcommit_cpu_percent,
        .overcommit_memory_percent = options->overcommit_memory_percent,
        .overcommit_disk_percent = options->overcommit_disk_percent,
        .rebalance_every_ms = options->rebalance_every_ms,
        .rebalance_threshold_percent = options->rebalance_threshold_percent,
        .rebalance_batch = options->rebalance_batch,
        .rebalance_cooldown_ms = options->rebalance_cooldown_ms,
        .loss_wait_ms = options->node_loss_wait_ms,
        .moves_max = options->machine_moves_max,
        .find_other = find_other,
        .plan_moves = plan_moves,
        .find_context = node,
        .look_at_functions = look_at_functions,
        .functions_context = node,
    };
    cluster_set_load(node->cluster, read_load, node);
    return node_service_new(&settings, &node->node_life, err);
}

void places_stop_node_life(struct node *node)
{
    cluster_set_load(node->cluster, NULL, NULL);
    node_service_free(node->node_life);
}

int places_start_placement(struct node *node, struct error *err)
{
    const struct placement_service_options options = {
        .loop = node->loop,
        .store = node->store,
        .cluster = node->cluster,
        .peers = node->peers,
        .machines = node->machines,
        .operations = node->operations,
        .node_name = node->name,
        .displaced_max = node->options.placement_displaced_max,
        .hold_after_ms = node->options.placement_hold_after_ms,
        .holds_max = node->options.placement_holds_max,
    };
    return placement_service_new(&options, &node->placement, err);
}

enum function_place places_function(const char *version, const char *placement, void *context)
{
    const struct node *node = context;
    switch (placement_service_function(node->placement, version, placement)) {
    case PLACEMENT_FUNCTION_NOT_HERE:
        return FUNCTION_NOT_HERE;
    case PLACEMENT_FUNCTION_WHEN_CALLED:
        return FUNCTION_WHEN_CALLED;
    case PLACEMENT_FUNCTION_HERE:
        break;
    }
    return FUNCTION_HERE;
}

bool places_suit_others(const char *placement, void *context)
{
    const struct node *node = context;
    return placement_service_suits_others(node->placement, placement);
}

void places_stop_placement(struct node *node)
{
    placement_service_free(node->placement);
    node->placement = NULL;
}
