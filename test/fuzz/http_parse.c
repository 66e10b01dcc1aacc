/*
 * Heads of requests and answers, and bodies in chunks, out of the same bytes.
 *
 * Claims: no byte outside is read; the verdict does not depend on how the bytes were cut; what
 * passes is clean, inside the input and has one framing.
 */
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/http/parse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef long parser(const uint8_t *bytes, size_t length, const struct parse_limits *limits,
                    struct parse_head *ret_head);

static void check_inside(struct text text, const uint8_t *data, size_t length)
{
    const uint8_t *at = (const uint8_t *)text.data;
    CHECK(at >= data && at <= data + length && text.length <= (size_t)(data + length - at));
}

static void check_head(const struct parse_head *head, const uint8_t *data, size_t length)
{
    CHECK(!(head->has_length && head->is_chunked));
    CHECK(head->minor == 0 || head->minor == 1);
    CHECK(!(head->is_chunked && head->minor == 0));
    CHECK(head->field_count <= PARSE_FIELDS_MAX);
    for (size_t i = 0; i < head->field_count; i++) {
        CHECK(parse_is_token(head->fields[i].name) && parse_is_value(head->fields[i].value));
        check_inside(head->fields[i].name, data, length);
        check_inside(head->fields[i].value, data, length);
    }
}

/* Every piece, in memory of its own size, wants more until the whole has its verdict. */
static void try_head(parser *parse, const uint8_t *data, size_t size)
{
    static struct parse_head head;
    static struct parse_head early_head;
    const struct parse_limits limits = {256, 8, 64};
    long whole = parse(data, size, &limits, &head);
    CHECK(whole >= -599 && whole <= (long)size);
    if (whole > 0) {
        check_head(&head, data, (size_t)whole);
    }
    for (size_t cut = 0; cut < size && cut < 300; cut++) {
        uint8_t *piece = malloc(cut + 1);
        CHECK(piece != NULL);
        memcpy(piece, data, cut);
        long early = parse(piece, cut, &limits, &early_head);
        CHECK(early == 0 || early == whole);
        free(piece);
    }
}

static void try_chunks(const uint8_t *data, size_t size, size_t step, uint8_t *ret_body,
                       size_t *ret_length, size_t *ret_used, int *ret_verdict)
{
    struct parse_chunks chunks = {0};
    size_t used = 0;
    int verdict = 0;
    *ret_length = 0;
    while (used < size && verdict == 0) {
        size_t part = size - used < step ? size - used : step;
        size_t took = 0;
        struct text content;
        verdict = parse_chunk(&chunks, data + used, part, &took, &content);
        CHECK(took > 0 && took <= part);
        if (verdict >= 0 && content.length > 0) {
            check_inside(content, data + used, took);
            memcpy(ret_body + *ret_length, content.data, content.length);
            *ret_length += content.length;
        }
        used += took;
    }
    *ret_used = used;
    *ret_verdict = verdict;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 4096) {
        return 0;
    }
    try_head(parse_request, data, size);
    try_head(parse_answer, data, size);
    static uint8_t whole_body[4096];
    static uint8_t cut_body[4096];
    size_t whole_length;
    size_t whole_used;
    int whole;
    try_chunks(data, size, size + 1, whole_body, &whole_length, &whole_used, &whole);
    for (size_t step = 1; step <= 3; step++) {
        size_t length;
        size_t used;
        int verdict;
        try_chunks(data, size, step, cut_body, &length, &used, &verdict);
        CHECK(verdict == whole && used == whole_used && length == whole_length);
        CHECK(memcmp(cut_body, whole_body, length) == 0);
    }
    return 0;
}
