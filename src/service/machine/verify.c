/*
 * Images read again: is what this node has of them what their names say?
 *
 * One blob after the other, by a thread.  What is damaged is put aside (engine/image), so that
 * machines begin with it no more, and with `repair` fetched anew from a node that has it whole.
 * What was never here is no damage: it comes when a machine needs it.
 */
#include <inttypes.h>
#include <string.h>

#include "base/fd.h"
#include "base/json.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/image/image.h"
#include "engine/store/store.h"

#include "service/machine/parts.h"
#include "service/peer/peer.h"
#include "service/replica/replica.h"

enum { VERIFICATIONS_MAX = 2 };

struct verification {
    struct list_node link;
    struct machine_service *service;
    json_t *parts; /* [{"image", "part", "blob", "state", "size_bytes"}] */
    size_t at;
    uint64_t size_bytes; /* of the part that is read */
    bool is_repairing;
    bool is_cancelled;
    struct peer_fetch *fetch;
    struct error error; /* of one part */
    char operation[OPERATION_ID_SIZE];
    machine_begun *done;
    void *context;
};

static void free_verification(struct verification *verification)
{
    list_remove(&verification->link);
    verification->service->pending--;
    json_decref(verification->parts);
    free(verification);
}

static json_t *part_of(const struct verification *verification)
{
    return json_array_get(verification->parts, verification->at);
}

static void set_state(struct verification *verification, const char *state)
{
    json_t *part = part_of(verification);
    json_object_set_new(part, "state", json_string(state));
    json_object_set_new(part, "size_bytes", json_integer((json_int_t)verification->size_bytes));
}

/* ---- The end ---- */

static void finish(struct verification *verification)
{
    struct machine_service *service = verification->service;
    struct operation_service *operations = service->options.operations;
    struct error cancelled = {0};
    operation_on_cancel(operations, verification->operation, NULL, NULL);
    if (verification->is_cancelled || service->is_over) {
        error_set(&cancelled, ERROR_CANCELLED, "it was cancelled");
        operation_fail(operations, verification->operation, &cancelled);
    } else if (verification->error.kind != ERROR_NONE) {
        operation_fail(operations, verification->operation, &verification->error);
    } else {
        JSON_OWNED json_t *result =
            json_pack("{s:s, s:O}", "node", service->node_name, "parts", verification->parts);
        MEMORY_OWNED char *text = json_dumps(result, JSON_COMPACT);
        operation_succeed(operations, verification->operation, text);
    }
    free_verification(verification);
}

/* ---- One part ---- */

static void look_at_next(struct verification *verification);

/* What was put aside before had no size when it was read. */
static void note_repaired(struct verification *verification)
{
    FD_OWNED int fd = -1;
    struct error ignored = {0};
    image_open(verification->service->options.images, json_text(part_of(verification), "blob"), &fd,
               &verification->size_bytes, &ignored);
    set_state(verification, "repaired");
}

static void on_fetched(const struct error *error, void *context)
{
    struct verification *verification = context;
    verification->fetch = NULL;
    if (error == NULL) {
        note_repaired(verification);
    } else {
        log_warn("image %s: its %s cannot be repaired: %s",
                 json_text(part_of(verification), "image"),
                 json_text(part_of(verification), "part"), error->text);
        json_object_set_new(part_of(verification), "reason", json_string(error->text));
    }
    verification->at++;
    look_at_next(verification);
}

static void read_again(void *context)
{
    struct verification *verification = context;
    image_verify_again(verification->service->options.images,
                       json_text(part_of(verification), "blob"), &verification->size_bytes,
                       &verification->error);
}

static void on_read(void *context)
{
    struct verification *verification = context;
    const struct machine_options *options = &verification->service->options;
    const char *blob = json_text(part_of(verification), "blob");
    enum error_kind kind = verification->error.kind;
    bool is_damaged = kind == ERROR_CORRUPT || image_is_put_aside(options->images, blob);
    bool goes_on = kind == ERROR_NONE || kind == ERROR_CORRUPT || kind == ERROR_NOT_FOUND;
    if (!goes_on || verification->is_cancelled || verification->service->is_over) {
        finish(verification);
        return;
    }
    verification->error = (struct error){0};
    set_state(verification, kind == ERROR_NONE ? "good" : is_damaged ? "damaged" : "absent");
    if (kind != ERROR_NONE && is_damaged && verification->is_repairing) {
        const struct peer_wanted wanted = {.id = blob};
        verification->fetch = peer_fetch_new(options->blobs, &wanted, on_fetched, verification);
        return;
    }
    verification->at++;
    look_at_next(verification);
}

/* A blob that several images have is read once. */
static bool is_known(struct verification *verification)
{
    json_t *part = part_of(verification);
    for (size_t i = 0; i < verification->at; i++) {
        json_t *other = json_array_get(verification->parts, i);
        if (strcmp(json_text(other, "blob"), json_text(part, "blob")) == 0) {
            json_object_update_missing(part, other);
            return true;
        }
    }
    return false;
}

static void look_at_next(struct verification *verification)
{
    struct machine_service *service = verification->service;
    size_t count = json_array_size(verification->parts);
    while (verification->at < count && is_known(verification)) {
        verification->at++;
    }
    if (verification->at == count || verification->is_cancelled || service->is_over) {
        finish(verification);
        return;
    }
    MEMORY_OWNED char *text =
        memory_format("reading the %s of image %s", json_text(part_of(verification), "part"),
                      json_text(part_of(verification), "image"));
    operation_progress(service->options.operations, verification->operation,
                       (unsigned)(verification->at * 100 / count), text);
    verification->size_bytes = 0;
    loop_work(service->options.loop, read_again, on_read, verification);
}

/* ---- Asking ---- */

static void cancel(void *context)
{
    struct verification *verification = context;
    verification->is_cancelled = true;
    if (verification->fetch != NULL) {
        peer_fetch_free(verification->fetch);
        verification->fetch = NULL;
        finish(verification);
    } /* else a thread has it */
}

static void on_begun(const struct error *error, uint64_t index, void *context)
{
    struct verification *verification = context;
    struct operation_service *operations = verification->service->options.operations;
    (void)index;
    if (!operation_tell(operations, verification->operation, error, verification->done,
                        verification->context)) {
        free_verification(verification);
        return;
    }
    operation_on_cancel(operations, verification->operation, cancel, verification);
    look_at_next(verification);
}

static bool take_image(sqlite3_stmt *row, void *context)
{
    json_t *parts = context;
    struct error ignored = {0};
    JSON_OWNED json_t *config = NULL;
    if (json_read(store_text(row, 1), strlen(store_text(row, 1)), &config, &ignored) == 0) {
        for (size_t i = 0; i < REPLICA_PARTS; i++) {
            const char *blob = json_text(config, replica_parts[i]);
            if (blob[0] != '\0') {
                json_array_append_new(parts,
                                      json_pack("{s:s, s:s, s:s}", "image", store_text(row, 0),
                                                "part", replica_parts[i], "blob", blob));
            }
        }
    }
    return true;
}

static int find_parts(struct machine_service *service, const char *project, const char *name,
                      json_t *parts, struct error *err)
{
    unsigned count = 0;
    LIST_EACH(node, &service->verifications)
    {
        count++;
    }
    if (count >= VERIFICATIONS_MAX) {
        return error_set(err, ERROR_LIMIT,
                         "images are being verified on node %s already: try it again when that has "
                         "ended (`blixard operation list`)",
                         service->node_name);
    }
    int r = store_query(service->options.store, err, take_image, parts,
                        "SELECT name, config FROM machine_image WHERE project = ?1 AND (name = ?2 "
                        "OR ?2 = '') ORDER BY name",
                        "tt", project, name);
    return r < 0 || name[0] == '\0' || json_array_size(parts) > 0
        ? r
        : error_set(err, ERROR_NOT_FOUND, "there is no image %.64s in project %s", name, project);
}

void machine_image_verify(struct machine_service *service, const char *project, const json_t *body,
                          machine_begun *done, void *context)
{
    struct error err = {0};
    const char *name = json_text(body, "image");
    JSON_OWNED json_t *parts = json_array();
    if (find_parts(service, project, name, parts, &err) < 0) {
        machine_answer(service, &err, done, NULL, context);
        return;
    }
    struct verification *verification = NEW(struct verification);
    *verification =
        (struct verification){.service = service,
                              .parts = json_incref(parts),
                              .is_repairing = json_is_true(json_object_get(body, "repair")),
                              .done = done,
                              .context = context};
    list_push_back(&service->verifications, &verification->link);
    service->pending++;
    MEMORY_OWNED char *resource = memory_format("images/%s", name);
    const struct operation_start start = {
        .kind = "image.verify", .project = project, .resource = resource};
    struct store_command *command = store_command_new();
    operation_add(service->options.operations, command, &start, verification->operation);
    store_propose(service->options.store, command, on_begun, verification);
}

void verifications_abandon(struct machine_service *service)
{
    LIST_EACH(node, &service->verifications)
    {
        cancel(LIST_ITEM(node, struct verification, link));
    }
}
