"""Linux functions by the command line: one machine image, handlers that speak the Lambda Runtime API by themselves."""
import contextlib
import json
import pathlib
import tempfile
import unittest
import urllib.error
import urllib.request

import machines
from machines import bootstrap, kernel_flags, root_archive, why_not
from node import Node
from node_case import NodeCase

PLAIN_ONLY = "the time goes to guests that are emulated, and to QEMU"

# With nothing but busybox.  What it is asked to do is in the event.
BOOTSTRAP = bootstrap(first="""
if [ -e /var/task/bad ]; then
    echo "about to fail"
    wget -q -O - --post-data '{"errorType":"Config.Missing","errorMessage":"no colour is set"}' $api/init/error
    exit 1
fi
if [ -e /var/task/gone ]; then reboot -f; fi
if [ -e /var/task/numb ]; then rm -f /dev/urandom; fi
echo "started with $_HANDLER $COLOUR"
""", each="""
    echo "invocation $id number $count"
    if grep -q please-crash /tmp/event; then exit 7; fi
    if grep -q please-reboot /tmp/event; then reboot -f; fi
    if grep -q please-hang /tmp/event; then sleep 1000; fi
    if grep -q please-fail /tmp/event; then
        wget -q -O - --post-data '{"errorType":"Oops","errorMessage":"as you like"}' $api/invocation/$id/error
        continue
    elif grep -q please-tell /tmp/event; then
        wget -q -O - --post-file /run/secrets/TOKEN $api/invocation/$id/response
        continue
    elif grep -q rawPath /tmp/event; then
        path=$(sed 's/.*"rawPath":"\\([^"]*\\)".*/\\1/' /tmp/event)
        wget -q -O - --post-data "{\\"statusCode\\":201,\\"headers\\":{\\"x-count\\":\\"$count\\"},\\"body\\":\\"$path $COLOUR\\"}" \\
            $api/invocation/$id/response
        continue
    fi
""")


def setUpModule():
    global folder
    reason = why_not()
    if reason:
        raise unittest.SkipTest(reason)
    folder = tempfile.TemporaryDirectory(prefix="blixard-linux-functions-")
    machines.TOOLS += [tool for tool in ("wget", "sed", "tr", "grep", "rm") if tool not in machines.TOOLS]
    (pathlib.Path(folder.name) / "root.tar.gz").write_bytes(root_archive())


def tearDownModule():
    folder.cleanup()


class Case(NodeCase):
    @classmethod
    def setUpClass(cls):
        cls.data = pathlib.Path(folder.name) / "data"
        cls.data.mkdir()
        cls.enterClassContext(machines.machines_of(cls.data))
        cls.node = Node(folder=cls.data)
        cls.addClassCleanup(lambda: cls.node.stop())
        cls.ok("image", "import", "small", "--root", pathlib.Path(folder.name) / "root.tar.gz", *kernel_flags())
        cls.app = pathlib.Path(folder.name) / "app"
        cls.app.mkdir()
        (cls.app / "bootstrap").write_text(BOOTSTRAP)
        (cls.app / "bootstrap").chmod(0o755)
        (cls.app / "blixard.yaml").write_text("runtime: linux\nimage: small\nhandler: main\nmemory: 96MiB\ntimeout: 60s\n"
                                              "environment:\n  COLOUR: blue\n")
        cls.ok("fn", "deploy", "shell", cls.app)
        cls.deploy_late()

    @classmethod
    def deploy_late(cls):
        (pathlib.Path(folder.name) / "key").write_text("the-word-of-the-day")
        cls.ok("secret", "set", "key", "--from-file", pathlib.Path(folder.name) / "key")
        cls.ok("fn", "deploy", "late", cls.app, "--timeout", "5s", "--secret", "TOKEN=key")

    def test_an_event_is_answered(self):
        self.assertEqual(json.loads(self.ok("fn", "invoke", "shell", "--data", '{"a": [1, 2]}')), {"a": [1, 2]})

    def test_http_becomes_an_event_and_back(self):
        url = json.loads(self.ok("fn", "get", "shell", "--output", "json"))["url"]
        with urllib.request.urlopen(url + "/some/path?x=1", timeout=120) as answer:
            self.assertEqual((answer.status, answer.read()), (201, b"/some/path blue"))
            self.assertEqual(answer.headers["x-count"], "1")
        with urllib.request.urlopen(url + "/", timeout=120) as answer:
            self.assertEqual(answer.headers["x-count"], "1", "each request finds the machine of the template")

    def test_a_crash_an_error_and_a_timeout_have_their_reasons(self):
        self.assertIn("ended with status 7", self.run_cli("fn", "invoke", "shell", "--data", '"please-crash"').stderr)
        self.assertIn("machine has rebooted", self.run_cli("fn", "invoke", "shell", "--data", '"please-reboot"').stderr)
        self.assertIn("Oops: as you like", self.run_cli("fn", "invoke", "shell", "--data", '"please-fail"').stderr)
        self.assertEqual(json.loads(self.ok("fn", "invoke", "shell", "--data", "1")), 1)

    def test_what_is_too_late_ends_with_its_machine(self):
        late = self.run_cli("fn", "invoke", "late", "--data", '"please-hang"')
        self.assertIn("longer than its timeout of 5000 ms", late.stderr)
        self.assertEqual(json.loads(self.ok("fn", "invoke", "late", "--data", "2")), 2)

    def test_a_template_outlives_the_daemon_and_goes_with_the_function(self):
        before = self.kept()
        self.assertEqual(len(before), 2)
        self.node.process.kill()
        self.node.process.wait()
        type(self).node = Node(folder=self.data)
        self.assertEqual(json.loads(self.ok("fn", "invoke", "shell", "--data", "3")), 3)
        self.assertEqual(self.kept(), before, "not made again")
        self.ok("fn", "invoke", "late", "--data", "4")
        self.ok("fn", "delete", "late")
        for _ in range(200):
            if len(self.kept()) == 1 and self.machines() == {1}:
                break
            self.ok("fn", "list")
        self.assertEqual(len(self.kept()), 1)
        self.assertEqual(self.machines(), {1}, "clones that wait for calls end, too")
        self.deploy_late()

    def machines(self):
        """Is the template there that a machine was made of?"""
        made = {name for name, _ in self.kept()}
        found = set()
        for place in self.data.glob("clones/[0-9]*/launch.json"):
            with contextlib.suppress(FileNotFoundError):
                found.add(sum(name in place.read_text() for name in made))
        return found

    def kept(self):
        return {(place.parent.name, place.stat().st_mtime_ns) for place in self.data.glob("clones/kept-*/made-of")}

    def test_secrets_come_with_the_call(self):
        self.assertEqual(self.ok("fn", "invoke", "late", "--data", '"please-tell"'), "the-word-of-the-day")
        for memory in self.data.glob("clones/kept-*/memory"):
            self.assertNotIn(b"the-word-of-the-day", memory.read_bytes())

    def test_an_image_in_use_stays(self):
        refused = self.run_cli("image", "delete", "small")
        self.assertNotEqual(refused.returncode, 0)
        self.assertRegex(refused.stderr, "in use by function (shell|late)")
        shown = self.ok("fn", "get", "shell")
        self.assertRegex(shown, "machine image +small")
        self.assertRegex(shown, "handler +main")

    def test_what_a_handler_says_is_in_the_logs_with_its_invocation(self):
        self.ok("fn", "invoke", "shell", "--data", '{"log": 1}')
        self.assertTrue(any("number 1" in self.ok("fn", "logs", "shell") for _ in range(200)), "the line comes in a moment")
        self.assertIn("started with main blue", self.ok("fn", "logs", "shell"))

    def test_what_fails_at_the_start_is_the_error_of_the_deploy(self):
        (self.app / "bad").write_text("")
        done = self.run_cli("fn", "deploy", "bad", self.app)
        (self.app / "bad").unlink()
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("Config.Missing: no colour is set", done.stderr)

    def test_a_machine_that_goes_at_the_start_is_the_error_of_the_deploy(self):
        """As one of which the kernel panics: its runner, which is the daemon, stays."""
        (self.app / "gone").write_text("")
        done = self.run_cli("fn", "deploy", "gone", self.app)
        (self.app / "gone").unlink()
        self.assertNotEqual(done.returncode, 0)
        self.assertRegex(done.stderr, "the function's machine has (rebooted|ended)|the handler did not start")

    def test_one_that_cannot_be_made_another_serves_nobody(self):
        (self.app / "numb").write_text("")
        self.ok("fn", "deploy", "numb", self.app)
        (self.app / "numb").unlink()
        refused = self.run_cli("fn", "invoke", "numb", "--data", "1")
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn("a clone did not become one: reseeding", refused.stderr)
        self.ok("fn", "delete", "numb")

    def test_what_cannot_be_is_refused(self):
        other = pathlib.Path(folder.name) / "other"
        other.mkdir()
        (other / "bootstrap").write_text("")
        for lines, reason in (("image: none", "no image none"),
                              ("memory: 64MiB", "needs a machine image"),
                              ("image: small\nmemory: 16MiB", "at least 64 MiB"),
                              ("image: small\ntmp_max: 1MiB", "tmp_max) has no effect"),
                              ("image: small\nassets: [x]", "assets has no effect")):
            (other / "blixard.yaml").write_text("runtime: linux\n" + lines + "\n")
            self.assertIn(reason, self.run_cli("fn", "deploy", "other", other).stderr)
        self.assertIn("is not built", self.run_cli("fn", "build", self.app).stderr)
        (other / "blixard.yaml").unlink()
        self.assertIn("needs a machine image", self.run_cli("fn", "deploy", "other", other, "--runtime", "linux").stderr)


if __name__ == "__main__":
    unittest.main()
