/* Instructions by their immediates: core specification 5.4, and the proposals that must be named.
 */
#include "engine/wasm/opcode.h"

#include <stddef.h>

#include "base/error.h"

#include "engine/wasm/reader.h"

/* A switch of many cases is as many blocks, each in the next; wasm2c crashes between 15,000 and
 * 20,000. */
enum { NESTING_MAX = 12000, BRANCHES_MAX = 200000 };

enum shape {
    BAD,
    NONE,
    BLOCK,    /* a block type */
    INDEX,    /* one index */
    INDIRECT, /* type, table */
    MEMORY,   /* alignment, offset */
    ZERO,     /* a memory index that must be 0 */
    BRANCHES, /* a vector of labels and one more */
    TYPES,    /* a vector of types */
    TYPE,
    S32,
    S64,
    F32,
    F64,
    END,
    EXCEPTIONS,
    TAIL_CALLS,
    REFERENCES,
    COLLECTED,
    MORE, /* 0xfc */
    SIMD,
    THREADS,
};

static const unsigned char shapes[256] = {
    [0x00 ... 0x01] = NONE,
    [0x02 ... 0x04] = BLOCK,
    [0x05] = NONE,
    [0x06 ... 0x0a] = EXCEPTIONS,
    [0x0b] = END,
    [0x0c ... 0x0d] = INDEX,
    [0x0e] = BRANCHES,
    [0x0f] = NONE,
    [0x10] = INDEX,
    [0x11] = INDIRECT,
    [0x12 ... 0x13] = TAIL_CALLS,
    [0x14 ... 0x15] = REFERENCES,
    [0x18 ... 0x19] = EXCEPTIONS,
    [0x1a ... 0x1b] = NONE,
    [0x1c] = TYPES,
    [0x1f] = EXCEPTIONS,
    [0x20 ... 0x26] = INDEX,
    [0x28 ... 0x3e] = MEMORY,
    [0x3f ... 0x40] = ZERO,
    [0x41] = S32,
    [0x42] = S64,
    [0x43] = F32,
    [0x44] = F64,
    [0x45 ... 0xc4] = NONE,
    [0xd0] = TYPE,
    [0xd1] = NONE,
    [0xd2] = INDEX,
    [0xd3 ... 0xd6] = REFERENCES,
    [0xfb] = COLLECTED,
    [0xfc] = MORE,
    [0xfd] = SIMD,
    [0xfe] = THREADS,
};

void opcode_read_type(struct reader *reader)
{
    switch (reader_byte(reader)) {
    case 0x7f: /* i32 */
    case 0x7e: /* i64 */
    case 0x7d: /* f32 */
    case 0x7c: /* f64 */
    case OPCODE_FUNCREF:
    case 0x6f: /* externref */
        return;
    case 0x7b:
        reader_unsupported(reader, "SIMD");
        return;
    case 0x69:
        reader_unsupported(reader, "exceptions");
        return;
    case 0x63:
    case 0x64:
        reader_unsupported(reader, "typed function references");
        return;
    case 0x6a ... 0x6e:
    case 0x71 ... 0x74:
        reader_unsupported(reader, "garbage-collected types");
        return;
    default:
        if (reader->failed == 0) {
            reader_malformed(reader, "malformed value type");
        }
    }
}

static void read_block_type(struct reader *reader)
{
    if (reader->at != reader->end && (*reader->at & 0xc0) == 0x40 && *reader->at != 0x40) {
        opcode_read_type(reader); /* one negative byte: a value type */
        return;
    }
    if (reader_s33(reader) < -64) {
        reader_malformed(reader, "malformed block type");
    }
}

/* 0xfc: saturating conversions, bulk memory, tables. */
static void read_more(struct reader *reader)
{
    uint32_t code = reader_u32(reader);
    if (code <= 7) {
        return;
    }
    switch (code) {
    case 8:  /* memory.init */
    case 10: /* memory.copy */
    case 12: /* table.init */
    case 14: /* table.copy */
        reader_u32(reader);
        reader_u32(reader);
        return;
    case 9:  /* data.drop */
    case 11: /* memory.fill */
    case 13: /* elem.drop */
    case 15: /* table.grow */
    case 16: /* table.size */
    case 17: /* table.fill */
        reader_u32(reader);
        return;
    default:
        reader_malformed(reader, "illegal opcode");
    }
}

static void read_branches(struct reader *reader)
{
    uint32_t count = reader_u32(reader);
    if (count > BRANCHES_MAX) {
        reader_malformed(reader, "too many branches");
        return;
    }
    for (uint32_t i = 0; i <= count && reader->failed == 0; i++) {
        reader_u32(reader);
    }
}

static void read_types(struct reader *reader)
{
    uint32_t count = reader_u32(reader);
    if (count > 1000) {
        reader_malformed(reader, "too many types");
        return;
    }
    for (uint32_t i = 0; i < count && reader->failed == 0; i++) {
        opcode_read_type(reader);
    }
}

static void read_memory_access(struct reader *reader)
{
    if (reader_u32(reader) >= 64) {
        reader_unsupported(reader, "several memories");
    }
    reader_u32(reader);
}

static void read_indirect(struct reader *reader)
{
    reader_u32(reader);
    uint32_t table = reader_u32(reader);
    if (table < reader->table_count && reader->table_types[table] != OPCODE_FUNCREF) {
        reader_malformed(reader, "type mismatch: call_indirect of a table of externref");
    }
}

static void read_immediates(struct reader *reader, enum shape shape)
{
    static const char *const features[] = {
        [EXCEPTIONS] = "exceptions",
        [TAIL_CALLS] = "tail calls",
        [REFERENCES] = "typed function references",
        [COLLECTED] = "garbage-collected types",
        [SIMD] = "SIMD",
        [THREADS] = "threads (atomic instructions)",
    };
    switch (shape) {
    case NONE:
    case END:
        return;
    case BLOCK:
        read_block_type(reader);
        return;
    case INDEX:
        reader_u32(reader);
        return;
    case INDIRECT:
        read_indirect(reader);
        return;
    case MEMORY:
        read_memory_access(reader);
        return;
    case ZERO:
        if (reader_byte(reader) != 0) {
            reader_unsupported(reader, "several memories");
        }
        return;
    case BRANCHES:
        read_branches(reader);
        return;
    case TYPES:
        read_types(reader);
        return;
    case TYPE:
        opcode_read_type(reader);
        return;
    case S32:
        reader_skip_s32(reader);
        return;
    case S64:
        reader_skip_s64(reader);
        return;
    case F32:
        reader_skip(reader, 4);
        return;
    case F64:
        reader_skip(reader, 8);
        return;
    case MORE:
        read_more(reader);
        return;
    case EXCEPTIONS:
    case TAIL_CALLS:
    case REFERENCES:
    case COLLECTED:
    case SIMD:
    case THREADS:
        reader_unsupported(reader, features[shape]);
        return;
    case BAD:
        reader_malformed(reader, "illegal opcode");
        return;
    }
}

/* A block type that is none of one value or of nothing. */
static bool has_index_next(const struct reader *reader)
{
    return reader->at != reader->end && (*reader->at & 0xc0) != 0x40;
}

/* One instruction; what it is. */
static enum shape read_instruction(struct reader *reader)
{
    enum { LOOP = 0x03 };
    uint8_t code = reader_byte(reader);
    enum shape shape = (enum shape)shapes[code];
    if (reader->failed == 0) {
        reader->has_typed_loop |= code == LOOP && has_index_next(reader);
        read_immediates(reader, shape);
    }
    return shape;
}

void opcode_read_expression(struct reader *reader)
{
    unsigned depth = 1;
    while (depth > 0 && reader->failed == 0) {
        enum shape shape = read_instruction(reader);
        depth += shape == BLOCK;
        depth -= shape == END;
        if (depth > NESTING_MAX && reader->failed == 0) {
            reader->failed = error_set(reader->err, ERROR_LIMIT,
                                       "blocks are nested more than %d deep", NESTING_MAX);
        }
    }
}

/* Sums, differences and products of integers. */
static bool is_calculation(uint8_t code)
{
    return (code >= 0x6a && code <= 0x6c) || (code >= 0x7c && code <= 0x7e);
}

/* Numbers, globals, references; the end. */
static bool is_constant(uint8_t code)
{
    return code == 0x0b || code == 0x23 || (code >= 0x41 && code <= 0x44) || code == 0xd0 ||
        code == 0xd2;
}

void opcode_read_constant(struct reader *reader)
{
    enum shape shape = NONE;
    while (shape != END && reader->failed == 0) {
        uint8_t code = reader->at != reader->end ? *reader->at : 0;
        if (is_calculation(code)) {
            reader_unsupported(reader, "calculated constants (extended-const)");
            return;
        }
        shape = read_instruction(reader);
        if (reader->failed == 0 && !is_constant(code)) {
            reader_malformed(reader, "constant expression required");
        }
    }
}
