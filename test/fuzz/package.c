/*
 * Archives of machines: bytes after a manifest that is good, as a tar archive.  Whatever they are,
 * it ends, and nothing lies outside of the folder or under a name that no machine has.
 */
#include "service/machine/package.h"

#include <dirent.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/memory.h"

#include "engine/image/image.h"

#include "service/machine/content.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

static void must(bool holds)
{
    if (!holds) {
        abort();
    }
}

static void look(const char *folder, bool is_content)
{
    DIR *opened = opendir(folder);
    const struct dirent *entry = NULL;
    while (opened != NULL && (entry = readdir(opened)) != NULL) {
        const char *name = entry->d_name;
        if (name[0] == '.') {
            continue;
        }
        if (is_content) {
            must(content_is_file(name) || strcmp(name, CONTENT_MANIFEST) == 0);
        } else {
            must(strcmp(name, "content") == 0 || strcmp(name, "snapshots") == 0);
        }
    }
    if (opened != NULL) {
        closedir(opened);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    static char place[] = "/tmp/blixard-fuzz-package-XXXXXX";
    static struct image_store *images;
    struct error err = {0};
    json_t *manifest = NULL;
    if (images == NULL) {
        must(mkdtemp(place) != NULL);
        MEMORY_OWNED char *store = memory_format("%s/images", place);
        must(image_store_open(store, &images, &err) == 0);
    }
    MEMORY_OWNED char *folder = memory_format("%s/in", place);
    MEMORY_OWNED char *content = memory_format("%s/content", folder);
    FD_OWNED int fd = memfd_create("archive", MFD_CLOEXEC);
    must(fd >= 0 && file_write_all(fd, bytes, length) == 0 && lseek(fd, 0, SEEK_SET) == 0);
    int r = package_read(fd, folder, images, 0, &manifest, &err);
    must(r < 0 || manifest != NULL);
    json_decref(manifest);
    look(folder, false);
    look(content, true);
    must(file_remove_tree(folder, &err) == 0);
    return 0;
}
