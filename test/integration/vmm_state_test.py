"""Memory of machines under Firecracker and Cloud Hypervisor: kept, gone back to, cloned and moved, by the command line.

The daemon is the real one; the VMMs are the stand-ins of vmm_standin.py, under a KVM that is said to boot Linux, or the real
programs where they are in PATH and it does.
"""
import ctypes
import json
import os
import pathlib
import shutil
import signal
import tempfile
import unittest
import unittest.mock

import hosts
from cluster import Cluster
from machines import kernel_flags, machines_of, memory_binding, root_archive, why_not
from node import Node
from node_case import NodeCase

PLAIN_ONLY = "the time goes to guests that are emulated, and to QEMU"

STAND_IN = pathlib.Path(__file__).resolve().parent.parent / "lib" / "vmm_standin.py"
CLONE_NEWNS, MS_BIND, MS_REC, MS_PRIVATE = 0x20000, 4096, 16384, 1 << 18
MIB = 1 << 20
NODES = "/sys/devices/system/node"


def mount(source, target, flags):
    if hosts.libc.mount(source.encode(), target.encode(), None, ctypes.c_ulong(flags), None) != 0:
        raise unittest.SkipTest(f"mounts are refused: {os.strerror(ctypes.get_errno())}")


def setUpModule():
    """This process, which runs this file alone, is a host of its own from here on, with a processor that has VMX."""
    global folder
    reason = why_not()
    if reason:
        raise unittest.SkipTest(reason)
    hosts.need_hosts()
    if not os.access("/dev/kvm", os.R_OK | os.W_OK) or not os.path.exists("/dev/net/tun"):
        raise unittest.SkipTest("there is no /dev/kvm, or no /dev/net/tun")
    if hosts.libc.unshare(CLONE_NEWNS | hosts.CLONE_NEWNET) != 0:
        raise unittest.SkipTest("namespaces are refused")
    hosts.tool("ip", "link", "set", "lo", "up")
    folder = pathlib.Path(unittest.enterModuleContext(tempfile.TemporaryDirectory(prefix="blixard-states-")))
    folder.chmod(0o755)
    mount("none", "/", MS_REC | MS_PRIVATE)
    flags = pathlib.Path("/proc/cpuinfo").read_text().replace("\nflags\t\t:", "\nflags\t\t: vmx")
    (folder / "cpuinfo").write_text(flags)
    mount(str(folder / "cpuinfo"), "/proc/cpuinfo", MS_BIND)
    (folder / "root.tar.gz").write_bytes(root_archive())


class States:
    """One story for each driver."""

    driver = None

    def setUp(self):
        self.place = pathlib.Path(tempfile.mkdtemp(dir=folder))
        self.place.chmod(0o755)
        (self.place / "bin").mkdir()
        (self.place / "data").mkdir()
        self.program = self.place / "bin" / self.driver
        shutil.copy(STAND_IN, self.program)
        self.program.chmod(0o755)
        self.addCleanup(self.unplug)
        self.begin()
        self.addCleanup(lambda: self.node.stop())
        self.enterContext(machines_of(self.place / "data"))
        usable = {one["name"]: one for one in self.json("vm", "drivers")["hypervisors"]}[self.driver]
        if not usable["usable"]:
            self.skipTest(usable["problem"])
        self.ok("image", "import", "small", "--root", folder / "root.tar.gz", *kernel_flags())
        self.ok("network", "create", "back")

    def begin(self):
        type(self).node = Node(folder=self.place / "data", env={"PATH": f"{self.place / 'bin'}:{os.environ['PATH']}"})

    def guest(self, name, *words):
        return self.ok("vm", "exec", name, "--", *words).strip()

    def machine(self, name):
        return self.place / "data" / "machines" / self.json("vm", "show", name)["id"]

    def requests(self, name):
        """What its VMM was told since it was started, without questions."""
        text = (self.machine(name) / "vmm" / "requests").read_text()
        told = [json.loads(line) for line in text.splitlines()]
        self.assertEqual([one for one in told if one["status"] >= 400 and one["method"] != "GET"], [])
        return [(one["method"] + " " + one["path"].removeprefix("/api/v1"), json.loads(one["body"] or "null"))
                for one in told if one["method"] != "GET"]

    def create(self, name, *more):
        self.ok("vm", "create", name, "--image", "small", "--driver", self.driver, "--network", "back", "--memory", "128MiB",
                "--disk", "64MiB", *more)

    def unplug(self):
        """The next test begins with an empty host."""
        for link in json.loads(hosts.tool("ip", "-j", "link")):
            if link["ifname"] != "lo":
                hosts.tool("ip", "link", "delete", link["ifname"])

    def taps(self):
        return [link["ifname"] for link in json.loads(hosts.tool("ip", "-j", "link")) if link["ifname"].startswith("bt")]

    def test_memory_is_kept_gone_back_to_and_cloned(self):
        self.assertIn("one rate for reading and writing together",
                      self.refused("vm", "create", "web", "--image", "small", "--driver", self.driver, "--network", "back",
                                   "--disk-read-iops", "100"))
        self.create("web")
        own = self.taps()
        self.guest("web", "remember", "one")
        self.ok("vm", "snapshot", "create", "web", "first", "--memory")
        self.assertTrue(self.json("vm", "snapshot", "show", "web", "first")["memory"])
        self.assertEqual([name for name, _ in self.requests("web")][-3:], self.saving)
        kept = self.place / "data" / "machines" / "snapshots" / self.machine("web").name
        kept /= self.json("vm", "snapshot", "show", "web", "first")["id"]
        self.assertEqual(sorted(path.name for path in kept.iterdir()), ["disk.raw", "initrd", "manifest.json", *self.files])

        # Back, with a disk of its own.
        self.guest("web", "remember", "two")
        self.ok("vm", "restore", "web", "first")
        self.assertEqual(self.guest("web", "recall"), "one")
        self.assertEqual(self.loaded("web"), own)
        self.assertTrue((self.machine("web") / "disk.raw").exists())
        self.assertEqual([path.name for path in (self.machine("web") / "vmm").iterdir() if path.name in self.read], [])

        # Clones of a snapshot, and of what runs: they are somebody else, at other taps.
        self.ok("vm", "clone", "web", "twin", "--snapshot", "first", "--count", "2")
        self.guest("web", "remember", "three")
        self.ok("vm", "clone", "web", "live")
        self.assertEqual([self.guest(name, "recall") for name in ("twin-1", "twin-2", "live", "web")], ["one", "one", "three", "three"])
        self.assertEqual([self.guest(name, "name") for name in ("twin-1", "live")], ["twin-1", "live"])
        used = [tap for name in ("web", "twin-1", "twin-2", "live") for tap in self.loaded(name)]
        self.assertEqual(sorted(used), sorted(self.taps()))
        self.shared([kept, self.machine("twin-1") / "resume", self.machine("twin-2") / "resume"])
        for name in ("twin-1", "twin-2"):
            self.assertFalse((self.machine(name) / "disk.qcow2").exists())

        # A clone is kept as well, and its state is used up when it goes on; the disk alone; as a file.
        self.ok("vm", "snapshot", "create", "live", "second", "--memory")
        self.ok("vm", "restore", "live", "second")
        self.assertEqual(self.guest("live", "recall"), "three")
        self.ok("vm", "restart", "live")
        self.assertEqual(self.guest("live", "recall"), "nothing")
        self.ok("vm", "restore", "web", "first", "--disk-only")
        self.ok("vm", "clone", "web", "cold", "--cold")
        self.assertEqual([self.guest(name, "recall") for name in ("web", "cold")], ["nothing", "nothing"])
        self.ok("vm", "stop", "web")
        self.ok("vm", "export", "web", self.place / "web.tar", "--snapshots")
        self.ok("vm", "import", self.place / "web.tar", "--name", "again")
        self.assertTrue(self.json("vm", "snapshot", "show", "again", "first")["memory"])

    def test_a_node_that_dies_finds_what_it_had(self):
        self.create("db")
        self.guest("db", "remember", "one")
        self.ok("vm", "snapshot", "create", "db", "first")
        self.ok("vm", "clone", "db", "other")
        os.kill(self.node.process.pid, signal.SIGKILL)
        self.node.process.wait()
        self.begin()
        for name in ("db", "other"):
            self.ok("vm", "wait", name, "--timeout", "100s")
            self.assertEqual(self.guest(name, "recall"), "one")
        self.ok("vm", "pause", "other")
        self.ok("vm", "snapshot", "create", "other", "still", "--memory")
        self.ok("vm", "resume", "other")
        self.ok("vm", "restore", "other", "still")
        self.assertEqual(self.guest("other", "recall"), "one")

    def test_what_is_damaged_is_told(self):
        self.create("hurt")
        self.ok("vm", "snapshot", "create", "hurt", "first")
        kept = next((self.place / "data" / "machines" / "snapshots").glob(f"{self.machine('hurt').name}/*"))
        state = kept / self.files[-1]
        with state.open("r+b") as file:
            file.seek(state.stat().st_size - 10)
            file.write(b"not it")
        self.guest("hurt", "remember", "still")
        self.assertIn("damaged", self.refused("vm", "restore", "hurt", "first"))
        self.assertEqual(self.guest("hurt", "recall"), "still")


class Moves:
    """It stands still, and goes on at another node, with what it knew, its addresses and its snapshots."""

    driver = None

    def test_a_machine_goes_on_at_another_node(self):
        bin_folder = pathlib.Path(tempfile.mkdtemp(dir=folder))
        bin_folder.chmod(0o755)
        shutil.copy(STAND_IN, bin_folder / self.driver)
        (bin_folder / self.driver).chmod(0o755)
        self.enterContext(unittest.mock.patch.dict(os.environ, {"PATH": f"{bin_folder}:{os.environ['PATH']}"}))
        cluster = Cluster(2)
        self.addCleanup(cluster.close)
        cluster.form()
        self.enterContext(machines_of(*(server.folder for server in cluster.servers)))
        near, far = cluster.servers
        usable = {one["name"]: one for one in json.loads(near.cli("vm", "drivers", "--output", "json"))["hypervisors"]}[self.driver]
        if not usable["usable"]:
            self.skipTest(usable["problem"])
        near.cli("image", "import", "small", "--root", folder / "root.tar.gz", *kernel_flags())
        near.cli("network", "create", "wide")
        near.cli("vm", "create", "mover", "--image", "small", "--driver", self.driver, "--network", "wide", "--memory", "128MiB",
                 "--disk", "64MiB", "--node", near.name)
        near.cli("vm", "exec", "mover", "--", "remember", "one")
        near.cli("vm", "snapshot", "create", "mover", "first")
        near.cli("vm", "exec", "mover", "--", "remember", "two")
        before = json.loads(near.cli("vm", "show", "mover", "--output", "json"))
        self.assertIn("does not move machines that run", near.cli("vm", "migrate", "mover", "--to", far.name, "--live", check=False).stderr)
        for to in (far, near):
            self.assertRegex(near.cli("vm", "migrate", "mover", "--to", to.name, "--snapshot"), r"stood still for \d+ ms")
            shown = json.loads(near.cli("vm", "show", "mover", "--output", "json"))
            self.assertEqual((shown["node"], shown["state"], shown["addresses"]), (to.name, "running", before["addresses"]))
            self.assertEqual(near.cli("vm", "exec", "mover", "--", "recall").strip(), "two")
        near.cli("vm", "migrate", "mover", "--to", far.name)  # by itself, as it cannot move while it runs
        near.cli("vm", "restore", "mover", "first")
        self.assertEqual(near.cli("vm", "exec", "mover", "--", "recall").strip(), "one")
        near.cli("vm", "clone", "mover", "twin")
        self.assertEqual(near.cli("vm", "exec", "twin", "--", "recall").strip(), "one")


class FirecrackerMoves(Moves, unittest.TestCase):
    driver = "firecracker"


class CloudHypervisorMoves(Moves, unittest.TestCase):
    driver = "cloud-hypervisor"


class Firecracker(States, NodeCase):
    driver = "firecracker"
    saving = ["PATCH /vm", "PUT /snapshot/create", "PATCH /vm"]
    files = ["memory", "state"]
    read = ["state"]

    def loaded(self, name):
        """The taps that it was told."""
        (_, load), (after, resumed) = self.requests(name)[:2]
        self.assertEqual(load["mem_backend"], {"backend_type": "File", "backend_path": "/machine/memory"})
        self.assertEqual((load["resume_vm"], after, resumed), (False, "PATCH /vm", {"state": "Resumed"}))
        self.assertEqual([one["iface_id"] for one in load["network_overrides"]], ["eth0"])
        return [one["host_dev_name"] for one in load["network_overrides"]]

    def shared(self, folders):
        """One file, of whose 128 MiB only what is not zero is on the disk."""
        files = [(place / "memory").stat() for place in folders]
        self.assertEqual(len({file.st_ino for file in files}), 1)
        self.assertEqual(files[0].st_size, 128 * MIB)
        self.assertLess(files[0].st_blocks * 512, MIB)

    def test_one_that_cannot_move_taps_goes_back_and_is_not_cloned(self):
        self.program.write_text(self.program.read_text().replace('"1.12.1"', '"1.11.0"'))
        self.node.stop()
        self.begin()
        self.assertFalse({one["name"]: one for one in self.json("vm", "drivers")["hypervisors"]}["firecracker"]["clone"])
        self.create("old")
        self.guest("old", "remember", "one")
        self.ok("vm", "snapshot", "create", "old", "first")
        self.guest("old", "remember", "two")
        self.ok("vm", "restore", "old", "first")
        self.assertEqual(self.guest("old", "recall"), "one")
        self.assertNotIn("network_overrides", self.requests("old")[0][1])
        self.assertIn("1.12 and later", self.refused("vm", "clone", "old", "new"))
        self.ok("vm", "clone", "old", "new", "--cold")


class CloudHypervisor(States, NodeCase):
    driver = "cloud-hypervisor"
    saving = ["PUT /vm.pause", "PUT /vm.snapshot", "PUT /vm.resume"]
    files = ["state"]
    read = ["config.json", "state.json", "memory-ranges"]

    def loaded(self, name):
        (first, load), (after, _) = self.requests(name)[:2]
        self.assertEqual((first, after), ("PUT /vm.restore", "PUT /vm.resume"))
        self.assertEqual(load, {"source_url": "file:///machine/vmm", "prefault": False})
        answered = (self.machine(name) / "vmm" / "restored").read_text()
        return [nic["tap"] for nic in json.loads(answered)["net"]]

    def zones(self, config):
        return [(zone["id"], zone["size"], zone.get("host_numa_node")) for zone in config["memory"]["zones"]]

    def restored(self, name):
        return json.loads((self.machine(name) / "vmm" / "restored").read_text())

    def test_its_guest_sees_the_numa_nodes_of_its_cpus_and_is_bound_to_what_they_are_when_it_goes_on(self):
        """The node sees a host with two, by a tree that lies over what the kernel says of it."""
        if os.cpu_count() < 2 or not os.path.exists(NODES):
            self.skipTest("two CPUs are needed, and NUMA")
        for number in (0, 1):
            node = self.place / "nodes" / f"node{number}"
            node.mkdir(parents=True)
            (node / "cpulist").write_text(f"{number}\n")
            (node / "meminfo").write_text(f"Node {number} MemTotal: 8000000 kB\nNode {number} MemFree: 7000000 kB\n")
        mount(str(self.place / "nodes"), NODES, MS_BIND)
        self.addCleanup(hosts.libc.umount2, NODES.encode(), 2)
        self.node.stop()
        self.begin()
        self.create("m", "--cpus", "2", "--dedicated-cpus", "yes")
        half, seen = 64 * MIB, self.json("vm", "show", "m")
        self.assertEqual(seen["guest_numa"], [{"cpus": "0", "memory_bytes": half}, {"cpus": "1", "memory_bytes": half}])
        self.assertEqual(memory_binding(lambda: self.json("vm", "show", "m")), "bound by its VMM")
        config = self.requests("m")[0][1]
        self.assertEqual(self.zones(config), [("cell0", half, 0), ("cell1", half, 1)])
        self.assertEqual(config["numa"], [{"guest_numa_id": n, "cpus": [n], "memory_zones": [f"cell{n}"]} for n in (0, 1)])
        self.guest("m", "remember", "one")
        self.ok("vm", "snapshot", "create", "m", "s", "--memory")
        self.ok("vm", "restore", "m", "s")
        self.assertEqual(self.zones(self.restored("m")), [("cell0", half, 0), ("cell1", half, 1)])
        self.assertEqual(memory_binding(lambda: self.json("vm", "show", "m")), "bound by its VMM")
        # Whoever has no CPUs of its own any more is of any node; its guest sees what it saw.
        self.ok("vm", "set", "m", "--dedicated-cpus", "no", "--restart")
        self.ok("vm", "restart", "m")
        self.assertEqual(self.requests("m")[0][1]["memory"], {"size": 2 * half})
        self.ok("vm", "restore", "m", "s")
        self.assertEqual(self.zones(self.restored("m")), [("cell0", half, None), ("cell1", half, None)])
        self.assertEqual(self.guest("m", "recall"), "one")
        self.ok("vm", "clone", "m", "twin")
        self.assertEqual((self.guest("twin", "recall"), self.json("vm", "show", "twin")["guest_numa"]), ("one", seen["guest_numa"]))

    def shared(self, folders):
        """It reads its memory: nothing is, but the state's file."""
        self.assertEqual([(place / "memory").exists() for place in folders], [False] * len(folders))


if __name__ == "__main__":
    unittest.main()
