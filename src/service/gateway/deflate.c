/* See deflate.h. */
#include "service/gateway/deflate.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/memory.h"

#include "service/gateway/frame.h"

enum { MEMORY_LEVEL = 5, PIECE = 16384, WINDOW_LEAST = 8, WINDOW_MOST = 15 };

/* What an empty block at the end leaves out, and is put back (7.2.1). */
static const uint8_t tail[] = {0x00, 0x00, 0xff, 0xff};

struct deflater {
    z_stream out;
    z_stream in;
};

struct deflater *deflater_new(void)
{
    struct deflater *deflater = NEW(struct deflater);
    /* Negative: without a head and a sum, as the RFC wants. */
    CHECK(deflateInit2(&deflater->out, Z_BEST_SPEED, Z_DEFLATED, -DEFLATE_WINDOW_BITS, MEMORY_LEVEL,
                       Z_DEFAULT_STRATEGY) == Z_OK);
    CHECK(inflateInit2(&deflater->in, -WINDOW_MOST) == Z_OK);
    return deflater;
}

void deflater_free(struct deflater *deflater)
{
    if (deflater != NULL) {
        deflateEnd(&deflater->out);
        inflateEnd(&deflater->in);
        free(deflater);
    }
}

bool deflater_pack(struct deflater *deflater, const void *bytes, size_t length, struct buffer *out)
{
    size_t before = out->used;
    if (length < DEFLATE_LEAST || length > UINT32_MAX / 2) {
        return false;
    }
    z_stream *stream = &deflater->out;
    CHECK(deflateReset(stream) == Z_OK);
    stream->next_in = (Bytef *)(uintptr_t)bytes;
    stream->avail_in = (uInt)length;
    do { /* until there is room left: all of it is out */
        stream->next_out = buffer_reserve(out, PIECE);
        stream->avail_out = PIECE;
        CHECK(deflate(stream, Z_SYNC_FLUSH) != Z_STREAM_ERROR);
        out->used += PIECE - stream->avail_out;
    } while (stream->avail_out == 0 && out->used - before < length + sizeof(tail));
    size_t packed = out->used - before;
    bool is_smaller = stream->avail_out > 0 && stream->avail_in == 0 && packed >= sizeof(tail) &&
        packed - sizeof(tail) < length;
    out->used = is_smaller ? out->used - sizeof(tail) : before;
    return is_smaller;
}

/* Some input; all that it makes is appended.  Behind a last block another stream may begin
 * (7.2.3.4). */
static int unpack_some(z_stream *stream, const void *bytes, size_t length, size_t most,
                       struct buffer *out)
{
    stream->next_in = (Bytef *)(uintptr_t)bytes;
    stream->avail_in = (uInt)length;
    do {
        stream->next_out = buffer_reserve(out, PIECE);
        stream->avail_out = PIECE;
        int r = inflate(stream, Z_SYNC_FLUSH);
        out->used += PIECE - stream->avail_out;
        if (out->used > most) {
            return FRAME_CODE_LARGE;
        }
        if (r == Z_STREAM_END) {
            CHECK(inflateReset(stream) == Z_OK);
        } else if (r != Z_OK && (r != Z_BUF_ERROR || stream->avail_in > 0)) {
            return FRAME_CODE_PROTOCOL;
        }
    } while (stream->avail_in > 0 || stream->avail_out == 0);
    return 0;
}

int deflater_unpack(struct deflater *deflater, const void *bytes, size_t length, size_t most,
                    struct buffer *out)
{
    CHECK(length <= UINT32_MAX / 2 && most <= SIZE_MAX - out->used);
    size_t limit = out->used + most;
    CHECK(inflateReset(&deflater->in) == Z_OK);
    int r = length > 0 ? unpack_some(&deflater->in, bytes, length, limit, out) : 0;
    return r != 0 ? r : unpack_some(&deflater->in, tail, sizeof(tail), limit, out);
}

/* ---- Offers ---- */

/* What is before `mark`, trimmed; the rest stays. */
static struct text take(struct text *rest, char mark)
{
    const char *at = rest->length > 0 ? memchr(rest->data, mark, rest->length) : NULL;
    size_t length = at != NULL ? (size_t)(at - rest->data) : rest->length;
    struct text part = text_trim(text_of(rest->data, length));
    size_t skip = length + (at != NULL);
    *rest = text_of(rest->data + skip, rest->length - skip);
    return part;
}

static bool read_bits(struct text value, uint64_t *ret_bits)
{
    if (value.length >= 2 && value.data[0] == '"' && value.data[value.length - 1] == '"') {
        value = text_of(value.data + 1, value.length - 2);
    }
    return text_parse_u64(value, ret_bits) && *ret_bits >= WINDOW_LEAST && *ret_bits <= WINDOW_MOST;
}

/* One parameter of an offer; false: the offer cannot be taken. */
static bool read_parameter(struct text parameter, unsigned *seen, bool *wants_window)
{
    static const char *const names[] = {"server_no_context_takeover", "client_no_context_takeover",
                                        "client_max_window_bits", "server_max_window_bits"};
    uint64_t bits = 0;
    bool has_value = memchr(parameter.data, '=', parameter.length) != NULL;
    struct text value = parameter;
    struct text name = take(&value, '=');
    value = text_trim(value);
    unsigned which = 0;
    while (which < 4 && !text_equal(name, names[which])) {
        which++;
    }
    if (which == 4 || (*seen & 1U << which) != 0) {
        return false;
    }
    *seen |= 1U << which;
    switch (which) {
    case 2:
        return !has_value || read_bits(value, &bits);
    case 3:
        *wants_window = true;
        return has_value && read_bits(value, &bits) && bits >= DEFLATE_WINDOW_BITS;
    default:
        return !has_value;
    }
}

bool deflate_is_offered(struct text list, bool *ret_wants_window)
{
    while (list.length > 0) {
        struct text offer = take(&list, ',');
        struct text name = take(&offer, ';');
        bool is_good = text_equal(name, "permessage-deflate");
        bool wants_window = false;
        unsigned seen = 0;
        while (is_good && offer.length > 0) {
            struct text parameter = take(&offer, ';');
            is_good = parameter.length > 0 && read_parameter(parameter, &seen, &wants_window);
        }
        if (is_good) {
            *ret_wants_window = wants_window;
            return true;
        }
    }
    return false;
}
