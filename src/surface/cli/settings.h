/* Settings of a function (spec/settings.def), from the command line and from blixard.yaml. */
#ifndef SURFACE_CLI_SETTINGS_H
#define SURFACE_CLI_SETTINGS_H

#include <jansson.h>

struct error;

enum setting_kind { SETTING_SIZE, SETTING_DURATION, SETTING_COUNT, SETTING_TEXT };

struct setting {
    const char *key;  /* of blixard.yaml: "memory", "async.retries" */
    const char *flag; /* of `fn deploy`, without dashes */
    enum setting_kind kind;
    const char *field;   /* of the deploy request: "memory_bytes", "async.retries" */
    const char *choices; /* "a b", or NULL */
};

extern const struct setting cli_settings[];
extern const unsigned cli_setting_count;

/* Read `text` (NULL: it was none), and put it where the deploy request has it.  INVALID begins with
 * `shown`: how whoever gave it knows it. */
int setting_take(const struct setting *setting, const char *shown, const char *text, json_t *deploy,
                 struct error *err);

#endif
