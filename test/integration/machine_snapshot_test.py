"""Snapshots, restores, clones and archives of machines by the command line: one machine is booted, the rest begins from it."""
import os
import signal
import subprocess
import time
import unittest

import agent
from machine_case import MachineCase
from machines import runs
from node import BUILD, Node

PLAIN_ONLY = "the time goes to guests that are emulated, and to QEMU"


class Snapshots(MachineCase):
    @classmethod
    def setUpClass(cls):
        cls.begin(data="data")
        cls.data = cls.folder / "data"
        cls.ok("vm", "create", "web", "--image", "small", "--memory", "128MiB", "--disk", "64MiB")
        cls.shell("web", "echo one > /root/note; echo mine > /tmp/mine; sleep 100000 > /dev/null 2>&1 & echo $! > /tmp/pid")
        cls.ok("vm", "snapshot", "create", "web", "one")

    def snapshot_folder(self, machine, snapshot):
        shown = self.json("vm", "snapshot", "show", machine, snapshot)
        return self.data / "machines" / "snapshots" / self.json("vm", "show", machine)["id"] / shown["id"]

    def strays(self):
        places = ("machines/*/restoring", "machines/cloning/*", "machines/new/*", "machines/snapshots/*/*/stamping")
        return [str(path) for place in places for path in self.data.glob(place)]

    def test_1_it_is_as_it_was_with_its_memory(self):
        shown = self.json("vm", "snapshot", "show", "web", "one")
        self.assertEqual((shown["memory"], shown["state"], shown["machine"]), (True, "ready", "web"))
        self.assertGreater(shown["size_bytes"], 1 << 20)
        self.assertIn("already", self.refused("vm", "snapshot", "create", "web", "one"))
        self.shell("web", "echo two > /root/note; rm /tmp/mine; kill $(cat /tmp/pid)")
        self.ok("vm", "restore", "web", "one")
        self.assertEqual(self.shell("web", "cat /root/note /tmp/mine; kill -0 $(cat /tmp/pid) && echo runs"), "one\nmine\nruns\n")
        # Its disk alone, from a machine that goes on; and back, where it is stopped.
        self.shell("web", "echo three > /root/note")
        self.ok("vm", "snapshot", "create", "web", "three", "--disk-only")
        self.assertFalse(self.json("vm", "snapshot", "show", "web", "three")["memory"])
        self.ok("vm", "snapshot", "create", "web")
        self.assertEqual([one["name"] for one in self.json("vm", "snapshot", "list", "web")["snapshots"]], ["one", "three", "snap0"])
        self.ok("vm", "snapshot", "delete", "web", "snap0")
        self.assertIn("has no snapshot", self.refused("vm", "snapshot", "show", "web", "snap0"))
        self.assertIn("has no snapshot", self.refused("vm", "restore", "web", "snap0"))
        self.assertEqual(self.strays(), [])

    def test_2_clones_are_themselves(self):
        seen = self.json("vm", "clone", "web", "twin", "--snapshot", "one", "--count", "2")
        self.assertEqual([one["name"] for one in seen["machines"]], ["twin-1", "twin-2"])
        self.assertEqual(self.json("vm", "show", "twin-1")["origin"], "web@one")
        self.ok("vm", "clone", "web", "live")
        told = "hostname 2>/dev/null || uname -n; cat /etc/machine-id /sys/class/net/eth0/address /proc/sys/kernel/random/uuid"
        facts = [self.shell(name, told).split() for name in ("web", "twin-1", "twin-2", "live")[1:]]
        self.assertEqual([fact[0] for fact in facts], ["twin-1", "twin-2", "live"])
        for column in (1, 2, 3):
            self.assertEqual(len({fact[column] for fact in facts}), 3, facts)
        self.assertEqual(self.shell("twin-1", "cat /tmp/mine; kill -0 $(cat /tmp/pid) && echo runs"), "mine\nruns\n")
        self.shell("twin-1", "echo changed > /root/note; sync")
        self.assertEqual(self.shell("twin-2", "cat /root/note"), "one\n")
        self.assertIn("there is a machine", self.refused("vm", "clone", "web", "live"))
        self.assertIn("no name", self.refused("vm", "clone", "web", "Upper"))
        self.assertIn("has no snapshot", self.refused("vm", "clone", "web", "x", "--snapshot", "none"))
        # What is used up is not used again: it boots from its disk.
        boot = self.shell("twin-1", "cat /proc/sys/kernel/random/boot_id")
        self.assertEqual(boot, self.shell("web", "cat /proc/sys/kernel/random/boot_id"))
        self.ok("vm", "restart", "twin-1")
        self.assertNotEqual(boot, self.shell("twin-1", "cat /proc/sys/kernel/random/boot_id"))
        self.assertEqual(self.shell("twin-1", "cat /root/note; uname -n"), "changed\ntwin-1\n")
        # What a clone gives back to the host is not taken from the memory that others have.
        self.ok("vm", "resize", "twin-2", "--memory", "96MiB")
        while int(self.shell("twin-2", "head -n 1 /proc/meminfo").split()[1]) > 96 << 10:
            pass
        self.ok("vm", "restore", "web", "one")
        # A snapshot goes while machines that began from it run on.
        for name in ("twin-1", "twin-2", "live"):
            self.ok("vm", "delete", name)
        self.assertEqual(self.strays(), [])

    def test_3_what_is_damaged_is_told_and_nothing_is_touched(self):
        self.ok("vm", "snapshot", "create", "web", "damaged")
        memory = self.snapshot_folder("web", "damaged") / "memory"
        with memory.open("r+b") as file:
            file.seek(20 << 20)
            byte = file.read(1)
            file.seek(20 << 20)
            file.write(bytes([byte[0] ^ 1]))
        before = self.json("vm", "show", "web")
        self.assertIn("was damaged", self.refused("vm", "restore", "web", "damaged"))
        self.assertEqual(self.json("vm", "show", "web")["started_at"], before["started_at"])
        memory.unlink()
        self.assertIn("missing", self.refused("vm", "clone", "web", "x", "--snapshot", "damaged"))
        self.ok("vm", "snapshot", "delete", "web", "damaged")
        self.assertEqual(self.strays(), [])

    def test_4_there_and_back_as_a_file(self):
        path = self.folder / "web.blixard"
        self.shell("web", "echo carried > /root/note")
        self.ok("vm", "resize", "web", "--memory", "112MiB")  # what it began without is not written down as something that it has
        self.ok("vm", "snapshot", "create", "web", "smaller")
        self.ok("vm", "export", "web", path, "--snapshots")
        self.assertIn("already", self.refused("vm", "export", "web", path))
        self.assertIn("there is a machine", self.refused("vm", "import", path))
        cut = self.folder / "cut.blixard"
        cut.write_bytes(path.read_bytes()[:-50000])
        self.assertIn("archive", self.refused("vm", "import", cut, "--name", "back"))
        self.assertNotIn("back", self.ok("vm", "list"))
        self.ok("vm", "import", path, "--name", "back")
        self.assertEqual([one["name"] for one in self.json("vm", "snapshot", "list", "back")["snapshots"]], ["one", "three", "smaller"])
        # The guest of its snapshot believes to be the other one; it is told better.
        self.ok("vm", "restore", "back", "one")
        self.assertEqual(self.shell("back", "uname -n; cat /tmp/mine /root/note"), "back\nmine\none\n")
        self.ok("vm", "delete", "back")
        self.assertEqual(self.strays(), [])

    def test_5_a_guest_that_stands_still_goes_on_with_its_node(self):
        """As a node leaves it that is killed while it copies a disk."""
        place = self.data / "machines" / self.json("vm", "show", "web")["id"]
        os.kill(self.node.process.pid, signal.SIGKILL)
        self.node.process.wait()
        self.assertGreaterEqual(int(agent.call(place / "agent.sock", "freeze", 600000)["count"]), 1)
        type(self).node = Node(folder=self.data)
        self.ok("vm", "wait", "web", "--timeout", "200s")
        self.assertEqual(self.shell("web", "echo on > /root/still; sync; cat /root/still"), "on\n")
        for _ in range(500):  # the agent's answer, which nobody else hears
            if "they are thawed" in self.node.log.read_text():
                break
            self.ok("vm", "show", "web")
        self.assertIn("they are thawed", self.node.log.read_text())

    def test_6_a_node_that_dies_leaves_no_half_of_one(self):
        begun = subprocess.Popen([BUILD / "blixard", "vm", "snapshot", "create", "web", "half"], env=self.node.env,
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not list(self.data.glob("machines/snapshots/*/*/whole")):
            self.assertIsNone(begun.poll())
        vmm = int(next(self.data.glob(f"machines/{self.json('vm', 'show', 'web')['id']}/lock")).read_text().split()[1])
        os.kill(self.node.process.pid, signal.SIGKILL)
        self.node.process.wait()
        begun.wait()
        type(self).node = Node(folder=self.data)
        self.ok("vm", "wait", "web", "--timeout", "200s")
        self.assertTrue(runs(vmm))
        self.assertEqual(self.shell("web", "cat /tmp/mine"), "mine\n")
        # A node that begins has that written, and answers meanwhile.
        end = time.monotonic() + 60
        while "half" in self.ok("vm", "snapshot", "list", "web"):
            self.assertLess(time.monotonic(), end)
        self.assertEqual(self.strays(), [])
        self.ok("vm", "delete", "web")
        self.assertEqual([path.name for path in (self.data / "machines").iterdir() if path.name not in ("cloning", "new")], ["snapshots"])
        self.assertEqual(list((self.data / "machines" / "snapshots").iterdir()), [])


if __name__ == "__main__":
    unittest.main()
