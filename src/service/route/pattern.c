/* Paths of routes: see pattern.h. */
#include "service/route/pattern.h"

#include <string.h>

#include "base/error.h"

/* The next segment of a path that begins with '/'; moves on. */
static struct text take_segment(struct text *path)
{
    struct text segment = text_of(path->data + 1, 0);
    while (segment.length + 1 < path->length && segment.data[segment.length] != '/') {
        segment.length++;
    }
    path->data += segment.length + 1;
    path->length -= segment.length + 1;
    return segment;
}

static bool is_parameter(struct text segment)
{
    return segment.length > 2 && segment.data[0] == '{';
}

static bool is_rest(struct text segment)
{
    return is_parameter(segment) && segment.length > 5 &&
        memcmp(segment.data + segment.length - 4, "...}", 4) == 0;
}

static struct text name_of(struct text segment)
{
    return text_of(segment.data + 1, segment.length - (is_rest(segment) ? 5 : 2));
}

static bool is_name(struct text name)
{
    for (size_t i = 0; i < name.length; i++) {
        char c = name.data[i];
        bool is_letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
        if (!is_letter && !(i > 0 && c >= '0' && c <= '9')) {
            return false;
        }
    }
    return name.length > 0 && name.length <= 32;
}

/* What may stand in a path as it is sent (RFC 3986, 3.3). */
static bool is_plain(struct text segment)
{
    for (size_t i = 0; i < segment.length; i++) {
        char c = segment.data[i];
        bool is_letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!is_letter && (c == '\0' || strchr("-._~!$&'()*+,;=:@%", c) == NULL)) {
            return false;
        }
    }
    return true;
}

int pattern_check(const char *pattern, struct error *err)
{
    struct text names[PATTERN_PARAMETERS_MAX];
    size_t count = 0;
    struct text left = text_of(pattern, strlen(pattern));
    if (left.length == 0 || left.data[0] != '/' || left.length > PATTERN_BYTES_MAX) {
        return error_set(err, ERROR_INVALID,
                         "path \"%.80s\": it begins with / and has at most %d bytes", pattern,
                         PATTERN_BYTES_MAX);
    }
    if (strncmp(pattern, "/fn/", 4) == 0 || strcmp(pattern, "/fn") == 0) {
        return error_set(err, ERROR_INVALID,
                         "path \"%.80s\": /fn/NAME is where functions are already", pattern);
    }
    while (left.length > 0) {
        struct text segment = take_segment(&left);
        if (!is_parameter(segment)) {
            if (!is_plain(segment)) {
                return error_set(err, ERROR_INVALID,
                                 "path \"%.80s\": \"%.*s\" is neither plain text nor {NAME}",
                                 pattern, (int)segment.length, segment.data);
            }
            continue;
        }
        if (segment.data[segment.length - 1] != '}' || !is_name(name_of(segment))) {
            return error_set(err, ERROR_INVALID,
                             "path \"%.80s\": \"%.*s\" is not {NAME} or {NAME...}", pattern,
                             (int)segment.length, segment.data);
        }
        if (is_rest(segment) && left.length > 0) {
            return error_set(err, ERROR_INVALID, "path \"%.80s\": {NAME...} stands at the end",
                             pattern);
        }
        for (size_t i = 0; i < count; i++) {
            if ((names[i].length == name_of(segment).length &&
                 memcmp(names[i].data, name_of(segment).data, names[i].length) == 0)) {
                return error_set(err, ERROR_INVALID, "path \"%.80s\": a name stands in it twice",
                                 pattern);
            }
        }
        if (count == PATTERN_PARAMETERS_MAX) {
            return error_set(err, ERROR_INVALID, "path \"%.80s\": it has more than %d parameters",
                             pattern, PATTERN_PARAMETERS_MAX);
        }
        names[count++] = name_of(segment);
    }
    return 0;
}

bool pattern_matches(const char *pattern, struct text path, struct pattern_match *ret_match)
{
    struct text left = text_of(pattern, strlen(pattern));
    ret_match->count = 0;
    while (left.length > 0 && path.length > 0) {
        struct text wanted = take_segment(&left);
        if (is_rest(wanted)) {
            ret_match->parameters[ret_match->count++] = (struct pattern_parameter){
                name_of(wanted), text_of(path.data + 1, path.length - 1)};
            return true;
        }
        struct text got = take_segment(&path);
        if (is_parameter(wanted)) {
            if (got.length == 0) {
                return false;
            }
            ret_match->parameters[ret_match->count++] =
                (struct pattern_parameter){name_of(wanted), got};
        } else if (wanted.length != got.length || memcmp(wanted.data, got.data, got.length) != 0) {
            return false;
        }
    }
    return left.length == 0 && path.length == 0;
}

int pattern_compare(const char *a, const char *b)
{
    struct text left_a = text_of(a, strlen(a));
    struct text left_b = text_of(b, strlen(b));
    while (left_a.length > 0 && left_b.length > 0) {
        struct text one = take_segment(&left_a);
        struct text two = take_segment(&left_b);
        int rank_one = is_rest(one) ? 2 : is_parameter(one) ? 1 : 0;
        int rank_two = is_rest(two) ? 2 : is_parameter(two) ? 1 : 0;
        if (rank_one != rank_two) {
            return rank_one - rank_two;
        }
    }
    return left_a.length > left_b.length ? -1 : left_a.length < left_b.length;
}
