/* Networks made and deleted. */
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/random.h"

#include "engine/store/store.h"

#include "service/network/parts.h"

enum { TRIES_MAX = 32 };

/* ---- Making one ---- */

/* A subnet that nobody named is looked for until one is free in the state and on this host. */
struct creating {
    struct network_service *service;
    char *project;
    char *name;
    struct network_settings settings;
    bool is_chosen; /* by us */
    unsigned tries;
    struct error error;
    network_done *done;
    void *context;
};

struct ranges {
    struct network_range *list;
    size_t count;
};

static bool take_range(sqlite3_stmt *row, void *context)
{
    struct ranges *ranges = context;
    ranges->list = memory_resize(ranges->list, (ranges->count + 1) * sizeof(ranges->list[0]));
    ranges->list[ranges->count++] = (struct network_range){(uint32_t)sqlite3_column_int64(row, 0),
                                                           (unsigned)sqlite3_column_int(row, 1)};
    return true;
}

static void end(struct creating *creating, const struct error *error, uint64_t index)
{
    creating->service->pending--;
    creating->done(error, index, creating->context);
    free(creating->project);
    free(creating->name);
    free(creating);
}

static void choose(struct creating *creating);

static void on_created(const struct error *error, uint64_t index, void *context)
{
    struct creating *creating = context;
    bool was_taken = error != NULL && error->kind == ERROR_CONFLICT;
    if (was_taken && creating->is_chosen && ++creating->tries < TRIES_MAX) {
        choose(creating); /* somebody else was quicker */
        return;
    }
    end(creating, error, index);
}

static uint32_t random_vni(void)
{
    uint32_t number = 0;
    random_bytes(&number, sizeof(number));
    return NETWORK_VNI_MIN + number % (NETWORK_VNI_MAX - NETWORK_VNI_MIN + 1);
}

static void propose(struct creating *creating)
{
    const struct network_settings *settings = &creating->settings;
    MEMORY_OWNED char *key = memory_format("%s/%s", creating->project, creating->name);
    MEMORY_OWNED char *exists = memory_format("there is a network %s already", creating->name);
    uint64_t last = range_last(&settings->subnet);
    bool has_more = settings->dns[0] != '\0' || settings->description[0] != '\0';
    struct store_command *command = store_command_new();
    store_command_add(command, "INSERT OR IGNORE INTO project (key, created_ms) VALUES (?, ?)",
                      "tu", creating->project, clock_real_ms());
    store_command_add_expecting(command, ERROR_EXISTS, exists,
                                "UPDATE project SET created_ms = created_ms WHERE key = ? AND NOT "
                                "EXISTS (SELECT 1 FROM network WHERE key = ?)",
                                "tt", creating->project, key);
    store_command_add_expecting(
        command, ERROR_CONFLICT,
        "these addresses are another network's: see `blixard network list` in each project, or "
        "leave --subnet away",
        "INSERT INTO network (key, project, name, vni, address, last, prefix, gateway, mode, mtu, "
        "is_peering, created_ms, revision) SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, "
        "?12, ?13 WHERE NOT EXISTS (SELECT 1 FROM network WHERE (address <= ?6 AND last >= ?5) OR "
        "vni = ?4)",
        "tttuuuuutuuur", key, creating->project, creating->name, (uint64_t)random_vni(),
        (uint64_t)settings->subnet.address, last, (uint64_t)settings->subnet.prefix,
        (uint64_t)settings->gateway, settings_mode_text(settings->mode), (uint64_t)settings->mtu,
        (uint64_t)settings->is_peering, clock_real_ms());
    if (has_more) {
        store_command_add(command, "UPDATE network SET dns = ?, description = ? WHERE key = ?",
                          "ttt", settings->dns, settings->description, key);
    }
    store_propose(creating->service->options.store, command, on_created, creating);
}

static void look_at_host(void *context)
{
    struct creating *creating = context;
    const struct network_range *subnet = &creating->settings.subnet;
    net_subnet_check(creating->service->owner, subnet->address, subnet->prefix, &creating->error);
}

static void on_looked(void *context)
{
    struct creating *creating = context;
    if (creating->error.kind == ERROR_NONE) {
        propose(creating);
    } else if (creating->error.kind == ERROR_CONFLICT && creating->is_chosen &&
               ++creating->tries < TRIES_MAX) {
        choose(creating);
    } else {
        end(creating, &creating->error, 0);
    }
}

static void choose(struct creating *creating)
{
    struct ranges taken = {0};
    struct error err = {0};
    struct network_settings *settings = &creating->settings;
    int r = store_query(creating->service->options.store, &err, take_range, &taken,
                        "SELECT address, prefix FROM network", "");
    if (r == 0 && creating->is_chosen) {
        settings->gateway = 0;
        r = settings_choose_subnet(taken.list, taken.count, creating->tries, &settings->subnet,
                                   &err);
        r = r < 0 ? r : settings_check_subnet(settings, &err);
    }
    free(taken.list);
    if (r < 0) {
        end(creating, &err, 0);
        return;
    }
    creating->error = (struct error){0};
    loop_work(creating->service->options.loop, look_at_host, on_looked, creating);
}

static void begin(void *context)
{
    choose(context);
}

/* Has the state places for all of this? */
static int check_settings(const struct network_service *service,
                          const struct network_settings *settings, struct error *err)
{
    bool has_more = settings->dns[0] != '\0' || settings->description[0] != '\0';
    return !has_more || store_schema_now(service->options.store) >= NETWORK_SETTINGS_SCHEMA
        ? 0
        : error_set(err, ERROR_UNSUPPORTED,
                    "a network has dns and a description once every node of the cluster has this "
                    "version of Blixard");
}

void network_create(struct network_service *service, const char *project, const json_t *create,
                    network_done *done, void *context)
{
    struct error err = {0};
    struct network_settings settings = {0};
    int r = network_check_schema(service, &err);
    r = r < 0 ? r : settings_parse_network(create, &settings, &err);
    r = r < 0 ? r : check_settings(service, &settings, &err);
    if (r < 0) {
        network_answer(service, &err, done, context);
        return;
    }
    struct creating *creating = NEW(struct creating);
    *creating = (struct creating){
        .service = service,
        .project = memory_copy_string(project),
        .name = memory_copy_string(json_string_value(json_object_get(create, "name"))),
        .settings = settings,
        .is_chosen = settings.subnet.prefix == 0,
        .done = done,
        .context = context};
    service->pending++;
    loop_post(service->options.loop, begin, creating);
}

/* ---- Deleting one ---- */

struct names {
    struct buffer text;
    size_t count;
};

static bool take_name(sqlite3_stmt *row, void *context)
{
    enum { SHOWN = 8 };
    struct names *names = context;
    if (names->count++ < SHOWN) {
        buffer_append_format(&names->text, "%s%s", names->count > 1 ? ", " : "",
                             (const char *)sqlite3_column_text(row, 0));
    } else if (names->count == SHOWN + 1) {
        buffer_append_string(&names->text, " and more");
    }
    return true;
}

int network_check_unused(struct network_service *service, const char *key, const char *project,
                         const char *name, const char *advice, struct error *err)
{
    struct names names = {0};
    bool is_there = false;
    struct store *store = service->options.store;
    int r = network_check_schema(service, err);
    r = r < 0 ? r
              : store_query(store, err, store_take_any, &is_there,
                            "SELECT 1 FROM network WHERE key = ?", "t", key);
    if (r == 0 && !is_there) {
        return error_set(err, ERROR_NOT_FOUND,
                         "there is no network %.64s in project %s; see `blixard network list`",
                         name, project);
    }
    r = r < 0 ? r
              : store_query(store, err, take_name, &names,
                            "SELECT DISTINCT m.name FROM network_lease l JOIN machine m ON m.id = "
                            "l.machine WHERE l.network = ? ORDER BY m.name",
                            "t", key);
    if (r == 0 && names.count > 0) {
        r = error_set(err, ERROR_CONFLICT, "network %.64s is used by %s %.300s: %s", name,
                      names.count > 1 ? "machines" : "machine", buffer_string(&names.text), advice);
    }
    buffer_done(&names.text);
    return r;
}

void network_delete(struct network_service *service, const char *project, const char *name,
                    network_done *done, void *context)
{
    struct error err = {0};
    MEMORY_OWNED char *key = memory_format("%s/%s", project, name);
    if (network_check_unused(service, key, project, name, "delete what is in it first", &err) < 0) {
        network_answer(service, &err, done, context);
        return;
    }
    struct store_command *command = store_command_new();
    store_command_add_expecting(command, ERROR_CONFLICT,
                                "the network was deleted meanwhile, or a machine was made in it",
                                "DELETE FROM network WHERE key = ?1 AND NOT EXISTS (SELECT 1 FROM "
                                "network_lease WHERE network = ?1)",
                                "t", key);
    store_propose(service->options.store, command, done, context);
}
