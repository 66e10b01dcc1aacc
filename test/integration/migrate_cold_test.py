"""A machine that is stopped for its move: asked for there first, one operation, and it runs again, there or here."""
import json
import os
import pathlib
import subprocess
import tempfile
import unittest

from cluster import Cluster
from machines import kernel_flags, machines_of, root_archive, why_not

PLAIN_ONLY = "the time goes to guests that are emulated, and to QEMU"

BOOT = "cat /proc/sys/kernel/random/boot_id"


class Cold(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        reason = why_not()
        if reason:
            raise unittest.SkipTest(reason)
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="blixard-cold-")))
        cls.cluster = Cluster(3, here=True)
        cls.addClassCleanup(cls.cluster.close)
        cls.near, cls.far, cls.small = cls.cluster.servers
        cls.small.folder.mkdir()
        cls.is_small = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300m", "tmpfs", cls.small.folder], stderr=subprocess.DEVNULL).returncode == 0
        if cls.is_small:
            cls.addClassCleanup(subprocess.run, ["umount", "-l", cls.small.folder], check=True)
        cls.cluster.form(servers=1)
        cls.enterClassContext(machines_of(*(server.folder for server in cls.cluster.servers)))
        root = cls.folder / "root.tar.gz"
        root.write_bytes(root_archive())
        cls.near.cli("image", "import", "small", "--root", root, *kernel_flags())

    def create(self, name, *flags, node=None):
        self.near.cli("vm", "create", name, "--image", "small", "--memory", "128MiB", "--disk", "64MiB", "--node", (node or self.near).name, *flags)

    def shell(self, name, script):
        return self.near.cli("vm", "exec", name, "--", "sh", "-c", script)

    def machine(self, name):
        return json.loads(self.near.cli("vm", "show", name, "--output", "json"))

    def nothing_left(self, server):
        def left():
            return [path for part in ("machines", "volumes") for path in (server.folder / part).rglob("*") if path.is_file()]
        server.until(lambda _: left() == [], f"end of {left()}")

    def test_a_large_volume_moves_with_its_holes_and_its_zeros(self):
        near, far = self.near, self.far
        near.cli("volume", "create", "large", "--size", "20GiB", "--format", "raw")
        self.create("m", "--strategy", "Halted", "--volume", "large")
        layer = next((near.folder / "volumes").rglob("*.raw"))
        with layer.open("r+b") as volume:  # packed, all of this is less than a thousandth
            volume.seek(7 << 30)
            for _ in range(160):
                volume.write(bytes(1 << 20))
            volume.seek(19 << 30)
            volume.write(b"x" * (96 << 20))
        near.cli("vm", "migrate", "m", "--to", far.name)
        moved = next((far.folder / "volumes").rglob("*.raw"))
        self.assertEqual(moved.stat().st_size, 20 << 30)
        with moved.open("rb") as volume:
            volume.seek((19 << 30) - 4096)
            self.assertEqual(volume.read((96 << 20) + 8192), bytes(4096) + b"x" * (96 << 20) + bytes(4096))
        self.nothing_left(near)
        near.cli("vm", "delete", "m")
        near.cli("volume", "delete", "large")
        self.nothing_left(far)

    def test_one_that_runs_is_stopped_for_it_and_runs_again(self):
        """Wherever it is then: the other node refuses, it is cancelled, either node ends, it goes."""
        near, far = self.near, self.far
        near.cli("volume", "create", "ballast", "--size", "256MiB", "--format", "raw")
        self.create("m", "--volume", "ballast", "--publish", "27418:80", "--strategy", "RerunOnFailure")
        with next((near.folder / "volumes").rglob("*.raw")).open("r+b") as layer:
            layer.write(os.urandom(192 << 20))
        boots = [self.shell("m", BOOT)]

        self.create("other", "--strategy", "Halted", "--publish", "27418:80", node=far)
        refusal = near.cli("vm", "migrate", "m", "--cold", "--to", far.name, check=False)
        self.assertEqual(refusal.returncode, 75, refusal.stderr)
        self.assertIn("27418", refusal.stderr)
        if self.is_small:
            for way in ("--cold", "--snapshot"):
                refusal = near.cli("vm", "migrate", "m", way, "--to", self.small.name, check=False)
                self.assertEqual(refusal.returncode, 74, refusal.stderr)
                self.assertIn(f"node {self.small.name} has no room for it; the machine is where it was", refusal.stderr)
        self.assertEqual(self.shell("m", BOOT), boots[0])  # nothing was stopped
        near.cli("vm", "delete", "other")

        operation = self.is_fetched()
        self.assertIn("fetches", near.cli("operation", "list"))
        self.assertIn("moving to node", near.cli("vm", "list"))
        self.assertEqual(self.machine("m")["desired"], "running")
        near.cli("operation", "cancel", operation)
        self.runs_again(operation, "cancelled", boots)
        far.resume()

        operation = self.is_fetched()
        near.kill()
        far.resume()
        near.start()
        near.wait_ready()
        self.runs_again(operation, "failed", boots)

        operation = self.comes_to("stopping it")
        near.kill()
        near.start()
        near.wait_ready()
        self.runs_again(operation, "failed", boots)

        operation = self.is_fetched()
        far.kill()
        self.runs_again(operation, "failed", boots)
        (far.folder / "machines" / "migrating" / f"{'0' * 64}.0a1b2c3d.tmp").touch()  # as one that is killed while it writes leaves it
        far.start()
        far.wait_ready()
        far.until(lambda _: not list((far.folder / "volumes").rglob("*.raw")), "nothing of it is left there")

        self.cluster.settled()
        self.assertIn(f"is on node {far.name}", near.cli("vm", "migrate", "m", "--cold", "--to", far.name))
        self.assertEqual(self.machine("m")["state"], "running")
        self.assertNotIn(self.shell("m", BOOT), boots)
        self.nothing_left(near)
        near.cli("vm", "delete", "m")
        near.cli("volume", "delete", "ballast")
        self.nothing_left(far)

    def comes_to(self, phase):
        self.cluster.settled()  # one that was paused is taken for ill
        operation = json.loads(self.near.cli("vm", "migrate", "m", "--cold", "--to", self.far.name, "--no-wait", "--output", "json"))["operation"]

        def has_come(_):
            shown = self.near.get(f"/v1/operations/{operation}")
            self.assertEqual(shown["state"], "running", shown)
            return phase in str(shown)
        self.near.until(has_come, phase)
        return operation

    def is_fetched(self):
        """It stands, and the other node goes no further with what it gets."""
        operation = self.comes_to("fetches")
        self.far.pause()
        self.assertEqual(self.near.get(f"/v1/operations/{operation}")["state"], "running")
        return operation

    def runs_again(self, operation, end, boots):
        """Here, booted anew, and only so long."""
        self.assertEqual(self.near.get(f"/v1/operations/{operation}/wait?timeout=60s")["state"], end)
        self.near.until(lambda _: self.machine("m")["state"] == "running", "it runs again")
        machine = self.machine("m")
        self.assertEqual((machine["node"], machine["desired"]), (self.near.name, "running"))
        boots.append(self.shell("m", BOOT))
        self.assertEqual(len(set(boots)), len(boots))


if __name__ == "__main__":
    unittest.main()
