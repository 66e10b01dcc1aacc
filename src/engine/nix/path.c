/* Names of store paths, Nix's base 32, and sets of paths. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base64.h"
#include "base/buffer.h"
#include "base/check.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/text.h"

#include "engine/nix/cache.h"

static const char digits[] = "0123456789abcdfghijklmnpqrsvwxyz";

enum { BASE32_CHARS = NIX_HASH_TEXT_SIZE - 1, BITS_PER_DIGIT = 5 };

static int digit_of(char c)
{
    const char *at = c == '\0' ? NULL : strchr(digits, c);
    return at == NULL ? -1 : (int)(at - digits);
}

/* ---- Base 32 ---- */

void nix_base32_write(const uint8_t bytes[NIX_NAR_HASH_BYTES], char ret_text[NIX_HASH_TEXT_SIZE])
{
    for (size_t i = 0; i < BASE32_CHARS; i++) {
        size_t bit = (BASE32_CHARS - 1 - i) * BITS_PER_DIGIT;
        size_t byte = bit / 8;
        unsigned pair = bytes[byte];
        if (byte + 1 < NIX_NAR_HASH_BYTES) {
            pair |= (unsigned)bytes[byte + 1] << 8;
        }
        ret_text[i] = digits[pair >> bit % 8 & 31];
    }
    ret_text[BASE32_CHARS] = '\0';
}

static bool read_base32(const char *text, uint8_t ret_bytes[NIX_NAR_HASH_BYTES])
{
    memset(ret_bytes, 0, NIX_NAR_HASH_BYTES);
    for (size_t i = 0; i < BASE32_CHARS; i++) {
        size_t bit = (BASE32_CHARS - 1 - i) * BITS_PER_DIGIT;
        size_t byte = bit / 8;
        int digit = digit_of(text[i]);
        if (digit < 0) {
            return false;
        }
        unsigned pair = (unsigned)digit << bit % 8;
        ret_bytes[byte] |= (uint8_t)pair;
        if (byte + 1 < NIX_NAR_HASH_BYTES) {
            ret_bytes[byte + 1] |= (uint8_t)(pair >> 8);
        } else if (pair >> 8 != 0) {
            return false; /* 260 bits are more than 256 */
        }
    }
    return true;
}

static int hex_of(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool read_base16(const char *text, uint8_t ret_bytes[NIX_NAR_HASH_BYTES])
{
    for (size_t i = 0; i < NIX_NAR_HASH_BYTES; i++) {
        int high = hex_of(text[2 * i]);
        int low = hex_of(text[2 * i + 1]);
        if (high < 0 || low < 0) {
            return false;
        }
        ret_bytes[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

static bool read_base64(const char *text, size_t length, uint8_t ret_bytes[NIX_NAR_HASH_BYTES])
{
    BUFFER_OWNED struct buffer bytes = {0};
    if (length > 64 || !base64_read(text, length, &bytes) || bytes.used != NIX_NAR_HASH_BYTES) {
        return false;
    }
    memcpy(ret_bytes, bytes.data, NIX_NAR_HASH_BYTES);
    return true;
}

bool nix_sha256_read(const char *text, size_t length, uint8_t ret_bytes[NIX_NAR_HASH_BYTES])
{
    enum { PREFIX = 7, BASE16_CHARS = 2 * NIX_NAR_HASH_BYTES };
    if (length <= PREFIX || memcmp(text, "sha256", PREFIX - 1) != 0) {
        return false;
    }
    const char *rest = text + PREFIX;
    size_t left = length - PREFIX;
    if (text[PREFIX - 1] == '-') {
        return read_base64(rest, left, ret_bytes);
    }
    if (text[PREFIX - 1] != ':') {
        return false;
    }
    return (left == BASE32_CHARS && read_base32(rest, ret_bytes)) ||
        (left == BASE16_CHARS && read_base16(rest, ret_bytes));
}

/* ---- Paths ---- */

bool nix_hash_is_good(const char *text, size_t length)
{
    bool good = length == NIX_HASH_CHARS;
    for (size_t i = 0; good && i < length; i++) {
        good = digit_of(text[i]) >= 0;
    }
    return good;
}

static bool name_is_good(const char *name, size_t length)
{
    bool good = length > 0 && length <= NIX_NAME_MAX && name[0] != '.';
    for (size_t i = 0; good && i < length; i++) {
        char c = name[i];
        good = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
            (c != '\0' && strchr("+-._?=", c) != NULL);
    }
    return good;
}

int nix_path_parse(const char *text, const char *folder, struct nix_path *ret_path,
                   struct error *err)
{
    const char *base = text;
    size_t skip = folder == NULL ? 0 : strlen(folder);
    if (skip > 0 && strncmp(text, folder, skip) == 0 && text[skip] == '/') {
        base = text + skip + 1;
    }
    size_t length = strlen(base);
    if (length <= NIX_HASH_CHARS + 1 || base[NIX_HASH_CHARS] != '-' ||
        !nix_hash_is_good(base, NIX_HASH_CHARS) ||
        !name_is_good(base + NIX_HASH_CHARS + 1, length - NIX_HASH_CHARS - 1)) {
        return error_set(err, ERROR_INVALID,
                         "\"%.200s\" is no store path: %s/HASH-NAME, with the 32 characters of its "
                         "hash",
                         text, folder == NULL ? "" : folder);
    }
    struct nix_path path = {0};
    memcpy(path.hash, base, NIX_HASH_CHARS);
    memcpy(path.name, base + NIX_HASH_CHARS + 1, length - NIX_HASH_CHARS - 1);
    *ret_path = path;
    return 0;
}

void nix_path_text(const struct nix_path *path, const char *folder, char ret_text[NIX_TEXT_SIZE])
{
    snprintf(ret_text, NIX_TEXT_SIZE, "%s/%s-%s", folder, path->hash, path->name);
}

int nix_path_compare(const struct nix_path *a, const struct nix_path *b)
{
    int order = strcmp(a->hash, b->hash);
    return order != 0 ? order : strcmp(a->name, b->name);
}

/* ---- Sets of them ---- */

void nix_paths_add(struct nix_paths *paths, const struct nix_path *path)
{
    /* Room doubles: at each power of two. */
    if ((paths->count & (paths->count - 1)) == 0) {
        size_t room = paths->count == 0 ? 1 : 2 * paths->count;
        paths->items = memory_resize(paths->items, room * sizeof(*paths->items));
    }
    paths->items[paths->count++] = *path;
}

static int compare_items(const void *a, const void *b)
{
    return nix_path_compare(a, b);
}

void nix_paths_sort(struct nix_paths *paths)
{
    if (paths->count > 1) {
        qsort(paths->items, paths->count, sizeof(*paths->items), compare_items);
    }
}

void nix_paths_done(struct nix_paths *paths)
{
    free(paths->items);
    *paths = (struct nix_paths){0};
}

void nix_info_done(struct nix_info *info)
{
    nix_paths_done(&info->references);
    free(info->deriver);
    free(info->signatures);
    free(info->content_address);
    *info = (struct nix_info){0};
}
