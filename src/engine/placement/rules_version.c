/*
 * Versions: up to eight numbers with dots between, a leading `v`, and a pre-release behind `-`;
 * what stands behind `+` is left out.  1.2 is 1.2.0, and 1.2-rc1 is before 1.2; pre-releases are
 * compared as texts.  Bounds are a list: `>= 1.2, < 2`; `~> 1.2.3` is `>= 1.2.3, < 1.3`. Sources:
 * semver.org 2.0.0, 9 to 11; Nomad's `version`.
 */
#include <string.h>

#include "base/error.h"
#include "base/text.h"

#include "engine/placement/rule.h"

#define PRE_CHARACTERS "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-."

static bool read_parts(struct text text, struct version *version)
{
    size_t at = 0;
    while (version->count < VERSION_PARTS_MAX) {
        size_t begin = at;
        while (at < text.length && text.data[at] >= '0' && text.data[at] <= '9') {
            at++;
        }
        if (!text_parse_u64(text_of(text.data + begin, at - begin),
                            &version->parts[version->count])) {
            return false;
        }
        version->count++;
        if (at == text.length) {
            return true;
        }
        if (text.data[at++] != '.') {
            return false;
        }
    }
    return false;
}

static bool read_text(struct text text, struct version *ret_version)
{
    struct version version = {0};
    const char *plus = text.length > 0 ? memchr(text.data, '+', text.length) : NULL;
    if (plus != NULL) {
        text.length = (size_t)(plus - text.data);
    }
    if (text.length > 0 && text.data[0] == 'v') {
        text = text_of(text.data + 1, text.length - 1);
    }
    const char *minus = text.length > 0 ? memchr(text.data, '-', text.length) : NULL;
    if (minus != NULL) {
        size_t length = text.length - (size_t)(minus + 1 - text.data);
        if (length == 0 || length > VERSION_PRE_MAX) {
            return false;
        }
        memcpy(version.pre, minus + 1, length);
        if (strspn(version.pre, PRE_CHARACTERS) != length) {
            return false;
        }
        text.length = (size_t)(minus - text.data);
    }
    if (!read_parts(text, &version)) {
        return false;
    }
    *ret_version = version;
    return true;
}

bool version_read(const char *text, struct version *ret_version)
{
    return read_text(text_trim(text_of(text, strlen(text))), ret_version);
}

int version_compare(const struct version *a, const struct version *b)
{
    for (size_t i = 0; i < VERSION_PARTS_MAX; i++) {
        if (a->parts[i] != b->parts[i]) {
            return a->parts[i] < b->parts[i] ? -1 : 1;
        }
    }
    if ((a->pre[0] == 0) != (b->pre[0] == 0)) {
        return a->pre[0] == 0 ? 1 : -1;
    }
    int difference = strcmp(a->pre, b->pre);
    return difference < 0 ? -1 : difference > 0;
}

static int add_bound(struct rule *rule, enum placement_operator op, const struct version *version,
                     struct error *err)
{
    if (rule->bound_count == VERSION_BOUNDS_MAX) {
        return error_set(err, ERROR_LIMIT, "a version has at most %d bounds", VERSION_BOUNDS_MAX);
    }
    rule->bounds[rule->bound_count++] = (struct version_bound){op, *version};
    return 0;
}

/* ~> 1.2.3: below 1.3; ~> 1: below 2. */
static struct version next_of(const struct version *version)
{
    struct version next = {.count = version->count > 1 ? version->count - 1 : 1};
    memcpy(next.parts, version->parts, next.count * sizeof(next.parts[0]));
    next.parts[next.count - 1]++;
    return next;
}

static int read_bound(struct text text, struct rule *rule, struct error *err)
{
    static const struct {
        const char *sign;
        enum placement_operator op;
    } signs[] = {
        {">=", PLACEMENT_GREATER_EQUAL}, {"<=", PLACEMENT_LESS_EQUAL}, {"!=", PLACEMENT_NOT_EQUAL},
        {"~>", PLACEMENT_REGEXP},        {">", PLACEMENT_GREATER},     {"<", PLACEMENT_LESS},
        {"=", PLACEMENT_EQUAL},          {"", PLACEMENT_EQUAL},
    };
    size_t i = 0;
    while (strlen(signs[i].sign) > text.length ||
           memcmp(signs[i].sign, text.data, strlen(signs[i].sign)) != 0) {
        i++;
    }
    size_t sign_length = strlen(signs[i].sign);
    struct text rest = text_trim(text_of(text.data + sign_length, text.length - sign_length));
    struct version version;
    if (!read_text(rest, &version)) {
        return error_set(err, ERROR_INVALID, "\"%.*s\" is no version", (int)rest.length, rest.data);
    }
    if (signs[i].op != PLACEMENT_REGEXP) {
        return add_bound(rule, signs[i].op, &version, err);
    }
    struct version next = next_of(&version);
    int r = add_bound(rule, PLACEMENT_GREATER_EQUAL, &version, err);
    return r < 0 ? r : add_bound(rule, PLACEMENT_LESS, &next, err);
}

int version_read_bounds(const char *text, struct rule *rule, struct error *err)
{
    for (;;) {
        size_t length = strcspn(text, ",");
        int r = read_bound(text_trim(text_of(text, length)), rule, err);
        if (r < 0) {
            return r;
        }
        if (text[length] == 0) {
            return 0;
        }
        text += length + 1;
    }
}

bool version_within(const struct version *version, const struct rule *rule)
{
    for (size_t i = 0; i < rule->bound_count; i++) {
        int order = version_compare(version, &rule->bounds[i].version);
        bool holds = false;
        switch (rule->bounds[i].op) {
        case PLACEMENT_EQUAL:
            holds = order == 0;
            break;
        case PLACEMENT_NOT_EQUAL:
            holds = order != 0;
            break;
        case PLACEMENT_GREATER:
            holds = order > 0;
            break;
        case PLACEMENT_GREATER_EQUAL:
            holds = order >= 0;
            break;
        case PLACEMENT_LESS:
            holds = order < 0;
            break;
        case PLACEMENT_LESS_EQUAL:
            holds = order <= 0;
            break;
        default:
            break;
        }
        if (!holds) {
            return false;
        }
    }
    return true;
}
