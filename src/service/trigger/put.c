/* Rows: made, changed, paused, deleted. */
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "service/trigger/parts.h"

struct change {
    struct trigger_service *service;
    struct trigger_reply reply;
    struct loop_timer *timer; /* tells an error that was known at once */
    struct error error;
};

static void change_end(struct change *change, const struct error *error)
{
    struct trigger_reply reply = change->reply;
    struct error copy = error != NULL ? *error : (struct error){0};
    loop_timer_free(change->timer);
    free(change);
    reply.done(copy.kind != ERROR_NONE ? &copy : NULL, reply.context);
}

static void on_proposed(const struct error *error, uint64_t index, void *context)
{
    (void)index;
    change_end(context, error);
}

static void tell_failure(void *context)
{
    struct change *change = context;
    struct error error = change->error;
    change_end(change, &error);
}

static struct change *change_new(struct trigger_service *service, struct trigger_reply reply)
{
    struct change *change = NEW(struct change);
    change->service = service;
    change->reply = reply;
    return change;
}

static void fail(struct change *change, const struct error *error)
{
    change->error = *error;
    change->timer = loop_timer_new(change->service->options.loop, tell_failure, change);
    loop_timer_start(change->timer, 0);
}

struct seen {
    bool exists;
    bool is_paused;
    char *config;
};

static bool take_seen(sqlite3_stmt *row, void *context)
{
    struct seen *seen = context;
    seen->exists = true;
    seen->is_paused = sqlite3_column_int64(row, 0) != 0;
    seen->config = memory_copy_string((const char *)sqlite3_column_text(row, 1));
    return false;
}

static int look(struct trigger_service *service, const char *key, struct seen *ret_seen,
                struct error *err)
{
    return store_query(service->options.store, err, take_seen, ret_seen,
                       "SELECT paused, config FROM trigger_row WHERE key = ?", "t", key);
}

static int check_function(struct trigger_service *service, const char *project,
                          const char *function, struct error *err)
{
    uint64_t count = 0;
    MEMORY_OWNED char *key =
        memory_format("%s/%.*s", project, (int)strcspn(function, ":"), function);
    int r = store_query(service->options.store, err, store_take_u64, &count,
                        "SELECT count(*) FROM function WHERE key = ?", "t", key);
    return r < 0 || count > 0
        ? r
        : error_set(err, ERROR_NOT_FOUND,
                    "there is no function %s in project %s; deploy it first: blixard fn deploy %s",
                    strchr(key, '/') + 1, project, strchr(key, '/') + 1);
}

static int check_count(struct trigger_service *service, const char *project, struct error *err)
{
    uint64_t count = 0;
    int r = store_query(service->options.store, err, store_take_u64, &count,
                        "SELECT count(*) FROM trigger_row WHERE project = ?", "t", project);
    return r == 0 && count >= TRIGGER_COUNT_MAX
        ? error_set(err, ERROR_LIMIT, "project %s has %d triggers, the most there can be", project,
                    TRIGGER_COUNT_MAX)
        : r;
}

/* A route is a trigger of kind http: a name is one of them. */
static int check_name(struct trigger_service *service, const char *key, const char *name,
                      struct error *err)
{
    uint64_t count = 0;
    if (!text_is_name(name)) {
        return error_set(
            err, ERROR_INVALID,
            "\"%.80s\" is no name: 1 to 63 of a-z, 0-9 and '-', beginning with a letter", name);
    }
    int r = store_query(service->options.store, err, store_take_u64, &count,
                        "SELECT count(*) FROM route WHERE key = ?", "t", key);
    return r < 0 || count == 0
        ? r
        : error_set(err, ERROR_EXISTS,
                    "there is a trigger %s of kind http; blixard trigger get %s shows it", name,
                    name);
}

bool trigger_exists(struct trigger_service *service, const char *project, const char *name)
{
    struct seen seen = {0};
    struct error ignored = {0};
    MEMORY_OWNED char *key = memory_format("%s/%s", project, name);
    bool is_there = look(service, key, &seen, &ignored) == 0 && seen.exists;
    free(seen.config);
    return is_there;
}

/* `seen` NULL: it does not go on with what it was until now. */
static int plan(struct trigger_service *service, const struct trigger_config *config,
                const char *key, const struct seen *seen, struct store_command *command,
                struct error *err)
{
    const struct added_driver *added = trigger_driver_find(service, config->kind);
    JSON_OWNED json_t *before = NULL;
    struct error ignored = {0};
    struct trigger_plan plan = {
        .key = key, .settings = config->settings, .now_ms = trigger_now_ms(service)};
    if (added == NULL || added->driver->plan == NULL) {
        return 0;
    }
    if (seen != NULL && seen->exists &&
        json_read(seen->config, strlen(seen->config), &before, &ignored) == 0 &&
        strcmp(json_text(before, "kind"), config->kind) == 0) {
        plan.before = json_object_get(before, "settings");
    }
    return added->driver->plan(&plan, command, added->context, err);
}

/* The row, then what its kind keeps. */
static int build(struct trigger_service *service, const char *project, const char *name,
                 const struct trigger_config *config, const struct seen *seen, bool is_paused,
                 struct store_command *command, struct error *err)
{
    MEMORY_OWNED char *key = memory_format("%s/%s", project, name);
    uint64_t now_ms = trigger_now_ms(service);
    char *text = json_dumps(config->document, JSON_COMPACT);
    if (seen->exists) {
        store_command_add_expecting(
            command, ERROR_CONFLICT, "the trigger was deleted at the same moment",
            "UPDATE trigger_row SET kind = ?, function = ?, paused = ?, config = ?, updated_ms = "
            "?, revision = ? WHERE key = ?",
            "ttuturt", config->kind, config->function, (uint64_t)is_paused, text, now_ms, key);
    } else {
        store_command_add_expecting(
            command, ERROR_EXISTS, "there is such a trigger already; blixard trigger update",
            "INSERT OR IGNORE INTO trigger_row (key, project, name, kind, function, paused, "
            "config, created_ms, updated_ms, revision) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            "tttttutuur", key, project, name, config->kind, config->function, (uint64_t)is_paused,
            text, now_ms, now_ms);
        store_command_add(command, "INSERT OR IGNORE INTO trigger_count (trigger) VALUES (?)", "t",
                          key);
    }
    free(text);
    bool is_resumed = seen->is_paused && !is_paused;
    return plan(service, config, key, is_resumed ? NULL : seen, command, err);
}

/* What it is to be, and what is there by its name. */
static int prepare(struct trigger_service *service, const char *key, const char *name,
                   const json_t *document, struct seen *seen, struct trigger_config *config,
                   struct error *err)
{
    int r = look(service, key, seen, err);
    r = r < 0 || seen->exists ? r : check_name(service, key, name, err);
    r = r < 0 ? r : trigger_config_read(document, config, err);
    return r < 0 ? r : trigger_config_check(service, config, err);
}

int trigger_check(struct trigger_service *service, const char *project, const char *name,
                  const json_t *document, struct error *err)
{
    struct trigger_config config = {0};
    struct seen seen = {0};
    MEMORY_OWNED char *key = memory_format("%s/%s", project, name);
    struct store_command *unused = store_command_new();
    int r = prepare(service, key, name, document, &seen, &config, err);
    r = r < 0 ? r : plan(service, &config, key, &seen, unused, err);
    store_command_free(unused);
    free(seen.config);
    trigger_config_done(&config);
    return r;
}

void trigger_put(struct trigger_service *service, const char *project, const char *name,
                 const json_t *document, bool replaces, struct trigger_reply reply)
{
    struct change *change = change_new(service, reply);
    struct trigger_config config = {0};
    struct error err = {0};
    struct seen seen = {0};
    MEMORY_OWNED char *key = memory_format("%s/%s", project, name);
    struct store_command *command = store_command_new();
    int r = prepare(service, key, name, document, &seen, &config, &err);
    r = r < 0 ? r : check_function(service, project, config.function, &err);
    r = r < 0 || seen.exists ? r : check_count(service, project, &err);
    if (r == 0 && seen.exists && !replaces) {
        r = error_set(&err, ERROR_EXISTS,
                      "there is a trigger %s already; change it with blixard trigger update", name);
    }
    const json_t *paused = json_object_get(document, "paused");
    bool is_paused = json_is_boolean(paused) ? json_is_true(paused) : seen.is_paused;
    r = r < 0 ? r : build(service, project, name, &config, &seen, is_paused, command, &err);
    free(seen.config);
    trigger_config_done(&config);
    if (r < 0) {
        store_command_free(command);
        fail(change, &err);
        return;
    }
    store_propose(service->options.store, command, on_proposed, change);
}

static int no_such(const char *name, struct error *err)
{
    return error_set(err, ERROR_NOT_FOUND,
                     "there is no trigger %.63s; blixard trigger list shows which there are", name);
}

/* What comes while it is paused is passed over: a schedule goes on from the moment it is resumed.
 */
static int plan_again(struct trigger_service *service, const char *key, const struct seen *seen,
                      struct store_command *command, struct error *err)
{
    struct trigger_config config = {0};
    json_t *document = NULL;
    int r = json_read(seen->config, strlen(seen->config), &document, err);
    r = r < 0 ? r : trigger_config_read(document, &config, err);
    json_decref(document);
    r = r < 0 ? r : plan(service, &config, key, NULL, command, err);
    trigger_config_done(&config);
    return r;
}

void trigger_pause(struct trigger_service *service, const char *project, const char *name,
                   bool is_paused, struct trigger_reply reply)
{
    struct change *change = change_new(service, reply);
    struct error err = {0};
    struct seen seen = {0};
    MEMORY_OWNED char *key = memory_format("%s/%s", project, name);
    struct store_command *command = store_command_new();
    int r = look(service, key, &seen, &err);
    r = r == 0 && !seen.exists ? no_such(name, &err) : r;
    if (r == 0) {
        store_command_add_expecting(command, ERROR_NOT_FOUND, "the trigger was deleted",
                                    "UPDATE trigger_row SET paused = ?, revision = ? WHERE key = ?",
                                    "urt", (uint64_t)is_paused, key);
        r = seen.is_paused && !is_paused ? plan_again(service, key, &seen, command, &err) : 0;
    }
    free(seen.config);
    if (r < 0) {
        store_command_free(command);
        fail(change, &err);
        return;
    }
    store_propose(service->options.store, command, on_proposed, change);
}

void trigger_delete(struct trigger_service *service, const char *project, const char *name,
                    struct trigger_reply reply)
{
    struct change *change = change_new(service, reply);
    struct error err = {0};
    struct seen seen = {0};
    MEMORY_OWNED char *key = memory_format("%s/%s", project, name);
    int r = look(service, key, &seen, &err);
    r = r == 0 && !seen.exists ? no_such(name, &err) : r;
    free(seen.config);
    if (r < 0) {
        fail(change, &err);
        return;
    }
    struct store_command *command = store_command_new();
    store_command_add(command, "DELETE FROM trigger_row WHERE key = ?", "t", key);
    store_propose(service->options.store, command, on_proposed, change);
}
