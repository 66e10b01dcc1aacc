"""Devices that machines have whole, on PCI and on USB: counted, placed, one machine's alone.  What stands for the devices is a folder over that of sysfs."""
import concurrent.futures
import ctypes
import json
import os
import pathlib
import shutil
import struct
import subprocess
import tempfile
import unittest

import machines
from cluster import Cluster
from node import BUILD

BUSES = pathlib.Path("/sys/bus")
CLONE_NEWNS = 0x20000


def setUpModule():
    """This process, and so the daemons that it starts, see devices of their own."""
    global fake
    if os.geteuid() != 0 or not BUSES.is_dir() or subprocess.run(["unshare", "--mount", "true"], stderr=subprocess.DEVNULL).returncode != 0:
        raise unittest.SkipTest("needs root, sysfs and mount namespaces")
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS) != 0:
        raise unittest.SkipTest("no mount namespace for this process")
    fake = tempfile.TemporaryDirectory(prefix="blixard-devices-")
    for bus in ("pci", "usb"):
        (pathlib.Path(fake.name) / bus / "devices").mkdir(parents=True)
    function("0000:01:00.0", "0x030000", "0x10de", "0x2204", "vfio-pci", 7)
    function("0000:01:00.1", "0x040300", "0x10de", "0x1aef", "vfio-pci", 7)
    function("0000:02:00.0", "0x030000", "0x10de", "0x2204", "vfio-pci", 8)
    function("0000:03:00.0", "0x020000", "0x8086", "0x1572", "i40e", 9)
    function("0000:03:02.0", "0x020000", "0x8086", "0x154c", "vfio-pci", 10)
    plug("1-2", "0403", "6001", (0xff, 0xff, 0xff), "FTDI", "FT232R USB UART", "A50285BI")
    plug("1-3", "0403", "6001", (0xff, 0xff, 0xff), "FTDI", "FT232R USB UART", "A50285BJ")
    plug("1-4", "046d", "c31c", (3, 1, 1), "Logitech", "USB Keyboard")
    plug("1-5", "05e3", "0610", (9, 0, 0), "GenesysLogic", "USB2.1 Hub")
    plug("1-5.2", "1050", "0407", (0x0b, 0, 0), "Yubico", "YubiKey")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "--bind", fake.name, BUSES], check=True)


def tearDownModule():
    subprocess.run(["umount", BUSES], check=True)
    fake.cleanup()


def function(address, kind, vendor, device, driver, group):
    folder = pathlib.Path(fake.name) / "pci/devices" / address
    folder.mkdir()
    for name, value in (("class", kind), ("vendor", vendor), ("device", device), ("numa_node", "-1")):
        (folder / name).write_text(value + "\n")
    (folder / "driver").symlink_to(f"../../../bus/pci/drivers/{driver}")
    (folder / "iommu_group").symlink_to(f"../../../kernel/iommu_groups/{group}")


def port(path):
    return pathlib.Path(fake.name) / "usb/devices" / path


def plug(path, vendor, product, interface, maker, name, serial=None):
    """The kernel numbers it anew each time."""
    global plugged
    plugged = globals().get("plugged", 1) + 1
    folder = port(f"new-{path}")
    folder.mkdir()
    values = {"idVendor": vendor, "idProduct": product, "busnum": "1", "devnum": plugged, "bConfigurationValue": "1", "manufacturer": maker,
              "product": name, **({"serial": serial} if serial else {})}
    for key, value in values.items():
        (folder / key).write_text(f"{value}\n")
    (folder / "descriptors").write_bytes(struct.pack("<BBHBBBBHHHBBBB", 18, 1, 0x200, 9 if interface[0] == 9 else 0, 0, 0, 64, int(vendor, 16),
                                                     int(product, 16), 0, 1, 2, 3, 1)
                                         + struct.pack("<BBHBBBBB", 9, 2, 18, 1, 1, 0, 0x80, 50) + bytes((9, 4, 0, 0, 0, *interface, 0)))
    folder.rename(port(path))


class Devices(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster(2, arguments=("--machine-devices", "all,usb:serial,usb:1-5.2"), here=True)
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

    def test_a_project_has_at_most_as_many_as_its_quota_says(self):
        self.ok("quota", "set", "default", "--devices", "2")
        self.addCleanup(self.ok, "quota", "delete", "default")
        self.assertEqual(self.create("one", "--device", "usb:serial").returncode, 0)
        beyond = self.create("two", "--device", "usb:serial", "--device", "usb:1-5.2")
        self.assertEqual(beyond.returncode, 69, beyond.stderr)
        self.assertIn("devices: 1 used, limit 2, asked 2", beyond.stderr)
        self.assertEqual(self.create("two", "--device", "usb:1-5.2").returncode, 0)
        self.assertRegex(self.ok("quota", "show", "default"), r"(?m)^devices +2 +2$")
        self.ok("vm", "delete", "two")
        self.assertRegex(self.ok("quota", "show", "default"), r"(?m)^devices +1 +2$")

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

    # ---- USB ----

    def events(self, name):
        return [(event["type"], event["data"]["reason"]) for event in json.loads(self.ok("vm", "events", name, "--output", "json"))["events"]]

    def plug_in(self, path, *device):
        """And both nodes have seen it."""
        if not port(path).exists():
            plug(path, *device)
        for node in ("n1", "n2"):
            self.cluster[0].until(lambda _, node=node: f"usb:{path}" in [line.split()[0] for line in self.ok("node", "show", node).splitlines() if ": free" in line],
                                  f"device {path} at node {node}")

    def test_usb_devices_are_given_that_are_named(self):
        shown = self.ok("node", "show", "n1")
        self.assertIn("usb:serial usb:0403:6001, FTDI FT232R USB UART, serial number A50285BI: free", shown)
        self.assertIn("usb:input usb:046d:c31c, Logitech USB Keyboard: the node's option machine_devices does not name it", shown)
        self.assertIn("usb:smartcard usb:1050:0407, Yubico YubiKey: free", shown)
        self.assertNotIn("Hub", shown)
        self.assertIn("no node has", self.refused(69, "vm", "create", "x", "--image", "blank", "--disk", "16MiB", "--device", "usb:input", "--no-pending"))

    def test_usb_devices_that_cannot_be_are_refused_with_the_reason(self):
        for flags, code, reason in ((("--device", "usb:toaster"), 64, "is no USB device"), (("--device", "usb:1-2=2"), 64, "one at an address"),
                                    (("--device", "usb:serial", "--machine", "microvm"), 64, "q35"),
                                    (("--device", "usb:serial=15"), 64, "14 on USB"),
                                    (("--device", "usb:serial", "--driver", "firecracker"), 65, "firecracker has no USB"),
                                    (("--device", "usb:serial", "--driver", "cloud-hypervisor"), 65, "cloud-hypervisor has no USB"),
                                    (("--device", "usb:1-4", "--no-pending"), 69, "no node has"),
                                    (("--device", "usb:serial=3", "--no-pending"), 69, "no node has 3 free devices usb:serial")):
            self.assertIn(reason, self.refused(code, "vm", "create", "x", "--image", "blank", "--disk", "16MiB", *flags))

    def test_a_usb_device_is_one_machines_alone(self):
        self.assertIn(self.create("pair", "--device", "usb:serial=2", "--device", "usb:1050:0407", "--device", "nic", "--node", "n1").returncode, (0, 75))
        self.wait_for("pair", "placed")  # what was plugged in by the test before is known everywhere a moment later
        self.assertEqual(self.place("pair"), ("n1", ("0000:03:02.0", "usb:1-2", "usb:1-3", "usb:1-5.2")))
        self.assertEqual(self.machine("pair")["missing_devices"], [])
        self.assertIn("serial number A50285BJ: of machine default/pair", self.ok("node", "show", "n1"))
        self.assertEqual(self.create("other", "--device", "usb:1-5.2").returncode, 0)
        self.assertEqual(self.place("other"), ("n2", ("usb:1-5.2",)))
        self.assertEqual(self.create("waits", "--device", "usb:1050:0407").returncode, 75)
        self.assertIn("1 usb:smartcard (usb:1050:0407) wanted, it has 1, 0 of them free", self.ok("placement", "explain", "waits"))
        self.assertIn("--cold moves it", self.refused(65, "vm", "migrate", "other", "--to", "n1", "--live"))
        self.ok("vm", "delete", "pair")
        self.wait_for("waits", "placed")
        self.assertEqual(self.place("waits"), ("n1", ("usb:1-5.2",)))

    def test_what_is_unplugged_stays_its_machines(self):
        """Both nodes look at the same folder: what is unplugged is so at both."""
        key = ("1-5.2", "1050", "0407", (0x0b, 0, 0), "Yubico", "YubiKey")
        self.addCleanup(self.plug_in, *key)
        self.assertEqual(self.create("keeper", "--device", "usb:1050:0407", "--node", "n1").returncode, 0)
        shutil.rmtree(port("1-5.2"))
        self.cluster[0].until(lambda _: self.machine("keeper")["missing_devices"] == ["usb:1-5.2"], "device that is missing")
        self.cluster[0].until(lambda _: "of machine default/keeper, and not there now" in self.ok("node", "show", "n1"), "node that has seen it")
        self.assertEqual(self.place("keeper"), ("n1", ("usb:1-5.2",)))
        plug("1-5.2", "1d6b", "0104", (8, 6, 0x50), "Acme", "Stick")
        self.cluster[0].until(lambda _: "Acme Stick: of machine default/keeper" in self.ok("node", "show", "n1"), "another one at its port")
        self.assertEqual(self.machine("keeper")["missing_devices"], ["usb:1-5.2"])
        shutil.rmtree(port("1-5.2"))
        plug(*key)
        self.cluster[0].until(lambda _: self.machine("keeper")["missing_devices"] == [], "device that is back")

    def test_a_machine_starts_without_what_is_not_there_and_says_so(self):
        """There are no nodes of usbfs for these: the VMM runs without, and then without its port being plugged."""
        if pathlib.Path("/dev/bus/usb/001").exists():
            self.skipTest("this machine has USB devices, which have such numbers")
        self.addCleanup(self.plug_in, "1-2", "0403", "6001", (0xff, 0xff, 0xff), "FTDI", "FT232R USB UART", "A50285BI")
        self.assertEqual(self.create("lonely", "--device", "usb:1-2", "--node", "n1").returncode, 0)
        self.ok("vm", "start", "lonely")
        missing = lambda words: lambda _: any(kind == "vm.device-missing" and words in reason for kind, reason in self.events("lonely"))
        self.cluster[0].until(missing("cannot be opened"), "device that cannot be opened")
        shutil.rmtree(port("1-2"))
        self.cluster[0].until(missing("usb:1-2: it is not plugged in at node n1"), "device that is away")
        self.assertEqual(self.machine("lonely")["state"], "running")


if __name__ == "__main__":
    unittest.main()
