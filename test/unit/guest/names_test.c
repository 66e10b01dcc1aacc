/* Names of a guest without a network. */
#include "guest/agent/names.h"

#include <stdio.h>
#include <string.h>

#include "test/lib/test.h"

static struct names names;

/* A query for "one.two" in letters of any case; its length. */
static size_t query_for(const char *labels, uint8_t type, uint8_t out[NAMES_ANSWER_MAX])
{
    static const uint8_t head[12] = {0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0};
    size_t at = sizeof(head);
    memcpy(out, head, at);
    for (const char *label = labels; *label != '\0';) {
        size_t length = strcspn(label, ".");
        out[at++] = (uint8_t)length;
        memcpy(out + at, label, length);
        at += length;
        label += length + (label[length] == '.');
    }
    const uint8_t tail[5] = {0, 0, type, 0, 1};
    memcpy(out + at, tail, sizeof(tail));
    return at + sizeof(tail);
}

static uint32_t address_in(const uint8_t *answer, size_t length)
{
    const uint8_t *at = answer + length - 4;
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

TEST(names, each_name_has_an_address_and_each_address_its_name)
{
    uint8_t query[NAMES_ANSWER_MAX];
    uint8_t answer[NAMES_ANSWER_MAX];
    names.count = 0;
    size_t length = names_answer(&names, query, query_for("a.Example", 1, query), answer);
    EXPECT(length > 16 && answer[0] == 0x12 && answer[1] == 0x34);
    EXPECT(answer[2] == 0x85 && answer[3] == 0x80 && answer[7] == 1);
    EXPECT(address_in(answer, length) == NAMES_FIRST + 1);
    length = names_answer(&names, query, query_for("b.example", 1, query), answer);
    EXPECT(address_in(answer, length) == NAMES_FIRST + 2);
    length = names_answer(&names, query, query_for("A.EXAMPLE", 1, query), answer);
    EXPECT(address_in(answer, length) == NAMES_FIRST + 1);
    EXPECT(strcmp(names_find(&names, NAMES_FIRST + 1), "a.example") == 0);
    EXPECT(strcmp(names_find(&names, NAMES_FIRST + 2), "b.example") == 0);
    EXPECT(names_find(&names, NAMES_FIRST) == NULL);
    EXPECT(names_find(&names, NAMES_FIRST + 3) == NULL);
}

TEST(names, other_types_have_no_answers_and_the_loopback_stays)
{
    uint8_t query[NAMES_ANSWER_MAX];
    uint8_t answer[NAMES_ANSWER_MAX];
    names.count = 0;
    EXPECT(names_answer(&names, query, query_for("a.example", 28, query), answer) > 0);
    EXPECT(answer[3] == 0x80 && answer[7] == 0 && names.count == 0);
    size_t length = names_answer(&names, query, query_for("localhost", 1, query), answer);
    EXPECT(address_in(answer, length) == 0x7f000001 && names.count == 0);
}

TEST(names, what_is_no_query_or_too_many_is_not_answered_with_an_address)
{
    uint8_t query[NAMES_ANSWER_MAX];
    uint8_t answer[NAMES_ANSWER_MAX];
    char name[32];
    names.count = 0;
    size_t length = query_for("a.example", 1, query);
    for (size_t cut = 0; cut < 12; cut++) {
        EXPECT(names_answer(&names, query, cut, answer) == 0);
    }
    for (size_t cut = 12; cut < length; cut++) {
        EXPECT(names_answer(&names, query, cut, answer) == 12 && (answer[3] & 15) == 1);
    }
    length = query_for("a b.example", 1, query);
    EXPECT(names_answer(&names, query, length, answer) == 12 && (answer[3] & 15) == 1);
    for (size_t i = 0; i <= NAMES_MAX; i++) {
        snprintf(name, sizeof(name), "n%zu.example", i);
        length = query_for(name, 1, query);
        EXPECT(names_answer(&names, query, length, answer) > 12);
        EXPECT((answer[3] & 15) == (i < NAMES_MAX ? 0 : 2));
    }
    EXPECT(names.count == NAMES_MAX);
}
