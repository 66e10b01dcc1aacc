/* What the files of this room share. */
#ifndef SERVICE_MANIFEST_PARTS_H
#define SERVICE_MANIFEST_PARTS_H

#include "base/buffer.h"
#include "base/error.h"
#include "base/http/http.h"
#include "base/list.h"

#include "service/manifest/manifest.h"
#include "service/schema/schema.h"

/* ---- kinds.c: the tables ---- */

enum manifest_way {
    WAY_PATCH,
    WAY_ONCE,
    WAY_PUT,
    WAY_FUNCTION,
    WAY_ALIAS,
    WAY_GROUP,
    WAY_NODE,
    WAY_REFERENCE,
};

struct manifest_kind {
    const char *name;
    const char *collection;
    const char *create;
    const char *update; /* NULL: nothing changes in place */
    const char *reply;
    enum manifest_way way;
    bool has_node;
    const char *read; /* permissions */
    const char *write;
    unsigned rank;
};

size_t kind_count(void);
const struct manifest_kind *kind_at(size_t index);
/* INVALID, with the nearest. */
const struct manifest_kind *kind_find(const char *name, struct error *err);
/* What a field becomes when nobody asks for it any more (JSON null: it goes); NULL: it keeps its
 * value.  The caller's. */
json_t *kind_reset(const struct manifest_kind *kind, const char *path);

/* ---- spec.c: is a spec what its kind has? ---- */

/* Where something stands, for people: "app.yaml:12". */
struct origin {
    const char *file;
    const json_t *lines; /* of yaml_read_all() */
};
/* INVALID, with the place of `path` before it. */
int origin_refuse(const struct origin *origin, const char *path, struct error *err,
                  const char *format, ...) __attribute__((format(printf, 4, 5)));
unsigned origin_line(const struct origin *origin, const char *path);

/* Check, and put sizes and times as texts ("512MiB", "30s") into numbers. */
int spec_check(const struct manifest_kind *kind, json_t *spec, const struct origin *origin,
               struct error *err);
/* Has a spec all that making takes?  INVALID names what it lacks. */
int spec_check_whole(const struct manifest_kind *kind, const json_t *spec, const char *place,
                     struct error *err);

/* ---- read.c: documents ---- */

struct manifest {
    const struct manifest_kind *kind;
    char *name;
    char *project;
    char *place; /* "app.yaml:12" */
    json_t *labels;
    json_t *spec;
};

struct manifest_set {
    struct manifest *items;
    size_t count;
    char *project;
    char *owner;
    json_t *labels; /* what --prune is about */
    bool prunes;
    bool forces;
    bool replaces;
    bool deletes;
    bool wants_healthy;
    uint64_t timeout_ms;
    char *plan_digest; /* "" : any */
    uint64_t if_index; /* 0: any */
};

/* The objects of a text, behind those that are there. */
int read_documents(struct manifest_set *set, const char *file, const char *text, struct error *err);

/* ---- observe.c: what is there, as a spec ---- */

json_t *observe_spec(const struct manifest_kind *kind, const char *name, const json_t *reply);
/* Is what is there what is wanted? */
bool observe_equal(const struct manifest_kind *kind, const char *path, const json_t *have,
                   const json_t *want);
/* Has it all that is wanted, and perhaps more? */
bool observe_contains(const json_t *have, const json_t *want);
/* "sha256:...": what is known of a text that is kept elsewhere. */
json_t *observe_digest(const char *text);
/* Can it be seen at all, once it is set? */
bool observe_can_see(const struct manifest_kind *kind, const char *path);

/* ---- diff.c: one object ---- */

enum action_what {
    ACTION_NONE,
    ACTION_CREATE,
    ACTION_UPDATE,
    ACTION_REPLACE,
    ACTION_DELETE,
    ACTION_MISSING
};

struct action {
    const struct manifest_kind *kind;
    char *name;
    char *project;
    char *place;
    enum action_what what;
    json_t *labels;
    json_t *spec;      /* what is wanted; NULL: that it goes */
    json_t *observed;  /* as a spec; NULL: it is not there */
    json_t *rows;      /* of its owners: {"owner", "labels", "fields", "revision"} */
    json_t *changes;   /* {"path", "before", "after", "effect"} */
    json_t *conflicts; /* {"path", "owner", "value"} */
    json_t *released;  /* fields that the owner asks for no more */
    json_t *lacks;     /* texts: what it names and is neither there nor planned */
    json_t *placement; /* PlacementPreviewed; NULL: nothing of it is placed */
    bool adopts;       /* nothing changes but whose it is */
};

/* The fields of a spec: path to value. */
json_t *spec_leaves(const struct manifest_kind *kind, const json_t *spec);
json_t *spec_at(const json_t *spec, const char *path); /* NULL: there is none */
void spec_set(json_t *spec, const char *path, json_t *value);
void spec_remove(json_t *spec, const char *path);

/* Fill in `what` and what comes below it, from spec, observed and rows. */
int action_decide(struct action *action, const char *owner, struct error *err);
const char *action_text(enum action_what what);
void action_done(struct action *action);

/* ---- order.c ---- */
/* What others need comes first; what goes, in the opposite order, behind. */
void order_actions(struct action *actions, size_t count);

/* ---- owners.c: rows of `manifest` ---- */

int owners_of(struct store *store, const struct action *action, json_t **ret_rows,
              struct error *err);
/* {"kind", "project", "name"} of all that an owner has applied and that has these labels. */
int owners_list(struct store *store, const struct manifest_set *set, json_t **ret_objects,
                struct error *err);
bool owners_are_kept(struct store *store); /* the state has the table */
struct store_command;
/* What an owner has applied, with what became of it (a spec). */
void owners_add_applied(struct store_command *command, const struct action *action,
                        const char *owner, const json_t *settled);
void owners_add_gone(struct store_command *command, const struct action *action);

/* ---- plan.c ---- */

/* Is the object there?  Of an alias, the answer is its function's. */
bool plan_is_there(const struct manifest_kind *kind, const char *name, int status,
                   const json_t *answer);

struct manifest_plan {
    struct manifest_set *set;
    struct action *actions;
    size_t count;
    uint64_t index; /* of the state that it was made of */
    char digest[65];
};

/* ---- ask.c: requests to the API of this node ---- */

struct manifest_service {
    struct manifest_options options;
    char *address;
    struct http_client *client;
    struct list asks;    /* under way: they are cancelled when the service ends */
    struct list applies; /* of apply.c */
    bool ends;
};

struct ask;
/* `status` 0 and an error: there was no answer.  Else the status, the body (NULL: none), and from
 * 300 on the error that the body says.  `body` is lent. */
typedef void ask_answered(int status, const json_t *answer, const struct error *error,
                          void *context);
struct ask *ask(struct manifest_service *service, const char *method, const char *target,
                const json_t *body, ask_answered *answered, void *context);

/* /v1/COLLECTION/NAME?project=..., of an alias the function's. */
char *ask_target(const struct manifest_kind *kind, const char *project, const char *name);

/* ---- calls.c: an action as requests ---- */

/* A list of {"method", "target", "body"}. */
json_t *calls_of(const struct action *action);
/* What makes it, with all that its owners want. */
json_t *calls_creation(const struct action *action);
/* What is there, with what is wanted, and without what nobody wants any more. */
json_t *calls_whole(const struct action *action);

/* ".../NAME/FOLDER[/NAME]?project=..."; the caller's. */
char *calls_below(const struct action *action, const char *folder, const char *name);

/* ---- check.c: what a plan lacks ---- */

/* Fill in `lacks` of the actions; then `done`, perhaps at once: with an error when one could not be
 * made so. */
void check_make(struct manifest_service *service, struct action *actions, size_t count,
                void (*done)(const struct error *error, void *context), void *context);

/* ---- preview.c: where machines and functions of a plan would be ---- */

/* Fill in `placement` of the actions; then `done`, later. */
void preview_make(struct manifest_service *service, struct action *actions, size_t count,
                  void (*done)(void *context), void *context);

/* ---- apply.c ---- */
struct apply;
void apply_cancel_all(struct manifest_service *service);

#endif
