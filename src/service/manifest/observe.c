/*
 * What is there, as the spec that would make it.
 *
 * Most fields of an answer are called as in the request; what is not is put right here.  Values
 * that a service has chosen itself are in it as well: only what somebody asks for is compared.
 */
#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "service/manifest/parts.h"

/* ---- Answers ---- */

static bool is_empty(const json_t *value)
{
    return json_is_null(value) || (json_is_string(value) && json_string_length(value) == 0) ||
        (json_is_object(value) && json_object_size(value) == 0);
}

static void drop_empty_members(json_t *object)
{
    const char *key = NULL;
    json_t *member = NULL;
    void *next = NULL;
    json_object_foreach_safe(object, next, key, member)
    {
        if (is_empty(member)) {
            json_object_del(object, key);
        }
    }
}

/* The members that a type has, too, but for empty ones. */
static void take_members(json_t *spec, const char *type, const json_t *answer)
{
    for (const struct schema_field *field = schema_first(type); field != NULL;
         field = schema_next(field)) {
        json_t *value = json_object_get(answer, field->name);
        if (value != NULL && strcmp(field->name, "name") != 0 && !is_empty(value)) {
            json_t *copy = json_deep_copy(value);
            drop_empty_members(copy);
            json_object_set_new(spec, field->name, copy);
        }
    }
}

/* The version that is called, or the newest one. */
static void take_function(json_t *spec, const json_t *answer)
{
    json_t *version = json_object_get(answer, "version");
    const json_t *machine = json_object_get(version, "linux");
    take_members(spec, "Deploy", version);
    if (json_is_object(machine)) {
        take_members(spec, "Deploy", machine);
    } else {
        json_object_del(spec, "runtime"); /* wasm, unless it is said */
    }
}

/* "7", or "v7=90 v8=10". */
static void take_alias(json_t *spec, const char *name, const json_t *answer)
{
    const char *alias = strchr(name, ':') + 1;
    const char *text = json_text(json_object_get(answer, "aliases"), alias);
    json_t *sticky = json_object_get(json_object_get(answer, "sticky"), alias);
    uint64_t whole = 0;
    if (sticky != NULL) {
        json_object_set(spec, "sticky", sticky);
    }
    if (text_parse_u64(text_of(text, strlen(text)), &whole)) {
        json_object_set_new(spec, "version", json_integer((json_int_t)whole));
        return;
    }
    json_t *weights = json_object();
    while (*text != '\0') {
        size_t length = strcspn(text, " ");
        size_t equal = strcspn(text, "=");
        if (text[0] == 'v' && equal < length) {
            MEMORY_OWNED char *version = memory_copy_text(text + 1, equal - 1);
            json_object_set_new(weights, version,
                                json_stringn(text + equal + 1, length - equal - 1));
        }
        text += length + (text[length] == ' ');
    }
    json_object_set_new(spec, "weights", weights);
}

static void take_networks(json_t *spec, const json_t *answer)
{
    size_t index = 0;
    json_t *nic = NULL;
    const json_t *interfaces = json_object_get(answer, "interfaces");
    json_t *networks = json_array();
    json_array_foreach(interfaces, index, nic)
    {
        json_array_append_new(networks, json_deep_copy(nic));
    }
    if (json_array_size(networks) > 0) {
        json_object_set(spec, "networks", networks);
    }
    json_decref(networks);
}

json_t *observe_digest(const char *text)
{
    char digest[HASH_TEXT_SIZE];
    hash_bytes(text, strlen(text), digest);
    return json_sprintf("sha256:%s", digest);
}

static void take_user_data(json_t *spec, const json_t *answer)
{
    const char *digest = json_text(answer, "user_data_digest");
    if (digest[0] != '\0') {
        json_object_set_new(spec, "user_data", json_sprintf("sha256:%s", digest));
    }
}

/* How many there are, in place of what is in each. */
static void take_partitions(json_t *spec)
{
    json_object_set_new(
        spec, "partitions",
        json_integer((json_int_t)json_array_size(json_object_get(spec, "partitions"))));
}

static void take_clone(json_t *spec, const json_t *answer)
{
    const char *from = json_text(answer, "from");
    const char *at = strchr(from, '@');
    if (at != NULL) {
        json_object_set_new(spec, "from_volume", json_stringn(from, (size_t)(at - from)));
        json_object_set_new(spec, "from_snapshot", json_string(at + 1));
    }
}

/* Of each of a list what can be asked for, without what it is now. */
static void keep_settings(const json_t *list, const char *type)
{
    size_t index = 0;
    json_t *item = NULL;
    const char *key = NULL;
    json_t *member = NULL;
    void *next = NULL;
    json_array_foreach(list, index, item)
    {
        json_object_foreach_safe(item, next, key, member)
        {
            if (schema_find(type, key) == NULL) {
                json_object_del(item, key);
            }
        }
    }
}

json_t *observe_spec(const struct manifest_kind *kind, const char *name, const json_t *reply)
{
    json_t *spec = json_object();
    if (kind->way == WAY_FUNCTION) {
        take_function(spec, reply);
    } else if (kind->way == WAY_ALIAS) {
        take_alias(spec, name, reply);
    } else {
        take_members(spec, kind->create, reply);
    }
    if (strcmp(kind->name, "Machine") == 0) {
        take_networks(spec, reply);
        take_user_data(spec, reply);
    } else if (strcmp(kind->name, "Volume") == 0) {
        take_clone(spec, reply);
    } else if (strcmp(kind->name, "Stream") == 0) {
        take_partitions(spec);
    } else if (kind->way == WAY_GROUP && json_object_get(spec, "rules") == NULL) {
        json_object_set_new(spec, "rules", json_array());
    } else if (kind->way == WAY_NODE) {
        json_t *role = json_object_get(reply, "wanted_role");
        json_object_set(spec, "role", role);
        keep_settings(json_object_get(spec, "windows"), "NodeWindowSpec");
    }
    if (kind->way == WAY_GROUP) {
        const struct origin nowhere = {"", NULL};
        struct error ignored = {0};
        spec_check(kind, spec, &nowhere, &ignored); /* rules in their order */
    }
    return spec;
}

/* ---- Comparing ---- */

/* Whatever the order: each of these is among those, and there are as many, or more where `may_have
 * _more`. */
static bool contains_all(const json_t *have, const json_t *want, bool may_have_more)
{
    size_t wanted = 0;
    size_t there = 0;
    json_t *item = NULL;
    json_t *other = NULL;
    json_array_foreach(want, wanted, item)
    {
        bool found = false;
        json_array_foreach(have, there, other)
        {
            found = found || observe_contains(other, item);
        }
        if (!found) {
            return false;
        }
    }
    return may_have_more || json_array_size(have) == json_array_size(want);
}

bool observe_contains(const json_t *have, const json_t *want)
{
    const char *key = NULL;
    size_t index = 0;
    json_t *member = NULL;
    if (json_is_number(have) && json_is_number(want)) {
        double difference = json_number_value(have) - json_number_value(want);
        return difference > -1e-9 && difference < 1e-9;
    }
    if (json_is_object(have) && json_is_object(want)) {
        json_object_foreach((json_t *)(uintptr_t)want, key, member)
        {
            if (!observe_contains(json_object_get(have, key), member)) {
                return false;
            }
        }
        return true;
    }
    if (json_is_array(have) && json_is_array(want)) {
        json_array_foreach(want, index, member)
        {
            if (!observe_contains(json_array_get(have, index), member)) {
                return false;
            }
        }
        return json_array_size(have) == json_array_size(want);
    }
    return json_equal(have, want) == 1;
}

bool observe_equal(const struct manifest_kind *kind, const char *path, const json_t *have,
                   const json_t *want)
{
    bool is_machine = strcmp(kind->name, "Machine") == 0;
    if (is_machine && strcmp(path, "environment") == 0) {
        return contains_all(have, want, true); /* besides the image's */
    }
    bool is_set = is_machine
        ? strcmp(path, "volumes") == 0
        : kind->way == WAY_NODE && (strcmp(path, "taints") == 0 || strcmp(path, "windows") == 0);
    if (is_set) {
        return contains_all(have, want, false);
    }
    bool is_none = want == NULL || (json_is_array(want) && json_array_size(want) == 0);
    bool has_none = have == NULL || (json_is_array(have) && json_array_size(have) == 0);
    return is_none || has_none ? is_none && has_none : observe_contains(have, want);
}

bool observe_can_see(const struct manifest_kind *kind, const char *path)
{
    static const struct {
        const char *kind, *field;
    } seen[] = {{"Machine", "networks"},
                {"Machine", "user_data"},
                {"Volume", "from_volume"},
                {"Volume", "from_snapshot"}};
    size_t length = strcspn(path, ".");
    MEMORY_OWNED char *field = memory_copy_text(path, length);
    for (size_t i = 0; i < sizeof(seen) / sizeof(seen[0]); i++) {
        if (strcmp(seen[i].kind, kind->name) == 0 && strcmp(seen[i].field, field) == 0) {
            return true;
        }
    }
    return kind->way == WAY_FUNCTION || kind->way == WAY_ALIAS ||
        schema_find(kind->reply, field) != NULL;
}
