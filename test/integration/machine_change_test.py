"""A machine that becomes another one while it runs: its name, its size, its settings."""
import json
import os
import signal
import subprocess
import time
import unittest

from machines import kernel_flags, machines_of, root_archive, why_not
from node import BUILD, Node
from node_case import NodeCase
from ports import free_port

PLAIN_ONLY = "the time goes to guests that are emulated, and to QEMU"

MIB = 1 << 20


@unittest.skipIf(why_not(), why_not())
class Change(NodeCase):
    @classmethod
    def setUpClass(cls):
        cls.node = Node()
        cls.addClassCleanup(lambda: cls.node.stop())
        cls.enterClassContext(machines_of(cls.node.folder))
        archive = cls.node.folder / "root.tar.gz"
        archive.write_bytes(root_archive())
        cls.ok("image", "import", "small", "--root", archive, *kernel_flags())

    def show(self, name):
        return json.loads(self.ok("vm", "show", name, "--output", "json"))

    def again(self, how=signal.SIGKILL):
        """The daemon is gone at once, or ends in order, and comes back."""
        folder, owned = self.node.folder, self.node.owned
        self.node.owned = None
        self.node.process.send_signal(how)
        self.node.process.wait(timeout=60)
        type(self).node = Node(folder)
        self.node.owned = owned

    def disk_mib(self, name):
        lines = self.ok("vm", "exec", name, "--", "df", "-m", "/").splitlines()
        return int(lines[-1].split()[1])

    def free_mib(self, name):
        return self.memory_mib(name, "MemFree")

    def memory_mib(self, name, what):
        lines = self.ok("vm", "exec", name, "--", "cat", "/proc/meminfo").splitlines()
        return int([line for line in lines if line.startswith(what + ":")][0].split()[1]) >> 10

    def until(self, what, *arguments):
        """The balloon is the guest's to fill: it is looked at until it has."""
        for _ in range(60):
            if what(*arguments):
                return
            self.ok("vm", "exec", arguments[0], "--", "sleep", "0.5")
        self.fail(f"{what} never came")

    def test_a_machine_that_runs_becomes_another(self):
        one, two = free_port(), free_port()
        self.ok("volume", "create", "data", "--size", "16MiB")
        self.ok("vm", "create", "web", "--image", "small", "--disk", "64MiB", "--memory", "256MiB",
                "--publish", f"127.0.0.1:{one}:80", "--volume", "data:/data")
        self.ok("vm", "create", "other", "--image", "small", "--strategy", "Halted", "--after", "web",
                "--publish", f"127.0.0.1:{two}:80")
        pid = self.show("web")["vmm_pid"]

        # what is wrong is refused, and nothing has changed by it
        self.assertIn("say what", self.refused("vm", "resize", "web"))
        self.assertIn("cannot become smaller", self.refused("vm", "resize", "web", "--disk", "32MiB"))
        self.assertIn("--memory is", self.refused("vm", "resize", "web", "--memory", "1"))
        self.assertIn("cpus", self.refused("vm", "resize", "web", "--cpus", "100000"))
        self.assertIn("no machine", self.refused("vm", "resize", "nobody", "--cpus", "2"))
        self.assertIn("other already", self.refused("vm", "rename", "web", "other"))
        self.assertIn("is no name", self.refused("vm", "rename", "web", "We b"))
        self.assertIn("not one of: Always", self.refused("vm", "set", "web", "--strategy", "Sometimes"))
        self.assertIn("published by machine other",
                      self.refused("vm", "set", "web", "--publish", f"127.0.0.1:{two}:80"))
        self.assertIn("say what", self.refused("vm", "set", "web"))

        # the disk grows, and the file system in it
        before = self.disk_mib("web")
        self.assertNotIn("next start", self.ok("vm", "resize", "web", "--disk", "160MiB"))
        self.assertGreater(self.disk_mib("web"), before + 64)

        # less memory at once, more with the next start
        whole, total = self.free_mib("web"), self.memory_mib("web", "MemTotal")
        self.ok("vm", "resize", "web", "--memory", "160MiB")
        self.until(lambda name: self.free_mib(name) < whole - 64, "web")
        said = self.ok("vm", "resize", "web", "--cpus", "2", "--memory", "320MiB")
        self.assertIn("takes effect at the next start: cpus, memory (--restart does it now)", said)
        self.until(lambda name: self.free_mib(name) >= whole - 16, "web")
        self.assertEqual(self.show("web")["at_next_start"], ["cpus", "memory_bytes"])

        # settings: some at once, a port of QEMU's with the next start, and the old one stays taken until then
        self.assertNotIn("strategy", self.ok("vm", "set", "web", "--strategy", "Always", "--health", "agent"))
        self.assertIn("bandwidth fast", self.refused("vm", "set", "web", "--disk-bandwidth", "fast"))
        self.assertIn("next start: cpus, memory, ports, disk iops, disk bandwidth",
                      self.ok("vm", "set", "web", "--publish", "none", "--disk-iops", "5000", "--disk-bandwidth", "200MiB/s"))
        self.assertIn("published by machine web",
                      self.refused("vm", "set", "other", "--publish", f"127.0.0.1:{one}:80"))

        # another name, for all that names it; the machine does not notice
        self.assertIn("is called shop now", self.ok("vm", "rename", "web", "shop"))
        self.assertIn("no machine web", self.refused("vm", "show", "web"))
        shop = self.show("shop")
        self.assertEqual((shop["state"], shop["vmm_pid"], shop["hostname"], shop["strategy"]),
                         ("running", pid, "shop", "Always"))
        self.assertEqual(self.show("other")["after"], ["shop"])
        self.assertEqual(json.loads(self.ok("volume", "show", "data", "--output", "json"))["machine"], "shop")
        self.assertIn("hello", self.ok("vm", "exec", "shop", "--", "cat", "/srv/index.html"))

        # a daemon that comes back knows what the VMM began with
        self.again()
        self.ok("vm", "wait", "shop", "--for", "running")
        self.assertEqual(self.show("shop")["at_next_start"], ["cpus", "memory_bytes", "publish", "disk_iops", "disk_bandwidth"])
        self.assertEqual(self.show("shop")["vmm_pid"], pid)

        # and the next start takes it all
        self.assertNotIn("next start", self.ok("vm", "resize", "shop", "--cpus", "2", "--restart"))
        shop = self.show("shop")
        self.assertNotIn("at_next_start", shop)
        self.assertEqual((shop["cpus"], shop["memory_bytes"], shop["disk_bytes"]), (2, 320 * MIB, 160 * MIB))
        self.assertEqual((shop["disk_iops"], shop["disk_bandwidth"]), (5000, 200 * MIB))
        self.assertIn("limits reading and writing together", self.refused("vm", "set", "shop", "--disk-write-bandwidth", "5MiB/s"))
        self.assertIn("next start: disk iops, disk bandwidth, disk reads, disk bandwidth of writes",
                      self.ok("vm", "set", "shop", "--disk-iops", "0", "--disk-bandwidth", "0", "--disk-read-iops", "4000",
                              "--disk-write-bandwidth", "5MiB/s"))
        self.ok("vm", "restart", "shop")
        self.assertEqual((self.show("shop")["disk_read_iops"], self.show("shop")["disk_write_bandwidth"]), (4000, 5 * MIB))
        begun = time.monotonic()
        self.ok("vm", "exec", "shop", "--", "sh", "-c", "dd if=/dev/zero of=/root/rate bs=1M count=24; sync")
        self.assertGreater(time.monotonic() - begun, 3)  # 24 MiB at 5 MiB/s
        self.assertNotIn("the rate of its disk", self.node.log.read_text())  # the VMM has taken it
        self.assertGreater(self.memory_mib("shop", "MemTotal"), total + 48)
        self.assertGreater(self.disk_mib("shop"), before + 64)
        self.assertEqual(self.ok("vm", "exec", "shop", "--", "uname", "-n").strip(), "shop")
        self.assertIn("/data", self.ok("vm", "exec", "shop", "--", "mount"))

        # what it uses
        used = json.loads(self.ok("vm", "top", "--output", "json"))["machines"]
        self.assertEqual([one["name"] for one in used], ["other", "shop"])
        self.assertNotIn("cpu_percent", used[0])
        for figure in ("cpu_percent", "resident_bytes", "written_bytes_per_second", "received_bytes_per_second"):
            self.assertIn(figure, used[1])
        self.assertIn("RECEIVED/S", self.ok("vm", "top", "--once", "--node", self.show("shop")["node"]))

        # a daemon ends although a VMM does not answer what it was asked
        pid = self.show("shop")["vmm_pid"]
        os.kill(pid, signal.SIGSTOP)
        asking = subprocess.Popen([BUILD / "blixard", "vm", "resize", "shop", "--memory", "256MiB"], env=self.node.env,
                                  stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(600):
            if self.show("shop")["memory_bytes"] == 256 * MIB:
                break
        self.again(signal.SIGTERM)
        self.assertNotEqual(asking.wait(timeout=60), 0)
        os.kill(pid, signal.SIGCONT)
        self.ok("vm", "wait", "shop", "--for", "running")
        self.assertEqual(self.show("shop")["vmm_pid"], pid)

        # one that is stopped: its next start makes it so
        self.ok("vm", "resize", "other", "--disk", "9000MiB", "--memory", "96MiB")
        self.assertEqual(self.show("other")["disk_bytes"], 9000 * MIB)
        self.ok("vm", "delete", "other")
        self.ok("vm", "delete", "shop")
        self.assertEqual(json.loads(self.ok("volume", "show", "data", "--output", "json")).get("machine"), None)
        self.assertEqual([p.name for p in (self.node.folder / "machines").iterdir() if len(p.name) == 16], [])


if __name__ == "__main__":
    unittest.main()
