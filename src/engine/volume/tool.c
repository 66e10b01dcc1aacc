/*
 * qemu-img and mke2fs, which read what guests have written, are run like whatever reads that.
 *
 * A jail has no /proc, and so no /dev/stdin.  A key that is given as input is copied into a file of
 * that name in the jail's own root, which is memory and ends with the program.  Where there is no
 * root of its own, /dev/stdin is what it always is.
 */
#include "engine/volume/tool.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/process.h"
#include "base/text.h"

#include "engine/jail/jail.h"

/* qemu-img maps little, and copies at most what a disk has. */
enum { TOOL_MS = 3600 * 1000, SAID_MAX = 480, PIECE_BYTES = 4096 };
#define TOOL_MEMORY (UINT64_C(4) << 30)

struct cell {
    struct jail_options jail;
    bool has_input;
};

static int keep_input(void)
{
    char bytes[PIECE_BYTES];
    FD_OWNED int fd = open(TOOL_INPUT, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    ssize_t got = 0;
    while (fd >= 0 && (got = read(STDIN_FILENO, bytes, sizeof(bytes))) > 0) {
        if (file_write_all(fd, bytes, (size_t)got) < 0) {
            return -1;
        }
    }
    return fd >= 0 && got == 0 ? 0 : -1;
}

/* In the child. */
static int enter(void *context)
{
    const struct cell *cell = context;
    struct error err = {0};
    unsigned achieved = 0;
    if (jail_enter(&cell->jail, &achieved, &err) < 0) {
        dprintf(STDERR_FILENO, "%s\n", err.text);
        return -1;
    }
    return cell->has_input && (achieved & JAIL_ROOT) != 0 ? keep_input() : 0;
}

static int judge(const char *name, const struct process_result *result, struct buffer *said,
                 struct error *err)
{
    if (result->exit_code == 0 && !result->timed_out) {
        return 0;
    }
    char *text = text_make_printable((char *)(uintptr_t)buffer_string(said), false);
    bool is_full = strstr(text, strerrordesc_np(ENOSPC)) != NULL;
    return error_set(err, is_full ? ERROR_FULL : ERROR_OS, "%s: %.400s", name,
                     result->timed_out     ? "it took more than an hour"
                         : text[0] != '\0' ? text
                                           : "it failed without a word");
}

int tool_run(const char *const *argv, const char *package, const char *folder, const void *input,
             size_t input_length, struct error *err)
{
    static const char *const environment[] = {
        "PATH=/usr/sbin:/sbin:/usr/bin:/bin:/run/current-system/sw/bin", "LC_ALL=C", NULL};
    BUFFER_OWNED struct buffer said = {0};
    const struct jail_mount mounts[] = {
        JAIL_PROGRAM_MOUNTS,
        {"/sbin", "/sbin", false, true},
        {folder, folder, true, false},
    };
    struct cell cell = {
        .jail = {.mounts = mounts,
                 .mount_count = sizeof(mounts) / sizeof(mounts[0]),
                 .filter = JAIL_FILTER_TOOL,
                 .memory_bytes_max = TOOL_MEMORY},
        .has_input = input != NULL,
    };
    struct process_result result = {0};
    const struct process_options options = {
        .argv = argv,
        .envp = environment,
        .folder = folder,
        .input = input,
        .input_length = input_length,
        .output_max = SAID_MAX,
        .timeout_ms = TOOL_MS,
        .prepare = enter,
        .prepare_context = &cell,
    };
    jail_open();
    int r = process_run(&options, NULL, &said, &result, err);
    if (r < 0 && err->kind == ERROR_NOT_FOUND) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "this node has no %s, which disks of machines need (Debian: %s)", argv[0],
                         package);
    }
    return r < 0 ? r : judge(argv[0], &result, &said, err);
}
