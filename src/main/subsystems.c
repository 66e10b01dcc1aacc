/*
 * What the daemon is made of, in the order in which it begins.  The cluster comes before the store,
 * because it says which part this node has in it and who the others are.
 */
#include "main/subsystems.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"

#include "engine/clone/clone.h"
#include "engine/hypervisor/hypervisor.h"
#include "engine/image/image.h"
#include "engine/store/store.h"
#include "engine/wasm/wasm.h"

#include "service/cluster/cluster.h"
#include "service/destination/destination.h"
#include "service/eventstream/eventstream.h"
#include "service/fetch/fetch.h"
#include "service/forecast/forecast.h"
#include "service/function/function.h"
#include "service/gateway/gateway.h"
#include "service/host/host.h"
#include "service/instance/instance.h"
#include "service/invocation/invocation.h"
#include "service/kv/kv.h"
#include "service/machine/machine.h"
#include "service/network/network.h"
#include "service/operation/operation.h"
#include "service/peer/peer.h"
#include "service/queue/queue.h"
#include "service/replica/replica.h"
#include "service/route/route.h"
#include "service/secret/secret.h"
#include "service/telemetry/telemetry.h"
#include "service/traffic/traffic.h"
#include "service/trigger/brokers.h"
#include "service/trigger/driver.h"
#include "service/trigger/queues.h"
#include "service/trigger/trigger.h"
#include "service/volume/volume.h"

#include "surface/api/api.h"

#include "main/outside.h"

/* ---- Subsystems, in order ---- */

static char *sub_folder(const struct node *node, const char *name)
{
    return memory_format("%s/%s", node->folder, name);
}

static int start_folder(struct node *node, struct error *err)
{
    return file_make_folder(node->folder, 0700, err);
}

static int start_images(struct node *node, struct error *err)
{
    MEMORY_OWNED char *folder = sub_folder(node, "images");
    return image_store_open(folder, &node->images, err);
}

static void stop_images(struct node *node)
{
    image_store_close(node->images);
}

static int start_telemetry(struct node *node, struct error *err)
{
    MEMORY_OWNED char *folder = sub_folder(node, "logs");
    struct telemetry_options options = {.folder = folder,
                                        .bytes_max_per_function = node->options.log_bytes_max,
                                        .node_name = node->name,
                                        .traces_max = node->options.traces_max,
                                        .trace_bytes_max = node->options.trace_bytes_max,
                                        .trace_slow_ms = node->options.trace_slow_ms,
                                        .traces_per_second = node->options.traces_per_second,
                                        .trace_sample_percent = node->options.trace_sample_percent};
    return telemetry_open(&options, &node->telemetry, err);
}

/* After all that makes spans, in the order of ends. */
static int start_export(struct node *node, struct error *err)
{
    const struct telemetry_export_options options = {
        .endpoint = node->options.otlp_endpoint,
        .compression = node->options.otlp_compression,
        .headers_file = node->options.otlp_headers_file,
        .authority_file = node->options.otlp_authority_file,
    };
    return options.endpoint[0] != '\0'
        ? telemetry_export_start(node->telemetry, node->loop, &options, err)
        : 0;
}

static void stop_export(struct node *node)
{
    telemetry_export_stop(node->telemetry);
}

static void stop_telemetry(struct node *node)
{
    telemetry_close(node->telemetry);
}

/* Without compilers what is built already still runs: a warning, not an end. */
static int start_wasm(struct node *node, struct error *err)
{
    MEMORY_OWNED char *folder = sub_folder(node, "build");
    struct wasm_options options = {.work_folder = folder, .images = node->images};
    int r = file_make_folder(folder, 0711, err);
    r = r < 0 ? r : wasm_open(&options, &node->wasm, err);
    if (r == 0 && wasm_problem(node->wasm) != NULL) {
        log_warn("functions cannot be built: %s", wasm_problem(node->wasm)->text);
    }
    return r;
}

static void stop_wasm(struct node *node)
{
    wasm_close(node->wasm);
}

static int start_isolation(struct node *node, struct error *err)
{
    vmm_probe(&node->probe);
    const char *wanted = node->options.isolation;
    if (strcmp(wanted, "process") == 0) {
        node->isolation = VMM_ISOLATION_PROCESS;
        snprintf(node->probe.kvm_reason, sizeof(node->probe.kvm_reason), "isolation=process");
        return 0;
    }
    if (node->probe.kvm_usable) {
        node->isolation = VMM_ISOLATION_MICROVM;
        return 0;
    }
    if (strcmp(wanted, "microvm") == 0) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "isolation=microvm, but there is no usable KVM: %s (see `blixard doctor`)",
                         node->probe.kvm_reason);
    }
    node->isolation = VMM_ISOLATION_PROCESS;
    log_warn("no usable KVM (%s): functions run in a process sandbox, a weaker boundary",
             node->probe.kvm_reason);
    return 0;
}

static int start_hypervisor(struct node *node, struct error *err)
{
    MEMORY_OWNED char *folder = sub_folder(node, "clones");
    const struct hypervisor_options hypervisor = {
        .kvm_boots_linux = node->probe.kvm_usable && !node->probe.kvm_paravirtual,
        .kvm_reason = node->probe.kvm_usable ? "it is paravirtual" : node->probe.kvm_reason,
        .runner_folders = node->options.machine_runner_folders,
    };
    node->hypervisor = hypervisor_open(node->loop, &hypervisor);
    node->tunnels = outside_driver(&node->fetches);
    const struct clone_options clones = {.loop = node->loop,
                                         .tunnels = &node->tunnels,
                                         .hypervisor = node->hypervisor,
                                         .images = node->images,
                                         .folder = folder};
    return clone_service_new(&clones, &node->clones, err);
}

static void stop_hypervisor(struct node *node)
{
    clone_service_free(node->clones);
    hypervisor_close(node->hypervisor);
}

static int start_instances(struct node *node, struct error *err)
{
    struct instance_options options = {
        .isolation = node->isolation,
        .slots_per_runner = (unsigned)node->options.slots_per_runner,
        .runners_max = (unsigned)node->options.runners_max,
        .images = node->images,
        .telemetry = node->telemetry,
        .clones = node->clones,
    };
    return instance_service_new(node->loop, &options, &node->instances, err);
}

static void stop_instances(struct node *node)
{
    instance_service_free(node->instances);
}

static int start_operations(struct node *node, struct error *err)
{
    return operation_service_new(node->loop, node->store, &node->operations, err);
}

static void stop_operations(struct node *node)
{
    operation_service_free(node->operations);
}

static int start_queues(struct node *node, struct error *err)
{
    const struct queue_options options = {.loop = node->loop, .store = node->store};
    return queue_service_new(&options, &node->queues, err);
}

static void stop_queues(struct node *node)
{
    queue_service_free(node->queues);
}

static int start_streams(struct node *node, struct error *err)
{
    const struct eventstream_options options = {.loop = node->loop, .store = node->store};
    return eventstream_service_new(&options, &node->streams, err);
}

static void stop_streams(struct node *node)
{
    eventstream_service_free(node->streams);
}

static int start_peers(struct node *node, struct error *err)
{
    (void)err;
    node->peers = peer_clients_new(node->loop, node->cluster);
    node->blobs = peer_blobs_new(node->peers, node->images);
    return 0;
}

static void stop_peers(struct node *node)
{
    peer_blobs_free(node->blobs);
    peer_clients_free(node->peers);
}

static int read_secret(void *context, const char *project, const char *name,
                       struct buffer *ret_value, struct error *err)
{
    const struct node *node = context;
    return secret_read(node->secrets, project, name, ret_value, err);
}

static int start_secrets(struct node *node, struct error *err)
{
    (void)err;
    const struct secret_options options = {.loop = node->loop,
                                           .store = node->store,
                                           .folder = node->folder,
                                           .cluster = node->cluster,
                                           .peers = node->peers};
    const struct instance_secrets calls = {read_secret, node};
    node->secrets = secret_service_new(&options);
    instance_set_secrets(node->instances, &calls);
    return 0;
}

static void stop_secrets(struct node *node)
{
    instance_set_secrets(node->instances, NULL);
    secret_service_free(node->secrets);
}

static void on_functions_ready(const struct error *error, void *context)
{
    struct node *node = context;
    if (!node->is_running) {
        return; /* another subsystem could not be started */
    }
    if (error != NULL) {
        log_error("the state cannot be written: %s", error->text);
        api_set_ready(node->api, error->text);
        return;
    }
    api_set_ready(node->api, NULL);
    daemon_greet(node);
    daemon_notify("READY=1");
}

/* Compiling anew what a cache has lost takes its time: neither people nor systemd give it up. */
static void on_functions_progress(unsigned left, void *context)
{
    struct node *node = context;
    char text[ERROR_TEXT_MAX];
    snprintf(text, sizeof(text), "%u function%s being made ready after a start of this node", left,
             left == 1 ? " is" : "s are");
    if (node->is_running) {
        api_set_ready(node->api, text);
        daemon_notify("EXTEND_TIMEOUT_USEC=120000000");
    }
}

static int start_volumes(struct node *node, struct error *err)
{
    MEMORY_OWNED char *folder = sub_folder(node, "volumes");
    const struct volume_options options = {
        .loop = node->loop,
        .store = node->store,
        .operations = node->operations,
        .secrets = node->secrets,
        .folder = folder,
        .node_name = node->name,
    };
    return volume_service_new(&options, &node->volumes, err);
}

static void stop_volumes(struct node *node)
{
    volume_service_free(node->volumes);
}

static int start_networks(struct node *node, struct error *err)
{
    const struct network_options options = {.loop = node->loop,
                                            .store = node->store,
                                            .cluster = node->cluster,
                                            .folder = node->folder,
                                            .node_name = node->name,
                                            .counts_flows = node->options.traffic_every_ms > 0};
    return network_service_new(&options, &node->networks, err);
}

static void stop_networks(struct node *node)
{
    network_service_free(node->networks);
}

static int start_traffic(struct node *node, struct error *err)
{
    const struct traffic_options options = {.loop = node->loop,
                                            .store = node->store,
                                            .cluster = node->cluster,
                                            .networks = node->networks,
                                            .node_name = node->name,
                                            .every_ms = node->options.traffic_every_ms};
    (void)err;
    node->traffic = traffic_service_new(&options);
    return 0;
}

static void stop_traffic(struct node *node)
{
    traffic_service_free(node->traffic);
    node->traffic = NULL;
}

static int start_replicas(struct node *node, struct error *err)
{
    const struct replica_options options = {.loop = node->loop,
                                            .store = node->store,
                                            .cluster = node->cluster,
                                            .images = node->images,
                                            .blobs = node->blobs,
                                            .node_name = node->name,
                                            .copies = node->options.image_copies,
                                            .unused_ms = node->options.image_unused_ms};
    (void)err;
    node->replicas = replica_service_new(&options);
    return 0;
}

static void stop_replicas(struct node *node)
{
    replica_service_free(node->replicas);
    node->replicas = NULL;
}

static bool machines_need(const char *blob, void *context)
{
    return machine_needs_blob(context, blob);
}

static int start_machines(struct node *node, struct error *err)
{
    MEMORY_OWNED char *folder = sub_folder(node, "machines");
    const struct machine_options options = {
        .loop = node->loop,
        .store = node->store,
        .operations = node->operations,
        .images = node->images,
        .blobs = node->blobs,
        .peers = node->peers,
        .hypervisor = node->hypervisor,
        .volumes = node->volumes,
        .networks = node->networks,
        .nix = node->nix,
        .cluster = node->cluster,
        .folder = folder,
        .node_name = node->name,
        .share_folders = node->options.machine_share_folders,
        .macvtap_links = node->options.machine_macvtap_links,
        .devices = node->options.machine_devices,
        .runner_folders = node->options.machine_runner_folders,
        .memory_percent = node->options.machine_memory_percent,
        .stop_ms = node->options.machine_stop_ms,
    };
    int r = machine_service_new(&options, &node->machines, err);
    if (r == 0) {
        replica_set_needs(node->replicas, machines_need, node->machines);
    }
    return r;
}

static void stop_machines(struct node *node)
{
    replica_set_needs(node->replicas, NULL, NULL);
    machine_service_free(node->machines);
}

static int start_functions(struct node *node, struct error *err)
{
    struct function_options options = {
        .place = places_function,
        .place_context = node,
        .suits_others = places_suit_others,
        .loop = node->loop,
        .store = node->store,
        .images = node->images,
        .wasm = node->wasm,
        .instances = node->instances,
        .operations = node->operations,
        .telemetry = node->telemetry,
        .cluster = node->cluster,
        .peers = node->peers,
        .blobs = node->blobs,
        .node_name = node->name,
        .build_threads = (unsigned)node->options.build_threads,
        .stays_fast = node->options.build_optimized == 0,
        .image_cache_bytes_max = node->options.image_cache_bytes_max,
        .on_ready = on_functions_ready,
        .on_progress = on_functions_progress,
        .context = node,
    };
    return function_service_new(&options, &node->functions, err);
}

static void stop_functions(struct node *node)
{
    function_service_free(node->functions);
}

static int start_forecasts(struct node *node, struct error *err)
{
    MEMORY_OWNED char *path = sub_folder(node, "forecasts");
    const struct forecast_service_options options = {
        .loop = node->loop,
        .instances = node->instances,
        .functions = node->functions,
        .machines = node->machines,
        .store = node->store,
        .path = path,
        .node_name = node->name,
        .step_ms = node->options.forecast_step_ms,
    };
    const char *refused = forecast_step_refused(options.step_ms);
    if (refused != NULL) {
        return error_set(err, ERROR_INVALID, "forecast_step_ms: %s", refused);
    }
    node->forecasts = forecast_service_new(&options);
    return 0;
}

static void stop_forecasts(struct node *node)
{
    forecast_service_free(node->forecasts);
}

static int start_kv(struct node *node, struct error *err)
{
    const struct kv_options options = {.loop = node->loop, .store = node->store};
    (void)err;
    node->kv = kv_service_new(&options);
    return 0;
}

static void stop_kv(struct node *node)
{
    kv_service_free(node->kv);
}

static int start_routes(struct node *node, struct error *err)
{
    (void)err;
    node->routes = route_service_new(node->loop, node->store);
    return 0;
}

static void stop_routes(struct node *node)
{
    route_service_free(node->routes);
}

/* The port of "HOST:PORT", or 0. */
static uint16_t port_of(const char *address)
{
    const char *colon = strrchr(address, ':');
    uint64_t port = 0;
    bool is_port = colon != NULL && text_parse_u64(text_of(colon + 1, strlen(colon + 1)), &port);
    return is_port && port <= 65535 ? (uint16_t)port : 0;
}

static int start_fetches(struct node *node, struct error *err)
{
    const struct fetch_options options = {
        .loop = node->loop,
        .telemetry = node->telemetry,
        .authority_file = node->options.fetch_authority_file,
        .refused = node->options.fetch_refused,
        .fetches_max = node->options.fetch_max,
        .function_max = node->options.fetch_function_max,
        .body_bytes_max = node->options.fetch_body_bytes_max,
    };
    int r = fetch_service_new(&options, &node->fetches, err);
    uint16_t port = port_of(node->options.cluster_address);
    if (r == 0 && port > 0) {
        fetch_forbid_own_port(node->fetches, port);
    }
    traffic_set_fetches(node->traffic, node->fetches);
    return r;
}

static void stop_fetches(struct node *node)
{
    traffic_set_fetches(node->traffic, NULL);
    fetch_service_free(node->fetches);
    node->fetches = NULL;
}

/* Before the gateway, whose last calls may still ask. */
static int start_host(struct node *node, struct error *err)
{
    (void)err;
    const struct host_options options = {
        .loop = node->loop,
        .instances = node->instances,
        .telemetry = node->telemetry,
        .kv = node->kv,
        .queues = node->queues,
        .streams = node->streams,
        .fetches = node->fetches,
        .secrets = node->secrets,
        .calls_max = node->options.host_calls_max,
    };
    node->host = host_service_new(&options);
    return 0;
}

static void stop_host(struct node *node)
{
    host_service_free(node->host);
}

static int start_gateway(struct node *node, struct error *err)
{
    struct gateway_options options = {
        .address = node->options.gateway_address,
        .tls_address = node->options.gateway_tls_address,
        .tls_certificate = node->options.gateway_tls_certificate,
        .tls_key = node->options.gateway_tls_key,
        .threads = 1,
        .body_bytes_max = node->options.body_bytes_max,
        .functions = node->functions,
        .instances = node->instances,
        .telemetry = node->telemetry,
        .quotas = node->quotas,
        .routes = node->routes,
        .cluster = node->cluster,
        .node_name = node->name,
    };
    int r = gateway_start(&options, &node->gateway, err);
    if (r < 0) {
        return r;
    }
    host_set_gateway(node->host, node->gateway);
    return 0;
}

static bool take_later(struct http_exchange *exchange, const char *project, struct text name,
                       struct text path, const struct gateway_origin *origin, void *context)
{
    const struct node *node = context;
    if (!invocation_is_wanted(exchange)) {
        return false;
    }
    invocation_serve(node->invocations, exchange, project, name, path, origin);
    return true;
}

static int start_invocations(struct node *node, struct error *err)
{
    const struct invocation_options options = {
        .loop = node->loop,
        .store = node->store,
        .cluster = node->cluster,
        .functions = node->functions,
        .gateway = node->gateway,
        .destinations = node->destinations,
    };
    int r = invocation_service_new(&options, &node->invocations, err);
    if (r == 0) {
        gateway_set_later(node->gateway, take_later, node);
    }
    return r;
}

static void stop_invocations(struct node *node)
{
    gateway_set_later(node->gateway, NULL, NULL);
    invocation_service_free(node->invocations);
}

static void stop_gateway(struct node *node)
{
    host_unset_gateway(node->host);
    gateway_stop(node->gateway, node->options.drain_timeout_ms);
}

static int start_destinations(struct node *node, struct error *err)
{
    (void)err;
    node->destinations = destination_service_new(node->loop, node->gateway);
    destination_add_stored(node->destinations, node->queues, node->streams);
    return 0;
}

static void stop_destinations(struct node *node)
{
    destination_service_free(node->destinations);
}

/* Drivers of all kinds are added here, before triggers begin to run. */
static int start_triggers(struct node *node, struct error *err)
{
    const struct trigger_options options = {
        .loop = node->loop,
        .store = node->store,
        .cluster = node->cluster,
        .gateway = node->gateway,
        .destinations = node->destinations,
    };
    if (trigger_service_new(&options, &node->triggers, err) < 0) {
        return -(int)err->kind;
    }
    const struct trigger_brokers_options brokers = {
        .loop = node->loop, .store = node->store, .secrets = node->secrets};
    node->brokers = trigger_brokers_add(node->triggers, &brokers);
    node->trigger_queues = trigger_queues_add(node->triggers, node->loop, node->queues);
    node->trigger_streams = trigger_streams_add(node->triggers, node->loop, node->streams);
    trigger_service_start(node->triggers);
    return 0;
}

static void stop_triggers(struct node *node)
{
    trigger_service_free(node->triggers);
    trigger_brokers_free(node->brokers);
    trigger_queues_free(node->trigger_queues);
    trigger_streams_free(node->trigger_streams);
}

/* HOST of "HOST:PORT" with the port that was really taken. */
static void describe_address(const char *address, uint16_t port, char *ret_text, size_t size)
{
    const char *colon = strrchr(address, ':');
    snprintf(ret_text, size, "%.*s:%u", (int)(colon - address), address, port);
}

static int start_api(struct node *node, struct error *err)
{
    MEMORY_OWNED char *socket = NULL;
    if (node->options.api_socket[0] == '\0') {
        socket = memory_format("%s/api.sock", node->folder);
    } else if (strcmp(node->options.api_socket, "none") != 0) {
        socket = memory_copy_string(node->options.api_socket);
    }
    describe_address(node->options.gateway_address, gateway_port(node->gateway), node->gateway_text,
                     sizeof(node->gateway_text));
    if (gateway_tls_port(node->gateway) != 0) {
        describe_address(node->options.gateway_tls_address, gateway_tls_port(node->gateway),
                         node->secure_text, sizeof(node->secure_text));
    }
    MEMORY_OWNED char *gateway_url = memory_format("http://%s", node->gateway_text);
    function_set_gateway(node->functions, gateway_url);
    struct api_options options = {
        .loop = node->loop,
        .address = node->options.api_address,
        .socket_path = socket,
        .blob_bytes_max = node->options.module_bytes_max,
        .store = node->store,
        .images = node->images,
        .telemetry = node->telemetry,
        .operations = node->operations,
        .instances = node->instances,
        .functions = node->functions,
        .queues = node->queues,
        .streams = node->streams,
        .cluster = node->cluster,
        .peers = node->peers,
        .blobs = node->blobs,
        .triggers = node->triggers,
        .gateway = node->gateway,
        .invocations = node->invocations,
        .quotas = node->quotas,
        .routes = node->routes,
        .forecasts = node->forecasts,
        .traffic = node->traffic,
        .replicas = node->replicas,
        .kv = node->kv,
        .fetches = node->fetches,
        .secrets = node->secrets,
        .machines = node->machines,
        .placement = node->placement,
        .node_life = node->node_life,
        .volumes = node->volumes,
        .networks = node->networks,
        .nix = node->nix,
        .node_name = node->name,
        .gateway_address = node->gateway_text,
        .data_folder = node->folder,
        .isolation_reason =
            node->isolation == VMM_ISOLATION_MICROVM ? NULL : node->probe.kvm_reason,
    };
    if (api_start(&options, &node->api, err) < 0) {
        return error_wrap(err, "api_address");
    }
    describe_address(node->options.api_address, api_port(node->api), node->api_text,
                     sizeof(node->api_text));
    if (api_port(node->api) > 0) {
        fetch_forbid_own_port(node->fetches, api_port(node->api));
    }
    cluster_set_handler(node->cluster, api_handle, node->api);
    cluster_announce(node->cluster, node->gateway_text);
    return 0;
}

static void stop_api(struct node *node)
{
    cluster_set_handler(node->cluster, NULL, NULL);
    api_stop(node->api, node->options.drain_timeout_ms);
    node->api = NULL;
}

const struct subsystem subsystems[] = {
    {"data folder", start_folder, NULL},
    {"isolation", start_isolation, NULL},
    {"cluster", state_start_cluster, state_stop_cluster},
    {"store", state_start_store, state_stop_store},
    {"images", start_images, stop_images},
    {"telemetry", start_telemetry, stop_telemetry},
    {"traces", start_export, stop_export},
    {"wasm", start_wasm, stop_wasm},
    {"hypervisor", start_hypervisor, stop_hypervisor},
    {"instances", start_instances, stop_instances},
    {"operations", start_operations, stop_operations},
    {"quotas", quotas_start, quotas_stop},
    {"keys and values", start_kv, stop_kv},
    {"queues", start_queues, stop_queues},
    {"streams", start_streams, stop_streams},
    {"peers", start_peers, stop_peers},
    {"secrets", start_secrets, stop_secrets},
    {"Nix store", stores_start, stores_stop},
    {"volumes", start_volumes, stop_volumes},
    {"networks", start_networks, stop_networks},
    {"traffic", start_traffic, stop_traffic},
    {"replicas", start_replicas, stop_replicas},
    {"machines", start_machines, stop_machines},
    {"node life", places_start_node_life, places_stop_node_life},
    {"placement", places_start_placement, places_stop_placement},
    {"functions", start_functions, stop_functions},
    {"forecasts", start_forecasts, stop_forecasts},
    {"routes", start_routes, stop_routes},
    {"fetches", start_fetches, stop_fetches},
    {"host", start_host, stop_host},
    {"gateway", start_gateway, stop_gateway},
    {"destinations", start_destinations, stop_destinations},
    {"triggers", start_triggers, stop_triggers},
    {"invocations", start_invocations, stop_invocations},
    {"api", start_api, stop_api},
};

const size_t subsystem_count = sizeof(subsystems) / sizeof(subsystems[0]);
