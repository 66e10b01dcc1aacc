/* See iso.h. */
#include "engine/image/iso.h"

#include <archive.h>
#include <archive_entry.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/buffer.h"
#include "base/error.h"

enum { BLOCK = 2048 };

static la_ssize_t take(struct archive *archive, void *context, const void *bytes, size_t length)
{
    struct buffer *out = context;
    (void)archive;
    buffer_append(out, bytes, length);
    return (la_ssize_t)length;
}

static int add_file(struct archive *archive, const struct iso_file *file)
{
    struct archive_entry *entry = archive_entry_new();
    archive_entry_set_pathname(entry, file->name);
    archive_entry_set_filetype(entry, AE_IFREG);
    archive_entry_set_perm(entry, (mode_t)file->mode);
    archive_entry_set_size(entry, (la_int64_t)file->length);
    archive_entry_set_mtime(entry, 0, 0);
    int r = archive_write_header(archive, entry);
    archive_entry_free(entry);
    if (r == ARCHIVE_OK && file->length > 0 &&
        archive_write_data(archive, file->bytes, file->length) != (la_ssize_t)file->length) {
        r = ARCHIVE_FATAL;
    }
    return r;
}

int iso_write(const char *label, const struct iso_file *files, size_t count, struct buffer *out,
              struct error *err)
{
    char options[128];
    struct archive *archive = archive_write_new();
    snprintf(options, sizeof(options), "volume-id=%s,zisofs=disabled", label);
    int r = archive_write_set_format_iso9660(archive);
    r = r < ARCHIVE_OK ? r : archive_write_set_options(archive, options);
    r = r < ARCHIVE_OK ? r : archive_write_set_bytes_per_block(archive, BLOCK);
    r = r < ARCHIVE_OK ? r : archive_write_open(archive, out, NULL, take, NULL);
    for (size_t i = 0; i < count && r == ARCHIVE_OK; i++) {
        r = add_file(archive, &files[i]);
    }
    r = r < ARCHIVE_OK ? r : archive_write_close(archive);
    if (r < ARCHIVE_OK) {
        error_set(err, ERROR_OS, "making a disk image: %.200s", archive_error_string(archive));
    }
    archive_write_free(archive);
    return r < ARCHIVE_OK ? -(int)ERROR_OS : 0;
}
