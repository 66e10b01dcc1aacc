/* Verbs about networks of machines and security groups. */
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "surface/cli/payload.h"

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

/* ---- --network of `vm create` ---- */

/* NAME[,address=A][,mac=M][,group=G]...: as a MachineNetwork. */
static int parse_network(const char *text, json_t **ret_network, struct error *err)
{
    size_t length = strcspn(text, ",");
    JSON_OWNED json_t *network = json_object();
    JSON_OWNED json_t *groups = json_array();
    json_object_set_new(network, "network", json_stringn(text, length));
    while (text[length] == ',') {
        text += length + 1;
        length = strcspn(text, ",");
        size_t key = strcspn(text, "=");
        struct text name = text_of(text, key < length ? key : length);
        json_t *value =
            key < length ? json_stringn(text + key + 1, length - key - 1) : json_string("");
        if (text_equal(name, "address") || text_equal(name, "mac")) {
            json_object_set_new(network, text_equal(name, "mac") ? "mac" : "address", value);
        } else if (text_equal(name, "group")) {
            json_array_append_new(groups, value);
        } else {
            json_decref(value);
            return error_set(err, ERROR_INVALID,
                             "--network: \"%.*s\" is none of address=, mac=, group=",
                             (int)name.length, name.data);
        }
    }
    if (json_array_size(groups) > 0) {
        json_object_set(network, "groups", groups);
    }
    *ret_network = json_incref(network);
    return 0;
}

int network_take_flags(const struct arguments *arguments, json_t *body, struct error *err)
{
    JSON_OWNED json_t *list = json_array();
    for (unsigned i = 0; i < arguments->flag_count; i++) {
        json_t *network = NULL;
        if (strcmp(arguments->flags[i].name, "network") != 0) {
            continue;
        }
        if (parse_network(arguments->flags[i].value, &network, err) < 0) {
            return -(int)err->kind;
        }
        json_array_append_new(list, network);
    }
    if (json_array_size(list) > 0) {
        json_object_set(body, "networks", list);
    }
    return 0;
}

/* ---- Networks ---- */

static const struct payload_flag settings[] = {
    {"subnet", "subnet", FLAG_TEXT},
    {"gateway", "gateway", FLAG_TEXT},
    {"mode", "mode", FLAG_TEXT},
    {"mtu", "mtu", FLAG_COUNT},
    {"description", "description", FLAG_TEXT},
};

/* Each --dns; one that is empty takes them all away. */
static void take_dns(const struct arguments *arguments, json_t *body)
{
    json_t *list = json_array();
    for (unsigned i = 0; i < arguments->flag_count; i++) {
        if (strcmp(arguments->flags[i].name, "dns") == 0 && arguments->flags[i].value[0] != '\0') {
            json_array_append_new(list, json_string(arguments->flags[i].value));
        }
    }
    if (flag_value(arguments, "dns") != NULL) {
        json_object_set(body, "dns", list);
    }
    json_decref(list);
}

int verb_network_create(const struct arguments *arguments, struct error *err)
{
    JSON_OWNED json_t *body = json_pack("{s:s}", "name", arguments->words[0]);
    JSON_OWNED json_t *network = NULL;
    int r = payload_take_flags(arguments, settings, COUNT(settings), body, err);
    if (flag_value(arguments, "peering") != NULL) {
        json_object_set_new(body, "peering", json_true());
    }
    take_dns(arguments, body);
    r = r < 0 ? r : request_send("POST", "/v1/networks", body, &network, err);
    return r < 0 ? r
                 : print_done(arguments, network, err, "network %s has %s", arguments->words[0],
                              json_string_value(json_object_get(network, "subnet")));
}

int verb_network_update(const struct arguments *arguments, struct error *err)
{
    JSON_OWNED json_t *body = json_object();
    JSON_OWNED json_t *network = NULL;
    const char *peering = flag_value(arguments, "peering");
    MEMORY_OWNED char *target = request_target("networks", arguments->words[0], "");
    int r = payload_take_flags(arguments, settings, COUNT(settings), body, err);
    if (peering != NULL) {
        json_object_set_new(body, "peering", json_boolean(strcmp(peering, "yes") == 0));
    }
    take_dns(arguments, body);
    if (r == 0 && json_object_size(body) == 0) {
        return error_set(err, ERROR_INVALID, "say what to change, for example --mode closed");
    }
    r = r < 0 ? r : request_send("PATCH", target, body, &network, err);
    return r < 0
        ? r
        : print_done(arguments, network, err, "network %s is changed", arguments->words[0]);
}

int verb_network_list(const struct arguments *arguments, struct error *err)
{
    static const struct column columns[] = {
        {"NAME", "name", AS_TEXT},           {"SUBNET", "subnet", AS_TEXT},
        {"GATEWAY", "gateway", AS_TEXT},     {"MODE", "mode", AS_TEXT},
        {"PEERING", "peering", AS_TEXT},     {"USED", "addresses_used", AS_TEXT},
        {"FREE", "addresses_free", AS_TEXT},
    };
    return print_target(arguments, "/v1/networks", "networks", columns, COUNT(columns), err);
}

static const struct column network_facts[] = {
    {"name", "name", AS_TEXT},
    {"subnet", "subnet", AS_TEXT},
    {"gateway", "gateway", AS_TEXT},
    {"mode", "mode", AS_TEXT},
    {"peering", "peering", AS_TEXT},
    {"mtu", "mtu", AS_TEXT},
    {"dns", "dns", AS_TEXT},
    {"description", "description", AS_TEXT},
    {"vni", "vni", AS_TEXT},
    {"used", "addresses_used", AS_TEXT},
    {"free", "addresses_free", AS_TEXT},
    {"created", "created_at", AS_TEXT},
};

/* Facts, and the list that is one of them as a table below. */
static int show(const struct arguments *arguments, const char *target, const struct column *facts,
                size_t fact_count, const char *list, const struct column *columns,
                size_t column_count, struct error *err)
{
    enum output output = OUTPUT_TABLE;
    JSON_OWNED json_t *document = NULL;
    int r = output_of(arguments, &output, err);
    r = r < 0 ? r : request_json("GET", target, NULL, &document, err);
    if (r < 0 || output != OUTPUT_TABLE) {
        if (r == 0) {
            print_document(document, output);
        }
        return r;
    }
    print_facts(document, facts, fact_count);
    size_t index = 0;
    json_t *item = NULL;
    json_array_foreach(json_object_get(document, list), index, item)
    {
        const char *peer = json_string_value(json_object_get(item, "peer"));
        if (peer != NULL && peer[0] == '\0') {
            json_object_set_new(item, "peer", json_string("anybody"));
        }
    }
    if (json_array_size(json_object_get(document, list)) > 0) {
        putchar('\n');
        print_table(json_object_get(document, list), columns, column_count);
    }
    return 0;
}

int verb_network_show(const struct arguments *arguments, struct error *err)
{
    static const struct column columns[] = {
        {"ADDRESS", "address", AS_TEXT}, {"MACHINE", "machine", AS_TEXT}, {"NODE", "node", AS_TEXT},
        {"MAC", "mac", AS_TEXT},         {"GROUPS", "groups", AS_TEXT},
    };
    MEMORY_OWNED char *target = request_target("networks", arguments->words[0], "");
    return show(arguments, target, network_facts, COUNT(network_facts), "leases", columns,
                COUNT(columns), err);
}

static int delete_one(const struct arguments *arguments, const char *kind, const char *what,
                      struct error *err)
{
    JSON_OWNED json_t *document = json_pack("{s:s}", "deleted", arguments->words[0]);
    MEMORY_OWNED char *target = request_target(kind, arguments->words[0], "");
    int r = request_json("DELETE", target, NULL, NULL, err);
    return r < 0
        ? r
        : print_done(arguments, document, err, "%s %s is deleted", what, arguments->words[0]);
}

int verb_network_delete(const struct arguments *arguments, struct error *err)
{
    return delete_one(arguments, "networks", "network", err);
}

/* ---- Security groups ---- */

int verb_security_group_create(const struct arguments *arguments, struct error *err)
{
    JSON_OWNED json_t *body = json_pack("{s:s}", "name", arguments->words[0]);
    JSON_OWNED json_t *group = NULL;
    int r = request_send("POST", "/v1/security-groups", body, &group, err);
    return r < 0 ? r
                 : print_done(arguments, group, err,
                              "security group %s is made: machines in it take nothing yet",
                              arguments->words[0]);
}

int verb_security_group_list(const struct arguments *arguments, struct error *err)
{
    static const struct column columns[] = {
        {"NAME", "name", AS_TEXT},
        {"RULES", "rule_count", AS_TEXT},
        {"MACHINES", "machine_count", AS_TEXT},
        {"CREATED", "created_at", AS_TEXT},
    };
    return print_target(arguments, "/v1/security-groups", "security_groups", columns,
                        COUNT(columns), err);
}

int verb_security_group_show(const struct arguments *arguments, struct error *err)
{
    static const struct column facts[] = {
        {"name", "name", AS_TEXT},
        {"machines", "machines", AS_TEXT},
        {"created", "created_at", AS_TEXT},
    };
    static const struct column columns[] = {
        {"DIRECTION", "direction", AS_TEXT},
        {"ALLOW", "allow", AS_TEXT},
        {"PEER", "peer", AS_TEXT},
    };
    MEMORY_OWNED char *target = request_target("security-groups", arguments->words[0], "");
    return show(arguments, target, facts, COUNT(facts), "rules", columns, COUNT(columns), err);
}

int verb_security_group_delete(const struct arguments *arguments, struct error *err)
{
    return delete_one(arguments, "security-groups", "security group", err);
}

/* --from and --to are the same thing seen from either side: the other end. */
static int take_peer(const struct arguments *arguments, const char **ret_direction,
                     const char **ret_peer, struct error *err)
{
    const char *from = flag_value(arguments, "from");
    const char *to = flag_value(arguments, "to");
    if (from != NULL && to != NULL) {
        return error_set(err, ERROR_INVALID, "--from is of what comes in, --to of what goes out");
    }
    *ret_direction = to != NULL ? "out" : "in";
    const char *peer = to != NULL ? to : from != NULL ? from : "";
    *ret_peer = strcmp(peer, "any") == 0 ? "" : peer;
    return 0;
}

int verb_security_group_allow(const struct arguments *arguments, struct error *err)
{
    const char *direction = NULL;
    const char *peer = NULL;
    JSON_OWNED json_t *group = NULL;
    MEMORY_OWNED char *target = request_target("security-groups", arguments->words[0], "/rules");
    int r = take_peer(arguments, &direction, &peer, err);
    for (unsigned i = 1; i < arguments->word_count && r == 0; i++) {
        JSON_OWNED json_t *rule = json_pack("{s:s, s:s, s:s}", "direction", direction, "allow",
                                            arguments->words[i], "peer", peer);
        json_decref(group);
        group = NULL;
        r = request_send("POST", target, rule, &group, err);
    }
    return r < 0
        ? r
        : print_done(arguments, group, err, "security group %s allows it", arguments->words[0]);
}

int verb_security_group_revoke(const struct arguments *arguments, struct error *err)
{
    const char *direction = NULL;
    const char *peer = NULL;
    JSON_OWNED json_t *group = NULL;
    MEMORY_OWNED char *path = request_target("security-groups", arguments->words[0], "/rules");
    int r = take_peer(arguments, &direction, &peer, err);
    for (unsigned i = 1; i < arguments->word_count && r == 0; i++) {
        BUFFER_OWNED struct buffer target = {0};
        buffer_append_string(&target, path);
        request_add_query(&target, "allow", arguments->words[i]);
        request_add_query(&target, "direction", direction);
        request_add_query(&target, "peer", peer);
        json_decref(group);
        group = NULL;
        r = request_json("DELETE", buffer_string(&target), NULL, &group, err);
    }
    return r < 0 ? r
                 : print_done(arguments, group, err, "security group %s allows it no more",
                              arguments->words[0]);
}
