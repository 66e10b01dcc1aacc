/*
 * Uploads: PUT of an archive, then of the narinfo that names it; as `nix copy --to` does.
 *
 * An archive waits in FOLDER/incoming/uploads.  With its narinfo it is checked (a signature of the
 * cluster or of somebody trusted, or a content address, which Nix checks; the hash of what was
 * unpacked), and Nix takes it, before the answer.  Without one it is forgotten after an hour.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/http/http.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/text.h"

#include "service/nix/parts.h"

enum { UPLOADS_MAX = 256, STALE_S = 3600, NAME_MAX_CHARS = 128, ROOM_EVERY_BYTES = 4 << 20 };
#define UPLOAD_BYTES_MAX (UINT64_C(16) << 30)

static bool name_is_good(const char *name)
{
    size_t length = strlen(name);
    return length > 0 && length <= NAME_MAX_CHARS && name[0] != '.' &&
        strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789.-") == length;
}

static char *path_of(const struct nix_service *service, const char *name)
{
    return memory_format("%s/incoming/uploads/%s", service->options.folder, name);
}

bool upload_has(const struct nix_service *service, const char *name)
{
    MEMORY_OWNED char *path = path_of(service, name);
    return name_is_good(name) && file_exists(path);
}

/* ---- Archives ---- */

/* Forget old ones; how many are left. */
static size_t sweep(const char *folder)
{
    size_t count = 0;
    time_t now = (time_t)(clock_real_ms() / 1000);
    DIR *dir = opendir(folder);
    for (struct dirent *entry = dir == NULL ? NULL : readdir(dir); entry != NULL;
         entry = readdir(dir)) {
        struct stat status;
        if (entry->d_name[0] == '.' || fstatat(dirfd(dir), entry->d_name, &status, 0) < 0) {
            continue;
        }
        bool is_old = status.st_mtime + STALE_S < now;
        count += is_old && unlinkat(dirfd(dir), entry->d_name, 0) == 0 ? 0 : 1;
    }
    if (dir != NULL) {
        closedir(dir);
    }
    return count;
}

static void on_data(const void *bytes, size_t length, void *context)
{
    struct serving *serving = context;
    struct error ignored = {0};
    uint64_t before = serving->at;
    serving->service->counts.received_bytes += length;
    serving->at += length;
    if (serving->fault == 0 && before / ROOM_EVERY_BYTES != serving->at / ROOM_EVERY_BYTES &&
        file_check_room(serving->service->options.folder, &ignored) < 0) {
        serving->fault = ENOSPC;
    }
    if (serving->fault == 0 && file_write_all(serving->fd, bytes, length) < 0) {
        serving->fault = errno;
    }
}

static void on_archive(const struct error *error, void *context)
{
    struct serving *serving = context;
    struct error err = {0};
    MEMORY_OWNED char *partial = memory_format("%s.%p.partial", serving->path, (void *)serving);
    if (error == NULL && serving->fault != 0) {
        if (serving->fault != ENOSPC ||
            file_check_room(serving->service->options.folder, &err) == 0) {
            error_os(&err, serving->fault, "keeping an upload");
        }
        error = &err;
    }
    if (error == NULL && rename(partial, serving->path) < 0) {
        error_os(&err, errno, "keeping an upload");
        error = &err;
    }
    if (error != NULL) {
        unlink(partial);
        serving_error(serving, error);
    } else {
        serving_text(serving, 201, "text/plain", "");
    }
}

static void take_archive(struct serving *serving, const char *name)
{
    struct error err = {0};
    MEMORY_OWNED char *folder = path_of(serving->service, "");
    serving->path = path_of(serving->service, name);
    MEMORY_OWNED char *partial = memory_format("%s.%p.partial", serving->path, (void *)serving);
    int r = name_is_good(name)
        ? file_make_folder(folder, 0700, &err)
        : error_set(&err, ERROR_INVALID, "\"%.80s\" is no name of an archive", name);
    if (r == 0 && sweep(folder) >= UPLOADS_MAX) {
        r = error_set(&err, ERROR_LIMIT, "%d archives wait for their narinfo", UPLOADS_MAX);
    }
    r = r < 0 ? r : file_check_room(folder, &err);
    if (r == 0) {
        serving->fd = open(partial, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        r = serving->fd < 0 ? error_os(&err, errno, "making %s", partial) : 0;
    }
    if (r < 0) {
        serving_error(serving, &err);
        return;
    }
    http_exchange_set_body_max(serving->exchange, UPLOAD_BYTES_MAX);
    http_exchange_read(serving->exchange, on_data, on_archive, serving);
}

/* ---- Narinfos ---- */

static int check_trust(const struct serving *serving, const struct nix_store *store,
                       const struct nix_info *info, struct error *err)
{
    return info->content_address[0] != '\0' || nix_is_signed(info, store->folder, serving->keys)
        ? 0
        : error_set(err, ERROR_DENIED,
                    "%s-%s lacks a valid signature: sign it with a key of nix_trusted_keys "
                    "(nix store sign, or ?secret-key= of the cache)",
                    info->path.hash, info->path.name);
}

/* A binary cache of one path. */
static int lay_out(const struct serving *serving, const struct nix_store *store,
                   struct nix_narinfo *narinfo, const char *archive, struct error *err)
{
    BUFFER_OWNED struct buffer text = {0};
    MEMORY_OWNED char *nar = memory_format("%s/archive", serving->folder);
    MEMORY_OWNED char *about = memory_format("%s/nix-cache-info", serving->folder);
    MEMORY_OWNED char *path =
        memory_format("%s/%s.narinfo", serving->folder, narinfo->info.path.hash);
    if (link(archive, nar) < 0) {
        return error_os(err, errno, "laying an upload out");
    }
    snprintf(narinfo->url, sizeof(narinfo->url), "archive");
    nix_narinfo_write(narinfo, store->folder, &text);
    int r = file_write(path, text.data, text.used, 0600, err);
    buffer_clear(&text);
    buffer_append_format(&text, "StoreDir: %s\n", store->folder);
    return r < 0 ? r : file_write(about, text.data, text.used, 0600, err);
}

static int import(const struct serving *serving, const struct job *job, struct nix_narinfo *narinfo,
                  struct error *err)
{
    const char *name = narinfo->url + sizeof("nar/") - 1;
    if (!text_starts_with(narinfo->url, "nar/") || !upload_has(serving->service, name)) {
        return error_set(err, ERROR_CONFLICT, "its archive %s was not uploaded before it",
                         narinfo->url);
    }
    MEMORY_OWNED char *archive = path_of(serving->service, name);
    FD_OWNED int fd = open(archive, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) {
        return error_os(err, errno, "opening an upload");
    }
    int r = check_trust(serving, &job->store, &narinfo->info, err);
    r = r < 0 ? r : nix_nar_check(fd, &narinfo->info, &job->cancel, err);
    r = r < 0 ? r : lay_out(serving, &job->store, narinfo, archive, err);
    r = r < 0 ? r
              : nix_import(&job->store, serving->folder, &narinfo->info.path, false, serving->keys,
                           &job->cancel, err);
    if (r == 0 || err->kind == ERROR_CORRUPT || err->kind == ERROR_DENIED) {
        unlink(archive);
    }
    return r;
}

static int take_narinfo(const struct serving *serving, const struct job *job, struct error *err)
{
    NIX_NARINFO_OWNED struct nix_narinfo narinfo = {0};
    bool is_valid = false;
    struct error ignored = {0};
    int r = nix_narinfo_parse((const char *)serving->body.data, serving->body.used,
                              job->store.folder, &narinfo, err);
    if (r == 0 && strcmp(narinfo.info.path.hash, serving->hash) != 0) {
        r = error_set(err, ERROR_INVALID, "it is the narinfo of another path");
    }
    if (r < 0 ||
        (nix_is_valid(&job->store, &narinfo.info.path, &is_valid, &ignored) == 0 && is_valid)) {
        return r;
    }
    return import(serving, job, &narinfo, err);
}

static int import_work(struct job *job, struct error *err)
{
    const struct serving *serving = job->context;
    struct error ignored = {0};
    int r = take_narinfo(serving, job, err);
    file_remove_tree(serving->folder, &ignored);
    if (err->kind == ERROR_CORRUPT) {
        err->kind = ERROR_INVALID; /* the client's, not ours */
    }
    return r < 0 ? -(int)err->kind : 0;
}

static void on_imported(struct job *job, const struct error *error)
{
    struct serving *serving = job->context;
    serving->job = NULL;
    if (serving->is_over) {
        serving_end(serving);
    } else if (error != NULL) {
        log_warn("nix: an upload was refused: %s", error->text);
        serving_error(serving, error);
    } else {
        serving_text(serving, 201, "text/plain", "");
    }
}

static void on_key(const struct error *error, void *context)
{
    struct serving *serving = context;
    struct error err = {0};
    serving->key_wait = NULL;
    if (error == NULL && nix_stage(serving->service, &serving->folder, &err) < 0) {
        error = &err;
    }
    if (error != NULL) {
        serving_error(serving, error);
        return;
    }
    serving->keys = nix_trusted(serving->service);
    serving->job = job_start(serving->service, true, import_work, on_imported, serving);
}

static void on_narinfo(struct buffer *body, const struct error *error, void *context)
{
    struct serving *serving = context;
    if (error != NULL) {
        serving_error(serving, error);
        return;
    }
    buffer_append(&serving->body, body->data, body->used);
    serving->key_wait = nix_key_wait(serving->service, on_key, serving);
}

void upload_begin(struct serving *serving, const char *name)
{
    static const char suffix[] = ".narinfo";
    struct error err;
    if (strlen(name) == NIX_HASH_CHARS + sizeof(suffix) - 1 &&
        nix_hash_is_good(name, NIX_HASH_CHARS) && text_ends_with(name, suffix)) {
        memcpy(serving->hash, name, NIX_HASH_CHARS);
        http_exchange_read_all(serving->exchange, NIX_NARINFO_MAX, on_narinfo, serving);
    } else if (text_starts_with(name, "nar/")) {
        take_archive(serving, name + 4);
    } else {
        error_set(&err, ERROR_NOT_FOUND, "nothing is kept as %.80s here", name);
        serving_error(serving, &err);
    }
}
