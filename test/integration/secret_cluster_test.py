"""Secrets in a cluster of three: the key travels, leaders die, a node has another key, one comes later."""
import json
import pathlib
import subprocess
import tempfile
import unittest
import urllib.request

from member import Member, WAIT_SECONDS, is_whole
from node import ROOT, Refused


def put(member, name, value):
    request = urllib.request.Request(f"http://{member.api}/v1/secrets/{name}", value, method="PUT")
    with urllib.request.urlopen(request, timeout=WAIT_SECONDS) as answer:
        return answer.status


class Three(unittest.TestCase):
    """One test after the other changes what there is."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="blixard-secret-")
        cls.addClassCleanup(cls.folder.cleanup)
        module = pathlib.Path(cls.folder.name) / "secret.wasm"
        subprocess.run(["clang-14", "--target=wasm32-wasi", "-O1", "-mexec-model=reactor", "-I", ROOT / "sdk/c", "-o", module,
                        ROOT / "test/guests/secret.c"], check=True)
        cls.module = module.read_bytes()
        cls.one, cls.two, cls.three = cls.members = [Member("one", 1), Member("two", 2), Member("three", 3)]
        for member in cls.members:
            cls.addClassCleanup(member.clean)
        cls.one.begin()
        cls.one.request("POST", "/v1/cluster", {"name": "home"})
        cls.two.begin(cls.one.token())
        cls.three.begin(cls.one.token())
        cls.one.until(is_whole(3), "three healthy servers")

    def deploy(self, member, name, **settings):
        request = urllib.request.Request(f"http://{member.api}/v1/blobs", self.module, {"Content-Type": "application/wasm"})
        with urllib.request.urlopen(request, timeout=WAIT_SECONDS) as answer:
            blob = json.loads(answer.read())["id"]
        begun = member.request("POST", f"/v1/functions/{name}/versions", {"module": blob, **settings})
        ended = member.request("GET", f"/v1/operations/{begun['operation']}/wait?timeout=60s")
        self.assertEqual(ended["state"], "succeeded", ended)

    def said_by(self, member, function, path="/env?PASSWORD"):
        with urllib.request.urlopen(f"http://{member.gateway}/fn/{function}{path}", timeout=WAIT_SECONDS) as answer:
            return answer.read()

    def keys(self):
        return {member.name: (member.data / "secrets.key").read_bytes() for member in self.members if (member.data / "secrets.key").exists()}

    def has_key(self, member):
        member.until(lambda _: (member.data / "secrets.key").exists(), "the key of the secrets")

    def test_1_a_follower_that_is_asked_first_makes_the_key_for_all(self):
        self.assertEqual(self.keys(), {})
        follower = self.two if self.one.status()["leader"] != "two" else self.three
        self.assertEqual(put(follower, "shared", b"in three places"), 200)
        self.assertGreaterEqual(len(self.keys()), 2)  # before it was acknowledged
        for member in self.members:
            self.has_key(member)
            self.assertEqual((member.data / "secrets.key").stat().st_mode & 0o777, 0o600)
            self.assertFalse((member.data / "secrets.key.new").exists())
        self.assertEqual(len(set(self.keys().values())), 1)

    def test_2_each_node_gives_it_to_its_calls(self):
        self.deploy(self.one, "f", secrets={"PASSWORD": "shared"})
        index = self.one.status()["index"]
        for member in self.members:
            member.request("GET", f"/v1/functions?index={index - 1}&wait=30s")
            self.assertEqual(self.said_by(member, "f"), b"in three places")
        put(self.three, "shared", b"changed")
        index = self.three.status()["index"]
        for member in self.members:
            member.request("GET", f"/v1/secrets?index={index - 1}&wait=30s")
            self.assertEqual(self.said_by(member, "f"), b"changed")

    def test_3_a_leader_that_dies_takes_nothing_along(self):
        leader = next(member for member in self.members if member.name == self.one.status()["leader"])
        others = [member for member in self.members if member is not leader]
        leader.kill()
        put(others[0], "shared", b"without the leader")
        index = others[0].status()["index"]
        others[1].request("GET", f"/v1/secrets?index={index - 1}&wait=30s")
        for member in others:
            self.assertEqual(self.said_by(member, "f"), b"without the leader")
        leader.begin()
        for member in self.members:
            member.until(is_whole(3), "all of them again")
        leader.request("GET", f"/v1/secrets?index={index - 1}&wait=30s")
        self.assertEqual(self.said_by(leader, "f"), b"without the leader")

    def test_4_a_node_with_another_key_says_so_and_gets_the_right_one_once_it_is_gone(self):
        right = (self.two.data / "secrets.key").read_bytes()
        self.two.stop()
        (self.two.data / "secrets.key").write_bytes(b"another key of another cluster..")
        self.two.begin(wait=False)
        self.two.until_says("secrets.key is not the key of these secrets")
        self.two.api, self.two.gateway = self.two.until_says(r"is ready: API http://([^,]+), gateway http://([^,]+),").groups()
        with self.assertRaises(Refused) as caught:
            self.two.request("POST", "/v1/functions/f/invocations?node=two", {})
        self.assertIn("is not the key of these secrets", caught.exception.problem["detail"])
        (self.two.data / "secrets.key").unlink()
        self.two.until_says("secrets.key is the key of the secrets now")
        self.assertEqual((self.two.data / "secrets.key").read_bytes(), right)
        self.assertEqual(self.said_by(self.two, "f"), b"without the leader")

    def test_5_a_worker_that_comes_later_gets_the_key(self):
        worker = Member("worker", 4)
        self.addCleanup(worker.clean)
        worker.begin(self.one.token(role="worker"))
        self.has_key(worker)
        self.assertEqual((worker.data / "secrets.key").read_bytes(), next(iter(self.keys().values())))
        worker.until(lambda _: self.said_by(worker, "f") == b"without the leader", "the value at the worker")
        self.one.request("DELETE", "/v1/nodes/worker")

    def test_6_nobody_but_nodes_gets_the_key(self):
        with self.assertRaises(Refused) as caught:
            self.one.request("GET", "/v1/peer/secrets-key")
        self.assertEqual(caught.exception.problem["code"], "denied")


class Grown(unittest.TestCase):
    """A node that was alone."""

    def test_secrets_of_a_node_alone_are_those_of_its_cluster(self):
        one, two = Member("one", 6), Member("two", 7)
        for member in (one, two):
            self.addCleanup(member.clean)
        one.begin()
        with self.assertRaises(Refused):
            one.request("GET", "/v1/secrets/early")
        put(one, "early", b"value")
        key = (one.data / "secrets.key").read_bytes()
        one.request("POST", "/v1/cluster", {"name": "home"})
        put(one, "later", b"value")
        two.begin(one.token())
        two.until(lambda _: (two.data / "secrets.key").exists(), "the key of the secrets")
        self.assertEqual((two.data / "secrets.key").read_bytes(), key)
        put(two, "last", b"value")
        self.assertEqual([each["name"] for each in two.request("GET", "/v1/secrets")["secrets"]], ["early", "last", "later"])


if __name__ == "__main__":
    unittest.main()
