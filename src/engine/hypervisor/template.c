/* Templates: stamped by a VMM that reads a state and never runs.  See template.h. */
#include "engine/hypervisor/template.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/check.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/hypervisor/driver.h"

/* ---- Files ---- */

static int make_file(const char *path, mode_t mode, int *ret_fd, struct error *err)
{
    FD_OWNED int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0 && errno == EEXIST) {
        return error_set(err, ERROR_EXISTS, "%s is there already", path);
    }
    if (fd < 0 || fchmod(fd, mode) < 0) {
        return error_os(err, errno, "making %s", path);
    }
    *ret_fd = fd_take(&fd);
    return 0;
}

int template_make_memory(const char *folder, uint64_t memory_bytes, struct error *err)
{
    FD_OWNED int fd = -1;
    MEMORY_OWNED char *path = memory_format("%s/" TEMPLATE_MEMORY, folder);
    int r = make_file(path, geteuid() == 0 ? 0666 : 0600, &fd, err);
    if (r == 0 && ftruncate(fd, (off_t)memory_bytes) < 0) {
        r = error_os(err, errno, "making %s", path);
        unlink(path);
    }
    return r;
}

/*
 * qcow2, version 3 (docs/interop/qcow2.txt of QEMU): clusters of 64 KiB; the header with the name
 * of the file below, the table of refcount blocks, one such block, and an empty L1 table.
 */
enum { CLUSTER_BITS = 16, CLUSTER = 1 << CLUSTER_BITS, HEAD_BYTES = 104, NAME_AT = 128 };
#define BACKING_FORMAT UINT32_C(0xe2792aca) /* of a header extension */

static void put_u32(uint8_t *at, uint32_t value)
{
    uint32_t big = htobe32(value);
    memcpy(at, &big, sizeof(big));
}

static void put_u64(uint8_t *at, uint64_t value)
{
    uint64_t big = htobe64(value);
    memcpy(at, &big, sizeof(big));
}

/* Its length is elsewhere: there is no NUL. */
static void put_text(uint8_t *at, const char *text)
{
    for (size_t i = 0; text[i] != '\0'; i++) {
        at[i] = (uint8_t)text[i];
    }
}

static void write_head(uint8_t *head, const char *base_name, const char *base_format,
                       uint64_t size_bytes, uint64_t l1_count)
{
    static const uint8_t magic[] = {'Q', 'F', 'I', 0xfb};
    memcpy(head, magic, sizeof(magic));
    put_u32(head + 4, 3);
    put_u64(head + 8, NAME_AT);
    put_u32(head + 16, (uint32_t)strlen(base_name));
    put_u32(head + 20, CLUSTER_BITS);
    put_u64(head + 24, size_bytes);
    put_u32(head + 36, (uint32_t)l1_count);
    put_u64(head + 40, (uint64_t)3 * CLUSTER);
    put_u64(head + 48, CLUSTER);
    put_u32(head + 56, 1);
    put_u32(head + 96, 4); /* refcounts of 16 bits */
    put_u32(head + 100, HEAD_BYTES);
    put_u32(head + 104, BACKING_FORMAT);
    put_u32(head + 108, (uint32_t)strlen(base_format)); /* padded to 8 bytes */
    put_text(head + 112, base_format);
    put_text(head + NAME_AT, base_name);
}

/* The name is the last of what the first cluster holds, as QEMU writes it, too. */
int template_rebase(const char *path, const char *base_name, struct error *err)
{
    static const uint8_t magic[] = {'Q', 'F', 'I', 0xfb};
    uint8_t head[HEAD_BYTES];
    uint64_t at = 0;
    size_t length = strlen(base_name);
    FD_OWNED int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || pread(fd, head, sizeof(head), 0) != (ssize_t)sizeof(head)) {
        return error_os(err, fd < 0 ? errno : EIO, "reading %s", path);
    }
    memcpy(&at, head + 8, sizeof(at));
    at = be64toh(at);
    if (memcmp(head, magic, sizeof(magic)) != 0 || at < HEAD_BYTES || length > 1023 ||
        at > CLUSTER - length) {
        return error_set(err, ERROR_CORRUPT, "%s is laid over nothing", path);
    }
    put_u32(head + 16, (uint32_t)length);
    return pwrite(fd, base_name, length, (off_t)at) == (ssize_t)length &&
            pwrite(fd, head + 16, sizeof(uint32_t), 16) == (ssize_t)sizeof(uint32_t) &&
            fsync(fd) == 0
        ? 0
        : error_os(err, errno, "writing %s", path);
}

int template_make_overlay(const char *path, const char *base_name, const char *base_format,
                          uint64_t size_bytes, struct error *err)
{
    enum { L2_REACH_BITS = CLUSTER_BITS + CLUSTER_BITS - 3, BLOCK_ENTRIES = CLUSTER / 2 };
    uint64_t l1_count = (size_bytes + (UINT64_C(1) << L2_REACH_BITS) - 1) >> L2_REACH_BITS;
    uint64_t l1_clusters = (l1_count * 8 + CLUSTER - 1) >> CLUSTER_BITS;
    uint64_t clusters = 3 + l1_clusters;
    FD_OWNED int fd = -1;
    if (size_bytes == 0 || size_bytes % 512 != 0 || clusters > BLOCK_ENTRIES ||
        strlen(base_name) > 1023 || strlen(base_format) > 8) {
        return error_set(err, ERROR_INVALID, "a disk of %llu bytes cannot be laid over",
                         (unsigned long long)size_bytes);
    }
    int r = make_file(path, 0600, &fd, err);
    if (r < 0) {
        return r;
    }
    MEMORY_OWNED uint8_t *bytes = memory_new(3, CLUSTER);
    write_head(bytes, base_name, base_format, size_bytes, l1_count);
    put_u64(bytes + CLUSTER, (uint64_t)2 * CLUSTER);
    for (uint64_t i = 0; i < clusters; i++) {
        bytes[2 * CLUSTER + 2 * i + 1] = 1;
    }
    if (file_write_all(fd, bytes, (size_t)3 * CLUSTER) < 0 ||
        ftruncate(fd, (off_t)(clusters * CLUSTER)) < 0) {
        r = error_os(err, errno, "making %s", path);
        unlink(path);
    }
    return r;
}

/* ---- Stamping ---- */

struct stamp {
    struct hypervisor *hypervisor;
    const struct found *found;
    struct hypervisor_vm *vm;
    uint64_t memory_bytes;
    int memory; /* of a driver that needs no VMM for it, as source and target */
    char *folder;
    char *place; /* of the VMM */
    int source;
    int target;
    bool is_trial; /* nothing is made */
    bool is_whole; /* of huge pages or several NUMA nodes: its memory stays in the state */
    bool is_done;  /* both files are there */
    struct error error;
    hypervisor_done done;
    void *context;
};

static int sync_file(const char *folder, const char *name, struct error *err)
{
    MEMORY_OWNED char *path = memory_format("%s/%s", folder, name);
    FD_OWNED int fd = open(path, O_RDONLY | O_CLOEXEC);
    return fd >= 0 && fdatasync(fd) == 0 ? 0 : error_os(err, errno, "%s", path);
}

static void settle(void *context)
{
    struct stamp *stamp = context;
    struct error ignored = {0};
    if (stamp->error.kind == ERROR_NONE && !stamp->is_trial &&
        sync_file(stamp->folder, TEMPLATE_STATE, &stamp->error) == 0 &&
        stamp->found->info.can_clone && !stamp->is_whole) {
        sync_file(stamp->folder, TEMPLATE_MEMORY, &stamp->error);
    }
    file_remove_tree(stamp->place, &ignored);
}

static void on_settled(void *context)
{
    struct stamp *stamp = context;
    stamp->done(stamp->error.kind != ERROR_NONE ? &stamp->error : NULL, stamp->context);
    fd_close_slot(&stamp->source);
    fd_close_slot(&stamp->target);
    fd_close_slot(&stamp->memory);
    free(stamp->folder);
    free(stamp->place);
    free(stamp);
}

static void fail(struct stamp *stamp, const struct error *error)
{
    stamp->error = *error;
    hypervisor_kill(stamp->vm);
}

static void on_exit_told(const struct hypervisor_exit *exit, void *context)
{
    struct stamp *stamp = context;
    /* That the connection was lost says less than how the VMM ended. */
    bool is_told = stamp->error.kind != ERROR_NONE && stamp->error.kind != ERROR_UNAVAILABLE;
    if (!stamp->is_done && !is_told) {
        error_set(&stamp->error, ERROR_UNAVAILABLE, "%s: %.300s",
                  stamp->is_trial ? "trying its memory" : "making a template", exit->text);
    }
    hypervisor_free(stamp->vm);
    loop_work(stamp->hypervisor->loop, settle, on_settled, stamp);
}

static void on_written(const struct error *error, void *context)
{
    struct stamp *stamp = context;
    if (error != NULL) {
        fail(stamp, error);
        return;
    }
    stamp->is_done = true;
    hypervisor_kill(stamp->vm);
}

static void on_read(const struct error *error, void *context)
{
    struct stamp *stamp = context;
    if (error != NULL) {
        fail(stamp, error);
        return;
    }
    if (stamp->is_trial) {
        on_written(NULL, stamp);
        return;
    }
    hypervisor_save(stamp->vm, fd_take(&stamp->target), true, on_written, stamp);
}

static void on_started(void *context)
{
    struct stamp *stamp = context;
    hypervisor_load(stamp->vm, fd_take(&stamp->source), stamp->is_trial && !stamp->is_whole,
                    on_read, stamp);
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

/* A VMM that writes to a mapped file for which there is no space is killed, without a word. */
static int check_space(const char *folder, uint64_t bytes, struct error *err)
{
    struct statvfs status;
    if (statvfs(folder, &status) < 0) {
        return error_os(err, errno, "%s", folder);
    }
    uint64_t available = (uint64_t)status.f_bavail * status.f_frsize;
    return available >= bytes
        ? 0
        : error_set(err, ERROR_FULL,
                    "%s: %llu MiB are free, and a memory of %llu MiB is to be kept there", folder,
                    (unsigned long long)(available >> 20), (unsigned long long)(bytes >> 20));
}

static int prepare(struct stamp *stamp, int fd, uint64_t memory_bytes, struct error *err)
{
    MEMORY_OWNED char *state = memory_format("%s/" TEMPLATE_STATE, stamp->folder);
    stamp->source = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (stamp->source < 0 || lseek(stamp->source, 0, SEEK_SET) < 0) {
        return error_os(err, errno, "reading a machine's state");
    }
    int r = check_space(stamp->folder, memory_bytes, err);
    r = r < 0 ? r : file_make_folder(stamp->place, 0711, err);
    r = r < 0 ? r : template_make_memory(stamp->folder, memory_bytes, err);
    return r < 0 ? r : make_file(state, 0600, &stamp->target, err);
}

static int prepare_trial(struct stamp *stamp, struct error *err)
{
    MEMORY_OWNED char *state = memory_format("%s/" TEMPLATE_STATE, stamp->folder);
    stamp->source = open(state, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    return stamp->source < 0 ? error_os(err, errno, "reading %s", state)
                             : file_make_folder(stamp->place, 0711, err);
}

static void start(struct stamp *stamp, const struct hypervisor_spec *spec)
{
    static const struct hypervisor_events events = {on_started, on_paused, on_reboot, on_exit_told};
    MEMORY_OWNED char *memory = memory_format("%s/" TEMPLATE_MEMORY, stamp->folder);
    struct hypervisor_nic nics[HYPERVISOR_NICS_MAX];
    struct hypervisor_disk disks[HYPERVISOR_DISKS_MAX];
    struct hypervisor_spec copy = *spec;
    CHECK(spec->nic_count <= HYPERVISOR_NICS_MAX && spec->disk_count <= HYPERVISOR_DISKS_MAX);
    for (size_t i = 0; i < spec->disk_count; i++) {
        disks[i] = spec->disks[i];
        disks[i].read_only = true; /* the guest does not see it: it never runs here */
    }
    for (size_t i = 0; i < spec->nic_count; i++) {
        nics[i] = spec->nics[i];
        nics[i].forward_count = 0; /* they are the running machine's */
        nics[i].tap = nics[i].tap != NULL ? "" : NULL;
    }
    copy.nics = nics;
    copy.disks = disks;
    copy.folder = stamp->place;
    copy.memory = stamp->is_whole ? HYPERVISOR_MEMORY_OWN
        : stamp->is_trial         ? HYPERVISOR_MEMORY_COPY
                                  : HYPERVISOR_MEMORY_SHARED;
    copy.memory_file = stamp->is_whole ? NULL : memory;
    copy.is_incoming = true;
    copy.state_file = NULL;
    copy.is_trial = true;
    stamp->vm = hypervisor_start(stamp->hypervisor, &copy, &events, stamp);
}

static void refuse(void *context)
{
    struct stamp *stamp = context;
    loop_work(stamp->hypervisor->loop, settle, on_settled, stamp);
}

/* ---- Without a VMM ---- */

static int prepare_files(struct stamp *stamp, int fd, struct error *err)
{
    MEMORY_OWNED char *state = memory_format("%s/" TEMPLATE_STATE, stamp->folder);
    MEMORY_OWNED char *memory = memory_format("%s/" TEMPLATE_MEMORY, stamp->folder);
    stamp->source = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (stamp->source < 0 || lseek(stamp->source, 0, SEEK_SET) < 0) {
        return error_os(err, errno, "reading a machine's state");
    }
    int r = check_space(stamp->folder, stamp->memory_bytes, err);
    r = r < 0 ? r : make_file(state, 0600, &stamp->target, err);
    return r < 0 || !stamp->found->info.can_clone || stamp->is_whole
        ? r
        : make_file(memory, geteuid() == 0 ? 0444 : 0400, &stamp->memory, err);
}

static int copy_whole(struct stamp *stamp, struct error *err)
{
    struct stat status;
    MEMORY_OWNED char *state = memory_format("%s/" TEMPLATE_STATE, stamp->folder);
    off_t left = fstat(stamp->source, &status) == 0 ? status.st_size : -1;
    while (left > 0) {
        ssize_t moved = copy_file_range(stamp->source, NULL, stamp->target, NULL, (size_t)left, 0);
        if (moved <= 0) {
            return error_os(err, moved < 0 ? errno : EIO, "writing %s", state);
        }
        left -= moved;
    }
    return left == 0 ? 0 : error_os(err, errno, "reading a machine's state");
}

static void work(void *context)
{
    struct stamp *stamp = context;
    const struct driver *driver = stamp->found->driver;
    if (driver->stamp == NULL) {
        copy_whole(stamp, &stamp->error);
    } else if (stamp->is_trial) {
        driver->try_state(stamp->source, &stamp->error);
    } else {
        driver->stamp(stamp->source, stamp->memory_bytes, stamp->target, stamp->memory,
                      &stamp->error);
    }
    settle(stamp);
}

static struct stamp *new_stamp(struct hypervisor *hypervisor, const struct hypervisor_spec *spec,
                               const char *folder, hypervisor_done done, void *context)
{
    struct stamp *stamp = NEW(struct stamp);
    *stamp = (struct stamp){.hypervisor = hypervisor,
                            .folder = memory_copy_string(folder),
                            .place = memory_format("%s/stamping", folder),
                            .source = -1,
                            .target = -1,
                            .memory = -1,
                            .found = hypervisor_find(hypervisor, spec->driver),
                            .memory_bytes = spec->memory_bytes,
                            .is_whole = spec->page_bytes > 0 || spec->cell_count > 0,
                            .done = done,
                            .context = context};
    CHECK(stamp->found != NULL);
    return stamp;
}

void template_stamp(struct hypervisor *hypervisor, const struct hypervisor_spec *spec, int fd,
                    const char *folder, hypervisor_done done, void *context)
{
    struct stamp *stamp = new_stamp(hypervisor, spec, folder, done, context);
    bool needs_vmm = stamp->found->driver->stamp == NULL && !stamp->is_whole;
    int r = needs_vmm ? prepare(stamp, fd, spec->memory_bytes, &stamp->error)
                      : prepare_files(stamp, fd, &stamp->error);
    if (r < 0) {
        loop_post(hypervisor->loop, refuse, stamp);
    } else if (!needs_vmm) {
        loop_work(hypervisor->loop, work, on_settled, stamp);
    } else {
        start(stamp, spec);
    }
}

void template_try(struct hypervisor *hypervisor, const struct hypervisor_spec *spec,
                  const char *folder, hypervisor_done done, void *context)
{
    struct stamp *stamp = new_stamp(hypervisor, spec, folder, done, context);
    stamp->is_trial = true;
    if (prepare_trial(stamp, &stamp->error) < 0) {
        loop_post(hypervisor->loop, refuse, stamp);
    } else if (stamp->found->driver->try_state != NULL) {
        loop_work(hypervisor->loop, work, on_settled, stamp);
    } else {
        start(stamp, spec);
    }
}

void template_sweep(const char *folder)
{
    struct error ignored = {0};
    MEMORY_OWNED char *place = memory_format("%s/stamping", folder);
    if (file_exists(place)) {
        launch_kill(place);
        file_remove_tree(place, &ignored);
    }
}
