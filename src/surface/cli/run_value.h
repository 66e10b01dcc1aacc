/*
 * Values of WebAssembly as text: what `fn run --invoke` takes and prints.
 *
 *     i32, i64     7  -7  0xff  18446744073709551615 (signed or unsigned; printed signed)
 *     f32, f64     1.5  -0.0  0x1.8p3  inf  nan  nan:0x400001 (the payload)  bits:0x7fc00000
 *     externref    null, or a number that the module only keeps
 *     funcref      null; one that comes back is printed as `function`
 *
 * A value may have its type in front: i32:7.  Printed values have.
 */
#ifndef SURFACE_CLI_RUN_VALUE_H
#define SURFACE_CLI_RUN_VALUE_H

#include <stdint.h>

struct buffer;
struct error;

/* "i32" for the letters of engine/wasm/exports.h. */
const char *run_value_type(char letter);

/* As the guest takes it, in 8 bytes.  INVALID, naming the value and its type. */
int run_value_parse(char letter, const char *text, uint64_t *ret_value, struct error *err);

/* Without the type. */
void run_value_print(char letter, uint64_t value, struct buffer *text);

#endif
