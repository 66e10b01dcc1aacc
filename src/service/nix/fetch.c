/*
 * Having a path: valid here already; or from a node that has it; or by Nix's own means.
 *
 * One question finds the holder of a whole closure: GET /v1/peer/nix-closures/HASH.  Its narinfos
 * go to a folder that is a binary cache; what is not valid here is fetched packed, a blob each,
 * checked and laid beside; then Nix takes all of it from there, checks it as well, and the folder
 * goes.  A node that fails is left, and the next one asked for all of it: what came already is
 * there.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/image/image.h"
#include "engine/store/store.h"

#include "service/cluster/cluster.h"
#include "service/nix/parts.h"
#include "service/peer/peer.h"

enum {
    NODES_MAX = 256,
    CLOSURE_BYTES_MAX = 64 << 20,
    CLOSURE_MS = 120 * 1000,
    PACK_MS = 3600 * 1000,
    TEXT_SIZE = 160,
};

struct candidate {
    uint64_t id;
    unsigned distance; /* 0: it is named; then by what it shares with this node */
    char name[64];
};

struct nix_fetch {
    struct list_node link; /* in fetches */
    struct nix_service *service;
    char *wanted;
    char *root;
    bool only_from;
    bool is_over; /* nobody waits any more: the job that runs ends it */
    void (*done)(const struct error *error, void *context);
    void *context;

    struct nix_path path;
    bool is_valid;
    struct candidate nodes[NODES_MAX];
    size_t node_count;
    size_t at; /* which node is asked */
    bool all_said_no;
    struct error blame; /* what is told when no node is left */

    struct key_wait *key_wait;
    struct job *job;
    struct peer_call *call;
    struct peer_fetch *blob;
    char *keys;
    char *folder; /* the binary cache */
    struct buffer answer;
    struct nix_narinfo *missing; /* of this node */
    size_t missing_count;
    size_t member; /* which is fetched */
    char blob_id[HASH_TEXT_SIZE];
    char text[TEXT_SIZE];
};

static void next_node(struct nix_fetch *fetch);
static void next_member(struct nix_fetch *fetch);

/* ---- The end ---- */

static void clear_holder(struct nix_fetch *fetch)
{
    for (size_t i = 0; i < fetch->missing_count; i++) {
        nix_narinfo_done(&fetch->missing[i]);
    }
    free(fetch->missing);
    fetch->missing = NULL;
    fetch->missing_count = 0;
    fetch->member = 0;
}

static int remove_folder(struct job *job, struct error *err)
{
    return file_remove_tree(job->context, err);
}

static void on_removed(struct job *job, const struct error *error)
{
    if (error != NULL) {
        log_warn("nix: what was fetched is left in %s: %s", (char *)job->context, error->text);
    }
    free(job->context);
}

/* A closure may be large: not by the loop. */
static void clear_folder(struct nix_fetch *fetch)
{
    if (fetch->folder != NULL) {
        job_start(fetch->service, false, remove_folder, on_removed, fetch->folder);
        fetch->folder = NULL;
    }
}

static void dispose(struct nix_fetch *fetch)
{
    clear_folder(fetch);
    clear_holder(fetch);
    list_remove(&fetch->link);
    buffer_done(&fetch->answer);
    free(fetch->wanted);
    free(fetch->root);
    free(fetch->keys);
    free(fetch);
}

static void fetch_end(struct nix_fetch *fetch, const struct error *error)
{
    fetch->done(error, fetch->context);
    dispose(fetch);
}

void nix_fetch_free(struct nix_fetch *fetch)
{
    if (fetch == NULL) {
        return;
    }
    fetch->is_over = true;
    list_remove(&fetch->link);
    nix_key_wait_free(fetch->key_wait);
    if (fetch->call != NULL) {
        peer_call_free(fetch->call);
    }
    peer_fetch_free(fetch->blob);
    if (fetch->job != NULL) {
        fetch->job->cancel = true;
    } else {
        dispose(fetch);
    }
}

/* True: go on. */
static bool back_from_job(struct nix_fetch *fetch)
{
    fetch->job = NULL;
    if (fetch->is_over) {
        dispose(fetch);
        return false;
    }
    return true;
}

static void start(struct nix_fetch *fetch, bool is_long,
                  int (*work)(struct job *job, struct error *err),
                  void (*end)(struct job *job, const struct error *error))
{
    fetch->job = job_start(fetch->service, is_long, work, end, fetch);
}

/* ---- At last: by Nix, and keep it ---- */

static int keep(const struct job *job, const struct nix_fetch *fetch, struct error *err)
{
    if (fetch->root == NULL) {
        return 0;
    }
    MEMORY_OWNED char *link = nix_root_path(fetch->service, fetch->root);
    return nix_root_add(&job->store, link, &fetch->path, err);
}

static int keep_work(struct job *job, struct error *err)
{
    return keep(job, job->context, err);
}

static int realise_work(struct job *job, struct error *err)
{
    struct nix_fetch *fetch = job->context;
    struct error why = {0};
    int r = nix_realise(&job->store, &fetch->path, &job->cancel, &why);
    if (r == 0) {
        return keep(job, fetch, err);
    }
    if (r == -ERROR_INVALID) { /* it says at length that it cannot: what nodes have said is more */
        *err = fetch->blame;
        return -(int)err->kind;
    }
    *err = why;
    return r;
}

static int import_work(struct job *job, struct error *err)
{
    struct nix_fetch *fetch = job->context;
    int r =
        nix_import(&job->store, fetch->folder, &fetch->path, true, fetch->keys, &job->cancel, err);
    return r < 0 ? r : keep(job, fetch, err);
}

static void on_last(struct job *job, const struct error *error)
{
    struct nix_fetch *fetch = job->context;
    if (back_from_job(fetch)) {
        fetch_end(fetch, error);
    }
}

/* ---- What a node has said or not ---- */

static void leave_node(struct nix_fetch *fetch, const struct error *error)
{
    const struct candidate *node = &fetch->nodes[fetch->at];
    fetch->all_said_no = fetch->all_said_no && error->kind == ERROR_NOT_FOUND;
    if (error->kind != ERROR_NOT_FOUND || fetch->blame.kind == ERROR_NONE) {
        struct error why = *error;
        error_wrap(&why, "node %s", node->name);
        fetch->blame = why;
    }
    bool is_distrusted =
        error->kind == ERROR_CORRUPT || error->kind == ERROR_DENIED || error->kind == ERROR_INVALID;
    fetch->service->counts.distrusted += is_distrusted ? 1 : 0;
    clear_holder(fetch);
    clear_folder(fetch); /* another node may have another build of the same path */
    fetch->at++;
    next_node(fetch);
}

static void leave_with_status(struct nix_fetch *fetch, int status, struct buffer *answer)
{
    struct error err = {0};
    JSON_OWNED json_t *problem = NULL;
    struct error ignored = {0};
    const char *detail = "";
    if (json_read(answer->data, answer->used, &problem, &ignored) == 0) {
        detail = json_text(problem, "detail");
    }
    error_set(&err, status == 404 ? ERROR_NOT_FOUND : ERROR_UNAVAILABLE, "it answered %d%s%.300s",
              status, detail[0] == '\0' ? "" : ": ", detail);
    leave_node(fetch, &err);
}

/* Nix has the last word: what it does not take is left with the node that gave it. */
static void on_imported(struct job *job, const struct error *error)
{
    struct nix_fetch *fetch = job->context;
    if (!back_from_job(fetch)) {
        return;
    }
    if (error != NULL && error->kind == ERROR_INVALID) {
        leave_node(fetch, error);
        return;
    }
    fetch->service->counts.fetched_paths += error == NULL ? fetch->missing_count : 0;
    fetch_end(fetch, error);
}

/* ---- One path of the closure ---- */

static int lay_beside(struct nix_fetch *fetch, struct nix_narinfo *narinfo, struct job *job,
                      struct error *err)
{
    uint64_t size = 0;
    FD_OWNED int fd = -1;
    BUFFER_OWNED struct buffer text = {0};
    struct image_store *images = fetch->service->options.images;
    int r = image_open(images, fetch->blob_id, &fd, &size, err);
    r = r < 0 ? r : nix_nar_check(fd, &narinfo->info, &job->cancel, err);
    if (r < 0) {
        return r;
    }
    narinfo->file_size_bytes = size; /* whatever the node has said */
    MEMORY_OWNED char *blob = image_path(images, fetch->blob_id);
    MEMORY_OWNED char *nar = memory_format("%s/%s.nar.zst", fetch->folder, narinfo->info.path.hash);
    MEMORY_OWNED char *path =
        memory_format("%s/%s.narinfo", fetch->folder, narinfo->info.path.hash);
    if (link(blob, nar) < 0 && errno != EEXIST && symlink(blob, nar) < 0) {
        return error_os(err, errno, "laying %s beside its narinfo", nar);
    }
    snprintf(narinfo->url, sizeof(narinfo->url), "%s.nar.zst", narinfo->info.path.hash);
    nix_narinfo_write(narinfo, job->store.folder, &text);
    return file_write(path, text.data, text.used, 0600, err);
}

static int member_work(struct job *job, struct error *err)
{
    struct nix_fetch *fetch = job->context;
    return lay_beside(fetch, &fetch->missing[fetch->member], job, err);
}

static void on_member(struct job *job, const struct error *error)
{
    struct nix_fetch *fetch = job->context;
    struct error ignored = {0};
    if (!back_from_job(fetch)) {
        return;
    }
    if (error != NULL) {
        if (error->kind == ERROR_CORRUPT) {
            image_remove(fetch->service->options.images, fetch->blob_id, &ignored);
        }
        leave_node(fetch, error);
        return;
    }
    const struct nix_narinfo *narinfo = &fetch->missing[fetch->member];
    fetch->service->counts.fetched_bytes += narinfo->file_size_bytes;
    packed_add(fetch->service, narinfo->info.path.hash, narinfo->info.nar_hash, fetch->blob_id,
               narinfo->file_size_bytes);
    fetch->member++;
    next_member(fetch);
}

static void on_blob(const struct error *error, void *context)
{
    struct nix_fetch *fetch = context;
    fetch->blob = NULL;
    if (error != NULL) {
        leave_node(fetch, error);
    } else {
        start(fetch, true, member_work, on_member);
    }
}

/* Is it the same path that was signed?  Its file is what the node packed just now. */
static int take_packed(struct nix_fetch *fetch, const struct buffer *answer, struct error *err)
{
    NIX_NARINFO_OWNED struct nix_narinfo packed = {0};
    struct nix_narinfo *narinfo = &fetch->missing[fetch->member];
    int r = nix_narinfo_parse((const char *)answer->data, answer->used,
                              fetch->service->store.folder, &packed, err);
    if (r < 0) {
        return r;
    }
    if (nix_path_compare(&packed.info.path, &narinfo->info.path) != 0 ||
        memcmp(packed.info.nar_hash, narinfo->info.nar_hash, NIX_NAR_HASH_BYTES) != 0 ||
        !packed.has_file_hash || strcmp(packed.compression, "zstd") != 0) {
        return error_set(err, ERROR_CORRUPT, "it packed another path than %s-%s",
                         narinfo->info.path.hash, narinfo->info.path.name);
    }
    memcpy(narinfo->file_hash, packed.file_hash, sizeof(narinfo->file_hash));
    narinfo->has_file_hash = true;
    for (size_t i = 0; i < NIX_NAR_HASH_BYTES; i++) {
        snprintf(fetch->blob_id + 2 * i, 3, "%02x", packed.file_hash[i]);
    }
    return 0;
}

static void on_packed(const struct error *error, int status, struct buffer *answer, void *context)
{
    struct nix_fetch *fetch = context;
    struct error err = {0};
    fetch->call = NULL;
    if (error != NULL) {
        leave_node(fetch, error);
    } else if (status != 200) {
        leave_with_status(fetch, status, answer);
    } else if (take_packed(fetch, answer, &err) < 0) {
        leave_node(fetch, &err);
    } else {
        const struct peer_wanted wanted = {
            .id = fetch->blob_id, .first = &fetch->nodes[fetch->at].id, .first_count = 1};
        fetch->blob = peer_fetch_new(fetch->service->options.blobs, &wanted, on_blob, fetch);
    }
}

static void ask_node(struct nix_fetch *fetch, const char *folder, const char *hash,
                     size_t answer_max, uint64_t timeout_ms,
                     void (*done)(const struct error *error, int status, struct buffer *answer,
                                  void *context))
{
    MEMORY_OWNED char *target = memory_format("/v1/peer/%s/%s", folder, hash);
    const struct peer_request request = {.node = fetch->nodes[fetch->at].id,
                                         .method = "GET",
                                         .target = target,
                                         .answer_bytes_max = answer_max,
                                         .timeout_ms = timeout_ms};
    fetch->call = peer_call_new(fetch->service->options.peers, &request, done, fetch);
}

static void next_member(struct nix_fetch *fetch)
{
    if (fetch->member == fetch->missing_count) {
        snprintf(fetch->text, sizeof(fetch->text), "Nix takes it");
        start(fetch, true, import_work, on_imported);
        return;
    }
    const struct nix_path *path = &fetch->missing[fetch->member].info.path;
    snprintf(fetch->text, sizeof(fetch->text), "%.80s from node %.60s", path->name,
             fetch->nodes[fetch->at].name);
    ask_node(fetch, "nix-packed", path->hash, NIX_NARINFO_MAX, PACK_MS, on_packed);
}

/* ---- What a node has of the closure ---- */

static void add_missing(struct nix_fetch *fetch, struct nix_narinfo *narinfo)
{
    if ((fetch->missing_count & (fetch->missing_count - 1)) == 0) {
        size_t room = fetch->missing_count == 0 ? 1 : 2 * fetch->missing_count;
        fetch->missing = memory_resize(fetch->missing, room * sizeof(*fetch->missing));
    }
    fetch->missing[fetch->missing_count++] = *narinfo;
    *narinfo = (struct nix_narinfo){0};
}

static int check_signed(const struct nix_fetch *fetch, const struct job *job,
                        const struct nix_narinfo *narinfo, struct error *err)
{
    return nix_is_signed(&narinfo->info, job->store.folder, fetch->keys)
        ? 0
        : error_set(err, ERROR_DENIED,
                    "%s-%s is signed by nobody whom this node trusts (blixard store key, "
                    "nix_trusted_keys)",
                    narinfo->info.path.hash, narinfo->info.path.name);
}

static int take_narinfo(struct nix_fetch *fetch, const struct job *job, const char *text,
                        size_t length, bool *ret_is_wanted, struct error *err)
{
    NIX_NARINFO_OWNED struct nix_narinfo narinfo = {0};
    bool is_valid = false;
    int r = nix_narinfo_parse(text, length, job->store.folder, &narinfo, err);
    if (r < 0) {
        return r;
    }
    MEMORY_OWNED char *path = memory_format("%s/%s.narinfo", fetch->folder, narinfo.info.path.hash);
    r = nix_is_valid(&job->store, &narinfo.info.path, &is_valid, err);
    *ret_is_wanted = nix_path_compare(&narinfo.info.path, &fetch->path) == 0;
    r = r < 0 ? r : file_write(path, text, length, 0600, err);
    if (r < 0 || is_valid) {
        return r;
    }
    r = check_signed(fetch, job, &narinfo, err);
    if (r == 0) {
        add_missing(fetch, &narinfo);
    }
    return r;
}

static int write_about(const struct nix_fetch *fetch, const struct job *job, struct error *err)
{
    MEMORY_OWNED char *path = memory_format("%s/nix-cache-info", fetch->folder);
    MEMORY_OWNED char *text = memory_format("StoreDir: %s\n", job->store.folder);
    return file_write(path, text, strlen(text), 0600, err);
}

static int closure_work(struct job *job, struct error *err)
{
    struct nix_fetch *fetch = job->context;
    bool has_wanted = false;
    const char *at = buffer_string(&fetch->answer);
    size_t count = 0;
    int r = write_about(fetch, job, err);
    while (r == 0 && *at != '\0' && !job->cancel) {
        const char *end = strstr(at, "\n\n");
        size_t length = end == NULL ? strlen(at) : (size_t)(end - at) + 1;
        bool is_wanted = false;
        r = count++ >= NIX_CLOSURE_MAX
            ? error_set(err, ERROR_LIMIT, "it refers to more than %d paths", NIX_CLOSURE_MAX)
            : take_narinfo(fetch, job, at, length, &is_wanted, err);
        has_wanted = has_wanted || is_wanted;
        at += end == NULL ? length : length + 1;
    }
    if (r == 0 && job->cancel) {
        r = error_set(err, ERROR_CANCELLED, "it was given up");
    } else if (r == 0 && !has_wanted) {
        r = error_set(err, ERROR_NOT_FOUND, "it has another path of that hash");
    }
    return r;
}

static void on_closure_taken(struct job *job, const struct error *error)
{
    struct nix_fetch *fetch = job->context;
    if (!back_from_job(fetch)) {
        return;
    }
    buffer_clear(&fetch->answer);
    if (error != NULL) {
        leave_node(fetch, error);
    } else {
        next_member(fetch);
    }
}

static void on_closure(const struct error *error, int status, struct buffer *answer, void *context)
{
    struct nix_fetch *fetch = context;
    fetch->call = NULL;
    if (error != NULL) {
        leave_node(fetch, error);
    } else if (status != 200) {
        leave_with_status(fetch, status, answer);
    } else {
        buffer_clear(&fetch->answer);
        buffer_append(&fetch->answer, answer->data, answer->used);
        start(fetch, true, closure_work, on_closure_taken);
    }
}

static void next_node(struct nix_fetch *fetch)
{
    struct error err = {0};
    if (fetch->at < fetch->node_count) {
        snprintf(fetch->text, sizeof(fetch->text), "asking node %s", fetch->nodes[fetch->at].name);
        if (fetch->folder == NULL && nix_stage(fetch->service, &fetch->folder, &err) < 0) {
            fetch_end(fetch, &err);
            return;
        }
        ask_node(fetch, "nix-closures", fetch->path.hash, CLOSURE_BYTES_MAX, CLOSURE_MS,
                 on_closure);
        return;
    }
    if (fetch->all_said_no) {
        error_set(&fetch->blame, ERROR_NOT_FOUND, "no node has %s-%s", fetch->path.hash,
                  fetch->path.name);
    }
    if (fetch->only_from) {
        fetch_end(fetch, &fetch->blame);
        return;
    }
    snprintf(fetch->text, sizeof(fetch->text), "Nix looks for it elsewhere");
    start(fetch, true, realise_work, on_last);
}

/* ---- Whom to ask ---- */

struct places {
    struct nix_fetch *fetch;
    const struct cluster_view *view;
    char own[3][64];
};

#define PLACE(name) \
    "coalesce(nullif(labels ->> '$." name "', ''), attributes ->> '$.topology." name "', '')"
#define PLACES PLACE("region") ", " PLACE("zone") ", " PLACE("rack")

static bool take_own(sqlite3_stmt *row, void *context)
{
    struct places *places = context;
    for (int i = 0; i < 3; i++) {
        snprintf(places->own[i], sizeof(places->own[i]), "%s", store_text(row, i));
    }
    return false;
}

/* Who shares the rack is nearer than who shares the zone, or the region.  What is not said of one
 * of them says nothing; zones of one name in two regions are two. */
static bool take_distance(sqlite3_stmt *row, void *context)
{
    struct places *places = context;
    unsigned shared = 0;
    bool is_elsewhere = false;
    for (int i = 0; i < 3; i++) {
        const char *other = store_text(row, i + 1);
        bool is_said = places->own[i][0] != '\0' && other[0] != '\0';
        is_elsewhere = is_elsewhere || (is_said && strcmp(places->own[i], other) != 0);
        shared = is_said && !is_elsewhere ? (unsigned)i + 1 : shared;
    }
    for (size_t i = 0; i < places->fetch->node_count; i++) {
        struct candidate *node = &places->fetch->nodes[i];
        if (node->id == (uint64_t)sqlite3_column_int64(row, 0) && node->distance > 0) {
            node->distance = 4 - shared;
        }
    }
    return true;
}

/* Stable: those as near stay as they are, by the time of their answers. */
static void sort_nodes(struct nix_fetch *fetch)
{
    for (size_t i = 1; i < fetch->node_count; i++) {
        struct candidate node = fetch->nodes[i];
        size_t to = i;
        while (to > 0 && fetch->nodes[to - 1].distance > node.distance) {
            fetch->nodes[to] = fetch->nodes[to - 1];
            to--;
        }
        fetch->nodes[to] = node;
    }
}

static bool is_named(const struct nix_wish *wish, uint64_t id)
{
    bool named = false;
    for (size_t i = 0; i < wish->from_count; i++) {
        named = named || wish->from[i] == id;
    }
    return named;
}

static void choose_nodes(struct nix_fetch *fetch, const struct nix_wish *wish)
{
    struct nix_service *service = fetch->service;
    struct error ignored = {0};
    struct cluster_view *view =
        service->options.peers == NULL ? NULL : peer_view(service->options.peers);
    struct places places = {.fetch = fetch, .view = view};
    for (size_t i = 0; view != NULL && i < view->count; i++) {
        const struct cluster_node *node = &view->nodes[i];
        bool named = is_named(wish, node->id);
        bool is_good =
            !node->is_self && (named || (!wish->only_from && node->health != CLUSTER_LOST));
        if (is_good && fetch->node_count < NODES_MAX) {
            struct candidate *to = &fetch->nodes[fetch->node_count++];
            *to = (struct candidate){.id = node->id,
                                     .distance = named                     ? 0
                                         : node->health == CLUSTER_HEALTHY ? 4
                                                                           : 5};
            snprintf(to->name, sizeof(to->name), "%s", node->name);
        }
    }
    if (view != NULL) {
        store_query(service->options.store, &ignored, take_own, &places,
                    "SELECT " PLACES " FROM node WHERE key = ?", "t", service->options.node_name);
        store_query(service->options.store, &ignored, take_distance, &places,
                    "SELECT id, " PLACES " FROM node", "");
        cluster_view_unref(view);
    }
    sort_nodes(fetch);
}

/* ---- The door ---- */

static void on_key(const struct error *error, void *context)
{
    struct nix_fetch *fetch = context;
    fetch->key_wait = NULL;
    if (error != NULL) {
        fetch_end(fetch, error);
        return;
    }
    fetch->keys = nix_trusted(fetch->service);
    next_node(fetch);
}

static void on_looked(struct job *job, const struct error *error)
{
    struct nix_fetch *fetch = job->context;
    if (!back_from_job(fetch)) {
        return;
    }
    if (error != NULL) {
        fetch_end(fetch, error);
    } else if (fetch->is_valid) {
        start(fetch, fetch->root != NULL, keep_work, on_last);
    } else if (fetch->node_count == 0) {
        next_node(fetch);
    } else {
        fetch->key_wait = nix_key_wait(fetch->service, on_key, fetch);
    }
}

static int look_work(struct job *job, struct error *err)
{
    struct nix_fetch *fetch = job->context;
    struct error why = {0};
    int r = fetch->root == NULL ? 0 : nix_root_check(fetch->root, err);
    r = r < 0 ? r : nix_path_parse(fetch->wanted, job->store.folder, &fetch->path, err);
    if (r == 0 && nix_is_valid(&job->store, &fetch->path, &fetch->is_valid, &why) < 0 &&
        why.kind != ERROR_UNAVAILABLE) {
        *err = why; /* UNAVAILABLE: no program of Nix was ever run here */
        r = -(int)why.kind;
    }
    return r;
}

struct nix_fetch *nix_fetch_new(struct nix_service *service, const struct nix_wish *wish,
                                void (*done)(const struct error *error, void *context),
                                void *context)
{
    struct nix_fetch *fetch = NEW(struct nix_fetch);
    fetch->service = service;
    fetch->wanted = memory_copy_string(wish->path);
    fetch->root = wish->root == NULL ? NULL : memory_copy_string(wish->root);
    fetch->only_from = wish->only_from;
    fetch->done = done;
    fetch->context = context;
    fetch->all_said_no = true;
    snprintf(fetch->text, sizeof(fetch->text), "looking");
    list_push_back(&service->fetches, &fetch->link);
    choose_nodes(fetch, wish);
    start(fetch, false, look_work, on_looked);
    return fetch;
}

const char *nix_fetch_text(const struct nix_fetch *fetch)
{
    return fetch->text;
}

unsigned nix_fetch_percent(const struct nix_fetch *fetch)
{
    return fetch->missing_count == 0 ? 0 : (unsigned)(100 * fetch->member / fetch->missing_count);
}
