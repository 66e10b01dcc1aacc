"""WebAssembly as its specification has it: what V8 computes is what functions compute, in both tiers and both isolations.

Node runs the same modules.  Numbers go over all pairs of a table of edge values; NaNs are one NaN,
for their bits may differ (core specification, 4.3.3).
"""
import json
import os
import pathlib
import shutil
import struct
import subprocess
import tempfile
import time
import unittest
from node import Node, ROOT, BUILD, Refused

folder = None
NODE_RUN = ROOT / "test" / "bench" / "node_run.mjs"

# ---- Making modules ----


def assemble(name, text, *flags):
    source = pathlib.Path(folder.name) / f"{name}.wat"
    source.write_text(text)
    module = source.with_suffix(".wasm")
    done = subprocess.run(["wat2wasm", *flags, "-o", module, source], text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)
    if done.returncode != 0:
        raise RuntimeError(done.stdout[:2000])
    return module


HEAD = """(module
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (global $out (mut i32) (i32.const 65536))
  (func $put32 (param i32) (i32.store (global.get $out) (local.get 0)) (global.set $out (i32.add (global.get $out) (i32.const 4))))
  (func $put64 (param i64) (i64.store (global.get $out) (local.get 0)) (global.set $out (i32.add (global.get $out) (i32.const 8))))
  (func $putf32 (param f32) (call $put32 (select (i32.reinterpret_f32 (local.get 0)) (i32.const 0x7fc00000)
    (f32.eq (local.get 0) (local.get 0)))))
  (func $putf64 (param f64) (call $put64 (select (i64.reinterpret_f64 (local.get 0)) (i64.const 0x7ff8000000000000)
    (f64.eq (local.get 0) (local.get 0)))))
  (func $flush (i32.store (i32.const 0) (i32.const 65536)) (i32.store (i32.const 4) (i32.sub (global.get $out) (i32.const 65536)))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func $choose (result i32) (i32.store (i32.const 16) (i32.const 32)) (i32.store (i32.const 20) (i32.const 1))
    (drop (call $fd_read (i32.const 0) (i32.const 16) (i32.const 1) (i32.const 24))) (i32.load8_u (i32.const 32)))
"""

INT32 = [0, 1, 2, 3, 5, 31, 32, 33, 63, 127, 128, 255, 32767, 32768, 65535, 0x55555555, 0x7ffffffe, 0x7fffffff,
         0x80000000, 0x80000001, 0xaaaaaaaa, 0xfffffffe, 0xffffffff]
INT64 = INT32 + [0x100000000, 0x7fffffff80000000, 0x7ffffffffffffffe, 0x7fffffffffffffff, 0x8000000000000000,
                 0x8000000000000001, 0xffffffff00000000, 0xfffffffffffffffe, 0xffffffffffffffff, 0x123456789abcdef]
FLOATS = [0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 1.5, -1.5, 2.5, -2.5, 3.7, 0.1, 4503599627370497.5, 8388609.0, 2147483647.0, -2147483648.0,
          2147483648.0, 4294967295.0, 4294967296.0, 9223372036854775807.0, -9223372036854775808.0, 18446744073709551615.0,
          1e-45, 1e-310, 5e-324, 1.1754943508222875e-38, 3.4028234663852886e38, 1e300, float("inf"), float("-inf"), float("nan")]


def table(kind):
    if kind == "i32":
        return b"".join(struct.pack("<I", v) for v in INT32), len(INT32), 4
    if kind == "i64":
        return b"".join(struct.pack("<Q", v) for v in INT64), len(INT64), 8
    values = []
    for value in FLOATS:
        for sign in (value, -value):
            try:
                values.append(struct.pack("<f" if kind == "f32" else "<d", sign))
            except OverflowError:
                values.append(struct.pack("<f", float("inf") if sign > 0 else float("-inf")))
    return b"".join(values), len(values), 4 if kind == "f32" else 8


def escaped(data):
    return "".join(f"\\{byte:02x}" for byte in data)


INT_BINARY = ("add sub mul and or xor shl shr_s shr_u rotl rotr eq ne lt_s lt_u gt_s gt_u le_s le_u ge_s ge_u "
              "div_s div_u rem_s rem_u").split()
INT_UNARY = "clz ctz popcnt eqz extend8_s extend16_s".split()
FLOAT_BINARY = "add sub mul div min max copysign eq ne lt gt le ge".split()
FLOAT_UNARY = "abs neg ceil floor trunc nearest sqrt".split()
COMPARISONS = {"eq", "ne", "eqz", "lt", "gt", "le", "ge"} | {f"{c}_{s}" for c in ("lt", "gt", "le", "ge") for s in "su"}
CONVERSIONS = """i32.wrap_i64 i64.extend_i32_s i64.extend_i32_u i64.extend32_s f32.convert_i32_s f32.convert_i32_u
  f32.convert_i64_s f32.convert_i64_u f64.convert_i32_s f64.convert_i32_u f64.convert_i64_s f64.convert_i64_u
  f32.demote_f64 f64.promote_f32 i32.reinterpret_f32 i64.reinterpret_f64 f32.reinterpret_i32 f64.reinterpret_i64""".split()
CONVERSIONS += [f"{i}.trunc_sat_{f}_{s}" for i in ("i32", "i64") for f in ("f32", "f64") for s in "su"]


def numbers():
    """A module that writes every operation over every pair of edge values."""
    body, data, offsets, at = [], [], {}, 1024
    for kind in ("i32", "i64", "f32", "f64"):
        values, count, size = table(kind)
        offsets[kind] = (at, count, size)
        data.append(f'  (data (i32.const {at}) "{escaped(values)}")')
        at += len(values) + 8
    calls = []

    def load(kind, index):
        start, _, size = offsets[kind]
        return f"({kind}.load (i32.add (i32.const {start}) (i32.mul (local.get {index}) (i32.const {size}))))"

    def put(result, expression):
        return f"(call $put{result if result[0] == 'f' else result[1:]} {expression})"

    def loop(name, kind, statement, pairs):
        count = offsets[kind][1]
        inner = f"""(local.set $j (i32.const 0)) (loop $inner {statement}
          (br_if $inner (i32.lt_u (local.tee $j (i32.add (local.get $j) (i32.const 1))) (i32.const {count}))))""" if pairs else statement
        body.append(f"""  (func ${name} (local $i i32) (local $j i32) (loop $outer {inner}
    (br_if $outer (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const {count})))))""")
        calls.append(f"(call ${name})")

    for kind in ("i32", "i64", "f32", "f64"):
        is_int = kind[0] == "i"
        for op in INT_BINARY if is_int else FLOAT_BINARY:
            result = "i32" if op in COMPARISONS else kind
            statement = put(result, f"({kind}.{op} {load(kind, '$i')} {load(kind, '$j')})")
            if op[:3] in ("div", "rem") and is_int:
                least = "0x80000000" if kind == "i32" else "0x8000000000000000"
                bad = f"({kind}.eqz {load(kind, '$j')})"
                if op == "div_s":
                    bad = (f"(i32.or {bad} (i32.and ({kind}.eq {load(kind, '$i')} ({kind}.const {least})) "
                           f"({kind}.eq {load(kind, '$j')} ({kind}.const -1))))")
                statement = f"(if {bad} (then (call $put32 (i32.const 0xdead))) (else {statement}))"
            loop(f"{kind}_{op}", kind, statement, True)
        for op in INT_UNARY if is_int else FLOAT_UNARY:
            loop(f"{kind}_{op}", kind, put("i32" if op in COMPARISONS else kind, f"({kind}.{op} {load(kind, '$i')})"), False)
    for op in CONVERSIONS:
        result, source = op[:3], op.rsplit("_", 1)[1] if op.rsplit("_", 1)[1][0] in "if" else op.split("_")[-2]
        source = "i64" if op == "i64.extend32_s" else source
        loop(op.replace(".", "_"), source, put(result, f"({op} {load(source, '$i')})"), False)
    # The bits of floats go through loads, stores, constants, locals and calls as they are.
    body.append("""  (func $same (param f32) (result f32) (local.get 0))
  (func $bits (call $put32 (i32.reinterpret_f32 (call $same (f32.reinterpret_i32 (i32.const 0x7fa00001)))))
    (call $put64 (i64.reinterpret_f64 (f64.neg (f64.reinterpret_i64 (i64.const 0x7ff4000000000001)))))
    (call $put64 (i64.reinterpret_f64 (f64.copysign (f64.reinterpret_i64 (i64.const 0xfff4000000000001)) (f64.const 1))))
    (call $put32 (i32.reinterpret_f32 (f32.abs (f32.const -nan:0x200001)))))""")
    calls.append("(call $bits)")
    # What computes with a signalling NaN makes a quiet one of it, folded or not.
    quiet = []
    for kind, nan, bit, suffix in (("f32", "0x7fa00000", "0x00400000", "32"), ("f64", "0x7ff4000000000000", "0x0008000000000000", "64")):
        value = f"({kind}.reinterpret_i{suffix} (i{suffix}.load (i32.const {at})))"
        data.append(f'  (data (i32.const {at}) "{escaped(struct.pack("<I" if suffix == "32" else "<Q", int(nan, 16)))}")')
        at += 8
        results = [f"({kind}.{op} {value})" for op in ("ceil", "floor", "trunc", "nearest", "sqrt")]
        results += [f"({kind}.{op} {value} ({kind}.const {one}))"
                    for op, one in (("add", "0"), ("add", "-0"), ("sub", "0"), ("mul", "1"), ("div", "1"), ("min", "1"), ("max", "inf"))]
        results += [f"({kind}.sub ({kind}.const -0) {value})", f"({kind}.mul ({kind}.const -1) {value})"]
        quiet += [f"(call $put{suffix} (i{suffix}.and (i{suffix}.reinterpret_{kind} {result}) (i{suffix}.const {bit})))" for result in results]
    body.append("  (func $quiet " + " ".join(quiet) + ")")
    calls.append("(call $quiet)")
    return HEAD + '  (memory (export "memory") 32)\n' + "\n".join(data + body) + \
        f'\n  (func (export "_start") {" ".join(calls)} (call $flush)))'


CONTROL = HEAD + r"""
  (memory (export "memory") 4 20)
  (type $binary (func (param i32 i32) (result i32)))
  (table $t 6 8 funcref)
  (table $u 4 externref)
  (elem (i32.const 1) $add $sub)
  (elem $passive func $mul $add)
  (elem declare func $sub)
  (data $words "abcdefgh")
  (data (i32.const 512) "\01\02\03\04\05\06\07\08\f9\fa\fb\fc\fd\fe\ff\80")
  (global $big (mut i64) (i64.const 0x7fffffffffffffff))
  (global $fixed f64 (f64.const -0x1.8p+1))
  (func $add (type $binary) (i32.add (local.get 0) (local.get 1)))
  (func $sub (type $binary) (i32.sub (local.get 0) (local.get 1)))
  (func $mul (type $binary) (i32.mul (local.get 0) (local.get 1)))
  (func $swap (param i32 i64) (result i64 i32) (local.get 1) (local.get 0))
  (func $three (result i32 i64 f64) (i32.const 7) (i64.const -8) (f64.const 0.25))
  (func $fac (param i64) (result i64) (if (result i64) (i64.eqz (local.get 0)) (then (i64.const 1))
    (else (i64.mul (local.get 0) (call $fac (i64.sub (local.get 0) (i64.const 1)))))))
  (func $even (param i32) (result i32) (if (result i32) (i32.eqz (local.get 0)) (then (i32.const 1))
    (else (call $odd (i32.sub (local.get 0) (i32.const 1))))))
  (func $odd (param i32) (result i32) (if (result i32) (i32.eqz (local.get 0)) (then (i32.const 0))
    (else (call $even (i32.sub (local.get 0) (i32.const 1))))))
  (func $pick (param i32) (result i32)
    (block $d (block $c (block $b (block $a (br_table $a $b $c $d (local.get 0))) (return (i32.const 10))) (return (i32.const 11)))
      (return (i32.const 12))) (i32.const 13))
  (func $valued (param i32) (result i32) (block $x (result i32) (block $y (result i32)
    (br_table $x $y (i32.const 100) (local.get 0))) (i32.add (i32.const 1))))
  (func $loopsum (param i32) (result i32) (local $s i32) (local.get 0) (loop $l (param i32) (result i32)
    (local.set 0) (local.set $s (i32.add (local.get $s) (local.get 0))) (i32.sub (local.get 0) (i32.const 1)) (local.tee 0)
    (br_if $l (local.get 0))) (drop) (local.get $s))
  (func $many (param i32 i64 f32 f64 i32 i64 f32 f64 i32 i64 f32 f64) (result i64)
    (i64.add (i64.add (i64.extend_i32_s (local.get 0)) (local.get 5)) (i64.add (i64.trunc_f64_s (local.get 11)) (i64.extend_i32_u (local.get 8)))))
  (func $effects (param i32) (result i32) (call $put32 (local.get 0)) (local.get 0))
  (func (export "_start") (local i32 i64 f64)
    (call $swap (i32.const 5) (i64.const 6)) (call $put32) (call $put64)
    (call $three) (local.set 2) (local.set 1) (local.set 0)
    (call $put32 (local.get 0)) (call $put64 (local.get 1)) (call $putf64 (local.get 2))
    (call $put64 (call $fac (i64.const 20))) (call $put64 (call $fac (i64.const 25)))
    (call $put32 (call $even (i32.const 5000)))
    (call $put32 (call $pick (i32.const 0))) (call $put32 (call $pick (i32.const 1))) (call $put32 (call $pick (i32.const 2)))
    (call $put32 (call $pick (i32.const 3))) (call $put32 (call $pick (i32.const 4))) (call $put32 (call $pick (i32.const -1)))
    (call $put32 (call $valued (i32.const 0))) (call $put32 (call $valued (i32.const 1))) (call $put32 (call $valued (i32.const 77)))
    (call $put32 (call $loopsum (i32.const 10)))
    (call $put64 (call $many (i32.const -1) (i64.const 2) (f32.const 3) (f64.const 4) (i32.const 5) (i64.const 6) (f32.const 7)
      (f64.const 8) (i32.const 9) (i64.const 10) (f32.const 11) (f64.const 12.9)))
    ;; tables
    (call $put32 (call_indirect $t (type $binary) (i32.const 9) (i32.const 4) (i32.const 1)))
    (call $put32 (call_indirect $t (type $binary) (i32.const 9) (i32.const 4) (i32.const 2)))
    (table.init $t $passive (i32.const 3) (i32.const 0) (i32.const 2)) (elem.drop $passive)
    (call $put32 (call_indirect $t (type $binary) (i32.const 9) (i32.const 4) (i32.const 3)))
    (table.copy $t $t (i32.const 4) (i32.const 1) (i32.const 2))
    (call $put32 (call_indirect $t (type $binary) (i32.const 9) (i32.const 4) (i32.const 5)))
    (table.set $t (i32.const 0) (ref.func $sub)) (call $put32 (call_indirect $t (type $binary) (i32.const 1) (i32.const 2) (i32.const 0)))
    (call $put32 (table.size $t)) (call $put32 (table.grow $t (ref.null func) (i32.const 2))) (call $put32 (table.size $t))
    (call $put32 (table.grow $t (ref.null func) (i32.const 1)))
    (call $put32 (ref.is_null (table.get $t (i32.const 7)))) (call $put32 (ref.is_null (table.get $t (i32.const 1))))
    (call $put32 (ref.is_null (table.get $u (i32.const 2))))
    (table.fill $t (i32.const 6) (ref.func $sub) (i32.const 2)) (call $put32 (call_indirect $t (type $binary) (i32.const 8) (i32.const 3) (i32.const 7)))
    ;; memory
    (call $put32 (i32.load8_s (i32.const 520))) (call $put32 (i32.load8_u (i32.const 520))) (call $put32 (i32.load16_s offset=6 (i32.const 514)))
    (call $put32 (i32.load16_u align=1 (i32.const 519))) (call $put64 (i64.load8_s (i32.const 526))) (call $put64 (i64.load16_u (i32.const 525)))
    (call $put64 (i64.load32_s (i32.const 523))) (call $put64 (i64.load32_u (i32.const 523))) (call $put64 (i64.load align=1 (i32.const 517)))
    (i64.store8 (i32.const 600) (i64.const 0x1ff)) (i64.store16 (i32.const 601) (i64.const 0x12345)) (i64.store32 (i32.const 603) (i64.const -2))
    (call $put64 (i64.load (i32.const 600)))
    (call $put32 (memory.size)) (call $put32 (memory.grow (i32.const 0))) (call $put32 (memory.grow (i32.const 3))) (call $put32 (memory.size))
    (call $put32 (memory.grow (i32.const 100))) (call $put32 (memory.grow (i32.const -1))) (call $put32 (memory.size))
    (call $put32 (i32.load (i32.const 0x6fffc))) (i32.store (i32.const 0x6fffc) (i32.const 0xabcdef)) (call $put32 (i32.load (i32.const 0x6fffc)))
    (memory.fill (i32.const 700) (i32.const 0x1a5) (i32.const 10)) (call $put64 (i64.load (i32.const 703)))
    (memory.init $words (i32.const 720) (i32.const 2) (i32.const 5)) (call $put64 (i64.load (i32.const 720)))
    (memory.copy (i32.const 722) (i32.const 720) (i32.const 6)) (call $put64 (i64.load (i32.const 720)))
    (memory.copy (i32.const 719) (i32.const 720) (i32.const 8)) (call $put64 (i64.load (i32.const 719)))
    (memory.fill (i32.const 0x70000) (i32.const 1) (i32.const 0)) (data.drop $words) (memory.init $words (i32.const 0) (i32.const 0) (i32.const 0))
    ;; globals, select, order of effects
    (global.set $big (i64.add (global.get $big) (i64.const 1))) (call $put64 (global.get $big)) (call $putf64 (global.get $fixed))
    (call $put32 (select (call $effects (i32.const 1)) (call $effects (i32.const 2)) (call $effects (i32.const 0))))
    (call $put32 (i32.sub (call $effects (i32.const 30)) (call $effects (i32.const 4))))
    (drop (block $out (result i32) (br_if $out (call $effects (i32.const 5)) (call $effects (i32.const 6)))))
    (call $put32 (block $deep (result i32) (block (block (block (br $deep (i32.const 42))))) (i32.const 43)))
    (call $flush)))
"""

TRAPS = [  # what is done, what it is called
    ("(unreachable)", "unreachable"),
    ("(drop (i32.div_s (i32.const 1) (global.get $zero)))", "integer divide by zero"),
    ("(drop (i32.rem_u (i32.const 1) (global.get $zero)))", "integer divide by zero"),
    ("(drop (i64.div_u (i64.const 1) (i64.extend_i32_u (global.get $zero))))", "integer divide by zero"),
    ("(drop (i64.rem_s (i64.const 1) (i64.extend_i32_u (global.get $zero))))", "integer divide by zero"),
    ("(drop (i32.div_s (i32.const 0x80000000) (i32.sub (global.get $zero) (i32.const 1))))", "integer overflow"),
    ("(drop (i64.div_s (i64.const 0x8000000000000000) (i64.extend_i32_s (i32.sub (global.get $zero) (i32.const 1)))))", "integer overflow"),
    ("(drop (i32.trunc_f32_s (f32.const 2147483648)))", "integer overflow"),
    ("(drop (i32.trunc_f64_u (f64.const -1)))", "integer overflow"),
    ("(drop (i64.trunc_f64_s (f64.const inf)))", "integer overflow"),
    ("(drop (i64.trunc_f32_u (f32.const nan)))", "invalid conversion to integer"),
    ("(drop (i32.trunc_f64_s (f64.const nan)))", "invalid conversion to integer"),
    ("(drop (i32.load (i32.const 65536)))", "out of bounds memory access"),
    ("(drop (i32.load (i32.const 65533)))", "out of bounds memory access"),
    ("(drop (i64.load8_u (i32.const -1)))", "out of bounds memory access"),
    ("(drop (f64.load offset=0xffffffff (i32.const -1)))", "out of bounds memory access"),
    ("(i32.store8 offset=0xffff (i32.const 1) (i32.const 0))", "out of bounds memory access"),
    ("(i64.store (i32.const 65529) (i64.const 0))", "out of bounds memory access"),
    ("(memory.fill (i32.const 65530) (i32.const 0) (i32.const 7))", "out of bounds memory access"),
    ("(memory.fill (i32.const 65537) (i32.const 0) (i32.const 0))", "out of bounds memory access"),
    ("(memory.copy (i32.const 0) (i32.const 65000) (i32.const 537))", "out of bounds memory access"),
    ("(memory.copy (i32.const -1) (i32.const 0) (i32.const 2))", "out of bounds memory access"),
    ("(memory.init $words (i32.const 0) (i32.const 1) (i32.const 8))", "out of bounds memory access"),
    ("(data.drop $words) (memory.init $words (i32.const 0) (i32.const 0) (i32.const 1))", "out of bounds memory access"),
    ("(call_indirect (type $none) (i32.const 0))", "uninitialized element"),
    ("(call_indirect (type $none) (i32.const 2))", "indirect call type mismatch"),
    ("(call_indirect (type $none) (i32.const 9))", "undefined element"),
    ("(table.set $t (i32.const 4) (ref.null func))", "out of bounds table access"),
    ("(drop (table.get $t (i32.const -1)))", "out of bounds table access"),
    ("(table.init $t $passive (i32.const 3) (i32.const 0) (i32.const 2))", "out of bounds table access"),
    ("(table.copy $t $t (i32.const 2) (i32.const 0) (i32.const 3))", "out of bounds table access"),
    ("(table.fill $t (i32.const 3) (ref.null func) (i32.const 2))", "out of bounds table access"),
    ("(call $forever)", "call stack exhausted"),
    ("(drop (call $wide (i32.const 0)))", "call stack exhausted"),
]


def traps():
    wide = " ".join("(local i64 i64 i64 i64 i64 i64 i64 i64)" for _ in range(64))
    cases = "\n".join(f"    (if (i32.eq (local.get $which) (i32.const {i})) (then {what}))" for i, (what, _) in enumerate(TRAPS))
    return HEAD + f"""
  (memory (export "memory") 1 1)
  (type $none (func))
  (table $t 4 4 funcref)
  (elem (i32.const 1) $nothing $wide)
  (elem $passive func $nothing $nothing)
  (data $words "abcdefgh")
  (global $zero (mut i32) (i32.const 0))
  (func $nothing)
  (func $forever (call $forever) (call $nothing))
  (func $wide (param i32) (result i32) {wide} (local.set 9 (i64.extend_i32_u (local.get 0)))
    (i32.add (i32.wrap_i64 (local.get 9)) (call $wide (i32.add (local.get 0) (i32.const 1)))))
  (func (export "_start") (local $which i32) (local.set $which (call $choose))
{cases}
    (drop (call $fd_write (i32.const 1) (i32.const 40) (i32.const 1) (i32.const 8))))
  (data (i32.const 40) "\\30\\00\\00\\00\\05\\00\\00\\00fine\\0a"))"""


WASI = r"""(module
""" + "".join(f'  (import "wasi_snapshot_preview1" "{name}" (func ${name} (param {kinds}) (result i32)))\n' for name, kinds in {
    "args_get": "i32 i32", "args_sizes_get": "i32 i32", "environ_sizes_get": "i32 i32", "clock_res_get": "i32 i32",
    "clock_time_get": "i32 i64 i32", "fd_advise": "i32 i64 i64 i32", "fd_close": "i32", "fd_fdstat_get": "i32 i32",
    "fd_filestat_get": "i32 i32", "fd_pread": "i32 i32 i32 i64 i32", "fd_prestat_get": "i32 i32", "fd_prestat_dir_name": "i32 i32 i32",
    "fd_read": "i32 i32 i32 i32", "fd_seek": "i32 i64 i32 i32", "fd_tell": "i32 i32", "fd_write": "i32 i32 i32 i32",
    "fd_renumber": "i32 i32", "fd_readdir": "i32 i32 i32 i64 i32", "path_open": "i32 i32 i32 i32 i32 i64 i64 i32 i32",
    "path_unlink_file": "i32 i32 i32", "poll_oneoff": "i32 i32 i32 i32", "random_get": "i32 i32", "sched_yield": "",
    "sock_recv": "i32 i32 i32 i32 i32 i32", "sock_shutdown": "i32 i32"}.items()) + r"""
  (memory (export "memory") 2)
  (global $out (mut i32) (i32.const 4096))
  (func $put (param i32) (i32.store (global.get $out) (local.get 0)) (global.set $out (i32.add (global.get $out) (i32.const 4))))
  (func (export "_start")
    (call $put (call $args_sizes_get (i32.const 0) (i32.const 4))) (call $put (i32.load (i32.const 0)))
    (call $put (call $args_get (i32.const 8) (i32.const 64))) (call $put (i32.eq (i32.load (i32.const 8)) (i32.const 64)))
    (call $put (call $clock_res_get (i32.const 0) (i32.const 0))) (call $put (call $clock_res_get (i32.const 9) (i32.const 0)))
    (call $put (call $clock_time_get (i32.const 1) (i64.const 0) (i32.const 0))) (call $put (i64.gt_u (i64.load (i32.const 0)) (i64.const 0)))
    (call $put (call $clock_time_get (i32.const 4) (i64.const 0) (i32.const 0)))
    ;; nobody has these descriptors
    (call $put (call $fd_close (i32.const 9))) (call $put (call $fd_close (i32.const -1))) (call $put (call $fd_fdstat_get (i32.const 7) (i32.const 0)))
    (call $put (call $fd_filestat_get (i32.const 7) (i32.const 0))) (call $put (call $fd_prestat_get (i32.const 9) (i32.const 0)))
    (call $put (call $fd_prestat_dir_name (i32.const 9) (i32.const 0) (i32.const 9)))
    (call $put (call $fd_seek (i32.const 7) (i64.const 0) (i32.const 0) (i32.const 0))) (call $put (call $fd_tell (i32.const 7) (i32.const 0)))
    (call $put (call $fd_read (i32.const 7) (i32.const 0) (i32.const 0) (i32.const 0))) (call $put (call $fd_write (i32.const 7) (i32.const 0) (i32.const 0) (i32.const 0)))
    (call $put (call $path_open (i32.const 9) (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 0) (i64.const 0) (i64.const 0) (i32.const 0) (i32.const 8)))
    (call $put (call $path_unlink_file (i32.const 9) (i32.const 0) (i32.const 1))) (call $put (call $fd_readdir (i32.const 9) (i32.const 0) (i32.const 9) (i64.const 0) (i32.const 0)))
    (call $put (call $fd_renumber (i32.const 7) (i32.const 8))) (call $put (call $sock_shutdown (i32.const 7) (i32.const 0)))
    ;; the streams
    (call $put (call $fd_fdstat_get (i32.const 1) (i32.const 0)))
    (call $put (call $fd_read (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 32)))
    (call $put (call $fd_write (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 32)))
    ;; waiting: nothing, a clock that is due, a stream that takes
    (call $put (call $poll_oneoff (i32.const 256) (i32.const 512) (i32.const 0) (i32.const 0)))
    (i64.store (i32.const 256) (i64.const 77)) (i32.store (i32.const 272) (i32.const 1)) (i64.store (i32.const 280) (i64.const 1000000))
    (call $put (call $poll_oneoff (i32.const 256) (i32.const 512) (i32.const 1) (i32.const 0))) (call $put (i32.load (i32.const 0)))
    (call $put (i32.load (i32.const 512))) (call $put (i32.load16_u (i32.const 520))) (call $put (i32.load8_u (i32.const 522)))
    (call $put (call $sched_yield))
    (call $put (call $random_get (i32.const 1024) (i32.const 64))) (call $put (i64.ne (i64.load (i32.const 1024)) (i64.load (i32.const 1032))))
    (call $put (call $random_get (i32.const 65536) (i32.const 0)))
    (i32.store (i32.const 0) (i32.const 4096)) (i32.store (i32.const 4) (i32.sub (global.get $out) (i32.const 4096)))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))
"""

MOVED = r"""(module
  (import "wasi_snapshot_preview1" "fd_renumber" (func $fd_renumber (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (global $out (mut i32) (i32.const 4096))
  (func $put (param i32) (i32.store (global.get $out) (local.get 0)) (global.set $out (i32.add (global.get $out) (i32.const 4))))
  (func $writable (param $at i32) (param $name i64)
    (i64.store (local.get $at) (local.get $name)) (i32.store8 offset=8 (local.get $at) (i32.const 2)) (i32.store offset=16 (local.get $at) (i32.const 1)))
  (func (export "_start")
    ;; events where the subscriptions are
    (call $writable (i32.const 256) (i64.const 71))
    (call $put (call $poll_oneoff (i32.const 256) (i32.const 248) (i32.const 1) (i32.const 0))) (call $put (i32.load (i32.const 0)))
    (call $put (i32.load (i32.const 248))) (call $put (i32.load16_u (i32.const 256))) (call $put (i32.load8_u (i32.const 258)))
    ;; 1 becomes 2, and is gone
    (call $put (call $fd_renumber (i32.const 1) (i32.const 9))) (call $put (call $fd_renumber (i32.const 9) (i32.const 1)))
    (call $put (call $fd_renumber (i32.const 1) (i32.const 2))) (call $put (call $fd_renumber (i32.const 1) (i32.const 2)))
    (call $put (call $fd_write (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 32)))
    ;; more than 4 GiB in all: nothing of it is written
    (i32.store (i32.const 0) (i32.const 4096)) (i32.store (i32.const 4) (i32.const 64)) (i32.store (i32.const 12) (i32.const -1))
    (call $put (i32.ne (i32.const 0) (call $fd_write (i32.const 2) (i32.const 0) (i32.const 2) (i32.const 8))))
    (i32.store (i32.const 0) (i32.const 4096)) (i32.store (i32.const 4) (i32.const 128))
    (drop (call $fd_write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)))))
"""

BEGUN = r"""(module
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func $begin (i32.store (i32.const 8) (i32.const 0x6e676562)))
  (start $begin)
  (global (export "handle") i32 (i32.const 1))
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 8)) (i32.store (i32.const 4) (i32.const 4))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))))
"""

# ---- Running them ----


def in_node(module, stdin=b""):
    """(status, output): what V8 makes of it."""
    done = subprocess.run(["node", "--no-warnings", NODE_RUN, module], input=stdin, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return done.returncode, done.stdout


def has_kvm():
    done = subprocess.run([BUILD / "blixard", "doctor", "--output", "json"], stdout=subprocess.PIPE, timeout=60)
    return json.loads(done.stdout)["isolation"] == "microvm"


def setUpModule():
    global folder
    folder = tempfile.TemporaryDirectory(prefix="blixard-wasm-")


def tearDownModule():
    folder.cleanup()


class Claims:
    """The same for both isolations."""
    isolation = None

    @classmethod
    def setUpClass(cls):
        if cls.isolation == "microvm" and not has_kvm():
            raise unittest.SkipTest("no usable /dev/kvm")
        if cls.isolation == "process" and "ASAN_OPTIONS" in os.environ:
            raise unittest.SkipTest("the sanitizer takes the addresses of the process sandbox")
        if shutil.which("node") is None or shutil.which("wat2wasm") is None:
            raise unittest.SkipTest("needs nodejs and wabt")
        cls.node = Node(arguments=["--isolation", cls.isolation])

    @classmethod
    def tearDownClass(cls):
        cls.node.stop()

    def tier(self, name):
        return self.node.json(f"/v1/functions/{name}")["version"]["tier"]

    def until_optimized(self, name):
        deadline = time.monotonic() + 120
        while self.tier(name) != "optimized":
            self.assertLess(time.monotonic(), deadline)

    def call(self, name, stdin=b""):
        status, body, _ = self.node.request("POST", f"/v1/functions/{name}/invocations", stdin)
        return status, body

    def same_as_in_node(self, name, module):
        status, expected = in_node(module)
        self.assertEqual(status, 0)
        self.assertGreater(len(expected), 100)
        self.node.deploy(name, module)
        for _ in range(2):
            status, got = self.call(name)
            self.assertEqual(status, 200, got[:500])
            self.assertEqual(len(got), len(expected), self.tier(name))
            wrong = [i for i in range(0, len(got), 4) if got[i:i + 4] != expected[i:i + 4]]
            self.assertEqual(wrong, [], f"{self.tier(name)}: offsets that differ")
            self.until_optimized(name)

    def test_numbers(self):
        self.same_as_in_node("numbers", assemble("numbers", numbers()))

    def test_control_tables_and_memory(self):
        self.same_as_in_node("control", assemble("control", CONTROL))

    def test_wasi(self):
        self.same_as_in_node("wasi", assemble("wasi", WASI))

    def test_descriptors_move_and_events_may_overlap(self):
        self.same_as_in_node("moved", assemble("moved", MOVED))

    def test_the_start_function_runs_before_a_command(self):
        """And an export of the name `handle` that is no function makes no handler."""
        self.node.deploy("begun", assemble("begun", BEGUN))
        self.assertEqual(self.call("begun"), (200, b"begn"))
        self.until_optimized("begun")
        self.assertEqual(self.call("begun"), (200, b"begn"))

    def test_traps_have_their_names(self):
        module = assemble("traps", traps())
        self.node.deploy("traps", module)
        for _ in range(2):
            for i, (what, name) in enumerate(TRAPS):
                status, body = self.call("traps", bytes([i]))
                self.assertEqual(status, 502, f"{self.tier('traps')}: {what}: {body}")
                self.assertIn(f"trap: {name}", json.loads(body)["detail"], f"{self.tier('traps')}: {what}")
            self.assertEqual(self.call("traps", b"\xff"), (200, b"fine\n"))
            self.until_optimized("traps")


class Process(Claims, unittest.TestCase):
    isolation = "process"

    def test_node_traps_too(self):
        """The list of traps is right: V8 ends each of them, and the call that is none ends well."""
        module = assemble("traps", traps())
        for i, (what, _) in enumerate(TRAPS):
            self.assertNotEqual(in_node(module, bytes([i]))[0], 0, what)
        self.assertEqual(in_node(module, b"\xff"), (0, b"fine\n"))


class Microvm(Claims, unittest.TestCase):
    isolation = "microvm"


MODULE = '(module {} (memory (export "memory") 1) (func (export "_start") {}))'
REFUSED = {  # what is refused: (declarations, body of _start, words)
    "simd": ("", "(drop (i8x16.splat (i32.const 0)))", "SIMD"),
    "simd-type": ("(func (param v128))", "", "SIMD"),
    "threads": ("", "(drop (i32.atomic.load (i32.const 0)))", "threads"),
    "tail-calls": ("(func $f)", "(return_call $f)", "tail calls"),
    "exceptions": ("(tag $e)", "", "exceptions"),
    "throw": ("", "(try (do) (catch_all))", "exceptions"),
    "several-memories": ("(memory 1)", "", "several memories"),
    "import": ('(import "env" "printf" (func (param i32)))', "", "env.printf"),
    "import-of-wasi": ('(import "wasi_snapshot_preview1" "fd_fly" (func (param i32)))', "", "wasi_snapshot_preview1.fd_fly"),
    "import-of-memory": ('(import "env" "table" (table 1 funcref))', "", "env.table"),
    "import-of-a-global": ('(import "env" "g" (global i32))', "", "global env.g"),
    "signature": ('(import "wasi_snapshot_preview1" "fd_write" (func (param i32) (result i32)))', "", "fd_write with other parameters"),
    "signature-of-exit": ('(import "wasi_snapshot_preview1" "proc_exit" (func (param i32) (result i32)))', "", "proc_exit with other parameters"),
}


class Refusals(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if shutil.which("wat2wasm") is None:
            raise unittest.SkipTest("needs wabt")
        cls.node = Node()

    @classmethod
    def tearDownClass(cls):
        cls.node.stop()

    def reason(self, name, module):
        try:
            begun = self.node.begin_deploy(name, module)
        except Refused as refused:
            return refused.problem["detail"]
        ended = self.node.wait(begun["operation"])
        self.assertEqual(ended["state"], "failed", name)
        return ended["error"]

    def test_what_is_not_supported_is_named(self):
        for name, (declarations, body, words) in REFUSED.items():
            with self.subTest(name=name):
                module = assemble(name, MODULE.format(declarations, body), "--enable-all", "--no-check")
                self.assertIn(words, self.reason(name, module))

    def test_a_module_without_entry_says_so(self):
        module = assemble("no-entry", '(module (memory (export "memory") 1) (func (export "main")))')
        self.assertIn("neither _start", self.reason("no-entry", module))
        module = assemble("wrong-entry", '(module (memory (export "memory") 1) (func (export "_start") (param i32)))')
        self.assertIn("_start must be a function of its own, without parameters", self.reason("wrong-entry", module))
        module = assemble("foreign-entry", '(module (import "wasi_snapshot_preview1" "sched_yield" (func $f (result i32)))'
                          '(memory (export "memory") 1) (export "_start" (func $f)))')
        self.assertIn("_start must be a function of its own", self.reason("foreign-entry", module))

    def test_what_initialises_takes_nothing(self):
        for name in ("_initialize", "wizer.initialize", "handle"):
            module = assemble("initialises", f'(module (memory (export "memory") 1) (func (export "_start")) (func (export "{name}") (param i32)))')
            self.assertIn(f"{name} must be a function of its own, without parameters", self.reason("initialises", module))

    def test_shared_and_64_bit_memories_are_named(self):
        shared = assemble("shared", '(module (memory (export "memory") 1 1 shared) (func (export "_start")))', "--enable-threads")
        self.assertIn("threads", self.reason("shared", shared))
        wide = assemble("wide", '(module (memory (export "memory") i64 1) (func (export "_start")))', "--enable-memory64")
        self.assertIn("memory64", self.reason("wide", wide))

    def test_invalid_code_is_told_with_its_place(self):
        module = assemble("invalid", MODULE.format("", "(i32.add (i32.const 1))"), "--no-check")
        self.assertIn("type mismatch", self.reason("invalid", module))

    def test_memory_beyond_the_limit_is_told(self):
        module = assemble("vast", '(module (memory (export "memory") 60000) (func (export "_start")))')
        self.assertRegex(self.reason("vast", module), "memory")


if __name__ == "__main__":
    unittest.main()
