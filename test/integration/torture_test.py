"""A cluster under load whose nodes are killed, paused, cut off and begun again loses nothing it acknowledged.

BLIXARD_TORTURE_CYCLES: how many faults (default: 30).
BLIXARD_TORTURE_SEED: which ones; each run prints its own.
"""
import hashlib
import os
import random
import unittest

import linearizability
from cluster import Cluster
from torture import Faults, Load, bytes_of, ended_badly, keys_of, rows_of, states_of


class Torture(unittest.TestCase):
    def torture(self, nodes, cycles):
        cycles = int(os.environ.get("BLIXARD_TORTURE_CYCLES", cycles))
        seed = os.environ.get("BLIXARD_TORTURE_SEED") or str(random.SystemRandom().randrange(1 << 32))
        print(f"BLIXARD_TORTURE_SEED={seed}: {nodes} nodes, {cycles} cycles", flush=True)
        with Cluster(nodes, "torture", ["--isolation", "process"]) as cluster:
            cluster.form()
            load = Load(cluster, seed)
            load.start()
            faults = Faults(cluster, seed, load)
            try:
                for _ in range(cycles):
                    faults.cycle()
                    self.assertEqual([f"{s.name}: {s.process.returncode}\n{s.said()}" for s in ended_badly(cluster)], [])
            finally:
                load.stop()
                print("\n".join(faults.told), flush=True)
            cluster.settled()
            self.judge(cluster, load)

    def judge(self, cluster, load):
        unknown = sum(operation.ended is None for operation in load.history)
        print(f"{load.acknowledged} writes acknowledged, {unknown} unknown, {len(load.history)} register operations, "
              f"refused {load.refused}", flush=True)
        states = states_of(cluster)
        for name, state in states.items():
            self.every_acknowledged_client_is_there(load, name, keys_of(state, "client"))
        rows = {name: hashlib.sha256(rows_of(state).encode()).hexdigest() for name, state in states.items()}
        self.assertEqual(len(set(rows.values())), 1, rows)
        for name, state in states.items():
            (cluster.root / f"{name}.sqlite").write_bytes(state)
        self.assertEqual(len(set(map(bytes_of, states.values()))), 1, "the rows are the same, the bytes are not")
        verdict = linearizability.check(load.history)
        self.assertIsNone(verdict, verdict)

    def every_acknowledged_client_is_there(self, load, name, clients):
        acknowledged = {client for client, known in load.clients.items() if known == "acknowledged"}
        self.assertEqual(acknowledged - set(clients), set(), f"lost at {name}")
        self.assertEqual(set(clients) - set(load.clients), set(), f"never asked for, at {name}")

    def test_three_nodes(self):
        self.torture(3, 30)

    def test_five_nodes(self):
        self.torture(5, 30)


if __name__ == "__main__":
    unittest.main()
