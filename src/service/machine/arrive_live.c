/*
 * A machine that arrives from another node while it runs there.
 *
 * What does not change comes as an archive first (arrive_files.c).  Its VMM waits in
 * FOLDER/arriving/ID, where the disk is made and initrd written, with empty volumes for those that
 * it writes in, and gets disks and memory through sockets whose other ends are taken as streams.
 * Until all has come, the end of the streams is the end of it.  From then on only the row says what
 * becomes of it: it is this node's (visit_adopt()), or its owner says to forget it; this node may
 * end and start meanwhile, the VMM goes on waiting.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <uv.h>

#include "base/buffer.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/stream/stream.h"

#include "engine/hypervisor/template.h"
#include "engine/image/image.h"
#include "engine/store/store.h"

#include "service/machine/arrive.h"
#include "service/machine/migrate.h"
#include "service/machine/snapshot.h"
#include "service/peer/peer.h"

enum {
    DISKS = HYPERVISOR_MOVING_MAX,
    STATE = DISKS, /* places of streams */
    NEWS,
    STREAMS,
    TAKE_MS = 60000
};

static const char *const blobs[] = {"kernel", "initrd", "root", "disk"};
enum { BLOBS = sizeof(blobs) / sizeof(blobs[0]) };

struct machine_visit {
    struct list_node link;
    struct machine machine; /* what it is to be; in no list */
    uint64_t from;
    char *node; /* that has it */
    char *vmm;
    uint64_t disk_bytes;
    bool is_saved; /* it comes as a state, in the archive */
    struct arrival_files files;
    size_t fetched; /* of the blobs; then the archive */
    size_t healed;  /* how often one of them was damaged here */
    struct peer_fetch *fetch;
    struct buffer program;
    struct hypervisor_vm *vm;
    struct hypervisor_moving disks[DISKS];
    size_t disk_count;
    struct volume_visit *volumes[HYPERVISOR_VOLUMES_MAX]; /* all that it has */
    bool are_written[HYPERVISOR_VOLUMES_MAX];
    size_t volume_count;
    size_t plugged;
    int ends[STREAMS]; /* to be taken */
    struct stream *news;
    struct loop_timer *timer;
    struct error error;
    bool is_busy; /* a thread has it */
    bool is_whole;
    bool is_over;
    bool is_kept; /* its VMM and files stay */
    machine_done *done;
    void *context;
};

/* ---- The end ---- */

static void clean_up(void *context)
{
    struct machine_visit *visit = context;
    struct error ignored = {0};
    file_remove_tree(visit->files.unpacked, &ignored);
    if (!visit->is_kept) {
        arrival_remove(visit->machine.service, visit->machine.id);
    }
    if (visit->files.blob != NULL && visit->files.blob[0] != '\0') {
        migration_remove_archive(visit->machine.service, visit->files.blob);
    }
}

static void expect_no_more(const struct machine *machine)
{
    struct error ignored = {0};
    network_expect(machine->service->options.networks, machine->id, false, &ignored);
}

static void on_cleaned_up(void *context)
{
    struct machine_visit *visit = context;
    struct machine_service *service = visit->machine.service;
    if (!visit->is_kept) {
        expect_no_more(&visit->machine);
    }
    list_remove(&visit->link);
    service->pending--;
    if (visit->done != NULL) {
        visit->done(&visit->error, 0, visit->context);
    }
    for (size_t i = 0; i < STREAMS; i++) {
        fd_close_slot(&visit->ends[i]);
    }
    loop_timer_free(visit->timer);
    buffer_done(&visit->program);
    for (size_t i = 0; i < visit->volume_count; i++) {
        volume_visit_free(visit->volumes[i]);
    }
    arrival_files_done(&visit->files);
    json_decref(visit->machine.config);
    json_decref(visit->machine.booted);
    free(visit->machine.key);
    free(visit->machine.project);
    free(visit->machine.name);
    free(visit->machine.folder);
    free(visit->node);
    free(visit->vmm);
    free(visit);
}

static void close_all(void *context)
{
    struct machine_visit *visit = context;
    hypervisor_free(visit->vm);
    visit->vm = NULL;
    stream_close(visit->news);
    visit->news = NULL;
    loop_work(visit->machine.service->options.loop, clean_up, on_cleaned_up, visit);
}

static void end(struct machine_visit *visit, const struct error *error)
{
    if (visit->is_over) {
        return;
    }
    visit->is_over = true;
    visit->error = *error;
    if (!visit->is_kept) {
        log_warn("machine %s does not come here: %s", visit->machine.key, error->text);
    }
    loop_timer_stop(visit->timer);
    peer_fetch_free(visit->fetch);
    visit->fetch = NULL;
    if (!visit->is_busy) {
        loop_post(visit->machine.service->options.loop, close_all, visit);
    }
}

void machine_visit_cancel(struct machine_visit *visit)
{
    struct error error = {0};
    error_set(&error, ERROR_CANCELLED, "the migration was given up");
    end(visit, &error);
}

static struct machine_visit *find(const struct machine_service *service, const char *id)
{
    LIST_EACH(node, &service->visits)
    {
        struct machine_visit *visit = LIST_ITEM(node, struct machine_visit, link);
        if (!visit->is_over && strcmp(visit->machine.id, id) == 0) {
            return visit;
        }
    }
    return NULL;
}

bool visit_forget(struct machine_service *service, const char *id)
{
    struct machine_visit *visit = find(service, id);
    if (visit != NULL && !visit->is_kept) {
        machine_visit_cancel(visit);
    }
    return visit != NULL;
}

void visits_abandon(struct machine_service *service)
{
    LIST_EACH(node, &service->visits)
    {
        struct machine_visit *visit = LIST_ITEM(node, struct machine_visit, link);
        visit->is_kept = visit->is_kept || visit->is_whole;
        machine_visit_cancel(visit);
    }
}

/* ---- It is this node's ---- */

void visit_adopt(struct machine *machine)
{
    struct machine_visit *visit = find(machine->service, machine->id);
    MEMORY_OWNED char *arrived = arrival_folder(machine->service, machine->id);
    MEMORY_OWNED char *snapshots = memory_format("%s.snapshots", arrived);
    MEMORY_OWNED char *place = snapshot_folder_all(machine->service, machine->id);
    MEMORY_OWNED char *above = memory_format("%s/snapshots", machine->service->folder);
    struct error ignored = {0};
    if (file_exists(snapshots) &&
        (file_make_folder(above, 0711, &ignored) < 0 || rename(snapshots, place) < 0)) {
        log_error("machine %s: moving %s to its place: %s", machine->key, snapshots,
                  strerror(errno));
    }
    if (file_exists(arrived) && rename(arrived, machine->folder) < 0) {
        log_error("machine %s: moving %s to its place: %s", machine->key, arrived, strerror(errno));
    }
    arrival_adopt(machine->service, machine->id);
    expect_no_more(machine);
    if (visit != NULL) { /* its control is for the machine now */
        visit->is_kept = true;
        hypervisor_free(visit->vm);
        visit->vm = NULL;
    }
}

static void say(struct machine_visit *visit, char word)
{
    if (visit->news != NULL) {
        stream_write(visit->news, &word, 1);
    }
}

void visit_resumed(const struct machine *machine)
{
    struct machine_visit *visit = find(machine->service, machine->id);
    struct error none = {0};
    if (visit != NULL && visit->is_kept) {
        say(visit, '2');
        end(visit, &none);
    }
}

/* ---- The streams ---- */

static void on_news_data(const void *bytes, size_t length, void *context)
{
    (void)bytes;
    (void)length;
    (void)context;
}

static void on_news_end(const struct error *error, void *context)
{
    struct machine_visit *visit = context;
    struct error gone = {0};
    (void)error;
    if (!visit->is_whole) {
        error_set(&gone, ERROR_UNAVAILABLE, "node %s is gone, or has given up", visit->node);
        end(visit, &gone);
    }
}

/* "disk", "disk1" and so on, "state", "news"; STREAMS: none of these. */
static size_t stream_of(const char *name)
{
    size_t number = 0;
    int length = 0;
    if (strcmp(name, "disk") == 0) {
        return 0;
    }
    if (strcmp(name, "state") == 0) {
        return STATE;
    }
    if (strcmp(name, "news") == 0) {
        return NEWS;
    }
    return sscanf(name, "disk%2zu%n", &number, &length) == 1 && name[length] == '\0' &&
            number > 0 && number < DISKS
        ? number
        : STREAMS;
}

int machine_visit_stream(struct machine_service *service, const char *project, const char *name,
                         uint64_t from, const char *stream, int *ret_fd, struct error *err)
{
    size_t which = stream_of(stream);
    LIST_EACH(node, &service->visits)
    {
        struct machine_visit *visit = LIST_ITEM(node, struct machine_visit, link);
        if (which < STREAMS && !visit->is_over && visit->from == from && visit->ends[which] >= 0 &&
            strcmp(visit->machine.project, project) == 0 &&
            strcmp(visit->machine.name, name) == 0) {
            *ret_fd = fd_take(&visit->ends[which]);
            if (which == NEWS) {
                loop_timer_stop(visit->timer);
            }
            return 0;
        }
    }
    return error_set(err, ERROR_NOT_FOUND, "nothing waits here for such a stream");
}

static void on_timer(void *context)
{
    struct machine_visit *visit = context;
    struct error error = {0};
    error_set(&error, ERROR_TIMEOUT, "node %s has not begun to send it", visit->node);
    end(visit, &error);
}

/* ---- The VMM ---- */

static void take_as_whole(struct machine_visit *visit)
{
    visit->is_whole = true;
    arrival_watch(visit->machine.service, visit->machine.id, visit->files.operation);
    say(visit, '1');
}

static void on_received(const struct error *error, void *context)
{
    struct machine_visit *visit = context;
    if (error != NULL) {
        end(visit, error);
        return;
    }
    take_as_whole(visit);
}

/* By way of the folder's descriptor: a socket's path is short. */
static int listen_in(const char *folder, size_t count, int *ret_listener, int *ret_peers,
                     struct error *err)
{
    FD_OWNED int place = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    FD_OWNED int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/disk.sock", place);
    const struct sockaddr *at = (const struct sockaddr *)&address;
    if (place < 0 || listener < 0 || bind(listener, at, sizeof(address)) < 0 ||
        listen(listener, (int)count) < 0) {
        return error_os(err, errno, "making a socket in %s", folder);
    }
    for (size_t i = 0; i < count; i++) { /* the visit closes those that are there */
        ret_peers[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (ret_peers[i] < 0 || connect(ret_peers[i], at, sizeof(address)) < 0) {
            return error_os(err, errno, "making a socket in %s", folder);
        }
    }
    unlink(address.sun_path);
    *ret_listener = fd_take(&listener);
    return 0;
}

static int make_news(struct machine_visit *visit, struct error *err)
{
    static const struct stream_events events = {on_news_data, NULL, on_news_end};
    int news[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, news) < 0) {
        return error_os(err, errno, "making a pair of sockets");
    }
    visit->ends[NEWS] = news[1];
    visit->news = stream_adopt(visit->machine.service->options.loop, news[0]);
    stream_start(visit->news, &events, visit);
    return 0;
}

static int make_ends(struct machine_visit *visit, int *ret_listener, int *ret_state,
                     struct error *err)
{
    int state[2];
    int r = listen_in(visit->machine.folder, visit->disk_count, ret_listener, visit->ends, err);
    if (r < 0) {
        return r;
    }
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, state) < 0) {
        close(*ret_listener);
        return error_os(err, errno, "making a pair of sockets");
    }
    *ret_state = state[0];
    visit->ends[STATE] = state[1];
    if (make_news(visit, err) < 0) {
        close(*ret_listener);
        close(*ret_state);
        return -(int)err->kind;
    }
    return 0;
}

static void on_waiting(void *context)
{
    struct machine_visit *visit = context;
    machine_done *done = visit->done;
    if (!visit->is_over && done != NULL) {
        loop_timer_start(visit->timer, TAKE_MS);
        visit->done = NULL;
        done(NULL, 0, visit->context);
    }
}

static void receive(struct machine_visit *visit)
{
    static const struct hypervisor_receiving_events events = {on_waiting, on_received};
    struct error err = {0};
    int listener = -1;
    int state = -1;
    if (make_ends(visit, &listener, &state, &err) < 0) {
        end(visit, &err);
        return;
    }
    hypervisor_receive(visit->vm, visit->disks, visit->disk_count, listener, state, &events, visit);
}

static void on_loaded(const struct error *error, void *context)
{
    struct machine_visit *visit = context;
    struct error err = {0};
    MEMORY_OWNED char *path = memory_format("%s/" MIGRATION_STATE, visit->machine.folder);
    if (visit->is_over) {
        return;
    }
    if (error != NULL) {
        end(visit, error);
    } else if (make_news(visit, &err) < 0) {
        end(visit, &err);
    } else {
        unlink(path);
        take_as_whole(visit);
        on_waiting(visit);
    }
}

static void load(struct machine_visit *visit)
{
    struct error err = {0};
    MEMORY_OWNED char *path = memory_format("%s/" MIGRATION_STATE, visit->machine.folder);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) {
        error_os(&err, errno, "opening %s", path);
        end(visit, &err);
    } else {
        hypervisor_load(visit->vm, fd, false, on_loaded, visit);
    }
}

static void plug_next(struct machine_visit *visit);

static void on_plugged(const struct error *error, void *context)
{
    struct machine_visit *visit = context;
    if (visit->is_over) {
        return;
    }
    if (error != NULL) {
        end(visit, error);
        return;
    }
    visit->plugged++;
    plug_next(visit);
}

/* Its devices are to be those of the other one before it is told what is in them. */
static void plug_next(struct machine_visit *visit)
{
    struct volume_open open;
    struct error err = {0};
    if (visit->plugged == visit->volume_count && visit->is_saved) {
        load(visit);
    } else if (visit->plugged == visit->volume_count) {
        receive(visit);
    } else if (volume_visit_open(visit->volumes[visit->plugged], &open, &err) < 0) {
        end(visit, &err);
    } else {
        hypervisor_attach_volume(visit->vm, &open.volume, on_plugged, visit);
        volume_close(&open);
    }
}

static void on_started(void *context)
{
    struct machine_visit *visit = context;
    if (!visit->is_over) {
        plug_next(visit);
    }
}

static void on_paused(bool is_paused, void *context)
{
    (void)is_paused;
    (void)context;
}

static void on_reboot(void *context)
{
    (void)context;
}

static void on_vm_exit(const struct hypervisor_exit *exit, void *context)
{
    struct machine_visit *visit = context;
    struct error error = {0};
    error_set(&error, ERROR_UNAVAILABLE, "%.300s", exit->text);
    end(visit, &error);
}

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

/* What a whole disk is laid over is somewhere else here. */
static int rebase(const struct machine_visit *visit, struct error *err)
{
    const struct machine *machine = &visit->machine;
    MEMORY_OWNED char *disk = memory_format("%s/disk.qcow2", machine->folder);
    MEMORY_OWNED char *base =
        image_path(machine->service->options.images, json_text(machine->config, "disk"));
    return template_rebase(disk, base, err);
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
        r = r < 0 || has_kernel ? r : rebase(visit, err);
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
    static const struct hypervisor_events events = {on_started, on_paused, on_reboot, on_vm_exit};
    struct machine_visit *visit = context;
    visit->is_busy = false;
    if (visit->is_over) {
        close_all(visit);
        return;
    }
    if (error_or_null != NULL) {
        visit->error = *error_or_null;
    }
    if (visit->error.kind == ERROR_NONE) {
        change_recall(&visit->machine);
        visit->vm =
            boot_await(&visit->machine, &events, visit, &visit->disks[0].disk, &visit->error);
    }
    if (visit->error.kind != ERROR_NONE) {
        const struct error error = visit->error;
        end(visit, &error);
    }
}

/* A part of its image was damaged here and is put aside: nothing else was done yet. */
static bool lacks_image(const struct machine_visit *visit)
{
    bool lacks = false;
    for (size_t i = 0; i < BLOBS; i++) {
        const char *id = json_text(visit->machine.config, blobs[i]);
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
    if (visit->error.kind == ERROR_CORRUPT && !visit->is_over && visit->healed < BLOBS &&
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
        end(visit, error);
        return;
    }
    visit->fetched++;
    fetch_next(visit);
}

static void fetch_next(struct machine_visit *visit)
{
    const struct machine_options *options = &visit->machine.service->options;
    for (; visit->fetched <= BLOBS; visit->fetched++) {
        const char *id = visit->fetched < BLOBS
            ? json_text(visit->machine.config, blobs[visit->fetched])
            : visit->files.blob;
        if (id[0] != '\0' && !image_exists(options->images, id)) {
            if (visit->fetched == BLOBS) { /* which is to go, whatever becomes of this daemon */
                free(migration_mark(visit->machine.service, id));
            }
            visit->fetch = peer_fetch_new(options->blobs, id, &visit->from, 1, on_fetched, visit);
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

static int check_vmm(const struct machine_visit *visit, struct error *err)
{
    const struct machine_service *service = visit->machine.service;
    const struct hypervisor_driver_info *driver = hypervisor_driver_info(
        service->options.hypervisor, json_text(visit->machine.config, "driver"));
    MEMORY_OWNED char *mine =
        memory_format("%s %s %s", driver->name, driver->version, driver->accelerator);
    return strcmp(mine, visit->vmm) == 0
        ? request_check_fit(service, visit->machine.config, err)
        : error_set(err, ERROR_UNSUPPORTED,
                    "it is run by %.100s, and node %s has %.100s: --cold stops it, moves it, and "
                    "starts it",
                    visit->vmm, service->node_name, mine);
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
    return check_vmm(visit, err);
}

static void begin(void *context)
{
    struct machine_visit *visit = context;
    if (visit->error.kind != ERROR_NONE) {
        visit->is_kept = true; /* nothing was touched */
        visit->files.blob[0] = '\0';
        const struct error error = visit->error;
        log_warn("machine %s does not come here: %s", visit->machine.key, error.text);
        end(visit, &error);
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
    for (size_t i = 0; i < STREAMS; i++) {
        visit->ends[i] = -1;
    }
    visit->timer = loop_timer_new(service->options.loop, on_timer, visit);
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
