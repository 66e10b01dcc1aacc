/* Life, work beside the loop, roots. */
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/store/store.h"

#include "service/nix/parts.h"

enum { ASK_AGAIN_MS = 5000 };

/* ---- Jobs ---- */

static void run_job(void *context)
{
    struct job *job = context;
    if (job->store.folder[0] == '\0') {
        job->result = nix_open(&job->store, &job->error);
    }
    if (job->result == 0) {
        job->result = job->work(job, &job->error);
    }
}

static void on_job_end(void *context)
{
    struct job *job = context;
    struct nix_service *service = job->service;
    if (!service->has_store && job->store.folder[0] != '\0') {
        service->store = job->store;
        service->has_store = true;
    }
    list_remove(&job->link);
    job->end(job, job->result < 0 ? &job->error : NULL);
    free(job);
    if (service->is_over) {
        loop_stop(service->options.loop);
    }
}

struct job *job_start(struct nix_service *service, bool is_long,
                      int (*work)(struct job *job, struct error *err),
                      void (*end)(struct job *job, const struct error *error), void *context)
{
    struct job *job = NEW(struct job);
    job->service = service;
    job->work = work;
    job->cancel = service->is_hurried;
    job->end = end;
    job->context = context;
    if (service->has_store) {
        job->store = service->store;
    }
    list_push_back(&service->jobs, &job->link);
    if (!is_long) {
        loop_work(service->options.loop, run_job, on_job_end, job);
    } else {
        /* Its thread may be at the end by now: what it says is its own to write. */
        struct error err = {0};
        int r = nix_task_new(service->options.loop, run_job, on_job_end, job, &err);
        if (r < 0) {
            job->result = r;
            job->error = err;
            loop_post(service->options.loop, on_job_end, job);
        }
    }
    return job;
}

/* ---- Which store ---- */

static int ask_nothing(struct job *job, struct error *err)
{
    (void)job;
    (void)err;
    return 0; /* run_job() has asked */
}

static void on_asked(struct job *job, const struct error *error)
{
    job->service->is_asking = false;
    if (error != NULL && error->kind == ERROR_UNSUPPORTED) {
        job->service->absent = *error; /* and not, say, that no thread could be had */
    }
}

int nix_service_store(struct nix_service *service, struct nix_store *ret_store, struct error *err)
{
    uint64_t now_ms = clock_boot_ms();
    if (service->has_store) {
        *ret_store = service->store;
        return 0;
    }
    if (!service->is_asking && !service->is_over && now_ms - service->asked_ms >= ASK_AGAIN_MS) {
        service->is_asking = true;
        service->asked_ms = now_ms;
        job_start(service, true, ask_nothing, on_asked, NULL);
    }
    *err = service->absent;
    return -(int)err->kind;
}

char *nix_trusted(struct nix_service *service)
{
    return memory_format("%s %s", nix_public_key(service), service->options.trusted_keys);
}

int nix_stage(struct nix_service *service, char **ret_folder, struct error *err)
{
    MEMORY_OWNED char *folder =
        memory_format("%s/incoming/%" PRIu64, service->options.folder, ++service->staged);
    int r = file_make_folder(folder, 0700, err);
    if (r == 0) {
        *ret_folder = folder;
        folder = NULL;
    }
    return r;
}

/* ---- Roots ---- */

int nix_root_check(const char *root, struct error *err)
{
    size_t length = strlen(root);
    bool good = length > 0 && length <= NIX_ROOT_NAME_MAX && root[0] != '.' &&
        strspn(root, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._") == length;
    return good
        ? 0
        : error_set(err, ERROR_INVALID,
                    "\"%.120s\" is no name of a root: letters, digits, '-', '.' and '_', at "
                    "most %d, not beginning with '.'",
                    root, NIX_ROOT_NAME_MAX);
}

char *nix_root_path(const struct nix_service *service, const char *root)
{
    return memory_format("%s/roots/%s", service->options.folder, root);
}

struct keeping {
    char *link;
    char *path;
    void (*done)(const struct error *error, void *context);
    void *context;
    struct error refused;
};

static int keep_work(struct job *job, struct error *err)
{
    struct keeping *keeping = job->context;
    struct nix_path path;
    if (keeping->refused.kind != ERROR_NONE) {
        *err = keeping->refused;
        return -(int)err->kind;
    }
    int r = nix_path_parse(keeping->path, job->store.folder, &path, err);
    return r < 0 ? r : nix_root_add(&job->store, keeping->link, &path, err);
}

static void on_kept(struct job *job, const struct error *error)
{
    struct keeping *keeping = job->context;
    if (!job->service->is_over) {
        keeping->done(error, keeping->context);
    }
    free(keeping->link);
    free(keeping->path);
    free(keeping);
}

void nix_keep(struct nix_service *service, const char *root, const char *path,
              void (*done)(const struct error *error, void *context), void *context)
{
    struct keeping *keeping = NEW(struct keeping);
    keeping->link = nix_root_path(service, root);
    keeping->path = memory_copy_string(path);
    keeping->done = done;
    keeping->context = context;
    nix_root_check(root, &keeping->refused);
    job_start(service, true, keep_work, on_kept, keeping);
}

int nix_release(struct nix_service *service, const char *root, struct error *err)
{
    MEMORY_OWNED char *link = nix_root_path(service, root);
    int r = nix_root_check(root, err);
    return r < 0 ? r : nix_root_remove(link, err);
}

bool nix_is_kept(const struct nix_service *service, const char *root)
{
    MEMORY_OWNED char *link = nix_root_path(service, root);
    struct stat status;
    return lstat(link, &status) == 0;
}

/* ---- Life ---- */

static int copy_options(struct nix_service *service, const struct nix_service_options *options,
                        struct error *err)
{
    service->options = *options;
    struct nix_service_options *own = &service->options;
    own->folder = memory_copy_string(options->folder);
    own->node_name = memory_copy_string(options->node_name);
    own->http_address = memory_copy_string(options->http_address);
    own->tls_certificate = memory_copy_string(options->tls_certificate);
    own->tls_key = memory_copy_string(options->tls_key);
    own->upload_token_file = memory_copy_string(options->upload_token_file);
    own->read_token_file = memory_copy_string(options->read_token_file);
    own->trusted_keys = memory_copy_string(options->trusted_keys);
    if (strlen(options->trusted_keys) > NIX_KEYS_MAX) {
        return error_set(err, ERROR_INVALID, "nix_trusted_keys is too long");
    }
    return nix_keys_check(options->trusted_keys, err) < 0 ? error_wrap(err, "nix_trusted_keys") : 0;
}

static void service_done(struct nix_service *service)
{
    free((char *)(uintptr_t)service->options.folder);
    free((char *)(uintptr_t)service->options.node_name);
    free((char *)(uintptr_t)service->options.http_address);
    free((char *)(uintptr_t)service->options.tls_certificate);
    free((char *)(uintptr_t)service->options.tls_key);
    free((char *)(uintptr_t)service->options.upload_token_file);
    free((char *)(uintptr_t)service->options.read_token_file);
    free((char *)(uintptr_t)service->options.trusted_keys);
    free(service->packed_folder);
    explicit_bzero(&service->key, sizeof(service->key));
    free(service);
}

/* What uploads and fetches have left is worth nothing. */
static int open_folders(struct nix_service *service, struct error *err)
{
    MEMORY_OWNED char *incoming = memory_format("%s/incoming", service->options.folder);
    MEMORY_OWNED char *roots = memory_format("%s/roots", service->options.folder);
    int r = file_remove_tree(incoming, err);
    r = r < 0 ? r : file_make_folder(incoming, 0700, err);
    r = r < 0 ? r : file_make_folder(roots, 0700, err);
    return r < 0 ? r : packed_open(service, err);
}

int nix_service_new(const struct nix_service_options *options, struct nix_service **ret_service,
                    struct error *err)
{
    struct nix_service *service = NEW(struct nix_service);
    list_init(&service->jobs);
    list_init(&service->fetches);
    list_init(&service->doings);
    list_init(&service->key_waits);
    list_init(&service->packed);
    list_init(&service->packings);
    list_init(&service->servings);
    int r = copy_options(service, options, err);
    r = r < 0 ? r : open_folders(service, err);
    if (r == 0) {
        service->has_store = nix_open(&service->store, &service->absent) == 0;
        service->asked_ms = clock_boot_ms();
        log_debug("nix: %s", service->has_store ? service->store.version : service->absent.text);
    }
    r = r < 0 ? r : serve_start(service, err);
    if (r < 0) {
        packed_close(service);
        service_done(service);
        return r;
    }
    nix_key_look(service);
    *ret_service = service;
    return 0;
}

void nix_service_hurry(struct nix_service *service)
{
    service->is_hurried = true;
    LIST_EACH(node, &service->jobs)
    {
        LIST_ITEM(node, struct job, link)->cancel = true;
    }
    pack_give_up(service);
}

void nix_service_free(struct nix_service *service)
{
    if (service == NULL) {
        return;
    }
    service->is_over = true;
    store_settle(service->options.store);
    nix_operations_end(service);
    serve_stop(service);
    nix_service_hurry(service);
    while (!list_is_empty(&service->jobs) || service->makes_key) {
        loop_run(service->options.loop); /* what comes back stops it */
    }
    CHECK(list_is_empty(&service->fetches));
    nix_key_end(service);
    packed_close(service);
    service_done(service);
}

uint16_t nix_service_port(const struct nix_service *service)
{
    return service->port;
}
