"""What nodes are: what they have, labels, taints, pools, cordons."""
import json
import unittest

from cluster import Cluster
from node import Refused


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


if __name__ == "__main__":
    unittest.main()
