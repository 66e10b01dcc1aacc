"""`fn deploy` tells a terminal what is being done, and nobody else."""
import os
import pathlib
import pty
import shutil
import subprocess
import tempfile
import unittest

from node import BUILD, Node

ARGUMENTS = [] if "ASAN_OPTIONS" in os.environ else ["--isolation", "process"]  # what the sanitizer leaves
FUNCTIONS = 4000  # wasm2c takes its time for so many: longer than the second after which something is shown


@unittest.skipIf(shutil.which("wat2wasm") is None, "needs wabt")
class Progress(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="blixard-progress-")))
        cls.node = cls.enterClassContext(Node(arguments=ARGUMENTS))

    def assemble(self, number):
        source, module = self.folder / "source.wat", self.folder / "module.wasm"
        functions = "".join(f'(func (export "f{i}") (result i32) (i32.const {i + number}))' for i in range(FUNCTIONS))
        source.write_text(f'(module (memory (export "memory") 1) {functions} (func (export "_start")))')
        subprocess.run(["wat2wasm", "-o", module, source], check=True)
        return module

    def test_a_terminal(self):
        control, terminal = pty.openpty()
        self.addCleanup(os.close, control)
        with subprocess.Popen([BUILD / "blixard", "fn", "deploy", "seen", self.assemble(0)], stdout=subprocess.PIPE, stderr=terminal, text=True,
                              env=self.node.env) as deploy:
            os.close(terminal)
            said = b""
            try:
                while part := os.read(control, 4096):
                    said += part
            except OSError:  # its last user has gone
                pass
            self.assertRegex(deploy.stdout.read(), r"^seen version 1 is live after [0-9.]+ s \(fast tier\)\nhttp://")
        self.assertEqual(deploy.returncode, 0)
        self.assertRegex(said, rb"\r\x1b\[K [0-9]{2}% fast tier: (translating the module|compiling), [0-9]+ s")
        self.assertTrue(said.endswith(b"\r\x1b[K"), said)

    def test_no_terminal(self):
        done = subprocess.run([BUILD / "blixard", "fn", "deploy", "unseen", self.assemble(1)], capture_output=True, text=True, env=self.node.env)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertRegex(done.stdout, r"^unseen version 1 is live after [0-9.]+ s \(fast tier\)\nhttp://[^\n]+\n$")


if __name__ == "__main__":
    unittest.main()
