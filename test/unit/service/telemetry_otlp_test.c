/* What a collector answers, and what is packed for it. */
#include <string.h>
#include <zlib.h>

#include "base/buffer.h"

#include "service/telemetry/otlp.h"

#include "test/lib/test.h"

/* 2015-10-21 07:28:00 UTC */
enum { THEN = 1445412480 };

static uint64_t wait_s(const char *field)
{
    return otlp_retry_after_s(text_of(field, strlen(field)), THEN);
}

TEST(otlp, a_collector_may_name_seconds_or_a_date)
{
    EXPECT(wait_s("") == 0);
    EXPECT(wait_s("0") == 0);
    EXPECT(wait_s("120") == 120);
    EXPECT(wait_s("soon") == 0);
    EXPECT(wait_s("-1") == 0);
    EXPECT(wait_s("Wed, 21 Oct 2015 07:28:30 GMT") == 30);
    EXPECT(wait_s("Wednesday, 21-Oct-15 07:29:00 GMT") == 60);
    EXPECT(wait_s("Wed Oct 21 07:28:05 2015") == 5);
    EXPECT(wait_s("Wed, 21 Oct 2015 07:27:59 GMT") == 0);
}

TEST(otlp, nobody_waits_longer_than_an_hour)
{
    EXPECT(wait_s("3600") == 3600);
    EXPECT(wait_s("3601") == OTLP_RETRY_AFTER_S_MAX);
    EXPECT(wait_s("18446744073709551615") == OTLP_RETRY_AFTER_S_MAX);
    EXPECT(wait_s("Wed, 21 Oct 2026 07:28:00 GMT") == OTLP_RETRY_AFTER_S_MAX);
}

TEST(otlp, a_refusal_says_why)
{
    static const char status[] = "\x08\x03\x12\x09no tenant";
    char text[8];
    char whole[64];
    EXPECT(otlp_read_status(status, sizeof(status) - 1, whole, sizeof(whole)));
    EXPECT_STRING(whole, "no tenant");
    EXPECT(otlp_read_status(status, sizeof(status) - 1, text, sizeof(text)));
    EXPECT_STRING(text, "no tena");
    EXPECT(otlp_read_status("", 0, whole, sizeof(whole)));
    EXPECT_STRING(whole, "");
    EXPECT(!otlp_read_status(status, sizeof(status) - 2, whole, sizeof(whole)));
}

/* Method: zlib unpacks it again, of none, of a few bytes, and of more than a piece. */
TEST(otlp, what_is_packed_comes_out_again)
{
    static const size_t lengths[] = {0, 1, 300000};
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        BUFFER_OWNED struct buffer bytes = {0};
        BUFFER_OWNED struct buffer packed = {0};
        static uint8_t out[300001];
        for (size_t at = 0; at < lengths[i]; at++) {
            buffer_append_byte(&bytes, (uint8_t)(at * at >> 7));
        }
        otlp_append_packed(bytes.data, bytes.used, &packed);
        z_stream stream = {.next_in = packed.data,
                           .avail_in = (uInt)packed.used,
                           .next_out = out,
                           .avail_out = sizeof(out)};
        EXPECT(inflateInit2(&stream, MAX_WBITS + 16) == Z_OK);
        EXPECT(inflate(&stream, Z_FINISH) == Z_STREAM_END);
        EXPECT(stream.avail_in == 0 && stream.total_out == lengths[i]);
        EXPECT(lengths[i] == 0 || memcmp(out, bytes.data, lengths[i]) == 0);
        inflateEnd(&stream);
    }
}
