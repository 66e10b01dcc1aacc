"""Functions of a node that takes nothing new: calls go to others, and a drain waits for those that run."""
import contextlib
import http.client
import json
import re
import subprocess
import tempfile
import threading
import unittest

from cluster import Cluster
from node import ROOT
from node_case import at

HALF = 100000  # more than is collected before a function begins


def compiled(folder):
    wasm = f"{folder}/echo.wasm"
    subprocess.run(["clang-14", "--target=wasm32-wasi", "-O1", "-o", wasm, ROOT / "test/guests/echo.c"], check=True)
    with open(wasm, "rb") as file:
        return file.read()


class Held:
    """A call that runs until its body has ended."""

    def __init__(self, server, name):
        self.connection = http.client.HTTPConnection(server.host.address, server.gateway_port, timeout=60)
        self.connection.putrequest("POST", f"/fn/{name}")
        self.connection.putheader("Content-Length", str(2 * HALF))
        self.connection.endheaders()
        self.connection.send(b"x" * HALF)

    def release(self):
        """(length of the answer, node that gave it)."""
        with contextlib.closing(self.connection):
            self.connection.send(b"y" * HALF)
            answer = self.connection.getresponse()
            return len(answer.read()), answer.headers["X-Blixard-Node"]


class FunctionDrain(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster(3, here=True)
        cls.addClassCleanup(cls.cluster.close)
        cls.cluster.form(servers=3)
        cls.a, cls.b, cls.c = cls.cluster.servers
        with tempfile.TemporaryDirectory() as folder:
            cls.module = compiled(folder)
        cls.a.deploy("echo", cls.module)
        for server in cls.cluster.servers:
            cls.holders(server, "echo", lambda nodes: len(nodes) == 3)

    @staticmethod
    def holders(server, name, holds):
        index = None
        for _ in range(120):
            version, index = server.look(f"/v1/functions/{name}/versions/1", index, 1000)
            nodes = {node["name"] for node in version["nodes"]}
            if holds(nodes):
                return nodes
        raise AssertionError(f"{name} is on {nodes}")

    def tearDown(self):
        for server in self.cluster.servers:
            if self.duty(self.a, server) != "active":
                self.a.cli("node", "restore", server.name)
        for server in self.cluster.servers:
            self.until_duty(server, server, "active")

    def duty(self, server, of):
        return next(node["duty"] for node in server.get("/v1/nodes")["nodes"] if node["name"] == of.name)

    def until_duty(self, server, of, duty):
        server.until(lambda view: any((n["name"], n["duty"]) == (of.name, duty) for n in view["nodes"]), f"{of.name} {duty}")

    def busy(self, server):
        status, text, _ = server.ask("GET", "/metrics")
        return sum(float(value) for value in re.findall(r"^blixard_instances_busy(?:{[^}]*})? (\S+)", text.decode(), re.M))

    def hold(self, server, name="echo"):
        held = Held(server, name)
        server.until(lambda _: self.busy(server) >= 1, "a call that runs")
        return held

    def who_answers(self, server, name="echo"):
        """By its gateway."""
        connection = http.client.HTTPConnection(server.host.address, server.gateway_port, timeout=60)
        with contextlib.closing(connection):
            connection.request("POST", f"/fn/{name}", b"hello")
            answer = connection.getresponse()
            self.assertEqual((answer.status, answer.read()), (200, b"hello"))
            return answer.headers["X-Blixard-Node"]

    def drain(self, near, far, *words):
        """A drain under way; join() it, then it has `done`."""
        def run():
            thread.done = near.cli("node", "drain", far.name, *words, check=False)
        thread = threading.Thread(target=run)
        thread.start()
        self.addCleanup(thread.join)
        return thread

    def progress(self, near):
        running = [o for o in near.get("/v1/operations")["operations"] if o["kind"] == "node.drain" and o["state"] == "running"]
        return running[0].get("message") or json.dumps(running[0]) if running else ""

    def restore(self, near, far):
        near.cli("node", "restore", far.name)
        self.until_duty(far, far, "active")
        self.assertEqual(self.who_answers(far), far.name)

    def test_a_drain_waits_for_calls_and_new_ones_go_elsewhere(self):
        near, far = self.a, self.b
        self.assertEqual(self.who_answers(far), far.name)
        held = self.hold(far)
        drain = self.drain(near, far)
        self.until_duty(far, far, "draining")
        near.until(lambda _: "1 call still runs there" in self.progress(near), "what the drain waits for")
        self.assertNotEqual(self.who_answers(far), far.name)
        status, _, fields = far.ask("POST", "/v1/functions/echo/invocations", b"hello")
        self.assertEqual((status, fields["x-blixard-node"] != far.name), (200, True))
        self.assertEqual(self.duty(near, far), "draining")
        self.assertEqual(held.release(), (2 * HALF, far.name))
        drain.join()
        self.assertIn("is drained", drain.done.stdout)
        self.assertEqual(self.duty(near, far), "drained")
        self.assertNotEqual(self.who_answers(far), far.name)
        self.restore(near, far)

    def test_a_deadline_ends_it_and_force_goes_on(self):
        near, far = self.a, self.c
        held = self.hold(far)
        failed = self.drain(near, far, "--deadline", "2s")
        failed.join()
        self.assertNotEqual(failed.done.returncode, 0)
        self.assertIn("1 call still runs there", failed.done.stderr)
        self.assertEqual(self.duty(near, far), "cordoned")
        forced = self.drain(near, far, "--deadline", "2s", "--force")
        forced.join()
        self.assertIn("is drained", forced.done.stdout + forced.done.stderr)
        self.assertEqual(held.release(), (2 * HALF, far.name))
        self.restore(near, far)

    def test_a_maintenance_window_says_why_its_drain_failed(self):
        near, far = self.a, self.c
        held = self.hold(far)
        near.cli("node", "maintenance", "set", far.name, "now", "--from", at(0), "--to", at(3600), "--deadline", "1s")
        near.until(lambda view: any("1 call still runs there" in w["problem"] for n in view["nodes"] if n["name"] == far.name for w in n["windows"]),
                   "what the window says")
        self.assertEqual(self.duty(near, far), "cordoned")
        self.assertEqual(held.release(), (2 * HALF, far.name))
        near.cli("node", "maintenance", "clear", far.name, "now")
        self.until_duty(far, far, "active")

    def test_a_node_that_drains_itself_waits_too(self):
        far = self.b
        held = self.hold(far)
        drain = self.drain(far, far)
        far.until(lambda _: "1 call still runs there" in self.progress(far), "what the drain waits for")
        held.release()
        drain.join()
        self.assertIn("is drained", drain.done.stdout)
        self.restore(self.a, far)

    def test_a_cordoned_node_passes_calls_on(self):
        near, far = self.a, self.b
        near.cli("node", "cordon", far.name)
        self.until_duty(far, far, "cordoned")
        self.assertNotEqual(self.who_answers(far), far.name)
        near.cli("node", "uncordon", far.name)
        self.until_duty(far, far, "active")
        self.assertEqual(self.who_answers(far), far.name)

    def test_what_only_it_has_is_elsewhere_before_it_is_drained(self):
        self.a.deploy("single", self.module, placement={"copies": 1})
        (only,) = self.holders(self.a, "single", lambda nodes: len(nodes) == 1)
        far = self.cluster.find(only)
        near = self.a if far is not self.a else self.b
        near.cli("node", "drain", far.name)
        self.assertTrue(self.holders(near, "single", lambda nodes: True) - {only})
        self.assertNotEqual(self.who_answers(far, "single"), only)
        self.restore(near, far)

    def load(self, near, of):
        return next(node.get("load") for node in near.get("/v1/nodes")["nodes"] if node["name"] == of.name)

    def test_a_node_with_calls_waiting_is_relieved_by_one_that_has_none(self):
        near, far = self.a, self.b
        self.a.deploy("one", self.module, concurrency_max=1)
        for server in self.cluster.servers:
            self.holders(server, "one", lambda nodes: len(nodes) == 3)
        near.until(lambda _: all(self.load(far, s) for s in self.cluster.servers), "loads")
        cpus = self.load(far, far)["cpus"]
        held = [self.hold(far, "one")]
        for number in range(cpus):
            held.append(Held(far, "one"))
            far.until(lambda _, number=number: self.load(far, far)["waiting"] == number + 1, "a call that waits")
        near.until(lambda _: self.load(near, far) == {"running": 1, "waiting": cpus, "cpus": cpus}, "what the other one has told")
        self.assertNotEqual(self.who_answers(far, "one"), far.name)
        self.assertIn(f"1 run, {cpus} wait", near.cli("node", "show", far.name))
        for one in held:
            self.assertEqual(one.release(), (2 * HALF, far.name))
        far.until(lambda _: self.load(far, far)["waiting"] == 0, "nothing that waits")
        self.assertEqual(self.who_answers(far, "one"), far.name)

    def test_what_was_told_long_ago_is_not_known(self):
        near, far = self.a, self.c
        near.until(lambda _: self.load(near, far) is not None, "a load")
        far.pause()
        try:
            near.until(lambda _: self.load(near, far) is None, "that it is too old")
        finally:
            far.resume()
        near.until(lambda _: self.load(near, far) is not None, "a load again")

    def test_a_restore_ends_a_drain_that_waits(self):
        near, far = self.a, self.b
        held = self.hold(far)
        drain = self.drain(near, far)
        self.until_duty(far, far, "draining")
        self.c.cli("node", "restore", far.name)
        drain.join()
        self.assertNotEqual(drain.done.returncode, 0)
        self.assertIn("restored", drain.done.stderr)
        held.release()
        self.until_duty(far, far, "active")


if __name__ == "__main__":
    unittest.main()
