/* Blobs, functions, versions, aliases, invocations. */
#include "service/function/function.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"

#include "engine/image/image.h"

#include "service/gateway/gateway.h"
#include "service/invocation/invocation.h"
#include "service/machine/machine.h"

#include "surface/api/parts.h"

/* ---- Uploading ---- */

void api_blob_put(struct request *request)
{
    api_blob_upload(request, request->api->options.blob_bytes_max, "the module", NULL);
}

/* ---- Looking ---- */

void api_function_list(struct request *request)
{
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    int r = function_write_list(request->api->options.functions, request->project, &body, &err);
    api_answer_written(request, r, &body, &err);
}

void api_function_get(struct request *request)
{
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    int r = function_write(request->api->options.functions, request->project,
                           request->parameters[0], &body, &err);
    api_answer_written(request, r, &body, &err);
}

void api_function_usage(struct request *request)
{
    char name[API_PARAMETER_SIZE];
    struct error err = {0};
    bool is_of_one =
        http_query_get(http_exchange_query(request->exchange), "function", name, sizeof(name));
    if (function_usage(request->api->options.functions, request->project, is_of_one ? name : NULL,
                       api_answer_object, request, &err) < 0) {
        api_answer_error(request, &err);
    }
}

void api_version_list(struct request *request)
{
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    int r = function_write_versions(request->api->options.functions, request->project,
                                    request->parameters[0], &body, &err);
    api_answer_written(request, r, &body, &err);
}

static int version_number(const struct request *request, uint64_t *ret_number, struct error *err)
{
    const char *text = request->parameters[1];
    if (!text_parse_u64(text_of(text, strlen(text)), ret_number) || *ret_number == 0 ||
        *ret_number > INT64_MAX) {
        return error_set(err, ERROR_INVALID, "\"%.32s\" is no version; it is 1, 2, 3, ...", text);
    }
    return 0;
}

void api_version_get(struct request *request)
{
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    uint64_t number = 0;
    int r = version_number(request, &number, &err);
    r = r < 0 ? r
              : function_write_version(request->api->options.functions, request->project,
                                       request->parameters[0], number, &body, &err);
    api_answer_written(request, r, &body, &err);
}

/* ---- Deleting ---- */

void api_function_delete(struct request *request)
{
    function_delete(request->api->options.functions, request->project, request->parameters[0],
                    api_answer_done, request);
}

void api_version_delete(struct request *request)
{
    struct error err = {0};
    uint64_t number = 0;
    if (version_number(request, &number, &err) < 0) {
        api_answer_error(request, &err);
        return;
    }
    function_delete_version(request->api->options.functions, request->project,
                            request->parameters[0], number, api_answer_done, request);
}

/* ---- Deploying ---- */

static int read_body(struct buffer *body, const struct error *error, const char *type,
                     json_t **ret_value, struct error *err)
{
    if (error != NULL) {
        *err = *error;
        return -(int)error->kind;
    }
    int r =
        json_read(body->data != NULL ? (const void *)body->data : "", body->used, ret_value, err);
    return r < 0 ? r : api_type_check(*ret_value, type, err);
}

/* The image by its name now, by its blobs for good. */
static int set_linux(struct request *request, json_t *deploy, struct error *err)
{
    static const char *const taken[] = {"kernel", "initrd", "root", "brings_agent"};
    static const char *const given[] = {"image", "language", "handler", "command", "runner"};
    BUFFER_OWNED struct buffer text = {0};
    JSON_OWNED json_t *image = NULL;
    const char *runtime = json_string_value(json_object_get(deploy, "runtime"));
    const char *name = json_string_value(json_object_get(deploy, "image"));
    bool is_linux = runtime != NULL && strcmp(runtime, "linux") == 0;
    for (size_t i = 0; i < sizeof(given) / sizeof(given[0]) && !is_linux; i++) {
        if (i != 1 && json_object_get(deploy, given[i]) != NULL) {
            return error_set(err, ERROR_INVALID, "$.%s is for functions of the runtime linux",
                             given[i]);
        }
    }
    if (!is_linux) {
        return 0;
    }
    if (json_object_get(deploy, "tmp_bytes_max") != NULL) {
        return error_set(err, ERROR_INVALID,
                         "$.tmp_bytes_max (tmp_max) has no effect in a Linux function, whose files "
                         "are in its memory: leave it out, and set memory");
    }
    if (name == NULL) {
        return error_set(err, ERROR_INVALID,
                         "$.image: a function of the runtime linux needs a machine image "
                         "(blixard image list)");
    }
    int r = machine_image_write(request->api->options.machines, request->project, name, &text, err);
    r = r < 0 ? r : json_read(buffer_string(&text), text.used, &image, err);
    if (r < 0) {
        return r;
    }
    json_t *settings = json_object();
    for (size_t i = 0; i < sizeof(taken) / sizeof(taken[0]); i++) {
        json_object_set(settings, taken[i], json_object_get(image, taken[i]));
    }
    if (json_is_true(json_object_get(image, "brings_agent"))) { /* others have words of ours */
        json_object_set(settings, "cmdline", json_object_get(image, "cmdline"));
    }
    for (size_t i = 0; i < sizeof(given) / sizeof(given[0]); i++) {
        json_object_set(settings, given[i], json_object_get(deploy, given[i]));
    }
    json_object_set_new(deploy, "linux", settings);
    return 0;
}

static int take_config(struct request *request, json_t *deploy, struct function_config *config,
                       struct error *err)
{
    int r = set_linux(request, deploy, err);
    return r < 0 ? r : function_config_take(deploy, config, err);
}

static void on_deployed(const struct error *error, const char *operation, uint64_t version,
                        void *context)
{
    struct request *request = context;
    if (error != NULL) {
        api_answer_error(request, error);
        return;
    }
    BUFFER_OWNED struct buffer body = {0};
    struct json_writer writer = json_writer_to(&body);
    json_write_begin_object(&writer);
    json_write_field_string(&writer, "operation", operation);
    json_write_field_u64(&writer, "version", version);
    json_write_end_object(&writer);
    api_answer_json(request, request->status, &body);
}

enum { IDEMPOTENCY_KEY_SIZE = 129 };

/* Idempotency-Key: any visible ASCII; *ret_key is "" when there is none. */
static int take_idempotency_key(const struct request *request, char ret_key[IDEMPOTENCY_KEY_SIZE],
                                struct error *err)
{
    struct text value = http_exchange_field(request->exchange, "Idempotency-Key");
    bool is_good = value.length < IDEMPOTENCY_KEY_SIZE;
    for (size_t i = 0; is_good && i < value.length; i++) {
        is_good = value.data[i] > ' ' && value.data[i] < 0x7f;
    }
    if (!is_good || (value.data != NULL && value.length == 0)) {
        return error_set(err, ERROR_INVALID, "Idempotency-Key is 1 to %d visible ASCII characters",
                         IDEMPOTENCY_KEY_SIZE - 1);
    }
    memcpy(ret_key, value.length > 0 ? value.data : "", value.length);
    ret_key[value.length] = '\0';
    return 0;
}

/* Of all that a request asks for. */
static void digest_of(const struct request *request, const struct buffer *body,
                      char ret_digest[HASH_TEXT_SIZE])
{
    struct hash *hash = hash_new();
    hash_add(hash, request->parameters[0], strlen(request->parameters[0]) + 1);
    hash_add(hash, body->data, body->used);
    hash_finish(hash, ret_digest);
}

static void on_deploy_body(struct buffer *body, const struct error *error, void *context)
{
    struct request *request = context;
    struct error err = {0};
    char key[IDEMPOTENCY_KEY_SIZE] = "";
    char digest[HASH_TEXT_SIZE];
    JSON_OWNED json_t *object = NULL;
    struct function_config config = {0};
    if (read_body(body, error, "Deploy", &object, &err) < 0 ||
        take_idempotency_key(request, key, &err) < 0 ||
        take_config(request, object, &config, &err) < 0) {
        api_answer_error(request, &err);
        function_config_done(&config);
        return;
    }
    digest_of(request, body, digest);
    const struct function_deployment wanted = {
        .project = request->project,
        .name = request->parameters[0],
        .module_id = json_string_value(json_object_get(object, "module")),
        .language = json_string_value(json_object_get(object, "language")),
        .config = &config,
        .request = key[0] != '\0' ? key : NULL,
        .request_digest = digest,
    };
    function_deploy(request->api->options.functions, &wanted, on_deployed, request);
    function_config_done(&config);
}

void api_version_create(struct request *request)
{
    http_exchange_read_all(request->exchange, API_BODY_MAX, on_deploy_body, request);
}

static void on_alias(const struct error *error, uint64_t index, void *context)
{
    struct request *request = context;
    (void)index;
    if (error != NULL) {
        api_answer_error(request, error);
    } else {
        api_function_get(request);
    }
}

static int take_part(const char *version, const char *weight, struct function_alias *alias,
                     struct error *err)
{
    uint64_t number = 0;
    uint64_t value = 0;
    if (!text_parse_u64(text_of(version, strlen(version)), &number) || number == 0 ||
        number > INT64_MAX || !text_parse_u64(text_of(weight, strlen(weight)), &value) ||
        value > FUNCTION_WEIGHT_MAX || alias->count == FUNCTION_SPLIT_MAX) {
        return error_set(err, ERROR_INVALID,
                         "$.weights.%.32s: at most %d versions, each with a weight of 1 to %d",
                         version, FUNCTION_SPLIT_MAX, FUNCTION_WEIGHT_MAX);
    }
    alias->parts[alias->count++] = (struct function_part){number, (unsigned)value};
    return 0;
}

static int take_alias(const json_t *object, struct function_alias *ret_alias, struct error *err)
{
    const char *version;
    json_t *weight;
    json_t *weights = json_object_get(object, "weights");
    const char *sticky = json_string_value(json_object_get(object, "sticky"));
    const uint64_t whole = (uint64_t)json_integer_value(json_object_get(object, "version"));
    *ret_alias = (struct function_alias){0};
    if ((whole > 0) == json_is_object(weights)) {
        return error_set(err, ERROR_INVALID,
                         "either $.version or $.weights says what it points to");
    }
    if (sticky != NULL && strlen(sticky) >= sizeof(ret_alias->sticky)) {
        return error_set(err, ERROR_INVALID, "$.sticky is too long");
    }
    snprintf(ret_alias->sticky, sizeof(ret_alias->sticky), "%s", sticky != NULL ? sticky : "");
    if (whole > 0) {
        ret_alias->parts[ret_alias->count++] = (struct function_part){whole, 100};
    }
    json_object_foreach(weights, version, weight)
    {
        int r = take_part(version, json_string_value(weight), ret_alias, err);
        if (r < 0) {
            return r;
        }
    }
    return 0;
}

static void on_alias_body(struct buffer *body, const struct error *error, void *context)
{
    struct request *request = context;
    struct error err = {0};
    JSON_OWNED json_t *object = NULL;
    if (read_body(body, error, "AliasSet", &object, &err) < 0) {
        api_answer_error(request, &err);
        return;
    }
    struct function_alias alias;
    if (take_alias(object, &alias, &err) < 0) {
        api_answer_error(request, &err);
        return;
    }
    function_set_alias(request->api->options.functions, request->project, request->parameters[0],
                       request->parameters[1], &alias, on_alias, request);
}

void api_alias_rollback(struct request *request)
{
    function_rollback_alias(request->api->options.functions, request->project,
                            request->parameters[0], request->parameters[1], on_alias, request);
}

void api_alias_delete(struct request *request)
{
    function_delete_alias(request->api->options.functions, request->project, request->parameters[0],
                          request->parameters[1], api_answer_done, request);
}

void api_alias_history(struct request *request)
{
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    int r =
        function_write_alias_history(request->api->options.functions, request->project,
                                     request->parameters[0], request->parameters[1], &body, &err);
    api_answer_written(request, r, &body, &err);
}

void api_alias_set(struct request *request)
{
    http_exchange_read_all(request->exchange, API_BODY_MAX, on_alias_body, request);
}

/* ---- Calling ---- */

void api_invocation_create(struct request *request)
{
    struct gateway *gateway = request->api->options.gateway;
    if (gateway == NULL) {
        struct error err = {0};
        error_set(&err, ERROR_UNAVAILABLE, "this node has no gateway");
        api_answer_error(request, &err);
        return;
    }
    if (!gateway_admit(gateway, request->exchange, request->project)) {
        api_request_end(request);
        return;
    }
    char node[API_PARAMETER_SIZE];
    bool is_at = http_query_get(http_exchange_query(request->exchange), "node", node, sizeof(node));
    struct text path = http_exchange_path(request->exchange);
    if (invocation_is_wanted(request->exchange)) {
        invocation_serve(request->api->options.invocations, http_exchange_ref(request->exchange),
                         request->project,
                         text_of(request->parameters[0], strlen(request->parameters[0])),
                         text_of("", 0), NULL);
        api_request_end(request);
        return;
    }
    gateway_serve(gateway, http_exchange_ref(request->exchange), request->project,
                  text_of(request->parameters[0], strlen(request->parameters[0])),
                  text_of(path.data + path.length, 0), is_at ? node : NULL);
    api_request_end(request);
}
