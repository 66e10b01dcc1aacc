"""The daemon is killed at each step of creating, starting, restarting and stopping a machine: afterwards the operation ends, and what the API
says of the machine is so."""
import json
import os
import queue
import re
import unittest

from machine_case import MachineCase
from machines import PATIENT, runs
from node import Node

PLAIN_ONLY = "the time goes to guests that are emulated, and to QEMU"
SAY_SECONDS = 120


class Killed(MachineCase):
    @classmethod
    def setUpClass(cls):
        cls.begin(data="data")

    def setUp(self):
        self.ok("vm", "create", "m", "--image", "small", "--memory", "128MiB", "--disk", "64MiB", "--strategy", "Halted")
        self.addCleanup(self.run_cli, "vm", "delete", "m")

    def kill_at(self, step, name):
        """As soon as the daemon says that `name` is at this step; "": now."""
        while step:
            try:
                line = self.node.lines.get(timeout=SAY_SECONDS)
            except queue.Empty:
                self.fail(f"{name} does not come to {step}")
            if line is None or re.search(rf"machine default/{name}: {step}\b", line):
                break
        self.node.kill()
        type(self).node = Node(folder=self.node.folder, arguments=PATIENT)

    def begun(self, *words):
        while not self.node.lines.empty():  # what was said of earlier ones
            self.node.lines.get()
        return json.loads(self.ok(*words, "--no-wait", "--output", "json"))["operation"]

    def vmm(self, name):
        """Of its monitor and its VMM the process ids; none: nothing runs."""
        place = self.node.folder / "machines" / self.json("vm", "show", name)["id"] / "lock"
        return [int(pid) for pid in place.read_text().split()] if place.exists() else []

    def expect_end(self, operation):
        """It has been done, or says why nobody waits for it any more; what is wanted of the machine goes on either way.  Was it done?"""
        ended = self.node.wait(operation)
        self.assertIn((ended["state"], ended.get("error")), (("succeeded", None), ("failed", "interrupted by a restart of the node")))
        return ended["state"] == "succeeded"

    def expect_running(self, name):
        self.ok("vm", "wait", name, "--timeout", "120s")
        self.assertEqual(self.shell(name, "uname -n"), f"{name}\n")
        monitor, vmm = self.vmm(name)
        mine = [pid for pid in os.listdir("/proc") if pid.isdigit() and runs(int(pid)) and self.is_of(int(pid), name)]
        self.assertEqual(sorted(map(int, mine)), sorted((monitor, vmm)))

    def is_of(self, pid, name):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                line = file.read()
        except OSError:
            return False
        return b"daemon" not in line and str(self.node.folder / "machines" / self.json("vm", "show", name)["id"]).encode() in line

    def test_while_it_is_made(self):
        for number, step in enumerate(("", "preparing", "stopped", "starting")):
            with self.subTest(step=step or "accepted"):
                name = f"made-{number}"
                operation = self.begun("vm", "create", name, "--image", "small", "--memory", "128MiB", "--disk", "64MiB")
                self.addCleanup(self.run_cli, "vm", "delete", name)
                self.kill_at(step, name)
                self.expect_end(operation)
                self.expect_running(name)
                self.ok("vm", "delete", name)

    def test_while_it_is_started(self):
        for step in ("", "starting"):
            with self.subTest(step=step or "accepted"):
                operation = self.begun("vm", "start", "m")
                self.kill_at(step, "m")
                self.expect_end(operation)
                self.expect_running("m")
                self.ok("vm", "stop", "m")

    def test_while_it_is_stopped(self):
        for step in ("", "stopping"):
            with self.subTest(step=step or "accepted"):
                self.ok("vm", "start", "m")
                pids = self.vmm("m")
                operation = self.begun("vm", "stop", "m")
                self.kill_at(step, "m")
                self.expect_end(operation)
                self.ok("vm", "wait", "m", "--for", "stopped", "--timeout", "120s")
                self.assertEqual([pid for pid in pids if runs(pid)], [])

    def test_while_it_is_restarted(self):
        self.ok("vm", "start", "m")
        for step in ("", "stopping", "starting"):
            with self.subTest(step=step or "accepted"):
                before = self.vmm("m")
                operation = self.begun("vm", "restart", "m")
                self.kill_at(step, "m")
                was_done = self.expect_end(operation)
                self.expect_running("m")
                if was_done or step == "starting":
                    self.assertNotEqual(self.vmm("m"), before)


if __name__ == "__main__":
    unittest.main()
