"""The ends of machines, by the command line: what powers off, panics, is killed, and what is started again then."""
import json
import os
import signal
import unittest

from machine_case import MachineCase
from machines import runs

PLAIN_ONLY = "the time goes to guests that are emulated; Restarts of machine_test shows sanitizers what becomes of ends"


class Ends(MachineCase):
    count = 0

    @classmethod
    def setUpClass(cls):
        cls.begin()

    def create(self, *flags):
        Ends.count += 1
        name = f"m{Ends.count}"
        self.ok("vm", "create", name, "--image", "small", "--memory", "128MiB", "--disk", "64MiB", *flags)
        self.addCleanup(self.run_cli, "vm", "delete", name)
        return name

    def show(self, name):
        return self.json("vm", "show", name)

    def pids(self, name):
        return [int(word) for word in (self.node.folder / "machines" / self.show(name)["id"] / "lock").read_text().split()]

    def test_a_guest_that_powers_off_stays_off(self):
        name = self.create()
        self.run_cli("vm", "exec", name, "--", "poweroff")
        self.ok("vm", "wait", name, "--for", "stopped", "--timeout", "120s")
        shown = self.show(name)
        self.assertEqual((shown["desired"], shown["restarts"]), ("stopped", 0))

    def until_started_again(self, name, why):
        """Before that it waits for a second, in which one who asks on a busy machine need not ask: the log has it."""
        index = 0
        for _ in range(100):
            status, body, fields = self.node.request("GET", f"/v1/machines/{name}?index={index}&wait=30s")
            self.assertEqual(status, 200, body)
            shown, index = json.loads(body), fields["x-blixard-index"]
            if (shown["restarts"], shown["state"]) == (1, "running"):
                break
        self.assertEqual((shown["restarts"], shown["state"]), (1, "running"))
        self.assertRegex(self.node.log.read_text(), f"machine default/{name}: backoff: {why}")

    def test_a_kernel_that_panics_is_started_again(self):
        name = self.create()
        self.run_cli("vm", "exec", name, "--", "sh", "-c", "echo c > /proc/sysrq-trigger")
        self.until_started_again(name, "the guest's kernel panicked")

    def test_once_is_not_started_again(self):
        name = self.create("--strategy", "Once")
        os.kill(self.pids(name)[1], signal.SIGKILL)
        self.ok("vm", "wait", name, "--for", "failed", "--timeout", "60s")
        self.assertEqual(self.show(name)["reason"], "the VMM was killed by signal 9 (Killed)")  # and nothing of QEMU's warnings
        self.ok("vm", "start", name)
        self.assertEqual(self.show(name)["state"], "running")

    def test_a_dead_monitor_takes_its_machine_with_it(self):
        name = self.create()
        monitor, vmm = self.pids(name)
        os.kill(monitor, signal.SIGKILL)
        self.until_started_again(name, "the VMM's monitor was killed")
        self.assertFalse(runs(vmm))
        self.assertNotEqual(self.pids(name)[1], vmm)


if __name__ == "__main__":
    unittest.main()
