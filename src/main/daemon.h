/* The daemon: its options, its subsystems, and the one loop that they share. */
#ifndef MAIN_DAEMON_H
#define MAIN_DAEMON_H

#include <stdbool.h>

#include "base/error.h"
#include "base/loop/loop.h"

#include "engine/clone/clone.h"
#include "engine/vmm/vmm.h"

#include "main/options.h"

struct node {
    struct options options;
    bool is_dev;
    char *folder;
    char name[256];
    char gateway_text[160];
    char secure_text[160]; /* "": no HTTPS */
    char api_text[160];
    struct vmm_probe probe;
    enum vmm_isolation isolation;
    uv_signal_t signals[3];
    struct loop_timer *watchdog; /* NULL: nobody waits for signs of life */
    uint64_t watchdog_ms;
    bool stopping;

    const char *join_token; /* NULL: none was given */
    struct error end;       /* why it had to stop; kind NONE: it was told to */

    struct loop *loop;
    struct cluster *cluster;
    struct store *store;
    struct image_store *images;
    struct telemetry *telemetry;
    struct wasm *wasm;
    struct instance_service *instances;
    struct operation_service *operations;
    struct queue_service *queues;
    struct quota_service *quotas;
    struct eventstream_service *streams;
    struct peer_clients *peers;
    struct peer_blobs *blobs;
    struct function_service *functions;
    struct forecast_service *forecasts;
    struct kv_service *kv;
    struct route_service *routes;
    struct fetch_service *fetches;
    struct clone_tunnel_driver tunnels; /* to them */
    struct secret_service *secrets;
    struct host_service *host;
    struct gateway *gateway;
    struct destination_service *destinations;
    struct trigger_brokers *brokers;
    struct trigger_queues *trigger_queues;
    struct trigger_streams *trigger_streams;
    struct trigger_service *triggers;
    struct invocation_service *invocations;
    struct hypervisor *hypervisor;
    struct clone_service *clones;
    struct machine_service *machines;
    struct placement_service *placement;
    struct node_service *node_life;
    struct volume_service *volumes;
    struct network_service *networks;
    struct traffic_service *traffic;
    struct replica_service *replicas;
    struct nix_service *nix;
    struct api *api;
    bool is_running; /* all subsystems have started, none is being stopped */
};

/* Start all subsystems in order, run until a signal or until the node must end, stop them in the
 * other order.  Fails with what kept one from starting, or made the node end. */
int daemon_run(struct node *node, struct error *err);

/* quotas.c: a subsystem. */
int quotas_start(struct node *node, struct error *err);
void quotas_stop(struct node *node);

/* stores.c: the same. */
int stores_start(struct node *node, struct error *err);
void stores_stop(struct node *node);

#endif
