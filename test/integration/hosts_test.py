"""The hosts of the cluster's tests are what these tests believe they are."""
import errno
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import unittest

import hosts

PLAIN_ONLY = "what is tried are programs beside ours"


class Hosts(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.network = hosts.Network(3)
        cls.addClassCleanup(cls.network.close)
        cls.one, cls.two, cls.three = cls.network.hosts
        for host in cls.network.hosts:
            with host.entered():
                host.listener = socket.create_server((host.address, 7000))
            cls.addClassCleanup(host.listener.close)

    def hears(self, caller, callee, timeout):
        try:
            caller.connect(callee.address, 7000, timeout).close()
        except TimeoutError:
            return False
        return True

    def assert_hearing(self, *pairs):
        everybody = [(a, b) for a in self.network.hosts for b in self.network.hosts if a is not b]
        for caller, callee in everybody:
            expected = (caller, callee) not in pairs and (callee, caller) not in pairs
            self.assertEqual(self.hears(caller, callee, 30 if expected else 0.3), expected, (caller.name, callee.name))

    def test_they_hear_each_other_until_they_are_cut(self):
        one, two, three = self.network.hosts
        self.assert_hearing()
        one.cut(two)
        self.assert_hearing((one, two))
        one.cut(three)
        self.assert_hearing((one, two), (one, three))
        one.heal()
        self.assert_hearing()
        two.cut(three)
        two.unplug()
        self.assert_hearing((two, one), (two, three))
        self.network.heal()
        self.assert_hearing()

    def test_one_direction_can_be_cut(self):
        """A message sent one way comes, the other way none does."""
        with self.one.entered():
            first = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            first.bind((self.one.address, 7001))
        with self.two.entered():
            second = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            second.bind((self.two.address, 7001))
        with first, second:
            first.settimeout(5)
            second.settimeout(0.3)
            self.one.cut(self.two, here=False)  # `two` is deaf for `one`
            self.addCleanup(self.network.heal)
            second.sendto(b"heard", (self.one.address, 7001))
            self.assertEqual(first.recv(16), b"heard")
            first.sendto(b"unheard", (self.two.address, 7001))
            self.assertRaises(TimeoutError, second.recv, 16)

    def test_the_machines_own_network_is_as_before(self):
        links = subprocess.run(["ip", "-o", "link"], env=hosts.SYSTEM, text=True, stdout=subprocess.PIPE).stdout
        self.assertNotIn("port1", links)
        self.assertIn("port1", hosts.tool("ip", "-n", self.network.switch, "-o", "link"))

    def test_a_small_disk_is_full_soon(self):
        with tempfile.TemporaryDirectory() as folder:
            self.three.small_disk(folder, 1 << 20)
            with self.assertRaises(OSError) as full:
                self.three.path(f"{folder}/large").write_bytes(bytes(2 << 20))
            self.assertEqual(full.exception.errno, errno.ENOSPC)
            self.assertEqual(list(pathlib.Path(folder).iterdir()), [])  # not on ours

    def test_what_a_dead_test_left_is_swept(self):
        script = "import os, sys; sys.path.insert(0, sys.argv[1]); import hosts; n = hosts.Network(1); print(n.prefix); sys.stdout.flush(); os._exit(0)"
        done = subprocess.run([sys.executable, "-c", script, str(hosts.pathlib.Path(hosts.__file__).parent)], text=True,
                              stdout=subprocess.PIPE, check=True)
        prefix = done.stdout.strip()
        self.assertTrue([name for name in os.listdir(hosts.NAMESPACES) if name.startswith(prefix)])
        hosts.sweep()
        self.assertFalse([name for name in os.listdir(hosts.NAMESPACES) if name.startswith(prefix)])
        self.assertTrue((hosts.NAMESPACES / self.one.name).exists())


if __name__ == "__main__":
    unittest.main()
