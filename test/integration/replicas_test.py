"""What services really write makes the same state on every replica, byte by byte.

A daemon is asked for things at random, many of which it refuses; then its log is applied by replicas of different
histories (store_replay.c).
"""
import concurrent.futures
import json
import pathlib
import random
import re
import shutil
import subprocess
import tempfile
import unittest

from cluster import Cluster
from node import BUILD, Node, Refused

ECHO = """
#include <unistd.h>
int main(void) { char b[512]; long n; while ((n = read(0, b, sizeof(b))) > 0) { write(1, b, n); } return 0; }
"""
SEED = 20


class Replicas(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="blixard-replicas-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        source = cls.folder / "echo.c"
        source.write_text(ECHO)
        subprocess.run(["clang-14", "--target=wasm32-wasi", "-O1", "-o", cls.folder / "echo.wasm", source], check=True)
        cls.module = (cls.folder / "echo.wasm").read_bytes()

    def setUp(self):
        self.chance = random.Random(SEED)
        self.answers = {"done": 0, "refused": 0}

    def ask(self, node, method, path, body=None, fields=None):
        """What is refused is as good as what is done."""
        try:
            answer = node.call(method, path, body, fields)
            self.answers["done"] += 1
            return json.loads(answer) if isinstance(answer, str) and answer.startswith("{") else answer
        except Refused as refused:
            self.assertLess(refused.status, 500, refused)
            self.answers["refused"] += 1
            return None

    def replay(self, folder):
        """(commands, refused), when all replicas are the same."""
        done = subprocess.run([BUILD / "test" / "integration" / "store-replay", folder / "store"], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        return tuple(map(int, re.fullmatch(r"(\d+) commands, (\d+) refused\n", done.stdout).groups()))

    # ---- Functions and operations ----

    def about_functions(self, node, blob):
        name = self.chance.choice(("a", "b", "c"))
        path = f"/v1/functions/{name}"
        version = self.chance.randrange(1, 5)
        what = self.chance.randrange(12)
        if what < 4:
            key = {"Idempotency-Key": self.chance.choice("xyz")} if self.chance.random() < 0.5 else {}
            settings = {"timeout_ms": self.chance.choice((100, 200))}
            begun = self.ask(node, "POST", f"{path}/versions", {"module": blob, **settings}, key)
            if begun and self.chance.random() < 0.5:
                node.wait(begun["operation"])
            elif begun and self.chance.random() < 0.5:
                self.ask(node, "DELETE", f"/v1/operations/{begun['operation']}")
        elif what < 8:
            self.ask(node, "PUT", f"{path}/aliases/{self.chance.choice(('live', 'test'))}", {"version": version})
        elif what < 10:
            self.ask(node, "DELETE", f"{path}/versions/{version}")
        elif what < 11:
            self.ask(node, "DELETE", path)
        else:
            self.ask(node, "DELETE", "/v1/operations/0123456789abcdef0123456789abcdef")

    def test_functions_and_operations(self):
        folder = self.folder / "functions"
        node = Node(folder)
        self.addCleanup(node.stop)
        blob = node.upload(self.module)
        for _ in range(120):
            self.about_functions(node, blob)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:  # commands that share entries
            list(pool.map(lambda _: self.about_functions(node, blob), range(80)))
        self.assertEqual(node.stop(), 0)
        commands, refused = self.replay(folder)
        self.assertGreater(commands, 60, self.answers)
        print(f"{commands} commands, {refused} refused; {self.answers}")

    # ---- The cluster ----

    def about_the_cluster(self, server, made):
        what = self.chance.randrange(14)
        name = f"n{self.chance.randrange(1, 5)}"  # n4 is none
        if what < 3:
            body = {"role": self.chance.choice(("server", "worker")), "ttl": "1h", "uses": self.chance.randrange(1, 3)}
            token = self.ask(server, "POST", "/v1/tokens", body)
            made += [token["id"]] if token else []
        elif what < 5:
            self.ask(server, "DELETE", f"/v1/tokens/{self.chance.choice([*made, 'none'])}")
        elif what < 7:
            kind = self.chance.choice(("certificate", "token"))
            self.ask(server, "POST", "/v1/clients", {"name": self.chance.choice("xyz"), "kind": kind})
        elif what < 9:
            self.ask(server, "DELETE", f"/v1/clients/{self.chance.choice('xyz')}")
        elif what < 11:
            self.ask(server, "PUT", f"/v1/nodes/{name}/labels/{self.chance.choice('ab')}", {"value": self.chance.choice("12")})
        elif what < 12:
            self.ask(server, "DELETE", f"/v1/nodes/{name}/labels/{self.chance.choice('ab')}")
        elif what < 13:
            self.ask(server, "PATCH", f"/v1/nodes/{name}", {"failure_domain": self.chance.choice(("rack-1", "rack-2"))})
        else:
            self.ask(server, "POST", "/v1/cluster", {"name": "another"})

    def test_the_cluster(self):
        with Cluster(3, "replicas", here=True) as cluster:
            cluster.form()
            made = []
            for _ in range(100):
                self.about_the_cluster(self.chance.choice(cluster.servers), made)
            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                list(pool.map(lambda n: self.about_the_cluster(cluster[n % 3], made), range(60)))
            leader = cluster.leader()  # another one writes its reign
            leader.kill()
            leader.start().wait_ready()
            cluster.settled()
            for _ in range(20):
                self.about_the_cluster(self.chance.choice(cluster.servers), made)
            cluster.same_index()
            for server in cluster.servers:
                server.stop()
            commands, refused = self.replay(cluster[0].folder)
        self.assertGreater(commands, 60, self.answers)
        print(f"{commands} commands, {refused} refused; {self.answers}")


if __name__ == "__main__":
    unittest.main()
