/* Settings of a function: ranges, and the JSON they are kept as in the store. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/memory.h"
#include "base/text.h"

#include "engine/placement/placement.h"

#include "service/fetch/fetch.h"
#include "service/function/parts.h"

#define MEMORY_MAX       (UINT64_C(4) << 30)
#define LINUX_MEMORY_MIN (UINT64_C(64) << 20)
#define NUMBER_COUNT     (sizeof(numbers) / sizeof(numbers[0]))

enum { FLAKE_LENGTH_MAX = 512 };

/* The settings that are numbers. */
static const struct number {
    const char *name; /* of the JSON, too */
    size_t offset;
    bool is_short; /* an unsigned */
    uint64_t least, most;
} numbers[] = {
#define WIDE(name)  #name, offsetof(struct function_config, name), false
#define SHORT(name) #name, offsetof(struct function_config, name), true
    {WIDE(memory_bytes), 65536, MEMORY_MAX},
    {WIDE(timeout_ms), 1, 900000},
    {WIDE(output_bytes_max), 0, UINT64_C(1) << 30},
    {WIDE(log_bytes_max), 0, UINT64_C(64) << 20},
    {WIDE(tmp_bytes_max), 0, UINT64_C(512) << 20},
    {SHORT(concurrency_max), 0, 1024},
    {SHORT(queue_max), 0, 65536},
    {SHORT(instances_min), 0, 1024},
    {SHORT(instances_max), 0, 1024},
    {WIDE(idle_ms), 0, UINT64_C(31536000000)},
    {WIDE(recycle_requests), 0, UINT32_MAX},
    {WIDE(recycle_ms), 0, UINT64_C(31536000000)},
#undef WIDE
#undef SHORT
};

static uint64_t number_of(const struct function_config *config, const struct number *number)
{
    const char *at = (const char *)config + number->offset;
    uint64_t wide = 0;
    unsigned narrow = 0;
    if (number->is_short) {
        memcpy(&narrow, at, sizeof(narrow));
        return narrow;
    }
    memcpy(&wide, at, sizeof(wide));
    return wide;
}

/* What does not fit an unsigned is beyond any range: kept so for the check. */
static void set_number(struct function_config *config, const struct number *number, uint64_t value)
{
    char *at = (char *)config + number->offset;
    unsigned narrow = value > UINT32_MAX ? UINT32_MAX : (unsigned)value;
    memcpy(at, number->is_short ? (const void *)&narrow : (const void *)&value,
           number->is_short ? sizeof(narrow) : sizeof(value));
}

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
    function_policy_init(&ret_config->async);
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
    free(config->linux_settings);
    config->linux_settings = NULL;
    free(config->placement);
    config->placement = NULL;
    free(config->flake);
    config->flake = NULL;
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
    for (size_t i = 0; i < NUMBER_COUNT; i++) {
        int r = error_check_range(numbers[i].name, number_of(config, &numbers[i]), numbers[i].least,
                                  numbers[i].most, err);
        if (r < 0) {
            return r;
        }
    }
    if (config->linux_settings != NULL && config->memory_bytes < LINUX_MEMORY_MIN) {
        return error_set(err, ERROR_INVALID,
                         "memory_bytes is %llu; a Linux function's machine has at least 64 MiB",
                         (unsigned long long)config->memory_bytes);
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
    r = r < 0 ? r : check_allow(config, err);
    return r < 0 ? r : function_policy_check(&config->async, err);
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
    for (size_t i = 0; i < NUMBER_COUNT; i++) {
        json_write_field_u64(writer, numbers[i].name, number_of(config, &numbers[i]));
    }
    json_write_field_string(writer, "runtime", config->linux_settings != NULL ? "linux" : "wasm");
    if (config->linux_settings != NULL) {
        json_write_key(writer, "linux");
        json_write_raw(writer, config->linux_settings, strlen(config->linux_settings));
    }
    if (config->placement != NULL) {
        json_write_key(writer, "placement");
        json_write_raw(writer, config->placement, strlen(config->placement));
    }
    if (config->flake != NULL) {
        json_write_field_string(writer, "flake", config->flake);
    }
    json_write_field_string(writer, "reuse", config->is_sticky ? "instance" : "request");
    json_write_key(writer, "async");
    function_policy_write(&config->async, writer);
    write_pairs(writer, "environment", config->environment, config->environment_length);
    write_pairs(writer, "secrets", config->secrets, config->secrets_length);
    write_allow(writer, config);
}

static void take_numbers(const json_t *object, struct function_config *config)
{
    for (size_t i = 0; i < NUMBER_COUNT; i++) {
        const json_t *value = json_object_get(object, numbers[i].name);
        if (json_is_integer(value)) {
            set_number(config, &numbers[i], (uint64_t)json_integer_value(value));
        }
    }
}

static int take_allow(const json_t *object, struct function_config *config, struct error *err)
{
    BUFFER_OWNED struct buffer allow = {0};
    json_t *entry;
    size_t i;
    json_array_foreach(json_object_get(json_object_get(object, "fetch"), "allow"), i, entry)
    {
        if (!json_is_string(entry)) {
            return error_set(err, ERROR_INVALID, "$.fetch.allow: entry %zu is not a text", i + 1);
        }
        buffer_append_string(&allow, json_string_value(entry));
        buffer_append_byte(&allow, 0);
    }
    config->fetch_allow_length = allow.used;
    config->fetch_allow = allow.used > 0 ? buffer_take(&allow) : NULL;
    return 0;
}

/* "NAME=value\0..."; NULL: there are none. */
static int take_pairs(const json_t *object, const char *key, char **ret_pairs, size_t *ret_length,
                      struct error *err)
{
    BUFFER_OWNED struct buffer pairs = {0};
    const char *name;
    json_t *value;
    json_object_foreach(json_object_get(object, key), name, value)
    {
        if (name[0] == '\0' || strchr(name, '=') != NULL) {
            return error_set(err, ERROR_INVALID, "$.%s.%.64s: a name is not empty and has no '='",
                             key, name);
        }
        buffer_append_format(&pairs, "%s=%s", name, json_string_value(value));
        buffer_append_byte(&pairs, 0);
    }
    *ret_length = pairs.used;
    *ret_pairs = pairs.used > 0 ? buffer_take(&pairs) : NULL;
    return 0;
}

/* A dead letter is a failure that a queue is told of. */
static int take_async(const json_t *object, struct function_config *config, struct error *err)
{
    const json_t *async = json_object_get(object, "async");
    const char *queue = json_string_value(json_object_get(async, "dead_letter"));
    const char *other = json_string_value(json_object_get(async, "on_failure"));
    function_policy_take(async, &config->async);
    if (queue != NULL && other != NULL && other[0] != '\0') {
        return error_set(err, ERROR_INVALID,
                         "$.async: dead_letter is short for on_failure queue:NAME; give one of "
                         "them");
    }
    if (queue != NULL) {
        snprintf(config->async.on_failure, sizeof(config->async.on_failure), "queue:%s", queue);
    }
    return 0;
}

/* What a machine cannot give is refused when it is asked for, not passed over. */
static int take_linux(const json_t *object, struct function_config *config, struct error *err)
{
    const json_t *settings = json_object_get(object, "linux");
    const char *kernel = json_string_value(json_object_get(settings, "kernel"));
    if (kernel == NULL || kernel[0] == '\0') {
        return error_set(err, ERROR_INVALID,
                         "$.image: a function of the runtime linux needs a machine image with a "
                         "kernel (blixard image list)");
    }
    config->linux_settings = json_dumps(settings, JSON_COMPACT | JSON_SORT_KEYS);
    return 0;
}

static int take_words(const json_t *object, struct function_config *config, struct error *err)
{
    const char *reuse = json_string_value(json_object_get(object, "reuse"));
    const char *runtime = json_string_value(json_object_get(object, "runtime"));
    config->is_sticky = reuse != NULL && strcmp(reuse, "instance") == 0;
    if (reuse != NULL && !config->is_sticky && strcmp(reuse, "request") != 0) {
        return error_set(err, ERROR_INVALID, "$.reuse: \"%.40s\" is not request or instance",
                         reuse);
    }
    if (runtime != NULL && strcmp(runtime, "linux") == 0) {
        return take_linux(object, config, err);
    }
    return runtime == NULL || strcmp(runtime, "wasm") == 0
        ? 0
        : error_set(err, ERROR_INVALID, "$.runtime: \"%.40s\" is not wasm or linux", runtime);
}

/* Its rules are those of machines, checked in the same way. */
static int take_placement(const json_t *object, struct function_config *config, struct error *err)
{
    const json_t *placement = json_object_get(object, "placement");
    JSON_OWNED json_t *rules = json_is_object(placement) ? json_deep_copy(placement) : NULL;
    struct placement_rules *read = NULL;
    if (rules == NULL || json_object_size(rules) == 0) {
        return 0;
    }
    json_object_del(rules, "copies");
    int r = placement_rules_read(rules, &read, err);
    placement_rules_unref(read);
    if (r < 0) {
        return error_wrap(err, "$.placement");
    }
    config->placement = json_dumps(placement, JSON_COMPACT | JSON_SORT_KEYS);
    return 0;
}

static int take_flake(const json_t *object, struct function_config *config, struct error *err)
{
    const char *flake = json_string_value(json_object_get(object, "flake"));
    if (flake == NULL || flake[0] == '\0') {
        return 0;
    }
    if (strlen(flake) > FLAKE_LENGTH_MAX || !text_is_printable(flake)) {
        return error_set(err, ERROR_INVALID, "$.flake is at most %d letters", FLAKE_LENGTH_MAX);
    }
    config->flake = memory_copy_string(flake);
    return 0;
}

static int take_all(const json_t *object, struct function_config *config, struct error *err)
{
    function_config_defaults(config);
    take_numbers(object, config);
    int r = take_words(object, config, err);
    r = r < 0
        ? r
        : take_pairs(object, "environment", &config->environment, &config->environment_length, err);
    r = r < 0 ? r : take_pairs(object, "secrets", &config->secrets, &config->secrets_length, err);
    r = r < 0 ? r : take_allow(object, config, err);
    r = r < 0 ? r : take_placement(object, config, err);
    r = r < 0 ? r : take_flake(object, config, err);
    return r < 0 ? r : take_async(object, config, err);
}

int function_config_take(const json_t *deploy, struct function_config *ret_config,
                         struct error *err)
{
    struct function_config config = {0};
    int r = take_all(deploy, &config, err);
    r = r < 0 ? r : config_check(&config, err);
    if (r < 0) {
        function_config_done(&config);
        return r;
    }
    *ret_config = config;
    return 0;
}

int config_read(const char *json, struct function_config *ret_config, struct error *err)
{
    JSON_OWNED json_t *object = NULL;
    struct function_config config = {0};
    int r = json_read(json, strlen(json), &object, err);
    r = r < 0 ? r : take_all(object, &config, err);
    if (r < 0) {
        function_config_done(&config);
        return error_wrap(err, "settings in the store");
    }
    *ret_config = config;
    return 0;
}

int name_check(const char *what, const char *name, struct error *err)
{
    if (text_is_name(name)) {
        return 0;
    }
    return error_set(
        err, ERROR_INVALID,
        "\"%.80s\" is no name of a%s %s: 1 to 63 of a-z, 0-9 and '-', beginning with a "
        "letter, not ending in '-'",
        name, strchr("aeiou", what[0]) != NULL ? "n" : "", what);
}
