/*
 * Images of machines from OCI images: pulled from a registry, or imported from a layout.
 *
 * Their layers are laid over each other (engine/image/layers.h) and made a root file system; the
 * kernel, which an OCI image has none of, is that of another image, by default one called "linux".
 */
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/process.h"
#include "base/text.h"

#include "engine/image/image.h"
#include "engine/image/layers.h"
#include "engine/image/oci.h"
#include "engine/image/rootfs.h"

#include "surface/cli/image.h"
#include "surface/cli/private.h"

#define KERNEL_IMAGE "linux"

enum { APT_MS = 600000 };

/* ---- The kernel ---- */

static int run(const char *const *argv, const char *folder, struct buffer *output,
               struct error *err)
{
    BUFFER_OWNED struct buffer said = {0};
    struct process_result result = {0};
    const struct process_options options = {
        .argv = argv, .folder = folder, .output_max = 64 << 10, .timeout_ms = APT_MS};
    int r = interrupt_run(options, output, &said, &result, err);
    if (r == 0 && result.exit_code != 0) {
        return error_set(err, ERROR_UNAVAILABLE, "%s: %.300s", argv[0],
                         text_make_printable((char *)(uintptr_t)buffer_string(&said), false));
    }
    return r;
}

/* "Depends: linux-image-6.1.0-56-cloud-amd64" in what apt-cache prints; the caller's. */
static char *find_package(const char *text)
{
    static const char mark[] = "Depends: ";
    const char *at = strstr(text, mark);
    while (at != NULL) {
        at += sizeof(mark) - 1;
        if (text_starts_with(at, "linux-image-")) {
            return memory_copy_text(at, strcspn(at, " \n"));
        }
        at = strstr(at, mark);
    }
    return NULL;
}

/* Downloaded and unpacked, not installed. */
static int download_kernel(const char *folder, struct error *err)
{
    BUFFER_OWNED struct buffer output = {0};
    const char *depends[] = {"apt-cache", "depends", "linux-image-cloud-amd64", NULL};
    int r = run(depends, folder, &output, err);
    MEMORY_OWNED char *package = r == 0 ? find_package(buffer_string(&output)) : NULL;
    if (r == 0 && package == NULL) {
        r = error_set(err, ERROR_NOT_FOUND, "apt knows no linux-image-cloud-amd64");
    }
    const char *download[] = {"apt-get", "download", "-qq", package, NULL};
    r = r < 0 ? r : run(download, folder, NULL, err);
    MEMORY_OWNED char *pattern = memory_format("%s/linux-image-*.deb", folder);
    glob_t found = {0};
    if (r == 0 && glob(pattern, 0, NULL, &found) != 0) {
        r = error_set(err, ERROR_NOT_FOUND, "apt-get has downloaded nothing");
    }
    if (r == 0) {
        const char *unpack[] = {"dpkg-deb", "-x", found.gl_pathv[0], folder, NULL};
        r = run(unpack, folder, NULL, err);
    }
    globfree(&found);
    return r;
}

/* Debian's small kernel for virtual machines, named as an image: it is made once. */
static int make_kernel_image(const struct workshop *workshop, json_t **ret_image, struct error *err)
{
    MEMORY_OWNED char *folder = memory_format("%s/debian", workshop->folder);
    MEMORY_OWNED char *kernel = NULL;
    MEMORY_OWNED char *modules = NULL;
    MEMORY_OWNED char *target = request_target("images", KERNEL_IMAGE, "");
    JSON_OWNED json_t *image = json_pack("{s:s}", "source", "Debian linux-image-cloud-amd64");
    workshop_say("fetching a kernel (Debian: linux-image-cloud-amd64)");
    int r = file_make_folder(folder, 0755, err);
    r = r < 0 ? r : download_kernel(folder, err);
    r = r < 0 ? r : rootfs_find_kernel(folder, &kernel, &modules, err);
    if (r < 0) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "there is no image " KERNEL_IMAGE
                         " to take a kernel from, and none can be "
                         "made of Debian's package here: give --kernel and --modules, or "
                         "--kernel-image");
    }
    r = workshop_add_kernel(workshop, kernel, modules, image, err);
    return r < 0 ? r : request_send("PUT", target, image, ret_image, err);
}

static int take_kernel(const struct arguments *arguments, const struct workshop *workshop,
                       json_t *image, struct error *err)
{
    static const char *const keys[] = {"kernel", "kernel_version", "initrd"};
    const char *kernel = flag_value(arguments, "kernel");
    const char *asked = flag_value(arguments, "kernel-image");
    const char *name = asked != NULL ? asked : KERNEL_IMAGE;
    JSON_OWNED json_t *other = NULL;
    if (kernel != NULL) {
        return workshop_add_kernel(workshop, kernel, flag_value(arguments, "modules"), image, err);
    }
    MEMORY_OWNED char *target = request_target("images", name, "");
    int r = request_json("GET", target, NULL, &other, err);
    if (r < 0 && err->kind == ERROR_NOT_FOUND && asked == NULL) {
        *err = (struct error){0};
        r = make_kernel_image(workshop, &other, err);
    }
    if (r == 0 && json_is_true(json_object_get(other, "brings_agent"))) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "image %.64s is what a runner boots, for functions: its kernel is of use "
                         "with its own root alone; name another --kernel-image, or none",
                         name);
    }
    for (size_t i = 0; r == 0 && i < sizeof(keys) / sizeof(keys[0]); i++) {
        json_t *value = json_object_get(other, keys[i]);
        if (json_is_string(value)) {
            json_object_set(image, keys[i], value);
        }
    }
    return r;
}

/* ---- The root ---- */

/* The places that the agent mounts on, and what the image says is there. */
static int add_folders(struct layers *layers, const struct oci_config *config, struct error *err)
{
    static const char *const folders[] = {"dev", "proc", "sys", "run", "tmp", "etc"};
    int r = 0;
    for (size_t i = 0; r == 0 && i < sizeof(folders) / sizeof(folders[0]); i++) {
        r = layers_make_folder(layers, folders[i], err);
    }
    for (size_t i = 0; r == 0 && config->volumes[i] != NULL; i++) {
        r = layers_make_folder(layers, config->volumes[i], err);
    }
    return r < 0 ? r : layers_make_folder(layers, config->folder, err);
}

static int write_archive(struct layers *layers, const char *path, struct error *err)
{
    FD_OWNED int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) {
        return error_os(err, errno, "making %s", path);
    }
    return layers_write(layers, fd, err);
}

static int lay_over(const struct oci_image *oci, const char *path, struct error *err)
{
    struct layers *layers = layers_new();
    int r = 0;
    for (size_t i = 0; r == 0 && i < oci->layer_count; i++) {
        r = layers_add(layers, oci->layers[i], err);
    }
    r = r < 0 ? r : add_folders(layers, &oci->config, err);
    r = r < 0 ? r : write_archive(layers, path, err);
    if (r == 0 && layers_left_out(layers) > 0) {
        fprintf(stderr, "device nodes were left out (%zu): the machine's kernel makes its own\n",
                layers_left_out(layers));
    }
    layers_free(layers);
    return r;
}

static void set_list(json_t *image, const char *key, char *const *list)
{
    json_t *values = json_array();
    for (size_t i = 0; list[i] != NULL; i++) {
        json_array_append_new(values, json_string(list[i]));
    }
    if (json_array_size(values) > 0) {
        json_object_set(image, key, values);
    }
    json_decref(values);
}

static void set_text(json_t *image, const char *key, const char *text)
{
    if (text[0] != '\0') {
        json_object_set_new(image, key, json_string(text));
    }
}

static void describe(const struct oci_image *oci, json_t *image)
{
    const struct oci_config *config = &oci->config;
    set_text(image, "digest", oci->digest);
    set_list(image, "entrypoint", config->entrypoint);
    set_list(image, "command", config->command);
    set_list(image, "environment", config->environment);
    set_list(image, "ports", config->ports);
    set_list(image, "volumes", config->volumes);
    set_text(image, "folder", config->folder);
    set_text(image, "user", config->user);
}

static int add_image(const struct arguments *arguments, struct workshop *workshop,
                     const struct oci_image *oci, json_t *image, struct error *err)
{
    if (oci->config.arguments[0] == NULL) {
        workshop_say("the image says nothing of what is to be run: machines of it begin with "
                     "/sbin/init, or with what `vm create NAME -- COMMAND` says");
    }
    workshop->archive = memory_format("%s/root.tar", workshop->folder);
    workshop_say("laying its layers over each other");
    int r = lay_over(oci, workshop->archive, err);
    if (r == 0 && geteuid() == 0) {
        r = rootfs_unpack(workshop->archive, workshop->tree, false, err);
    }
    r = r < 0 ? r : take_kernel(arguments, workshop, image, err);
    r = r < 0 ? r : workshop_add_root(workshop, image, err);
    if (r == 0) {
        describe(oci, image);
    }
    return r;
}

/* ---- From this machine ---- */

/* "PATH:TAG", where that is no path itself. */
static char *split_tag(const char *text, char **ret_path)
{
    const char *colon = strrchr(text, ':');
    if (file_exists(text) || colon == NULL || strchr(colon, '/') != NULL) {
        *ret_path = memory_copy_string(text);
        return NULL;
    }
    *ret_path = memory_copy_text(text, (size_t)(colon - text));
    return memory_copy_string(colon + 1);
}

int image_import_oci(const struct arguments *arguments, struct workshop *workshop, json_t *image,
                     struct error *err)
{
    OCI_IMAGE_OWNED struct oci_image oci = {0};
    MEMORY_OWNED char *path = NULL;
    MEMORY_OWNED char *tag = split_tag(flag_value(arguments, "oci"), &path);
    MEMORY_OWNED char *unpacked = memory_format("%s/layout", workshop->folder);
    struct stat status;
    if (flag_value(arguments, "root") != NULL) {
        return error_set(err, ERROR_INVALID, "--oci brings its own root: leave --root out");
    }
    if (stat(path, &status) < 0) {
        return error_os(err, errno, "%s", path);
    }
    int r = 0;
    if (!S_ISDIR(status.st_mode)) {
        workshop_say("unpacking");
        r = file_make_folder(unpacked, 0700, err);
        r = r < 0 ? r : rootfs_unpack(path, unpacked, false, err);
    }
    r = r < 0 ? r : oci_open_layout(S_ISDIR(status.st_mode) ? path : unpacked, tag, &oci, err);
    if (r < 0) {
        return error_wrap(err, "%s", path);
    }
    set_text(image, "source", flag_value(arguments, "oci"));
    return add_image(arguments, workshop, &oci, image, err);
}

/* ---- From a registry ---- */

/* Where layers come to; what one that broke off has left stays for a day. */
static int open_cache(struct image_store **ret_store, struct error *err)
{
    const char *cache = getenv("XDG_CACHE_HOME");
    const char *home = getenv("HOME");
    if (cache == NULL && home == NULL) {
        return error_set(err, ERROR_INVALID,
                         "there is no place for layers: set HOME or XDG_CACHE_HOME");
    }
    MEMORY_OWNED char *folder = cache != NULL ? memory_format("%s/blixard/layers", cache)
                                              : memory_format("%s/.cache/blixard/layers", home);
    int r = file_make_folder(folder, 0700, err);
    return r < 0 ? r : image_store_open_shared(folder, ret_store, err);
}

static void on_layer(size_t index, size_t count, uint64_t size_bytes, void *context)
{
    (void)context;
    fprintf(stderr, "layer %zu of %zu: %.1f MiB\n", index + 1, count,
            (double)size_bytes / (1 << 20));
}

/* As a name of here: what is no letter, digit, '.' or '-' becomes '-'. */
static char *name_of(const struct arguments *arguments, const struct oci_reference *reference)
{
    const char *asked = flag_value(arguments, "name");
    const char *slash = strrchr(reference->repository, '/');
    char *name = memory_copy_string(asked != NULL       ? asked
                                        : slash != NULL ? slash + 1
                                                        : reference->repository);
    for (char *at = name; asked == NULL && *at != '\0'; at++) {
        *at = *at == '_' ? '-' : *at;
    }
    return name;
}

/* What was pulled is in the root now. */
static void forget_layers(struct image_store *store, const struct oci_image *oci)
{
    struct error ignored = {0};
    for (size_t i = 0; i < oci->layer_count; i++) {
        const char *slash = strrchr(oci->layers[i], '/');
        image_remove(store, slash + 1, &ignored);
    }
}

/* From here, by a name and a password of whoever asks. */
static int pull_here(const struct arguments *arguments, const struct oci_reference *reference,
                     struct image_store *store, struct oci_image *ret_oci, struct error *err)
{
    BUFFER_WIPED struct buffer password = {0};
    MEMORY_OWNED char *username = NULL;
    int r = image_read_login(arguments, reference->registry, &username, &password, err);
    const struct oci_registry_options options = {
        .username = username,
        .password = r == 0 ? buffer_string(&password) : NULL,
        .mirror = flag_value(arguments, "mirror"),
        .authority = flag_value(arguments, "ca"),
        .is_insecure = flag_value(arguments, "insecure") != NULL,
        .on_layer = on_layer,
    };
    return r < 0 ? r : oci_pull(reference, &options, store, ret_oci, err);
}

static int pull(const struct arguments *arguments, const struct oci_reference *reference,
                struct image_store *store, json_t *image, struct error *err)
{
    OCI_IMAGE_OWNED struct oci_image oci = {0};
    struct workshop workshop = {0};
    int r = flag_value(arguments, "credentials") != NULL
        ? image_pull_by_node(arguments, store, on_layer, &oci, err)
        : pull_here(arguments, reference, store, &oci, err);
    if (r < 0) {
        return r;
    }
    r = workshop_open(&workshop, err);
    r = r < 0 ? r : add_image(arguments, &workshop, &oci, image, err);
    workshop_close(&workshop);
    if (r == 0) {
        forget_layers(store, &oci);
    }
    return r;
}

int verb_image_pull(const struct arguments *arguments, struct error *err)
{
    struct oci_reference reference = {0};
    struct image_store *store = NULL;
    const char *cmdline = flag_value(arguments, "cmdline");
    JSON_OWNED json_t *image = json_pack("{s:s}", "source", arguments->words[0]);
    if (image == NULL) {
        return error_set(err, ERROR_INVALID, "the reference is no UTF-8");
    }
    int r = oci_parse_reference(arguments->words[0], &reference, err);
    r = r < 0 ? r : open_cache(&store, err);
    if (r < 0) {
        return r;
    }
    if (cmdline != NULL) {
        json_object_set_new(image, "cmdline", json_string(cmdline));
    }
    MEMORY_OWNED char *name = name_of(arguments, &reference);
    r = pull(arguments, &reference, store, image, err);
    image_store_close(store);
    return r < 0 ? r : workshop_name_image(arguments, name, image, err);
}
