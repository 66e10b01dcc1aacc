"""What nodes that were away say when they are back: the truth, at once."""
import contextlib
import unittest

from cluster import READY_SECONDS, Cluster

PLAIN_ONLY = "the time goes to waiting for elections and for nodes that begin again"

ARGUMENTS = ["--isolation", "process"]
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


if __name__ == "__main__":
    unittest.main()
