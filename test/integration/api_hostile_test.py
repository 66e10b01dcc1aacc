"""What anybody may send to any operation: its own description says what it takes, and gets everything but that.

Every operation of /v1/openapi.json is asked with each key of its body, each query parameter and each part of its path
replaced by what does not belong there, at a node that has one of most things.  What comes back is an answer with a status
that means something, never 500; and the node lives on.
"""
import contextlib
import copy
import http.client
import json
import pathlib
import shutil
import socket
import subprocess
import tempfile
import unittest

from machines import machines_of
from node import BUILD, QUICK, ROOT, Node

VALUES = [None, True, -1, 0, 1, 2**31, 2**53, 2**63 - 1, -2**63, 1.5, 1e308, "", "x", "../../etc/passwd", "%s%n", "a" * 300, "\u0000", "\n", "\ud7ff\uffff",
          "'; DROP TABLE function; --", "9" * 24, "-1h", "1e9999", [], {}, [None], [[]], [{}], ["", ""], ["x"] * 2000, {"": ""}, {"x": {"y": [1]}},
          {f"k{i}": "v" for i in range(300)}]
BODIES = [b"", b"{", b"null", b"[]", b"1", b'"x"', b"\xff\xfe", b"{}{}", b"[" * 3000 + b"]" * 3000, b'{"a":' * 2000 + b"1" + b"}" * 2000, b'{"name":1,"name":"x"}',
          b'{"n":99999999999999999999999999}', b'{"n":1e400}', b"\0" * 100]
PARTS = ["x", "%00", "%2e%2e", "%2F", "a" * 600, "%FF", "%", "-", "0", "18446744073709551616", "%27%3B--", "A%20B", "%0d%0ax:%20y"]
QUERIES = ["", "x", "-1", "0", "18446744073709551616", "1e9", "%00", "%FF", "%", "a" * 600, "%0d%0a", "10ms"]
SECONDS_MAX = 60  # of an answer, on a busy machine

# Never asked: the node would want certificates from then on; a stream that ends with its client.
LEFT_OUT = {"cluster_init", "event_list"}

# What the node has, by the part of a path before its name.
NAMES = {"functions": "echo", "queues": "jobs", "streams": "log", "kv": "key", "routes": "home", "triggers": "tick", "images": "blank", "volumes": "data",
         "machines": "box", "aliases": "live", "versions": "1", "quotas": "small", "placement-groups": "near"}

# A body that is taken, where what its type must have is not enough for that.
TAKEN = {
    "machine_create": {"name": "new", "image": "blank", "strategy": "Halted"},
    "machine_gang_create": {"machine": {"name": "new", "image": "blank", "strategy": "Halted"}, "count": 1},
    "trigger_create": {"name": "new", "kind": "cron", "function": "echo", "settings": {"schedule": "0 0 1 1 *"}},
    "route_set": {"function": "echo", "path": "/new"},
    "volume_create": {"name": "new", "size_bytes": 1 << 20},
    "queue_send": {"messages": [{"body": "x"}]},
    "stream_append": {"records": [{"body": "x"}]},
    "placement_preview": {"items": [{"machine": {"name": "new", "image": "blank"}}]},
    "security_rule_add": {"allow": "tcp/80"},
}

node = None
things = contextlib.ExitStack()


def setUpModule():
    global node
    unittest.addModuleCleanup(things.close)
    data = pathlib.Path(things.enter_context(tempfile.TemporaryDirectory(prefix="blixard-hostile-")), "data")
    data.mkdir()
    things.enter_context(machines_of(data))  # some of what is asked for is made
    node = Node(folder=data, arguments=("--log-level", "error", *QUICK))
    things.callback(lambda: node.stop())
    with tempfile.TemporaryDirectory() as folder:
        wasm = pathlib.Path(folder, "echo.wasm")
        subprocess.run(["clang-14", "--target=wasm32-wasi", "-O1", "-o", wasm, ROOT / "test/guests/echo.c"], check=True)
        TAKEN["version_create"] = {"module": node.upload(wasm)}
        node.deploy("echo", wasm)
        disk = pathlib.Path(folder, "disk.raw")
        disk.write_bytes((b"\0" * 510 + b"\x55\xaa").ljust(1 << 20, b"\0"))
        made = [("queue", "create", "jobs"), ("queue", "send", "jobs", "--data", "one"), ("stream", "create", "log"), ("stream", "append", "log", "--data", "one"),
                ("kv", "set", "key", "value"), ("route", "set", "home", "--path", "/home", "--function", "echo"),
                ("trigger", "create", "tick", "--kind", "cron", "--schedule", "0 0 1 1 *", "--function", "echo"),
                ("placement-group", "create", "near", "--policy", "spread"), ("quota", "set", "small", "--machines", "1")]
        if shutil.which("qemu-system-x86_64") and shutil.which("qemu-img"):
            made += [("image", "import", "blank", "--disk", disk, "--no-agent"), ("volume", "create", "data", "--size", "1MiB"),
                     ("vm", "create", "box", "--image", "blank", "--strategy", "Halted", "--no-wait")]
        for words in made:
            subprocess.run([BUILD / "blixard", *words], env=node.env, check=True, stdout=subprocess.DEVNULL, timeout=120)


class Operation:
    """An operation, and a request for it that is good."""

    def __init__(self, path, method, about, schemas):
        self.id = about["operationId"]
        self.method = method.upper()
        self.schemas = schemas
        self.parts = path.split("/")
        self.places = [place for place, part in enumerate(self.parts) if part.startswith("{")]
        for place in self.places:
            self.parts[place] = node_name() if self.parts[place - 1] == "nodes" else NAMES.get(self.parts[place - 1], "x")
        self.queries = [parameter["name"] for parameter in about["parameters"] if parameter["in"] == "query"]
        content = about.get("requestBody", {}).get("content", {})
        self.schema = self.whole(content["application/json"]["schema"]) if "application/json" in content else None
        self.takes_bytes = bool(content) and self.schema is None
        self.good = TAKEN.get(self.id, self.sample(self.schema)) if self.schema else None

    def whole(self, schema):
        while "$ref" in schema:
            schema = self.schemas[schema["$ref"].rsplit("/", 1)[1]]
        return schema

    def sample(self, schema, depth=0):
        """What must be in it, of its type."""
        schema = self.whole(schema)
        kind = schema.get("type")
        kind = kind[0] if isinstance(kind, list) else kind
        if kind == "object":
            return {name: self.sample(schema["properties"][name], depth + 1) for name in schema.get("required", []) if depth < 4}
        return {"string": "x", "integer": 1, "number": 1.0, "boolean": True, "array": []}.get(kind)

    def path(self, place=None, value=None):
        """With another value in that place; what would be deleted is not there."""
        parts = [*self.parts]
        if self.method == "DELETE" and self.places:
            parts[self.places[-1]] = "nosuch"
        if place is not None:
            parts[place] = value
        return "/".join(parts)

    def body(self):
        return json.dumps(self.good).encode() if self.schema else b"" if self.takes_bytes else None

    def requests(self):
        """(path, body) of each that is wrong somewhere."""
        for place in self.places:
            for value in PARTS:
                yield self.path(place, value), self.body()
        for name in self.queries:
            for value in QUERIES:
                yield f"{self.path()}?{name}={value}" + ("&wait=1ms" if name == "index" else ""), self.body()
        if self.schema or self.takes_bytes:
            for body in BODIES:
                yield self.path(), body
        for keys in self.places_of(self.schema) if self.schema else ():
            for value in VALUES:
                document = copy.deepcopy(self.good)
                inside = document
                for key, schema in keys[:-1]:  # down, making what is not there
                    is_list = "items" in schema
                    made = self.sample(schema["items"] if is_list else schema)
                    below = inside.get(key) or ([made] if is_list else made)
                    inside[key] = below
                    inside = below[0] if is_list else below
                inside[keys[-1][0]] = value
                yield self.path(), json.dumps(document).encode()

    def places_of(self, schema, above=()):
        """Each key of the body, and of what is in it: ((key, schema), ...)."""
        for key, of in schema.get("properties", {}).items():
            of = self.whole(of)
            yield (*above, (key, of))
            inside = self.whole(of.get("items", of))
            if "properties" in inside and len(above) < 2:
                yield from self.places_of(inside, (*above, (key, of)))


def node_name():
    return node.json("/v1/node")["name"]


def operations():
    document = node.json("/v1/openapi.json")
    for path, methods in document["paths"].items():
        for method, about in methods.items():
            if about["operationId"] not in LEFT_OUT:
                yield Operation(path, method, about, document["components"]["schemas"])


class Client:
    """A connection, made anew when it was closed."""

    def __init__(self):
        self.connection = None

    def ask(self, method, path, body):
        """(status, body); one that was closed meanwhile is asked again, once."""
        for is_last in (False, True):
            try:
                return self.ask_once(method, path, body)
            except (http.client.BadStatusLine, ConnectionError):
                self.close()
                if is_last:
                    raise

    def ask_once(self, method, path, body):
        if self.connection is None:
            host, port = node.api.rsplit(":", 1)
            self.connection = http.client.HTTPConnection(host, int(port), timeout=SECONDS_MAX)
        self.connection.request(method, path, body)
        answer = self.connection.getresponse()
        if answer.getheader("content-length") is None and answer.status != 204:  # it may go on
            self.close()
            return answer.status, b""
        return answer.status, answer.read()

    def close(self):
        if self.connection is not None:
            self.connection.close()
            self.connection = None


class Hostile(unittest.TestCase):
    def setUp(self):
        self.client = Client()

    def tearDown(self):
        self.client.close()

    def lives(self, words):
        self.assertIsNone(node.process.poll(), f"the node died of {words}\n{node.log.read_text()[-4000:]}")

    def test_what_does_not_belong_there_is_answered(self):
        wrong = []
        for operation in operations():
            for path, body in operation.requests():
                words = f"{operation.id}: {operation.method} {path[:200]} {(body or b'')[:300]!r}"
                try:
                    status, answer = self.client.ask(operation.method, path, body)
                except (OSError, http.client.HTTPException) as error:
                    self.lives(words)
                    raise AssertionError(f"{words}: {error!r}") from None
                if status == 500 or (status >= 400 and json.loads(answer)["status"] != status):
                    wrong.append(f"{words}: {status} {answer[:300]!r}")
        self.assertEqual(wrong, [])
        self.lives("all of it")

    def test_who_goes_away_in_the_middle_of_a_body_ends_nothing(self):
        host, port = node.api.rsplit(":", 1)
        for operation in operations():
            if operation.schema is None and not operation.takes_bytes:
                continue
            with socket.create_connection((host, int(port)), timeout=SECONDS_MAX) as connection:
                head = f"{operation.method} {operation.path()} HTTP/1.1\r\nHost: {node.api}\r\nContent-Length: 100000000\r\n\r\n"
                connection.sendall(head.encode() + (operation.body() or b"x" * 100))
            self.assertEqual(self.client.ask("GET", "/healthz", None)[0], 200, operation.id)
            self.lives(operation.id)

    def test_what_an_operation_does_not_know_is_refused(self):
        for operation in operations():
            if operation.parts[1] == "v1" and operation.id != "invocation_create":
                status, answer = self.client.ask(operation.method, operation.path() + "?projct=x", operation.body())
                self.assertIn(status, (400, 403), operation.id)  # 403: it is for nodes alone
                self.assertTrue(status == 403 or "did you mean ?project=" in json.loads(answer)["detail"], answer)

    def test_a_project_that_is_none_is_not_taken_for_the_default_one(self):
        for value in ("%00", "%FF", "%", "a" * 64, "A", "a%2Fb"):
            status, answer = self.client.ask("GET", f"/v1/functions?project={value}", None)
            self.assertEqual(status, 400, (value, answer))
