/*
 * What is done for a volume whose row says that something is to be: by a thread, by its machine's
 * VMM, then in the log.
 *
 *   creating    the first layer's file is made                         -> ready, or failed
 *   growing     layer becomes next_size, by VMM or thread              -> ready, size_bytes
 *   laying      next_layer's file; the VMM writes to it from then on   -> ready, layer = next_layer
 *   restoring   next_layer's file, over a snapshot's                   -> ready, layer = next_layer
 *
 * Each may be begun again from the row, whatever of it was done before.  What fails leaves the
 * volume as it was, with the reason.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/fd.h"
#include "base/json.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/agent/agent.h"
#include "engine/store/store.h"

#include "service/secret/secret.h"
#include "service/volume/parts.h"

struct work {
    struct volume *volume;   /* NULL: it was abandoned */
    enum volume_state state; /* that was acted upon */
    struct volume_link layer;
    char label[VOLUME_LABEL_MAX + 1];
    bool has_label;
    uint64_t size_bytes;
    struct buffer key;
    const char *folder;
    enum volume_format below_format;
    char path[VOLUME_PATH_MAX + 1];
    struct hypervisor_layer open; /* next_layer, for a VMM */
    bool is_asking;               /* the agent, whose answer always comes */
    struct error error;
};

static void free_work(struct work *work)
{
    buffer_wipe(&work->key);
    free(work);
}

int volume_read_key(struct volume *volume, struct buffer *ret_key, struct error *err)
{
    struct volume_service *service = volume->service;
    if (volume->secret[0] == '\0') {
        return 0;
    }
    int r = secret_read(service->options.secrets, volume->project, volume->secret, ret_key, err);
    if (r < 0) {
        return error_wrap(err, "the key of volume %s", volume->name);
    }
    return ret_key->used <= VOLUME_KEY_MAX
        ? 0
        : error_set(err, ERROR_INVALID, "the key of volume %s has more than %d bytes", volume->name,
                    VOLUME_KEY_MAX);
}

/* ---- In the log ---- */

/* Those that waited until it was laid. */
static void step_others(const struct volume *volume)
{
    LIST_EACH(node, &volume->service->volumes)
    {
        struct volume *other = LIST_ITEM(node, struct volume, link);
        if (other != volume && other->state == VOLUME_LAYING &&
            strcmp(other->machine, volume->machine) == 0) {
            volume_step(other);
        }
    }
}

static void on_written(const struct error *error, uint64_t index, void *context)
{
    struct work *work = context;
    struct volume *volume = work->volume;
    struct volume_service *service = volume->service;
    (void)index;
    service->pending--;
    volume->is_busy = false;
    if (error != NULL && error->kind != ERROR_CONFLICT && !service->is_over) {
        loop_timer_start(service->retry, VOLUME_RETRY_MS); /* from the row, again */
        volume_tell_keeping(volume, error);
        free_work(work);
        return;
    }
    volume_finish(volume, work->error.kind != ERROR_NONE ? &work->error : NULL);
    bool was_laid = work->state == VOLUME_RESTORING || work->error.kind != ERROR_NONE;
    free_work(work);
    volume_tell_free(volume);
    step_others(volume);
    volume_unref(volume);
    if (was_laid) {
        volume_collect(service);
    }
}

#define IS_SO " WHERE key = ? AND id = ? AND node = ? AND state = ?"

static void add_success(const struct work *work, struct store_command *command)
{
    const struct volume *volume = work->volume;
    const char *state = volume_state_text(work->state);
    const char *node = volume->service->node_name;
    switch (work->state) {
    case VOLUME_CREATING:
        store_command_add_expecting(
            command, ERROR_CONFLICT, "the volume has changed",
            "UPDATE volume SET state = 'ready', reason = NULL, revision = ?" IS_SO, "rtttt",
            volume->key, volume->id, node, state);
        break;
    case VOLUME_GROWING:
        store_command_add_expecting(command, ERROR_CONFLICT, "the volume has changed",
                                    "UPDATE volume SET state = 'ready', reason = NULL, size_bytes "
                                    "= next_size, next_size = NULL, revision = ?" IS_SO,
                                    "rtttt", volume->key, volume->id, node, state);
        break;
    case VOLUME_LAYING:
    case VOLUME_RESTORING:
        store_command_add_expecting(
            command, ERROR_CONFLICT, "the volume has changed",
            "UPDATE volume SET state = 'ready', reason = NULL, layer = next_layer, size_bytes = "
            "coalesce(next_size, size_bytes), next_size = NULL, next_layer = NULL, revision = "
            "?" IS_SO,
            "rtttt", volume->key, volume->id, node, state);
        store_command_add(command,
                          "UPDATE volume_snapshot SET state = 'ready', revision = ? WHERE volume = "
                          "? AND state = 'creating'",
                          "rt", volume->key);
        break;
    case VOLUME_READY:
    case VOLUME_FAILED:
    case VOLUME_STATES:
        CHECK(false);
    }
}

static void add_failure(const struct work *work, struct store_command *command)
{
    const struct volume *volume = work->volume;
    bool is_first = work->state == VOLUME_CREATING;
    store_command_add_expecting(
        command, ERROR_CONFLICT, "the volume has changed",
        "UPDATE volume SET state = ?, reason = ?, next_size = NULL, next_layer = NULL, revision = "
        "?" IS_SO,
        "ttrtttt", is_first ? "failed" : "ready", work->error.text, volume->key, volume->id,
        volume->service->node_name, volume_state_text(work->state));
    store_command_add(command,
                      "DELETE FROM volume_snapshot WHERE volume = ? AND state = 'creating'", "t",
                      volume->key);
}

static void write_end(struct work *work)
{
    struct volume *volume = work->volume;
    struct store_command *command = store_command_new();
    if (work->error.kind == ERROR_NONE) {
        add_success(work, command);
    } else {
        log_warn("volume %s: %s: %s", volume->key, volume_state_text(work->state),
                 work->error.text);
        add_failure(work, command);
    }
    volume->service->pending++;
    store_propose(volume->service->options.store, command, on_written, work);
}

/* ---- The VMM ---- */

static void close_layer(struct work *work)
{
    fd_close_slot(&work->open.fd);
    fd_close_slot(&work->open.read_fd);
}

static void tell_lost(struct volume *volume)
{
    struct error error = {0};
    error_set(&error, ERROR_UNAVAILABLE, "machine %s has ended meanwhile", volume->machine);
    volume_tell_keeping(volume, &error);
}

/* It is not called any more, and where it has come to is found out by the next beginning. */
void volume_work_abandon(struct volume *volume)
{
    struct work *work = volume->live;
    if (work != NULL) {
        tell_lost(volume);
        volume->live = NULL;
        volume->is_busy = false;
        work->volume = NULL;
        close_layer(work);
        if (!work->is_asking) { /* else the answer finds nobody */
            free_work(work);
        }
    }
}

/* What the guest makes of it is not the volume's affair: at its next start it is done again. */
static void on_grown(const struct error *error, const struct agent_result *result, void *context)
{
    struct work *work = context;
    (void)result;
    work->is_asking = false;
    if (error != NULL) {
        log_warn("volumes: growing the file system at %s: %s", work->path, error->text);
    }
    if (work->volume == NULL) {
        free_work(work);
        return;
    }
    work->volume->live = NULL;
    write_end(work);
}

static void on_thawed(const struct error *error, const struct agent_result *result, void *context)
{
    struct work *work = context;
    (void)result;
    work->is_asking = false;
    if (error != NULL && error->kind != ERROR_CANCELLED) {
        log_warn("volumes: thawing the file systems: %s", error->text);
    }
    if (work->volume == NULL) {
        free_work(work);
        return;
    }
    work->volume->live = NULL;
    write_end(work);
}

static void on_live(const struct error *error, void *context)
{
    struct work *work = context;
    struct volume *volume = work->volume;
    struct hypervisor_vm *vm = NULL;
    struct agent *agent = NULL;
    volume_look(volume, &vm, &agent);
    close_layer(work);
    if (error != NULL && error->kind == ERROR_UNAVAILABLE) {
        tell_lost(volume);
        volume->live = NULL;
        volume->is_busy = false; /* the VMM has ended: volume_machine_changed() comes */
        free_work(work);
        return;
    }
    if (error != NULL) {
        work->error = *error;
    }
    /* Its end is waited for: it must not meet the next freeze. */
    if (agent != NULL && work->state == VOLUME_LAYING) {
        work->is_asking = true;
        agent_thaw(agent, on_thawed, work);
    } else if (agent != NULL && error == NULL && work->path[0] != '\0') {
        work->is_asking = true;
        agent_grow_to(agent, work->path, work->size_bytes, on_grown, work);
    } else {
        volume->live = NULL;
        write_end(work);
    }
}

static void lay_over(struct work *work, struct hypervisor_vm *vm)
{
    struct volume *volume = work->volume;
    hypervisor_lay_over(vm, volume->id, volume->layer, &work->open, on_live, work);
}

/* Without an agent, or where it cannot, the snapshot is as after a power cut. */
static void on_frozen(const struct error *error, const struct agent_result *result, void *context)
{
    struct work *work = context;
    struct hypervisor_vm *vm = NULL;
    struct agent *agent = NULL;
    (void)result;
    work->is_asking = false;
    if (work->volume == NULL) {
        free_work(work);
        return;
    }
    if (error != NULL) {
        log_warn("volume %s: the file systems of machine %s are not held still: %s",
                 work->volume->key, work->volume->machine, error->text);
    }
    if (volume_look(work->volume, &vm, &agent) == VOLUME_MACHINE_ON) {
        lay_over(work, vm);
    } else {
        volume_work_abandon(work->volume);
    }
}

static int open_layer(struct work *work, struct error *err)
{
    MEMORY_OWNED char *path = volume_path(work->folder, work->layer.id, work->layer.format);
    work->open.id = work->layer.id;
    work->open.format = volume_format_text(work->layer.format);
    work->open.is_encrypted = work->volume->secret[0] != '\0';
    work->open.fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    work->open.read_fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    return work->open.fd >= 0 && work->open.read_fd >= 0 ? 0 : error_os(err, errno, "%s", path);
}

static void lay_live(struct work *work, struct hypervisor_vm *vm, struct agent *agent)
{
    if (open_layer(work, &work->error) < 0) {
        write_end(work);
        return;
    }
    work->volume->live = work;
    if (agent != NULL) {
        work->is_asking = true;
        agent_freeze(agent, VOLUME_FREEZE_MS, on_frozen, work);
    } else {
        lay_over(work, vm);
    }
}

/* One at a time: who thaws first would thaw for the others, too. */
static bool is_being_laid(const struct volume *volume)
{
    LIST_EACH(node, &volume->service->volumes)
    {
        const struct volume *other = LIST_ITEM(node, struct volume, link);
        if (other != volume && other->live != NULL && other->live->state == VOLUME_LAYING &&
            strcmp(other->project, volume->project) == 0 &&
            strcmp(other->machine, volume->machine) == 0) {
            return true;
        }
    }
    return false;
}

/* ---- The thread ---- */

static void work_on_thread(void *context)
{
    struct work *work = context;
    const struct volume_layer layer = {
        .folder = work->folder,
        .id = work->layer.id,
        .format = work->layer.format,
        .size_bytes = work->size_bytes,
        .below_id = work->layer.below[0] != '\0' ? work->layer.below : NULL,
        .below_format = work->below_format,
        .key = work->key.used > 0 ? work->key.data : NULL,
        .key_length = work->key.used,
        .label = work->has_label ? work->label : NULL,
    };
    if (work->state == VOLUME_GROWING) {
        volume_grow(&layer, &work->error);
    } else {
        volume_make(&layer, &work->error);
    }
}

/* The file is there, the machine stands still: or is gone. */
static void go_on(struct work *work)
{
    struct volume *volume = work->volume;
    struct hypervisor_vm *vm = NULL;
    struct agent *agent = NULL;
    enum volume_machine_state machine = volume_look(volume, &vm, &agent);
    if (machine == VOLUME_MACHINE_OFF) {
        write_end(work);
    } else if (machine == VOLUME_MACHINE_ON &&
               (volume->keeping != NULL || !is_being_laid(volume))) {
        lay_live(work, vm, volume->keeping != NULL ? NULL : agent);
    } else {
        volume->is_busy = false; /* volume_machine_changed() comes, or the other one's end */
        tell_lost(volume);
        free_work(work);
    }
}

void volume_work_go_on(struct volume *volume)
{
    struct work *work = volume->held;
    volume->held = NULL;
    if (work != NULL) {
        go_on(work);
    }
}

static void on_thread_done(void *context)
{
    struct work *work = context;
    struct volume *volume = work->volume;
    struct hypervisor_vm *vm = NULL;
    struct agent *agent = NULL;
    buffer_wipe(&work->key);
    if (volume->is_gone || volume->service->is_over) {
        volume->is_busy = false;
        tell_lost(volume);
        free_work(work);
        volume_unref(volume);
        return;
    }
    enum volume_machine_state machine = volume_look(volume, &vm, &agent);
    if (work->error.kind != ERROR_NONE || work->state != VOLUME_LAYING) {
        write_end(work);
    } else if (volume->keeping != NULL && machine == VOLUME_MACHINE_ON) {
        volume->held = work;
        volume_tell_made(volume);
    } else {
        go_on(work);
    }
}

static int prepare(struct work *work, struct error *err)
{
    struct volume *volume = work->volume;
    struct volume_service *service = volume->service;
    bool is_laying = work->state == VOLUME_LAYING || work->state == VOLUME_RESTORING;
    struct volume_link below;
    int r = volume_find_link(service, is_laying ? volume->next_layer : volume->layer, &work->layer,
                             err);
    if (r == 0 && work->layer.below[0] != '\0') {
        r = volume_find_link(service, work->layer.below, &below, err);
        work->below_format = r == 0 ? below.format : VOLUME_RAW;
    }
    work->has_label = work->state == VOLUME_CREATING && work->layer.below[0] == '\0' &&
        volume_config_has_file_system(volume->config);
    snprintf(work->label, sizeof(work->label), "%.16s", volume->name);
    work->size_bytes = volume->next_size > 0 ? volume->next_size : volume->size_bytes;
    return r < 0 ? r : volume_read_key(volume, &work->key, err);
}

static bool take_path(sqlite3_stmt *row, void *context)
{
    struct work *work = context;
    const char *path = (const char *)sqlite3_column_text(row, 0);
    snprintf(work->path, sizeof(work->path), "%s", path != NULL ? path : "");
    return false;
}

void volume_work_begin(struct volume *volume)
{
    struct volume_service *service = volume->service;
    struct work *work = NEW(struct work);
    struct hypervisor_vm *vm = NULL;
    struct agent *agent = NULL;
    struct error ignored = {0};
    *work = (struct work){.volume = volume,
                          .state = volume->state,
                          .folder = service->folder,
                          .open = {.fd = -1, .read_fd = -1}};
    volume->is_busy = true;
    int r = prepare(work, &work->error);
    if (r == -ERROR_UNAVAILABLE) { /* a key that is on its way from another node */
        log_warn("volume %s: %s", volume->key, work->error.text);
        volume->is_busy = false;
        free_work(work);
        loop_timer_start(service->retry, VOLUME_RETRY_MS);
    } else if (r < 0) {
        write_end(work);
    } else if (work->state == VOLUME_GROWING &&
               volume_look(volume, &vm, &agent) == VOLUME_MACHINE_ON) {
        store_query(service->options.store, &ignored, take_path, work,
                    "SELECT path FROM volume WHERE key = ?", "t", volume->key);
        volume->live = work;
        hypervisor_resize_volume(vm, volume->id, work->size_bytes, on_live, work);
    } else {
        loop_work(service->options.loop, work_on_thread, on_thread_done, work);
    }
}
