/*
 * What a machine that moves leaves behind, and who removes it when this daemon ends before that:
 * archives that were made of it (a mark for each), and its folder, once it is another node's.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/random.h"
#include "base/text.h"

#include "engine/image/image.h"
#include "engine/store/store.h"

#include "service/machine/migrate.h"
#include "service/machine/snapshot.h"
#include "service/volume/volume.h"

/* ---- Archives that are to go ---- */

static char *marks_of(const struct machine_service *service)
{
    return memory_format("%s/migrating", service->folder);
}

char *migration_mark(const struct machine_service *service, const char *blob)
{
    struct error err = {0};
    MEMORY_OWNED char *marks = marks_of(service);
    char *mark = memory_format("%s/%s", marks, blob);
    if (file_make_folder(marks, 0700, &err) < 0 || file_write(mark, "", 0, 0600, &err) < 0) {
        log_warn("an archive of a migration is not marked: %s", err.text);
    }
    return mark;
}

void migration_remove_archive(const struct machine_service *service, const char *blob)
{
    struct error ignored = {0};
    MEMORY_OWNED char *mark = memory_format("%s/migrating/%s", service->folder, blob);
    if (image_exists(service->options.images, blob)) {
        image_remove(service->options.images, blob, &ignored);
    }
    file_remove_tree(mark, &ignored);
}

void migration_sweep(struct machine_service *service)
{
    MEMORY_OWNED char *marks = marks_of(service);
    DIR *folder = opendir(marks);
    const struct dirent *entry = NULL;
    while (folder != NULL && (entry = readdir(folder)) != NULL) {
        if (image_id_is_good(entry->d_name)) {
            migration_remove_archive(service, entry->d_name);
        } else if (text_ends_with(entry->d_name,
                                  ".tmp")) { /* file_write() was ended in the middle */
            unlinkat(dirfd(folder), entry->d_name, 0);
        }
    }
    if (folder != NULL) {
        closedir(folder);
    }
}

/* ---- Those that left ---- */

static bool take_node(sqlite3_stmt *row, void *context)
{
    const char *node = (const char *)sqlite3_column_text(row, 0);
    *(char **)context = memory_copy_string(node != NULL ? node : "");
    return false;
}

/* The mark: the operation, then a line for each layer of its volumes that leaves, "ID FORMAT". */
int migration_write_mark(const struct migration *migration, struct error *err)
{
    BUFFER_OWNED struct buffer text = {0};
    MEMORY_OWNED char *path = memory_format("%s/" MIGRATION_MARK, migration->machine->folder);
    buffer_append_format(&text, "%s\n", migration->operation);
    for (size_t i = 0; i < migration->file_count; i++) {
        const struct volume_file *file = &migration->files[i];
        if (file->copy[0] == '\0') {
            buffer_append_format(&text, "%s %s\n", file->id, file->format);
        }
    }
    return file_write(path, text.data, text.used, 0600, err);
}

static void remove_layers(const struct machine_service *service, const char *lines)
{
    char id[VOLUME_ID_SIZE];
    char format[8];
    for (const char *line = lines; line != NULL && line[0] != '\0';) {
        if (sscanf(line, "%16[0-9a-f] %7[a-z0-9]", id, format) == 2) {
            volume_move_remove(service->options.volumes, id, format);
        }
        line = strchr(line, '\n');
        line = line != NULL ? line + 1 : NULL;
    }
}

/* A row that was read may be an old one, from before it had come here: one that knows of the
 * operation is not. */
static bool knows_operation(const struct machine_service *service, const char *mark)
{
    bool is_known = false;
    struct error ignored = {0};
    MEMORY_OWNED char *operation = memory_copy_text(mark, strcspn(mark, "\n"));
    store_query(service->options.store, &ignored, store_take_any, &is_known,
                "SELECT 1 FROM operation WHERE key = ?", "t", operation);
    return operation[0] == '\0' || is_known; /* "": of an older version */
}

/* It was the other node's before this one had removed it: only a later row can say so. */
static void sweep_left(const struct machine_service *service, const char *id)
{
    enum { MARK_BYTES_MAX = 1 << 20 };
    struct error err = {0};
    BUFFER_OWNED struct buffer text = {0};
    MEMORY_OWNED char *folder = memory_format("%s/%s", service->folder, id);
    MEMORY_OWNED char *mark = memory_format("%s/" MIGRATION_MARK, folder);
    MEMORY_OWNED char *node = NULL;
    if (strlen(id) == MACHINE_ID_SIZE - 1 && file_exists(mark) &&
        store_query(service->options.store, &err, take_node, &node,
                    "SELECT node FROM machine WHERE id = ?", "t", id) == 0 &&
        node != NULL && strcmp(node, service->node_name) != 0 &&
        file_read(mark, MARK_BYTES_MAX, &text, &err) == 0 &&
        knows_operation(service, buffer_string(&text))) {
        MEMORY_OWNED char *snapshots = snapshot_folder_all(service, id);
        hypervisor_end(folder);
        remove_layers(service, strchr(buffer_string(&text), '\n'));
        migration_remove_folder(service, snapshots);
        migration_remove_folder(service, folder);
    }
}

void migration_sweep_left(struct machine_service *service)
{
    DIR *folder = opendir(service->folder);
    const struct dirent *entry = NULL;
    while (folder != NULL && (entry = readdir(folder)) != NULL) {
        sweep_left(service, entry->d_name);
    }
    if (folder != NULL) {
        closedir(folder);
    }
}

/* ---- Removing ---- */

/* Moved away first: what a crash leaves there goes at the next start. */
void migration_remove_folder(const struct machine_service *service, const char *path)
{
    struct error err = {0};
    char unique[MACHINE_ID_SIZE];
    random_hex(unique, MACHINE_ID_SIZE - 1);
    MEMORY_OWNED char *cloning = memory_format("%s/cloning", service->folder);
    MEMORY_OWNED char *away = memory_format("%s/%s", cloning, unique);
    if (!file_exists(path)) {
        return;
    }
    int r = file_make_folder(cloning, 0711, &err);
    if (r == 0 && rename(path, away) < 0) {
        r = error_os(&err, errno, "moving %s away", path);
    }
    r = r < 0 ? r : file_remove_tree(away, &err);
    if (r < 0) {
        log_warn("what a machine that moved has left: %s", err.text);
    }
}
