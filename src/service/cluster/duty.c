/*
 * Whether nodes take work: cordons, taints, pools; and what nodes say that they have.  Columns of
 * the table `node` since version 8 of the state.
 */
#include <string.h>

#include "base/text.h"

#include "service/cluster/parts.h"

enum { SCHEMA_WITH_DUTY = 8, TAINTS_MAX = 32, TAINT_VALUE_MAX = 128, ATTRIBUTES_MAX = 131072 };

static const char *const duties[CLUSTER_DUTY_COUNT] = {
    [CLUSTER_ACTIVE] = "active",
    [CLUSTER_CORDONED] = "cordoned",
    [CLUSTER_DRAINING] = "draining",
    [CLUSTER_DRAINED] = "drained",
};

const char *cluster_duty_text(enum cluster_duty duty)
{
    CHECK(duty < CLUSTER_DUTY_COUNT);
    return duties[duty];
}

/* What a newer program may write counts as one that takes nothing. */
enum cluster_duty duty_parse(const char *text)
{
    for (int i = 0; i < CLUSTER_DUTY_COUNT; i++) {
        if (text != NULL && strcmp(text, duties[i]) == 0) {
            return (enum cluster_duty)i;
        }
    }
    return CLUSTER_CORDONED;
}

bool duty_is_known(struct cluster *cluster)
{
    return store_schema_now(cluster->store) >= SCHEMA_WITH_DUTY;
}

int duty_check_pool(const char *pool, struct error *err)
{
    return text_is_name(pool)
        ? 0
        : error_set(err, ERROR_INVALID,
                    "$.pool: \"%.64s\" is no name: 1 to 63 of a-z, 0-9 and '-', beginning with a "
                    "letter",
                    pool);
}

static int find(struct cluster *cluster, const char *name, struct member **ret_member,
                struct error *err)
{
    int r = change_find_node(cluster, name, ret_member, err);
    if (r == 0 && !duty_is_known(cluster)) {
        r = error_set(err, ERROR_UNSUPPORTED, "not all nodes know this yet: upgrade them first");
    }
    return r;
}

/* ---- Cordons ---- */

void cluster_cordon_node(struct cluster *cluster, const char *name, bool is_cordoned,
                         struct cluster_reply reply)
{
    struct error err = {0};
    struct member *member = NULL;
    int r = find(cluster, name, &member, &err);
    if (r == 0 && (member->duty == CLUSTER_DRAINING || member->duty == CLUSTER_DRAINED)) {
        r = error_set(&err, ERROR_CONFLICT,
                      "node %s is %s, and takes nothing: `blixard node restore %s` ends that", name,
                      cluster_duty_text(member->duty), name);
    }
    if (r < 0) {
        reply_error(cluster, reply, &err);
        return;
    }
    struct store_command *command = store_command_new();
    store_command_add_expecting(
        command, ERROR_CONFLICT, "something else was asked of the node meanwhile",
        "UPDATE node SET duty = ?, revision = ? WHERE id = ? AND duty IN ('active', 'cordoned')",
        "tru", cluster_duty_text(is_cordoned ? CLUSTER_CORDONED : CLUSTER_ACTIVE), member->id);
    change_propose(change_of_node(cluster, name, reply), command);
}

/* ---- Taints ---- */

static int check_taint(const char *key, const char *value, const char *effect, struct error *err)
{
    if (effect == NULL) { /* it is taken off, whatever it is */
        return 0;
    }
    if (!text_is_key(key) ||
        (value != NULL && (strlen(value) > TAINT_VALUE_MAX || !text_is_printable(value)))) {
        return error_set(err, ERROR_INVALID,
                         "the key of a taint is 1 to 63 of A-Z a-z 0-9 - _ . and /, and its value "
                         "at most %d bytes of UTF-8 without control characters",
                         TAINT_VALUE_MAX);
    }
    bool is_one = strcmp(effect, "NoSchedule") == 0 || strcmp(effect, "PreferNoSchedule") == 0 ||
        strcmp(effect, "NoExecute") == 0;
    return is_one
        ? 0
        : error_set(err, ERROR_INVALID,
                    "$.effect is NoSchedule, PreferNoSchedule or NoExecute, not \"%.32s\"", effect);
}

static size_t index_of(const json_t *taints, const char *key)
{
    size_t index = 0;
    json_t *taint = NULL;
    json_array_foreach(taints, index, taint)
    {
        if (strcmp(json_text(taint, "key"), key) == 0) {
            break;
        }
    }
    return index;
}

static int change_taints(const struct member *member, const char *key, const char *value,
                         const char *effect, struct buffer *ret_taints, struct error *err)
{
    JSON_OWNED json_t *taints = NULL;
    if (json_read(member->taints, strlen(member->taints), &taints, err) < 0 ||
        !json_is_array(taints)) {
        return error_set(err, ERROR_CORRUPT, "the taints of node %s", member->name);
    }
    size_t index = index_of(taints, key);
    bool is_there = index < json_array_size(taints);
    if (effect == NULL && !is_there) {
        return error_set(err, ERROR_NOT_FOUND, "node %s has no taint %.64s", member->name, key);
    }
    if (is_there) {
        json_array_remove(taints, index);
    }
    if (effect != NULL) {
        json_array_append_new(taints,
                              json_pack("{s:s, s:s, s:s}", "key", key, "value",
                                        value != NULL ? value : "", "effect", effect));
    }
    if (json_array_size(taints) > TAINTS_MAX) {
        return error_set(err, ERROR_LIMIT, "a node has at most %d taints", TAINTS_MAX);
    }
    MEMORY_OWNED char *text = json_dumps(taints, JSON_COMPACT);
    CHECK(text != NULL);
    buffer_append_string(ret_taints, text);
    return 0;
}

void cluster_taint_node(struct cluster *cluster, const char *name, const char *key,
                        const char *value_or_null, const char *effect_or_null,
                        struct cluster_reply reply)
{
    struct error err = {0};
    struct member *member = NULL;
    BUFFER_OWNED struct buffer taints = {0};
    int r = find(cluster, name, &member, &err);
    r = r < 0 ? r : check_taint(key, value_or_null, effect_or_null, &err);
    r = r < 0 ? r : change_taints(member, key, value_or_null, effect_or_null, &taints, &err);
    if (r < 0) {
        reply_error(cluster, reply, &err);
        return;
    }
    struct store_command *command = store_command_new();
    store_command_add_expecting(
        command, ERROR_CONFLICT, "the taints were changed meanwhile: look, and say it again",
        "UPDATE node SET taints = ?, revision = ? WHERE id = ? AND taints = ?", "trut",
        buffer_string(&taints), member->id, member->taints);
    change_propose(change_of_node(cluster, effect_or_null != NULL ? name : "", reply), command);
}

/* ---- What a node has ---- */

void cluster_set_attributes(struct cluster *cluster, const char *attributes)
{
    CHECK(strlen(attributes) < ATTRIBUTES_MAX);
    if (cluster->attributes == NULL || strcmp(cluster->attributes, attributes) != 0) {
        free(cluster->attributes);
        cluster->attributes = memory_copy_string(attributes);
    }
}

static void on_announced(const struct error *error, uint64_t index, void *context)
{
    struct cluster *cluster = context;
    (void)index;
    cluster->announces_attributes = false;
    if (error != NULL) {
        log_debug("cluster: what this node has is not written yet: %s", error->text);
    }
}

void duty_announce(struct cluster *cluster)
{
    const struct member *self = member_self(cluster);
    struct store_status status;
    store_status(cluster->store, &status);
    if (cluster->attributes == NULL || cluster->announces_attributes || self == NULL ||
        !status.ready || !duty_is_known(cluster) ||
        strcmp(self->attributes, cluster->attributes) == 0) {
        return;
    }
    struct store_command *command = store_command_new();
    cluster->announces_attributes = true;
    store_command_add(command, "UPDATE node SET attributes = ?, revision = ? WHERE id = ?", "tru",
                      cluster->attributes, self->id);
    store_propose(cluster->store, command, on_announced, cluster);
}
