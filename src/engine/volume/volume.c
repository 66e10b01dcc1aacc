/* Layers as files: names, room, what they take.  See volume.h. */
#include "engine/volume/volume.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/check.h"
#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"

static const char *const names[] = {[VOLUME_RAW] = "raw", [VOLUME_QCOW2] = "qcow2"};

const char *volume_format_text(enum volume_format format)
{
    return names[format];
}

bool volume_format_parse(const char *text, enum volume_format *ret_format)
{
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(names[i], text) == 0) {
            *ret_format = (enum volume_format)i;
            return true;
        }
    }
    return false;
}

char *volume_path(const char *folder, const char *id, enum volume_format format)
{
    CHECK(folder[0] == '/');
    return memory_format("%s/%s.%s", folder, id, names[format]);
}

int volume_check_size(const char *folder, uint64_t size_bytes, struct error *err)
{
    struct statvfs status;
    char wanted[TEXT_SIZE_MAX];
    char there[TEXT_SIZE_MAX];
    if (size_bytes < VOLUME_BYTES_MIN || size_bytes > VOLUME_BYTES_MAX || size_bytes % 4096 != 0) {
        return error_set(err, ERROR_INVALID,
                         "a volume has from 1 MiB to 16 TiB, in whole blocks of 4096 bytes; this "
                         "is %" PRIu64 " bytes",
                         size_bytes);
    }
    if (statvfs(folder, &status) < 0) {
        return error_os(err, errno, "examining %s", folder);
    }
    uint64_t all = (uint64_t)status.f_blocks * status.f_frsize;
    text_write_size(size_bytes, wanted);
    if (size_bytes > all) {
        text_write_size(all, there);
        return error_set(err, ERROR_FULL,
                         "a volume of %s can never be filled: the disk that holds %s has %s in all",
                         wanted, folder, there);
    }
    return file_check_room(folder, err);
}

int volume_remove(const char *folder, const char *id, enum volume_format format, struct error *err)
{
    MEMORY_OWNED char *path = volume_path(folder, id, format);
    return unlink(path) == 0 || errno == ENOENT ? 0 : error_os(err, errno, "removing %s", path);
}

uint64_t volume_used_bytes(const char *folder, const char *id, enum volume_format format)
{
    struct stat status;
    MEMORY_OWNED char *path = volume_path(folder, id, format);
    return stat(path, &status) == 0 ? (uint64_t)status.st_blocks * 512 : 0;
}

/* ---- After a start ---- */

static void look_at(const char *folder, const char *name,
                    void (*on_layer)(const char *id, void *context), void *context)
{
    enum volume_format format;
    const char *dot = strchr(name, '.');
    if (text_ends_with(name, ".partial")) {
        MEMORY_OWNED char *path = memory_format("%s/%s", folder, name);
        unlink(path);
    } else if (dot != NULL && dot != name && volume_format_parse(dot + 1, &format)) {
        MEMORY_OWNED char *id = memory_copy_text(name, (size_t)(dot - name));
        on_layer(id, context);
    }
}

int volume_sweep(const char *folder, void (*on_layer)(const char *id, void *context), void *context,
                 struct error *err)
{
    DIR *stream = opendir(folder);
    const struct dirent *entry = NULL;
    if (stream == NULL) {
        return error_os(err, errno, "reading %s", folder);
    }
    while ((entry = readdir(stream)) != NULL) {
        look_at(folder, entry->d_name, on_layer, context);
    }
    closedir(stream);
    return 0;
}
