"""Answers that go out as they are written, and bodies that are read as they come."""
import contextlib
import http.client
import os
import pathlib
import subprocess
import tempfile
import time
import unittest

from node import ROOT, Node

WAIT_SECONDS = 60
MIB = 1 << 20


def setUpModule():
    global folder, module
    folder = tempfile.TemporaryDirectory(prefix="blixard-streaming-")
    unittest.addModuleCleanup(folder.cleanup)
    module = pathlib.Path(folder.name) / "stream.wasm"
    subprocess.run(["clang-14", "--target=wasm32-wasi", "-O1", "-mexec-model=reactor", "-I", ROOT / "sdk/c", "-o", module,
                    ROOT / "test/guests/stream.c"], check=True)


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
        cls.node.deploy("flow", module, timeout_ms=120000, output_bytes_max=256 * MIB)
        cls.secure = cls.node.said.split("https://")[1].split("/")[0]

    def setUp(self):
        self.node.cli("kv", "set", "go", "0")
        self.until_busy(0)

    def until_busy(self, count):
        ends = time.monotonic() + WAIT_SECONDS
        while self.metric("blixard_instances_busy") != count:
            self.assertLess(time.monotonic(), ends, "a call goes on, or does not begin")

    def metric(self, name):
        return int(next(line.split()[1] for line in self.node.get("/metrics").splitlines() if line.startswith(name + " ")))

    def most_memory(self, pid):
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024

    def ask(self, path, body=None):
        host, port = self.node.gateway.split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=WAIT_SECONDS)
        with contextlib.closing(connection):
            connection.request("POST", path, body)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    @contextlib.contextmanager
    def curl(self, url, *flags):
        process = subprocess.Popen(["curl", "-sSN", "-i", "--cacert", self.pem, *flags, url], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def until_line(self, curl, wanted):
        """What it says up to this line."""
        said = line = curl.stdout.readline()
        while line and line != wanted:
            line = curl.stdout.readline()
            said += line
        self.assertEqual(line, wanted, said)
        return said

    # ---- Answers ----

    def test_the_head_goes_out_without_a_body(self):
        host, port = self.node.gateway.split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=WAIT_SECONDS)
        with contextlib.closing(connection):
            connection.request("GET", "/fn/flow/events?1")
            self.assertEqual(connection.getresponse().getheader("Content-Type"), "text/event-stream")

    def test_events_come_one_by_one(self):
        """Each is read before the function may write the next one."""
        plain, secure = f"http://{self.node.gateway}", f"https://{self.secure}"
        for base, *flags in ((plain, "--http1.1"), (plain, "--http1.0"), (plain, "--http2-prior-knowledge"), (secure, "--http1.1"),
                             (secure, "--http2")):
            self.node.cli("kv", "set", "go", "0")
            with self.curl(f"{base}/fn/flow/events?3", *flags) as curl:
                for i in range(1, 4):
                    self.node.cli("kv", "set", "go", str(i))
                    if i == 1:  # curl shows the head when a body begins
                        self.assertIn(b"text/event-stream", self.until_line(curl, b"\r\n"))
                    lines = [curl.stdout.readline() for _ in range(3)]
                    self.assertEqual(lines, [b"id: %d\n" % i, b"data: event %d\n" % i, b"\n"], flags)
                self.assertEqual(curl.stdout.read(), b"")
                self.assertEqual(curl.wait(WAIT_SECONDS), 0)

    def test_what_was_written_goes_out_before_a_sleep(self):
        with self.curl(f"http://{self.node.gateway}/fn/flow/sleeps") as curl:
            self.until_line(curl, b"before\n")

    def test_a_client_that_goes_away_ends_the_call(self):
        for path in ("events?1", "sleeps", "flood?4000"):
            for flag in ("--http1.1", "--http2-prior-knowledge"):
                with self.curl(f"http://{self.node.gateway}/fn/flow/{path}", flag):
                    self.until_busy(1)
                self.until_busy(0)

    def sent(self):
        return int(self.node.cli("kv", "get", "sent"))

    def test_a_slow_reader_is_waited_for_and_nothing_piles_up(self):
        blocks = 3000  # of 64 KiB
        before = self.most_memory(self.node.process.pid)
        for flag in ("--http1.1", "--http2-prior-knowledge"):
            self.node.cli("kv", "set", "sent", "-1")
            with self.curl(f"http://{self.node.gateway}/fn/flow/flood?{blocks}", flag) as curl:
                while self.sent() < 0:
                    pass
                for _ in range(30):  # in the time of which it would all be written
                    self.assertEqual(self.ask("/fn/flow/count", b"x" * MIB), (200, str(MIB)))
                self.assertLess(self.sent(), 24)
                got = 0
                piece = curl.stdout.read(65536)
                while piece:
                    got += len(piece)
                    piece = curl.stdout.read(65536)
                self.assertGreater(got, blocks * 65536)
                self.assertEqual(curl.wait(WAIT_SECONDS), 0)
        self.assertLess(self.most_memory(self.node.process.pid) - before, 64 * MIB)  # sanitizers keep what was freed

    def test_a_failure_in_the_middle_is_no_end(self):
        for flag, word in (("--http1.1", b"(18)"), ("--http2-prior-knowledge", b"(92)")):
            with self.curl(f"http://{self.node.gateway}/fn/flow/breaks", flag) as curl:
                self.until_line(curl, b"half\n")
                self.node.cli("kv", "set", "go", "1")
                self.assertIn(word, curl.communicate(timeout=WAIT_SECONDS)[1])
                self.node.cli("kv", "set", "go", "0")

    # ---- Requests ----

    def test_a_body_is_read_as_it_comes_where_the_route_says_so(self):
        self.node.cli("route", "set", "flow", "-f", "flow", "-p", "/flow/{rest...}", "--stream")
        self.addCleanup(self.node.cli, "route", "delete", "flow")
        host, port = self.node.gateway.split(":")
        for announced in (True, False):
            connection = http.client.HTTPConnection(host, int(port), timeout=WAIT_SECONDS)
            with contextlib.closing(connection):
                connection.putrequest("POST", "/flow/pieces")
                connection.putheader(*(("Content-Length", "6") if announced else ("Transfer-Encoding", "chunked")))
                connection.endheaders()
                answer = connection.getresponse()
                self.assertEqual(answer.readline(), b"begun\n")  # nothing of the body is there
                for piece in (b"one", b"two"):
                    connection.send(piece if announced else b"3\r\n%s\r\n" % piece)
                    self.assertEqual(answer.readline(), b"[%s]\n" % piece)
                connection.send(b"" if announced else b"0\r\n\r\n")
                self.assertEqual(answer.read(), b"ended\n")
        self.assertEqual(self.ask("/flow/count", b"x" * (40 * MIB)), (200, str(40 * MIB)))
        self.assertEqual(self.ask("/flow/count"), (200, "0"))

    def test_both_ways_over_http2(self):
        self.node.cli("route", "set", "flow", "-f", "flow", "-p", "/flow/{rest...}", "--stream")
        self.addCleanup(self.node.cli, "route", "delete", "flow")
        for base, flag in ((f"http://{self.node.gateway}", "--http2-prior-knowledge"), (f"https://{self.secure}", "--http2")):
            process = subprocess.Popen(["curl", "-sSN", "--no-progress-meter", flag, "--cacert", self.pem, "-X", "POST", "-T", ".", f"{base}/flow/pieces"],
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            self.assertEqual(process.stdout.readline(), b"begun\n")
            for piece in (b"one", b"two"):
                process.stdin.write(piece)
                process.stdin.flush()
                self.assertEqual(process.stdout.readline(), b"[%s]\n" % piece)
            process.stdin.close()
            self.assertEqual(process.stdout.read(), b"ended\n")
            self.assertEqual(process.wait(WAIT_SECONDS), 0)
            process.stdout.close()

    def test_a_body_that_does_not_come_is_too_late(self):
        """Goal: who sends too slowly ends its own call at its time limit, and not the runner with all others."""
        self.node.deploy("short", module, timeout_ms=1000)
        self.node.cli("route", "set", "short", "-f", "short", "-p", "/short/{rest...}", "--stream")
        self.addCleanup(self.node.cli, "route", "delete", "short")
        host, port = self.node.gateway.split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=WAIT_SECONDS)
        with contextlib.closing(connection):
            connection.putrequest("POST", "/short/count")
            connection.putheader("Content-Length", "6")
            connection.endheaders(b"one")
            answer = connection.getresponse()
            self.assertEqual(answer.status, 504, answer.read())

    def test_a_body_that_breaks_off_ends_the_call(self):
        self.node.cli("route", "set", "flow", "-f", "flow", "-p", "/flow/{rest...}", "--stream")
        self.addCleanup(self.node.cli, "route", "delete", "flow")
        host, port = self.node.gateway.split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=WAIT_SECONDS)
        connection.putrequest("POST", "/flow/pieces")
        connection.putheader("Content-Length", "6")
        connection.endheaders(b"one")
        answer = connection.getresponse()
        self.assertEqual(answer.readline(), b"begun\n")
        self.until_busy(1)
        answer.close()
        connection.close()
        self.until_busy(0)


class Default(Claims, unittest.TestCase):
    pass


@unittest.skipIf("ASAN_OPTIONS" in os.environ, "the sanitizer takes the addresses of the process sandbox")
class Process(Claims, unittest.TestCase):
    arguments = ("--isolation", "process")


if __name__ == "__main__":
    unittest.main()
