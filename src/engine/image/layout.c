/*
 * OCI images on this machine: a layout's folder (image-layout.md), or what `docker save` writes:
 * manifest.json, [{"Config": PATH, "RepoTags": [...], "Layers": [PATH, ...]}].
 */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "engine/image/oci.h"

enum { INDEXES_MAX = 4, PIECE_BYTES = 1 << 20 };

/* ---- Files with a digest ---- */

static int hash_file(const char *path, char ret_id[HASH_TEXT_SIZE], struct error *err)
{
    FD_OWNED int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    struct stat status;
    if (fd < 0 || fstat(fd, &status) < 0) {
        return error_os(err, errno, "%s", path);
    }
    if (!S_ISREG(status.st_mode)) {
        return error_set(err, ERROR_INVALID, "%s is no file", path);
    }
    struct hash *hash = hash_new();
    MEMORY_OWNED uint8_t *piece = memory_new(1, PIECE_BYTES);
    ssize_t got = 0;
    while ((got = read(fd, piece, PIECE_BYTES)) > 0) {
        hash_add(hash, piece, (size_t)got);
    }
    int cause = errno;
    hash_finish(hash, ret_id);
    return got < 0 ? error_os(err, cause, "reading %s", path) : 0;
}

static int check_file(const char *path, const char *id, struct error *err)
{
    char actual[HASH_TEXT_SIZE];
    int r = hash_file(path, actual, err);
    return r < 0 || strcmp(actual, id) == 0
        ? r
        : error_set(err, ERROR_CORRUPT, "%s is not what its digest says", path);
}

static char *blob_path(const char *folder, const char *id)
{
    return memory_format("%s/blobs/sha256/%s", folder, id);
}

static int read_blob(const char *folder, const struct oci_descriptor *descriptor,
                     struct buffer *out, struct error *err)
{
    MEMORY_OWNED char *path = blob_path(folder, descriptor->id);
    int r = check_file(path, descriptor->id, err);
    return r < 0 ? r : file_read(path, OCI_DOCUMENT_BYTES_MAX, out, err);
}

/* ---- Layouts ---- */

/* From the index to the manifest of this platform; an index may lead to another one. */
static int find_manifest(const char *folder, const char *tag, struct oci_image *image,
                         struct oci_manifest *manifest, struct error *err)
{
    BUFFER_OWNED struct buffer bytes = {0};
    MEMORY_OWNED char *path = memory_format("%s/index.json", folder);
    struct oci_descriptor next = {0};
    bool is_index = true;
    int r = file_read(path, OCI_DOCUMENT_BYTES_MAX, &bytes, err);
    for (int i = 0; r == 0 && is_index && i < INDEXES_MAX; i++) {
        r = oci_parse_manifest(bytes.data, bytes.used, i == 0 ? tag : NULL, &is_index, &next,
                               manifest, err);
        if (r == 0 && is_index) {
            buffer_clear(&bytes);
            r = read_blob(folder, &next, &bytes, err);
        }
    }
    if (r == 0 && is_index) {
        r = error_set(err, ERROR_INVALID, "its indexes lead to each other, and to no image");
    }
    snprintf(image->digest, sizeof(image->digest), "sha256:%s", next.id);
    return r;
}

static int open_oci(const char *folder, const char *tag, struct oci_image *image, struct error *err)
{
    BUFFER_OWNED struct buffer bytes = {0};
    struct oci_manifest manifest = {0};
    int r = find_manifest(folder, tag, image, &manifest, err);
    r = r < 0 ? r : read_blob(folder, &manifest.config, &bytes, err);
    r = r < 0 ? r : oci_parse_config(bytes.data, bytes.used, &image->config, err);
    for (size_t i = 0; r == 0 && i < manifest.layer_count; i++) {
        image->layers[i] = blob_path(folder, manifest.layers[i].id);
        image->layer_count++;
        r = check_file(image->layers[i], manifest.layers[i].id, err);
    }
    return r;
}

/* ---- docker save ---- */

/* A path in it leads nowhere else; that no link of the archive does, its unpacking has seen to. */
static int inside(const char *folder, const json_t *name, char **ret_path, struct error *err)
{
    const char *text = json_string_value(name);
    if (text == NULL || text[0] == '/' || strstr(text, "..") != NULL) {
        return error_set(err, ERROR_INVALID, "manifest.json: a path is no path of the archive");
    }
    *ret_path = memory_format("%s/%s", folder, text);
    return 0;
}

static const json_t *find_saved(const json_t *list, const char *tag)
{
    size_t index = 0;
    json_t *entry = NULL;
    json_array_foreach(list, index, entry)
    {
        size_t i = 0;
        json_t *name = NULL;
        if (tag == NULL) {
            return entry;
        }
        json_array_foreach(json_object_get(entry, "RepoTags"), i, name)
        {
            const char *text = json_string_value(name);
            const char *colon = text != NULL ? strrchr(text, ':') : NULL;
            if (text != NULL &&
                (strcmp(text, tag) == 0 || (colon != NULL && strcmp(colon + 1, tag) == 0))) {
                return entry;
            }
        }
    }
    return NULL;
}

/* Layers are plain tar archives: the configuration says what they hash to. */
static int add_saved_layers(const char *folder, const json_t *layers, struct oci_image *image,
                            struct error *err)
{
    if (json_array_size(layers) != image->config.diff_count) {
        return error_set(err, ERROR_INVALID,
                         "manifest.json has %zu layers, the configuration has %zu",
                         json_array_size(layers), image->config.diff_count);
    }
    int r = 0;
    for (size_t i = 0; r == 0 && i < image->config.diff_count; i++) {
        r = inside(folder, json_array_get(layers, i), &image->layers[i], err);
        image->layer_count += r == 0 ? 1 : 0;
        /* Some writers make two equal layers one file and a link to it. */
        MEMORY_OWNED char *real = r == 0 ? realpath(image->layers[i], NULL) : NULL;
        if (r == 0 && real == NULL) {
            r = error_os(err, errno, "%s", image->layers[i]);
        }
        r = r < 0 ? r : check_file(real, image->config.diff_ids[i], err);
    }
    return r;
}

static int open_saved(const char *folder, const char *tag, struct oci_image *image,
                      struct error *err)
{
    BUFFER_OWNED struct buffer bytes = {0};
    BUFFER_OWNED struct buffer config = {0};
    JSON_OWNED json_t *list = NULL;
    MEMORY_OWNED char *path = memory_format("%s/manifest.json", folder);
    MEMORY_OWNED char *config_path = NULL;
    char id[HASH_TEXT_SIZE];
    int r = file_read(path, OCI_DOCUMENT_BYTES_MAX, &bytes, err);
    r = r < 0 ? r : json_read(bytes.data, bytes.used, &list, err);
    const json_t *entry = r == 0 ? find_saved(list, tag) : NULL;
    if (r == 0 && entry == NULL) {
        r = error_set(err, ERROR_NOT_FOUND, "manifest.json has no image of the tag \"%.100s\"",
                      tag != NULL ? tag : "");
    }
    r = r < 0 ? r : inside(folder, json_object_get(entry, "Config"), &config_path, err);
    r = r < 0 ? r : hash_file(config_path, id, err);
    r = r < 0 ? r : file_read(config_path, OCI_DOCUMENT_BYTES_MAX, &config, err);
    r = r < 0 ? r : oci_parse_config(config.data, config.used, &image->config, err);
    if (r == 0) {
        snprintf(image->digest, sizeof(image->digest), "sha256:%s", id);
        r = add_saved_layers(folder, json_object_get(entry, "Layers"), image, err);
    }
    return r;
}

int oci_open_layout(const char *folder, const char *tag, struct oci_image *ret_image,
                    struct error *err)
{
    MEMORY_OWNED char *layout = memory_format("%s/oci-layout", folder);
    MEMORY_OWNED char *saved = memory_format("%s/manifest.json", folder);
    struct oci_image image = {0};
    int r = 0;
    if (file_exists(layout)) {
        r = open_oci(folder, tag, &image, err);
    } else if (file_exists(saved)) {
        r = open_saved(folder, tag, &image, err);
    } else {
        r = error_set(err, ERROR_INVALID,
                      "it is no image: there is neither oci-layout nor manifest.json in it");
    }
    if (r < 0) {
        oci_image_done(&image);
        return r;
    }
    *ret_image = image;
    return 0;
}
