/*
 * Inside service/function.  The store has what is wanted (functions, versions, aliases); this node
 * keeps beside it what it has made of each version: `struct local`, by version key.
 */
#ifndef SERVICE_FUNCTION_PARTS_H
#define SERVICE_FUNCTION_PARTS_H

#include <pthread.h>

#include "base/hash.h"
#include "base/json.h"
#include "base/list.h"
#include "base/map.h"

#include "engine/store/store.h"
#include "engine/vmm/vmm.h"
#include "engine/wasm/wasm.h"

#include "service/function/function.h"
#include "service/instance/instance.h"
#include "service/operation/operation.h"

enum {
    FUNCTION_KEY_SIZE = 160, /* PROJECT/NAME/NUMBER */
    FUNCTION_MODULE_MAX = 64 << 20,
    FUNCTION_ENVIRONMENT_MAX = 32768,
};

/* What this node has of a version. */
struct local {
    struct instance_target *target; /* NULL: not compiled yet */
    char problem[ERROR_TEXT_MAX];   /* why it could not be compiled here, or "" */
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
};

struct build;
struct route_table;

struct function_service {
    struct function_options options;
    char *gateway_url;
    struct map locals;   /* version key -> struct local */
    struct list deploys; /* struct deploy being written: their modules are in use */
    struct store_watch *watch;
    bool routes_are_stale;
    bool refresh_is_posted;

    pthread_mutex_t routes_lock; /* guards `routes` alone */
    struct route_table *routes;

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

    unsigned awaited; /* before on_ready: builds, and the default project */
};

/* config.c */
int config_check(const struct function_config *config, struct error *err);
void config_write(struct json_writer *writer, const struct function_config *config);
int config_read(const char *json, struct function_config *ret_config, struct error *err);
int name_check(const char *what, const char *name, struct error *err);

/* function.c */
void module_collect(struct function_service *service, const char *module);
/* One thing less to wait for before the service is ready. */
void service_arrived(struct function_service *service);

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
bool alias_points_to(struct function_service *service, const struct version_row *row);
void project_of(const char *key, char *ret_project, char *ret_name, size_t size);

/* route.c */
void routes_mark_stale(struct function_service *service);
void routes_refresh(struct function_service *service); /* now, if stale */
void routes_done(struct function_service *service);

/* build.c */
int builders_start(struct function_service *service, struct error *err);
/* False: something did not come back, and still refers to the service. */
bool builders_stop(struct function_service *service);
/* Build a version for the first time; the operation, if any, is told how it went. */
void build_start(struct function_service *service, const struct version_row *row,
                 const char *operation_or_null);
/* Build a ready one again after a start; `is_awaited`: service_arrived() when it can be called. */
void build_resume(struct function_service *service, const struct version_row *row, bool is_awaited);
void build_forget(struct function_service *service, const char *key);
bool build_runs_of(struct function_service *service, const char *module);
bool image_is_used(const char *image_id, void *service);
void local_free(struct function_service *service, struct local *local);
struct local *local_of(struct function_service *service, const char *key);

#endif
