"""Random modules do in `fn run` what they do in V8: results, traps, and what is in memory, globals and tables after each call.

BLIXARD_WASM_SEEDS=1000-1400 takes other modules than the few of each run; BLIXARD_WASM_TIER=optimized and BLIXARD_WASM_ISOLATION=microvm
say how they run.
"""
import concurrent.futures
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

import wasm_random
from node import BUILD
from wasm_v8 import in_v8

NAMES = {wasm_random.I32: "i32", wasm_random.I64: "i64", wasm_random.FUNCREF: "funcref", wasm_random.EXTERNREF: "externref"}
# What V8 has one name for.
NAME_IN_V8 = {"invalid conversion to integer": "conversion", "out of bounds table access": "table", "undefined element": "table",
              "uninitialized element": "call", "indirect call type mismatch": "call"}


def is_same(got, wanted):
    if got.startswith("trap "):
        name = NAME_IN_V8.get(got[5:], got[5:])
        return wanted == f"trap {name}" or (wanted == "trap conversion" and name == "integer overflow")
    return got == wanted


@unittest.skipIf(shutil.which("node") is None or shutil.which("wasm2c") is None, "needs nodejs and wabt")
class Random(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory(prefix="blixard-random-")
        cls.folder = pathlib.Path(cls.temporary.name)
        cls.folder.chmod(0o711)

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def run_here(self, module, script, *flags):
        return subprocess.run([BUILD / "blixard", "fn", "run", module, "--script", "-", "--timeout", "60s", *flags], input="\n".join(script),
                              text=True, capture_output=True, timeout=120, env={**os.environ, "XDG_CACHE_HOME": str(self.folder / "cache")})

    def make(self, seed):
        """A module's file, its script, and what V8 is asked for the same."""
        module = wasm_random.Module(seed)
        path = self.folder / f"{seed}.wasm"
        path.write_bytes(module.encode())
        script = module.script()
        calls = []
        for line in script:
            _, name, *values = line.split()
            calls.append([name, *([NAMES[kind] for kind in kinds] for kinds in module.exported(name)), values])
        return path, script, {"module": str(path), "calls": calls}

    def compare(self, seeds, *flags):
        made = [self.make(seed) for seed in seeds]
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            ends = list(pool.map(lambda one: self.run_here(one[0], one[1], *flags), made))
        for seed, (_, script, _), wanted, done in zip(seeds, made, in_v8([question for _, _, question in made]), ends):
            with self.subTest(seed=seed, flags=flags):
                self.assertIsInstance(wanted, list)
                self.assertEqual(done.returncode, 0, done.stderr)
                got = done.stdout.splitlines()
                self.assertEqual(len(got), len(wanted))
                wrong = [(line, is_now, is_meant) for line, is_now, is_meant in zip(script, got, wanted) if not is_same(is_now, is_meant)]
                self.assertEqual(wrong[:1], [])

    def compare_in_a_process(self, seeds, tier):
        if "ASAN_OPTIONS" in os.environ:
            self.skipTest("the sanitizer takes the addresses of the process sandbox")
        self.compare(seeds, "--isolation", "process", "--tier", tier)

    def test_fast(self):
        self.compare_in_a_process(range(40), "fast")

    def test_optimized(self):
        """16 and 33 trap between stores that a compiler would have moved; 23 and 35 where wasm-opt would take another trap."""
        self.compare_in_a_process([16, 23, 33, 35], "optimized")

    @unittest.skipUnless(os.access("/dev/kvm", os.W_OK), "no KVM here")
    def test_in_a_microvm(self):
        self.compare(range(50, 58), "--isolation", "microvm", "--tier", "fast")

    @unittest.skipUnless("BLIXARD_WASM_SEEDS" in os.environ, "by hand")
    def test_others(self):
        first, _, last = os.environ["BLIXARD_WASM_SEEDS"].partition("-")
        self.compare(range(int(first), int(last or int(first) + 1)), "--tier", os.environ.get("BLIXARD_WASM_TIER", "fast"),
                     "--isolation", os.environ.get("BLIXARD_WASM_ISOLATION", "process"))
