/* Private to the room: commands as bytes.  A command is decided by one node and applied by all. */
#ifndef ENGINE_STORE_COMMAND_H
#define ENGINE_STORE_COMMAND_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buffer.h"

#include "engine/store/store.h"

/*
 * Statement: u8 kind of the error when no row changes (0: none is expected), u32 length + its text,
 * u32 length + SQL, u8 count of parameters, and each parameter: u8 type, then 8 bytes (i, d), u32
 * length + bytes (t, b), or nothing (n: NULL, r: this entry's index).  Little-endian.
 */
struct store_command {
    struct buffer bytes;
    uint32_t statements;
};

/* Bind `types` and its arguments to a prepared statement (for queries). */
int command_bind(sqlite3_stmt *statement, const char *types, va_list arguments);

/* A cursor over bytes from the log: they are checked like any input. */
struct command_reader {
    const uint8_t *at;
    const uint8_t *end;
    bool is_bad;
};

uint8_t command_read_u8(struct command_reader *reader);
uint32_t command_read_u32(struct command_reader *reader);
uint64_t command_read_u64(struct command_reader *reader);
const uint8_t *command_read_bytes(struct command_reader *reader, uint32_t length);

/* Whether `length` bytes are one command, from its first statement to its last parameter. */
bool command_is_whole(const uint8_t *bytes, size_t length);

#endif
