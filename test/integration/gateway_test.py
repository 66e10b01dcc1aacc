"""The gateway from outside: a node, one function in C that does what the path says, raw sockets."""
import concurrent.futures
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
node = None
folder = None


def setUpModule():
    global node, folder
    from node import Node  # test/lib/node.py

    folder = tempfile.TemporaryDirectory(prefix="blixard-gateway-")
    module = pathlib.Path(folder.name) / "gateway.wasm"
    subprocess.run(["clang-14", "--target=wasm32-wasi", "-O2", "-o", module, ROOT / "test/guests/gateway.c"],
                   check=True)
    node = Node()
    node.deploy("busy", module, timeout_ms=20000)
    node.deploy("brief", module, timeout_ms=300, output_bytes_max=100 * 1024)
    node.deploy("narrow", module, timeout_ms=60000, concurrency_max=1, queue_max=1,
                environment={"GREETING": "hello", "REQUEST_METHOD": "NO", "HTTP_PROXY": "NO"})


def tearDownModule():
    node.stop()
    folder.cleanup()


class Client:
    """One connection; answers are read to their end as HTTP/1.1 has it, strictly."""

    def __init__(self):
        host, port = node.gateway.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=30)
        self.file = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.file.close()
        self.socket.close()

    def send(self, method, target, body=None, fields=()):
        lines = [f"{method} {target} HTTP/1.1", "Host: localhost", *fields]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        self.socket.sendall("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b""))

    def head(self):
        line = self.file.readline().decode("latin-1")
        if not line:
            raise ConnectionError("closed before an answer")
        status = int(re.fullmatch(r"HTTP/1\.1 (\d{3}) [^\r\n]*\r\n", line).group(1))
        fields = {}
        while (line := self.file.readline().decode("latin-1")) != "\r\n":
            name, value = re.fullmatch(r"([^:\s]+): ?(.*)\r\n", line).groups()
            name = name.lower()
            fields[name] = f"{fields[name]}, {value}" if name in fields else value
        return status, fields

    def body(self, fields):
        if "content-length" in fields:
            length = int(fields["content-length"])
            data = self.file.read(length)
            if len(data) != length:
                raise ConnectionError("body cut short")
            return data
        data = b""
        while True:
            line = self.file.readline()
            if not re.fullmatch(rb"[0-9a-fA-F]+\r\n", line):
                raise ConnectionError(f"chunk broken off: {line!r}")
            size = int(line, 16)
            piece = self.file.read(size + 2)
            if len(piece) != size + 2 or not piece.endswith(b"\r\n"):
                raise ConnectionError("chunk cut short")
            if size == 0:
                return data
            data += piece[:-2]

    def answer(self, method="GET"):
        status, fields = self.head()
        return status, fields, b"" if method == "HEAD" else self.body(fields)

    def call(self, method, target, body=None, fields=()):
        self.send(method, target, body, fields)
        return self.answer(method)


def call(target, body=None, method=None, fields=()):
    with Client() as client:
        return client.call(method or ("GET" if body is None else "POST"), target, body, fields)


class Answers(unittest.TestCase):
    def problem(self, answer, status, code):
        self.assertEqual(answer[0], status, answer)
        self.assertEqual(answer[1]["content-type"], "application/problem+json")
        problem = json.loads(answer[2])
        self.assertEqual(problem["status"], status)
        self.assertEqual(problem["code"], code)
        self.assertIn("x-request-id", answer[1])
        return problem["detail"]

    def test_every_answer_says_who_made_it_and_how_long_it_took(self):
        status, fields, body = call("/fn/busy/echo", b"hello")
        self.assertEqual((status, body), (200, b"hello"))
        first = fields["x-request-id"]
        second = call("/fn/busy/echo", b"hello")[1]["x-request-id"]
        for part in (slice(0, 16), slice(16, 32)):  # both halves are of each id
            self.assertRegex(first[part], "^[0-9a-f]{16}$")
            self.assertNotEqual(first[part], second[part])
            self.assertNotRegex(second[part], "^0{8}")
        self.assertRegex(fields["server-timing"], r"queue;dur=[\d.]+.*run;dur=[\d.]+, total;dur=[\d.]+")
        self.assertRegex(fields["x-blixard-instance"], r"^\d+-\d+$")
        self.assertEqual(fields["content-length"], "5")
        self.assertEqual(fields["content-type"], "text/plain; charset=utf-8")

    def test_the_environment_is_cgi(self):
        fields = ["X-Two: 1", "X-Two: 2", "Proxy: evil", "X_Under: 1", "Connection: X-Hop", "X-Hop: 1",
                  "X-Request-Id: my-id", "Content-Type: text/x"]
        status, got, body = call("/fn/narrow/env/a%20b?x=%201", b"12345", "PUT", fields)
        self.assertEqual(status, 200)
        self.assertEqual(got["x-request-id"], "my-id")
        env = dict(line.split("=", 1) for line in body.decode().splitlines())
        expected = {"GATEWAY_INTERFACE": "CGI/1.1", "REQUEST_METHOD": "PUT", "SCRIPT_NAME": "/fn/narrow",
                    "PATH_INFO": "/env/a b", "QUERY_STRING": "x=%201", "CONTENT_LENGTH": "5",
                    "CONTENT_TYPE": "text/x", "SERVER_PROTOCOL": "HTTP/1.1", "REMOTE_ADDR": "127.0.0.1",
                    "SERVER_NAME": "localhost", "HTTP_X_TWO": "1, 2", "BLIXARD_REQUEST_ID": "my-id",
                    "GREETING": "hello", "SERVER_PORT": node.gateway.rsplit(":", 1)[1]}
        self.assertEqual({key: env.get(key) for key in expected}, expected)
        for absent in ("HTTP_PROXY", "HTTP_X_UNDER", "HTTP_X_HOP", "HTTP_CONNECTION"):
            self.assertNotIn(absent, env)

    def test_the_environment_names_the_version_of_the_request(self):
        with Client() as client:
            client.socket.sendall(b"GET /fn/busy/env HTTP/1.0\r\n\r\n")
            self.assertIn(b"\nSERVER_PROTOCOL=HTTP/1.0\n", client.answer()[2])

    def test_functions_are_found_by_host_too(self):
        with Client() as client:
            client.socket.sendall(b"GET /env HTTP/1.1\r\nHost: busy.fn.example:80\r\n\r\n")
            status, _, body = client.answer()
            self.assertEqual(status, 200)
            self.assertIn(b"PATH_INFO=/env\n", body)
            self.assertIn(b"SERVER_NAME=busy.fn.example\n", body)

    def test_the_function_shapes_its_answer_but_not_the_connection(self):
        query = ("Status=418+Teapot&Content-Type=text/x&X-Own=1&Connection=close&Transfer-Encoding=chunked"
                 "&Date=never&X-Request-Id=mine")
        with Client() as client:
            status, fields, body = client.call("GET", f"/fn/busy/head?{query}")
            self.assertEqual((status, body), (418, b"body"))
            self.assertEqual(fields["x-own"], "1")
            self.assertNotEqual(fields.get("connection"), "close")
            self.assertNotIn("transfer-encoding", fields)
            self.assertNotEqual(fields["x-request-id"], "mine")
            self.assertEqual(client.call("GET", "/fn/busy/head?Location=/x")[0], 302)
            answer = client.call("GET", "/fn/busy/head?Status=101")
            self.assertIn("Status: 101", self.problem(answer, 502, "protocol"))
            answer = client.call("GET", "/fn/busy/head?Note=prose")
            self.assertEqual((answer[0], answer[2]), (200, b"Note: prose\n\nbody"))

    def test_lies_about_the_length_are_no_answer(self):
        self.assertEqual(call("/fn/busy/lie/4")[2], b"body")
        self.problem(call("/fn/busy/lie/5"), 502, "protocol")
        self.problem(call("/fn/busy/lie/3"), 502, "protocol")

    def test_head_has_no_body(self):
        with Client() as client:
            status, fields, _ = client.call("HEAD", "/fn/busy/log")
            self.assertEqual((status, fields["content-length"]), (200, "3"))
            self.assertEqual(client.call("GET", "/fn/busy/echo")[0], 200)  # nothing is left in between

    def test_failures_are_problems_with_reasons(self):
        with Client() as client:
            self.problem(client.call("GET", "/fn/nobody/x"), 404, "not_found")
            detail = self.problem(client.call("GET", "/fn/busy/trap"), 502, "trap")
            self.assertIn("trap: ", detail)
            self.assertIn("out of bounds", self.problem(client.call("GET", "/fn/busy/overrun"), 502, "trap"))
            self.assertIn("exit code 7", self.problem(client.call("GET", "/fn/busy/exit/7"), 502, "trap"))
            self.assertEqual(client.call("GET", "/fn/busy/grumble/7")[2], b"hm\n")
            self.problem(client.call("GET", "/fn/brief/spin"), 504, "timeout")
            self.assertEqual(client.call("GET", "/fn/busy/echo")[0], 200)

    def test_output_beyond_the_limit_is_not_delivered_as_if_whole(self):
        with self.assertRaises(ConnectionError):
            status, _, body = call("/fn/brief/flood/200")
            if status == 502:
                raise ConnectionError("refused before anything went out: fine too")

    def test_requests_do_not_see_each_other(self):
        with Client() as client:
            for _ in range(5):
                self.assertEqual(client.call("GET", "/fn/busy/remember")[2], b"0\n")

    def test_logs_carry_the_request_id(self):
        call("/fn/busy/log", fields=["X-Request-Id: log-me-1"])
        lines = json.loads(node.get("/v1/functions/busy/logs?tail=50"))["lines"]
        mine = [line for line in lines if line["request_id"] == "log-me-1"]
        self.assertEqual([(line["text"], line["level"]) for line in mine], [("a line of log", "warn")])


class Bodies(unittest.TestCase):
    def test_every_size_comes_through_whole(self):
        with Client() as client:
            for size in (0, 1, 1023, 1024, 65535, 65536, 65537, 300000, 5 << 20):
                body = os.urandom(1 << 16) * (size // (1 << 16) + 1)
                status, _, got = client.call("POST", "/fn/busy/echo", body[:size])
                self.assertEqual(status, 200, size)
                self.assertEqual(got, body[:size], size)

    def test_chunked_bodies_come_through_small_and_big(self):
        for pieces in ([b"one", b"two"], [b"x" * 50000] * 8):
            with Client() as client:
                client.send("POST", "/fn/busy/echo", fields=["Transfer-Encoding: chunked"])
                for piece in pieces:
                    client.socket.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
                client.socket.sendall(b"0\r\n\r\n")
                self.assertEqual(client.answer()[2], b"".join(pieces))

    def test_a_huge_upload_is_refused_before_it_is_read(self):
        with Client() as client:
            client.socket.sendall(b"POST /fn/busy/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1073741824\r\n\r\n")
            self.assertEqual(client.head()[0], 413)
        with Client() as client:
            client.send("POST", "/fn/busy/count", fields=["Transfer-Encoding: chunked"])
            piece = b"100000\r\n" + b"x" * (1 << 20) + b"\r\n"
            try:
                for _ in range(80):
                    client.socket.sendall(piece)
            except OSError:
                pass  # told off while still sending
            try:
                self.assertEqual(client.head()[0], 413)
            except ConnectionError:
                pass  # reset took the answer with it: it was refused all the same

    def test_a_client_that_reads_slowly_gets_everything(self):
        with Client() as client:
            client.send("GET", "/fn/busy/flood/16000")  # more than sockets hold
            self.assertEqual(call("/fn/busy/echo", b"x")[2], b"x")  # nobody else waits for it
            status, fields, body = client.answer()
            self.assertEqual((status, len(body)), (200, 16000 * 1024))
            self.assertNotIn("content-length", fields)

    def test_a_client_that_hangs_up_frees_its_instance(self):
        for _ in range(3):
            client = Client()
            client.send("GET", "/fn/narrow/spin")
            client.close()
        # One at a time may run: this one would wait for the others' timeouts otherwise.
        with Client() as client:
            deadline = time.monotonic() + 30  # half of the function's timeout
            while time.monotonic() < deadline:
                status = client.call("GET", "/fn/narrow/echo")[0]
                if status == 200:
                    return
                self.assertEqual(status, 503)
        self.fail("the instance was not freed")


class Load(unittest.TestCase):
    def test_many_at_once(self):
        def one(number):
            body = str(number).encode() * 100
            with Client() as client:
                return all(client.call("POST", "/fn/busy/echo", body)[2] == body for _ in range(10))
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            self.assertTrue(all(pool.map(one, range(32))))

    def test_a_full_queue_is_503_with_retry_after(self):
        clients = [Client() for _ in range(6)]
        try:
            for client in clients:
                client.send("GET", "/fn/narrow/spin")
            # One runs, one waits; four are refused at once.
            refused = []
            for client in clients:
                client.socket.settimeout(0.5)
                try:
                    refused.append(client.answer())
                except TimeoutError:
                    pass
            self.assertEqual([status for status, _, _ in refused], [503] * 4)
            self.assertTrue(all(int(fields["retry-after"]) >= 1 for _, fields, _ in refused))
        finally:
            for client in clients:
                client.close()
        with Client() as client:  # gone with their clients
            while client.call("GET", "/fn/narrow/echo")[0] == 503:
                pass

    def test_a_killed_runner_fails_its_calls_and_is_replaced(self):
        call("/fn/busy/echo")
        before = [r["pid"] for r in json.loads(node.get("/v1/node"))["runners"]]
        self.assertTrue(before)
        with Client() as running:
            running.send("GET", "/fn/busy/spin")
            while json.loads(node.get("/v1/node"))["runners"][0]["busy"] == 0:
                pass
            for pid in before:
                os.kill(pid, signal.SIGKILL)
            status, fields, body = running.answer()
            self.assertIn(status, (502, 503))
            self.assertIn("the runner died", json.loads(body)["detail"])
        for _ in range(200):
            status, _, body = call("/fn/busy/echo", b"again")
            if status == 200:
                break
            self.assertEqual(status, 503)
        self.assertEqual(body, b"again")
        for _ in range(2000):  # the others' deaths are seen one after the other
            after = [r["pid"] for r in json.loads(node.get("/v1/node"))["runners"]]
            if not set(before) & set(after):
                break
        self.assertFalse(set(before) & set(after))
        self.assertRegex(node.get("/metrics"), r"(?m)^blixard_runner_deaths_total [1-9]")
