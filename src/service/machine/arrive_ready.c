/*
 * A machine that arrives from another node while it runs there: whether it is welcome, and what it
 * needs before its VMM is begun.
 *
 * The image's blobs and the archive of what does not change are fetched, then its disk is made and
 * its initrd written, in FOLDER/arriving/ID; empty volumes for those that it writes in; its
 * networks.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/hypervisor/template.h"
#include "engine/image/image.h"
#include "engine/store/store.h"

#include "service/machine/migrate.h"
#include "service/machine/visit.h"
#include "service/peer/peer.h"
#include "service/replica/replica.h"

/* ---- Getting ready ---- */

static int make_disk(const struct machine_visit *visit, struct error *err)
{
    const struct machine *machine = &visit->machine;
    const char *base = json_text(machine->config, "disk");
    MEMORY_OWNED char *path =
        memory_format("%s/%s", machine->folder, base[0] != '\0' ? "disk.qcow2" : "disk.raw");
    if (base[0] != '\0') {
        MEMORY_OWNED char *below = image_path(machine->service->options.images, base);
        int r = template_make_overlay(path, below, json_text(machine->config, "disk_format"),
                                      visit->disk_bytes, err);
        return r < 0 ? r : disk_give(machine, path, err);
    }
    FD_OWNED int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    return fd < 0 || ftruncate(fd, (off_t)visit->disk_bytes) < 0
        ? error_os(err, errno, "making %s", path)
        : disk_give(machine, path, err);
}

static int make_volumes(const struct machine_visit *visit, struct error *err)
{
    int r = 0;
    for (size_t i = 0; i < visit->volume_count && r == 0; i++) {
        r = visit->are_written[i] ? volume_visit_make(visit->volumes[i], err) : 0;
    }
    return r;
}

static void make(void *context)
{
    struct machine_visit *visit = context;
    const struct machine *machine = &visit->machine;
    struct error *err = &visit->error;
    bool has_kernel = json_text(machine->config, "disk")[0] == '\0';
    int r = disk_verify_image(machine->service, machine->config, err);
    r = r < 0 ? r : arrival_begin(&visit->files, true, err);
    r = r < 0 || visit->files.blob[0] == '\0' ? r : arrival_unpack(&visit->files, err);
    r = r < 0 ? r : arrival_place(&visit->files, err);
    if (visit->is_saved) {
        r = r < 0 ? r : arrival_rebase(&visit->files, machine->config, err);
    } else {
        r = r < 0 ? r : make_disk(visit, err);
        r = r < 0 ? r : make_volumes(visit, err);
    }
    if (r == 0 && has_kernel) {
        disk_write_initrd(machine, json_text(machine->config, "initrd"), &visit->program, err);
    }
}

static void on_network(const struct error *error_or_null, void *context)
{
    struct machine_visit *visit = context;
    visit->is_busy = false;
    if (visit->is_over) {
        visit_close(visit);
        return;
    }
    if (error_or_null != NULL) {
        visit->error = *error_or_null;
    }
    if (visit->error.kind == ERROR_NONE) {
        visit_begin(visit);
    }
    if (visit->error.kind != ERROR_NONE) {
        const struct error error = visit->error;
        visit_end(visit, &error);
    }
}

/* A part of its image was damaged here and is put aside: nothing else was done yet. */
static bool lacks_image(const struct machine_visit *visit)
{
    bool lacks = false;
    for (size_t i = 0; i < REPLICA_PARTS; i++) {
        const char *id = json_text(visit->machine.config, replica_parts[i]);
        lacks =
            lacks || (id[0] != '\0' && !image_exists(visit->machine.service->options.images, id));
    }
    return lacks;
}

static void fetch_next(struct machine_visit *visit);

static void on_made(void *context)
{
    struct machine_visit *visit = context;
    struct network_service *networks = visit->machine.service->options.networks;
    if (visit->error.kind == ERROR_CORRUPT && !visit->is_over && visit->healed < REPLICA_PARTS &&
        lacks_image(visit)) {
        log_warn("machine %s: %s; it is fetched anew", visit->machine.key, visit->error.text);
        visit->error = (struct error){0};
        visit->is_busy = false;
        visit->healed++;
        visit->fetched = 0;
        fetch_next(visit);
        return;
    }
    if (visit->is_over || visit->error.kind != ERROR_NONE ||
        network_expect(networks, visit->machine.id, true, &visit->error) < 0) {
        on_network(NULL, visit);
    } else {
        network_settle(networks, visit->machine.id, on_network, visit);
    }
}

static void on_fetched(const struct error *error, void *context)
{
    struct machine_visit *visit = context;
    visit->fetch = NULL;
    if (error != NULL) {
        visit_end(visit, error);
        return;
    }
    visit->fetched++;
    fetch_next(visit);
}

static void fetch_next(struct machine_visit *visit)
{
    const struct machine_options *options = &visit->machine.service->options;
    for (; visit->fetched <= REPLICA_PARTS; visit->fetched++) {
        const char *id = visit->fetched < REPLICA_PARTS
            ? json_text(visit->machine.config, replica_parts[visit->fetched])
            : visit->files.blob;
        if (id[0] != '\0' && !image_exists(options->images, id)) {
            if (visit->fetched ==
                REPLICA_PARTS) { /* which is to go, whatever becomes of this daemon */
                free(migration_mark(visit->machine.service, id));
            }
            bool is_image = visit->fetched < REPLICA_PARTS;
            const struct peer_wanted wanted = {.id = id,
                                               .bytes_max = is_image
                                                   ? json_u64(visit->machine.config, "image_bytes")
                                                   : visit->files.blob_bytes,
                                               .first = &visit->from,
                                               .first_count = 1};
            visit->fetch = peer_fetch_new(options->blobs, &wanted, on_fetched, visit);
            return;
        }
    }
    visit->is_busy = true;
    loop_work(options->loop, make, on_made, visit);
}

/* ---- Is it welcome? ---- */

static bool take_machine(sqlite3_stmt *row, void *context)
{
    struct machine_visit *visit = context;
    struct error ignored = {0};
    const char *config = (const char *)sqlite3_column_text(row, 2);
    if (strcmp((const char *)sqlite3_column_text(row, 0), visit->machine.id) == 0) {
        visit->node = memory_copy_string((const char *)sqlite3_column_text(row, 1));
        json_read(config, strlen(config), &visit->machine.config, &ignored);
    }
    return false;
}

int arrival_check_vmm(const struct machine_service *service, const json_t *config, const char *vmm,
                      struct error *err)
{
    const struct hypervisor_driver_info *driver =
        hypervisor_driver_info(service->options.hypervisor, json_text(config, "driver"));
    MEMORY_OWNED char *mine = driver != NULL
        ? memory_format("%s %s %s", driver->name, driver->version, driver->accelerator)
        : memory_copy_string("nothing of the kind");
    return strcmp(mine, vmm) == 0
        ? 0
        : error_set(err, ERROR_UNSUPPORTED,
                    "it is run by %.100s, and node %s has %.100s: --cold stops it, moves it, and "
                    "starts it",
                    vmm, service->node_name, mine);
}

/* Those that the other node speaks of, in that order; and its own disk before them. */
static int find_volumes(struct machine_visit *visit, const json_t *wanted, struct error *err)
{
    const struct machine *machine = &visit->machine;
    struct volume_service *service = machine->service->options.volumes;
    struct volume_attachment volumes[HYPERVISOR_VOLUMES_MAX];
    size_t count = volume_of_machine(service, machine->project, machine->name, volumes);
    visit->disks[0].is_layer = json_text(machine->config, "disk")[0] != '\0';
    visit->disk_count = 1;
    for (size_t i = 0; i < count; i++) {
        int r =
            volume_visit_new(service, machine->project, volumes[i].use.name, visit->files.layers,
                             visit->files.layer_count, &visit->volumes[visit->volume_count], err);
        if (r < 0) {
            return r;
        }
        visit->are_written[visit->volume_count++] = !volumes[i].use.is_read_only;
        if (!volumes[i].use.is_read_only) {
            struct hypervisor_moving *disk = &visit->disks[visit->disk_count++];
            snprintf(disk->volume, sizeof(disk->volume), "%s", volumes[i].id);
        }
    }
    bool is_same = visit->is_saved || json_array_size(wanted) == visit->disk_count - 1;
    for (size_t i = 1; i < visit->disk_count && is_same && !visit->is_saved; i++) {
        const char *id = json_string_value(json_array_get(wanted, i - 1));
        is_same = id != NULL && strcmp(id, visit->disks[i].volume) == 0;
    }
    return is_same ? 0
                   : error_set(err, ERROR_UNAVAILABLE,
                               "node %s does not know all of its volumes yet: try again",
                               machine->service->node_name);
}

static int check(struct machine_visit *visit, struct error *err)
{
    struct machine_service *service = visit->machine.service;
    MEMORY_OWNED char *folder = memory_format("%s/%s", service->folder, visit->machine.id);
    int r =
        store_query(service->options.store, err, take_machine, visit,
                    "SELECT id, node, config FROM machine WHERE key = ?", "t", visit->machine.key);
    if (r < 0) {
        return r;
    }
    if (visit->machine.config == NULL) {
        return error_set(err, ERROR_UNAVAILABLE, "node %s does not know the machine yet",
                         service->node_name);
    }
    if (strcmp(visit->node, service->node_name) == 0) {
        return error_set(err, ERROR_CONFLICT, "the machine is on node %s already",
                         service->node_name);
    }
    MEMORY_OWNED char *leaving = memory_format("%s/" MIGRATION_MARK, folder);
    if (file_exists(leaving)) {
        return error_set(err, ERROR_UNAVAILABLE,
                         "node %s is still removing what it had of the machine: try again",
                         service->node_name);
    }
    if (file_exists(folder)) {
        return error_set(err, ERROR_EXISTS,
                         "node %s still has %s of an earlier stay of the machine: remove it there",
                         service->node_name, folder);
    }
    LIST_EACH(node, &service->visits)
    {
        if (strcmp(LIST_ITEM(node, struct machine_visit, link)->machine.id, visit->machine.id) ==
            0) {
            return error_set(err, ERROR_CONFLICT,
                             "an earlier migration of the machine is still being ended on node %s",
                             service->node_name);
        }
    }
    r = arrival_check_vmm(service, visit->machine.config, visit->vmm, err);
    r = r < 0 ? r : request_check_fit(service, visit->machine.config, err);
    r = r < 0 ? r : limits_check_pages(service, visit->machine.config, err);
    return r < 0 ? r : arrival_check_room(&visit->files, err);
}

static void begin(void *context)
{
    struct machine_visit *visit = context;
    if (visit->error.kind != ERROR_NONE) {
        visit->is_kept = true; /* nothing was touched */
        visit->files.blob[0] = '\0';
        const struct error error = visit->error;
        log_warn("machine %s does not come here: %s", visit->machine.key, error.text);
        visit_end(visit, &error);
    } else if (!visit->is_over) {
        fetch_next(visit);
    }
}

struct machine_visit *machine_visit(struct machine_service *service, const char *project,
                                    const char *name, uint64_t from, const json_t *body,
                                    machine_done *done, void *context)
{
    enum { DISK_BYTES_MAX_BITS = 46 };
    struct machine_visit *visit = NEW(struct machine_visit);
    const char *id = json_text(body, "id");
    bool is_id =
        strlen(id) == MACHINE_ID_SIZE - 1 && strspn(id, "0123456789abcdef") == MACHINE_ID_SIZE - 1;
    visit->machine.service = service;
    visit->machine.key = memory_format("%s/%s", project, name);
    visit->machine.project = memory_copy_string(project);
    visit->machine.name = memory_copy_string(name);
    snprintf(visit->machine.id, sizeof(visit->machine.id), "%s", is_id ? id : "");
    visit->machine.folder = arrival_folder(service, visit->machine.id);
    visit->from = from;
    visit->vmm = memory_copy_string(json_text(body, "vmm"));
    visit->disk_bytes = json_u64(body, "disk_bytes");
    visit->is_saved = json_is_true(json_object_get(body, "is_saved"));
    for (size_t i = 0; i < VISIT_STREAMS; i++) {
        visit->ends[i] = -1;
    }
    visit->done = done;
    visit->context = context;
    int r = arrival_files_init(&visit->files, service, visit->machine.key, visit->machine.id, body,
                               &visit->error);
    if (!is_id || visit->disk_bytes >> DISK_BYTES_MAX_BITS != 0) {
        error_set(&visit->error, ERROR_INVALID, "an id has 16 hex digits, a disk less than 64 TiB");
    } else if (r == 0 && check(visit, &visit->error) == 0 &&
               find_volumes(visit, json_object_get(body, "volumes"), &visit->error) == 0) {
        program_encode(visit->machine.config, &visit->program, &visit->error);
    }
    list_push_back(&service->visits, &visit->link);
    service->pending++;
    loop_post(service->options.loop, begin, visit);
    return visit;
}
