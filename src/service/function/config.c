/* Settings of a function: ranges, and the JSON they are kept as in the store. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/memory.h"

#include "service/fetch/fetch.h"
#include "service/function/parts.h"

#define MEMORY_MAX ((UINT64_C(4) << 30) - 65536)

void function_config_defaults(struct function_config *ret_config)
{
    *ret_config = (struct function_config){
        .memory_bytes = UINT64_C(128) << 20,
        .timeout_ms = 30000,
        .output_bytes_max = UINT64_C(16) << 20,
        .log_bytes_max = UINT64_C(1) << 20,
        .tmp_bytes_max = UINT64_C(16) << 20,
        .queue_max = 128,
        .idle_ms = 600000,
    };
}

void function_config_done(struct function_config *config)
{
    free(config->environment);
    config->environment = NULL;
    config->environment_length = 0;
    free(config->fetch_allow);
    config->fetch_allow = NULL;
    config->fetch_allow_length = 0;
    free(config->secrets);
    config->secrets = NULL;
    config->secrets_length = 0;
}

static int check_variable(const char *variable, struct error *err)
{
    const char *equals = strchr(variable, '=');
    size_t length = equals != NULL ? (size_t)(equals - variable) : 0;
    bool good = length > 0 && (isalpha((unsigned char)variable[0]) || variable[0] == '_');
    for (size_t i = 0; good && i < length; i++) {
        good = isalnum((unsigned char)variable[i]) || variable[i] == '_';
    }
    if (!good) {
        return error_set(err, ERROR_INVALID,
                         "environment variable %.64s: a name is letters, digits and _, and does "
                         "not begin with a digit",
                         variable);
    }
    return 0;
}

static int check_allow(const struct function_config *config, struct error *err)
{
    size_t count = 0;
    if (config->fetch_allow_length > FETCH_ALLOW_BYTES_MAX) {
        return error_set(err, ERROR_INVALID, "fetch.allow has more than %d bytes",
                         (int)FETCH_ALLOW_BYTES_MAX);
    }
    for (size_t at = 0; at < config->fetch_allow_length; count++) {
        int r = fetch_allow_check(config->fetch_allow + at, err);
        if (r < 0) {
            return r;
        }
        at += strlen(config->fetch_allow + at) + 1;
    }
    return count <= FETCH_ALLOW_MAX
        ? 0
        : error_set(err, ERROR_INVALID, "fetch.allow has more than %d entries",
                    (int)FETCH_ALLOW_MAX);
}

static bool has_variable(const struct function_config *config, const char *name, size_t length)
{
    for (size_t at = 0; at < config->environment_length;) {
        const char *variable = config->environment + at;
        if (strncmp(variable, name, length) == 0 && variable[length] == '=') {
            return true;
        }
        at += strlen(variable) + 1;
    }
    return false;
}

/* A variable of a request's field, or one that has another value already, would hide the secret. */
static int check_secret(const struct function_config *config, const char *pair, struct error *err)
{
    int r = check_variable(pair, err);
    if (r < 0) {
        return r;
    }
    size_t length = strcspn(pair, "=");
    if (strncasecmp(pair, "HTTP_", 5) == 0 || has_variable(config, pair, length)) {
        return error_set(err, ERROR_INVALID,
                         "secrets: the variable %.*s is %s; give it another name", (int)length,
                         pair,
                         strncasecmp(pair, "HTTP_", 5) == 0 ? "a field of the request"
                                                            : "in the environment already");
    }
    return text_is_name(pair + length + 1)
        ? 0
        : error_set(err, ERROR_INVALID, "secrets: \"%.80s\" is no name of a secret",
                    pair + length + 1);
}

static int check_secrets(const struct function_config *config, struct error *err)
{
    size_t count = 0;
    for (size_t at = 0; at < config->secrets_length; count++) {
        int r = check_secret(config, config->secrets + at, err);
        if (r < 0) {
            return r;
        }
        at += strlen(config->secrets + at) + 1;
    }
    return count <= FUNCTION_SECRETS_MAX
        ? 0
        : error_set(err, ERROR_INVALID, "a function has at most %d secrets", FUNCTION_SECRETS_MAX);
}

int config_check(const struct function_config *config, struct error *err)
{
    const struct {
        const char *name;
        uint64_t value, least, most;
    } ranges[] = {
        {"memory_bytes", config->memory_bytes, 65536, MEMORY_MAX},
        {"timeout_ms", config->timeout_ms, 1, 900000},
        {"output_bytes_max", config->output_bytes_max, 0, UINT64_C(1) << 30},
        {"log_bytes_max", config->log_bytes_max, 0, UINT64_C(64) << 20},
        {"tmp_bytes_max", config->tmp_bytes_max, 0, UINT64_C(512) << 20},
        {"concurrency_max", config->concurrency_max, 0, 1024},
        {"queue_max", config->queue_max, 0, 65536},
        {"instances_min", config->instances_min, 0, 1024},
        {"instances_max", config->instances_max, 0, 1024},
        {"idle_ms", config->idle_ms, 0, UINT64_C(31536000000)},
        {"recycle_requests", config->recycle_requests, 0, UINT32_MAX},
        {"recycle_ms", config->recycle_ms, 0, UINT64_C(31536000000)},
    };
    for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++) {
        int r = error_check_range(ranges[i].name, ranges[i].value, ranges[i].least, ranges[i].most,
                                  err);
        if (r < 0) {
            return r;
        }
    }
    if (config->instances_max > 0 && config->instances_min > config->instances_max) {
        return error_set(err, ERROR_INVALID, "instances_min is %u, more than instances_max, %u",
                         config->instances_min, config->instances_max);
    }
    if (config->environment_length > FUNCTION_ENVIRONMENT_MAX) {
        return error_set(err, ERROR_INVALID,
                         "the environment has %zu bytes; at most %d are allowed",
                         config->environment_length, FUNCTION_ENVIRONMENT_MAX);
    }
    for (size_t at = 0; at < config->environment_length;) {
        int r = check_variable(config->environment + at, err);
        if (r < 0) {
            return r;
        }
        at += strlen(config->environment + at) + 1;
    }
    int r = check_secrets(config, err);
    return r < 0 ? r : check_allow(config, err);
}

static void write_allow(struct json_writer *writer, const struct function_config *config)
{
    json_write_key(writer, "fetch");
    json_write_begin_object(writer);
    json_write_key(writer, "allow");
    json_write_begin_array(writer);
    for (size_t at = 0; at < config->fetch_allow_length;) {
        json_write_string(writer, config->fetch_allow + at);
        at += strlen(config->fetch_allow + at) + 1;
    }
    json_write_end_array(writer);
    json_write_end_object(writer);
}

static void write_pairs(struct json_writer *writer, const char *key, const char *pairs,
                        size_t length)
{
    json_write_key(writer, key);
    json_write_begin_object(writer);
    for (size_t at = 0; at < length;) {
        const char *pair = pairs + at;
        const char *equals = strchr(pair, '=');
        MEMORY_OWNED char *name = memory_copy_text(pair, (size_t)(equals - pair));
        json_write_field_string(writer, name, equals + 1);
        at += strlen(pair) + 1;
    }
    json_write_end_object(writer);
}

/* Keys into an object the caller has opened. */
void config_write(struct json_writer *writer, const struct function_config *config)
{
    json_write_field_u64(writer, "memory_bytes", config->memory_bytes);
    json_write_field_u64(writer, "timeout_ms", config->timeout_ms);
    json_write_field_u64(writer, "output_bytes_max", config->output_bytes_max);
    json_write_field_u64(writer, "log_bytes_max", config->log_bytes_max);
    json_write_field_u64(writer, "tmp_bytes_max", config->tmp_bytes_max);
    json_write_field_u64(writer, "concurrency_max", config->concurrency_max);
    json_write_field_u64(writer, "queue_max", config->queue_max);
    json_write_field_string(writer, "reuse", config->is_sticky ? "instance" : "request");
    json_write_field_u64(writer, "instances_min", config->instances_min);
    json_write_field_u64(writer, "instances_max", config->instances_max);
    json_write_field_u64(writer, "idle_ms", config->idle_ms);
    json_write_field_u64(writer, "recycle_requests", config->recycle_requests);
    json_write_field_u64(writer, "recycle_ms", config->recycle_ms);
    write_pairs(writer, "environment", config->environment, config->environment_length);
    write_pairs(writer, "secrets", config->secrets, config->secrets_length);
    write_allow(writer, config);
}

static uint64_t number_in(const json_t *object, const char *key, uint64_t otherwise)
{
    const json_t *value = json_object_get(object, key);
    return json_is_integer(value) ? (uint64_t)json_integer_value(value) : otherwise;
}

static void take_allow(const json_t *object, struct function_config *config)
{
    struct buffer allow = {0};
    json_t *entry;
    size_t i;
    json_array_foreach(json_object_get(json_object_get(object, "fetch"), "allow"), i, entry)
    {
        buffer_append_string(&allow, json_string_value(entry));
        buffer_append_byte(&allow, 0);
    }
    config->fetch_allow_length = allow.used;
    config->fetch_allow = allow.used > 0 ? buffer_take(&allow) : NULL;
    buffer_done(&allow);
}

/* NULL: there are none. */
static char *take_pairs(const json_t *object, const char *key, size_t *ret_length)
{
    struct buffer pairs = {0};
    const char *name;
    json_t *value;
    json_object_foreach(json_object_get(object, key), name, value)
    {
        buffer_append_string(&pairs, name);
        buffer_append_byte(&pairs, '=');
        buffer_append_string(&pairs, json_string_value(value));
        buffer_append_byte(&pairs, 0);
    }
    *ret_length = pairs.used;
    return pairs.used > 0 ? buffer_take(&pairs) : NULL;
}

int config_read(const char *json, struct function_config *ret_config, struct error *err)
{
    JSON_OWNED json_t *object = NULL;
    int r = json_read(json, strlen(json), &object, err);
    if (r < 0) {
        return error_wrap(err, "settings in the store");
    }
    struct function_config config;
    function_config_defaults(&config);
    config.memory_bytes = number_in(object, "memory_bytes", config.memory_bytes);
    config.timeout_ms = number_in(object, "timeout_ms", config.timeout_ms);
    config.output_bytes_max = number_in(object, "output_bytes_max", config.output_bytes_max);
    config.log_bytes_max = number_in(object, "log_bytes_max", config.log_bytes_max);
    config.tmp_bytes_max = number_in(object, "tmp_bytes_max", config.tmp_bytes_max);
    config.concurrency_max = (unsigned)number_in(object, "concurrency_max", 0);
    config.queue_max = (unsigned)number_in(object, "queue_max", config.queue_max);
    const char *reuse = json_string_value(json_object_get(object, "reuse"));
    config.is_sticky = reuse != NULL && strcmp(reuse, "instance") == 0;
    config.instances_min = (unsigned)number_in(object, "instances_min", 0);
    config.instances_max = (unsigned)number_in(object, "instances_max", 0);
    config.idle_ms = number_in(object, "idle_ms", config.idle_ms);
    config.recycle_requests = number_in(object, "recycle_requests", 0);
    config.recycle_ms = number_in(object, "recycle_ms", 0);

    config.environment = take_pairs(object, "environment", &config.environment_length);
    config.secrets = take_pairs(object, "secrets", &config.secrets_length);
    take_allow(object, &config);
    *ret_config = config;
    return 0;
}

int name_check(const char *what, const char *name, struct error *err)
{
    if (text_is_name(name)) {
        return 0;
    }
    return error_set(err, ERROR_INVALID,
                     "\"%.80s\" is no name of a %s: 1 to 63 of a-z, 0-9 and '-', beginning with a "
                     "letter, not ending in '-'",
                     name, what);
}
