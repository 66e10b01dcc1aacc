"""Routes of the gateway: which requests call which function, and what is asked of them before."""
import concurrent.futures
import http.client
import json
import pathlib
import subprocess
import tempfile
import unittest

from cluster import Cluster
from foreign import until
from node import BUILD, Node
from shows import compile_guest

class Answer:
    def __init__(self, answer):
        self.status, self.fields, self.body = answer.status, {n.lower(): v for n, v in answer.getheaders()}, answer.read()

    @property
    def environment(self):
        return dict(line.split("=", 1) for line in self.body.decode().splitlines() if "=" in line)


def ask(gateway, method, path, body=None, **fields):
    host, port = gateway.split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in fields.items()})
        return Answer(connection.getresponse())
    finally:
        connection.close()


class Routes(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="blixard-route-")
        cls.addClassCleanup(cls.folder.cleanup)
        cls.node = Node()
        cls.addClassCleanup(cls.node.stop)
        cls.node.cli("cluster", "init", "--name", "home")  # for clients
        cls.node.deploy("shows", compile_guest(pathlib.Path(cls.folder.name)))

    def cli(self, *words, status=0, stdin=None):
        done = subprocess.run([self.node_program(), *map(str, words)], env=self.node.env, text=True, input=stdin, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=60)
        self.assertEqual(done.returncode, status, done.stderr)
        return done.stdout if status == 0 else done.stderr

    @staticmethod
    def node_program():
        from node import BUILD
        return BUILD / "blixard"

    def set(self, name, *flags):
        self.cli("route", "set", name, "--function", "shows", *flags)
        self.addCleanup(self.cli, "route", "delete", name)

    def ask(self, method, path, body=None, **fields):
        return ask(self.node.gateway, method, path, body, **fields)

    def test_parameters_reach_the_function(self):
        self.set("users", "--path", "/users/{id}/posts/{rest...}", "--method", "GET,POST")
        answer = self.ask("GET", "/users/a%20b/posts/x/y?q=1")
        self.assertEqual(answer.status, 200)
        got = answer.environment
        self.assertEqual((got["PATH_PARAM_ID"], got["PATH_PARAM_REST"], got["SCRIPT_NAME"], got["PATH_INFO"], got["QUERY_STRING"]),
                         ("a b", "x/y", "", "/users/a b/posts/x/y", "q=1"))
        refused = self.ask("DELETE", "/users/1/posts/x")
        self.assertEqual((refused.status, refused.fields["allow"]), (405, "GET, POST"))
        self.assertEqual(self.ask("HEAD", "/users/1/posts/x").status, 200)
        self.assertEqual(self.ask("GET", "/users/1").status, 404)
        self.assertEqual(self.ask("GET", "/users/%zz/posts/x").status, 400)

    def test_all_methods_of_a_path_are_named_and_each_once(self):
        methods = [f"METHODOFTHEWEB{letter}" for letter in "ABCDEFGHIJKL"]
        self.set("many", "--path", "/many", "--method", ",".join(["GET", *methods]))
        self.set("more", "--path", "/many", "--host", "localhost", "--method", "GET,OTHER")
        refused = self.ask("POST", "/many", Host="localhost")
        self.assertEqual((refused.status, sorted(refused.fields["allow"].split(", "))), (405, sorted(["GET", "OTHER", *methods])))

    def test_the_most_specific_is_taken(self):
        self.set("any", "--path", "/{x...}")
        self.set("one", "--path", "/me/{who}")
        self.set("text", "--path", "/me/self")
        self.set("host", "--path", "/me/self", "--host", "*.example.org")
        self.assertNotIn("PATH_PARAM_WHO", self.ask("GET", "/me/self").environment)
        self.assertIn("PATH_PARAM_WHO", self.ask("GET", "/me/you").environment)
        self.assertEqual(self.ask("GET", "/me/you/there").environment["PATH_PARAM_X"], "me/you/there")
        self.assertEqual(self.ask("GET", "/fn/shows/x").environment["PATH_INFO"], "/fn/shows/x")  # of a route for everything

    def test_hosts_are_told_apart(self):
        self.set("host", "--path", "/", "--host", "api.example.org,*.example.net")
        for host, status in (("api.example.org", 200), ("API.example.org:80", 200), ("a.b.example.net", 200), ("example.net", 404),
                             ("other.org", 404)):
            self.assertEqual(self.ask("GET", "/", Host=host).status, status, host)

    def test_an_address_of_ipv6_is_a_host(self):
        self.set("six", "--path", "/", "--host", "[2001:db8::1]")
        for host, status in (("[2001:db8::1]", 200), ("[2001:DB8::1]:7480", 200), ("[2001:db8::2]", 404), ("2001", 404)):
            self.assertEqual(self.ask("GET", "/", Host=host).status, status, host)
        for host in ("[2001:db8:0::1]", "[2001:db8::1", "2001:db8::1", "[::1]:80", "[]", "[a.example]"):
            self.assertIn("is no host name", self.cli("route", "set", "odd", "-f", "shows", "-p", "/", "--host", host, status=64))

    def test_a_method_is_any_token(self):
        self.set("odd", "--path", "/odd", "--method", "M-SEARCH,x!y")
        self.assertEqual([self.ask(method, "/odd").status for method in ("M-SEARCH", "x!y", "X!Y", "GET")], [200, 200, 405, 405])
        for method in ("a b", "A/B", "*", "Post", "M" * 33):
            self.assertIn("is no method", self.cli("route", "set", "wrong", "-f", "shows", "-p", "/x", "--method", method, status=64))

    def test_a_token_is_asked_for(self):
        token = self.cli("client", "create", "caller", "--token").strip()
        self.addCleanup(self.cli, "client", "delete", "caller")
        self.set("closed", "--path", "/closed", "--auth", "token")
        refused = self.ask("GET", "/closed")
        self.assertEqual((refused.status, refused.fields["www-authenticate"]), (401, "Bearer"))
        self.assertEqual(self.ask("GET", "/closed", Authorization="Bearer nonsense").status, 401)
        got = self.ask("GET", "/closed", Authorization=f"Bearer {token}").environment
        self.assertEqual((got["REMOTE_USER"], got["AUTH_TYPE"]), ("caller", "Bearer"))

    def test_browsers_are_told_who_may(self):
        self.set("cors", "--path", "/cors", "--method", "GET,PUT", "--cors", "https://app.example.org")
        preflight = {"Origin": "https://app.example.org", "Access_Control_Request_Method": "PUT"}
        answer = self.ask("OPTIONS", "/cors", **preflight)
        self.assertEqual((answer.status, answer.fields["access-control-allow-origin"], answer.fields["access-control-allow-methods"],
                          answer.fields["vary"]), (204, "https://app.example.org", "GET, PUT", "Origin"))
        self.assertNotIn("access-control-allow-origin", self.ask("OPTIONS", "/cors", **{**preflight, "Origin": "https://evil.org"}).fields)
        wants = self.ask("OPTIONS", "/cors", **preflight, Access_Control_Request_Headers="content-type,x-a").fields
        self.assertEqual(wants["access-control-allow-headers"], "content-type,x-a")  # of a route that names none
        got = self.ask("GET", "/cors?head=cors", Origin="https://app.example.org")
        self.assertEqual(got.fields["access-control-allow-origin"], "https://app.example.org")
        self.assertNotIn("access-control-allow-origin", self.ask("GET", "/cors?head=cors", Origin="https://evil.org").fields)
        self.set("every", "--path", "/every", "--cors", "*")
        self.assertEqual(self.ask("GET", "/every").fields["access-control-allow-origin"], "*")  # or a cache gives it to scripts without

    def test_too_much_is_refused(self):
        self.set("limited", "--path", "/limited", "--rate-limit", "0.01:2")
        self.set("small", "--path", "/small", "--body-max", "10")
        self.assertEqual([self.ask("GET", "/limited").status for _ in range(3)], [200, 200, 429])
        late = self.ask("GET", "/limited")
        self.assertIn("next one is taken in", json.loads(late.body)["detail"])
        self.assertGreater(int(late.fields["retry-after"]), 30)
        self.assertEqual(self.ask("POST", "/small", b"0123456789").status, 200)
        self.assertEqual(self.ask("POST", "/small", b"0123456789a").status, 413)

        def pieces():
            yield b"012345"
            yield b"6789ab"
        self.assertEqual(self.ask("POST", "/small", pieces()).status, 413)  # its length is not said before

    def test_answers_are_kept_where_they_say_so(self):
        self.set("kept", "--path", "/kept", "--cache")
        first = self.ask("GET", "/kept?head=life", X_Kind="a")
        again = self.ask("GET", "/kept?head=life", X_Kind="a")
        self.assertEqual((again.body, again.fields.get("x-blixard-cache"), again.fields["etag"]), (first.body, "hit", '"one"'))
        self.assertIn("age", again.fields)
        self.assertNotEqual(again.fields["x-request-id"], first.fields["x-request-id"])
        self.assertNotIn("x-blixard-cache", self.ask("GET", "/kept?head=life", X_Kind="b").fields)
        self.assertNotIn("x-blixard-cache", self.ask("GET", "/kept?head=life&other", X_Kind="a").fields)
        self.assertNotIn("x-blixard-cache", self.ask("GET", "/kept?head=life", X_Kind="a", Cache_Control="no-cache").fields)
        known = self.ask("GET", "/kept?head=life", X_Kind="a", If_None_Match='"one"')
        self.assertEqual((known.status, known.body), (304, b""))
        self.assertEqual(self.ask("HEAD", "/kept?head=life", X_Kind="a").fields.get("x-blixard-cache"), "hit")
        for path, fields in (("/kept", {}), ("/kept?head=cookie", {}), ("/kept?head=life&private", {"Authorization": "x"})):
            for _ in range(2):
                self.assertNotIn("x-blixard-cache", self.ask("GET", path, **fields).fields, path)

    def test_what_is_kept_is_as_both_sides_say(self):
        """All fields of a name count; what a client asks of caches is heeded; what may change a URI makes it old."""
        self.set("told", "--path", "/told", "--cache")
        said = [0]

        def ask(says, method="GET", path=None, **fields):
            answer = self.ask(method, path or f"/told?{said[0]}", X_Says=says, **fields)
            return (answer.status, answer.fields.get("age"))

        def twice(says, **fields):
            """What the second one gets, of a URI of its own."""
            said[0] += 1
            ask(says, **fields)
            return ask(says, **fields)
        for says, fields, second in (
                ("Cache-Control: max-age=60|Cache-Control: private", {}, (200, None)),
                ("Cache-Control: max-age=60", {"Cache_Control": "no-store"}, (200, None)),
                ("Expires: Fri, 31 Dec 2100 23:59:59 GMT", {}, (200, "0")),
                ("Expires: 0", {}, (200, None)),
                ('Cache-Control: public, max-age="60"|Age: 50', {"Authorization": "x"}, (200, "50")),
                ("Cache-Control: max-age=60|Age: 60", {}, (200, "60"))):  # the function's own word
            self.assertEqual(twice(says, **fields), second, says)
        vary = "Cache-Control: max-age=60|Vary: X-A|Vary: X-B"
        self.assertEqual([twice(vary, X_A="1", X_B="1")[1], ask(vary, X_A="1", X_B="2")[1]], ["0", None])
        life = 'Cache-Control: max-age=60|ETag: W/"one"|Last-Modified: Tue, 01 Sep 2026 10:00:00 GMT'
        self.assertEqual(twice(life, Cache_Control="max-age=0")[1], None)
        for fields, status, age in (({}, 200, "0"), ({"Cache_Control": "max-age=0"}, 200, None), ({"Pragma": "no-cache"}, 200, None),
                                    ({"Cache_Control": "min-fresh=61"}, 200, None), ({"If_None_Match": '"two", "one"'}, 304, "0"),
                                    ({"If_None_Match": '"on"'}, 200, "0"), ({"If_Modified_Since": "Tue, 01 Sep 2026 10:00:00 GMT"}, 304, "0"),
                                    ({"If_Modified_Since": "Tue, 01 Sep 2026 09:59:59 GMT"}, 200, "0"),
                                    ({"If_None_Match": '"two"', "If_Modified_Since": "Tue, 01 Sep 2026 10:00:00 GMT"}, 200, "0")):
            self.assertEqual(ask(life, **fields), (status, age), fields)
        self.assertEqual(ask(life, path="/told?never", Cache_Control="only-if-cached")[0], 504)
        self.assertEqual(ask("Status: 500", method="POST"), (500, None))
        self.assertEqual(ask(life), (200, "0"))
        self.assertEqual(ask("", method="POST"), (200, None))
        self.assertEqual(ask(life), (200, None))

    def test_a_paused_route_says_so(self):
        self.set("resting", "--path", "/resting")
        self.cli("route", "pause", "resting")
        self.assertEqual(self.ask("GET", "/resting").status, 503)
        self.cli("route", "resume", "resting")
        self.assertEqual(self.ask("GET", "/resting").status, 200)

    def test_the_command_line(self):
        self.cli("route", "set", "filed", "--file", "-", stdin="function: shows\npath: /filed\ncors:\n  origins: ['*']\n"
                 "rate_limit: {requests_per_second: 5, by: route}\n")
        shown = json.loads(self.cli("route", "get", "filed", "-o", "json"))
        self.assertEqual((shown["path"], shown["cors"]["origins"], shown["rate_limit"]["by"], shown["paused"]), ("/filed", ["*"], "route", False))
        self.assertIn("/filed", self.cli("route", "list"))
        self.assertIn("rate limit      0.5\n", self.cli("route", "set", "filed", "-f", "shows", "-p", "/filed", "--rate-limit", "0.5:3"))
        self.cli("route", "delete", "filed")
        self.assertIn("no route filed", self.cli("route", "get", "filed", status=66))
        for flags, words in ((["--path", "/x"], "needs --function"), (["-f", "shows", "-p", "x"], "begins with /"),
                             (["-f", "shows", "-p", "/fn/x"], "/fn/NAME"), (["-f", "shows", "-p", "/x", "--method", "get"], '"get" is no method'),
                             (["-f", "shows", "-p", "/x", "--host", "A"], "is no host name"),
                             (["-f", "shows", "-p", "/x", "--rate-limit", "fast"], "--rate-limit fast"),
                             (["-f", "shows", "-p", "/x", "--websocket", "--cache"], "a WebSocket has no answers"),
                             (["-f", "shows", "-p", "/x", "--cors", "nowhere"], "is no origin")):
            self.assertIn(words, self.cli("route", "set", "wrong", *flags, status=64))
        self.assertIn("no function nobody", self.cli("route", "set", "wrong", "-f", "nobody", "-p", "/x", status=66))

    def trigger(self, name):
        return json.loads(self.cli("trigger", "get", name, "-o", "json"))

    def test_a_trigger_of_kind_http_is_a_route(self):
        """Made, seen, paused and deleted by either name."""
        self.cli("trigger", "create", "both", "--kind", "http", "-f", "shows", "--path", "/both/{id}", "--method", "GET,POST",
                 "--rate-limit", "1000:1000:route", "--timeout", "20s")
        route = json.loads(self.cli("route", "get", "both", "-o", "json"))
        self.assertEqual((route["path"], route["methods"], route["rate_limit"]["by"], route["timeout_ms"]),
                         ("/both/{id}", ["GET", "POST"], "route", 20000))
        self.assertEqual(self.ask("GET", "/both/7").environment["PATH_PARAM_ID"], "7")
        trigger = self.trigger("both")
        self.assertEqual((trigger["kind"], trigger["path"], trigger["settings"]["methods"], trigger["state"], trigger["timeout_ms"]),
                         ("http", "/both/{id}", ["GET", "POST"], "running", 20000))
        self.assertEqual((trigger["seen"], trigger["matched"], trigger["failed"]), (1, 1, 0))
        self.assertEqual(trigger["counted_by"], "node")
        self.assertIn("figures of the node that answers", self.cli("trigger", "get", "both"))
        self.assertIn("figures of the node that answers", self.cli("trigger", "list"))
        self.cli("trigger", "pause", "both")
        self.assertEqual((self.ask("GET", "/both/7").status, self.trigger("both")["state"]), (503, "paused"))
        self.cli("trigger", "update", "both", "--host", "both.example.org")  # stays paused
        self.cli("route", "resume", "both")
        self.assertEqual([self.ask("GET", "/both/7", Host=host).status for host in ("both.example.org", "else")], [200, 404])
        self.assertEqual(self.trigger("both")["settings"]["methods"], ["GET", "POST"])
        again = ["trigger", "create", "both", "--kind", "http", "-f", "shows", "--path", "/x"]
        self.assertIn("already", self.cli(*again, status=73))
        with concurrent.futures.ThreadPoolExecutor(8) as clients:  # nobody is told that it made what another one made
            ends = [call.result() for call in [clients.submit(subprocess.run, [BUILD / "blixard", "trigger", "create", "eight", "--kind", "http", "-f", "shows",
                                                                                "--path", f"/eight/{n}"], env=self.node.env, capture_output=True) for n in range(8)]]
        self.assertEqual(sorted(end.returncode for end in ends), [0] + [73] * 7)
        made = next(n for n, end in enumerate(ends) if end.returncode == 0)
        self.assertEqual(self.trigger("eight")["path"], f"/eight/{made}")
        self.cli("trigger", "delete", "eight")
        self.assertIn("of kind http", self.cli("trigger", "create", "both", "-f", "shows", "--schedule", "@daily", status=73))
        self.cli("trigger", "delete", "both")
        self.assertIn("no route both", self.cli("route", "get", "both", status=66))
        self.assertIn("no trigger both", self.cli("trigger", "get", "both", status=66))
        self.cli("trigger", "create", "both", "-f", "shows", "--schedule", "@daily", "--paused")
        self.assertEqual(self.trigger("both")["counted_by"], "cluster")
        self.assertNotIn("figures of the node", self.cli("trigger", "get", "both"))
        self.addCleanup(self.cli, "trigger", "delete", "both")
        self.assertIn("another kind", self.cli("route", "set", "both", "-f", "shows", "-p", "/x", status=73))
        self.assertIn("--kind http", self.cli("trigger", "create", "odd", "-f", "shows", "--schedule", "@daily", "--host", "a", status=64))

    def test_a_route_has_a_filter(self):
        """Of the head: of an event in binary mode, and of any request."""
        self.cli("trigger", "create", "hook", "--kind", "http", "-f", "shows", "--path", "/hook", "--filter",
                 '{"$or": [{"type": ["order.created"]}, {"headers": {"x-github-event": ["push"]}}]}')
        self.addCleanup(self.cli, "trigger", "delete", "hook")
        event = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/s"}
        self.assertEqual([self.ask("POST", "/hook", b"{}", **fields).status for fields in (
            {}, {**event, "ce-type": "order.created"}, {**event, "ce-type": "order.paid"}, {"X-GitHub-Event": "push"})], [204, 200, 204, 200])
        seen = self.trigger("hook")
        self.assertEqual((seen["seen"], seen["matched"], seen["skipped"]), (4, 2, 2))
        self.assertIn('blixard_route_matched_total{project="default",route="hook"} 2', self.node.get("/metrics"))
        self.set("plain", "--path", "/plain", "--filter", "method = 'POST' AND path LIKE '/pl%'")
        self.assertEqual([self.ask(method, "/plain").status for method in ("GET", "POST")], [204, 200])

    def test_an_event_is_tried_at_a_route(self):
        self.cli("trigger", "create", "tried", "--kind", "http", "-f", "shows", "--path", "/tried/{id}", "--method", "PUT,GET",
                 "--filter", "type = 'yes' AND method = 'PUT'")
        self.addCleanup(self.cli, "trigger", "delete", "tried")

        def test(kind, *flags, status=0):
            event = json.dumps({"specversion": "1.0", "id": "1", "source": "/s", "type": kind, "data": {"a": 1}})
            return self.cli("trigger", "test", "tried", "--event", "-", "-o", "json", *flags, stdin=event, status=status)
        self.assertIn("--path PATH", test("yes", status=64))
        done = json.loads(test("yes", "--path", "/tried/a%20b"))
        self.assertIn("PATH_PARAM_ID=a b\n", done["answer"])
        self.assertIn("REQUEST_METHOD=PUT\n", done["answer"])
        self.assertEqual((done["matches"], done["status"]), (True, 200))
        self.assertFalse(json.loads(test("no", "--path", "/tried/7"))["matches"])
        self.assertEqual(self.trigger("tried")["seen"], 0)

    def test_a_route_has_a_time_limit(self):
        """Nearer than the function's own, and said so."""
        self.set("hurried", "--path", "/hurried", "--stream", "--timeout", "200ms")
        host, port = self.node.gateway.split(":")
        slow = http.client.HTTPConnection(host, int(port), timeout=60)
        self.addCleanup(slow.close)
        slow.putrequest("POST", "/hurried?drains")
        slow.putheader("Content-Length", "2")
        slow.endheaders(b"a")
        answer = Answer(slow.getresponse())
        self.assertEqual(answer.status, 504)
        self.assertIn("the call had no more time", json.loads(answer.body)["detail"])

    def test_calls_at_once_are_limited(self):
        self.set("narrow", "--path", "/narrow", "--stream", "--concurrency", "1")
        host, port = self.node.gateway.split(":")
        slow = http.client.HTTPConnection(host, int(port), timeout=60)
        self.addCleanup(slow.close)
        slow.putrequest("POST", "/narrow?drains")
        slow.putheader("Content-Length", "2")
        slow.endheaders(b"a")
        until(lambda: self.trigger("narrow")["in_flight"] == 1)
        refused = self.ask("GET", "/narrow")
        self.assertEqual(refused.status, 503)
        self.assertIn("concurrency_max", json.loads(refused.body)["detail"])
        slow.send(b"b")
        self.assertEqual(slow.getresponse().status, 200)
        until(lambda: self.trigger("narrow")["in_flight"] == 0)
        self.assertEqual(self.ask("GET", "/narrow").status, 200)

    def test_a_request_may_be_answered_later(self):
        """With what the route says of it, and who was let in."""
        self.set("users", "--path", "/users/{id}", "--auth", "token")
        token = self.cli("client", "create", "later", "--token").strip()
        self.addCleanup(self.cli, "client", "delete", "later")
        self.assertEqual(self.ask("POST", "/users/a%20b?q=1", b"body", Prefer="respond-async").status, 401)
        later = self.ask("POST", "/users/a%20b?q=1", b"body", Prefer="respond-async", Authorization=f"Bearer {token}")
        self.assertEqual((later.status, later.fields["preference-applied"]), (202, "respond-async"), later.body)
        invocation = later.fields["x-blixard-invocation"]
        ended = json.loads(self.cli("invocation", "wait", invocation, "-o", "json"))
        self.assertEqual(ended["state"], "succeeded", ended)
        got = dict(line.split("=", 1) for line in ended["response"]["body"].splitlines() if "=" in line)
        self.assertEqual((got["PATH_PARAM_ID"], got["PATH_INFO"], got["SCRIPT_NAME"], got["QUERY_STRING"], got["REMOTE_USER"],
                          got["REQUEST_URI"]), ("a b", "/users/a b", "", "q=1", "later", "/users/a%20b?q=1"))
        self.assertNotIn("HTTP_AUTHORIZATION", got)


class Many(unittest.TestCase):
    def test_a_route_leads_to_the_node_that_has_the_function(self):
        with tempfile.TemporaryDirectory(prefix="blixard-route-") as folder, Cluster(2, "routes", here=True) as cluster:
            cluster.form()
            one, two = cluster.servers
            wasm = compile_guest(pathlib.Path(folder))
            one.cli("fn", "deploy", "shows", str(wasm))
            one.cli("route", "set", "users", "-f", "shows", "-p", "/users/{id}")
            two.until(lambda view: view["nodes"][0]["index"] == view["nodes"][1]["index"], "the route")
            for server in (one, two):
                answer = ask(server.gateway, "GET", "/users/7")  # passed on, while it is not there
                self.assertEqual((answer.status, answer.environment.get("PATH_PARAM_ID")), (200, "7"), answer.body)


if __name__ == "__main__":
    unittest.main()
