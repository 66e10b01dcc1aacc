"""Quotas: what a project may have at most, wherever it asks."""
import json
import pathlib
import subprocess
import tempfile
import threading
import unittest
import urllib.error
import urllib.request

from cluster import Cluster
from machines import kernel_flags, machines_of, root_archive, why_not
from node import BUILD, Node, Refused
from shows import compile_guest

MIB = 1 << 20


class Quotas(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="blixard-quota-")))
        self.node = Node()
        self.addCleanup(lambda: self.node.stop())

    def cli(self, *words, code=0):
        done = subprocess.run([BUILD / "blixard", *map(str, words)], env=self.node.env, text=True, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120)
        self.assertEqual(done.returncode, code, f"{words}: {done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    def volume(self, name, mib, code=0):
        return self.cli("volume", "create", name, "--size", f"{mib}MiB", "--filesystem", "none", code=code)

    def used(self):
        return self.node.json("/v1/quotas/default")["used"]

    def test_what_is_beyond_a_limit_is_refused_and_says_how_much(self):
        module = compile_guest(self.folder)
        self.cli("quota", "set", "default", "--functions", 1, "--disk", "100MiB")
        self.node.deploy("one", module)
        with self.assertRaises(Refused) as refused:
            self.node.begin_deploy("two", module)
        self.assertEqual((refused.exception.status, refused.exception.problem["code"]), (429, "quota_exceeded"))
        self.assertIn("functions: 1 used, limit 1, asked 1", refused.exception.problem["detail"])
        self.node.deploy("one", module)  # another version is no function
        self.volume("a", 64)
        self.assertIn("disk_bytes: 64 MiB used, limit 100 MiB, asked 64 MiB", self.volume("b", 64, code=69))
        self.assertIn("quota", self.cli("volume", "resize", "a", "101MiB", code=69))
        self.cli("volume", "resize", "a", "100MiB")
        self.assertEqual((self.used()["functions"], self.used()["disk_bytes"]), (1, 100 * MIB))
        # What is refused leaves nothing behind.
        self.assertEqual([v["name"] for v in self.node.json("/v1/volumes")["volumes"]], ["a"])
        metrics = self.node.get("/metrics")
        self.assertIn(f'blixard_project_limit{{project="default",resource="disk_bytes"}} {100 * MIB}', metrics)
        self.assertIn(f'blixard_project_usage{{project="default",resource="functions"}} 1', metrics)

    def test_a_limit_below_what_there_is_ends_nothing(self):
        self.volume("a", 64)
        self.cli("quota", "set", "default", "--disk", "1MiB")
        self.assertEqual(self.node.json("/v1/volumes/a")["state"], "ready")
        self.cli("volume", "limit", "a", "--iops", "100")
        self.volume("b", 1, code=69)
        self.cli("volume", "delete", "a")
        self.volume("b", 1)
        # Of instances a node knows its own, and its part of the limit.
        self.cli("quota", "set", "default", "--instances", 7)
        self.assertRegex(self.cli("quota", "show", "default"), r"(?m)^instances +- +7\n  on this node +0 +7$")
        # A part of it may be changed, and taken off.
        self.cli("quota", "set", "default", "--machines", 3)
        self.assertEqual(self.node.json("/v1/quotas/default")["disk_bytes"], MIB)
        self.cli("quota", "set", "default", "--disk", "none")
        self.volume("c", 64)
        self.cli("quota", "delete", "default")
        self.cli("quota", "show", "default", code=66)

    def test_wrong_limits_are_refused(self):
        for words in (("--cpus", "many"), ("--disk", "-1"), ("--instances", "0"), ("--memory", "9999999999GiB")):
            self.cli("quota", "set", "default", *words, code=64)
        self.cli("quota", "set", "Not-A-Name", "--cpus", 1, code=64)
        self.assertEqual(self.node.json("/v1/quotas")["quotas"], [])

    def test_requests_beyond_the_rate_get_429(self):
        self.node.deploy("one", compile_guest(self.folder))

        def ask():
            try:
                with urllib.request.urlopen(f"http://{self.node.gateway}/fn/one", timeout=60) as answer:
                    return answer.status
            except urllib.error.HTTPError as error:
                self.assertEqual(json.loads(error.read())["code"], "quota_exceeded")
                self.assertIsNotNone(error.headers["Retry-After"])
                return error.code

        self.assertEqual({ask() for _ in range(20)}, {200})
        self.cli("quota", "set", "default", "--requests-per-second", 0)
        self.assertEqual({ask() for _ in range(5)}, {429})
        self.assertIn("requests per second", self.cli("fn", "invoke", "one", code=69))
        self.assertEqual(self.used()["requests_refused_here"], 6)
        self.cli("quota", "delete", "default")
        self.assertEqual({ask() for _ in range(20)}, {200})

    def test_a_quota_is_a_manifest_too(self):
        path = self.folder / "quota.yaml"
        path.write_text("kind: Quota\nname: default\nspec: {disk: 100MiB, machines: 2}\n")
        self.cli("apply", "-f", path)
        self.assertEqual(self.node.json("/v1/quotas/default")["machines"], 2)
        path.write_text("kind: Quota\nname: default\nspec: {disk: 100MiB}\n")
        self.cli("apply", "-f", path)
        self.assertNotIn("machines", self.node.json("/v1/quotas/default"))
        self.assertIn("No changes", self.cli("plan", "-f", path))

    @unittest.skipIf(why_not(), why_not())
    def test_machines_count_with_what_they_were_made_with(self):
        self.enterContext(machines_of(self.node.folder))
        archive = self.folder / "root.tar.gz"
        archive.write_bytes(root_archive())
        self.cli("image", "import", "small", "--root", archive, *kernel_flags())
        flags = ("--image", "small", "--memory", "128MiB", "--disk", "64MiB", "--strategy", "Halted")
        self.cli("quota", "set", "default", "--cpus", 3, "--memory", "400MiB", "--machines", 2)
        self.cli("vm", "create", "a", *flags)
        self.cli("vm", "create", "b", *flags)
        self.assertIn("machines: 2 used, limit 2, asked 1", self.cli("vm", "create", "c", *flags, code=69))
        self.cli("vm", "resize", "a", "--cpus", 2)
        self.assertIn("cpus: 3 used, limit 3, asked 1", self.cli("vm", "resize", "a", "--cpus", 3, code=69))
        self.assertIn("memory_bytes", self.cli("vm", "resize", "b", "--memory", "512MiB", code=69))
        self.cli("vm", "resize", "a", "--cpus", 1)
        used = self.used()
        self.assertEqual((used["cpus"], used["memory_bytes"], used["machines"]), (2, 256 * MIB, 2))
        self.assertIn("quota", self.cli("vm", "clone", "a", "d", code=69))
        # What it was is not within the quota any more: it stays what it is.
        self.cli("vm", "resize", "a", "--cpus", 2)
        self.cli("vm", "snapshot", "create", "a", "two", "--disk-only")
        self.cli("vm", "resize", "a", "--cpus", 1)
        self.cli("quota", "set", "default", "--cpus", 2)
        self.assertIn("cpus: 2 used, limit 2, asked 1", self.cli("vm", "restore", "a", "two", code=69))
        self.assertEqual((self.used()["cpus"], json.loads(self.cli("vm", "show", "a", "--output", "json"))["cpus"]), (2, 1))
        self.cli("quota", "set", "default", "--cpus", 3)
        self.cli("vm", "restore", "a", "two")
        self.assertEqual((self.used()["cpus"], json.loads(self.cli("vm", "show", "a", "--output", "json"))["cpus"]), (3, 2))


class OfACluster(unittest.TestCase):
    def test_of_all_that_ask_at_once_as_many_are_let_in_as_there_is_room(self):
        with Cluster(3, "quota", here=True) as cluster:
            cluster.form()
            nodes = cluster.servers
            nodes[0].call("PUT", "/v1/quotas/default", {"disk_bytes": 3 * MIB})
            states = []

            def make(node, name):
                try:
                    begun = node.call("POST", "/v1/volumes", {"name": name, "size_bytes": MIB, "filesystem": "none"})
                    ended = node.call("GET", f"/v1/operations/{begun['operation']}/wait?timeout=60s")
                    states.append(ended["state"])
                except Refused as refused:
                    states.append(refused.problem["code"])

            # One thread per node: its API is one connection.
            threads = [threading.Thread(target=lambda n=n: [make(nodes[n], f"v{n}{i}") for i in range(3)]) for n in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self.assertEqual(sorted(states), ["quota_exceeded"] * 6 + ["succeeded"] * 3)


if __name__ == "__main__":
    unittest.main()
