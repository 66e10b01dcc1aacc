"""The benchmarks run and leave figures; what the figures are is not for a test."""
import json
import os
import pathlib
import subprocess
import unittest

PLAIN_ONLY = "what is tried are programs beside ours"

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("BLIXARD_BUILD", ROOT / "build")).resolve()


def bench(*arguments):
    return subprocess.run([ROOT / "tools" / "bench", *arguments], env={**os.environ, "BLIXARD_BUILD": str(BUILD)}, text=True,
                          timeout=600, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


class Bench(unittest.TestCase):
    def test_it_explains_itself(self):
        self.assertEqual(bench("--help").returncode, 0)
        self.assertEqual(bench("speed").returncode, 64)

    def served(self, rows):
        for row in rows:
            self.assertGreater(row["requests_per_second"], 0)
            self.assertEqual(row["refused"], 0)

    def test_every_part_leaves_figures_or_says_what_it_lacks(self):
        if "ASAN_OPTIONS" in os.environ:
            self.skipTest("the figures of a sanitizer's build mean nothing")
        done = bench("--quick")
        self.assertEqual(done.returncode, 0, done.stdout)
        figures = json.loads((BUILD / "bench.json").read_text())
        lacking = [f"{name}: {part['lacking']}" for name, part in figures.items() if "lacking" in part]
        if "lacking" not in figures["vm"]:
            self.assertGreater({row["name"]: row for row in figures["vm"]["figures"]}["warm_call"]["median_us"], 0)
        self.assertGreater(figures["compute"]["geomean_vm"], 0)
        if "lacking" not in figures["http"]:
            self.assertIn("node", figures["http"]["rows"])
            self.served(figures["http"]["rows"].values())
        if "lacking" not in figures["proxy"]:
            self.served(figures["proxy"]["rows"])
        if "lacking" not in figures["queue"]:
            self.served(figures["queue"]["accepted"])
            for row in figures["queue"]["through_trigger"]:
                self.assertGreater(row["messages_per_second"], 0)
            for row in figures["queue"]["start"].values():
                self.assertGreater(row["sent_to_start_ms_p50"], 0)
        if "lacking" not in figures["pool"]:
            self.assertEqual(figures["pool"]["rows"]["Blixard"]["refused"], 0)
        for row in figures["cluster"]["store"] + figures["cluster"].get("api", []):
            self.assertGreater(row["writes_per_second"], 0)
            self.assertEqual(row["refused"], 0)
        for row in figures["cluster"]["failover"].values():
            self.assertGreater(row["p50_ms"], 0)
        self.assertGreater(figures["cluster"]["workers"]["pss_bytes_median"], 0)
        if lacking:
            self.skipTest("; ".join(lacking))


if __name__ == "__main__":
    unittest.main()
