#include "base/text.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/check.h"

/* Most texts that are compared differ in their first byte: nothing is measured before that. */
bool text_equal(struct text text, const char *string)
{
    size_t at = 0;
    while (at < text.length && string[at] == text.data[at] && string[at] != '\0') {
        at++;
    }
    return at == text.length && string[at] == '\0';
}

static char lower(char letter)
{
    return letter >= 'A' && letter <= 'Z' ? (char)(letter - 'A' + 'a') : letter;
}

bool text_is_string_in_any_case(struct text text, const char *string)
{
    size_t at = 0;
    while (at < text.length && string[at] != '\0' &&
           (string[at] == text.data[at] || lower(string[at]) == lower(text.data[at]))) {
        at++;
    }
    return at == text.length && string[at] == '\0';
}

bool text_is_among_ignoring_case(struct text text, const struct text *names, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (names[i].length == text.length && text_equal_ignoring_case(text, names[i].data)) {
            return true;
        }
    }
    return false;
}

struct text text_trim(struct text text)
{
    while (text.length > 0 && (text.data[0] == ' ' || text.data[0] == '\t')) {
        text.data++;
        text.length--;
    }
    while (text.length > 0 &&
           (text.data[text.length - 1] == ' ' || text.data[text.length - 1] == '\t')) {
        text.length--;
    }
    return text;
}

struct text text_without_port(struct text host)
{
    const char *close =
        host.length > 0 && host.data[0] == '[' ? memchr(host.data, ']', host.length) : NULL;
    if (close != NULL) {
        return text_of(host.data, (size_t)(close - host.data) + 1);
    }
    const char *colon = host.length > 0 ? memchr(host.data, ':', host.length) : NULL;
    return colon != NULL ? text_of(host.data, (size_t)(colon - host.data)) : host;
}

struct text text_address(const char *peer)
{
    struct text host = text_without_port(text_of(peer, strlen(peer)));
    bool is_in_brackets = host.length > 2 && host.data[0] == '[';
    return is_in_brackets ? text_of(host.data + 1, host.length - 2) : host;
}

bool text_starts_with(const char *string, const char *prefix)
{
    return strncmp(string, prefix, strlen(prefix)) == 0;
}

bool text_ends_with(const char *string, const char *suffix)
{
    size_t length = strlen(string);
    size_t wanted = strlen(suffix);
    return length >= wanted && memcmp(string + length - wanted, suffix, wanted) == 0;
}

bool text_parse_u64(struct text text, uint64_t *ret_value)
{
    if (text.length == 0 || text.length > 20) {
        return false;
    }
    uint64_t value = 0;
    for (size_t i = 0; i < text.length; i++) {
        char c = text.data[i];
        if (c < '0' || c > '9' || __builtin_mul_overflow(value, UINT64_C(10), &value) ||
            __builtin_add_overflow(value, (uint64_t)(c - '0'), &value)) {
            return false;
        }
    }
    *ret_value = value;
    return true;
}

size_t text_write_u64(uint64_t value, char ret_digits[TEXT_U64_SIZE])
{
    char digits[TEXT_U64_SIZE];
    size_t at = sizeof(digits);
    do {
        digits[--at] = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    memcpy(ret_digits, digits + at, sizeof(digits) - at);
    return sizeof(digits) - at;
}

struct unit {
    const char *text;
    uint64_t factor;
};

/* What stands behind a point, as `part` of `whole`; nothing: 0 of 1. */
static bool take_fraction(const char **rest, uint64_t *ret_part, uint64_t *ret_whole)
{
    enum { DIGITS_MAX = 6 }; /* so that its product with a unit does not overflow */
    *ret_part = 0;
    *ret_whole = 1;
    if (**rest != '.') {
        return true;
    }
    const char *digits = *rest + 1;
    size_t count = strspn(digits, "0123456789");
    *rest = digits + count;
    for (size_t i = 0; i < count; i++) {
        *ret_whole *= i < DIGITS_MAX ? 10 : 1;
    }
    return count <= DIGITS_MAX && text_parse_u64(text_of(digits, count), ret_part);
}

/* A fraction is of something larger: there is no half byte. */
static bool parse_with_unit(const char *string, const struct unit *units, size_t unit_count,
                            uint64_t *ret_value)
{
    size_t digits = strspn(string, "0123456789");
    const char *rest = string + digits;
    uint64_t value = 0;
    uint64_t part = 0;
    uint64_t whole = 1;
    if (!text_parse_u64(text_of(string, digits), &value) || !take_fraction(&rest, &part, &whole)) {
        return false;
    }
    rest += strspn(rest, " ");
    for (size_t i = 0; i < unit_count; i++) {
        uint64_t factor = units[i].factor;
        if (strcmp(units[i].text, rest) == 0) {
            return (whole == 1 || factor > 1) && !__builtin_mul_overflow(value, factor, &value) &&
                !__builtin_add_overflow(value, part * factor / whole, ret_value);
        }
    }
    return false;
}

bool text_parse_size(const char *string, uint64_t *ret_bytes)
{
    static const struct unit units[] = {
        {"", 1},
        {"B", 1},
        {"K", 1 << 10},
        {"M", 1 << 20},
        {"G", 1 << 30},
        {"T", UINT64_C(1) << 40},
        {"KiB", 1 << 10},
        {"MiB", 1 << 20},
        {"GiB", 1 << 30},
        {"TiB", UINT64_C(1) << 40},
        {"kB", 1000},
        {"MB", 1000000},
        {"GB", 1000000000},
        {"TB", UINT64_C(1000000000000)},
    };
    return parse_with_unit(string, units, sizeof(units) / sizeof(units[0]), ret_bytes);
}

static const char *const size_units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};

enum { SIZE_UNIT_COUNT = sizeof(size_units) / sizeof(size_units[0]) };

const char *text_write_size_exactly(uint64_t bytes, char ret_text[TEXT_SIZE_MAX])
{
    size_t unit = 0;
    while (unit + 1 < SIZE_UNIT_COUNT && bytes > 0 && bytes % 1024 == 0) {
        bytes /= 1024;
        unit++;
    }
    snprintf(ret_text, TEXT_SIZE_MAX, "%" PRIu64 " %s", bytes, size_units[unit]);
    return ret_text;
}

const char *text_write_size(uint64_t bytes, char ret_text[TEXT_SIZE_MAX])
{
    size_t unit = 0;
    while (unit + 1 < SIZE_UNIT_COUNT && bytes >> (10 * (unit + 1)) > 0) {
        unit++;
    }
    uint64_t one = UINT64_C(1) << (10 * unit);
    snprintf(ret_text, TEXT_SIZE_MAX, "%.*f %s", bytes % one == 0 ? 0 : 1,
             (double)bytes / (double)one, unit == 0 ? "B" : size_units[unit]);
    return ret_text;
}

const char *text_write_duration_ms(uint64_t ms, char ret_text[TEXT_SIZE_MAX])
{
    static const struct {
        const char *name;
        uint64_t ms;
    } units[] = {{"days", 86400000}, {"h", 3600000}, {"min", 60000}, {"s", 1000}, {"ms", 1}};
    size_t i = ms > units[0].ms ? 0 : 1; /* one day is 24 h */
    while (ms == 0 ? units[i].ms > 1 : ms % units[i].ms != 0) {
        i++;
    }
    snprintf(ret_text, TEXT_SIZE_MAX, "%" PRIu64 " %s", ms / units[i].ms, units[i].name);
    return ret_text;
}

const char *text_write_time_ms(uint64_t ms, char ret_text[TEXT_SIZE_MAX])
{
    static const struct {
        const char *name;
        uint64_t s;
    } units[] = {{"days", 86400}, {"h", 3600}, {"min", 60}, {"s", 1}};
    enum { COUNT = sizeof(units) / sizeof(units[0]) };
    uint64_t s = ms / 1000;
    size_t i = 0;
    if (s < 10) {
        return text_write_duration_ms(ms, ret_text);
    }
    while (s < 2 * units[i].s) {
        i++; /* 100 s, not 1 min 40 s */
    }
    int used = snprintf(ret_text, TEXT_SIZE_MAX, "%" PRIu64 " %s", s / units[i].s, units[i].name);
    uint64_t rest = i + 1 < COUNT ? s % units[i].s / units[i + 1].s : 0;
    if (rest > 0) {
        snprintf(ret_text + used, TEXT_SIZE_MAX - (size_t)used, " %" PRIu64 " %s", rest,
                 units[i + 1].name);
    }
    return ret_text;
}

bool text_parse_rate(const char *string, uint64_t *ret_bytes)
{
    enum { LENGTH_MAX = 40 };
    char size[LENGTH_MAX + 1];
    size_t length = strlen(string) - (text_ends_with(string, "/s") ? 2 : 0);
    if (length > LENGTH_MAX) {
        return false;
    }
    snprintf(size, sizeof(size), "%.*s", (int)length, string);
    return text_parse_size(size, ret_bytes);
}

bool text_take_range(const char **list, unsigned long *ret_first, unsigned long *ret_last)
{
    char *end = NULL;
    if (**list < '0' || **list > '9') {
        return false;
    }
    *ret_first = strtoul(*list, &end, 10);
    *ret_last = *end == '-' ? strtoul(end + 1, &end, 10) : *ret_first;
    *list = *end == ',' ? end + 1 : end;
    return true;
}

bool text_parse_duration_ms(const char *string, uint64_t *ret_ms)
{
    static const struct unit units[] = {
        {"", 1000},
        {"ms", 1},
        {"s", 1000},
        {"m", 60 * 1000},
        {"h", 60 * 60 * 1000},
        {"d", 24 * 60 * 60 * 1000},
    };
    return parse_with_unit(string, units, sizeof(units) / sizeof(units[0]), ret_ms);
}

/* Length of the well-formed sequence at `at` (RFC 3629, section 4), or 0. */
static size_t utf8_sequence(const uint8_t *at, size_t left)
{
    if (at[0] < 0x80) {
        return 1;
    }
    size_t length = at[0] >= 0xc2 && at[0] <= 0xdf ? 2
        : at[0] >= 0xe0 && at[0] <= 0xef           ? 3
        : at[0] >= 0xf0 && at[0] <= 0xf4           ? 4
                                                   : 0;
    if (length == 0 || length > left) {
        return 0;
    }
    uint8_t least = at[0] == 0xe0 ? 0xa0 : at[0] == 0xf0 ? 0x90 : 0x80;
    uint8_t most = at[0] == 0xed ? 0x9f : at[0] == 0xf4 ? 0x8f : 0xbf;
    if (at[1] < least || at[1] > most) {
        return 0;
    }
    for (size_t i = 2; i < length; i++) {
        if ((at[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    return length;
}

/* Most text is ASCII from one end to the other: as many steps of it as there are at `at`. */
static size_t ascii_run(const uint8_t *at, size_t length)
{
    uint64_t words[4];
    size_t run = 0;
    while (length - run >= sizeof(words)) {
        memcpy(words, at + run, sizeof(words));
        if (((words[0] | words[1] | words[2] | words[3]) & UINT64_C(0x8080808080808080)) != 0) {
            break;
        }
        run += sizeof(words);
    }
    return run;
}

bool text_is_utf8(const void *bytes, size_t length)
{
    const uint8_t *at = bytes;
    while (length > 0) {
        size_t run = ascii_run(at, length);
        size_t step = run > 0 ? run : utf8_sequence(at, length);
        if (step == 0) {
            return false;
        }
        at += step;
        length -= step;
    }
    return true;
}

/* Bytes of the control character at the beginning, 0: it is none.  C1 is U+0080 to U+009F. */
static size_t control_at(const char *text)
{
    unsigned char first = (unsigned char)text[0];
    unsigned char second = first != '\0' ? (unsigned char)text[1] : '\0';
    if (first == 0xc2 && second >= 0x80 && second <= 0x9f) {
        return 2;
    }
    return first < ' ' || first == 0x7f ? 1 : 0;
}

bool text_is_printable(const char *string)
{
    size_t length = strlen(string);
    for (size_t i = 0; i < length; i++) {
        if (control_at(string + i) > 0) {
            return false;
        }
    }
    return text_is_utf8(string, length);
}

char *text_make_printable(char *text, bool keeps_lines)
{
    for (char *at = text; *at != '\0'; at++) {
        bool is_kept = keeps_lines && (*at == '\n' || *at == '\t');
        for (size_t left = is_kept ? 0 : control_at(at); left > 0; left--) {
            at[left - 1] = '?';
        }
    }
    return text;
}

bool text_is_name(const char *string)
{
    size_t length = strlen(string);
    if (length == 0 || length > 63 || string[0] < 'a' || string[0] > 'z' ||
        string[length - 1] == '-') {
        return false;
    }
    return strspn(string, "abcdefghijklmnopqrstuvwxyz0123456789-") == length;
}

bool text_is_key(const char *string)
{
    size_t length = strlen(string);
    return length >= 1 && length <= 63 &&
        strspn(string, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./") ==
        length;
}

unsigned text_distance(const char *a, const char *b)
{
    enum { MOST = 32 };
    size_t a_length = strnlen(a, MOST);
    size_t b_length = strnlen(b, MOST);
    unsigned row[MOST + 1];
    for (size_t j = 0; j <= b_length; j++) {
        row[j] = (unsigned)j;
    }
    for (size_t i = 1; i <= a_length; i++) {
        unsigned diagonal = row[0];
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= b_length; j++) {
            unsigned change = diagonal + (a[i - 1] != b[j - 1]);
            unsigned insert = row[j - 1] + 1;
            unsigned remove = row[j] + 1;
            diagonal = row[j];
            row[j] = change < insert ? change : insert;
            row[j] = row[j] < remove ? row[j] : remove;
        }
    }
    return row[b_length];
}

/* The only one that begins so, or NULL. */
static const char *begun_with(const char *prefix, const char *const *candidates, size_t count)
{
    enum { LETTERS_MIN = 3 };
    const char *found = NULL;
    for (size_t i = 0; i < count && strlen(prefix) >= LETTERS_MIN; i++) {
        if (text_starts_with(candidates[i], prefix)) {
            if (found != NULL) {
                return NULL;
            }
            found = candidates[i];
        }
    }
    return found;
}

const char *text_nearest(const char *wrong, const char *const *candidates, size_t count)
{
    const char *nearest = begun_with(wrong, candidates, count);
    if (nearest != NULL) {
        return nearest;
    }
    unsigned least = (unsigned)strnlen(wrong, 32) / 3 + 2;
    for (size_t i = 0; i < count; i++) {
        unsigned distance = text_distance(wrong, candidates[i]);
        if (distance < least) {
            least = distance;
            nearest = candidates[i];
        }
    }
    return nearest;
}
