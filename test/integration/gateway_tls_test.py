"""The gateway over HTTPS: what it shows, what it speaks, how it gets a new certificate, and routes for clients with certificates."""
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import unittest

from node import BUILD, Node
from shows import compile_guest

WAIT_SECONDS = 60
SECURE = re.compile(r"https://([\d.]+:\d+)")


class Authority:
    """An authority of openssl's, and what it signs."""

    def __init__(self, folder, name, parent=None):
        self.folder, self.name = folder, name
        self.pem, self.key = folder / f"{name}.pem", folder / f"{name}.key"
        if parent is None:
            self.openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", self.key,
                         "-out", self.pem, "-days", "10", "-subj", f"/CN={name}")
        else:
            self.pem, self.key = parent.sign(name, "basicConstraints=critical,CA:true\nkeyUsage=keyCertSign\n")

    @staticmethod
    def openssl(*words, **options):
        return subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, timeout=WAIT_SECONDS, **options).stdout

    def sign(self, name, extensions, subject=None, days=10):
        """(certificate, key)."""
        files = [self.folder / f"{name}.{kind}" for kind in ("pem", "key", "csr", "ext")]
        pem, key, request, extra = files
        extra.write_text(extensions)
        self.openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-out", request,
                     "-subj", subject or f"/CN={name}")
        self.openssl("x509", "-req", "-in", request, "-CA", self.pem, "-CAkey", self.key, "-CAcreateserial", "-out", pem,
                     "-days", days, "-extfile", extra)
        return pem, key

    def server(self, name):
        return self.sign(name, "subjectAltName=DNS:localhost,DNS:api.example.org,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n")

    def client(self, name, **more):
        return self.sign(name, "extendedKeyUsage=clientAuth\n", **more)


class Secure(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="blixard-tls-")
        cls.addClassCleanup(folder.cleanup)
        cls.folder = pathlib.Path(folder.name)
        cls.authority = Authority(cls.folder, "servers")
        cls.clients = Authority(cls.folder, "clients")
        cls.below = Authority(cls.folder, "below", cls.clients)
        cls.others = Authority(cls.folder, "others")
        cls.pem, cls.key = cls.folder / "now.pem", cls.folder / "now.key"
        cls.use(cls.authority.server("one"))
        cls.node = Node(arguments=["--gateway-tls-address", "127.0.0.1:0", "--gateway-tls-certificate", str(cls.pem),
                                   "--gateway-tls-key", str(cls.key)])
        cls.addClassCleanup(cls.node.stop)
        cls.secure = SECURE.search(cls.node.said).group(1)
        cls.node.deploy("shows", compile_guest(cls.folder))

    @classmethod
    def use(cls, pair):
        """As tools do it: written beside, then renamed."""
        for source, target in zip(pair, (cls.pem, cls.key)):
            beside = target.with_suffix(".new")
            shutil.copy(source, beside)
            os.rename(beside, target)

    def set(self, name, *flags):
        self.node.cli("route", "set", name, "--function", "shows", *flags)
        self.addCleanup(self.node.cli, "route", "delete", name)

    def curl(self, path, *flags, host="127.0.0.1"):
        """(status, body), HTTP version and what curl says of failures are in the body of status 0."""
        port = self.secure.split(":")[1]
        done = subprocess.run(["curl", "-sS", "--cacert", self.authority.pem, "--resolve", f"{host}:{port}:127.0.0.1",
                               "-w", "\n%{http_code} %{http_version}", *map(str, flags), f"https://{host}:{port}{path}"],
                              capture_output=True, text=True, timeout=WAIT_SECONDS)
        body, _, last = done.stdout.rpartition("\n")
        status, version = last.split()
        return int(status), body if done.returncode == 0 else done.stderr, version

    def shown(self):
        """The subject of the certificate that the gateway shows."""
        context = ssl.create_default_context(cafile=str(self.authority.pem))
        host, port = self.secure.split(":")
        with socket.create_connection((host, int(port)), WAIT_SECONDS) as plain:
            with context.wrap_socket(plain, server_hostname="localhost") as stream:
                return dict(pair[0] for pair in stream.getpeercert()["subject"])["commonName"]

    def until_shown(self, name):
        ends = time.monotonic() + WAIT_SECONDS
        while self.shown() != name:
            self.assertLess(time.monotonic(), ends, f"{name} is not shown: {self.shown()}")

    # ---- What it speaks ----

    def test_a_function_is_called_over_https_and_told_so(self):
        for flag, version in (("--http1.1", "1.1"), ("--http2", "2")):
            status, body, spoken = self.curl("/fn/shows/x?q=1", flag, host="localhost")
            self.assertEqual((status, spoken), (200, version), body)
            got = dict(line.split("=", 1) for line in body.splitlines() if "=" in line)
            self.assertEqual((got["HTTPS"], got["REQUEST_SCHEME"], got["SERVER_NAME"], got["SERVER_PORT"]),
                             ("on", "https", "localhost", self.secure.split(":")[1]))
        plain = self.node.gateway
        done = subprocess.run(["curl", "-sS", f"http://{plain}/fn/shows"], capture_output=True, text=True, timeout=WAIT_SECONDS)
        self.assertIn("REQUEST_SCHEME=http\n", done.stdout)
        self.assertNotIn("HTTPS=", done.stdout)

    def test_versions_and_suites(self):
        def spoken(*flags):
            done = subprocess.run(["openssl", "s_client", "-connect", self.secure, "-CAfile", self.authority.pem, *flags],
                                  input="", capture_output=True, text=True, timeout=WAIT_SECONDS)
            return done.returncode, done.stdout + done.stderr
        for flags, word in ((("-tls1_3",), "TLSv1.3"), (("-tls1_2",), "TLSv1.2"), (("-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"), "TLSv1.2")):
            status, text = spoken(*flags)
            self.assertIn(word, text)
            self.assertIn("Verify return code: 0 (ok)", text)
            self.assertEqual(status, 0)
        for flags in (("-tls1_1", "-cipher", "ALL@SECLEVEL=0"), ("-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA@SECLEVEL=0"), ("-alpn", "spdy/3")):
            self.assertNotEqual(spoken(*flags)[0], 0, flags)
        self.assertIn("ALPN protocol: h2", spoken("-alpn", "http/1.1,h2")[1])

    def test_what_is_no_tls_is_let_go(self):
        host, port = self.secure.split(":")
        with socket.create_connection((host, int(port)), WAIT_SECONDS) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            heard = b""
            piece = client.recv(65536)
            while piece:
                heard, piece = heard + piece, client.recv(65536)
            self.assertNotIn(b"HTTP/1.1", heard)
        self.assertEqual(self.curl("/fn/shows")[0], 200)

    # ---- Its certificate ----

    def test_a_new_certificate_is_shown_once_both_files_are_new(self):
        two = self.authority.server("two")
        shutil.copy(two[0], self.pem)  # its key is still the old one
        self.assertIn(self.shown(), ("one", "three"))
        shutil.copy(two[1], self.key)
        self.until_shown("two")
        self.assertEqual(self.curl("/fn/shows")[0], 200)
        self.use((self.folder / "one.pem", self.folder / "one.key"))
        self.until_shown("one")

    def test_certificates_behind_it_are_shown(self):
        between = Authority(self.folder, "between", self.authority)
        pem, key = between.server("far")
        chain = self.folder / "chain.pem"
        chain.write_text(pem.read_text() + between.pem.read_text())
        self.use((chain, key))
        try:
            self.until_shown("far")  # a client that knows the root only believes it
        finally:
            self.use((self.folder / "one.pem", self.folder / "one.key"))
            self.until_shown("one")

    # ---- Clients with certificates ----

    def mtls(self, *flags):
        self.set("inner", "--path", "/inner/{rest...}", "--auth", "mtls", "--client-ca", self.clients.pem, *flags)

    def test_a_client_with_a_certificate_is_let_in_and_named(self):
        self.mtls()
        pem, key = self.clients.client("ann", subject="/O=Example, Inc./CN=ann")
        for flag in ("--http1.1", "--http2"):
            for version in ("--tlsv1.3", "--tls-max=1.2"):
                flags = [version] if version == "--tlsv1.3" else ["--tls-max", "1.2"]
                status, body, _ = self.curl("/inner/x", flag, *flags, "--cert", pem, "--key", key)
                self.assertEqual(status, 200, body)
                got = dict(line.split("=", 1) for line in body.splitlines() if "=" in line)
                subject = "CN=ann,O=Example\\, Inc."
                self.assertEqual((got["REMOTE_USER"], got["SSL_CLIENT_S_DN"], got["SSL_CLIENT_VERIFY"], got["AUTH_TYPE"]),
                                 (subject, subject, "SUCCESS", "CLIENT_CERT"))
                printed = Authority.openssl("x509", "-in", pem, "-noout", "-fingerprint", "-sha256").decode()
                self.assertEqual(got["SSL_CLIENT_FINGERPRINT"], printed.split("=")[1].strip().replace(":", "").lower())
        self.assertNotIn("SSL_CLIENT", self.curl("/fn/shows", "--cert", pem, "--key", key)[1])  # nobody asked there

    def test_everybody_else_is_told_why_not(self):
        self.mtls()
        stranger = self.others.client("stranger")
        late = self.expired()
        server = self.clients.sign("server-only", "extendedKeyUsage=serverAuth\n")
        for pair, word in ((None, "none was shown"), (stranger, "unable to get local issuer"), (late, "expired"),
                           (server, "purpose"), (self.self_signed(), "self-signed")):
            flags = ["--cert", pair[0], "--key", pair[1]] if pair else []
            for flag in ("--http1.1", "--http2"):
                status, body, _ = self.curl("/inner/x", flag, *flags)
                self.assertEqual(status, 403, body)
                self.assertIn(word, json.loads(body)["detail"])
        # Names of certificates are not for headers to claim.
        status, body, _ = self.curl("/inner/x", "-H", "X-Blixard-Subject: CN=ann", "-H", "X-Blixard-Fingerprint: 00")
        self.assertEqual(status, 403, body)
        plain = subprocess.run(["curl", "-sS", "-w", "%{http_code}", f"http://{self.node.gateway}/inner/x"], capture_output=True, text=True,
                               timeout=WAIT_SECONDS).stdout
        self.assertIn("this is HTTP", plain)
        self.assertTrue(plain.endswith("403"))

    def expired(self):
        """Signed for a day that is over."""
        pem, key = self.clients.client("late")
        request = self.folder / "late.csr"
        database = self.folder / "late"
        database.mkdir(exist_ok=True)
        (database / "index").write_text("")
        (database / "serial").write_text("01\n")
        config = database / "ca.cnf"
        config.write_text(f"[ca]\ndefault_ca=c\n[c]\ndatabase={database}/index\nserial={database}/serial\nnew_certs_dir={database}\n"
                          f"default_md=sha256\npolicy=p\n[p]\ncommonName=supplied\n")
        Authority.openssl("ca", "-batch", "-config", config, "-cert", self.clients.pem, "-keyfile", self.clients.key, "-in", request,
                          "-out", pem, "-startdate", "20200101000000Z", "-enddate", "20200102000000Z", "-notext")
        return pem, key

    def self_signed(self):
        pem, key = self.folder / "alone.pem", self.folder / "alone.key"
        Authority.openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-out", pem,
                          "-days", "10", "-subj", "/CN=alone", "-addext", "basicConstraints=critical,CA:false")
        return pem, key

    def test_an_authority_below_another_is_enough(self):
        pem, key = self.below.client("bob")
        both = self.folder / "bob-chain.pem"
        both.write_text(pem.read_text() + self.below.pem.read_text())
        self.mtls()
        self.assertEqual(self.curl("/inner/x", "--cert", both, "--key", key)[0], 200)  # shown with what leads to the root
        self.assertEqual(self.curl("/inner/x", "--cert", pem, "--key", key)[0], 403)
        self.node.cli("route", "set", "inner", "--function", "shows", "--path", "/inner/{rest...}", "--auth", "mtls", "--client-ca",
                      self.below.pem)
        self.assertEqual(self.curl("/inner/x", "--cert", pem, "--key", key)[0], 200)
        ann = self.clients.client("ann")
        self.assertEqual(self.curl("/inner/x", "--cert", ann[0], "--key", ann[1])[0], 403)  # only what is below it

    def test_only_hosts_that_want_one_ask(self):
        self.set("inner", "--path", "/inner", "--host", "api.example.org", "--auth", "mtls", "--client-ca", self.clients.pem)

        def asked(name):
            done = subprocess.run(["openssl", "s_client", "-connect", self.secure, "-servername", name], input="", capture_output=True,
                                  text=True, timeout=WAIT_SECONDS)
            return "Requested Signature Algorithms" in done.stdout
        self.assertTrue(asked("api.example.org"))
        self.assertFalse(asked("localhost"))
        pem, key = self.clients.client("ann")
        self.assertEqual(self.curl("/inner", "--cert", pem, "--key", key, host="api.example.org")[0], 200)
        # Over a connection for another name it is another connection's: 421.
        status, body, _ = self.curl("/inner", "--cert", pem, "--key", key, "-H", "Host: api.example.org", host="localhost")
        self.assertEqual(status, 421, body)

    def test_settings_that_cannot_be_are_refused(self):
        def refused(*flags):
            done = subprocess.run([BUILD / "blixard", "route", "set", "bad", "--function", "shows", "--path", "/bad", *map(str, flags)],
                                  env=self.node.env, capture_output=True, text=True, timeout=WAIT_SECONDS)
            self.assertNotEqual(done.returncode, 0)
            return done.stderr
        self.assertIn("--client-ca", refused("--auth", "mtls"))
        self.assertIn("is for auth: mtls", refused("--client-ca", self.clients.pem))
        self.assertIn("private key", refused("--auth", "mtls", "--client-ca", self.clients.key))
        self.assertIn("no certificate", refused("--auth", "mtls", "--client-ca", __file__))


class Server(unittest.TestCase):
    """Of `blixard server`: what it does when it is told SIGHUP, and what it does not begin with."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="blixard-tls-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.authority = Authority(self.folder, "servers")
        self.pem, self.key = self.authority.server("one")

    def command(self, *flags):
        return [BUILD / "blixard", "server", "--data-folder", self.folder / "data", "--api-address", "127.0.0.1:0", "--gateway-address",
                "127.0.0.1:0", "--gateway-tls-address", "127.0.0.1:0", *map(str, flags)]

    def test_sighup_reads_the_certificate(self):
        process = subprocess.Popen(self.command("--gateway-tls-certificate", self.pem, "--gateway-tls-key", self.key),
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            said = ""
            while "is ready" not in said:
                said = process.stderr.readline()
                self.assertTrue(said)
            self.assertRegex(said, SECURE)
            for word in ("was read anew", "was read anew", "stays as it was"):
                if word.startswith("stays"):
                    self.key.write_text("none")
                process.send_signal(signal.SIGHUP)
                while word not in said:
                    said = process.stderr.readline()
                    self.assertTrue(said, "it ended")
                said = ""
        finally:
            process.terminate()
            process.communicate(timeout=WAIT_SECONDS)
        self.assertEqual(process.returncode, 0)

    def test_what_cannot_be_shown_is_said_at_the_start(self):
        for flags, word in (((self.pem, self.folder / "none"), "none"), ((self.pem, self.folder / "servers.key"), "the key is not the certificate's"),
                            ((self.key, self.key), "not one in PEM"), ((self.pem, ""), "needs both")):
            done = subprocess.run(self.command("--gateway-tls-certificate", flags[0], f"--gateway-tls-key={flags[1]}"), capture_output=True,
                                  text=True, timeout=WAIT_SECONDS)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn(word, done.stderr)


if __name__ == "__main__":
    unittest.main()
