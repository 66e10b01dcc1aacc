"""Where machines run: rules, groups, gangs, reservations, priorities; what waits for room, and what helps it.

The machines are QEMU's with a boot sector that halts and no agent: they run as soon as their VMM does, and do
nothing.
"""
import concurrent.futures
import http.client
import json
import pathlib
import re
import shutil
import ssl
import subprocess
import tempfile
import unittest

from cluster import Cluster
from machines import BLANK, DEAF, machines_of
from node import Refused

GIB = 1 << 30
SMALL = ("--image", "blank", "--memory", "64MiB", "--disk", "16MiB")


def why_not():
    return None if shutil.which("qemu-system-x86_64") else "there is no qemu-system-x86_64"


def compiled(folder):
    """A function that says hello."""
    source = pathlib.Path(folder, "hello.c")
    source.write_text('#include <stdio.h>\nint main(void) { puts("hello"); return 0; }\n')
    subprocess.run(["clang-14", "--target=wasm32-wasi", "-O1", "-o", source.with_suffix(".wasm"), source], check=True)
    return source.with_suffix(".wasm").read_bytes()


class Placement(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if why_not():
            raise unittest.SkipTest(why_not())
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="blixard-place-")))
        cls.cluster = Cluster(3, here=True, arguments=("--placement-hold-after-ms", "8000", *DEAF))
        cls.addClassCleanup(cls.cluster.close)
        cls.cluster.form(servers=3)
        cls.enterClassContext(machines_of(*(server.folder for server in cls.cluster.servers)))
        cls.a, cls.b, cls.c = cls.cluster.servers
        blank = cls.folder / "blank.raw"
        blank.write_bytes(BLANK)
        cls.a.cli("image", "import", "blank", "--disk", blank, "--no-agent")
        for server, zone in ((cls.a, "north"), (cls.b, "north"), (cls.c, "south")):
            cls.a.cli("node", "label", server.name, f"zone={zone}")
        index = None
        while True:
            nodes, index = cls.a.look("/v1/nodes", index, 2000)
            if all(node["attributes"].get("memory_bytes") for node in nodes["nodes"]):
                break

    def tearDown(self):
        for machine in self.machines():
            self.a.cli("vm", "delete", machine["name"])
        for group in self.a.get("/v1/placement-groups")["placement_groups"]:
            self.a.cli("placement-group", "delete", group["name"])
        for reservation in self.a.get("/v1/placement")["reservations"]:
            self.a.cli("placement", "release", reservation["name"])

    # ---- Helpers ----

    def machines(self):
        return self.a.get("/v1/machines")["machines"]

    def machine(self, name, server=None):
        return (server or self.a).get(f"/v1/machines/{name}")

    def until(self, name, holds, what):
        """The machine once it is so: watched, not polled."""
        index = None
        for _ in range(400):
            machine, index = self.a.look(f"/v1/machines/{name}", index, 2000)
            if holds(machine):
                return machine
        raise AssertionError(f"{name}: never {what}: {machine}")

    def refused(self, *words):
        done = self.a.cli(*words, check=False)
        self.assertNotEqual(done.returncode, 0, done.stdout)
        return done.stderr

    def create(self, name, *words, server=None):
        return (server or self.a).cli("vm", "create", name, *SMALL, *words)

    def waits(self, name, *words, size=SMALL):
        """It is accepted, and pending: no success, and no refusal."""
        done = self.a.cli("vm", "create", name, *size, *words, check=False)
        self.assertEqual((done.returncode, done.stdout), (75, ""), done.stderr)
        self.assertIn(f"machine {name} is pending: ", done.stderr)
        self.assertEqual(self.machine(name)["state"], "pending")

    # ---- Rules ----

    def test_a_rule_chooses_the_node_whoever_is_asked(self):
        for server in self.cluster.servers:
            self.create(f"in-{server.name}", "--constraint", "zone=south", server=server)
            self.assertEqual(self.machine(f"in-{server.name}")["node"], self.c.name)
        self.assertIn("${node.zone}", json.dumps(self.machine(f"in-{self.a.name}")["constraints"] + ["${node.zone}"]))
        explained = self.b.cli("placement", "explain", f"in-{self.a.name}")
        self.assertIn("constraint", explained)
        self.assertIn(self.a.name, explained)

    def test_a_runner_waits_for_no_node_where_none_runs_any(self):
        for path, status, said in (("/nonexistent", 66, "no folder /nonexistent"), (self.folder, 77, "machine_runner_folders")):
            done = self.a.cli("vm", "create", "runs", "--runner", path, check=False)
            self.assertEqual((done.returncode, done.stdout), (status, ""), done.stderr)
            self.assertIn(said, done.stderr)
        self.assertEqual(self.machines(), [])

    def test_what_a_node_has_of_each_class_can_be_asked_for(self):
        has = self.a.get("/v1/nodes")["nodes"][0]["attributes"]
        counted = [(f"device.{item['name']}", item["count"]) for item in has["devices"]] + [(f"hugepages.{item['name']}", item["count"]) for item in has["hugepages"]]
        if not counted:
            self.skipTest("this machine has neither devices nor huge pages")
        name, count = counted[0]
        self.create("has", "--constraint", f"attr.{name}>={count}")
        self.assertEqual(self.machine("has")["state"], "running")
        self.assertIn(f"here it is \"{count}\"", self.refused("vm", "create", "more", *SMALL, "--constraint", f"attr.{name}>{count}", "--no-pending") +
                      self.a.cli("vm", "create", "more", *SMALL, "--constraint", f"attr.{name}>{count}", check=False).stderr + self.a.cli("placement", "explain", "more"))

    def test_a_node_that_is_named_is_a_rule(self):
        self.create("here", "--node", self.b.name)
        self.assertEqual(self.machine("here")["node"], self.b.name)
        self.assertIn(self.b.name, "".join(self.machine("here")["constraints"]))
        self.assertIn("there is no node", self.refused("vm", "create", "there", *SMALL, "--node", "nowhere"))

    def test_rules_that_contradict_each_other_are_refused_as_a_pair(self):
        said = self.refused("vm", "create", "both", *SMALL, "--constraint", "zone=north", "--constraint", "zone=south")
        self.assertIn("north", said)
        self.assertIn("south", said)
        self.assertEqual(self.machines(), [])
        self.create("one", "--constraint", "zone=north")
        said = self.refused("vm", "set", "one", "--constraint", "zone=north", "--constraint", "zone=south")
        self.assertIn("south", said)

    def test_who_fits_nowhere_waits_and_is_placed_when_a_label_helps(self):
        self.waits("late", "--constraint", "label.disk=ssd")
        late = self.machine("late")
        self.assertEqual((late["state"], late["node"]), ("pending", ""))
        self.assertIn("late", self.b.cli("placement", "list"))
        explained = json.loads(self.c.cli("placement", "explain", "late", "--output", "json"))
        self.assertEqual({node["filter"] for node in explained["nodes"]}, {"constraint"})
        self.assertEqual(len(explained["nodes"]), 3)
        self.assertIn("pending", self.b.cli("vm", "list"))
        self.a.cli("node", "label", self.b.name, "disk=ssd")
        found = self.until("late", lambda machine: machine["state"] == "running", "running")
        self.assertEqual(found["node"], self.b.name)
        self.a.cli("node", "label", self.b.name, "disk-")

    def test_a_rule_that_changes_places_it_too(self):
        self.waits("late", "--constraint", "label.disk=tape")
        self.a.cli("vm", "set", "late", "--constraint", "zone=south")
        self.assertEqual(self.until("late", lambda machine: machine["state"] == "running", "running")["node"], self.c.name)

    def test_one_that_is_not_to_wait_is_refused(self):
        said = self.refused("vm", "create", "now", *SMALL, "--constraint", "label.disk=tape", "--no-pending")
        self.assertIn("fits nowhere", said)
        self.assertEqual(self.machines(), [])

    def test_one_that_nobody_waits_for_is_pending_too(self):
        self.create("unseen", "--constraint", "label.disk=tape", "--no-wait")
        self.until("unseen", lambda machine: machine["state"] == "pending", "pending")
        self.assertIn("stopped", self.a.cli("vm", "stop", "unseen"))

    def test_one_that_is_not_to_start_is_made_when_a_label_helps(self):
        self.waits("asleep", "--constraint", "label.disk=ssd", "--strategy", "Halted")
        self.a.cli("vm", "set", "asleep", "--constraint", "label.disk=ssd", "--constraint", "zone=south")
        self.a.cli("node", "label", self.b.name, "disk=ssd")
        explained = json.loads(self.c.cli("placement", "explain", "asleep", "--output", "json"))
        self.assertEqual({node["filter"] for node in explained["nodes"]}, {"constraint"})
        self.a.cli("vm", "set", "asleep", "--constraint", "label.disk=ssd")
        found = self.until("asleep", lambda machine: machine["state"] == "stopped", "stopped")
        self.a.cli("node", "label", self.b.name, "disk-")
        self.assertEqual(found["node"], self.b.name)

    def test_what_was_passed_on_to_the_wrong_node_is_passed_on_once_more(self):
        self.create("elsewhere", "--node", self.b.name)
        context = ssl.create_default_context(cafile=self.a.folder / "cluster/ca.pem")
        context.check_hostname = False
        context.load_cert_chain(self.a.folder / "cluster/node.pem", self.a.folder / "cluster/node.key")
        host, port = self.c.address.split(":")
        connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=60)
        self.addCleanup(connection.close)

        def hop(number, path):
            connection.request("GET", path, headers={"X-Blixard-Hop": number})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

        status, machine = hop("1", "/v1/machines/elsewhere")
        self.assertEqual((status, machine.get("node")), (200, self.b.name), machine)
        self.assertEqual(hop("2", "/v1/machines/elsewhere")[0], 503)
        self.assertEqual(hop("1", "/v1/machines/nobody")[0], 404)

    def test_one_that_waits_can_be_stopped_and_deleted(self):
        self.waits("late", "--constraint", "label.disk=tape")
        self.a.cli("vm", "stop", "late")
        self.assertEqual(self.machine("late")["node"], "")
        self.a.cli("vm", "set", "late", "--constraint", "zone=south")
        made = self.until("late", lambda machine: machine["state"] == "stopped", "made, and not started")
        self.assertEqual((made["desired"], made["node"]), ("stopped", self.c.name))
        self.b.cli("vm", "start", "late")
        self.until("late", lambda machine: machine["state"] == "running", "running")

    def test_a_cordoned_node_gets_nothing(self):
        self.a.cli("node", "cordon", self.c.name)
        self.waits("south", "--constraint", "zone=south")
        self.a.cli("node", "uncordon", self.c.name)
        self.until("south", lambda machine: machine["state"] == "running", "running")

    # ---- Together ----

    def test_a_strict_group_is_one_machine_on_a_node(self):
        self.a.cli("placement-group", "create", "db", "--policy", "spread")
        for number in range(3):
            self.create(f"db-{number}", "--placement-group", "db")
        self.assertEqual(len({machine["node"] for machine in self.machines()}), 3)
        self.waits("db-3", "--placement-group", "db")
        self.assertIn("db-3", self.a.cli("placement-group", "show", "db"))
        self.assertIn("is in placement group", self.refused("placement-group", "delete", "db"))
        freed = self.machine("db-1")["node"]
        self.a.cli("vm", "delete", "db-1")
        self.assertEqual(self.until("db-3", lambda machine: machine["state"] == "running", "running")["node"], freed)

    def test_a_compact_group_is_on_one_node(self):
        self.a.cli("placement-group", "create", "near", "--policy", "compact")
        for number in range(3):
            self.create(f"near-{number}", "--placement-group", "near")
        self.assertEqual(len({machine["node"] for machine in self.machines()}), 1)

    def test_a_gang_is_all_or_nothing(self):
        said = self.refused("vm", "create", "gang", *SMALL, "--constraint", "distinct_hosts", "--count", "4", "--all-or-nothing")
        self.assertRegex(said, r"not all 4 find room.*: gang-\d: none of 3 nodes")
        self.assertEqual(self.machines(), [])
        self.a.cli("vm", "create", "gang", *SMALL, "--constraint", "distinct_hosts", "--count", "3", "--all-or-nothing")
        self.assertEqual({machine["name"] for machine in self.machines()}, {"gang-1", "gang-2", "gang-3"})
        self.assertEqual(len({machine["node"] for machine in self.machines()}), 3)
        self.assertEqual({machine["state"] for machine in self.machines()}, {"running"})

    # ---- Room ----

    def room(self, server):
        """GiB of memory that may be given away there."""
        node = self.a.get(f"/v1/nodes/{server.name}")
        return (node["attributes"]["memory_bytes"] - node["attributes"]["reserved"]["memory_bytes"]) // GIB

    def test_room_that_is_kept_is_for_who_names_it(self):
        most = self.room(self.c)
        said = self.a.cli("placement", "reserve", "tonight", "--memory", f"{most - 1}GiB", "--node", self.c.name, "--ttl", "1h")
        self.assertIn(self.c.name, said)
        self.assertIn("tonight", self.b.cli("placement", "list", "--reservations"))
        self.waits("other", "--constraint", "zone=south", size=("--image", "blank", "--memory", "2GiB", "--disk", "16MiB"))
        self.a.cli("vm", "create", "own", "--image", "blank", "--memory", "2GiB", "--disk", "16MiB", "--reservation", "tonight")
        self.assertEqual(self.machine("own")["node"], self.c.name)
        self.assertEqual(self.until("other", lambda machine: machine["state"] == "running", "running")["node"], self.c.name)
        self.assertEqual(self.a.get("/v1/placement")["reservations"], [])

    def test_room_is_kept_once_whoever_asks_at_once(self):
        most = self.room(self.c)
        words = ("placement", "reserve", "--memory", f"{most - 1}GiB", "--node", self.c.name)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            asked = [pool.submit(server.cli, *words, f"r{i}", check=False) for i, server in enumerate((self.a, self.b, self.c) * 2)]
        said = [(one.result().returncode, one.result().stderr) for one in asked]
        kept = [one["name"] for one in self.a.get("/v1/placement")["reservations"]]
        for name in kept:
            self.a.cli("placement", "release", name)
        self.assertEqual((len(kept), sorted(code for code, _ in said)), (1, [0] + [69] * 5), said)

    def test_room_that_nobody_has_is_not_kept(self):
        for words in (("--cpus", 1 << 61), ("--ttl", "0s"), ("--memory", f"{1 << 62}")):
            self.assertEqual(self.a.cli("placement", "reserve", "none", *map(str, words), check=False).returncode, 64, words)
        self.a.cli("placement", "reserve", "memory", "--cpus", "0", "--ttl", "1m")
        kept = self.a.get("/v1/placement")["reservations"][0]
        self.a.cli("placement", "release", "memory")
        self.assertEqual((kept["cpus"], kept["memory_bytes"]), (0, 256 << 20))

    def test_room_that_expires_is_given_away(self):
        most = self.room(self.c)
        self.a.cli("placement", "reserve", "short", "--memory", f"{most - 1}GiB", "--node", self.c.name, "--ttl", "2s")
        self.waits("next", "--constraint", "zone=south", size=("--image", "blank", "--memory", "2GiB", "--disk", "16MiB"))
        self.until("next", lambda machine: machine["state"] == "running", "running")

    def test_the_higher_priority_displaces_and_what_was_displaced_comes_back(self):
        most = self.room(self.c)
        large = ("--image", "blank", "--memory", f"{most - 1}GiB", "--disk", "16MiB", "--constraint", "zone=south")
        self.a.cli("vm", "create", "low", *large, "--priority", "10")
        self.a.cli("vm", "create", "high", *large, "--priority", "90")
        self.assertEqual(self.until("high", lambda machine: machine["state"] == "running", "running")["node"], self.c.name)
        low = self.until("low", lambda machine: machine["state"] == "pending", "pending")
        self.assertEqual(low["node"], self.c.name)
        self.assertIn("default/low: it has not gone down within 500 ms", self.c.log.read_text())
        self.assertIn("displaced", self.a.cli("placement", "list", "--decisions"))
        self.a.cli("vm", "delete", "high")
        self.until("low", lambda machine: machine["state"] == "running", "running again")

    def test_equal_priorities_displace_nobody(self):
        most = self.room(self.c)
        large = ("--image", "blank", "--memory", f"{most - 1}GiB", "--disk", "16MiB", "--constraint", "zone=south")
        self.a.cli("vm", "create", "first", *large)
        self.waits("second", size=large)
        self.assertEqual(self.machine("first")["state"], "running")

    # ---- Who waits long ----

    def until_held(self, name):
        """The node that the machine holds, as every node says."""
        index = None
        for server in self.cluster.servers:
            for _ in range(400):
                waits, index = server.look("/v1/placement", index, 2000)
                held = [machine["holds"] for machine in waits["pending"] if machine["name"] == name and "holds" in machine]
                if held:
                    break
            self.assertTrue(held, waits)
        return held[0]

    def test_a_node_is_held_for_who_waits_long(self):
        most = self.room(self.c)
        half = ("--image", "blank", "--memory", f"{(most - 1) // 2}GiB", "--disk", "16MiB", "--constraint", "zone=south")
        whole = ("--image", "blank", "--memory", f"{most - 1}GiB", "--disk", "16MiB", "--constraint", "zone=south")
        self.a.cli("vm", "create", "one", *half)
        self.a.cli("vm", "create", "two", *half)
        self.waits("large", size=whole)
        self.assertEqual(self.until_held("large"), self.c.name)
        self.assertRegex(self.b.cli("node", "show", self.c.name), r"held for +machine default/large")
        self.assertIn("blixard_placement_holds 1", self.b.ask("GET", "/metrics")[1].decode())
        self.a.cli("vm", "delete", "one")
        self.waits("three", size=half)  # or it would pass the large one
        self.assertIn("held", self.machine("three")["reason"])
        explained = json.loads(self.c.cli("placement", "explain", "three", "--output", "json"))
        self.assertIn(("held", True), [(node["filter"], "machine large of project default" in node["reason"]) for node in explained["nodes"]])
        self.a.cli("vm", "create", "pressing", *half, "--priority", "55")
        self.assertEqual(self.machine("pressing")["state"], "running", "it is more important")
        self.a.cli("vm", "delete", "pressing")
        self.a.cli("vm", "delete", "two")
        self.until("large", lambda machine: machine["state"] == "running", "running")
        self.assertEqual(self.machine("three")["state"], "pending")
        self.assertNotEqual(self.a.get(f"/v1/nodes/{self.c.name}").get("held_for"), "default/large")
        self.a.cli("vm", "delete", "large")
        self.until("three", lambda machine: machine["state"] == "running", "running")

    # ---- Strategies, figures, conflicts ----

    def test_the_strategy_of_a_project_decides(self):
        self.a.cli("placement", "strategy", "binpack")
        for number in range(4):
            self.create(f"packed{number}")
        self.assertEqual(len({machine["node"] for machine in self.machines()}), 1)
        self.assertIn("binpack", self.b.cli("placement", "strategy"))
        self.assertIn("none of", self.refused("placement", "strategy", "binpack", "--weight", "nonsense=3"))
        self.a.cli("placement", "strategy", "none")

    def test_many_at_once_from_everywhere_keep_to_what_there_is(self):
        """Each node decides by itself: what does not fit any more is decided again, or waits; never too much on one."""
        most = self.room(self.a)
        each = most // 3
        def ask(number):
            self.cluster.servers[number % 3].cli("vm", "create", f"wave{number}", "--image", "blank", "--memory", f"{each}GiB",
                                                 "--disk", "16MiB", check=False)

        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            list(pool.map(ask, range(12)))
        self.assertEqual(len(self.machines()), 12)
        waiting = [machine for machine in self.machines() if machine["state"] == "pending"]
        self.assertGreaterEqual(len(waiting), 3)
        for server in self.cluster.servers:
            node = self.a.get(f"/v1/nodes/{server.name}")
            self.assertLessEqual(node["allocated"]["memory_bytes"], most * GIB)

    def test_what_it_does_can_be_seen(self):
        self.create("seen")
        text = self.a.ask("GET", "/metrics")[1]
        text = text.decode() if isinstance(text, bytes) else text
        for name in ("blixard_placements_total", "blixard_placement_pending", "blixard_placement_conflicts_total",
                     "blixard_placement_decision_seconds_bucket", "blixard_placement_refusals_total"):
            self.assertTrue(re.search(rf"^{name}", text, re.M), name)


class Functions(unittest.TestCase):
    """A function's code is where its rules say, and is called everywhere."""

    def test_a_function_is_on_the_nodes_that_suit_and_is_called_from_all(self):
        cluster = self.enterContext(Cluster(3, here=True))
        cluster.form(servers=3)
        first, second, third = cluster.servers
        module = compiled(self.enterContext(tempfile.TemporaryDirectory()))
        for server, zone in ((first, "north"), (second, "south"), (third, "south")):
            first.cli("node", "label", server.name, f"zone={zone}")
        first.deploy("everywhere", module)
        first.deploy("south", module, placement={"constraints": ["zone = south"]})
        first.deploy("single", module, placement={"copies": 1})
        self.holders(first, "south", lambda nodes: nodes == {second.name, third.name})
        self.holders(first, "single", lambda nodes: len(nodes) == 1)
        for server in cluster.servers:
            status, _ = server.invoke("south", b"hello")
            self.assertEqual(status, 200)
        self.holders(first, "south", lambda nodes: nodes == {second.name, third.name})
        first.cli("node", "label", first.name, "zone=south")
        self.holders(first, "south", lambda nodes: len(nodes) == 3)
        with self.assertRaises(Refused) as refused:
            first.deploy("never", module, placement={"constraints": ["zone = a", "zone = b"]})
        self.assertIn("zone", str(refused.exception))

    def holders(self, server, name, holds):
        index = None
        for _ in range(300):
            version, index = server.look(f"/v1/functions/{name}/versions/1", index, 1000)
            nodes = {node["name"] for node in version["nodes"]}
            if holds(nodes):
                return
        raise AssertionError(f"{name} is on {nodes}")


class Growth(unittest.TestCase):
    """A node that joins is what a machine has waited for."""

    def test_a_node_that_joins_takes_what_waits(self):
        if why_not():
            self.skipTest(why_not())
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="blixard-grow-")))
        cluster = self.enterContext(Cluster(1, here=True))
        cluster.form(servers=1)
        first = cluster[0]
        blank = folder / "blank.raw"
        blank.write_bytes(BLANK)
        first.cli("image", "import", "blank", "--disk", blank, "--no-agent")
        self.enterContext(machines_of(first.folder))
        first.cli("vm", "create", "one-1", *SMALL, "--constraint", "distinct_hosts")
        self.assertEqual(first.cli("vm", "create", "one-2", *SMALL, "--constraint", "distinct_hosts", check=False).returncode, 75)
        second = cluster.add()
        cluster.join(second)
        self.enterContext(machines_of(second.folder))
        index = None
        for _ in range(200):
            machine, index = first.look("/v1/machines/one-2", index, 2000)
            if machine["state"] == "running":
                break
        self.assertEqual((machine["state"], machine["node"]), ("running", second.name))


if __name__ == "__main__":
    unittest.main()
