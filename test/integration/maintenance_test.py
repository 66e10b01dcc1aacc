"""Windows in which nodes are maintained: drained before, restored afterwards, whoever leads meanwhile."""
import datetime
import json
import unittest

from cluster import Cluster
from node_case import at


class Maintenance(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster(3, here=True)
        cls.addClassCleanup(cls.cluster.close)
        cls.cluster.form(servers=3)

    def setUp(self):
        leader = self.cluster.leader()
        self.near, self.far = [server for server in self.cluster.servers if server is not leader]

    def tearDown(self):
        for node in self.near.get("/v1/nodes")["nodes"]:
            for window in node["windows"]:
                self.near.cli("node", "maintenance", "clear", node["name"], window["name"])
            if node["duty"] == "cordoned" and "drain" not in node:
                self.near.cli("node", "uncordon", node["name"])
            self.until(node["name"], "active")

    def node(self, name, server=None):
        return (server or self.near).get(f"/v1/nodes/{name}")

    def until(self, name, duty, server=None):
        (server or self.near).until(lambda view: any((n["name"], n["duty"]) == (name, duty) for n in view["nodes"]), f"{name} {duty}")

    def refused(self, *words):
        done = self.near.cli(*words, check=False)
        self.assertNotEqual(done.returncode, 0, words)
        return done.stderr

    def set(self, name, window, opens, closes, *more):
        self.near.cli("node", "maintenance", "set", name, window, "--from", at(opens), "--to", at(closes), "--deadline", "1s", *more)

    def test_a_window_drains_before_it_opens_and_restores_when_it_is_not_due_any_more(self):
        name = self.far.name
        opens = at(3600)
        self.near.cli("node", "maintenance", "set", name, "once", "--from", opens, "--to", at(7200), "--deadline", "2s")
        (window,) = self.node(name)["windows"]
        self.assertEqual((window["name"], window["schedule"], window["state"]), ("once", f"@at {opens}", "waiting"))
        self.assertEqual(self.node(name)["duty"], "active")
        self.set(name, "once", 1, 3600)
        self.until(name, "drained")
        self.assertEqual(self.node(name)["drain"]["window"], "once")
        shown = self.near.cli("node", "show", name)
        self.assertIn("drained for", shown)
        self.assertIn("window once", shown)
        self.assertIn(name, self.near.cli("node", "maintenance", "list"))
        (seen,) = self.near.call("POST", "/v1/placement/preview", {"items": [{"machine": {"name": "m", "image": "none"}}]})["items"]
        self.assertEqual([n["reason"] for n in seen["nodes"] if n["name"] == name], ["the node is drained for its maintenance window once"])
        # It is open still, and longer: nothing is wrong with it, and the node stays as it is.
        self.set(name, "once", -60, 7200)
        self.set(name, "once", 0, 7200)
        self.assertEqual((self.node(name)["duty"], self.node(name)["windows"][0]["problem"]), ("drained", ""))
        # It is later.
        self.set(name, "once", 3600, 7200)
        self.until(name, "active")
        self.assertEqual(self.node(name)["windows"][0]["state"], "waiting")
        ended = [o["state"] for o in self.near.get("/v1/operations")["operations"] if o["kind"] in ("node.drain", "node.restore")]
        self.assertTrue(set(ended) <= {"succeeded", "running"}, ended)

    def test_it_survives_the_death_of_the_leader_and_a_restart_of_its_node(self):
        name = self.far.name
        leader = self.cluster.leader()
        self.set(name, "long", 1, 3600)
        self.until(name, "drained")
        leader.kill()
        self.far.stop()  # that is what the window is for
        self.far.start()
        leader.start()
        for server in (self.far, leader):
            server.wait_ready()
        self.cluster.settled()
        self.assertEqual(self.node(name, self.far)["duty"], "drained")
        self.near.cli("node", "maintenance", "clear", name, "long")  # its end
        self.until(name, "active")

    def test_a_node_that_somebody_cordoned_is_cordoned_again_when_it_has_closed(self):
        name = self.far.name

        def drains():
            return [o["id"] for o in self.near.get("/v1/operations")["operations"] if o["kind"] == "node.drain" and o["state"] == "succeeded"]

        before = drains()
        self.near.cli("node", "cordon", name)
        self.set(name, "short", 0, 5)
        self.near.until(lambda view: any((n["name"], n["duty"], n["windows"][0]["state"]) == (name, "cordoned", "over") and "drain" not in n
                                         for n in view["nodes"] if n["windows"]), "a node that is cordoned when its window is over")
        self.assertEqual(len(drains()), len(before) + 1)
        self.near.cli("node", "uncordon", name)

    def test_whom_a_person_restores_is_left_alone(self):
        name = self.far.name
        self.set(name, "early", 0, 3600)
        self.until(name, "drained")
        self.near.cli("node", "restore", name)
        self.set(self.near.name, "other", 0, 3600)
        self.until(self.near.name, "drained")  # all windows were looked at meanwhile
        self.assertEqual(self.node(name)["duty"], "active")

    def test_a_recurring_window_says_when_it_opens(self):
        name = self.far.name
        self.near.cli("node", "maintenance", "set", name, "weekly", "--schedule", "0 2 * * SUN", "--zone", "Europe/Berlin", "--duration", "2h")
        (window,) = json.loads(self.near.cli("node", "maintenance", "list", name, "--output", "json"))["windows"]
        opens = datetime.datetime.fromisoformat(window["opens_at"].replace("Z", "+00:00"))
        self.assertEqual((opens.isoweekday() % 7 in (0, 6), opens.minute, window["duration_ms"], window["deadline_ms"]), (True, 0, 7200000, 900000))
        self.assertIn(opens.hour, (0, 1))  # two o'clock there
        self.assertEqual(window["state"], "waiting")

    def test_what_makes_no_sense_is_refused(self):
        name = self.far.name
        whole = ("--duration", "2h")
        self.assertIn("schedule and a duration", self.refused("node", "maintenance", "set", name, "a", "--schedule", "0 2 * * *"))
        self.assertIn("schedule and a duration", self.refused("node", "maintenance", "set", name, "a", "--from", at(5)))
        self.assertIn("before it opens", self.refused("node", "maintenance", "set", name, "a", "--from", at(9), "--to", at(5)))
        self.assertIn("over, or never", self.refused("node", "maintenance", "set", name, "a", "--from", at(-9), "--to", at(-5)))
        self.assertIn("Nowhere", self.refused("node", "maintenance", "set", name, "a", "--schedule", "0 2 * * *", "--zone", "Nowhere/At", *whole))
        self.assertIn("--duration is 99 days", self.refused("node", "maintenance", "set", name, "a", "--schedule", "0 2 * * *", "--duration", "99d"))
        self.assertIn("is no name", self.refused("node", "maintenance", "set", name, "a b", "--schedule", "0 2 * * *", *whole))
        self.refused("node", "maintenance", "set", name, "a", "--schedule", "99 2 * * *", *whole)
        self.assertIn("no node", self.refused("node", "maintenance", "set", "nowhere", "a", "--schedule", "0 2 * * *", *whole))
        self.assertIn("no window", self.refused("node", "maintenance", "clear", name, "a"))
        for number in range(16):
            self.near.cli("node", "maintenance", "set", name, f"w{number}", "--schedule", "0 2 1 1 *", *whole)
        self.assertIn("at most 16 windows", self.refused("node", "maintenance", "set", name, "more", "--schedule", "0 2 1 1 *", *whole))

    def test_the_last_node_that_takes_work_says_why_it_is_not_drained(self):
        others = [server.name for server in self.cluster.servers if server is not self.far]
        for name in others:
            self.near.cli("node", "cordon", name)
        self.set(self.far.name, "alone", 0, 3600)
        self.near.until(lambda view: any(w["problem"] for n in view["nodes"] if n["name"] == self.far.name for w in n["windows"]), "a problem")
        self.assertIn("the last one that takes work", self.near.cli("node", "maintenance", "list"))
        for name in others:
            self.near.cli("node", "uncordon", name)


if __name__ == "__main__":
    unittest.main()
