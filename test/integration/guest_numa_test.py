"""A machine whose own CPUs are of two NUMA nodes sees them.

The node sees a host with two, by a tree that lies over what the kernel says of it, and a QEMU that is not told of them: the kernel
would refuse to bind memory to a node that it does not have.
"""
import json
import os
import pathlib
import tempfile
import unittest

from cluster import Cluster
from machines import kernel_flags, machines_of, memory_binding, root_archive, why_not

PLAIN_ONLY = "the time goes to guests that are emulated, and to QEMU"

NODES = "/sys/devices/system/node"
QEMU = """#!/usr/bin/python3
import os, re, sys
os.execv("/usr/bin/qemu-system-x86_64", ["qemu", *(re.sub(r",host-nodes=[0-9]+|,policy=bind", "", word) for word in sys.argv[1:])])
"""


class GuestNuma(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        reason = (why_not() or ("a mount namespace is root's" if os.geteuid() else None)
                  or ("two CPUs are needed" if os.cpu_count() < 2 else None)
                  or (None if pathlib.Path(NODES).exists() and pathlib.Path("/usr/bin/qemu-system-x86_64").exists() else "no QEMU, or no NUMA"))
        if reason:
            raise unittest.SkipTest(reason)
        folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="blixard-numa-")))
        folder.chmod(0o755)
        for number in (0, 1):
            node = folder / "nodes" / f"node{number}"
            node.mkdir(parents=True)
            (node / "cpulist").write_text(f"{number}\n")
            (node / "meminfo").write_text(f"Node {number} MemTotal: 8000000 kB\nNode {number} MemFree: 7000000 kB\n")
        qemu = folder / "bin" / "qemu-system-x86_64"
        qemu.parent.mkdir()
        qemu.write_text(QEMU)
        qemu.chmod(0o755)
        cls.cluster = Cluster(1, here=True)
        cls.addClassCleanup(cls.cluster.close)
        cls.node = cls.cluster[0]
        cls.node.start(env={"PATH": f"{qemu.parent}:{os.environ['PATH']}"},
                       wrap=("unshare", "-m", "--propagation", "private", "sh", "-c", f"mount --bind {folder}/nodes {NODES} && exec \"$@\"", "sh"))
        cls.node.wait_ready()
        cls.enterClassContext(machines_of(cls.node.folder))
        root = folder / "root.tar.gz"
        root.write_bytes(root_archive())
        cls.node.cli("image", "import", "small", "--root", root, *kernel_flags())

    def shell(self, name, script):
        return self.node.cli("vm", "exec", name, "--", "sh", "-c", script)

    def seen(self, name):
        """What its guest sees of NUMA nodes."""
        return self.shell(name, f"cat {NODES}/node*/cpulist").split()

    def machine(self, name):
        return json.loads(self.node.cli("vm", "show", name, "--output", "json"))

    def create(self, name, *flags):
        self.node.cli("vm", "create", name, "--image", "small", "--cpus", "2", "--memory", "192MiB", "--disk", "16MiB", *flags)

    def test_a_guest_sees_the_nodes_of_its_cpus(self):
        self.create("m", "--machine", "q35", "--dedicated-cpus", "yes")
        half = 96 << 20
        self.assertEqual(self.machine("m")["guest_numa"], [{"cpus": "0", "memory_bytes": half}, {"cpus": "1", "memory_bytes": half}])
        self.assertEqual(memory_binding(lambda: self.machine("m")), "bound by its VMM")
        self.assertEqual(self.seen("m"), ["0", "1"])
        order = json.loads((self.node.folder / "machines" / self.machine("m")["id"] / "launch.json").read_text())["argv"]
        for number in (0, 1):
            self.assertIn(f"memory-backend-ram,id=cell{number},size=96M,host-nodes={number},policy=bind", order)
        # A state is of a machine with them: what the machine became meanwhile does not matter.
        self.shell("m", "echo then > /tmp/word")
        self.node.cli("vm", "snapshot", "create", "m", "s")
        self.node.cli("vm", "set", "m", "--dedicated-cpus", "no", "--restart")
        self.node.cli("vm", "restart", "m")
        self.assertNotIn("guest_numa", self.machine("m"))
        self.assertEqual(self.seen("m"), ["0-1"])
        self.node.cli("vm", "restore", "m", "s")
        self.assertEqual((self.seen("m"), self.shell("m", "cat /tmp/word")), (["0", "1"], "then\n"))
        self.node.cli("vm", "clone", "m", "twin")
        self.assertEqual((self.seen("twin"), self.shell("twin", "cat /tmp/word")), (["0", "1"], "then\n"))
        self.assertEqual(self.machine("twin")["guest_numa"], self.machine("m")["guest_numa"])


if __name__ == "__main__":
    unittest.main()
