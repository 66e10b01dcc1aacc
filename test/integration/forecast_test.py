"""Demand that is foreseen: instances before the first call, what `fn forecast` shows, and what a node keeps of it."""
import json
import re
import subprocess
import tempfile
import threading
import time
import unittest

from node import BUILD, Node

PLAIN_ONLY = "the time goes to waiting for elections, leases and nodes that begin again"

SECONDS = 60
PEAK = 3
SOURCE = '#include <stdio.h>\nint main(void) { puts("Content-Type: text/plain\\n\\nhello"); }\n'


class Forecast(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with tempfile.TemporaryDirectory(prefix="blixard-forecast-") as folder:
            subprocess.run(["clang-14", "--target=wasm32-wasi", "-O1", "-o", f"{folder}/m.wasm", "-x", "c", "-"], input=SOURCE, text=True, check=True)
            with open(f"{folder}/m.wasm", "rb") as file:
                cls.module = file.read()

    def until(self, holds, what):
        end = time.monotonic() + SECONDS
        while not holds():
            self.assertLess(time.monotonic(), end, what)
            threading.Event().wait(0.1)

    def metric(self, node, name):
        found = re.search(rf"^{name}(?:{{[^}}]*}})? (\S+)$", node.get("/metrics"), re.M)
        return None if found is None else float(found[1])

    def seed(self, data):
        subprocess.run([BUILD / "test" / "forecast-seed", f"{data}/forecasts", "default", "wave", str(PEAK)], check=True)

    def test_instances_are_there_before_the_call(self):
        with tempfile.TemporaryDirectory(prefix="blixard-forecast-") as data:
            with Node(data) as node:
                node.deploy("wave", self.module)
            self.seed(data)
            with Node(data) as node:
                self.until(lambda: node.json("/v1/node")["pool"]["ready"] >= PEAK, "nothing was made ready")
                pool = node.json("/v1/node")["pool"]
                self.assertEqual((pool["starts_warm"], pool["starts_cold"]), (0, 0))
                self.assertEqual(self.metric(node, "blixard_function_forecast_used"), 1)
                self.assertGreater(self.metric(node, "blixard_function_forecast"), PEAK - 1)
                self.assertEqual(node.invoke("wave"), "hello\n")
                self.assertEqual(self.metric(node, "blixard_starts_foreseen_total"), 1)
                self.assertEqual(self.metric(node, "blixard_starts_cold_total"), 0)
                shown = json.loads(node.cli("fn", "forecast", "wave", "--hours", "2", "--output", "json"))
                self.assertTrue(shown["is_used"])
                self.assertIn(shown["model"], ("seasonal", "regression"))
                self.assertEqual(sum("was" in point for point in shown["points"]), 120)
                self.assertGreater(max(point.get("high", 0) for point in shown["points"]), PEAK - 1)
                text = node.cli("fn", "forecast", "wave")
                self.assertIn("instances are kept by it", text)
                self.assertRegex(text, r"(?m)^ +\S+ \| *[#+: ]*\+")
                node.call("DELETE", "/v1/functions/wave")
                self.until(lambda: node.json("/v1/node")["pool"]["instances"] == 0, "a deleted function has instances")

    def test_what_is_known_is_kept_and_damage_is_survived(self):
        with tempfile.TemporaryDirectory(prefix="blixard-forecast-") as data:
            self.seed(data)
            with Node(data) as node:
                node.deploy("wave", self.module)
                before = node.json("/v1/functions/wave/forecast")
            with Node(data) as node:
                after = node.json("/v1/functions/wave/forecast")
                self.assertGreaterEqual(after["steps"], before["steps"])
                self.assertGreater(after["steps"], 9 * 1440 - 2)
            with open(f"{data}/forecasts", "r+b") as file:
                file.seek(5000)
                file.write(b"damaged")
            with Node(data) as node:
                self.assertEqual(node.request("GET", "/v1/functions/wave/forecast")[0], 404)
                self.assertIn("f/default/wave begins anew: this forecast was damaged", node.log.read_text())
                self.assertEqual(node.invoke("wave"), "hello\n")

    def test_what_the_node_uses(self):
        with Node(arguments=("--forecast-step-ms", "10000")) as node:
            self.until(lambda: node.request("GET", "/v1/node/forecast?hours=1")[0] == 200, "no step has ended")
            # The first step may be the last moment of one: nothing was used in that.
            self.until(lambda: node.json("/v1/node/forecast?hours=1")["next"] > 0, "nothing is foreseen")
            shown = node.json("/v1/node/forecast?hours=1")
            self.assertEqual((shown["unit"], shown["step_ms"], shown["is_used"]), ("cores", 10000, False))
            self.assertEqual(sum("high" in point for point in shown["points"]), 360)
            self.assertGreater(shown["next"], 0)  # this test is busy
            self.assertRegex(node.cli("node", "forecast", "--hours", "1"), r"(?m)^unit +cores")
            status, _, body = node.request("GET", "/v1/machines/nothing/forecast")
            self.assertEqual(status, 404, body)

    def test_wrong_questions(self):
        with Node() as node:
            self.assertEqual(node.request("GET", "/v1/functions/nothing/forecast")[0], 404)
            self.assertEqual(node.request("GET", "/v1/functions/nothing/forecast?hours=0")[0], 400)
            self.assertEqual(node.request("GET", "/v1/functions/nothing/forecast?hours=many")[0], 400)
        refused = subprocess.run([BUILD / "blixard", "dev", "--forecast-step-ms", "70000", "--data-folder", tempfile.gettempdir() + "/never"],
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=SECONDS)
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn("no whole number of such steps", refused.stdout)


if __name__ == "__main__":
    unittest.main()
