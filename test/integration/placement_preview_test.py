"""Where what is to be would be: in plans, and asked for alone; nothing is done, and it comes as was said."""
import json
import pathlib
import shutil
import tempfile
import unittest

from cluster import Cluster
from machines import machines_of

BLANK = b"\xfa\xf4\xeb\xfd".ljust(510, b"\0") + b"\x55\xaa" + bytes((1 << 20) - 512)  # cli; hlt; again
MACHINE = """
kind: Machine
name: {name}
spec:
  image: blank
  memory: {memory}
  disk: 16MiB
{more}
"""


def why_not():
    return None if shutil.which("qemu-system-x86_64") else "there is no qemu-system-x86_64"


class Preview(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if why_not():
            raise unittest.SkipTest(why_not())
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="blixard-preview-")))
        cls.cluster = Cluster(2, here=True)
        cls.addClassCleanup(cls.cluster.close)
        cls.cluster.form(servers=1)
        cls.enterClassContext(machines_of(*(server.folder for server in cls.cluster.servers)))
        cls.a, cls.b = cls.cluster.servers
        blank = cls.folder / "blank.raw"
        blank.write_bytes(BLANK)
        cls.a.cli("image", "import", "blank", "--disk", blank, "--no-agent")
        for server, zone in ((cls.a, "north"), (cls.b, "south")):
            cls.a.cli("node", "label", server.name, f"zone={zone}")
        index = None
        while True:
            nodes, index = cls.a.look("/v1/nodes", index, 2000)
            if all(node["attributes"].get("memory_bytes") for node in nodes["nodes"]):
                break

    def tearDown(self):
        for machine in self.a.get("/v1/machines")["machines"]:
            self.a.cli("vm", "delete", machine["name"])

    def document(self, *machines):
        path = self.folder / f"{self.id()}.yaml"
        path.write_text("---\n".join(
            MACHINE.format(name=name, memory=memory, more="\n".join(f"  {line}" for line in more)) for name, memory, *more in machines))
        return path

    def plan(self, path, *words):
        done = self.a.cli("plan", "-f", path, *words, check=False)
        self.assertIn(done.returncode, (0, 1), done.stderr)
        return done.stdout

    def placements(self, path):
        actions = json.loads(self.plan(path, "--output", "json"))["actions"]
        return {action["name"]: action.get("placement") for action in actions}

    def preview(self, *items):
        return self.a.call("POST", "/v1/placement/preview", {"items": list(items)})["items"]

    def test_a_plan_says_where_a_machine_would_be_and_why_not_elsewhere(self):
        path = self.document(("web", "64MiB", "constraints: ['zone = south']"), ("none", "64MiB", "constraints: ['zone = west']"))
        shown = self.plan(path)
        self.assertIn(f"@ on {self.b.name}", shown)
        self.assertIn(f"not on {self.a.name}: ", shown)
        self.assertIn("fits nowhere", shown)
        seen = self.placements(path)
        self.assertEqual((seen["web"]["fits"], seen["web"]["node"], seen["web"]["nodes_total"]), (True, self.b.name, 2))
        self.assertEqual([(n["name"], n["fits"]) for n in seen["web"]["nodes"]], [(self.b.name, True), (self.a.name, False)])
        self.assertEqual({n["filter"] for n in seen["none"]["nodes"]}, {"constraint"})
        self.assertEqual(self.a.get("/v1/machines")["machines"], [])
        self.a.cli("apply", "-f", self.document(("web", "64MiB", "constraints: ['zone = south']")))
        self.assertEqual(self.a.get("/v1/machines/web")["node"], self.b.name)
        self.assertIsNone(self.placements(self.document(("web", "64MiB", "constraints: ['zone = south']")))["web"])

    def test_an_apply_that_gives_up_says_what_it_has_waited_for(self):
        done = self.a.cli("apply", "-f", self.document(("none", "64MiB", "constraints: [zone=west]")), "--wait", "healthy", "--timeout", "1s", check=False)
        self.assertEqual(done.returncode, 75, done.stderr)
        self.assertIn("longer than the timeout, and is pending: none of 2 nodes: 2 constraint", done.stderr)

    def test_each_is_placed_as_if_those_before_it_had_come(self):
        path = self.document(*((f"one-{n}", "64MiB", "constraints: [distinct_hosts]") for n in (1, 2, 3)))
        seen = self.placements(path)
        self.assertEqual(sorted(seen[f"one-{n}"]["node"] for n in (1, 2, 3)), ["", self.a.name, self.b.name])
        self.assertEqual(self.placements(path), seen, "nothing of it stays")

    def test_a_change_says_whether_it_can_stay(self):
        self.a.cli("apply", "-f", self.document(("web", "64MiB", "constraints: ['zone = south']")))
        stays = self.placements(self.document(("web", "128MiB", "constraints: ['zone = south']")))["web"]
        self.assertEqual((stays["fits"], stays["node"], stays["reason"]), (True, self.b.name, "it stays there"))
        large = self.placements(self.document(("web", "40GiB", "constraints: ['zone = south']")))["web"]
        self.assertEqual((large["fits"], large["node"]), (False, self.b.name))
        self.assertIn("memory", large["reason"])

    def test_a_replacement_takes_its_own_place(self):
        rules = {"image": "blank", "constraints": ["zone = south", "distinct_hosts"]}
        self.a.cli("apply", "-f", self.document(("one-1", "64MiB", "constraints: ['zone = south', distinct_hosts]")))
        first, second = {"machine": {"name": "one-1", **rules}, "replaces": True}, {"machine": {"name": "one-2", **rules}}
        self.assertEqual([one["fits"] for one in self.preview(first, second)], [True, False])
        away = {"machine": {"name": "one-1", "image": "blank", "constraints": ["zone = north"]}, "replaces": True}
        self.assertEqual([one["fits"] for one in self.preview(away, {"function": "between"}, second)], [True, True, True])
        self.assertEqual([one["fits"] for one in self.preview(second)], [False], "what was taken out is there again")

    def test_a_function_says_who_has_it(self):
        everywhere, south, one, nowhere = self.preview(
            {"function": "all"}, {"function": "south", "placement": {"constraints": ["zone = south"]}},
            {"function": "one", "placement": {"copies": 1}}, {"function": "none", "placement": {"constraints": ["zone = west"]}})
        self.assertEqual(set(everywhere["node"].split(", ")), {"n1", "n2"})
        self.assertEqual((south["node"], one["node"] in ("n1", "n2"), nowhere["fits"], nowhere["node"]), ("n2", True, False, ""))

    def test_what_the_same_plan_changes_of_nodes_is_named(self):
        path = self.document(("web", "64MiB", "constraints: ['zone = south']"))
        path.write_text(path.read_text() + f"---\nkind: Node\nname: {self.b.name}\nspec: {{taints: [{{key: dedicated, effect: NoSchedule}}]}}\n")
        self.assertTrue(self.placements(path)["web"]["reason"].endswith(f"; as it is now, before Node {self.b.name} changes"))

    def test_what_cannot_be_told_yet_says_so(self):
        (seen,) = self.preview({"machine": {"name": "late", "image": "blank", "placement_group": "to-come"}})
        self.assertEqual((seen["is_known"], seen["fits"]), (False, False))
        self.assertIn("to-come", seen["reason"])


if __name__ == "__main__":
    unittest.main()
