#include "base/buffer.h"

#include "base/memory.h"

#include "test/lib/test.h"

TEST(buffer, holds_what_was_appended_across_growth)
{
    BUFFER_OWNED struct buffer buffer = {0};
    for (int i = 0; i < 1000; i++) {
        buffer_append_format(&buffer, "%d,", i);
    }
    EXPECT(strncmp(buffer_string(&buffer), "0,1,2,", 6) == 0);
    EXPECT(strcmp(buffer_string(&buffer) + buffer.used - 8, "998,999,") == 0);
    buffer_consume(&buffer, 4);
    EXPECT(strncmp(buffer_string(&buffer), "2,3,", 4) == 0);
}

/* Goal: what is printed is whole whatever room there was: none, all but a byte, enough. */
TEST(buffer, prints_across_growth)
{
    for (int length = 0; length < 300; length++) {
        BUFFER_OWNED struct buffer buffer = {0};
        buffer_append_format(&buffer, "%*s", length, "");
        buffer_append_format(&buffer, "%0*d|", length, 7);
        EXPECT(buffer.used == (size_t)(2 * length + (length == 0 ? 2 : 1)));
        EXPECT(buffer.data[buffer.used - 1] == '|' && buffer.data[buffer.used - 2] == '7');
    }
}

TEST(buffer, integers_are_little_endian)
{
    BUFFER_OWNED struct buffer buffer = {0};
    buffer_append_u32(&buffer, 0x01020304);
    buffer_append_u64(&buffer, UINT64_C(0x1122334455667788));
    EXPECT(buffer.used == 12);
    EXPECT(memcmp(buffer.data, "\x04\x03\x02\x01\x88\x77\x66\x55\x44\x33\x22\x11", 12) == 0);
}

TEST(buffer, taking_leaves_an_empty_buffer)
{
    struct buffer buffer = {0};
    buffer_append_string(&buffer, "abc");
    MEMORY_OWNED char *taken = buffer_take(&buffer);
    EXPECT_STRING(taken, "abc");
    EXPECT(buffer.used == 0 && buffer.data == NULL);
    buffer_done(&buffer);
}

/* Goal: nothing of a secret is left where it was. */
TEST(buffer, wiping_leaves_zeroes_and_an_empty_buffer)
{
    struct buffer buffer = {0};
    buffer_append_string(&buffer, "secret");
    buffer_wipe(&buffer);
    EXPECT(buffer.data == NULL && buffer.used == 0 && buffer.size == 0);
    buffer_wipe(&buffer);
}
