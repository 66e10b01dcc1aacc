/*
 * Changes: each is decided from what the store says now and proposed as one command that expects
 * it to be so still.
 */
#include "service/function/function.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/image/image.h"

#include "service/function/parts.h"
#include "service/telemetry/telemetry.h"

enum { DEPLOY_ATTEMPTS = 16 };

static const char changed_meanwhile[] = "the function was changed at the same moment; retry";

/* ---- Deploying ---- */

struct deploy {
    struct list_node link;
    struct function_service *service;
    char project[64];
    char name[64];
    char module[HASH_TEXT_SIZE];
    uint64_t module_bytes;
    char *language;
    char *config;
    char *request; /* or NULL */
    char request_digest[HASH_TEXT_SIZE];
    unsigned attempts;
    uint64_t version;
    char operation[OPERATION_ID_SIZE];
    void (*started)(const struct error *error, const char *operation_id, uint64_t version,
                    void *context);
    void *context;
};

static void deploy_end(struct deploy *deploy, const struct error *error)
{
    list_remove(&deploy->link);
    if (deploy->started != NULL) {
        deploy->started(error, error == NULL ? deploy->operation : NULL, deploy->version,
                        deploy->context);
    }
    free(deploy->request);
    free(deploy->language);
    free(deploy->config);
    free(deploy);
}

static void row_of(const struct deploy *deploy, struct version_row *ret_row)
{
    *ret_row = (struct version_row){.number = deploy->version, .config = deploy->config};
    snprintf(ret_row->key, sizeof(ret_row->key), "%s/%s/%" PRIu64, deploy->project, deploy->name,
             deploy->version);
    snprintf(ret_row->state, sizeof(ret_row->state), "building");
    memcpy(ret_row->module, deploy->module, sizeof(ret_row->module));
}

/* What the same request began before: true, and the deploy has its operation and version. */
static int find_earlier(struct deploy *deploy, bool *ret_found, struct error *err)
{
    const struct operation_start start = {.project = deploy->project,
                                          .request = deploy->request,
                                          .request_digest = deploy->request_digest};
    char resource[OPERATION_RESOURCE_SIZE];
    *ret_found = false;
    if (deploy->request == NULL) {
        return 0;
    }
    int r = operation_find(deploy->service->options.operations, &start, deploy->operation, resource,
                           err);
    const char *number = r == 0 ? strrchr(resource, '/') : NULL;
    *ret_found =
        number != NULL && text_parse_u64(text_of(number + 1, strlen(number + 1)), &deploy->version);
    return r;
}

static void add_operation(struct deploy *deploy, struct store_command *command)
{
    char resource[FUNCTION_KEY_SIZE];
    snprintf(resource, sizeof(resource), "functions/%s/versions/%" PRIu64, deploy->name,
             deploy->version);
    const struct operation_start start = {.kind = "function.deploy",
                                          .project = deploy->project,
                                          .resource = resource,
                                          .request = deploy->request,
                                          .request_digest = deploy->request_digest};
    operation_add(deploy->service->options.operations, command, &start, deploy->operation);
}

static void write_version(struct deploy *deploy);

static void on_version_written(const struct error *error, uint64_t index, void *context)
{
    struct deploy *deploy = context;
    struct error err = {0};
    bool is_there = false;
    (void)index;
    if (error == NULL) {
        struct version_row row;
        row_of(deploy, &row);
        if (!deploy->service->stopping) {
            build_start(deploy->service, &row, deploy->operation);
        }
        deploy_end(deploy, NULL);
        return;
    }
    operation_drop(deploy->service->options.operations, deploy->operation);
    if (error->kind == ERROR_CONFLICT && deploy->attempts < DEPLOY_ATTEMPTS) {
        write_version(deploy);
    } else if (error->kind == ERROR_EXISTS && find_earlier(deploy, &is_there, &err) == 0 &&
               is_there) {
        deploy_end(deploy, NULL); /* the same request twice at once: the other one was first */
    } else {
        deploy_end(deploy, err.kind != ERROR_NONE ? &err : error);
    }
}

/* Two deploys of one function at once: the second finds another last_version and takes the next. */
static void write_version(struct deploy *deploy)
{
    struct function_service *service = deploy->service;
    struct error ignored = {0};
    uint64_t last = 0;
    bool is_new = function_find(service, deploy->project, deploy->name, &last, &ignored) < 0;
    uint64_t now_ms = clock_real_ms();
    char function[FUNCTION_KEY_SIZE];
    snprintf(function, sizeof(function), "%s/%s", deploy->project, deploy->name);
    deploy->attempts++;
    deploy->version = last + 1;

    struct version_row row;
    row_of(deploy, &row);
    struct store_command *command = store_command_new();
    if (is_new) {
        store_command_add_expecting(
            command, ERROR_CONFLICT, changed_meanwhile,
            "INSERT INTO function (key, project, name, last_version, created_ms, revision) VALUES "
            "(?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING",
            "tttuur", function, deploy->project, deploy->name, deploy->version, now_ms);
    } else {
        store_command_add_expecting(
            command, ERROR_CONFLICT, changed_meanwhile,
            "UPDATE function SET last_version = ?, revision = ? WHERE key = ? AND last_version = ?",
            "urtu", deploy->version, function, last);
    }
    store_command_add(command,
                      "INSERT INTO version (key, function, number, state, language, module, "
                      "module_bytes, config, created_ms, revision) VALUES (?, ?, ?, 'building', ?, "
                      "?, ?, ?, ?, ?)",
                      "ttuttutur", row.key, function, deploy->version, deploy->language,
                      deploy->module, deploy->module_bytes, deploy->config, now_ms);
    add_operation(deploy, command);
    store_propose(service->options.store, command, on_version_written, deploy);
}

static bool is_there(sqlite3_stmt *row, void *context)
{
    (void)row;
    *(bool *)context = true;
    return false;
}

static int check_project(struct function_service *service, const char *project, struct error *err)
{
    bool found = false;
    int r = store_query(service->options.store, err, is_there, &found,
                        "SELECT 1 FROM project WHERE key = ?", "t", project);
    if (r == 0 && !found) {
        return error_set(err, ERROR_NOT_FOUND, "there is no project %.80s", project);
    }
    return r;
}

static int check_module(struct function_service *service, const char *module, uint64_t *ret_size,
                        struct error *err)
{
    static const uint8_t magic[] = {0, 'a', 's', 'm'};
    int fd_slot = -1;
    int r = image_open(service->options.images, module, &fd_slot, ret_size, err);
    if (r == -ERROR_NOT_FOUND) {
        return error_set(err, ERROR_NOT_FOUND,
                         "there is no uploaded module %.64s; upload it with POST /v1/blobs",
                         module);
    }
    if (r < 0) {
        return r;
    }
    uint8_t head[sizeof(magic)] = {0};
    ssize_t got = pread(fd_slot, head, sizeof(head), 0);
    close(fd_slot);
    if (*ret_size > FUNCTION_MODULE_MAX) {
        return error_set(err, ERROR_TOO_LARGE,
                         "the module has %" PRIu64 " bytes; at most %d are allowed", *ret_size,
                         FUNCTION_MODULE_MAX);
    }
    if (got != (ssize_t)sizeof(magic) || memcmp(head, magic, sizeof(magic)) != 0) {
        return error_set(err, ERROR_INVALID,
                         "blob %.16s... is no WebAssembly module (it does not begin with \\0asm)",
                         module);
    }
    return 0;
}

static int check_deploy(struct function_service *service, const struct function_deployment *wanted,
                        uint64_t *ret_size, struct error *err)
{
    int r = name_check("project", wanted->project, err);
    r = r < 0 ? r : name_check("function", wanted->name, err);
    r = r < 0 ? r : config_check(wanted->config, err);
    r = r < 0 ? r : check_project(service, wanted->project, err);
    if (r == 0 && wanted->language != NULL && strlen(wanted->language) > 32) {
        r = error_set(err, ERROR_INVALID, "language has more than 32 bytes");
    }
    return r < 0 ? r : check_module(service, wanted->module_id, ret_size, err);
}

static char *config_text(const struct function_config *config)
{
    struct buffer json = {0};
    struct json_writer writer = json_writer_to(&json);
    json_write_begin_object(&writer);
    config_write(&writer, config);
    json_write_end_object(&writer);
    return buffer_take(&json);
}

void function_deploy(struct function_service *service, const struct function_deployment *wanted,
                     void (*started)(const struct error *error, const char *operation_id,
                                     uint64_t version, void *context),
                     void *context)
{
    struct error err = {0};
    uint64_t size = 0;
    if (check_deploy(service, wanted, &size, &err) < 0) {
        started(&err, NULL, 0, context);
        return;
    }
    struct deploy *deploy = NEW(struct deploy);
    deploy->service = service;
    snprintf(deploy->project, sizeof(deploy->project), "%s", wanted->project);
    snprintf(deploy->name, sizeof(deploy->name), "%s", wanted->name);
    snprintf(deploy->module, sizeof(deploy->module), "%s", wanted->module_id);
    deploy->module_bytes = size;
    deploy->language = wanted->language != NULL ? memory_copy_string(wanted->language) : NULL;
    deploy->config = config_text(wanted->config);
    if (wanted->request != NULL) {
        deploy->request = memory_copy_string(wanted->request);
        snprintf(deploy->request_digest, sizeof(deploy->request_digest), "%s",
                 wanted->request_digest);
    }
    deploy->started = started;
    deploy->context = context;
    list_push_back(&service->deploys, &deploy->link);
    bool is_there = false;
    int r = find_earlier(deploy, &is_there, &err);
    if (r < 0 || is_there) {
        deploy_end(deploy, r < 0 ? &err : NULL);
    } else {
        write_version(deploy);
    }
}

/* ---- Deleting ---- */

struct removed {
    char key[FUNCTION_KEY_SIZE];
    char module[HASH_TEXT_SIZE];
};

struct removal {
    struct function_service *service;
    char project[64];
    char name[64];
    bool whole; /* the function with its log */
    struct removed *versions;
    size_t count;
    void (*done)(const struct error *error, uint64_t index, void *context);
    void *context;
};

static void note_removed(const struct version_row *row, void *context)
{
    struct removal *removal = context;
    removal->versions =
        memory_resize(removal->versions, (removal->count + 1) * sizeof(*removal->versions));
    struct removed *removed = &removal->versions[removal->count++];
    memcpy(removed->key, row->key, sizeof(removed->key));
    memcpy(removed->module, row->module, sizeof(removed->module));
}

static bool is_being_deployed(struct function_service *service, const char *module)
{
    LIST_EACH(node, &service->deploys)
    {
        if (strcmp(LIST_ITEM(node, struct deploy, link)->module, module) == 0) {
            return true;
        }
    }
    return false;
}

/* A module goes, with all that was made of it, when no version has it and no deploy is about to. */
void module_collect(struct function_service *service, const char *module)
{
    if (is_being_deployed(service, module) || build_runs_of(service, module) ||
        module_is_used(service, module)) {
        return;
    }
    struct error err = {0};
    if (image_exists(service->options.images, module) &&
        image_remove(service->options.images, module, &err) < 0) {
        log_warn("function: module %s stays on disk: %s", module, err.text);
    }
    wasm_forget(service->options.wasm, module, image_is_used, service);
}

static void on_removed(const struct error *error, uint64_t index, void *context)
{
    struct removal *removal = context;
    struct function_service *service = removal->service;
    for (size_t i = 0; error == NULL && i < removal->count; i++) {
        build_forget(service, removal->versions[i].key);
        module_collect(service, removal->versions[i].module);
    }
    struct error err = {0};
    if (error == NULL && removal->whole &&
        telemetry_remove(service->options.telemetry, removal->project, removal->name, &err) < 0) {
        log_warn("function: the log of %s stays on disk: %s", removal->name, err.text);
    }
    if (error == NULL) {
        routes_mark_stale(service);
        routes_refresh(service);
    }
    removal->done(error, index, removal->context);
    free(removal->versions);
    free(removal);
}

static struct removal *
removal_new(struct function_service *service, const char *project, const char *name,
            void (*done)(const struct error *error, uint64_t index, void *context), void *context)
{
    struct removal *removal = NEW(struct removal);
    removal->service = service;
    snprintf(removal->project, sizeof(removal->project), "%s", project);
    snprintf(removal->name, sizeof(removal->name), "%s", name);
    removal->done = done;
    removal->context = context;
    return removal;
}

void function_delete(struct function_service *service, const char *project, const char *name,
                     void (*done)(const struct error *error, uint64_t index, void *context),
                     void *context)
{
    struct error err = {0};
    uint64_t last = 0;
    if (name_check("function", name, &err) < 0 ||
        function_find(service, project, name, &last, &err) < 0) {
        done(&err, 0, context);
        return;
    }
    char key[FUNCTION_KEY_SIZE];
    snprintf(key, sizeof(key), "%s/%s", project, name);
    struct removal *removal = removal_new(service, project, name, done, context);
    removal->whole = true;
    if (version_each(service, key, note_removed, removal, &err) < 0) {
        on_removed(&err, 0, removal);
        return;
    }
    /* Row by row from the leaves, so that watchers hear of each. */
    struct store_command *command = store_command_new();
    store_command_add(command, "DELETE FROM alias WHERE function = ?", "t", key);
    store_command_add(command, "DELETE FROM version WHERE function = ?", "t", key);
    store_command_add_expecting(command, ERROR_CONFLICT, changed_meanwhile,
                                "DELETE FROM function WHERE key = ? AND last_version = ?", "tu",
                                key, last);
    store_propose(service->options.store, command, on_removed, removal);
}

void function_delete_version(struct function_service *service, const char *project,
                             const char *name, uint64_t version,
                             void (*done)(const struct error *error, uint64_t index, void *context),
                             void *context)
{
    struct error err = {0};
    struct version_row row;
    if (name_check("function", name, &err) < 0 ||
        version_find(service, project, name, version, &row, &err) < 0) {
        done(&err, 0, context);
        return;
    }
    struct removal *removal = removal_new(service, project, name, done, context);
    note_removed(&row, removal);
    struct store_command *command = store_command_new();
    store_command_add_expecting(
        command, ERROR_CONFLICT,
        "an alias points to this version; point it to another one first, or delete the function",
        "DELETE FROM version WHERE key = ? AND NOT EXISTS (SELECT 1 FROM alias WHERE "
        "alias.function = version.function AND alias.version = version.number)",
        "t", row.key);
    store_propose(service->options.store, command, on_removed, removal);
    version_row_done(&row);
}

/* ---- Aliases ---- */

struct pointing {
    struct function_service *service;
    void (*done)(const struct error *error, uint64_t index, void *context);
    void *context;
};

static void on_pointed(const struct error *error, uint64_t index, void *context)
{
    struct pointing *pointing = context;
    routes_mark_stale(pointing->service);
    routes_refresh(pointing->service);
    pointing->done(error, index, pointing->context);
    free(pointing);
}

static int check_alias(struct function_service *service, const char *project, const char *name,
                       const char *alias, uint64_t version, struct error *err)
{
    int r = name_check("function", name, err);
    r = r < 0 ? r : name_check("alias", alias, err);
    struct version_row row;
    r = r < 0 ? r : version_find(service, project, name, version, &row, err);
    if (r < 0) {
        return r;
    }
    if (strcmp(row.state, "ready") != 0) {
        r = error_set(err, ERROR_CONFLICT,
                      "version %" PRIu64 " of %s is %s; an alias points to a ready version only",
                      version, name, row.state);
    }
    version_row_done(&row);
    return r;
}

void function_set_alias(struct function_service *service, const char *project, const char *name,
                        const char *alias, uint64_t version,
                        void (*done)(const struct error *error, uint64_t index, void *context),
                        void *context)
{
    struct error err = {0};
    if (check_alias(service, project, name, alias, version, &err) < 0) {
        done(&err, 0, context);
        return;
    }
    char function[FUNCTION_KEY_SIZE];
    char key[FUNCTION_KEY_SIZE];
    snprintf(function, sizeof(function), "%s/%s", project, name);
    snprintf(key, sizeof(key), "%s/%s/%s", project, name, alias);
    struct pointing *pointing = NEW(struct pointing);
    *pointing = (struct pointing){service, done, context};
    struct store_command *command = store_command_new();
    store_command_add_expecting(
        command, ERROR_CONFLICT, changed_meanwhile,
        "INSERT INTO alias (key, function, name, version, revision) SELECT ?, function, ?, number, "
        "? FROM version WHERE function = ? AND number = ? AND state = 'ready' ON CONFLICT (key) DO "
        "UPDATE SET version = excluded.version, revision = excluded.revision",
        "ttrtu", key, alias, function, version);
    store_propose(service->options.store, command, on_pointed, pointing);
}

/* ---- Life ---- */

static void on_changed(const struct store_event *event, void *context)
{
    if (strcmp(event->table, "version") == 0 || strcmp(event->table, "alias") == 0 ||
        strcmp(event->table, "function") == 0) {
        routes_mark_stale(context);
    }
}

static void on_resumed(const struct error *error, uint64_t index, void *context)
{
    struct deploy *deploy = context;
    (void)index;
    if (!deploy->service->stopping) {
        struct version_row row;
        row_of(deploy, &row);
        build_start(deploy->service, &row, error == NULL ? deploy->operation : NULL);
    }
    deploy_end(deploy, error);
}

static bool take_request(sqlite3_stmt *row, void *context)
{
    struct deploy *deploy = context;
    deploy->request = memory_copy_string((const char *)sqlite3_column_text(row, 0));
    snprintf(deploy->request_digest, sizeof(deploy->request_digest), "%s",
             (const char *)sqlite3_column_text(row, 1));
    return false;
}

/* The new operation is the one that the request's repetition finds from now on. */
static void resume_operation(struct deploy *deploy)
{
    struct store *store = deploy->service->options.store;
    struct error ignored = {0};
    struct store_command *command = store_command_new();
    MEMORY_OWNED char *resource =
        memory_format("functions/%s/versions/%" PRIu64, deploy->name, deploy->version);
    store_query(store, &ignored, take_request, deploy,
                "SELECT request, request_digest FROM operation WHERE project = ? AND resource = ? "
                "AND request IS NOT NULL",
                "tt", deploy->project, resource);
    store_command_add(
        command,
        "UPDATE operation SET request = NULL, request_digest = NULL WHERE project = ? "
        "AND resource = ?",
        "tt", deploy->project, resource);
    add_operation(deploy, command);
    store_propose(store, command, on_resumed, deploy);
}

/* What was being built when the node ended begins again, with an operation that tells of it. */
static void resume(const struct version_row *row, void *context)
{
    struct function_service *service = context;
    if (strcmp(row->state, "ready") == 0) {
        build_resume(service, row, alias_points_to(service, row));
        return;
    }
    if (strcmp(row->state, "building") != 0) {
        return;
    }
    struct deploy *deploy = NEW(struct deploy);
    char project[FUNCTION_KEY_SIZE];
    char name[FUNCTION_KEY_SIZE];
    project_of(row->key, project, name, sizeof(project));
    deploy->service = service;
    snprintf(deploy->project, sizeof(deploy->project), "%.63s", project);
    snprintf(deploy->name, sizeof(deploy->name), "%.63s", name);
    memcpy(deploy->module, row->module, sizeof(deploy->module));
    deploy->config = memory_copy_string(row->config);
    deploy->version = row->number;
    list_push_back(&service->deploys, &deploy->link);
    resume_operation(deploy);
}

void service_arrived(struct function_service *service)
{
    CHECK(service->awaited > 0);
    service->awaited--;
    if (service->stopping) {
        return;
    }
    if (service->awaited == 0) {
        service->options.on_ready(NULL, service->options.context);
    } else {
        service->options.on_progress(service->awaited, service->options.context);
    }
}

static void on_default_project(const struct error *error, uint64_t index, void *context)
{
    struct function_service *service = context;
    (void)index;
    if (error != NULL) {
        service->options.on_ready(error, service->options.context); /* awaited stays: no other */
        return;
    }
    service_arrived(service);
}

static void add_default_project(struct function_service *service)
{
    struct store_command *command = store_command_new();
    store_command_add(command,
                      "INSERT INTO project (key, created_ms) VALUES ('default', ?) ON CONFLICT "
                      "(key) DO NOTHING",
                      "u", clock_real_ms());
    service->awaited++;
    store_propose(service->options.store, command, on_default_project, service);
}

int function_service_new(const struct function_options *options,
                         struct function_service **ret_service, struct error *err)
{
    struct function_service *service = NEW(struct function_service);
    service->options = *options;
    list_init(&service->deploys);
    list_init(&service->builds_first);
    list_init(&service->builds_later);
    list_init(&service->builds_known);
    pthread_mutex_init(&service->routes_lock, NULL);
    pthread_mutex_init(&service->builds_lock, NULL);
    pthread_cond_init(&service->builds_ready, NULL);
    service->watch = store_watch_new(options->store, NULL, on_changed, service);
    int r = builders_start(service, err);
    if (r < 0) {
        function_service_free(service);
        return r;
    }
    add_default_project(service);
    r = version_each(service, NULL, resume, service, err);
    if (r < 0) {
        function_service_free(service);
        return r;
    }
    routes_mark_stale(service);
    routes_refresh(service);
    *ret_service = service;
    return 0;
}

static void free_local(const char *key, void *value, void *context)
{
    struct local *local = value;
    (void)key;
    (void)context;
    if (local->target != NULL) {
        instance_target_unref(local->target);
    }
    free(local);
}

void function_service_free(struct function_service *service)
{
    if (service == NULL) {
        return;
    }
    store_settle(service->options.store); /* no deploy is half way to its build */
    bool ended = builders_stop(service);
    store_settle(service->options.store); /* what the builds wrote at their end */
    store_watch_free(service->watch);
    if (!ended) {
        /* Somebody still refers to it: better a leak at the end than a use after free. */
        log_warn("function: a build did not end when it was broken off");
        return;
    }
    map_each(&service->locals, free_local, NULL);
    map_done(&service->locals);
    routes_done(service);
    pthread_cond_destroy(&service->builds_ready);
    pthread_mutex_destroy(&service->builds_lock);
    pthread_mutex_destroy(&service->routes_lock);
    free(service->gateway_url);
    free(service);
}

void function_set_gateway(struct function_service *service, const char *url)
{
    free(service->gateway_url);
    service->gateway_url = memory_copy_string(url);
}
