/* A TriggerSpec: its shape was checked against spec/types.def, its meaning is checked here. */
#include <string.h>

#include "base/error.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "service/destination/destination.h"
#include "service/trigger/parts.h"

static const char *text_of_key(const json_t *document, const char *key)
{
    const char *text = json_string_value(json_object_get(document, key));
    return text != NULL && text[0] != '\0' ? text : NULL;
}

static const struct number {
    const char *key;
    size_t offset;
    uint64_t least, most, otherwise;
} numbers[] = {
    {"batch_size", offsetof(struct trigger_config, batch_size), 1, TRIGGER_BATCH_MAX, 1},
    {"batch_window_ms", offsetof(struct trigger_config, batch_window_ms), 0, 300000, 0},
    {"concurrency_max", offsetof(struct trigger_config, concurrency_max), 1,
     TRIGGER_CONCURRENCY_MAX, 10},
    {"retries", offsetof(struct trigger_config, retries), 0, 1000, 3},
    {"retry_delay_ms", offsetof(struct trigger_config, retry_delay_ms), 10, 3600000, 1000},
    {"retry_delay_max_ms", offsetof(struct trigger_config, retry_delay_max_ms), 10, 86400000,
     60000},
    {"event_age_max_ms", offsetof(struct trigger_config, event_age_max_ms), 0, 7ull * 86400000, 0},
    {"timeout_ms", offsetof(struct trigger_config, timeout_ms), 0, 3600000, 0},
};

static int read_numbers(const json_t *document, struct trigger_config *config, struct error *err)
{
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        const struct number *number = &numbers[i];
        const json_t *value = json_object_get(document, number->key);
        uint64_t amount = json_is_integer(value) && json_integer_value(value) >= 0
            ? (uint64_t)json_integer_value(value)
            : number->otherwise;
        if (amount < number->least || amount > number->most) {
            return error_set(err, ERROR_INVALID, "$.%s is %llu to %llu", number->key,
                             (unsigned long long)number->least, (unsigned long long)number->most);
        }
        memcpy((char *)config + number->offset, &amount, sizeof(amount));
    }
    return 0;
}

void trigger_config_complete(json_t *document)
{
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        const struct number *number = &numbers[i];
        if (number->otherwise > 0 && !json_is_integer(json_object_get(document, number->key))) {
            json_object_set_new(document, number->key, json_integer((json_int_t)number->otherwise));
        }
    }
}

static int read_programs(const json_t *document, struct trigger_config *config, struct error *err)
{
    const char *filter = text_of_key(document, "filter");
    const char *transform = text_of_key(document, "transform");
    int r = filter != NULL ? event_filter_parse(filter, &config->filter, err) : 0;
    return r == 0 && transform != NULL ? event_template_parse(transform, &config->transform, err)
                                       : r;
}

int trigger_config_read(const json_t *document, struct trigger_config *ret_config,
                        struct error *err)
{
    struct trigger_config config = {
        .document = json_deep_copy(document),
    };
    json_object_del(config.document, "paused");
    json_object_del(config.document, "name");
    const json_t *copy = config.document;
    if (!json_is_object(json_object_get(copy, "settings"))) {
        json_object_set_new(config.document, "settings", json_object());
    }
    config.settings = json_object_get(copy, "settings");
    config.kind = text_of_key(copy, "kind");
    config.function = text_of_key(copy, "function");
    config.path = text_of_key(copy, "path");
    if (config.kind != NULL && strcmp(config.kind, "http") == 0) {
        config.method = text_of_key(config.settings, "method");
        config.pattern = text_of_key(config.settings, "pattern");
    }
    config.on_success = text_of_key(copy, "on_success");
    config.on_failure = text_of_key(copy, "on_failure");
    config.bisects = json_is_true(json_object_get(copy, "bisect"));
    int r = config.kind == NULL || config.function == NULL
        ? error_set(err, ERROR_INVALID, "a trigger has a kind and a function")
        : 0;
    r = r < 0 ? r : read_numbers(copy, &config, err);
    r = r < 0 ? r : read_programs(copy, &config, err);
    if (r < 0) {
        trigger_config_done(&config);
        return r;
    }
    *ret_config = config;
    return 0;
}

void trigger_config_done(struct trigger_config *config)
{
    event_filter_free(config->filter);
    event_template_free(config->transform);
    json_decref(config->document);
    *config = (struct trigger_config){0};
}

static int check_kind(const struct trigger_service *service, const char *kind, struct error *err)
{
    BUFFER_OWNED struct buffer kinds = {0};
    if (trigger_driver_find(service, kind) != NULL) {
        return 0;
    }
    for (unsigned i = 0; i < service->driver_count; i++) {
        buffer_append_format(&kinds, ", %s", service->drivers[i].driver->kind);
    }
    return error_set(err, ERROR_INVALID,
                     "there is no kind \"%.40s\" of trigger here; there is http%s", kind,
                     buffer_string(&kinds));
}

static int check_function(const char *function, struct error *err)
{
    size_t length = strcspn(function, ":");
    MEMORY_OWNED char *name = memory_copy_text(function, length);
    bool is_good = text_is_name(name) && strlen(function) < 130 &&
        (function[length] == '\0' || function[length + 1] != '\0');
    return is_good
        ? 0
        : error_set(err, ERROR_INVALID, "$.function \"%.80s\" is no NAME or NAME:ALIAS", function);
}

static int check_destination(const struct trigger_service *service, const char *text,
                             struct error *err)
{
    return text == NULL || service->options.destinations == NULL
        ? 0
        : destination_check(service->options.destinations, text, err);
}

int trigger_config_check(struct trigger_service *service, const struct trigger_config *config,
                         struct error *err)
{
    char *text = json_dumps(config->document, JSON_COMPACT);
    size_t length = text != NULL ? strlen(text) : SIZE_MAX;
    free(text);
    if (length > TRIGGER_CONFIG_MAX) {
        return error_set(err, ERROR_TOO_LARGE, "a trigger has at most %d bytes of settings",
                         TRIGGER_CONFIG_MAX);
    }
    if (config->path != NULL &&
        (config->path[0] != '/' || !text_is_printable(config->path) ||
         strpbrk(config->path, " ?#") != NULL)) {
        return error_set(
            err, ERROR_INVALID,
            "$.path is a path: it begins with '/', has neither a query nor a fragment, "
            "and is percent-encoded");
    }
    int r = check_kind(service, config->kind, err);
    r = r < 0 ? r : check_function(config->function, err);
    r = r < 0 ? r : check_destination(service, config->on_success, err);
    r = r < 0 ? r : check_destination(service, config->on_failure, err);
    return r < 0 ? r
                 : trigger_driver_find(service, config->kind)->driver->check(config->settings, err);
}
