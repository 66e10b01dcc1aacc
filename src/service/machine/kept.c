/* Volumes that were kept with a machine's memory.  See kept.h. */
#include "service/machine/kept.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/random.h"

#include "service/machine/content.h"

enum { LIST_BYTES_MAX = 1 << 16 };

static char *path_of(const struct machine *machine)
{
    return memory_format("%s/" CONTENT_RESUME "/" CONTENT_VOLUMES, machine->folder);
}

/* ---- For those that never run ---- */

struct kept *kept_blank(const json_t *list)
{
    size_t index = 0;
    json_t *entry = NULL;
    struct kept *kept = NEW(struct kept);
    json_array_foreach(list, index, entry)
    {
        if (kept->count < HYPERVISOR_VOLUMES_MAX &&
            json_u64(entry, "slot") < HYPERVISOR_VOLUMES_MAX) {
            kept->volumes[kept->count++] =
                (struct hypervisor_volume){.id = json_text(entry, "id"),
                                           .slot = (unsigned)json_u64(entry, "slot"),
                                           .size_bytes = json_u64(entry, "size_bytes")};
        }
    }
    return kept;
}

void kept_describe(const struct kept *kept, struct hypervisor_spec *spec)
{
    if (kept != NULL) {
        spec->volumes = kept->volumes;
        spec->volume_count = kept->count;
    }
}

void kept_free(struct kept *kept)
{
    if (kept != NULL) {
        for (size_t i = 0; i < kept->open_count; i++) {
            volume_close(&kept->open[i]);
        }
        free(kept);
    }
}

/* ---- For one that goes on ---- */

static int read_list(const struct machine *machine, json_t **ret_list, struct error *err)
{
    BUFFER_OWNED struct buffer text = {0};
    MEMORY_OWNED char *path = path_of(machine);
    *ret_list = NULL;
    if (!file_exists(path)) {
        return 0;
    }
    int r = file_read(path, LIST_BYTES_MAX, &text, err);
    r = r < 0 ? r : json_read(text.data, text.used, ret_list, err);
    if (r == 0 && json_array_size(*ret_list) > HYPERVISOR_VOLUMES_MAX) {
        r = error_set(err, ERROR_CORRUPT, "%s names too many volumes", path);
    }
    return r;
}

static int open_one(const struct machine *machine, const json_t *entry, struct kept *kept,
                    struct error *err)
{
    const char *name = json_text(entry, "name");
    struct volume_open *open = &kept->open[kept->open_count];
    int r = volume_open(machine->service->options.volumes, machine->project, name, open, err);
    if (r < 0) {
        return r;
    }
    kept->open_count++;
    if (strcmp(open->ids[0], json_text(entry, "layer")) != 0 ||
        open->volume.slot != json_u64(entry, "slot")) {
        return error_set(err, ERROR_CONFLICT,
                         "it was to go on from a memory, and volume %.63s does not hold what "
                         "belongs to that (any more): restore the snapshot again, or with "
                         "--disk-only",
                         name);
    }
    kept->volumes[kept->count++] = open->volume;
    return 0;
}

int kept_open(const struct machine *machine, struct kept **ret_kept, struct error *err)
{
    JSON_OWNED json_t *list = NULL;
    size_t index = 0;
    json_t *entry = NULL;
    int r = read_list(machine, &list, err);
    *ret_kept = NULL;
    if (r < 0 || json_array_size(list) == 0) {
        return r;
    }
    struct kept *kept = NEW(struct kept);
    json_array_foreach(list, index, entry)
    {
        if (open_one(machine, entry, kept, err) < 0) {
            kept_free(kept);
            return -(int)err->kind;
        }
    }
    *ret_kept = kept;
    return 0;
}

bool kept_is_mounted(const struct machine *machine, const char *name)
{
    JSON_OWNED json_t *list = NULL;
    struct error ignored = {0};
    size_t index = 0;
    json_t *entry = NULL;
    if (machine_run_goes_on(machine) || read_list(machine, &list, &ignored) < 0) {
        return false;
    }
    json_array_foreach(list, index, entry)
    {
        if (strcmp(json_text(entry, "name"), name) == 0) {
            return true;
        }
    }
    return false;
}

void kept_forget(const struct machine *machine)
{
    MEMORY_OWNED char *path = path_of(machine);
    unlink(path);
}

int kept_begin(const json_t *list, const char *machine, json_t **ret_list, struct error *err)
{
    JSON_OWNED json_t *all = json_deep_copy(list);
    size_t index = 0;
    json_t *entry = NULL;
    json_array_foreach(all, index, entry)
    {
        char id[VOLUME_ID_SIZE];
        random_hex(id, VOLUME_ID_SIZE - 1);
        json_object_set_new(entry, "layer", json_string(id));
        if (machine != NULL) {
            random_hex(id, VOLUME_ID_SIZE - 1);
            json_object_set_new(entry, "id", json_string(id));
            if (volume_name_clone(NULL, "", machine, entry, err) < 0) {
                return -(int)err->kind;
            }
        }
    }
    *ret_list = json_array_size(all) > 0 ? json_incref(all) : NULL;
    return 0;
}
