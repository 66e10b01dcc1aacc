"""Compiled images on a node's disk: what no version needs goes when there is no room, and what is needed stays."""
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import threading
import time
import unittest

from node import BUILD, QUICK, ROOT, Node

SECONDS = 60
WRAPPERS = pathlib.Path("/usr/lib/ccache")  # where Debian has gcc as a link to ccache


class ImageCache(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="blixard-cache-")
        cls.addClassCleanup(folder.cleanup)
        cls.folder = pathlib.Path(folder.name)
        cls.modules = []
        for number in range(2):
            module = cls.folder / f"m{number}.wasm"
            source = cls.folder / f"m{number}.c"
            source.write_text('#include <stdio.h>\nint main(void) { puts("Content-Type: text/plain\\n\\nm%d"); }\n' % number)
            subprocess.run(["clang-14", "--target=wasm32-wasi", "-O1", "-o", module, source], check=True)
            cls.modules.append(module.read_bytes())

    def until(self, node, holds):
        end = time.monotonic() + SECONDS
        while not holds(seen := node.json("/v1/node")["image_cache"]):
            self.assertLess(time.monotonic(), end, seen)
            threading.Event().wait(0.05)
        return seen

    def blobs(self, node):
        return len([path for path in (node.folder / "images").glob("??/*")])

    def optimised(self, node, *names):
        end = time.monotonic() + SECONDS
        while any(node.json(f"/v1/functions/{name}")["version"]["tier"] != "optimized" for name in names):
            self.assertLess(time.monotonic(), end)
            threading.Event().wait(0.05)

    def test_other_sources_of_the_compiler_are_another_compiler(self):
        """What was compiled before one of them changed is not taken for what would be compiled now."""
        built = re.search(r'"([0-9a-f]{64})"', next(BUILD.rglob("wasm_sources.c")).read_text())[1]
        room = self.folder / "room"
        shutil.copytree(ROOT / "src" / "engine" / "wasm", room)
        sources = [*sorted(room.glob("*.c")), room / "imports.def"]

        def digest():
            subprocess.run([ROOT / "tools" / "digest", self.folder / "said.c", "said", *sources], check=True)
            return re.search(r'"([0-9a-f]{64})"', (self.folder / "said.c").read_text())[1]

        self.assertEqual(digest(), built)
        for source in sources:
            text = source.read_text()
            source.write_text(text + "\n")
            self.assertNotEqual(digest(), built, source)
            source.write_text(text)
        self.assertEqual(digest(), built)

    def test_what_is_in_use_stays_and_the_rest_goes(self):
        with tempfile.TemporaryDirectory(prefix="blixard-cache-") as data:
            with Node(data, arguments=("--image-cache-bytes-max", "1")) as node:
                for name, module in zip(("one", "two"), self.modules):
                    node.deploy(name, module)
                self.optimised(node, "one", "two")
                seen = self.until(node, lambda cache: cache["images"] == 2)
                self.assertEqual((seen["bytes_max"], seen["evictions"]), (1, 2))
                self.assertEqual(self.blobs(node), 4)  # with the modules
                self.assertEqual(re.search(r"^blixard_image_cache_evictions_total (\d+)", node.get("/metrics"), re.M)[1], "2")
                for name in ("one", "two"):
                    self.assertEqual(node.request("POST", f"/v1/functions/{name}/invocations", b"")[0], 200)
                self.assertRegex(node.cli("node", "show"), r"evicted +2\n")
                node.call("DELETE", "/v1/functions/two")
                self.until(node, lambda cache: cache["images"] == 1)
                pool = node.json("/v1/node")["pool"]
                self.assertEqual(pool["starts_warm"] + pool["starts_cold"], 2)
                self.assertEqual(pool["instances"], pool["busy"] + pool["ready"])
            with Node(data, arguments=("--image-cache-bytes-max", "1")) as node:
                self.assertEqual(node.invoke("one"), "m0\n")
                self.assertIn("blixard_compiles_total 0\n", node.get("/metrics"))  # from the code that was left
                self.assertEqual(node.json("/v1/functions/one")["version"]["tier"], "optimized")
                self.until(node, lambda cache: cache["images"] == 1)

    def test_code_stays_as_it_was_compiled_first_where_that_is_said(self):
        """Also when another node, which was asked later, has optimised it."""
        with Node(arguments=QUICK) as node, Node() as other:
            node.deploy("one", self.modules[0])
            other.deploy("one", self.modules[0])
            self.optimised(other, "one")
            self.assertEqual(node.json("/v1/functions/one")["version"]["tier"], "fast")
            self.assertIn("blixard_compiles_total 1\n", node.get("/metrics"))

    def test_there_is_room_for_all_by_default(self):
        with Node() as node:
            for name, module in zip(("one", "two"), self.modules):
                node.deploy(name, module)
            self.optimised(node, "one", "two")
            seen = self.until(node, lambda cache: cache["images"] == 4)
            self.assertEqual((seen["evictions"], self.blobs(node)), (0, 6))

    @unittest.skipUnless(WRAPPERS.is_dir(), "no ccache")
    def test_a_compiler_behind_ccache_compiles(self):
        with Node(env={"PATH": f"{WRAPPERS}:{os.environ['PATH']}"}) as node:
            node.deploy("one", self.modules[0])
            self.assertEqual(node.invoke("one"), "m0\n")


if __name__ == "__main__":
    unittest.main()
