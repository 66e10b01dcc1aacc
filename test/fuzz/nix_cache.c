/*
 * Narinfos, store paths, keys and packed archives of binary caches.  Whatever they are, reading
 * ends; and what was read says the same when it is written and read again.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/memory.h"

#include "engine/nix/cache.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

static void must(bool holds)
{
    if (!holds) {
        abort();
    }
}

static void check_same(const struct nix_narinfo *info)
{
    struct error err = {0};
    NIX_NARINFO_OWNED struct nix_narinfo again = {0};
    BUFFER_OWNED struct buffer first = {0};
    BUFFER_OWNED struct buffer second = {0};
    nix_narinfo_write(info, "/nix/store", &first);
    must(nix_narinfo_parse((const char *)first.data, first.used, "/nix/store", &again, &err) == 0);
    nix_narinfo_write(&again, "/nix/store", &second);
    must(first.used == second.used && memcmp(first.data, second.data, first.used) == 0);
    must(strstr(info->url, "..") == NULL || strstr(info->url, "/..") == NULL);
    must(info->url[0] != '/' && info->url[0] != '.');
    nix_is_signed(&info->info, "/nix/store", "a:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
}

static void check_archive(const uint8_t *bytes, size_t length)
{
    struct error err = {0};
    const struct nix_info info = {.nar_size_bytes = 100000};
    FD_OWNED int fd = memfd_create("nar", MFD_CLOEXEC);
    must(fd >= 0 && write(fd, bytes, length) == (ssize_t)length);
    nix_nar_check(fd, &info, NULL, &err);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct error err = {0};
    struct nix_path path;
    struct nix_key key;
    uint8_t hash[NIX_NAR_HASH_BYTES];
    NIX_NARINFO_OWNED struct nix_narinfo info = {0};
    MEMORY_OWNED char *text = memory_copy_text((const char *)bytes, length);
    if (length > 0 && bytes[0] == 'A') {
        check_archive(bytes + 1, length - 1);
        return 0;
    }
    if (nix_narinfo_parse((const char *)bytes, length, "/nix/store", &info, &err) == 0) {
        check_same(&info);
    }
    if (nix_path_parse(text, "/nix/store", &path, &err) == 0) {
        must(strchr(path.name, '/') == NULL && path.name[0] != '.');
    }
    if (nix_sha256_read((const char *)bytes, length, hash)) {
        char back[NIX_HASH_TEXT_SIZE];
        nix_base32_write(hash, back);
    }
    nix_key_read(text, &key, &err);
    nix_keys_check(text, &err);
    return 0;
}
