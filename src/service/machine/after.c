/*
 * Which machine starts after which: one that is to run waits, stopped, until those it names run,
 * and are healthy where they are checked.  Those may be on other nodes: their rows say it.
 */
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "engine/store/store.h"

#include "service/machine/parts.h"

enum { AFTER_MAX = 16, LOOKS_MAX = 256 };

/* ---- Rows ---- */

struct seen {
    bool is_there;
    bool is_ready;
    char state[32];
    json_t *config;
};

static bool take_row(sqlite3_stmt *row, void *context)
{
    struct seen *seen = context;
    const char *config = (const char *)sqlite3_column_text(row, 0);
    const char *health = (const char *)sqlite3_column_text(row, 2);
    struct error ignored = {0};
    seen->is_there = json_read(config, strlen(config), &seen->config, &ignored) == 0;
    snprintf(seen->state, sizeof(seen->state), "%.31s", (const char *)sqlite3_column_text(row, 1));
    bool is_checked = seen->is_there && json_text(seen->config, "health")[0] != '\0';
    bool is_healthy = health != NULL && strcmp(health, "healthy") == 0;
    bool runs = strcmp(seen->state, "running") == 0;
    seen->is_ready = runs && (!is_checked || is_healthy);
    if (runs && !seen->is_ready) {
        snprintf(seen->state, sizeof(seen->state), "%s", "not healthy");
    }
    return false;
}

static void look(struct machine_service *service, const char *project, const char *name,
                 struct seen *ret_seen)
{
    MEMORY_OWNED char *key = memory_format("%s/%s", project, name);
    struct error ignored = {0};
    *ret_seen = (struct seen){0};
    store_query(service->options.store, &ignored, take_row, ret_seen,
                state_has_health(service)
                    ? "SELECT config, state, health FROM machine WHERE key = ?"
                    : "SELECT config, state, NULL FROM machine WHERE key = ?",
                "t", key);
}

/* ---- Checking ---- */

struct search {
    struct machine_service *service;
    const char *project;
    const char *own;
    unsigned looks;
};

/* Do those that `config` names lead back to the machine itself?  Looks are bounded, so are turns.
 */
static int search(struct search *search_, const json_t *config, struct error *err)
{
    size_t index = 0;
    json_t *value = NULL;
    int r = 0;
    json_array_foreach(json_object_get(config, "after"), index, value)
    {
        struct seen seen;
        const char *name = json_string_value(value);
        if (strcmp(name, search_->own) == 0 || ++search_->looks > LOOKS_MAX) {
            return error_set(err, ERROR_CONFLICT,
                             "after: the machines would wait for each other, %s for itself",
                             search_->own);
        }
        look(search_->service, search_->project, name, &seen);
        r = seen.is_there ? search(search_, seen.config, err) : 0;
        json_decref(seen.config);
        if (r < 0) {
            return r;
        }
    }
    return 0;
}

int after_check(struct machine_service *service, const char *project, const json_t *config,
                struct error *err)
{
    const json_t *list = json_object_get(config, "after");
    size_t index = 0;
    json_t *value = NULL;
    struct search searching = {service, project, json_text(config, "name"), 0};
    if (json_array_size(list) > AFTER_MAX) {
        return error_set(err, ERROR_INVALID, "after: at most %d machines", AFTER_MAX);
    }
    json_array_foreach(list, index, value)
    {
        struct seen seen = {0};
        const char *name = json_string_value(value);
        if (name == NULL || !text_is_name(name)) {
            return error_set(err, ERROR_INVALID, "after: \"%.64s\" is no name of a machine",
                             name != NULL ? name : "");
        }
        if (strcmp(name, searching.own) != 0) {
            look(service, project, name, &seen);
            json_decref(seen.config);
            if (!seen.is_there) {
                return error_set(err, ERROR_NOT_FOUND, "after: there is no machine %s", name);
            }
        }
    }
    return search(&searching, config, err);
}

/* ---- Waiting ---- */

bool after_waits(struct machine *machine, char *ret_reason, size_t size)
{
    size_t index = 0;
    json_t *value = NULL;
    json_array_foreach(json_object_get(machine->config, "after"), index, value)
    {
        struct seen seen;
        const char *name = json_string_value(value);
        look(machine->service, machine->project, name, &seen);
        json_decref(seen.config);
        if (seen.is_there && !seen.is_ready) { /* one that was deleted holds nobody up */
            snprintf(ret_reason, size, "it starts after %s, which is %s", name, seen.state);
            return true;
        }
    }
    return false;
}
