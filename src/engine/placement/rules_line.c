/* Rules as people type them: one line each, into the object that stands for it. */
#include <string.h>

#include "base/error.h"
#include "base/json.h"
#include "base/memory.h"

#include "engine/placement/rule.h"

enum { LINE_MAX = 4096 };

int placement_check_name(const char *name, struct error *err)
{
    return text_is_key(name)
        ? 0
        : error_set(err, ERROR_INVALID,
                    "a name is 1 to 63 of A-Z a-z 0-9 - _ . and /, which a name of %zu bytes here "
                    "is not",
                    strlen(name));
}

int placement_check_value(const char *value, struct error *err)
{
    size_t length = strlen(value);
    if (length > PLACEMENT_VALUE_MAX) {
        return error_set(err, ERROR_INVALID, "a value has at most %d bytes, and one here has %zu",
                         PLACEMENT_VALUE_MAX, length);
    }
    if (!text_is_printable(value)) {
        return error_set(err, ERROR_INVALID,
                         "a value is UTF-8 without newlines and other control characters");
    }
    return 0;
}

bool rule_is_distinct(enum placement_operator op)
{
    return op == PLACEMENT_DISTINCT_HOSTS || op == PLACEMENT_DISTINCT_PROPERTY;
}

int rule_canonical_attribute(const char *name, char **ret_attribute, struct error *err)
{
    static const char *const known[][2] = {
        {"node", "node.name"},          {"zone", "node.zone"},      {"rack", "node.rack"},
        {"region", "node.region"},      {"pool", "node.pool"},      {"node.id", "node.id"},
        {"node.name", "node.name"},     {"node.pool", "node.pool"}, {"node.zone", "node.zone"},
        {"node.region", "node.region"}, {"node.rack", "node.rack"},
    };
    size_t length = strlen(name);
    struct text text = text_of(name, length);
    if (length > 3 && name[0] == '$' && name[1] == '{' && name[length - 1] == '}') {
        text = text_of(name + 2, length - 3);
    }
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        if (text_equal(text, known[i][0])) {
            *ret_attribute = memory_copy_string(known[i][1]);
            return 0;
        }
    }
    MEMORY_OWNED char *inner = memory_copy_text(text.data, text.length);
    struct error ignored;
    bool is_free = text_starts_with(inner, "label.") || text_starts_with(inner, "attr.");
    if (!is_free || placement_check_name(strchr(inner, '.') + 1, &ignored) < 0) {
        return error_set(err, ERROR_INVALID,
                         "%.100s is no attribute: ${node.name}, node.id, node.zone, node.rack, "
                         "node.region, node.pool, ${label.NAME} or ${attr.NAME}",
                         text_is_printable(name) ? name : "this");
    }
    *ret_attribute = inner;
    inner = NULL;
    return 0;
}

int rule_parse_operator(const char *name, enum placement_operator *ret_operator, struct error *err)
{
    for (enum placement_operator i = 0; i < PLACEMENT_OPERATOR_COUNT; i++) {
        if (strcmp(placement_operator_name(i), name) == 0) {
            *ret_operator = i;
            return 0;
        }
    }
    if (strcmp(name, "==") == 0 || strcmp(name, "is") == 0) {
        *ret_operator = PLACEMENT_EQUAL;
        return 0;
    }
    return error_set(err, ERROR_INVALID,
                     "%.32s is no operator: = != > >= < <= regexp version set_contains "
                     "set_contains_any is_set is_not_set distinct_hosts distinct_property",
                     text_is_printable(name) ? name : "this");
}

int rule_parse_effect(const char *name, enum placement_effect *ret_effect, struct error *err)
{
    for (enum placement_effect i = PLACEMENT_ANY_EFFECT; i <= PLACEMENT_NO_EXECUTE; i++) {
        if (strcmp(placement_effect_name(i), name) == 0) {
            *ret_effect = i;
            return 0;
        }
    }
    return error_set(err, ERROR_INVALID,
                     "%.32s is no effect: NoSchedule, PreferNoSchedule or NoExecute",
                     text_is_printable(name) ? name : "this");
}

/* ---- Lines ---- */

/* The next word, and what is behind it; empty at the end. */
static struct text take_word(const char **at)
{
    *at += strspn(*at, " \t");
    size_t length = strcspn(*at, " \t");
    struct text word = text_of(*at, length);
    *at += length;
    *at += strspn(*at, " \t");
    return word;
}

/* A sign and digits, the whole word. */
static bool read_weight(struct text word, int *ret_weight)
{
    bool negative = word.length > 1 && word.data[0] == '-';
    bool positive = word.length > 1 && word.data[0] == '+';
    size_t skip = negative || positive ? 1 : 0;
    uint64_t value;
    if (!text_parse_u64(text_of(word.data + skip, word.length - skip), &value) || value > 1000000) {
        return false;
    }
    *ret_weight = negative ? -(int)value : (int)value;
    return true;
}

static void set_text(json_t *object, const char *key, struct text text)
{
    json_object_set_new(object, key, json_stringn(text.data, text.length));
}

/* A word, or signs that may stand without spaces: "= a", "=a", "version>=6.1". */
static struct text take_operator(const char **at)
{
    static const char signs[] = "=!<>~";
    static const char version[] = "version";
    size_t length = strspn(*at, signs);
    if (length == 0 && strncmp(*at, version, strlen(version)) == 0 &&
        strspn(*at + strlen(version), signs) > 0) {
        length = strlen(version);
    }
    if (length == 0) {
        return take_word(at);
    }
    struct text found = text_of(*at, length);
    *at += length;
    return found;
}

/* ATTRIBUTE OPERATOR [VALUE], or distinct_hosts alone. */
static int parse_comparison(const char *at, json_t *object, struct error *err)
{
    struct text first = take_word(&at);
    if (text_equal(first, "distinct_hosts") && *at == 0) {
        set_text(object, "operator", first);
        return 0;
    }
    size_t length = first.length > 0 ? strcspn(first.data, "=!<> \t") : 0;
    if (length < first.length) { /* "zone=a" */
        at = first.data + length;
        first.length = length;
    }
    struct text sign = take_operator(&at);
    if (first.length == 0 || sign.length == 0) {
        return error_set(err, ERROR_INVALID,
                         "a constraint is ATTRIBUTE OPERATOR VALUE, as in ${label.disk} = ssd");
    }
    set_text(object, "attribute", first);
    set_text(object, "operator", sign);
    struct text value = text_trim(text_of(at, strlen(at)));
    if (value.length > 0) {
        set_text(object, "value", value);
    }
    return 0;
}

static int parse_affinity(const char *at, json_t *object, struct error *err)
{
    int weight;
    if (!read_weight(take_word(&at), &weight)) {
        return error_set(err, ERROR_INVALID,
                         "an affinity begins with its weight, as in 50 ${label.disk} = ssd");
    }
    json_object_set_new(object, "weight", json_integer(weight));
    return parse_comparison(at, object, err);
}

static int parse_spread(const char *at, json_t *object, struct error *err)
{
    struct text word = take_word(&at);
    int weight;
    if (read_weight(word, &weight)) {
        json_object_set_new(object, "weight", json_integer(weight));
        word = take_word(&at);
    }
    set_text(object, "attribute", word);
    if (*at == 0) {
        return 0;
    }
    json_t *targets = json_object();
    json_object_set_new(object, "targets", targets);
    while (*at != 0) {
        word = take_word(&at);
        size_t length = word.length;
        while (length > 0 && word.data[length - 1] != '=') {
            length--;
        }
        uint64_t percent;
        if (length < 2 ||
            !text_parse_u64(text_of(word.data + length, word.length - length), &percent) ||
            percent > 100) {
            return error_set(err, ERROR_INVALID, "a target is VALUE=PERCENT, as in north=60");
        }
        json_object_setn_new(targets, word.data, length - 1, json_integer((json_int_t)percent));
    }
    return 0;
}

static int parse_toleration(const char *line, json_t *object, struct error *err)
{
    struct text text = text_trim(text_of(line, strlen(line)));
    if (text_equal(text, "*")) {
        return 0;
    }
    const char *end = text.data + text.length;
    const char *colon = memchr(text.data, ':', text.length);
    size_t length = colon != NULL ? (size_t)(colon - text.data) : text.length;
    const char *equals = memchr(text.data, '=', length);
    size_t key_length = equals != NULL ? (size_t)(equals - text.data) : length;
    set_text(object, "key", text_of(text.data, key_length));
    if (equals != NULL) {
        set_text(object, "value", text_of(equals + 1, length - key_length - 1));
    }
    if (colon == NULL) {
        return 0;
    }
    const char *second = memchr(colon + 1, ':', (size_t)(end - colon - 1));
    const char *effect_end = second != NULL ? second : end;
    set_text(object, "effect", text_of(colon + 1, (size_t)(effect_end - colon - 1)));
    uint64_t limit;
    if (second != NULL) {
        if (!text_parse_u64(text_of(second + 1, (size_t)(end - second - 1)), &limit) ||
            limit > UINT32_MAX) {
            return error_set(err, ERROR_INVALID,
                             "a toleration is KEY[=VALUE][:EFFECT[:SECONDS]], or *");
        }
        json_object_set_new(object, "seconds", json_integer((json_int_t)limit));
    }
    return 0;
}

int placement_rule_parse(const char *kind, const char *line, json_t **ret_object, struct error *err)
{
    static const struct {
        const char *kind;
        int (*parse)(const char *line, json_t *object, struct error *err);
    } kinds[] = {
        {"constraint", parse_comparison},
        {"affinity", parse_affinity},
        {"spread", parse_spread},
        {"toleration", parse_toleration},
    };
    if (strlen(line) > LINE_MAX || !text_is_printable(line)) {
        return error_set(err, ERROR_INVALID,
                         "a rule is one line of at most %d bytes, UTF-8 without newlines and other "
                         "control characters",
                         LINE_MAX);
    }
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if (strcmp(kinds[i].kind, kind) == 0) {
            json_t *object = json_object();
            int r = kinds[i].parse(line, object, err);
            if (r < 0) {
                json_decref(object);
                return r;
            }
            *ret_object = object;
            return 0;
        }
    }
    return error_set(err, ERROR_INVALID, "%.32s is no kind of rule", kind);
}

/* ---- Taints ---- */

int placement_taint_parse(const char *line, struct placement_taint *ret_taint, struct error *err)
{
    struct placement_taint taint = {0};
    const char *colon = strrchr(line, ':');
    if (colon == NULL || colon[1] == 0) {
        return error_set(err, ERROR_INVALID,
                         "a taint is KEY[=VALUE]:EFFECT, as in gpu=yes:NoSchedule");
    }
    int r = rule_parse_effect(colon + 1, &taint.effect, err);
    if (r < 0) {
        return r;
    }
    size_t length = (size_t)(colon - line);
    const char *equals = memchr(line, '=', length);
    size_t key_length = equals != NULL ? (size_t)(equals - line) : length;
    size_t value_length = equals != NULL ? length - key_length - 1 : 0;
    if (key_length > PLACEMENT_NAME_MAX || value_length > PLACEMENT_VALUE_MAX) {
        return error_set(err, ERROR_INVALID, "the taint is too long");
    }
    memcpy(taint.key, line, key_length);
    if (equals != NULL) {
        memcpy(taint.value, equals + 1, value_length);
    }
    r = placement_check_name(taint.key, err);
    r = r < 0 ? r : placement_check_value(taint.value, err);
    if (r < 0) {
        return r;
    }
    *ret_taint = taint;
    return 0;
}

void placement_taint_text(const struct placement_taint *taint, char *ret_text, size_t size)
{
    snprintf(ret_text, size, "%s%s%s:%s", taint->key, taint->value[0] != 0 ? "=" : "", taint->value,
             placement_effect_name(taint->effect));
}
