/* Saving a cluster, and making a data folder out of what was saved. */
#include "service/backup/backup.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/file.h"
#include "base/json.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "surface/cli/private.h"

struct saving {
    int fd;
    int cause; /* errno of a failed write */
    uint64_t bytes;
};

static bool save(const void *bytes, size_t length, void *context)
{
    struct saving *saving = context;
    if (file_write_all(saving->fd, bytes, length) < 0) {
        saving->cause = errno;
        return false;
    }
    saving->bytes += length;
    return true;
}

static int fetch(struct saving *saving, const char *name, struct error *err)
{
    ANSWER_OWNED struct answer answer = {.on_data = save, .context = saving};
    int r = request("GET", "/v1/cluster/backup", NULL, NULL, 0, &answer, err);
    if (saving->cause != 0) {
        return error_os(err, saving->cause, "writing %s", name);
    }
    return r;
}

/* Whole or not at all: beside it first. */
static int save_file(const char *path, uint64_t *ret_bytes, struct error *err)
{
    MEMORY_OWNED char *partial = memory_format("%s.partial", path);
    if (file_exists(path)) {
        return error_set(err, ERROR_EXISTS, "%s is there already: name another file", path);
    }
    FD_OWNED int fd = open(partial, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) {
        return error_os(err, errno, "writing %s", partial);
    }
    struct saving saving = {.fd = fd};
    int r = fetch(&saving, path, err);
    if (r == 0 && (fsync(fd) < 0 || rename(partial, path) < 0)) {
        r = error_os(err, errno, "writing %s", path);
    }
    if (r < 0) {
        unlink(partial);
    }
    *ret_bytes = saving.bytes;
    return r;
}

int verb_cluster_backup(const struct arguments *arguments, struct error *err)
{
    const char *path = arguments->words[0];
    if (strcmp(path, "-") == 0) {
        struct saving saving = {.fd = STDOUT_FILENO};
        return fetch(&saving, "standard output", err);
    }
    uint64_t bytes = 0;
    int r = save_file(path, &bytes, err);
    if (r < 0) {
        return r;
    }
    JSON_OWNED json_t *document = json_pack("{s:s, s:I}", "file", path, "bytes", (json_int_t)bytes);
    return print_done(arguments, document, err,
                      "saved to %s (%" PRIu64
                      " bytes); secrets in it stay sealed: keep the secrets.key of a node's data "
                      "folder, too, elsewhere",
                      path, bytes);
}

int verb_cluster_restore(const struct arguments *arguments, struct error *err)
{
    const char *folder = flag_value(arguments, "data-folder");
    folder = folder != NULL ? folder : "/var/lib/blixard";
    struct loop *loop = NULL;
    struct backup_info info = {0};
    int r = loop_new("restore", &loop, err);
    if (r < 0) {
        return r;
    }
    r = backup_restore(loop, arguments->words[0], folder, &info, err);
    loop_free(loop);
    if (r < 0) {
        return r;
    }
    JSON_OWNED json_t *document =
        json_pack("{s:s, s:I, s:s, s:I, s:I}", "data_folder", folder, "index",
                  (json_int_t)info.index, "created_at", info.created_at, "modules",
                  (json_int_t)info.blobs, "bytes", (json_int_t)info.bytes);
    return print_done(arguments, document, err,
                      "%s has the state of %s (index %" PRIu64 ", %" PRIu64
                      " modules); if it has secrets, put their key to %s/secrets.key; start it: "
                      "blixard server --data-folder %s",
                      folder, info.created_at, info.index, info.blobs, folder, folder);
}
