"""An image whose file was damaged on the disk is never started from: it is said, or had anew from another node."""
import json
import pathlib
import tempfile
import unittest

from cluster import Cluster
import machines
from machines import bootstrap, kernel_flags, machines_of, root_archive, why_not
from node import Node
from node_case import NodeCase

PLAIN_ONLY = "the time goes to guests that are emulated, and to QEMU"


def flip(folder):
    """One byte of the largest file below it."""
    largest = max((path for path in pathlib.Path(folder).rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    largest.chmod(0o600)
    with largest.open("r+b") as file:
        file.seek(largest.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    return largest


class Alone(NodeCase):
    @classmethod
    def setUpClass(cls):
        if why_not():
            raise unittest.SkipTest(why_not())
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="blixard-damage-")))
        (cls.folder / "data").mkdir()
        (cls.folder / "root.tar.gz").write_bytes(root_archive())
        cls.enterClassContext(machines_of(cls.folder / "data"))
        cls.node = Node(folder=cls.folder / "data")
        cls.addClassCleanup(lambda: cls.node.stop())

    def refused(self, *words):
        done = self.run_cli(*words)
        self.assertNotEqual(done.returncode, 0, words)
        for part in ("image small", "damaged", "image import"):
            self.assertIn(part, done.stderr)

    def import_image(self):
        self.ok("image", "import", "small", "--root", self.folder / "root.tar.gz", *kernel_flags())

    def test_damage_is_refused_and_healed_by_an_import(self):
        create = ("--image", "small", "--memory", "128MiB", "--disk", "64MiB")
        self.import_image()
        self.ok("vm", "create", "first", *create)
        # While the node runs, and has started machines of it.
        damaged = flip(self.node.folder / "images")
        self.refused("vm", "create", "second", *create)
        self.assertFalse(damaged.exists())
        self.assertTrue(damaged.with_name(damaged.name + ".damaged").exists())
        self.refused("vm", "start", "second")
        self.import_image()
        self.assertFalse(damaged.with_name(damaged.name + ".damaged").exists())
        self.ok("vm", "start", "second")
        self.assertEqual(self.ok("vm", "exec", "second", "--", "uname", "-n"), "second\n")
        # While it does not run.
        self.ok("vm", "stop", "second")
        self.node.process.terminate()
        self.node.process.wait()
        flip(self.node.folder / "images")
        type(self).node = Node(folder=self.folder / "data")
        self.refused("vm", "start", "second")
        # An import without anybody having noticed heals, too.
        self.import_image()
        flip(self.node.folder / "images")
        self.import_image()
        self.ok("vm", "start", "second")


class Together(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if why_not():
            raise unittest.SkipTest(why_not())
        machines.TOOLS += [tool for tool in ("sed", "tr") if tool not in machines.TOOLS]
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="blixard-damage-")))
        cls.cluster = Cluster(2, here=True)
        cls.addClassCleanup(cls.cluster.close)
        cls.cluster.form(servers=1)
        cls.enterClassContext(machines_of(*(server.folder for server in cls.cluster.servers)))

    def test_another_node_gives_it_anew(self):
        near, far = self.cluster[0], self.cluster[1]
        (self.folder / "root.tar.gz").write_bytes(root_archive())
        near.cli("image", "import", "small", "--root", self.folder / "root.tar.gz", *kernel_flags())
        near.cli("vm", "create", "m", "--image", "small", "--memory", "128MiB", "--disk", "64MiB", "--node", far.name)
        near.cli("vm", "stop", "m")
        self.check_verify(near, far)
        self.check_function(near, far)
        damaged = flip(far.folder / "images")
        near.cli("vm", "start", "m")
        self.assertEqual(near.cli("vm", "exec", "m", "--", "uname", "-n"), "m\n")
        self.assertTrue(damaged.exists())
        damaged = flip(near.folder / "images")  # where it comes to, while it runs
        near.cli("vm", "migrate", "m", "--to", near.name, "--live")
        self.assertEqual(near.cli("vm", "exec", "m", "--", "uname", "-n"), "m\n")
        self.assertTrue(damaged.exists())

    def check_function(self, near, far):
        """A function of it: what its machine starts from is looked at when the node starts, and comes anew."""
        app = self.folder / "app"
        app.mkdir()
        (app / "bootstrap").write_text(bootstrap())
        (app / "bootstrap").chmod(0o755)
        (app / "blixard.yaml").write_text("runtime: linux\nimage: small\nmemory: 96MiB\ntimeout: 120s\n")
        near.cli("fn", "deploy", "echo", app)
        invoke = ("fn", "invoke", "echo", "--node", far.name, "--data")
        self.assertEqual(near.cli(*invoke, "1"), "1")
        far.stop()
        damaged = flip(far.folder / "images")
        far.start().wait_ready()
        self.assertEqual(near.cli(*invoke, "2"), "2")
        self.assertTrue(damaged.exists())
        self.assertTrue(damaged.with_name(damaged.name + ".damaged").exists() or "damaged" in far.said(100000))

    def check_verify(self, near, far):
        """`image verify`: what is damaged is named and put aside, and comes anew from a node that has it whole."""
        verify = ("image", "verify", "small", "--node", far.name, "--output", "json")

        def states(done):
            self.assertEqual({part["image"] for part in json.loads(done.stdout)["parts"]}, {"small"})
            return sorted(part["state"] for part in json.loads(done.stdout)["parts"])

        whole = near.cli(*verify, check=False)
        self.assertEqual((whole.returncode, states(whole)), (0, ["good"] * 3))
        damaged = flip(far.folder / "images")
        for _ in range(2):  # it stays so until it is mended
            found = near.cli(*verify, check=False)
            self.assertEqual(states(found), ["damaged", "good", "good"])
            self.assertEqual(found.returncode, 74)
            for part in ("image small is damaged on node n2", "--repair", "image import"):
                self.assertIn(part, found.stderr)
            self.assertFalse(damaged.exists())
        self.assertEqual(near.cli("image", "verify", check=False).returncode, 0)  # the other node's is whole
        mended = near.cli(*verify, "--repair", check=False)
        self.assertEqual((mended.returncode, states(mended)), (0, ["good", "good", "repaired"]))
        self.assertNotIn(0, [part["size_bytes"] for part in json.loads(mended.stdout)["parts"]])
        self.assertTrue(damaged.exists())
        self.assertEqual(states(near.cli(*verify, check=False)), ["good"] * 3)
        self.assertIn("there is no image", near.cli("image", "verify", "other", check=False).stderr)


if __name__ == "__main__":
    unittest.main()
