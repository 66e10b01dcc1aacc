/*
 * The REST API: spec/operations.def over HTTP, on a unix socket, on loopback TCP, and for whoever
 * hands it requests that came over TLS.
 *
 * It translates and never decides.  Every answer carries X-Blixard-Index (the store's index it
 * reflects) and X-Request-Id; failures are problem+json (RFC 9457).  /v1/events and followed logs
 * are event streams (WHATWG HTML, 9.2).
 *
 * Who may call: over the unix socket, who may open it (mode 0600), and over loopback TCP, programs
 * on this machine; both are the administrator.  Loopback TCP answers only requests whose Host is a
 * loopback name (against DNS rebinding) and none that a browser sends for another site.  Over TLS,
 * who shows a node's or client's certificate or a bearer token; what each may is said by the
 * operation's permission (service/cluster/caller.h).
 *
 * One loop owns all of it: that of the services.
 */
#ifndef SURFACE_API_API_H
#define SURFACE_API_API_H

#include <stdint.h>

struct api;
struct cluster;
struct error;
struct eventstream_service;
struct fetch_service;
struct function_service;
struct gateway;
struct invocation_service;
struct http_exchange;
struct image_store;
struct instance_service;
struct forecast_service;
struct kv_service;
struct loop;
struct machine_service;
struct node_service;
struct volume_service;
struct network_service;
struct nix_service;
struct operation_service;
struct peer_blobs;
struct peer_clients;
struct placement_service;
struct queue_service;
struct quota_service;
struct route_service;
struct secret_service;
struct store;
struct telemetry;
struct trigger_service;

struct api_options {
    struct loop *loop;
    const char *socket_path;      /* NULL: no unix socket */
    const char *address;          /* "127.0.0.1:7420", "[::1]:0"; NULL: no TCP */
    const char *node_name;        /* the texts are copied */
    const char *gateway_address;  /* for GET /v1/node */
    const char *data_folder;      /* for GET /v1/node */
    const char *isolation_reason; /* why not microvm; NULL: it is */
    uint64_t blob_bytes_max;      /* 0: 64 MiB */
    struct store *store;
    struct image_store *images;
    struct telemetry *telemetry;
    struct operation_service *operations;
    struct instance_service *instances;
    struct function_service *functions;
    struct queue_service *queues;
    struct quota_service *quotas;
    struct eventstream_service *streams;
    struct cluster *cluster;
    struct peer_clients *peers; /* of the loop, as the next */
    struct peer_blobs *blobs;
    struct route_service *routes;
    struct forecast_service *forecasts;
    struct kv_service *kv;
    struct fetch_service *fetches; /* NULL: no metrics of theirs */
    struct secret_service *secrets;
    struct trigger_service *triggers;
    struct gateway *gateway; /* NULL: invocations are UNAVAILABLE */
    struct invocation_service *invocations;
    struct machine_service *machines;
    struct placement_service *placement;
    struct node_service *node_life;
    struct volume_service *volumes;
    struct network_service *networks;
    struct traffic_service *traffic;
    struct replica_service *replicas; /* or NULL */
    struct nix_service *nix;
    uint64_t image_bytes_max; /* of one upload; 0: 16 GiB */
};

/* Listen; before the loop runs or on its thread.  Fails with DENIED (an address that is not
 * loopback), EXISTS (in use), INVALID or OS.  /readyz says 503 until api_set_ready(). */
int api_start(const struct api_options *options, struct api **ret_api, struct error *err);

/* The TCP port, or 0. */
uint16_t api_port(const struct api *api);

/* A request that came over another listener (TLS); the context is the api. */
void api_handle(struct http_exchange *exchange, void *api);

/* From now on /readyz answers 200 (reason NULL), or 503 with the reason. */
void api_set_ready(struct api *api, const char *reason_or_null);

/*
 * Drain: end the event streams, answer what is in flight for at most timeout_ms, free.  Called by
 * the loop's thread after loop_run() has returned and before the services are freed; it runs the
 * loop again until it is done.
 */
void api_stop(struct api *api, uint64_t timeout_ms);

#endif
