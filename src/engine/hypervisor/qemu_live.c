/*
 * A QEMU machine goes to another QEMU while it runs (docs/interop/live-block-operations.rst,
 * qapi/migration.json of QEMU 7.2).
 *
 *   disk      a mirror job for each copies it to the other one's NBD server, and goes on with what
 *             changes
 *   memory    pre-copy, until what is left fits the downtime; then QEMU stops the guest
 *   switch    (pre-switchover) the mirrors end with all written, then the rest of the memory goes
 *
 * The mirror writes in the background: a slow peer does not make the guest's disk slow.  The
 * receiver must have been started with -S: otherwise it would want to write in its disk while the
 * NBD server has it.
 */
#include "engine/hypervisor/qemu_live.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/json.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/hypervisor/qmp.h"

#define NODE "live" /* and a number: the job, and the node of the other one's disk */

enum { LOOK_EVERY_MS = 250 };

enum step { STEP_NONE, STEP_DISK, STEP_MEMORY, STEP_SWITCH, STEP_RECEIVE };

struct qemu_live {
    struct qmp *qmp;
    struct loop_timer *timer;
    enum step step;
    unsigned turn; /* answers to what was asked in an earlier one are of no interest */
    struct hypervisor_leaving leaving;
    struct hypervisor_leaving_events events;
    void (*on_waiting)(void *context);
    void *context;
    uint64_t copied[HYPERVISOR_MOVING_MAX]; /* and to be copied, of each disk */
    uint64_t sizes[HYPERVISOR_MOVING_MAX];
    bool are_ready[HYPERVISOR_MOVING_MAX];
    size_t mirrors; /* that run */
    size_t given;   /* of disk_fds, to QEMU */
    int disk_fds[HYPERVISOR_MOVING_MAX];
    int state_fd;
};

static void close_fds(struct qemu_live *live)
{
    for (size_t i = 0; i < HYPERVISOR_MOVING_MAX; i++) {
        fd_close_slot(&live->disk_fds[i]);
    }
    fd_close_slot(&live->state_fd);
}

/* ---- Asking ---- */

struct asked {
    struct qemu_live *live;
    unsigned turn;
    void (*then)(struct qemu_live *live, const json_t *result);
};

static void finish(struct qemu_live *live, const struct error *error)
{
    hypervisor_done done = live->events.on_end;
    if (live->step != STEP_NONE) {
        live->step = STEP_NONE;
        live->turn++;
        loop_timer_stop(live->timer);
        close_fds(live);
        done(error, live->context);
    }
}

static void on_asked(const struct error *error, const json_t *result, void *context)
{
    const struct asked *asked = context;
    if (asked->turn != asked->live->turn || asked->live->step == STEP_NONE) {
        return;
    }
    if (error != NULL) {
        finish(asked->live, error);
    } else if (asked->then != NULL) {
        asked->then(asked->live, result);
    }
}

static void ask(struct qemu_live *live, const char *command, json_t *owned_arguments, int fd,
                void (*then)(struct qemu_live *live, const json_t *result))
{
    struct asked *asked = NEW(struct asked);
    *asked = (struct asked){live, live->turn, then};
    qmp_ask(live->qmp, command, owned_arguments, fd, on_asked, asked);
}

/* What QEMU has is its own copy: with another one here, no end would be seen. */
static void on_disk_fd(struct qemu_live *live, const json_t *result)
{
    (void)result;
    fd_close_slot(&live->disk_fds[live->given++]);
}

static void on_state_fd(struct qemu_live *live, const json_t *result)
{
    (void)result;
    fd_close_slot(&live->state_fd);
}

/* In their order: see on_disk_fd(). */
static void give_disk(struct qemu_live *live, size_t index)
{
    ask(live, "getfd", json_pack("{s:o}", "fdname", json_sprintf("live-disk%zu", index)),
        live->disk_fds[index], on_disk_fd);
}

static void give_state(struct qemu_live *live)
{
    ask(live, "getfd", json_pack("{s:s}", "fdname", "live-state"), live->state_fd, on_state_fd);
}

static void set_capabilities(struct qemu_live *live, bool pauses)
{
    ask(live, "migrate-set-capabilities",
        json_pack("{s:[{s:s, s:b}, {s:s, s:b}, {s:s, s:b}]}", "capabilities", "capability",
                  "x-ignore-shared", "state", 0, "capability", "events", "state", 1, "capability",
                  "pause-before-switchover", "state", pauses),
        -1, NULL);
}

/* ---- Leaving ---- */

/* Which of the disks a job copies; false: it is none of these jobs. */
static bool find_disk(const struct qemu_live *live, const json_t *data, size_t *ret_index)
{
    const char *device = json_text(data, "device");
    for (size_t i = 0; i < live->leaving.disk_count; i++) {
        char name[32];
        snprintf(name, sizeof(name), NODE "%zu", i);
        if (strcmp(device, name) == 0) {
            *ret_index = i;
            return true;
        }
    }
    return false;
}

static void on_jobs(struct qemu_live *live, const json_t *result)
{
    uint64_t copied = 0;
    uint64_t size = 0;
    size_t index = 0;
    size_t disk = 0;
    const json_t *job = NULL;
    json_array_foreach(result, index, job)
    {
        if (find_disk(live, job, &disk)) {
            live->copied[disk] = json_u64(job, "offset");
            live->sizes[disk] = json_u64(job, "len");
        }
    }
    for (size_t i = 0; i < live->leaving.disk_count; i++) {
        copied += live->copied[i];
        size += live->sizes[i];
    }
    if (live->step == STEP_DISK) {
        live->events.on_progress(HYPERVISOR_LEG_DISK, copied, size, live->context);
    }
}

static void on_migration(struct qemu_live *live, const json_t *result)
{
    const json_t *ram = json_object_get(result, "ram");
    if (live->step == STEP_MEMORY && ram != NULL) {
        live->events.on_progress(HYPERVISOR_LEG_MEMORY, json_u64(ram, "transferred"),
                                 json_u64(ram, "total"), live->context);
    }
}

static void on_timer(void *context)
{
    struct qemu_live *live = context;
    if (live->step == STEP_DISK) {
        ask(live, "query-block-jobs", NULL, -1, on_jobs);
    } else if (live->step == STEP_MEMORY) {
        ask(live, "query-migrate", NULL, -1, on_migration);
    } else {
        return;
    }
    loop_timer_start(live->timer, LOOK_EVERY_MS);
}

static void send_memory(struct qemu_live *live)
{
    uint64_t most = live->leaving.bytes_per_second;
    live->step = STEP_MEMORY;
    set_capabilities(live, true);
    ask(live, "migrate-set-parameters",
        json_pack("{s:I, s:I}", "max-bandwidth", most > 0 ? (json_int_t)most : (json_int_t)10 << 30,
                  "downtime-limit", (json_int_t)live->leaving.downtime_ms),
        -1, NULL);
    give_state(live);
    ask(live, "migrate", json_pack("{s:s}", "uri", "fd:live-state"), -1, NULL);
}

/* Its node: a disk's is named by qemu_order.c, a volume's by qemu_volume.c. */
static void node_of(const struct hypervisor_moving *disk, char ret_name[40])
{
    if (disk->volume[0] != '\0') {
        snprintf(ret_name, 40, "volume-%.20s", disk->volume);
    } else {
        snprintf(ret_name, 40, "disk%zu", disk->disk);
    }
}

/* As the other one calls them: the first has no number, as when there was only one. */
static json_t *export_of(size_t index)
{
    return index == 0 ? json_string("disk") : json_sprintf("disk%zu", index);
}

static void mirror(struct qemu_live *live, size_t index)
{
    const struct hypervisor_moving *disk = &live->leaving.disks[index];
    char node[40];
    char name[32];
    node_of(disk, node);
    snprintf(name, sizeof(name), NODE "%zu", index);
    qmp_execute(live->qmp, "blockdev-del", json_pack("{s:s}", "node-name", name), -1, NULL,
                NULL); /* of an earlier try */
    give_disk(live, index);
    ask(live, "blockdev-add",
        json_pack("{s:s, s:s, s:o, s:{s:s, s:o}}", "driver", "nbd", "node-name", name, "export",
                  export_of(index), "server", "type", "fd", "str",
                  json_sprintf("live-disk%zu", index)),
        -1, NULL);
    ask(live, "blockdev-mirror",
        json_pack("{s:s, s:s, s:s, s:s, s:I}", "job-id", name, "device", node, "target", name,
                  "sync", disk->is_layer ? "top" : "full", "speed",
                  (json_int_t)(live->leaving.bytes_per_second / live->leaving.disk_count)),
        -1, NULL);
}

void qemu_live_leave(struct qemu_live *live, const struct hypervisor_leaving *leaving,
                     const struct hypervisor_leaving_events *events, void *context)
{
    CHECK(live->step == STEP_NONE);
    CHECK(leaving->disk_count > 0 && leaving->disk_count <= HYPERVISOR_MOVING_MAX);
    live->step = STEP_DISK;
    live->leaving = *leaving;
    live->events = *events;
    live->context = context;
    live->mirrors = leaving->disk_count;
    live->given = 0;
    live->state_fd = leaving->state_fd;
    for (size_t i = 0; i < leaving->disk_count; i++) {
        live->are_ready[i] = false;
        live->copied[i] = live->sizes[i] = 0;
        live->disk_fds[i] = leaving->disk_fds[i];
    }
    for (size_t i = 0; i < leaving->disk_count; i++) {
        mirror(live, i);
    }
    loop_timer_start(live->timer, LOOK_EVERY_MS);
}

void qemu_live_abandon(struct qemu_live *live)
{
    live->step = STEP_NONE;
    live->turn++;
    loop_timer_stop(live->timer);
    close_fds(live);
    qmp_execute(live->qmp, "migrate_cancel", NULL, -1, NULL, NULL);
    for (size_t i = 0; i < HYPERVISOR_MOVING_MAX; i++) { /* also those of an earlier daemon */
        qmp_execute(live->qmp, "block-job-cancel",
                    json_pack("{s:o, s:b}", "device", json_sprintf(NODE "%zu", i), "force", 1), -1,
                    NULL, NULL);
    }
}

/* ---- Receiving ---- */

/* Not earlier: the NBD server takes its peer before it has something for it. */
static void on_waiting(struct qemu_live *live, const json_t *result)
{
    (void)result;
    live->on_waiting(live->context);
}

void qemu_live_receive(struct qemu_live *live, const struct hypervisor_moving *disks,
                       size_t disk_count, int disk_listener, int state_fd,
                       const struct hypervisor_receiving_events *events, void *context)
{
    CHECK(live->step == STEP_NONE);
    live->step = STEP_RECEIVE;
    live->events = (struct hypervisor_leaving_events){.on_end = events->on_end};
    live->on_waiting = events->on_waiting;
    live->context = context;
    live->given = 0;
    live->disk_fds[0] = disk_listener;
    live->state_fd = state_fd;
    set_capabilities(live, false);
    give_disk(live, 0);
    ask(live, "nbd-server-start",
        json_pack("{s:{s:s, s:{s:s}}, s:I}", "addr", "type", "fd", "data", "str", "live-disk0",
                  "max-connections", (json_int_t)disk_count),
        -1, NULL);
    for (size_t i = 0; i < disk_count; i++) {
        char node[40];
        node_of(&disks[i], node);
        ask(live, "block-export-add",
            json_pack("{s:s, s:o, s:s, s:o, s:b}", "type", "nbd", "id", json_sprintf(NODE "%zu", i),
                      "node-name", node, "name", export_of(i), "writable", 1),
            -1, NULL);
    }
    give_state(live);
    ask(live, "migrate-incoming", json_pack("{s:s}", "uri", "fd:live-state"), -1, on_waiting);
}

static void on_served(struct qemu_live *live, const json_t *result)
{
    (void)result;
    finish(live, NULL);
}

/* ---- What QEMU says ---- */

static void fail(struct qemu_live *live, const char *text)
{
    struct error error = {0};
    error_set(&error, ERROR_UNAVAILABLE, "%.300s", text);
    finish(live, &error);
}

static void on_failed(struct qemu_live *live, const json_t *result)
{
    const char *text = json_string_value(json_object_get(result, "error-desc"));
    fail(live, text != NULL ? text : "the memory could not be moved");
}

static void on_status(struct qemu_live *live, const char *status)
{
    bool is_over = strcmp(status, "completed") == 0;
    if (strcmp(status, "pre-switchover") == 0 && live->step == STEP_MEMORY) {
        live->step = STEP_SWITCH;
        for (size_t i = 0; i < live->leaving.disk_count; i++) {
            ask(live, "block-job-cancel", json_pack("{s:o}", "device", json_sprintf(NODE "%zu", i)),
                -1, NULL);
        }
    } else if (is_over && live->step == STEP_RECEIVE) {
        ask(live, "nbd-server-stop", NULL, -1, on_served);
    } else if (is_over && live->step == STEP_SWITCH) {
        finish(live, NULL);
    } else if (is_over) {
        fail(live, "the VMM moved the memory without its disk");
    } else if (strcmp(status, "failed") == 0 || strcmp(status, "cancelled") == 0) {
        ask(live, "query-migrate", NULL, -1, on_failed);
    }
}

static bool are_all_ready(const struct qemu_live *live)
{
    bool is_ready = true;
    for (size_t i = 0; i < live->leaving.disk_count; i++) {
        is_ready = is_ready && live->are_ready[i];
    }
    return is_ready;
}

/* What is read has its room: where it is written is full. */
static void fail_copy(struct qemu_live *live, const char *problem)
{
    struct error error = {0};
    bool is_full = strstr(problem, strerrordesc_np(ENOSPC)) != NULL;
    error_set(&error, is_full ? ERROR_FULL : ERROR_UNAVAILABLE,
              "its disk could not be copied: %.240s", problem);
    finish(live, &error);
}

static void on_job(struct qemu_live *live, const char *name, const json_t *data)
{
    const char *problem = json_string_value(json_object_get(data, "error"));
    bool has_ended =
        strcmp(name, "BLOCK_JOB_COMPLETED") == 0 || strcmp(name, "BLOCK_JOB_CANCELLED") == 0;
    size_t disk = 0;
    if ((live->step != STEP_DISK && live->step != STEP_MEMORY && live->step != STEP_SWITCH) ||
        !find_disk(live, data, &disk)) {
        return;
    }
    if (strcmp(name, "BLOCK_JOB_READY") == 0 && live->step == STEP_DISK) {
        live->are_ready[disk] = true;
        if (are_all_ready(live)) {
            send_memory(live);
        }
    } else if (strcmp(name, "BLOCK_JOB_COMPLETED") == 0 && live->step == STEP_SWITCH &&
               problem == NULL) {
        if (--live->mirrors == 0) {
            ask(live, "migrate-continue", json_pack("{s:s}", "state", "pre-switchover"), -1, NULL);
        }
    } else if (has_ended) {
        fail_copy(live, problem != NULL ? problem : "the copying ended early");
    }
}

void qemu_live_event(struct qemu_live *live, const char *name, const json_t *data)
{
    const char *status = json_string_value(json_object_get(data, "status"));
    if (live->step == STEP_NONE) {
        return;
    }
    if (strcmp(name, "MIGRATION") == 0 && status != NULL) {
        on_status(live, status);
    } else if (strcmp(name, "STOP") == 0 && live->step == STEP_MEMORY) {
        live->events.on_progress(HYPERVISOR_LEG_SWITCH, 0, 0, live->context);
    } else if (strncmp(name, "BLOCK_JOB_", strlen("BLOCK_JOB_")) == 0) {
        on_job(live, name, data);
    }
}

void qemu_live_end(struct qemu_live *live, const struct error *error)
{
    finish(live, error);
}

/* ---- Life ---- */

struct qemu_live *qemu_live_new(struct loop *loop, struct qmp *qmp)
{
    struct qemu_live *live = NEW(struct qemu_live);
    live->qmp = qmp;
    live->timer = loop_timer_new(loop, on_timer, live);
    live->state_fd = -1;
    for (size_t i = 0; i < HYPERVISOR_MOVING_MAX; i++) {
        live->disk_fds[i] = -1;
    }
    return live;
}

void qemu_live_free(struct qemu_live *live)
{
    loop_timer_free(live->timer);
    close_fds(live);
    free(live);
}
