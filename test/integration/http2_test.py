"""HTTP/2 as others speak it: curl and h2load, over TLS and in the clear."""
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

PLAIN_ONLY = "what is tried are programs beside ours"

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("BLIXARD_BUILD", ROOT / "build"))


def curl_knows_http2():
    return shutil.which("curl") and "HTTP2" in subprocess.run(["curl", "-V"], capture_output=True, text=True).stdout


class Http2(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.server = subprocess.Popen([BUILD / "test/integration/http-server", cls.folder.name],
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        cls.plain = f"http://localhost:{int(cls.server.stdout.readline())}"
        cls.secure = f"https://localhost:{int(cls.server.stdout.readline())}"

    @classmethod
    def tearDownClass(cls):
        cls.server.stdin.close()
        cls.server.wait(timeout=30)
        cls.server.stdout.close()
        cls.folder.cleanup()

    def curl(self, *arguments, stdin=None):
        """Its answer's body, with the version of HTTP behind it."""
        done = subprocess.run(
            ["curl", "-sS", "-4", "--max-time", "60", "--cacert", f"{self.folder.name}/authority.pem",
             "-w", " %{http_version} %{http_code}\\n", *arguments], input=stdin, capture_output=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout.decode()

    @unittest.skipUnless(curl_knows_http2(), "curl with HTTP/2 is not installed")
    def test_curl_chooses_it_over_tls(self):
        self.assertEqual(self.curl(f"{self.secure}/"), "@GET @ 2 200\n")
        self.assertEqual(self.curl("--http1.1", f"{self.secure}/"), "@GET @ 1.1 200\n")
        self.assertEqual(self.curl("-d", "hello", f"{self.secure}/"), "@POST 68656c6c6f@ 2 200\n")
        self.assertEqual(self.curl("-I", "-o", "/dev/null", f"{self.secure}/"), " 2 200\n")

    @unittest.skipUnless(curl_knows_http2(), "curl with HTTP/2 is not installed")
    def test_curl_knows_beforehand_in_the_clear(self):
        self.assertEqual(self.curl("--http2-prior-knowledge", "-d", "hello", f"{self.plain}/"),
                         "@POST 68656c6c6f@ 2 200\n")
        self.assertEqual(self.curl("--http2", f"{self.plain}/"), "@GET @ 1.1 200\n")  # no Upgrade: it stays

    @unittest.skipUnless(curl_knows_http2(), "curl with HTTP/2 is not installed")
    def test_bodies_both_ways(self):
        body = os.urandom(900000)
        answer = self.curl("--data-binary", "@-", f"{self.secure}/", stdin=body)
        self.assertEqual(answer, f"@POST {body.hex()}@ 2 200\n")
        answer = self.curl("-T", "-", f"{self.secure}/", stdin=body)  # a length nobody knows
        self.assertEqual(answer, f"@PUT {body.hex()}@ 2 200\n")
        self.assertIn(" 2 413\n", self.curl("--data-binary", "@-", f"{self.secure}/", stdin=bytes(3 << 20)))

    @unittest.skipUnless(curl_knows_http2(), "curl with HTTP/2 is not installed")
    def test_many_at_a_time(self):
        urls = [f"{self.secure}/{i}" for i in range(200)]
        answer = self.curl("-Z", "--parallel-max", "100", "-d", "x", *urls)
        self.assertEqual(answer.count("@POST 78@"), 200)

    @unittest.skipUnless(shutil.which("h2load"), "h2load (nghttp2-client) is not installed")
    def test_under_load(self):
        for url in (self.secure, self.plain):
            body = pathlib.Path(self.folder.name) / "body"
            body.write_bytes(b"x" * 20000)
            done = subprocess.run(["h2load", "-n", "1500", "-c", "10", "-m", "200", "-d", str(body), f"{url}/"],
                                  capture_output=True, text=True, timeout=120)
            self.assertIn("1500 succeeded, 0 failed, 0 errored, 0 timeout", done.stdout, done.stdout + done.stderr)
            self.assertTrue(re.search(r"status codes: 1500 2xx", done.stdout), done.stdout)


if __name__ == "__main__":
    unittest.main()
