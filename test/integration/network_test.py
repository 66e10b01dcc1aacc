"""Machines in networks: they meet by name, are published, filtered and kept apart, and notice no restart of the node."""
import contextlib
import json
import os
import pathlib
import shutil
import socket
import struct
import tempfile
import threading
import unittest
import urllib.request

import hosts
from foreign import until
from machines import kernel_flags, machines_of, root_archive, why_not
from node import Node
from node_case import NodeCase
from ports import free_port

PLAIN_ONLY = "the time goes to guests that are emulated, and to QEMU"


def setUpModule():
    """This process, which runs this file alone, is a host of its own from here on."""
    global folder, image
    reason = why_not()
    if reason:
        raise unittest.SkipTest(reason)
    hosts.need_hosts()
    if not os.path.exists("/dev/net/tun"):
        raise unittest.SkipTest("there is no /dev/net/tun")
    if hosts.libc.unshare(hosts.CLONE_NEWNET) != 0:
        raise unittest.SkipTest("network namespaces are refused")
    hosts.tool("ip", "link", "set", "lo", "up")
    folder = tempfile.TemporaryDirectory(prefix="blixard-network-")
    image = pathlib.Path(folder.name) / "root.tar.gz"
    image.write_bytes(root_archive())


def tearDownModule():
    folder.cleanup()


def resolve(name, server, patience=30):
    """The IPv4 address of a name, as that server says; None: there is no such name."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    query = struct.pack(">HHHHHH", 7, 0x100, 1, 0, 0, 0) + labels + b"\0\0\1\0\1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(patience)
        asking.sendto(query, (server, 53))
        answer = asking.recv(512)
    return socket.inet_ntoa(answer[-4:]) if struct.unpack_from(">H", answer, 6)[0] else None


def answer_all(asked, address):
    """A resolver of elsewhere: whatever it is asked for has that address."""
    while True:
        query, asker = asked.recvfrom(512)
        if not query:
            return
        asked.sendto(query[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + query[12:] + b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" +
                     socket.inet_aton(address), asker)


class Networks(NodeCase):
    """One story, as each machine takes its time to boot."""

    @classmethod
    def setUpClass(cls):
        cls.node = Node()
        cls.addClassCleanup(shutil.rmtree, cls.node.folder, ignore_errors=True)
        cls.addClassCleanup(lambda: cls.node.stop())
        cls.enterClassContext(machines_of(cls.node.folder))
        cls.ok("image", "import", "small", "--root", image, *kernel_flags())

    def create(self, name, *flags):
        self.ok("vm", "create", name, "--image", "small", "--memory", "128MiB", "--disk", "64MiB", *flags)

    def show(self, *words):
        return json.loads(self.ok(*words, "--output", "json"))

    def shell(self, name, script):
        return self.ok("vm", "exec", name, "--", "sh", "-c", script)

    def cannot(self, name, script):
        """It is let go nowhere: what would be answered within some milliseconds is not within three seconds."""
        self.assertNotEqual(self.run_cli("vm", "exec", name, "--", "sh", "-c", script).returncode, 0, script)

    def published(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=60) as answer:
            return answer.read()

    def test_machines_of_a_network(self):
        self.port = free_port()
        self.refusals_of_networks()
        self.addresses_end()
        self.create("web", "--network", "back", "--publish", f"127.0.0.1:{self.port}:80")
        self.shell("web", "httpd -p 80 -h /srv")
        self.create("db", "--network", "back,address=10.64.0.10,group=db")
        self.addresses_and_names()
        self.groups()
        self.ok("vm", "create", "far", "--image", "small", "--memory", "128MiB", "--disk", "64MiB",
                "--network", "other")
        self.other_networks_are_far()
        self.networks_change()
        self.a_clone_is_somebody_else()
        self.nobody_notices_a_restart()
        self.all_goes()

    def refusals_of_networks(self):
        self.ok("network", "create", "back")
        self.assertIn("already", self.refused("network", "create", "back"))
        self.ok("network", "create", "other", "--subnet", "192.168.77.0/28", "--mode", "closed")
        self.assertIn("another network's", self.refused("network", "create", "more", "--subnet", "192.168.0.0/16"))
        self.assertIn("beyond the prefix", self.refused("network", "create", "more", "--subnet", "10.0.0.1/24"))
        self.assertEqual([network["subnet"] for network in self.show("network", "list")["networks"]],
                         ["10.64.0.0/24", "192.168.77.0/28"])
        self.ok("security-group", "create", "db")
        self.ok("security-group", "allow", "db", "icmp", "--from", "group:db")
        for flag, said in (("nowhere", "there is no network"), ("back,address=10.64.0.1", "gateway"),
                           ("back,address=10.65.0.1", "none of network"), ("back,group=nobody", "no security group"),
                           ("back,mac=01:00:5e:00:00:01", "no MAC"), ("back,colour=red", "none of address=")):
            self.assertIn(said, self.refused("vm", "create", "x", "--image", "small", "--network", flag))

    def addresses_end(self):
        """Goal: the last address is given, and who comes after it is told so and leaves nothing behind."""
        self.ok("network", "create", "tiny", "--subnet", "10.98.0.0/29")  # six, one of them the node's
        for i in range(5):
            self.ok("vm", "create", f"t{i}", "--image", "small", "--network", "tiny", "--strategy", "Halted")
        self.assertIn("network tiny has no address left: delete machines, or make another network",
                      self.refused("vm", "create", "t5", "--image", "small", "--network", "tiny", "--strategy", "Halted"))
        self.assertNotIn("t5", self.ok("vm", "list"))
        self.ok("vm", "delete", "t2")
        self.ok("vm", "create", "t5", "--image", "small", "--network", "tiny", "--strategy", "Halted")
        self.ok("vm", "delete", *(f"t{i}" for i in (0, 1, 3, 4, 5)))
        self.ok("network", "delete", "tiny")

    def addresses_and_names(self):
        self.assertEqual(self.show("vm", "show", "web")["addresses"], ["10.64.0.2"])
        self.assertIn("another machine's",
                      self.refused("vm", "create", "x", "--image", "small", "--network", "back,address=10.64.0.2"))
        leases = {lease["machine"]: lease["address"] for lease in self.show("network", "show", "back")["leases"]}
        self.assertEqual(leases, {"web": "10.64.0.2", "db": "10.64.0.10"})
        self.assertIn("hello", self.shell("db", "wget -qO- http://web.default.vm.internal/"))
        self.assertIn("hello", self.shell("db", "wget -qO- http://web/"))
        self.assertEqual(resolve("db.back.default.vm.internal", "10.64.0.1"), "10.64.0.10")
        self.assertEqual(resolve("nobody.default.vm.internal", "10.64.0.1"), None)
        self.assertIn(b"hello", self.published())

    def groups(self):
        """db answers nobody but those of its group; what it asks for itself is answered."""
        self.cannot("web", "ping -c 1 -W 3 db")
        self.ok("security-group", "allow", "db", "icmp")
        self.shell("web", "ping -c 3 -W 30 db")
        self.cannot("web", "nc -w 3 db 81 </dev/null")
        self.assertIn("db", self.refused("security-group", "delete", "db"))
        self.a_connection_ends_with_its_rule()

    def a_connection_ends_with_its_rule(self):
        """What web goes on to say does not reach db any more."""
        grows = "n=$(busybox wc -c < /root/heard); for i in $(seq 50); do test $(busybox wc -c < /root/heard) != $n && exit 0; sleep 0.1; done; exit 1"
        self.ok("security-group", "allow", "db", "tcp/82")
        self.shell("db", "((sleep 600 | nc -l -p 82 > /root/heard) &) < /dev/null > /dev/null 2>&1")
        self.shell("web", "(((while true; do echo tick; sleep 0.1; done) | nc db 82) &) < /dev/null > /dev/null 2>&1")
        self.shell("db", f"until test -s /root/heard; do sleep 0.1; done; {grows}")
        self.ok("security-group", "revoke", "db", "tcp/82")
        self.cannot("web", "nc -w 3 db 82 </dev/null")
        self.cannot("db", grows)

    def resolves_to(self, name, address):
        """Once the change has come to the bridge."""
        def does():
            with contextlib.suppress(TimeoutError):  # a question that came while the server was begun anew is lost
                return resolve(name, "10.64.0.1", 3) == address
        until(does)

    def networks_change(self):
        """While machines are in them, as far as these need not be told."""
        for flags in (("--subnet", "10.66.0.0/24"), ("--gateway", "10.64.0.9"), ("--mtu", "1400")):
            said = self.refused("network", "update", "back", *flags)
            self.assertIn("used by machines db, web", said)
        self.assertIn("--mode closed", self.refused("network", "update", "back"))
        self.assertIn("there is no network", self.refused("network", "update", "nowhere", "--mode", "nat"))
        self.assertIn("no address of a resolver", self.refused("network", "update", "back", "--dns", "127.0.0.1"))
        self.assertIn("one line", self.refused("network", "update", "back", "--description", "a\nb"))
        self.ok("network", "create", "empty", "--description", "none yet")
        self.ok("network", "update", "empty", "--subnet", "10.66.0.0/24", "--mtu", "1400")
        self.assertIn("another network's", self.refused("network", "update", "empty", "--subnet", "10.64.0.0/16"))
        empty = self.show("network", "show", "empty")
        self.assertEqual((empty["subnet"], empty["gateway"], empty["mtu"], empty["description"]),
                         ("10.66.0.0/24", "10.66.0.1", 1400, "none yet"))
        self.ok("network", "delete", "empty")

        hosts.tool("ip", "address", "add", "192.0.2.53/32", "dev", "lo")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            asked.bind(("192.0.2.53", 53))
            resolver = threading.Thread(target=answer_all, args=(asked, "203.0.113.7"), daemon=True)
            resolver.start()
            self.ok("network", "update", "back", "--dns", "192.0.2.53", "--peering", "yes", "--description", "of the shop")
            self.resolves_to("example.org", "203.0.113.7")
            back = self.show("network", "show", "back")
            self.assertEqual((back["dns"], back["peering"], back["description"]), (["192.0.2.53"], True, "of the shop"))
            self.ok("network", "update", "back", "--mode", "closed")
            self.resolves_to("example.org", None)
            self.assertEqual(resolve("db.default.vm.internal", "10.64.0.1"), "10.64.0.10")
            self.ok("network", "update", "back", "--mode", "nat")
            self.resolves_to("example.org", "203.0.113.7")
            self.ok("network", "update", "back", "--dns", "", "--peering", "no")
            self.assertEqual(self.show("network", "show", "back")["dns"], [])
            last.sendto(b"", ("192.0.2.53", 53))
            resolver.join()

    def other_networks_are_far(self):
        self.cannot("far", "ping -c 1 -W 3 10.64.0.2")
        self.cannot("web", "ping -c 1 -W 3 192.168.77.2")
        self.shell("far", "ping -c 1 -W 30 192.168.77.1")

    def a_clone_is_somebody_else(self):
        self.ok("vm", "clone", "far", "farther")
        self.assertEqual(self.show("vm", "show", "farther")["addresses"], ["192.168.77.3"])
        self.shell("farther", "ip address show dev eth0 | grep -q 192.168.77.3/28 && ping -c 3 -W 30 far")

    def nobody_notices_a_restart(self):
        """The node is killed; machines go on to talk, by name too once it is back."""
        web = self.show("vm", "show", "web")
        self.node.kill()
        self.assertIn(b"hello", self.published())
        type(self).node = Node(self.node.folder)
        self.ok("vm", "wait", "web", "--timeout", "120s")
        self.ok("vm", "wait", "db", "--timeout", "120s")
        self.assertEqual(self.show("vm", "show", "web")["vmm_pid"], web["vmm_pid"])
        self.assertIn("hello", self.shell("db", "wget -qO- http://web.default.vm.internal/"))
        self.assertIn(b"hello", self.published())

    def all_goes(self):
        self.assertIn("far", self.refused("network", "delete", "other"))
        for name in ("web", "db", "far", "farther"):
            self.ok("vm", "delete", name)
        for name in ("back", "other"):
            self.ok("network", "delete", name)
        self.ok("security-group", "delete", "db")
        self.assertEqual(self.show("network", "list")["networks"], [])
        for _ in range(50):  # links go after the row; each look takes its time
            if "bx" not in hosts.tool("ip", "-o", "link"):
                break
        self.assertNotIn("bx", hosts.tool("ip", "-o", "link"))
        self.assertNotIn(": bt", hosts.tool("ip", "-o", "link"))


if __name__ == "__main__":
    unittest.main()
