/* A module to try things with. */
#ifndef TEST_UNIT_ENGINE_WASM_SUPPORT_H
#define TEST_UNIT_ENGINE_WASM_SUPPORT_H

#include <stddef.h>
#include <stdint.h>

/*
 * One of each section, as wat2wasm writes
 *
 *     (module
 *       (type $none (func))
 *       (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result
 * i32))) (table 2 2 funcref) (memory (export "memory") 1 3) (global $g (mut i64) (i64.const 7))
 *       (func $begin (local i32 f64))
 *       (func (export "_start")
 *         (i32.store (i32.const 0) (i32.const 8)) (i32.store (i32.const 4) (i32.const 3))
 *         (if (i64.eq (global.get $g) (i64.const 7)) (then (call_indirect (type $none) (i32.const
 * 0)))) (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))) (start
 * $begin) (elem (i32.const 0) $begin) (data (i32.const 8) "hi\n"))
 */
enum { MODULE_BYTES = 180, MODULE_DATA_SECTION = 169 };
extern const uint8_t module[MODULE_BYTES];

#endif
