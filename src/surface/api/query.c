/* What stands behind the ? of a request: spec/queries.def, walked. */
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/text.h"

#include "surface/api/parts.h"

enum {
    SHORT_MAX = 63,
    NUMBER_MAX = 31,
    TEXT_MAX = 512,
    NAMES_MAX = 16,
    READ_COUNT = 3,
};

#define QUERY(operation, name, kind, text) {#operation, #name, API_QUERY_##kind, text},
static const struct api_query queries[] = {
#include "queries.def"
};
#undef QUERY

enum { QUERY_COUNT = sizeof(queries) / sizeof(queries[0]) };

static const struct api_query of_project = {"", "project", API_QUERY_NAME,
                                            "The project (default: default)."};

static const struct api_query of_reads[READ_COUNT] = {
    {"", "index", API_QUERY_WHOLE, "Answer when there is something newer than this."},
    {"", "wait", API_QUERY_DURATION, "With index: how long to wait for it (default 60s)."},
    {"", "consistency", API_QUERY_NAME, "local, or linearizable."},
};

const struct api_query *api_query_next(const struct api_route *route, size_t *place)
{
    bool has_project = text_starts_with(route->path, "/v1/");
    for (;;) {
        size_t at = (*place)++;
        if (at == 0 && has_project) {
            return &of_project;
        }
        if (at > 0 && at <= READ_COUNT && api_route_waits(route)) {
            return &of_reads[at - 1];
        }
        size_t row = at - 1 - READ_COUNT;
        if (at > READ_COUNT && row >= QUERY_COUNT) {
            return NULL;
        }
        if (at > READ_COUNT && strcmp(queries[row].operation, route->id) == 0) {
            return &queries[row];
        }
    }
}

bool api_query_passes(const struct api_route *route)
{
    const struct api_query *query = NULL;
    for (size_t place = 0; (query = api_query_next(route, &place)) != NULL;) {
        if (query->kind == API_QUERY_NODE) {
            return true;
        }
    }
    return false;
}

/* ---- Checking ---- */

static size_t length_max(enum api_query_kind kind, size_t whole)
{
    switch (kind) {
    case API_QUERY_NODE:
    case API_QUERY_NAME:
        return SHORT_MAX;
    case API_QUERY_TEXT:
        return TEXT_MAX;
    case API_QUERY_WHOLE:
    case API_QUERY_FLAG:
    case API_QUERY_DURATION:
        return NUMBER_MAX;
    case API_QUERY_LONG:
    case API_QUERY_OTHERS:
        break;
    }
    return whole;
}

static int check_value(const struct api_query *query, const char *value, struct error *err)
{
    uint64_t number = 0;
    size_t length = strlen(value);
    size_t max = length_max(query->kind, length);
    if (length > max) {
        return error_set(err, ERROR_INVALID, "?%s= is at most %zu bytes", query->name, max);
    }
    if (!text_is_utf8(value, length)) {
        return error_set(err, ERROR_INVALID, "?%s= is not UTF-8", query->name);
    }
    if (query->kind == API_QUERY_WHOLE && !text_parse_u64(text_of(value, length), &number)) {
        return error_set(err, ERROR_INVALID, "?%s=%s is no number", query->name, value);
    }
    if (query->kind == API_QUERY_DURATION && !text_parse_duration_ms(value, &number)) {
        return error_set(err, ERROR_INVALID, "?%s=%s is no time (for example 30s, 10m, 7d)",
                         query->name, value);
    }
    if (query->kind == API_QUERY_FLAG && length > 0 && strcmp(value, "true") != 0 &&
        strcmp(value, "false") != 0) {
        return error_set(err, ERROR_INVALID, "?%s= is true or false, not %s", query->name, value);
    }
    return 0;
}

static const struct api_query *find(const struct api_route *route, const char *name)
{
    const struct api_query *query = NULL;
    const struct api_query *others = NULL;
    for (size_t place = 0; (query = api_query_next(route, &place)) != NULL;) {
        if (query->kind == API_QUERY_OTHERS) {
            others = query;
        } else if (strcmp(query->name, name) == 0) {
            return query;
        }
    }
    return others;
}

static int refuse(const struct api_route *route, const char *name, struct error *err)
{
    const char *names[NAMES_MAX];
    size_t count = 0;
    const struct api_query *query = NULL;
    for (size_t place = 0; count < NAMES_MAX && (query = api_query_next(route, &place)) != NULL;) {
        names[count++] = query->name;
    }
    const char *nearest = text_nearest(name, names, count);
    return nearest != NULL
        ? error_set(err, ERROR_INVALID, "?%s= is not known; did you mean ?%s=?", name, nearest)
        : error_set(err, ERROR_INVALID, "?%s= is not known here", name);
}

static int check_pair(const struct api_route *route, struct text pair, struct error *err)
{
    char name[SHORT_MAX + 1];
    const char *equals = memchr(pair.data, '=', pair.length);
    size_t name_length = equals != NULL ? (size_t)(equals - pair.data) : pair.length;
    struct text value =
        equals != NULL ? text_of(equals + 1, pair.length - name_length - 1) : text_of("", 0);
    MEMORY_OWNED char *decoded = memory_new(value.length + 1, 1);
    if (!http_form_decode(text_of(pair.data, name_length), name, sizeof(name)) ||
        !text_is_utf8(name, strlen(name))) {
        return error_set(err, ERROR_INVALID, "a name behind the ? is too long or badly encoded");
    }
    const struct api_query *query = find(route, name);
    if (query == NULL) {
        return text_starts_with(route->path, "/v1/") ? refuse(route, name, err) : 0;
    }
    if (query->kind == API_QUERY_OTHERS) {
        return 0;
    }
    if (!http_form_decode(value, decoded, value.length + 1)) {
        return error_set(err, ERROR_INVALID, "?%s= is badly encoded", query->name);
    }
    return check_value(query, decoded, err);
}

int api_query_check(const struct request *request, const struct api_route *route, struct error *err)
{
    struct text rest = http_exchange_query(request->exchange);
    while (rest.length > 0) {
        const char *amp = memchr(rest.data, '&', rest.length);
        size_t length = amp != NULL ? (size_t)(amp - rest.data) : rest.length;
        if (length > 0 && check_pair(route, text_of(rest.data, length), err) < 0) {
            return -(int)err->kind;
        }
        length += amp != NULL;
        rest = text_of(rest.data + length, rest.length - length);
    }
    return 0;
}

/* ---- Values ---- */

bool api_query_flag(const struct request *request, const char *name, bool otherwise)
{
    char value[NUMBER_MAX + 1];
    return http_query_get(http_exchange_query(request->exchange), name, value, sizeof(value))
        ? strcmp(value, "false") != 0
        : otherwise;
}

uint64_t api_query_u64(const struct request *request, const char *name, uint64_t otherwise)
{
    char value[NUMBER_MAX + 1];
    uint64_t number = 0;
    return http_query_get(http_exchange_query(request->exchange), name, value, sizeof(value)) &&
            text_parse_u64(text_of(value, strlen(value)), &number)
        ? number
        : otherwise;
}

uint64_t api_query_ms(const struct request *request, const char *name, uint64_t otherwise)
{
    char value[NUMBER_MAX + 1];
    uint64_t ms = 0;
    return http_query_get(http_exchange_query(request->exchange), name, value, sizeof(value)) &&
            text_parse_duration_ms(value, &ms)
        ? ms
        : otherwise;
}
