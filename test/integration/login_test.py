"""Logging in from elsewhere, against a cluster of the test's own: what is sent, kept and refused.

The other side is an HTTPS server with certificates made by openssl(1), so that it can also answer
what no node would.
"""
import base64
import hashlib
import http.server
import json
import os
import pathlib
import shutil
import ssl
import subprocess
import tempfile
import threading
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("BLIXARD_BUILD", ROOT / "build")).resolve()
BLIXARD = BUILD / "blixard"
CLUSTER = "0123456789abcdef0123456789abcdef"
SECRET = "5ec2e7" * 6 + "5ec2"


def setUpModule():
    if shutil.which("openssl") is None:
        raise unittest.SkipTest("no openssl program")


class Authority:
    """A CA with its certificates, in a folder."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True)
        self.openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "ca.key",
                     "-out", "ca.pem", "-subj", "/CN=test", "-days", "2", "-addext", "keyUsage=critical,keyCertSign")
        der = ssl.PEM_cert_to_DER_cert((self.folder / "ca.pem").read_text())
        self.fingerprint = hashlib.sha256(der).hexdigest()

    def openssl(self, *arguments, stdin=None):
        return subprocess.run(["openssl", *arguments], cwd=self.folder, input=stdin, check=True, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=60).stdout

    def sign(self, request, identity, usage):
        """PEM in, PEM out."""
        extensions = self.folder / "extensions"
        extensions.write_text(f"subjectAltName=URI:{identity}\nextendedKeyUsage={usage}\n")
        return self.openssl("x509", "-req", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "1",
                            "-extfile", extensions, stdin=request)

    def server_chain(self, identity, usage="serverAuth,clientAuth"):
        """The path of key, certificate and CA in one file."""
        request = self.openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout",
                               "node.key", "-subj", "/CN=node")
        chain = self.folder / "chain.pem"
        chain.write_bytes((self.folder / "node.key").read_bytes() + self.sign(request, identity, usage) +
                          (self.folder / "ca.pem").read_bytes())
        return chain


class Cluster:
    """Answers by `answers`: {(method, path): function(request body, handler) -> (status, document)}."""

    def __init__(self, authority, chain, answers):
        self.seen = []
        self.answers = answers
        cluster = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                peer = self.connection.getpeercert()
                cluster.seen.append((self.command, self.path, self.headers.get("Authorization"), body, peer))
                status, document = answers.get((self.command, self.path), lambda *_: (
                    404, {"code": "not_found", "detail": "nothing"}))(body, self)
                text = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_PUT = do_POST = do_DELETE = answer

            def log_message(self, *_):
                pass

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain)
        context.load_verify_locations(authority.folder / "ca.pem")
        context.verify_mode = ssl.CERT_OPTIONAL
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.server.handle_error = lambda *_: None  # a client that does not believe us
        self.address = f"127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class Login(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="blixard-login-")
        self.addCleanup(shutil.rmtree, self.folder)
        self.home = pathlib.Path(self.folder, "home")
        self.home.mkdir()
        self.contexts = self.home / ".config" / "blixard" / "contexts"
        self.authority = Authority(pathlib.Path(self.folder, "ca"))
        self.cluster = self.begin(self.authority)

    def begin(self, authority, usage="serverAuth,clientAuth"):
        chain = authority.server_chain(f"spiffe://{CLUSTER}/node/1", usage)
        cluster = Cluster(authority, chain, {
            ("POST", "/v1/login"): self.log_in,
            ("GET", "/v1/cluster"): lambda *_: (200, {"name": "home", "nodes": [{"address": "10.9.9.9:7421"}]}),
            ("GET", "/v1/functions"): lambda *_: (200, {"functions": []}),
        })
        self.addCleanup(cluster.stop)
        return cluster

    def log_in(self, body, _):
        asked = json.loads(body)
        if asked["secret"] != SECRET:
            return 401, {"code": "unauthenticated", "detail": "no such secret"}
        certificate = self.authority.sign(asked["request"].encode(), f"spiffe://{CLUSTER}/client/{asked['client']}",
                                          "clientAuth")
        return 201, {"cluster": CLUSTER, "cluster_name": "home", "certificate": certificate.decode(),
                     "authority": (self.authority.folder / "ca.pem").read_text(),
                     "peers": [{"id": "1", "name": "north", "address": "10.9.9.9:7421", "server": True}]}

    def token(self, addresses=None, **more):
        fields = {"c": CLUSTER, "f": self.authority.fingerprint, "a": addresses or [self.cluster.address], "s": SECRET}
        text = json.dumps({**fields, **(more or {"n": "ada"})}, separators=(",", ":"))
        return "blx1." + base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    def run_it(self, *arguments, stdin="", **env):
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("BLIXARD_", "XDG_"))}
        done = subprocess.run([BLIXARD, *arguments], env={**clean, "HOME": str(self.home), **env}, input=stdin, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
        self.assertNotIn(SECRET, done.stdout + done.stderr)
        return done.returncode, done.stdout, done.stderr

    def good(self, *arguments, **options):
        status, out, errors = self.run_it(*arguments, **options)
        self.assertEqual((status, errors), (0, ""), out)
        return out

    def wrong(self, status, words, *arguments, **options):
        got = self.run_it(*arguments, **options)
        self.assertEqual(got[0], status, got)
        self.assertIn(words, got[2])

    def test_a_login_makes_a_context_that_shows_its_certificate(self):
        self.assertIn("context home is in use", self.good("login", "-", stdin=self.token() + "\n"))
        folder = self.contexts / "home"
        self.assertEqual(sorted(file.name for file in folder.iterdir()),
                         ["ca.pem", "client.key", "client.pem", "context.json"])
        for path in [*folder.iterdir(), folder, self.contexts]:
            self.assertEqual(path.stat().st_mode & 0o777, 0o700 if path.is_dir() else 0o600, path)
        self.assertEqual(json.loads((folder / "context.json").read_text())["addresses"],
                         [self.cluster.address, "10.9.9.9:7421"])

        self.good("fn", "list")
        method, path, authorization, _, peer = self.cluster.seen[-1]
        self.assertEqual((method, path, authorization), ("GET", "/v1/functions", None))
        self.assertEqual(peer["subjectAltName"], (("URI", f"spiffe://{CLUSTER}/client/ada"),))
        about = json.loads(self.good("context", "show", "--output", "json"))
        self.assertEqual((about["client"], about["kind"], about["current"]), ("ada", "certificate", True))
        self.assertIn("home", self.good("context", "list"))

    def test_a_second_login_of_the_same_cluster_replaces_the_first(self):
        self.good("login", self.token())
        before = (self.contexts / "home" / "client.key").read_text()
        self.good("login", self.token())
        self.assertNotEqual((self.contexts / "home" / "client.key").read_text(), before)
        self.good("fn", "list")

    def test_another_clusters_context_is_not_written_over(self):
        self.good("login", self.token(), "--name", "mine")
        facts = self.contexts / "mine" / "context.json"
        facts.write_text(facts.read_text().replace(CLUSTER, "f" * 32))
        seen = len(self.cluster.seen)
        self.wrong(73, "is one of another cluster", "login", self.token(), "--name", "mine")
        self.assertEqual(len(self.cluster.seen), seen)  # the secret is not used up

    def test_a_bearer_token_is_shown_with_each_request(self):
        token = self.token(b="ci")
        for arguments, env, stdin in (((), {"BLIXARD_TOKEN": token}, ""), (("--token-file", "-"), {}, token)):
            self.good("fn", "list", *arguments, stdin=stdin, **env)
            self.assertEqual(self.cluster.seen[-1][2], f"Bearer {SECRET}")
        self.assertFalse(self.contexts.exists())
        self.good("login", token, "--name", "robot")
        self.good("fn", "list")
        self.assertEqual(self.cluster.seen[-1][2:], (f"Bearer {SECRET}", b"", None))
        self.assertEqual(sorted(f.name for f in (self.contexts / "robot").iterdir()), ["context.json", "token"])
        self.good("fn", "list", "--addr", f"https://{self.cluster.address}")

    def test_a_token_goes_before_the_certificate_of_the_context(self):
        self.good("login", self.token())
        self.good("fn", "list", BLIXARD_TOKEN="another-secret")
        self.assertEqual(self.cluster.seen[-1][2:], ("Bearer another-secret", b"", None))

    def test_nothing_secret_goes_where_there_is_no_tls(self):
        heard = []

        class Plain(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                heard.append(dict(self.headers))
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b'{"functions": []}')

            def log_message(self, *_):
                pass

        server = http.server.HTTPServer(("127.0.0.1", 0), Plain)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        self.good("fn", "list", "--addr", f"127.0.0.1:{server.server_address[1]}", BLIXARD_TOKEN=self.token(b="ci"))
        server.shutdown()
        server.server_close()
        thread.join()
        self.assertEqual([fields.get("Authorization") for fields in heard], [None])

    def test_who_speaks_in_the_clear_to_a_cluster_is_told_how_to_log_in(self):
        self.wrong(69, "log in first", "fn", "list", "--addr", self.cluster.address)
        self.assertEqual(self.cluster.seen, [])

    def test_a_word_too_many_leads_to_the_help(self):
        self.wrong(64, 'unexpected "home" (it takes at most 0): blixard cluster init --help', "cluster", "init", "home")

    def test_a_dead_address_is_passed_over(self):
        self.good("login", self.token(["127.0.0.1:1", self.cluster.address]))
        self.good("fn", "list")
        self.assertEqual(self.cluster.seen[-1][1], "/v1/functions")
        known = json.loads((self.contexts / "home" / "context.json").read_text())["addresses"]
        self.assertEqual(known, [self.cluster.address, "127.0.0.1:1", "10.9.9.9:7421"])

    def test_what_cannot_be_asked_twice_finds_a_node_that_answers_first(self):
        """Goal: a session, an upload and a log that goes on find a living node as other verbs do.  Method: the first address is dead."""
        token = self.token(["127.0.0.1:1", self.cluster.address], b="ci")
        for words in (("vm", "exec", "m", "--", "ls"), ("vm", "cp", "/etc/hostname", "m:/root/"), ("vm", "import", "/etc/hostname"),
                      ("fn", "logs", "-f", "f")):
            self.wrong(66, "nothing", *words, BLIXARD_TOKEN=token)
            self.wrong(69, "answers", *words, BLIXARD_TOKEN=self.token(["127.0.0.1:1"], b="ci"))

    def test_a_node_that_has_just_started_is_passed_over_by_reads(self):
        busy = lambda *_: (503, {"code": "unavailable", "detail": "has just started"})
        starting = self.begin(self.authority)
        starting.answers.update({("GET", "/v1/functions"): busy, ("DELETE", "/v1/functions/a"): busy})
        token = self.token([starting.address, self.cluster.address], b="ci")
        self.good("fn", "list", BLIXARD_TOKEN=token)
        self.wrong(69, "has just started", "fn", "delete", "a", BLIXARD_TOKEN=token)
        self.assertEqual([len(starting.seen), len(self.cluster.seen)], [2, 1])

    def test_another_authority_gets_no_secret(self):
        impostor = self.begin(Authority(pathlib.Path(self.folder, "other")))
        self.wrong(77, "is not the one expected", "login", self.token([impostor.address]))
        self.wrong(77, "is not the one expected", "login", self.token([impostor.address, "127.0.0.1:1"]))
        self.good("login", self.token([impostor.address, self.cluster.address]))
        self.assertEqual(impostor.seen, [])

    def test_a_client_of_the_cluster_cannot_pass_for_a_node(self):
        impostor = self.begin(self.authority, usage="clientAuth")
        self.wrong(77, "purpose", "login", self.token([impostor.address]))
        self.good("login", self.token())
        self.wrong(77, "purpose", "fn", "list", "--addr", f"https://{impostor.address}")
        self.assertEqual(impostor.seen, [])

    def test_a_refused_login_leaves_nothing(self):
        wrong = self.token(s="0" * 40, n="ada")
        self.wrong(77, "no such secret", "login", wrong)
        self.assertFalse(self.contexts.exists())

    def test_a_certificate_of_somebody_else_is_not_kept(self):
        genuine = self.log_in

        def somebody(body, handler):
            asked = json.loads(body)
            return genuine(json.dumps({**asked, "client": "bob"}).encode(), handler)

        self.log_in = somebody
        self.cluster = self.begin(self.authority)
        self.wrong(76, "not the one the token is for", "login", self.token())
        self.assertFalse(self.contexts.exists())

    def test_after_a_logout_nothing_is_left(self):
        self.good("login", self.token())
        self.good("logout")
        self.assertEqual(list(self.contexts.iterdir()), [])
        self.assertIn("local", self.good("context", "list"))
