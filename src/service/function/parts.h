/*
 * Inside service/function.  The store has what is wanted (functions, versions, aliases); this node
 * keeps beside it what it has made of each version: `struct local`, by version key.
 */
#ifndef SERVICE_FUNCTION_PARTS_H
#define SERVICE_FUNCTION_PARTS_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/buffer.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/list.h"
#include "base/map.h"

#include "engine/store/store.h"
#include "engine/vmm/vmm.h"
#include "engine/wasm/wasm.h"

#include "service/cluster/cluster.h"
#include "service/function/function.h"
#include "service/instance/instance.h"
#include "service/operation/operation.h"
#include "service/peer/peer.h"

enum {
    FUNCTION_KEY_SIZE = 160, /* PROJECT/NAME/NUMBER */
    FUNCTION_MODULE_MAX = 64 << 20,
    FUNCTION_ENVIRONMENT_MAX = 32768,
    FUNCTION_SECRETS_MAX = 64,
    FUNCTION_ASKED_MAX = 4,          /* nodes that are asked for compiled code */
    FUNCTION_COPIES = 2,             /* of a module on other nodes, before its version is ready */
    FUNCTION_RETRY_MS = 30000,       /* what could not be built here is tried again */
    FUNCTION_ABSENT_RETRY_MS = 3000, /* so is what no other node had yet */
    FUNCTION_BETTER_MS = 60000,      /* how long another node has for the optimised tier */
    FUNCTION_READY_MAX_MS = 30000,   /* a node that is not alone is ready after this */
};

/* What this node has of a version; there is one for each row. */
struct local {
    /* Which version it is of: one that was deleted and made again under its key is another. */
    char module[HASH_TEXT_SIZE];
    uint64_t created_ms;
    uint64_t seen; /* in which round of reconciling */

    struct build *build;            /* that is under way, or NULL */
    struct instance_target *target; /* NULL: not compiled yet */
    char problem[ERROR_TEXT_MAX];   /* why it could not be compiled here, or "" */
    uint64_t problem_ms;            /* when that was; monotonic */
    bool was_absent;                /* the module was on no node that answered */
    bool is_hopeless;               /* it was for the module's sake: time does not help */
    bool is_wanted;                 /* somebody called it here, no alias points to it */
    bool waits_for_better;          /* another node makes the optimised tier */
    uint64_t waits_since_ms;        /* monotonic */
    char held[16];                  /* the tier that the row of `holder` says, or "" */
    uint64_t image_bytes;
    uint64_t snapshot_bytes;
    uint64_t optimize_ms;
};

/* A row of `version`, taken out of the store.  End it with version_row_done(). */
struct version_row {
    char key[FUNCTION_KEY_SIZE];
    uint64_t number;
    char state[16];
    char *error;
    char *language;
    char *abi;
    char *config;
    char module[HASH_TEXT_SIZE];
    uint64_t module_bytes;
    uint64_t build_ms;
    uint64_t created_ms;
    bool has_alias; /* one points to it */
};

/* A version on its way to a target: see build.c. */
struct build {
    struct list_node link;  /* in a queue; builds_lock */
    struct list_node known; /* loop thread */
    struct function_service *service;
    char key[FUNCTION_KEY_SIZE];
    char project[64];
    char name[64];
    uint64_t number;
    char module[HASH_TEXT_SIZE];
    struct function_config config;
    char operation[OPERATION_ID_SIZE]; /* "" when nobody waits */
    bool was_ready;                    /* the store says so already */
    bool is_awaited;                   /* by service_arrived() */
    volatile bool cancelled;
    uint64_t started_ms;
    uint64_t created_ms; /* of the version */

    /* The builder's, until it posts. */
    enum wasm_tier tier;
    bool asks_others; /* in: come back when it is to be compiled; others may have done so */
    bool compiles;    /* in: when nobody has done so */
    bool must_ask;    /* out */
    int status;
    struct error err;
    struct wasm_module_info info;
    const char *step;          /* of compiling, as it is shown */
    char code[HASH_TEXT_SIZE]; /* of a module with assets: what it is without them; else "" */
    struct wasm_result result;

    /* obtain.c: what is asked of other nodes. */
    unsigned blob_at; /* of those that it needs: which is fetched */
    struct peer_fetch *fetch;
    struct peer_call *ask;
    uint64_t asked[FUNCTION_ASKED_MAX];
    size_t asked_count;
    size_t asked_at;
    bool is_code_asked; /* nobody has the module's image: they are asked for its code */
    struct wasm_image offered;
    bool was_refetched; /* the module, because it was damaged */

    /* spread.c: the module on its way to other nodes; of a first build. */
    struct spread *spread;
    bool is_prepared; /* and waits for that */

    struct instance_target *target;
    struct vmm_image_info image;
    unsigned steps_shown; /* loop thread */
};

struct spread;
struct route_table;

struct function_service {
    struct function_options options;
    char *gateway_url;
    struct map locals;    /* version key -> struct local */
    struct map functions; /* key -> struct known: of which there may be logs here */
    struct list deploys;  /* struct deploy being written: their modules are in use */
    struct store_watch *watch;
    struct cluster_listener *listener;
    bool routes_are_stale;
    bool refresh_is_posted;
    bool reconcile_is_posted;
    uint64_t round;           /* of reconciling */
    uint64_t view_digest;     /* of the nodes, as they were seen last */
    struct loop_timer *later; /* something is to be tried again */
    bool is_unfinished;       /* found in this round */

    bool holders_are_stale;
    bool holders_are_posted;
    bool holders_are_written; /* now: one command at a time */
    uint64_t holder_node;     /* the id that the rows have */

    _Atomic(struct route_table *) routes; /* see route.c */
    _Atomic unsigned route_readers;
    struct route_table *retired_routes;

    /* Builders: `builds_lock` guards the queues and `stopping`. */
    pthread_mutex_t builds_lock;
    pthread_cond_t builds_ready;
    struct list builds_first; /* fast tier */
    struct list builds_later; /* optimised tier */
    struct list builds_known; /* every build there is; loop thread */
    pthread_t *builders;
    unsigned builder_count;
    bool stopping;
    bool gives_up;
    unsigned at_work; /* what refers to the service without being a build */

    unsigned awaited; /* before on_ready: builds, and the default project */
    bool is_starting; /* what is begun now is awaited */
    bool is_ready;    /* on_ready was called */
    struct loop_timer *ready_timer;
};

/* local.c */
struct local *local_of(struct function_service *service, const char *key);
void local_free(struct function_service *service, struct local *local);
/* It is not to run here any more; what is under way ends. */
void local_retire(struct function_service *service, struct local *local);
/* Given away; its instances go where no other version has them in common with it. */
void target_forget(struct function_service *service, struct instance_target *owned_target);
bool image_is_used(const char *image_id, void *service);
/* Make the image cache no larger than it may be, and count it. */
void images_trim(struct function_service *service);

/* config.c */
int config_check(const struct function_config *config, struct error *err);
void config_write(struct json_writer *writer, const struct function_config *config);
int config_read(const char *json, struct function_config *ret_config, struct error *err);
int name_check(const char *what, const char *name, struct error *err);

/* deploy.c */
bool deploy_runs_of(struct function_service *service, const char *module);
void deploys_stop(struct function_service *service);
bool deploy_runs_for(struct function_service *service, const char *version_key);
/* Build here, from the beginning, what no node is building: `from` 0 with a new operation, else
 * with the running one of node `from`, which does not go on with it.  `reign` other than 0: while
 * that is the leader's. */
void deploy_resume(struct function_service *service, const struct version_row *row,
                   const char *operation, uint64_t from, uint64_t reign);

/* function.c */
void module_collect(struct function_service *service, const char *module);

/* reconcile.c */
/* Soon, once for all that ask meanwhile: do what the state wants of this node. */
void reconcile_soon(struct function_service *service);
void reconcile_later(struct function_service *service);
int reconcile_at_start(struct function_service *service, struct error *err);
void reconcile_done(struct function_service *service);
/* One thing less to wait for before the service is ready. */
void service_arrived(struct function_service *service);
/* What of the others there is: false when this node is alone. */
bool service_has_others(const struct function_service *service);
bool service_is_owner(const struct function_service *service);
uint64_t service_node(const struct function_service *service);
void local_forget(struct function_service *service, const char *key);

/* holder.c: rows that say which node can run a version */
void holders_mark_stale(struct function_service *service);
/* This node's row, in the command that makes the version ready. */
void holder_add(struct function_service *service, struct store_command *command, const char *key,
                const char *tier);
/* Which other nodes can run it; those with the optimised tier only, if asked so. */
size_t holders_of(struct function_service *service, const char *key, bool is_optimized,
                  uint64_t *ret_nodes, size_t nodes_max);
void holders_write(struct function_service *service, struct json_writer *writer, const char *key);

/* lacks.c: the field `lacks` of a Version. */
void lacks_write(struct function_service *service, const char *version_key,
                 const struct function_config *config, struct json_writer *writer);

/* obtain.c: what other nodes have.  Each goes on with build_go_on(), later. */
void obtain_module(struct build *build);
void obtain_image(struct build *build);
/* On a builder's thread: is what a Linux function's machine starts from whole?  CORRUPT: a blob was
 * damaged and is put aside (image_verify()). */
int obtain_check(const struct build *build, struct error *err);
void obtain_cancel(struct build *build); /* build_go_on() comes soon */

/* spread.c: the module to other nodes, before anybody is told that it is safe. */
void spread_begin(struct build *build);
/* 0: it is where it should be; 1: not yet, spread_ended() comes; or why it cannot be. */
int spread_status(const struct build *build, struct error *err);
void spread_cancel(struct build *build); /* spread_ended() comes soon */
void spread_stop(struct build *build);   /* it does not come any more */

/* rows.c: reading the store */
int version_find(struct function_service *service, const char *project, const char *name,
                 uint64_t number, struct version_row *ret_row, struct error *err);
void version_row_done(struct version_row *row);
int version_each(struct function_service *service, const char *function_key,
                 void (*visit)(const struct version_row *row, void *context), void *context,
                 struct error *err);
/* Fails with NOT_FOUND, naming the nearest. */
int function_find(struct function_service *service, const char *project, const char *name,
                  uint64_t *ret_last_version, struct error *err);
bool module_is_used(struct function_service *service, const char *module);
uint64_t alias_of(struct function_service *service, const char *project, const char *name,
                  const char *alias);
/* Who builds a version, or did last: the newest operation about it.  False: nobody is known. */
struct builder {
    char operation[OPERATION_ID_SIZE];
    uint64_t node;
    bool is_running;
};
bool builder_of(struct function_service *service, const struct version_row *row,
                struct builder *ret_builder);
void project_of(const char *key, char *ret_project, char *ret_name, size_t size);

/* alias.c */
bool aliases_have_weights(struct function_service *service); /* the state knows of them */
/* `only_forward`: only when it points to an older version. */
void alias_add(struct function_service *service, struct store_command *command,
               const char *function, const char *name, const struct function_alias *alias,
               bool only_forward);
void alias_read_target(const char *json, const char *sticky, struct function_alias *ret_alias);

/* route.c */
void routes_mark_stale(struct function_service *service);
void routes_refresh(struct function_service *service); /* now, if stale */
void routes_done(struct function_service *service);

/* build.c */
int builders_start(struct function_service *service, struct error *err);
/* False: something did not come back, and still refers to the service. */
bool builders_stop(struct function_service *service);
/* Build a version for the first time; the operation is told how it went. */
void build_start(struct function_service *service, const struct version_row *row,
                 const char *operation);
/* Make a ready one callable here; `is_awaited`: service_arrived() when it is. */
void build_resume(struct function_service *service, const struct version_row *row, bool is_awaited);
/* The optimised tier, which another node has, or does not make. */
void build_better(struct function_service *service, const struct version_row *row, bool compiles);
/* obtain.c and spread.c are through: build->status and build->err. */
void build_go_on(struct build *build);
void spread_ended(struct build *build);
bool build_runs_of(struct function_service *service, const char *module);

/* linux_settings.c: the settings of engine/clone (clone.h) for a version; the caller's. */
char *function_linux_settings(const struct function_config *config, const char *project,
                              const char *name, uint64_t version, const char *image_id);

#endif
