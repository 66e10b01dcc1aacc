/*
 * What a machine has on disk: the image's blobs, which other machines share, and what is its own.
 *
 * Preparing fetches the blobs that this node lacks, one after the other, then makes the folder and
 * the file that the machine writes in: sparse, with an empty ext4, laid over the read-only root by
 * the agent; or, where the image is a whole disk, qcow2 laid over it by the VMM.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/text.h"

#include "engine/hypervisor/template.h"
#include "engine/image/image.h"
#include "engine/image/initrd.h"
#include "engine/store/store.h"
#include "engine/volume/volume.h"

#include "service/machine/arrive.h"
#include "service/machine/content.h"
#include "service/machine/parts.h"
#include "service/machine/snapshot.h"
#include "service/machine/volumes.h"
#include "service/peer/peer.h"
#include "service/replica/replica.h"

enum {
    INITRD_BYTES_MAX = 256 << 20,
    AGENT_BYTES_MAX = 16 << 20,
    FIRMWARE_BYTES_MAX = 16 << 20,
    TRIES_MAX = 6, /* to get a runner: a minute and what each of them takes */
};

/* ---- Making ---- */

/* Of root's daemon, a user for each machine: beyond those that runners have. */
uid_t disk_uid_of(const char *id)
{
    enum { FIRST = 2100000000, COUNT = 40000000 };
    return FIRST + (uid_t)(hash_stable(id) % COUNT);
}

uid_t disk_uid(const struct machine *machine)
{
    return disk_uid_of(machine->id);
}

int disk_give(const struct machine *machine, const char *path, struct error *err)
{
    uid_t uid = disk_uid(machine);
    return geteuid() != 0 || chown(path, uid, uid) == 0
        ? 0
        : error_os(err, errno, "giving %s to its machine", path);
}

/* Its name is there once it is whole: who is killed while it is made begins anew. */
static int put_in_place(const struct machine *machine, const char *partial, const char *path,
                        struct error *err)
{
    int r = disk_give(machine, partial, err);
    if (r == 0 && rename(partial, path) < 0) {
        r = error_os(err, errno, "making %s", path);
    }
    return r;
}

static int make_disk(const struct machine *machine, uint64_t size, struct error *err)
{
    MEMORY_OWNED char *path = memory_format("%s/disk.raw", machine->folder);
    MEMORY_OWNED char *partial = memory_format("%s.partial", path);
    unlink(partial);
    FD_OWNED int fd = open(partial, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, (off_t)size) < 0) {
        return error_os(err, errno, "making %s", path);
    }
    int r = volume_make_file_system(machine->folder, partial, NULL, err);
    if (r == 0 && fsync(fd) < 0) {
        r = error_os(err, errno, "making %s", path);
    }
    r = r < 0 ? r : put_in_place(machine, partial, path, err);
    if (r < 0) {
        unlink(partial);
    }
    return r;
}

/* Over the image's disk, which other machines share. */
static int make_overlay(const struct machine *machine, const json_t *config, struct error *err)
{
    MEMORY_OWNED char *path = memory_format("%s/disk.qcow2", machine->folder);
    MEMORY_OWNED char *partial = memory_format("%s.partial", path);
    MEMORY_OWNED char *base =
        image_path(machine->service->options.images, json_text(config, "disk"));
    unlink(partial);
    int r = template_make_overlay(partial, base, json_text(config, "disk_format"),
                                  json_u64(config, "disk_bytes"), err);
    r = r < 0 ? r : put_in_place(machine, partial, path, err);
    if (r < 0) {
        unlink(partial);
    }
    return r;
}

/* UEFI writes in its variables what it is to boot. */
static int make_firmware(const struct machine *machine, struct error *err)
{
    char code[PATH_MAX];
    char variables[PATH_MAX];
    BUFFER_OWNED struct buffer bytes = {0};
    MEMORY_OWNED char *path = memory_format("%s/" CONTENT_FIRMWARE, machine->folder);
    if (file_exists(path)) {
        return 0;
    }
    int r = hypervisor_find_firmware(code, variables, err);
    r = r < 0 ? r : file_read(variables, FIRMWARE_BYTES_MAX, &bytes, err);
    r = r < 0 ? r : file_write(path, bytes.data, bytes.used, 0600, err);
    return r < 0 ? r : disk_give(machine, path, err);
}

struct work {
    struct machine *machine;
    json_t *config; /* a copy: settings may be read anew meanwhile */
    struct error error;
};

/* A clone's folder was made before its row. */
static int take_prepared(const struct machine *machine, struct error *err)
{
    MEMORY_OWNED char *prepared = memory_format("%s/new/%s", machine->service->folder, machine->id);
    MEMORY_OWNED char *snapshots = memory_format("%s.snapshots", prepared);
    MEMORY_OWNED char *place = snapshot_folder_all(machine->service, machine->id);
    MEMORY_OWNED char *arrived = arrival_folder(machine->service, machine->id);
    if (file_exists(arrived)) { /* from another node */
        free(snapshots);
        snapshots = memory_format("%s.snapshots", arrived);
    }
    if (file_exists(snapshots)) { /* of an imported one */
        MEMORY_OWNED char *above = memory_format("%s/snapshots", machine->service->folder);
        if (file_make_folder(above, 0711, err) < 0) {
            return -(int)err->kind;
        }
        if (rename(snapshots, place) < 0) {
            return error_os(err, errno, "moving %s to its place", snapshots);
        }
    }
    if (file_exists(arrived) && rename(arrived, machine->folder) < 0) {
        return error_os(err, errno, "moving %s to its place", arrived);
    }
    arrival_adopt(machine->service, machine->id);
    return !file_exists(prepared) || rename(prepared, machine->folder) == 0
        ? 0
        : error_os(err, errno, "moving %s to its place", prepared);
}

static bool has_disk(const struct machine *machine)
{
    MEMORY_OWNED char *overlay = memory_format("%s/disk.qcow2", machine->folder);
    MEMORY_OWNED char *raw = memory_format("%s/disk.raw", machine->folder);
    return file_exists(overlay) || file_exists(raw);
}

static int make_own(const struct machine *machine, const json_t *config, bool is_whole,
                    struct error *err)
{
    if (json_text(config, "origin")[0] != '\0') {
        return error_set(err, ERROR_CORRUPT,
                         "its disk is lost: it was made of another machine's, and is not there");
    }
    if (file_check_room(machine->folder, err) < 0) {
        return -(int)err->kind;
    }
    return is_whole ? make_overlay(machine, config, err)
                    : make_disk(machine, json_u64(config, "disk_bytes"), err);
}

static void prepare(void *context)
{
    struct work *work = context;
    const struct machine *machine = work->machine;
    const json_t *config = work->config;
    int r = take_prepared(machine, &work->error);
    r = r < 0 ? r : file_make_folder(machine->folder, 0711, &work->error);
    bool is_whole = json_text(config, "disk")[0] != '\0';
    bool is_uefi = is_whole && strcmp(json_text(config, "firmware"), "uefi") == 0;
    if (r == 0 && runner_is(config)) {
        runner_prepare(machine, &work->error);
        return;
    }
    if (r == 0 && !has_disk(machine)) {
        r = make_own(machine, config, is_whole, &work->error);
    }
    if (r == 0 && is_uefi) {
        make_firmware(machine, &work->error);
    }
}

static void on_prepared(void *context)
{
    struct work *work = context;
    struct machine *machine = work->machine;
    struct error error = work->error;
    json_decref(work->config);
    free(work);
    machine->is_busy = false;
    if (machine->is_gone) {
        machine_unref(machine);
    } else if (error.kind != ERROR_NONE) {
        machine_fail(machine, "", &error);
    } else {
        machine_set_state(machine, MACHINE_STOPPED, "%s", "");
    }
    if (!machine->is_gone) {
        machine_step(machine);
    }
}

/* ---- Blobs ---- */

static void fetch_next(struct machine *machine);

static void on_fetched(const struct error *error, void *context)
{
    struct machine *machine = context;
    machine->fetch = NULL;
    machine->is_busy = false;
    if (error != NULL && machine->damage != NULL) {
        machine_set_state(machine, MACHINE_FAILED, "%s", machine->damage);
        machine_step(machine);
        return;
    }
    if (error != NULL && error->kind == ERROR_UNAVAILABLE) { /* who may have it does not answer */
        machine_run_prepare_later(machine, "image", error->text);
        return;
    }
    if (error != NULL) {
        machine_fail(machine, "its image is not here: ", error);
        machine_step(machine);
        return;
    }
    machine->tries = 0;
    machine->fetched++;
    fetch_next(machine);
}

static void begin_work(struct machine *machine)
{
    struct work *work = NEW(struct work);
    machine->is_busy = true;
    work->machine = machine;
    work->config = json_deep_copy(machine->config);
    loop_work(machine->service->options.loop, prepare, on_prepared, work);
}

static void on_runner(const struct error *error, void *context)
{
    struct machine *machine = context;
    machine->runner_fetch = NULL;
    machine->is_busy = false;
    if (error != NULL && error->kind == ERROR_UNAVAILABLE && machine->tries < TRIES_MAX) {
        machine_run_prepare_later(machine, "runner", error->text);
        return;
    }
    machine->tries = 0;
    if (error != NULL) {
        machine_fail(machine, "its runner is not here: ", error);
        machine_step(machine);
        return;
    }
    begin_work(machine);
}

static void fetch_next(struct machine *machine)
{
    const struct machine_options *options = &machine->service->options;
    machine->is_busy = true;
    for (; machine->fetched < REPLICA_PARTS; machine->fetched++) {
        const char *id = json_text(machine->config, replica_parts[machine->fetched]);
        if (id[0] != '\0' && !image_exists(options->images, id)) {
            const struct peer_wanted wanted = {
                .id = id, .bytes_max = json_u64(machine->config, "image_bytes")};
            machine->fetch = peer_fetch_new(options->blobs, &wanted, on_fetched, machine);
            return;
        }
    }
    free(machine->damage); /* all of it is here */
    machine->damage = NULL;
    if (!runner_fetch(machine, on_runner)) {
        begin_work(machine);
    }
}

/* ---- Damage ---- */

int disk_verify_image(const struct machine_service *service, const json_t *config,
                      struct error *err)
{
    const char *image = json_text(config, "image");
    for (size_t i = 0; i < REPLICA_PARTS; i++) {
        const char *id = json_text(config, replica_parts[i]);
        if (id[0] != '\0' && image_verify(service->options.images, id, err) < 0) {
            return error_wrap(err, "image %.64s (its %s)", image, replica_parts[i]);
        }
    }
    return 0;
}

void disk_replace_image(struct machine *machine, const struct error *error)
{
    log_error("machine %s: %s; another node is asked for it", machine->key, error->text);
    free(machine->damage);
    machine->damage = memory_format("%.210s, and no other node has it: get the image anew "
                                    "(blixard image import or pull), then start the machine",
                                    error->text);
    machine->state = MACHINE_CREATING; /* preparing fetches it, and leaves what is there */
}

/* ---- Preparing ---- */

void disk_prepare(struct machine *machine)
{
    machine->fetched = 0;
    machine_set_state(machine, MACHINE_PREPARING, "%s", "");
    fetch_next(machine);
}

/* ---- The initrd ---- */

int disk_read_agent(const struct machine_service *service, struct buffer *out, struct error *err)
{
    return service->agent != NULL
        ? file_read(service->agent, AGENT_BYTES_MAX, out, err)
        : error_set(err, ERROR_UNSUPPORTED,
                    "there is no blixard-agent beside blixard, in ../libexec/blixard or in PATH");
}

int disk_write_initrd(const struct machine *machine, const char *modules,
                      const struct buffer *program, struct error *err)
{
    const struct machine_service *service = machine->service;
    BUFFER_OWNED struct buffer agent = {0};
    BUFFER_OWNED struct buffer initrd = {0};
    MEMORY_OWNED char *path = memory_format("%s/initrd", machine->folder);
    int r = disk_read_agent(service, &agent, err);
    r = r < 0 ? r : initrd_add_agent(&initrd, agent.data, agent.used, err);
    if (r == 0 && program->used > 0) {
        r = initrd_add_entrypoint(&initrd, program->data, program->used, err);
    }
    if (r == 0 && modules[0] != '\0') {
        r = image_read(service->options.images, modules, INITRD_BYTES_MAX, &initrd, err);
    }
    r = r < 0 ? r : file_write(path, initrd.data, initrd.used, 0644, err);
    return r < 0 || chmod(path, 0644) == 0 ? r : error_os(err, errno, "%s", path);
}

/* ---- Removing ---- */

static void remove_all(void *context)
{
    struct work *work = context;
    const struct machine *machine = work->machine;
    MEMORY_OWNED char *snapshots = snapshot_folder_all(machine->service, machine->id);
    MEMORY_OWNED char *prepared = memory_format("%s/new/%s", machine->service->folder, machine->id);
    MEMORY_OWNED char *arrived = arrival_folder(machine->service, machine->id);
    MEMORY_OWNED char *arrived_snapshots = memory_format("%s.snapshots", arrived);
    arrival_adopt(machine->service, machine->id); /* its volumes stay */
    if (file_remove_tree(snapshots, &work->error) == 0 &&
        file_remove_tree(arrived, &work->error) == 0 &&
        file_remove_tree(arrived_snapshots, &work->error) == 0 &&
        file_remove_tree(prepared, &work->error) == 0) {
        file_remove_tree(machine->folder, &work->error);
    }
}

static void on_row_removed(const struct error *error, uint64_t index, void *context)
{
    struct machine *machine = context;
    struct machine_service *service = machine->service;
    (void)index;
    service->pending--;
    machine->is_busy = false;
    if (error != NULL && error->kind == ERROR_CONFLICT) { /* somebody else has ended it */
        machine->operation[0] = '\0';
    }
    if (error != NULL && !machine->is_gone) { /* a leader is to come */
        machine_run_remove_later(machine, error->text);
    }
    machine_unref(machine);
}

static void on_removed(void *context)
{
    struct work *work = context;
    struct machine *machine = work->machine;
    struct machine_service *service = machine->service;
    struct error error = work->error;
    free(work);
    if (error.kind != ERROR_NONE) {
        machine->is_busy = false;
        machine_set_state(machine, MACHINE_FAILED, "it could not be deleted: %.300s", error.text);
        error_wrap(&error, "machine %s could not be deleted", machine->name);
        machine_fail_operation(machine, &error);
        machine_unref(machine);
        return;
    }
    runner_let_go(machine);
    struct store_command *command = store_command_new();
    store_command_add(command, "DELETE FROM machine WHERE key = ? AND id = ?", "tt", machine->key,
                      machine->id);
    events_add_of(machine, command, "vm.deleted", "");
    snapshot_add_forget(service, command, machine->id);
    machine_volumes_add_release(machine, command);
    if (machine->operation[0] != '\0') {
        operation_add_success(service->options.operations, command, machine->operation, NULL);
    }
    service->pending++;
    store_propose(service->options.store, command, on_row_removed, machine);
}

void disk_remove(struct machine *machine)
{
    struct work *work = NEW(struct work);
    work->machine = machine;
    machine_set_state(machine, MACHINE_DELETING, "%s", "");
    machine->is_busy = true;
    loop_work(machine->service->options.loop, remove_all, on_removed, work);
}
