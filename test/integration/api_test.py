"""The API from outside: deploys, refusals, streams, and what a sudden death leaves."""
import concurrent.futures
import http.client
import json
import pathlib
import shutil
import socket
import subprocess
import tarfile
import tempfile
import time
import unittest

from node import Node, ROOT, Refused

node = None
folder = None
echo = None
EMPTY = b"\0asm\1\0\0\0"


def setUpModule():
    global node, folder, echo
    folder = tempfile.TemporaryDirectory(prefix="blixard-api-")
    echo = compile_c("echo", (ROOT / "test/guests/echo.c").read_text())
    node = Node()


def tearDownModule():
    node.stop()
    folder.cleanup()


def compile_c(name, source):
    """A command module out of C, as bytes."""
    path = pathlib.Path(folder.name) / f"{name}.c"
    path.write_text(source)
    wasm = path.with_suffix(".wasm")
    subprocess.run(["clang-14", "--target=wasm32-wasi", "-O1", "-o", wasm, path], check=True)
    return wasm.read_bytes()


def says(text):
    return compile_c(f"says-{text}", f'#include <stdio.h>\nint main(void) {{ puts("{text}"); }}\n')


class Events:
    """An event stream, read line by line."""

    def __init__(self, of, path, fields=None):
        host, port = of.api.rsplit(":", 1)
        self.connection = http.client.HTTPConnection(host, int(port), timeout=30)
        self.connection.request("GET", path, headers=fields or {})
        self.answer = self.connection.getresponse()
        assert self.answer.status == 200, self.answer.read()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.connection.close()

    def next(self):
        """{"id", "event", "data"}, or None at the end; comments are passed over."""
        event = {}
        while line := self.answer.readline().decode():
            line = line.rstrip("\n")
            if line.startswith(":"):
                continue
            if line == "":
                if event:
                    return event
                continue
            key, value = line.split(": ", 1)
            event[key] = value
        return None

    def until(self, wanted):
        """Events up to the one for which wanted(data) holds."""
        seen = []
        while (event := self.next()) is not None:
            seen.append(event)
            if wanted(json.loads(event["data"])):
                return seen
        raise AssertionError(f"the stream ended after {seen}")


class Refusals(unittest.TestCase):
    def refused(self, status, code, method, path, body=None, fields=None):
        with self.assertRaises(Refused) as caught:
            node.call(method, path, body, fields)
        problem = caught.exception.problem
        self.assertEqual((caught.exception.status, problem["code"]), (status, code), problem)
        self.assertIn("x-request-id", caught.exception.fields)
        return problem["detail"]

    def deploy_refused(self, **body):
        return self.refused(400, "invalid", "POST", "/v1/functions/x/versions", body)

    def test_a_path_that_is_not_there_names_the_nearest(self):
        self.assertIn("/v1/functions", self.refused(404, "not_found", "GET", "/v1/function"))

    def test_a_method_that_is_not_there_says_which_are(self):
        status, _, fields = node.request("PUT", "/v1/functions")
        self.assertEqual((status, fields["allow"]), (405, "GET, HEAD"))

    def test_head_is_get_without_the_body(self):
        status, body, fields = node.request("HEAD", "/v1/functions")
        self.assertEqual((status, body), (200, b""))
        self.assertGreater(int(fields["content-length"]), 0)

    def test_keys_nobody_knows_are_refused_with_the_nearest(self):
        self.assertIn("did you mean timeout_ms", self.deploy_refused(module="0" * 64, timeout_m=1))

    def test_wrong_types_are_named_with_their_place(self):
        self.assertIn("$.timeout_ms", self.deploy_refused(module="0" * 64, timeout_ms="1"))
        self.assertIn("$.timeout_ms", self.deploy_refused(module="0" * 64, timeout_ms=-1))
        self.assertIn("$.environment.A", self.deploy_refused(module="0" * 64, environment={"A": 1}))
        self.assertIn("$.module", self.deploy_refused())
        self.assertIn("line 1", self.refused(400, "invalid", "POST", "/v1/functions/x/versions", b"{"))

    def test_what_is_in_lists_and_objects_is_looked_at_too(self):
        for path, body, place in (
                ("/v1/machines", {"name": "x", "publish": ["8080:80", None]}, "$.publish[1] must be a string"),
                ("/v1/machines", {"name": "x", "environment": [1]}, "$.environment[0] must be a string"),
                ("/v1/queues/x/messages", {"messages": [{}, 1]}, "$.messages[1] must be an object"),
                ("/v1/queues/x/messages", {"messages": [{"boby": "x"}]}, "$.messages[0].boby is not known; did you mean body?"),
                ("/v1/functions/x/versions", {"module": "x", "fetch": {"allow": [[]]}}, "$.fetch.allow[0] must be a string")):
            self.assertIn(place, self.refused(400, "invalid", "POST", path, body))

    def test_settings_have_ranges(self):
        self.assertIn("memory_bytes is 65535 bytes; it must be from 64 KiB to ", self.deploy_refused(module="0" * 64, memory_bytes=65535))
        self.assertIn("900001 ms; it must be from 1 ms to 15 min", self.deploy_refused(module="0" * 64, timeout_ms=900001))
        self.assertIn("digit", self.deploy_refused(module="0" * 64, environment={"1A": ""}))

    def test_odd_names_are_refused_with_the_rule(self):
        for name in ("UPPER", "-a", "a-", "1a", "a_b", "a" * 64, "%C3%A9", "..", "%2e%2e%2fx"):
            with self.subTest(name):
                detail = self.refused(400, "invalid", "POST", f"/v1/functions/{name}/versions", {"module": "0" * 64})
                self.assertIn("1 to 63 of a-z", detail)

    def test_a_module_that_is_not_there_says_how_to_upload_it(self):
        detail = self.refused(404, "not_found", "POST", "/v1/functions/x/versions", {"module": "0" * 64})
        self.assertIn("/v1/blobs", detail)
        self.refused(400, "invalid", "POST", "/v1/functions/x/versions", {"module": "../../etc/passwd"})

    def test_a_blob_that_is_no_wasm_is_refused(self):
        self.assertIn("\\0asm", self.deploy_refused(module=node.upload(b"#!/bin/sh\n")))

    def test_a_gigabyte_is_refused_before_it_is_sent(self):
        host, port = node.api.rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=10) as client:
            client.sendall(b"POST /v1/blobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1073741824\r\n\r\n")
            self.assertTrue(client.makefile("rb").readline().startswith(b"HTTP/1.1 413 "))

    def test_chunks_beyond_the_limit_are_refused(self):
        host, port = node.api.rsplit(":", 1)
        piece = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
        with socket.create_connection((host, int(port)), timeout=10) as client:
            client.sendall(b"POST /v1/blobs HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
            try:
                for _ in range(66):
                    client.sendall(piece)
            except OSError:
                pass  # it has hung up on us already
            try:
                self.assertTrue(client.makefile("rb").readline().startswith(b"HTTP/1.1 413 "))
            except ConnectionResetError:
                pass

    def test_web_pages_of_other_sites_are_refused(self):
        self.refused(403, "denied", "GET", "/v1/functions", fields={"Host": "evil.example"})
        self.refused(403, "denied", "GET", "/v1/functions", fields={"Origin": "http://evil.example"})
        self.refused(403, "denied", "GET", "/v1/functions", fields={"Origin": "null"})
        node.call("GET", "/v1/functions", fields={"Origin": f"http://{node.api}"})

    def test_addresses_that_are_not_loopback_are_refused(self):
        with self.assertRaisesRegex(RuntimeError, "without TLS"):
            Node(arguments=["--api-address", "0.0.0.0:0"])


class Functions(unittest.TestCase):
    def test_a_deployed_function_answers_and_says_what_it_is(self):
        node.deploy("echoes", echo, language="c", environment={"GREETING": "hello"})
        self.assertEqual(node.invoke("echoes", b"hello"), "hello")
        function = node.json("/v1/functions/echoes")
        self.assertEqual((function["live"], function["aliases"]), (1, {"live": "1"}))
        self.assertEqual(function["version"]["state"], "ready")
        self.assertEqual(function["version"]["environment"], {"GREETING": "hello"})
        self.assertEqual(function["url"], f"http://{node.gateway}/fn/echoes")

    def test_the_optimised_code_takes_over(self):
        node.deploy("tiers", echo)
        deadline = time.monotonic() + 60
        while node.json("/v1/functions/tiers")["version"].get("tier") != "optimized":
            self.assertLess(time.monotonic(), deadline)
        self.assertEqual(node.invoke("tiers", b"x"), "x")

    def test_aliases_point_to_ready_versions(self):
        node.deploy("turns", says("one"))
        node.deploy("turns", says("two"))
        self.assertEqual(node.invoke("turns"), "two\n")
        node.call("PUT", "/v1/functions/turns/aliases/live", {"version": 1})
        self.assertEqual(node.invoke("turns"), "one\n")
        self.assertEqual(node.invoke("turns:2"), "two\n")
        with self.assertRaises(Refused) as caught:
            node.call("PUT", "/v1/functions/turns/aliases/live", {"version": 3})
        self.assertEqual(caught.exception.status, 404)

    def test_broken_modules_fail_with_the_reason_and_move_nothing(self):
        node.deploy("sturdy", says("one"))
        begun = node.begin_deploy("sturdy", EMPTY)
        ended = node.wait(begun["operation"])
        self.assertEqual(ended["state"], "failed")
        self.assertRegex(ended["error"], "_start")
        version = node.json("/v1/functions/sturdy/versions/2")
        self.assertEqual((version["state"], version["error"]), ("failed", ended["error"]))
        self.assertEqual(node.invoke("sturdy"), "one\n")
        torn = node.wait(node.begin_deploy("sturdy", echo[:len(echo) // 2])["operation"])
        self.assertEqual((torn["state"], torn["error_code"]), ("failed", "invalid"))

    def test_two_deploys_at_once_make_two_versions(self):
        modules = [says(f"at-once-{i}") for i in range(4)]
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            numbers = list(pool.map(lambda module: node.deploy("crowd", module), modules))
        self.assertEqual(sorted(numbers), [1, 2, 3, 4])
        self.assertEqual(node.json("/v1/functions/crowd")["live"], 4)

    def test_deleting_takes_all_of_it_and_nothing_else(self):
        same = says("shared")
        node.deploy("gone", same)
        node.deploy("stays", same)
        with self.assertRaises(Refused) as caught:
            node.call("DELETE", "/v1/functions/gone/versions/1")
        self.assertEqual(caught.exception.problem["code"], "conflict")
        self.assertIn("alias", caught.exception.problem["detail"])
        node.call("DELETE", "/v1/functions/gone")
        with self.assertRaises(Refused) as caught:
            node.get("/v1/functions/gone")
        self.assertEqual(caught.exception.status, 404)
        self.assertEqual(node.invoke("stays"), "shared\n")
        node.deploy("stays", same)
        node.call("DELETE", "/v1/functions/stays/versions/1")
        self.assertEqual(node.invoke("stays"), "shared\n")
        with self.assertRaises(Refused) as caught:
            node.get("/v1/functions/stay")
        self.assertIn("did you mean stays", caught.exception.problem["detail"])

    def test_deleting_takes_what_was_compiled_too(self):
        def files(where):
            return [path for path in where.rglob("*") if path.is_file()]

        with Node() as alone:
            images = alone.folder / "images"
            entries = alone.folder / "build" / "cache"
            alone.deploy("compiled", says("nobody else says this"))
            deadline = time.monotonic() + 60
            while alone.json("/v1/functions/compiled/versions/1")["tier"] != "optimized":
                self.assertLess(time.monotonic(), deadline)
            self.assertEqual((len(files(images)), len(files(entries))), (3, 2))  # module, two tiers
            alone.call("DELETE", "/v1/functions/compiled")
            self.assertEqual((files(images), files(entries)), ([], []))


class Blobs(unittest.TestCase):
    def test_they_can_be_read_whole_and_from_somewhere_on(self):
        blob = node.upload(echo)
        path = f"/v1/blobs/{blob}"
        status, body, fields = node.request("GET", path)
        self.assertEqual((status, body, fields["accept-ranges"]), (200, echo, "bytes"))
        status, body, fields = node.request("HEAD", path)
        self.assertEqual((status, body, fields["content-length"]), (200, b"", str(len(echo))))
        for asked, first, last in (("bytes=5-", 5, len(echo) - 1), ("bytes=5-9", 5, 9), ("bytes=0-0", 0, 0),
                                   (f"bytes=7-{len(echo) + 5}", 7, len(echo) - 1)):
            with self.subTest(asked=asked):
                status, body, fields = node.request("GET", path, fields={"Range": asked})
                self.assertEqual((status, body), (206, echo[first:last + 1]))
                self.assertEqual(fields["content-range"], f"bytes {first}-{last}/{len(echo)}")
        for odd in ("bytes=-5", "bytes=9-5", "bytes=1-2,5-6", "lines=1-2", "bytes=x-"):
            with self.subTest(odd=odd):
                self.assertEqual(node.request("GET", path, fields={"Range": odd})[:2], (200, echo))
        status, _, fields = node.request("GET", path, fields={"Range": f"bytes={len(echo)}-"})
        self.assertEqual((status, fields["content-range"]), (416, f"bytes */{len(echo)}"))
        self.assertEqual(node.request("GET", "/v1/blobs/" + "0" * 64)[0], 404)
        self.assertEqual(node.request("GET", "/v1/blobs/..%2fx")[0], 400)

    def test_what_is_between_nodes_is_for_nodes(self):
        self.assertEqual(node.request("GET", f"/v1/peer/images/{'0' * 64}/fast")[0], 403)
        # Marked as if a node had passed it on: it is a client that says so, and it is not believed.
        node.deploy("unmarked", echo)
        status, body, _ = node.request("POST", "/v1/functions/unmarked/invocations", b"hi", {
            "X-Blixard-Hop": "1", "X-Blixard-Function": "default/nothing", "X-Blixard-Script": "0"})
        self.assertEqual((status, body), (200, b"hi"))


class Placing(unittest.TestCase):
    """What a node that is alone says of where things are."""

    def test_a_version_says_who_can_run_it(self):
        node.deploy("placed", echo)
        me = node.json("/v1/node")["name"]
        version = node.json("/v1/functions/placed")["version"]
        self.assertEqual([holder["name"] for holder in version["nodes"]], [me])
        self.assertIn(version["nodes"][0]["tier"], ("fast", "optimized"))
        status, body, fields = node.request("POST", f"/v1/functions/placed/invocations?node={me}", b"here")
        self.assertEqual((status, body, fields["x-blixard-node"]), (200, b"here", me))
        self.assertEqual(node.json(f"/v1/node?node={me}")["name"], me)
        self.assertEqual(node.json(f"/v1/functions/placed/logs?node={me}"), {"lines": []})

    def test_a_node_that_is_not_there_is_named(self):
        node.deploy("placed", echo)
        for method, path in (("GET", "/v1/node?node=nobody"), ("GET", "/v1/functions/placed/logs?node=nobody"),
                             ("GET", "/metrics?node=nobody"), ("POST", "/v1/functions/placed/invocations?node=nobody")):
            with self.subTest(path=path), self.assertRaises(Refused) as refused:
                node.call(method, path)
            self.assertEqual(refused.exception.status, 404)
            self.assertIn("nobody", refused.exception.problem["detail"])

    def test_a_call_takes_no_longer_than_its_client_allows(self):
        node.deploy("slow", compile_c("slow", "int main(void) { for (volatile int i = 0;; i++) {} }"))
        status, _, _ = node.request("POST", "/v1/functions/slow/invocations", b"",
                                    {"X-Blixard-Deadline-Ms": "100"}, timeout=20)
        self.assertEqual(status, 504)


class Repetition(unittest.TestCase):
    """Idempotency-Key: the same request again begins nothing new."""

    def create(self, name, key, **settings):
        return node.request("POST", f"/v1/functions/{name}/versions", {"module": self.module, **settings}, {"Idempotency-Key": key})

    def setUp(self):
        self.module = node.upload(echo)

    def test_the_same_request_gets_the_same_answer(self):
        status, first, _ = self.create("again", "key-1")
        self.assertEqual(status, 202)
        for _ in range(3):
            self.assertEqual(self.create("again", "key-1")[:2], (202, first))
        node.wait(json.loads(first)["operation"])
        self.assertEqual(self.create("again", "key-1")[:2], (202, first))  # also when it is over
        self.assertEqual(len(node.json("/v1/functions/again/versions")["versions"]), 1)
        self.assertEqual(json.loads(self.create("again", "key-2")[1])["version"], 2)

    def test_twice_at_once_makes_one(self):
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: self.create("twins", "twin-key")[:2], range(8)))
        self.assertEqual({status for status, _ in answers}, {202})
        self.assertEqual(len(set(answers)), 1)
        self.assertEqual(len(node.json("/v1/functions/twins/versions")["versions"]), 1)

    def test_a_key_of_another_request_is_refused(self):
        self.assertEqual(self.create("other", "key-3")[0], 202)
        for name, settings in (("other", {"timeout_ms": 77}), ("another", {})):
            status, body, _ = self.create(name, "key-3", **settings)
            self.assertEqual((status, json.loads(body)["code"]), (400, "invalid"))
            self.assertIn("key-3", json.loads(body)["detail"])
        for key in ("", "a b", "k" * 129, "\xe9"):
            self.assertEqual(self.create("other", key)[0], 400, key)

    def test_it_holds_over_a_restart(self):
        data = tempfile.mkdtemp(prefix="blixard-keys-")
        try:
            with Node(data) as first:
                module = first.upload(echo)
                body = first.request("POST", "/v1/functions/kept/versions", {"module": module}, {"Idempotency-Key": "k"})[1]
                first.wait(json.loads(body)["operation"])
            with Node(data) as second:
                again = second.request("POST", "/v1/functions/kept/versions", {"module": module}, {"Idempotency-Key": "k"})[1]
                self.assertEqual(again, body)
        finally:
            shutil.rmtree(data, ignore_errors=True)


class Waiting(unittest.TestCase):
    """?index=N&wait=: answers when the state has changed after N; ?consistency=linearizable."""

    def test_a_read_waits_for_a_change(self):
        index = self.index_of(node.request("GET", "/v1/functions"))
        module = node.upload(echo)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(node.request, "GET", f"/v1/functions/waited?index={index}&wait=60s")
            node.call("POST", "/v1/functions/waited/versions", {"module": module})
            status, body, fields = waiting.result(timeout=50)
        self.assertEqual(status, 200, body)
        self.assertGreater(int(fields["x-blixard-index"]), index)

    def test_it_answers_at_once_what_is_newer_already(self):
        node.deploy("newer", echo)
        self.assertEqual(node.request("GET", "/v1/functions?index=1&wait=10m", timeout=30)[0], 200)

    def test_it_answers_the_same_when_the_time_is_over(self):
        quiet = self.quiet_node()
        index = self.index_of(quiet.request("GET", "/v1/functions"))
        for _ in range(20):  # what a node says of itself when it begins is a change, too
            status, _, fields = quiet.request("GET", f"/v1/functions?index={index}&wait=50ms")
            self.assertEqual(status, 200)
            before, index = index, int(fields["x-blixard-index"])
            if index == before:
                return
        self.fail("it never was quiet")

    def test_a_node_that_stops_answers_those_who_wait(self):
        quiet = self.quiet_node()
        index = self.index_of(quiet.request("GET", "/v1/functions"))
        host, port = quiet.api.rsplit(":", 1)
        fields = f"Host: {quiet.api}\r\n\r\n"
        requests = f"GET /healthz HTTP/1.1\r\n{fields}GET /v1/functions?index={index + 1000}&wait=10m HTTP/1.1\r\n{fields}"
        with socket.create_connection((host, int(port)), timeout=30) as waits, socket.create_connection((host, int(port)), timeout=30) as goes:
            for connection in (waits, goes):
                connection.sendall(requests.encode())
                self.assertIn(b"200 OK", connection.recv(4096))  # of the first: the second is being served
            goes.close()
            quiet.stop()
            answer = b"".join(iter(lambda: waits.recv(4096), b""))
            self.assertTrue(answer.startswith(b"HTTP/1.1 200 OK"), answer)

    def test_a_linearizable_read_sees_what_was_acknowledged(self):
        for i in range(5):
            node.call("POST", f"/v1/functions/linear-{i}/versions", {"module": node.upload(echo)})
            names = [f["name"] for f in node.json("/v1/functions?consistency=linearizable")["functions"]]
            self.assertIn(f"linear-{i}", names)

    def test_what_cannot_be_meant_is_refused(self):
        for query in ("index=x", "wait=5s", "index=1&wait=soon", "index=1&wait=11m", "consistency=eventual"):
            with self.assertRaises(Refused) as caught:
                node.get(f"/v1/functions?{query}")
            self.assertEqual(caught.exception.problem["code"], "invalid", query)

    def index_of(self, answer):
        return int(answer[2]["x-blixard-index"])

    def quiet_node(self):
        quiet = Node()
        self.addCleanup(quiet.stop)
        return quiet


class Upgrade(unittest.TestCase):
    def test_a_folder_of_the_first_schema_goes_on(self):
        """It has a function of two versions, its alias on the first; nothing that was compiled."""
        data = pathlib.Path(tempfile.mkdtemp(prefix="blixard-old-"))
        try:
            with tarfile.open(ROOT / "test/fixtures/schema-1.tar.xz") as old:
                old.extractall(data, filter="data")
            for _ in range(2):
                with Node(data) as node_now:
                    self.assertEqual(node_now.json("/v1/functions/hi")["aliases"], {"live": "1"})
                    self.assertEqual(len(node_now.json("/v1/functions/hi/versions")["versions"]), 2)
                    self.assertEqual(node_now.invoke("hi"), "from an older version\n")
                    self.assertEqual(node_now.invoke("hi:2"), "from an older version\n")
                    module = node_now.upload(echo)
                    body = node_now.request("POST", "/v1/functions/new/versions", {"module": module}, {"Idempotency-Key": "k"})[1]
                    self.assertEqual(json.loads(body)["version"], 1)
                    node_now.wait(json.loads(body)["operation"])
                    self.assertEqual(node_now.invoke("new", b"new"), "new")
        finally:
            shutil.rmtree(data, ignore_errors=True)


class Streams(unittest.TestCase):
    def test_events_resume_where_they_were_left(self):
        start = int(node.request("GET", "/v1/functions")[2]["x-blixard-index"])
        node.deploy("watched", echo)
        is_alias = lambda data: data["table"] == "alias" and data["key"] == "default/watched/live"
        with Events(node, f"/v1/events?index={start}") as events:
            seen = events.until(is_alias)
        whole = [event["data"] for event in seen]
        marked = [i for i, event in enumerate(seen) if "id" in event]
        for i in marked[:-1]:
            with Events(node, "/v1/events", {"Last-Event-ID": seen[i]["id"]}) as events:
                again = [event["data"] for event in events.until(is_alias)]
            self.assertEqual(again, whole[i + 1:])

    def test_logs_are_listed_and_followed(self):
        node.deploy("talks", compile_c("talks", '#include <stdio.h>\nint main(void) { fputs("<4>a line\\n", stderr); }'))
        node.invoke("talks")
        with Events(node, "/v1/functions/talks/logs?follow=true") as events:
            first = json.loads(events.next()["data"])
            self.assertEqual((first["text"], first["level"], first["version"]), ("a line", "warn", 1))
            node.invoke("talks")
            second = json.loads(events.next()["data"])
            self.assertGreater(second["sequence"], first["sequence"])
        lines = node.json(f"/v1/functions/talks/logs?after={first['sequence']}")["lines"]
        self.assertEqual([line["sequence"] for line in lines], [second["sequence"]])
        with Events(node, "/v1/functions/talks/logs?follow=true&tail=0", {"Last-Event-ID": str(first["sequence"])}) as events:
            self.assertEqual(json.loads(events.next()["data"])["sequence"], second["sequence"])

    def test_streams_end_when_the_node_does(self):
        with Node() as other, Events(other, "/v1/events") as events:
            self.assertEqual(other.stop(), 0)
            while events.next() is not None:
                pass


class Documents(unittest.TestCase):
    def test_the_description_holds_together(self):
        api = node.json("/v1/openapi.json")
        self.assertEqual(api["openapi"], "3.1.0")
        ids = [operation["operationId"] for path in api["paths"].values() for operation in path.values()]
        self.assertEqual(len(ids), len(set(ids)))
        for reference in self.references(api):
            place = api
            for part in reference[2:].split("/"):
                place = place[part]
        for path, operations in api["paths"].items():
            for operation in operations.values():
                named = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
                self.assertEqual(named, set(part[1:-1] for part in path.split("/") if part.startswith("{")))

    def references(self, value):
        if isinstance(value, dict):
            yield from [value["$ref"]] if "$ref" in value else []
            value = list(value.values())
        if isinstance(value, list):
            for item in value:
                yield from self.references(item)

    def test_the_node_describes_itself(self):
        about = node.json("/v1/node")
        self.assertEqual((about["api"], about["gateway"]), (node.api, node.gateway))
        self.assertIn(about["isolation"], ("microvm", "process"))
        self.assertIn("# TYPE", node.get("/metrics"))


class Restart(unittest.TestCase):
    def test_ready_means_that_functions_answer(self):
        data = tempfile.mkdtemp(prefix="blixard-again-")
        try:
            with Node(data) as first:
                for i in range(6):
                    first.deploy(f"again-{i}", says(str(i)))
                first.call("POST", "/v1/functions/again-0/versions", {"module": first.upload(b"\0asm broken")})
            shutil.rmtree(pathlib.Path(data) / "build")  # all of it is compiled again
            with Node(data) as second:
                self.assertEqual([second.invoke(f"again-{i}") for i in range(6)], [f"{i}\n" for i in range(6)])
        finally:
            shutil.rmtree(data, ignore_errors=True)
            pathlib.Path(f"{data}.log").unlink(missing_ok=True)


class SuddenDeath(unittest.TestCase):
    def test_nothing_acknowledged_is_lost(self):
        data = tempfile.mkdtemp(prefix="blixard-killed-")
        try:
            first = Node(data)
            first.deploy("before", says("before"))
            begun = first.begin_deploy("during", says("during"))
            first.kill()
            with Node(data) as second:
                old = second.json(f"/v1/operations/{begun['operation']}")
                if old["state"] == "failed":
                    self.assertIn("restart", old["error"])
                else:
                    self.assertEqual(old["state"], "succeeded")
                for operation in second.json("/v1/operations")["operations"]:
                    if operation["resource"] == "functions/during/versions/1":
                        self.assertIn(second.wait(operation["id"])["state"], ("succeeded", "failed"))
                self.assertEqual(second.json("/v1/functions/during")["version"]["state"], "ready")
                self.assertEqual(second.invoke("during"), "during\n")
                self.assertEqual(second.invoke("before"), "before\n")  # ready means: at once
        finally:
            shutil.rmtree(data, ignore_errors=True)
            pathlib.Path(f"{data}.log").unlink(missing_ok=True)


if __name__ == "__main__":
    unittest.main()
