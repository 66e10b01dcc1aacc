"""Images from registries as they are outside: with passwords, tokens, certificates, mirrors, lies, and connections that break.

The registry is Debian's docker-registry; what stands before it (tokens, a wire that can be cut) is strict.
"""
import base64
import contextlib
import crypt
import hashlib
import http.client
import http.server
import json
import pathlib
import shutil
import ssl
import subprocess
import tempfile
import threading
import time
import unittest
import urllib.parse

import oci
from ports import free_port
from machines import BUSYBOX, kernel_flags, why_not
from node import BUILD, Node

USER, PASSWORD = "reader", "correct horse"


def openssl(*words, **options):
    return subprocess.run(["openssl", *map(str, words)], check=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options).stdout


def make_certificates(folder):
    """An authority, and a certificate of it for 127.0.0.1."""
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=authority", "-keyout", folder / "ca.key",
            "-out", folder / "ca.pem")
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=registry", "-keyout", folder / "tls.key", "-out", folder / "tls.csr")
    (folder / "trust").mkdir()
    shutil.copy(folder / "ca.pem", folder / "trust" / "ca.crt")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    openssl("x509", "-req", "-in", folder / "tls.csr", "-CA", folder / "ca.pem", "-CAkey", folder / "ca.key", "-CAcreateserial",
            "-days", "2", "-extfile", folder / "names", "-out", folder / "tls.pem")


def based(content):
    return base64.urlsafe_b64encode(content).rstrip(b"=")


class Quiet(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body, fields=()):
        self.send_response(status)
        for name, value in fields:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextlib.contextmanager
def serving(handler, certificates=None):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    if certificates:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates / "tls.pem", certificates / "tls.key")
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Tokens(Quiet):
    """Docker's token server: one user, one repository, to pull; whatever is not exactly that is refused."""
    folder = None
    asked = []

    def do_GET(self):
        place = urllib.parse.urlsplit(self.path)
        query = urllib.parse.parse_qs(place.query)
        given = self.headers.get("Authorization", "")
        Tokens.asked.append((place.path, query, given))
        if given != "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode():
            self.answer(401, b'{"errors":[{"code":"UNAUTHORIZED","message":"a wrong password"}]}')
        elif place.path != "/token" or query != {"service": ["registry.test"], "scope": ["repository:team/web:pull"]}:
            self.answer(400, b"{}")
        else:
            self.answer(200, json.dumps({"token": self.token()}).encode(), [("Content-Type", "application/json")])

    def token(self):
        der = openssl("x509", "-in", self.folder / "ca.pem", "-outform", "DER")
        now = int(time.time())
        head = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(der).decode()]}
        claims = {"iss": "tokens.test", "sub": USER, "aud": "registry.test", "exp": now + 60, "nbf": now - 5, "iat": now, "jti": "1",
                  "access": [{"type": "repository", "name": "team/web", "actions": ["pull"]}]}
        signed = based(json.dumps(head).encode()) + b"." + based(json.dumps(claims).encode())
        signature = openssl("dgst", "-sha256", "-sign", self.folder / "ca.key", input=signed)
        return (signed + b"." + based(signature)).decode()


class Wire(Quiet):
    """What stands between: it hands on what the registry says, breaks off in the middle, or lies."""
    behind = None      # port
    noted = []         # (path, Range, Authorization)
    breaks = 0         # so many answers of blobs end in the middle
    is_ill = False     # it answers 503 after an answer that broke off
    lies = False       # the last byte of blobs is another one

    def do_GET(self):
        Wire.noted.append((self.path, self.headers.get("Range"), self.headers.get("Authorization")))
        kept = {name: self.headers[name] for name in ("Range", "Accept", "Authorization") if name in self.headers}
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.behind, timeout=60)) as asked:
            asked.request("GET", self.path, headers=kept)
            got = asked.getresponse()
            body = got.read()
        fields = [(name, got.headers[name]) for name in ("Content-Type", "Content-Range", "Docker-Content-Digest", "Www-Authenticate")
                  if name in got.headers]
        if "/blobs/" in self.path and Wire.is_ill and Wire.breaks == 0:
            self.answer(503, b"{}")
            return
        if "/blobs/" in self.path and Wire.breaks > 0 and len(body) > 1000:
            Wire.breaks -= 1
            self.send_response(got.status)
            for name, value in [*fields, ("Content-Length", str(len(body)))]:
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body[:len(body) // 2])
            self.wfile.flush()
            self.close_connection = True
            return
        if "/blobs/" in self.path and Wire.lies:
            body = body[:-1] + bytes([body[-1] ^ 1])
        self.answer(got.status, body, fields)


class Registries(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        reason = why_not() or oci.why_no_registry() or (None if shutil.which("openssl") else "openssl is not installed")
        if reason:
            raise unittest.SkipTest(reason)
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="blixard-registry-")))
        make_certificates(cls.folder)
        cls.node = Node()
        cls.addClassCleanup(cls.node.stop)
        cls.layout = oci.Layout(cls.folder / "layout")
        cls.digest = cls.layout.add("web", [oci.layer(("bin/", None), ("bin/busybox", BUSYBOX.read_bytes()))], {"Cmd": ["/bin/busybox"]})
        with oci.registry(cls.folder, free_port()) as address:
            oci.push(cls.layout.folder, "web", f"{address}/team/web:1")
        done = cls.run_cli("image", "import", "linux", *kernel_flags())
        assert done.returncode == 0, done.stderr

    @classmethod
    def run_cli(cls, *words, stdin="", cache="cache"):
        env = {**cls.node.env, "XDG_CACHE_HOME": str(cls.folder / cache), "no_proxy": "*"}
        return subprocess.run([BUILD / "blixard", *map(str, words)], env=env, text=True, input=stdin, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=300)

    def pull(self, address, *flags, stdin="", **options):
        done = self.run_cli("image", "pull", f"{address}/team/web:1", "--name", self.id().rpartition(".")[2].replace("_", "-")[:60],
                            *flags, stdin=stdin, **options)
        self.assertEqual(done.returncode, 0, done.stderr)

    def refused(self, address, *flags, stdin="", **options):
        done = self.run_cli("image", "pull", f"{address}/team/web:1", "--name", "refused", *flags, stdin=stdin, **options)
        self.assertNotEqual(done.returncode, 0)
        return done.stderr

    @contextlib.contextmanager
    def registry(self, **more):
        """The same images, served otherwise."""
        port = free_port()
        with oci.registry(self.folder, port, **more) as address:
            yield address

    def secure(self):
        return {"certificate": str(self.folder / "tls.pem"), "key": str(self.folder / "tls.key")}

    def test_a_certificate_of_an_authority_that_is_named(self):
        with self.registry(tls=self.secure(), authority=self.folder / "ca.pem") as address:
            self.assertIn("certificate", self.refused(address).lower())
            self.pull(address, "--ca", self.folder / "ca.pem")
            self.assertIn("there.pem", self.refused(address, "--ca", self.folder / "there.pem"))

    def test_a_password(self):
        (self.folder / "users").write_text(f"{USER}:{crypt.crypt(PASSWORD, crypt.mksalt(crypt.METHOD_BLOWFISH, rounds=16))}\n")
        ask = {"htpasswd": {"realm": "test", "path": str(self.folder / "users")}}
        with self.registry(tls=self.secure(), auth=ask, authority=self.folder / "ca.pem") as address:
            authority = ("--ca", self.folder / "ca.pem")
            self.assertIn("give --username and --password-stdin", self.refused(address, *authority, cache="of-nobody"))
            self.assertIn("does not take this password of reader",
                          self.refused(address, *authority, "--username", USER, "--password-stdin", stdin="wrong", cache="of-nobody"))
            self.pull(address, *authority, "--username", USER, "--password-stdin", stdin=PASSWORD + "\n", cache="of-nobody")
            self.logins_of_others(address, authority)

    def logins_of_others(self, address, authority):
        """What `skopeo login` writes is read."""
        logins = self.folder / "logins.json"
        shown = subprocess.run(["skopeo", "login", "--authfile", logins, "--cert-dir", self.folder / "trust", "--username", USER,
                                "--password-stdin", address], input=PASSWORD, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.assertEqual(shown.returncode, 0, shown.stdout)
        self.pull(address, *authority, "--auth-file", logins, cache="of-logins")
        self.assertIn("has no password for", self.refused(f"127.0.0.1:{free_port()}", *authority, "--auth-file", logins, cache="of-logins"))
        self.assertIn("not both", self.refused(address, "--auth-file", logins, "--username", USER, "--password-stdin", stdin="x"))
        self.assertIn("none.json", self.refused(address, "--auth-file", self.folder / "none.json"))
        logins.write_text(json.dumps({"auths": {address: {"auth": "%%%"}}}))
        self.assertIn("no USER:PASSWORD", self.refused(address, "--auth-file", logins))

    def logins_of(self, *addresses):
        return json.dumps({"auths": {address: {"auth": base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()} for address in addresses}})

    def secret(self, name, value):
        done = self.run_cli("secret", "set", name, stdin=value)
        self.assertEqual(done.returncode, 0, done.stderr)

    def hidden(self):
        """Neither as it is nor packed: in no file of the node, and in nothing that it has said."""
        basic = base64.b64encode(f"{USER}:{PASSWORD}".encode())
        for path in [self.node.log, *self.node.folder.rglob("*")]:
            if path.is_file():
                content = path.read_bytes()
                self.assertNotIn(PASSWORD.encode(), content, path)
                self.assertNotIn(basic, content, path)

    def test_a_password_that_the_node_alone_knows(self):
        (self.folder / "users").write_text(f"{USER}:{crypt.crypt(PASSWORD, crypt.mksalt(crypt.METHOD_BLOWFISH, rounds=16))}\n")
        ask = {"htpasswd": {"realm": "test", "path": str(self.folder / "users")}}
        with self.registry(tls=self.secure(), auth=ask, authority=self.folder / "ca.pem") as address:
            authority = ("--ca", self.folder / "ca.pem")
            use = (*authority, "--credentials", "registry-logins")
            self.assertIn("registry-logins", self.refused(address, *use, cache="of-secrets"))
            self.secret("registry-logins", self.logins_of("elsewhere.test"))
            self.assertIn("no password for " + address, self.refused(address, *use, cache="of-secrets"))
            self.secret("registry-logins", "reader:secret")
            said = self.refused(address, *use, cache="of-secrets")
            self.assertIn("is no JSON", said)
            self.assertNotIn("reader:secret", said)
            self.secret("registry-logins", self.logins_of(address).replace(self.logins_of(address)[-20:-8], ""))
            self.assertNotEqual(self.refused(address, *use, cache="of-secrets"), "")
            self.secret("registry-logins", self.logins_of(address))
            self.assertIn("certificate", self.refused(address, "--credentials", "registry-logins", cache="of-secrets").lower())
            for flags in (("--insecure",), ("--auth-file", "x"), ("--username", "a", "--password-stdin")):
                self.assertIn("not both", self.refused(address, *use, *flags, cache="of-secrets"))
            self.pull(address, *use, cache="of-secrets")
            shown = json.loads(self.run_cli("image", "show", "test-a-password-that-the-node-alone-knows", "--output", "json").stdout)
            self.assertEqual(shown["digest"], self.digest)
            pulls = [one for one in json.loads(self.run_cli("operation", "list", "--output", "json").stdout)["operations"]
                     if one["kind"] == "image.pull"]
            self.assertEqual(pulls[0]["state"], "succeeded")
            self.assertEqual(list((self.node.folder / "machines" / "pulled").iterdir()), [])  # it was fetched, and is gone
            self.blobs_are_the_projects(address)
            self.hidden()

    def blobs_are_the_projects(self, address):
        """What was pulled for one project is nobody else's, and a name is no path."""
        begun = json.loads(self.node.call("POST", "/v1/pulls", {"reference": f"{address}/team/web:1", "credentials": "registry-logins",
                                                                "authority": (self.folder / "ca.pem").read_text()}))["operation"]
        ended = self.node.json(f"/v1/operations/{begun}/wait?timeout=60s")
        self.assertEqual(ended["state"], "succeeded", ended)
        blob = f"/v1/pulls/{begun}/{ended['result']['config']}"
        status, body, _ = self.node.request("GET", blob)
        self.assertEqual((status, hashlib.sha256(body).hexdigest()), (200, ended["result"]["config"]))
        self.assertEqual(self.node.request("GET", blob + "?project=other")[0], 404)
        self.assertEqual(self.node.request("GET", f"/v1/pulls/{begun}/project")[0], 400)
        for name in ("..", "%2e%2e%2fpulled", "0" * 32):
            self.assertEqual(self.node.request("GET", f"/v1/pulls/{name}/{ended['result']['config']}")[0], 404, name)
        self.assertEqual(self.node.request("DELETE", f"/v1/pulls/{begun}?project=other")[0], 404)
        self.assertEqual(self.node.request("DELETE", f"/v1/pulls/{begun}")[0], 204)
        self.assertEqual(self.node.request("GET", blob)[0], 404)

    def test_a_token(self):
        Tokens.folder = self.folder
        with serving(Tokens, self.folder) as tokens:
            ask = {"token": {"realm": f"https://127.0.0.1:{tokens}/token", "service": "registry.test", "issuer": "tokens.test",
                             "rootcertbundle": str(self.folder / "ca.pem")}}
            with self.registry(tls=self.secure(), auth=ask, authority=self.folder / "ca.pem") as address:
                authority = ("--ca", self.folder / "ca.pem")
                self.assertIn("password", self.refused(address, *authority, cache="of-tokens"))
                said = self.refused(address, *authority, "--username", USER, "--password-stdin", stdin="wrong", cache="of-tokens")
                self.assertIn("does not take this password of reader", said)
                self.assertNotIn("wrong\n", said)
                self.pull(address, *authority, "--username", USER, "--password-stdin", stdin=PASSWORD, cache="of-tokens")
        self.assertEqual({path for path, _, _ in Tokens.asked}, {"/token"})

    def test_what_breaks_off_goes_on_where_it_was(self):
        with self.registry() as address, serving(Wire) as port:
            Wire.behind, Wire.breaks, Wire.lies, Wire.noted = int(address.rpartition(":")[2]), 1, False, []
            self.pull(f"127.0.0.1:{port}", "--insecure", cache="of-breaks")
            ranges = [span for path, span, _ in Wire.noted if span]
            self.assertEqual(len(ranges), 1, Wire.noted)
            self.assertRegex(ranges[0], r"^bytes=[1-9]\d+-$")
            # A registry that is gone then is an error; the next command goes on with what has come.
            Wire.breaks, Wire.is_ill, Wire.noted = 1, True, []
            self.assertIn("answers 503", self.refused(f"127.0.0.1:{port}", "--insecure", cache="of-illness"))
            Wire.is_ill, Wire.noted = False, []
            self.pull(f"127.0.0.1:{port}", "--insecure", cache="of-illness")
            self.assertEqual([span for path, span, _ in Wire.noted if span], ranges)

    def test_what_is_not_what_its_digest_says_is_refused(self):
        with self.registry() as address, serving(Wire) as port:
            Wire.behind, Wire.breaks, Wire.lies, Wire.noted = int(address.rpartition(":")[2]), 0, True, []
            self.assertIn("is something else", self.refused(f"127.0.0.1:{port}", "--insecure", cache="of-lies"))
            self.assertEqual(self.run_cli("image", "show", "refused").returncode != 0, True)
            Wire.lies = False
            self.pull(f"127.0.0.1:{port}", "--insecure", cache="of-lies")

    def test_a_mirror_is_asked_first_and_told_no_password(self):
        with self.registry() as address, serving(Wire) as port:
            Wire.behind, Wire.breaks, Wire.lies, Wire.noted = int(address.rpartition(":")[2]), 0, False, []
            self.pull(address, "--insecure", "--mirror", f"127.0.0.1:{port}", "--username", USER, "--password-stdin", stdin=PASSWORD,
                      cache="of-mirror")
            self.assertTrue([path for path, _, _ in Wire.noted if "/blobs/" in path])
            self.assertEqual({said for _, _, said in Wire.noted}, {None})
            # What it has not comes from the image's own.
            self.pull(address, "--insecure", "--mirror", f"127.0.0.1:{free_port()}", cache="of-no-mirror")
            self.assertEqual(hashlib.sha256((self.layout.folder / "blobs/sha256" / self.digest[7:]).read_bytes()).hexdigest(),
                             self.digest[7:])


if __name__ == "__main__":
    unittest.main()
