"""A machine on another node than the one that is asked: its image comes over, and so does all that is said to it."""
import glob
import pathlib
import tempfile
import unittest

from cluster import Cluster
from machines import kernel_flags, machines_of, root_archive, why_not

PLAIN_ONLY = "the time goes to guests that are emulated, and to QEMU"


class Machines(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        reason = why_not()
        if reason:
            raise unittest.SkipTest(reason)
        cls.folder = cls.enterClassContext(tempfile.TemporaryDirectory(prefix="blixard-far-"))
        cls.cluster = Cluster(2, here=True)
        cls.addClassCleanup(cls.cluster.close)
        cls.cluster.form(servers=1)
        cls.enterClassContext(machines_of(*(server.folder for server in cls.cluster.servers)))

    def test_everything_reaches_the_node_that_has_it(self):
        near, far = self.cluster[0], self.cluster[1]
        root = pathlib.Path(self.folder) / "root.tar.gz"
        root.write_bytes(root_archive())
        near.cli("image", "import", "small", "--root", root, *kernel_flags())
        near.cli("vm", "create", "m", "--image", "small", "--memory", "128MiB", "--disk", "64MiB", "--node", far.name)
        self.assertEqual(len(glob.glob(str(far.folder / "machines" / "*" / "lock"))), 1)
        self.assertIn(far.name, near.cli("vm", "list"))
        for server in (near, far):
            self.assertEqual(server.cli("vm", "exec", "m", "--", "uname", "-n"), "m\n")
        root.with_suffix(".note").write_text("carried\n")
        near.cli("vm", "cp", root.with_suffix(".note"), "m:/root/note")
        self.assertEqual(near.cli("vm", "exec", "m", "--", "cat", "/root/note"), "carried\n")
        near.cli("vm", "exec", "m", "--", "sh", "-c", "echo from afar > /dev/ttyS0")
        self.assertIn("from afar", near.cli("vm", "logs", "m"))
        near.cli("vm", "stop", "m")
        self.assertIn("stopped", far.cli("vm", "list"))
        near.cli("vm", "delete", "m")
        self.assertEqual(glob.glob(str(far.folder / "machines" / "*")), [])


if __name__ == "__main__":
    unittest.main()
