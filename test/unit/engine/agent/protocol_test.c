#include "engine/agent/protocol.h"

#include "base/random.h"

#include "test/lib/test.h"

/* Goal: what is encoded comes back, and holds no zero but the last; whatever the bytes are. */
static void check_round_trip(const uint8_t *bytes, size_t length)
{
    BUFFER_OWNED struct buffer out = {0};
    const struct agent_frame_head head = {AGENT_DATA, AGENT_STREAM_OUT, 0, 77};
    struct agent_receiver receiver = {0};
    struct agent_frame frame;
    agent_frame_append(&out, &head, bytes, length);
    EXPECT(memchr(out.data, 0, out.used) == out.data + out.used - 1);
    EXPECT(out.used <= AGENT_ENCODED_MAX + 1);
    const uint8_t *at = out.data;
    size_t left = out.used;
    EXPECT(agent_receive(&receiver, &at, &left, &frame));
    EXPECT(left == 0);
    EXPECT(frame.head.type == AGENT_DATA && frame.head.stream == AGENT_STREAM_OUT);
    EXPECT(frame.head.id == 77 && frame.length == length);
    EXPECT(length == 0 || memcmp(frame.payload, bytes, length) == 0);
    EXPECT(!agent_receive(&receiver, &at, &left, &frame) && receiver.dropped == 0);
    buffer_done(&receiver.held);
}

TEST(agent_protocol, frames_come_back_whatever_is_in_them)
{
    static uint8_t bytes[AGENT_FRAME_MAX];
    size_t most = AGENT_FRAME_MAX - AGENT_HEAD_SIZE;
    for (size_t length = 0; length < 1100; length++) {
        memset(bytes, 'a', length);
        check_round_trip(bytes, length);
        if (length > 0) {
            bytes[length - 1] = 0; /* a zero on either side of each block's border */
            check_round_trip(bytes, length);
            memset(bytes, 0, length);
            bytes[0] = 1;
            check_round_trip(bytes, length);
        }
        random_bytes(bytes, length);
        check_round_trip(bytes, length);
    }
    memset(bytes, 0, most);
    check_round_trip(bytes, most);
    memset(bytes, 255, most);
    check_round_trip(bytes, most);
    random_bytes(bytes, most);
    check_round_trip(bytes, most);
}

/* Goal: a receiver that comes in the middle is in step after the next zero, and loses no more. */
TEST(agent_protocol, is_in_step_after_the_next_zero)
{
    BUFFER_OWNED struct buffer out = {0};
    const struct agent_frame_head first = {AGENT_DATA, 0, 0, 1};
    const struct agent_frame_head second = {AGENT_HELLO, 0, 0, 0};
    agent_frame_append(&out, &first, "some content that is cut", 24);
    size_t border = out.used;
    agent_frame_append(&out, &second, "x", 1);
    for (size_t from = 1; from < border; from++) {
        struct agent_receiver receiver = {0};
        struct agent_frame frame = {0};
        const uint8_t *at = out.data + from;
        size_t left = out.used - from;
        bool found = false;
        unsigned frames = 0;
        while (agent_receive(&receiver, &at, &left, &frame)) {
            frames++;
            found = frame.head.type == AGENT_HELLO;
        }
        EXPECT(found && frames <= 2);
        buffer_done(&receiver.held);
    }
}

/* Goal: it does not matter how the bytes are cut. */
TEST(agent_protocol, takes_one_byte_at_a_time)
{
    BUFFER_OWNED struct buffer out = {0};
    struct agent_receiver receiver = {0};
    struct agent_frame frame;
    unsigned frames = 0;
    buffer_append_byte(&out, 0);
    for (uint32_t id = 1; id <= 50; id++) {
        const struct agent_frame_head head = {AGENT_NOTE, 0, 0, id};
        agent_frame_append(&out, &head, "\0\0abc\0", 6);
        buffer_append_byte(&out, 0);
    }
    for (size_t i = 0; i < out.used; i++) {
        const uint8_t *at = out.data + i;
        size_t left = 1;
        while (agent_receive(&receiver, &at, &left, &frame)) {
            frames++;
            EXPECT(frame.head.id == frames && frame.length == 6);
        }
    }
    EXPECT(frames == 50 && receiver.dropped == 0);
    buffer_done(&receiver.held);
}

/* Goal: a frame without an end costs no more memory than the longest good one; the next is good. */
TEST(agent_protocol, drops_what_is_too_long_and_goes_on)
{
    static uint8_t endless[AGENT_ENCODED_MAX];
    BUFFER_OWNED struct buffer good = {0};
    struct agent_receiver receiver = {0};
    struct agent_frame frame;
    const struct agent_frame_head head = {AGENT_ANSWER, 0, 0, 9};
    memset(endless, 1, sizeof(endless));
    for (int i = 0; i < 5; i++) {
        const uint8_t *at = endless;
        size_t left = sizeof(endless);
        EXPECT(!agent_receive(&receiver, &at, &left, &frame) && left == 0);
        EXPECT(receiver.held.size <= (size_t)2 * AGENT_ENCODED_MAX);
    }
    buffer_append_byte(&good, 0);
    agent_frame_append(&good, &head, NULL, 0);
    const uint8_t *at = good.data;
    size_t left = good.used;
    EXPECT(agent_receive(&receiver, &at, &left, &frame) && frame.head.id == 9);
    EXPECT(receiver.dropped == 1);
    buffer_done(&receiver.held);
}

/* Goal: heads that no frame of ours has are dropped. */
TEST(agent_protocol, drops_unknown_types_and_streams_and_short_frames)
{
    static const struct agent_frame_head heads[] = {
        {0, 0, 0, 1}, {AGENT_FRAME_TYPES, 0, 0, 1}, {AGENT_DATA, AGENT_STREAMS, 0, 1}};
    struct agent_receiver receiver = {0};
    struct agent_frame frame;
    for (size_t i = 0; i < 3; i++) {
        BUFFER_OWNED struct buffer out = {0};
        agent_frame_append(&out, &heads[i], "x", 1);
        const uint8_t *at = out.data;
        size_t left = out.used;
        EXPECT(!agent_receive(&receiver, &at, &left, &frame));
        EXPECT(receiver.dropped == i + 1);
    }
    const uint8_t *at = (const uint8_t *)"\x03\x05\x06"; /* two bytes, then the zero */
    size_t left = 4;
    EXPECT(!agent_receive(&receiver, &at, &left, &frame) && receiver.dropped == 4);
    buffer_done(&receiver.held);
}

TEST(agent_protocol, fields_nest_and_unknown_ones_are_passed_over)
{
    BUFFER_OWNED struct buffer out = {0};
    struct agent_field field;
    agent_put_text(&out, AGENT_PATH, "/etc");
    size_t begin = agent_put_begin(&out, AGENT_INTERFACE);
    agent_put_number(&out, AGENT_MTU, 1400);
    agent_put_text(&out, AGENT_NAME, "");
    agent_put_end(&out, begin);
    agent_put_number(&out, (enum agent_tag)60000, UINT64_MAX);
    struct agent_reader reader = agent_reader_of(out.data, out.used);
    EXPECT(agent_next(&reader, &field) && field.tag == AGENT_PATH && field.length == 4);
    EXPECT(agent_next(&reader, &field) && field.tag == AGENT_INTERFACE);
    struct agent_reader inner = agent_reader_in(&field);
    EXPECT(agent_next(&inner, &field) && agent_field_number(&field) == 1400);
    EXPECT(agent_next(&inner, &field) && field.tag == AGENT_NAME && field.length == 0);
    EXPECT(!agent_next(&inner, &field) && !inner.is_bad);
    EXPECT(agent_next(&reader, &field) && field.tag == 60000);
    EXPECT(agent_field_number(&field) == UINT64_MAX);
    EXPECT(!agent_next(&reader, &field) && !reader.is_bad);
}

/* Goal: a row of fields that is cut anywhere but between two is bad, and read no further. */
TEST(agent_protocol, knows_fields_that_are_cut)
{
    BUFFER_OWNED struct buffer out = {0};
    struct agent_field field;
    agent_put_text(&out, AGENT_PATH, "/etc");
    agent_put_number(&out, AGENT_MODE, 5);
    for (size_t length = 0; length < out.used; length++) {
        struct agent_reader reader = agent_reader_of(out.data, length);
        while (agent_next(&reader, &field)) {
            EXPECT(field.bytes + field.length <= out.data + length);
        }
        EXPECT(reader.is_bad == (length != 0 && length != 10));
    }
    agent_put_text(&out, AGENT_MODE, "short");
    struct agent_reader reader = agent_reader_of(out.data + 24, out.used - 24);
    EXPECT(agent_next(&reader, &field) && agent_field_number(&field) == 0);
}
