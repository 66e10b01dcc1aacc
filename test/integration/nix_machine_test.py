"""Machines that a NixOS host declares: a change that waits for the next start, with and without a restart."""
import os
import pathlib
import tempfile
import unittest

import runners
from machines import kernel_flags, machines_of, root_archive, why_not
from nixos import Switched, need_nix
from node import Node

PLAIN_ONLY = "the time goes to guests that are emulated, and to QEMU"


def setUpModule():
    need_nix()
    reason = why_not()
    if reason:
        raise unittest.SkipTest(reason)


class Machines(Switched):
    """One story, as machines take their time to boot."""

    MACHINES = """
        machines.eager = { image = "small"; memory = "128MiB"; disk = "64MiB"; cpus = %d; placement.node = null; };
        machines.patient = { image = "small"; memory = "128MiB"; disk = "64MiB"; cpus = %d; placement.node = null; restartIfChanged = false; };
        apply.timeout = "4m";
    """

    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="blixard-nix-machine-")))
        self.node = Node()
        self.addCleanup(lambda: self.node.stop())
        self.enterContext(machines_of(self.node.folder))
        archive = self.folder / "root.tar.gz"
        archive.write_bytes(root_archive())
        self.cli("image", "import", "small", "--root", archive, *kernel_flags())

    def cpus(self, name):
        return self.cli("vm", "exec", name, "--", "cat", "/proc/cpuinfo").count("processor\t")

    def states(self):
        return {machine["name"]: machine["state"] for machine in self.node.json("/v1/machines")["machines"]}

    def test_a_change_restarts_a_machine_unless_it_is_told_to_wait(self):
        self.switch(self.MACHINES % (1, 1))
        self.assertEqual((self.cpus("eager"), self.cpus("patient")), (1, 1))
        said = self.switch(self.MACHINES % (2, 2))
        self.assertIn("from its next start on", said)
        self.assertEqual((self.cpus("eager"), self.cpus("patient")), (2, 1))
        # Nothing changes, and nothing is restarted.
        events = self.cli("vm", "events", "eager")
        self.assertIn("Done: 0 changed.", self.switch(self.MACHINES % (2, 2)))
        self.assertEqual(self.cli("vm", "events", "eager"), events)
        # The host goes down and comes back: who ran is shut down, and runs again.
        self.cli("vm", "stop", "patient")
        self.unit("blixard-machines", "preStop")
        self.assertEqual(self.states(), {"eager": "stopped", "patient": "stopped"})
        self.unit("blixard-machines")
        runners.until("it runs again", lambda: self.states()["eager"] == "running")
        self.assertEqual(self.states()["patient"], "stopped")
        self.assertEqual(self.unit("blixard-machines"), "", "nothing is left to be done")
        self.switch("")
        self.assertEqual(self.node.json("/v1/machines")["machines"], [])

    def test_a_machine_of_microvm_nix_follows_its_configuration(self):
        if os.geteuid() != 0:
            self.skipTest("runners belong to root")
        self.node.stop()
        store = self.folder / "store"
        self.folder.chmod(0o755)
        store.mkdir()
        self.node = Node(arguments=["--machine-runner-folders", store])
        self.enterContext(machines_of(self.node.folder))
        kernel, initrd = runners.guest(store / "guest")
        paths = {name: runners.make(store / name, kernel, initrd, name) for name in ("first", "second")}
        declared = """machines.web = { flake.nixosConfigurations.web.config.microvm = { vcpu = 1; mem = 256; declaredRunner = "%s"; };
            placement.node = null; }; apply.timeout = "4m";"""
        self.switch(declared % paths["first"])
        machine = self.node.json("/v1/machines/web")
        self.assertEqual((machine["state"], machine["booted_runner"], machine["memory_bytes"]), ("running", str(paths["first"]), 256 << 20))
        self.switch(declared % paths["second"])
        self.assertEqual(self.node.json("/v1/machines/web")["booted_runner"], str(paths["second"]))
        runners.until("it is up", lambda: "guest second is up" in self.cli("vm", "logs", "web"))
        self.assertIn("Done: 0 changed.", self.switch(declared % paths["second"]))
        self.switch("")
        self.assertEqual(self.node.json("/v1/machines")["machines"], [])


if __name__ == "__main__":
    unittest.main()
