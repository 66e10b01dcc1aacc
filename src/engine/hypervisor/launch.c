/* Starting monitors and finding them again: see launch.h. */
#include "engine/hypervisor/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/process.h"
#include "base/text.h"

enum { START_MS_MAX = 30000, EXIT_BYTES_MAX = 16 << 10 };

/* ---- Writing the order ---- */

static void write_texts(struct json_writer *writer, const char *key, const char *const *texts)
{
    json_write_key(writer, key);
    json_write_begin_array(writer);
    for (; *texts != NULL; texts++) {
        json_write_string(writer, *texts);
    }
    json_write_end_array(writer);
}

static void write_json(struct json_writer *writer, const char *key, const json_t *value)
{
    if (value != NULL) {
        MEMORY_OWNED char *text = json_dumps(value, JSON_COMPACT);
        json_write_key(writer, key);
        json_write_raw(writer, text, strlen(text));
    }
}

static void write_runner(struct json_writer *writer, const struct launch_runner *runner)
{
    json_write_key(writer, "runner");
    json_write_begin_object(writer);
    json_write_field_string(writer, "state", runner->state);
    json_write_field_string(writer, "shut_down", runner->shut_down);
    json_write_field_u64(writer, "file_bytes_max", runner->file_bytes_max);
    json_write_field_bool(writer, "queues", runner->has_queues);
    json_write_key(writer, "taps");
    json_write_begin_array(writer);
    for (size_t i = 0; i < runner->tap_count; i++) {
        json_write_begin_array(writer);
        json_write_string(writer, runner->taps[i].tap);
        json_write_string(writer, runner->taps[i].name);
        json_write_end_array(writer);
    }
    json_write_end_array(writer);
    json_write_key(writer, "macvtaps");
    json_write_begin_array(writer);
    for (size_t i = 0; i < runner->macvtap_count; i++) {
        json_write_begin_array(writer);
        json_write_string(writer, runner->macvtaps[i].name);
        json_write_string(writer, runner->macvtaps[i].mac);
        json_write_string(writer, runner->macvtaps[i].link);
        json_write_string(writer, runner->macvtaps[i].mode);
        json_write_end_array(writer);
    }
    json_write_end_array(writer);
    json_write_field_u64(writer, "queue_count", runner->queue_count);
    json_write_end_object(writer);
}

static int write_order(const struct launch_order *order, struct error *err)
{
    BUFFER_OWNED struct buffer text = {0};
    MEMORY_OWNED char *path = memory_format("%s/" LAUNCH_FILE, order->folder);
    struct json_writer writer = json_writer_to(&text);
    json_write_begin_object(&writer);
    write_texts(&writer, "argv", order->argv);
    write_texts(&writer, "sockets", order->sockets);
    write_texts(&writer, "taps", order->taps);
    json_write_field_bool(&writer, "vhost", order->vhost);
    json_write_key(&writer, "mounts");
    json_write_begin_array(&writer);
    for (size_t i = 0; i < order->mount_count; i++) {
        json_write_begin_array(&writer);
        json_write_string(&writer, order->mounts[i].path);
        json_write_bool(&writer, order->mounts[i].writable);
        if (order->mounts[i].at != NULL) {
            json_write_string(&writer, order->mounts[i].at);
        }
        json_write_end_array(&writer);
    }
    json_write_end_array(&writer);
    json_write_key(&writer, "devices");
    json_write_begin_array(&writer);
    for (size_t i = 0; i < order->device_count; i++) {
        json_write_string(&writer, order->devices[i]);
    }
    json_write_end_array(&writer);
    json_write_field_u64(&writer, "locked_bytes_max", order->locked_bytes_max);
    json_write_field_u64(&writer, "uid", order->uid);
    json_write_field_u64(&writer, "gid", order->gid);
    json_write_key(&writer, "shares");
    json_write_begin_array(&writer);
    for (size_t i = 0; i < order->share_count; i++) {
        json_write_begin_array(&writer);
        json_write_string(&writer, order->shares[i].path);
        json_write_string(&writer, order->shares[i].tag);
        json_write_bool(&writer, order->shares[i].read_only);
        if (order->shares[i].socket != NULL) {
            json_write_string(&writer, order->shares[i].socket);
        }
        json_write_end_array(&writer);
    }
    json_write_end_array(&writer);
    json_write_field_string(&writer, "share_program", order->share_program);
    json_write_key(&writer, "limits");
    json_write_begin_array(&writer);
    json_write_u64(&writer, order->limits.cpu_percent);
    json_write_u64(&writer, order->limits.memory_bytes);
    json_write_u64(&writer, order->limits.processes);
    if (order->limits.bounds_huge_pages) {
        json_write_u64(&writer, order->limits.huge_2m_bytes);
        json_write_u64(&writer, order->limits.huge_1g_bytes);
    }
    json_write_end_array(&writer);
    json_write_field_bool(&writer, "network", order->network);
    json_write_field_bool(&writer, "keeps_files", order->keeps_files);
    write_json(&writer, "plan", order->plan);
    write_json(&writer, "incoming", order->incoming);
    if (order->runner != NULL) {
        write_runner(&writer, order->runner);
    }
    json_write_end_object(&writer);
    return file_write(path, text.data, text.used, 0600, err);
}

/* Nothing of an earlier VMM is left in it. */
static int make_scratch(const struct launch_order *order, struct error *err)
{
    MEMORY_OWNED char *path = memory_format("%s/" LAUNCH_SCRATCH, order->folder);
    int r = file_remove_tree(path, err);
    if (r == 0 && mkdir(path, 0700) < 0) {
        return error_os(err, errno, "making %s", path);
    }
    if (r == 0 && order->uid != 0 && lchown(path, order->uid, order->uid) < 0) {
        return error_os(err, errno, "giving %s to the VMM", path);
    }
    return r;
}

/* One that has written how its VMM ended is about to end, too. */
static bool is_taken(const char *folder)
{
    enum { LOOKS = 200, MOMENT_NS = 10000000 };
    const struct timespec moment = {.tv_nsec = MOMENT_NS};
    MEMORY_OWNED char *exit = memory_format("%s/" LAUNCH_EXIT, folder);
    bool is_alive = launch_is_alive(folder, NULL, NULL);
    for (int i = 0; i < LOOKS && is_alive && file_exists(exit); i++) {
        nanosleep(&moment, NULL);
        is_alive = launch_is_alive(folder, NULL, NULL);
    }
    return is_alive;
}

int launch_start(const struct launch_order *order, struct error *err)
{
    BUFFER_OWNED struct buffer said = {0};
    struct process_result result = {0};
    const char *argv[] = {order->monitor, order->folder, NULL};
    const struct process_options options = {
        .argv = argv, .output_max = ERROR_TEXT_MAX - 1, .timeout_ms = START_MS_MAX};
    if (is_taken(order->folder)) {
        return error_set(err, ERROR_EXISTS, "a monitor runs in %s already", order->folder);
    }
    int r = order->has_scratch ? make_scratch(order, err) : 0;
    r = r < 0 ? r : write_order(order, err);
    r = r < 0 ? r : process_run(&options, NULL, &said, &result, err);
    if (r == 0 && (result.exit_code != 0 || result.timed_out)) {
        text_make_printable((char *)(uintptr_t)buffer_string(&said), true);
        return error_set(err, ERROR_UNAVAILABLE, "the VMM could not be started: %s",
                         said.used > 0          ? buffer_string(&said)
                             : result.timed_out ? "its monitor did not come up within 30 s"
                                                : "its monitor ended without a word");
    }
    return r;
}

/* ---- Finding it ---- */

bool launch_is_alive(const char *folder, pid_t *ret_monitor, pid_t *ret_vmm)
{
    char text[64] = "";
    int monitor = 0;
    int vmm = 0;
    MEMORY_OWNED char *path = memory_format("%s/" LAUNCH_LOCK, folder);
    FD_OWNED int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || flock(fd, LOCK_SH | LOCK_NB) == 0 || errno != EWOULDBLOCK) {
        return false;
    }
    ssize_t got = read(fd, text, sizeof(text) - 1);
    if (got > 0) {
        char *end = NULL;
        monitor = (int)strtol(text, &end, 10);
        vmm = (int)strtol(end, NULL, 10);
    }
    if (ret_monitor != NULL) {
        *ret_monitor = monitor;
    }
    if (ret_vmm != NULL) {
        *ret_vmm = vmm;
    }
    return true;
}

/* The number of a process that has ended may be another's: the lock is looked at once more when the
 * process is held. */
void launch_kill(const char *folder)
{
    pid_t pid = 0;
    pid_t again = 0;
    if (!launch_is_alive(folder, &pid, NULL) || pid <= 1) {
        return;
    }
    FD_OWNED int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (fd >= 0 && launch_is_alive(folder, &again, NULL) && again == pid) {
        syscall(SYS_pidfd_send_signal, fd, SIGTERM, NULL, 0);
    }
}

int launch_shut_down(const char *folder, struct error *err)
{
    static const char word[] = "shut-down\n";
    FD_OWNED int fd = -1;
    int r = launch_connect(folder, LAUNCH_CONSOLE, &fd, err);
    if (r == 0 && send(fd, word, sizeof(word) - 1, MSG_NOSIGNAL) != (ssize_t)sizeof(word) - 1) {
        return error_os(err, errno, "telling the monitor to shut the machine down");
    }
    return r;
}

/* ---- Leases ---- */

int launch_write_lease(const char *folder, uint64_t until_ms, struct error *err)
{
    const uint64_t pair[2] = {until_ms, ~until_ms};
    MEMORY_OWNED char *path = memory_format("%s/" LAUNCH_LEASE, folder);
    FD_OWNED int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        return error_os(err, errno, "opening %s", path);
    }
    if (pwrite(fd, pair, sizeof(pair), 0) != (ssize_t)sizeof(pair)) {
        return error_os(err, errno, "writing %s", path);
    }
    return 0;
}

bool launch_has_lease(const char *folder)
{
    MEMORY_OWNED char *path = memory_format("%s/" LAUNCH_LEASE, folder);
    return file_exists(path);
}

int launch_open_lease(int folder, int *ret_fd, struct error *err)
{
    const uint64_t pair[2] = {LAUNCH_NO_LEASE, ~LAUNCH_NO_LEASE};
    FD_OWNED int fd = openat(folder, LAUNCH_LEASE, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) {
        return error_os(err, errno, "opening " LAUNCH_LEASE);
    }
    if (lseek(fd, 0, SEEK_END) == 0 && pwrite(fd, pair, sizeof(pair), 0) != (ssize_t)sizeof(pair)) {
        return error_os(err, errno, "writing " LAUNCH_LEASE);
    }
    *ret_fd = fd_take(&fd);
    return 0;
}

bool launch_read_lease(int fd, uint64_t *ret_until_ms)
{
    uint64_t pair[2] = {0, 0};
    bool is_whole =
        pread(fd, pair, sizeof(pair), 0) == (ssize_t)sizeof(pair) && pair[0] == ~pair[1];
    if (is_whole) {
        *ret_until_ms = pair[0];
    }
    return is_whole;
}

int launch_read_exit(const char *folder, struct launch_exit *ret_exit, struct error *err)
{
    BUFFER_OWNED struct buffer text = {0};
    JSON_OWNED json_t *document = NULL;
    MEMORY_OWNED char *path = memory_format("%s/" LAUNCH_EXIT, folder);
    int r = file_read(path, EXIT_BYTES_MAX, &text, err);
    r = r < 0 ? r : json_read(text.data, text.used, &document, err);
    if (r < 0) {
        return r;
    }
    const char *words = json_string_value(json_object_get(document, "text"));
    ret_exit->code = (int)json_integer_value(json_object_get(document, "code"));
    ret_exit->signal = (int)json_integer_value(json_object_get(document, "signal"));
    ret_exit->at_ms = (uint64_t)json_integer_value(json_object_get(document, "at_ms"));
    snprintf(ret_exit->text, sizeof(ret_exit->text), "%.500s", words != NULL ? words : "");
    return 0;
}

int launch_connect(const char *folder, const char *name, int *ret_fd, struct error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    FD_OWNED int place = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    FD_OWNED int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/%s", place, name);
    if (place < 0 || fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        int number = errno;
        return error_set(err, ERROR_UNAVAILABLE, "%s/%s: %s", folder, name,
                         strerrordesc_np(number));
    }
    *ret_fd = fd_take(&fd);
    return 0;
}

/* By its inode: between two looks at a name of theirs, a VMM could change what it means. */
int launch_adopt(const char *folder, const char *name, struct error *err)
{
    char inode[48];
    struct stat place;
    struct stat socket;
    MEMORY_OWNED char *scratch = memory_format("%s/" LAUNCH_SCRATCH, folder);
    MEMORY_OWNED char *target = memory_format("%s/%s", folder, name);
    FD_OWNED int from = open(scratch, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    FD_OWNED int fd = openat(from, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        return error_set(err, ERROR_NOT_FOUND, "%s/%s: %s", scratch, name, strerrordesc_np(errno));
    }
    if (fstat(from, &place) < 0 || fstat(fd, &socket) < 0 || !S_ISSOCK(socket.st_mode) ||
        socket.st_uid != place.st_uid) {
        return error_set(err, ERROR_CORRUPT, "%s/%s is no socket of its VMM", scratch, name);
    }
    snprintf(inode, sizeof(inode), "/proc/self/fd/%d", fd);
    unlink(target);
    return linkat(AT_FDCWD, inode, AT_FDCWD, target, AT_SYMLINK_FOLLOW) == 0
        ? 0
        : error_os(err, errno, "taking over %s/%s", scratch, name);
}

static int read_member(const char *folder, const char *key, json_t **ret_value, struct error *err)
{
    BUFFER_OWNED struct buffer text = {0};
    JSON_OWNED json_t *document = NULL;
    MEMORY_OWNED char *path = memory_format("%s/" LAUNCH_FILE, folder);
    int r = file_read(path, LAUNCH_BYTES_MAX, &text, err);
    r = r < 0 ? r : json_read(text.data, text.used, &document, err);
    if (r == 0) {
        *ret_value = json_incref(json_object_get(document, key));
    }
    return r;
}

int launch_read_plan(const char *folder, json_t **ret_plan, struct error *err)
{
    return read_member(folder, "plan", ret_plan, err);
}

int launch_read_incoming(const char *folder, json_t **ret_incoming, struct error *err)
{
    return read_member(folder, "incoming", ret_incoming, err);
}

/* ---- Reading it ---- */

static int read_texts(const json_t *list, char **ret_texts, size_t max, size_t *ret_count,
                      struct error *err)
{
    size_t count = json_array_size(list);
    if (!json_is_array(list) || count > max) {
        return error_set(err, ERROR_INVALID, LAUNCH_FILE ": a list has %zu texts", count);
    }
    for (size_t i = 0; i < count; i++) {
        const char *text = json_string_value(json_array_get(list, i));
        if (text == NULL) {
            return error_set(err, ERROR_INVALID, LAUNCH_FILE ": a text is missing");
        }
        ret_texts[i] = memory_copy_string(text);
    }
    *ret_count = count;
    return 0;
}

static int read_mounts(const json_t *list, struct launch *launch, struct error *err)
{
    size_t count = json_array_size(list);
    if (count > LAUNCH_MOUNTS_MAX) {
        return error_set(err, ERROR_INVALID, LAUNCH_FILE ": %zu mounts", count);
    }
    for (size_t i = 0; i < count; i++) {
        const json_t *pair = json_array_get(list, i);
        const char *path = json_string_value(json_array_get(pair, 0));
        const char *at = json_string_value(json_array_get(pair, 2));
        if (path == NULL || path[0] != '/' || (at != NULL && at[0] != '/')) {
            return error_set(err, ERROR_INVALID, LAUNCH_FILE ": a mount has no path");
        }
        char *copy = memory_copy_string(path);
        launch->mounts[i] =
            (struct jail_mount){.source = copy,
                                .target = at != NULL ? memory_copy_string(at) : copy,
                                .writable = json_is_true(json_array_get(pair, 1)),
                                .optional = true};
    }
    launch->jail.mounts = launch->mounts;
    launch->jail.mount_count = count;
    return 0;
}

/* One that an older daemon wrote has none. */
static int read_shares(const json_t *document, struct launch *launch, struct error *err)
{
    const json_t *list = json_object_get(document, "shares");
    const char *program = json_string_value(json_object_get(document, "share_program"));
    size_t count = json_array_size(list);
    if (count > LAUNCH_SHARES_MAX || (count > 0 && program == NULL)) {
        return error_set(err, ERROR_INVALID, LAUNCH_FILE ": %zu shares", count);
    }
    for (size_t i = 0; i < count; i++) {
        const json_t *share = json_array_get(list, i);
        const char *path = json_string_value(json_array_get(share, 0));
        const char *tag = json_string_value(json_array_get(share, 1));
        const char *socket = json_string_value(json_array_get(share, 3));
        if (path == NULL || tag == NULL || path[0] != '/' || strchr(tag, '/') != NULL ||
            (socket != NULL && strchr(socket, '/') != NULL)) {
            return error_set(err, ERROR_INVALID, LAUNCH_FILE ": a share has no path or tag");
        }
        launch->shares[i] =
            (struct launch_share){.path = memory_copy_string(path),
                                  .tag = memory_copy_string(tag),
                                  .read_only = json_is_true(json_array_get(share, 2)),
                                  .socket = socket != NULL ? memory_copy_string(socket) : NULL};
    }
    launch->share_count = count;
    launch->share_program = program != NULL ? memory_copy_string(program) : NULL;
    return 0;
}

static bool take_member(const json_t *list, size_t index, char *ret_text, size_t size)
{
    const char *text = json_string_value(json_array_get(list, index));
    snprintf(ret_text, size, "%s", text != NULL ? text : "");
    return text != NULL && strlen(text) < size;
}

/* One that an older daemon wrote has none. */
static int read_macvtaps(const json_t *list, struct launch_runner *runner, struct error *err)
{
    size_t count = json_array_size(list);
    for (size_t i = 0; i < count; i++) {
        struct hypervisor_runner_macvtap *macvtap = &runner->macvtaps[i];
        const json_t *row = json_array_get(list, i);
        if (i == LAUNCH_TAPS_MAX || !take_member(row, 0, macvtap->name, sizeof(macvtap->name)) ||
            !take_member(row, 1, macvtap->mac, sizeof(macvtap->mac)) ||
            !take_member(row, 2, macvtap->link, sizeof(macvtap->link)) ||
            !take_member(row, 3, macvtap->mode, sizeof(macvtap->mode))) {
            return error_set(err, ERROR_INVALID, LAUNCH_FILE ": its macvtaps are none");
        }
    }
    runner->macvtap_count = count;
    return 0;
}

static int read_runner(const json_t *document, struct launch *launch, struct error *err)
{
    const json_t *runner = json_object_get(document, "runner");
    const json_t *taps = json_object_get(runner, "taps");
    const char *state = json_string_value(json_object_get(runner, "state"));
    const char *shut_down = json_string_value(json_object_get(runner, "shut_down"));
    size_t count = json_array_size(taps);
    if (runner == NULL) {
        return 0;
    }
    if (state == NULL || state[0] != '/' || shut_down == NULL || count > LAUNCH_TAPS_MAX) {
        return error_set(err, ERROR_INVALID, LAUNCH_FILE ": a runner has no folder");
    }
    for (size_t i = 0; i < count; i++) {
        const char *tap = json_string_value(json_array_get(json_array_get(taps, i), 0));
        const char *name = json_string_value(json_array_get(json_array_get(taps, i), 1));
        if (tap == NULL || name == NULL) {
            return error_set(err, ERROR_INVALID, LAUNCH_FILE ": a runner's tap has no name");
        }
        launch->runner.taps[i] =
            (struct launch_tap){memory_copy_string(tap), memory_copy_string(name)};
    }
    int r = read_macvtaps(json_object_get(runner, "macvtaps"), &launch->runner, err);
    launch->runner.queue_count = (unsigned)json_u64(runner, "queue_count");
    launch->runner.has_queues = json_is_true(json_object_get(runner, "queues"));
    launch->runner.tap_count = count;
    launch->runner.state = memory_copy_string(state);
    launch->runner.shut_down = memory_copy_string(shut_down);
    launch->jail.file_bytes_max = json_u64(runner, "file_bytes_max");
    return r;
}

int launch_read(int folder, struct launch *ret_launch, struct error *err)
{
    size_t count = 0;
    BUFFER_OWNED struct buffer text = {0};
    JSON_OWNED json_t *document = NULL;
    MEMORY_OWNED char *path = memory_format("/proc/self/fd/%d/" LAUNCH_FILE, folder);
    char *sockets[LAUNCH_SOCKETS_MAX];
    char *taps[LAUNCH_TAPS_MAX];
    *ret_launch = (struct launch){0};
    int r = file_read(path, LAUNCH_BYTES_MAX, &text, err);
    r = r < 0 ? r : json_read(text.data, text.used, &document, err);
    r = r < 0 ? r
              : read_texts(json_object_get(document, "argv"), ret_launch->argv,
                           sizeof(ret_launch->argv) / sizeof(ret_launch->argv[0]) - 1, &count, err);
    r = r < 0 ? r
              : read_texts(json_object_get(document, "sockets"), sockets, LAUNCH_SOCKETS_MAX,
                           &ret_launch->socket_count, err);
    /* One that an older daemon wrote has none. */
    const json_t *list = json_object_get(document, "taps");
    r = r < 0 || json_array_size(list) == 0
        ? r
        : read_texts(list, taps, LAUNCH_TAPS_MAX, &ret_launch->tap_count, err);
    char *devices[LAUNCH_DEVICES_MAX];
    list = json_object_get(document, "devices");
    r = r < 0 || json_array_size(list) == 0
        ? r
        : read_texts(list, devices, LAUNCH_DEVICES_MAX, &ret_launch->device_count, err);
    r = r < 0 ? r : read_mounts(json_object_get(document, "mounts"), ret_launch, err);
    r = r < 0 ? r : read_shares(document, ret_launch, err);
    r = r < 0 ? r : read_runner(document, ret_launch, err);
    if (r == 0 && count == 0) {
        return error_set(err, ERROR_INVALID, LAUNCH_FILE ": there is no program");
    }
    if (r < 0) {
        return r;
    }
    for (size_t i = 0; i < ret_launch->socket_count; i++) {
        ret_launch->sockets[i] = sockets[i];
    }
    for (size_t i = 0; i < ret_launch->tap_count; i++) {
        ret_launch->taps[i] = taps[i];
    }
    for (size_t i = 0; i < ret_launch->device_count; i++) {
        ret_launch->devices[i] = devices[i];
    }
    ret_launch->jail.locked_bytes_max = json_u64(document, "locked_bytes_max");
    ret_launch->vhost = json_is_true(json_object_get(document, "vhost"));
    ret_launch->jail.uid = (uid_t)json_integer_value(json_object_get(document, "uid"));
    ret_launch->jail.gid = (gid_t)json_integer_value(json_object_get(document, "gid"));
    const json_t *limits = json_object_get(document, "limits");
    ret_launch->limits = (struct jail_group_limits){
        .cpu_percent = (unsigned)json_integer_value(json_array_get(limits, 0)),
        .memory_bytes = (uint64_t)json_integer_value(json_array_get(limits, 1)),
        .processes = (unsigned)json_integer_value(json_array_get(limits, 2)),
        .bounds_huge_pages = json_array_size(limits) > 3,
        .huge_2m_bytes = (uint64_t)json_integer_value(json_array_get(limits, 3)),
        .huge_1g_bytes = (uint64_t)json_integer_value(json_array_get(limits, 4))};
    ret_launch->jail.network = json_is_true(json_object_get(document, "network"));
    ret_launch->jail.filter = json_is_true(json_object_get(document, "keeps_files"))
        ? JAIL_FILTER_NO_HOLES
        : JAIL_FILTER_NONE;
    return 0;
}
