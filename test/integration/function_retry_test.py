"""A version that could not be made callable on a node that is alone gets another chance when what it lacked is there."""
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import time
import unittest

from node import Node

WAIT_S = 60
ARGUMENTS = [] if "ASAN_OPTIONS" in os.environ else ["--isolation", "process"]  # what the sanitizer leaves


@unittest.skipIf(shutil.which("wat2wasm") is None, "needs wabt")
class Retry(unittest.TestCase):
    def test_a_module_that_is_uploaded_again(self):
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="blixard-retry-")))
        source, module, data = folder / "one.wat", folder / "one.wasm", folder / "data"
        source.write_text('(module (memory (export "memory") 1) (func (export "_start")))')
        subprocess.run(["wat2wasm", "-o", module, source], check=True)
        data.mkdir()
        node = Node(folder=data, arguments=ARGUMENTS)
        try:
            node.deploy("one", module)
            self.assertEqual(node.invoke("one"), "")
            digest = node.json("/v1/functions/one")["version"]["module"]
        finally:
            node.stop()
        for file in [path for path in (data / "images").rglob("*") if path.is_file() and digest in path.name]:
            file.unlink()
        shutil.rmtree(data / "build")
        node = Node(folder=data, arguments=ARGUMENTS)
        try:
            status, body, _ = node.request("POST", "/v1/functions/one/invocations", b"")
            self.assertEqual(status, 503, body)
            self.assertIn("could not be built on this node", json.loads(body)["detail"])
            self.assertEqual(node.upload(module), digest)
            deadline = time.monotonic() + WAIT_S
            while status != 200 and time.monotonic() < deadline:
                status, body, _ = node.request("POST", "/v1/functions/one/invocations", b"")
            self.assertEqual((status, body), (200, b""))
        finally:
            node.stop()


if __name__ == "__main__":
    unittest.main()
