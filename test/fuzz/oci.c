/*
 * OCI images: documents, references and challenges, and two layers laid over each other.  Whatever
 * they are, it ends; and no name that comes out leads anywhere but into the root.
 */
#include "engine/image/oci.h"

#include <archive.h>
#include <archive_entry.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/memory.h"

#include "engine/image/layers.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

static void must(bool holds)
{
    if (!holds) {
        abort();
    }
}

static void documents(const uint8_t *bytes, size_t length)
{
    struct error err = {0};
    bool is_index = false;
    struct oci_descriptor next = {0};
    struct oci_manifest manifest;
    OCI_CONFIG_OWNED struct oci_config config = {0};
    struct oci_reference reference;
    struct oci_challenge challenge;
    MEMORY_OWNED char *text = memory_copy_text((const char *)bytes, length);
    if (oci_parse_manifest(bytes, length, "a", &is_index, &next, &manifest, &err) == 0) {
        must(is_index ? strlen(next.id) == 64 : manifest.layer_count <= OCI_LAYERS_MAX);
    }
    if (oci_parse_config(bytes, length, &config, &err) == 0) {
        must(config.arguments != NULL && config.diff_count <= OCI_LAYERS_MAX);
    }
    if (oci_parse_reference(text, &reference, &err) == 0) {
        must(strstr(reference.repository, "..") == NULL ||
             strchr(reference.repository, '/') == NULL ||
             strstr(reference.repository, "/..") == NULL);
    }
    oci_parse_challenge(text, &challenge);
}

static int file_of(const void *bytes, size_t length, char ret_path[32])
{
    int fd = memfd_create("layer", MFD_CLOEXEC);
    must(fd >= 0 && (length == 0 || write(fd, bytes, length) == (ssize_t)length));
    must(lseek(fd, 0, SEEK_SET) == 0);
    snprintf(ret_path, 32, "/proc/self/fd/%d", fd);
    return fd;
}

static void check_names(int fd)
{
    struct archive_entry *entry = NULL;
    struct archive *in = archive_read_new();
    archive_read_support_format_tar(in);
    must(lseek(fd, 0, SEEK_SET) == 0 && archive_read_open_fd(in, fd, 4096) == ARCHIVE_OK);
    while (archive_read_next_header(in, &entry) >= ARCHIVE_WARN &&
           archive_entry_pathname(entry) != NULL) {
        const char *name = archive_entry_pathname(entry);
        must(strncmp(name, "./", 2) == 0 && strstr(name, "/../") == NULL);
        must(strncmp(name, "./.wh.", 6) != 0);
    }
    archive_read_free(in);
}

/* The first two bytes say where the second one begins. */
static void layers(const uint8_t *bytes, size_t length)
{
    char paths[3][32];
    struct error err = {0};
    size_t first = length > 2 ? (size_t)(bytes[0] | bytes[1] << 8) : 0;
    first = length > 2 && first < length - 2 ? first : 0;
    const uint8_t *rest = bytes + (length > 2 ? 2 : 0);
    size_t left = length > 2 ? length - 2 : 0;
    FD_OWNED int lower = file_of(rest, first, paths[0]);
    FD_OWNED int upper = file_of(rest + first, left - first, paths[1]);
    FD_OWNED int out = file_of("", 0, paths[2]);
    (void)lower; /* open until the end */
    (void)upper;
    struct layers *all = layers_new();
    int r = layers_add(all, paths[0], &err);
    r = r < 0 ? r : layers_add(all, paths[1], &err);
    if (r == 0 && layers_write(all, out, &err) == 0) {
        check_names(out);
    }
    layers_free(all);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    if (length > 0 && bytes[0] == 'L') {
        layers(bytes + 1, length - 1);
    } else {
        documents(bytes, length);
    }
    return 0;
}
