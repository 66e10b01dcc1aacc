/* What takes long, as operations: garbage, verification, copies. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/json.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/store/store.h"

#include "service/cluster/cluster.h"
#include "service/nix/parts.h"
#include "service/peer/peer.h"

enum { PROGRESS_MS = 500, NAMED_MAX = 300 };

struct doing {
    struct list_node link; /* in doings */
    struct nix_service *service;
    char id[OPERATION_ID_SIZE];
    nix_begun *begun;
    void *begun_context;
    void (*start)(struct doing *doing);
    struct job *job;
    struct nix_fetch *fetch;
    struct loop_timer *timer;
    struct error error;
    /* what of */
    char *path;
    uint64_t from;
    bool has_from;
    struct nix_gc gc;
    struct nix_gc_result result;
    struct buffer wrong;
    uint64_t wrong_count;
};

static void doing_free(struct doing *doing)
{
    list_remove(&doing->link);
    loop_timer_free(doing->timer);
    buffer_done(&doing->wrong);
    free(doing->path);
    free(doing);
}

static void doing_end(struct doing *doing, const struct error *error, const char *result)
{
    struct operation_service *operations = doing->service->options.operations;
    if (!doing->service->is_over && error != NULL) {
        operation_fail(operations, doing->id, error);
    } else if (!doing->service->is_over) {
        operation_succeed(operations, doing->id, result);
    }
    doing_free(doing);
}

/* ---- Beginning ---- */

static void on_cancel(void *context)
{
    struct doing *doing = context;
    struct error err;
    if (doing->job != NULL) {
        doing->job->cancel = true; /* its end says so */
    } else if (doing->fetch != NULL) {
        nix_fetch_free(doing->fetch);
        doing->fetch = NULL;
        error_set(&err, ERROR_CANCELLED, "it was cancelled");
        doing_end(doing, &err, NULL);
    }
}

static void on_proposed(const struct error *error, uint64_t index, void *context)
{
    struct doing *doing = context;
    struct operation_service *operations = doing->service->options.operations;
    (void)index;
    if (!operation_tell(operations, doing->id, error, doing->begun, doing->begun_context)) {
        doing_free(doing);
        return;
    }
    if (doing->service->is_over) {
        doing_end(doing, NULL, NULL);
        return;
    }
    operation_on_cancel(operations, doing->id, on_cancel, doing);
    doing->start(doing);
}

static void begin(struct doing *doing, const char *kind, const char *project, const char *resource)
{
    const struct operation_start start = {.kind = kind, .project = project, .resource = resource};
    struct store_command *command = store_command_new();
    operation_add(doing->service->options.operations, command, &start, doing->id);
    store_propose(doing->service->options.store, command, on_proposed, doing);
}

static struct doing *doing_new(struct nix_service *service, const char *path,
                               void (*start)(struct doing *doing), nix_begun *begun, void *context)
{
    struct doing *doing = NEW(struct doing);
    doing->service = service;
    doing->path = path == NULL ? NULL : memory_copy_string(path);
    doing->start = start;
    doing->begun = begun;
    doing->begun_context = context;
    list_push_back(&service->doings, &doing->link);
    return doing;
}

/* What cannot be begun is told later, as all is. */
static void on_refused(void *context)
{
    struct doing *doing = context;
    doing->begun(&doing->error, NULL, doing->begun_context);
    doing_free(doing);
}

static void refuse(struct doing *doing)
{
    loop_post(doing->service->options.loop, on_refused, doing);
}

/* ---- Garbage ---- */

static int gc_work(struct job *job, struct error *err)
{
    struct doing *doing = job->context;
    doing->gc.cancel = &job->cancel;
    return nix_gc(&job->store, &doing->gc, &doing->result, err);
}

static void on_collected(struct job *job, const struct error *error)
{
    struct doing *doing = job->context;
    MEMORY_OWNED char *result = memory_format(
        "{\"paths\":%" PRIu64 ",\"freed_bytes\":%" PRIu64 ",\"dry_run\":%s}", doing->result.paths,
        doing->result.freed_bytes, doing->gc.is_trial ? "true" : "false");
    doing->job = NULL;
    doing_end(doing, error, result);
}

static void start_gc(struct doing *doing)
{
    doing->job = job_start(doing->service, true, gc_work, on_collected, doing);
}

void nix_begin_gc(struct nix_service *service, const char *project, uint64_t bytes_max,
                  bool is_trial, nix_begun *begun, void *context)
{
    struct doing *doing = doing_new(service, NULL, start_gc, begun, context);
    struct nix_store store;
    doing->gc = (struct nix_gc){.bytes_max = bytes_max, .is_trial = is_trial};
    if (nix_service_store(service, &store, &doing->error) < 0) {
        refuse(doing);
        return;
    }
    begin(doing, "store.gc", project, "store");
}

/* ---- Verifying ---- */

static int verify_work(struct job *job, struct error *err)
{
    struct doing *doing = job->context;
    struct nix_path path;
    if (doing->path != NULL && nix_path_parse(doing->path, job->store.folder, &path, err) < 0) {
        return -(int)err->kind;
    }
    int r = nix_verify(&job->store, doing->path == NULL ? NULL : &path, &job->cancel, &doing->wrong,
                       &doing->wrong_count, err);
    if (r == 0 && doing->wrong_count > 0) {
        char *text = (char *)(uintptr_t)buffer_string(&doing->wrong);
        for (char *at = text; *at != '\0'; at++) {
            *at = *at == '\n' ? ' ' : *at;
        }
        return error_set(err, ERROR_CORRUPT,
                         "%" PRIu64 " path%s not what %s (nix-store --repair-path, or nix-store "
                         "--delete and blixard store copy): %.*s",
                         doing->wrong_count, doing->wrong_count == 1 ? " is" : "s are",
                         doing->wrong_count == 1 ? "it was" : "they were", NAMED_MAX, text);
    }
    return r;
}

static void on_verified(struct job *job, const struct error *error)
{
    struct doing *doing = job->context;
    doing->job = NULL;
    doing_end(doing, error, "{\"damaged\":0}");
}

static void start_verify(struct doing *doing)
{
    doing->job = job_start(doing->service, true, verify_work, on_verified, doing);
}

void nix_begin_verify(struct nix_service *service, const char *project, const char *path,
                      nix_begun *begun, void *context)
{
    struct doing *doing = doing_new(service, path, start_verify, begun, context);
    struct nix_store store;
    struct nix_path parsed;
    int r = nix_service_store(service, &store, &doing->error);
    if (r < 0 || (path != NULL && nix_path_parse(path, store.folder, &parsed, &doing->error) < 0)) {
        refuse(doing);
        return;
    }
    begin(doing, "store.verify", project, "store");
}

/* ---- Copies ---- */

static void on_fetched(const struct error *error, void *context)
{
    struct doing *doing = context;
    JSON_OWNED json_t *result = json_pack("{s:s}", "path", doing->path);
    char *text = json_dumps(result, JSON_COMPACT);
    doing->fetch = NULL;
    doing_end(doing, error, text);
    free(text);
}

static void on_time(void *context)
{
    struct doing *doing = context;
    if (doing->fetch != NULL) {
        operation_progress(doing->service->options.operations, doing->id,
                           nix_fetch_percent(doing->fetch), nix_fetch_text(doing->fetch));
        loop_timer_start(doing->timer, PROGRESS_MS);
    }
}

static void start_copy(struct doing *doing)
{
    const struct nix_wish wish = {.path = doing->path,
                                  .from = &doing->from,
                                  .from_count = doing->has_from ? 1 : 0,
                                  .only_from = doing->has_from};
    doing->fetch = nix_fetch_new(doing->service, &wish, on_fetched, doing);
    doing->timer = loop_timer_new(doing->service->options.loop, on_time, doing);
    loop_timer_start(doing->timer, PROGRESS_MS);
}

static int find_node(struct nix_service *service, const char *name, uint64_t *ret_id,
                     struct error *err)
{
    struct cluster_view *view =
        service->options.peers == NULL ? NULL : peer_view(service->options.peers);
    const struct cluster_node *node = view != NULL ? cluster_view_find_name(view, name) : NULL;
    bool is_there = node != NULL;
    if (is_there) {
        *ret_id = node->id;
    }
    if (view != NULL) {
        cluster_view_unref(view);
    }
    return is_there ? 0 : error_set(err, ERROR_NOT_FOUND, "there is no node %.80s", name);
}

void nix_begin_copy(struct nix_service *service, const char *project, const char *path,
                    const char *from_node, nix_begun *begun, void *context)
{
    struct doing *doing = doing_new(service, path, start_copy, begun, context);
    struct nix_store store;
    struct nix_path parsed;
    int r = nix_service_store(service, &store, &doing->error);
    r = r < 0 ? r : nix_path_parse(path, store.folder, &parsed, &doing->error);
    if (r == 0 && from_node != NULL) {
        r = find_node(service, from_node, &doing->from, &doing->error);
        doing->has_from = r == 0;
    }
    if (r < 0) {
        refuse(doing);
        return;
    }
    begin(doing, "store.copy", project, parsed.hash);
}

/* What is left are copies: others have ended with their jobs. */
void nix_operations_end(struct nix_service *service)
{
    LIST_EACH(node, &service->doings)
    {
        struct doing *doing = LIST_ITEM(node, struct doing, link);
        if (doing->fetch != NULL) {
            nix_fetch_free(doing->fetch);
            doing_free(doing);
        }
    }
}
