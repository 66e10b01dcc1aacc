/* Placement groups: machines that are kept apart, or together. */
#include <stdio.h>
#include <string.h>

#include "base/text.h"

#include "service/placement/parts.h"

static int check_known(const struct placement_service *service, struct error *err)
{
    return service_is_known(service)
        ? 0
        : error_set(err, ERROR_UNSUPPORTED, "not all nodes know placement: upgrade them first");
}

struct found {
    char policy[16];
    char rigor[16];
};

static bool take_group(sqlite3_stmt *row, void *context)
{
    struct found *found = context;
    snprintf(found->policy, sizeof(found->policy), "%s", store_text(row, 0));
    snprintf(found->rigor, sizeof(found->rigor), "%s", store_text(row, 1));
    return false;
}

int group_find(struct placement_service *service, const char *project, const char *name,
               struct placement_group *ret_group, struct error *err)
{
    struct found found = {0};
    MEMORY_OWNED char *key = memory_format("%s/%s", project, name);
    int r = store_query(service->options.store, err, take_group, &found,
                        "SELECT policy, rigor FROM placement_group WHERE key = ?", "t", key);
    if (r == 0 && found.policy[0] == '\0') {
        return error_set(err, ERROR_NOT_FOUND,
                         "there is no placement group %.64s in project %s; see `blixard "
                         "placement-group list`",
                         name, project);
    }
    ret_group->policy =
        strcmp(found.policy, "compact") == 0 ? PLACEMENT_GROUP_COMPACT : PLACEMENT_GROUP_SPREAD;
    ret_group->rigor = strcmp(found.rigor, "strict") == 0 ? PLACEMENT_STRICT : PLACEMENT_PERMISSIVE;
    return r;
}

static int check_create(const struct placement_service *service, const char *name,
                        const char *policy, const char *rigor, struct error *err)
{
    if (check_known(service, err) < 0) {
        return -(int)err->kind;
    }
    if (!text_is_name(name)) {
        return error_set(err, ERROR_INVALID,
                         "\"%.64s\" is no name of a placement group: 1 to 63 of a-z, 0-9 and '-', "
                         "beginning with a letter",
                         name);
    }
    if (strcmp(policy, "spread") != 0 && strcmp(policy, "compact") != 0) {
        return error_set(err, ERROR_INVALID, "policy is spread or compact, not %.32s", policy);
    }
    return strcmp(rigor, "strict") == 0 || strcmp(rigor, "permissive") == 0
        ? 0
        : error_set(err, ERROR_INVALID, "rigor is strict or permissive, not %.32s", rigor);
}

void placement_service_group_create(struct placement_service *service, const char *project,
                                    const json_t *create, placement_done *done, void *context)
{
    struct error err = {0};
    const char *name = json_text(create, "name");
    const char *policy = json_text(create, "policy");
    const char *rigor = json_text(create, "rigor");
    policy = policy[0] != '\0' ? policy : "spread";
    rigor = rigor[0] != '\0' ? rigor : "strict";
    if (check_create(service, name, policy, rigor, &err) < 0) {
        answer_later(service, &err, done, context);
        return;
    }
    MEMORY_OWNED char *key = memory_format("%s/%s", project, name);
    MEMORY_OWNED char *exists = memory_format("there is a placement group %s already", name);
    struct store_command *command = store_command_new();
    store_command_add(command, "INSERT OR IGNORE INTO project (key, created_ms) VALUES (?, ?)",
                      "tu", project, clock_real_ms());
    store_command_add_expecting(
        command, ERROR_EXISTS, exists,
        "INSERT INTO placement_group (key, project, name, policy, rigor, created_ms, revision) "
        "SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7 WHERE NOT EXISTS (SELECT 1 FROM placement_group WHERE "
        "key = ?1)",
        "tttttur", key, project, name, policy, rigor, clock_real_ms());
    store_propose(service->options.store, command, done, context);
}

void placement_service_group_delete(struct placement_service *service, const char *project,
                                    const char *name, placement_done *done, void *context)
{
    struct placement_group group = {0};
    struct error err = {0};
    MEMORY_OWNED char *user = NULL;
    int r = check_known(service, &err);
    r = r < 0 ? r : group_find(service, project, name, &group, &err);
    r = r < 0 ? r
              : store_query(service->options.store, &err, store_take_text, &user,
                            "SELECT name FROM machine WHERE project = ? AND config ->> "
                            "'$.placement_group' = ? ORDER BY name LIMIT 1",
                            "tt", project, name);
    if (r == 0 && user != NULL) {
        r = error_set(&err, ERROR_CONFLICT,
                      "machine %s is in placement group %s: take it out first (blixard vm set %s "
                      "--placement-group none)",
                      user, name, user);
    }
    if (r < 0) {
        answer_later(service, &err, done, context);
        return;
    }
    MEMORY_OWNED char *key = memory_format("%s/%s", project, name);
    MEMORY_OWNED char *pattern = memory_format("\"placement_group\":\"%s\"", name);
    struct store_command *command = store_command_new();
    store_command_add_expecting(/* commands do not read JSON */
                                command, ERROR_CONFLICT,
                                "the group was deleted meanwhile, or a machine came into it",
                                "DELETE FROM placement_group WHERE key = ?1 AND NOT EXISTS (SELECT "
                                "1 FROM machine WHERE "
                                "project = ?2 AND instr(config, ?3) > 0)",
                                "ttt", key, project, pattern);
    store_propose(service->options.store, command, done, context);
}

/* ---- Looking ---- */

struct writing {
    struct placement_service *service;
    struct json_writer writer;
    size_t count;
};

static bool write_member(sqlite3_stmt *row, void *context)
{
    struct writing *writing = context;
    const char *node = store_text(row, 1);
    MEMORY_OWNED char *text = node[0] != '\0' ? memory_format("%s on %s", store_text(row, 0), node)
                                              : memory_format("%s (pending)", store_text(row, 0));
    json_write_string(&writing->writer, text);
    return true;
}

static bool write_group(sqlite3_stmt *row, void *context)
{
    struct writing *writing = context;
    struct json_writer *writer = &writing->writer;
    struct error ignored = {0};
    writing->count++;
    json_write_begin_object(writer);
    json_write_field_string(writer, "name", store_text(row, 0));
    json_write_field_string(writer, "project", store_text(row, 1));
    json_write_field_string(writer, "policy", store_text(row, 2));
    json_write_field_string(writer, "rigor", store_text(row, 3));
    json_write_key(writer, "machines");
    json_write_begin_array(writer);
    store_query(writing->service->options.store, &ignored, write_member, writing,
                "SELECT name, node FROM machine WHERE project = ? AND config ->> "
                "'$.placement_group' = ? ORDER BY name",
                "tt", store_text(row, 1), store_text(row, 0));
    json_write_end_array(writer);
    json_write_field_time_ms(writer, "created_at", (uint64_t)sqlite3_column_int64(row, 4));
    json_write_end_object(writer);
    return true;
}

#define SELECT "SELECT name, project, policy, rigor, created_ms FROM placement_group "

int placement_service_group_write(struct placement_service *service, const char *project,
                                  const char *name, struct buffer *out, struct error *err)
{
    struct writing writing = {service, json_writer_to(out), 0};
    struct placement_group group = {0};
    MEMORY_OWNED char *key = memory_format("%s/%s", project, name);
    int r = check_known(service, err);
    r = r < 0 ? r : group_find(service, project, name, &group, err);
    return r < 0 ? r
                 : store_query(service->options.store, err, write_group, &writing,
                               SELECT "WHERE key = ?", "t", key);
}

int placement_service_group_write_list(struct placement_service *service, const char *project,
                                       struct buffer *out, struct error *err)
{
    struct writing writing = {service, json_writer_to(out), 0};
    json_write_begin_object(&writing.writer);
    json_write_key(&writing.writer, "placement_groups");
    json_write_begin_array(&writing.writer);
    int r = service_is_known(service)
        ? store_query(service->options.store, err, write_group, &writing,
                      SELECT "WHERE project = ? ORDER BY name", "t", project)
        : 0;
    json_write_end_array(&writing.writer);
    json_write_end_object(&writing.writer);
    return r;
}
