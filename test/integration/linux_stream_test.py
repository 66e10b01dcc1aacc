"""Linux functions with Python and Node.js by the command line: answers in pieces, and what may be fetched through the agent's proxy."""
import http.client
import json
import os
import pathlib
import subprocess
import tempfile
import unittest

import machines
from machines import kernel_flags, root_with, why_not
from node import BUILD, Node

PYTHON = """
def handler(event, context):
    kind = event.get("rawPath", event.get("kind", "/plain"))
    if kind == "/plain":
        return {"statusCode": 200, "body": "whole"}
    return pieces(kind)

def pieces(kind):
    if kind == "/text":
        yield "no prelude"
        return
    yield {"statusCode": 202, "headers": {"x-a": "1"}, "cookies": ["a=b"]}
    yield "first\\n"
    if kind == "/broken":
        yield b"." * 300000
        raise ValueError("in the middle")
    for number in range(40):
        yield bytes([97 + number % 26]) * 65536
"""
NODE = """
export const handler = awslambda.streamifyResponse(async (event, stream, context) => {
  stream = awslambda.HttpResponseStream.from(stream, { statusCode: 202, headers: { "x-a": "1" }, cookies: ["a=b"] });
  stream.write("first\\n");
  if (event.rawPath === "/broken") {
    stream.write(".".repeat(300000));
    throw new TypeError("in the middle");
  }
  for (let i = 0; i < 40; i++) {
    stream.write(String.fromCharCode(97 + i % 26).repeat(65536));
  }
  stream.end();
});
"""
WHOLE = b"first\n" + b"".join(bytes([97 + number % 26]) * 65536 for number in range(40))


def setUpModule():
    global folder, programs
    reason = why_not()
    programs = [path for path in ("/usr/bin/python3", "/usr/bin/node") if os.path.exists(path)]
    if reason or not programs:
        raise unittest.SkipTest(reason or "there is neither python3 nor node of Debian")
    folder = tempfile.TemporaryDirectory(prefix="blixard-linux-streams-")
    (pathlib.Path(folder.name) / "root.tar").write_bytes(root_with(*programs))


def tearDownModule():
    folder.cleanup()


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.data = pathlib.Path(folder.name) / "data"
        cls.data.mkdir()
        cls.enterClassContext(machines.machines_of(cls.data))
        cls.node = Node(folder=cls.data)
        cls.addClassCleanup(lambda: cls.node.stop())
        cls.ok("image", "import", "languages", "--root", pathlib.Path(folder.name) / "root.tar", *kernel_flags())
        cls.deployed = []
        for name, file, code in (("python", "app.py", PYTHON), ("node", "app.mjs", NODE)):
            if any(name in program for program in programs):
                app = pathlib.Path(folder.name) / name
                app.mkdir()
                (app / file).write_text(code)
                (app / "blixard.yaml").write_text("runtime: linux\nimage: languages\nhandler: app.handler\nmemory: 384MiB\ntimeout: 100s\n")
                cls.ok("fn", "deploy", name, app)
                cls.deployed.append(name)

    @classmethod
    def run_cli(cls, *words):
        return subprocess.run([BUILD / "blixard", *map(str, words)], env=cls.node.env, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=500)

    @classmethod
    def ok(cls, *words):
        done = cls.run_cli(*words)
        assert done.returncode == 0, f"{words}: {done.stderr}{done.stdout}\n{cls.node.log.read_text()[-3000:]}"
        return done.stdout

    def ask(self, name, path):
        """The answer, its body unread."""
        connection = http.client.HTTPConnection(self.node.gateway, timeout=200)
        self.addCleanup(connection.close)
        connection.request("GET", f"/fn/{name}{path}")
        return connection.getresponse()

    def test_an_answer_comes_in_pieces_with_its_status_and_fields(self):
        for name in self.deployed:
            with self.subTest(name):
                answer = self.ask(name, "/big")
                self.assertEqual((answer.status, answer.headers["x-a"], answer.headers["set-cookie"]), (202, "1", "a=b"))
                self.assertIsNone(answer.headers["content-length"])
                self.assertEqual(answer.read(), WHOLE)

    def test_an_error_in_the_middle_breaks_the_answer_off_and_is_in_the_logs(self):
        for name, words in (("python", "ValueError: in the middle"), ("node", "TypeError: in the middle")):
            if name in self.deployed:
                with self.subTest(name):
                    answer = self.ask(name, "/broken")
                    self.assertEqual(answer.status, 202)
                    with self.assertRaises(http.client.IncompleteRead):
                        answer.read()
                    self.assertTrue(any(words in self.ok("fn", "logs", name) for _ in range(200)), "the line comes in a moment")

    @unittest.skipUnless(os.path.exists("/usr/bin/python3"), "no python3 of Debian")
    def test_pieces_without_a_prelude_are_bytes_and_others_are_whole(self):
        answer = self.ask("python", "/text")
        self.assertEqual((answer.status, answer.headers["content-type"], answer.read()), (200, "application/octet-stream", b"no prelude"))
        answer = self.ask("python", "/plain")
        self.assertEqual((answer.status, answer.read()), (200, b"whole"))
        self.assertEqual(self.ok("fn", "invoke", "python", "--data", json.dumps({"kind": "/text"})), "no prelude")


if __name__ == "__main__":
    unittest.main()
