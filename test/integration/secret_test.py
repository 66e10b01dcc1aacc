"""Secrets at one node: set, shown without a value, given to functions, and found nowhere else."""
import http.client
import json
import os
import pathlib
import pty
import subprocess
import tempfile
import unittest

from node import BUILD, ROOT, Node

folder = None
module = None

SANDBOX = () if "ASAN_OPTIONS" in os.environ else ("--isolation", "process")  # which sanitizers have not


def setUpModule():
    global folder, module
    folder = tempfile.TemporaryDirectory(prefix="blixard-secret-")
    module = pathlib.Path(folder.name) / "secret.wasm"
    subprocess.run(["clang-14", "--target=wasm32-wasi", "-O1", "-mexec-model=reactor", "-I", ROOT / "sdk/c", "-o", module,
                    ROOT / "test/guests/secret.c"], check=True)


def tearDownModule():
    folder.cleanup()


class Claims:
    arguments = ()

    @classmethod
    def setUpClass(cls):
        cls.node = Node(arguments=cls.arguments)

    @classmethod
    def tearDownClass(cls):
        cls.node.stop()

    def run_cli(self, *arguments, data=b""):
        """(exit status, output, errors), as bytes."""
        done = subprocess.run([BUILD / "blixard", *arguments], env=self.node.env, input=data, capture_output=True)
        return done.returncode, done.stdout, done.stderr

    def cli(self, *arguments, data=b""):
        status, out, err = self.run_cli(*arguments, data=data)
        self.assertEqual(status, 0, err)
        return out

    def shown(self, name):
        return json.loads(self.cli("secret", "show", name, "--output", "json"))

    def ask(self, path, function, fields=None):
        host, port = self.node.gateway.rsplit(":", 1)
        connection = http.client.HTTPConnection(host, int(port), timeout=60)
        try:
            connection.request("GET", f"/fn/{function}{path}", headers=fields or {})
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")
        finally:
            connection.close()

    def test_a_value_is_given_to_the_functions_that_name_it(self):
        self.cli("secret", "set", "given", data=b"s3cret value=1\n")
        self.cli("fn", "deploy", "given", str(module), "--env", "PLAIN=p", "--secret", "PASSWORD=given")
        for _ in range(3):
            self.assertEqual(self.ask("/env?PASSWORD", "given"), (200, "s3cret value=1"))
        self.assertEqual(self.ask("/env?PLAIN", "given"), (200, "p"))
        self.assertEqual(self.ask("/get?given", "given"), (200, "s3cret value=1"))
        # Without a new version, the next call gets the next value.
        self.cli("secret", "set", "given", data=b"another")
        self.assertEqual(self.ask("/env?PASSWORD", "given"), (200, "another"))
        self.assertEqual(self.ask("/get?given", "given"), (200, "another"))
        self.assertEqual(self.node.invoke("given").strip(), "(none)")

    def test_a_function_gets_no_other_secret(self):
        self.cli("secret", "set", "mine", data=b"m")
        self.cli("secret", "set", "theirs", data=b"t")
        self.cli("fn", "deploy", "modest", str(module), "--secret", "PASSWORD=mine")
        status, text = self.ask("/get?theirs", "modest")
        self.assertEqual((status, text), (200, "-2 function modest does not name the secret theirs in its configuration (secrets)"))
        self.assertEqual(self.ask("/get?nothing", "modest")[1][:3], "-2 ")
        self.assertEqual(self.ask("/get?" + "n" * 80, "modest"), (200, "-28 the secret's name is longer than 63 bytes"))
        self.assertEqual(self.ask("/env?OTHER", "modest"), (200, "(none)"))

    def test_a_missing_secret_fails_the_call_and_nothing_is_lost(self):
        status, out, err = self.run_cli("fn", "deploy", "missing", str(module), "--secret", "PASSWORD=not-there", "--on-failure", "queue:nowhere")
        self.assertEqual((status, b"is live" in out), (0, True), err)
        lacks = ["there is no secret not-there (secrets.PASSWORD): blixard secret set not-there",
                 "there is no queue nowhere (async.on_failure): blixard queue create nowhere"]
        self.assertEqual(err.decode().splitlines(), lacks)
        self.assertEqual(self.node.json("/v1/functions/missing/versions/1")["lacks"], lacks)
        self.cli("queue", "create", "nowhere")
        self.assertEqual(self.node.json("/v1/functions/missing/versions/1")["lacks"], lacks[:1])
        status, text = self.ask("/env?PASSWORD", "missing")
        self.assertEqual(status, 503, text)
        self.assertIn("there is no secret not-there in project default; make it with: blixard secret set not-there",
                      json.loads(text)["detail"])
        self.assertIn("there is no secret not-there", self.node.cli("fn", "logs", "missing"))
        self.assertRegex(self.node.get("/metrics"), r'errors_total\{[^}]*missing[^}]*unavailable[^}]*\} [1-9]')
        # What was accepted runs once the secret is there; it was no attempt of the function.
        begun = self.cli("fn", "invoke", "missing", "--async", "--retries", "0", "--backoff", "100ms", "--data", "x").decode().strip()
        events = self.follow_until_failed_once(begun)
        self.assertIn("there is no secret not-there", events)
        self.cli("secret", "set", "not-there", data=b"now")
        ended = json.loads(self.node.call("GET", f"/v1/invocations/{begun}/wait?timeout=60s", timeout=70))
        self.assertEqual((ended["state"], ended["attempts"]), ("succeeded", 1))

    def follow_until_failed_once(self, invocation):
        while True:
            index = self.node.request("GET", f"/v1/invocations/{invocation}")
            shown = json.loads(index[1])
            if shown.get("error"):
                return shown["error"]
            self.node.request("GET", f"/v1/invocations/{invocation}?index={index[2]['x-blixard-index']}&wait=10s")

    def test_a_value_that_is_no_text_is_read_whole_by_its_name(self):
        value = bytes(range(256)) * 256
        with tempfile.NamedTemporaryFile() as file:
            file.write(value)
            file.flush()
            self.cli("secret", "set", "binary", "--from-file", file.name)
        self.assertEqual(self.shown("binary")["size_bytes"], 65536)
        self.node.deploy("binary", module, secrets={"PASSWORD": "binary"})
        status, text = self.ask("/get?binary", "binary")
        self.assertEqual(status, 503)
        self.assertIn("secret binary holds a NUL", text)
        self.cli("secret", "set", "binary", data=b"x" * 65536)
        status, text = self.ask("/get?binary", "binary")
        self.assertEqual((status, "the environment with secret binary has more than 65536 bytes" in text), (413, True), text)

    def test_a_secret_is_shown_without_its_value(self):
        self.cli("secret", "set", "shown", data=b"one")
        first = self.shown("shown")
        self.assertEqual((first["version"], first["size_bytes"], first["used_by"]), (1, 3, []))
        self.cli("secret", "set", "shown", data=b"three")
        second = self.shown("shown")
        self.assertEqual((second["version"], second["size_bytes"], second["created_at"]), (2, 5, first["created_at"]))
        self.assertGreater(second["revision"], first["revision"])
        self.node.deploy("shows", module, secrets={"A": "shown", "B": "shown"})
        self.assertEqual(self.shown("shown")["used_by"], ["function shows version 1"])
        listed = json.loads(self.cli("secret", "list", "--output", "json"))["secrets"]
        self.assertIn(("shown", 2), [(each["name"], each["version"]) for each in listed])
        self.assertIn(b"shown", self.cli("secret", "list"))
        self.assertIn(b"used by         function shows version 1", self.cli("secret", "show", "shown"))
        self.assertEqual(self.node.json("/v1/functions/shows/versions/1")["secrets"], {"A": "shown", "B": "shown"})
        self.assertEqual(self.node.request("GET", "/v1/secrets/shown?project=other")[0], 404)

    def test_one_that_is_used_is_not_deleted(self):
        self.cli("secret", "set", "used", data=b"u")
        for _ in range(2):
            self.node.deploy("uses", module, secrets={"A": "used"})
        status, _, err = self.run_cli("secret", "delete", "used")
        self.assertEqual(status, 75)
        self.assertIn(b"secret used is used by function uses version 1, function uses version 2; delete those first", err)
        self.cli("fn", "delete", "uses")
        self.assertIn(b"deleted secret used", self.cli("secret", "delete", "used"))
        self.assertEqual(self.run_cli("secret", "show", "used")[0], 66)
        self.assertEqual(self.run_cli("secret", "delete", "used")[0], 66)

    def test_what_cannot_be_is_refused(self):
        for name in ("Upper", "a/b", "-x", "x" * 64):
            self.assertEqual(self.run_cli("secret", "set", "--", name, data=b"v")[0], 64, name)
        self.assertEqual(self.run_cli("secret", "set", "empty", data=b"\n")[0], 64)
        self.assertEqual(self.node.request("PUT", "/v1/secrets/empty", b"")[0], 400)
        self.assertEqual(self.run_cli("secret", "set", "large", data=b"x" * 65537)[0], 65)
        self.assertNotEqual(self.run_cli("secret", "set", "word", "value")[0], 0)
        for secrets, word in (({"HTTP_COOKIE": "a"}, "HTTP_COOKIE"), ({"9": "a"}, "9"), ({"A": "No"}, "No"), ({"A=": "a"}, "A="),
                              ({f"A{i}": "a" for i in range(65)}, "at most 64"), ({"E": "a"}, "in the environment already")):
            body = {"module": self.node.upload(module), "environment": {"E": "1"}, "secrets": secrets}
            status, text, _ = self.node.request("POST", "/v1/functions/bad/versions", body)
            self.assertEqual((status, word in text.decode()), (400, True), text)

    def test_line_ends_of_standard_input(self):
        for data, flags, size in ((b"abc\n", (), 3), (b"abc\r\n", (), 3), (b"a\nb\n\n", (), 4), (b"abc\n", ("--keep-newline",), 4)):
            self.cli("secret", "set", "lines", *flags, data=data)
            self.assertEqual(self.shown("lines")["size_bytes"], size, data)

    def test_a_terminal_is_asked_and_shows_nothing(self):
        ours, theirs = pty.openpty()
        with subprocess.Popen([BUILD / "blixard", "secret", "set", "asked"], env=self.node.env, stdin=theirs, stdout=theirs,
                              stderr=theirs) as process:
            os.close(theirs)
            said = b""
            while b"Value of asked: " not in said:
                said += os.read(ours, 1000)
            os.write(ours, b"unseen\n")
            while b"has version" not in said:
                said += os.read(ours, 1000)
            self.assertEqual(process.wait(timeout=60), 0)
        os.close(ours)
        self.assertNotIn(b"unseen", said)
        self.assertEqual(self.shown("asked")["size_bytes"], 6)


class Traces(unittest.TestCase):
    """Where a value is to be found: nowhere."""

    def test_a_value_is_in_no_file_no_log_no_event_and_no_argument(self):
        value = b"Xq7-this-is-seen-nowhere-93b"
        with Node(arguments=(*SANDBOX, "--log-level", "debug")) as node:
            done = subprocess.Popen([BUILD / "blixard", "secret", "set", "hidden"], env=node.env, stdin=subprocess.PIPE,
                                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            arguments = pathlib.Path(f"/proc/{done.pid}/cmdline").read_bytes()
            said, _ = done.communicate(value)
            node.deploy("hides", module, secrets={"PASSWORD": "hidden"})
            host, port = node.gateway.rsplit(":", 1)
            connection = http.client.HTTPConnection(host, int(port), timeout=60)
            connection.request("GET", "/fn/hides/env?PASSWORD")
            self.assertEqual(connection.getresponse().read(), value)
            connection.request("GET", "/fn/hides/env?NONE")
            self.assertEqual(connection.getresponse().read(), b"(none)")
            connection.close()
            seen = [said, arguments]
            for path in ("/v1/secrets", "/v1/secrets/hidden", "/v1/functions/hides/versions/1", "/v1/functions/hides/logs", "/v1/traces",
                         "/metrics", "/v1/cluster/backup", "/v1/node"):
                seen.append(node.request("GET", path)[1])
            connection = http.client.HTTPConnection(*node.api.split(":"), timeout=60)
            connection.request("GET", "/v1/events?index=0")
            answer, told = connection.getresponse(), b""
            while b"default/hides/1" not in told:
                told += answer.readline()
            connection.close()
            self.assertIn(b"default/hidden", told)
            seen += [told, subprocess.run(["ps", "axeww"], capture_output=True).stdout]
            node.kill()
            node.process.wait()
            files = [path for path in node.folder.rglob("*") if path.is_file()]
            self.assertIn(node.folder / "secrets.key", files)
            seen += [path.read_bytes() for path in files] + [node.log.read_bytes()]
            self.assertEqual([each[:80] for each in seen if value in each], [])
            self.assertEqual([each[:80] for each in seen if value[::-1] in each], [])

    def test_a_backup_needs_the_key_that_was_kept(self):
        with tempfile.TemporaryDirectory(prefix="blixard-secret-") as work, Node(arguments=SANDBOX) as node:
            work = pathlib.Path(work)
            node.call("PUT", "/v1/secrets/kept", b"through a backup")
            node.deploy("f", module, secrets={"PASSWORD": "kept"})
            self.assertIn("keep the secrets.key", node.cli("cluster", "backup", work / "saved.tar"))
            restored = work / "restored"
            said = subprocess.run([BUILD / "blixard", "cluster", "restore", work / "saved.tar", "--data-folder", restored], check=True,
                                  capture_output=True, text=True).stdout
            self.assertIn(f"put their key to {restored}/secrets.key", said)
            with Node(restored, arguments=SANDBOX) as again:
                status, text, _ = again.request("POST", "/v1/functions/f/invocations", b"")
                self.assertEqual(status, 503)
                self.assertIn(f"put the secrets.key that was kept with the backup to {restored}/secrets.key".encode(), text)
                # It is looked for again.
                (restored / "secrets.key").write_bytes((node.folder / "secrets.key").read_bytes())
                while again.request("POST", "/v1/functions/f/invocations", b"")[0] == 503:
                    again.lines.get(timeout=60)
                self.assertEqual(again.json("/v1/secrets/kept")["version"], 1)
            # Another key is told, and not replaced.
            (restored / "secrets.key").write_bytes(b"w" * 32)
            with Node(restored, arguments=SANDBOX) as again:
                status, text, _ = again.request("POST", "/v1/functions/f/invocations", b"")
                self.assertEqual((status, b"is not the key of these secrets" in text), (503, True), text)
                self.assertEqual(again.request("PUT", "/v1/secrets/more", b"v")[0], 500)
            self.assertEqual((restored / "secrets.key").read_bytes(), b"w" * 32)


@unittest.skipIf(os.environ.get("ASAN_OPTIONS"), "sanitizers have no process sandbox")
class Process(Claims, unittest.TestCase):
    arguments = ("--isolation", "process")


@unittest.skipUnless(os.access("/dev/kvm", os.R_OK | os.W_OK), "no /dev/kvm")
class Microvm(Claims, unittest.TestCase):
    arguments = ("--isolation", "microvm")
    test_line_ends_of_standard_input = test_a_terminal_is_asked_and_shows_nothing = None


if __name__ == "__main__":
    unittest.main()
