"""Our server beside node's own parser of HTTP (llhttp): the same bytes to both.

What we accept, node accepts too, with the same bodies in the same order.  Being stricter than node is
fine; being laxer, or seeing the end of a body elsewhere, is how requests are smuggled.
"""
import itertools
import os
import pathlib
import re
import shutil
import socket
import subprocess
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("BLIXARD_BUILD", ROOT / "build"))

NODE_SERVER = """
const server = require("http").createServer((request, response) => {
  const parts = [];
  request.on("data", (part) => parts.push(part));
  request.on("end", () => response.end(`@${request.method} ${Buffer.concat(parts).toString("hex")}@`));
});
server.httpAllowHalfOpen = true;
server.on("clientError", (error, socket) => setImmediate(() => socket.end()));
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
process.stdin.on("end", () => process.exit(0)).resume();
"""

FRAMING = [
    b"", b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Content-Length: 6\r\n", b"content-length:5\r\n",
    b"Content-Length: 05\r\n", b"Content-Length: +5\r\n", b"Content-Length: -5\r\n", b"Content-Length: 5,5\r\n",
    b"Content-Length: 5 5\r\n", b"Content-Length: 0x5\r\n", b"Content-Length:\r\n", b"Content-Length : 5\r\n",
    b"Content-Length:\r\n 5\r\n", b"Content-Length: 18446744073709551621\r\n", b"Content-Length: 5\x00\r\n",
    b"Content-Length:  5 \r\n", b"Content_Length: 5\r\n", b"Content-Length: 5\n", b"Content-Length: 5\r",
    b"Transfer-Encoding: chunked\r\n", b"transfer-encoding:CHUNKED\r\n", b"Transfer-Encoding: chunked, chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n", b"Transfer-Encoding: chunked, identity\r\n",
    b"Transfer-Encoding: identity\r\n", b"Transfer-Encoding:\r\n chunked\r\n", b"Transfer-Encoding : chunked\r\n",
    b"Transfer-Encoding: \x0bchunked\r\n", b"Transfer-Encoding: xchunked\r\n", b"Transfer-Encoding:\r\n",
    b"Transfer-Encoding\x00: chunked\r\n", b" Transfer-Encoding: chunked\r\n", b"X: y\r\n", b"X\r\n", b": y\r\n",
    b"X: a\rb\r\n", b"X: \x7f\r\n", b"X: \xff\r\n", b"X(: y\r\n",
]
BODIES = [b"hello", b"5\r\nhello\r\n0\r\n\r\n", b"0\r\n\r\n"]
CHUNKS = [
    b"5\r\nhello\r\n0\r\n\r\n", b"5;a=b\r\nhello\r\n0\r\n\r\n", b"5;a=\"b c\"\r\nhello\r\n0\r\n\r\n", b"05\r\nhello\r\n0\r\n\r\n",
    b"5 \r\nhello\r\n0\r\n\r\n", b" 5\r\nhello\r\n0\r\n\r\n", b"0x5\r\nhello\r\n0\r\n\r\n", b"+5\r\nhello\r\n0\r\n\r\n",
    b"5\nhello\r\n0\r\n\r\n", b"5\r\nhello\n0\r\n\r\n", b"5\r\nhello0\r\n\r\n", b"5\r\nhelloXX0\r\n\r\n",
    b"5\rhello\r\n0\r\n\r\n", b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n", b"5\r\nhello\r\n0\r\nA: b\r\n\r\n",
    b"5\r\nhello\r\n0\r\nA\r\n\r\n", b"5\r\nhello\r\n0\r\n A: b\r\n\r\n", b"5\r\nhello\r\n0\r\nA : b\r\n\r\n",
    b"5\r\nhello\r\n0\r\nA: b\n\r\n", b"5\r\nhello\r\n0\r\n\n", b"5\r\nhello\r\n\r\n", b";a\r\nhello\r\n0\r\n\r\n",
    b"5;\x01\r\nhello\r\n0\r\n\r\n", b"5;a\nhello\r\n0\r\n\r\n", b"a\r\n0123456789\r\nA\r\n0123456789\r\n00\r\n\r\n",
    b"5;;\r\nhello\r\n0\r\n\r\n", b"5;=\r\nhello\r\n0\r\n\r\n", b"5;a=\"\r\nhello\r\n0\r\n\r\n", b"5;\r\nhello\r\n0\r\n\r\n",
]
LINES = [
    b"GET / HTTP/1.1\r\n", b"\r\nGET / HTTP/1.1\r\n", b"\nGET / HTTP/1.1\r\n", b"GET / HTTP/1.0\r\n", b"GET / HTTP/1.1 \r\n",
    b"GET  / HTTP/1.1\r\n", b"GET /  HTTP/1.1\r\n", b"GET / HTTP/2.0\r\n", b"GET / HTTP/11\r\n", b"GET /\r\n",
    b"GET / http/1.1\r\n", b"GET /a b HTTP/1.1\r\n", b"GET /\x00 HTTP/1.1\r\n", b"GET /\x7f HTTP/1.1\r\n",
    b"GET / HTTP/1.1\n", b"GET / HTTP/1.1\r", b" GET / HTTP/1.1\r\n", b"GET\t/ HTTP/1.1\r\n", b"OPTIONS * HTTP/1.1\r\n",
    b"GET http://a/ HTTP/1.1\r\n", b"GET http://a?b HTTP/1.1\r\n", b"GET http://u@a/ HTTP/1.1\r\n", b"GET a HTTP/1.1\r\n",
    b"HEAD / HTTP/1.1\r\n", b"GET /#a HTTP/1.1\r\n", b"GET /\xc3\xa9 HTTP/1.1\r\n", b"G(T / HTTP/1.1\r\n",
]
HOSTS = [b"", b"Host: a\r\n", b"Host: a\r\nHost: a\r\n", b"Host:\r\n", b"Host: a b\r\n", b"Host: [::1]:8\r\n"]
# Node knows methods by name, we any token: beyond the first other one nothing is compared.
METHODS = (b"GET", b"HEAD", b"OPTIONS", b"POST")
AFTER = b"GET /after HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


def shapes():
    for number, (one, two) in enumerate(itertools.product(FRAMING, FRAMING)):
        for body in BODIES if not two else [BODIES[number % len(BODIES)]]:
            yield b"POST / HTTP/1.1\r\nHost: a\r\n" + one + two + b"\r\n" + body + AFTER
    for framing in FRAMING:
        yield b"POST / HTTP/1.0\r\n" + framing + b"\r\n" + BODIES[0] + AFTER
    for chunks in CHUNKS:
        yield b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + AFTER
    for line, host in itertools.product(LINES, HOSTS):
        yield line + host + b"\r\n" + AFTER


class Server:
    def __init__(self, command):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline())

    def understood(self, shape):
        """What it took for requests: [(method, body)], up to the first it refused."""
        heard = b""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as peer:
            try:
                peer.sendall(shape)
                peer.shutdown(socket.SHUT_WR)
                while part := peer.recv(65536):
                    heard += part
            except ConnectionError:
                pass  # refused in the middle: what was answered counts
        return re.findall(rb"@([A-Z]+) ([0-9a-f]*)@", heard)

    def stop(self):
        self.process.stdin.close()
        self.process.wait(timeout=30)
        self.process.stdout.close()


class HttpDifferential(unittest.TestCase):
    @unittest.skipUnless(shutil.which("node"), "node is not installed")
    def test_what_we_accept_node_accepts_with_the_same_bodies(self):
        ours = Server([BUILD / "test/integration/http-server"])
        theirs = Server(["node", "-e", NODE_SERVER])
        accepted = 0
        laxer = []
        try:
            for shape in shapes():
                we, they = ours.understood(shape), theirs.understood(shape)
                we = list(itertools.takewhile(lambda request: request[0] in METHODS, we))
                accepted += bool(we)
                if we != they[:len(we)]:
                    laxer.append((shape, we, they))
        finally:
            ours.stop()
            theirs.stop()
        self.assertGreater(accepted, 100)
        self.assertEqual(laxer, [], f"{len(laxer)} shapes: (bytes, our requests, node's)")
