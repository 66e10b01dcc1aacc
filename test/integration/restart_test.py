"""What nodes that were away say when they are back: the truth, at once."""
import contextlib
import unittest

from cluster import PORT, READY_SECONDS, Cluster

PLAIN_ONLY = "the time goes to waiting for elections and for nodes that begin again"

ARGUMENTS = ["--isolation", "process"]
GIVEN_UP_SECONDS = 10  # TCP itself would be told to at half a minute, which is more than this and what a lost node takes
KEY = "/v1/kv/test/newest"


def write_many(server, count, first=0):
    """One value after the other under one key; the last one."""
    with contextlib.closing(server.api()) as api:
        for n in range(first, first + count):
            api.call("PUT", KEY, b"%d" % n)
    return str(first + count - 1)


def wait_waiting(server):
    """Until it says to systemd that its start takes longer."""
    server.notify.settimeout(READY_SECONDS)
    while b"EXTEND_TIMEOUT" not in server.notify.recv(4096):
        pass


def health_of(view, server):
    return next(node["health"] for node in view["nodes"] if node["name"] == server.name)


def unconfirmed(server, other):
    """Connections of a node with another that have something on them which the other has not confirmed."""
    said = server.host.run("ss", "-Htn", "state", "established", "dst", other.host.address, "dport", "=", f":{PORT}")
    return [line for line in said.splitlines() if int(line.split()[1]) > 0]


class Restarted(unittest.TestCase):
    def test_a_node_that_says_it_is_ready_has_what_was_acknowledged_while_it_was_away(self):
        """Servers and a worker, stopped or killed; the read is one of this replica."""
        with Cluster(4, "away", ARGUMENTS) as cluster:
            cluster.form()
            written = 0
            for end in ("stop", "kill"):
                for server in cluster.servers:
                    getattr(server, end)()
                    newest = write_many(cluster.leader(), 100, written)
                    written += 100
                    server.start().wait_ready()
                    with self.subTest(end=end, node=server.name):
                        self.assertEqual(server.get(KEY), newest)
                    cluster.settled()

    def test_a_node_that_finds_no_leader_serves_what_it_has_and_says_so(self):
        with Cluster(3, "alone", ARGUMENTS) as cluster:
            cluster.form()
            newest = write_many(cluster.leader(), 10)
            cluster.same_index()
            first, *others = cluster.servers
            for server in others:
                server.kill()
            first.stop()
            first.start().wait_ready()
            self.assertEqual(first.get(KEY), newest)
            self.assertIn("may be older than that of the others", first.said())
            self.assertEqual(first.stop(), 0)

    def test_a_worker_that_waits_for_a_state_ends_when_it_is_told_to(self):
        """It was killed before it had a copy of its own, and nobody gives it one."""
        with Cluster(4, "waiting", ARGUMENTS) as cluster:
            cluster.form()
            roles = {node["name"]: node["role"] for node in cluster[0].view()[0]["nodes"]}
            worker = next(server for server in cluster.servers if roles[server.name] == "worker")
            for server in cluster.servers:
                server.kill()
            worker.start(env={"MALLOC_PERTURB_": "165"})  # what is freed is not what it was
            wait_waiting(worker)
            self.assertEqual(worker.stop(), 0, worker.said())


class Unplugged(unittest.TestCase):
    def test_no_connection_of_before_is_waited_for_when_a_cable_is_in_again(self):
        """TCP repeats what is not confirmed after ever longer pauses, so that servers would go on for as long as the cable was out without
        the one that is back.  They have given up what they said to it before it even counts as lost, and begin anew."""
        with Cluster(3, "cable", ARGUMENTS) as cluster:
            cluster.form()
            leader = cluster.leader()
            away = next(server for server in cluster.servers if server is not leader)
            away.host.unplug()
            leader.until(lambda view: health_of(view, away) == "lost", "node that is lost")
            leader.until(lambda view: not unconfirmed(leader, away), "end of the connections with it", GIVEN_UP_SECONDS)
            newest = write_many(leader, 10)
            away.host.plug()
            away.until(lambda view: away.get("/v1/kv/test/newest?consistency=linearizable") == newest, "newest value")
            cluster.settled()


if __name__ == "__main__":
    unittest.main()
