"""WebAssembly as its specification has it, through `fn run`: exports called one by one in one instance that outlives its traps,
in both tiers and both isolations."""
import json
import os
import pathlib
import pty
import subprocess
import tempfile
import unittest
from node import ROOT, BUILD

PLAIN_ONLY = "the time goes to compilers"

SCRIPT = [
    ("get started", "ok i32:1"),
    ("get imported", "ok i32:666"),
    ("get function", "ok funcref:function"),
    ("get float", "ok f32:nan:0x200001"),
    ("invoke two -3", "ok i32:-3 i64:-6"),
    ("invoke call 0", "ok i32:5 i64:10"),
    ("invoke call 1", "trap indirect call type mismatch"),
    ("invoke call 2", "trap uninitialized element"),
    ("invoke call 10", "trap undefined element"),
    ("invoke call -1", "trap undefined element"),
    ("invoke div 7 -2", "ok i32:-3"),
    ("invoke div 7 0", "trap integer divide by zero"),
    ("invoke div 0x80000000 -1", "trap integer overflow"),
    ("invoke convert -2147483648.9", "ok i32:-2147483648"),
    ("invoke convert 2147483648", "trap integer overflow"),
    ("invoke convert nan", "trap invalid conversion to integer"),
    ("invoke stop", "trap unreachable"),
    ("invoke load 65532", "ok"),
    ("invoke load 65533", "trap out of bounds memory access"),
    ("invoke load -1", "trap out of bounds memory access"),
    ("invoke store 0 0x1122334455667788", "ok"),
    ("invoke read 65528", "ok i64:1234605616436508552"),
    ("invoke store 1 0", "trap out of bounds memory access"),
    ("invoke store -1 0", "trap out of bounds memory access"),
    ("invoke read 65528", "ok i64:1234605616436508552"),
    ("invoke grow 1", "ok i32:1"),
    ("invoke grow 1", "ok i32:-1"),
    ("invoke grow 0", "ok i32:2"),
    ("invoke load 131068", "ok"),
    ("invoke fill 131070 1 3", "trap out of bounds memory access"),
    ("invoke fill 131072 1 0", "ok"),
    ("invoke init 0 7 1", "ok"),
    ("invoke init 0 7 2", "trap out of bounds memory access"),
    ("invoke drop", "ok"),
    ("invoke init 0 0 1", "trap out of bounds memory access"),
    ("invoke init 0 0 0", "ok"),
    ("invoke keep 1 77", "ok"),
    ("invoke kept 1", "ok externref:77"),
    ("invoke kept 0", "ok externref:null"),
    ("invoke kept 3", "trap out of bounds table access"),
    ("invoke isnull externref:0", "ok i32:0"),
    ("invoke isnull null", "ok i32:1"),
    ("invoke \"grow\\20table\" 3", "ok i32:1"),
    ("invoke \"grow table\" 1", "ok i32:-1"),
    ("invoke reference 1", "ok funcref:function"),
    ("invoke reference 5", "ok funcref:null"),
    ("invoke forever 0", "trap call stack exhausted"),
    ("invoke forever 0", "trap call stack exhausted"),
    ("invoke two 1", "ok i32:1 i64:2"),
    ("invoke f32 nan:0x1", "ok f32:nan:0x1"),
    ("invoke f32 -nan:0x3fffff", "ok f32:-nan:0x3fffff"),
    ("invoke f32 bits:0x7fa00000", "ok f32:nan:0x200000"),
    ("invoke f32 0x1.fffffep127", "ok f32:3.40282347e+38"),
    ("invoke f32 -0", "ok f32:-0"),
    ("invoke f64 nan:0x4000000000001", "ok f64:nan:0x4000000000001"),
    ("invoke f64 -inf", "ok f64:-inf"),
    ("invoke f64 -1_000.5_0", "ok f64:-1000.5"),
    ("invoke f32 nan:0x3f_ffff", "ok f32:nan:0x3fffff"),
    ("invoke two 0x7f_ff_ff_ff", "ok i32:2147483647 i64:-2"),
    ("invoke two 1__0", "error \"1__0\" is not a value of type i32"),
    ("invoke two 1_", "error \"1_\" is not a value of type i32"),
    ("invoke half 5e-324", "ok f64:0"),
    ("invoke half nan:0x8000000000001", "ok f64:nan:0x8000000000001"),
    ("invoke contract 1.0000000000000002 1.0000000000000002 1.0000000000000004", "ok f64:0"),
    ("invoke absent", "error the module exports no function \"absent\"; it exports two, call, div,"),
    ("invoke two", "error two takes 1 argument, not 0"),
    ("invoke two 4294967296", "error \"4294967296\" is not a value of type i32"),
    ("invoke f32 nan:0x800000", "error \"nan:0x800000\" is not a value of type f32"),
    ("invoke \"two", "error a quote without its end"),
    ("leave", "error \"leave\" is neither invoke nor get"),
    ("# a comment, and an empty line\n", None),
    ("get started", "ok i32:1"),
]


class FromWat(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.module = cls.assemble("exports", (ROOT / "test/fixtures/wasm/exports.wat").read_text())

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    @classmethod
    def assemble(cls, name, text):
        source = pathlib.Path(cls.folder.name) / f"{name}.wat"
        source.write_text(text)
        module = source.with_suffix(".wasm")
        subprocess.run(["wat2wasm", "--no-check", "-o", module, source], check=True)
        return str(module)

    def run_it(self, *arguments, script=None):
        environment = dict(os.environ, XDG_CACHE_HOME=self.folder.name)
        return subprocess.run([BUILD / "blixard", "fn", "run", *arguments], text=True, input=script, capture_output=True,
                              timeout=120, env=environment)


class Conformance(FromWat):
    def check_script(self, isolation, tier):
        if isolation == "process" and "ASAN_OPTIONS" in os.environ:
            self.skipTest("the sanitizer takes the addresses of the process sandbox")
        done = self.run_it(self.module, "--script", "-", "--isolation", isolation, "--tier", tier,
                           script="\n".join(line for line, _ in SCRIPT))
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stderr, "i32:42\n")
        said = done.stdout.splitlines()
        wanted = [(line, answer) for line, answer in SCRIPT if answer is not None]
        self.assertEqual(len(said), len(wanted))
        for (line, answer), got in zip(wanted, said):
            self.assertEqual(got[:len(answer)] if answer.startswith("error") else got, answer, line)

    def test_fast(self):
        self.check_script("process", "fast")

    def test_optimized(self):
        self.check_script("process", "optimized")

    @unittest.skipUnless(os.access("/dev/kvm", os.W_OK), "no KVM here")
    def test_in_a_microvm(self):
        self.check_script("microvm", "fast")
        self.check_script("microvm", "optimized")


class OneCall(FromWat):
    def test_results_are_printed_one_per_line(self):
        done = self.run_it(self.module, "--invoke", "two", "-3")
        self.assertEqual((done.returncode, done.stdout), (0, "i32:-3\ni64:-6\n"))

    def test_negative_numbers_are_no_flags(self):
        for number, printed in ("-.5", "-0.5"), ("-0x1p3", "-8"), ("-inf", "-inf"), ("-nan:0x4", "-nan:0x4"):
            self.assertEqual(self.run_it(self.module, "--invoke", "f64", number).stdout, f"f64:{printed}\n")

    def test_results_are_json_on_request(self):
        done = self.run_it(self.module, "--invoke", "two", "3", "--output", "json")
        self.assertEqual(json.loads(done.stdout),
                         {"results": [{"type": "i32", "value": "3"}, {"type": "i64", "value": "6"}]})

    def test_a_trap_has_its_name_and_a_status_of_its_own(self):
        done = self.run_it(self.module, "--invoke", "div", "1", "0")
        self.assertEqual((done.returncode, done.stdout), (70, ""))
        self.assertIn("trap: integer divide by zero", done.stderr)

    def test_a_start_function_that_traps_is_told(self):
        module = self.assemble("trapping", "(module (start $s) (func $s unreachable) (func (export \"f\")))")
        done = self.run_it(module, "--invoke", "f")
        self.assertEqual(done.returncode, 70)
        self.assertIn("unreachable, while the module was instantiated", done.stderr)

    def test_a_segment_of_nothing_beyond_its_table_traps(self):
        module = self.assemble("nothing", """(module (global (import "spectest" "global_i32") i32) (table 10 funcref)
          (elem (offset (global.get 0)) func) (func (export "f")))""")
        for tier in "fast", "optimized":
            done = self.run_it(module, "--invoke", "f", "--tier", tier)
            self.assertEqual(done.returncode, 70)
            self.assertIn("out of bounds table access, while the module was instantiated", done.stderr)

    def test_what_stood_before_a_trap_has_happened(self):
        """And nothing behind it, though a compiler would see no use of what is written twice."""
        module = self.assemble("order", """(module (memory (export "memory") 1) (global $g (export "g") (mut i32) (i32.const 0))
          (func (export "global") (global.set $g (i32.const 7)) (global.set $g (i32.load (i32.const -1))))
          (func (export "memory_") (i32.store (i32.const 8) (i32.const 7)) (i32.store (i32.const 8) (i32.load (i32.const -1))))
          (func (export "store") (global.set $g (i32.const 1)) (i32.store (i32.const -1) (i32.const 7)) (global.set $g (i32.const 2)))
          (func (export "read") (result i32) (i32.load (i32.const 8))))""")
        trap = "trap out of bounds memory access"
        for tier in "fast", "optimized":
            done = self.run_it(module, "--script", "-", "--tier", tier,
                               script="invoke global\nget g\ninvoke memory_\ninvoke read\ninvoke store\nget g\n")
            self.assertEqual(done.stdout.splitlines(), [trap, "ok i32:7", trap, "ok i32:7", trap, "ok i32:1"], done.stderr)

    def test_an_endless_loop_ends_at_its_timeout(self):
        module = self.assemble("endless", "(module (func (export \"f\") (loop (br 0))))")
        done = self.run_it(module, "--invoke", "f", "--timeout", "100ms")
        self.assertEqual(done.returncode, 75)
        self.assertIn("timed out", done.stderr)

    def test_a_terminal_sees_what_takes_its_time(self):
        """And nothing of it when that has ended."""
        module = self.assemble("watched", '(module (func (export "f") (result i32) (i32.const 11)))')
        control, terminal = pty.openpty()
        self.addCleanup(os.close, control)
        self.addCleanup(os.close, terminal)
        done = subprocess.run([BUILD / "blixard", "fn", "run", module, "--invoke", "f"], stdout=subprocess.PIPE, stderr=terminal, text=True,
                              timeout=120, env=dict(os.environ, XDG_CACHE_HOME=self.folder.name))
        self.assertEqual(done.stdout, "i32:11\n")
        said = os.read(control, 4096)
        for what in b"validating the module", b"translating the module", b"compiling":
            self.assertIn(what, said)
        self.assertTrue(said.endswith(b"\r\x1b[K"), said)

    def test_memory_has_a_limit(self):
        module = self.assemble("growing", "(module (memory 1) (func (export \"f\") (param i32) (result i32) (memory.grow (local.get 0))))")
        self.assertEqual(self.run_it(module, "--invoke", "f", "15", "--memory", "1MiB").stdout, "i32:1\n")
        self.assertEqual(self.run_it(module, "--invoke", "f", "16", "--memory", "1MiB").stdout, "i32:-1\n")

    def test_unknown_imports_are_refused_by_name(self):
        module = self.assemble("stranger", "(module (import \"elsewhere\" \"thing\" (func)) (func (export \"f\")))")
        done = self.run_it(module, "--invoke", "f")
        self.assertEqual(done.returncode, 65)
        self.assertIn("elsewhere.thing", done.stderr)

    def test_exports_have_any_names(self):
        """Among them what would end a comment of C, begin one, or be another's name once it is mangled."""
        names = ["*/ int x(void) { return 1; } /*", "/*", "//\\5c", "x0", "x1", "_start", "Z_fnZ_x1", "", "\\00", "a\\00b",
                 "\\f0\\9f\\8e\\89", "\\0a#error", "??/", "\\22%s", "wizer.initialize"]
        functions = "".join(f'(func (export "{name}") (result i32) (i32.const {i}))' for i, name in enumerate(names))
        module = self.assemble("names", f'(module (memory (export "m*/") 1) {functions} (global (export "g*/") i32 (i32.const 99)))')
        script = "".join(f'invoke "{name}"\n' for name in names) + 'get "g*/"\n'
        for tier in "fast", "optimized":
            done = self.run_it(module, "--script", "-", "--tier", tier, script=script)
            self.assertEqual(done.stdout.splitlines(), [f"ok i32:{i}" for i in [*range(len(names)), 99]], done.stderr)

    def test_the_same_name_twice_is_refused(self):
        module = self.assemble("twice", '(module (func (export "a")) (func (export "a")))')
        done = self.run_it(module, "--invoke", "a")
        self.assertEqual(done.returncode, 64)
        self.assertIn("duplicate export", done.stderr)

    def test_custom_sections_do_not_matter(self):
        module = self.assemble("custom", '(module (func $x0 (export "f") (result i32) (i32.const 7)))')
        path = pathlib.Path(module)
        for name in b"name", b"linking", b"dylink.0", b"reloc.CODE", b"target_features", b"sourceMappingURL":
            broken = bytes([0, len(name) + 5, len(name)]) + name + b"\xff\xff\xff\xff"
            path.write_bytes(path.read_bytes() + broken)
        self.assertEqual(self.run_it(module, "--invoke", "f").stdout, "i32:7\n")

    def test_invalid_modules_are_refused(self):
        module = self.assemble("invalid", "(module (func (export \"f\") (result i32) (i64.const 0)))")
        done = self.run_it(module, "--invoke", "f")
        self.assertEqual(done.returncode, 64)
        self.assertIn("type mismatch", done.stderr)

    def test_a_store_is_seen_by_a_load_that_overlaps_it(self):
        module = self.assemble("overlapping", """(module (memory 1) (func (export "f") (result f32) (local $seen f32)
            (i32.store (i32.const 64) (i32.const 0x55667788)) (local.set $seen (f32.load (i32.const 66)))
            (i32.store (i32.const 64) (i32.const 0)) (local.get $seen)))""")
        for tier in "fast", "optimized":
            self.assertEqual(self.run_it(module, "--invoke", "f", "--tier", tier).stdout, "f32:3.0635187e-41\n")

    def test_a_loop_takes_values(self):
        """From one turn to the next, also where wasm-opt would lose them."""
        module = self.assemble("loop", """(module
            (func $again (param i32) (result i32 i32) local.get 0 local.get 0)
            (func $over (param i32 i32) (result i32 i32 i32) local.get 0 local.get 1 local.get 0)
            (func (export "sum") (param i32) (result i32) i32.const 0 local.get 0
            loop (param i32 i32) (result i32)
              call $over call $over i32.add call $over i32.const 1 i32.sub call $again br_if 0 drop return
            end))""")
        for tier in "fast", "optimized":
            self.assertEqual(self.run_it(module, "--invoke", "sum", "4", "--tier", tier, "--timeout", "20s").stdout, "i32:10\n")

    def test_each_of_several_tables_is_exported(self):
        """Not the first one under the names of all."""
        library = self.assemble("two-tables", """(module (table (export "a") 2 funcref) (table (export "b") 3 funcref)
            (func $five (result i32) (i32.const 5)) (elem (table 1) (i32.const 2) func $five))""")
        module = self.assemble("of-two-tables", """(module (import "lib" "a" (table $a 2 funcref)) (import "lib" "b" (table $b 3 funcref))
            (func (export "f") (result i32 i32 i32)
              (table.size $a) (table.size $b) (call_indirect $b (result i32) (i32.const 2))))""")
        for tier in "fast", "optimized":
            done = self.run_it(module, "--preload", f"lib={library}", "--invoke", "f", "--tier", tier)
            self.assertEqual((done.stdout, done.stderr), ("i32:2\ni32:3\ni32:5\n", ""))

    def test_an_imported_function_may_stand_in_a_table(self):
        module = self.assemble("table-of-imports", """(module (import "spectest" "print_i32" (func $print (param i32)))
            (import "wasi_snapshot_preview1" "sched_yield" (func $yield (result i32)))
            (table funcref (elem $print $yield)) (type $print (func (param i32))) (type $yield (func (result i32)))
            (func (export "f") (param i32) (result i32)
              (call_indirect (type $print) (i32.const 5) (local.get 0))
              (call_indirect (type $yield) (i32.add (local.get 0) (i32.const 1)))))""")
        for tier in "fast", "optimized":
            done = self.run_it(module, "--invoke", "f", "0", "--tier", tier)
            self.assertEqual((done.stdout, done.stderr), ("i32:0\n", "i32:5\n"))

    def test_a_reactor_is_initialised_first(self):
        """And each of several modules; a script sees the effect, not the call."""
        text = """(module (global $count (export "count") (mut i32) (i32.const 0))
            (func (export "_initialize") (global.set $count (i32.add (global.get $count) (i32.const 1))))
            (func (export "f") (result i32) (global.get $count)))"""
        module = self.assemble("reactor", text)
        self.assertEqual(self.run_it(module, "--invoke", "f").stdout, "i32:1\n")
        done = self.run_it(module, "--preload", f"other={module}", "--script", "-", script="get count\nin other get count\ninvoke f\n")
        self.assertEqual(done.stdout, "ok i32:1\n" * 3)
        trapping = self.assemble("trapping-reactor", '(module (func (export "_initialize") unreachable) (func (export "f")))')
        done = self.run_it(trapping, "--script", "-", script="invoke f\n")
        self.assertEqual((done.returncode, done.stdout), (70, ""))
        self.assertIn("trap: unreachable, while the module was instantiated", done.stderr)

    def test_a_table_grows_as_often_as_it_likes(self):
        module = self.assemble("tables", """(module (table $t 0 funcref) (table $e 0 externref)
            (func (export "f") (param $times i32) (result i32)
              (loop $more
                (drop (table.grow $t (ref.null func) (i32.const 1)))
                (local.set $times (i32.sub (local.get $times) (i32.const 1)))
                (br_if $more (local.get $times)))
              (drop (table.grow $e (ref.null extern) (i32.const 100)))
              (drop (table.grow $t (ref.null func) (i32.const 1)))
              (i32.add (table.size $t) (table.size $e))))""")
        self.assertEqual(self.run_it(module, "--invoke", "f", "20000").stdout, "i32:20101\n")


class Linked(FromWat):
    """Modules that import from one another: functions, a table, memories, a global."""
    GIVES = """(module
        (table (export "table") 10 funcref) (memory (export "memory") 1 4) (global (export "global") (mut i32) (i32.const 42))
        (func $own (result i32) (i32.const 77)) (elem (i32.const 0) $own)
        (func (export "call") (param i32) (result i32) (call_indirect (result i32) (local.get 0)))
        (func (export "load") (param i32) (result i32) (i32.load (local.get 0)))
        (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0))))"""
    BETWEEN = """(module
        (import "gives it" "call" (func $call (param i32) (result i32))) (import "gives it" "table" (table 10 funcref))
        (import "gives it" "memory" (memory 1)) (import "gives it" "global" (global $global (mut i32)))
        (import "spectest" "print_i32" (func $print (param i32)))
        (elem (i32.const 1) $count) (data (i32.const 0) "abcd")
        (func $count (result i32)
          (global.set $global (i32.add (global.get $global) (i32.const 1)))
          (call $print (global.get $global)) (i32.load (i32.const 0)))
        (func (export "*/") (param i32) (result i32) (call $call (local.get 0))))"""
    TAKES = """(module
        (import "between" "*/" (func $call (param i32) (result i32))) (memory 2 4)
        (func (export "run") (param i32) (result i32) (i32.store (i32.const 0) (i32.const 99)) (call $call (local.get 0)))
        (func (export "load") (param i32) (result i32) (i32.load (local.get 0)))
        (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0))))"""
    SCRIPT = [
        ("invoke run 0", "ok i32:77"),
        ("invoke run 1", "ok i32:1684234849"),
        ("invoke run 2", "trap uninitialized element"),
        ("in \"gives it\" get global", "ok i32:43"),
        ("in \"gives it\" invoke call 1", "ok i32:1684234849"),
        ("in \"gives it\" get global", "ok i32:44"),
        ("in \"gives it\" invoke load 0", "ok i32:1684234849"),
        ("invoke load 0", "ok i32:99"),
        ("in \"gives it\" invoke load 65533", "trap out of bounds memory access"),
        ("invoke load 131068", "ok i32:0"),
        ("invoke load 131069", "trap out of bounds memory access"),
        ("in \"gives it\" invoke grow 3", "ok i32:1"),
        ("in \"gives it\" invoke load 262140", "ok i32:0"),
        ("in \"gives it\" invoke load 262141", "trap out of bounds memory access"),
        ("in \"gives it\" invoke grow 1", "ok i32:-1"),
        ("invoke grow 1", "ok i32:2"),
        ("in nobody get global", "error no --preload is called \"nobody\""),
        ("in between get global", "error the module exports no global at all"),
    ]

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.gives, cls.between, cls.takes = (cls.assemble(name, text) for name, text in
                                             (("gives", cls.GIVES), ("between", cls.BETWEEN), ("takes", cls.TAKES)))
        cls.given = ("--preload", f"gives it={cls.gives}", "--preload", f"between={cls.between}")

    def check_script(self, isolation):
        for tier in "fast", "optimized":
            done = self.run_it(self.takes, *self.given, "--script", "-", "--tier", tier, "--isolation", isolation,
                               script="".join(line + "\n" for line, _ in self.SCRIPT))
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(done.stderr, "i32:43\ni32:44\n")
            self.assertEqual(done.stdout.splitlines(), [answer for _, answer in self.SCRIPT])

    @unittest.skipIf("ASAN_OPTIONS" in os.environ, "the sanitizer takes the addresses of the process sandbox")
    def test_in_a_process(self):
        self.check_script("process")

    @unittest.skipUnless(os.access("/dev/kvm", os.W_OK), "no KVM here")
    def test_in_a_microvm(self):
        self.check_script("microvm")

    def test_one_call(self):
        self.assertEqual(self.run_it(self.takes, *self.given, "--invoke", "run", "1").stdout, "i32:1684234849\n")

    def test_what_does_not_fit_is_refused(self):
        other = self.assemble("other", """(module (import "gives it" "global" (global i32)) (func (export "f")))""")
        for module, flags, words in (
                (self.takes, self.given[:2], "between.*/, and no module before it has that name"),
                (self.takes, ("--preload", f"between={self.gives}"), "which that one does not export"),
                (other, self.given, "which that one exports with another type"),
                (self.takes, (*self.given, *self.given), "two --preload are called gives it"),
                (self.takes, ("--preload", "between"), "is not NAME=FILE")):
            done = self.run_it(module, *flags, "--invoke", "run", "1")
            self.assertEqual(done.returncode, 64, done.stderr)
            self.assertIn(words, done.stderr)
        self.assertIn("--preload is for --invoke and --script", self.run_it(self.takes, *self.given).stderr)

    # Both isolations, both tiers: memory that grew in between, a start function that traps and what is left of it.
    STEPS = [
        ("in \"gives it\" instantiate", "ok"),
        ("in \"gives it\" invoke grow 1", "ok i32:1"),
        ("in \"gives it\" invoke load 65536", "ok i32:0"),
        ("invoke size", "error of this module nothing can be called: it is not instantiated yet"),
        ("in beyond instantiate", "ok"),
        ("in beyond invoke size", "ok i32:2"),
        ("in \"gives it\" invoke load 65536", "ok i32:1684234849"),
        ("instantiate", "trap unreachable"),
        ("in \"gives it\" invoke load 0", "ok i32:120"),
        ("invoke size", "error of this module nothing can be called: its instantiation has trapped"),
        ("instantiate", "error it was instantiated before"),
        ("in beyond invoke size", "ok i32:2"),
    ]
    # What was grown is as large as it is when it is imported.
    GROWN = [
        ("in \"gives it\" instantiate", "ok"),
        ("instantiate", "trap incompatible import type"),
    ]

    def check_steps(self, isolation):
        beyond = self.assemble("beyond", """(module (import "gives it" "memory" (memory 1)) (data (i32.const 65536) "abcd")
            (func (export "size") (result i32) memory.size))""")
        traps = self.assemble("traps-at-start", """(module (import "gives it" "memory" (memory 1)) (data (i32.const 0) "x")
            (func $start unreachable) (start $start) (func (export "size") (result i32) memory.size))""")
        given = ("--preload", f"gives it={self.gives}", "--preload", f"beyond={beyond}")
        for tier in "fast", "optimized":
            done = self.run_it(traps, *given, "--script", "-", "--tier", tier, "--isolation", isolation, script="".join(line + "\n" for line, _ in self.STEPS))
            self.assertEqual((done.returncode, done.stderr, done.stdout.splitlines()), (0, "", [answer for _, answer in self.STEPS]))
        wants = self.assemble("wants", """(module (import "gives it" "memory" (memory 2)) (func (export "size") (result i32) memory.size))""")
        grown = [self.GROWN[0], ("in \"gives it\" invoke grow 1", "ok i32:1"), ("instantiate", "ok"), ("invoke size", "ok i32:2")]
        for lines in self.GROWN, grown:
            done = self.run_it(wants, *given[:2], "--script", "-", "--isolation", isolation, script="".join(line + "\n" for line, _ in lines))
            self.assertEqual((done.returncode, done.stderr, done.stdout.splitlines()), (0, "", [answer for _, answer in lines]))
        done = self.run_it(wants, *given[:2], "--invoke", "size", "--isolation", isolation)
        self.assertEqual(done.returncode, 64)
        self.assertIn("is smaller than it wants", done.stderr)
        for script in "", "in \"gives it\" get global\n":
            done = self.run_it(traps, *given, "--script", "-", "--isolation", isolation, script=script)
            self.assertEqual((done.returncode, done.stdout), (70, ""))
            self.assertIn("trap: out of bounds memory access, while the module was instantiated", done.stderr)
        done = self.run_it(self.gives, "--script", "-", "-o", "json", script="# all else\n\ninstantiate\nget global\n")
        self.assertEqual(done.stdout, '{"line":3,"results":[]}\n{"line":4,"results":[{"type":"i32","value":"42"}]}\n')
        done = self.run_it(self.gives, "--script", "-", script="get global\ninstantiate\n")
        self.assertEqual(done.stdout, "ok i32:42\nerror all were instantiated before the first line, which was another one\n")

    @unittest.skipIf("ASAN_OPTIONS" in os.environ, "the sanitizer takes the addresses of the process sandbox")
    def test_by_lines_in_a_process(self):
        self.check_steps("process")

    @unittest.skipUnless(os.access("/dev/kvm", os.W_OK), "no KVM here")
    def test_by_lines_in_a_microvm(self):
        self.check_steps("microvm")

    def suite(self, text):
        file = pathlib.Path(self.folder.name) / "steps.wast"
        file.write_text(text)
        environment = dict(os.environ, BLIXARD_BUILD=str(BUILD))
        return subprocess.run([ROOT / "tools" / "wasm_suite", file], env=environment, text=True, capture_output=True, timeout=300)

    def test_the_suite_names_the_features_that_it_leaves_out(self):
        done = self.suite("""(module (func (export "f") (result i32) (i32x4.extract_lane 0 (v128.const i32x4 7 0 0 0))))
            (assert_return (invoke "f") (i32.const 7))""")
        self.assertEqual(done.stdout.splitlines()[-2:], ["left out: the module uses SIMD: 1", "0 passed, 0 failed, 1 left out"])
        self.assertEqual(done.returncode, 0)

    def test_the_suite_has_instances_where_the_file_has_them(self):
        done = self.suite("""(module $M (memory (export "m") 1 5) (func (export "grow") (result i32) (memory.grow (i32.const 1)))
              (func (export "load") (param i32) (result i32) (i32.load8_u (local.get 0))))
            (register "M" $M)
            (assert_return (invoke $M "grow") (i32.const 1))
            (module $N (memory (import "M" "m") 1) (data (i32.const 65536) "a") (func (export "size") (result i32) memory.size))
            (assert_return (invoke $N "size") (i32.const 2))
            (assert_return (invoke $M "load" (i32.const 65536)) (i32.const 97))
            (assert_trap (module (memory (import "M" "m") 1) (data (i32.const 0) "b") (func $s unreachable) (start $s)) "unreachable")
            (assert_return (invoke $M "load" (i32.const 0)) (i32.const 98))""")
        self.assertEqual(done.stdout.splitlines()[-1:], ["5 passed, 0 failed, 0 left out"], done.stdout + done.stderr)


if __name__ == "__main__":
    unittest.main()
