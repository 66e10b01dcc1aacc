"""Nodes that are lost: what starts elsewhere does so once nothing of it runs any more, the rest waits."""
import fcntl
import glob
import os
import pathlib
import tempfile
import time
import unittest

from cluster import Cluster
from hosts import need_hosts
from machines import kernel_flags, machines_of, root_archive, why_not

PLAIN_ONLY = "the time goes to waiting for elections, leases and nodes that begin again"

FENCED_SECONDS = 120  # 24 by the clocks; hosts of tests are slow


def runs(folder):
    """Does a monitor hold the lock of a machine's folder?"""
    try:
        with open(f"{folder}/lock", "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True


class NodeLoss(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        reason = why_not()
        if reason:
            raise unittest.SkipTest(reason)
        need_hosts()
        cls.folder = cls.enterClassContext(tempfile.TemporaryDirectory(prefix="blixard-loss-"))
        cls.cluster = Cluster(3)
        cls.addClassCleanup(cls.cluster.close)
        cls.cluster.form(servers=3)
        cls.enterClassContext(machines_of(*(server.folder for server in cls.cluster.servers)))
        root = pathlib.Path(cls.folder) / "root.tar.gz"
        root.write_bytes(root_archive())
        pathlib.Path(cls.folder, "own.tar.gz").write_bytes(root_archive({"etc/own": b"another content"}))
        cls.cluster[0].cli("image", "import", "small", "--root", root, *kernel_flags())

    def create(self, server, name, node, *more, image="small"):
        server.cli("vm", "create", name, "--image", image, "--memory", "128MiB", "--disk", "64MiB", "--node", node.name, "--no-wait", *more)
        machine = self.wait_for(server, name, lambda machine: machine["state"] in ("starting", "running"), "start")
        folder = f"{node.folder}/machines/{machine['id']}"
        self.await_(lambda: runs(folder), f"the VMM of {name}", server)
        return machine["id"], folder

    def await_(self, holds, what, server):
        """What no event of the API tells of: looked at when the state changes, and a few times a second."""
        end = time.monotonic() + FENCED_SECONDS
        index = None
        while not holds():
            self.assertLess(time.monotonic(), end, what)
            _, index = server.view(index, 200)

    def operation(self, server, name):
        return next(operation for operation in server.get("/v1/operations")["operations"] if operation["resource"] == f"machines/{name}")

    def image(self, server, name):
        return server.get(f"/v1/images/{name}")

    def machine(self, server, name):
        return next(machine for machine in server.get("/v1/machines")["machines"] if machine["name"] == name)

    def wait_for(self, server, name, holds, what):
        self.await_(lambda: holds(self.machine(server, name)), f"{name}: {what}", server)
        return self.machine(server, name)

    def starts_elsewhere(self, seen_by, lost, name, folder):
        """Until its row is another node's; then nothing of it may run where it was."""
        machine = self.wait_for(seen_by, name, lambda machine: machine["node"] != lost.name, "another node")
        self.assertFalse(runs(folder), "two copies")
        return machine

    def what_is_asked_at_once_says_so(self, first, lost):
        done = first.cli("vm", "stop", "hopeless", check=False)
        self.assertEqual(done.returncode, 69, done.stderr)
        self.assertRegex(done.stderr, f"node {lost.name} does not answer .*node list|its node {lost.name} has been lost")
        shown = first.cli("vm", "show", "hopeless")  # the state knows it
        self.assertRegex(shown, f"so it was when it was last heard of: node {lost.name} does not answer|is lost")

    def what_is_asked_of_it_says_so(self, first, lost, folder):
        for server in self.cluster.running():
            for words in (("stop", "hopeless"), ("exec", "hopeless", "--", "ls"), ("delete", "hopeless")):
                done = server.cli("vm", *words, check=False)
                self.assertEqual(done.returncode, 69, done.stderr)
                self.assertRegex(done.stderr, f"machine hopeless: its node {lost.name} has been lost for [0-9]+ (s|min)")
                self.assertIn("vm delete hopeless --force", done.stderr)
            self.assertIn("is lost", server.cli("vm", "show", "hopeless"))
        done = first.cli("node", "remove", lost.name, check=False)
        self.assertEqual(done.returncode, 75, done.stderr)
        self.assertIn("still has machines", done.stderr)
        self.assertTrue(runs(folder), "nothing has ended it")
        follower = next(server for server in self.cluster.running() if server is not self.cluster.leader())
        follower.cli("vm", "delete", "hopeless", "--force")
        self.assertNotIn("hopeless", first.cli("vm", "list"))

    def what_drains_it_ends(self, first, lost, drain):
        ended = first.get(f"/v1/operations/{drain}/wait?timeout=60s", timeout=90)
        self.assertEqual(ended["state"], "failed", ended)
        self.assertIn("the node is lost", ended["error"])
        self.assertEqual(self.machine(first, "waits")["desired"], "running")
        first.until(lambda view: any((n["name"], n["duty"]) == (lost.name, "cordoned") for n in view["nodes"]), "the cordon")
        done = first.cli("node", "restore", lost.name, check=False)
        self.assertEqual(done.returncode, 69, done.stderr)
        self.assertIn("nothing can come back to it", done.stderr)
        first.cli("node", "restore", lost.name, "--stay")

    def test_a_machine_that_leaves_two_nodes_comes_back_to_the_first(self):
        first = self.cluster[0]
        self.cluster.settled()
        self.create(first, "nomad", self.cluster[1], "--eviction-strategy", "restart")
        first.cli("node", "drain", "n2")
        second = self.machine(first, "nomad")["node"]
        first.cli("node", "drain", second)
        self.assertNotIn(self.machine(first, "nomad")["node"], ("n2", second))
        first.cli("node", "restore", second)
        self.assertNotIn(self.machine(first, "nomad")["node"], ("n2", second))
        first.cli("node", "restore", "n2")
        self.assertEqual(self.machine(first, "nomad")["node"], "n2")
        first.cli("vm", "delete", "nomad")

    def test_a_node_that_is_killed(self):
        self.cluster.settled()
        first, leader = self.cluster[0], self.cluster.leader()
        lost = next(server for server in self.cluster.servers[1:] if server is not leader)
        # The image of what starts elsewhere was imported at the node that is lost: by then another one has it.
        lost.cli("image", "import", "own", "--root", pathlib.Path(self.folder) / "own.tar.gz", *kernel_flags())
        _, anew = self.create(first, "anew", lost, "--node-loss", "restart-fresh", image="own")
        self.await_(lambda: len(self.image(first, "own")["nodes"]) >= 2, "a copy of its image", first)
        identity, waits = self.create(first, "waits", lost)
        _, hopeless = self.create(first, "hopeless", lost)
        lost.pause()
        first.cli("vm", "create", "gang", "--count", "2", "--all-or-nothing", "--image", "small", "--memory", "128MiB", "--disk", "64MiB",
                  "--node", lost.name, "--no-wait")
        drain = first.call("POST", f"/v1/nodes/{lost.name}/drain", {"force": True, "deadline_ms": 20000})["operation"]
        lost.kill()
        self.what_is_asked_at_once_says_so(first, lost)
        lost.is_paused = False
        self.wait_for(first, "waits", lambda machine: "waits for it" in (machine.get("reason") or ""), "its reason")
        for name in ("gang-1", "gang-2"):  # what was begun with them ends, and says why
            self.await_(lambda: self.operation(first, name)["state"] != "running", f"the end of {name}'s operation", first)
            self.assertIn(f"node {lost.name} is lost", self.operation(first, name)["error"])
        self.what_is_asked_of_it_says_so(first, lost, hopeless)
        self.starts_elsewhere(first, lost, "anew", anew)
        self.wait_for(first, "anew", lambda machine: machine["state"] in ("starting", "running"), "start from its image")
        others = {server.name for server in self.cluster.servers} - {lost.name}
        self.await_(lambda: others <= set(self.image(first, "own")["nodes"]), "one more copy in place of the lost one", first)
        self.assertTrue(runs(waits), "one that waits runs on")
        self.what_drains_it_ends(first, lost, drain)

        # It comes back: what became another's is put away, the other one is found again.
        lost.start()
        lost.wait_ready()
        self.await_(lambda: not os.path.exists(anew), "the old folder is put away", first)
        self.assertTrue(glob.glob(f"{lost.folder}/machines/replaced/*/disk.*"), "its disk is kept")
        self.assertTrue(runs(waits))
        self.await_(lambda: not os.path.exists(hopeless), "what was given up is put away", first)
        self.assertEqual(self.machine(first, "waits")["node"], lost.name)
        self.wait_for(first, "waits", lambda machine: "is lost" not in (machine.get("reason") or ""), "found again")
        for name in ("waits", "gang-1", "gang-2"):
            first.cli("vm", "delete", name)
        first.cli("vm", "delete", "anew")

    def test_a_node_that_is_cut_off(self):
        first, lost = self.cluster[0], self.cluster[1]
        self.cluster.settled()
        _, folder = self.create(first, "cut", lost)
        first.cli("vm", "set", "cut", "--node-loss", "restart-fresh")  # while it runs: fenced before it is said
        self.assertNotEqual(pathlib.Path(folder, "lease").read_bytes()[:8], b"\xff" * 8, "it has an end now")
        for other in (self.cluster[0], self.cluster[2]):
            lost.host.cut(other.host)
        among = [self.cluster[0], self.cluster[2]]
        self.cluster.leader(among=among)
        self.starts_elsewhere(first, lost, "cut", folder)
        self.cluster.network.heal()
        self.await_(lambda: not os.path.exists(folder), "the old folder is put away", lost)
        self.assertNotEqual(self.machine(lost, "cut")["node"], lost.name)
        first.cli("vm", "delete", "cut")


if __name__ == "__main__":
    unittest.main()
