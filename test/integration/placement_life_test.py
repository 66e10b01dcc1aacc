"""What becomes of machines that are placed: rebalancing, taints that drive away, machines that are displaced.

The machines are QEMU's with a boot sector that halts and no agent, as in placement_test.py.
"""
import functools
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import time
import unittest

from cluster import Cluster
from hosts import need_hosts
from machines import BLANK, DEAF, machines_of

PLAIN_ONLY = "the time goes to waiting for elections, leases and nodes that begin again"

GIB = 1 << 30
LOOKS = 400


class PlacementLife(unittest.TestCase):
    arguments = ()

    @classmethod
    def setUpClass(cls):
        if not shutil.which("qemu-system-x86_64"):
            raise unittest.SkipTest("there is no qemu-system-x86_64")
        folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="blixard-life-")))
        cls.cluster = Cluster(3, here=True, arguments=(*cls.arguments, *DEAF))
        cls.addClassCleanup(cls.cluster.close)
        cls.cluster.form(servers=3)
        cls.enterClassContext(machines_of(*(server.folder for server in cls.cluster.servers)))
        cls.a, cls.b, cls.c = cls.cluster.servers
        blank = folder / "blank.raw"
        blank.write_bytes(BLANK)
        cls.a.cli("image", "import", "blank", "--disk", blank, "--no-agent")
        for server, zone in ((cls.a, "north"), (cls.b, "middle"), (cls.c, "south")):
            cls.a.cli("node", "label", server.name, f"zone={zone}")
        index = None
        while True:
            nodes, index = cls.a.look("/v1/nodes", index, 2000)
            if all(node["attributes"].get("memory_bytes") for node in nodes["nodes"]):
                break
        has = nodes["nodes"][0]["attributes"]
        cls.most = (has["memory_bytes"] - has["reserved"]["memory_bytes"]) // GIB

    def tearDown(self):
        for machine in self.machines():
            self.a.cli("vm", "delete", machine["name"])

    def machines(self):
        return self.a.get("/v1/machines")["machines"]

    def until(self, name, holds, what):
        index = None
        for _ in range(LOOKS):
            machine, index = self.a.look(f"/v1/machines/{name}", index, 2000)
            if holds(machine):
                return machine
        raise AssertionError(f"{name}: never {what}: {machine}")

    def until_at(self, name, server):
        return self.until(name, lambda machine: (machine["state"], machine["node"]) == ("running", server.name), f"running at {server.name}")

    def create(self, name, *words):
        self.a.cli("vm", "create", name, "--image", "blank", "--disk", "16MiB", *words)

    def explain(self, name, server=None):
        return json.loads((server or self.a).cli("placement", "explain", name, "--output", "json"))


class Rebalancing(PlacementLife):
    def plan(self):
        return json.loads(self.a.cli("cluster", "rebalance", "--dry-run", "--output", "json"))

    def until_planned(self, moves):
        """The plan is of what the nodes last said of themselves, which on a busy machine may be a while ago."""
        index = None
        for _ in range(LOOKS):
            planned = [(move["machine"], move["to"]) for move in self.plan()["moves"]]
            if planned == moves:
                return
            _, index = self.a.look("/v1/nodes", index, 2000)
        self.assertEqual(planned, moves)

    def test_a_move_keeps_to_all_rules_of_what_moves(self):
        """A node with three quarters of its memory given away, the others empty; only who may go elsewhere does."""
        size = f"{self.most // 4}GiB"
        self.create("south", "--memory", size, "--constraint", "zone=south")
        self.create("stays", "--memory", size, "--node", self.c.name, "--rebalance", "never")
        self.create("named", "--memory", size, "--node", self.c.name)
        self.assertEqual({machine["node"] for machine in self.machines()}, {self.c.name})
        plan = self.plan()
        self.assertEqual(plan["moves"], [])
        self.assertGreater(plan["spread_before"], 0.6)
        self.a.cli("vm", "set", "named", "--constraint", "zone!=north")
        self.a.cli("node", "taint", self.b.name, "kept:NoSchedule")
        try:
            self.assertEqual(self.plan()["moves"], [])
            self.a.cli("vm", "set", "named", "--toleration", "kept")
            self.until_planned([("default/named", self.b.name)])
            self.a.cli("cluster", "rebalance")
            self.until_at("named", self.b)
            self.a.cli("vm", "set", "named", "--constraint", "zone!=middle")
            plan = self.plan()
            self.assertEqual(([rest["machine"] for rest in plan["resting"]], plan["moves"]), (["default/named"], []))
            self.assertRegex(self.b.cli("cluster", "rebalance", "--dry-run"), r"default/named moved at .* rests until ")
        finally:
            self.a.cli("node", "taint", self.b.name, "kept-")
        self.assertEqual({self.a.get(f"/v1/machines/{name}")["node"] for name in ("south", "stays")}, {self.c.name})


class Automatic(PlacementLife):
    arguments = ("--rebalance-every-ms", "2000", "--rebalance-threshold-percent", "30", "--rebalance-batch", "1")

    def test_the_cluster_evens_out_by_itself_and_then_rests(self):
        size = f"{self.most // 4}GiB"
        for number in range(3):
            self.create(f"pile-{number}", "--memory", size, "--node", self.a.name)
        for number in range(3):
            self.a.cli("vm", "set", f"pile-{number}", "--constraint", "none")
        index = None
        for _ in range(LOOKS):
            listed, index = self.a.look("/v1/machines", index, 2000)
            if {machine["node"] for machine in listed["machines"]} == {server.name for server in self.cluster.servers}:
                break
        else:
            self.fail(f"they stay together: {listed}")
        moves = [operation for operation in self.a.get("/v1/operations")["operations"] if operation["kind"] == "cluster.rebalance"]
        self.assertEqual(len(moves), 2, "one machine each, and none for a difference below the threshold")


class DrivenAway(PlacementLife):
    def leaves_at(self, name, server=None):
        """Once its node has said so."""
        index = None
        for _ in range(LOOKS):
            explained = self.explain(name, server)
            if "leaves_at" in explained:
                return explained["leaves_at"]
            _, index = self.a.view(index, 200)
        raise AssertionError(f"{name} does not leave: {explained}")

    def test_the_time_that_is_tolerated_is_kept_when_the_daemon_begins_anew(self):
        self.create("guest", "--memory", "64MiB", "--node", self.c.name, "--toleration", "noisy:NoExecute:3600")
        self.a.cli("node", "taint", self.c.name, "noisy:NoExecute")
        try:
            before = self.leaves_at("guest")
            self.c.stop()
            self.c.start()
            self.c.wait_ready()
            self.cluster.settled()
            self.create("probe", "--memory", "64MiB", "--node", self.c.name, "--toleration", "noisy")  # it decides again
            self.assertEqual(self.leaves_at("guest", self.c), before)
            self.assertEqual(self.a.get("/v1/machines/guest")["node"], self.c.name)
            self.a.cli("vm", "set", "guest", "--toleration", "noisy:NoExecute:1", "--constraint", "zone=north")
            self.until_at("guest", self.a)
        finally:
            self.a.cli("node", "taint", self.c.name, "noisy-")

    def test_who_found_no_other_node_stays_when_the_taint_is_gone(self):
        self.create("guest", "--memory", "64MiB", "--constraint", "zone=south")
        self.a.cli("node", "taint", self.c.name, "noisy:NoExecute")
        self.leaves_at("guest")
        self.a.cli("node", "taint", self.c.name, "noisy-")
        self.a.cli("vm", "set", "guest", "--constraint", "none")
        index = None
        for _ in range(LOOKS):
            if "leaves_at" not in self.explain("guest"):
                break
            _, index = self.a.view(index, 200)
        # Nothing of the taint is left that would keep it from being moved by something else.
        self.a.cli("node", "drain", self.c.name)
        try:
            self.assertNotEqual(self.a.get("/v1/machines/guest")["node"], self.c.name)
        finally:
            self.a.cli("node", "restore", self.c.name)


@unittest.skipIf(len(os.sched_getaffinity(0)) < 2, "needs two CPUs")
class OwnCpus(PlacementLife):
    def until_on(self, name, holds, what):
        """The CPUs that the kernel has for its VMM, once it is so."""
        index = None
        for _ in range(LOOKS):
            shown = self.a.get(f"/v1/machines/{name}")
            if holds(shown):
                return shown
            _, index = self.a.view(index, 200)
        raise AssertionError(f"{name}: never {what}: {shown}")

    def node_of_c(self):
        return next(node for node in self.a.get("/v1/nodes")["nodes"] if node["name"] == self.c.name)

    def numa_nodes(self):
        return self.node_of_c()["attributes"]["numa"]

    def threads_of(self, pid):
        """{name of a thread: [the CPUs that each one called so may run on]}, of the kernel."""
        found = {}
        for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
            allowed = re.search(r"^Cpus_allowed_list:\s+(\S+)$", (task / "status").read_text(), re.M).group(1)
            found.setdefault((task / "comm").read_text().strip(), []).append(allowed)
        return found

    def check_own(self, own):
        """Each vCPU's thread is on its CPU alone, every other one of its VMM on those that are nobody's."""
        self.assertIn(own["pinned_by"], ("cpuset", "affinity"))
        self.assertEqual([vcpu["vcpu"] for vcpu in own["vcpus"]], list(range(own["cpus"])))
        own_cpus = [vcpu["cpus"] for vcpu in own["vcpus"]]
        self.assertEqual(set(map(int, own_cpus)), cpus_of(own["runs_on_cpus"]))
        self.assertEqual(len(set(own_cpus)), own["cpus"])
        threads = self.threads_of(own["vmm_pid"])
        for name, allowed in threads.items():
            vcpu = re.match(r"CPU (\d+)/", name)
            expected = own_cpus[int(vcpu.group(1))] if vcpu else own["emulator_cpus"]
            self.assertEqual(set(allowed), {expected}, name)
        self.assertEqual(sum(name.startswith("CPU ") for name in threads), own["cpus"])

    def test_who_has_cpus_of_its_own_runs_on_them_and_nobody_else_does(self):
        small = ("--memory", "64MiB", "--node", self.c.name)
        self.create("other", *small)
        self.create("own", *small, "--dedicated-cpus", "yes")
        own = self.until_on("own", lambda shown: shown.get("has_own_cpus"), "on its own")
        self.check_own(own)
        self.assertFalse(cpus_of(own["emulator_cpus"]) & cpus_of(own["runs_on_cpus"]))
        cpus = lambda shown: cpus_of(shown["runs_on_cpus"]) if "runs_on_cpus" in shown else None
        self.until_on("other", lambda shown: cpus(shown) is not None and not cpus(shown) & cpus(own), "on the others")
        shown = self.a.cli("vm", "show", "own")
        self.assertRegex(shown, rf"vcpus +0 on {own['runs_on_cpus']}\n")
        here = next(node for node in self.explain("own")["nodes"] if node["name"] == self.c.name)
        self.assertEqual([part["score"] for part in here["parts"] if part["name"] == "numa"], [1])
        if own["pinned_by"] == "cpuset":
            self.assertEqual(own["memory_binding"], "bound")
            self.assertIn(own["memory_nodes"], [str(numa["number"]) for numa in self.numa_nodes()])
        free = {cpu for numa in self.node_of_c()["allocated"]["numa"] for cpu in cpus_of(numa["cpus"])}
        self.assertEqual(free, set(range(os.cpu_count())) - cpus(own))
        self.assertRegex(self.a.cli("node", "show", self.c.name), r"numa 0 +CPUs \S+, free \S+; memory [\d.]+ GiB, free [\d.]+\n")

        # They are the same after the daemon was away, for it and for who comes then.
        self.c.stop()
        self.c.start()
        self.c.wait_ready()
        self.cluster.settled()
        again = self.until_on("own", lambda shown: "runs_on_cpus" in shown, "pinned")
        self.assertEqual((again["vcpus"], again["vmm_pid"]), (own["vcpus"], own["vmm_pid"]))
        self.check_own(again)
        self.a.cli("vm", "delete", "other")
        self.create("second", *small, "--dedicated-cpus", "yes")
        second = self.until_on("second", lambda shown: shown.get("has_own_cpus"), "on its own")
        self.assertFalse(cpus(second) & cpus(own))
        if os.cpu_count() == 2:  # nothing is left for the other threads: they are beside their vCPUs
            own = self.until_on("own", lambda shown: shown.get("emulator_cpus") == shown.get("runs_on_cpus"), "all on its own")
            self.check_own(own)
        self.a.cli("vm", "delete", "second")
        self.create("other", *small)
        self.until_on("other", lambda shown: cpus(shown) is not None and not cpus(shown) & cpus(own), "on the others")
        self.a.cli("vm", "delete", "own")
        self.until_on("other", lambda shown: cpus(shown) == set(range(os.cpu_count())), "on all")


def cpus_of(text):
    """{0, 1, 4} of "0-1,4"."""
    found = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found


class Lying(unittest.TestCase):
    def test_a_node_that_says_what_cannot_be_gets_nothing_until_it_says_something_else(self):
        if not shutil.which("qemu-system-x86_64"):
            self.skipTest("there is no qemu-system-x86_64")
        need_hosts()
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="blixard-lie-")))
        lie, blank = folder / "meminfo", folder / "blank.raw"
        lie.write_text(re.sub(r"MemTotal: .*", "MemTotal: 990000000000 kB", pathlib.Path("/proc/meminfo").read_text()))
        blank.write_bytes(BLANK)
        cluster = self.enterContext(Cluster(2, here=True))
        first, second = cluster.form(servers=1).servers
        self.enterContext(machines_of(*(server.folder for server in cluster.servers)))
        first.cli("image", "import", "blank", "--disk", blank, "--no-agent")

        def memory_is(holds):
            index = None
            for _ in range(LOOKS):
                nodes, index = first.look("/v1/nodes", index, 2000)
                if holds(next(node for node in nodes["nodes"] if node["name"] == second.name)["attributes"].get("memory_bytes", 0)):
                    return
            self.fail(f"{second.name} never says so: {nodes}")

        create = ("--image", "blank", "--memory", "64MiB", "--disk", "16MiB", "--node", second.name)
        memory_is(lambda size: size > 0)
        self.assertIn("running", first.cli("vm", "create", "before", *create))
        second.stop()
        second.start(wrap=("unshare", "--mount", "sh", "-c", f'mount --bind {lie} /proc/meminfo; exec "$@"', "sh")).wait_ready()
        cluster.settled()
        memory_is(lambda size: size > 1 << 48)
        self.assertEqual(first.cli("vm", "create", "meanwhile", *create, check=False).returncode, 75)
        self.assertEqual(first.get("/v1/machines/before")["state"], "running")
        second.stop()
        second.start().wait_ready()
        cluster.settled()
        index = None
        for _ in range(LOOKS):
            machine, index = first.look("/v1/machines/meanwhile", index, 2000)
            if machine["state"] == "running":
                break
        self.assertEqual((machine["state"], machine["node"]), ("running", second.name))


class Foreseen(unittest.TestCase):
    def test_a_node_that_will_be_busy_gets_nothing_while_another_one_is_like_it(self):
        """Two nodes of one machine that is kept busy; one of them reads another /proc/stat, in which nothing happens."""
        if not shutil.which("qemu-system-x86_64"):
            self.skipTest("there is no qemu-system-x86_64")
        need_hosts()
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="blixard-peak-")))
        idle, blank = folder / "stat", folder / "blank.raw"
        idle.write_text(pathlib.Path("/proc/stat").read_text())
        blank.write_bytes(BLANK)
        cluster = self.enterContext(Cluster(2, here=True))
        busy, quiet = cluster.servers
        burning = subprocess.Popen(["sh", "-c", "while :; do :; done"])
        self.addCleanup(burning.wait)
        self.addCleanup(burning.kill)
        quiet.start = functools.partial(quiet.start, wrap=("unshare", "--mount", "sh", "-c", f'mount --bind {idle} /proc/stat; exec "$@"', "sh"))
        cluster.form(servers=1)
        self.enterContext(machines_of(*(server.folder for server in cluster.servers)))
        busy.cli("image", "import", "blank", "--disk", blank, "--no-agent")
        create = ("vm", "create", "probe", "--image", "blank", "--memory", "64MiB", "--disk", "16MiB")
        # What the nodes have else (the image is at the busy one) does not count; then nothing but the forecast tells them apart.
        busy.cli("placement", "strategy", "spread", "--weight", "local=0")
        busy.cli(*create)

        def loads():
            explained = json.loads(busy.cli("placement", "explain", "probe", "--output", "json"))
            return {node["name"]: next((part["score"] for part in node.get("parts", ()) if part["name"] == "load"), 0) for node in explained["nodes"]}

        index = None
        end = time.monotonic() + 240
        while not loads().get(busy.name, 0) < -0.05:
            self.assertLess(time.monotonic(), end, loads())
            _, index = busy.view(index, 500)
        self.assertEqual(loads()[quiet.name], 0)
        for _ in range(8):  # without it each of the two would get about half of them
            busy.cli("vm", "delete", "probe")
            busy.cli(*create)
            self.assertEqual(busy.get("/v1/machines/probe")["node"], quiet.name)


class Displaced(PlacementLife):
    def test_who_is_displaced_goes_on_at_another_node(self):
        """Its disk moves to where there is room, and it is started there."""
        size = f"{self.most - 1}GiB"
        self.create("low", "--memory", size, "--priority", "10", "--constraint", "zone=south", "--strategy", "Manual")
        self.a.cli("vm", "start", "low")
        self.a.cli("vm", "set", "low", "--constraint", "none")
        self.create("high", "--memory", size, "--priority", "90", "--constraint", "zone=south")
        self.until_at("high", self.c)
        low = self.a.get("/v1/machines/low")
        self.assertFalse(low["node"] == self.c.name and "vmm_pid" in low, "both run, and there is room for one")
        low = self.until("low", lambda machine: machine["node"] != self.c.name, "elsewhere")
        self.until("low", lambda machine: machine["state"] == "running", "running again")
        kinds = [decision["kind"] for decision in self.explain("low")["decisions"]]
        self.assertEqual(kinds.count("displaced"), 1, kinds)
        self.assertIn("moved", kinds)
        self.assertNotEqual(low["node"], self.c.name)


if __name__ == "__main__":
    unittest.main()
