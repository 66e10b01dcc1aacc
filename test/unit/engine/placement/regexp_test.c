#include "engine/placement/regexp.h"

#include "base/error.h"
#include "base/memory.h"

#include "test/lib/test.h"

static bool matches(const char *pattern, const char *text)
{
    struct error err = {0};
    struct regexp *regexp = NULL;
    int r = regexp_new(pattern, &regexp, &err);
    if (r < 0) {
        fprintf(stderr, "%s\n", err.text);
    }
    EXPECT(r == 0);
    bool result = regexp_matches(regexp, text);
    regexp_free(regexp);
    return result;
}

static int refused(const char *pattern)
{
    struct error err = {0};
    struct regexp *regexp = NULL;
    int r = regexp_new(pattern, &regexp, &err);
    EXPECT(regexp == NULL || r == 0);
    regexp_free(regexp);
    return r;
}

TEST(placement_regexp, matches_what_the_syntax_says)
{
    EXPECT(matches("", ""));
    EXPECT(matches("b", "abc"));
    EXPECT(!matches("^b", "abc"));
    EXPECT(matches("^abc$", "abc"));
    EXPECT(!matches("^abc$", "abcd"));
    EXPECT(matches("^(a|bc)*$", "abcabca"));
    EXPECT(!matches("^(a|bc)*$", "abcb"));
    EXPECT(matches("^a+b?c{2,3}$", "aacc"));
    EXPECT(!matches("^a+b?c{2,3}$", "aacccc"));
    EXPECT(matches("^a{2,}$", "aaaa"));
    EXPECT(!matches("^a{2,}$", "a"));
    EXPECT(matches("^[a-cx]+$", "abcx"));
    EXPECT(!matches("^[^a-c]$", "b"));
    EXPECT(matches("^[]-]+$", "]-"));
    EXPECT(matches("^\\d+\\.\\w$", "12.x"));
    EXPECT(!matches("^\\D$", "1"));
    EXPECT(matches("^[\\d_]+$", "1_2"));
    EXPECT(matches("a|", "zzz"));
    EXPECT(matches("$", "x"));
    EXPECT(matches("^.$", "\t"));
    EXPECT(matches("^(x{0})y$", "y"));
}

TEST(placement_regexp, refuses_what_is_no_pattern)
{
    static const char *const wrong[] = {"(",  ")",   "a)",    "[a",   "[",      "*",
                                        "+a", "a{",  "a{x}",  "a{2",  "a{3,2}", "a{256}",
                                        "\\", "[\\", "[b-a]", "(?:a)"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        EXPECT(refused(wrong[i]) == -ERROR_INVALID);
    }
}

/*
 * Goal: no pattern takes long or much memory.
 * Method: those that are known to explode elsewhere: in backtracking, in repetitions written out,
 * and in repetitions of nothing.
 */
TEST(placement_regexp, cannot_be_made_to_explode)
{
    char text[20001];
    memset(text, 'a', sizeof(text) - 1);
    text[sizeof(text) - 1] = 0;
    EXPECT(!matches("^(a+)+$b", text));
    EXPECT(!matches("(a|a)*(a|a)*(a|a)*b", text));
    EXPECT(matches("^(a*)*$", text));
    EXPECT(refused("((a{255}){255}){255}") == -ERROR_LIMIT);
    EXPECT(refused("((((){255}){255}){255}){255}") == -ERROR_LIMIT);
    EXPECT(refused("((((((((((((((((((a))))))))))))))))))") == -ERROR_INVALID);
    char *longest = memory_new(REGEXP_PATTERN_MAX + 2, 1);
    memset(longest, '(', REGEXP_PATTERN_MAX + 1);
    EXPECT(refused(longest) == -ERROR_LIMIT);
    free(longest);
}
