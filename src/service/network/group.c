/* Security groups: sets of rules that machines are in. */
#include <string.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "engine/store/store.h"

#include "service/network/parts.h"

static int find(struct network_service *service, const char *project, const char *name,
                struct error *err)
{
    bool is_there = false;
    MEMORY_OWNED char *key = memory_format("%s/%s", project, name);
    int r = network_check_schema(service, err);
    r = r < 0 ? r
              : store_query(service->options.store, err, store_take_any, &is_there,
                            "SELECT 1 FROM security_group WHERE key = ?", "t", key);
    return r < 0 || is_there
        ? r
        : error_set(err, ERROR_NOT_FOUND,
                    "there is no security group %.64s in project %s; see `blixard security-group "
                    "list`",
                    name, project);
}

/* ---- The group ---- */

void network_group_create(struct network_service *service, const char *project, const char *name,
                          network_done *done, void *context)
{
    struct error err = {0};
    int r = network_check_schema(service, &err);
    if (r == 0 && !text_is_name(name)) {
        r = error_set(&err, ERROR_INVALID,
                      "\"%.64s\" is no name of a security group: 1 to 63 of a-z, 0-9 and '-', "
                      "beginning with a letter",
                      name);
    }
    if (r < 0) {
        network_answer(service, &err, done, context);
        return;
    }
    MEMORY_OWNED char *key = memory_format("%s/%s", project, name);
    MEMORY_OWNED char *exists = memory_format("there is a security group %s already", name);
    struct store_command *command = store_command_new();
    store_command_add(command, "INSERT OR IGNORE INTO project (key, created_ms) VALUES (?, ?)",
                      "tu", project, clock_real_ms());
    store_command_add_expecting(command, ERROR_EXISTS, exists,
                                "INSERT INTO security_group (key, project, name, created_ms, "
                                "revision) SELECT ?1, ?2, ?3, ?4, ?5 WHERE NOT EXISTS (SELECT 1 "
                                "FROM security_group WHERE key = ?1)",
                                "tttur", key, project, name, clock_real_ms());
    store_propose(service->options.store, command, done, context);
}

static int check_unused(struct network_service *service, const char *project, const char *name,
                        struct error *err)
{
    MEMORY_OWNED char *machine = NULL;
    MEMORY_OWNED char *group = NULL;
    MEMORY_OWNED char *pattern = memory_format(" %s ", name);
    MEMORY_OWNED char *peer = memory_format("group:%s", name);
    struct store *store = service->options.store;
    int r = find(service, project, name, err);
    r = r < 0 ? r
              : store_query(store, err, store_take_text, &machine,
                            "SELECT m.name FROM network_lease l JOIN machine m ON m.id = l.machine "
                            "WHERE m.project = ? AND instr(l.groups, ?) > 0 ORDER BY m.name",
                            "tt", project, pattern);
    r = r < 0 ? r
              : store_query(store, err, store_take_text, &group,
                            "SELECT g.name FROM security_group_rule r JOIN security_group g ON "
                            "g.key = r.grp WHERE g.project = ?1 AND r.peer = ?2 AND g.name <> ?3 "
                            "ORDER BY g.name",
                            "ttt", project, peer, name);
    if (r == 0 && machine != NULL) {
        return error_set(err, ERROR_CONFLICT, "machine %s is in security group %s", machine, name);
    }
    if (r == 0 && group != NULL) {
        return error_set(err, ERROR_CONFLICT, "a rule of security group %s names group %s", group,
                         name);
    }
    return r;
}

void network_group_delete(struct network_service *service, const char *project, const char *name,
                          network_done *done, void *context)
{
    struct error err = {0};
    if (check_unused(service, project, name, &err) < 0) {
        network_answer(service, &err, done, context);
        return;
    }
    MEMORY_OWNED char *key = memory_format("%s/%s", project, name);
    MEMORY_OWNED char *pattern = memory_format(" %s ", name);
    MEMORY_OWNED char *peer = memory_format("group:%s", name);
    struct store_command *command = store_command_new();
    store_command_add_expecting(
        command, ERROR_CONFLICT,
        "the security group was deleted meanwhile, or something names it now",
        "DELETE FROM security_group WHERE key = ?1 AND NOT EXISTS (SELECT 1 FROM network_lease l "
        "JOIN machine m ON m.id = l.machine WHERE m.project = ?2 AND instr(l.groups, ?3) > 0) AND "
        "NOT EXISTS (SELECT 1 FROM security_group_rule r JOIN security_group g ON g.key = r.grp "
        "WHERE g.project = ?2 AND r.peer = ?4 AND g.key <> ?1)",
        "tttt", key, project, pattern, peer);
    store_propose(service->options.store, command, done, context);
}

/* ---- Its rules ---- */

static int take_rule(struct network_service *service, const char *project, const char *name,
                     const json_t *body, struct network_rule *ret_rule, struct error *err)
{
    int r = find(service, project, name, err);
    r = r < 0 ? r
              : settings_parse_rule(json_text(body, "direction"), json_text(body, "allow"),
                                    json_text(body, "peer"), ret_rule, err);
    return r;
}

void network_group_allow(struct network_service *service, const char *project, const char *name,
                         const json_t *body, network_done *done, void *context)
{
    struct error err = {0};
    struct network_rule rule;
    int r = take_rule(service, project, name, body, &rule, &err);
    r = r < 0 || rule.rule.group == NULL ? r : find(service, project, rule.rule.group, &err);
    if (r < 0) {
        network_answer(service, &err, done, context);
        return;
    }
    const char *direction = rule.is_out ? "out" : "in";
    MEMORY_OWNED char *key = memory_format("%s/%s", project, name);
    struct store_command *command = store_command_new();
    store_command_add_expecting(command, ERROR_LIMIT,
                                "the security group has as many rules as it may have, or was "
                                "deleted meanwhile",
                                "UPDATE security_group SET revision = ? WHERE key = ? AND (SELECT "
                                "count(*) FROM security_group_rule WHERE grp = security_group.key) "
                                "< ?",
                                "rtu", key, (uint64_t)NETWORK_GROUP_RULES_MAX);
    store_command_add(command,
                      "INSERT OR IGNORE INTO security_group_rule (grp, direction, allow, peer) "
                      "VALUES (?, ?, ?, ?)",
                      "tttt", key, direction, rule.allow, rule.peer);
    store_propose(service->options.store, command, done, context);
}

void network_group_revoke(struct network_service *service, const char *project, const char *name,
                          const json_t *body, network_done *done, void *context)
{
    struct error err = {0};
    struct network_rule rule;
    if (take_rule(service, project, name, body, &rule, &err) < 0) {
        network_answer(service, &err, done, context);
        return;
    }
    const char *direction = rule.is_out ? "out" : "in";
    MEMORY_OWNED char *key = memory_format("%s/%s", project, name);
    MEMORY_OWNED char *missing = memory_format(
        "security group %s has no such rule; see `blixard security-group show %s`", name, name);
    struct store_command *command = store_command_new();
    store_command_add_expecting(command, ERROR_NOT_FOUND, missing,
                                "DELETE FROM security_group_rule WHERE grp = ? AND direction = ? "
                                "AND allow = ? AND peer = ?",
                                "tttt", key, direction, rule.allow, rule.peer);
    store_command_add(command, "UPDATE security_group SET revision = ? WHERE key = ?", "rt", key);
    store_propose(service->options.store, command, done, context);
}
