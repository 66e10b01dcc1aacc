"""The host API from outside: what functions ask, what hostile ones get, and calls that end in the middle of a question."""
import http.client
import os
import pathlib
import re
import subprocess
import tempfile
import time
import unittest

from node import Node

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
folder = None
module = None


def setUpModule():
    global folder, module
    folder = tempfile.TemporaryDirectory(prefix="blixard-host-")
    module = pathlib.Path(folder.name) / "host.wasm"
    subprocess.run(["clang-14", "--target=wasm32-wasi", "-O1", "-mexec-model=reactor", "-I", ROOT / "sdk/c", "-o", module,
                    ROOT / "test/guests/host.c"], check=True)


def tearDownModule():
    folder.cleanup()


class Claims:
    arguments = ()

    @classmethod
    def setUpClass(cls):
        cls.node = Node(arguments=("--host-calls-max", "300", *cls.arguments))
        cls.node.call("PUT", "/v1/secrets/named", b"value")
        for name in ("self", "other", "sleeper"):
            cls.node.deploy(name, module, secrets={"NAMED": "named"})

    @classmethod
    def tearDownClass(cls):
        cls.node.stop()

    def ask(self, path, function="self", method="GET", fields=None, timeout=30):
        host, port = self.node.gateway.rsplit(":", 1)
        connection = http.client.HTTPConnection(host, int(port), timeout=timeout)
        try:
            connection.request(method, f"/fn/{function}{path}", headers=fields or {})
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")
        finally:
            connection.close()

    def metric(self, name):
        return int(re.search(rf"^{name} (\d+)", self.node.get("/metrics"), re.M)[1])

    def test_facts_are_known_from_the_host_side(self):
        asked = self.metric("blixard_host_calls_total")
        status, text = self.ask("/facts", fields={"X-Request-Id": "my-request"})
        self.assertEqual(status, 200)
        lines = text.splitlines()
        self.assertEqual(lines[:4], ["fact 7 default", "fact 4 self", "fact 1 1", "fact 10 my-request"])
        self.assertRegex(lines[4], r"^fact 55 00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]$")
        self.assertEqual(lines[5], "early 1 the host can be asked once a request is there, not during initialisation")
        self.assertEqual(lines[6].strip(), "deadline 1")
        self.assertEqual(lines[7], "no such fact 1 there is no fact 99")
        self.assertEqual(self.metric("blixard_host_calls_total"), asked + 6)

    def test_keys_and_values(self):
        status, text = self.ask("/kv")
        self.assertEqual(status, 200)
        lines = [line.strip() for line in text.splitlines()]
        self.assertEqual(lines[:2], ["none -44", "new 0"])
        self.assertRegex(lines[2], r"^again -10 the key is there already")
        self.assertEqual(lines[3:10], ["get 3 on", "rest 1 one", "same 1", "cas 0 newer", "set 0", "key 6 keys/a",
                                       "key 6 keys/b"])
        self.assertRegex(lines[10], r"^delete -10 ")
        self.assertEqual(lines[11:], ["delete 0", "delete 0"])

    def test_messages_and_records(self):
        self.node.cli("queue", "create", "jobs")
        self.node.cli("stream", "create", "events")
        status, text = self.ask("/send")
        lines = [line.strip() for line in text.splitlines()]
        self.assertEqual((status, lines[:4]), (200, ["send 1", "nowhere -44", "append 1", "sequence 1"]))
        self.assertEqual(lines[4], "attributes -28 the attributes are no JSON object of strings")

    def test_functions_call_functions(self):
        status, text = self.ask("/invoke?other/echo?a=b")
        self.assertEqual((status, text), (200, "invoke 200 \ndepth 1 1\nbody 5 a=b\n"))
        status, text = self.ask("/invoke?nobody/")
        self.assertEqual(status, 200)
        self.assertRegex(text, r"^invoke -44 .*nobody")

    def test_functions_that_call_themselves_come_to_an_end(self):
        status, text = self.ask("/self")
        self.assertEqual(status, 200)
        self.assertIn("invoke -19 functions have called functions 16 deep", text)
        self.assertEqual(text.count("invoke 200"), 16)

    def test_hostile_questions_are_traps_or_errors(self):
        for how in "abfhi":
            status, text = self.ask(f"/hostile?{how}")
            self.assertEqual((how, status), (how, 502), text)
            self.assertIn("out of bounds memory access", text)
        self.assertEqual(self.ask("/hostile?c"), (200, "survived 0 \n"))
        self.assertIn("huge -35 a request or a reply of more than 1 MiB", self.ask("/hostile?d")[1])
        text = self.ask("/hostile?g")[1]
        self.assertIn("span -44 there is no open span", text)
        self.assertEqual(re.findall(r"^span (-?\d+)", text, re.M)[1:18], [str(i) for i in range(16)] + ["-19"])
        self.assertIn("name -28 a span has a name", text)
        lines = [line.strip() for line in self.ask("/hostile?j")[1].splitlines()]
        self.assertEqual([line.split()[:2] for line in lines[:4]], [["none", "-2"], ["nul", "-28"], ["part", "-2"], ["length", "5"]])
        self.assertEqual(self.ask("/facts")[0], 200)

    def test_questions_without_end_are_ended(self):
        status, text = self.ask("/hostile?e")
        self.assertGreaterEqual(status, 499, text)
        self.assertEqual(self.ask("/facts")[0], 200)

    def test_a_call_that_ends_while_it_asks_leaves_nothing(self):
        """The client goes away while the function waits for another one, which then ends as well."""
        for _ in range(3):
            host, port = self.node.gateway.rsplit(":", 1)
            connection = http.client.HTTPConnection(host, int(port), timeout=30)
            connection.request("GET", "/fn/self/invoke?sleeper/sleep")
            deadline = time.monotonic() + 20
            while self.metric("blixard_instances_busy") < 2:
                self.assertLess(time.monotonic(), deadline)
            connection.sock.close()
            connection.close()
            while self.metric("blixard_instances_busy") > 0:
                self.assertLess(time.monotonic(), deadline)
        self.assertEqual(self.ask("/facts")[0], 200)

    def test_a_question_ends_at_the_deadline(self):
        self.node.deploy("short", module, timeout_ms=300)
        status, text = self.ask("/invoke?sleeper/sleep", function="short")
        self.assertTrue(status == 504 or "invoke -73 " in text, text)  # both are over at the same moment
        self.assertEqual(self.ask("/facts", function="short")[0], 200)

    def test_a_log_line_has_fields(self):
        self.ask("/log")
        lines = [line for line in self.node.cli("fn", "logs", "self").splitlines() if "lines" in line]
        self.assertTrue(lines)
        self.assertIn(r'two\nlines who=me what="a \"word\"" none=""', lines[-1])

    def test_a_response_is_streamed(self):
        host, port = self.node.gateway.rsplit(":", 1)
        connection = http.client.HTTPConnection(host, int(port), timeout=30)
        connection.putrequest("POST", "/fn/self/stream")
        connection.putheader("Content-Length", str((1 << 17) + 6))
        connection.endheaders()
        connection.send(b"x" * (1 << 17))
        answer = connection.getresponse()  # before the body is whole
        self.assertEqual(answer.read(6), b"first\n")
        connection.send(b"second")
        self.assertEqual(answer.read(64), b"x" * 64)
        connection.close()

    def test_spans_are_of_the_request_s_trace(self):
        trace = os.urandom(16).hex()
        status, text = self.ask("/span", fields={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"})
        self.assertEqual((status, text), (200, "end 0 \nend 0 \n"))
        deadline = time.monotonic() + 10
        spans = {}
        while "inner" not in spans:
            self.assertLess(time.monotonic(), deadline)
            spans = {span["name"]: span for span in self.node.json(f"/v1/traces/{trace}")["spans"]}
        self.assertEqual(spans["inner"]["parent"], spans["outer"]["id"])
        self.assertEqual(spans["outer"]["parent"], spans["run"]["id"])


class Default(Claims, unittest.TestCase):
    pass


@unittest.skipIf("ASAN_OPTIONS" in os.environ, "the sanitizer takes the addresses of the process sandbox")
class Process(Claims, unittest.TestCase):
    arguments = ("--isolation", "process")


if __name__ == "__main__":
    unittest.main()
