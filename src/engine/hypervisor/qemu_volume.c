/*
 * Volumes of a running QEMU: scsi-hd on a virtio-scsi bus, the one place of a microvm that takes
 * devices while it runs (its virtio-mmio slots do not).
 *
 * A volume ID is: device "volume-ID" -> node "volume-ID" (throttle, group "throttle-ID") -> node
 * "layer-L" of the layer that is written -> those below.  The VMM sees none of these files by name:
 * descriptors are passed, as sets named by a random number with "volume-ID" written on them.
 *
 * What is done is a script of commands; one that fails begins the script's second part, which
 * undoes what was done, and whose own failures mean nothing.
 */
#include "engine/hypervisor/qemu_volume.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/base64.h"
#include "base/buffer.h"
#include "base/check.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/json.h"
#include "base/list.h"
#include "base/memory.h"
#include "base/random.h"

#include "engine/hypervisor/qmp.h"

enum { STEPS_MAX = 2 * HYPERVISOR_LAYERS_MAX + 24, NAME_BYTES = 64 };

enum step_kind {
    STEP_DO,
    STEP_TRY,      /* it may fail */
    STEP_ASK,      /* an answer says that all is done; an error, that it is not */
    STEP_ASK_LAID, /* node `name` lies over another one: all is done */
    STEP_UNPLUG,   /* device `name` is gone when the VMM says so, or was before */
    STEP_FORGET,   /* sets of descriptors with `name` on them */
};

struct step {
    enum step_kind kind;
    const char *command;
    json_t *arguments;
    int fd;
    char name[NAME_BYTES];
};

struct script {
    struct list_node link;
    struct qemu_volumes *volumes;
    struct step steps[STEPS_MAX];
    size_t count;
    size_t at;
    size_t undo; /* where the second part begins */
    bool is_undoing;
    bool is_unplugged;
    bool is_answered; /* the unplugging is under way */
    struct error error;
    hypervisor_done done;
    void *context;
};

struct qemu_volumes {
    struct qmp *qmp;
    struct list scripts;
};

/* ---- Scripts ---- */

static void run(struct script *script);

static void free_script(struct script *script)
{
    list_remove(&script->link);
    for (size_t i = 0; i < script->count; i++) {
        json_decref(script->steps[i].arguments);
        fd_close_slot(&script->steps[i].fd);
    }
    free(script);
}

static void finish(struct script *script, const struct error *error)
{
    hypervisor_done done = script->done;
    void *context = script->context;
    struct error copy = {0};
    if (error != NULL) {
        copy = *error;
    }
    free_script(script);
    done(copy.kind != ERROR_NONE ? &copy : NULL, context);
}

static struct step *add(struct script *script, enum step_kind kind, const char *command,
                        json_t *owned_arguments)
{
    CHECK(script->count < STEPS_MAX);
    struct step *step = &script->steps[script->count++];
    *step = (struct step){.kind = kind, .command = command, .arguments = owned_arguments, .fd = -1};
    return step;
}

static void next(struct script *script)
{
    script->at++;
    run(script);
}

static void fail(struct script *script, const struct error *error)
{
    if (!script->is_undoing) {
        script->error = *error;
        script->is_undoing = true;
        script->at = script->undo;
        run(script);
    } else {
        next(script);
    }
}

/* Of query-named-block-nodes, flat. */
static bool lies_over(const json_t *nodes, const char *name)
{
    size_t index = 0;
    json_t *node = NULL;
    json_array_foreach(nodes, index, node)
    {
        const char *text = json_string_value(json_object_get(node, "node-name"));
        if (text != NULL && strcmp(text, name) == 0) {
            return json_integer_value(json_object_get(node, "backing_file_depth")) > 0;
        }
    }
    return false;
}

static void forget(struct script *script, const json_t *sets, const char *name)
{
    size_t index = 0;
    json_t *set = NULL;
    json_array_foreach(sets, index, set)
    {
        const json_t *first = json_array_get(json_object_get(set, "fds"), 0);
        const char *text = json_string_value(json_object_get(first, "opaque"));
        if (text != NULL && strcmp(text, name) == 0) {
            qmp_execute(script->volumes->qmp, "remove-fd",
                        json_pack("{s:O}", "fdset-id", json_object_get(set, "fdset-id")), -1, NULL,
                        NULL);
        }
    }
}

static void on_step(const struct error *error, const json_t *result, void *context)
{
    struct script *script = context;
    const struct step *step = &script->steps[script->at];
    if (error != NULL && error->kind == ERROR_UNAVAILABLE) {
        finish(script, error); /* the VMM is gone, and all that is to be undone with it */
        return;
    }
    switch (step->kind) {
    case STEP_DO:
        if (error != NULL) {
            fail(script, error);
            return;
        }
        break;
    case STEP_TRY:
        break;
    case STEP_ASK:
        if (error == NULL) {
            finish(script, NULL);
            return;
        }
        break;
    case STEP_ASK_LAID:
        if (error == NULL && lies_over(result, step->name)) {
            finish(script, NULL);
            return;
        }
        break;
    case STEP_UNPLUG:
        script->is_answered = true;
        if (error == NULL && !script->is_unplugged) {
            return; /* qemu_volumes_event() goes on */
        }
        break;
    case STEP_FORGET:
        forget(script, result, step->name);
        break;
    }
    next(script);
}

static void run(struct script *script)
{
    size_t end = script->is_undoing ? script->count : script->undo;
    if (script->at >= end) {
        finish(script, script->is_undoing ? &script->error : NULL);
        return;
    }
    struct step *step = &script->steps[script->at];
    json_t *arguments = step->arguments;
    int fd = fd_take(&step->fd);
    step->arguments = NULL;
    qmp_execute(script->volumes->qmp, step->command, arguments, fd, on_step, script);
    fd_close_slot(&fd);
}

static struct script *begin(struct qemu_volumes *volumes, hypervisor_done done, void *context)
{
    struct script *script = NEW(struct script);
    script->volumes = volumes;
    script->done = done;
    script->context = context;
    list_push_back(&volumes->scripts, &script->link);
    return script;
}

/* What is added from here on undoes. */
static void begin_undo(struct script *script)
{
    script->undo = script->count;
}

/* ---- Parts ---- */

static void name_of(const char *kind, const char *id, char ret_name[NAME_BYTES])
{
    snprintf(ret_name, NAME_BYTES, "%s-%.40s", kind, id);
}

static void add_fd(struct script *script, uint32_t set, const char *id, int fd)
{
    char name[NAME_BYTES];
    name_of("volume", id, name);
    if (fd >= 0) {
        struct step *step =
            add(script, STEP_DO, "add-fd",
                json_pack("{s:I, s:s}", "fdset-id", (json_int_t)set, "opaque", name));
        step->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    }
}

/* Its descriptors, and how it is opened by them. */
static json_t *add_layer(struct script *script, const char *id,
                         const struct hypervisor_layer *layer, bool is_top)
{
    char file[32];
    char name[NAME_BYTES];
    uint32_t set = (uint32_t)random_u64() >> 1;
    snprintf(file, sizeof(file), "/dev/fdset/%u", set);
    add_fd(script, set, id, layer->fd);
    add_fd(script, set, id, layer->read_fd);
    json_t *node =
        json_pack("{s:s, s:b, s:s, s:{s:s, s:s, s:b, s:s}}", "driver", layer->format, "read-only",
                  layer->fd < 0, "discard", "unmap", "file", "driver", "file", "filename", file,
                  "read-only", layer->fd < 0, "discard", "unmap");
    if (is_top) {
        name_of("layer", layer->id, name);
        json_object_set_new(node, "node-name", json_string(name));
    }
    if (layer->is_encrypted) {
        name_of("key", id, name);
        json_object_set_new(node, "encrypt",
                            json_pack("{s:s, s:s}", "format", "luks", "key-secret", name));
    }
    return node;
}

static json_t *add_layers(struct script *script, const struct hypervisor_volume *volume)
{
    json_t *top = volume->layer_count > 0
        ? NULL
        : json_pack("{s:s, s:I, s:b}", "driver", "null-co", "size", (json_int_t)volume->size_bytes,
                    "read-zeroes", 1);
    json_t *over = NULL;
    for (size_t i = 0; i < volume->layer_count; i++) {
        json_t *node = add_layer(script, volume->id, &volume->layers[i], i == 0);
        if (over != NULL) {
            json_object_set_new(over, "backing", node);
        } else {
            top = node;
        }
        over = node;
    }
    return top;
}

/* All of them: what is not named stays as it was. */
static json_t *limits_of(const struct hypervisor_rates *rates)
{
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "iops-total", (json_int_t)rates->iops.both,
                     "iops-read", (json_int_t)rates->iops.reads, "iops-write",
                     (json_int_t)rates->iops.writes, "bps-total", (json_int_t)rates->bytes.both,
                     "bps-read", (json_int_t)rates->bytes.reads, "bps-write",
                     (json_int_t)rates->bytes.writes);
}

static void add_key(struct script *script, const struct hypervisor_volume *volume)
{
    char name[NAME_BYTES];
    BUFFER_OWNED struct buffer text = {0};
    name_of("key", volume->id, name);
    base64_write(&text, volume->key, volume->key_length);
    add(script, STEP_TRY, "object-add",
        json_pack("{s:s, s:s, s:s, s:s}", "qom-type", "secret", "id", name, "format", "base64",
                  "data", buffer_string(&text)));
    buffer_wipe(&text);
}

static void add_removal(struct script *script, const char *id, const char *const *layers,
                        size_t layer_count)
{
    char name[NAME_BYTES];
    name_of("volume", id, name);
    add(script, STEP_TRY, "blockdev-del", json_pack("{s:s}", "node-name", name));
    for (size_t i = 0; i < layer_count; i++) {
        name_of("layer", layers[i], name);
        add(script, STEP_TRY, "blockdev-del", json_pack("{s:s}", "node-name", name));
    }
    name_of("throttle", id, name);
    add(script, STEP_TRY, "object-del", json_pack("{s:s}", "id", name));
    name_of("key", id, name);
    add(script, STEP_TRY, "object-del", json_pack("{s:s}", "id", name));
    struct step *step = add(script, STEP_FORGET, "query-fdsets", NULL);
    name_of("volume", id, step->name);
}

/* ---- What can be done ---- */

void qemu_volume_attach(struct qemu_volumes *volumes, const struct hypervisor_volume *volume,
                        hypervisor_done done, void *context)
{
    char name[NAME_BYTES];
    char group[NAME_BYTES];
    struct script *script = begin(volumes, done, context);
    CHECK(volume->layer_count <= HYPERVISOR_LAYERS_MAX);
    bool is_read_only = volume->layer_count > 0 && volume->layers[0].fd < 0;
    name_of("volume", volume->id, name);
    name_of("throttle", volume->id, group);
    add(script, STEP_ASK, "qom-list",
        json_pack("{s:o}", "path", json_sprintf("/machine/peripheral/%s", name)));
    if (volume->key != NULL) {
        add_key(script, volume);
    }
    add(script, STEP_DO, "object-add",
        json_pack("{s:s, s:s, s:o}", "qom-type", "throttle-group", "id", group, "limits",
                  limits_of(&volume->rates)));
    json_t *top = add_layers(script, volume);
    /* A node that was not told to discard drops what comes down to it. */
    add(script, STEP_DO, "blockdev-add",
        json_pack("{s:s, s:s, s:s, s:b, s:s, s:o}", "driver", "throttle", "node-name", name,
                  "throttle-group", group, "read-only", is_read_only, "discard", "unmap", "file",
                  top));
    add(script, STEP_DO, "device_add",
        json_pack("{s:s, s:s, s:s, s:i, s:i, s:s, s:s, s:s, s:s, s:s}", "driver", "scsi-hd", "id",
                  name, "bus", QEMU_VOLUMES_BUS, "scsi-id", (int)volume->slot, "lun", 0, "drive",
                  name, "serial", volume->id, "device_id", volume->id, "werror", "enospc", "rerror",
                  "report"));
    begin_undo(script);
    add_removal(script, volume->id, NULL, 0);
    run(script);
}

void qemu_volume_detach(struct qemu_volumes *volumes, const char *id, const char *const *layers,
                        size_t layer_count, hypervisor_done done, void *context)
{
    char name[NAME_BYTES];
    struct script *script = begin(volumes, done, context);
    CHECK(layer_count <= HYPERVISOR_LAYERS_MAX);
    name_of("volume", id, name);
    struct step *step = add(script, STEP_UNPLUG, "device_del", json_pack("{s:s}", "id", name));
    snprintf(step->name, sizeof(step->name), "%s", name);
    add_removal(script, id, layers, layer_count);
    begin_undo(script);
    run(script);
}

void qemu_volume_resize(struct qemu_volumes *volumes, const char *id, uint64_t bytes,
                        hypervisor_done done, void *context)
{
    char name[NAME_BYTES];
    struct script *script = begin(volumes, done, context);
    name_of("volume", id, name);
    add(script, STEP_DO, "block_resize",
        json_pack("{s:s, s:I}", "node-name", name, "size", (json_int_t)bytes));
    begin_undo(script);
    run(script);
}

void qemu_volume_throttle(struct qemu_volumes *volumes, const char *id,
                          const struct hypervisor_rates *rates, hypervisor_done done, void *context)
{
    char group[NAME_BYTES];
    struct script *script = begin(volumes, done, context);
    name_of("throttle", id, group);
    add(script, STEP_DO, "qom-set",
        json_pack("{s:o, s:s, s:o}", "path", json_sprintf("/objects/%s", group), "property",
                  "limits", "value", limits_of(rates)));
    begin_undo(script);
    run(script);
}

void qemu_volume_lay_over(struct qemu_volumes *volumes, const char *id, const char *below,
                          const struct hypervisor_layer *layer, hypervisor_done done, void *context)
{
    char name[NAME_BYTES];
    char under[NAME_BYTES];
    struct script *script = begin(volumes, done, context);
    name_of("layer", layer->id, name);
    name_of("layer", below, under);
    struct step *step =
        add(script, STEP_ASK_LAID, "query-named-block-nodes", json_pack("{s:b}", "flat", 1));
    snprintf(step->name, sizeof(step->name), "%s", name);
    add(script, STEP_TRY, "blockdev-del", json_pack("{s:s}", "node-name", name));
    json_t *node = add_layer(script, id, layer, true);
    json_object_set_new(node, "backing", json_null());
    add(script, STEP_DO, "blockdev-add", node);
    add(script, STEP_DO, "blockdev-snapshot",
        json_pack("{s:s, s:s}", "node", under, "overlay", name));
    begin_undo(script);
    add(script, STEP_TRY, "blockdev-del", json_pack("{s:s}", "node-name", name));
    run(script);
}

/* ---- Life ---- */

struct qemu_volumes *qemu_volumes_new(struct qmp *qmp)
{
    struct qemu_volumes *volumes = NEW(struct qemu_volumes);
    volumes->qmp = qmp;
    list_init(&volumes->scripts);
    return volumes;
}

void qemu_volumes_event(struct qemu_volumes *volumes, const char *event, const json_t *data)
{
    const char *device = json_string_value(json_object_get(data, "device"));
    if (strcmp(event, "DEVICE_DELETED") != 0 || device == NULL) {
        return;
    }
    LIST_EACH(node, &volumes->scripts)
    {
        struct script *script = LIST_ITEM(node, struct script, link);
        const struct step *step = &script->steps[script->at];
        if (step->kind == STEP_UNPLUG && strcmp(step->name, device) == 0) {
            script->is_unplugged = true;
            /* Asked and answered, or still to be answered: on_step() goes on then. */
            if (script->is_answered) {
                next(script);
            }
            return;
        }
    }
}

void qemu_volumes_end(struct qemu_volumes *volumes, const struct error *error)
{
    while (!list_is_empty(&volumes->scripts)) {
        finish(LIST_FIRST(&volumes->scripts, struct script, link), error);
    }
}

void qemu_volumes_free(struct qemu_volumes *volumes)
{
    if (volumes == NULL) {
        return;
    }
    while (!list_is_empty(&volumes->scripts)) {
        free_script(LIST_FIRST(&volumes->scripts, struct script, link));
    }
    free(volumes);
}
