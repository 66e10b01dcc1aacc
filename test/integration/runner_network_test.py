"""Machines with runners in a network of ours, by taps of the names that they know, and with folders of the host."""
import json
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
import unittest

import hosts
import machines
import runners
from node import Node
from node_case import NodeCase
from ports import free_port

PLAIN_ONLY = "the time goes to guests that are emulated, and to QEMU"


def setUpModule():
    """This process, which runs this file alone, is a host of its own from here on."""
    reason = machines.why_not()
    if reason:
        raise unittest.SkipTest(reason)
    hosts.need_hosts()
    if not os.path.exists("/dev/net/tun"):
        raise unittest.SkipTest("there is no /dev/net/tun")
    if hosts.libc.unshare(hosts.CLONE_NEWNET) != 0:
        raise unittest.SkipTest("network namespaces are refused")
    hosts.tool("ip", "link", "set", "lo", "up")
    show_own_links()


def show_own_links():
    """/sys has the links of the namespace that it was mounted in."""
    with tempfile.TemporaryDirectory() as groups:
        if hosts.libc.unshare(0x20000) != 0:  # CLONE_NEWNS
            raise unittest.SkipTest("mount namespaces are refused")
        hosts.tool("mount", "--make-rprivate", "/")
        hosts.tool("mount", "--rbind", "/sys/fs/cgroup", groups)
        hosts.tool("mount", "-t", "sysfs", "sysfs", "/sys")
        hosts.tool("mount", "--rbind", groups, "/sys/fs/cgroup")
        hosts.tool("umount", "-l", groups)


def link(name):
    done = subprocess.run(["ip", "-d", "-j", "link", "show", name], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return json.loads(done.stdout)[0] if done.returncode == 0 else None


class Network(NodeCase):
    def until_up(self, name):
        def is_up():
            machine = json.loads(self.ok("vm", "show", name, "--output", "json"))
            self.assertEqual(machine["restarts"], 0, machine.get("reason"))
            return f"guest {name} is up" in self.ok("vm", "logs", name)
        runners.until(f"{name} is up", is_up)

    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="blixard-runner-")))
        self.folder.chmod(0o755)
        self.store, self.shared = self.folder / "store", self.folder / "shared"
        self.store.mkdir()
        self.shared.mkdir()
        (self.shared / "said").write_text("a folder of the host\n")
        self.kernel, self.initrd = runners.guest(self.store / "guest")
        type(self).node = Node(arguments=["--machine-runner-folders", str(self.store), "--machine-share-folders", str(self.shared),
                                     "--machine-macvtap-links", "out0,out9"])
        self.addCleanup(self.node.stop)
        self.enterContext(machines.machines_of(self.node.folder))

    def test_a_tap_is_opened_by_its_name_and_leads_into_the_network(self):
        mac = "02:00:00:00:0a:01"
        port = free_port()
        runner = runners.make(self.store / "web", self.kernel, self.initrd, "web", taps=["vm-web"], mac=mac, address="10.99.0.7/24")
        (runner / "share/microvm/tap-flags").chmod(0o644)
        self.ok("network", "create", "lan", "--subnet", "10.99.0.0/24")
        self.ok("vm", "create", "web", "--runner", runner, "--network", f"lan,address=10.99.0.7,mac={mac}",
                "--publish", f"{port}:80", "--memory", "256MiB")
        self.until_up("web")
        tap = link("vm-web")
        self.assertEqual(tap["altnames"], ["vm-web"])
        self.assertNotEqual(tap["ifname"], "vm-web")
        self.assertNotIn("NO-CARRIER", tap["flags"])

        def says_hello():
            try:
                with socket.create_connection(("10.99.0.7", 80), timeout=5) as peer:
                    return peer.recv(64) == b"hello\n"
            except OSError:
                return False

        runners.until("the node reaches it", says_hello)
        self.ok("vm", "stop", "web")
        self.assertIn("guest web goes down", self.ok("vm", "logs", "web"))
        self.assertIsNone(link("vm-web"), "it has that name no more")

        # With a name that is taken it does not start, and says why.
        subprocess.run(["ip", "link", "add", "vm-web", "type", "bridge"], check=True)
        self.addCleanup(subprocess.run, ["ip", "link", "del", "vm-web"])
        self.ok("vm", "start", "web", "--no-wait")
        runners.until("it says why", lambda: "another network link of this node is called vm-web" in
                      (json.loads(self.ok("vm", "show", "web", "--output", "json")).get("reason") or ""))
        self.ok("vm", "delete", "web")

    def test_a_macvtap_is_in_the_network_of_a_link_that_the_node_gives(self):
        subprocess.run(["ip", "link", "add", "out0", "type", "veth", "peer", "name", "far0"], check=True)
        self.addCleanup(subprocess.run, ["ip", "link", "del", "out0"])
        for words in (["link", "set", "out0", "up"], ["link", "set", "far0", "up"], ["addr", "add", "10.98.0.1/24", "dev", "far0"]):
            subprocess.run(["ip", *words], check=True)
        mac = "02:00:00:00:0b:01"

        def make(name, link, mode="bridge"):
            return runners.make(self.store / name, self.kernel, self.initrd, name, macvtaps=[("vm-mac", mac, link, mode)], mac=mac,
                                address="10.98.0.7/24")

        self.assertIn("machine_macvtap_links", self.run_cli("vm", "create", "m", "--runner", make("other", "far0")).stderr)
        self.assertIn("no NAME MAC LINK MODE", self.run_cli("vm", "create", "m", "--runner", make("odd", "out0", "source")).stderr)
        self.ok("vm", "create", "outside", "--runner", make("outside", "out0"), "--memory", "256MiB")
        self.until_up("outside")
        made = link("vm-mac")
        self.assertEqual((made["linkinfo"]["info_kind"], made["linkinfo"]["info_data"]["mode"], made["address"]), ("macvtap", "bridge", mac))

        def says_hello():
            try:
                with socket.create_connection(("10.98.0.7", 80), timeout=5) as peer:
                    return peer.recv(64) == b"hello\n"
            except OSError:
                return False

        runners.until("it is reached over the link", says_hello)

        self.ok("vm", "stop", "outside")
        self.assertIsNone(link("vm-mac"), "it goes with its VMM")
        self.ok("vm", "delete", "outside")
        self.ok("vm", "create", "nowhere", "--runner", make("nowhere", "out9"), "--no-wait")
        runners.until("it says why", lambda: "no link out9" in
                      (json.loads(self.ok("vm", "show", "nowhere", "--output", "json")).get("reason") or ""))
        self.ok("vm", "delete", "nowhere")

    def test_a_folder_of_the_host_is_served_for_it(self):
        if not os.path.exists("/usr/lib/qemu/virtiofsd") and shutil.which("virtiofsd") is None:
            self.skipTest("there is no virtiofsd")
        runner = runners.make(self.store / "files", self.kernel, self.initrd, "files", shares=[("data", "files-data.sock", self.shared)])
        self.ok("vm", "create", "files", "--runner", runner, "--memory", "256MiB")
        self.until_up("files")
        self.assertIn("a folder of the host", self.ok("vm", "logs", "files"))
        served = [path for path in pathlib.Path("/proc").glob("[0-9]*/cmdline") if b"virtiofsd" in read(path) and
                  str(self.node.folder).encode() in read(path)]
        self.assertNotEqual(served, [])
        self.ok("vm", "delete", "files")
        runners.until("its virtiofsd has ended", lambda: not any(str(self.node.folder).encode() in read(path) for path in served))


def read(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""


if __name__ == "__main__":
    unittest.main()
