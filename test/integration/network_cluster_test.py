"""A network over three nodes: its machines meet by name wherever they are, others do not, and a node that is gone is left out."""
import json
import os
import pathlib
import tempfile
import time
import unittest

import hosts
from cluster import Cluster
from machines import kernel_flags, machines_of, root_archive, why_not

PLAIN_ONLY = "the time goes to guests that are emulated, and to QEMU"


class Nodes(unittest.TestCase):
    """One story, as each machine takes its time to boot."""

    @classmethod
    def setUpClass(cls):
        reason = why_not()
        if reason:
            raise unittest.SkipTest(reason)
        if not os.path.exists("/dev/net/tun"):
            raise unittest.SkipTest("there is no /dev/net/tun")
        hosts.need_hosts()
        cls.folder = cls.enterClassContext(tempfile.TemporaryDirectory(prefix="blixard-overlay-"))
        cls.cluster = Cluster(3, arguments=("--traffic-every-ms", "500"))
        cls.addClassCleanup(cls.cluster.close)
        cls.cluster.form()
        cls.enterClassContext(machines_of(*(server.folder for server in cls.cluster.servers)))
        cls.one, cls.two, cls.three = cls.cluster.servers

    def create(self, name, server, *flags):
        self.one.cli("vm", "create", name, "--image", "small", "--memory", "128MiB", "--disk", "64MiB", "--node", server.name, *flags)

    def shell(self, name, script):
        return self.one.cli("vm", "exec", name, "--", "sh", "-c", script)

    def cannot(self, name, script):
        """It is let go nowhere: what would be answered within some milliseconds is not within three seconds."""
        self.assertNotEqual(self.one.cli("vm", "exec", name, "--", "sh", "-c", script, check=False).returncode, 0, script)

    def show(self, *words):
        return json.loads(self.one.cli(*words, "--output", "json"))

    def table(self, server, vni):
        """Where the tunnel of a network sends what, as the kernel says: {(MAC, address of a node)}."""
        said = json.loads(server.host.run("bridge", "-j", "fdb", "show", "dev", f"vx{vni:06x}"))
        return {(entry["mac"], entry["dst"]) for entry in said if "dst" in entry}

    def flooded(self, server, vni):
        return {node for mac, node in self.table(server, vni) if mac == "00:00:00:00:00:00"}

    def test_a_network_over_nodes(self):
        root = pathlib.Path(self.folder) / "root.tar.gz"
        root.write_bytes(root_archive())
        self.one.cli("image", "import", "small", "--root", root, *kernel_flags())
        self.one.cli("network", "create", "back")
        self.create("web", self.one, "--network", "back")
        self.create("db", self.two, "--network", "back")
        self.shell("web", "httpd -p 80 -h /srv")
        self.network = self.show("network", "show", "back")
        self.assertIn("nothing learnt yet", self.one.cli("vm", "show", "web"))
        self.meet()
        self.they_are_learnt()
        self.others_are_apart()
        self.names_follow()
        self.addresses_move()
        self.the_dead_are_left_out()

    def meet(self):
        leases = {lease["machine"]: lease for lease in self.network["leases"]}
        self.assertEqual({name: lease["node"] for name, lease in leases.items()}, {"web": self.one.name, "db": self.two.name})
        self.assertIn("hello", self.shell("db", "wget -qO- http://web.default.vm.internal/"))
        self.assertIn("hello", self.shell("db", "wget -qO- http://web/"))
        self.shell("web", "ping -c 3 -W 30 db")
        there = (leases["db"]["mac"], self.two.host.address)
        self.assertIn(there, self.table(self.one, self.network["vni"]))
        self.assertEqual(self.flooded(self.one, self.network["vni"]), {self.two.host.address, self.three.host.address})

    def accesses(self, server, name):
        """Whom it talks with, by name, once it is said that it does so much."""
        said, index = server.look(f"/v1/machines/{name}")
        end = time.monotonic() + 60
        while not any(peer["bytes_per_second"] > 1000 for peer in said["accesses"]) and time.monotonic() < end:
            said, index = server.look(f"/v1/machines/{name}", index, 30000)
        return {peer["name"]: peer for peer in said["accesses"]}

    def they_are_learnt(self):
        """Who talks with whom is known on each node, counts where one is placed, and is in the metrics."""
        self.shell("web", "ping -s 1400 db >/dev/null 2>&1 &")
        for server in (self.two, self.three):
            peer = self.accesses(server, "web")["db"]
            self.assertEqual((peer["kind"], peer["node"], peer["local"]), ("machine", self.two.name, False))
        self.assertIn("web", self.accesses(self.one, "db"))
        self.one.cli("vm", "set", "web", "--constraint", "none")  # it was made for this very node
        told = json.loads(self.three.cli("placement", "explain", "web", "--output", "json"))
        self.assertEqual(told["accesses"][0]["name"], "db")
        parts = {node["name"]: next(part["score"] for part in node["parts"] if part["name"] == "traffic") for node in told["nodes"]}
        self.assertGreater(parts.pop(self.two.name), 0)
        self.assertEqual(set(parts.values()), {0})
        self.assertRegex(self.one.get("/metrics"), r'blixard_machine_traffic_bytes_per_second\{project="default",machine="web",peers="elsewhere"\} [1-9]')

    def others_are_apart(self):
        """A machine of another project: not by address or name, nor by way of the node that both are on."""
        image = self.one.get("/v1/images/small")
        made = {key: image[key] for key in ("kernel", "kernel_version", "initrd", "root", "root_format", "cmdline", "size_bytes") if key in image}
        self.one.call("PUT", "/v1/images/small?project=other", made)
        self.two.call("POST", "/v1/networks?project=other", {"name": "back"})
        far = {"name": "far", "image": "small", "memory_bytes": 128 << 20, "disk_bytes": 64 << 20, "networks": [{"network": "back"}]}
        begun = self.two.call("POST", f"/v1/machines?project=other&node={self.two.name}", far)
        ended = self.two.call("GET", f"/v1/operations/{begun['operation']}/wait?timeout=120s", timeout=130)
        self.assertEqual(ended["state"], "succeeded", ended)
        far = self.two.get("/v1/machines/far?project=other")["addresses"][0]
        self.two.host.run("busybox", "ping", "-c", "3", "-W", "30", far)
        for name in ("web", "db"):
            self.cannot(name, f"ping -c 1 -W 3 {far}")
            self.cannot(name, "nslookup far.other.vm.internal")

    def names_follow(self):
        self.one.cli("vm", "rename", "web", "site")
        self.assertIn("hello", self.shell("db", "wget -qO- http://site.default.vm.internal/"))
        self.cannot("db", "nslookup web.default.vm.internal")

    def addresses_move(self):
        """To a node that had nothing of the network."""
        before = self.show("vm", "show", "site")["addresses"]
        self.one.cli("vm", "migrate", "site", "--to", self.three.name, "--cold")
        self.one.cli("vm", "wait", "site", "--timeout", "100s")
        site = self.show("vm", "show", "site")
        self.assertEqual((site["node"], site["addresses"]), (self.three.name, before))
        self.shell("site", "httpd -p 80 -h /srv")
        self.assertIn("hello", self.shell("db", "wget -qO- http://site/"))
        self.shell("site", "ping -c 3 -W 30 db")
        there = (site["interfaces"][0]["mac"], self.three.host.address)
        self.two.until(lambda _: there in self.table(self.two, self.network["vni"]), "the machine's new node in the table")

    def the_dead_are_left_out(self):
        """What is for everybody goes to nodes that live; one that is back gets it again."""
        vni = self.network["vni"]
        self.one.kill()
        self.two.until(lambda _: self.flooded(self.two, vni) == {self.three.host.address}, "a tunnel without the dead", 120)
        self.assertIn("hello", self.two.cli("vm", "exec", "db", "--", "sh", "-c", "wget -qO- http://site/"))
        self.one.start()
        self.one.wait_ready()
        self.two.until(lambda _: self.flooded(self.two, vni) == {self.one.host.address, self.three.host.address}, "all again", 120)


if __name__ == "__main__":
    unittest.main()
