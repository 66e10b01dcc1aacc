"""PCI devices that machines have whole: counted, placed, one machine's alone.  What stands for the devices is a folder over that of sysfs."""
import concurrent.futures
import ctypes
import json
import os
import pathlib
import subprocess
import tempfile
import unittest

import machines
from cluster import Cluster
from node import BUILD

DEVICES = pathlib.Path("/sys/bus/pci/devices")
CLONE_NEWNS = 0x20000


def setUpModule():
    """This process, and so the daemons that it starts, see devices of their own."""
    global fake
    if os.geteuid() != 0 or not DEVICES.is_dir() or subprocess.run(["unshare", "--mount", "true"], stderr=subprocess.DEVNULL).returncode != 0:
        raise unittest.SkipTest("needs root, sysfs and mount namespaces")
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS) != 0:
        raise unittest.SkipTest("no mount namespace for this process")
    fake = tempfile.TemporaryDirectory(prefix="blixard-devices-")
    function("0000:01:00.0", "0x030000", "0x10de", "0x2204", "vfio-pci", 7)
    function("0000:01:00.1", "0x040300", "0x10de", "0x1aef", "vfio-pci", 7)
    function("0000:02:00.0", "0x030000", "0x10de", "0x2204", "vfio-pci", 8)
    function("0000:03:00.0", "0x020000", "0x8086", "0x1572", "i40e", 9)
    function("0000:03:02.0", "0x020000", "0x8086", "0x154c", "vfio-pci", 10)
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "--bind", fake.name, DEVICES], check=True)


def tearDownModule():
    subprocess.run(["umount", DEVICES], check=True)
    fake.cleanup()


def function(address, kind, vendor, device, driver, group):
    folder = pathlib.Path(fake.name) / address
    folder.mkdir()
    for name, value in (("class", kind), ("vendor", vendor), ("device", device), ("numa_node", "-1")):
        (folder / name).write_text(value + "\n")
    (folder / "driver").symlink_to(f"../../../bus/pci/drivers/{driver}")
    (folder / "iommu_group").symlink_to(f"../../../kernel/iommu_groups/{group}")


class Devices(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster(2, here=True)
        cls.addClassCleanup(cls.cluster.close)
        cls.cluster.form()
        disk = cls.cluster.root / "blank.raw"
        disk.write_bytes(machines.BLANK)
        cls.ok("image", "import", "blank", "--disk", disk, "--no-agent")

    @classmethod
    def run_cli(cls, *words):
        env = {**os.environ, "BLIXARD_ADDR": f"unix:{cls.cluster[0].folder / 'api.sock'}"}
        return subprocess.run([BUILD / "blixard", *map(str, words)], env=env, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=300)

    @classmethod
    def ok(cls, *words):
        done = cls.run_cli(*words)
        assert done.returncode == 0, f"{words}: {done.stderr}{done.stdout}"
        return done.stdout

    def refused(self, code, *words):
        done = self.run_cli(*words)
        self.assertEqual(done.returncode, code, f"{words}: {done.stdout}{done.stderr}")
        return done.stderr

    def create(self, name, *flags):
        """Made, and not started: there is no such device to start it with."""
        done = self.run_cli("vm", "create", name, "--image", "blank", "--memory", "64MiB", "--disk", "16MiB", *(() if "--strategy" in flags else ("--strategy", "Halted")), *flags)
        self.addCleanup(self.run_cli, "vm", "delete", name)
        return done

    def machine(self, name):
        return json.loads(self.ok("vm", "show", name, "--output", "json"))

    def place(self, name):
        machine = self.machine(name)
        return machine["node"], tuple(machine["has_devices"])

    def wait_for(self, name, state):
        """Pending, or not any more."""
        self.cluster[0].until(lambda _: (self.machine(name)["state"] == "pending") == (state == "pending"), f"machine {name} that is {state}")

    # ---- What there is ----

    def test_a_node_shows_its_devices_and_who_has_them(self):
        shown = self.ok("node", "show", "n1")
        self.assertIn("gpu 10de:2204, IOMMU group 7, with 0000:01:00.1: free", shown)
        self.assertIn("network 8086:1572, IOMMU group 9: driver i40e has it, not vfio-pci", shown)
        self.assertEqual(self.create("shown", "--device", "gpu", "--node", "n1").returncode, 0)
        self.assertEqual(self.place("shown"), ("n1", ("0000:01:00.0",)))
        self.assertIn("with 0000:01:00.1: of machine default/shown", self.ok("node", "show", "n1"))
        self.ok("vm", "delete", "shown")
        self.assertIn("with 0000:01:00.1: free", self.ok("node", "show", "n1"))

    def test_what_cannot_be_is_refused_with_its_reason(self):
        for flags, code, reason in ((("--device", "toaster"), 64, "is no device"), (("--device", "gpu=0"), 64, "1 to 16"),
                                    (("--device", "gpu", "--machine", "microvm"), 64, "q35"),
                                    (("--device", "gpu", "--driver", "firecracker"), 65, "passes none through"),
                                    (("--device", "nvme", "--no-pending"), 69, "no node has 1 free device nvme"),
                                    (("--device", "gpu=3", "--no-pending"), 69, "no node has 3 free devices gpu"),
                                    (("--device", "8086:1572", "--no-pending"), 69, "no node has"),
                                    (("--device", "0000:03:00.0", "--no-pending"), 69, "no node has")):
            self.assertIn(reason, self.refused(code, "vm", "create", "x", "--image", "blank", "--disk", "16MiB", *flags))

    def test_several_and_one_by_its_address(self):
        self.assertEqual(self.create("both", "--device", "gpu=2", "--device", "nic").returncode, 0)
        node, has = self.place("both")
        self.assertEqual(has, ("0000:01:00.0", "0000:02:00.0", "0000:03:02.0"))
        other = "n2" if node == "n1" else "n1"
        self.assertEqual(self.create("second", "--device", "0000:02:00.0").returncode, 0)
        self.assertEqual(self.place("second"), (other, ("0000:02:00.0",)))
        self.assertIn("no node has", self.refused(69, "vm", "create", "third", "--image", "blank", "--disk", "16MiB", "--device", "0000:02:00.0",
                                                   "--no-pending"))

    # ---- Whose they are ----

    def test_no_two_machines_get_one(self):
        """Eight at once want the four that there are; four wait, and get them when the others go."""
        names = [f"many-{i}" for i in range(8)]
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            codes = set(pool.map(lambda name: self.create(name, "--device", "10de:2204").returncode, names))
        self.assertEqual(codes, {0, 75})
        self.cluster[0].until(lambda _: sum(self.machine(name)["state"] != "pending" for name in names) == 4, "four machines that are placed")
        waiting = [name for name in names if self.machine(name)["state"] == "pending"]
        placed = [name for name in names if name not in waiting]
        before = {self.place(name) for name in placed}
        self.assertEqual(before, {(node, (address,)) for node in ("n1", "n2") for address in ("0000:01:00.0", "0000:02:00.0")})
        explained = self.ok("placement", "explain", waiting[0])
        self.assertIn("1 gpu (10de:2204) wanted, it has 2, 0 of them free", explained)
        self.cluster[1].stop()
        self.cluster[1].start().wait_ready()
        self.cluster.settled()
        self.assertEqual({self.place(name) for name in placed}, before)
        for name in placed:
            self.ok("vm", "delete", name)
        for name in waiting:
            self.wait_for(name, "placed")
        self.assertEqual({self.place(name) for name in waiting}, before)

    def test_it_moves_cold_and_leaves_its_devices_behind(self):
        self.assertEqual(self.create("mover", "--device", "gpu", "--node", "n1").returncode, 0)
        self.assertIn("--cold moves it", self.refused(65, "vm", "migrate", "mover", "--to", "n2", "--live"))
        self.assertIn("cannot be cloned", self.refused(65, "vm", "clone", "mover", "copy"))
        self.ok("vm", "migrate", "mover", "--to", "n2", "--cold")
        self.assertEqual(self.place("mover"), ("n2", ("0000:01:00.0",)))
        self.assertNotIn("default/mover", self.ok("node", "show", "n1"))
        self.assertEqual(self.create("taker", "--device", "gpu=2", "--node", "n1").returncode, 0)
        self.assertIn("has no free device gpu", self.run_cli("vm", "migrate", "mover", "--to", "n1", "--cold").stderr)
        self.assertEqual(self.place("mover"), ("n2", ("0000:01:00.0",)))

    def test_a_drained_node_keeps_none(self):
        self.assertEqual(self.create("leaver", "--device", "gpu", "--node", "n2").returncode, 0)
        self.assertEqual(self.create("filler", "--device", "0000:01:00.0", "--node", "n1").returncode, 0)
        self.addCleanup(self.run_cli, "node", "restore", "n2")
        self.ok("node", "drain", "n2")
        self.assertEqual(self.place("leaver"), ("n1", ("0000:02:00.0",)))
        self.assertNotIn("default/leaver", self.ok("node", "show", "n2"))

    def test_who_is_displaced_gives_its_devices_up_and_gets_them_back(self):
        """It is to run, though no VMM has such devices: that is what counts."""
        for node in ("n1", "n2"):
            self.assertIn(self.create(f"low-{node}", "--device", "gpu=2", "--node", node, "--strategy", "Always", "--priority", "10", "--no-wait").returncode, (0, 75))
        self.cluster[0].until(lambda _: all(self.place(f"low-{node}")[1] for node in ("n1", "n2")), "both with devices")
        self.assertEqual(self.create("high", "--device", "gpu", "--strategy", "Always", "--priority", "90", "--no-wait").returncode, 0)
        self.cluster[0].until(lambda _: self.place("high")[1] == ("0000:01:00.0",), "device for who displaces")
        node = self.place("high")[0]
        self.assertEqual(self.place(f"low-{node}"), (node, ()))
        self.wait_for(f"low-{node}", "pending")
        self.ok("vm", "delete", "high")
        self.cluster[0].until(lambda _: self.place(f"low-{node}") == (node, ("0000:01:00.0", "0000:02:00.0")), "its devices again")

    def test_a_start_without_vfio_says_why(self):
        if pathlib.Path("/dev/vfio/vfio").exists():
            self.skipTest("this machine has VFIO")
        self.assertEqual(self.create("starter", "--device", "gpu").returncode, 0)
        self.run_cli("vm", "start", "starter")
        self.cluster[0].until(lambda _: "vfio" in (self.machine("starter")["reason"] or ""), "VMM that misses VFIO")


if __name__ == "__main__":
    unittest.main()
