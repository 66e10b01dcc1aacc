"""`fn optimize`: sizes and speed of a module on its way to code, of a file and of a function that is deployed."""
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

from node import BUILD, Node

PLAIN_ONLY = "the time goes to compilers"

# `unused` is called by nobody; with an input the program computes for a while, with "fail" it ends with status 3.
SOURCE = r"""
#include <stdio.h>
#include <string.h>

__attribute__((noinline, used)) static int unused(int value) { return value * 3; }

int main(void)
{
    char word[16] = "";
    volatile unsigned sum = 1;
    if (fgets(word, sizeof(word), stdin) == NULL || strcmp(word, "fail") == 0) {
        return 3;
    }
    for (unsigned i = 0; i < 300000; i++) {
        sum = sum * 1664525u + i;
    }
    printf("%u\n", sum);
    return 0;
}
"""


@unittest.skipIf(shutil.which("clang-14") is None or shutil.which("wasm2c") is None, "needs clang-14 and wabt")
class Optimize(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="blixard-optimize-")
        cls.addClassCleanup(folder.cleanup)
        cls.folder = pathlib.Path(folder.name)
        cls.folder.chmod(0o711)
        cls.module = cls.folder / "sum.wasm"
        (cls.folder / "sum.c").write_text(SOURCE)
        subprocess.run(["clang-14", "--target=wasm32-wasi", "-O1", "-g", "-o", cls.module, cls.folder / "sum.c"], check=True)

    def optimize(self, *words, env=None):
        return subprocess.run([BUILD / "blixard", "fn", "optimize", *map(str, words)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, timeout=120,
                              env={**os.environ, "XDG_CACHE_HOME": str(self.folder / "cache"), **(env or {})})

    def report(self, *words, env=None):
        done = self.optimize(*words, "--output", "json", env=env)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    @unittest.skipIf(shutil.which("wasm-opt") is None, "needs binaryen")
    def test_each_step_is_smaller(self):
        report = self.report(self.module, "--data", "x", "--calls", "3")
        stages = {row["stage"]: row for row in report["module"]}
        self.assertEqual(stages["as it is"]["bytes"], self.module.stat().st_size)
        self.assertLess(stages["without names"]["bytes"], stages["as it is"]["bytes"])
        self.assertLess(stages["optimized"]["bytes"], stages["without names"]["bytes"])
        self.assertLess(stages["optimized"]["functions"], stages["without names"]["functions"])
        fast, optimized = report["code"]
        self.assertEqual((fast["tier"], optimized["tier"], optimized["calls"]), ("fast", "optimized", 3))
        self.assertGreater(report["speedup"], 0)

    def test_a_call_that_fails_is_no_measure(self):
        report = self.report(self.module, "--data", "fail")
        self.assertEqual([row["problem"] for row in report["code"]], ["ended with status 3"] * 2)
        self.assertNotIn("speedup", report)
        self.assertIn("not measured: ended with status 3", self.optimize(self.module, "--data", "fail").stdout)

    def test_of_a_function_that_is_deployed(self):
        with Node() as node:
            node.deploy("sum", self.module)
            report = self.report("sum", "--data", "x", "--calls", "2", env={"BLIXARD_ADDR": node.env["BLIXARD_ADDR"]})
            self.assertEqual((report["name"], report["version"]), ("sum", 1))
            self.assertEqual(report["module"][0]["bytes"], self.module.stat().st_size)
            done = self.optimize("nothing", env={"BLIXARD_ADDR": node.env["BLIXARD_ADDR"]})
            self.assertEqual(done.returncode, 66, done.stderr)

    def test_what_cannot_be_meant_is_refused(self):
        for words in ((self.module, "--calls", "0"), (self.module, "--calls", "many"), (self.module, "--env", "X"),
                      (self.module, "--data", "x", "--file", self.module), (self.folder / "sum.c",)):
            done = self.optimize(*words)
            self.assertEqual((done.returncode, done.stdout), (64, ""), words)


if __name__ == "__main__":
    unittest.main()
