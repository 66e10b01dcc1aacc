/* What the files of this room share. */
#ifndef SERVICE_VOLUME_PARTS_H
#define SERVICE_VOLUME_PARTS_H

#include <sqlite3.h>

#include "base/error.h"
#include "base/list.h"

#include "engine/volume/volume.h"

#include "service/operation/operation.h"
#include "service/volume/volume.h"

enum { VOLUME_SCHEMA = 7, VOLUME_FREEZE_MS = 60000, VOLUME_RETRY_MS = 1000, VOLUME_NAME_SIZE = 64 };

enum volume_state {
    VOLUME_CREATING,
    VOLUME_READY,
    VOLUME_GROWING,
    VOLUME_LAYING,    /* next_layer over layer: for a snapshot */
    VOLUME_RESTORING, /* next_layer over that of a snapshot */
    VOLUME_FAILED,    /* it could not be made */
    VOLUME_STATES,
};
const char *volume_state_text(enum volume_state state);
bool volume_state_parse(const char *text, enum volume_state *ret_state);

struct volume_keeping;

/* A volume of this node, as its row says. */
struct volume {
    struct list_node link;
    struct volume_service *service;
    char *key; /* PROJECT/NAME */
    char *project;
    char *name;
    char id[VOLUME_ID_SIZE];
    json_t *config;
    char secret[VOLUME_NAME_SIZE];
    uint64_t size_bytes;
    uint64_t next_size;
    char layer[VOLUME_ID_SIZE];
    char next_layer[VOLUME_ID_SIZE];
    enum volume_state state;
    char machine[VOLUME_NAME_SIZE]; /* "" */

    bool is_unmade;                 /* for keeping */
    struct work *held;              /* until its machine stands still */
    struct volume_keeping *keeping; /* waits until it is laid over: keep.c */
    bool is_busy;                   /* a thread, a VMM or the log does something for it */
    bool is_merging;                /* busy, as a layer below it is being merged */
    bool is_gone;
    struct work *live; /* what a VMM was told, until it answers */
    char operation[OPERATION_ID_SIZE];
};

struct volume_service {
    struct volume_options options;
    char *folder;
    char *node_name;
    struct volume_machines machines; /* look is NULL: there are none yet */
    struct list volumes;
    struct store_watch *watch;
    struct loop_timer *retry;
    bool is_collecting;
    bool collects_again;
    unsigned pending; /* answers on their way */
    bool is_over;
};

/* ---- state.c: rows ---- */

bool volume_schema_is_there(struct volume_service *service); /* the schema knows volumes */
/* Read this node's row of that key, or all of them. */
void volume_load(struct volume_service *service, const char *key_or_null);
struct volume *volume_find(struct volume_service *service, const char *project, const char *name);
/* One of this node that is ready; NOT_FOUND, UNAVAILABLE, CONFLICT. */
int volume_find_ready(struct volume_service *service, const char *project, const char *name,
                      struct volume **ret_volume, struct error *err);

struct volume_link {
    char id[VOLUME_ID_SIZE];
    char below[VOLUME_ID_SIZE]; /* "" */
    enum volume_format format;
};
/* NOT_FOUND. */
int volume_find_link(struct volume_service *service, const char *id, struct volume_link *ret_layer,
                     struct error *err);
/* It and those below it, newest first.  CORRUPT: more than there can be. */
int volume_chain(struct volume_service *service, const char *id,
                 struct volume_link ret_layers[VOLUME_LAYERS_MAX], size_t *ret_count,
                 struct error *err);
/* A volume of any node as its row says, in no list; NULL: there is none.  volume_free_one(). */
struct volume *volume_read_one(struct volume_service *service, const char *project,
                               const char *name);
void volume_free_one(struct volume *volume); /* accepts NULL */
/* The single text that a query finds, the caller's, or NULL. */
int volume_query_text(struct volume_service *service, char **ret_text, struct error *err,
                      const char *sql, const char *key);

/* ---- settings.c: pure ---- */

/* A VolumeCreate with what was not said filled in.  A new reference. */
int volume_config_complete(const json_t *create, json_t **ret_config, struct error *err);
enum volume_format volume_config_format(const json_t *config);
bool volume_config_has_file_system(const json_t *config);

/* ---- volume.c ---- */
void volume_step(struct volume *volume);
void volume_unref(struct volume *volume);
/* Its operation ends; NULL: well. */
void volume_finish(struct volume *volume, const struct error *error);
enum volume_machine_state volume_look(struct volume *volume, struct hypervisor_vm **ret_vm,
                                      struct agent **ret_agent);
/* Somebody waits for it. */
void volume_tell_free(struct volume *volume);
/* Remove the files that nothing names any more. */
void volume_collect(struct volume_service *service);

/* ---- merge.c ---- */
/* One of what volume_collect() leaves; it goes on by itself. */
void volume_merge(struct volume_service *service);

/* ---- move.c ---- */
/* The name of a layer among these: a copy's, or its own. */
const char *volume_name_among(const struct volume_file *files, size_t count, const char *id);

/* ---- attach.c ---- */
/* With its layers under the names that `files` (count 0: none) give them. */
int volume_open_one(struct volume *volume, const struct volume_file *files, size_t count,
                    struct volume_open *ret_open, struct error *err);

/* ---- keep.c ---- */
/* The file of its next layer is there. */
void volume_tell_made(struct volume *volume);
/* Its work has ended, or will be begun again some time; NULL: well. */
void volume_tell_keeping(struct volume *volume, const struct error *error);

/* ---- work.c ---- */
void volume_work_begin(struct volume *volume);   /* as its state says */
void volume_work_abandon(struct volume *volume); /* the VMM that was told is gone */
void volume_work_go_on(struct volume *volume);   /* its machine stands still */
/* The key of a volume, or nothing when it has none; the caller wipes. */
int volume_read_key(struct volume *volume, struct buffer *ret_key, struct error *err);

#endif
