#include "base/base64.h"

#include "base/buffer.h"

#include "test/lib/test.h"

/* The vectors of RFC 4648, section 10. */
TEST(base64, writes_and_reads_what_the_rfc_says)
{
    static const char *const pairs[][2] = {
        {"", ""},
        {"f", "Zg=="},
        {"fo", "Zm8="},
        {"foo", "Zm9v"},
        {"foob", "Zm9vYg=="},
        {"fooba", "Zm9vYmE="},
        {"foobar", "Zm9vYmFy"},
    };
    for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
        BUFFER_OWNED struct buffer text = {0};
        BUFFER_OWNED struct buffer bytes = {0};
        base64_write(&text, pairs[i][0], strlen(pairs[i][0]));
        EXPECT_STRING(buffer_string(&text), pairs[i][1]);
        EXPECT(base64_read(pairs[i][1], strlen(pairs[i][1]), &bytes));
        EXPECT_STRING(buffer_string(&bytes), pairs[i][0]);
    }
}

TEST(base64, refuses_what_is_none)
{
    static const char *const bad[] = {"A", "AAA", "A===", "AA=A", "AAA*", "====", "Zg==Zg=="};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        BUFFER_OWNED struct buffer bytes = {0};
        EXPECT(!base64_read(bad[i], strlen(bad[i]), &bytes) && bytes.used == 0);
    }
}
