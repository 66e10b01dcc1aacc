/* What the store has: as narinfos for clients and nodes, as JSON for people. */
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/text.h"

#include "service/nix/parts.h"

enum { MATCH_MAX = 128 };

/* ---- Narinfo ---- */

void nix_set_file(struct nix_narinfo *narinfo, const struct packed *packed)
{
    char text[sizeof("sha256:") + HASH_TEXT_SIZE];
    snprintf(text, sizeof(text), "sha256:%s", packed->blob);
    narinfo->has_file_hash = nix_sha256_read(text, strlen(text), narinfo->file_hash);
    narinfo->file_size_bytes = packed->bytes;
    CHECK(narinfo->has_file_hash);
}

/* Signatures that the path came with stay: clients may believe those and not ours. */
static int add_signature(const struct nix_store *store, const struct nix_key *key,
                         struct nix_info *info, struct error *err)
{
    BUFFER_OWNED struct buffer text = {0};
    int r = nix_sign(key, info, store->folder, &text, err);
    if (r == 0 && info->signatures[0] != '\0') {
        buffer_append_format(&text, " %s", info->signatures);
    }
    if (r == 0) {
        free(info->signatures);
        info->signatures = buffer_take(&text);
    }
    return r;
}

int nix_describe(const struct nix_store *store, const struct nix_key *key, const char *hash,
                 struct nix_narinfo *ret_narinfo, struct error *err)
{
    NIX_NARINFO_OWNED struct nix_narinfo narinfo = {0};
    char nar[NIX_HASH_TEXT_SIZE];
    int r = nix_info_of(store, hash, &narinfo.info, err);
    r = r < 0 ? r : add_signature(store, key, &narinfo.info, err);
    if (r < 0) {
        return r;
    }
    nix_base32_write(narinfo.info.nar_hash, nar);
    snprintf(narinfo.url, sizeof(narinfo.url), "nar/%s-%s.nar.zst", hash, nar);
    snprintf(narinfo.compression, sizeof(narinfo.compression), "zstd");
    *ret_narinfo = narinfo;
    memset(&narinfo, 0, sizeof(narinfo));
    return 0;
}

/* ---- One question ---- */

struct ask {
    struct nix_service *service;
    nix_done *done;
    void *context;
    int (*work)(struct job *job, struct error *err);
    char *text; /* path, hash, or what the list begins behind; or NULL */
    char *match;
    uint64_t limit;
    struct nix_key key;
    struct nix_narinfo narinfo;
    struct buffer out;
};

static struct ask *ask_new(struct nix_service *service, const char *text, nix_done *done,
                           void *context)
{
    struct ask *ask = NEW(struct ask);
    ask->service = service;
    ask->text = text == NULL ? NULL : memory_copy_string(text);
    ask->done = done;
    ask->context = context;
    return ask;
}

static void ask_end(struct ask *ask, const struct error *error)
{
    ask->done(error, &ask->out, ask->context);
    free(ask->text);
    free(ask->match);
    nix_narinfo_done(&ask->narinfo);
    explicit_bzero(&ask->key, sizeof(ask->key));
    buffer_done(&ask->out);
    free(ask);
}

static void on_asked(struct job *job, const struct error *error)
{
    ask_end(job->context, error);
}

/* ---- Lists ---- */

struct listing {
    const struct nix_store *store;
    struct ask *ask;
    struct json_writer writer;
    uint64_t count;
    bool is_more;
    char last[NIX_HASH_CHARS + 1];
};

static void write_head(struct json_writer *writer, const struct nix_store *store,
                       const struct nix_path *path)
{
    char text[NIX_TEXT_SIZE];
    nix_path_text(path, store->folder, text);
    json_write_field_string(writer, "path", text);
    json_write_field_string(writer, "name", path->name);
}

static bool list_entry(const struct nix_entry *entry, void *context)
{
    struct listing *listing = context;
    const char *match = listing->ask->match;
    if (match != NULL && strstr(entry->path.name, match) == NULL) {
        return true;
    }
    if (listing->count >= listing->ask->limit) {
        listing->is_more = true;
        return false;
    }
    listing->count++;
    snprintf(listing->last, sizeof(listing->last), "%s", entry->path.hash);
    json_write_begin_object(&listing->writer);
    write_head(&listing->writer, listing->store, &entry->path);
    json_write_field_u64(&listing->writer, "nar_bytes", entry->nar_size_bytes);
    json_write_field_time_ms(&listing->writer, "registered_at", entry->registered_s * 1000);
    json_write_end_object(&listing->writer);
    return true;
}

static int list_work(struct job *job, struct error *err)
{
    struct ask *ask = job->context;
    struct listing listing = {
        .store = &job->store, .ask = ask, .writer = json_writer_to(&ask->out)};
    char after[NIX_HASH_CHARS + 2];
    if (ask->text != NULL && !nix_hash_is_good(ask->text, strlen(ask->text))) {
        return error_set(err, ERROR_INVALID, "?after= takes the hash of a path, its 32 characters");
    }
    /* Behind all names that have this hash. */
    snprintf(after, sizeof(after), "%s.", ask->text == NULL ? "" : ask->text);
    json_write_begin_object(&listing.writer);
    json_write_key(&listing.writer, "paths");
    json_write_begin_array(&listing.writer);
    int r = nix_each(&job->store, ask->text == NULL ? NULL : after, list_entry, &listing, err);
    json_write_end_array(&listing.writer);
    json_write_key(&listing.writer, "next");
    json_write_string(&listing.writer, listing.is_more ? listing.last : NULL);
    json_write_end_object(&listing.writer);
    return r;
}

void nix_list(struct nix_service *service, const char *after, uint64_t limit, const char *match,
              nix_done *done, void *context)
{
    struct ask *ask = ask_new(service, after, done, context);
    ask->limit = limit;
    ask->match = match == NULL ? NULL : memory_copy_text(match, strnlen(match, MATCH_MAX));
    job_start(service, false, list_work, on_asked, ask);
}

/* ---- One path ---- */

static void write_texts(struct json_writer *writer, const char *key, const char *words)
{
    json_write_key(writer, key);
    json_write_begin_array(writer);
    for (const char *at = words; *at != '\0';) {
        size_t length = strcspn(at, " ");
        if (length > 0) {
            json_write_text(writer, at, length);
        }
        at += length + strspn(at + length, " ");
    }
    json_write_end_array(writer);
}

struct rooting {
    const struct nix_store *store;
    const char *folder;
    struct json_writer *writer;
    const struct nix_path *only; /* names alone of the roots of this path; NULL: all, as objects */
};

static void write_root(const struct rooting *rooting, const char *name)
{
    MEMORY_OWNED char *link = memory_format("%s/roots/%s", rooting->folder, name);
    struct nix_path path;
    struct error ignored = {0};
    bool is_valid = false;
    if (nix_root_read(rooting->store, link, &path, &ignored) < 0) {
        return;
    }
    if (rooting->only != NULL) {
        if (nix_path_compare(rooting->only, &path) == 0) {
            json_write_string(rooting->writer, name);
        }
        return;
    }
    nix_is_valid(rooting->store, &path, &is_valid, &ignored);
    json_write_begin_object(rooting->writer);
    json_write_field_string(rooting->writer, "root", name);
    write_head(rooting->writer, rooting->store, &path);
    json_write_field_bool(rooting->writer, "valid", is_valid);
    json_write_end_object(rooting->writer);
}

static void write_roots(const struct rooting *rooting)
{
    MEMORY_OWNED char *path = memory_format("%s/roots", rooting->folder);
    DIR *folder = opendir(path);
    for (struct dirent *entry = folder == NULL ? NULL : readdir(folder); entry != NULL;
         entry = readdir(folder)) {
        if (entry->d_name[0] != '.') {
            write_root(rooting, entry->d_name);
        }
    }
    if (folder != NULL) {
        closedir(folder);
    }
}

static void write_path(struct ask *ask, const struct nix_store *store, const struct nix_info *info,
                       const struct nix_paths *closure, uint64_t closure_bytes)
{
    struct json_writer writer = json_writer_to(&ask->out);
    const struct rooting rooting = {store, ask->service->options.folder, &writer, &info->path};
    char hash[sizeof("sha256:") + NIX_HASH_TEXT_SIZE] = "sha256:";
    char text[NIX_TEXT_SIZE];
    nix_base32_write(info->nar_hash, hash + strlen(hash));
    json_write_begin_object(&writer);
    write_head(&writer, store, &info->path);
    json_write_field_string(&writer, "nar_hash", hash);
    json_write_field_u64(&writer, "nar_bytes", info->nar_size_bytes);
    json_write_field_u64(&writer, "closure_paths", closure->count);
    json_write_field_u64(&writer, "closure_bytes", closure_bytes);
    json_write_field_time_ms(&writer, "registered_at", info->registered_s * 1000);
    json_write_field_string(&writer, "deriver", info->deriver);
    json_write_field_string(&writer, "content_address", info->content_address);
    json_write_key(&writer, "references");
    json_write_begin_array(&writer);
    for (size_t i = 0; i < info->references.count; i++) {
        nix_path_text(&info->references.items[i], store->folder, text);
        json_write_string(&writer, text);
    }
    json_write_end_array(&writer);
    write_texts(&writer, "signatures", info->signatures);
    json_write_key(&writer, "roots");
    json_write_begin_array(&writer);
    write_roots(&rooting);
    json_write_end_array(&writer);
    json_write_end_object(&writer);
}

/* By its hash alone, too. */
static int find_path(const struct nix_store *store, const char *text, struct nix_info *ret_info,
                     struct error *err)
{
    struct nix_path path;
    if (nix_hash_is_good(text, strlen(text))) {
        return nix_info_of(store, text, ret_info, err);
    }
    int r = nix_path_parse(text, store->folder, &path, err);
    r = r < 0 ? r : nix_info_of(store, path.hash, ret_info, err);
    if (r == 0 && nix_path_compare(&path, &ret_info->path) != 0) {
        r = error_set(err, ERROR_NOT_FOUND, "%s is not in the store; %s-%s is", text,
                      ret_info->path.hash, ret_info->path.name);
    }
    return r;
}

static int show_work(struct job *job, struct error *err)
{
    struct ask *ask = job->context;
    NIX_INFO_OWNED struct nix_info info = {0};
    NIX_PATHS_OWNED struct nix_paths closure = {0};
    uint64_t bytes = 0;
    int r = find_path(&job->store, ask->text, &info, err);
    r = r < 0 ? r : nix_closure(&job->store, &info.path, &closure, &bytes, err);
    if (r == 0) {
        write_path(ask, &job->store, &info, &closure, bytes);
    }
    return r;
}

void nix_show(struct nix_service *service, const char *path, nix_done *done, void *context)
{
    job_start(service, false, show_work, on_asked, ask_new(service, path, done, context));
}

static int roots_work(struct job *job, struct error *err)
{
    struct ask *ask = job->context;
    struct json_writer writer = json_writer_to(&ask->out);
    const struct rooting rooting = {&job->store, ask->service->options.folder, &writer, NULL};
    (void)err;
    json_write_begin_object(&writer);
    json_write_key(&writer, "roots");
    json_write_begin_array(&writer);
    write_roots(&rooting);
    json_write_end_array(&writer);
    json_write_end_object(&writer);
    return 0;
}

void nix_roots(struct nix_service *service, nix_done *done, void *context)
{
    job_start(service, false, roots_work, on_asked, ask_new(service, NULL, done, context));
}

/* ---- Behind the key ---- */

static void on_key(const struct error *error, void *context)
{
    struct ask *ask = context;
    if (error != NULL) {
        ask_end(ask, error);
    } else if (ask->work == NULL) {
        struct json_writer writer = json_writer_to(&ask->out);
        json_write_begin_object(&writer);
        json_write_field_string(&writer, "public_key", nix_public_key(ask->service));
        json_write_end_object(&writer);
        ask_end(ask, NULL);
    } else {
        ask->key = ask->service->key;
        job_start(ask->service, false, ask->work, on_asked, ask);
    }
}

void nix_key(struct nix_service *service, nix_done *done, void *context)
{
    nix_key_wait(service, on_key, ask_new(service, NULL, done, context));
}

static int closure_work(struct job *job, struct error *err)
{
    struct ask *ask = job->context;
    NIX_INFO_OWNED struct nix_info info = {0};
    NIX_PATHS_OWNED struct nix_paths closure = {0};
    int r = nix_info_of(&job->store, ask->text, &info, err);
    r = r < 0 ? r : nix_closure(&job->store, &info.path, &closure, NULL, err);
    for (size_t i = 0; i < closure.count && r == 0; i++) {
        NIX_NARINFO_OWNED struct nix_narinfo narinfo = {0};
        r = job->cancel
            ? error_set(err, ERROR_CANCELLED, "it was given up")
            : nix_describe(&job->store, &ask->key, closure.items[i].hash, &narinfo, err);
        if (r == 0) {
            nix_narinfo_write(&narinfo, job->store.folder, &ask->out);
            buffer_append_byte(&ask->out, '\n');
        }
    }
    return r;
}

void nix_give_closure(struct nix_service *service, const char *hash, nix_done *done, void *context)
{
    struct ask *ask = ask_new(service, hash, done, context);
    ask->work = closure_work;
    nix_key_wait(service, on_key, ask);
}

static void on_ready(const struct error *error, const struct packed *packed, void *context)
{
    struct ask *ask = context;
    if (error == NULL) {
        nix_set_file(&ask->narinfo, packed);
        nix_narinfo_write(&ask->narinfo, ask->service->store.folder, &ask->out);
    }
    ask_end(ask, error);
}

static void on_described(struct job *job, const struct error *error)
{
    struct ask *ask = job->context;
    if (error != NULL) {
        ask_end(ask, error);
        return;
    }
    const struct packed *packed =
        packed_find(ask->service, ask->narinfo.info.path.hash, ask->narinfo.info.nar_hash);
    if (packed != NULL) {
        on_ready(NULL, packed, ask);
    } else {
        pack_new(ask->service, ask->narinfo.info.path.hash, ask->narinfo.info.nar_hash, on_ready,
                 ask);
    }
}

static int describe_work(struct job *job, struct error *err)
{
    struct ask *ask = job->context;
    return nix_describe(&job->store, &ask->key, ask->text, &ask->narinfo, err);
}

static void on_key_to_pack(const struct error *error, void *context)
{
    struct ask *ask = context;
    if (error != NULL) {
        ask_end(ask, error);
        return;
    }
    ask->key = ask->service->key;
    job_start(ask->service, false, describe_work, on_described, ask);
}

void nix_give_packed(struct nix_service *service, const char *hash, nix_done *done, void *context)
{
    nix_key_wait(service, on_key_to_pack, ask_new(service, hash, done, context));
}
