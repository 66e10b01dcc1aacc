"""Whichever node ends at whichever moment of a move: there is one machine, which counts on as if nothing had been."""
import glob
import json
import os
import pathlib
import tempfile
import unittest

from cluster import Cluster
from machines import kernel_flags, machines_of, root_archive, runs, why_not

PLAIN_ONLY = "the time goes to guests that are emulated, and to QEMU"

TICKS = "i=0; while true; do i=$((i+1)); echo $i >> /root/ticks; sleep 0.1; done"


class Phases(unittest.TestCase):
    """The first node has the log: while it is stopped nothing is decided, and what the others do about that can be looked at."""

    @classmethod
    def setUpClass(cls):
        reason = why_not()
        if reason:
            raise unittest.SkipTest(reason)
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="blixard-phases-")))
        cls.cluster = Cluster(3, here=True)
        cls.addClassCleanup(cls.cluster.close)
        cls.cluster.form(servers=1)
        cls.enterClassContext(machines_of(*(server.folder for server in cls.cluster.servers)))
        cls.log, cls.near, cls.far = cls.cluster.servers
        root = cls.folder / "root.tar.gz"
        root.write_bytes(root_archive())
        cls.log.cli("image", "import", "small", "--root", root, *kernel_flags())
        cls.log.cli("vm", "create", "m", "--image", "small", "--memory", "128MiB", "--disk", "64MiB", "--node", cls.near.name)
        cls.log.cli("vm", "exec", "m", "--", "sh", "-c", "(" + TICKS + ") > /dev/null 2>&1 &")

    def machine(self):
        return json.loads(self.log.cli("vm", "show", "m", "--output", "json"))

    def begin(self, *flags):
        self.cluster.settled()  # a log that stood still has taken nodes for lost
        return json.loads(self.log.cli("vm", "migrate", "m", "--to", self.far.name, "--live", "--no-wait", "--output", "json", *flags))["operation"]

    def comes_to(self, operation, *texts):
        def has_come(_):
            shown = self.log.get(f"/v1/operations/{operation}")
            self.assertEqual(shown["state"], "running", shown)
            return any(text in str(shown) for text in texts)
        self.log.until(has_come, f"one of {texts}")

    def comes_to_the_switch(self):
        """The log stands still before it can be asked; then it is asked, in vain."""
        operation = self.begin("--bandwidth", "24MiB")
        self.comes_to(operation, "copying its memory")
        before = self.near.log.read_text().count("whose it is")
        self.log.pause()
        self.addCleanup(lambda: self.log.is_paused and self.log.resume())
        self.near.until(lambda _: self.near.log.read_text().count("whose it is") > before, "the question")
        return operation

    def restart(self, *servers):
        for server in servers:
            server.start()
        for server in servers:
            server.wait_ready()

    def vmms(self, server):
        """Of machines that are there, or arriving, the processes."""
        locks = glob.glob(f"{server.folder}/machines/*/lock") + glob.glob(f"{server.folder}/machines/arriving/*/lock")
        return [lock for lock in locks if runs(int(pathlib.Path(lock).read_text().split()[0]))]

    def is_one(self, operation, where=None):
        """It runs at one node, its old copy is gone, and no tick is missing or there twice."""
        ended = self.log.get(f"/v1/operations/{operation}/wait?timeout=60s")
        self.log.until(lambda _: self.machine()["state"] == "running", "the machine runs")
        machine = self.machine()
        has = self.cluster.find(machine["node"])
        if where:
            self.assertIs(has, where)
        for server in (self.near, self.far):
            server.until(lambda _: len(self.vmms(server)) == (1 if server is has else 0), f"one VMM, at {has.name}")
        other = self.far if has is self.near else self.near
        other.until(lambda _: not glob.glob(f"{other.folder}/machines/**/disk.*", recursive=True), "end of the other copy")
        ticks = self.log.cli("vm", "exec", "m", "--", "cat", "/root/ticks").split()
        self.log.until(lambda _: len(self.log.cli("vm", "exec", "m", "--", "cat", "/root/ticks").split()) > len(ticks) + 3, "ticks")
        ticks = self.log.cli("vm", "exec", "m", "--", "cat", "/root/ticks").split()
        self.assertEqual([int(tick) for tick in ticks], list(range(1, len(ticks) + 1)))
        return ended, has

    def comes_back(self):
        self.cluster.settled()
        if self.machine()["node"] != self.near.name:
            self.log.cli("vm", "migrate", "m", "--to", self.near.name, "--live")

    def test_the_target_ends_while_the_disk_is_copied(self):
        self.log.cli("volume", "create", "spare", "--size", "16MiB", "--node", self.near.name)
        operation = self.begin("--bandwidth", "1MiB")
        self.comes_to(operation, "copying its disk")
        refused = self.near.cli("volume", "attach", "spare", "m", check=False)
        self.assertNotEqual(refused.returncode, 0, refused.stdout)
        self.assertIn("machine m is being moved", refused.stderr)
        self.far.kill()
        self.assertEqual(self.log.get(f"/v1/operations/{operation}/wait?timeout=60s")["state"], "failed")
        self.restart(self.far)  # its VMM that waited is ended
        self.is_one(operation, self.near)

    def test_the_target_ends_while_the_memory_is_copied(self):
        operation = self.begin("--bandwidth", "8MiB")
        self.comes_to(operation, "copying its memory")
        self.far.kill()
        self.assertEqual(self.log.get(f"/v1/operations/{operation}/wait?timeout=60s")["state"], "failed")
        self.restart(self.far)
        self.is_one(operation, self.near)

    def test_the_source_ends_while_the_memory_is_copied(self):
        operation = self.begin("--bandwidth", "8MiB")
        self.comes_to(operation, "copying its memory")
        self.near.kill()
        self.restart(self.near)
        self.is_one(operation, self.near)

    def test_the_source_ends_before_it_is_answered(self):
        """Whether the question had reached the log or not: one of them has it."""
        operation = self.comes_to_the_switch()
        self.near.kill()
        self.log.resume()
        self.restart(self.near)
        self.is_one(operation)
        self.comes_back()

    def test_the_target_ends_before_the_source_is_answered(self):
        operation = self.comes_to_the_switch()
        self.far.kill()
        self.log.resume()
        self.restart(self.far)
        self.is_one(operation)
        self.comes_back()

    def test_both_end_before_the_log_has_answered(self):
        operation = self.comes_to_the_switch()
        self.near.kill()
        self.far.kill()
        self.log.resume()
        self.restart(self.near, self.far)
        self.is_one(operation)
        self.comes_back()

    def test_the_log_is_slow_and_nobody_ends(self):
        operation = self.comes_to_the_switch()
        self.log.resume()
        ended, has = self.is_one(operation)
        self.assertEqual(ended["state"] == "succeeded", has is self.far, ended)
        self.comes_back()

    def test_without_its_memory_it_is_one_as_well(self):
        """The log stands still when it is asked; whoever it gives the machine to starts it, and the other has nothing of it."""
        self.log.cli("volume", "create", "ballast", "--size", "256MiB", "--format", "raw", "--node", self.near.name)  # so that it is not fetched at once
        self.log.cli("volume", "attach", "ballast", "m")
        with next((self.near.folder / "volumes").rglob("*.raw")).open("r+b") as layer:
            layer.write(os.urandom(192 << 20))
        for ending in ((self.near, self.far), (self.near, self.log)):
            before = self.near.log.read_text().count("whose it is")
            self.cluster.settled()
            operation = json.loads(self.log.cli("vm", "migrate", "m", "--to", self.far.name, "--cold", "--no-wait", "--output", "json"))["operation"]
            self.comes_to(operation, "pack", "fetches")  # from now on the log is not needed before it is asked
            self.log.pause()
            self.addCleanup(lambda: self.log.is_paused and self.log.resume())
            self.near.until(lambda _: self.near.log.read_text().count("whose it is") > before, "the question")
            for server in ending:
                server.kill()
            if self.log not in ending:
                self.log.resume()
            self.restart(*reversed(ending))
            self.log.get(f"/v1/operations/{operation}/wait?timeout=60s")
            self.log.until(lambda _: self.machine()["state"] == "running", "the machine runs")
            has = self.cluster.find(self.machine()["node"])
            self.assertTrue(has is self.near or self.log not in ending)  # which has never heard of the question
            for server in (self.near, self.far):
                server.until(lambda _: len(self.vmms(server)) == (1 if server is has else 0), f"one VMM, at {has.name}")
            other = self.far if has is self.near else self.near
            other.until(lambda _: not glob.glob(f"{other.folder}/machines/**/disk.*", recursive=True), "end of the other copy")
            self.assertEqual(len(list(has.folder.glob("volumes/**/*.raw"))), 1)
            self.assertEqual(list(other.folder.glob("volumes/**/*.raw")), [])
            self.comes_back()

    def test_the_target_ends_right_after_the_switch(self):
        operation = self.begin()
        self.log.until(lambda _: self.machine()["node"] == self.far.name, "the switch")
        self.far.kill()
        self.restart(self.far)
        self.is_one(operation, self.far)
        self.comes_back()

    def test_the_source_ends_right_after_the_switch(self):
        operation = self.begin()
        self.log.until(lambda _: self.machine()["node"] == self.far.name, "the switch")
        self.near.kill()
        self.restart(self.near)
        self.is_one(operation, self.far)
        self.comes_back()


if __name__ == "__main__":
    unittest.main()
