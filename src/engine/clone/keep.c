/* Templates that stay on disk.  See parts.h. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/embed.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/version.h"

#include "engine/clone/parts.h"
#include "engine/image/image.h"

EMBED_LIST(clone_bootstraps); /* sdk/lambda */

enum { BOOT_ID_SIZE = 37, NOTE_BYTES_MAX = 256 };

#define NOTE "made-of" /* the boot's id, a space, the digest */

/* "" where the kernel does not say: then nothing is found again. */
static void read_boot_id(char ret_id[BOOT_ID_SIZE])
{
    BUFFER_OWNED struct buffer text = {0};
    struct error ignored = {0};
    ret_id[0] = '\0';
    if (file_read("/proc/sys/kernel/random/boot_id", NOTE_BYTES_MAX, &text, &ignored) == 0 &&
        text.used >= BOOT_ID_SIZE - 1) {
        snprintf(ret_id, BOOT_ID_SIZE, "%s", buffer_string(&text));
    }
}

char *keep_folder(const struct template *template)
{
    const char *name = json_string_value(json_object_get(template->settings, "keep"));
    return name != NULL && image_id_is_good(name)
        ? memory_format("%s/" KEEP_PREFIX "%s", template->runner->service->options.folder, name)
        : NULL;
}

void keep_describe(struct template *template, const void *agent, size_t length)
{
    const struct hypervisor_driver_info *driver =
        hypervisor_driver_info(template->runner->service->options.hypervisor, "qemu");
    struct hash *hash = hash_new();
    hash_add(hash, blixard_version, strlen(blixard_version) + 1); /* the VMM's words are its own */
    hash_add(hash, driver->version, strlen(driver->version) + 1);
    hash_add(hash, driver->accelerator, strlen(driver->accelerator) + 1);
    hash_add(hash, &template->memory_bytes, sizeof(template->memory_bytes));
    hash_add(hash, agent, length);
    for (size_t i = 0; i < clone_bootstraps_count; i++) {
        hash_add(hash, clone_bootstraps[i].data, clone_bootstraps[i].length);
    }
    hash_finish(hash, template->made_of);
}

static char *note_of(const struct template *template)
{
    char boot_id[BOOT_ID_SIZE];
    read_boot_id(boot_id);
    return memory_format("%s %s", boot_id, template->made_of);
}

bool keep_find(const struct template *template)
{
    MEMORY_OWNED char *folder = keep_folder(template);
    BUFFER_OWNED struct buffer found = {0};
    struct error err = {0};
    if (folder == NULL) {
        return false;
    }
    MEMORY_OWNED char *path = memory_format("%s/" NOTE, folder);
    MEMORY_OWNED char *note = note_of(template);
    int r = file_read(path, NOTE_BYTES_MAX, &found, &err);
    if (r == 0 && note[0] != ' ' && strcmp(buffer_string(&found), note) == 0) {
        return true;
    }
    if (file_remove_tree(folder, &err) == 0 && r == 0) {
        log_info("clone: a template is made again: Blixard, the agent, QEMU or the host's boot is "
                 "another");
    }
    return false;
}

int keep_put(const struct template *template, const char *folder, struct error *err)
{
    MEMORY_OWNED char *place = keep_folder(template);
    MEMORY_OWNED char *path = memory_format("%s/" NOTE, folder);
    MEMORY_OWNED char *note = note_of(template);
    int r = file_write(path, note, strlen(note), 0600, err);
    if (r == 0 && rename(folder, place) < 0) {
        r = error_os(err, errno, "keeping %s", folder);
    }
    return r;
}

bool keep_is_stale(const struct clone_service *service, const char *name)
{
    MEMORY_OWNED char *path = memory_format("%s/%s/" NOTE, service->options.folder, name);
    BUFFER_OWNED struct buffer found = {0};
    struct error ignored = {0};
    char boot_id[BOOT_ID_SIZE];
    read_boot_id(boot_id);
    return boot_id[0] == '\0' || file_read(path, NOTE_BYTES_MAX, &found, &ignored) < 0 ||
        strncmp(buffer_string(&found), boot_id, strlen(boot_id)) != 0;
}

void clone_forget(struct clone_service *service, const char *keep)
{
    MEMORY_OWNED char *folder =
        memory_format("%s/" KEEP_PREFIX "%s", service->options.folder, keep);
    bool is_used = false;
    LIST_EACH(node, &service->kept)
    {
        struct template *template = LIST_ITEM(node, struct template, kept_link);
        if (strcmp(json_string_value(json_object_get(template->settings, "keep")), keep) == 0) {
            template->is_dropped = true;
            is_used = true;
        }
    }
    if (!is_used) {
        folder_remove(service, memory_copy_string(folder));
    }
}
