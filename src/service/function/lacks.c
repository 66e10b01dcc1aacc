/*
 * What a version names and there is not.  It is told, and no reason to refuse a version: what is
 * named may come later, and go again.
 */
#include <string.h>

#include "base/json.h"
#include "base/memory.h"

#include "service/function/parts.h"

/* What can be named: as destinations have it, and secrets. */
static const struct named {
    const char *kind;
    const char *query;
    const char *make;
} named[] = {
    {"secret", "SELECT 1 FROM secret WHERE key = ?", "blixard secret set"},
    {"queue", "SELECT 1 FROM queue WHERE key = ?", "blixard queue create"},
    {"stream", "SELECT 1 FROM stream WHERE key = ?", "blixard stream create"},
    {"function", "SELECT 1 FROM function WHERE key = ?", "blixard fn deploy"},
};

struct lacking {
    struct store *store;
    struct json_writer *writer;
    const char *project;
};

/* "There is no secret key (secrets.PASSWORD): blixard secret set key". */
static void look(const struct lacking *lacking, const char *kind, size_t kind_length,
                 struct text name, const char *place)
{
    bool found = false;
    struct error err = {0};
    for (size_t i = 0; i < sizeof(named) / sizeof(named[0]); i++) {
        if (strlen(named[i].kind) != kind_length ||
            strncmp(named[i].kind, kind, kind_length) != 0) {
            continue;
        }
        MEMORY_OWNED char *key =
            memory_format("%s/%.*s", lacking->project, (int)name.length, name.data);
        if (store_query(lacking->store, &err, store_take_any, &found, named[i].query, "t", key) ==
                0 &&
            !found) {
            bool is_default = strcmp(lacking->project, "default") == 0;
            MEMORY_OWNED char *said = memory_format(
                "there is no %s %.*s (%s): %s %.*s%s%s", named[i].kind, (int)name.length, name.data,
                place, named[i].make, (int)name.length, name.data, is_default ? "" : " --project ",
                is_default ? "" : lacking->project);
            json_write_string(lacking->writer, said);
        }
    }
}

static void look_at_destination(const struct lacking *lacking, const char *destination,
                                const char *place)
{
    const char *colon = strchr(destination, ':');
    if (colon != NULL) {
        look(lacking, destination, (size_t)(colon - destination),
             text_of(colon + 1, strcspn(colon + 1, ":")), place);
    }
}

void lacks_write(struct function_service *service, const char *version_key,
                 const struct function_config *config, struct json_writer *writer)
{
    char project[FUNCTION_KEY_SIZE];
    char name[FUNCTION_KEY_SIZE];
    project_of(version_key, project, name, sizeof(project));
    const struct lacking lacking = {service->options.store, writer, project};
    json_write_key(writer, "lacks");
    json_write_begin_array(writer);
    for (size_t at = 0; at < config->secrets_length;) {
        const char *pair = config->secrets + at;
        const char *secret = strchr(pair, '=') + 1;
        MEMORY_OWNED char *place = memory_format("secrets.%.*s", (int)strcspn(pair, "="), pair);
        look(&lacking, "secret", strlen("secret"), text_of(secret, strlen(secret)), place);
        at += strlen(pair) + 1;
    }
    look_at_destination(&lacking, config->async.on_success, "async.on_success");
    look_at_destination(&lacking, config->async.on_failure, "async.on_failure");
    json_write_end_array(writer);
}
