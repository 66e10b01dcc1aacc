/* See frame.h. */
#include "service/gateway/frame.h"

#include <string.h>

#include "base/check.h"
#include "base/text.h"

#include "service/gateway/deflate.h"

enum {
    FIN = 0x80,
    RESERVED = 0x70,
    PACKED = 0x40,
    OPCODE = 0x0f,
    MASK = 0x80,
    LENGTH = 0x7f,
    KEEP_MAX = 65536
};

bool frame_code_is_good(unsigned code)
{
    bool is_defined = code >= 1000 && code <= 1014 && code != 1004 && code != 1005 && code != 1006;
    return is_defined || (code >= 3000 && code <= 4999);
}

/* ---- Reading ---- */

void frame_reader_done(struct frame_reader *reader)
{
    buffer_done(&reader->bytes);
    buffer_done(&reader->plain);
}

/* Bytes of the head, as far as the ones that are there tell. */
static size_t head_length(const struct frame_reader *reader)
{
    if (reader->head_used < 2) {
        return 2;
    }
    uint8_t length = reader->head[1] & LENGTH;
    return 2 + (length == 126 ? 2U : length == 127 ? 8U : 0U) + 4;
}

static uint64_t payload_length(const struct frame_reader *reader)
{
    uint8_t length = reader->head[1] & LENGTH;
    size_t bytes = length == 126 ? 2 : length == 127 ? 8 : 0;
    uint64_t value = bytes == 0 ? length : 0;
    for (size_t i = 0; i < bytes; i++) {
        value = value << 8 | reader->head[2 + i];
    }
    return value;
}

static bool is_control(const struct frame_reader *reader)
{
    return (reader->head[0] & 8) != 0;
}

/* The first two bytes: what is wrong is told before more of it is waited for. */
static int check_start(const struct frame_reader *reader)
{
    uint8_t kind = reader->head[0] & OPCODE;
    bool is_known = kind <= FRAME_BINARY || (kind >= FRAME_CLOSE && kind <= FRAME_PONG);
    bool begins = kind == FRAME_TEXT || kind == FRAME_BINARY;
    uint8_t reserved = RESERVED & ~(reader->deflater != NULL && begins ? PACKED : 0);
    if ((reader->head[0] & reserved) != 0 || !is_known || (reader->head[1] & MASK) == 0) {
        return FRAME_CODE_PROTOCOL;
    }
    if (is_control(reader)) {
        bool is_small = (reader->head[1] & LENGTH) <= FRAME_CONTROL_MAX;
        return (reader->head[0] & FIN) != 0 && is_small ? 0 : FRAME_CODE_PROTOCOL;
    }
    /* A message begins when none is under way, and goes on only when one is. */
    return (kind == FRAME_CONTINUATION) == (reader->message != 0) ? 0 : FRAME_CODE_PROTOCOL;
}

/* Of the bytes that come: what cannot be packed gets a little longer by it. */
static size_t collected_max(const struct frame_reader *reader)
{
    return reader->is_packed ? reader->message_max + reader->message_max / 1024 + 64
                             : reader->message_max;
}

static int begin_frame(struct frame_reader *reader)
{
    uint64_t length = payload_length(reader);
    uint8_t form = reader->head[1] & LENGTH;
    if ((form == 126 && length < 126) || (form == 127 && (length < 65536 || length >> 63 != 0))) {
        return FRAME_CODE_PROTOCOL; /* 5.2: in the shortest form */
    }
    if (!is_control(reader)) {
        if (reader->message == 0) {
            reader->message = reader->head[0] & OPCODE;
            reader->is_packed = (reader->head[0] & PACKED) != 0;
        }
        if (length > collected_max(reader) - reader->bytes.used) {
            return FRAME_CODE_LARGE;
        }
    }
    reader->in_frame = true;
    reader->left = length;
    reader->at = 0;
    return 0;
}

/* Unmask `length` bytes of the payload to where they belong. */
static void take_payload(struct frame_reader *reader, const uint8_t *bytes, size_t length)
{
    const uint8_t *key = reader->head + head_length(reader) - 4;
    uint8_t *to =
        is_control(reader) ? reader->control + reader->at : buffer_reserve(&reader->bytes, length);
    CHECK(!is_control(reader) || reader->at + length <= FRAME_CONTROL_MAX);
    for (size_t i = 0; i < length; i++) {
        to[i] = bytes[i] ^ key[(reader->at + i) & 3];
    }
    reader->bytes.used += is_control(reader) ? 0 : length;
    reader->at += length;
    reader->left -= length;
}

static int check_close(const struct frame_reader *reader)
{
    if (reader->at == 0) {
        return 0;
    }
    unsigned code = (unsigned)reader->control[0] << 8 | reader->control[1];
    if (reader->at == 1 || !frame_code_is_good(code)) {
        return FRAME_CODE_PROTOCOL;
    }
    return text_is_utf8(reader->control + 2, (size_t)reader->at - 2) ? 0 : FRAME_CODE_DATA;
}

typedef bool on_frame_function(enum frame_kind kind, const uint8_t *bytes, size_t length,
                               void *context);

static int end_control(struct frame_reader *reader, on_frame_function *on_frame, void *context,
                       bool *ret_goes_on)
{
    enum frame_kind kind = (enum frame_kind)(reader->head[0] & OPCODE);
    int r = kind == FRAME_CLOSE ? check_close(reader) : 0;
    if (r == 0) {
        reader->is_closed = kind == FRAME_CLOSE;
        *ret_goes_on = on_frame(kind, reader->control, (size_t)reader->at, context);
    }
    return r;
}

static void forget(struct buffer *bytes)
{
    bytes->used = 0;
    if (bytes->size > KEEP_MAX) {
        buffer_done(bytes);
    }
}

static int end_message(struct frame_reader *reader, on_frame_function *on_frame, void *context,
                       bool *ret_goes_on)
{
    enum frame_kind kind = (enum frame_kind)reader->message;
    const struct buffer *message = &reader->bytes;
    if (reader->is_packed) {
        int r = deflater_unpack(reader->deflater, reader->bytes.data, reader->bytes.used,
                                reader->message_max, &reader->plain);
        if (r != 0) {
            return r;
        }
        message = &reader->plain;
    }
    if (kind == FRAME_TEXT && !text_is_utf8(message->data, message->used)) {
        return FRAME_CODE_DATA;
    }
    reader->message = 0;
    *ret_goes_on = on_frame(kind, message->data, message->used, context);
    forget(&reader->bytes);
    forget(&reader->plain);
    return 0;
}

static int end_frame(struct frame_reader *reader, on_frame_function *on_frame, void *context,
                     bool *ret_goes_on)
{
    reader->in_frame = false;
    reader->head_used = 0;
    if (is_control(reader)) {
        return end_control(reader, on_frame, context, ret_goes_on);
    }
    return (reader->head[0] & FIN) != 0 ? end_message(reader, on_frame, context, ret_goes_on) : 0;
}

/* One byte more of the head. */
static int take_head(struct frame_reader *reader, uint8_t byte)
{
    reader->head[reader->head_used++] = byte;
    int r = reader->head_used == 2 ? check_start(reader) : 0;
    if (r == 0 && reader->head_used >= 2 && reader->head_used == head_length(reader)) {
        r = begin_frame(reader);
    }
    return r;
}

int frame_reader_take(struct frame_reader *reader, const uint8_t *bytes, size_t length,
                      bool (*on_frame)(enum frame_kind kind, const uint8_t *bytes, size_t length,
                                       void *context),
                      void *context)
{
    size_t at = 0;
    bool goes_on = true;
    int r = 0;
    while (r == 0 && goes_on && at < length && !reader->is_closed) {
        if (!reader->in_frame) {
            r = take_head(reader, bytes[at++]);
        } else {
            size_t part = length - at < reader->left ? length - at : (size_t)reader->left;
            take_payload(reader, bytes + at, part);
            at += part;
        }
        if (r == 0 && reader->in_frame && reader->left == 0) {
            r = end_frame(reader, on_frame, context, &goes_on);
        }
    }
    return r;
}

/* ---- Writing ---- */

static void write_frame(struct buffer *out, uint8_t first, const void *bytes, size_t length)
{
    buffer_append_byte(out, first);
    int octets = length < 126 ? 0 : length < 65536 ? 2 : 8;
    buffer_append_byte(out, (uint8_t)(octets == 0 ? length : octets == 2 ? 126 : 127));
    for (int i = octets - 1; i >= 0; i--) {
        buffer_append_byte(out, (uint8_t)((uint64_t)length >> (8 * i)));
    }
    if (length > 0) {
        buffer_append(out, bytes, length);
    }
}

void frame_write(struct buffer *out, enum frame_kind kind, const void *bytes, size_t length)
{
    write_frame(out, (uint8_t)(FIN | kind), bytes, length);
}

void frame_write_message(struct buffer *out, enum frame_kind kind, const void *bytes, size_t length,
                         struct deflater *deflater)
{
    BUFFER_OWNED struct buffer packed = {0};
    if (deflater != NULL && deflater_pack(deflater, bytes, length, &packed)) {
        write_frame(out, (uint8_t)(FIN | PACKED | kind), packed.data, packed.used);
    } else {
        frame_write(out, kind, bytes, length);
    }
}

void frame_write_close(struct buffer *out, unsigned code, const char *reason, size_t length)
{
    uint8_t payload[FRAME_CONTROL_MAX] = {(uint8_t)(code >> 8), (uint8_t)code};
    if (code == FRAME_CODE_NONE) {
        frame_write(out, FRAME_CLOSE, payload, 0);
        return;
    }
    if (length > FRAME_CONTROL_MAX - 2) {
        length = FRAME_CONTROL_MAX - 2;
        while (length > 0 && ((uint8_t)reason[length] & 0xC0) == 0x80) {
            length--; /* in the middle of a character */
        }
    }
    if (length > 0) {
        memcpy(payload + 2, reason, length);
    }
    frame_write(out, FRAME_CLOSE, payload, 2 + length);
}

/* ---- Records ---- */

void record_write(struct buffer *out, enum frame_kind kind, const void *bytes, size_t length)
{
    CHECK(length <= UINT32_MAX);
    buffer_append_u32(out, (uint32_t)kind);
    buffer_append_u32(out, (uint32_t)length);
    if (length > 0) {
        buffer_append(out, bytes, length);
    }
}

void record_reader_done(struct record_reader *reader)
{
    buffer_done(&reader->bytes);
}

static bool record_is_sound(const struct record_reader *reader, uint32_t kind, uint32_t length)
{
    if (kind == FRAME_CLOSE) {
        return length == 0 || (length >= 2 && length <= FRAME_CONTROL_MAX);
    }
    return (kind == FRAME_TEXT || kind == FRAME_BINARY) && length <= reader->message_max;
}

static bool content_is_sound(uint32_t kind, const uint8_t *bytes, uint32_t length)
{
    if (kind == FRAME_CLOSE && length >= 2) {
        return frame_code_is_good(bytes[0] | (unsigned)bytes[1] << 8) &&
            text_is_utf8(bytes + 2, length - 2);
    }
    return kind != FRAME_TEXT || text_is_utf8(bytes, length);
}

bool record_reader_take(struct record_reader *reader, const uint8_t *bytes, size_t length,
                        bool (*on_record)(enum frame_kind kind, const uint8_t *bytes, size_t length,
                                          void *context),
                        void *context)
{
    size_t at = 0;
    bool goes_on = true;
    buffer_append(&reader->bytes, bytes, length);
    while (goes_on && reader->bytes.used - at >= FRAME_RECORD_HEAD) {
        uint32_t head[2];
        const uint8_t *record = reader->bytes.data + at;
        memcpy(head, record, sizeof(head));
        if (!record_is_sound(reader, head[0], head[1])) {
            return false;
        }
        if (reader->bytes.used - at - FRAME_RECORD_HEAD < head[1]) {
            break;
        }
        if (!content_is_sound(head[0], record + FRAME_RECORD_HEAD, head[1])) {
            return false;
        }
        at += FRAME_RECORD_HEAD + head[1];
        goes_on = on_record((enum frame_kind)head[0], record + FRAME_RECORD_HEAD, head[1], context);
    }
    buffer_consume(&reader->bytes, at);
    if (reader->bytes.used == 0 && reader->bytes.size > KEEP_MAX) {
        buffer_done(&reader->bytes);
    }
    return true;
}
