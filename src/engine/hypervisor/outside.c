/* A machine's VMM as the operating system and its monitor see it, whoever started it. */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/memory.h"

#include "engine/hypervisor/vm.h"

enum { PROC_BYTES_MAX = 4096 };

/* ---- What it has used ---- */

static uint64_t value_of(const char *text, const char *name)
{
    const char *at = strstr(text, name);
    return at != NULL ? strtoull(at + strlen(name), NULL, 10) : 0;
}

static void read_io(pid_t pid, struct hypervisor_usage *usage)
{
    BUFFER_OWNED struct buffer text = {0};
    struct error err = {0};
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/io", pid);
    if (file_read(path, PROC_BYTES_MAX, &text, &err) == 0) {
        usage->read_bytes = value_of(buffer_string(&text), "\nread_bytes: ");
        usage->write_bytes = value_of(buffer_string(&text), "\nwrite_bytes: ");
    }
}

bool hypervisor_is_alive(const char *folder)
{
    return launch_is_alive(folder, NULL, NULL);
}

bool hypervisor_read_limited(const char *folder, struct hypervisor_limited *ret_limited)
{
    struct jail_group_usage usage;
    if (!jail_group_read(vm_group_of(folder), &usage)) {
        return false;
    }
    *ret_limited =
        (struct hypervisor_limited){usage.throttled_ms, usage.memory_bytes, usage.memory_bytes_max};
    return true;
}

/* /proc/PID/stat (proc(5)): fields 14, 15 and 24, behind the name, which may hold anything. */
bool hypervisor_read_usage(const char *folder, struct hypervisor_usage *ret_usage)
{
    BUFFER_OWNED struct buffer text = {0};
    struct error err = {0};
    char path[64];
    pid_t pid = 0;
    unsigned long long user = 0;
    unsigned long long system = 0;
    long long pages = 0;
    if (!launch_is_alive(folder, NULL, &pid) || pid <= 0) {
        return false;
    }
    snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    if (file_read(path, PROC_BYTES_MAX, &text, &err) < 0) {
        return false;
    }
    const char *rest = strrchr(buffer_string(&text), ')');
    if (rest == NULL ||
        sscanf(rest,
               ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu %*d %*d %*d %*d %*d %*d "
               "%*u %*u %lld",
               &user, &system, &pages) != 3) {
        return false;
    }
    uint64_t ticks = (uint64_t)sysconf(_SC_CLK_TCK);
    *ret_usage = (struct hypervisor_usage){
        .cpu_user_ms = user * 1000 / ticks,
        .cpu_system_ms = system * 1000 / ticks,
        .memory_bytes = (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE),
        .pid = pid,
    };
    read_io(pid, ret_usage);
    return true;
}

/* ---- What it has said ---- */

int hypervisor_console(const char *folder, size_t history, int *ret_fd, struct error *err)
{
    char line[32];
    FD_OWNED int fd = -1;
    int length = snprintf(line, sizeof(line), "attach %zu\n", history);
    if (launch_connect(folder, LAUNCH_CONSOLE, &fd, err) < 0) {
        return error_set(err, ERROR_UNAVAILABLE, "the machine does not run: it has no console");
    }
    if (send(fd, line, (size_t)length, MSG_NOSIGNAL) != length) {
        return error_os(err, errno, "attaching to the console");
    }
    *ret_fd = fd_take(&fd);
    return 0;
}

int hypervisor_console_log(const char *folder, size_t max, struct buffer *out, struct error *err)
{
    static const char *const names[] = {"console.log.1", "console.log"};
    size_t before = out->used;
    for (size_t i = 0; i < 2; i++) {
        MEMORY_OWNED char *path = memory_format("%s/%s", folder, names[i]);
        struct error missing = {0};
        if (file_exists(path) && file_read(path, SIZE_MAX / 4, out, &missing) < 0 &&
            missing.kind != ERROR_NOT_FOUND) {
            *err = missing;
            return -(int)err->kind;
        }
    }
    if (out->used - before > max) {
        size_t extra = out->used - before - max;
        memmove(out->data + before, out->data + before + extra, max);
        out->used = before + max;
    }
    return 0;
}
