"""Functions of flakes: pinned, compared with a second build, and not compiled where a binary cache has them."""
import pathlib
import shutil
import tempfile
import unittest

from nixstores import Stores
from node import BUILD, Node

PLAIN_ONLY = "the time goes to compilers"

WAT = """(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\\10\\00\\00\\00\\06\\00\\00\\00")
  (data (i32.const 16) "%s\\n")
  (func (export "_start") (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))
"""
FLAKE = """{
  inputs.source = { url = "path:%(source)s"; flake = false; };
  outputs = { self, source }:
    let make = name: more: derivation {
          inherit name source; system = "x86_64-linux"; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
          args = [ "-c" "mkdir $out; wat2wasm $source/hello.wat -o $out/${name}.wasm; echo ${name} >>%(log)s; ${more}" ];
        };
    in { packages.x86_64-linux = {
      hello = make "hello" "true";
      dice = make "dice" "cat /proc/sys/kernel/random/uuid >$out/number";
      empty = make "empty" "rm $out/*.wasm";
    }; };
}
"""


class Functions(unittest.TestCase):
    def setUp(self):
        if shutil.which("wat2wasm") is None:
            self.skipTest("needs wabt")
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="blx-flake-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.stores = Stores(self.folder)
        self.source, self.flake, self.log = self.folder / "source", self.folder / "flake", self.folder / "built"
        self.source.mkdir()
        self.flake.mkdir()
        (self.source / "hello.wat").write_text(WAT % "hello")
        (self.flake / "flake.nix").write_text(FLAKE % {"source": self.source, "log": self.log})
        self.node = Node()
        self.addCleanup(self.node.stop)

    def cli(self, store, *words, check=True, config=""):
        env = [f"{name}={value}" for name, value in self.node.env.items() if name.startswith("BLIXARD")]
        return store.run("env", *env, f"HOME={self.folder}", f"NIX_CONFIG={config}", BUILD / "blixard", *words, check=check)

    def refused(self, *words):
        done = self.cli(*words, check=False)
        self.assertNotEqual(done.returncode, 0, done.stdout)
        return done.stderr

    def refused_document(self, store, package):
        document = self.folder / "flake" / "refused.yaml"
        document.write_text(f"kind: Function\nname: refused\nspec: {{flake: '.#{package}'}}\n")
        return self.refused(store, "plan", "-f", document)

    def builds(self):
        return self.log.read_text().split() if self.log.exists() else []

    def test_a_function_is_built_by_nix_as_its_lock_file_says(self):
        one = self.stores.new("one")
        flake = f"path:{self.flake}"
        self.assertIn("nix flake lock", self.refused(one, "fn", "deploy", "--flake", f"{flake}#hello"))
        one.run("env", f"HOME={self.folder}", "nix", "flake", "lock", flake)
        self.cli(one, "fn", "deploy", "--flake", f"{flake}#hello", "--twice")
        self.assertEqual(self.node.invoke("hello"), "hello\n")
        self.assertEqual(self.builds(), ["hello", "hello"], "built, and built once more to compare")
        self.cli(one, "fn", "deploy", "again", "--flake", f"{flake}#packages.x86_64-linux.hello", "--memory", "64MiB")
        self.assertEqual(self.node.invoke("again"), "hello\n")
        self.assertEqual(len(self.builds()), 2, "what is there is not built again")

        # A document says the same, and what is there is as it says.
        document = self.folder / "flake" / "hello.yaml"
        document.write_text(f"kind: Function\nname: hello\nspec:\n  flake: {flake}#hello\n")
        planned = self.cli(one, "plan", "-f", document)
        self.assertIn("No changes", planned)
        document.write_text(f"kind: Function\nname: written\nspec:\n  flake: .#hello\n  memory: 64MiB\n")
        self.cli(one, "apply", "-f", document)
        self.assertEqual(self.node.invoke("written"), "hello\n")
        self.assertEqual(self.node.json("/v1/functions/written")["version"]["flake"], ".#hello")

        # A source that is not the one of the lock file is not taken.
        kept = self.source.rename(self.folder / "kept")
        self.source.mkdir()
        (self.source / "hello.wat").write_text(WAT % "other")
        two = self.stores.new("two")
        self.assertIn("mismatch", self.refused(two, "fn", "deploy", "--flake", f"{flake}#hello"))
        shutil.rmtree(self.source)
        kept.rename(self.source)

        # A binary cache has it: nothing is compiled.
        cache = f"file://{self.folder}/cache"
        path = one.run("env", f"HOME={self.folder}", "nix", "build", "--no-link", "--json", f"{flake}#hello").split('"out":"')[1].split('"')[0]
        one.run("nix", "copy", "--to", cache, path)
        self.cli(two, "fn", "deploy", "third", "--flake", f"{flake}#hello", config=f"substituters = {cache}\nrequire-sigs = false")
        self.assertEqual(self.node.invoke("third"), "hello\n")
        self.assertEqual(len(self.builds()), 2)
        self.assertTrue(two.has(path))

    def test_what_differs_is_not_deployed(self):
        one = self.stores.new("one")
        flake = f"path:{self.flake}"
        one.run("env", f"HOME={self.folder}", "nix", "flake", "lock", flake)
        self.assertIn("deterministic", self.refused(one, "fn", "deploy", "--flake", f"{flake}#dice", "--twice"))
        self.assertIn("holds no empty.wasm", self.refused(one, "fn", "deploy", "--flake", f"{flake}#empty"))
        self.assertIn("holds no empty.wasm", self.refused_document(one, "empty"))
        self.assertIn("is not REFERENCE#PACKAGE", self.refused(one, "fn", "deploy", "--flake", flake))
        self.assertIn("--twice is for --flake", self.refused(one, "fn", "deploy", "hello", "hello.wasm", "--twice"))
        self.assertEqual(self.node.json("/v1/functions")["functions"], [])


if __name__ == "__main__":
    unittest.main()
