"""What nodes that were away say when they are back: the truth, at once."""
import unittest

from cluster import READY_SECONDS, Cluster

PLAIN_ONLY = "the time goes to waiting for elections and for nodes that begin again"

ARGUMENTS = ["--isolation", "process"]


def wait_waiting(server):
    """Until it says to systemd that its start takes longer."""
    server.notify.settimeout(READY_SECONDS)
    while b"EXTEND_TIMEOUT" not in server.notify.recv(4096):
        pass


class Restarted(unittest.TestCase):
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
