/*
 * A machine that arrives from another node while it runs there: its VMM and its streams.
 *
 * What does not change comes as an archive first (arrive_ready.c, arrive_files.c).  Its VMM waits
 * in FOLDER/arriving/ID with empty volumes for those that it writes in, and gets disks and memory
 * through sockets whose other ends are taken as streams.  Until all has come, the end of the
 * streams is the end of it.  From then on only the row says what becomes of it: it is this node's
 * (visit_adopt()), or its owner says to forget it; this node may end and start meanwhile, the VMM
 * goes on waiting.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/file.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/stream/stream.h"

#include "service/machine/migrate.h"
#include "service/machine/snapshot.h"
#include "service/machine/visit.h"
#include "service/peer/peer.h"

enum { TAKE_MS = 60000 };

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
    for (size_t i = 0; i < VISIT_STREAMS; i++) {
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

void visit_close(struct machine_visit *visit)
{
    close_all(visit);
}

void visit_end(struct machine_visit *visit, const struct error *error)
{
    if (visit->is_over) {
        return;
    }
    visit->is_over = true;
    visit->error = *error;
    if (!visit->is_kept) {
        log_warn("machine %s does not come here: %s", visit->machine.key, error->text);
    }
    if (visit->timer != NULL) {
        loop_timer_stop(visit->timer);
    }
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
    visit_end(visit, &error);
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
        visit_end(visit, &none);
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
        visit_end(visit, &gone);
    }
}

/* "disk", "disk1" and so on, "state", "news"; VISIT_STREAMS: none of these. */
static size_t stream_of(const char *name)
{
    size_t number = 0;
    int length = 0;
    if (strcmp(name, "disk") == 0) {
        return 0;
    }
    if (strcmp(name, "state") == 0) {
        return VISIT_STATE;
    }
    if (strcmp(name, "news") == 0) {
        return VISIT_NEWS;
    }
    return sscanf(name, "disk%2zu%n", &number, &length) == 1 && name[length] == '\0' &&
            number > 0 && number < VISIT_DISKS
        ? number
        : VISIT_STREAMS;
}

int machine_visit_stream(struct machine_service *service, const char *project, const char *name,
                         uint64_t from, const char *stream, int *ret_fd, struct error *err)
{
    size_t which = stream_of(stream);
    LIST_EACH(node, &service->visits)
    {
        struct machine_visit *visit = LIST_ITEM(node, struct machine_visit, link);
        if (which < VISIT_STREAMS && !visit->is_over && visit->from == from &&
            visit->ends[which] >= 0 && strcmp(visit->machine.project, project) == 0 &&
            strcmp(visit->machine.name, name) == 0) {
            *ret_fd = fd_take(&visit->ends[which]);
            if (which == VISIT_NEWS) {
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
    visit_end(visit, &error);
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
        visit_end(visit, error);
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
    visit->ends[VISIT_NEWS] = news[1];
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
    visit->ends[VISIT_STATE] = state[1];
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
        visit_end(visit, &err);
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
        visit_end(visit, error);
    } else if (make_news(visit, &err) < 0) {
        visit_end(visit, &err);
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
        visit_end(visit, &err);
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
        visit_end(visit, error);
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
        visit_end(visit, &err);
    } else {
        hypervisor_attach_volume(visit->vm, &open.volume, on_plugged, visit);
        volume_close(&open);
    }
}

static void on_started(void *context)
{
    struct machine_visit *visit = context;
    if (!visit->is_over && !visit->is_whole) {
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
    visit_end(visit, &error);
}

void visit_begin(struct machine_visit *visit)
{
    static const struct hypervisor_events events = {on_started, on_paused, on_reboot, on_vm_exit};
    change_recall(&visit->machine);
    visit->timer = loop_timer_new(visit->machine.service->options.loop, on_timer, visit);
    visit->vm = boot_await(&visit->machine, &events, visit, &visit->disks[0].disk, &visit->error);
}
