"""Asynchronous invocations: accepted durably, run at least once, asked about later."""
import concurrent.futures
import json
import pathlib
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

    folder = tempfile.TemporaryDirectory(prefix="blixard-invocation-")
    module = pathlib.Path(folder.name) / "gateway.wasm"
    subprocess.run(["clang-14", "--target=wasm32-wasi", "-O2", "-o", module, ROOT / "test/guests/gateway.c"],
                   check=True)
    node = Node()
    node.deploy("busy", module, timeout_ms=60000)
    echo = pathlib.Path(folder.name) / "echo.wasm"
    source = pathlib.Path(folder.name) / "echo.c"
    source.write_text('#include <unistd.h>\nint main(void) { char b[4096]; long n;'
                      ' while ((n = read(0, b, 4096)) > 0) write(1, b, n); return 0; }\n')
    subprocess.run(["clang-14", "--target=wasm32-wasi", "-O2", "-o", echo, source], check=True)
    node.deploy("echo", echo)


def tearDownModule():
    node.stop()
    folder.cleanup()


def begin(path="", body=b"", fields=None, prefer="", function="busy"):
    """Through the gateway: (status, document, fields)."""
    import http.client

    host, port = node.gateway.rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    try:
        connection.request("POST", f"/fn/{function}{path}", body,
                           {"Prefer": "respond-async" + (", " + prefer if prefer else ""), **(fields or {})})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read()), {name.lower(): value for name, value in answer.getheaders()}
    finally:
        connection.close()


def wait(name):
    return node.json(f"/v1/invocations/{name}/wait?timeout=30s")


def wait_for(name, holds):
    """Until it is so: by the index of the state, not by the clock."""
    index = 0
    while True:
        status, body, fields = node.request("GET", f"/v1/invocations/{name}?index={index}&wait=10s")
        document = json.loads(body)
        if holds(document):
            return document
        index = int(fields["x-blixard-index"]) + 1


class Accepting(unittest.TestCase):
    def test_202_then_the_result_by_id(self):
        status, document, fields = begin("/echo?x=1", b"hello", {"Content-Type": "text/plain"})
        self.assertEqual(status, 202)
        self.assertEqual(fields["location"], f"/v1/invocations/{document['id']}")
        self.assertEqual(fields["preference-applied"], "respond-async")
        ended = wait(document["id"])
        self.assertEqual(ended["state"], "succeeded")
        self.assertEqual(ended["response"]["body"], "hello")
        self.assertEqual(ended["attempts"], 1)
        self.assertNotIn("request", ended)

    def test_bytes_that_are_no_text(self):
        status, document, _ = begin("/echo", b"\x00\xff\x01")
        self.assertEqual(wait(document["id"])["response"]["body_base64"], "AP8B")

    def test_the_same_key_is_the_same_invocation(self):
        key = {"Idempotency-Key": "order-1"}
        _, first, _ = begin("/echo", b"one", key)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            ids = {document["id"] for _, document, _ in pool.map(lambda _: begin("/echo", b"one", key), range(16))}
        self.assertEqual(ids, {first["id"]})
        wait(first["id"])
        status, again, fields = begin("/echo", b"one", key)
        self.assertEqual((status, again["id"], again["state"]), (202, first["id"], "succeeded"))
        self.assertEqual(again["response"]["body"], "one")
        self.assertEqual(fields["idempotent-replayed"], "true")
        status, problem, _ = begin("/echo", b"two", key)
        self.assertEqual(status, 422)
        self.assertIn("new key", problem["detail"])

    def test_a_key_that_many_use_at_once_runs_once(self):
        key = {"Idempotency-Key": "order-2"}
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            ids = {document["id"] for _, document, _ in pool.map(lambda _: begin("/echo", b"x", key), range(32))}
        self.assertEqual(len(ids), 1)

    def test_a_structured_event_is_given_in_binary_mode(self):
        event = {"specversion": "1.0", "id": "e1", "source": "/shop", "type": "order.created", "data": {"total": 3}}
        kind = {"Content-Type": "application/cloudevents+json; charset=utf-8"}
        _, document, _ = begin("/env", json.dumps(event).encode(), kind)
        said = wait(document["id"])["response"]["body"]
        self.assertIn("HTTP_CE_TYPE=order.created", said)
        self.assertIn("CONTENT_TYPE=application/json", said)
        _, document, _ = begin("/echo", json.dumps(event).encode(), kind)
        self.assertEqual(json.loads(wait(document["id"])["response"]["body"]), {"total": 3})
        self.assertEqual(begin("/echo", b'{"id": "x"}', kind)[0], 400)
        self.assertEqual(begin("/echo", b'{', {"Content-Type": "application/cloudevents-batch+json"})[0], 400)

    def test_an_event_in_binary_mode_has_all_its_attributes(self):
        fields = {"ce-specversion": "1.0", "ce-id": "e1", "ce-source": "/shop", "ce-type": "order.created", "Content-Type": "application/json"}
        self.assertEqual(begin("/echo", b"{}", fields)[0], 202)
        for missing in ("ce-specversion", "ce-id", "ce-source", "ce-type"):
            status, refused, _ = begin("/echo", b"{}", {name: value for name, value in fields.items() if name != missing})
            self.assertEqual((status, missing.removeprefix("ce-") in json.dumps(refused)), (400, True), refused)
        self.assertEqual(begin("/echo", b"{}", {"ce-": "x", "CE-other!": "y"})[0], 202)  # no event

    def test_what_is_refused(self):
        self.assertEqual(begin("/echo", b"x" * (256 * 1024 + 1))[0], 413)
        self.assertEqual(begin("/echo", b"x", prefer="retries=many")[0], 400)
        self.assertEqual(begin("/echo", b"x", prefer="on-failure=mail:you")[0], 400)
        self.assertEqual(begin("/echo", b"x", {"Idempotency-Key": "a b"})[0], 400)
        status, body, _ = node.request("POST", "/v1/functions/nobody/invocations", b"",
                                       {"Prefer": "respond-async"})
        self.assertEqual(status, 404)
        self.assertEqual(node.request("GET", "/v1/invocations/0f")[0], 404)
        for count in (0, 1001):
            status, body, _ = node.request("GET", f"/v1/invocations?count={count}")
            self.assertEqual((status, json.loads(body)["detail"]), (400, f"?count= is {count}; it must be from 1 to 1000"))


class Trying(unittest.TestCase):
    def test_retries_then_a_dead_letter_that_can_be_redriven(self):
        _, document, _ = begin("/trap", b"x", prefer="retries=1, backoff=10ms")
        ended = wait(document["id"])
        self.assertEqual((ended["state"], ended["attempts"]), ("failed", 2))
        self.assertEqual(ended["error_code"], "trap")
        self.assertEqual(len(ended["attempt_list"]), 2)
        dead = json.loads(node.cli("invocation", "list", "busy", "--dead", "--output", "json"))
        self.assertIn(document["id"], [one["id"] for one in dead["invocations"]])
        node.cli("invocation", "redrive", document["id"])
        again = wait_for(document["id"], lambda one: one["state"] == "failed")
        self.assertEqual(len(again["attempt_list"]), 4)

    def test_a_project_does_not_wait_for_what_another_has_begun(self):
        """One project wants more than a node runs at once, of a function that does one thing after the other and does not end."""
        module = pathlib.Path(folder.name)
        node.deploy("lone", module / "gateway.wasm", timeout_ms=600000, instances_max=1)
        node.cli("queue", "create", "first", "--project", "other")  # a project is there with the first thing in it
        deployed = json.loads(node.call("POST", "/v1/functions/echo/versions?project=other", {"module": node.upload(module / "echo.wasm")}))
        node.json(f"/v1/operations/{deployed['operation']}/wait?timeout=60s&project=other")
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            begun = [document["id"] for _, document, _ in
                     pool.map(lambda _: begin("/spin", prefer="retries=0", function="lone"), range(160))]
        status, body, _ = node.request("POST", "/v1/functions/echo/invocations?project=other", b"hello", {"Prefer": "respond-async"})
        self.assertEqual(status, 202)
        name = json.loads(body)["id"]
        ended = node.json(f"/v1/invocations/{name}/wait?timeout=30s&project=other")
        self.assertEqual(ended["state"], "succeeded")
        for id in begun:
            self.assertEqual(node.request("DELETE", f"/v1/invocations/{id}")[0], 204)

    def test_a_404_of_the_function_is_final(self):
        _, document, _ = begin("/head?Status=404", prefer="backoff=10ms")
        ended = wait(document["id"])
        self.assertEqual((ended["state"], ended["attempts"], ended["status"]), ("failed", 1, 404))

    def test_cancel_breaks_off(self):
        _, document, _ = begin("/spin")
        wait_for(document["id"], lambda one: one["state"] == "running")
        node.cli("invocation", "cancel", document["id"])
        self.assertEqual(node.json(f"/v1/invocations/{document['id']}")["state"], "cancelled")
        self.assertEqual(node.request("DELETE", f"/v1/invocations/{document['id']}")[0], 409)

    def test_it_expires(self):
        _, document, _ = begin("/exit/3", prefer="retries=50, backoff=900ms, max-age=1s")
        self.assertEqual(wait(document["id"])["state"], "expired")

    def test_who_is_to_be_told_of_a_failure_is_told_that_it_expired(self):
        _, document, _ = begin("/exit/3", prefer="retries=50, backoff=600ms, max-age=1s, on-failure=function:echo")
        self.assertEqual(wait(document["id"])["state"], "expired")
        told = [wait(one["id"]) for one in node.json("/v1/invocations?function=echo")["invocations"]]
        self.assertTrue([one for one in told if document["id"] in one.get("response", {}).get("body", "")])

    def test_a_queue_is_told(self):
        node.cli("queue", "create", "ends")
        _, document, _ = begin("/echo", b"payload", prefer="on-success=queue:ends")
        said = json.loads(node.cli("queue", "receive", "ends", "--wait", "10s", "--output", "json"))
        self.assertIn(document["id"], json.dumps(said))
        self.assertIn("blixard.invocation.succeeded", json.dumps(said))

    def test_a_destination_that_takes_nothing_holds_up_no_other(self):
        """More ends that nobody takes than are told at once, and one behind them."""
        node.cli("queue", "create", "nowhere", "--max-depth", "1")
        node.cli("queue", "send", "nowhere", "--data", "fills it")
        ends = [begin("/echo", b"payload", prefer="on-success=queue:nowhere")[1]["id"] for _ in range(40)]
        for identity in ends:
            wait(identity)
        node.cli("queue", "create", "behind")
        _, document, _ = begin("/echo", b"payload", prefer="on-success=queue:behind")
        said = json.loads(node.cli("queue", "receive", "behind", "--wait", "20s", "--output", "json"))
        self.assertIn(document["id"], json.dumps(said))
        node.cli("queue", "update", "nowhere", "--max-depth", "100")  # which are told in their turn
        node.cli("queue", "receive", "nowhere", "--ack")
        said = json.loads(node.cli("queue", "receive", "nowhere", "--wait", "20s", "--output", "json"))
        self.assertIn("blixard.invocation.succeeded", json.dumps(said))

    def test_a_destination_that_is_not_there_is_refused_with_what_to_do(self):
        """Asked for or the function's default; by the gateway, by the command line."""
        for wanted, says in (("queue:nobody", "blixard queue create nobody"), ("stream:nobody", "blixard stream create nobody"),
                             ("function:nobody", "blixard fn deploy nobody"), ("function:echo:nobody", "no function echo:nobody")):
            for which in ("on-success", "on-failure"):
                with self.subTest(wanted=wanted, which=which):
                    status, document, _ = begin("/echo", b"x", prefer=f"{which}={wanted}")
                    self.assertEqual(status, 404, document)
                    self.assertIn(says, json.dumps(document))
                    self.assertIn(which, json.dumps(document))
                    with self.assertRaises(subprocess.CalledProcessError) as caught:
                        node.cli("fn", "invoke", "echo", "--async", "--data", "x", f"--{which}", wanted, stderr=subprocess.PIPE)
                    self.assertIn(says, caught.exception.stderr)

    def test_a_function_s_own_destination_refuses_no_work(self):
        module = pathlib.Path(folder.name) / "gateway.wasm"
        node.deploy("careless", module, **{"async": {"on_success": "queue:gone"}})
        status, document, _ = begin("/echo", b"x", function="careless")
        self.assertEqual(status, 202, document)
        seen = wait_for(document["id"], lambda now: "destination_error" in now)
        self.assertEqual(seen["state"], "succeeded")
        self.assertIn("queue:gone", seen["destination_error"])
        node.cli("queue", "create", "gone")
        self.assertIn(document["id"], node.cli("queue", "receive", "gone", "--wait", "20s", "--output", "json"))

    def test_a_destination_that_goes_later_is_seen_at_the_invocation(self):
        node.cli("queue", "create", "leaving")
        _, document, _ = begin("/spin", b"x", prefer="retries=0, on-failure=queue:leaving, timeout=2s")
        node.cli("queue", "delete", "leaving")
        seen = wait_for(document["id"], lambda now: "destination_error" in now)
        self.assertIn("queue:leaving", seen["destination_error"])
        self.assertIn("leaving", node.cli("invocation", "get", document["id"]))
        node.cli("queue", "create", "leaving")
        node.cli("queue", "receive", "leaving", "--wait", "20s")
        wait_for(document["id"], lambda now: "destination_error" not in now)

    def test_the_end_goes_to_a_destination(self):
        _, document, _ = begin("/echo", b"payload", prefer="on-success=function:echo")
        wait(document["id"])
        told = [wait(one["id"]) for one in node.json("/v1/invocations?function=echo")["invocations"]]
        told = [json.loads(one["response"]["body"]) for one in told if document["id"] in one["response"].get("body", "")]
        self.assertEqual([(one["request"]["body"], one["response"]["body"]) for one in told], [("payload", "payload")])


class CommandLine(unittest.TestCase):
    def test_a_message_that_is_too_large_is_told_the_bounds_of_messages(self):
        """Beyond what a message may have, and beyond what any request may have."""
        node.cli("queue", "create", "small")
        for size in (300 << 10, 2 << 20):
            given = pathlib.Path(folder.name) / "large"
            given.write_bytes(b"x" * size)
            with self.subTest(size=size), self.assertRaises(subprocess.CalledProcessError) as caught:
                node.cli("queue", "send", "small", "--file", given, stderr=subprocess.PIPE)
            self.assertIn("256 KiB", caught.exception.stderr)
            self.assertIn("where", caught.exception.stderr)

    def test_what_a_call_does_not_ask_for_is_as_the_function_has_it(self):
        node.cli("queue", "create", "lost")
        module = pathlib.Path(folder.name) / "gateway.wasm"
        node.deploy("sparing", module, **{"async": {"retries": 1, "backoff_ms": 10, "dead_letter": "lost"}})
        for prefer, attempts, depth in (("", 2, 1), ("retries=0", 1, 2), ('retries=0, on-failure=""', 1, 2)):
            _, document, _ = begin("/trap", prefer=prefer, function="sparing")
            ended = wait(document["id"])
            self.assertEqual((ended["state"], ended["attempts"]), ("failed", attempts), ended)
            deadline = time.monotonic() + 30
            while (seen := node.json("/v1/queues/lost")["depth"]) < depth:
                self.assertLess(time.monotonic(), deadline)
            self.assertEqual(seen, depth)

    def test_async_wait_and_list(self):
        self.assertEqual(node.cli("fn", "invoke", "echo", "--async", "--wait", "--data", "x"), "x")
        self.assertEqual(node.cli("fn", "invoke", "echo", "--async", "--wait", "--timeout", "60s", "--data", "x"), "x")
        name = node.cli("fn", "invoke", "echo", "--async", "--idempotency-key", "k1", "--data", "x").strip()
        self.assertRegex(name, "^[0-9a-f]{32}$")
        node.cli("invocation", "wait", name)
        self.assertIn("succeeded", node.cli("invocation", "get", name))
        kept = node.cli("fn", "invoke", "echo", "--async", "--keep", "1h", "--data", "x").strip()
        self.assertEqual(json.loads(node.cli("invocation", "get", kept, "--output", "json"))["policy"]["keep_ms"], 3600000)
        lines = node.cli("fn", "invoke", "echo", "--async", "--data", "a\nb\n").strip()
        node.cli("invocation", "wait", lines)
        self.assertIn("answer          a?b\n", node.cli("invocation", "get", lines))
        self.assertIn(name, node.cli("invocation", "list", "echo"))
        node.cli("invocation", "logs", name)


class Surviving(unittest.TestCase):
    def test_kill_after_the_202(self):
        global node
        ids = [begin("/echo", b"kept %d" % number)[1]["id"] for number in range(20)]
        spinning = begin("/spin", prefer="timeout=1s, retries=0")[1]["id"]
        from node import Node

        folder_kept = node.folder
        node.kill()
        again = Node(folder=folder_kept)
        again.owned = node.owned
        node = again
        for name in ids:
            self.assertEqual(wait(name)["state"], "succeeded", name)
        self.assertEqual(wait(spinning)["state"], "failed")
