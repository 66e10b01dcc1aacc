/* Settings of a function: see settings.h. */
#include "surface/cli/settings.h"

#include <stdint.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/text.h"

#include "surface/cli/private.h"

const struct setting cli_settings[] = {
#define SETTING(key, flag, letter, kind, field, choices, text) \
    {key, flag, SETTING_##kind, field, choices},
#include "settings.def"
#undef SETTING
};
const unsigned cli_setting_count = sizeof(cli_settings) / sizeof(cli_settings[0]);

static bool parse(enum setting_kind kind, const char *text, uint64_t *ret_number)
{
    switch (kind) {
    case SETTING_SIZE:
        return text_parse_size(text, ret_number);
    case SETTING_DURATION:
        return text_parse_duration_ms(text, ret_number);
    case SETTING_COUNT:
        return text_parse_u64(text_of(text, strlen(text)), ret_number);
    case SETTING_TEXT:
        break;
    }
    return false;
}

static const char *wanted(enum setting_kind kind)
{
    switch (kind) {
    case SETTING_SIZE:
        return "a size, such as 64MiB";
    case SETTING_DURATION:
        return "a duration, such as 10s";
    case SETTING_COUNT:
        return "a number";
    case SETTING_TEXT:
        break;
    }
    return "a text";
}

static void put(json_t *deploy, const char *field, json_t *owned_value)
{
    const char *dot = strchr(field, '.');
    if (dot == NULL) {
        json_object_set_new(deploy, field, owned_value);
        return;
    }
    MEMORY_OWNED char *outer = memory_copy_text(field, (size_t)(dot - field));
    if (json_object_get(deploy, outer) == NULL) {
        json_object_set_new(deploy, outer, json_object());
    }
    json_object_set_new(json_object_get(deploy, outer), dot + 1, owned_value);
}

int setting_take(const struct setting *setting, const char *shown, const char *text, json_t *deploy,
                 struct error *err)
{
    uint64_t number = 0;
    if (text != NULL && setting->kind == SETTING_TEXT) {
        if (setting->choices != NULL && !flag_is_choice(setting->choices, text)) {
            return error_set(err, ERROR_INVALID, "%s is \"%.40s\", not one of: %s", shown, text,
                             setting->choices);
        }
        put(deploy, setting->field, json_string(text));
        return 0;
    }
    if (text == NULL || !parse(setting->kind, text, &number) || number > INT64_MAX) {
        return error_set(err, ERROR_INVALID, "%s must be %s", shown, wanted(setting->kind));
    }
    put(deploy, setting->field, json_integer((json_int_t)number));
    return 0;
}
