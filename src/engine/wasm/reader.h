/* Private to the room: a cursor over a module's bytes that never runs past them. */
#ifndef ENGINE_WASM_READER_H
#define ENGINE_WASM_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;

/*
 * The first problem stays: later reads give zeros, so that a caller may check once per item.
 * `failed` becomes the negative error of *err.
 */
struct reader {
    const uint8_t *start; /* of the module: offsets in messages count from here */
    const uint8_t *at;
    const uint8_t *end;
    int failed;
    bool has_typed_loop;        /* of expressions: a loop of one of the module's types */
    const uint8_t *table_types; /* of expressions: what may be called from them; lent */
    uint32_t table_count;
    struct error *err;
};

uint8_t reader_byte(struct reader *reader);

/* LEB128 (core specification 5.2.2), at most 32, 33 or 64 bits, with no stray bits. */
uint32_t reader_u32(struct reader *reader);
int64_t reader_s33(struct reader *reader);
void reader_skip_s32(struct reader *reader);
void reader_skip_s64(struct reader *reader);

void reader_skip(struct reader *reader, uint64_t length);

/* A name: its bytes are lent and checked to be UTF-8. */
struct text;
void reader_name(struct reader *reader, struct text *ret_name);

/* A part of `length` bytes as a reader of its own; this one moves behind it. */
struct reader reader_part(struct reader *reader, uint32_t length);

/* INVALID with the offset (by the words of the specification's test-suite); UNSUPPORTED with the
 * feature's name.  The first one counts. */
void reader_malformed(struct reader *reader, const char *what);
void reader_unsupported(struct reader *reader, const char *feature);

#endif
