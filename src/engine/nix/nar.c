/*
 * Archives of file trees, as Nix hashes them.
 *
 *     archive := str("nix-archive-1") node
 *     node    := "(" "type" ( "regular" ["executable" ""] "contents" BYTES
 *                           | "symlink" "target" TEXT
 *                           | "directory" { "entry" "(" "name" NAME "node" node ")" } ) ")"
 *
 * where each of these is a str: its length (8 bytes, little endian), its bytes, zeros up to a
 * multiple of 8.  Entries are in the order of their names' bytes.  (Dolstra, "The Purely Functional
 * Software Deployment Model", 5.2.1.)
 */
#include <archive.h>
#include <archive_entry.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/memory.h"

#include "engine/nix/cache.h"

enum { DEPTH_MAX = 128, ENTRIES_MAX = 1 << 20, PIECE_BYTES = 65536, ZSTD_LEVEL = 3 };

/* ---- Writing ---- */

struct writer {
    bool (*sink)(const void *bytes, size_t length, void *context);
    void *context;
    struct buffer pending; /* small pieces together */
    struct error *err;
    char *piece;
};

static bool flush(struct writer *writer)
{
    bool good = writer->pending.used == 0 ||
        writer->sink(writer->pending.data, writer->pending.used, writer->context);
    buffer_clear(&writer->pending);
    return good;
}

static bool stopped(struct writer *writer)
{
    if (writer->err->kind == ERROR_NONE) {
        error_set(writer->err, ERROR_CANCELLED, "an archive was given up");
    }
    return false;
}

static bool put(struct writer *writer, const void *bytes, size_t length)
{
    buffer_append(&writer->pending, bytes, length);
    return writer->pending.used < PIECE_BYTES || flush(writer) || stopped(writer);
}

static bool put_padding(struct writer *writer, uint64_t length)
{
    static const char zeros[8];
    return put(writer, zeros, (8 - length % 8) % 8);
}

static bool put_length(struct writer *writer, uint64_t length)
{
    uint8_t bytes[8];
    for (size_t i = 0; i < sizeof(bytes); i++) {
        bytes[i] = (uint8_t)(length >> 8 * i);
    }
    return put(writer, bytes, sizeof(bytes));
}

static bool put_text(struct writer *writer, const char *text)
{
    size_t length = strlen(text);
    return put_length(writer, length) && put(writer, text, length) && put_padding(writer, length);
}

static bool put_texts(struct writer *writer, const char *const *texts)
{
    bool good = true;
    for (; good && *texts != NULL; texts++) {
        good = put_text(writer, *texts);
    }
    return good;
}

static bool failed(struct writer *writer, const char *what, const char *name)
{
    error_os(writer->err, errno, "%s %s", what, name);
    return false;
}

static bool write_file(struct writer *writer, int folder, const char *name,
                       const struct stat *status)
{
    static const char *const head[] = {"type", "regular", NULL};
    static const char *const executable[] = {"executable", "", NULL};
    FD_OWNED int fd = openat(folder, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    uint64_t left = (uint64_t)status->st_size;
    if (fd < 0) {
        return failed(writer, "opening", name);
    }
    bool good = put_texts(writer, head) &&
        ((status->st_mode & S_IXUSR) == 0 || put_texts(writer, executable)) &&
        put_text(writer, "contents") && put_length(writer, left);
    while (good && left > 0) {
        ssize_t got = read(fd, writer->piece, left < PIECE_BYTES ? (size_t)left : PIECE_BYTES);
        if (got <= 0) {
            errno = got == 0 ? EIO : errno;
            return failed(writer, "reading", name);
        }
        left -= (uint64_t)got;
        good = put(writer, writer->piece, (size_t)got);
    }
    return good && put_padding(writer, (uint64_t)status->st_size);
}

static bool write_link(struct writer *writer, int folder, const char *name)
{
    static const char *const head[] = {"type", "symlink", "target", NULL};
    char target[4096];
    ssize_t length = readlinkat(folder, name, target, sizeof(target) - 1);
    if (length < 0) {
        return failed(writer, "reading the link", name);
    }
    target[length] = '\0';
    return put_texts(writer, head) && put_text(writer, target);
}

static bool write_node(struct writer *writer, int folder, const char *name, unsigned depth);

struct names {
    char **items;
    size_t count;
};

static void names_done(struct names *names)
{
    for (size_t i = 0; i < names->count; i++) {
        free(names->items[i]);
    }
    free(names->items);
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void names_add(struct names *names, const char *name)
{
    if ((names->count & (names->count - 1)) == 0) {
        size_t room = names->count == 0 ? 1 : 2 * names->count;
        names->items = memory_resize(names->items, room * sizeof(*names->items));
    }
    names->items[names->count++] = memory_copy_string(name);
}

static bool read_names(struct writer *writer, int folder, struct names *names)
{
    FD_OWNED int copy = dup(folder);
    DIR *dir = copy < 0 ? NULL : fdopendir(copy);
    struct dirent *entry = NULL;
    if (dir == NULL) {
        return failed(writer, "reading", "a folder");
    }
    fd_take(&copy);
    while (errno = 0, (entry = readdir(dir)) != NULL && names->count <= ENTRIES_MAX) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
            names_add(names, entry->d_name);
        }
    }
    int cause = names->count > ENTRIES_MAX ? E2BIG : errno;
    closedir(dir);
    errno = cause;
    if (cause != 0) {
        return failed(writer, "reading", "a folder");
    }
    if (names->count > 1) {
        qsort(names->items, names->count, sizeof(*names->items), compare_names);
    }
    return true;
}

static bool write_folder(struct writer *writer, int folder, const char *name, unsigned depth)
{
    static const char *const head[] = {"type", "directory", NULL};
    static const char *const entry[] = {"entry", "(", "name", NULL};
    __attribute__((cleanup(names_done))) struct names names = {0};
    FD_OWNED int fd = openat(folder, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_DIRECTORY);
    if (fd < 0) {
        return failed(writer, "opening", name);
    }
    bool good = read_names(writer, fd, &names) && put_texts(writer, head);
    for (size_t i = 0; good && i < names.count; i++) {
        good = put_texts(writer, entry) && put_text(writer, names.items[i]) &&
            put_text(writer, "node") && write_node(writer, fd, names.items[i], depth + 1) &&
            put_text(writer, ")");
    }
    return good;
}

static bool write_node(struct writer *writer, int folder, const char *name, unsigned depth)
{
    struct stat status;
    bool good = true;
    if (depth > DEPTH_MAX) {
        error_set(writer->err, ERROR_LIMIT, "folders are more than %d deep", DEPTH_MAX);
        return false;
    }
    if (fstatat(folder, name, &status, AT_SYMLINK_NOFOLLOW) < 0) {
        return failed(writer, "examining", name);
    }
    good = put_text(writer, "(");
    if (S_ISREG(status.st_mode)) {
        good = good && write_file(writer, folder, name, &status);
    } else if (S_ISLNK(status.st_mode)) {
        good = good && write_link(writer, folder, name);
    } else if (S_ISDIR(status.st_mode)) {
        good = good && write_folder(writer, folder, name, depth);
    } else {
        error_set(writer->err, ERROR_INVALID, "%s is no file, folder or link", name);
        return false;
    }
    return good && put_text(writer, ")");
}

int nix_nar_write(const char *path, bool (*sink)(const void *bytes, size_t length, void *context),
                  void *context, struct error *err)
{
    MEMORY_OWNED char *piece = memory_new(1, PIECE_BYTES);
    struct error why = {0};
    struct writer writer = {.sink = sink, .context = context, .err = &why, .piece = piece};
    bool good = put_text(&writer, "nix-archive-1") && write_node(&writer, AT_FDCWD, path, 0) &&
        (flush(&writer) || stopped(&writer));
    buffer_done(&writer.pending);
    if (!good) {
        *err = why;
        return -(int)why.kind;
    }
    return 0;
}

/* ---- Packing: hashed before the compressor ---- */

struct packing {
    struct archive *out;
    EVP_MD_CTX *nar;
    uint64_t nar_bytes;
    bool (*write)(const void *bytes, size_t length, void *context);
    void *context;
    const volatile bool *cancel;
    struct error why; /* of the compressor */
};

static bool is_cancelled(const volatile bool *cancel)
{
    return cancel != NULL && *cancel;
}

static la_ssize_t write_packed(struct archive *out, void *context, const void *bytes, size_t length)
{
    struct packing *packing = context;
    if (!packing->write(bytes, length, packing->context)) {
        error_set(&packing->why, ERROR_CANCELLED, "nobody takes a packed store path");
        archive_set_error(out, ECANCELED, "writing");
        return -1;
    }
    return (la_ssize_t)length;
}

static bool pack_piece(const void *bytes, size_t length, void *context)
{
    struct packing *packing = context;
    if (is_cancelled(packing->cancel)) {
        return false;
    }
    EVP_DigestUpdate(packing->nar, bytes, length);
    packing->nar_bytes += length;
    if (archive_write_data(packing->out, bytes, length) != (la_ssize_t)length) {
        if (packing->why.kind == ERROR_NONE) {
            error_set(&packing->why, ERROR_OS, "packing a store path: %s",
                      archive_error_string(packing->out));
        }
        return false;
    }
    return true;
}

static int begin_packing(struct packing *packing, struct error *err)
{
    char level[16];
    struct archive_entry *entry = archive_entry_new();
    snprintf(level, sizeof(level), "%d", ZSTD_LEVEL);
    archive_entry_set_filetype(entry, AE_IFREG);
    archive_entry_set_pathname(entry, "nar");
    bool good = archive_write_set_format_raw(packing->out) == ARCHIVE_OK &&
        archive_write_add_filter_zstd(packing->out) == ARCHIVE_OK &&
        archive_write_set_filter_option(packing->out, "zstd", "compression-level", level) ==
            ARCHIVE_OK &&
        archive_write_set_bytes_in_last_block(packing->out, 1) == ARCHIVE_OK &&
        archive_write_open(packing->out, packing, NULL, write_packed, NULL) == ARCHIVE_OK &&
        archive_write_header(packing->out, entry) == ARCHIVE_OK;
    archive_entry_free(entry);
    return good ? 0
                : error_set(err, ERROR_UNSUPPORTED, "libarchive writes no zstd: %s",
                            archive_error_string(packing->out));
}

static int pack(struct packing *packing, const struct nix_store *store, const struct nix_info *info,
                struct error *err)
{
    char path[NIX_TEXT_SIZE];
    uint8_t hash[NIX_NAR_HASH_BYTES];
    struct error why = {0};
    nix_path_text(&info->path, store->folder, path);
    int r = begin_packing(packing, &why);
    r = r < 0 ? r : nix_nar_write(path, pack_piece, packing, &why);
    if (r == 0 && archive_write_close(packing->out) != ARCHIVE_OK) {
        r = error_set(&why, ERROR_OS, "packing %s: %s", path, archive_error_string(packing->out));
    }
    if (packing->why.kind != ERROR_NONE) {
        *err = packing->why;
        return -(int)err->kind;
    }
    if (r < 0) {
        *err = why;
        return r;
    }
    EVP_DigestFinal_ex(packing->nar, hash, NULL);
    if (packing->nar_bytes != info->nar_size_bytes ||
        memcmp(hash, info->nar_hash, sizeof(hash)) != 0) {
        return error_set(err, ERROR_CORRUPT,
                         "%s is not what Nix's database says of it: see blixard store verify, and "
                         "nix-store --repair-path",
                         path);
    }
    return 0;
}

int nix_nar_pack(const struct nix_store *store, const struct nix_info *info,
                 bool (*write)(const void *bytes, size_t length, void *context), void *context,
                 const volatile bool *cancel, struct error *err)
{
    struct packing packing = {.out = archive_write_new(),
                              .nar = EVP_MD_CTX_new(),
                              .write = write,
                              .context = context,
                              .cancel = cancel};
    CHECK(packing.out != NULL && packing.nar != NULL);
    EVP_DigestInit_ex(packing.nar, EVP_sha256(), NULL);
    int r = pack(&packing, store, info, err);
    archive_write_free(packing.out);
    EVP_MD_CTX_free(packing.nar);
    return r;
}

/* ---- Checking ---- */

static int check_pieces(struct archive *in, EVP_MD_CTX *digest, const struct nix_info *info,
                        const volatile bool *cancel, struct error *err)
{
    MEMORY_OWNED char *piece = memory_new(1, PIECE_BYTES);
    uint64_t bytes = 0;
    for (;;) {
        la_ssize_t got = is_cancelled(cancel) ? -1 : archive_read_data(in, piece, PIECE_BYTES);
        if (is_cancelled(cancel)) {
            return error_set(err, ERROR_CANCELLED, "it was given up");
        }
        if (got < 0) {
            return error_set(err, ERROR_CORRUPT, "%s-%s comes damaged: %s", info->path.hash,
                             info->path.name, archive_error_string(in));
        }
        if (got == 0) {
            break;
        }
        bytes += (uint64_t)got;
        if (bytes > info->nar_size_bytes) {
            break;
        }
        EVP_DigestUpdate(digest, piece, (size_t)got);
    }
    uint8_t hash[NIX_NAR_HASH_BYTES];
    EVP_DigestFinal_ex(digest, hash, NULL);
    if (bytes != info->nar_size_bytes || memcmp(hash, info->nar_hash, sizeof(hash)) != 0) {
        return error_set(err, ERROR_CORRUPT, "%s-%s has not the hash that its narinfo says",
                         info->path.hash, info->path.name);
    }
    return 0;
}

int nix_nar_check(int fd, const struct nix_info *info, const volatile bool *cancel,
                  struct error *err)
{
    struct archive *in = archive_read_new();
    EVP_MD_CTX *digest = EVP_MD_CTX_new();
    struct archive_entry *entry = NULL;
    CHECK(in != NULL && digest != NULL);
    EVP_DigestInit_ex(digest, EVP_sha256(), NULL);
    archive_read_support_format_raw(in);
    archive_read_support_filter_zstd(in);
    archive_read_support_filter_xz(in);
    archive_read_support_filter_bzip2(in);
    archive_read_support_filter_gzip(in);
    int r = 0;
    if (lseek(fd, 0, SEEK_SET) < 0) {
        r = error_os(err, errno, "reading a packed store path");
    } else if (archive_read_open_fd(in, fd, PIECE_BYTES) != ARCHIVE_OK ||
               archive_read_next_header(in, &entry) != ARCHIVE_OK) {
        r = error_set(err, ERROR_CORRUPT, "%s-%s comes damaged: %s", info->path.hash,
                      info->path.name, archive_error_string(in));
    } else {
        r = check_pieces(in, digest, info, cancel, err);
    }
    archive_read_free(in);
    EVP_MD_CTX_free(digest);
    return r;
}
