#include "engine/wasm/reader.h"

#include "base/error.h"
#include "base/text.h"

void reader_malformed(struct reader *reader, const char *what)
{
    if (reader->failed == 0) {
        reader->failed = error_set(reader->err, ERROR_INVALID,
                                   "not a valid WebAssembly module: %s at offset %zu", what,
                                   (size_t)(reader->at - reader->start));
    }
    reader->at = reader->end;
}

void reader_unsupported(struct reader *reader, const char *feature)
{
    if (reader->failed == 0) {
        reader->failed = error_set(reader->err, ERROR_UNSUPPORTED,
                                   "the module uses %s, which is not supported (offset %zu)",
                                   feature, (size_t)(reader->at - reader->start));
    }
    reader->at = reader->end;
}

uint8_t reader_byte(struct reader *reader)
{
    if (reader->at == reader->end) {
        reader_malformed(reader, "unexpected end");
        return 0;
    }
    return *reader->at++;
}

/* `bits` of payload; the last byte may hold only what is left of them (or their sign). */
static uint64_t read_leb(struct reader *reader, unsigned bits, bool is_signed)
{
    uint64_t value = 0;
    unsigned shift = 0;
    for (;;) {
        uint8_t byte = reader_byte(reader);
        unsigned left = bits - shift;
        if (left < 7) {
            uint8_t payload = byte & 0x7f;
            uint8_t used = (uint8_t)((1u << left) - 1);
            uint8_t rest = payload & (uint8_t)~used & 0x7f;
            bool negative = is_signed && (payload >> (left - 1) & 1);
            if ((byte & 0x80) || rest != (negative ? (uint8_t)(~used & 0x7f) : 0)) {
                reader_malformed(
                    reader, byte & 0x80 ? "integer representation too long" : "integer too large");
                return 0;
            }
        }
        value |= (uint64_t)(byte & 0x7f) << shift;
        shift += 7;
        if ((byte & 0x80) == 0) {
            break;
        }
        if (shift >= bits) {
            reader_malformed(reader, "integer representation too long");
            return 0;
        }
    }
    if (is_signed && shift < 64 && (value >> (shift - 1) & 1)) {
        value |= ~UINT64_C(0) << shift;
    }
    return value;
}

uint32_t reader_u32(struct reader *reader)
{
    return (uint32_t)read_leb(reader, 32, false);
}

int64_t reader_s33(struct reader *reader)
{
    return (int64_t)read_leb(reader, 33, true);
}

void reader_skip_s32(struct reader *reader)
{
    read_leb(reader, 32, true);
}

void reader_skip_s64(struct reader *reader)
{
    read_leb(reader, 64, true);
}

void reader_skip(struct reader *reader, uint64_t length)
{
    if (length > (uint64_t)(reader->end - reader->at)) {
        reader_malformed(reader, "length out of bounds");
        return;
    }
    reader->at += length;
}

void reader_name(struct reader *reader, struct text *ret_name)
{
    uint32_t length = reader_u32(reader);
    const uint8_t *at = reader->at;
    reader_skip(reader, length);
    *ret_name = reader->failed == 0 ? text_of((const char *)at, length) : text_of("", 0);
    if (!text_is_utf8(ret_name->data, ret_name->length)) {
        reader_malformed(reader, "malformed UTF-8 encoding");
    }
}

struct reader reader_part(struct reader *reader, uint32_t length)
{
    struct reader part = *reader;
    reader_skip(reader, length);
    part.failed = reader->failed;
    part.end = reader->failed == 0 ? part.at + length : part.at;
    return part;
}
