/* What a node that is drained should not leave behind: functions that nobody else can run yet. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"

#include "service/function/parts.h"

struct alone {
    char **keys;
    char **configs;
    size_t count;
};

static bool take_version(sqlite3_stmt *row, void *context)
{
    struct alone *alone = context;
    alone->keys = memory_resize(alone->keys, (alone->count + 1) * sizeof(char *));
    alone->configs = memory_resize(alone->configs, (alone->count + 1) * sizeof(char *));
    alone->keys[alone->count] = memory_copy_string(store_text(row, 0));
    alone->configs[alone->count++] = memory_copy_string(store_text(row, 1));
    return alone->count < FUNCTION_ALONE_MAX;
}

static bool others_suit(const struct function_service *service, const char *config)
{
    JSON_OWNED json_t *settings = NULL;
    struct error ignored = {0};
    if (service->options.suits_others == NULL ||
        json_read(config, strlen(config), &settings, &ignored) < 0) {
        return true;
    }
    const json_t *placement = json_object_get(settings, "placement");
    MEMORY_OWNED char *text = json_is_object(placement) ? json_dumps(placement, 0) : NULL;
    return service->options.suits_others(text != NULL ? text : "{}",
                                         service->options.place_context);
}

size_t function_only_here(struct function_service *service, char *ret_names, size_t size)
{
    struct alone alone = {0};
    struct error err = {0};
    size_t count = 0;
    size_t used = 0;
    ret_names[0] = '\0';
    if (store_query(service->options.store, &err, take_version, &alone,
                    "SELECT v.key, v.config FROM version v WHERE v.state = 'ready' AND EXISTS "
                    "(SELECT 1 FROM alias a WHERE a.function = v.function AND a.version = "
                    "v.number) AND EXISTS (SELECT 1 FROM holder h WHERE h.version = v.key AND "
                    "h.node = ?1) AND NOT EXISTS (SELECT 1 FROM holder h JOIN node n ON n.id = "
                    "h.node WHERE h.version = v.key AND h.node <> ?1 AND n.duty = 'active')",
                    "u", service_node(service)) < 0) {
        log_warn("function: what only this node has cannot be read: %s", err.text);
    }
    for (size_t i = 0; i < alone.count; i++) {
        if (others_suit(service, alone.configs[i])) {
            int written = snprintf(ret_names + used, size - used, "%s%s", count > 0 ? ", " : "",
                                   alone.keys[i]);
            used = written > 0 && used + (size_t)written < size ? used + (size_t)written : used;
            count++;
        }
        free(alone.keys[i]);
        free(alone.configs[i]);
    }
    ret_names[used] = '\0';
    free(alone.keys);
    free(alone.configs);
    return count;
}
