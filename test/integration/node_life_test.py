"""What nodes are (what they have, labels, taints, pools, cordons), and drains."""
import json
import pathlib
import tempfile
import unittest

from cluster import Cluster
from machines import BLANK, kernel_flags, machines_of, root_archive, why_not
from node import Refused

PLAIN_ONLY = "the time goes to guests that are emulated, and to QEMU"


class NodeDuty(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster(2, here=True, arguments=["--region", "north", "--zone", "z1"])
        cls.addClassCleanup(cls.cluster.close)
        cls.cluster.form(servers=1)

    def node(self, server, name):
        return json.loads(server.cli("node", "show", name, "--output", "json"))

    def refused(self, *words):
        done = self.cluster[0].cli(*words, check=False)
        self.assertNotEqual(done.returncode, 0, words)
        return done.stderr

    def test_each_node_says_what_it_has_and_where_it_stands(self):
        near, far = self.cluster[0], self.cluster[1]
        view = near.until(lambda view: all(node["attributes"].get("cpus", 0) > 0 for node in view["nodes"]), "what nodes have")
        for node in view["nodes"]:
            has = node["attributes"]
            self.assertGreater(has["memory_bytes"], 1 << 20)
            self.assertGreater(has["disk_bytes"], 1 << 20)
            self.assertEqual(has["topology"], {"region": "north", "zone": "z1", "rack": ""})
            self.assertEqual(has["overcommit"]["cpu_percent"], 400)
            self.assertEqual(node["allocated"]["machines"], 0)
        near.cli("node", "label", far.name, "zone=z2")
        self.assertIn("region north, zone z2", near.cli("node", "show", far.name))
        index = near.view()[1]
        self.assertEqual(near.view()[1], index, "the state is written only when there is news")

    def test_cordons_taints_and_pools_are_seen_everywhere(self):
        near, far = self.cluster[0], self.cluster[1]
        near.cli("node", "cordon", far.name)
        far.until(lambda view: any(n["name"] == far.name and n["duty"] == "cordoned" and not n["schedulable"] for n in view["nodes"]), "cordon")
        self.assertIn("cordoned", near.cli("node", "list"))
        near.cli("node", "cordon", far.name)  # again: nothing changes
        far.cli("node", "uncordon", far.name)
        self.assertEqual(self.node(far, far.name)["duty"], "active")
        near.cli("node", "taint", far.name, "gpu=a100:NoSchedule", "noisy:PreferNoSchedule")
        near.cli("node", "taint", far.name, "gpu=h100:NoExecute", "noisy-")
        self.assertEqual(self.node(near, far.name)["taints"], [{"key": "gpu", "value": "h100", "effect": "NoExecute"}])
        near.cli("node", "taint", far.name, "gpu-")
        near.cli("node", "pool", far.name, "build")
        self.assertEqual(self.node(near, far.name)["pool"], "build")
        near.cli("node", "pool", far.name, "default")

    def test_what_makes_no_sense_is_refused(self):
        name = self.cluster[1].name
        self.assertIn("control character", self.refused("node", "label", name, "a=b\nc"))
        self.assertIn("128 bytes", self.refused("node", "label", name, "a=" + "b" * 129))
        self.assertIn("control character", self.refused("node", "taint", name, "a\nb:NoSchedule"))
        self.assertIn("1 to 63", self.refused("node", "label", name, "my key=b"))
        self.assertIn("1 to 63", self.refused("node", "taint", name, "my key:NoSchedule"))
        for cost in ("abc", "-5", "1.5", "4294967296"):
            self.assertIn("a whole number", self.refused("node", "label", name, f"cost={cost}"))
        self.assertIn("NoExecute, not", self.refused("node", "taint", name, "a:Sometimes"))
        self.assertIn("neither KEY", self.refused("node", "taint", name, "a"))
        self.assertIn("no taint", self.refused("node", "taint", name, "nothing-"))
        self.assertIn("is no name", self.refused("node", "pool", name, "a b"))
        self.assertIn("no node", self.refused("node", "cordon", "nowhere"))
        with self.assertRaises(Refused) as caught:
            for number in range(10000):
                self.cluster[0].call("PUT", f"/v1/nodes/{name}/labels/l{number}", {"value": "x"})
        self.assertIn("at most 64 labels", str(caught.exception.problem if hasattr(caught.exception, "problem") else caught.exception.args))
        with self.assertRaises(Refused):
            for number in range(40):
                self.cluster[0].call("PUT", f"/v1/nodes/{name}/taints/t{number}", {"effect": "PreferNoSchedule"})


class NodeDrain(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        reason = why_not()
        if reason:
            raise unittest.SkipTest(reason)
        cls.folder = cls.enterClassContext(tempfile.TemporaryDirectory(prefix="blixard-drain-"))
        cls.cluster = Cluster(2, here=True)
        cls.addClassCleanup(cls.cluster.close)
        cls.cluster.form(servers=1)
        cls.enterClassContext(machines_of(*(server.folder for server in cls.cluster.servers)))
        root = pathlib.Path(cls.folder) / "root.tar.gz"
        root.write_bytes(root_archive())
        cls.cluster[0].cli("image", "import", "small", "--root", root, *kernel_flags())

    def create(self, name, node, *more):
        self.cluster[0].cli("vm", "create", name, "--image", "small", "--memory", "128MiB", "--disk", "64MiB", "--node", node.name, *more)

    def machines(self):
        return {machine["name"]: machine for machine in self.cluster[0].get("/v1/machines")["machines"]}

    def duty(self, name):
        return self.cluster[0].get(f"/v1/nodes/{name}")["duty"]

    def refused(self, *words):
        done = self.cluster[0].cli(*words, check=False)
        self.assertNotEqual(done.returncode, 0, words)
        return done.stderr

    def test_a_taint_drives_away_who_does_not_tolerate_it(self):
        near, far = self.cluster[0], self.cluster[1]
        self.create("guest", far)
        self.create("hardy", far, "--toleration", "noisy=loud:NoExecute")
        near.until(lambda _: all(self.machines()[name]["state"] == "running" for name in ("guest", "hardy")), "both run")
        near.cli("node", "taint", far.name, "noisy=loud:NoExecute")
        near.until(lambda _: (self.machines()["guest"]["node"], self.machines()["guest"]["state"]) == (near.name, "running"), "who is driven away")
        self.assertEqual((self.machines()["hardy"]["node"], self.machines()["hardy"]["state"]), (far.name, "running"))
        near.cli("node", "taint", far.name, "noisy-")
        for name in ("guest", "hardy"):
            near.cli("vm", "delete", name)

    def test_more_than_move_at_once_leave_though_nothing_else_happens(self):
        near, far = self.cluster[0], self.cluster[1]
        disk = pathlib.Path(self.folder) / "blank.raw"
        disk.write_bytes(BLANK)
        near.cli("image", "import", "blank", "--disk", disk, "--no-agent")
        near.cli("vm", "create", "quiet", "--image", "blank", "--memory", "64MiB", "--disk", "16MiB", "--node", far.name, "--count", "3")
        drain = json.loads(near.cli("node", "drain", far.name, "--no-wait", "--output", "json"))["operation"]
        self.assertEqual(near.get(f"/v1/operations/{drain}/wait?timeout=60s")["state"], "succeeded")
        near.cli("node", "restore", far.name)
        for number in (1, 2, 3):
            near.cli("vm", "delete", f"quiet-{number}")

    def test_what_a_node_has_leaves_it_and_comes_back(self):
        near, far = self.cluster[0], self.cluster[1]
        self.create("lively", far)
        self.create("cold", far, "--eviction-strategy", "restart")
        self.create("asleep", far, "--strategy", "Halted")
        self.create("stuck", far, "--eviction-strategy", "none", "--strategy", "Manual")
        near.cli("vm", "start", "stuck")
        boots = near.cli("vm", "exec", "lively", "--", "cat", "/proc/sys/kernel/random/boot_id")

        self.assertIn("default/stuck has the eviction strategy none", self.refused("node", "drain", far.name))
        self.assertEqual(self.duty(far.name), "active")
        near.cli("node", "cordon", near.name)
        self.assertIn("the last one that takes work", self.refused("node", "drain", far.name, "--ignore", "stuck"))
        self.assertIn("no machine default/struck", self.refused("node", "drain", far.name, "--ignore", "struck"))
        near.cli("node", "uncordon", near.name)

        said = near.cli("node", "drain", far.name, "--ignore", "stuck")
        self.assertIn("is drained", said)
        self.assertEqual({name: machine["node"] for name, machine in self.machines().items()},
                         {"lively": near.name, "cold": near.name, "asleep": near.name, "stuck": far.name})
        near.until(lambda _: self.machines()["lively"]["state"] == "running", "the machine that moved while it ran")
        self.assertEqual(near.cli("vm", "exec", "lively", "--", "cat", "/proc/sys/kernel/random/boot_id"), boots)
        near.until(lambda _: self.machines()["cold"]["state"] == "running", "the machine that was moved cold")
        self.assertEqual(self.machines()["asleep"]["state"], "stopped")
        self.assertIn("is drained, and takes nothing", self.refused("node", "uncordon", far.name))
        self.assertIn("is drained", self.refused("vm", "migrate", "asleep", "--to", far.name))
        self.assertIn("being drained", self.refused("node", "drain", far.name))

        # The drained node begins again, and is still drained; then everything comes back.
        far.stop()
        far.start()
        far.wait_ready()
        self.assertEqual(self.duty(far.name), "drained")
        near.cli("node", "drain", far.name, "--disable")
        self.assertEqual({machine["node"] for machine in self.machines().values()}, {far.name})
        self.assertEqual(self.duty(far.name), "active")
        near.until(lambda _: self.machines()["lively"]["state"] == "running", "the machine is back")
        self.assertEqual(near.cli("vm", "exec", "lively", "--", "cat", "/proc/sys/kernel/random/boot_id"), boots)
        self.assertIn("nothing has left it", self.refused("node", "restore", far.name))

        # Cancelled: it stays cordoned, and what was to leave is where it is or comes back.
        near.until(lambda _: self.machines()["cold"]["state"] == "running", "all run")
        begun = near.call("POST", f"/v1/nodes/{far.name}/drain", {"ignore": ["stuck"], "parallel": 1})
        near.call("DELETE", f"/v1/operations/{begun['operation']}")
        ended = near.get(f"/v1/operations/{begun['operation']}/wait?timeout=60s")
        self.assertEqual(ended["state"], "cancelled", ended)
        near.until(lambda _: self.duty(far.name) == "cordoned", "the cordon")
        near.cli("node", "restore", far.name)
        near.until(lambda _: all(machine["node"] == far.name and (machine["state"] == "running" or machine["name"] == "asleep")
                                 for machine in self.machines().values()), "all is as it was")

        # By force: what cannot leave is stopped, and started by the restore.
        near.cli("node", "drain", far.name, "--force", "--ignore", "asleep")
        self.assertEqual(self.machines()["stuck"]["state"], "stopped")
        near.cli("node", "restore", far.name, "--stay")
        near.until(lambda _: self.machines()["stuck"]["state"] == "running", "what was stopped runs again")
        self.assertEqual(self.machines()["lively"]["node"], near.name)

        # Cancelled while it says what is to stop: that it was is not forgotten.
        begun = near.call("POST", f"/v1/nodes/{far.name}/drain", {"force": True, "ignore": ["asleep"]})
        near.call("DELETE", f"/v1/operations/{begun['operation']}")
        ended = near.get(f"/v1/operations/{begun['operation']}/wait?timeout=60s", timeout=90)
        self.assertEqual(ended["state"], "cancelled", ended)
        near.until(lambda _: self.duty(far.name) == "cordoned", "the cordon")
        near.cli("node", "restore", far.name, "--stay")  # it goes down meanwhile
        near.until(lambda _: self.machines()["stuck"]["state"] == "running", "what was stopped runs again")

        # A machine that is on its way to a node when that is drained does not get there.
        begun = near.call("POST", "/v1/machines/lively/migrate", {"to": far.name, "bytes_per_second": 8 << 20})
        near.until(lambda _: near.get(f"/v1/operations/{begun['operation']}")["progress"] > 0, "the way")
        near.cli("node", "drain", far.name, "--ignore", "asleep", "--ignore", "stuck")
        ended = near.get(f"/v1/operations/{begun['operation']}/wait?timeout=60s")
        self.assertIn("its target is drained", ended["error"])
        self.assertEqual((self.machines()["lively"]["node"], self.machines()["lively"]["state"]), (near.name, "running"))
        self.assertEqual(near.cli("vm", "exec", "lively", "--", "cat", "/proc/sys/kernel/random/boot_id"), boots)


if __name__ == "__main__":
    unittest.main()
