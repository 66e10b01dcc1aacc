/*
 * The host of functions: answers what they ask through the import module blixard_v1.
 *
 * A question comes from a tenant's code through a runner: input, decoded and checked here.  Who
 * asks (project, function, request, deadline, trace) is known from this side and never taken from
 * it. One call asks one thing at a time; how many in all is bounded (calls_max), and one that goes
 * on asking is ended.  What is under way when its call ends is broken off, or its outcome dropped.
 *
 * The language is engine/vmm/hostcall.h; what each operation does is docs/user-guide/host-api.md.
 * Main loop thread.
 */
#ifndef SERVICE_HOST_HOST_H
#define SERVICE_HOST_HOST_H

#include <stddef.h>
#include <stdint.h>

struct eventstream_service;
struct fetch_service;
struct gateway;
struct host_service;
struct instance_service;
struct kv_service;
struct loop;
struct queue_service;
struct secret_service;
struct telemetry;

enum {
    HOST_DEPTH_MAX = 16,     /* functions that call functions */
    HOST_SPANS_MAX = 16,     /* open at once, per call */
    HOST_FETCHES_MAX = 16,   /* begun and not at their end, per call */
    HOST_REFUSED_MAX = 1000, /* questions beyond calls_max, before the call is ended */
    HOST_FUNCTION_MAX = 256, /* bytes of a name */
    HOST_PATH_MAX = 8192,    /* of a path with its query */
    HOST_FIELD_BYTES_MAX = 32768,
};

struct host_options {
    struct loop *loop;
    struct instance_service *instances; /* whose calls are answered from now on */
    struct telemetry *telemetry;
    struct kv_service *kv;
    struct queue_service *queues;
    struct eventstream_service *streams;
    struct fetch_service *fetches;
    struct secret_service *secrets;
    uint64_t calls_max; /* questions of one call, in each 30 s */
};

struct host_service *host_service_new(const struct host_options *options);

/* Functions can call functions between these two: from the gateway's start until it stops.  What is
 * under way then ends with ECANCELED, as does every later one. */
void host_set_gateway(struct host_service *service, struct gateway *gateway);
void host_unset_gateway(struct host_service *service);

/* Calls that still run are told that the node is stopping. */
void host_service_free(struct host_service *service);

#endif
