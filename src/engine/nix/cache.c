/*
 * Narinfo: what a binary cache says of a path.
 *
 *     StorePath: /nix/store/HASH-NAME        (folder of the store and all)
 *     URL: nar/....nar.zst                   (relative to the cache)
 *     Compression: zstd                      (missing: bzip2)
 *     FileHash: sha256:...  FileSize: N      (of what the URL has; may be missing)
 *     NarHash: sha256:...   NarSize: N
 *     References: HASH-NAME HASH-NAME        (base names, sorted; may be empty)
 *     Deriver: HASH-NAME.drv
 *     Sig: NAME:BASE64                       (any number)
 *     CA: fixed:r:sha256:...
 *
 * Keys that nobody knows are skipped, as Nix does.
 */
#include "engine/nix/cache.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/text.h"

struct reader {
    const char *folder;
    struct nix_narinfo *to;
    struct buffer signatures;
    size_t signature_count;
    bool has_path;
    bool has_hash;
    bool has_size;
};

/* Printable ASCII without blanks. */
static bool is_word(struct text text, size_t length_max)
{
    bool good = text.length > 0 && text.length <= length_max;
    for (size_t i = 0; good && i < text.length; i++) {
        good = text.data[i] > ' ' && text.data[i] < 127;
    }
    return good;
}

static void keep_text(char **slot, struct text value)
{
    free(*slot);
    *slot = memory_copy_text(value.data, value.length);
}

/* ---- What the keys mean: false when the value cannot be ---- */

static bool read_path(struct reader *reader, struct text value)
{
    struct error ignored = {0};
    char text[NIX_TEXT_SIZE];
    if (reader->has_path || value.length >= sizeof(text) || value.data[0] != '/') {
        return false;
    }
    memcpy(text, value.data, value.length);
    text[value.length] = '\0';
    reader->has_path = true;
    return nix_path_parse(text, reader->folder, &reader->to->info.path, &ignored) == 0;
}

static bool read_url(struct reader *reader, struct text value)
{
    char *url = reader->to->url;
    if (!is_word(value, NIX_URL_MAX - 1)) {
        return false;
    }
    memcpy(url, value.data, value.length);
    url[value.length] = '\0';
    return url[0] != '/' && url[0] != '.' && strstr(url, "/.") == NULL && strchr(url, ':') == NULL;
}

static bool read_compression(struct reader *reader, struct text value)
{
    if (!is_word(value, sizeof(reader->to->compression) - 1)) {
        return false;
    }
    memcpy(reader->to->compression, value.data, value.length);
    reader->to->compression[value.length] = '\0';
    return true;
}

/* Of another algorithm it is no use; Nix's own caches have SHA-256 alone. */
static bool read_file_hash(struct reader *reader, struct text value)
{
    reader->to->has_file_hash = nix_sha256_read(value.data, value.length, reader->to->file_hash);
    return reader->to->has_file_hash;
}

static bool read_file_size(struct reader *reader, struct text value)
{
    return text_parse_u64(value, &reader->to->file_size_bytes);
}

static bool read_nar_hash(struct reader *reader, struct text value)
{
    bool first = !reader->has_hash;
    reader->has_hash = true;
    return first && nix_sha256_read(value.data, value.length, reader->to->info.nar_hash);
}

static bool read_nar_size(struct reader *reader, struct text value)
{
    bool first = !reader->has_size;
    reader->has_size = true;
    return first && text_parse_u64(value, &reader->to->info.nar_size_bytes) &&
        reader->to->info.nar_size_bytes > 0 && reader->to->info.nar_size_bytes <= INT64_MAX;
}

static bool take_reference(struct reader *reader, const char *at, size_t length)
{
    struct error ignored = {0};
    struct nix_path path;
    char text[NIX_HASH_CHARS + NIX_NAME_MAX + 2];
    struct nix_paths *all = &reader->to->info.references;
    if (length >= sizeof(text) || all->count >= NIX_REFERENCES_MAX) {
        return false;
    }
    memcpy(text, at, length);
    text[length] = '\0';
    if (nix_path_parse(text, NULL, &path, &ignored) < 0) {
        return false;
    }
    nix_paths_add(all, &path);
    return true;
}

static bool read_references(struct reader *reader, struct text value)
{
    struct nix_paths *all = &reader->to->info.references;
    bool good = all->count == 0;
    for (size_t i = 0; good && i < value.length;) {
        const char *blank = memchr(value.data + i, ' ', value.length - i);
        size_t length = blank == NULL ? value.length - i : (size_t)(blank - (value.data + i));
        good = length == 0 || take_reference(reader, value.data + i, length);
        i += length + 1;
    }
    nix_paths_sort(all);
    for (size_t i = 1; good && i < all->count; i++) {
        good = nix_path_compare(&all->items[i - 1], &all->items[i]) != 0;
    }
    return good;
}

static bool read_deriver(struct reader *reader, struct text value)
{
    struct error ignored = {0};
    struct nix_path path;
    if (value.length > NIX_HASH_CHARS + NIX_NAME_MAX + 1) {
        return false;
    }
    if (text_equal(value, "unknown-deriver")) {
        return true;
    }
    keep_text(&reader->to->info.deriver, value);
    return nix_path_parse(reader->to->info.deriver, NULL, &path, &ignored) == 0;
}

static bool read_signature(struct reader *reader, struct text value)
{
    if (!is_word(value, 512) || reader->signature_count++ >= NIX_SIGNATURES_MAX) {
        return false;
    }
    buffer_append_string(&reader->signatures, reader->signatures.used > 0 ? " " : "");
    buffer_append(&reader->signatures, value.data, value.length);
    return true;
}

static bool read_content_address(struct reader *reader, struct text value)
{
    if (!is_word(value, 256)) {
        return false;
    }
    keep_text(&reader->to->info.content_address, value);
    return true;
}

static const struct {
    const char *key;
    bool (*read)(struct reader *reader, struct text value);
} keys[] = {
    {"StorePath", read_path},          {"URL", read_url},
    {"Compression", read_compression}, {"FileHash", read_file_hash},
    {"FileSize", read_file_size},      {"NarHash", read_nar_hash},
    {"NarSize", read_nar_size},        {"References", read_references},
    {"Deriver", read_deriver},         {"Sig", read_signature},
    {"CA", read_content_address},
};

/* ---- Lines ---- */

static int read_line(struct reader *reader, struct text line, struct error *err)
{
    const char *colon = memchr(line.data, ':', line.length);
    if (colon == NULL || colon == line.data) {
        return error_set(err, ERROR_INVALID, "a narinfo has a line without \"Key: value\"");
    }
    struct text key = text_of(line.data, (size_t)(colon - line.data));
    struct text value = text_trim(text_of(colon + 1, line.length - key.length - 1));
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        bool is_empty = value.length == 0 && keys[i].read != read_references;
        if (text_equal(key, keys[i].key) && !is_empty && !keys[i].read(reader, value)) {
            return error_set(err, ERROR_INVALID, "a narinfo's %s cannot be \"%.*s\"", keys[i].key,
                             (int)(value.length < 80 ? value.length : 80), value.data);
        }
    }
    return 0;
}

static int check_whole(const struct reader *reader, struct error *err)
{
    if (!reader->has_path || !reader->has_hash || !reader->has_size || reader->to->url[0] == '\0') {
        return error_set(err, ERROR_INVALID,
                         "a narinfo lacks its StorePath, URL, NarHash or NarSize");
    }
    return 0;
}

int nix_narinfo_parse(const char *text, size_t length, const char *folder,
                      struct nix_narinfo *ret_narinfo, struct error *err)
{
    NIX_NARINFO_OWNED struct nix_narinfo narinfo = {0};
    struct reader reader = {.folder = folder, .to = &narinfo};
    int r = length > NIX_NARINFO_MAX
        ? error_set(err, ERROR_INVALID, "a narinfo has %zu bytes", length)
        : 0;
    snprintf(narinfo.compression, sizeof(narinfo.compression), "bzip2");
    for (size_t i = 0; r == 0 && i < length;) {
        const char *end = memchr(text + i, '\n', length - i);
        size_t line = end == NULL ? length - i : (size_t)(end - (text + i));
        r = line == 0 ? 0 : read_line(&reader, text_of(text + i, line), err);
        i += line + 1;
    }
    r = r < 0 ? r : check_whole(&reader, err);
    narinfo.info.signatures = buffer_take(&reader.signatures);
    if (r < 0) {
        return r;
    }
    if (narinfo.info.deriver == NULL) {
        narinfo.info.deriver = memory_copy_string("");
    }
    if (narinfo.info.content_address == NULL) {
        narinfo.info.content_address = memory_copy_string("");
    }
    *ret_narinfo = narinfo;
    narinfo = (struct nix_narinfo){0};
    return 0;
}

void nix_narinfo_done(struct nix_narinfo *narinfo)
{
    nix_info_done(&narinfo->info);
}

/* ---- Writing ---- */

static void write_signatures(const char *signatures, struct buffer *out)
{
    for (const char *at = signatures; *at != '\0';) {
        size_t length = strcspn(at, " ");
        if (length > 0) {
            buffer_append_format(out, "Sig: %.*s\n", (int)length, at);
        }
        at += length + (at[length] == ' ' ? 1 : 0);
    }
}

void nix_narinfo_write(const struct nix_narinfo *narinfo, const char *folder, struct buffer *out)
{
    const struct nix_info *info = &narinfo->info;
    char text[NIX_TEXT_SIZE];
    char hash[NIX_HASH_TEXT_SIZE];
    nix_path_text(&info->path, folder, text);
    buffer_append_format(out, "StorePath: %s\nURL: %s\nCompression: %s\n", text, narinfo->url,
                         narinfo->compression);
    if (narinfo->has_file_hash) {
        nix_base32_write(narinfo->file_hash, hash);
        buffer_append_format(out, "FileHash: sha256:%s\nFileSize: %" PRIu64 "\n", hash,
                             narinfo->file_size_bytes);
    }
    nix_base32_write(info->nar_hash, hash);
    buffer_append_format(out, "NarHash: sha256:%s\nNarSize: %" PRIu64 "\nReferences:", hash,
                         info->nar_size_bytes);
    for (size_t i = 0; i < info->references.count; i++) {
        buffer_append_format(out, " %s-%s", info->references.items[i].hash,
                             info->references.items[i].name);
    }
    buffer_append_string(out, info->references.count == 0 ? " \n" : "\n");
    if (info->deriver[0] != '\0') {
        buffer_append_format(out, "Deriver: %s\n", info->deriver);
    }
    write_signatures(info->signatures, out);
    if (info->content_address[0] != '\0') {
        buffer_append_format(out, "CA: %s\n", info->content_address);
    }
}
