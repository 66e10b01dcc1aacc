/* See names.h. */
#include "guest/agent/names.h"

#include <string.h>

enum {
    HEAD = 12,
    ADDRESS_ANSWER = 16, /* a name by its place, type, class, time to live, length, address */
    TYPE_A = 1,
    CLASS_IN = 1,
    SECONDS = 60,
    NO_ERROR = 0,
    FORMAT_ERROR = 1,
    SERVER_FAILURE = 2,
};

const char *names_find(const struct names *names, uint32_t address)
{
    uint32_t index = address - NAMES_FIRST - 1;
    return index < names->count ? names->all[index] : NULL;
}

static uint32_t address_of(struct names *names, const char *name)
{
    if (strcmp(name, "localhost") == 0) {
        return 0x7f000001;
    }
    for (size_t i = 0; i < names->count; i++) {
        if (strcmp(names->all[i], name) == 0) {
            return NAMES_FIRST + (uint32_t)i + 1;
        }
    }
    if (names->count == NAMES_MAX) {
        return 0;
    }
    memcpy(names->all[names->count], name, strlen(name) + 1);
    names->count++;
    return NAMES_FIRST + (uint32_t)names->count;
}

static bool is_of_name(uint8_t c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

/* The question's name at `*at`, behind which *at is then; false: it is none that may be one. */
static bool read_name(const uint8_t *query, size_t length, size_t *at, char ret_name[NAME_SIZE])
{
    size_t used = 0;
    while (*at < length && query[*at] != 0) {
        size_t label = query[*at];
        if (label > 63 || length - *at - 1 < label || used + label + 1 >= NAME_SIZE) {
            return false;
        }
        if (used > 0) {
            ret_name[used++] = '.';
        }
        for (size_t i = 0; i < label; i++) {
            uint8_t c = query[*at + 1 + i];
            c = (uint8_t)(c >= 'A' && c <= 'Z' ? c + 32 : c);
            if (!is_of_name(c)) {
                return false;
            }
            ret_name[used++] = (char)c;
        }
        *at += 1 + label;
    }
    ret_name[used] = '\0';
    *at += 1;
    return *at <= length && used > 0;
}

static size_t finish(uint8_t *answer, size_t length, unsigned code, unsigned answers)
{
    answer[2] = (uint8_t)(0x84 | (answer[2] & 1)); /* an answer, of who knows; RD as it was */
    answer[3] = (uint8_t)(0x80 | code);
    memset(answer + 6, 0, 6);
    answer[7] = (uint8_t)answers;
    return length;
}

size_t names_answer(struct names *names, const uint8_t *query, size_t length, uint8_t *ret_answer)
{
    char name[NAME_SIZE];
    size_t at = HEAD;
    bool is_query = length >= HEAD && length <= NAMES_ANSWER_MAX && (query[2] & 0xf8) == 0;
    if (!is_query || query[4] != 0 || query[5] != 1) {
        return 0;
    }
    memcpy(ret_answer, query, HEAD);
    if (!read_name(query, length, &at, name) || length - at < 4 ||
        at + 4 + ADDRESS_ANSWER > NAMES_ANSWER_MAX) {
        ret_answer[5] = 0;
        return finish(ret_answer, HEAD, FORMAT_ERROR, 0);
    }
    bool is_address = query[at] == 0 && query[at + 1] == TYPE_A && query[at + 2] == 0 &&
        query[at + 3] == CLASS_IN;
    at += 4;
    memcpy(ret_answer + HEAD, query + HEAD, at - HEAD);
    if (!is_address) {
        return finish(ret_answer, at, NO_ERROR, 0);
    }
    uint32_t address = address_of(names, name);
    if (address == 0) {
        return finish(ret_answer, at, SERVER_FAILURE, 0);
    }
    const uint8_t record[ADDRESS_ANSWER] = {0xc0,
                                            HEAD,
                                            0,
                                            TYPE_A,
                                            0,
                                            CLASS_IN,
                                            0,
                                            0,
                                            0,
                                            SECONDS,
                                            0,
                                            4,
                                            (uint8_t)(address >> 24),
                                            (uint8_t)(address >> 16),
                                            (uint8_t)(address >> 8),
                                            (uint8_t)address};
    memcpy(ret_answer + at, record, sizeof(record));
    return finish(ret_answer, at + sizeof(record), NO_ERROR, 1);
}
