/*
 * run_folders_answer(): whatever a guest asks of the folders it was given, the answer is one, and
 * what lies beside the folder stays as it is.
 *
 * The bytes are requests: a length of one byte, then so much of each.
 */
#include "surface/cli/run_folders.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/file.h"

#include "engine/vmm/abi.h"
#include "engine/vmm/hostfiles.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

static char outer[64];
static char inner[96];

static void must(bool holds)
{
    if (!holds) {
        abort();
    }
}

static void clean_up(void)
{
    struct error ignored = {0};
    file_remove_tree(outer, &ignored);
}

static void prepare(void)
{
    struct error err = {0};
    char path[128];
    if (outer[0] == '\0') {
        snprintf(outer, sizeof(outer), "/tmp/fuzz-run-folders-%d", (int)getpid());
        snprintf(inner, sizeof(inner), "%s/inner", outer);
        atexit(clean_up);
    }
    clean_up();
    must(file_make_folder(inner, 0755, &err) == 0);
    snprintf(path, sizeof(path), "%s/secret", outer);
    must(file_write(path, "secret", 6, 0644, &err) == 0);
    snprintf(path, sizeof(path), "%s/out", inner);
    must(symlink("../secret", path) == 0);
    snprintf(path, sizeof(path), "%s/up", inner);
    must(symlink("..", path) == 0);
    snprintf(path, sizeof(path), "%s/file", inner);
    must(file_write(path, "content", 7, 0644, &err) == 0);
}

static void check_outside(void)
{
    struct error err = {0};
    struct stat status;
    char path[128];
    BUFFER_OWNED struct buffer secret = {0};
    snprintf(path, sizeof(path), "%s/secret", outer);
    must(file_read(path, 64, &secret, &err) == 0 && secret.used == 6);
    must(memcmp(secret.data, "secret", 6) == 0);
    must(stat(outer, &status) == 0 && status.st_nlink == 3);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct error err = {0};
    struct run_folders *folders = run_folders_new();
    prepare();
    must(run_folders_add(folders, inner, &err) == 0);
    for (size_t at = 0; at < length;) {
        size_t part = bytes[at++];
        part = part < length - at ? part : length - at;
        BUFFER_OWNED struct buffer reply = {0};
        must(run_folders_answer(bytes + at, part, UINT64_MAX, &reply, folders) == 0);
        must(reply.used >= HOSTCALL_REPLY_HEAD && reply.used <= ABI_HOST_BYTES_MAX);
        must(memmem(reply.data, reply.used, "secret", 6) == NULL ||
             memmem(bytes, length, "secret", 6) != NULL ||
             memmem(reply.data, reply.used, "../secret", 9) != NULL);
        at += part;
    }
    run_folders_free(folders);
    check_outside();
    return 0;
}
