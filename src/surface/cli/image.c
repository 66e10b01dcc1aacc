/* Verbs about images of machines: made here, then uploaded piece by piece. */
#include "surface/cli/image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/process.h"
#include "base/text.h"

#include "engine/image/disk.h"
#include "engine/image/initrd.h"
#include "engine/image/rootfs.h"

#include "surface/cli/duplex.h"
#include "surface/cli/private.h"

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

enum { KERNEL_BYTES_MAX = 512 << 20, BUILD_MS = 3600000 };
#define UNPACKED_BYTES_MAX (UINT64_C(1) << 40)

int workshop_open(struct workshop *workshop, struct error *err)
{
    const char *place = getenv("TMPDIR");
    const struct target *target = NULL;
    if (request_reach(&target, err) < 0) { /* who is to get it: making it takes minutes */
        return -(int)err->kind;
    }
    workshop->folder = memory_format("%s/blixard-image-XXXXXX", place != NULL ? place : "/var/tmp");
    if (mkdtemp(workshop->folder) == NULL) {
        return error_os(err, errno, "making a folder in %s (TMPDIR names another place)",
                        place != NULL ? place : "/var/tmp");
    }
    interrupt_removes(workshop->folder);
    workshop->tree = memory_format("%s/root", workshop->folder);
    return file_make_folder(workshop->tree, 0755, err);
}

void workshop_close(struct workshop *workshop)
{
    struct error ignored = {0};
    if (workshop->tree != NULL) {
        file_remove_tree(workshop->folder, &ignored);
        interrupt_keeps(workshop->folder);
    }
    free(workshop->folder);
    free(workshop->tree);
    free(workshop->archive);
}

void workshop_say(const char *text)
{
    fprintf(stderr, "%s\n", text);
}

/* ---- Uploading ---- */

int workshop_upload(const char *path, const char *key, json_t *image, struct error *err)
{
    JSON_OWNED json_t *blob = NULL;
    int r = duplex_upload("POST", "/v1/images/blobs", path, &blob, err);
    if (r < 0) {
        return error_wrap(err, "uploading the %s", key);
    }
    json_int_t size = json_integer_value(json_object_get(image, "size_bytes")) +
        json_integer_value(json_object_get(blob, "size_bytes"));
    json_object_set(image, key, json_object_get(blob, "id"));
    json_object_set_new(image, "size_bytes", json_integer(size));
    return 0;
}

static int upload_bytes(const struct workshop *workshop, const struct buffer *bytes,
                        const char *key, json_t *image, struct error *err)
{
    MEMORY_OWNED char *path = memory_format("%s/%s", workshop->folder, key);
    int r = file_write(path, bytes->data, bytes->used, 0600, err);
    return r < 0 ? r : workshop_upload(path, key, image, err);
}

/* ---- Making ---- */

int workshop_add_kernel(const struct workshop *workshop, const char *kernel, const char *modules,
                        json_t *image, struct error *err)
{
    char version[128] = "";
    BUFFER_OWNED struct buffer packed = {0};
    BUFFER_OWNED struct buffer unpacked = {0};
    BUFFER_OWNED struct buffer initrd = {0};
    int r = file_read(kernel, KERNEL_BYTES_MAX, &packed, err);
    r = r < 0 ? r : kernel_unpack(packed.data, packed.used, &unpacked, err);
    if (r < 0) {
        return error_wrap(err, "%s", kernel);
    }
    kernel_version(packed.data, packed.used, version, sizeof(version));
    if (version[0] != '\0') {
        json_object_set_new(image, "kernel_version", json_string(version));
    }
    r = upload_bytes(workshop, &unpacked, "kernel", image, err);
    if (r == 0 && modules != NULL) {
        r = initrd_add_modules(&initrd, modules, err);
        r = r < 0 ? r : upload_bytes(workshop, &initrd, "initrd", image, err);
    }
    return r;
}

/* "erofs", "squashfs" or "ext4" of a file system image; NULL: something else, an archive maybe. */
static const char *format_of(const char *path)
{
    uint8_t bytes[1024 + 0x38 + 2] = {0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd >= 0 ? pread(fd, bytes, sizeof(bytes), 0) : -1;
    if (fd >= 0) {
        close(fd);
    }
    if (got < (ssize_t)sizeof(bytes)) {
        return NULL;
    }
    const uint8_t *super = bytes + 1024;
    if (memcmp(bytes, "hsqs", 4) == 0) {
        return "squashfs";
    }
    if (super[0] == 0xe2 && super[1] == 0xe1 && super[2] == 0xf5 && super[3] == 0xe0) {
        return "erofs";
    }
    return super[0x38] == 0x53 && super[0x39] == 0xef ? "ext4" : NULL;
}

int workshop_upload_root(const char *path, json_t *image, struct error *err)
{
    const char *format = format_of(path);
    if (format == NULL) {
        return error_set(err, ERROR_INVALID, "%s is no file system of erofs, squashfs or ext4",
                         path);
    }
    json_object_set_new(image, "root_format", json_string(format));
    return workshop_upload(path, "root", image, err);
}

int workshop_add_root(const struct workshop *workshop, json_t *image, struct error *err)
{
    bool is_root = geteuid() == 0;
    MEMORY_OWNED char *path = memory_format("%s/root.img", workshop->folder);
    workshop_say(is_root ? "making the root file system (erofs)"
                         : "making the root file system (squashfs)");
    int r = is_root ? rootfs_make_erofs(workshop->tree, path, err)
                    : rootfs_make_squashfs(workshop->archive, path, err);
    r = r < 0 ? r : workshop_upload(path, "root", image, err);
    json_object_set_new(image, "root_format", json_string(is_root ? "erofs" : "squashfs"));
    return r;
}

/* The archive's own kernel, unless another one is given. */
static int add_archive(struct workshop *workshop, const char *kernel, const char *modules,
                       json_t *image, struct error *err)
{
    MEMORY_OWNED char *own_kernel = NULL;
    MEMORY_OWNED char *own_modules = NULL;
    int r = 0;
    if (kernel == NULL) {
        r = rootfs_find_kernel(workshop->tree, &own_kernel, &own_modules, err);
        kernel = own_kernel;
        modules = own_modules;
    }
    r = r < 0 ? r : workshop_add_kernel(workshop, kernel, modules, image, err);
    return r < 0 ? r : workshop_add_root(workshop, image, err);
}

int workshop_name_image(const struct arguments *arguments, const char *name, const json_t *image,
                        struct error *err)
{
    JSON_OWNED json_t *document = NULL;
    MEMORY_OWNED char *target = request_target("images", name, "");
    int r = request_send("PUT", target, image, &document, err);
    return r < 0 ? r : print_done(arguments, document, err, "image %s is there", name);
}

/* What a runner boots has all of that. */
static int import_runner(const struct arguments *arguments, const struct workshop *workshop,
                         json_t *image, struct error *err)
{
    static const char *const others[] = {"root", "kernel",   "modules",  "cmdline",     "oci",
                                         "disk", "firmware", "no-agent", "kernel-image"};
    for (size_t i = 0; i < COUNT(others); i++) {
        if (flag_value(arguments, others[i]) != NULL) {
            return error_set(err, ERROR_INVALID,
                             "--%s has no effect with a runner, which says itself what it boots",
                             others[i]);
        }
    }
    return image_import_runner(arguments, workshop, image, err);
}

/* A disk that boots by itself.  What it is, the node finds out, too: here it is for an early no. */
static int import_disk(const struct arguments *arguments, const struct workshop *workshop,
                       json_t *image, struct error *err)
{
    static const char *const others[] = {"root", "kernel", "modules", "cmdline"};
    const char *path = flag_value(arguments, "disk");
    const char *firmware = flag_value(arguments, "firmware");
    struct disk_image found;
    bool is_packed = false;
    for (size_t i = 0; i < COUNT(others); i++) {
        if (flag_value(arguments, others[i]) != NULL) {
            return error_set(err, ERROR_INVALID,
                             "--%s has no effect with --disk, which boots what is on it",
                             others[i]);
        }
    }
    MEMORY_OWNED char *unpacked = memory_format("%s/disk", workshop->folder);
    int r = disk_image_unpack(path, unpacked, UNPACKED_BYTES_MAX, &is_packed, err);
    path = is_packed ? unpacked : path;
    r = r < 0 ? r : disk_image_read(path, &found, err);
    r = r < 0 ? r : workshop_upload(path, "disk", image, err);
    json_object_set_new(image, "source", json_string(flag_value(arguments, "disk")));
    if (firmware != NULL) {
        json_object_set_new(image, "firmware", json_string(firmware));
    }
    if (flag_value(arguments, "no-agent") != NULL) {
        json_object_set_new(image, "without_agent", json_true());
    }
    return r;
}

static int import(const struct arguments *arguments, struct workshop *workshop, json_t *image,
                  struct error *err)
{
    if (flag_value(arguments, "runner") != NULL || flag_value(arguments, "flake") != NULL) {
        return import_runner(arguments, workshop, image, err);
    }
    if (flag_value(arguments, "disk") != NULL) {
        return import_disk(arguments, workshop, image, err);
    }
    if (flag_value(arguments, "firmware") != NULL || flag_value(arguments, "no-agent") != NULL) {
        return error_set(err, ERROR_INVALID, "--firmware and --no-agent are for --disk");
    }
    const char *root = flag_value(arguments, "root");
    const char *kernel = flag_value(arguments, "kernel");
    const char *modules = flag_value(arguments, "modules");
    const char *format = root != NULL ? format_of(root) : NULL;
    if (flag_value(arguments, "oci") != NULL) {
        return image_import_oci(arguments, workshop, image, err);
    }
    if (root == NULL && kernel == NULL) {
        return error_set(err, ERROR_INVALID,
                         "give --root, or --kernel, or both; or --oci, --disk, --runner or "
                         "--flake");
    }
    if (root == NULL || format != NULL) {
        if (kernel == NULL) {
            return error_set(err, ERROR_INVALID,
                             "a file system image needs --kernel and --modules besides");
        }
        int r = workshop_add_kernel(workshop, kernel, modules, image, err);
        return r < 0 || root == NULL ? r : workshop_upload_root(root, image, err);
    }
    workshop->archive = memory_copy_string(root);
    workshop_say("unpacking");
    int r = rootfs_unpack(root, workshop->tree, geteuid() != 0, err);
    return r < 0 ? r : add_archive(workshop, kernel, modules, image, err);
}

int verb_image_import(const struct arguments *arguments, struct error *err)
{
    struct workshop workshop = {0};
    JSON_OWNED json_t *image = json_object();
    const char *root = flag_value(arguments, "root");
    const char *cmdline = flag_value(arguments, "cmdline");
    int r = workshop_open(&workshop, err);
    if (cmdline != NULL) {
        json_object_set_new(image, "cmdline", json_string(cmdline));
    }
    if (root != NULL) {
        json_object_set_new(image, "source", json_string(root));
    }
    r = r < 0 ? r : import(arguments, &workshop, image, err);
    workshop_close(&workshop);
    return r < 0 ? r : workshop_name_image(arguments, arguments->words[0], image, err);
}

/* ---- Debian ---- */

/* Of what it and its apt-get have said: the first error, which the others follow from. */
static void take_first_error(const char *said, char *ret_text, size_t size)
{
    const char *first = strstr(said, "\nE: ");
    size_t length = strlen(said);
    if (first != NULL) {
        first += strlen("\nE: ");
        length = strcspn(first, "\n");
    } else {
        first = length >= size ? said + length - size + 1 : said;
        length = strlen(first);
    }
    snprintf(ret_text, size, "%.*s", (int)(length < size ? length : size), first);
    text_make_printable(ret_text, true);
}

static int run_mmdebstrap(const struct arguments *arguments, const char *target, struct error *err)
{
    const char *suite = flag_value(arguments, "suite");
    const char *more = flag_value(arguments, "include");
    const char *mirror = flag_value(arguments, "mirror");
    BUFFER_OWNED struct buffer said = {0};
    struct process_result result = {0};
    /* A kernel package wants an initrd to be made; the smallest program that does is enough. */
    MEMORY_OWNED char *include =
        memory_format("--include=linux-image-cloud-amd64,tiny-initramfs,systemd-sysv,udev,dbus,"
                      "iproute2%s%s",
                      more != NULL ? "," : "", more != NULL ? more : "");
    const char *argv[] = {"mmdebstrap", "--variant=minbase",
                          include,      suite != NULL ? suite : "bookworm",
                          target,       mirror,
                          NULL};
    const struct process_options options = {
        .argv = argv, .output_max = 4 << 20, .timeout_ms = BUILD_MS};
    int r = interrupt_run(options, NULL, &said, &result, err);
    if (r < 0 && err->kind == ERROR_NOT_FOUND) {
        return error_set(err, ERROR_UNSUPPORTED, "there is no mmdebstrap (Debian: mmdebstrap)");
    }
    if (r == 0 && result.exit_code != 0) {
        const char *text = buffer_string(&said);
        char why[400];
        if (strstr(text, "chroot mode") != NULL) { /* it found none that this user may */
            return error_set(
                err, ERROR_DENIED,
                "mmdebstrap makes roots for root, or in a user namespace, for which "
                "this user needs newuidmap (Debian: uidmap) and ids in /etc/subuid and "
                "/etc/subgid (usermod --add-subuids 100000-165535 --add-subgids "
                "100000-165535 USER)");
        }
        take_first_error(text, why, sizeof(why));
        return error_set(err, ERROR_UNAVAILABLE, "mmdebstrap: %s", why);
    }
    return r;
}

static int build(const struct arguments *arguments, struct workshop *workshop, json_t *image,
                 struct error *err)
{
    const char *over = flag_value(arguments, "customize");
    if (geteuid() != 0 && over != NULL) {
        return error_set(err, ERROR_DENIED, "--customize needs root, which owns what is in a root");
    }
    workshop->archive = memory_format("%s/root.tar", workshop->folder);
    workshop_say("installing packages (mmdebstrap); this takes a minute or two");
    int r = run_mmdebstrap(arguments, workshop->archive, err);
    if (r == 0) {
        workshop_say("unpacking");
        r = rootfs_unpack(workshop->archive, workshop->tree, geteuid() != 0, err);
    }
    r = r < 0 || over == NULL ? r : rootfs_overlay(over, workshop->tree, err);
    return r < 0 ? r : add_archive(workshop, NULL, NULL, image, err);
}

int verb_image_build(const struct arguments *arguments, struct error *err)
{
    struct workshop workshop = {0};
    const char *suite = flag_value(arguments, "suite");
    MEMORY_OWNED char *source = memory_format("Debian %s", suite != NULL ? suite : "bookworm");
    JSON_OWNED json_t *image = json_pack("{s:s}", "source", source);
    int r = workshop_open(&workshop, err);
    r = r < 0 ? r : build(arguments, &workshop, image, err);
    workshop_close(&workshop);
    return r < 0 ? r : workshop_name_image(arguments, arguments->words[0], image, err);
}

/* ---- Looking ---- */

int verb_image_list(const struct arguments *arguments, struct error *err)
{
    static const struct column columns[] = {
        {"NAME", "name", AS_TEXT},          {"SIZE", "size_bytes", AS_BYTES},
        {"ROOT", "root_format", AS_TEXT},   {"KERNEL", "kernel_version", AS_TEXT},
        {"NODES", "nodes", AS_TEXT},        {"SOURCE", "source", AS_TEXT},
        {"CREATED", "created_at", AS_TEXT},
    };
    return print_target(arguments, "/v1/images", "images", columns, COUNT(columns), err);
}

int verb_image_show(const struct arguments *arguments, struct error *err)
{
    static const struct column facts[] = {
        {"name", "name", AS_TEXT},
        {"size", "size_bytes", AS_BYTES},
        {"nodes", "nodes", AS_TEXT},
        {"not copied to", "node_problems", AS_TEXT},
        {"source", "source", AS_TEXT},
        {"kernel version", "kernel_version", AS_TEXT},
        {"root format", "root_format", AS_TEXT},
        {"command line", "cmdline", AS_TEXT},
        {"kernel", "kernel", AS_TEXT},
        {"initrd", "initrd", AS_TEXT},
        {"root", "root", AS_TEXT},
        {"digest", "digest", AS_TEXT},
        {"entrypoint", "entrypoint", AS_TEXT},
        {"command", "command", AS_TEXT},
        {"environment", "environment", AS_TEXT},
        {"folder", "folder", AS_TEXT},
        {"user", "user", AS_TEXT},
        {"ports", "ports", AS_TEXT},
        {"volumes", "volumes", AS_TEXT},
        {"disk", "disk", AS_TEXT},
        {"disk format", "disk_format", AS_TEXT},
        {"disk size", "disk_size_bytes", AS_BYTES},
        {"firmware", "firmware", AS_TEXT},
        {"created", "created_at", AS_TEXT},
    };
    MEMORY_OWNED char *target = request_target("images", arguments->words[0], "");
    return print_target(arguments, target, NULL, facts, COUNT(facts), err);
}

int verb_image_delete(const struct arguments *arguments, struct error *err)
{
    MEMORY_OWNED char *target = request_target("images", arguments->words[0], "");
    int r = request_json("DELETE", target, NULL, NULL, err);
    if (r < 0) {
        return r;
    }
    JSON_OWNED json_t *document = json_pack("{s:s}", "deleted", arguments->words[0]);
    return print_done(arguments, document, err, "deleted image %s", arguments->words[0]);
}

/* ---- Reading again ---- */

static int judge(const json_t *result, struct error *err)
{
    size_t index = 0;
    json_t *part = NULL;
    json_array_foreach(json_object_get(result, "parts"), index, part)
    {
        if (strcmp(json_text(part, "state"), "damaged") == 0) {
            const char *name = json_text(part, "image");
            const char *node = json_text(result, "node");
            const char *reason = json_text(part, "reason");
            return reason[0] != '\0'
                ? error_set(err, ERROR_CORRUPT,
                            "image %s is damaged on node %s, and was not repaired: %s (get it anew "
                            "by `blixard image import` or `pull`)",
                            name, node, reason)
                : error_set(err, ERROR_CORRUPT,
                            "image %s is damaged on node %s: `blixard image verify %s --node %s "
                            "--repair` fetches it from another node, `blixard image import` or "
                            "`pull` gets it anew",
                            name, node, name, node);
        }
    }
    return 0;
}

static int print_parts(const struct arguments *arguments, const json_t *result, struct error *err)
{
    static const struct column columns[] = {
        {"IMAGE", "image", AS_TEXT},      {"PART", "part", AS_TEXT}, {"STATE", "state", AS_TEXT},
        {"SIZE", "size_bytes", AS_BYTES}, {"BLOB", "blob", AS_TEXT},
    };
    enum output output = OUTPUT_TABLE;
    int r = output_of(arguments, &output, err);
    if (r == 0 && output != OUTPUT_TABLE) {
        print_document(result, output);
    } else if (r == 0) {
        print_table(json_object_get(result, "parts"), columns, COUNT(columns));
    }
    return r < 0 ? r : judge(result, err);
}

int verb_image_verify(const struct arguments *arguments, struct error *err)
{
    JSON_OWNED json_t *body = json_object();
    JSON_OWNED json_t *begun = NULL;
    JSON_OWNED json_t *operation = NULL;
    BUFFER_OWNED struct buffer target = {0};
    buffer_append_string(&target, "/v1/images/verify");
    request_add_query(&target, "node", flag_value(arguments, "node"));
    if (arguments->word_count > 0) {
        json_object_set_new(body, "image", json_string(arguments->words[0]));
    }
    if (flag_value(arguments, "repair") != NULL) {
        json_object_set_new(body, "repair", json_true());
    }
    int r = request_send("POST", buffer_string(&target), body, &begun, err);
    if (r == 0 && flag_value(arguments, "no-wait") != NULL) {
        return print_done(arguments, begun, err, "operation %s", json_text(begun, "operation"));
    }
    r = r < 0 ? r : operation_wait_for(json_text(begun, "operation"), &operation, err);
    return r < 0 ? r : print_parts(arguments, json_object_get(operation, "result"), err);
}
