"""What functions fetch, from real servers: all that these do, all that a list does not allow, and what hostile guests try."""
import http.client
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import unittest

from node import Node, Refused
from web import Authority, Web

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
HEAD, MANUAL, NO_REDIRECT = 1, 4, 8
TRAVERSAL = "the sanitizer takes the addresses of the process sandbox"
folder = None
module = None
authority = None


def setUpModule():
    global folder, module, authority
    folder = tempfile.TemporaryDirectory(prefix="blixard-fetch-")
    module = pathlib.Path(folder.name) / "fetch.wasm"
    subprocess.run(["clang-14", "--target=wasm32-wasi", "-O1", "-mexec-model=reactor", "-I", ROOT / "sdk/c", "-o", module,
                    ROOT / "test/guests/fetch.c"], check=True)
    authority = Authority(pathlib.Path(folder.name), subprocess.run)


def tearDownModule():
    folder.cleanup()


class Answer:
    """Of the guest's /do: status, fields, size, sum, beginning; or error (a number) and text."""

    def __init__(self, text):
        head, _, body = text.partition("\n")
        kind, number, rest = head.split(" ", 2)
        self.error = int(number) if kind == "error" else 0
        self.text = rest.strip()
        self.reason = self.text.partition(":")[0]
        self.status = int(number) if kind == "status" else 0
        fields, _, tail = body.partition("\n\n") if not body.startswith("\n") else ("", "", body[1:])
        self.lines = [line.strip() for line in fields.split("\r\n") if line.strip()]
        self.fields = {line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in self.lines}
        found = re.search(r"body (\d+) \nsum (\d+) \n(.*)", "\n" + tail if not tail else body, re.S)
        self.size, self.sum, self.body = (int(found[1]), int(found[2]), found[3]) if found else (0, 0, "")
        self.broken = re.search(r"broken (-?\d+) (.*)", body)


class Base:
    arguments = ()
    env = {}

    @classmethod
    def setUpClass(cls):
        cls.web = Web()
        cls.other = Web()
        cls.tls = Web(certificate=authority.certificate("good", "DNS:localhost,IP:127.0.0.1"))
        home = pathlib.Path(folder.name) / "home"
        home.mkdir(exist_ok=True)
        (home / ".netrc").write_text("default login somebody password secret\n")
        # None of these is anybody.
        proxies = {name: "http://127.0.0.1:9" for name in ("http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")}
        cls.node = Node(arguments=("--fetch-authority-file", str(authority.file), "--traffic-every-ms", "200", *cls.arguments),
                        env={"HOME": str(home), **proxies, **cls.env})
        cls.node.deploy("all", module, fetch={"allow": ["127.0.0.1", "localhost", "*.localhost", "nowhere.invalid", "::1"]})

    @classmethod
    def tearDownClass(cls):
        for web in (cls.web, cls.other, cls.tls):
            web.go.set()
            web.stop()
        cls.node.stop()

    def setUp(self):
        for web in (self.web, self.other, self.tls):
            web.seen.clear()
            web.go.clear()
            web.gone.clear()

    def ask(self, path, function="all", body=b"", fields=None, timeout=60):
        host, port = self.node.gateway.rsplit(":", 1)
        connection = http.client.HTTPConnection(host, int(port), timeout=timeout)
        try:
            connection.request("POST", f"/fn/{function}{path}", body, fields or {})
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")
        finally:
            connection.close()

    def fetch(self, url, method="", how=0, timeout=0, fields="", body="", function="all", trace=None):
        text = f"{method}\n{url}\n{how}\n{timeout}\n{fields}\n{body}"
        status, answer = self.ask("/do", function, text.encode(), {"traceparent": trace} if trace else None)
        self.assertEqual(status, 200, answer)
        return Answer(answer)

    def metric(self, name, **labels):
        text = ",".join(f'{key}="{value}"' for key, value in labels.items())
        pattern = "^" + re.escape(name + ("{" + text + "}" if text else "")) + r" (\d+)"
        return int(re.search(pattern, self.node.get("/metrics"), re.M)[1])

    def failures(self, reason):
        return self.metric("blixard_fetches_failed_total", reason=reason)

    def check_fails(self, reason, number, *arguments, **more):
        """It fails so, and is counted."""
        before = self.failures(reason)
        answer = self.fetch(*arguments, **more)
        self.assertEqual((answer.reason, answer.error), (reason, number), answer.text)
        self.assertEqual(self.failures(reason), before + 1)
        return answer


class Claims(Base):
    # ---- What is sent, and what comes ----

    def test_a_request_and_its_response(self):
        answer = self.fetch(self.web.url + "/echo?a=b#c", fields="X-Mine: 1\r\nX-Empty:\r\n")
        self.assertEqual((answer.status, answer.fields["x-one"]), (200, "1"))
        seen = json.loads(answer.body)
        self.assertEqual((seen["method"], seen["path"], seen["body"]), ("GET", "/echo?a=b", ""))
        fields = seen["fields"]
        self.assertEqual((fields["x-mine"], fields["x-empty"], fields["host"]), ("1", "", f"127.0.0.1:{self.web.port}"))
        self.assertRegex(fields["user-agent"], r"^blixard/")
        for name in ("cookie", "authorization", "expect", "content-type", "content-length", "proxy-connection", "via"):
            self.assertNotIn(name, fields)

    def test_bodies_and_methods(self):
        for method, body in (("POST", "hello"), ("PUT", "x" * 200000), ("PATCH", ""), ("DELETE", ""), ("DELETE", "why"),
                             ("PROPFIND", "<a/>"), ("OPTIONS", ""), ("GET", "odd")):
            answer = self.fetch(self.web.url + "/echo", method=method, body=body)
            self.assertEqual(answer.status, 200, answer.text)
            seen = self.web.seen[-1]
            self.assertEqual((seen["method"], seen["body"]), (method, body))
            self.assertNotIn("content-type", seen["fields"])
        self.assertEqual(self.fetch(self.web.url + "/echo", body="b").status, 200)
        self.assertEqual(self.web.seen[-1]["method"], "POST")
        self.fetch(self.web.url + "/echo", method="POST", body="{}", fields="content-type: application/json\r\n")
        self.assertEqual(self.web.seen[-1]["fields"]["content-type"], "application/json")
        answer = self.fetch(self.web.url + "/echo", method="HEAD")
        self.assertEqual((answer.status, answer.size), (200, 0))

    def test_any_status_is_a_response(self):
        for status in (204, 304, 404, 500, 503):
            self.assertEqual(self.fetch(f"{self.web.url}/status?n={status}").status, status)

    def test_fields_of_the_connection_are_the_node_s(self):
        answer = self.fetch(self.web.url + "/echo", method="POST", body="12345", fields=(
            "Host: evil.example\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\nConnection: close, X-Mine\r\n"
            "Proxy-Authorization: Basic eA==\r\nUpgrade: h2c\r\nTE: trailers\r\nExpect: 100-continue\r\ntraceparent: mine\r\n"))
        fields = json.loads(answer.body)["fields"]
        self.assertEqual((fields["host"], fields["content-length"]), (f"127.0.0.1:{self.web.port}", "5"))
        for name in ("transfer-encoding", "connection", "proxy-authorization", "upgrade", "te", "expect"):
            self.assertNotIn(name, fields)
        self.assertNotEqual(fields["traceparent"], "mine")

    def test_whom_a_function_fetches_from_is_learnt(self):
        """What it exchanged with this machine is of this node, as bytes a second of both ways."""
        said, index, begun = {"accesses": []}, "0", time.monotonic()
        while not said["accesses"] and time.monotonic() < begun + 60:
            self.fetch(self.web.url + "/echo", method="POST", body="x" * 100000)
            _, data, fields = self.node.request("GET", f"/v1/functions/all?index={index}&wait=1s", timeout=30)
            said, index = json.loads(data), fields["x-blixard-index"]
        peer = said["accesses"][0]
        self.assertEqual((peer["kind"], peer["name"]), ("node", json.loads(self.node.get("/v1/nodes"))["nodes"][0]["name"]))
        self.assertGreater(peer["bytes_per_second"], 200000 / (time.monotonic() - begun + 60))
        self.assertIsNotNone(said["accesses_at"])

    def test_connections_are_used_again(self):
        for _ in range(3):
            self.assertEqual(self.fetch(self.web.url + "/echo").status, 200)
        self.assertEqual(len({seen["port"] for seen in self.web.seen}), 1)

    def test_interim_answers_folded_fields_and_trailers(self):
        answer = self.fetch(self.web.url + "/interim")
        self.assertEqual((answer.status, answer.body), (200, "hello"))
        self.assertEqual(answer.fields, {"x-folded": "one two", "set-cookie": "a=b"})
        self.fetch(self.web.url + "/echo")
        self.assertNotIn("cookie", self.web.seen[-1]["fields"])

    def test_what_is_compressed_is_decoded_unless_the_function_does(self):
        answer = self.fetch(self.web.url + "/gzip")
        self.assertEqual((answer.status, answer.size), (200, 9000))
        self.assertTrue(answer.body.startswith("squeezed\n"))
        self.assertNotIn("content-encoding", answer.fields)
        self.assertNotIn("content-length", answer.fields)
        answer = self.fetch(self.web.url + "/gzip", fields="Accept-Encoding: gzip\r\n")
        self.assertEqual(answer.fields["content-encoding"], "gzip")
        self.assertLess(answer.size, 1000)
        self.check_fails("protocol", -65, self.web.url + "/badgzip")

    def test_large_bodies_come_in_pieces(self):
        answer = self.fetch(self.web.url + "/big?n=20000000")
        self.assertEqual((answer.size, answer.sum), (20000000, 20000000 * ord("x")))

    def test_pieces_are_passed_on_as_they_come(self):
        host, port = self.node.gateway.rsplit(":", 1)
        connection = http.client.HTTPConnection(host, int(port), timeout=30)
        connection.request("GET", f"/fn/all/stream?{self.web.url}/pieces")
        answer = connection.getresponse()
        self.assertEqual(answer.read(18), b"status 200 \nfirst\n")
        self.web.go.set()  # and not before
        self.assertEqual(answer.read(), b"second\nend 0 \n")
        connection.close()

    def test_several_at_once(self):
        status, text = self.ask(f"/together?{self.web.url}/held?n=")
        self.assertEqual(status, 200)
        lines = text.splitlines()
        self.assertEqual(lines[:4], ["begun 1 ", "begun 1 ", "nothing yet 0 ", "begun 1 "])
        self.assertEqual(sorted(lines[4:]), ["came 0 0", "came 1 1", "came 2 2"])

    # ---- What fails ----

    def test_nobody_there(self):
        with socket.socket() as taken:  # bound, and nobody listens
            taken.bind(("127.0.0.1", 0))
            self.check_fails("connect", -6, f"http://127.0.0.1:{taken.getsockname()[1]}/")

    def test_no_such_name(self):
        answer = self.check_fails("resolve", -6, "http://nowhere.invalid/")
        self.assertIn("nowhere.invalid", answer.text)

    def test_connections_that_end_too_early(self):
        self.check_fails("closed", -6, self.web.url + "/close")
        before = self.failures("closed")
        answer = self.fetch(self.web.url + "/cut")
        self.assertEqual((answer.reason, answer.error), ("closed", -6))
        answer = self.fetch(self.web.url + "/cut", how=HEAD)
        self.assertEqual(answer.status, 200)  # the head had come
        self.assertRegex(answer.broken[2], "^closed: ")
        self.assertEqual(self.failures("closed"), before + 2)

    def test_what_is_not_http(self):
        for path in ("/garbage", "/badfield", "/upgrade"):
            with self.subTest(path):
                self.check_fails("protocol", -65, self.web.url + path)

    def test_heads_that_are_too_large(self):
        self.assertEqual(self.fetch(self.web.url + "/headers?n=60").status, 200)
        self.check_fails("too_large", -35, self.web.url + "/headers?n=70")

    def test_servers_that_do_not_answer(self):
        answer = self.check_fails("timeout", -73, self.web.url + "/silent", timeout=300)
        self.assertIn("has not answered in time", answer.text)
        self.assertTrue(self.web.gone.wait(20))

    def test_a_call_that_ends_ends_what_it_fetches(self):
        self.node.deploy("short", module, timeout_ms=400, fetch={"allow": ["127.0.0.1"]})
        status, text = self.ask("/do", "short", f"\n{self.web.url}/silent\n0\n0\n\n".encode())
        self.assertTrue(status == 504 or "error -73 timeout:" in text, text)  # both are over at the same moment
        self.assertTrue(self.web.gone.wait(20))
        self.web.gone.clear()
        try:
            self.assertEqual(self.ask(f"/stream?{self.web.url}/endless", "short")[0], 504)  # nothing of it had come
        except http.client.IncompleteRead:
            pass
        self.assertTrue(self.web.gone.wait(20))
        deadline = time.monotonic() + 20
        while self.metric("blixard_fetches_running") > 0:
            self.assertLess(time.monotonic(), deadline)

    def test_a_client_that_goes_ends_what_is_fetched(self):
        host, port = self.node.gateway.rsplit(":", 1)
        connection = http.client.HTTPConnection(host, int(port), timeout=30)
        connection.request("GET", f"/fn/all/stream?{self.web.url}/silent")
        deadline = time.monotonic() + 20
        while not self.web.seen:
            self.assertLess(time.monotonic(), deadline)
        connection.sock.close()
        connection.close()
        self.assertTrue(self.web.gone.wait(20))

    # ---- Redirects ----

    def test_redirects_are_followed(self):
        answer = self.fetch(self.web.url + "/redirect?to=/echo%3Fa%3Db")
        self.assertEqual((answer.status, self.web.seen[-1]["path"]), (200, "/echo?a=b"))
        self.assertEqual(answer.fields["blixard-url"], self.web.url + "/echo?a=b")
        self.assertEqual(self.fetch(self.web.url + "/far?n=10").body, "there\n")
        self.check_fails("redirect", -65, self.web.url + "/far?n=11")
        self.check_fails("redirect", -65, self.web.url + "/loop")
        self.check_fails("redirect", -65, self.web.url + "/redirect?to=file:///etc/passwd")
        self.check_fails("redirect", -65, self.web.url + "/redirect?to=http://a@b/")
        self.check_fails("redirect", -65, self.web.url + "/redirect?to=/echo", how=NO_REDIRECT)
        answer = self.fetch(self.web.url + "/redirect?to=/echo", how=MANUAL)
        self.assertEqual((answer.status, answer.fields["location"]), (302, "/echo"))

    def test_redirects_change_methods_as_browsers_do(self):
        table = ((301, "POST", "GET", ""), (302, "POST", "GET", ""), (303, "PUT", "GET", ""), (303, "HEAD", "HEAD", ""),
                 (301, "PUT", "PUT", "body"), (307, "POST", "POST", "body"), (308, "PATCH", "PATCH", "body"))
        for status, method, then, body in table:
            with self.subTest(status=status, method=method):
                given = "" if method == "HEAD" else "body"
                self.fetch(f"{self.web.url}/redirect?to=/echo&status={status}", method=method, body=given,
                           fields="Content-Type: text/plain\r\nX-Kept: 1\r\n")
                seen = self.web.seen[-1]
                self.assertEqual((seen["path"], seen["method"], seen["body"]), ("/echo", then, body))
                self.assertEqual("content-type" in seen["fields"], then != "GET")
                self.assertEqual(seen["fields"]["x-kept"], "1")

    def test_credentials_stay_with_their_origin(self):
        secret = "Authorization: Bearer s\r\nCookie: a=b\r\n"
        self.fetch(self.web.url + "/redirect?to=/echo", fields=secret)
        self.assertEqual(self.web.seen[-1]["fields"]["authorization"], "Bearer s")
        self.assertEqual(self.web.seen[-1]["fields"]["cookie"], "a=b")
        self.fetch(f"{self.web.url}/redirect?to={self.other.url}/echo", fields=secret)
        self.assertNotIn("authorization", self.other.seen[-1]["fields"])
        self.assertNotIn("cookie", self.other.seen[-1]["fields"])

    def test_each_redirect_has_to_be_allowed(self):
        self.node.deploy("one", module, fetch={"allow": [f"http://127.0.0.1:{self.web.port}"]})
        self.assertEqual(self.fetch(self.web.url + "/redirect?to=/echo", function="one").status, 200)
        for to in (self.other.url, "http://localhost/", "http://169.254.169.254/latest/meta-data/", "http://[::1]/"):
            with self.subTest(to):
                self.check_fails("not_allowed", -2, f"{self.web.url}/redirect?to={to}", function="one")
        self.assertEqual(self.other.seen, [])

    # ---- Whom ----

    def test_nothing_without_a_list(self):
        self.node.deploy("none", module)
        self.node.deploy("empty", module, fetch={"allow": []})
        for name in ("none", "empty"):
            answer = self.check_fails("not_allowed", -2, self.web.url, function=name)
            self.assertIn("fetch.allow", answer.text)
        self.assertEqual(self.web.seen, [])

    def test_a_name_does_not_allow_where_it_leads(self):
        """DNS rebinding: localhost is on the list, what it resolves to is not."""
        self.node.deploy("name", module, fetch={"allow": ["localhost", "*"]})
        answer = self.check_fails("not_allowed", -2, f"http://localhost:{self.web.port}/", function="name")
        self.assertRegex(answer.text, r"localhost leads to (127\.0\.0\.1|::1), which is loopback")
        for host in ("127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "169.254.169.254", "10.0.0.1", "[fe80::1]",
                     "[64:ff9b::7f00:1]"):
            with self.subTest(host):
                self.check_fails("not_allowed", -2, f"http://{host}:{self.web.port}/", function="name")
        self.assertEqual(self.web.seen, [])
        self.node.deploy("both", module, fetch={"allow": ["localhost", f"127.0.0.0/8:{self.web.port}"]})
        self.assertEqual(self.fetch(f"http://localhost:{self.web.port}/", function="both").status, 200)
        self.check_fails("not_allowed", -2, f"http://localhost:{self.other.port}/", function="both")

    def test_mapped_addresses_are_those_inside(self):
        self.assertEqual(self.fetch(f"http://[::ffff:127.0.0.1]:{self.web.port}/").status, 200)
        self.assertEqual(self.web.seen[-1]["fields"]["host"], f"127.0.0.1:{self.web.port}")

    def test_the_node_s_own_api_is_out_of_reach(self):
        port = self.node.api.rsplit(":", 1)[1]
        self.node.deploy("api", module, fetch={"allow": [f"127.0.0.1:{port}", "localhost", "127.0.0.0/8", "0.0.0.0"]})
        for host in ("127.0.0.1", "localhost", "127.1.2.3", "0.0.0.0"):
            with self.subTest(host):
                self.check_fails("not_allowed", -2, f"http://{host}:{port}/healthz", function="api")

    def test_urls_that_readers_differ_about(self):
        port = self.web.port
        for url in (f"http://127.1:{port}/", f"http://2130706433:{port}/", f"http://0x7f.1:{port}/", f"http://user@127.0.0.1:{port}/",
                    f"http://127.0.0.1:{port}@evil.example/", f"http://127.0.0.1:{port}\\@evil.example/", "file:///etc/passwd",
                    "gopher://127.0.0.1/", "ftp://127.0.0.1/", f"HTTP:127.0.0.1:{port}", f"http://127.0.0.1:{port}/a b", "",
                    f"//127.0.0.1:{port}/", f"http://127.0.0.1:{port}/\u00e9\r", f"http://loc%61lhost:{port}/", "dict://127.0.0.1:11211/"):
            with self.subTest(url):
                self.check_fails("invalid", -28, url)
        self.assertEqual(self.web.seen, [])

    def test_header_injection_is_refused(self):
        for fields in ("A: b\rHost: evil\r\n", "A b: c\r\n", "no colon\r\n", " A: b\r\n", "A: \x01\r\n"):
            with self.subTest(fields):
                self.check_fails("invalid", -28, self.web.url, fields=fields)
        for method in ("GET / HTTP/1.1", "CONNECT", "TRACE", "G\rT"):
            with self.subTest(method):
                self.check_fails("invalid", -28, self.web.url, method=method)
        self.assertEqual(self.web.seen, [])

    def test_lists_are_checked_when_they_are_deployed(self):
        for entry, why in (("ftp://a.example", "scheme"), ("10.0.0.1/8", "network"), ("a.example/path", "paths"), ("", "empty"),
                           ("a.example:0", "port"), ("127.1", "is not")):
            with self.assertRaises(Refused) as refused:
                self.node.begin_deploy("bad", module, fetch={"allow": [entry]})
            self.assertEqual(refused.exception.status, 400)
            self.assertIn(why, refused.exception.problem["detail"])
        for wrong in ({"allow": "a.example"}, {"allow": [1]}, {}, {"allow": [], "deny": []}, {"allow": ["a"] * 65}):
            with self.assertRaises(Refused) as refused:
                self.node.begin_deploy("bad", module, fetch=wrong)
            self.assertEqual(refused.exception.status, 400)
        allow = ["api.example.com", "*.example.com:443", "http://127.0.0.1:9000", "10.0.0.0/8"]
        self.node.deploy("listed", module, fetch={"allow": allow})
        self.assertEqual(self.node.json("/v1/functions/listed")["version"]["fetch"], {"allow": allow})

    # ---- TLS ----

    def test_tls_is_verified(self):
        self.assertEqual(self.fetch(f"https://localhost:{self.tls.port}/echo").status, 200)
        self.assertEqual(self.fetch(f"https://127.0.0.1:{self.tls.port}/echo").status, 200)
        self.assertEqual(self.fetch(f"https://localhost:{self.tls.port}/echo").status, 200)
        self.check_fails("tls", -65, f"https://[::ffff:127.0.0.1]:{self.web.port}/")  # speaks HTTP
        other = pathlib.Path(folder.name) / "other"
        other.mkdir(exist_ok=True)
        for certificate in (Authority(other, subprocess.run).certificate("unknown", "DNS:localhost"),
                            authority.certificate("elsewhere", "DNS:elsewhere.example")):
            web = Web(certificate=certificate)
            self.check_fails("tls", -65, f"https://localhost:{web.port}/")
            self.assertEqual(web.seen, [])
            web.stop()

    @unittest.skipUnless(shutil.which("nginx"), "nginx is not installed")
    def test_nginx_with_http2(self):
        where = pathlib.Path(tempfile.mkdtemp(prefix="nginx-", dir=folder.name))
        where.chmod(0o755)
        pathlib.Path(folder.name).chmod(0o755)
        (where / "page.txt").write_text("a line\n" * 100000)
        (where / "page.txt").chmod(0o644)
        certificate = authority.certificate("nginx", "DNS:localhost")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        (where / "nginx.conf").write_text(f"""
            daemon off; pid {where}/pid; error_log {where}/error.log; worker_processes 1; events {{}}
            http {{ access_log {where}/access.log; client_body_temp_path {where}/b; proxy_temp_path {where}/p;
                fastcgi_temp_path {where}/f; uwsgi_temp_path {where}/u; scgi_temp_path {where}/s;
                server {{ listen 127.0.0.1:{port} ssl http2; ssl_certificate {certificate}; ssl_certificate_key {certificate};
                    root {where}; gzip on; gzip_types *; }} }}""")
        server = subprocess.Popen(["nginx", "-c", where / "nginx.conf"], stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 20
            while socket.socket().connect_ex(("127.0.0.1", port)) != 0:
                self.assertLess(time.monotonic(), deadline)
            answer = self.fetch(f"https://localhost:{port}/page.txt")
            self.assertEqual((answer.status, answer.size), (200, 700000))
            self.assertNotIn("content-encoding", answer.fields)
            self.assertEqual(self.fetch(f"https://localhost:{port}/none").status, 404)
            while "none" not in (where / "access.log").read_text():
                self.assertLess(time.monotonic(), deadline)
            self.assertIn("GET /page.txt HTTP/2.0", (where / "access.log").read_text())
        finally:
            server.terminate()
            server.wait()

    # ---- Traces ----

    def test_a_fetch_is_a_span_and_is_told_so(self):
        trace = os.urandom(16).hex()
        self.fetch(self.web.url + "/echo?token=secret", trace=f"00-{trace}-00f067aa0ba902b7-01")
        _, told, parent, _ = self.web.seen[-1]["fields"]["traceparent"].split("-")
        deadline = time.monotonic() + 10
        spans = {}
        while "HTTP GET" not in spans:
            self.assertLess(time.monotonic(), deadline)
            spans = {span["name"]: span for span in self.node.json(f"/v1/traces/{trace}")["spans"]}
        span = spans["HTTP GET"]
        self.assertEqual((told, parent), (trace, span["id"]))
        self.assertEqual(span["parent"], spans["run"]["id"])
        attributes = span["attributes"]
        self.assertEqual(attributes["url.full"], self.web.url + "/echo")  # what is asked may be secret
        self.assertEqual(str(attributes["http.response.status_code"]), "200")
        trace = os.urandom(16).hex()
        self.fetch(self.web.url + "/close", trace=f"00-{trace}-00f067aa0ba902b7-01")
        while True:
            self.assertLess(time.monotonic(), deadline)
            spans = {span["name"]: span for span in self.node.json(f"/v1/traces/{trace}")["spans"]}
            if "HTTP GET" in spans:
                break
        self.assertEqual(spans["HTTP GET"]["attributes"]["error.type"], "closed")

    # ---- Hostile guests ----

    def test_hostile_questions_are_traps_or_errors(self):
        for how in "abc":
            status, text = self.ask(f"/hostile/{how}?{self.web.url}/echo")
            self.assertEqual((how, status), (how, 502), text)
            self.assertIn("out of bounds memory access", text)
        text = self.ask(f"/hostile/d?{self.web.url}/echo")[1]
        self.assertEqual(re.findall(r"^(\w+) (-?\d+)", text, re.M),
                         [("how", "-28"), ("read", "-44"), ("read", "-44"), ("take", "-44"), ("wait", "-44"), ("wait", "0"),
                          ("close", "-44"), ("survived", "0")])
        text = self.ask(f"/hostile/e?{self.web.url}/silent")[1]
        self.assertIn("begun -19 busy: 16 fetches are under way", text)
        self.assertIn("early read -28 invalid: take its response first", text)
        self.assertTrue(self.web.gone.wait(20))
        text = self.ask(f"/hostile/f?{self.web.url}/echo")[1]
        self.assertIn("url -28 invalid: ", text)
        self.assertIn("field -28 invalid: ", text)
        self.assertIn("huge -35 a request or a reply of more than 1 MiB", text)
        self.assertEqual(self.fetch(self.web.url + "/echo").status, 200)

    def test_initialisation_cannot_fetch(self):
        self.assertIn("not during initialisation", self.ask("/early")[1])


class Default(Claims, unittest.TestCase):
    pass


@unittest.skipIf("ASAN_OPTIONS" in os.environ, TRAVERSAL)
class Process(Claims, unittest.TestCase):
    arguments = ("--isolation", "process")


class Limits(Base, unittest.TestCase):
    """What the operator bounds, and the command line."""
    arguments = ("--fetch-body-bytes-max", "100000", "--fetch-function-max", "4", "--fetch-max", "6", "--fetch-refused",
                 "169.254.0.0/16, 127.0.0.9,::1")

    def test_bodies_that_are_too_large(self):
        self.assertEqual(self.fetch(self.web.url + "/big?n=100000").size, 100000)
        self.check_fails("too_large", -35, self.web.url + "/big?n=100001")
        self.check_fails("too_large", -35, self.web.url + "/endless")
        self.assertTrue(self.web.gone.wait(20))
        self.check_fails("too_large", -35, self.web.url + "/bomb")

    def test_what_the_operator_refuses(self):
        self.node.deploy("wide", module, fetch={"allow": ["127.0.0.0/8", "169.254.169.254", "::1"]})
        for host in ("127.0.0.9", "169.254.169.254", "[::1]"):
            answer = self.check_fails("not_allowed", -2, f"http://{host}:{self.web.port}/", function="wide")
            self.assertIn("refused by this node", answer.text)
        self.assertEqual(self.fetch(f"http://127.0.0.8:{self.web.port}/", function="wide").reason, "connect")
        process = subprocess.run([self.node.process.args[0], "dev", "--data-folder", folder.name + "/none", "--fetch-refused", "10.0.0.1/8"],
                                 capture_output=True, text=True, timeout=60)
        self.assertEqual(process.returncode, 64)
        self.assertIn("fetch_refused", process.stdout + process.stderr)

    def test_too_many_at_once(self):
        before = self.failures("busy")
        text = self.ask(f"/hostile/e?{self.web.url}/silent")[1]
        self.assertEqual(text.count("busy: too many requests of this function at once"), 13)
        self.assertEqual(self.failures("busy"), before + 13)
        self.assertEqual(self.fetch(self.web.url + "/echo").status, 200)

    def test_the_command_line(self):
        project = pathlib.Path(folder.name) / "project"
        project.mkdir(exist_ok=True)
        shutil.copy(ROOT / "test/guests/fetch.c", project / "main.c")
        yaml = project / "blixard.yaml"
        yaml.write_text(f"name: project\nlanguage: c\nfetch:\n  allow:\n    - http://127.0.0.1:{self.web.port}\n    - 127.0.0.2\n")
        self.node.cli("fn", "deploy", "project", project)
        self.assertEqual(self.fetch(self.web.url + "/echo", function="project").status, 200)
        self.node.cli("fn", "deploy", "project", project, "--allow", "a.example", "--allow=*.b.example:443")
        self.assertEqual(json.loads(self.node.cli("fn", "get", "project", "--output", "json"))["version"]["fetch"]["allow"],
                         ["a.example", "*.b.example:443"])
        self.check_fails("not_allowed", -2, self.web.url + "/echo", function="project")
        for bad, why in (("fetch:\n  allow: 5\n", "allow"), ("fetch:\n  deny: []\n", "deny"), ("fetch: yes\n", "allow"),
                         ("fetch:\n  allow: [[a]]\n", "entry 1")):
            yaml.write_text("name: project\nlanguage: c\n" + bad)
            with self.assertRaises(subprocess.CalledProcessError) as failed:
                self.node.cli("fn", "deploy", "project", project, stderr=subprocess.PIPE)
            self.assertIn(why, failed.exception.stderr)

    def test_the_example(self):
        sites = f"{self.web.url}/plain {self.web.url}/status?n=404 http://127.0.0.1:9/ http://elsewhere.example/"
        self.node.cli("fn", "deploy", "uptime", ROOT / "examples/uptime", "--env", f"SITES={sites}", "--allow", "127.0.0.1")
        found = {site["url"]: site for site in json.loads(self.ask("/", "uptime")[1])}
        self.assertEqual([found[url].get("status") for url in sites.split()], [201, 404, None, None])
        self.assertRegex(found["http://127.0.0.1:9/"]["error"], "^connect: ")
        self.assertRegex(found["http://elsewhere.example/"]["error"], "^not_allowed: ")

    def test_a_node_that_stops_ends_what_is_fetched(self):
        node = Node(arguments=("--drain-timeout-ms", "100"))
        node.deploy("f", module, fetch={"allow": ["127.0.0.1"]})
        host, port = node.gateway.rsplit(":", 1)
        connection = http.client.HTTPConnection(host, int(port), timeout=30)
        connection.request("GET", f"/fn/f/stream?{self.web.url}/silent")
        deadline = time.monotonic() + 20
        while not self.web.seen:
            self.assertLess(time.monotonic(), deadline)
        self.assertEqual(node.stop(), 0)
        self.assertTrue(self.web.gone.wait(20))
        connection.close()


if __name__ == "__main__":
    unittest.main()
