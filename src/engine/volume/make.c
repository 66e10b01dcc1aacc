/* Layers made, grown and merged: what qemu-img and mke2fs are told. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"

#include "engine/volume/tool.h"
#include "engine/volume/volume.h"

/* The key is random, or somebody's passphrase: enough rounds that a weak one is not free, few
 * enough that a start does not wait for them. */
#define ENCRYPTION "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=200"

enum { WORDS_MAX = 24 };

struct words {
    const char *words[WORDS_MAX];
    size_t count;
};

static void add(struct words *words, const char *word)
{
    CHECK(words->count + 1 < WORDS_MAX);
    words->words[words->count++] = word;
}

static void begin(struct words *words, const struct volume_layer *layer, const char *verb)
{
    add(words, "qemu-img");
    add(words, verb);
    if (layer->key != NULL) {
        add(words, "--object");
        add(words, "secret,id=key,file=" TOOL_INPUT);
    }
}

/* On a busy host LUKS may find no measure of how often to stir the key: it is asked again. */
static int run(const struct words *words, const struct volume_layer *layer, struct error *err)
{
    enum { TRIES = 5 };
    int r = 0;
    for (int i = 0; i < TRIES; i++) {
        *err = (struct error){0};
        r = tool_run(words->words, "qemu-utils", layer->folder, layer->key, layer->key_length, err);
        if (r == 0 || strstr(err->text, "accurate CPU usage") == NULL) {
            break;
        }
    }
    return r;
}

/* ---- Making ---- */

static int make_empty(const char *path, uint64_t size, struct error *err)
{
    unlink(path);
    FD_OWNED int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0 || ftruncate(fd, (off_t)size) < 0) {
        return error_os(err, errno, "making %s", path);
    }
    return 0;
}

/* Tables are written by the guest when it needs them: the file stays sparse. */
int volume_make_file_system(const char *folder, const char *path, const char *label_or_null,
                            struct error *err)
{
    char label[VOLUME_LABEL_MAX + 1];
    snprintf(label, sizeof(label), "%s", label_or_null != NULL ? label_or_null : "");
    const char *argv[] = {"mke2fs",
                          "-q",
                          "-F",
                          "-t",
                          "ext4",
                          "-m",
                          "0",
                          "-L",
                          label,
                          "-E",
                          "lazy_itable_init=1,lazy_journal_init=1,discard,root_owner=0:0",
                          path,
                          NULL};
    return tool_run(argv, "e2fsprogs", folder, NULL, 0, err);
}

static int make_raw(const struct volume_layer *layer, const char *path, struct error *err)
{
    int r = make_empty(path, layer->size_bytes, err);
    return r < 0 || layer->label == NULL
        ? r
        : volume_make_file_system(layer->folder, path, layer->label, err);
}

/* Over another one, or empty.  -u: the one below is not opened, whose key may be needed for it. */
static int make_qcow2(const struct volume_layer *layer, const char *path, struct error *err)
{
    struct words words = {0};
    char size[24];
    char below[64];
    snprintf(size, sizeof(size), "%" PRIu64, layer->size_bytes);
    begin(&words, layer, "create");
    add(&words, "-q");
    add(&words, "-f");
    add(&words, "qcow2");
    if (layer->key != NULL) {
        add(&words, "-o");
        add(&words, ENCRYPTION);
    }
    if (layer->below_id != NULL) {
        snprintf(below, sizeof(below), "%s.%s", layer->below_id,
                 volume_format_text(layer->below_format));
        add(&words, "-u");
        add(&words, "-b");
        add(&words, below);
        add(&words, "-F");
        add(&words, volume_format_text(layer->below_format));
    }
    add(&words, path);
    add(&words, size);
    return run(&words, layer, err);
}

/* mke2fs writes raw files alone. */
static int make_converted(const struct volume_layer *layer, const char *path, struct error *err)
{
    struct words words = {0};
    MEMORY_OWNED char *raw = memory_format("%s/%s.raw.partial", layer->folder, layer->id);
    int r = make_raw(layer, raw, err);
    begin(&words, layer, "convert");
    add(&words, "-f");
    add(&words, "raw");
    add(&words, "-O");
    add(&words, "qcow2");
    if (layer->key != NULL) {
        add(&words, "-o");
        add(&words, ENCRYPTION);
    }
    add(&words, raw);
    add(&words, path);
    r = r < 0 ? r : run(&words, layer, err);
    unlink(raw);
    return r;
}

static int make(const struct volume_layer *layer, const char *path, struct error *err)
{
    if (layer->format == VOLUME_RAW) {
        return make_raw(layer, path, err);
    }
    return layer->below_id == NULL && layer->label != NULL ? make_converted(layer, path, err)
                                                           : make_qcow2(layer, path, err);
}

/* Its name is there once its content is, whatever happens to the host. */
static int put_in_place(const char *partial, const char *path, const char *folder,
                        struct error *err)
{
    FD_OWNED int fd = open(partial, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    FD_OWNED int place = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || place < 0 || fchmod(fd, 0600) < 0 || fsync(fd) < 0 || rename(partial, path) < 0 ||
        fsync(place) < 0) {
        return error_os(err, errno, "putting %s in place", path);
    }
    return 0;
}

int volume_make(const struct volume_layer *layer, struct error *err)
{
    CHECK(layer->format == VOLUME_QCOW2 || (layer->key == NULL && layer->below_id == NULL));
    CHECK(layer->below_id == NULL || layer->label == NULL);
    MEMORY_OWNED char *path = volume_path(layer->folder, layer->id, layer->format);
    MEMORY_OWNED char *partial = memory_format("%s.partial", path);
    if (file_exists(path)) {
        return 0;
    }
    int r = volume_check_size(layer->folder, layer->size_bytes, err);
    unlink(partial);
    r = r < 0 ? r : make(layer, partial, err);
    r = r < 0 ? r : put_in_place(partial, path, layer->folder, err);
    if (r < 0) {
        unlink(partial);
    }
    return r;
}

/* ---- Growing ---- */

static int grow_raw(const char *path, uint64_t size, struct error *err)
{
    struct stat status;
    FD_OWNED int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || fstat(fd, &status) < 0) {
        return error_os(err, errno, "opening %s", path);
    }
    if ((uint64_t)status.st_size > size) {
        return error_set(err, ERROR_INVALID, "%s is larger than %" PRIu64 " bytes", path, size);
    }
    return ftruncate(fd, (off_t)size) == 0 && fsync(fd) == 0
        ? 0
        : error_os(err, errno, "growing %s", path);
}

/* "json:{...}": the one way to say which secret opens it, and in which no letter of a path means
 * anything.  The caller's. */
static json_t *node_of(const char *path, enum volume_format format, bool is_encrypted)
{
    json_t *node = json_pack("{s:s, s:{s:s, s:s}}", "driver", volume_format_text(format), "file",
                             "driver", "file", "filename", path);
    if (is_encrypted) {
        json_object_set_new(node, "encrypt",
                            json_pack("{s:s, s:s}", "format", "luks", "key-secret", "key"));
    }
    return node;
}

/* What is below it is said as well, or (count 0) not opened: a layer's own header is not believed,
 * as merging changes what lies below what. */
static char *image_of(const struct volume_layer *layer, const struct volume_below *below,
                      size_t count)
{
    MEMORY_OWNED char *path = volume_path(layer->folder, layer->id, layer->format);
    JSON_OWNED json_t *top = node_of(path, layer->format, layer->key != NULL);
    json_t *over = top;
    for (size_t i = 0; i < count; i++) {
        bool is_encrypted = layer->key != NULL && below[i].format == VOLUME_QCOW2;
        MEMORY_OWNED char *under = volume_path(layer->folder, below[i].id, below[i].format);
        json_t *node = node_of(under, below[i].format, is_encrypted);
        json_object_set_new(over, "backing", node);
        over = node;
    }
    if (count == 0 && layer->below_id != NULL) {
        json_object_set_new(over, "backing", json_null());
    }
    MEMORY_OWNED char *text = json_dumps(top, JSON_COMPACT);
    return memory_format("json:%s", text);
}

int volume_grow(const struct volume_layer *layer, struct error *err)
{
    struct words words = {0};
    char size[24];
    MEMORY_OWNED char *path = volume_path(layer->folder, layer->id, layer->format);
    MEMORY_OWNED char *image = image_of(layer, NULL, 0);
    int r = volume_check_size(layer->folder, layer->size_bytes, err);
    if (r < 0 || layer->format == VOLUME_RAW) {
        return r < 0 ? r : grow_raw(path, layer->size_bytes, err);
    }
    snprintf(size, sizeof(size), "%" PRIu64, layer->size_bytes);
    begin(&words, layer, "resize");
    add(&words, "-q");
    add(&words, image);
    add(&words, size);
    return run(&words, layer, err);
}

/* ---- Merging ---- */

int volume_commit(const struct volume_layer *layer, const struct volume_below *below, size_t count,
                  struct error *err)
{
    struct words words = {0};
    CHECK(count > 0);
    MEMORY_OWNED char *image = image_of(layer, below, count);
    begin(&words, layer, "commit");
    add(&words, "-q");
    add(&words, "-d");
    add(&words, image);
    return run(&words, layer, err);
}

int volume_flatten(const struct volume_layer *layer, const struct volume_below *below, size_t count,
                   const char *to, struct error *err)
{
    struct words words = {0};
    CHECK(layer->key == NULL);
    MEMORY_OWNED char *image = image_of(layer, below, count);
    begin(&words, layer, "convert");
    add(&words, "-S");
    add(&words, "64k");
    add(&words, "-O");
    add(&words, "raw");
    add(&words, image);
    add(&words, to);
    return run(&words, layer, err);
}
