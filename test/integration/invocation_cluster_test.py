"""Asynchronous invocations on three nodes: what was accepted runs, whoever dies."""
import collections
import concurrent.futures
import http.client
import json
import os
import pathlib
import random
import subprocess
import tempfile
import threading
import time
import unittest

from cluster import Cluster
from torture import keys_of, state_of

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
ARGUMENTS = [] if "ASAN_OPTIONS" in os.environ else ["--isolation", "process"]  # what the sanitizer leaves


class Surviving(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="blixard-invocations-")
        cls.addClassCleanup(cls.folder.cleanup)
        cls.module = pathlib.Path(cls.folder.name) / "busy.wasm"
        source = pathlib.Path(cls.folder.name) / "busy.c"
        # Input "slow": as long as it takes; else the input comes back.
        source.write_text("#include <string.h>\n#include <unistd.h>\n"
                          "int main(void) { static char b[512]; long n = read(0, b, sizeof(b)); volatile long x = 0;\n"
                          " if (n == 4 && memcmp(b, \"slow\", 4) == 0) for (long long i = 0; i < 20000000000; i++) x += i;\n"
                          " write(1, b, n); return 0; }\n")
        subprocess.run(["clang-14", "--target=wasm32-wasi", "-O1", "-o", cls.module, source], check=True)

    def begin(self, server, body, prefer=""):
        status, answer, _ = server.ask("POST", "/v1/functions/busy/invocations", body,
                                       {"Prefer": "respond-async" + prefer})
        self.assertEqual(status, 202, answer)
        return json.loads(answer)["id"]

    def end_of(self, server, name):
        while True:
            document = server.get(f"/v1/invocations/{name}/wait?timeout=30s", timeout=60)
            if document["state"] not in ("pending", "running"):
                return document

    def attempt_two(self, server, name):
        """Another node has gone on with it.  This one has heard of it for sure, too, before it is asked what it knows."""
        server.get(f"/v1/invocations/{name}?consistency=linearizable", timeout=60)
        index = None
        while True:
            document, index = server.look(f"/v1/invocations/{name}", index, 5000)
            if document["attempts"] >= 2:
                return document

    def test_what_a_node_accepted_runs_elsewhere_when_it_dies(self):
        with Cluster(3, "invocations", ARGUMENTS) as cluster:
            cluster.form()
            cluster[0].deploy("busy", self.module.read_bytes(), timeout_ms=600000)
            cluster.same_index()
            for victim in (next(server for server in cluster.servers if server is not cluster.leader()),
                           cluster.leader()):
                others = [server for server in cluster.servers if server is not victim]
                quick = [self.begin(victim, b"q%d" % number) for number in range(10)]
                slow = self.begin(victim, b"slow", ", retries=0")
                victim.kill()
                for number, name in enumerate(quick):
                    ended = self.end_of(others[0], name)
                    self.assertEqual((ended["state"], ended["response"]["body"]), ("succeeded", f"q{number}"))
                self.assertGreaterEqual(self.attempt_two(others[1], slow)["attempts"], 2)
                others[1].call("DELETE", f"/v1/invocations/{slow}")
                self.assertEqual(self.end_of(others[0], slow)["state"], "cancelled")
                victim.start().wait_ready()
                cluster.settled()

    def ask_until_taken(self, cluster, key, server, ids):
        """Of any node, the first time of `server`, until one has taken it; the ids are noted."""
        chance = random.Random(f"{key}/{server.name}")
        while True:
            try:
                status, answer, _ = server.ask("POST", "/v1/functions/busy/invocations", key,
                                               {"Prefer": "respond-async", "Idempotency-Key": key}, timeout=2)
                if status == 202:
                    ids[key].add(json.loads(answer)["id"])
                    return
                self.assertIn(json.loads(answer)["code"], ("unknown_outcome", "unavailable"), answer)
            except (OSError, http.client.HTTPException):
                pass
            server = chance.choice(cluster.running() or cluster.servers)

    def test_a_key_is_one_invocation_whichever_nodes_are_asked_and_die(self):
        """Two nodes are asked at once for each key, again after each failure, while leaders and others are killed and cut off."""
        with Cluster(3, "keys", ARGUMENTS) as cluster:
            cluster.form()
            cluster[0].deploy("busy", self.module.read_bytes())
            cluster.same_index()
            ids = collections.defaultdict(set)
            over = threading.Event()

            def work(number):
                count = 0
                while not over.is_set():
                    count += 1
                    pair = random.sample(cluster.servers, 2)
                    with concurrent.futures.ThreadPoolExecutor(2) as both:
                        for done in [both.submit(self.ask_until_taken, cluster, f"{number}-{count}", server, ids) for server in pair]:
                            done.result()

            with concurrent.futures.ThreadPoolExecutor(3) as workers:
                running = [workers.submit(work, number) for number in range(3)]
                try:
                    for fault in ("kill", "unplug", "pause"):
                        victim = cluster.leader() if fault != "pause" else cluster[1]
                        self.during(victim, fault, ids)
                finally:
                    over.set()
                for done in running:
                    done.result()
            cluster.settled()
            self.assertEqual({key: found for key, found in ids.items() if len(found) > 1}, {})
            for key, (name,) in ids.items():
                ended = self.end_of(cluster[0], name)
                self.assertEqual((ended["state"], ended["response"]["body"]), ("succeeded", key))
            self.assertEqual(set(keys_of(state_of(cluster[0]), "invocation")), {name for found in ids.values() for name in found})

    def during(self, victim, fault, ids):
        """Until ten keys more were taken while it is so, and ten after it."""
        {"kill": victim.kill, "unplug": victim.host.unplug, "pause": victim.pause}[fault]()
        self.more(ids)
        if fault == "kill":
            victim.start().wait_ready()
        else:
            {"unplug": victim.host.plug, "pause": victim.resume}[fault]()
        self.more(ids)

    def more(self, ids):
        wanted = len(ids) + 10
        end = time.monotonic() + 60
        while len(ids) < wanted:
            self.assertLess(time.monotonic(), end, "no key is taken any more")
            threading.Event().wait(0.05)
