/*
 * Frames of a WebSocket client, and records of a function.
 *
 * The first byte says at which step the rest is cut.  Claims: the verdict, and all that is heard,
 * is the same as in one piece; a message is within its limit; a text and a reason are UTF-8; a
 * control frame is small; nothing is heard after a close; what is written of a message reads as
 * one; what is packed unpacks to what it was; offers are read.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/text.h"

#include "service/gateway/deflate.h"
#include "service/gateway/frame.h"

enum { MESSAGE_MAX = 300 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct heard {
    struct buffer all;
    bool is_closed;
};

static bool on_frame(enum frame_kind kind, const uint8_t *bytes, size_t length, void *context)
{
    struct heard *heard = context;
    CHECK(!heard->is_closed);
    heard->is_closed = kind == FRAME_CLOSE;
    switch (kind) {
    case FRAME_TEXT:
        CHECK(text_is_utf8(bytes, length));
        CHECK(length <= MESSAGE_MAX);
        break;
    case FRAME_BINARY:
        CHECK(length <= MESSAGE_MAX);
        break;
    case FRAME_CLOSE:
        CHECK(length != 1 && length <= FRAME_CONTROL_MAX);
        CHECK(length < 2 || text_is_utf8(bytes + 2, length - 2));
        break;
    case FRAME_PING:
    case FRAME_PONG:
        CHECK(length <= FRAME_CONTROL_MAX);
        break;
    case FRAME_CONTINUATION:
        CHECK_UNREACHABLE();
    }
    record_write(&heard->all, kind, bytes, length);
    return kind != FRAME_CLOSE;
}

static struct deflater *deflater;

static int read_as(const uint8_t *data, size_t size, size_t step, struct heard *heard,
                   struct deflater *packed)
{
    struct frame_reader reader = {.message_max = MESSAGE_MAX, .deflater = packed};
    int r = 0;
    for (size_t at = 0; r == 0 && at < size; at += step) {
        size_t part = size - at < step ? size - at : step;
        r = frame_reader_take(&reader, data + at, part, on_frame, heard);
        CHECK(reader.bytes.used <= MESSAGE_MAX + (packed != NULL ? 65 : 0));
    }
    frame_reader_done(&reader);
    return r;
}

static int read_frames(const uint8_t *data, size_t size, size_t step, struct heard *heard)
{
    return read_as(data, size, step, heard, NULL);
}

static int read_packed(const uint8_t *data, size_t size, size_t step, struct heard *heard)
{
    return read_as(data, size, step, heard, deflater);
}

static void pack_and_unpack(const uint8_t *data, size_t size)
{
    struct buffer packed = {0};
    struct buffer plain = {0};
    bool wants_window = false;
    if (deflater_pack(deflater, data, size, &packed)) {
        CHECK(packed.used < size);
        CHECK(deflater_unpack(deflater, packed.data, packed.used, size, &plain) == 0);
        CHECK(plain.used == size && memcmp(plain.data, data, size) == 0);
        plain.used = 0;
        CHECK(deflater_unpack(deflater, packed.data, packed.used, size - 1, &plain) ==
              FRAME_CODE_LARGE);
    }
    (void)deflate_is_offered(text_of((const char *)data, size), &wants_window);
    buffer_done(&packed);
    buffer_done(&plain);
}

static int read_records(const uint8_t *data, size_t size, size_t step, struct heard *heard)
{
    struct record_reader reader = {.message_max = MESSAGE_MAX};
    bool is_good = true;
    for (size_t at = 0; is_good && at < size && !heard->is_closed; at += step) {
        size_t part = size - at < step ? size - at : step;
        is_good = record_reader_take(&reader, data + at, part, on_frame, heard);
    }
    record_reader_done(&reader);
    return is_good;
}

static void compare(int (*read)(const uint8_t *data, size_t size, size_t step, struct heard *heard),
                    const uint8_t *data, size_t size, size_t step)
{
    struct heard whole = {0};
    struct heard pieces = {0};
    int a = read(data, size, size, &whole);
    int b = read(data, size, step, &pieces);
    CHECK(a == b);
    CHECK(whole.all.used == pieces.all.used);
    CHECK(whole.all.used == 0 || memcmp(whole.all.data, pieces.all.data, whole.all.used) == 0);
    buffer_done(&whole.all);
    buffer_done(&pieces.all);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2) {
        return 0;
    }
    uint8_t *copy = malloc(size - 1); /* exactly as long: what is behind it is noticed */
    CHECK(copy != NULL);
    memcpy(copy, data + 1, size - 1);
    size_t step = 1 + data[0] % 32;
    compare(read_frames, copy, size - 1, step);
    deflater = deflater != NULL ? deflater : deflater_new();
    compare(read_packed, copy, size - 1, step);
    pack_and_unpack(copy, size - 1);
    compare(read_records, copy, size - 1, step);
    free(copy);
    return 0;
}
