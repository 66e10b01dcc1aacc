"""The edges of WebAssembly's core specification, as assertions in its own script format: numbers, control, memory, tables, linking
and binaries, in both tiers.

test/fixtures/spec has the scripts; tools/wasm_suite runs them through `blixard fn run`.
"""
import os
import shutil
import subprocess
import unittest

from node import BUILD, ROOT

PLAIN_ONLY = "the time goes to compilers of modules that are valid, and to these"

SCRIPTS = sorted((ROOT / "test" / "fixtures" / "spec").glob("*.wast"))


@unittest.skipIf(shutil.which("wast2json") is None, "needs wabt")
class Specification(unittest.TestCase):
    def check(self, *flags):
        self.assertGreaterEqual(len(SCRIPTS), 6)
        done = subprocess.run([ROOT / "tools" / "wasm_suite", *flags, *SCRIPTS], capture_output=True, text=True, timeout=500,
                              env={**os.environ, "BLIXARD_BUILD": str(BUILD)})
        self.assertEqual(done.returncode, 0, done.stdout[-4000:] + done.stderr[-1000:])
        self.assertRegex(done.stdout.splitlines()[-1], r"^[1-9][0-9]{2} passed, 0 failed, 0 left out$")
        self.assertNotIn("not converted", done.stdout)

    def test_the_fast_tier(self):
        self.check("--tier", "fast")

    def test_the_optimized_tier(self):
        self.check("--tier", "optimized")
