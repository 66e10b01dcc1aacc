/* Values of CESQL: casts, LIKE, functions. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/text.h"

#include "service/event/parts.h"

enum { TEXT_MAX = 64 << 10 }; /* of what functions make */

void sql_value_done(struct sql_value *value)
{
    free(value->text);
    *value = (struct sql_value){0};
}

struct sql_value sql_value_text(const char *text, size_t length)
{
    return (struct sql_value){.kind = SQL_TEXT, .text = memory_copy_text(text, length)};
}

struct sql_value sql_value_number(double number)
{
    return isfinite(number) ? (struct sql_value){.kind = SQL_NUMBER, .number = number}
                            : (struct sql_value){0};
}

struct sql_value sql_value_boolean(bool boolean)
{
    return (struct sql_value){.kind = SQL_BOOLEAN, .boolean = boolean};
}

struct sql_value sql_value_of(const json_t *value)
{
    if (json_is_string(value)) {
        if (!filter_spend(json_string_length(value))) {
            return (struct sql_value){0};
        }
        return sql_value_text(json_string_value(value), json_string_length(value));
    }
    if (json_is_number(value)) {
        return sql_value_number(json_number_value(value));
    }
    return json_is_boolean(value) ? sql_value_boolean(json_is_true(value)) : (struct sql_value){0};
}

bool sql_value_to_boolean(struct sql_value *value)
{
    if (value->kind == SQL_TEXT) {
        struct text text = text_of(value->text, strlen(value->text));
        bool is_true = text_equal_ignoring_case(text, "true");
        bool is_boolean = is_true || text_equal_ignoring_case(text, "false");
        sql_value_done(value);
        *value = is_boolean ? sql_value_boolean(is_true) : (struct sql_value){0};
    } else if (value->kind == SQL_NUMBER) {
        *value = sql_value_boolean(value->number != 0);
    }
    return value->kind == SQL_BOOLEAN;
}

bool sql_value_to_number(struct sql_value *value)
{
    if (value->kind == SQL_TEXT) {
        char *end = NULL;
        bool looks_good = strspn(value->text, "+-0123456789.eE") == strlen(value->text);
        double number = looks_good ? strtod(value->text, &end) : 0;
        bool is_number = looks_good && end != value->text && *end == '\0';
        sql_value_done(value);
        *value = is_number ? sql_value_number(number) : (struct sql_value){0};
    } else if (value->kind == SQL_BOOLEAN) {
        *value = sql_value_number(value->boolean ? 1 : 0);
    }
    return value->kind == SQL_NUMBER;
}

bool sql_value_is_number(const struct sql_value *value, double *ret_number)
{
    struct sql_value copy =
        value->kind == SQL_TEXT ? sql_value_text(value->text, strlen(value->text)) : *value;
    bool can = sql_value_to_number(&copy);
    *ret_number = copy.number;
    sql_value_done(&copy);
    return can;
}

bool sql_value_to_text(struct sql_value *value)
{
    if (value->kind == SQL_NUMBER) {
        char text[40];
        bool is_whole = value->number == floor(value->number) && fabs(value->number) < 1e15;
        snprintf(text, sizeof(text), is_whole ? "%.0f" : "%.15g", value->number);
        *value = sql_value_text(text, strlen(text));
    } else if (value->kind == SQL_BOOLEAN) {
        const char *text = value->boolean ? "true" : "false";
        *value = sql_value_text(text, strlen(text));
    }
    return value->kind == SQL_TEXT;
}

/* The bytes that one character takes. */
static size_t character(const char *text)
{
    size_t length = 1;
    while (((unsigned char)text[length] & 0xc0) == 0x80) {
        length++;
    }
    return length;
}

bool sql_like(const char *text, const char *pattern)
{
    const char *many = NULL; /* behind the last % */
    const char *kept = NULL;
    while (*text != '\0' && filter_spend(1)) {
        bool is_literal = *pattern == '\\' && (pattern[1] == '%' || pattern[1] == '_');
        const char *wanted = is_literal ? pattern + 1 : pattern;
        if (!is_literal && *pattern == '%') {
            many = ++pattern;
            kept = text;
        } else if (!is_literal && *pattern == '_') {
            pattern++;
            text += character(text);
        } else if (*wanted == *text && *wanted != '\0') {
            pattern = wanted + 1;
            text++;
        } else if (many != NULL) {
            pattern = many;
            text = ++kept;
        } else {
            return false;
        }
    }
    while (*pattern == '%') {
        pattern++;
    }
    return *pattern == '\0';
}

/* ---- Functions ---- */

static size_t length_of(const char *text)
{
    size_t count = 0;
    for (; *text != '\0'; text += character(text)) {
        count++;
    }
    return count;
}

/* Where the `n`th character begins, or the end. */
static const char *skip(const char *text, double n)
{
    uint64_t left = n < TEXT_MAX ? (uint64_t)(n > 0 ? n : 0) : UINT64_MAX;
    for (; left > 0 && *text != '\0'; left--) {
        text += character(text);
    }
    return text;
}

static struct sql_value call_length(struct sql_value *values, unsigned count)
{
    (void)count;
    return sql_value_to_text(&values[0]) ? sql_value_number((double)length_of(values[0].text))
                                         : (struct sql_value){0};
}

static struct sql_value join(struct sql_value *values, unsigned from, unsigned count,
                             const char *between)
{
    BUFFER_OWNED struct buffer text = {0};
    for (unsigned i = from; i < count; i++) {
        if (!sql_value_to_text(&values[i])) {
            return (struct sql_value){0};
        }
        if (i > from) {
            buffer_append_string(&text, between);
        }
        buffer_append_string(&text, values[i].text);
        if (text.used > TEXT_MAX) {
            return (struct sql_value){0};
        }
    }
    return sql_value_text(buffer_string(&text), text.used);
}

static struct sql_value call_concat(struct sql_value *values, unsigned count)
{
    return join(values, 0, count, "");
}

static struct sql_value call_concat_ws(struct sql_value *values, unsigned count)
{
    return sql_value_to_text(&values[0]) ? join(values, 1, count, values[0].text)
                                         : (struct sql_value){0};
}

static struct sql_value change_case(struct sql_value *value, char first, char last)
{
    if (!sql_value_to_text(value)) {
        return (struct sql_value){0};
    }
    struct sql_value result = sql_value_text(value->text, strlen(value->text));
    for (char *at = result.text; *at != '\0'; at++) {
        *at = *at >= first && *at <= last ? (char)(*at ^ 0x20) : *at;
    }
    return result;
}

static struct sql_value call_lower(struct sql_value *values, unsigned count)
{
    (void)count;
    return change_case(&values[0], 'A', 'Z');
}

static struct sql_value call_upper(struct sql_value *values, unsigned count)
{
    (void)count;
    return change_case(&values[0], 'a', 'z');
}

static struct sql_value call_trim(struct sql_value *values, unsigned count)
{
    (void)count;
    if (!sql_value_to_text(&values[0])) {
        return (struct sql_value){0};
    }
    struct text text = text_trim(text_of(values[0].text, strlen(values[0].text)));
    return sql_value_text(text.data, text.length);
}

static struct sql_value call_left(struct sql_value *values, unsigned count)
{
    (void)count;
    if (!sql_value_to_text(&values[0]) || !sql_value_to_number(&values[1]) ||
        values[1].number < 0) {
        return (struct sql_value){0};
    }
    const char *text = values[0].text;
    return sql_value_text(text, (size_t)(skip(text, values[1].number) - text));
}

static struct sql_value call_right(struct sql_value *values, unsigned count)
{
    (void)count;
    if (!sql_value_to_text(&values[0]) || !sql_value_to_number(&values[1]) ||
        values[1].number < 0) {
        return (struct sql_value){0};
    }
    double length = (double)length_of(values[0].text);
    const char *from = skip(values[0].text, length - floor(values[1].number));
    return sql_value_text(from, strlen(from));
}

/* SUBSTRING(text, from [, length]): from 1, or from the end when negative. */
static struct sql_value call_substring(struct sql_value *values, unsigned count)
{
    if (!sql_value_to_text(&values[0]) || !sql_value_to_number(&values[1]) ||
        (count > 2 && (!sql_value_to_number(&values[2]) || values[2].number < 0))) {
        return (struct sql_value){0};
    }
    double length = (double)length_of(values[0].text);
    double from = floor(values[1].number);
    if (fabs(from) > length) {
        return (struct sql_value){0};
    }
    if (from == 0) {
        return sql_value_text("", 0);
    }
    const char *first = skip(values[0].text, from > 0 ? from - 1 : length + from);
    const char *end = count > 2 ? skip(first, values[2].number) : first + strlen(first);
    return sql_value_text(first, (size_t)(end - first));
}

static struct sql_value call_abs(struct sql_value *values, unsigned count)
{
    (void)count;
    return sql_value_to_number(&values[0]) ? sql_value_number(fabs(values[0].number))
                                           : (struct sql_value){0};
}

static struct sql_value call_int(struct sql_value *values, unsigned count)
{
    (void)count;
    return sql_value_to_number(&values[0]) ? sql_value_number(trunc(values[0].number))
                                           : (struct sql_value){0};
}

static struct sql_value call_bool(struct sql_value *values, unsigned count)
{
    (void)count;
    sql_value_to_boolean(&values[0]);
    struct sql_value result = values[0];
    values[0] = (struct sql_value){0};
    return result;
}

static struct sql_value call_string(struct sql_value *values, unsigned count)
{
    (void)count;
    sql_value_to_text(&values[0]);
    struct sql_value result = values[0];
    values[0] = (struct sql_value){0};
    return result;
}

static struct sql_value call_is_int(struct sql_value *values, unsigned count)
{
    (void)count;
    return sql_value_boolean(sql_value_to_number(&values[0]) &&
                             values[0].number == trunc(values[0].number));
}

static struct sql_value call_is_bool(struct sql_value *values, unsigned count)
{
    (void)count;
    bool is_number = values[0].kind == SQL_NUMBER;
    return sql_value_boolean(!is_number && sql_value_to_boolean(&values[0]));
}

static const struct sql_function functions[] = {
    {"ABS", 1, 1, call_abs},
    {"BOOL", 1, 1, call_bool},
    {"CONCAT", 0, SQL_ARGUMENTS_MAX, call_concat},
    {"CONCAT_WS", 1, SQL_ARGUMENTS_MAX, call_concat_ws},
    {"INT", 1, 1, call_int},
    {"IS_BOOL", 1, 1, call_is_bool},
    {"IS_INT", 1, 1, call_is_int},
    {"LEFT", 2, 2, call_left},
    {"LENGTH", 1, 1, call_length},
    {"LOWER", 1, 1, call_lower},
    {"RIGHT", 2, 2, call_right},
    {"STRING", 1, 1, call_string},
    {"SUBSTRING", 2, 3, call_substring},
    {"TRIM", 1, 1, call_trim},
    {"UPPER", 1, 1, call_upper},
};

const struct sql_function *sql_function_find(struct text name)
{
    for (size_t i = 0; i < sizeof(functions) / sizeof(functions[0]); i++) {
        if (text_equal_ignoring_case(name, functions[i].name)) {
            return &functions[i];
        }
    }
    return NULL;
}
