"""What befalls single nodes of a cluster, and what the others make of it."""
import contextlib
import errno
import pathlib
import random
import re
import subprocess
import unittest

from cluster import Cluster
from node import Refused
from torture import Load, bytes_of, keys_of, state_of, states_of

PLAIN_ONLY = "the time goes to waiting for elections, leases and nodes that begin again"

ARGUMENTS = ["--isolation", "process"]
FAKETIME = next(pathlib.Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


def preloaded(program):
    """libfaketime, where it can be had."""
    libraries = subprocess.run(["ldd", program], stdout=subprocess.PIPE, text=True, check=True).stdout
    if re.search(r"/lib[at]san\.so", libraries):
        raise unittest.SkipTest("libfaketime and the sanitizer's runtime wait for each other")
    return str(FAKETIME)


def node_of(view, name):
    return next((node for node in view["nodes"] if node["name"] == name), None)


def write_much(server, megabytes):
    """So much into the log, through the API: few large values, changed again and again."""
    with contextlib.closing(server.api()) as api:
        for n in range(megabytes * 16):
            api.call("PUT", f"/v1/kv/bulk/{n % 20}", random.randbytes(64 << 10))


def label(server, node, name, value):
    """Put a label on a node; asked again when it was decided from a state that was not the newest.  The write's index."""
    while True:
        status, data, fields = server.ask("PUT", f"/v1/nodes/{node}/labels/{name}", {"value": value})
        if status == 200:
            return int(fields["x-blixard-index"])
        if status != 409:
            raise Refused(status, data, fields)


class Case(unittest.TestCase):
    def assert_identical(self, cluster):
        states = {bytes_of(state) for state in states_of(cluster).values()}
        self.assertEqual(len(states), 1)


class Faults(Case):
    def test_writes_go_on_when_the_leader_is_killed_under_load(self):
        with Cluster(3, "leader", ARGUMENTS) as cluster:
            cluster.form()
            load = Load(cluster, random.SystemRandom().randrange(1 << 32))
            load.start()
            try:
                for _ in range(3):
                    leader = cluster.leader()
                    leader.kill()
                    self.assertTrue(load.wait_for(50, 30), "no write was acknowledged within 30 s")
                    leader.start().wait_ready()
                    cluster.settled()
            finally:
                load.stop()
            self.assert_identical(cluster)
            names = set(keys_of(state_of(cluster[0]), "client"))
            self.assertEqual({name for name, known in load.clients.items() if known == "acknowledged"} - names, set())

    def test_a_full_disk_on_one_server_does_not_stop_the_others(self):
        """The one that leads: it has to give that up as well."""
        with Cluster(3, "full", ARGUMENTS) as cluster:
            first, _, third = cluster.servers
            third.host.small_disk(third.folder, 96 << 20)
            cluster.form()
            first.call("PUT", "/v1/cluster/leader", {"node": third.name})
            first.until(lambda view: view["leader"] == third.name, "leader that was asked for")
            ballast = third.host.path(third.folder) / "ballast"
            with ballast.open("wb", buffering=0) as file, self.assertRaises(OSError) as full:
                while True:
                    file.write(bytes(1 << 16))
            self.assertEqual(full.exception.errno, errno.ENOSPC)
            others = cluster.servers[:2]
            for _ in range(12):  # until what it has reserved is full
                leader = cluster.leader()
                if leader is not third:
                    break
                with contextlib.suppress(Refused):
                    write_much(leader, 2)
            write_much(cluster.leader(among=others), 1)  # now certainly without it
            said = first.until(lambda view: node_of(view, third.name)["problems"] or node_of(view, third.name)["health"] != "healthy",
                               "trouble of the node with the full disk")
            print(node_of(said, third.name)["problems"], said["problems"], flush=True)
            self.assertNotEqual(said["leader"], third.name)
            ballast.unlink()
            if third.is_running():
                third.stop()
            else:
                third.wait()
            third.start().wait_ready()
            cluster.settled()
            self.assert_identical(cluster)

    def test_a_follower_that_was_away_for_long_is_caught_up_by_a_snapshot(self):
        with Cluster(3, "slow", ARGUMENTS) as cluster:
            cluster.form()
            leader = cluster.leader()
            slow = next(server for server in cluster.servers if server is not leader)
            slow.pause()
            write_much(leader, 30)  # more than 8 MiB: the log does not have its beginning any more
            slow.resume()
            cluster.settled()
            self.assert_identical(cluster)

    def test_a_node_that_was_removed_is_told_so_when_it_comes_back(self):
        with Cluster(4, "removed", ARGUMENTS) as cluster:
            cluster.form()
            first, _, third, fourth = cluster.servers
            third.stop()
            first.call("DELETE", f"/v1/nodes/{third.name}")
            third.start()
            self.assertNotEqual(third.wait(), 0)
            self.assertIn("removed", third.said())
            first.call("DELETE", f"/v1/nodes/{fourth.name}")  # while it runs
            self.assertNotEqual(fourth.wait(), 0)
            self.assertIn("removed", fourth.said())
            self.assertEqual({node["name"] for node in first.view()[0]["nodes"]}, {"n1", "n2"})

    def test_a_wrong_clock_is_named(self):
        if FAKETIME is None:
            self.skipTest("needs libfaketime: tools/bootstrap test")
        with Cluster(3, "clock", ARGUMENTS) as cluster:
            cluster.form()
            first, second, third = cluster.servers
            third.stop()
            third.start(env={"LD_PRELOAD": preloaded(third.program), "FAKETIME": "+30s", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}).wait_ready()
            for server in (first, second):
                view = server.until(lambda view: any("clock" in problem for problem in node_of(view, "n3")["problems"]), "wrong clock of n3")
                self.assertAlmostEqual(node_of(view, "n3")["clock_offset_ms"], 30000, delta=5000)
                self.assertEqual([node["name"] for node in view["nodes"] if any("clock" in p for p in node["problems"])], ["n3"])
            third.stop()
            third.start(env={"LD_PRELOAD": preloaded(third.program), "FAKETIME": "-3h", "FAKETIME_DONT_FAKE_MONOTONIC": "1"})
            third.until(lambda view: any("certificate was not made yet" in problem for problem in view["problems"]), "certificate that begins later")
            third.stop()
            third.start().wait_ready()
            first.until(lambda view: not any("clock" in problem for problem in node_of(view, "n3")["problems"]), "right clock of n3")

    def test_a_cluster_lives_with_a_slow_and_lossy_network(self):
        with Cluster(3, "lossy", ARGUMENTS) as cluster:
            for server in cluster.servers:
                server.host.shape(delay_ms=20, loss_percent=2)
            cluster.form()
            for n in range(20):
                cluster.servers[n % 3].call("POST", "/v1/clients", {"name": f"c{n}", "kind": "token"})
            self.assert_identical(cluster)


class Reading(Case):
    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster(3, "reading", ARGUMENTS)
        cls.addClassCleanup(cls.cluster.close)
        cls.cluster.form()

    def test_who_has_seen_an_index_reads_nothing_older_elsewhere(self):
        for n in range(50):
            writer, reader = random.sample(self.cluster.servers, 2)
            index = label(writer, "n1", "seen", str(n))
            self.assertEqual(reader.get(f"/v1/nodes/n1?index={index - 1}&wait=30s")["labels"]["seen"], str(n))

    def test_a_linearizable_read_sees_what_was_acknowledged_anywhere(self):
        for n in range(50):
            writer, reader = random.sample(self.cluster.servers, 2)
            label(writer, "n1", "line", str(n))
            self.assertEqual(reader.get("/v1/nodes/n1?consistency=linearizable")["labels"]["line"], str(n))

    def test_a_watch_goes_on_at_another_node(self):
        """Events from an index on are the same everywhere."""
        first = self.cluster[0]
        begin = first.view()[1]
        for n in range(5):
            label(first, f"n{n % 3 + 1}", "watched", str(n))
        end = self.cluster.same_index()
        label(first, "n1", "watched", "the end")
        told = {tuple(events(server, begin, end)) for server in self.cluster.servers}
        self.assertEqual(len(told), 1, told)
        self.assertGreaterEqual(len(told.pop()), 5)


def events(server, after, until):
    """The data lines of /v1/events between two indexes; something comes behind the second."""
    with contextlib.closing(server.api()) as api:
        api.request("GET", f"/v1/events?index={after}")
        answer = api.getresponse()
        found, index = [], after
        while True:
            line = answer.readline().decode().rstrip("\n")
            if line.startswith("id:"):
                index = int(line[3:])
            elif line.startswith("data:"):
                if index > until:
                    return found
                found.append(line)


if __name__ == "__main__":
    unittest.main()
