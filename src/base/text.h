/* Reading and comparing text that somebody else wrote. */
#ifndef BASE_TEXT_H
#define BASE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A run of characters that belongs to someone else and has no NUL behind it. */
struct text {
    const char *data;
    size_t length;
};

static inline struct text text_of(const char *data, size_t length)
{
    return (struct text){data, length};
}

/* A literal, for tables of names: its length is known before anything is compared. */
#define TEXT_LITERAL(string)         \
    {                                \
        (string), sizeof(string) - 1 \
    }

bool text_equal(struct text text, const char *string);
bool text_is_string_in_any_case(struct text text, const char *string);

/* ASCII only.  Most texts that are compared differ in their length or their first letter: that is
 * seen here, the length where `string` is a literal. */
static inline bool text_equal_ignoring_case(struct text text, const char *string)
{
    if (__builtin_constant_p(__builtin_strlen(string)) && text.length != __builtin_strlen(string)) {
        return false;
    }
    return (text.length == 0 || ((text.data[0] ^ string[0]) & ~0x20) == 0) &&
        text_is_string_in_any_case(text, string);
}

/* Whether it is one of `names`, ASCII only; those of another length are not looked at. */
bool text_is_among_ignoring_case(struct text text, const struct text *names, size_t count);

struct text text_trim(struct text text); /* without blanks and tabs around it */
/* A host: "a.example:80" -> "a.example", "[::1]:80" -> "[::1]". */
struct text text_without_port(struct text host);
struct text text_address(const char *peer); /* "[::1]:80" -> "::1" */
bool text_starts_with(const char *string, const char *prefix);
bool text_ends_with(const char *string, const char *suffix);

/* Strict decimal, whole text, no sign, no blanks; false on overflow or anything else. */
bool text_parse_u64(struct text text, uint64_t *ret_value);

/* Its digits, without a NUL, for where a printf() would be dear; how many. */
enum { TEXT_U64_SIZE = 20 };
size_t text_write_u64(uint64_t value, char ret_digits[TEXT_U64_SIZE]);

/* A size: digits, perhaps a point and more, with an optional unit (B, KiB, MiB, GiB, TiB, kB, MB,
 * GB, TB; K, M, G, T are binary). */
bool text_parse_size(const char *string, uint64_t *ret_bytes);

/* A size for people: "512 MiB", "1.5 GiB"; one digit behind the point where it is not whole. */
enum { TEXT_SIZE_MAX = 32 };
const char *text_write_size(uint64_t bytes, char ret_text[TEXT_SIZE_MAX]);
/* "1536 MiB": the largest unit that it is a whole number of.  Rounded, what is a byte too little
 * would be called as large as it is to be. */
const char *text_write_size_exactly(uint64_t bytes, char ret_text[TEXT_SIZE_MAX]);
/* A duration for people, whole: "1500 ms", "30 s", "5 min", "6 h", "14 days". */
const char *text_write_duration_ms(uint64_t ms, char ret_text[TEXT_SIZE_MAX]);

/* A time that was measured: as a duration up to 10 s, then "80 s", "18 min 58 s", "5 h 12 min",
 * "3 days 4 h". */
const char *text_write_time_ms(uint64_t ms, char ret_text[TEXT_SIZE_MAX]);

/* Bytes per second: a size, with or without "/s" behind it. */
bool text_parse_rate(const char *string, uint64_t *ret_bytes);

/* What a list of numbers as the kernel writes it ("0-3,8") begins with, 0 to 3; *list is behind it
 * then.  False: nothing that is one.  The last may be less than the first: there are none. */
bool text_take_range(const char **list, unsigned long *ret_first, unsigned long *ret_last);

/* A duration: digits with an optional unit (ms, s, m, h, d); none means seconds. */
bool text_parse_duration_ms(const char *string, uint64_t *ret_ms);

/* Is it UTF-8 as RFC 3629 has it (no overlong forms, no surrogates)? */
bool text_is_utf8(const void *bytes, size_t length);

/* Is it UTF-8 without control characters (C0, DEL, C1), which a terminal would obey? */
bool text_is_printable(const char *string);

/* Put a '?' for each byte of those; newlines and tabs stay when `keeps_lines`.  Returns `text`. */
char *text_make_printable(char *text, bool keeps_lines);

/*
 * The names of functions, projects and nodes: 1 to 63 of a-z 0-9 and '-', beginning with a letter,
 * not ending in '-' (a DNS label, RFC 1123, so that it can be a host name).
 */
bool text_is_name(const char *string);

/* Of labels, attributes, taints and pools: 1 to 63 of A-Z a-z 0-9 - _ . and /? */
bool text_is_key(const char *string);

/* Edit distance (Levenshtein, at most 32 characters are looked at), for "did you mean". */
unsigned text_distance(const char *a, const char *b);

/* The only one of `count` candidates that begins so, or the nearest; NULL: none is near enough to
 * be meant. */
const char *text_nearest(const char *wrong, const char *const *candidates, size_t count);

#endif
