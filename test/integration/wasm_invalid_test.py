"""What is no valid module is refused, by the specification's terms; what is valid is not.  V8 says of mutants which is which.

BLIXARD_WASM_SEEDS=1000-3000 takes other mutants than the few of each run.
"""
import concurrent.futures
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

import wasm_mutants
from node import BUILD
from wasm_random import CODE, CUSTOM, DATA, DATA_COUNT, EXPORT, FUNCTION, GLOBAL, IMPORT, MEMORY, TABLE, TYPE, ELEMENT, START, section
from wasm_v8 import in_v8

PLAIN_ONLY = "what is malformed is tried by the harness wasm_inspect, too, and far more of it; the time goes to compilers of what is valid"

REFUSED = (64, 65, 69)  # not valid, not supported, beyond a limit

# Everything at once, to be broken.
BASE = """(module (type (func (param i32 i64) (result f32))) (type (func)) (import "spectest" "print_i32" (func $p (param i32)))
  (import "spectest" "global_i32" (global $gi i32)) (import "spectest" "table" (table $ti 10 20 funcref)) (import "spectest" "memory" (memory 1 2))
  (func $f (export "f\\c3\\a9") (type 0) (local f64) (drop (memory.grow (i32.const 1))) (drop (ref.func $f))
    (call $p (i32.load16_u offset=3 align=1 (local.get 0))) (f32.const 1))
  (func $s (type 1) (block (loop (br_if 1 (i32.const 1)) (br_table 0 1 0 (i32.const 3))))) (start $s) (table $t 1 2 externref)
  (global $g (mut i64) (i64.const -5)) (global (export "g") i32 (global.get $gi)) (export "t" (table $t)) (export "m" (memory 0))
  (elem (table $ti) (global.get $gi) func $f) (elem declare func $s) (elem externref (ref.null extern)) (data (i32.const 5) "abc") (data "x")
  (func (memory.init 1 (i32.const 0) (i32.const 0) (i32.const 1)) (data.drop 1) (table.init $ti 1 (i32.const 0) (i32.const 0) (i32.const 0))
    (elem.drop 1) (drop (select (result i32) (i32.const 1) (i32.const 2) (i32.const 3)))
    (drop (block (result i32) (i32.const 1) (if (param i32) (result i32) (i32.eqz (i32.const 0)) (then) (else drop (i32.const 4)))))))"""

INVALID = [  # (the specification's term, a module's fields)
    ("type mismatch", "(func (result i32) (i64.const 1))"),
    ("type mismatch", "(func (drop (i32.add (i32.const 1))))"),
    ("type mismatch", "(global i32 (i64.const 0))"),
    ("type mismatch", "(global i32 (i32.const 0) (i32.const 1))"),
    ("type mismatch", "(func (drop (select (ref.null func) (ref.null func) (i32.const 0))))"),
    ("type mismatch", "(table 1 externref) (func $f) (elem (i32.const 0) func $f)"),
    ("type mismatch", "(table 1 externref) (func (call_indirect (i32.const 0)))"),
    ("type mismatch", "(table funcref (elem)) (table 1 externref) (func (call_indirect 1 (i32.const 0)))"),
    ("type mismatch", "(table $a 1 externref) (table $b 1 funcref) (func (table.copy $a $b (i32.const 0) (i32.const 0) (i32.const 0)))"),
    ("type mismatch", "(func (block (result i32) (br_table 0 1 (i32.const 0) (i32.const 1))) drop)"),
    ("unknown local", "(func (drop (local.get 3)))"),
    ("unknown function", "(func (call 9))"),
    ("unknown function", "(start 9)"),
    ("unknown function", "(table 1 funcref) (elem (i32.const 0) func 5)"),
    ("unknown function", '(export "a" (func 3))'),
    ("unknown global", "(func (drop (global.get 1)))"),
    ("unknown global", '(export "a" (global 3))'),
    ("unknown table", "(func (drop (table.get 0 (i32.const 0))))"),
    ("unknown table", "(elem (i32.const 0) func)"),
    ("unknown table", '(export "a" (table 0))'),
    ("unknown memory", "(func (drop (i32.load (i32.const 0))))"),
    ("unknown memory", "(func (drop (memory.size)))"),
    ("unknown memory", '(data (i32.const 0) "a")'),
    ("unknown memory", '(export "a" (memory 0))'),
    ("unknown type", "(func (type 7))"),
    ("unknown type", "(table 1 funcref) (func (call_indirect (type 7) (i32.const 0)))"),
    ("unknown label", "(func (br 3))"),
    ("unknown label", "(func (br_table 0 5 (i32.const 0)))"),
    ("unknown elem segment", "(table 1 funcref) (func (elem.drop 3))"),
    ("unknown data segment", '(memory 1) (func (data.drop 4)) (data "a")'),
    ("duplicate export name", '(func (export "a")) (func (export "a"))'),
    ("alignment must not be larger than natural", "(memory 1) (func (drop (i32.load8_u align=2 (i32.const 0))))"),
    ("size minimum must not be greater than maximum", "(memory 2 1)"),
    ("size minimum must not be greater than maximum", "(table 2 1 funcref)"),
    ("memory size must be at most 65536 pages (4GiB)", "(memory 65537)"),
    ("memory size must be at most 65536 pages (4GiB)", "(memory 1 65537)"),
    ("global is immutable", "(global i32 (i32.const 0)) (func (global.set 0 (i32.const 1)))"),
    ("constant expression required", "(global i32 (i32.ctz (i32.const 0)))"),
    ("constant expression required", "(global i32 (nop) (i32.const 0))"),
    ("constant expression required", "(global i32 (i32.rem_s (i32.const 0) (i32.const 1)))"),
    ("constant expression required", "(global i32 (i32.const 0)) (global i32 (global.get 0))"),
    ("undeclared function reference", "(func $f (drop (ref.func $f)))"),
    ("start function", "(func $f (result i32) (i32.const 0)) (start $f)"),
    ("start function", "(func $f (param i32)) (start $f)"),
    ("invalid result arity", "(func (drop (select (result i32 i32) (i32.const 0) (i32.const 0) (i32.const 0))))"),
]

HEAD = b"\0asm\1\0\0\0"
ONE_TYPE = section(TYPE, b"\x01\x60\0\0")
ONE_FUNCTION = ONE_TYPE + section(FUNCTION, b"\x01\0")
BODY = section(CODE, b"\x01\x02\0\x0b")
MALFORMED = [  # (the specification's term, a module)
    ("magic header not detected", b""),
    ("magic header not detected", b"\0as"),
    ("magic header not detected", b"asm\0\1\0\0\0"),
    ("unknown binary version", b"\0asm\2\0\0\0"),
    ("unexpected end", HEAD + b"\x01"),
    ("length out of bounds", HEAD + b"\x01\x07\x01"),
    ("malformed section id", HEAD + b"\x7f\x01\x00"),
    ("integer representation too long", HEAD + b"\x00\x83\x80\x80\x80\x80\x00\x011"),
    ("integer too large", HEAD + b"\x00\x83\x80\x80\x80\x10\x0112"),
    ("integer representation too long", HEAD + section(MEMORY, b"\x01\x00\x82\x80\x80\x80\x80\x00")),
    ("integer too large", HEAD + section(GLOBAL, b"\x01\x7f\x00\x41\x80\x80\x80\x80\x70\x0b")),
    ("integer too large", HEAD + section(GLOBAL, b"\x01\x7e\x00\x42\x80\x80\x80\x80\x80\x80\x80\x80\x80\x7e\x0b")),
    ("integer representation too long", HEAD + section(GLOBAL, b"\x01\x7e\x00\x42" + b"\x80" * 10 + b"\x00\x0b")),
    ("malformed UTF-8 encoding", HEAD + section(CUSTOM, b"\x02\xc3\x28")),
    ("malformed UTF-8 encoding", HEAD + section(CUSTOM, b"\x03\xed\xa0\x80")),
    ("malformed UTF-8 encoding", HEAD + section(IMPORT, b"\x01\x01\xff\x01a\x00\x00")),
    ("malformed UTF-8 encoding", HEAD + ONE_FUNCTION + section(EXPORT, b"\x01\x04\xf4\x90\x80\x80\x00\x00") + BODY),
    ("unexpected content after last section", HEAD + section(FUNCTION, b"\x00") + section(TYPE, b"\x00")),
    ("unexpected content after last section", HEAD + section(TYPE, b"\x00") + section(TYPE, b"\x00")),
    ("unexpected content after last section", HEAD + ONE_FUNCTION + BODY + section(DATA_COUNT, b"\x00")),
    ("section size mismatch", HEAD + section(TYPE, b"\x00\x00")),
    ("unexpected end", HEAD + section(TYPE, b"\x02\x60\x00\x00")),
    ("malformed value type", HEAD + section(TYPE, b"\x01\x60\x01\x40\x00")),
    ("malformed type", HEAD + section(TYPE, b"\x01\x61\x00\x00")),
    ("malformed import kind", HEAD + section(IMPORT, b"\x01\x01a\x01b\x05\x00")),
    ("malformed export kind", HEAD + section(EXPORT, b"\x01\x01a\x05\x00")),
    ("malformed limits flags", HEAD + section(TABLE, b"\x01\x70\x08\x00")),
    ("malformed mutability", HEAD + section(GLOBAL, b"\x01\x7f\x02\x41\x00\x0b")),
    ("function and code section have inconsistent lengths", HEAD + ONE_FUNCTION),
    ("function and code section have inconsistent lengths", HEAD + ONE_TYPE + BODY),
    ("data count and data section have inconsistent lengths", HEAD + section(DATA_COUNT, b"\x01")),
    ("data count and data section have inconsistent lengths", HEAD + section(MEMORY, b"\x01\x00\x01") + section(DATA_COUNT, b"\x02") + section(DATA, b"\x01\x01\x00")),
    ("illegal opcode", HEAD + ONE_FUNCTION + section(CODE, b"\x01\x03\0\x27\x0b")),
    ("illegal opcode", HEAD + ONE_FUNCTION + section(CODE, b"\x01\x04\0\xfc\x12\x0b")),
    ("END opcode expected", HEAD + ONE_FUNCTION + section(CODE, b"\x01\x04\0\x0b\x01\x0b")),
    ("unexpected end", HEAD + ONE_FUNCTION + section(CODE, b"\x01\x02\0\x01")),
    ("malformed element segment", HEAD + section(ELEMENT, b"\x01\x08\x00")),
    ("malformed data segment kind", HEAD + section(DATA, b"\x01\x03\x00")),
    ("length out of bounds", HEAD + section(MEMORY, b"\x01\x00\x01") + section(DATA, b"\x01\x01\x07a")),
    ("unknown function", HEAD + section(START, b"\x00")),
]


@unittest.skipIf(shutil.which("node") is None or shutil.which("wasm2c") is None, "needs nodejs and wabt")
class Invalid(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory(prefix="blixard-invalid-")
        cls.folder = pathlib.Path(cls.temporary.name)
        cls.folder.chmod(0o711)

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def assemble(self, fields):
        source, module = self.folder / "source.wat", self.folder / "source.wasm"
        source.write_text(fields)
        subprocess.run(["wat2wasm", "--no-check", "-o", module, source], check=True)
        return module.read_bytes()

    def run_all(self, modules):
        """How each ends, instantiated and no more: (status, words)."""
        def run(number):
            path = self.folder / f"{number}.wasm"
            path.write_bytes(modules[number])
            done = subprocess.run([BUILD / "blixard", "fn", "run", path, "--script", "-", "--timeout", "5s", "--tier", "fast"], input=b"",
                                  capture_output=True, timeout=60, env={**os.environ, "XDG_CACHE_HOME": str(self.folder / "cache")})
            return done.returncode, done.stderr.decode(errors="replace").strip()
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            return list(pool.map(run, range(len(modules))))

    def check_terms(self, cases):
        modules = [module for _, module in cases]
        for (term, module), (status, words), verdict in zip(cases, self.run_all(modules), in_v8([{"valid": module.hex()} for module in modules])):
            with self.subTest(term=term, module=module.hex()):
                self.assertNotEqual(verdict, "")
                self.assertIn(status, REFUSED)
                self.assertIn(term, words)

    def test_what_is_not_valid_has_its_term(self):
        self.check_terms([(term, self.assemble(f"(module {fields})")) for term, fields in INVALID])

    def test_what_is_valid_and_cannot_be_is_named(self):
        table = HEAD + ONE_TYPE + section(IMPORT, b"\x01\x08spectest\x0aglobal_i32\x03\x7f\x00") + section(TABLE, b"\x01\x70\x00\x05")
        module = table + section(ELEMENT, b"\x01\x04\x41\x00\x0b\x01\x23\x00\x0b")
        ((status, words),) = self.run_all([module])
        self.assertEqual(status, 65)
        self.assertIn("globals as elements of tables, which is not supported", words)

    def test_what_is_malformed_has_its_term(self):
        self.check_terms(MALFORMED)

    def check_mutants(self, seeds):
        bases = [self.assemble(BASE)]
        modules = [wasm_mutants.mutant(seed, bases) for seed in seeds]
        for seed, (status, words), verdict in zip(seeds, self.run_all(modules), in_v8([{"valid": module.hex()} for module in modules])):
            with self.subTest(seed=seed, verdict=verdict):
                self.assertIn(status, (0, 70, 75, *REFUSED), words)  # a start function may trap, or take too long
                self.assertNotRegex(words, "translating|compiling|linking")
                if verdict != "":
                    self.assertIn(status, REFUSED, words)
                elif status in REFUSED:
                    self.assertRegex(words, "not supported|nobody here provides|imports|at most|more than")

    def test_mutants_are_judged_as_in_v8(self):
        self.check_mutants(range(300))

    @unittest.skipUnless("BLIXARD_WASM_SEEDS" in os.environ, "by hand")
    def test_other_mutants(self):
        first, _, last = os.environ["BLIXARD_WASM_SEEDS"].partition("-")
        self.check_mutants(range(int(first), int(last)))
