"""VMMs that do not obey: what they refuse is told, and one that listens no more is noticed.  By the command line, with a
stand-in for QEMU."""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import unittest

from machines import BLANK
from node import BUILD, ROOT, Node


class Trouble(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if os.geteuid() != 0:
            raise unittest.SkipTest("machines are started by root")
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="blixard-trouble-")))
        cls.folder.chmod(0o755)
        (cls.folder / "bin").mkdir()
        shutil.copy(ROOT / "test/lib/qemu_standin.py", cls.folder / "bin/qemu-system-x86_64")
        (cls.folder / "disk.raw").write_bytes(BLANK)
        cls.node = Node(env={"PATH": f"{cls.folder / 'bin'}:{os.environ['PATH']}"})
        cls.addClassCleanup(cls.node.stop)
        cls.cli("image", "import", "bare", "--disk", cls.folder / "disk.raw", "--no-agent")

    @classmethod
    def cli(cls, *words):
        return subprocess.run([BUILD / "blixard", *map(str, words)], env=cls.node.env, text=True, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=300)

    def ok(self, *words):
        done = self.cli(*words)
        self.assertEqual(done.returncode, 0, f"{words}: {done.stderr}{done.stdout}\n{self.node.log.read_text()[-3000:]}")
        return done.stdout

    def refused(self, *words):
        done = self.cli(*words)
        self.assertNotEqual(done.returncode, 0, words)
        return done.stderr

    def show(self, name):
        return json.loads(self.ok("vm", "show", name, "--output", "json"))

    def create(self, name, *more):
        self.ok("vm", "create", name, "--image", "bare", "--memory", "64MiB", "--disk", "16MiB", *more)
        self.addCleanup(self.cli, "vm", "delete", name)
        return self.show(name)["vmm_pid"]

    def until(self, name, is_so):
        """Looks again whenever something of a machine has changed."""
        index = 0
        for _ in range(200):
            status, body, fields = self.node.request("GET", f"/v1/machines/{name}?index={index}&wait=30s")
            self.assertEqual(status, 200, body)
            shown, index = json.loads(body), fields["x-blixard-index"]
            if is_so(shown):
                return shown
        self.fail(f"{shown}\n{self.node.log.read_text()[-3000:]}")

    def test_what_it_refuses_is_told_and_its_state_is_true(self):
        pid = self.create("proud")
        self.ok("vm", "pause", "proud")
        self.ok("vm", "resume", "proud")
        os.kill(pid, signal.SIGHUP)
        self.assertIn("machine proud was not paused, and runs on: the VMM: it does not want to", self.refused("vm", "pause", "proud"))
        shown = self.show("proud")
        self.assertEqual((shown["state"], shown["desired"]), ("running", "running"))

    def test_one_whose_state_cannot_be_written_goes_on(self):
        self.create("busy")
        self.assertIn("could not be written", self.refused("vm", "snapshot", "create", "busy"))
        self.assertEqual(self.show("busy")["state"], "running")
        self.ok("vm", "pause", "busy")  # which one that stands still refuses
        self.ok("vm", "resume", "busy")

    def test_a_driver_that_no_node_has_is_told_at_once(self):
        if shutil.which("firecracker"):
            self.skipTest("firecracker is here")
        words = ("vm", "create", "odd", "--image", "bare", "--memory", "64MiB", "--disk", "16MiB", "--driver", "firecracker")
        done = self.cli(*words)
        self.assertEqual(done.returncode, 65, done.stderr)
        told = r"no node has the driver firecracker: install it on one .* \(\S+: qemu\)"
        self.assertRegex(done.stderr, told)
        self.assertNotEqual(self.cli("vm", "show", "odd").returncode, 0)
        self.assertEqual(self.cli(*words, "--pending", "--no-pending").returncode, 64)
        self.addCleanup(self.cli, "vm", "delete", "odd")
        done = self.cli(*words, "--pending")
        self.assertEqual(done.returncode, 75)
        self.assertRegex(done.stderr, told)
        self.assertRegex(self.ok("placement", "explain", "odd"), told)
        self.ok("vm", "set", "odd", "--priority", "7")  # it is looked at again
        self.assertRegex(self.show("odd")["reason"], told)

    def test_one_that_does_not_go_on_stays_paused_and_can_be_stopped(self):
        pid = self.create("tired")
        self.ok("vm", "pause", "tired")
        os.kill(pid, signal.SIGHUP)
        self.assertIn("machine tired does not go on, and is paused still", self.refused("vm", "resume", "tired"))
        shown = self.show("tired")
        self.assertEqual((shown["state"], shown["desired"]), ("paused", "paused"))
        self.assertIn("does not want to", shown["reason"])
        self.ok("vm", "stop", "tired")
        self.assertEqual(self.show("tired")["state"], "stopped")

    def test_a_closed_connection_is_made_anew(self):
        pid = self.create("shy")
        os.kill(pid, signal.SIGUSR1)
        while "does not listen" in self.cli("vm", "pause", "shy").stderr:
            self.assertEqual(self.show("shy")["state"], "running")
        self.assertEqual((self.show("shy")["state"], self.show("shy")["vmm_pid"]), ("paused", pid))
        self.ok("vm", "resume", "shy")

    def test_one_that_listens_no_more_is_ended_and_started_again(self):
        pid = self.create("deaf")
        os.kill(pid, signal.SIGUSR2)
        shown = self.until("deaf", lambda shown: shown["restarts"] == 1 and shown["state"] == "running")
        self.assertNotEqual(shown["vmm_pid"], pid)
        self.assertIn("backoff: the VMM had closed its control socket, and was ended", self.node.log.read_text())
        once = self.create("once", "--strategy", "Once")
        os.kill(once, signal.SIGUSR2)
        self.ok("vm", "wait", "once", "--for", "failed", "--timeout", "60s")
        self.assertIn("closed its control socket", self.show("once")["reason"])


if __name__ == "__main__":
    unittest.main()
