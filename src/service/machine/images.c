/* Images of machines: names for blobs that were uploaded. */
#include <string.h>
#include <sys/stat.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/text.h"

#include "engine/image/disk.h"
#include "engine/image/guest.h"
#include "engine/image/image.h"
#include "engine/store/store.h"

#include "service/machine/parts.h"
#include "service/replica/replica.h"

static const char *const formats[] = {"erofs", "squashfs", "ext4"};

static int check_blob(struct machine_service *service, const json_t *image, const char *key,
                      bool is_needed, struct error *err)
{
    const char *id = json_text(image, key);
    if (id[0] == '\0') {
        return is_needed ? error_set(err, ERROR_INVALID, "an image has a %s", key) : 0;
    }
    if (!image_id_is_good(id)) {
        return error_set(err, ERROR_INVALID, "%s is no id of a blob: 64 hex digits", key);
    }
    return image_exists(service->options.images, id)
        ? 0
        : error_set(err, ERROR_NOT_FOUND, "%s: blob %.16s... was not uploaded to this node", key,
                    id);
}

/* One that brings its own kernel has nothing besides. */
static int check_disk(struct machine_service *service, const json_t *image, struct error *err)
{
    static const char *const others[] = {"kernel", "initrd", "root", "cmdline"};
    const char *firmware = json_text(image, "firmware");
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        if (json_text(image, others[i])[0] != '\0') {
            return error_set(err, ERROR_INVALID,
                             "an image with a disk boots what is on it: it has no %s", others[i]);
        }
    }
    if (!settings_is_firmware(firmware)) {
        return error_set(err, ERROR_INVALID, "firmware is bios or uefi, not %.32s", firmware);
    }
    return check_blob(service, image, "disk", true, err);
}

static int check_image(struct machine_service *service, const json_t *image, struct error *err)
{
    if (json_text(image, "disk")[0] != '\0') {
        return check_disk(service, image, err);
    }
    const char *format = json_text(image, "root_format");
    bool has_root = json_text(image, "root")[0] != '\0';
    bool is_known = !has_root;
    for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
        is_known = is_known || strcmp(format, formats[i]) == 0;
    }
    int r = check_blob(service, image, "kernel", true, err);
    r = r < 0 ? r : check_blob(service, image, "initrd", false, err);
    r = r < 0 ? r : check_blob(service, image, "root", false, err);
    r = r < 0 ? r : program_check(image, err);
    if (r == 0 && !is_known) {
        return error_set(err, ERROR_INVALID, "root_format is erofs, squashfs or ext4, not %.32s",
                         format);
    }
    bool brings_agent = json_is_true(json_object_get(image, "brings_agent"));
    size_t words_max = brings_agent ? GUEST_WORDS_MAX : 256;
    if (r == 0 && brings_agent && json_text(image, "initrd")[0] == '\0') {
        return error_set(err, ERROR_INVALID, "an image that brings its agent has an initrd");
    }
    if (r == 0 &&
        (!text_is_printable(json_text(image, "cmdline")) ||
         strlen(json_text(image, "cmdline")) > words_max)) {
        return error_set(err, ERROR_INVALID, "cmdline is at most %zu printable characters",
                         words_max);
    }
    return r;
}

/* As names are, and '.' besides: debian-12.5. */
static bool is_image_name(const char *name)
{
    size_t length = strlen(name);
    return length > 0 && length <= 63 && name[0] >= 'a' && name[0] <= 'z' &&
        strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-.") == length;
}

struct setting {
    struct machine_service *service;
    char *project;
    char *name;
    json_t *image;
    char *disk; /* path of its blob, or NULL */
    struct disk_image found;
    struct error error;
    machine_done *done;
    void *context;
};

static void free_setting(struct setting *setting)
{
    json_decref(setting->image);
    free(setting->project);
    free(setting->name);
    free(setting->disk);
    free(setting);
}

/* On a thread: what was uploaded says it is may be anything. */
static void look_at_disk(void *context)
{
    struct setting *setting = context;
    if (disk_image_read(setting->disk, &setting->found, &setting->error) == 0 &&
        strcmp(setting->found.format, "qcow2") == 0) {
        disk_image_check(setting->disk, &setting->error);
    }
}

/* All of it: what another node sends of it is not larger. */
static void note_size(const struct setting *setting)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < REPLICA_PARTS; i++) {
        struct stat status;
        const char *id = json_text(setting->image, replica_parts[i]);
        if (id[0] != '\0') {
            MEMORY_OWNED char *path = image_path(setting->service->options.images, id);
            bytes += stat(path, &status) == 0 ? (uint64_t)status.st_size : 0;
        }
    }
    json_object_set_new(setting->image, "size_bytes", json_integer((json_int_t)bytes));
}

static void propose_image(struct setting *setting)
{
    struct machine_service *service = setting->service;
    note_size(setting);
    MEMORY_OWNED char *key = memory_format("%s/%s", setting->project, setting->name);
    MEMORY_OWNED char *text = json_dumps(setting->image, JSON_COMPACT | JSON_SORT_KEYS);
    struct store_command *command = store_command_new();
    store_command_add(command, "INSERT OR IGNORE INTO project (key, created_ms) VALUES (?, ?)",
                      "tu", setting->project, clock_real_ms());
    store_command_add(command,
                      "INSERT INTO machine_image (key, project, name, config, node, created_ms, "
                      "revision) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (key) DO UPDATE "
                      "SET config = ?4, node = ?5, created_ms = ?6, revision = ?7",
                      "tttttur", key, setting->project, setting->name, text, service->node_name,
                      clock_real_ms());
    store_propose(service->options.store, command, setting->done, setting->context);
    free_setting(setting);
}

static void on_disk_looked_at(void *context)
{
    struct setting *setting = context;
    setting->service->pending--;
    if (setting->error.kind != ERROR_NONE) {
        setting->done(&setting->error, 0, setting->context);
        free_setting(setting);
        return;
    }
    json_object_set_new(setting->image, "disk_format", json_string(setting->found.format));
    json_object_set_new(setting->image, "disk_size_bytes",
                        json_integer((json_int_t)setting->found.size_bytes));
    propose_image(setting);
}

void machine_image_set(struct machine_service *service, const char *project, const char *name,
                       const json_t *image, machine_done *done, void *context)
{
    struct error err = {0};
    int r = is_image_name(name)
        ? check_image(service, image, &err)
        : error_set(&err, ERROR_INVALID,
                    "\"%.64s\" is no name of an image: a-z, 0-9, '-' and '.', beginning with a "
                    "letter",
                    name);
    if (r < 0) {
        machine_answer(service, &err, NULL, done, context);
        return;
    }
    struct setting *setting = NEW(struct setting);
    *setting = (struct setting){.service = service,
                                .project = memory_copy_string(project),
                                .name = memory_copy_string(name),
                                .image = json_deep_copy(image),
                                .done = done,
                                .context = context};
    const char *disk = json_text(image, "disk");
    if (disk[0] == '\0') {
        propose_image(setting);
        return;
    }
    setting->disk = image_path(service->options.images, disk);
    service->pending++;
    loop_work(service->options.loop, look_at_disk, on_disk_looked_at, setting);
}

/* The blobs stay, others may have them; what nobody has any more goes later (service/replica). */
void machine_image_delete(struct machine_service *service, const char *project, const char *name,
                          machine_done *done, void *context)
{
    struct error err = {0};
    MEMORY_OWNED char *user = NULL;
    MEMORY_OWNED char *function = NULL;
    MEMORY_OWNED char *there = NULL;
    MEMORY_OWNED char *key = memory_format("%s/%s", project, name);
    int r = store_query(service->options.store, &err, store_take_text, &there,
                        "SELECT name FROM machine_image WHERE key = ?", "t", key);
    r = r < 0 ? r
              : store_query(service->options.store, &err, store_take_text, &user,
                            "SELECT name FROM machine WHERE project = ? AND "
                            "json_extract(config, '$.image') = ?",
                            "tt", project, name);
    r = r < 0 ? r
              : store_query(service->options.store, &err, store_take_text, &function,
                            "SELECT f.name FROM function f JOIN version v ON v.function = f.key "
                            "WHERE f.project = ? AND v.state != 'failed' AND "
                            "json_extract(v.config, '$.linux.image') = ?",
                            "tt", project, name);
    if (r == 0 && there == NULL) {
        r = error_set(&err, ERROR_NOT_FOUND, "there is no image %.64s in project %s", name,
                      project);
    } else if (r == 0 && user != NULL) {
        r = error_set(&err, ERROR_CONFLICT,
                      "image %s is in use by machine %s: delete that first (blixard vm delete %s)",
                      name, user, user);
    } else if (r == 0 && function != NULL) {
        r = error_set(&err, ERROR_CONFLICT,
                      "image %s is in use by function %s: delete that, or its versions with this "
                      "image, first (blixard fn versions %s)",
                      name, function, function);
    }
    if (r < 0) {
        machine_answer(service, &err, NULL, done, context);
        return;
    }
    struct store_command *command = store_command_new();
    store_command_add(command, "DELETE FROM machine_image WHERE key = ?", "t", key);
    store_propose(service->options.store, command, done, context);
}

/* ---- Looking ---- */

struct writing {
    struct json_writer writer;
    struct store *store;
    size_t count;
};

static bool write_row(sqlite3_stmt *row, void *context)
{
    struct writing *writing = context;
    struct json_writer *writer = &writing->writer;
    const char *config = (const char *)sqlite3_column_text(row, 2);
    JSON_OWNED json_t *document = NULL;
    struct error err = {0};
    writing->count++;
    json_write_begin_object(writer);
    json_write_field_string(writer, "name", (const char *)sqlite3_column_text(row, 0));
    json_write_field_string(writer, "project", (const char *)sqlite3_column_text(row, 1));
    if (json_read(config, strlen(config), &document, &err) == 0) {
        json_write_members(writer, document);
    }
    json_write_field_time_ms(writer, "created_at", (uint64_t)sqlite3_column_int64(row, 3));
    replica_write(writing->store, document, writer);
    json_write_end_object(writer);
    return true;
}

#define SELECT "SELECT name, project, config, created_ms FROM machine_image "

int machine_image_write(struct machine_service *service, const char *project, const char *name,
                        struct buffer *out, struct error *err)
{
    struct writing writing = {json_writer_to(out), service->options.store, 0};
    MEMORY_OWNED char *key = memory_format("%s/%s", project, name);
    int r = store_query(service->options.store, err, write_row, &writing, SELECT "WHERE key = ?",
                        "t", key);
    return r < 0 || writing.count > 0
        ? r
        : error_set(err, ERROR_NOT_FOUND, "there is no image %.64s in project %s", name, project);
}

int machine_image_write_list(struct machine_service *service, const char *project,
                             struct buffer *out, struct error *err)
{
    struct writing writing = {json_writer_to(out), service->options.store, 0};
    json_write_begin_object(&writing.writer);
    json_write_key(&writing.writer, "images");
    json_write_begin_array(&writing.writer);
    int r = store_query(service->options.store, err, write_row, &writing,
                        SELECT "WHERE project = ? ORDER BY name", "t", project);
    json_write_end_array(&writing.writer);
    json_write_end_object(&writing.writer);
    return r;
}
