/* Is a rule true of a text? */
#include <string.h>

#include "base/check.h"
#include "base/text.h"

#include "engine/placement/rule.h"

enum { DIGITS_MAX = 15 }; /* of each part: a double holds them exactly */

/* [-]DIGITS[.DIGITS], by ourselves: strtod() follows the locale, and takes "inf" and "0x1p3". */
bool rule_read_number(const char *text, double *ret_number)
{
    bool negative = text[0] == '-';
    const char *at = text + negative;
    double value = 0, unit = 1;
    size_t whole = strspn(at, "0123456789");
    if (whole == 0 || whole > DIGITS_MAX) {
        return false;
    }
    for (size_t i = 0; i < whole; i++) {
        value = value * 10 + (at[i] - '0');
    }
    at += whole;
    if (*at == '.') {
        size_t digits = strspn(at + 1, "0123456789");
        if (digits == 0 || digits > DIGITS_MAX) {
            return false;
        }
        double part = 0;
        for (size_t i = 1; i <= digits; i++) {
            part = part * 10 + (at[i] - '0');
            unit *= 10;
        }
        value += part / unit;
        at += 1 + digits;
    }
    *ret_number = negative ? -value : value;
    return *at == 0;
}

static int compare(const struct rule *rule, const char *text)
{
    double number;
    if (rule->is_number && rule_read_number(text, &number)) {
        return number < rule->number ? -1 : number > rule->number;
    }
    int order = strcmp(text, rule->value);
    return order < 0 ? -1 : order > 0;
}

static bool list_has(const char *list, struct text wanted)
{
    for (;;) {
        size_t length = strcspn(list, ",");
        struct text item = text_trim(text_of(list, length));
        if (item.length == wanted.length && memcmp(item.data, wanted.data, item.length) == 0) {
            return true;
        }
        if (list[length] == 0) {
            return false;
        }
        list += length + 1;
    }
}

static bool contains(const char *list, const char *wanted, bool all)
{
    for (;;) {
        size_t length = strcspn(wanted, ",");
        if (list_has(list, text_trim(text_of(wanted, length))) != all) {
            return !all;
        }
        if (wanted[length] == 0) {
            return all;
        }
        wanted += length + 1;
    }
}

bool rule_holds(const struct rule *rule, const char *text)
{
    if (text == NULL) {
        return rule->op == PLACEMENT_NOT_EQUAL || rule->op == PLACEMENT_IS_NOT_SET;
    }
    struct version version;
    switch (rule->op) {
    case PLACEMENT_EQUAL:
        return strcmp(text, rule->value) == 0;
    case PLACEMENT_NOT_EQUAL:
        return strcmp(text, rule->value) != 0;
    case PLACEMENT_GREATER:
        return compare(rule, text) > 0;
    case PLACEMENT_GREATER_EQUAL:
        return compare(rule, text) >= 0;
    case PLACEMENT_LESS:
        return compare(rule, text) < 0;
    case PLACEMENT_LESS_EQUAL:
        return compare(rule, text) <= 0;
    case PLACEMENT_REGEXP:
        return regexp_matches(rule->regexp, text);
    case PLACEMENT_VERSION:
        return version_read(text, &version) && version_within(&version, rule);
    case PLACEMENT_SET_CONTAINS:
        return contains(text, rule->value, true);
    case PLACEMENT_SET_CONTAINS_ANY:
        return contains(text, rule->value, false);
    case PLACEMENT_IS_SET:
        return true;
    case PLACEMENT_IS_NOT_SET:
        return false;
    case PLACEMENT_DISTINCT_HOSTS:
    case PLACEMENT_DISTINCT_PROPERTY:
    case PLACEMENT_OPERATOR_COUNT:
        break;
    }
    CHECK_UNREACHABLE();
}
