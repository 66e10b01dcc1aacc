/*
 * JSON patterns, as EventBridge has them: an object says what members are to be like; an array, of
 * which values one is to be there.  A value that is an array is there when one of its items is.
 */
#include <math.h>
#include <string.h>
#include <strings.h>

#include "base/error.h"
#include "base/memory.h"

#include "service/event/parts.h"

enum { DEPTH_MAX = 16, STEPS_OF_TEST = 8 };

static json_t *lent(const json_t *value)
{
    return (json_t *)(uintptr_t)value;
}

static bool is_scalar(const json_t *value)
{
    return value != NULL && !json_is_array(value) && !json_is_object(value);
}

/* ---- Checking ---- */

static int wrong(struct error *err, const char *path, const char *what)
{
    return error_set(err, ERROR_INVALID, "filter, at %s: %s", path, what);
}

static int check_numeric(const json_t *list, const char *path, struct error *err)
{
    size_t count = json_array_size(list);
    if (!json_is_array(list) || count == 0 || count % 2 != 0 || count > 8) {
        return wrong(err, path, "numeric takes pairs, as [\">\", 0, \"<=\", 5]");
    }
    for (size_t i = 0; i < count; i += 2) {
        const char *op = json_string_value(json_array_get(list, i));
        bool is_op = op != NULL &&
            (strcmp(op, "=") == 0 || strcmp(op, "!=") == 0 || strcmp(op, "<") == 0 ||
             strcmp(op, "<=") == 0 || strcmp(op, ">") == 0 || strcmp(op, ">=") == 0);
        if (!is_op || !json_is_number(json_array_get(list, i + 1))) {
            return wrong(err, path, "numeric takes = != < <= > >=, each with a number");
        }
    }
    return 0;
}

static int check_anything_but(const json_t *value, const char *path, struct error *err)
{
    size_t index = 0;
    json_t *item = NULL;
    if (json_is_object(value)) {
        const json_t *prefix = json_object_get(value, "prefix");
        const json_t *suffix = json_object_get(value, "suffix");
        bool is_good =
            json_object_size(value) == 1 && (json_is_string(prefix) || json_is_string(suffix));
        return is_good ? 0
                       : wrong(err, path, "anything-but takes {\"prefix\": s} or {\"suffix\": s}");
    }
    json_array_foreach(value, index, item)
    {
        if (!is_scalar(item)) {
            return wrong(err, path, "anything-but takes scalars");
        }
    }
    return 0;
}

static int check_test(const json_t *test, const char *path, struct error *err)
{
    static const char *const of_text[] = {"prefix", "suffix", "equals-ignore-case", "wildcard"};
    if (is_scalar(test)) {
        return 0;
    }
    if (!json_is_object(test) || json_object_size(test) != 1) {
        return wrong(err, path, "an item is a scalar or an object with one operator");
    }
    const char *name = json_object_iter_key(json_object_iter(lent(test)));
    const json_t *value = json_object_get(test, name);
    for (size_t i = 0; i < sizeof(of_text) / sizeof(of_text[0]); i++) {
        if (strcmp(name, of_text[i]) == 0) {
            return json_is_string(value) ? 0 : wrong(err, path, "the operator takes a string");
        }
    }
    if (strcmp(name, "exists") == 0) {
        return json_is_boolean(value) ? 0 : wrong(err, path, "exists takes true or false");
    }
    if (strcmp(name, "numeric") == 0) {
        return check_numeric(value, path, err);
    }
    if (strcmp(name, "anything-but") == 0) {
        return check_anything_but(value, path, err);
    }
    return wrong(err, path,
                 "operators are prefix, suffix, equals-ignore-case, wildcard, anything-but, "
                 "numeric, exists");
}

static int check(const json_t *pattern, const char *path, unsigned depth, struct error *err);

static int check_list(const json_t *list, const char *path, bool is_or, unsigned depth,
                      struct error *err)
{
    size_t index = 0;
    json_t *item = NULL;
    if (json_array_size(list) == 0) {
        return wrong(err, path, "an empty list matches nothing");
    }
    json_array_foreach(list, index, item)
    {
        int r = is_or ? check(item, path, depth + 1, err) : check_test(item, path, err);
        if (r < 0) {
            return r;
        }
    }
    return 0;
}

static int check(const json_t *pattern, const char *path, unsigned depth, struct error *err)
{
    const char *name = NULL;
    json_t *value = NULL;
    if (!json_is_object(pattern) || json_object_size(pattern) == 0) {
        return wrong(err, path, "a pattern is an object with at least one member");
    }
    if (depth > DEPTH_MAX) {
        return wrong(err, path, "too deep");
    }
    json_object_foreach(lent(pattern), name, value)
    {
        MEMORY_OWNED char *inner = memory_format("%.200s.%.64s", path, name);
        bool is_or = strcmp(name, "$or") == 0;
        if (!json_is_array(value) && (is_or || !json_is_object(value))) {
            return wrong(err, inner, "values are listed in an array, as [\"x\"]");
        }
        int r = json_is_array(value) ? check_list(value, inner, is_or, depth, err)
                                     : check(value, inner, depth + 1, err);
        if (r < 0) {
            return r;
        }
    }
    return 0;
}

int event_pattern_check(const json_t *pattern, struct error *err)
{
    return check(pattern, "$", 0, err);
}

/* ---- Matching ---- */

static bool is_equal(const json_t *a, const json_t *b)
{
    if (json_is_number(a) && json_is_number(b)) {
        return json_number_value(a) == json_number_value(b);
    }
    return json_equal(lent(a), lent(b)) == 1;
}

static bool number_fits(const json_t *list, const json_t *value)
{
    bool fits = json_is_number(value);
    double number = json_number_value(value);
    for (size_t i = 0; fits && i + 1 < json_array_size(list); i += 2) {
        const char *op = json_string_value(json_array_get(list, i));
        double bound = json_number_value(json_array_get(list, i + 1));
        bool or_equal = op[1] == '=';
        fits = op[0] == '<' ? number < bound || (or_equal && number == bound)
            : op[0] == '>'  ? number > bound || (or_equal && number == bound)
            : op[0] == '!'  ? number != bound
                            : number == bound;
    }
    return fits;
}

/* '*' is any run. */
static bool wildcard_fits(const char *pattern, const char *text)
{
    const char *star = NULL;
    const char *kept = NULL;
    while (*text != '\0' && filter_spend(1)) {
        if (*pattern == '*') {
            star = pattern++;
            kept = text;
        } else if (*pattern == *text) {
            pattern++;
            text++;
        } else if (star != NULL) {
            pattern = star + 1;
            text = ++kept;
        } else {
            return false;
        }
    }
    while (*pattern == '*') {
        pattern++;
    }
    return *pattern == '\0';
}

static bool text_fits(const char *op, const char *operand, const char *text)
{
    if (strcmp(op, "prefix") == 0) {
        return text_starts_with(text, operand);
    }
    if (strcmp(op, "suffix") == 0) {
        return text_ends_with(text, operand);
    }
    if (strcmp(op, "equals-ignore-case") == 0) {
        return strcasecmp(text, operand) == 0;
    }
    return wildcard_fits(operand, text);
}

static bool anything_but(const json_t *operand, const json_t *value)
{
    if (json_is_object(operand)) {
        const char *op = json_object_iter_key(json_object_iter(lent(operand)));
        return !json_is_string(value) ||
            !text_fits(op, json_string_value(json_object_get(operand, op)),
                       json_string_value(value));
    }
    size_t index = 0;
    json_t *item = NULL;
    json_array_foreach(operand, index, item)
    {
        if (!filter_spend(STEPS_OF_TEST) || is_equal(item, value)) {
            return false;
        }
    }
    return json_is_array(operand) || !is_equal(operand, value);
}

/* Of one value that is there. */
static bool test_fits(const json_t *test, const json_t *value)
{
    if (!json_is_object(test)) {
        return is_equal(test, value);
    }
    const char *op = json_object_iter_key(json_object_iter(lent(test)));
    const json_t *operand = json_object_get(test, op);
    if (strcmp(op, "exists") == 0) {
        return json_is_true(operand);
    }
    if (strcmp(op, "numeric") == 0) {
        return number_fits(operand, value);
    }
    if (strcmp(op, "anything-but") == 0) {
        return is_scalar(value) && anything_but(operand, value);
    }
    return json_is_string(value) &&
        text_fits(op, json_string_value(operand), json_string_value(value));
}

static bool list_fits(const json_t *tests, const json_t *value)
{
    size_t index = 0;
    size_t place = 0;
    json_t *test = NULL;
    json_t *item = NULL;
    json_array_foreach(tests, index, test)
    {
        size_t length = json_string_length(value);
        if (!filter_spend(STEPS_OF_TEST + length / STEPS_OF_TEST)) {
            return false;
        }
        if (value == NULL) {
            if (json_is_false(json_object_get(test, "exists"))) {
                return true;
            }
            continue;
        }
        if (test_fits(test, value)) {
            return true;
        }
        json_array_foreach(value, place, item)
        {
            if (!filter_spend(STEPS_OF_TEST)) {
                return false;
            }
            if (test_fits(test, item)) {
                return true;
            }
        }
    }
    return false;
}

static bool any_fits(const json_t *patterns, const json_t *document)
{
    size_t index = 0;
    json_t *pattern = NULL;
    json_array_foreach(patterns, index, pattern)
    {
        if (event_pattern_match(pattern, document)) {
            return true;
        }
    }
    return false;
}

/* A pattern for what is an array of objects is to fit one of them. */
static bool inner_fits(const json_t *pattern, const json_t *value)
{
    size_t index = 0;
    json_t *item = NULL;
    json_array_foreach(value, index, item)
    {
        if (event_pattern_match(pattern, item)) {
            return true;
        }
    }
    return !json_is_array(value) && event_pattern_match(pattern, value);
}

bool event_pattern_match(const json_t *pattern, const json_t *document)
{
    const char *name = NULL;
    json_t *wanted = NULL;
    json_object_foreach(lent(pattern), name, wanted)
    {
        const json_t *value = json_object_get(document, name);
        if (!filter_spend(STEPS_OF_TEST)) {
            return false;
        }
        bool fits = strcmp(name, "$or") == 0 ? any_fits(wanted, document)
            : json_is_array(wanted)          ? list_fits(wanted, value)
                                             : inner_fits(wanted, value);
        if (!fits) {
            return false;
        }
    }
    return true;
}
