/*
 * Who needs a blob that no image names any more: machines, versions of Linux functions, snapshots
 * and disks that were put away.
 *
 * What is in the state is asked of it.  What is on this node's disk alone, and names blobs, is
 * read: each is a small file, and this is asked of blobs that are about to be removed, which are
 * few.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"

#include "engine/store/store.h"

#include "service/machine/content.h"
#include "service/machine/parts.h"

enum { MANIFEST_BYTES_MAX = 1 << 20, DISK_HEAD = 65536 };

int needed_by_rows(const struct machine_service *service, const char *blob, bool *ret_is_needed,
                   struct error *err)
{
    *ret_is_needed = false;
    return store_query(service->options.store, err, store_take_any, ret_is_needed,
                       "SELECT 1 FROM version WHERE module = ?1 OR instr(config, ?1) UNION ALL "
                       "SELECT 1 FROM machine_image WHERE instr(config, ?1) UNION ALL "
                       "SELECT 1 FROM machine WHERE instr(config, ?1) LIMIT 1",
                       "t", blob);
}

/* What is under way may be about to say that it needs it. */
static bool is_in_state(struct machine_service *service, const char *blob)
{
    bool is_needed = false;
    bool is_under_way = false;
    struct error ignored = {0};
    int r = needed_by_rows(service, blob, &is_needed, &ignored);
    r = r < 0 ? r
              : store_query(service->options.store, &ignored, store_take_any, &is_under_way,
                            "SELECT 1 FROM operation WHERE state = 'running' AND (kind LIKE "
                            "'machine%' OR kind LIKE 'image.%' OR kind LIKE 'function.%') LIMIT 1",
                            "");
    return r < 0 || is_needed || is_under_way;
}

/* Call `is_it` with each entry of a folder until one is; one that cannot be read may be. */
static bool any_entry(const char *folder, bool (*is_it)(const char *path, const char *blob),
                      const char *blob)
{
    DIR *entries = opendir(folder);
    const struct dirent *entry = NULL;
    bool is_found = false;
    if (entries == NULL) {
        return file_exists(folder);
    }
    while (!is_found && (entry = readdir(entries)) != NULL) {
        if (entry->d_name[0] != '.') {
            MEMORY_OWNED char *path = memory_format("%s/%s", folder, entry->d_name);
            is_found = is_it(path, blob);
        }
    }
    closedir(entries);
    return is_found;
}

static bool is_in_content(const char *folder, const char *blob)
{
    BUFFER_OWNED struct buffer text = {0};
    struct error ignored = {0};
    MEMORY_OWNED char *path = memory_format("%s/" CONTENT_MANIFEST, folder);
    if (!file_exists(path)) {
        return false;
    }
    return file_read(path, MANIFEST_BYTES_MAX, &text, &ignored) < 0 ||
        strstr(buffer_string(&text), blob) != NULL;
}

static bool is_in_snapshots(const char *folder, const char *blob)
{
    return any_entry(folder, is_in_content, blob);
}

/* A disk that was put away and is laid over another one says so in its first cluster. */
static bool is_below(const char *folder, const char *blob)
{
    char head[DISK_HEAD];
    MEMORY_OWNED char *path = memory_format("%s/disk.qcow2", folder);
    FD_OWNED int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) {
        return errno != ENOENT;
    }
    ssize_t length = pread(fd, head, sizeof(head), 0);
    return length < 0 || memmem(head, (size_t)length, blob, strlen(blob)) != NULL;
}

bool machine_needs_blob(struct machine_service *service, const char *blob)
{
    MEMORY_OWNED char *snapshots = memory_format("%s/snapshots", service->folder);
    MEMORY_OWNED char *replaced = memory_format("%s/replaced", service->folder);
    return is_in_state(service, blob) || any_entry(snapshots, is_in_snapshots, blob) ||
        any_entry(replaced, is_below, blob);
}
