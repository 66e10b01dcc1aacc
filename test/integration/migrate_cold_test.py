"""A machine that is stopped for its move: asked for there first, one operation, and it runs again, there or here."""
import json
import pathlib
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
        cls.cluster = Cluster(2, here=True)
        cls.addClassCleanup(cls.cluster.close)
        cls.cluster.form(servers=1)
        cls.enterClassContext(machines_of(*(server.folder for server in cls.cluster.servers)))
        cls.near, cls.far = cls.cluster.servers
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


if __name__ == "__main__":
    unittest.main()
