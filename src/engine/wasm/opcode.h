/* Private to the room: walking over types and instructions. */
#ifndef ENGINE_WASM_OPCODE_H
#define ENGINE_WASM_OPCODE_H

struct reader;

enum { OPCODE_FUNCREF = 0x70 };

/* A value type; refuses v128 and typed references by name. */
void opcode_read_type(struct reader *reader);

/* Instructions up to the `end` that closes them; refuses what is not supported by name. */
void opcode_read_expression(struct reader *reader);

/* The same of what initialises a global or says where a segment lies. */
void opcode_read_constant(struct reader *reader);

#endif
