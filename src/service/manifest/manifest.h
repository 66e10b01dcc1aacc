/*
 * Manifests: what is to be, as documents; what that would change; and doing it.
 *
 * A document has `kind`, `name`, `project`, `labels` and `spec`.  Kinds are those of
 * spec/kinds.def, and what `spec` may have is said by the types of the API (spec/types.def): the
 * same table that requests are checked against.
 *
 * Who applies documents is an owner.  The state keeps, of each object and each owner, which fields
 * it has asked for and with what values (table `manifest`).  Two owners may share an object and
 * even a field, as long as they want the same of it; else it is a conflict, which names the other
 * one, unless the conflict is forced: then the field is the other's no more.
 *
 * A plan compares what is asked for with what is there.  It is stable: what a service makes of a
 * value (a size that it rounds up, a text that it shows to nobody) is noted when it was applied,
 * and as long as neither the document nor the object has changed, there is no difference.
 *
 * Applying is an operation of one node: it makes one request of the API after the other, in the
 * order in which objects need each other, and waits for the operations that these begin.  When one
 * fails, it says what was done; applying again goes on from there.
 *
 * Main loop thread.  Every `done` is called once, later.
 *
 * Source: Kubernetes' server-side apply, whose managers of fields are owners here.
 */
#ifndef SERVICE_MANIFEST_MANIFEST_H
#define SERVICE_MANIFEST_MANIFEST_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "service/operation/operation.h"

struct buffer;
struct error;
struct loop;
struct manifest_plan;
struct manifest_service;
struct manifest_set;
struct store;

enum {
    MANIFEST_OBJECTS_MAX = 1000,
    MANIFEST_LABELS_MAX = 64,
    MANIFEST_LABEL_SIZE = 128, /* of a name or a value of a label */
};

struct manifest_options {
    struct loop *loop;
    struct store *store;
    struct operation_service *operations;
    const char *address; /* of this node's own API, as http_client_new() has it; copied */
};

int manifest_service_new(const struct manifest_options *options,
                         struct manifest_service **ret_service, struct error *err);
/* What is under way ends: plans without an answer, applies as interrupted. */
void manifest_service_free(struct manifest_service *service);

/* ---- Documents ---- */

/*
 * A body of the type ManifestSet, whose objects are of `project` where they do not say.  INVALID,
 * with file and line; LIMIT, TOO_LARGE.  The caller ends the set, or gives it to a plan.
 */
int manifest_set_read(const char *project, const json_t *body, struct manifest_set **ret_set,
                      struct error *err);
void manifest_set_free(struct manifest_set *set);
size_t manifest_set_count(const struct manifest_set *set);
/* What reading object number `index` takes. */
const char *manifest_set_permission(const struct manifest_set *set, size_t index);

/* ---- Plans ---- */

/* INVALID: an object lacks what it takes to make it; what an object's own reading failed with. */
typedef void manifest_planned(const struct error *error, struct manifest_plan *owned_plan,
                              void *context);
void manifest_plan_make(struct manifest_service *service, struct manifest_set *owned_set,
                        manifest_planned *done, void *context);
void manifest_plan_free(struct manifest_plan *plan);
void manifest_plan_write(const struct manifest_plan *plan, struct buffer *out);
size_t manifest_plan_count(const struct manifest_plan *plan);
/* What doing action number `index` takes; NULL: it does nothing. */
const char *manifest_plan_permission(const struct manifest_plan *plan, size_t index);

/*
 * Do it, as an operation of the kind manifest.apply.  CONFLICT: another owner wants something else
 * of a field; this owner is applying already; it is not the plan, or not the state, that the body
 * said.  INVALID: something must be replaced and the body does not allow it; something is missing.
 */
void manifest_apply(struct manifest_service *service, struct manifest_plan *owned_plan,
                    operation_begun *begun, void *context);

/* ---- Objects as manifests ---- */

/* All of a project, of one kind (NULL: of any), of one name (NULL: any); INVALID (kind). */
typedef void manifest_exported(const struct error *error, const json_t *manifests, void *context);
void manifest_export(struct manifest_service *service, const char *project, const char *kind,
                     const char *name, manifest_exported *done, void *context);

#endif
