"""Functions on three nodes: deployed at one, called at all, whoever of them dies or cannot compile."""
import hashlib
import http.client
import json
import os
import pathlib
import shutil
import ssl
import subprocess
import tempfile
import time
import unittest

from member import Member, WAIT_SECONDS, is_whole
from node import BUILD, ROOT, Refused
from websocket import DEFLATE, TEXT, Client, frame, pack

PLAIN_ONLY = "the time goes to waiting for elections, leases and nodes that begin again"

folder = None
echo = None
members = {}
OPTIONS = ("--drain-timeout-ms", "1000", "--isolation", "auto")


def setUpModule():
    global folder, echo
    folder = tempfile.TemporaryDirectory(prefix="blixard-anynode-")
    echo = compile_c("echo", (ROOT / "test/guests/echo.c").read_text())


def tearDownModule():
    folder.cleanup()


def compile_c(name, source, *flags):
    path = pathlib.Path(folder.name) / f"{name}.c"
    path.write_text(source)
    wasm = path.with_suffix(".wasm")
    subprocess.run(["clang-14", "--target=wasm32-wasi", "-O1", *flags, "-o", wasm, path], check=True)
    return wasm.read_bytes()


def says(text):
    return compile_c(f"says-{text}", f'#include <stdio.h>\nint main(void) {{ puts("{text}"); }}\n')


def takes_long_to_build(text):
    """Many functions: the compilers are at it for seconds."""
    parts = "\n".join(f"__attribute__((noinline)) double f{i}(double x) {{ double y = x * {i}.5; "
                      f"for (int j = 0; j < {i % 7 + 2}; j++) {{ y = y * 1.0{i} + x / (y + {i}); }} return y; }}"
                      for i in range(1, 800))
    calls = "".join(f"s += f{i}(s);" for i in range(1, 800))
    return compile_c(f"long-{text}", f'#include <stdio.h>\n{parts}\nint main(void) {{ double s = 1; if (getchar() == 42) '
                                     f'{{ {calls} }} printf("{text}%s", s > 2 ? "!" : ""); }}\n')


class Worker(Member):
    """A member with more to ask."""

    env = None

    def begin(self, *arguments, **options):
        before = dict(os.environ)
        os.environ.update(self.env or {})
        try:
            return super().begin(*arguments, **options)
        finally:
            os.environ.clear()
            os.environ.update(before)

    def raw(self, method, path, body=None, fields=None, at=None):
        """(status, body, fields) whatever the status."""
        host, port = (at or self.api).rsplit(":", 1)
        connection = http.client.HTTPConnection(host, int(port), timeout=WAIT_SECONDS)
        try:
            connection.request(method, path, body, fields or {})
            answer = connection.getresponse()
            return answer.status, answer.read(), {n.lower(): v for n, v in answer.getheaders()}
        finally:
            connection.close()

    def begin_deploy(self, name, module, **settings):
        status, body, _ = self.raw("POST", "/v1/blobs", module)
        assert status == 201, body
        return self.request("POST", f"/v1/functions/{name}/versions", {"module": json.loads(body)["id"], **settings})

    def wait(self, operation):
        return self.request("GET", f"/v1/operations/{operation}/wait?timeout=50s")

    def deploy(self, name, module, **settings):
        """The version, and the index of the state that has it."""
        begun = self.begin_deploy(name, module, **settings)
        ended = self.wait(begun["operation"])
        assert ended["state"] == "succeeded", ended
        return begun["version"], int(self.raw("GET", "/v1/functions")[2]["x-blixard-index"])

    def sees(self, index):
        """Wait until its state is at least that of another node's answer."""
        now = int(self.raw("GET", "/v1/functions")[2]["x-blixard-index"])
        while now < index:
            now = int(self.raw("GET", f"/v1/functions?index={now}&wait=5s")[2]["x-blixard-index"])

    def until_function(self, name, holds):
        """The function as this node sees it, once `holds` of it; None when it is not there."""
        index = 0
        end = time.monotonic() + WAIT_SECONDS
        while True:
            status, body, fields = self.raw("GET", f"/v1/functions/{name}?index={index}&wait=2s")
            seen = json.loads(body) if status == 200 else None
            if holds(seen):
                return seen
            assert time.monotonic() < end, (self.name, seen, "".join(self.said[-30:]))
            index = int(fields["x-blixard-index"])

    def call(self, name, body=b"", fields=None, query=""):
        return self.raw("POST", f"/v1/functions/{name}/invocations{query}", body, fields)

    def metric(self, name):
        return sum(float(line.split()[-1]) for line in self.raw("GET", "/metrics")[1].decode().splitlines()
                   if line.startswith(name))

    def blobs(self):
        return {path.name for path in (self.data / "images").glob("??/*")}


def holders(function):
    return sorted(node["name"] for node in function["version"]["nodes"]) if function else []


class Three(unittest.TestCase):
    """Three servers; the first one began."""

    env = {}

    @classmethod
    def setUpClass(cls):
        cls.nodes = [Worker(name, 21 + number, *OPTIONS) for number, name in enumerate("abc")]
        for node in cls.nodes:
            node.env = cls.env.get(node.name)
            cls.addClassCleanup(node.clean)
        a, b, c = cls.nodes
        a.begin()
        a.request("POST", "/v1/cluster", {"name": "home"})
        for node in (b, c):
            node.begin(a.token())
        for node in cls.nodes:
            node.until(is_whole(3), "three servers")

    def quiet(self):
        """Nothing is being built of what there is."""
        a = self.nodes[0]
        for name in [function["name"] for function in a.request("GET", "/v1/functions")["functions"]]:
            a.until_function(name, lambda seen: not seen or seen["version"]["state"] == "failed" or len(holders(seen)) == 3
                             and all(holder["tier"] == "optimized" for holder in seen["version"]["nodes"]))

    def everywhere(self, name, count=3):
        for node in self.nodes:
            node.until_function(name, lambda seen: len(holders(seen)) >= count)


class AnyNode(Three):
    def test_what_one_deploys_all_can_run_at_once(self):
        a, b, c = self.nodes
        _, index = a.deploy("hello", says("one"))
        for node in (b, c):
            node.sees(index)
            status, body, fields = node.call("hello")
            self.assertEqual((status, body), (200, b"one\n"), "".join(node.said[-20:]))
            self.assertIn(fields["x-blixard-node"], "abc")
            status, body, _ = node.raw("GET", "/fn/hello", at=node.gateway)
            self.assertEqual((status, body), (200, b"one\n"))
        self.everywhere("hello")
        for node in self.nodes:
            self.assertEqual(node.call("hello")[2]["x-blixard-node"], node.name)

    def test_what_one_has_compiled_the_others_take(self):
        a, b, c = self.nodes
        self.quiet()
        before = {node.name: node.metric("blixard_compiles_total") for node in (a, c)}
        _, index = b.deploy("taken", says("taken"))
        for node in self.nodes:
            node.until_function("taken", lambda seen: len(holders(seen)) == 3 and all(
                holder["tier"] == "optimized" for holder in seen["version"]["nodes"]))
        for node in (a, c):
            self.assertEqual(node.metric("blixard_compiles_total"), before[node.name], node.name)

    def test_a_call_goes_exactly_where_it_is_to_go(self):
        a, b, c = self.nodes
        b.deploy("placed", echo)
        self.everywhere("placed")
        for node in self.nodes:
            for target in self.nodes:
                status, body, fields = node.call("placed", b"x" * 300000, query=f"?node={target.name}")
                self.assertEqual((status, len(body), fields["x-blixard-node"]), (200, 300000, target.name))
        status, body, _ = a.call("placed", query="?node=nobody")
        self.assertEqual(status, 404)
        self.assertIn(b"nobody", body)

    def test_a_client_that_goes_away_ends_its_call_where_it_runs(self):
        a, b, _ = self.nodes
        a.deploy("endless", compile_c("endless", "int main(void) { for (volatile int i = 0;; i++) {} }"), timeout_ms=300000)
        self.everywhere("endless")
        host, port = a.api.rsplit(":", 1)
        connection = http.client.HTTPConnection(host, int(port), timeout=WAIT_SECONDS)
        connection.request("POST", "/v1/functions/endless/invocations?node=b", b"")
        end = time.monotonic() + WAIT_SECONDS
        while b.metric("blixard_instances_busy") < 1:
            self.assertLess(time.monotonic(), end)
        connection.close()
        while b.metric("blixard_instances_busy") > 0:
            self.assertLess(time.monotonic(), end)
        a.request("DELETE", "/v1/functions/endless")

    def test_the_request_arrives_as_it_was_sent(self):
        """What a function sees of a request does not depend on where it runs."""
        a, b, _ = self.nodes
        shows = compile_c("shows", '#include <stdio.h>\n#include <stdlib.h>\nextern char **environ;\nint main(void) {\n'
                          'for (char **at = environ; *at; at++) puts(*at);\nint c; while ((c = getchar()) >= 0) putchar(c); }\n')
        a.deploy("shows", shows)
        self.everywhere("shows")
        fields = {"X-Own": "1", "Cookie": "a=b", "Host": "localhost", "X-Request-Id": "same",
                  "X-Blixard-Hop": "1", "X-Blixard-Client": "192.0.2.1:1"}
        seen = {}
        for target in self.nodes:
            status, body, _ = a.call("shows", b"body", fields, f"?node={target.name}")
            self.assertEqual(status, 200)
            seen[target.name] = sorted(line for line in body.decode().splitlines()
                                       if not line.startswith(("QUERY_STRING=", "REQUEST_URI=", "SERVER_PORT=", "TRACEPARENT=",
                                                                           "HTTP_TRACEPARENT=")))
        self.assertEqual(seen["a"], seen["b"])
        self.assertEqual(seen["a"], seen["c"])
        self.assertIn("HTTP_X_OWN=1", seen["b"])
        self.assertIn("REMOTE_ADDR=127.0.0.1", seen["b"])
        self.assertIn("SERVER_NAME=localhost", seen["b"])
        self.assertFalse([line for line in seen["b"] if "BLIXARD_HOP" in line or "BLIXARD_CLIENT" in line])

    def test_what_is_deleted_at_one_is_gone_at_all(self):
        a, b, c = self.nodes
        module = says("gone")
        blob = hashlib.sha256(module).hexdigest()
        self.quiet()
        before = {node.name: node.blobs() for node in self.nodes}
        a.deploy("gone", module)
        for node in self.nodes:
            node.until_function("gone", lambda seen: len(holders(seen)) == 3 and all(
                holder["tier"] == "optimized" for holder in seen["version"]["nodes"]))
            self.assertEqual(node.call("gone")[1], b"gone\n")
            self.assertIn(blob, node.blobs())
        c.request("DELETE", "/v1/functions/gone")
        for node in self.nodes:
            node.until_function("gone", lambda seen: seen is None)
            self.assertEqual(node.call("gone")[0], 404)
            end = time.monotonic() + WAIT_SECONDS
            while node.blobs() - before[node.name] and time.monotonic() < end:
                node.raw("GET", "/readyz")
            self.assertEqual(node.blobs() - before[node.name], set(), node.name)

    def test_an_old_version_is_passed_on_until_it_runs_here_too(self):
        """Node c was not there when it was made: it has nothing of it."""
        a, b, c = self.nodes
        c.stop()
        a.deploy("old", says("old"))
        a.deploy("old", says("before"))  # what the alias can go back to is made ready everywhere
        a.deploy("old", says("new"))
        c.begin()
        c.until(is_whole(3), "three servers")
        c.until_function("old", lambda seen: len(holders(seen)) == 3)
        forwarded = c.metric("blixard_calls_forwarded_total")

        # What a node passed on is not passed on again.
        context = ssl.create_default_context(cafile=a.data / "cluster/ca.pem")
        context.check_hostname = False
        context.load_cert_chain(a.data / "cluster/node.pem", a.data / "cluster/node.key")
        host, port = c.cluster.split(":")
        connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=WAIT_SECONDS)
        self.addCleanup(connection.close)

        def hop(function):
            connection.request("POST", "/fn/any", b"", {"X-Blixard-Hop": "1", "X-Blixard-Function": function,
                                                        "X-Blixard-Script": "7"})
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.headers["X-Blixard-Refused"]

        status, body, refused = hop("default/old:1")
        self.assertEqual((status, refused), (503, "1"), body)
        self.assertEqual(hop("default/old:3")[:2], (200, b"new\n"))
        self.assertEqual(hop("nonsense")[0], 400)
        self.assertEqual(c.metric("blixard_calls_forwarded_total"), forwarded)

        status, body, fields = c.call("old:1")
        self.assertEqual((status, body), (200, b"old\n"))
        self.assertIn(fields["x-blixard-node"], "ab")
        self.assertEqual(c.metric("blixard_calls_forwarded_total"), forwarded + 1)
        index = 0
        end = time.monotonic() + WAIT_SECONDS
        while c.name not in [holder["name"] for holder in c.request("GET", "/v1/functions/old/versions/1")["nodes"]]:
            self.assertLess(time.monotonic(), end)
            index = int(c.raw("GET", f"/v1/functions/old?index={index}&wait=2s")[2]["x-blixard-index"])
        self.assertEqual(c.call("old:1")[1:3][1]["x-blixard-node"], "c")

    def test_a_websocket_is_passed_on_where_its_function_is_not(self):
        """Node c was not there when it was made."""
        a, b, c = self.nodes
        talks = compile_c("talks", (ROOT / "test/guests/socket.c").read_text(), "-mexec-model=reactor", "-I", str(ROOT / "sdk/c"))
        c.stop()
        a.deploy("chat", talks, timeout_ms=120000)
        a.deploy("chat", says("before"))
        a.deploy("chat", says("new"))
        a.request("PUT", "/v1/routes/chat", {"function": "chat:1", "path": "/chat/{room}", "websocket": True, "subprotocols": ["chat.v1"]})
        c.begin()
        c.until(is_whole(3), "three servers")
        c.until_function("chat", lambda seen: len(holders(seen)) == 3)
        forwarded = c.metric("blixard_calls_forwarded_total")
        client = Client(c.gateway, "/chat/room", {"Sec-WebSocket-Protocol": "chat.v1", "Sec-WebSocket-Extensions": "permessage-deflate"})
        self.addCleanup(client.close)
        self.assertEqual((client.status, client.fields["sec-websocket-protocol"], client.fields["sec-websocket-extensions"]),
                         (101, "chat.v1", DEFLATE), client.heard)
        self.assertEqual(c.metric("blixard_calls_forwarded_total"), forwarded + 1)
        self.assertIn(client.fields["x-blixard-node"], "ab")
        client.send(frame(TEXT, b"who"), frame(TEXT, b"protocol"))
        self.assertEqual([client.receive(), client.receive()], [(TEXT, b"/chat/room1"), (TEXT, b"chat.v1")])
        long = b"all work and no play " * 40000
        for _ in range(5):
            client.send(frame(TEXT, pack(long), first=0x40))
        for _ in range(5):
            self.assertEqual(client.receive(packed=True), (TEXT, long))
        client.send(frame(TEXT, b"close"))
        self.assertEqual(client.closed(), (4001, "as you say"))
        gone = Client(c.gateway, "/chat/room")
        gone.send(frame(TEXT, b"deaf"))
        gone.close()  # the call ends where it runs
        end = time.monotonic() + WAIT_SECONDS
        while sum(node.metric("blixard_instances_busy") for node in self.nodes) > 0:
            self.assertLess(time.monotonic(), end)
        a.request("DELETE", "/v1/routes/chat")

    def test_what_is_deleted_while_a_node_is_away_is_gone_when_it_is_back(self):
        a, _, c = self.nodes
        self.quiet()
        before = c.blobs()
        module = compile_c("away", '#include <stdio.h>\nint main(void) { fputs("noted\\n", stderr); puts("away"); }')
        a.deploy("away", module)
        c.until_function("away", lambda seen: len(holders(seen)) == 3 and all(
            holder["tier"] == "optimized" for holder in seen["version"]["nodes"]))
        self.assertEqual(c.call("away", query="?node=c")[1], b"away\n")
        self.assertEqual(len(c.request("GET", "/v1/functions/away/logs?node=c")["lines"]), 1)
        c.stop()
        a.request("DELETE", "/v1/functions/away")
        c.begin()
        end = time.monotonic() + 10
        while c.blobs() - before and time.monotonic() < end:
            c.raw("GET", "/readyz")
        self.assertEqual(c.blobs() - before, set(), "".join(c.said[-15:]) + hashlib.sha256(module).hexdigest())
        self.assertFalse((c.data / "logs/default/away").exists())
        c.until(is_whole(3), "three servers")

    def test_logs_and_status_of_any_node_are_read_at_any_node(self):
        a, b, c = self.nodes
        a.deploy("logs", compile_c("logs", '#include <stdio.h>\nint main(void) { fputs("noted\\n", stderr); puts("ok"); }'))
        self.everywhere("logs")
        self.assertEqual(a.call("logs", query="?node=c")[1], b"ok\n")
        lines = b.request("GET", "/v1/functions/logs/logs?node=c")["lines"]
        self.assertEqual([line["text"] for line in lines], ["noted"])
        self.assertEqual(b.request("GET", "/v1/functions/logs/logs?node=a")["lines"], [])
        for target in self.nodes:
            self.assertEqual(b.request("GET", f"/v1/node?node={target.name}")["data_folder"], str(target.data))

    def test_operations_are_seen_waited_for_and_cancelled_anywhere(self):
        a, b, c = self.nodes
        begun = b.begin_deploy("cancelled", takes_long_to_build("cancelled"))
        c.until_function("cancelled", lambda seen: seen is not None)
        seen = c.request("GET", f"/v1/operations/{begun['operation']}")
        self.assertEqual((seen["state"], seen["node"]), ("running", "b"))
        c.request("DELETE", f"/v1/operations/{begun['operation']}")
        ended = a.wait(begun["operation"])
        self.assertEqual(ended["state"], "cancelled", ended)
        self.assertEqual(a.request("GET", "/v1/functions/cancelled/versions/1")["state"], "failed")

    def test_a_module_uploaded_elsewhere_can_be_deployed(self):
        a, b, _ = self.nodes
        module = says("elsewhere")
        blob = json.loads(a.raw("POST", "/v1/blobs", module)[1])["id"]
        begun = b.request("POST", "/v1/functions/elsewhere/versions", {"module": blob})
        self.assertEqual(b.wait(begun["operation"])["state"], "succeeded")
        with self.assertRaises(Refused) as refused:
            b.request("POST", "/v1/functions/elsewhere/versions", {"module": "0" * 64})
        self.assertEqual(refused.exception.status, 404)

    def test_code_is_compiled_once_whatever_files_go_with_it(self):
        """As functions in JavaScript are: one engine, and scripts as assets."""
        a, b, _ = self.nodes
        modules = {}
        with tempfile.TemporaryDirectory(prefix="blixard-engine-") as folder:
            folder = pathlib.Path(folder)
            (folder / "main.c").write_text('#include <stdio.h>\nint main(void) { char text[64] = ""; FILE *file = fopen("/script", "r");\n'
                                           ' fgets(text, sizeof(text), file); puts("Content-Type: text/plain\\n"); fputs(text, stdout); return 0; }\n')
            (folder / "blixard.yaml").write_text("language: c\nassets: [script]\n")
            for name in ("script-one", "script-two"):
                (folder / "script").write_text(name)
                done = subprocess.run([BUILD / "blixard", "fn", "build", folder, "-o", "json"], check=True, stdout=subprocess.PIPE)
                modules[name] = pathlib.Path(json.loads(done.stdout)["module"]).read_bytes()
        a.deploy("script-one", modules["script-one"])
        self.quiet()
        compiled = [node.metric("blixard_compiles_total") for node in self.nodes]
        b.deploy("script-two", modules["script-two"])
        self.quiet()
        self.assertEqual([node.metric("blixard_compiles_total") for node in self.nodes], compiled)
        for node in self.nodes:
            for name in modules:
                self.assertEqual(node.call(name)[1], name.encode())

    def test_a_backup_of_any_node_has_all_modules(self):
        a, b, c = self.nodes
        module = says("saved")
        blob = hashlib.sha256(module).hexdigest()
        a.deploy("saved", module)
        self.everywhere("saved")
        (c.data / "images" / blob[:2] / blob).unlink()
        status, body, _ = c.raw("GET", "/v1/cluster/backup")
        self.assertEqual(status, 200)
        self.assertIn(b"blobs/" + blob.encode(), body)

    def test_a_fetch_goes_on_where_it_was_broken_off(self):
        """The beginning is here already: only the rest is asked for."""
        a, _, c = self.nodes
        module = says("resumed")
        blob = hashlib.sha256(module).hexdigest()
        (c.data / "images" / f"fetch-{blob}").write_bytes(module[:len(module) // 2])
        a.deploy("resumed", module)
        self.everywhere("resumed")
        self.assertIn(blob, c.blobs())
        self.assertEqual(c.call("resumed", query="?node=c")[1], b"resumed\n")


class WithoutCompilers(Three):
    """Node c has none."""

    @classmethod
    def setUpClass(cls):
        path = pathlib.Path(folder.name) / "bin"
        path.mkdir(exist_ok=True)
        for tool in ("bash", "sh"):
            if not (path / tool).exists():
                (path / tool).symlink_to(shutil.which(tool))
        cls.env = {"c": {"PATH": str(path)}}
        super().setUpClass()

    def test_it_runs_what_others_have_compiled(self):
        a, b, c = self.nodes
        self.assertTrue(any("functions cannot be built" in line for line in c.said))
        _, index = a.deploy("hello", says("compiled"))
        c.sees(index)
        self.assertEqual(c.call("hello")[1], b"compiled\n")
        for node in self.nodes:
            node.until_function("hello", lambda seen: len(holders(seen)) == 3 and all(
                holder["tier"] == "optimized" for holder in seen["version"]["nodes"]))
        self.assertEqual(c.call("hello", query="?node=c")[1], b"compiled\n")

    def test_it_says_why_it_cannot_deploy(self):
        ended = self.nodes[2].wait(self.nodes[2].begin_deploy("impossible", says("impossible"))["operation"])
        self.assertEqual((ended["state"], ended["error_code"]), ("failed", "unsupported"))

    def test_calls_go_on_when_a_holder_is_killed(self):
        a, b, c = self.nodes
        a.deploy("survives", says("survives"))
        self.everywhere("survives")
        b.kill()
        for node in (a, c):
            self.assertEqual(node.call("survives")[1], b"survives\n")
        status, body, _ = a.call("survives", query="?node=b")
        self.assertEqual(status, 503)
        self.assertIn(b"node b", body)
        b.begin()
        b.until(is_whole(3), "three servers")
        b.until_function("survives", lambda seen: holders(seen) == ["a", "b", "c"])


class Death(Three):
    def test_a_build_is_gone_on_with_when_its_node_dies(self):
        """Killed in the middle: another node goes on, and who waits there is told."""
        a, b, c = self.nodes
        leader = next(node for node in self.nodes if node.status()["leader"] == node.name)
        builder = next(node for node in self.nodes if node is not leader)
        begun = builder.begin_deploy("inherited", takes_long_to_build("inherited"))
        leader.until_function("inherited", lambda seen: seen is not None)
        end = time.monotonic() + WAIT_SECONDS
        blob = leader.request("GET", "/v1/functions/inherited/versions/1")["module"]
        while blob not in leader.blobs() and time.monotonic() < end:
            leader.raw("GET", "/readyz")
        builder.kill()
        ended = leader.wait(begun["operation"])
        self.assertEqual(ended["state"], "succeeded", (ended, leader.said[-20:]))
        self.assertEqual(ended["node"], leader.name)
        self.assertEqual(leader.call("inherited")[1], b"inherited")
        builder.begin()
        builder.until(is_whole(3), "three servers")
        builder.until_function("inherited", lambda seen: len(holders(seen)) == 3)
        self.assertEqual(builder.call("inherited")[1], b"inherited")
        self.assertEqual([version["state"] for version in
                          builder.request("GET", "/v1/functions/inherited/versions")["versions"]], ["ready"])

    def test_a_build_is_begun_again_when_its_node_comes_back(self):
        a, b, c = self.nodes
        begun = c.begin_deploy("again", takes_long_to_build("again"))
        c.kill()
        c.begin()
        c.until(is_whole(3), "three servers")
        seen = a.until_function("again", lambda seen: seen and seen["version"]["state"] != "building")
        self.assertEqual(seen["version"]["state"], "ready", (seen, c.said[-20:]))
        self.assertNotEqual(a.request("GET", f"/v1/operations/{begun['operation']}")["state"], "running")
