"""A machine in a network over several nodes moves while it speaks TCP: not a byte is lost, nor the connection."""
import json
import pathlib
import tempfile
import unittest

from cluster import Cluster
from machines import kernel_flags, machines_of, root_archive, why_not

PLAIN_ONLY = "the time goes to guests that are emulated, and to QEMU"

# A new number ten times a second, in both directions of one connection.
COUNT = "i=0; while true; do i=$((i+1)); echo $i; sleep 0.1; done"


class NetworkMigration(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        reason = why_not()
        if reason:
            raise unittest.SkipTest(reason)
        if not pathlib.Path("/dev/net/tun").exists():
            raise unittest.SkipTest("there is no /dev/net/tun")
        cls.folder = cls.enterClassContext(tempfile.TemporaryDirectory(prefix="blixard-migrate-network-"))
        cls.cluster = Cluster(3)
        cls.addClassCleanup(cls.cluster.close)
        cls.cluster.form(servers=1)
        cls.enterClassContext(machines_of(*(server.folder for server in cls.cluster.servers)))

    def machine(self, name):
        return json.loads(self.near.cli("vm", "show", name, "--output", "json"))

    def shell(self, name, script):
        return self.near.cli("vm", "exec", name, "--", "sh", "-c", script)

    def links(self, server, prefix):
        listed = json.loads(server.host.run("ip", "-j", "link"))
        return [link["ifname"] for link in listed if link["ifname"].startswith(prefix)]

    def numbers(self, name, path):
        return [int(word) for word in self.shell(name, f"cat {path}").split("\n")[:-1]]

    def grows(self, name, path):
        """Everything arrives in order, once, and more of it."""
        seen = len(self.numbers(name, path))
        self.near.until(lambda _: len(self.numbers(name, path)) > seen + 5, f"more in {path} of {name}")
        numbers = self.numbers(name, path)
        self.assertEqual(numbers, list(range(1, len(numbers) + 1)), f"{path} of {name}")

    def test_no_byte_is_lost_when_a_machine_moves(self):
        self.near, middle, far = self.cluster.servers
        near = self.near
        root = pathlib.Path(self.folder) / "root.tar.gz"
        root.write_bytes(root_archive())
        near.cli("image", "import", "small", "--root", root, *kernel_flags())
        near.cli("network", "create", "wide", "--subnet", "10.64.9.0/24")
        near.cli("vm", "create", "mover", "--image", "small", "--memory", "128MiB", "--disk", "64MiB", "--node", near.name,
                 "--network", "wide")
        near.cli("vm", "create", "peer", "--image", "small", "--memory", "128MiB", "--disk", "64MiB", "--node", far.name,
                 "--network", "wide,address=10.64.9.77")
        addresses = self.machine("mover")["addresses"]
        self.shell("peer", "((" + COUNT + ") | nc -l -p 7000 > /root/got) > /dev/null 2>&1 &")
        self.shell("mover", "((" + COUNT + ") | nc 10.64.9.77 7000 > /root/got) > /dev/null 2>&1 &")
        self.grows("peer", "/root/got")
        self.grows("mover", "/root/got")
        boot = self.shell("mover", "cat /proc/sys/kernel/random/boot_id")

        for to in (middle, far, near):  # away, beside its peer, and back
            before = self.machine("mover")["node"]
            said = near.cli("vm", "migrate", "mover", "--to", to.name, "--live")
            self.assertRegex(said, r"stood still for \d+ ms")
            machine = self.machine("mover")
            self.assertEqual((machine["node"], machine["state"], machine["addresses"]), (to.name, "running", addresses))
            self.grows("peer", "/root/got")
            self.grows("mover", "/root/got")
            left = self.cluster.find(before)
            wanted = 1 if left is far else 0
            left.until(lambda _: len(self.links(left, "bt")) == wanted, "end of the old tap")
        self.assertEqual(self.shell("mover", "cat /proc/sys/kernel/random/boot_id"), boot)
        self.assertEqual(self.links(middle, "bt") + self.links(middle, "bx"), [])
        near.cli("vm", "delete", "mover")
        near.cli("vm", "delete", "peer")


if __name__ == "__main__":
    unittest.main()
