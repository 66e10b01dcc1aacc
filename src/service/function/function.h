/*
 * Functions: names, immutable versions, aliases; from a wasm module to something that can be
 * called, on every node.
 *
 * Deploying: the module is in the image store already (uploaded as a blob); a version row is
 * proposed with state `building`; the fast tier is compiled and its initialisation tried in a
 * runner; then the version is `ready` and the alias `live` moves to it; the optimised tier is
 * compiled behind it and swapped in.  A version whose build fails is `failed` and keeps its reason;
 * the alias does not move.
 *
 * Any node may be asked for anything.  The one that is asked to deploy builds; its operation names
 * it.  If it is lost, the leader goes on with it.  Before a version is ready, copies of its module
 * are on other nodes.  Then each node makes what aliases point to callable on itself, with code
 * that another one has compiled where that is as good as its own, and says so in the table
 * `holder`; other versions when they are called first.  Until then calls go to nodes that have it.
 * Deleting frees what is on each node.
 *
 * Main loop thread, except function_route_*(), which any thread may call: a read-only table,
 * swapped on change.
 */
#ifndef SERVICE_FUNCTION_FUNCTION_H
#define SERVICE_FUNCTION_FUNCTION_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/text.h"

struct buffer;
struct cluster;
struct function_service;
struct image_store;
struct instance_service;
struct instance_target;
struct json_writer;
struct loop;
struct operation_service;
struct peer_blobs;
struct peer_clients;
struct store;
struct telemetry;
struct wasm;

/* Is a version to be on this node?  Of its FunctionPlacement, as JSON. */
enum function_place { FUNCTION_NOT_HERE, FUNCTION_WHEN_CALLED, FUNCTION_HERE };
typedef enum function_place function_place(const char *version, const char *placement,
                                           void *context);

struct function_options {
    function_place *place; /* on the loop; NULL: all are */
    void *place_context;
    /* May another node that takes work run what has this FunctionPlacement?  NULL: yes. */
    bool (*suits_others)(const char *placement, void *place_context);
    struct loop *loop;
    struct store *store;
    struct image_store *images;
    struct wasm *wasm;
    struct instance_service *instances;
    struct operation_service *operations;
    struct telemetry *telemetry;
    struct cluster *cluster;    /* NULL: this node is alone; so are the next two */
    struct peer_clients *peers; /* of this loop */
    struct peer_blobs *blobs;
    const char *node_name;          /* until it is in a cluster; lent for good */
    unsigned build_threads;         /* 0: 1 */
    bool stays_fast;                /* no optimised tier is made, or taken from others */
    uint64_t image_cache_bytes_max; /* 0: any number */
    /*
     * On the loop, once: what every node has is in the store, and each version an alias points to
     * can be called again, or could not be built here (NULL), or, where other nodes can be asked,
     * takes too long; or why the store cannot be written.
     */
    void (*on_ready)(const struct error *error, void *context);
    /* On the loop, before that: so many versions are left. */
    void (*on_progress)(unsigned left, void *context);
    void *context;
};

int function_service_new(const struct function_options *options,
                         struct function_service **ret_service, struct error *err);

/* After loop_run() has returned and before the instances and the store end: it runs the loop again
 * until builds have been broken off. */
void function_service_free(struct function_service *service);

/* Compiled images here: those of versions that can be called stay, others go above
 * image_cache_bytes_max, what was used least recently first.  As in the metrics. */
void function_write_image_cache(struct function_service *service, struct json_writer *writer);

/* Where the gateway listens ("http://127.0.0.1:7480"): for the `url` of functions. */
void function_set_gateway(struct function_service *service, const char *url);

enum { FUNCTION_DESTINATION_SIZE = 129 };

/* How hard an asynchronous call is tried, and who is told of its end. */
struct function_policy {
    uint64_t retries;    /* 2; at most 100 */
    uint64_t backoff_ms; /* 1 s, doubled each time up to 5 min, with jitter */
    uint64_t max_age_ms; /* 6 h; at most 7 d */
    uint64_t timeout_ms; /* of an attempt; 0: the function's */
    uint64_t keep_ms;    /* of a result: 24 h; at most 7 d */
    char on_success[FUNCTION_DESTINATION_SIZE]; /* "function:NAME", "queue:NAME", "stream:NAME"; "":
                                                   nobody */
    char on_failure[FUNCTION_DESTINATION_SIZE];
};
enum { FUNCTION_BACKOFF_MAX_MS = 300000 };
void function_policy_init(struct function_policy *ret_policy);
/* INVALID names what is out of its range, or no destination. */
int function_policy_check(const struct function_policy *policy, struct error *err);
/* Type Async of spec/types.def: all of it, as an object; and what `object` (may be NULL) has of it.
 */
void function_policy_write(const struct function_policy *policy, struct json_writer *writer);
void function_policy_take(const json_t *object, struct function_policy *policy);

/* A function's settings, from `blixard.yaml` or the API; defaults by function_config_defaults(). */
struct function_config {
    uint64_t memory_bytes;     /* default 128 MiB */
    uint64_t timeout_ms;       /* default 30 s */
    uint64_t output_bytes_max; /* default 16 MiB */
    uint64_t log_bytes_max;    /* default 1 MiB per call */
    uint64_t tmp_bytes_max;    /* default 16 MiB: files in /tmp */
    unsigned concurrency_max;  /* default 0: what the node gives */
    unsigned queue_max;        /* default 128 */
    bool is_sticky;            /* "reuse: instance": memory is kept from call to call */
    unsigned instances_min;    /* default 0 */
    unsigned instances_max;    /* default 0: what the node gives */
    uint64_t idle_ms;          /* default 10 min; 0: instances stay without calls */
    uint64_t recycle_requests; /* default 0: never */
    uint64_t recycle_ms;       /* default 0: never */
    char *environment;         /* "NAME=value\0...", owned */
    size_t environment_length;
    char *fetch_allow; /* "ENTRY\0...": whom it may fetch from (service/fetch); owned */
    size_t fetch_allow_length;
    char *linux_settings; /* JSON of type LinuxFunction; NULL: it is WebAssembly; owned */
    char *placement;      /* JSON of type FunctionPlacement; NULL: every node has it; owned */
    char *secrets;        /* "NAME=secret\0...": variables that secrets of the project are; owned */
    size_t secrets_length;
    char *flake; /* what the module was built of, for people; NULL: nobody said; owned */
    struct function_policy async; /* of calls that say nothing of it */
};
void function_config_defaults(struct function_config *ret_config);
/* Of a Deploy of spec/types.def, whose shape was checked; checks what it means.  INVALID names the
 * setting; `deploy` has `linux` (type
 * LinuxFunction) where its runtime is linux.  On success the caller owns *ret_config.
 */
int function_config_take(const json_t *deploy, struct function_config *ret_config,
                         struct error *err);
void function_config_done(struct function_config *config);

struct function_deployment {
    const char *project;
    const char *name;
    const char *module_id;
    const char *language; /* or NULL */
    const struct function_config *config;
    /* The client's key for this request, or NULL; and the digest of all it asks for.  The same
     * again begins nothing: it gets the operation and the version of the first time. */
    const char *request;
    const char *request_digest;
};

/* Deploy a version (see above).  `started` gets the operation's id and the version's number. */
void function_deploy(struct function_service *service, const struct function_deployment *wanted,
                     void (*started)(const struct error *error, const char *operation_id,
                                     uint64_t version, void *context),
                     void *context);

void function_delete(struct function_service *service, const char *project, const char *name,
                     void (*done)(const struct error *error, uint64_t index, void *context),
                     void *context);
void function_delete_version(struct function_service *service, const char *project,
                             const char *name, uint64_t version,
                             void (*done)(const struct error *error, uint64_t index, void *context),
                             void *context);

enum { FUNCTION_SPLIT_MAX = 8, FUNCTION_WEIGHT_MAX = 1000, FUNCTION_STICKY_SIZE = 80 };

struct function_part {
    uint64_t version;
    unsigned weight; /* 1 to FUNCTION_WEIGHT_MAX; of the sum of all */
};

/* Where an alias points. */
struct function_alias {
    struct function_part parts[FUNCTION_SPLIT_MAX];
    size_t count;
    /* "header:NAME" or "cookie:NAME": requests with the same value get the same version; "": each
     * is drawn anew. */
    char sticky[FUNCTION_STICKY_SIZE];
};

/* Point an alias (`live` or another name) to ready versions. */
void function_set_alias(struct function_service *service, const char *project, const char *name,
                        const char *alias_name, const struct function_alias *alias,
                        void (*done)(const struct error *error, uint64_t index, void *context),
                        void *context);
/* To where it pointed before, which is callable still; twice: to where it points now.  CONFLICT:
 * there is nothing before. */
void function_rollback_alias(struct function_service *service, const char *project,
                             const char *name, const char *alias_name,
                             void (*done)(const struct error *error, uint64_t index, void *context),
                             void *context);
/* CONFLICT for `live`. */
void function_delete_alias(struct function_service *service, const char *project, const char *name,
                           const char *alias_name,
                           void (*done)(const struct error *error, uint64_t index, void *context),
                           void *context);
/* Type AliasHistory, newest first. */
int function_write_alias_history(struct function_service *service, const char *project,
                                 const char *name, const char *alias_name, struct buffer *out,
                                 struct error *err);

/* As JSON (types FunctionList, Function, VersionList, Version); NOT_FOUND names the nearest. */
int function_write_list(struct function_service *service, const char *project, struct buffer *out,
                        struct error *err);
int function_write(struct function_service *service, const char *project, const char *name,
                   struct buffer *out, struct error *err);
int function_write_versions(struct function_service *service, const char *project, const char *name,
                            struct buffer *out, struct error *err);
int function_write_version(struct function_service *service, const char *project, const char *name,
                           uint64_t version, struct buffer *out, struct error *err);

/* As JSON (type FunctionUsageList), what the functions of a project, or one of them, do on this
 * node; lent, later.  NOT_FOUND names the nearest, and `done` is not called. */
typedef void function_used(const json_t *usage, void *context);
int function_usage(struct function_service *service, const char *project, const char *name_or_null,
                   function_used *done, void *context, struct error *err);

/* What asynchronous calls of NAME[:WHICH] are to be given that ask for nothing else; as
 * function_policy_init() has it where there is no such function.  Main loop thread. */
void function_read_policy(struct function_service *service, const char *project, const char *name,
                          struct function_policy *ret_policy);

/* Code that was compiled of a module here, as JSON (type Image): `done` gets it later, on the loop;
 * NOT_FOUND, INVALID. */
void function_find_image(struct function_service *service, const char *module, const char *tier,
                         void (*done)(const struct error *error, struct buffer *json,
                                      void *context),
                         void *context);

/* ---- Routing: any thread ---- */

enum { FUNCTION_PICKED_SIZE = 96 };

/* What a choice between versions depends on. */
struct function_pick {
    uint64_t random;
    /* Value of a request's field, {NULL, 0} when it is absent; may be NULL. */
    struct text (*field)(const void *context, const char *name);
    const void *context;
};

/*
 * Where `name` leads to several versions, choose one: ret_name is "NAME:VERSION" then, and the
 * result is that; otherwise it is `name`.  Before function_route_find().  Allocates nothing.
 */
struct text function_route_pick(struct function_service *service, const char *project,
                                struct text name, const struct function_pick *pick,
                                char ret_name[FUNCTION_PICKED_SIZE]);

/*
 * Find what to run for function `name` ("hello", or "hello:ALIAS", "hello:3" for a version) of a
 * project.  On success the caller owns a reference to *ret_target.  NOT_FOUND, or UNAVAILABLE while
 * the first version is still being built (or the reason it failed).
 */
int function_route_find(struct function_service *service, const char *project, struct text name,
                        struct instance_target **ret_target, struct error *err);

/*
 * How many versions that aliases point to can run here and at no other node that takes work,
 * though one may (counted up to FUNCTION_ALONE_MAX); and their keys, as many as there is room for.
 * Main loop thread; reads the state.
 */
enum { FUNCTION_ALONE_MAX = 256 };
size_t function_only_here(struct function_service *service, char *ret_names, size_t size);

enum { FUNCTION_HOLDERS_MAX = 64 };

/* Other nodes that can run a version that is ready and cannot run here. */
struct function_holders {
    uint64_t version;
    uint64_t timeout_ms; /* of a call */
    size_t count;        /* of more, some */
    uint64_t nodes[FUNCTION_HOLDERS_MAX];
};

/* Other nodes that can run what can run here, too.  False: there is none. */
bool function_route_others(struct function_service *service, const char *project, struct text name,
                           struct function_holders *ret_holders);

/* After function_route_find() has failed with UNAVAILABLE.  False: no other node can, either.  The
 * version will be made callable here, too. */
bool function_route_elsewhere(struct function_service *service, const char *project,
                              struct text name, struct function_holders *ret_holders);

#endif
