/*
 * Images of what runners of microvm.nix boot, for functions: the kernel, the initrd and the store's
 * disk are uploaded as they are.  Nothing of a runner is run.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/memory.h"

#include "engine/image/guest.h"

#include "surface/cli/image.h"
#include "surface/cli/private.h"

static int add_guest(const struct workshop *workshop, const struct guest *guest, const char *runner,
                     json_t *image, struct error *err)
{
    workshop_say("uploading what the runner boots");
    int r = workshop_add_kernel(workshop, guest->kernel, NULL, image, err);
    r = r < 0 ? r : workshop_upload(guest->initrd, "initrd", image, err);
    r = r < 0 || guest->root == NULL ? r : workshop_upload_root(guest->root, image, err);
    if (r == 0) {
        json_object_set_new(image, "cmdline", json_string(guest->words));
        json_object_set_new(image, "brings_agent", json_true());
        json_object_set_new(image, "source", json_string(runner));
    }
    return r;
}

int image_import_runner(const struct arguments *arguments, const struct workshop *workshop,
                        json_t *image, struct error *err)
{
    struct guest guest = {0};
    MEMORY_OWNED char *built = NULL;
    const char *runner = flag_value(arguments, "runner");
    const char *flake = flag_value(arguments, "flake");
    if (runner != NULL && flake != NULL) {
        return error_set(err, ERROR_INVALID, "--runner and --flake exclude each other");
    }
    int r = flake != NULL ? flake_build(arguments, flake, NULL, &built, err) : 0;
    runner = flake != NULL ? built : runner;
    r = r < 0 ? r : guest_read(runner, &guest, err);
    r = r < 0 ? r : add_guest(workshop, &guest, runner, image, err);
    guest_done(&guest);
    return r;
}

/* ---- By what is in it ---- */

static int add_file(struct buffer *text, const char *path, struct error *err)
{
    struct stat status;
    if (path == NULL) {
        return 0;
    }
    if (stat(path, &status) < 0) {
        return error_os(err, errno, "%s", path);
    }
    buffer_append_format(text, "%s %" PRIu64 " %" PRIu64 "\n", path, (uint64_t)status.st_size,
                         (uint64_t)status.st_mtime);
    return 0;
}

/* Paths of a Nix store say what is in them; of other files size and time do. */
static int name_guest(const struct guest *guest, char **ret_name, struct error *err)
{
    char digest[HASH_TEXT_SIZE];
    BUFFER_OWNED struct buffer text = {0};
    buffer_append_format(&text, "%s\n", guest->words);
    int r = add_file(&text, guest->kernel, err);
    r = r < 0 ? r : add_file(&text, guest->initrd, err);
    r = r < 0 ? r : add_file(&text, guest->root, err);
    if (r == 0) {
        hash_bytes(text.data, text.used, digest);
        *ret_name = memory_format(GUEST_IMAGE_PREFIX "%.*s", GUEST_IMAGE_DIGITS, digest);
    }
    return r;
}

static int import(const struct guest *guest, const char *runner, const char *name,
                  struct error *err)
{
    struct workshop workshop = {0};
    JSON_OWNED json_t *image = json_object();
    MEMORY_OWNED char *target = request_target("images", name, "");
    int r = request_json("GET", target, NULL, NULL, err);
    if (r == 0 || err->kind != ERROR_NOT_FOUND) {
        return r;
    }
    r = workshop_open(&workshop, err);
    r = r < 0 ? r : add_guest(&workshop, guest, runner, image, err);
    workshop_close(&workshop);
    return r < 0 ? r : request_send("PUT", target, image, NULL, err);
}

int image_of_runner(const char *runner, bool uploads, char **ret_name, uint64_t *ret_memory_bytes,
                    struct error *err)
{
    struct guest guest = {0};
    char *name = NULL;
    int r = guest_read(runner, &guest, err);
    r = r < 0 ? r : name_guest(&guest, &name, err);
    r = r < 0 || !uploads ? r : import(&guest, runner, name, err);
    *ret_memory_bytes = guest.memory_bytes;
    guest_done(&guest);
    if (r < 0) {
        free(name);
        return r;
    }
    *ret_name = name;
    return 0;
}
