"""The verbs about the cluster, against answers of the test's own: what they ask, what they print."""
import http.server
import json
import os
import pathlib
import re
import subprocess
import threading
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("BLIXARD_BUILD", ROOT / "build")).resolve()
BLIXARD = BUILD / "blixard"


def node(name, **more):
    return {"name": name, "id": "7", "role": "server", "votes": True, "wanted_role": "server", "leader": False, "self": False,
            "health": "healthy", "address": "10.0.0.1:7421", "gateway": "10.0.0.1:7480", "failure_domain": "rack-1",
            "labels": {}, "version": "1.0", "schema": 3, "index": 40, "lag": 2, "last_seen_ms": 120,
            "clock_offset_ms": -3.4, "certificate_expires_at": "2199-01-01T00:00:00.000Z",
            "joined_at": "2026-01-01T00:00:00.000Z", "problems": [], **more}


class Verbs(unittest.TestCase):
    def setUp(self):
        self.asked = []
        self.answers = {}  # (method, path): a list of (status, document), the last one again and again
        test = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                test.asked.append((self.command, self.path, json.loads(body) if body else None))
                waiting = test.answers.get((self.command, self.path), [(404, {"code": "not_found", "detail": "none"})])
                status, document = waiting[0] if len(waiting) == 1 else waiting.pop(0)
                text = json.dumps(document).encode() if document is not None else b""
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

            def log_message(self, *_):
                pass

        self.server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(self.server.server_close)
        self.addCleanup(self.server.shutdown)

    def run_it(self, *arguments):
        address = f"127.0.0.1:{self.server.server_address[1]}"
        done = subprocess.run([BLIXARD, *arguments, "--addr", address], stdin=subprocess.DEVNULL, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
        return done.returncode, done.stdout, done.stderr

    def good(self, *arguments):
        status, out, errors = self.run_it(*arguments)
        self.assertEqual(status, 0, errors)
        return out

    def test_status_tells_first_what_is_wrong(self):
        nodes = [node("north", leader=True), node("south", role="worker"), node("east", votes=False),
                 node("west", health="lost", problems=["silent for 12 s"], certificate_expires_at="2001-01-01T00:00:00Z")]
        cluster = {"name": "home", "id": "0", "index": 42, "schema": 3, "term": 7, "leader": "north", "servers_wanted": 3, "servers": 2,
                   "problems": ["2 servers, 3 wanted"], "nodes": nodes}
        self.answers["GET", "/v1/cluster"] = [(200, cluster)]
        lines = self.good("cluster", "status").splitlines()
        self.assertEqual(lines[:3], ["! 2 servers, 3 wanted", "! west: silent for 12 s", ""])
        self.assertEqual(lines[3], "cluster home: see above, led by north, 2 of 3 servers, term 7, index 42, schema 3")
        rows = [re.split(r"  +", line) for line in lines[5:]]
        self.assertEqual(rows[0][1:], ["NODE", "ROLE", "LEADS", "HEALTH", "VERSION", "LAG", "SEEN", "CLOCK", "CERTIFICATE",
                                       "DOMAIN", "ADDRESS"])
        self.assertEqual(rows[1][:5], ["*", "north", "server", "leader", "healthy"])
        self.assertIn("worker -> server", rows[2])
        self.assertIn("standby", rows[3])
        self.assertEqual(rows[4][:4], ["!", "west", "server", "lost"])
        self.assertIn("ended", rows[4])
        self.assertEqual(json.loads(self.good("cluster", "status", "--output", "json")), cluster)

    def test_a_node_that_is_alone_is_told_what_to_do(self):
        self.answers["GET", "/v1/cluster"] = [(200, {"name": None, "problems": [], "nodes": []})]
        self.assertIn("blixard cluster init --name", self.good("cluster", "status"))

    def test_init_and_leadership(self):
        self.answers["POST", "/v1/cluster"] = [(201, {"name": "home"})]
        self.answers["PUT", "/v1/cluster/leader"] = [(200, {"leader": "south"})]
        self.assertIn("blixard node token create", self.good("cluster", "init", "--name", "home", "--servers", "5",
                                                             "--address", "10.0.0.1"))
        self.assertEqual(self.good("cluster", "transfer-leadership", "south"), "south leads\n")
        self.good("cluster", "transfer-leadership")
        self.assertEqual([body for _, _, body in self.asked],
                         [{"name": "home", "servers": 5, "address": "10.0.0.1"}, {"node": "south"}, {}])

    def test_promoting_is_done_when_it_votes(self):
        self.answers["PATCH", "/v1/nodes/south"] = [(200, node("south", role="worker"))]
        self.answers["GET", "/v1/nodes/south"] = [(200, node("south", role="worker")), (200, node("south", votes=False)),
                                                  (200, node("south"))]
        self.assertEqual(self.good("node", "promote", "south"), "south is a server\n")
        self.assertEqual([(method, body) for method, _, body in self.asked],
                         [("PATCH", {"role": "server"})] + [("GET", None)] * 3)
        self.assertEqual(self.good("node", "demote", "south", "--no-wait"), "south is to be a worker\n")
        self.assertEqual(self.asked[-1], ("PATCH", "/v1/nodes/south", {"role": "worker"}))

    def test_labels_are_put_on_and_taken_off(self):
        self.answers["PUT", "/v1/nodes/south/labels/disk%2Fkind"] = [(200, node("south"))]
        self.answers["DELETE", "/v1/nodes/south/labels/old"] = [(204, None)]
        self.answers["GET", "/v1/nodes/south"] = [(200, node("south", labels={"disk/kind": "ssd=1"}))]
        self.good("node", "label", "south", "disk/kind=ssd=1", "old-")
        self.assertEqual([(method, body) for method, _, body in self.asked],
                         [("PUT", {"value": "ssd=1"}), ("DELETE", None), ("GET", None)])
        self.answers["GET", "/v1/node?node=south"] = [(200, {"functions": 7, "runners": [{"pid": 4711}]})]
        shown = self.good("node", "show", "south")
        self.assertRegex(shown, r"(?m)^label +disk/kind=ssd=1$")
        self.assertRegex(shown, r"(?m)^functions +7$")
        self.assertIn("\nRUNNER", shown)

    def test_tokens_are_printed_as_what_is_to_be_pasted(self):
        token = {"id": "0123", "role": "worker", "uses": 2, "expires_at": "soon", "token": "blx1.abc"}
        self.answers["POST", "/v1/tokens"] = [(201, token)]
        self.answers["DELETE", "/v1/tokens/0123"] = [(204, None)]
        self.assertEqual(self.good("node", "token", "create", "--role", "worker", "--ttl", "30m", "--uses", "2"),
                         "blixard server --join blx1.abc\n")
        self.assertEqual(self.asked[0][2], {"role": "worker", "ttl": "30m", "uses": 2})
        self.assertEqual(self.good("node", "token", "revoke", "0123"), "revoked token 0123\n")

    def test_clients(self):
        self.answers["POST", "/v1/clients"] = [(201, {"name": "ada", "expires_at": "soon", "token": "blx1.abc"})]
        self.answers["DELETE", "/v1/clients/ada"] = [(204, None)]
        self.assertEqual(self.good("client", "create", "ada"), "blixard login blx1.abc\n")
        self.assertEqual(self.good("client", "create", "ada", "--token", "--ttl", "24h"), "blx1.abc\n")
        self.assertEqual([body for _, _, body in self.asked],
                         [{"name": "ada", "kind": "certificate"}, {"name": "ada", "kind": "token", "ttl": "24h"}])
        self.good("client", "delete", "ada")

    def line(self, second, node_name):
        return {"sequence": 1, "time": f"2026-01-01T00:00:{second:02}.000Z", "level": "info", "version": 1,
                "request_id": "0123456789", "text": f"from {node_name}"}

    def test_logs_of_all_nodes_are_one_in_the_order_of_time(self):
        path = "/v1/functions/hello/logs?tail=3&node="
        self.answers["GET", "/v1/nodes"] = [(200, {"nodes": [node("north"), node("south"), node("west")]})]
        self.answers["GET", path + "north"] = [(200, {"lines": [self.line(1, "north"), self.line(4, "north")]})]
        self.answers["GET", path + "south"] = [(200, {"lines": [self.line(2, "south"), self.line(3, "south")]})]
        self.answers["GET", path + "west"] = [(503, {"code": "unavailable", "detail": "west does not answer"})]
        status, out, errors = self.run_it("fn", "logs", "hello", "--tail", "3")
        self.assertEqual((status, errors), (0, "blixard: node west: west does not answer\n"))
        self.assertEqual([re.split(" +", text)[0] for text in out.splitlines()], ["south", "south", "north"])
        self.assertEqual(self.good("fn", "logs", "hello", "--tail", "3", "--node", "south").splitlines()[1],
                         "2026-01-01T00:00:03.000Z info  01234567 from south")
        status, _, errors = self.run_it("fn", "logs", "hello", "--tail", "3", "--node", "west")
        self.assertEqual((status, errors), (69, "blixard: west does not answer\n"))

    def test_refusals_are_told(self):
        status, out, errors = self.run_it("node", "remove", "nobody")
        self.assertEqual((status, out, errors), (66, "", "blixard: none\n"))
