/*
 * Deploying: the version's row and its operation, then the build.  What a node leaves unfinished is
 * begun again, by itself after a restart, or by another one.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/image/image.h"

#include "service/function/parts.h"
#include "service/quota/quota.h"

enum { DEPLOY_ATTEMPTS = 16, SCHEMA_WITH_SECRETS = 5 };

static const char changed_meanwhile[] = "the function was changed at the same moment; retry";

struct deploy {
    struct list_node link;
    struct function_service *service;
    struct peer_fetch *fetch; /* of the module, when it was uploaded to another node */
    char project[64];
    char name[64];
    char module[HASH_TEXT_SIZE];
    uint64_t module_bytes;
    char *language;
    char *config;
    bool is_linux;
    char *request; /* or NULL */
    char request_digest[HASH_TEXT_SIZE];
    unsigned attempts;
    uint64_t version;
    uint64_t created_ms; /* of the version */
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
    *ret_row = (struct version_row){
        .number = deploy->version, .config = deploy->config, .created_ms = deploy->created_ms};
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
    bool was_begun = false;
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
    } else if (error->kind == ERROR_EXISTS && find_earlier(deploy, &was_begun, &err) == 0 &&
               was_begun) {
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
    deploy->created_ms = now_ms;

    struct version_row row;
    row_of(deploy, &row);
    struct store_command *command = store_command_new();
    if (is_new) {
        store_command_add(command, "INSERT OR IGNORE INTO project (key, created_ms) VALUES (?, ?)",
                          "tu", deploy->project, now_ms);
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
    if (is_new) {
        quota_add_check(service->options.store, command, deploy->project,
                        &(struct quota_ask){.functions = 1});
    }
    add_operation(deploy, command);
    store_propose(service->options.store, command, on_version_written, deploy);
}

static int check_module(struct function_service *service, const char *module, bool is_linux,
                        uint64_t *ret_size, struct error *err)
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
                         "what is deployed has %" PRIu64 " bytes; at most %d are allowed",
                         *ret_size, FUNCTION_MODULE_MAX);
    }
    if (is_linux) {
        return 0; /* an archive, which is unpacked where its code runs */
    }
    if (got != (ssize_t)sizeof(magic) || memcmp(head, magic, sizeof(magic)) != 0) {
        return error_set(
            err, ERROR_INVALID,
            "what is deployed is no WebAssembly module (it does not begin with \\0asm)");
    }
    return 0;
}

static int check_deploy(struct function_service *service, const struct function_deployment *wanted,
                        struct error *err)
{
    int r = name_check("project", wanted->project, err);
    r = r < 0 ? r : name_check("function", wanted->name, err);
    r = r < 0 ? r : config_check(wanted->config, err);
    if (r == 0 && wanted->language != NULL && strlen(wanted->language) > 32) {
        r = error_set(err, ERROR_INVALID, "language has more than 32 bytes");
    }
    if (r == 0 && wanted->config->secrets_length > 0 &&
        store_schema_now(service->options.store) < SCHEMA_WITH_SECRETS) {
        r = error_set(err, ERROR_UNSUPPORTED,
                      "functions can have secrets once every node of the cluster has this version "
                      "of Blixard");
    }
    return r;
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

/* The module is here, or nowhere. */
static void on_module(const struct error *error, void *context)
{
    struct deploy *deploy = context;
    struct error err = {0};
    bool was_begun = false;
    deploy->fetch = NULL;
    int r = 0;
    if (error != NULL && error->kind != ERROR_NOT_FOUND) {
        err = *error;
        r = -(int)error->kind;
    }
    r = r < 0 ? r
              : check_module(deploy->service, deploy->module, deploy->is_linux,
                             &deploy->module_bytes, &err);
    r = r < 0 ? r : find_earlier(deploy, &was_begun, &err);
    if (r < 0 || was_begun) {
        deploy_end(deploy, r < 0 ? &err : NULL);
    } else {
        write_version(deploy);
    }
}

void function_deploy(struct function_service *service, const struct function_deployment *wanted,
                     void (*started)(const struct error *error, const char *operation_id,
                                     uint64_t version, void *context),
                     void *context)
{
    struct error err = {0};
    if (check_deploy(service, wanted, &err) < 0) {
        started(&err, NULL, 0, context);
        return;
    }
    struct deploy *deploy = NEW(struct deploy);
    deploy->service = service;
    snprintf(deploy->project, sizeof(deploy->project), "%s", wanted->project);
    snprintf(deploy->name, sizeof(deploy->name), "%s", wanted->name);
    snprintf(deploy->module, sizeof(deploy->module), "%s", wanted->module_id);
    deploy->language = wanted->language != NULL ? memory_copy_string(wanted->language) : NULL;
    deploy->config = config_text(wanted->config);
    deploy->is_linux = wanted->config->linux_settings != NULL;
    if (wanted->request != NULL) {
        deploy->request = memory_copy_string(wanted->request);
        snprintf(deploy->request_digest, sizeof(deploy->request_digest), "%s",
                 wanted->request_digest);
    }
    deploy->started = started;
    deploy->context = context;
    list_push_back(&service->deploys, &deploy->link);
    if (image_id_is_good(deploy->module) &&
        !image_exists(service->options.images, deploy->module) && service_has_others(service)) {
        const struct peer_wanted module = {.id = deploy->module, .bytes_max = FUNCTION_MODULE_MAX};
        deploy->fetch = peer_fetch_new(service->options.blobs, &module, on_module, deploy);
    } else {
        on_module(NULL, deploy);
    }
}

bool deploy_runs_of(struct function_service *service, const char *module)
{
    LIST_EACH(node, &service->deploys)
    {
        if (strcmp(LIST_ITEM(node, struct deploy, link)->module, module) == 0) {
            return true;
        }
    }
    return false;
}

bool deploy_runs_for(struct function_service *service, const char *version_key)
{
    LIST_EACH(node, &service->deploys)
    {
        const struct deploy *deploy = LIST_ITEM(node, struct deploy, link);
        char key[FUNCTION_KEY_SIZE];
        snprintf(key, sizeof(key), "%s/%s/%" PRIu64, deploy->project, deploy->name,
                 deploy->version);
        if (deploy->version > 0 && strcmp(key, version_key) == 0) {
            return true;
        }
    }
    return false;
}

/* No fetch is waited for any more: the service ends. */
void deploys_stop(struct function_service *service)
{
    LIST_EACH(node, &service->deploys)
    {
        struct deploy *deploy = LIST_ITEM(node, struct deploy, link);
        if (deploy->fetch != NULL) {
            struct error err;
            error_set(&err, ERROR_UNAVAILABLE, "the node is shutting down");
            peer_fetch_free(deploy->fetch);
            deploy_end(deploy, &err);
        }
    }
}

/* ---- Going on with what was left ---- */

static void on_resumed(const struct error *error, uint64_t index, void *context)
{
    struct deploy *deploy = context;
    struct function_service *service = deploy->service;
    (void)index;
    if (error != NULL) {
        struct version_row row;
        row_of(deploy, &row);
        struct local *local = map_get(&service->locals, row.key);
        operation_drop(service->options.operations, deploy->operation);
        if (local != NULL) {
            local->problem_ms = clock_monotonic_ms(); /* not again at once */
        }
        reconcile_later(service);
    } else if (!service->stopping) {
        struct version_row row;
        row_of(deploy, &row);
        build_start(service, &row, deploy->operation);
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

/* The new operation is the one that the request's repetition finds from now on.  Nobody else has
 * begun one. */
static void add_new_operation(struct deploy *deploy, const char *key, struct store_command *command)
{
    struct error ignored = {0};
    MEMORY_OWNED char *resource =
        memory_format("functions/%s/versions/%" PRIu64, deploy->name, deploy->version);
    store_query(deploy->service->options.store, &ignored, take_request, deploy,
                "SELECT request, request_digest FROM operation WHERE project = ? AND resource = ? "
                "AND request IS NOT NULL",
                "tt", deploy->project, resource);
    store_command_add_expecting(
        command, ERROR_CONFLICT, "the version is built already, or by another node",
        "UPDATE version SET revision = ? WHERE key = ? AND state = 'building' AND NOT EXISTS "
        "(SELECT 1 FROM operation WHERE project = ? AND resource = ? AND state = 'running')",
        "rttt", key, deploy->project, resource);
    store_command_add(
        command,
        "UPDATE operation SET request = NULL, request_digest = NULL WHERE project = ? "
        "AND resource = ?",
        "tt", deploy->project, resource);
    add_operation(deploy, command);
}

void deploy_resume(struct function_service *service, const struct version_row *row,
                   const char *operation, uint64_t from, uint64_t reign)
{
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
    deploy->created_ms = row->created_ms;
    list_push_back(&service->deploys, &deploy->link);
    struct store_command *command = store_command_new();
    if (reign != 0) {
        store_command_add_expecting(command, ERROR_CONFLICT, "another node leads by now",
                                    "UPDATE cluster SET reign = reign WHERE reign = ?", "u", reign);
    }
    if (from != 0) {
        snprintf(deploy->operation, sizeof(deploy->operation), "%s", operation);
        operation_adopt(service->options.operations, command, operation, from);
    } else {
        add_new_operation(deploy, row->key, command);
    }
    store_propose(service->options.store, command, on_resumed, deploy);
}
