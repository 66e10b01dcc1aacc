/* Saving a cluster, and making a data folder out of what was saved. */
#include "service/backup/backup.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "surface/cli/private.h"

int verb_cluster_backup(const struct arguments *arguments, struct error *err)
{
    static const char target[] = "/v1/cluster/backup";
    const char *path = arguments->words[0];
    if (strcmp(path, "-") == 0) {
        return download_to(target, STDOUT_FILENO, "standard output", NULL, err);
    }
    uint64_t bytes = 0;
    int r = download_file(target, path, &bytes, err);
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
