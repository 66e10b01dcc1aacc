"""WebSocket at the gateway: what clients say in frames a function hears as messages, and the other way round."""
import base64
import contextlib
import hashlib
import os
import pathlib
import shutil
import socket
import ssl
import struct
import subprocess
import tempfile
import time
import unittest

from node import ROOT, Node
from websocket import BINARY, CLOSE, DEFLATE, FIN, MASK, PACKED, PING, PONG, TEXT, WAIT_SECONDS, Client, frame, pack

# Over HTTP/2, by node: a frame there and back, and the end.
OVER_HTTP2 = """
const session = require('http2').connect(process.argv[2]);
session.once('remoteSettings', (settings) => {
  if (!settings.enableConnectProtocol) { console.log('not offered'); process.exit(1); }
  const stream = session.request({':method': 'CONNECT', ':protocol': process.argv[4] || 'websocket', ':scheme': 'http', ':path': process.argv[3],
    ':authority': 'localhost', 'sec-websocket-version': '13', 'sec-websocket-protocol': 'chat.v1'});
  let heard = Buffer.alloc(0);
  stream.on('response', (head) => {
    console.log(head[':status'], head['sec-websocket-protocol'] || '-', head['sec-websocket-accept'] || '-');
    if (head[':status'] !== 200) { stream.resume(); return; }
    for (const word of ['hello', 'who', 'close'])
      stream.write(Buffer.concat([Buffer.from([0x81, 0x80 | word.length, 0, 0, 0, 0]), Buffer.from(word)]));
  });
  stream.on('data', (bytes) => { heard = Buffer.concat([heard, bytes]); });
  stream.on('close', () => {
    for (let at = 0; at < heard.length; at += 2 + heard[at + 1])
      console.log(heard[at] & 15, heard.subarray(at + ((heard[at] & 15) === 8 ? 4 : 2), at + 2 + heard[at + 1]).toString());
    session.close();
  });
});
"""
SYSTEM_PYTHON = "/usr/bin/python3"  # has Debian's python3-websockets
HAS_CLIENT = subprocess.run([SYSTEM_PYTHON, "-c", "import websockets"], stderr=subprocess.DEVNULL).returncode == 0

CLIENT = """
import asyncio, ssl, sys, websockets
async def main(url, authority):
    context = ssl.create_default_context(cafile=authority) if url.startswith("wss") else None
    async with websockets.connect(url, ssl=context, max_size=None, compression="deflate") as socket:
        for message in ("hello", "", "\\u00e4\\U0001f600", b"", b"\\0\\xff", "x" * 125, "x" * 126, "x" * 65536, b"y" * (1 << 20), "who"):
            await socket.send(message)
            answer = await socket.recv()
            assert answer == (message if message != "who" else "/chat/room1"), (message[:20], answer[:20])
        await socket.send(["one", " ", "message"])  # in fragments
        assert await socket.recv() == "one message"
        assert await asyncio.wait_for(await socket.ping(), 20) is not None or True
        await asyncio.gather(*(socket.send(str(i)) for i in range(1000)))
        assert [await socket.recv() for _ in range(1000)] == [str(i) for i in range(1000)]
        await socket.send("close")
        try:
            await socket.recv()
        except websockets.ConnectionClosed as error:
            assert (error.rcvd.code, error.rcvd.reason) == (4001, "as you say"), error
        else:
            raise AssertionError("it is open")
    async with websockets.connect(url, ssl=context) as socket:
        await socket.send("end")
        try:
            await socket.recv()
        except websockets.ConnectionClosedOK as error:
            assert error.rcvd.code == 1000, error
    print("all is well")
asyncio.run(main(*sys.argv[1:]))
"""


def setUpModule():
    global folder, module
    folder = tempfile.TemporaryDirectory(prefix="blixard-websocket-")
    unittest.addModuleCleanup(folder.cleanup)
    module = pathlib.Path(folder.name) / "socket.wasm"
    subprocess.run(["clang-14", "--target=wasm32-wasi", "-O1", "-mexec-model=reactor", "-I", ROOT / "sdk/c", "-o", module,
                    ROOT / "test/guests/socket.c"], check=True)


class Claims:
    arguments = ()

    @classmethod
    def setUpClass(cls):
        root = pathlib.Path(folder.name)
        cls.pem, cls.key = root / f"{cls.__name__}.pem", root / f"{cls.__name__}.key"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", cls.key, "-out",
                        cls.pem, "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"], check=True,
                       stderr=subprocess.DEVNULL)
        cls.node = Node(arguments=("--gateway-tls-address", "127.0.0.1:0", "--gateway-tls-certificate", str(cls.pem), "--gateway-tls-key",
                                   str(cls.key), *cls.arguments))
        cls.addClassCleanup(cls.node.stop)
        cls.node.deploy("chat", module, timeout_ms=120000, output_bytes_max=256 << 20)
        cls.node.cli("route", "set", "chat", "-f", "chat", "-p", "/chat/{room}", "--websocket")
        cls.node.cli("route", "set", "small", "-f", "chat", "-p", "/small", "--websocket", "--body-max", "100")
        cls.node.cli("route", "set", "site", "-f", "chat", "-p", "/site", "--websocket", "--cors", "https://app.example.org")
        cls.node.cli("route", "set", "spoken", "-f", "chat", "-p", "/spoken", "--websocket", "--subprotocol", "chat.v2,chat.v1")
        cls.secure = cls.node.said.split("https://")[1].split("/")[0]

    def setUp(self):
        self.node.cli("kv", "set", "socket", "nothing")
        self.until_busy(0)

    def until_busy(self, count):
        ends = time.monotonic() + WAIT_SECONDS
        while self.metric("blixard_instances_busy") != count:
            self.assertLess(time.monotonic(), ends, "a call goes on, or does not begin")

    def metric(self, name):
        return int(next(line.split()[1] for line in self.node.get("/metrics").splitlines() if line.startswith(name + " ")))

    def until_noted(self, text):
        ends = time.monotonic() + WAIT_SECONDS
        noted = None
        while noted != text:
            self.assertLess(time.monotonic(), ends, f"{noted} is not {text}")
            noted = self.node.cli("kv", "get", "socket").rstrip()

    @contextlib.contextmanager
    def client(self, path="/chat/room", fields=(), **more):
        client = Client(self.node.gateway, path, fields, **more)
        try:
            yield client
        finally:
            client.close()

    # ---- The handshake ----

    def test_the_handshake_is_that_of_the_rfc(self):
        with self.client() as client:
            self.assertEqual(client.status, 101)
            accept = base64.b64encode(hashlib.sha1(Client.KEY + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()).decode()
            self.assertEqual(client.fields["sec-websocket-accept"], accept)
            self.assertEqual((client.fields["upgrade"].lower(), client.fields["connection"].lower()), ("websocket", "upgrade"))
            self.assertNotIn("sec-websocket-extensions", client.fields)
            self.assertNotIn("content-length", client.fields)
            client.send(frame(TEXT, b"who"))
            self.assertEqual(client.receive(), (TEXT, b"/chat/room1"))

    def test_what_is_no_handshake_is_refused(self):
        for fields, status in (({"Upgrade": None}, 426), ({"Connection": None}, 426), ({"Connection": "close"}, 426), ({"Upgrade": "h2c"}, 426),
                               ({"Sec-WebSocket-Version": "8"}, 426), ({"Sec-WebSocket-Version": None}, 426), ({"Sec-WebSocket-Key": None}, 400),
                               ({"Sec-WebSocket-Key": "AAAA"}, 400), ({"Sec-WebSocket-Key": "A" * 24}, 400), ({"Content-Length": "3"}, 426)):
            with self.client(fields=fields) as client:
                self.assertEqual(client.status, status, fields)
                if status == 426:
                    self.assertEqual((client.fields["sec-websocket-version"], client.fields["upgrade"]), ("13", "websocket"))
        for origin, status in (("https://evil.example", 403), ("https://app.example.org", 101), (None, 101)):
            with self.client("/site", {"Origin": origin}) as client:
                self.assertEqual(client.status, status, origin)
        done = subprocess.run(["curl", "-sS", "--http2-prior-knowledge", "-o", "/dev/null", "-w", "%{http_code}",
                               f"http://{self.node.gateway}/chat/x"], capture_output=True, text=True, timeout=WAIT_SECONDS)
        self.assertEqual(done.stdout, "426")

    def test_a_subprotocol_of_the_route_s_is_chosen(self):
        for offered, chosen in (("chat.v1, chat.v2", "chat.v1"), ("other,chat.v2", "chat.v2"), ("other", None), (None, None)):
            with self.client("/spoken", {"Sec-WebSocket-Protocol": offered}) as client:
                self.assertEqual((client.status, client.fields.get("sec-websocket-protocol")), (101, chosen))
                client.send(frame(TEXT, b"protocol"))
                self.assertEqual(client.receive(), (TEXT, (chosen or "").encode()))

    # ---- Messages that are packed ----

    def test_messages_are_packed_where_it_is_agreed_upon(self):
        for offer, agreed in (("permessage-deflate", DEFLATE), ("permessage-deflate; client_max_window_bits", DEFLATE), ("x, permessage-deflate", DEFLATE),
                              ("permessage-deflate; server_max_window_bits=12", DEFLATE + "; server_max_window_bits=12"),
                              ("permessage-deflate; server_max_window_bits=8, permessage-deflate", DEFLATE),
                              ("permessage-deflate; server_max_window_bits=8", None), ("permessage-deflate; what", None),
                              ("permessage-deflate; client_max_window_bits=7", None), ("x-webkit-deflate-frame", None)):
            with self.client(fields={"Sec-WebSocket-Extensions": offer}) as client:
                self.assertEqual((client.status, client.fields.get("sec-websocket-extensions")), (101, agreed), offer)
        long = b"all work and no play " * 5000
        with self.client(fields={"Sec-WebSocket-Extensions": "permessage-deflate"}) as client:
            for _ in range(3):  # each for itself
                client.send(frame(TEXT, pack(long), first=PACKED))
                self.assertEqual(client.receive(packed=True), (TEXT, long))
            parts = pack(long)
            client.send(frame(BINARY, parts[:7], first=PACKED, fin=False), frame(PING, b"now"), frame(0, parts[7:]))
            self.assertEqual(client.receive(), (PONG, b"now"))
            self.assertEqual(client.receive(packed=True), (BINARY, long))
            client.send(frame(TEXT, b"short"), frame(TEXT, pack(b""), first=PACKED))
            self.assertEqual([client.receive(), client.receive()], [(TEXT, b"short"), (TEXT, b"")])
            noise = os.urandom(1 << 20)
            client.send(frame(BINARY, pack(noise), first=PACKED))
            self.assertEqual(client.receive(), (BINARY, noise))  # it would not get smaller

    def test_what_is_packed_wrongly_fails_the_connection(self):
        bomb = pack(b"\0" * (64 << 20))
        for code, frames in ((1009, frame(BINARY, bomb, first=PACKED)), (1002, frame(TEXT, b"\xff\xff\xff", first=PACKED)),
                             (1007, frame(TEXT, pack(b"\xff" * 99), first=PACKED)), (1002, frame(PING, b"x", first=PACKED)),
                             (1002, frame(TEXT, b"x", fin=False) + frame(0, b"y", first=PACKED)), (1002, frame(TEXT, b"x", first=0x20)),
                             (1009, frame(BINARY, b"\x03\0" * 200000 + pack(b"x" * (1 << 21)), first=PACKED))):
            with self.client(fields={"Sec-WebSocket-Extensions": "permessage-deflate"}) as client:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    client.send(frames)
                self.assertEqual(client.closed()[0], code, frames[:20])

    # ---- Over HTTP/2 (RFC 8441) ----

    @unittest.skipUnless(shutil.which("node"), "needs node")
    def test_a_stream_of_http2_is_a_websocket(self):
        def by_node(path, *more):
            done = subprocess.run(["node", "-e", OVER_HTTP2, "-", f"http://{self.node.gateway}", path, *more], capture_output=True, text=True,
                                  timeout=WAIT_SECONDS)
            return done.stdout.splitlines() or done.stderr
        self.assertEqual(by_node("/spoken"), ["200 chat.v1 -", "1 hello", "1 /spoken1", "8 as you say"])
        self.until_busy(0)
        for words in (("/fn/chat",), ("/nowhere",), ("/spoken", "other")):
            self.assertIn(by_node(*words)[0], ("400 - -", "426 - -"), words)

    def test_what_is_sent_behind_the_request_is_heard(self):
        host, port = self.node.gateway.split(":")
        with socket.create_connection((host, int(port)), WAIT_SECONDS) as raw:
            raw.sendall(b"GET /chat/x HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                        b"Sec-WebSocket-Key: " + Client.KEY + b"\r\n\r\n" + frame(TEXT, b"early"))
            heard = b""
            while b"early" not in heard:
                heard += raw.recv(65536)

    # ---- Messages ----

    @unittest.skipIf(not HAS_CLIENT, "needs python3-websockets")
    def test_a_client_of_debian_s_is_content(self):
        for url in (f"ws://{self.node.gateway}/chat/room", f"wss://{self.secure}/chat/room"):
            done = subprocess.run([SYSTEM_PYTHON, "-c", CLIENT, url, self.pem], capture_output=True, text=True, timeout=WAIT_SECONDS)
            self.assertEqual(done.stdout, "all is well\n", done.stderr)

    def test_fragments_are_one_message_and_control_frames_come_between(self):
        with self.client() as client:
            client.send(frame(TEXT, b"a\xc3", fin=False), frame(PING, b"now"), frame(0, b"", fin=False), frame(0, b"\xa4b"))
            self.assertEqual(client.receive(), (PONG, b"now"))
            self.assertEqual(client.receive(), (TEXT, b"a\xc3\xa4b"))
            for byte in frame(BINARY, bytes(range(200)), mask=b"\0\0\0\0"):  # one by one
                client.send(bytes([byte]))
            self.assertEqual(client.receive(), (BINARY, bytes(range(200))))
            client.send(frame(PONG, b"unasked"), frame(TEXT, b""))
            self.assertEqual(client.receive(), (TEXT, b""))

    def test_what_cannot_be_fails_the_connection(self):
        bad = [
            (1002, frame(TEXT, b"x", mask=None)), (1002, frame(TEXT, b"x", first=0x40)), (1002, frame(TEXT, b"x", first=0x10)),
            (1002, frame(3, b"x")), (1002, frame(11)), (1002, frame(0, b"x")), (1002, frame(PING, b"x", fin=False)),
            (1002, frame(PING, b"x" * 126)), (1002, frame(TEXT, b"x", fin=False) + frame(TEXT, b"y")),
            (1002, bytes([FIN | TEXT, MASK | 126, 0, 5]) + b"\0\0\0\0hello"), (1002, bytes([FIN | BINARY, MASK | 127]) + b"\xff" * 8 + b"\0" * 4),
            (1002, bytes([FIN | BINARY, MASK | 127]) + struct.pack(">Q", 5) + b"\0\0\0\0hello"),
            (1007, frame(TEXT, b"\xff")), (1007, frame(TEXT, b"\xc3", fin=False) + frame(0, b"x")), (1007, frame(TEXT, b"\xed\xa0\x80")),
            (1009, frame(BINARY, b"x" * ((1 << 20) + 1))), (1009, bytes([FIN | BINARY, MASK | 127]) + struct.pack(">Q", 1 << 40) + b"\0" * 4),
            (1009, frame(BINARY, b"x" * (1 << 19), fin=False) + frame(0, b"x" * ((1 << 19) + 1))),
            (1002, frame(CLOSE, b"\3")), (1002, frame(CLOSE, struct.pack(">H", 999))), (1002, frame(CLOSE, struct.pack(">H", 1005))),
            (1002, frame(CLOSE, struct.pack(">H", 1006))), (1002, frame(CLOSE, struct.pack(">H", 5000))),
            (1007, frame(CLOSE, struct.pack(">H", 1000) + b"\xff")),
        ]
        for code, frames in bad:
            with self.client() as client:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    client.send(frames)
                self.assertEqual(client.closed()[0], code, frames[:20])
        self.until_busy(0)

    def test_a_route_bounds_its_messages(self):
        with self.client("/small") as client:
            client.send(frame(TEXT, b"x" * 100))
            self.assertEqual(client.receive(), (TEXT, b"x" * 100))
            client.send(frame(TEXT, b"x" * 101))
            self.assertEqual(client.closed()[0], 1009)

    # ---- The end ----

    def test_the_function_hears_why_it_ends(self):
        for payload, noted, answered in ((struct.pack(">H", 1000) + b"bye", "closed 1000 bye", 1000), (b"", "closed 1005", None),
                                         (struct.pack(">H", 4321), "closed 4321", 4321)):
            with self.client() as client:
                client.send(frame(CLOSE, payload), frame(TEXT, b"nobody hears this"))
                self.assertEqual(client.closed()[0], answered)
            self.until_noted(noted)
            self.until_busy(0)
        with self.client() as client:
            client.send(frame(TEXT, b"x", mask=None))
        self.until_noted("closed 1002 a frame that cannot be")

    def test_the_client_hears_why_it_ends(self):
        for said, code, word in ((b"close", 4001, "as you say"), (b"end", 1000, ""), (b"trap", 1011, "unreachable"),
                                 (b"garbage", 1011, "no message"), (b"latin", 1011, "no message")):
            with self.client() as client:
                client.send(frame(TEXT, said))
                got, reason = client.closed()
                self.assertEqual(got, code, said)
                self.assertIn(word, reason)
            self.until_busy(0)

    def test_a_client_that_goes_away_ends_the_call(self):
        for said in (b"hello", b"deaf", b"flood"):
            with self.client() as client:
                client.send(frame(TEXT, said))
                if said == b"hello":
                    client.receive()
                self.until_busy(1)
            self.until_busy(0)

    def test_a_function_that_does_not_end_after_a_close_is_ended(self):
        with self.client() as client:
            client.send(frame(TEXT, b"deaf"))
            self.until_busy(1)
            client.send(frame(CLOSE))
            client.closed()
        self.until_busy(0)

    def test_nothing_piles_up(self):
        """Neither for a client that does not read, nor for a function that does not."""
        def memory():
            return int(pathlib.Path(f"/proc/{self.node.process.pid}/status").read_text().split("VmHWM:")[1].split()[0]) << 10
        before = memory()
        with self.client(receive_bytes=65536) as client:
            client.send(frame(TEXT, b"flood"))
            self.until_busy(1)
            with self.client() as deaf:
                deaf.send(frame(TEXT, b"deaf"))
                deaf.socket.setblocking(False)
                block = frame(BINARY, b"x" * (1 << 20), mask=b"\0\0\0\0")
                sent, quiet = 0, 0
                while quiet < 200 and sent < 200 << 20:
                    try:
                        sent += deaf.socket.send(block[sent % len(block):])
                        quiet = 0
                    except BlockingIOError:
                        quiet += 1
                        self.node.get("/metrics")  # the node does something else meanwhile
                self.assertLess(sent, 40 << 20)
            for _ in range(20):
                client.send(frame(PING, b"x" * 125) * 1000)
        self.until_busy(0)
        self.assertLess(memory() - before, 64 << 20)  # sanitizers keep what was freed

    def test_a_node_that_stops_says_so(self):
        node = Node(arguments=self.arguments)
        try:
            node.deploy("chat", module)
            node.cli("route", "set", "chat", "-f", "chat", "-p", "/chat/{room}", "--websocket")
            client = Client(node.gateway, "/chat/x")
            client.send(frame(TEXT, b"hello"))
            self.assertEqual(client.receive(), (TEXT, b"hello"))
            node.process.terminate()
            self.assertEqual(client.closed()[0], 1001)
            client.close()
            self.assertEqual(node.process.wait(WAIT_SECONDS), 0)
        finally:
            node.stop()


class Default(Claims, unittest.TestCase):
    pass


@unittest.skipIf("ASAN_OPTIONS" in os.environ, "the sanitizer takes the addresses of the process sandbox")
class Process(Claims, unittest.TestCase):
    arguments = ("--isolation", "process")


if __name__ == "__main__":
    unittest.main()
