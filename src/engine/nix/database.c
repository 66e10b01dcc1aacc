/*
 * Nix's own database, STATE/db/db.sqlite, read only.
 *
 *     ValidPaths(id, path, hash, registrationTime, deriver, narSize, ultimate, sigs, ca)
 *     Refs(referrer, reference)
 *
 * schema 10, the same since Nix 1.11; another one is refused.  Nix keeps it in WAL mode.  Whoever
 * may not write beside it cannot make the files that readers of a WAL share; they are there while
 * some program of Nix has the database open.  While there is none, nothing changes either, and the
 * file is read as it lies ("immutable"): that it has not changed meanwhile is looked at afterwards,
 * and otherwise it is read again.
 */
#include <errno.h>
#include <inttypes.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"

#include "engine/nix/cache.h"

enum { SCHEMA = 10, BUSY_MS = 5000, TRIES = 3 };

struct reading {
    const struct nix_store *store;
    sqlite3 *db;
    bool is_immutable;
    struct stat before;
};

static char *file_of(const struct nix_store *store, const char *suffix)
{
    return memory_format("%s/db/db.sqlite%s", store->state, suffix);
}

/* ---- Opening ---- */

static int check_schema(const struct nix_store *store, struct error *err)
{
    MEMORY_OWNED char *path = memory_format("%s/db/schema", store->state);
    BUFFER_OWNED struct buffer text = {0};
    struct error why = {0};
    uint64_t schema = 0;
    if (file_read(path, 64, &text, &why) < 0) {
        return error_set(err, ERROR_UNAVAILABLE,
                         "there is no store of Nix at %s yet, or it cannot be read: %.200s",
                         store->folder, why.text);
    }
    struct text line = text_of((const char *)text.data, text.used);
    while (line.length > 0 && line.data[line.length - 1] == '\n') {
        line.length--;
    }
    if (!text_parse_u64(line, &schema) || schema != SCHEMA) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "the database of Nix has schema %.*s; what is known here is %d",
                         (int)(line.length < 20 ? line.length : 20), line.data, SCHEMA);
    }
    return 0;
}

static int open_as(struct reading *reading, bool is_immutable, struct error *err)
{
    MEMORY_OWNED char *path = file_of(reading->store, "");
    MEMORY_OWNED char *uri =
        memory_format("file:%s?mode=ro%s", path, is_immutable ? "&immutable=1" : "");
    reading->is_immutable = is_immutable;
    int r = sqlite3_open_v2(uri, &reading->db,
                            SQLITE_OPEN_READONLY | SQLITE_OPEN_URI | SQLITE_OPEN_NOMUTEX, NULL);
    if (r == SQLITE_OK) {
        sqlite3_busy_timeout(reading->db, BUSY_MS);
        /* Opening reads nothing; this does. */
        r = sqlite3_exec(reading->db, "SELECT count(*) FROM sqlite_schema", NULL, NULL, NULL);
    }
    if (r != SQLITE_OK) {
        error_set(err, ERROR_UNAVAILABLE, "reading %s: %s", path, sqlite3_errmsg(reading->db));
        sqlite3_close(reading->db);
        reading->db = NULL;
        return -(int)err->kind;
    }
    return 0;
}

/* True: nobody has it open for writing. */
static bool look(const struct nix_store *store, struct stat *ret_status)
{
    MEMORY_OWNED char *path = file_of(store, "");
    MEMORY_OWNED char *wal = file_of(store, "-wal");
    return stat(path, ret_status) == 0 && !file_exists(wal);
}

static int open_reading(struct reading *reading, struct error *err)
{
    struct error ignored = {0};
    int r = check_schema(reading->store, err);
    if (r < 0) {
        return r;
    }
    if (strpbrk(reading->store->state, "?#%") != NULL) {
        return error_set(err, ERROR_UNSUPPORTED, "the folder %s has characters that no URI has",
                         reading->store->state);
    }
    if (open_as(reading, false, err) == 0) {
        return 0;
    }
    if (look(reading->store, &reading->before) && open_as(reading, true, &ignored) == 0) {
        *err = (struct error){0};
        return 0;
    }
    return -(int)err->kind;
}

/* Was it the same all the time? */
static bool close_reading(struct reading *reading)
{
    struct stat after;
    bool same = !reading->is_immutable;
    sqlite3_close(reading->db);
    reading->db = NULL;
    if (reading->is_immutable && look(reading->store, &after)) {
        same = after.st_mtim.tv_sec == reading->before.st_mtim.tv_sec &&
            after.st_mtim.tv_nsec == reading->before.st_mtim.tv_nsec &&
            after.st_size == reading->before.st_size && after.st_ino == reading->before.st_ino;
    }
    return same;
}

/* ---- Asking ---- */

struct query {
    const char *sql;
    const char *text; /* bound to ?1; may be NULL */
    /* A row; false stops, with *err set or not. */
    bool (*row)(sqlite3_stmt *row, void *context, struct error *err);
    void *context;
    void (*forget)(void *context); /* what rows have done: it is asked again */
};

static int ask_once(struct reading *reading, const struct query *query, struct error *err)
{
    sqlite3_stmt *statement = NULL;
    int r = sqlite3_prepare_v2(reading->db, query->sql, -1, &statement, NULL);
    if (r == SQLITE_OK && query->text != NULL) {
        r = sqlite3_bind_text(statement, 1, query->text, -1, SQLITE_STATIC);
    }
    bool go_on = r == SQLITE_OK;
    while (go_on && (r = sqlite3_step(statement)) == SQLITE_ROW) {
        go_on = query->row(statement, query->context, err);
    }
    if (r != SQLITE_OK && r != SQLITE_ROW && r != SQLITE_DONE) {
        error_set(err, ERROR_UNAVAILABLE, "reading the database of Nix: %s",
                  sqlite3_errmsg(reading->db));
    }
    sqlite3_finalize(statement);
    return -(int)err->kind;
}

/* One after the other, by one connection: the second may bind what the first has found. */
static int ask_all(const struct nix_store *store, const struct query *queries, size_t count,
                   struct error *err)
{
    for (int i = 0; i < TRIES; i++) {
        struct reading reading = {.store = store};
        struct error why = {0};
        int r = open_reading(&reading, err);
        if (r < 0) {
            return r;
        }
        for (size_t j = 0; j < count && r == 0; j++) {
            r = ask_once(&reading, &queries[j], &why);
        }
        if (close_reading(&reading)) {
            *err = r < 0 ? why : *err;
            return r;
        }
        for (size_t j = 0; j < count; j++) {
            queries[j].forget(queries[j].context);
        }
    }
    return error_set(
        err, ERROR_UNAVAILABLE,
        "the database of Nix changes while it is read, and cannot be read otherwise by "
        "this user");
}

static int ask(const struct nix_store *store, const struct query *query, struct error *err)
{
    return ask_all(store, query, 1, err);
}

static void forget_nothing(void *context)
{
    (void)context;
}

static const char *column(sqlite3_stmt *row, int index)
{
    const char *text = (const char *)sqlite3_column_text(row, index);
    return text == NULL ? "" : text;
}

static int path_in(const struct nix_store *store, const char *text, struct nix_path *ret_path,
                   struct error *err)
{
    struct error why = {0};
    return nix_path_parse(text, store->folder, ret_path, &why) == 0
        ? 0
        : error_set(err, ERROR_CORRUPT, "the database of Nix: %s", why.text);
}

/* ---- One path ---- */

struct finding {
    const struct nix_store *store;
    const char *hash;
    struct nix_info *info;
    bool is_found;
    char text[NIX_TEXT_SIZE]; /* the path, once it is found */
};

static bool take_info(sqlite3_stmt *row, void *context, struct error *err)
{
    struct finding *finding = context;
    struct nix_info *info = finding->info;
    const char *hash = column(row, 1);
    const char *deriver = column(row, 4);
    if (path_in(finding->store, column(row, 0), &info->path, err) < 0) {
        return false;
    }
    if (strcmp(info->path.hash, finding->hash) != 0) {
        return false; /* the next one in order: there is none with this hash */
    }
    int64_t size = sqlite3_column_int64(row, 2);
    if (!nix_sha256_read(hash, strlen(hash), info->nar_hash) || size <= 0) {
        error_set(err, ERROR_CORRUPT, "the database of Nix: %s-%s has no hash or size",
                  info->path.hash, info->path.name);
        return false;
    }
    const char *slash = strrchr(deriver, '/');
    info->nar_size_bytes = (uint64_t)size;
    info->registered_s = (uint64_t)sqlite3_column_int64(row, 3);
    info->deriver = memory_copy_string(slash == NULL ? deriver : slash + 1);
    info->signatures = memory_copy_string(column(row, 5));
    info->content_address = memory_copy_string(column(row, 6));
    finding->is_found = true;
    nix_path_text(&info->path, finding->store->folder, finding->text);
    return false;
}

static void forget_info(void *context)
{
    struct finding *finding = context;
    nix_info_done(finding->info);
    finding->is_found = false;
    finding->text[0] = '\0';
}

static bool take_reference(sqlite3_stmt *row, void *context, struct error *err)
{
    struct finding *finding = context;
    struct nix_path path;
    if (path_in(finding->store, column(row, 0), &path, err) < 0) {
        return false;
    }
    if (finding->info->references.count >= NIX_CLOSURE_MAX) {
        error_set(err, ERROR_LIMIT, "a path refers to more than %d others", NIX_CLOSURE_MAX);
        return false;
    }
    nix_paths_add(&finding->info->references, &path);
    return true;
}

static void forget_references(void *context)
{
    struct finding *finding = context;
    nix_paths_done(&finding->info->references);
}

int nix_info_of(const struct nix_store *store, const char *hash, struct nix_info *ret_info,
                struct error *err)
{
    NIX_INFO_OWNED struct nix_info info = {0};
    struct finding finding = {.store = store, .hash = hash, .info = &info};
    MEMORY_OWNED char *from = memory_format("%s/%s", store->folder, hash);
    if (!nix_hash_is_good(hash, strlen(hash))) {
        return error_set(err, ERROR_INVALID, "\"%.40s\" is no hash of a store path", hash);
    }
    const struct query queries[] = {
        {
            .sql = "SELECT path, hash, narSize, registrationTime, deriver, sigs, ca FROM "
                   "ValidPaths WHERE path >= ?1 ORDER BY path LIMIT 1",
            .text = from,
            .row = take_info,
            .context = &finding,
            .forget = forget_info,
        },
        {
            .sql = "SELECT b.path FROM ValidPaths a JOIN Refs ON Refs.referrer = a.id JOIN "
                   "ValidPaths b ON b.id = Refs.reference WHERE a.path = ?1 ORDER BY b.path",
            .text = finding.text,
            .row = take_reference,
            .context = &finding,
            .forget = forget_references,
        },
    };
    int r = ask_all(store, queries, 2, err);
    if (r == 0 && !finding.is_found) {
        r = error_set(err, ERROR_NOT_FOUND, "no path %s/%s-... is in the store", store->folder,
                      hash);
    }
    if (r == 0) {
        nix_paths_sort(&info.references);
        *ret_info = info;
        info = (struct nix_info){0};
    }
    return r;
}

int nix_is_valid(const struct nix_store *store, const struct nix_path *path, bool *ret_valid,
                 struct error *err)
{
    NIX_INFO_OWNED struct nix_info info = {0};
    struct error why = {0};
    int r = nix_info_of(store, path->hash, &info, &why);
    if (r < 0 && r != -ERROR_NOT_FOUND) {
        *err = why;
        return r;
    }
    *ret_valid = r == 0 && nix_path_compare(&info.path, path) == 0;
    return 0;
}

/* ---- Many ---- */

struct collecting {
    const struct nix_store *store;
    struct nix_paths *paths;
    uint64_t bytes;
};

static bool take_member(sqlite3_stmt *row, void *context, struct error *err)
{
    struct collecting *all = context;
    struct nix_path path;
    if (path_in(all->store, column(row, 0), &path, err) < 0) {
        return false;
    }
    if (all->paths->count >= NIX_CLOSURE_MAX) {
        error_set(err, ERROR_LIMIT, "it refers to more than %d paths", NIX_CLOSURE_MAX);
        return false;
    }
    nix_paths_add(all->paths, &path);
    all->bytes += (uint64_t)sqlite3_column_int64(row, 1);
    return true;
}

static void forget_members(void *context)
{
    struct collecting *all = context;
    nix_paths_done(all->paths);
    all->bytes = 0;
}

int nix_closure(const struct nix_store *store, const struct nix_path *path,
                struct nix_paths *ret_paths, uint64_t *ret_bytes, struct error *err)
{
    NIX_PATHS_OWNED struct nix_paths paths = {0};
    struct collecting all = {.store = store, .paths = &paths};
    char text[NIX_TEXT_SIZE];
    const struct query query = {
        .sql = "WITH RECURSIVE member(id) AS (SELECT id FROM ValidPaths WHERE path = ?1 UNION "
               "SELECT Refs.reference FROM Refs JOIN member ON Refs.referrer = member.id) "
               "SELECT path, narSize FROM member JOIN ValidPaths USING (id) ORDER BY path",
        .text = text,
        .row = take_member,
        .context = &all,
        .forget = forget_members,
    };
    nix_path_text(path, store->folder, text);
    int r = ask(store, &query, err);
    if (r == 0 && paths.count == 0) {
        r = error_set(err, ERROR_NOT_FOUND, "%s is not in the store", text);
    }
    if (r < 0) {
        return r;
    }
    nix_paths_sort(&paths);
    nix_paths_done(ret_paths);
    *ret_paths = paths;
    paths = (struct nix_paths){0};
    if (ret_bytes != NULL) {
        *ret_bytes = all.bytes;
    }
    return 0;
}

struct listing {
    const struct nix_store *store;
    bool (*visit)(const struct nix_entry *entry, void *context);
    void *context;
    struct nix_path last; /* when it is asked again, what was visited is not visited twice */
    bool is_over;
};

static bool take_entry(sqlite3_stmt *row, void *context, struct error *err)
{
    struct listing *listing = context;
    struct nix_entry entry = {
        .nar_size_bytes = (uint64_t)sqlite3_column_int64(row, 1),
        .registered_s = (uint64_t)sqlite3_column_int64(row, 2),
    };
    if (path_in(listing->store, column(row, 0), &entry.path, err) < 0) {
        return false;
    }
    if (!listing->is_over && nix_path_compare(&entry.path, &listing->last) > 0) {
        listing->last = entry.path;
        listing->is_over = !listing->visit(&entry, listing->context);
    }
    return !listing->is_over;
}

int nix_each(const struct nix_store *store, const char *after,
             bool (*visit)(const struct nix_entry *entry, void *context), void *context,
             struct error *err)
{
    struct listing listing = {.store = store, .visit = visit, .context = context};
    MEMORY_OWNED char *from = memory_format("%s/%s", store->folder, after == NULL ? "" : after);
    const struct query query = {
        .sql = "SELECT path, narSize, registrationTime FROM ValidPaths WHERE path > ?1 "
               "ORDER BY path",
        .text = from,
        .row = take_entry,
        .context = &listing,
        .forget = forget_nothing,
    };
    return ask(store, &query, err);
}
