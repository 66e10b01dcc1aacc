/* Frames of WebSocket: what may come, in pieces of any size, and what goes out. */
#include "service/gateway/deflate.h"
#include "service/gateway/frame.h"

#include "test/lib/test.h"

struct heard {
    struct buffer text; /* "KIND:LENGTH " ... */
    struct buffer last;
    size_t count;
    bool stops;
};

static bool on_frame(enum frame_kind kind, const uint8_t *bytes, size_t length, void *context)
{
    struct heard *heard = context;
    buffer_append_format(&heard->text, "%d:%zu ", (int)kind, length);
    heard->last.used = 0;
    buffer_append(&heard->last, bytes, length);
    heard->count++;
    return !heard->stops;
}

static void heard_done(struct heard *heard)
{
    buffer_done(&heard->text);
    buffer_done(&heard->last);
}

/* As a client writes it. */
static void add(struct buffer *out, unsigned first, const void *bytes, size_t length)
{
    static const uint8_t key[4] = {0xa1, 0x02, 0x7f, 0x00};
    BUFFER_OWNED struct buffer plain = {0};
    frame_write(&plain, FRAME_TEXT, bytes, length);
    size_t head = plain.used - length;
    buffer_append_byte(out, (uint8_t)first);
    buffer_append_byte(out, plain.data[1] | 0x80);
    buffer_append(out, plain.data + 2, head - 2);
    buffer_append(out, key, 4);
    for (size_t i = 0; i < length; i++) {
        buffer_append_byte(out, plain.data[head + i] ^ key[i & 3]);
    }
}

static int take(const struct buffer *bytes, size_t step, size_t max, struct heard *heard)
{
    struct frame_reader reader = {.message_max = max};
    int r = 0;
    for (size_t at = 0; r == 0 && at < bytes->used; at += step) {
        size_t part = bytes->used - at < step ? bytes->used - at : step;
        r = frame_reader_take(&reader, bytes->data + at, part, on_frame, heard);
    }
    EXPECT(reader.bytes.used <= max);
    frame_reader_done(&reader);
    return r;
}

TEST(gateway_frame, messages_come_whole_however_they_are_cut)
{
    static const size_t steps[] = {1, 2, 3, 7, 126, 65536, 1 << 20};
    BUFFER_OWNED struct buffer bytes = {0};
    BUFFER_OWNED struct buffer big = {0};
    memset(buffer_reserve(&big, 70000), 'x', 70000);
    add(&bytes, 0x81, "hello", 5);
    add(&bytes, 0x02, "a", 1);
    add(&bytes, 0x89, "ping", 4);
    add(&bytes, 0x00, "", 0);
    add(&bytes, 0x80, "b", 1);
    add(&bytes, 0x81, "", 0);
    add(&bytes, 0x82, big.data, 125);
    add(&bytes, 0x82, big.data, 126);
    add(&bytes, 0x82, big.data, 65535);
    add(&bytes, 0x82, big.data, 65536);
    add(&bytes, 0x88,
        "\x03\xe8"
        "bye",
        5);
    add(&bytes, 0x81, "nobody reads this", 17);
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        struct heard heard = {0};
        EXPECT(take(&bytes, steps[i], 70000, &heard) == 0);
        EXPECT_STRING(buffer_string(&heard.text),
                      "1:5 9:4 2:2 1:0 2:125 2:126 2:65535 2:65536 8:5 ");
        EXPECT(memcmp(heard.last.data,
                      "\x03\xe8"
                      "bye",
                      5) == 0);
        heard_done(&heard);
    }
}

/* Goal: a message is packed by itself, and what it becomes again is bounded to the byte. */
TEST(gateway_frame, packed_messages_are_bounded)
{
    struct deflater *deflater = deflater_new();
    BUFFER_OWNED struct buffer long_text = {0};
    memset(buffer_reserve(&long_text, 50000), 'x', 50000);
    long_text.used = 50000;
    for (int i = 0; i < 2; i++) {
        BUFFER_OWNED struct buffer packed = {0};
        BUFFER_OWNED struct buffer plain = {0};
        EXPECT(deflater_pack(deflater, long_text.data, long_text.used, &packed));
        EXPECT(packed.used < 500);
        EXPECT(deflater_unpack(deflater, packed.data, packed.used, 49999, &plain) ==
               FRAME_CODE_LARGE);
        plain.used = 0;
        EXPECT(deflater_unpack(deflater, packed.data, packed.used, 50000, &plain) == 0);
        EXPECT(plain.used == 50000 && memcmp(plain.data, long_text.data, 50000) == 0);
    }
    BUFFER_OWNED struct buffer none = {0};
    EXPECT(!deflater_pack(deflater, "short", 5, &none) && none.used == 0);
    EXPECT(deflater_unpack(deflater, "\xff\xff", 2, 100, &none) == FRAME_CODE_PROTOCOL);
    deflater_free(deflater);
}

static bool offered(const char *list, bool window)
{
    bool wants_window = false;
    bool is_good = deflate_is_offered(text_of(list, strlen(list)), &wants_window);
    return is_good && wants_window == window;
}

TEST(gateway_frame, offers_are_taken_that_can_be_kept)
{
    EXPECT(offered("permessage-deflate", false));
    EXPECT(offered(" x ; y , permessage-deflate ; client_max_window_bits", false));
    EXPECT(offered("permessage-deflate; server_max_window_bits=\"15\"", true));
    EXPECT(!offered("permessage-deflate; server_max_window_bits=11", true));
    EXPECT(!offered("permessage-deflate; server_max_window_bits", true));
    EXPECT(!offered("permessage-deflate; server_max_window_bits=16", true));
    EXPECT(!offered("permessage-deflate; client_no_context_takeover=1", false));
    EXPECT(!offered("permessage-deflate; client_max_window_bits; client_max_window_bits", false));
    EXPECT(!offered("permessage-deflate;;", false));
    EXPECT(!offered("", false));
}

static int verdict(const void *bytes, size_t length, size_t max)
{
    struct heard heard = {0};
    struct buffer all = {.data = (uint8_t *)(uintptr_t)bytes, .used = length};
    int whole = take(&all, length, max, &heard);
    int pieces = take(&all, 1, max, &heard);
    EXPECT(whole == pieces);
    heard_done(&heard);
    return whole;
}

#define VERDICT(text, max) verdict(text, sizeof(text) - 1, max)

TEST(gateway_frame, what_cannot_be_has_a_code)
{
    EXPECT(VERDICT("\x81\x85\0\0\0\0hello", 5) == 0);
    EXPECT(VERDICT("\x81\x85\0\0\0\0hello", 4) == FRAME_CODE_LARGE);
    EXPECT(VERDICT("\x81\x05hello", 9) == FRAME_CODE_PROTOCOL);
    EXPECT(VERDICT("\xc1\x80\0\0\0\0", 9) == FRAME_CODE_PROTOCOL);
    EXPECT(VERDICT("\x83\x80\0\0\0\0", 9) == FRAME_CODE_PROTOCOL);
    EXPECT(VERDICT("\x8b\x80\0\0\0\0", 9) == FRAME_CODE_PROTOCOL);
    EXPECT(VERDICT("\x80\x80\0\0\0\0", 9) == FRAME_CODE_PROTOCOL);
    EXPECT(VERDICT("\x01\x80\0\0\0\0\x01\x80", 9) == FRAME_CODE_PROTOCOL);
    EXPECT(VERDICT("\x09\x80\0\0\0\0", 9) == FRAME_CODE_PROTOCOL);
    EXPECT(VERDICT("\x89\xfe\0\x7e", 999) == FRAME_CODE_PROTOCOL);
    EXPECT(VERDICT("\x82\xfe\0\x7d\0\0\0\0", 999) == FRAME_CODE_PROTOCOL);
    EXPECT(VERDICT("\x82\xff\0\0\0\0\0\0\xff\xff\0\0\0\0", 1 << 20) == FRAME_CODE_PROTOCOL);
    EXPECT(VERDICT("\x82\xff\x80\0\0\0\0\x01\0\0\0\0\0\0", 1 << 20) == FRAME_CODE_PROTOCOL);
    EXPECT(VERDICT("\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff\0\0\0\0", 1 << 20) ==
           FRAME_CODE_LARGE);
    EXPECT(VERDICT("\x02\x83\0\0\0\0abc\x80\x83\0\0\0\0abc", 5) == FRAME_CODE_LARGE);
    EXPECT(VERDICT("\x81\x81\0\0\0\0\xff", 9) == FRAME_CODE_DATA);
    EXPECT(VERDICT("\x88\x81\0\0\0\0\x03", 9) == FRAME_CODE_PROTOCOL);
    EXPECT(VERDICT("\x88\x82\0\0\0\0\x03\xed", 9) == FRAME_CODE_PROTOCOL);
    EXPECT(VERDICT("\x88\x83\0\0\0\0\x03\xe8\xff", 9) == FRAME_CODE_DATA);
    EXPECT(VERDICT("\x88\x80\0\0\0\0", 9) == 0);
}

TEST(gateway_frame, codes_are_those_that_may_be_said)
{
    static const unsigned good[] = {1000, 1003, 1007, 1011, 1014, 3000, 4999};
    static const unsigned bad[] = {0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535};
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        EXPECT(frame_code_is_good(good[i]));
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        EXPECT(!frame_code_is_good(bad[i]));
    }
}

TEST(gateway_frame, a_close_is_cut_between_characters)
{
    BUFFER_OWNED struct buffer out = {0};
    char reason[200];
    memset(reason, 'x', sizeof(reason));
    reason[122] = '\xc3';
    reason[123] = '\xa4';
    frame_write_close(&out, 1000, reason, sizeof(reason));
    EXPECT(out.used == 2 + 2 + 122 && out.data[0] == 0x88 && out.data[1] == 124);
    out.used = 0;
    frame_write_close(&out, FRAME_CODE_NONE, "", 0);
    EXPECT(out.used == 2 && out.data[1] == 0);
}

struct record_row {
    const char *bytes;
    size_t length;
    bool is_good;
};

static void expect_records(const struct record_row *row, size_t step)
{
    struct record_reader reader = {.message_max = 16};
    struct heard heard = {0};
    bool is_good = true;
    for (size_t at = 0; is_good && at < row->length; at += step) {
        size_t part = row->length - at < step ? row->length - at : step;
        is_good =
            record_reader_take(&reader, (const uint8_t *)row->bytes + at, part, on_frame, &heard);
    }
    EXPECT(is_good == row->is_good);
    EXPECT(heard.count == (row->is_good ? 1U : 0U));
    heard_done(&heard);
    record_reader_done(&reader);
}

TEST(gateway_frame, records_are_checked_and_may_come_in_pieces)
{
    static const struct record_row rows[] = {
        {"\1\0\0\0\5\0\0\0hello", 13, true},
        {"\2\0\0\0\1\0\0\0\xff", 9, true},
        {"\1\0\0\0\1\0\0\0\xff", 9, false},
        {"\x8\0\0\0\0\0\0\0", 8, true},
        {"\x8\0\0\0\2\0\0\0\xe8\3", 10, true},
        {"\x8\0\0\0\1\0\0\0\xe8", 9, false},
        {"\x8\0\0\0\2\0\0\0\0\0", 10, false},
        {"\x9\0\0\0\0\0\0\0", 8, false},
        {"\1\1\0\0\0\0\0\0", 8, false},
        {"\1\0\0\0\x11\0\0\0", 8, false},
        {"HTTP/1.1", 8, false},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        expect_records(&rows[i], 1);
        expect_records(&rows[i], rows[i].length);
    }
}
