"""Documents of where things run: nodes with pools, taints and windows; strategies; room that is kept."""
import json
import pathlib
import tempfile
import unittest

from cluster import Cluster

DOCUMENTS = """
kind: Node
name: n2
spec:
  pool: build
  labels: {disk: ssd}
  taints:
    - gpu=a100:NoSchedule
    - noisy:PreferNoSchedule
  windows:
    - {name: kernel, schedule: "0 2 * * SUN", zone: Europe/Berlin, duration: 2h, deadline: 30m}
    - {name: memory, from: "2099-01-01T00:00:00Z", to: "2099-01-01T04:00:00Z"}
---
kind: PlacementStrategy
name: default
spec:
  strategy: spread
  weights: {affinity: "300"}
---
kind: Reservation
name: tonight
spec: {cpus: 1, memory: 64MiB, node: n1, ttl: 10m}
---
kind: PlacementGroup
name: db
spec: {policy: spread}
"""


class Places(unittest.TestCase):
    """One story."""

    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster(2, here=True)
        cls.addClassCleanup(cls.cluster.close)
        cls.cluster.form(servers=1)
        cls.a = cls.cluster[0]
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="blixard-places-")))
        index = None
        while True:
            nodes, index = cls.a.look("/v1/nodes", index, 2000)
            if all(node["attributes"].get("memory_bytes") for node in nodes["nodes"]):
                break

    def write(self, text):
        path = self.folder / "places.yaml"
        path.write_text(text)
        return path

    def plan(self, path, code):
        done = self.a.cli("plan", "-f", path, check=False)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done.stdout

    def apply(self, text):
        path = self.write(text)
        said = self.a.cli("apply", "-f", path)
        self.plan(path, 0)
        return said

    def node(self):
        return self.a.get("/v1/nodes/n2")

    def test_they_are_planned_applied_changed_exported_and_deleted(self):
        self.assertIn("3 to create, 1 to update", self.plan(self.write(DOCUMENTS), 1))
        self.assertIn("Done: 4 changed.", self.apply(DOCUMENTS))
        node = self.node()
        self.assertEqual((node["pool"], node["labels"]), ("build", {"disk": "ssd"}))
        self.assertEqual({(t["key"], t["value"], t["effect"]) for t in node["taints"]},
                         {("gpu", "a100", "NoSchedule"), ("noisy", "", "PreferNoSchedule")})
        self.assertEqual([(w["name"], w["duration_ms"], w["deadline_ms"]) for w in node["windows"]],
                         [("kernel", 7200000, 1800000), ("memory", 14400000, 900000)])
        strategy = self.a.get("/v1/placement/strategy")
        self.assertEqual((strategy["strategy"], strategy["weights"]["affinity"], strategy["source"]), ("spread", "300", "project"))
        self.assertEqual(self.a.get("/v1/placement/reservations/tonight")["node"], "n1")
        # What is exported is as it is to be.
        for kinds in ((), ("Node", "n2"), ("Reservation",)):
            exported = self.a.cli("export", *kinds)
            self.assertIn("No changes", self.plan(self.write(exported), 0))
        # One taint goes, one changes; a window goes, one is longer.
        self.apply(DOCUMENTS.replace("    - noisy:PreferNoSchedule\n", "").replace("a100", "h100")
                   .replace("duration: 2h", "duration: 3h")
                   .replace('    - {name: memory, from: "2099-01-01T00:00:00Z", to: "2099-01-01T04:00:00Z"}\n', ""))
        node = self.node()
        self.assertEqual([(t["key"], t["value"]) for t in node["taints"]], [("gpu", "h100")])
        self.assertEqual([(w["name"], w["duration_ms"]) for w in node["windows"]], [("kernel", 10800000)])
        # Kept room that was taken, or is over, is not kept again; another document of it is.
        self.a.cli("placement", "release", "tonight")
        self.plan(self.folder / "places.yaml", 0)
        self.assertEqual(self.a.get("/v1/placement/reservations")["reservations"], [])
        self.apply((self.folder / "places.yaml").read_text().replace("memory: 64MiB", "memory: 96MiB"))
        self.assertEqual(self.a.get("/v1/placement/reservations/tonight")["memory_bytes"], 96 << 20)
        # A change of it is a replacement, which is to be allowed.
        changed = self.write((self.folder / "places.yaml").read_text().replace("memory: 96MiB", "memory: 80MiB"))
        self.assertIn("must be deleted and made anew", self.plan(changed, 1))
        self.assertNotEqual(self.a.cli("apply", "-f", changed, check=False).returncode, 0)
        self.a.cli("apply", "-f", changed, "--replace")
        self.assertEqual(self.a.get("/v1/placement/reservations/tonight")["memory_bytes"], 80 << 20)
        # The strategy is taken back; nodes stay as they are.
        self.a.cli("delete", "-f", changed)
        self.assertEqual(self.a.get("/v1/placement/strategy")["source"], "default")
        self.assertEqual(self.a.get("/v1/placement/reservations")["reservations"], [])
        self.assertEqual(self.node()["pool"], "build")
        # A document that says nothing of what it said leaves nothing of it.
        self.apply("kind: Node\nname: n2\nspec: {pool: build, failure_domain: rack-1, labels: {disk: ssd, rack: '1'}, taints: [{key: gpu, effect: NoSchedule}],\n"
                   "  windows: [{name: kernel, schedule: '0 2 * * SUN', duration: 2h}]}\n")
        self.apply("kind: Node\nname: n2\nspec: {labels: {disk: ssd}}\n")
        node = self.node()
        self.assertEqual((node["pool"], node["failure_domain"], node["labels"], node["taints"], node["windows"]), ("default", "", {"disk": "ssd"}, [], []))

    def test_what_makes_no_sense_is_refused(self):
        def refused(text):
            done = self.a.cli("apply", "-f", self.write(text), check=False)
            self.assertNotEqual(done.returncode, 0, done.stdout)
            return done.stderr + done.stdout
        self.assertIn("called as the project", refused("kind: PlacementStrategy\nname: other\nspec: {strategy: spread}\n"))
        self.assertIn("is none of", refused("kind: PlacementStrategy\nname: default\nspec: {strategy: best}\n"))
        self.assertIn("effect", refused("kind: Node\nname: n2\nspec: {taints: [{key: a}]}\n"))
        self.assertIn("KEY[=VALUE]:EFFECT", refused("kind: Node\nname: n2\nspec: {taints: [gpu]}\n"))
        self.assertIn("NoExecute", refused("kind: Node\nname: n2\nspec: {taints: ['gpu:Never']}\n"))
        self.assertIn("schedule and a duration", refused("kind: Node\nname: n2\nspec: {windows: [{name: a, schedule: '0 2 * * *'}]}\n"))
        self.assertIn("no such room", refused("kind: Reservation\nname: vast\nspec: {memory: 1000GiB}\n"))
        self.assertEqual(json.loads(self.a.cli("node", "maintenance", "list", "n1", "--output", "json"))["windows"], [])


if __name__ == "__main__":
    unittest.main()
