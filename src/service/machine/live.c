/*
 * A running machine goes to another node.
 *
 *   packing    what nobody writes in any more: snapshots, layers below those of its volumes
 *   ready      the other node fetches that, and the image's blobs, and starts a VMM that waits
 *              (arrive_live.c)
 *   disk       streams to it: "disk" (for volumes "disk1" and so on) and "state" are QEMU's, "news"
 *              is what that node says
 *   memory     pre-copy, until what is left fits the downtime
 *   switching  it stands still, all of it is there: one command makes it the other node's
 *   removing   that node has said that it runs (or has not, in time): what is here goes
 *
 * As in cold.c the row decides.  The switch expects the reason that the row got at the
 * beginning, and that the operation runs here still: a node that was restarted, or that has lost
 * the answer, first writes another reason (migration_settle()), and only then lets it run on.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/stream/stream.h"

#include "engine/store/store.h"

#include "service/machine/content.h"
#include "service/machine/devices.h"
#include "service/machine/migrate.h"
#include "service/machine/volumes.h"
#include "service/peer/peer.h"
#include "service/volume/volume.h"

enum {
    STREAMS_MAX = HYPERVISOR_MOVING_MAX + 2, /* each disk's; state; news */
    RESUME_MS = 10000,
    SETTLE_EVERY_MS = 1000
};

struct live {
    struct migration *migration;
    struct hypervisor_moving disks[HYPERVISOR_MOVING_MAX];
    size_t disk_count;
    struct peer_stream *streams[STREAMS_MAX];
    size_t open; /* of the streams */
    int fds[STREAMS_MAX];
    struct stream *news;
    struct loop_timer *timer;
    uint64_t disk_bytes;
    uint64_t still_ms; /* since when it stands still; 0: it does not */
    bool is_saving;
    bool is_leaving; /* the VMM was told */
    bool has_left;   /* all is written */
    bool has_arrived;
    bool is_switched;
    bool runs_there;
    bool is_ending;
};

static const struct hypervisor_driver_info *driver_of(const struct machine *machine)
{
    return hypervisor_driver_info(machine->service->options.hypervisor,
                                  json_text(machine->config, "driver"));
}

/* ---- May it? ---- */

int live_check(const struct machine *machine, bool is_snapshot, struct error *err)
{
    const struct hypervisor_driver_info *driver = driver_of(machine);
    if (devices_refuse(machine->config, "moved while it runs (--cold moves it)", err) < 0) {
        return -(int)err->kind;
    }
    if (machine->state != MACHINE_RUNNING || machine->desired != MACHINE_DESIRED_RUNNING ||
        machine->vm == NULL) {
        return error_set(err, ERROR_CONFLICT, "machine %s is %s: %s moves one that runs",
                         machine->name, machine_state_text(machine->state),
                         is_snapshot ? "--snapshot" : "--live");
    }
    int r = shares_refuse(machine->config, "moved while it runs (--cold moves it)", err);
    r = r < 0 ? r : migration_check_busy(machine, err);
    bool can = driver != NULL && (is_snapshot ? driver->can_snapshot : driver->can_migrate);
    if (r == 0 && !can) {
        r = error_set(
            err, ERROR_UNSUPPORTED,
            "the driver %.40s does not move machines that run: --snapshot has it stand still "
            "meanwhile, --cold stops it, moves it, and starts it",
            driver != NULL ? driver->name : "");
    }
    return r;
}

json_t *live_vmm(const struct machine *machine)
{
    const struct hypervisor_driver_info *driver = driver_of(machine);
    return json_sprintf("%s %s %s", driver->name, driver->version, driver->accelerator);
}

/* ---- The end ---- */

static void close_streams(struct live *live)
{
    for (size_t i = 0; i < STREAMS_MAX; i++) {
        peer_stream_free(live->streams[i]);
        live->streams[i] = NULL;
        fd_close_slot(&live->fds[i]);
    }
    stream_close(live->news);
    live->news = NULL;
}

static void free_live(struct live *live)
{
    struct migration *migration = live->migration;
    close_streams(live);
    loop_timer_free(live->timer);
    free(live);
    migration->live = NULL;
    migration_end(migration);
}

static void on_stayed(const struct error *error, void *context)
{
    struct live *live = context;
    const struct machine *machine = live->migration->machine;
    if (error != NULL) {
        log_warn("machine %s: %s", machine->key, error->text);
    }
    free_live(live);
}

void live_stay(const struct machine *machine,
               void (*done)(const struct error *error, void *context), void *context)
{
    const struct hypervisor_driver_info *driver = driver_of(machine);
    if (driver != NULL && driver->can_migrate) {
        hypervisor_stay(machine->vm, done, context);
    } else {
        hypervisor_resume(machine->vm, done, context);
    }
}

/* The machine is this node's: it runs on. */
static void stay(struct live *live)
{
    struct machine *machine = live->migration->machine;
    close_streams(live);
    if (live->is_leaving && machine->vm != NULL) {
        live_stay(machine, on_stayed, live);
    } else {
        free_live(live);
    }
}

static void on_ending(void *context)
{
    struct live *live = context;
    const struct migration *migration = live->migration;
    if (migration->error.kind == ERROR_NONE) {
        free_live(live);
    } else {
        stay(live);
    }
}

/* Whoever calls may be a stream that is to be freed. */
static void end(struct live *live)
{
    if (!live->is_ending) {
        live->is_ending = true;
        loop_timer_stop(live->timer);
        loop_post(live->migration->service->options.loop, on_ending, live);
    }
}

static void fail(struct live *live, const struct error *error)
{
    struct migration *migration = live->migration;
    if (migration->is_switching || live->is_ending) {
        return;
    }
    if (migration->error.kind == ERROR_NONE) {
        migration->error = *error;
    }
    end(live);
}

void live_give_up(struct migration *migration)
{
    if (migration->call != NULL) {
        peer_call_free(migration->call);
        migration->call = NULL;
    }
    if (migration->is_marked && !migration->live->is_saving) {
        end(migration->live);
    }
}

/* ---- Whose it is ---- */

struct settling {
    struct machine *machine; /* held */
    struct loop_timer *timer;
    void (*done)(const struct error *error, void *context);
    void *context;
};

static void finish_settling(struct settling *settling, const struct error *error)
{
    struct machine *machine = settling->machine;
    settling->done(error, settling->context);
    loop_timer_free(settling->timer);
    free(settling);
    machine->service->pending--;
    machine->held--;
    machine_unref(machine);
}

/* It is another node's: which is visible here by now. */
static void on_visible(const struct error *error, void *context)
{
    struct settling *settling = context;
    struct error elsewhere = {0};
    if (error != NULL && !settling->machine->service->is_over) {
        loop_timer_start(settling->timer, SETTLE_EVERY_MS);
        return;
    }
    error_set(&elsewhere, error == NULL ? ERROR_CONFLICT : ERROR_CANCELLED,
              "the machine is another node's");
    finish_settling(settling, &elsewhere);
}

static void on_written(const struct error *error, uint64_t index, void *context)
{
    struct settling *settling = context;
    struct error over = {0};
    (void)index;
    if (error == NULL) {
        finish_settling(settling, NULL);
    } else if (error->kind == ERROR_CONFLICT) {
        store_barrier(settling->machine->service->options.store, on_visible, settling);
    } else if (settling->machine->service->is_over) {
        error_set(&over, ERROR_CANCELLED, "the node ends");
        finish_settling(settling, &over);
    } else {
        loop_timer_start(settling->timer, SETTLE_EVERY_MS);
    }
}

static void settle(void *context)
{
    struct settling *settling = context;
    const struct machine *machine = settling->machine;
    struct machine_service *service = machine->service;
    struct error over = {0};
    if (service->is_over) {
        error_set(&over, ERROR_CANCELLED, "the node ends");
        finish_settling(settling, &over);
        return;
    }
    struct store_command *command = store_command_new();
    store_command_add_expecting(
        command, ERROR_CONFLICT, "the machine is another node's",
        "UPDATE machine SET reason = 'found again by its node', revision = ? WHERE key = ? AND id "
        "= ? AND node = ?",
        "rttt", machine->key, machine->id, service->node_name);
    store_propose(service->options.store, command, on_written, settling);
}

void migration_settle(struct machine *machine,
                      void (*done)(const struct error *error, void *context), void *context)
{
    struct settling *settling = NEW(struct settling);
    struct loop *loop = machine->service->options.loop;
    *settling = (struct settling){.machine = machine, .done = done, .context = context};
    settling->timer = loop_timer_new(loop, settle, settling);
    machine->held++;
    machine->service->pending++;
    loop_timer_start(settling->timer, 0);
}

/* ---- Switching ---- */

static void report(struct live *live, bool is_measured)
{
    struct migration *migration = live->migration;
    uint64_t still_ms = clock_monotonic_ms() - live->still_ms;
    migration->bytes += live->disk_bytes;
    if (is_measured) {
        migration->result = memory_format("{\"downtime_ms\":%" PRIu64 "}", still_ms);
    }
    log_info("machine %s: it stood still for %" PRIu64 " ms%s", migration->machine->key, still_ms,
             is_measured ? "" : ", and the other node has not said yet that it runs");
    end(live);
}

static void on_settled(const struct error *error, void *context)
{
    struct live *live = context;
    struct migration *migration = live->migration;
    if (error == NULL) {
        migration->is_switching = false;
        end(live); /* with the error of the switch */
    } else if (error->kind == ERROR_CONFLICT) {
        migration->error = (struct error){0};
        report(live, false);
    } else { /* the next start goes on with it: nothing is touched */
        migration->is_marked = false;
        live->is_leaving = false;
        end(live);
    }
}

static void on_switched(const struct error *error, uint64_t index, void *context)
{
    struct live *live = context;
    struct migration *migration = live->migration;
    (void)index;
    if (error == NULL) {
        live->is_switched = true;
        if (live->runs_there || migration->service->is_over) {
            report(live, live->runs_there);
        } else {
            loop_timer_start(live->timer, RESUME_MS);
        }
        return;
    }
    migration->error = *error;
    migration_settle(migration->machine, on_settled, live);
}

/* When all is written here, and read there. */
static void switch_over(struct live *live)
{
    struct migration *migration = live->migration;
    struct machine_service *service = migration->service;
    const struct machine *machine = migration->machine;
    if (!live->has_left || !live->has_arrived || live->is_ending) {
        return;
    }
    struct store_command *command = store_command_new();
    migration->is_switching = true;
    log_info("machine %s: all of it is at node %s, too; the log is asked whose it is", machine->key,
             migration->target);
    operation_on_cancel(service->options.operations, migration->operation, NULL, NULL);
    store_command_add_expecting(
        command, ERROR_CONFLICT,
        "something else was asked of the machine meanwhile; it is where it was",
        "UPDATE machine SET node = ?1, state = 'running', reason = NULL, revision = ?2 WHERE key = "
        "?3 AND id = ?4 AND node = ?5 AND desired = 'running' AND state = 'running' AND reason = "
        "?6 AND EXISTS (SELECT 1 FROM operation WHERE key = ?7 AND state = 'running') AND (SELECT "
        "count(*) FROM volume WHERE project = ?8 AND machine = ?9) = ?10",
        "trtttttttu", migration->target, machine->key, machine->id, service->node_name,
        migration->reason, migration->operation, machine->project, machine->name,
        (uint64_t)machine_volumes_count(machine));
    migration_add_belongings(migration, command);
    migration_add_event(migration, command, MACHINE_RUNNING);
    store_propose(service->options.store, command, on_switched, live);
}

static void on_late(void *context)
{
    struct live *live = context;
    if (live->is_switched) {
        report(live, false);
    }
}

/* ---- The streams ---- */

static void on_news(const void *bytes, size_t length, void *context)
{
    struct live *live = context;
    for (size_t i = 0; i < length && !live->is_ending; i++) {
        char word = ((const char *)bytes)[i];
        if (word == '1' && !live->has_arrived) {
            live->has_arrived = true;
            switch_over(live);
        } else if (word == '2' && live->migration->is_switching) {
            live->runs_there = true; /* it may know earlier than this node */
            if (live->is_switched) {
                report(live, true);
            }
        }
    }
}

static void on_news_end(const struct error *error, void *context)
{
    struct live *live = context;
    struct error gone = {0};
    (void)error;
    error_set(&gone, ERROR_UNAVAILABLE, "node %s has given up", live->migration->target);
    fail(live, &gone);
}

static void on_stream_end(const struct error *error, void *context)
{
    struct live *live = context;
    if (error != NULL) {
        fail(live, error);
    }
}

static void on_progress(enum hypervisor_leg leg, uint64_t bytes, uint64_t total, void *context)
{
    struct live *live = context;
    const struct migration *migration = live->migration;
    MEMORY_OWNED char *text = NULL;
    unsigned percent = 0;
    switch (leg) {
    case HYPERVISOR_LEG_DISK:
        text = memory_format("copying its disk: %" PRIu64 " of %" PRIu64 " MiB", bytes >> 20,
                             total >> 20);
        percent = 10 + (unsigned)(total > 0 ? bytes * 50 / total : 0);
        break;
    case HYPERVISOR_LEG_MEMORY:
        text = memory_format("copying its memory: %" PRIu64 " MiB", bytes >> 20);
        percent = 70;
        break;
    case HYPERVISOR_LEG_SWITCH:
        live->still_ms = clock_monotonic_ms();
        text = memory_copy_string("switching");
        percent = 90;
        break;
    }
    operation_progress(migration->service->options.operations, migration->operation,
                       percent > 90 ? 90 : percent, text);
}

static void on_left(const struct error *error, void *context)
{
    struct live *live = context;
    if (error != NULL) {
        struct error told = *error;
        if (told.kind == ERROR_FULL) {
            migration_name_full(live->migration, live->migration->target, &told);
        }
        fail(live, &told);
        return;
    }
    live->has_left = true;
    switch_over(live);
}

static size_t stream_count(const struct live *live)
{
    return live->migration->is_snapshot ? 1 : live->disk_count + 2;
}

/* As arrive_live.c has them. */
static char *stream_name(const struct live *live, size_t index)
{
    return index + 1 == stream_count(live) ? memory_copy_string("news")
        : index == 0                       ? memory_copy_string("disk")
        : index < live->disk_count         ? memory_format("disk%zu", index)
                                           : memory_copy_string("state");
}

/* All of them: until they are there, QEMU would wait, and its guest with it. */
static void on_stream_open(void *context)
{
    static const struct hypervisor_leaving_events events = {on_progress, on_left};
    struct live *live = context;
    struct migration *migration = live->migration;
    struct machine *machine = migration->machine;
    struct error gone = {0};
    if (++live->open < stream_count(live) || live->is_ending) {
        return;
    }
    if (machine->vm == NULL) {
        error_set(&gone, ERROR_CONFLICT, "the machine has ended");
        fail(live, &gone);
        return;
    }
    if (migration->is_snapshot) { /* all of it went before */
        live->has_left = true;
        live->has_arrived = true;
        switch_over(live);
        return;
    }
    struct hypervisor_leaving leaving = {.disk_count = live->disk_count,
                                         .state_fd = fd_take(&live->fds[live->disk_count]),
                                         .downtime_ms = migration->downtime_ms,
                                         .bytes_per_second = migration->bytes_per_second};
    for (size_t i = 0; i < live->disk_count; i++) {
        leaving.disks[i] = live->disks[i];
        leaving.disk_fds[i] = fd_take(&live->fds[i]);
    }
    live->is_leaving = true;
    hypervisor_leave(machine->vm, &leaving, &events, live);
}

static int open_streams(struct live *live, struct error *err)
{
    static const struct peer_stream_events events = {on_stream_open, on_stream_end};
    static const struct stream_events news = {on_news, NULL, on_news_end};
    const struct migration *migration = live->migration;
    const struct machine *machine = migration->machine;
    struct machine_service *service = migration->service;
    for (size_t i = 0; i < stream_count(live); i++) {
        int pair[2];
        MEMORY_OWNED char *name = stream_name(live, i);
        MEMORY_OWNED char *target = memory_format("/v1/peer/machines/%s/%s?project=%s",
                                                  machine->name, name, machine->project);
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
            return error_os(err, errno, "making a pair of sockets");
        }
        live->fds[i] = pair[0];
        live->streams[i] = peer_stream_new(service->options.peers, migration->node, target, pair[1],
                                           &events, live);
    }
    live->news = stream_adopt(service->options.loop, fd_take(&live->fds[stream_count(live) - 1]));
    stream_start(live->news, &news, live);
    return 0;
}

/* ---- Beginning ---- */

static void on_ready(const struct error *error, int status, struct buffer *answer, void *context)
{
    struct migration *migration = context;
    struct live *live = migration->live;
    struct error err = {0};
    migration->call = NULL;
    if (error != NULL) {
        err = *error;
    } else if (status >= 300) {
        migration_take_problem(migration, status, answer, &err);
    } else {
        open_streams(live, &err);
    }
    if (err.kind != ERROR_NONE) {
        fail(live, &err);
    }
}

static void mark(void *context)
{
    struct live *live = context;
    struct migration *migration = live->migration;
    live->disk_bytes = content_disk_size(migration->machine->folder);
    if (live->disk_bytes == 0) {
        error_set(&migration->error, ERROR_CORRUPT, "machine %s has no disk",
                  migration->machine->name);
    } else {
        migration_write_mark(migration, &migration->error);
    }
}

static void on_packed(struct migration *migration)
{
    struct live *live = migration->live;
    if (migration->error.kind != ERROR_NONE || migration->is_given_up) {
        end(live);
        return;
    }
    json_t *volumes = json_array();
    for (size_t i = 1; i < live->disk_count; i++) {
        json_array_append_new(volumes, json_string(live->disks[i].volume));
    }
    MEMORY_OWNED char *text = memory_format("node %s gets ready", migration->target);
    operation_progress(migration->service->options.operations, migration->operation, 8, text);
    migration->was_announced = true;
    json_t *body =
        json_pack("{s:I, s:s, s:o, s:o}", "disk_bytes", (json_int_t)live->disk_bytes, "parcel",
                  migration->blob, "volumes", volumes, "vmm", live_vmm(migration->machine));
    if (migration->is_snapshot) {
        json_object_set_new(body, "is_saved", json_true());
    }
    migration_tell_target(migration, body, migration->timeout_ms, on_ready);
}

/* ---- As a state that is written down ---- */

static void on_saved(const struct error *error, void *context)
{
    struct live *live = context;
    struct migration *migration = live->migration;
    live->is_saving = false;
    if (error != NULL && migration->error.kind == ERROR_NONE) {
        migration->error = *error;
    }
    if (migration->error.kind == ERROR_FULL) {
        migration_name_full(migration, migration->service->node_name, &migration->error);
    }
    if (error != NULL || migration->is_given_up) {
        end(live);
        return;
    }
    migration_pack(migration, on_packed);
}

static void save(struct live *live)
{
    struct migration *migration = live->migration;
    const struct machine *machine = migration->machine;
    MEMORY_OWNED char *path = memory_format("%s/" MIGRATION_STATE, machine->folder);
    int fd = machine->vm != NULL ? open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600) : -1;
    if (machine->vm == NULL) {
        error_set(&migration->error, ERROR_CONFLICT, "the machine has ended");
    } else if (fd < 0) {
        error_os(&migration->error, errno, "making %s", path);
    }
    if (fd < 0) {
        end(live);
        return;
    }
    live->is_saving = true;
    live->is_leaving = true;
    live->still_ms = clock_monotonic_ms();
    operation_progress(migration->service->options.operations, migration->operation, 10,
                       "it stands still: keeping its memory");
    hypervisor_save(machine->vm, fd, false, on_saved, live);
}

static void on_marked(void *context)
{
    struct live *live = context;
    struct migration *migration = live->migration;
    migration->is_marked = true;
    if (migration->error.kind != ERROR_NONE || migration->is_given_up) {
        end(live);
    } else if (migration->is_snapshot) {
        save(live);
    } else {
        migration_pack(migration, on_packed);
    }
}

/* Its own disk, and what it may write of its volumes; of the others all goes as files. */
static void find_disks(struct live *live)
{
    const struct machine *machine = live->migration->machine;
    struct volume_service *service = machine->service->options.volumes;
    struct volume_attachment volumes[HYPERVISOR_VOLUMES_MAX];
    char layers[HYPERVISOR_LAYERS_MAX][VOLUME_ID_SIZE];
    size_t count = volume_of_machine(service, machine->project, machine->name, volumes);
    MEMORY_OWNED char *between = memory_format("%s/" CONTENT_BASE, machine->folder);
    live->disks[0] = (struct hypervisor_moving){
        .disk = json_text(machine->config, "root")[0] != '\0' ? 1 : 0,
        .is_layer = json_text(machine->config, "disk")[0] != '\0' && !file_exists(between)};
    live->disk_count = 1;
    for (size_t i = 0; i < count; i++) {
        const char *name = volumes[i].use.name;
        if (!volumes[i].use.is_read_only) {
            struct hypervisor_moving *disk = &live->disks[live->disk_count++];
            snprintf(disk->volume, sizeof(disk->volume), "%.16s", volumes[i].id);
            disk->is_layer = volume_layers(service, machine->project, name, layers) > 1;
        }
    }
}

void live_begin(struct migration *migration)
{
    struct machine_service *service = migration->service;
    struct live *live = NEW(struct live);
    live->migration = migration;
    live->timer = loop_timer_new(service->options.loop, on_late, live);
    for (size_t i = 0; i < STREAMS_MAX; i++) {
        live->fds[i] = -1;
    }
    migration->live = live;
    find_disks(live);
    snprintf(migration->reason, sizeof(migration->reason), "moving to node %s", migration->target);
    machine_set_state(migration->machine, MACHINE_RUNNING, "%s", migration->reason);
    operation_progress(service->options.operations, migration->operation, 5,
                       "packing what does not change");
    loop_work(service->options.loop, mark, on_marked, live);
}
