/* What engine/clone is told of a Linux function. */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"

#include "service/fetch/fetch.h"
#include "service/function/parts.h"

/* Whom it may reach; a machine's programs can reach the ports that are named there. */
static json_t *outside_settings(const struct function_config *config, const char *project)
{
    const char *allow = config->fetch_allow;
    size_t length = config->fetch_allow_length;
    uint16_t ports[FETCH_ALLOW_MAX + 2];
    size_t count = fetch_allow_ports(allow, length, ports, FETCH_ALLOW_MAX + 2);
    json_t *outside = json_object();
    json_t *entries = json_array();
    json_t *numbers = json_array();
    for (size_t at = 0; at < length; at += strlen(allow + at) + 1) {
        json_array_append_new(entries, json_string(allow + at));
    }
    for (size_t i = 0; i < count; i++) {
        json_array_append_new(numbers, json_integer(ports[i]));
    }
    json_object_set_new(outside, "project", json_string(project));
    json_object_set_new(outside, "allow", entries);
    json_object_set_new(outside, "ports", numbers);
    return outside;
}

char *function_linux_settings(const struct function_config *config, const char *project,
                              const char *name, uint64_t version, const char *image_id)
{
    JSON_OWNED json_t *settings = NULL;
    struct error ignored = {0};
    char number[24];
    json_t *environment = json_object();
    json_t *secrets = json_array();
    if (json_read(config->linux_settings, strlen(config->linux_settings), &settings, &ignored) <
        0) {
        settings = json_object();
    }
    for (size_t at = 0; at < config->environment_length;) {
        const char *pair = config->environment + at;
        const char *equals = strchr(pair, '=');
        MEMORY_OWNED char *variable = memory_copy_text(pair, (size_t)(equals - pair));
        json_object_set_new(environment, variable, json_string(equals + 1));
        at += strlen(pair) + 1;
    }
    for (size_t at = 0; at < config->secrets_length;) {
        const char *pair = config->secrets + at;
        json_array_append_new(secrets, json_stringn(pair, strcspn(pair, "=")));
        at += strlen(pair) + 1;
    }
    if (config->fetch_allow_length > 0) {
        json_object_set_new(settings, "outside", outside_settings(config, project));
    }
    snprintf(number, sizeof(number), "%" PRIu64, version);
    json_object_set_new(settings, "secrets", secrets);
    json_object_set_new(settings, "environment", environment);
    json_object_set_new(settings, "function", json_string(name));
    json_object_set_new(settings, "version", json_string(number));
    json_object_set_new(settings, "keep", json_string(image_id));
    return json_dumps(settings, JSON_COMPACT | JSON_SORT_KEYS);
}
