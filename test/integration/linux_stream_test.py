"""Linux functions with Python and Node.js by the command line: answers in pieces, and what they may reach without a network."""
import http.client
import json
import os
import pathlib
import socket
import subprocess
import tempfile
import threading
import unittest

import machines
from machines import kernel_flags, root_with, why_not
from node import Node
from node_case import NodeCase
from web import Authority, Web

PLAIN_ONLY = "the time goes to guests that are emulated, and to QEMU"

PYTHON = """
import ssl
import urllib.error
import urllib.request

def handler(event, context):
    if "url" in event:
        try:
            with urllib.request.urlopen(event["url"], data=b"x" * event.get("sends", 0) or None, context=ssl._create_unverified_context()) as answer:
                body = answer.read()
                return {"status": answer.status, "length": len(body), "end": body[-20:].decode()}
        except (urllib.error.URLError, OSError) as error:
            return {"error": str(error)}
    if event.get("rawPath", "").startswith("/wait/"):
        return waiting(event["rawPath"])
    kind = event.get("rawPath", event.get("kind", "/plain"))
    if kind == "/plain":
        return {"statusCode": 200, "body": "whole"}
    return pieces(kind)

def waiting(path):
    yield "first\\n"
    with urllib.request.urlopen("http://127.0.0.1:" + path.split("/")[2]) as answer:
        yield answer.read()

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
NODE_FETCH = """
export async function handler(event) {
  if (event.never) {
    await new Promise(() => {});
  }
  try {
    const answer = await fetch(event.url);
    const body = await answer.text();
    return { status: answer.status, length: body.length, end: body.slice(-20) };
  } catch (error) {
    return { error: String(error.cause ?? error) };
  }
}
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


class Gate:
    """A server that answers one request when it is let."""

    def __init__(self):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.opened = threading.Event()
        self.asked = threading.Event()
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        with self.socket:
            connection, _ = self.socket.accept()
            with connection:
                connection.recv(65536)
                self.asked.set()
                self.opened.wait()
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nlast\n")


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


class Case(NodeCase):
    @classmethod
    def setUpClass(cls):
        cls.data = pathlib.Path(folder.name) / "data"
        cls.data.mkdir()
        cls.enterClassContext(machines.machines_of(cls.data))
        cls.node = Node(folder=cls.data)
        cls.addClassCleanup(lambda: cls.node.stop())
        cls.ok("image", "import", "languages", "--root", pathlib.Path(folder.name) / "root.tar", *kernel_flags())
        cls.web = Web()
        cls.other = Web()
        authority = Authority(pathlib.Path(folder.name), subprocess.run)
        cls.tls = Web(certificate=authority.certificate("good", "DNS:localhost,IP:127.0.0.1"))
        cls.gate = Gate()
        cls.host = socket.gethostname()
        cls.deployed = []
        reached = [f"http://127.0.0.1:{cls.web.port}", f"{cls.host}:{cls.web.port}", f"https://127.0.0.1:{cls.tls.port}",
                   f"127.0.0.1:{cls.gate.port}"]
        for name, file, code, allow in (("python", "app.py", PYTHON, reached), ("node", "app.mjs", NODE, ()),
                                        ("node-fetch", "app.mjs", NODE_FETCH, reached)):
            if any(name.split("-")[0] in program for program in programs):
                app = pathlib.Path(folder.name) / name
                app.mkdir()
                (app / file).write_text(code)
                (app / "blixard.yaml").write_text("runtime: linux\nimage: languages\nhandler: app.handler\nmemory: 384MiB\ntimeout: 100s\n")
                cls.ok("fn", "deploy", name, app, *[word for entry in allow for word in ("--allow", entry)])
                cls.deployed.append(name)

    def ask(self, name, path):
        """The answer, its body unread."""
        connection = http.client.HTTPConnection(self.node.gateway, timeout=200)
        self.addCleanup(connection.close)
        connection.request("GET", f"/fn/{name}{path}")
        return connection.getresponse()

    def test_an_answer_comes_in_pieces_with_its_status_and_fields(self):
        for name in set(self.deployed) & {"python", "node"}:
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
                    if answer.status != 502:  # on a busy machine the error may be there before the first piece has left
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

    @unittest.skipUnless(os.path.exists("/usr/bin/python3"), "no python3 of Debian")
    def test_the_first_piece_is_there_before_the_last_is_made(self):
        """The handler waits for a server that answers when the client has the first piece."""
        answer = self.ask("python", f"/wait/{self.gate.port}")
        self.assertEqual(answer.readline(), b"first\n")
        self.assertTrue(self.gate.asked.wait(60))
        self.gate.opened.set()
        self.assertEqual(answer.read(), b"last\n")

    def invoke(self, name, **event):
        return json.loads(self.ok("fn", "invoke", name, "--data", json.dumps(event)))

    @unittest.skipUnless(os.path.exists("/usr/bin/node"), "no node of Debian")
    def test_a_promise_that_nothing_can_settle_ends_its_call_with_a_word(self):
        done = self.run_cli("fn", "invoke", "node-fetch", "--data", json.dumps({"never": True}))
        self.assertNotEqual(done.returncode, 0, done.stdout)
        self.assertIn("Runtime.NodeJsExit: the handler waits for a promise", done.stderr)
        self.assertEqual(self.invoke("node-fetch", url=f"{self.web.url}/")["status"], 200, "the next call goes on")

    def test_what_is_on_the_list_is_reached_by_address_and_by_name(self):
        for name in set(self.deployed) & {"python", "node-fetch"}:
            with self.subTest(name):
                self.assertEqual(self.invoke(name, url=f"{self.web.url}/big?n=3000000")["length"], 3000000)
                try:
                    socket.gethostbyname(self.host)
                except OSError:
                    continue
                if socket.gethostbyname(self.host) == "127.0.0.1":
                    self.assertEqual(self.invoke(name, url=f"http://{self.host}:{self.web.port}/")["status"], 200)
        if "python" in self.deployed:
            self.assertEqual(self.invoke("python", url=f"{self.tls.url}/")["status"], 200)
            self.assertEqual(self.invoke("python", url=f"{self.web.url}/", sends=2000000)["status"], 200)

    def test_what_is_not_on_the_list_is_not_reached_and_the_logs_say_why(self):
        for name in set(self.deployed) & {"python", "node-fetch"}:
            with self.subTest(name):
                before = len(self.other.seen)
                for url in (f"{self.other.url}/", "http://nobody.example/", "http://169.254.169.254/latest", "http://10.0.0.1/"):
                    done = self.run_cli("fn", "invoke", name, "--data", json.dumps({"url": url}))
                    # the fetch() of Node.js forgets, once in a hundred, who waits for a connection that is reset as it begins
                    self.assertIn("error" if done.returncode == 0 else "Runtime.NodeJsExit", done.stdout + done.stderr)
                self.assertEqual(len(self.other.seen), before)
                self.assertTrue(any("connecting to nobody.example:80: not_allowed" in self.ok("fn", "logs", name) for _ in range(200)))


if __name__ == "__main__":
    unittest.main()
