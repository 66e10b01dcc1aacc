"""The clock of the day jumps, there and back, while machines wait, room is kept, taints are borne and windows come.

Two nodes read their clocks from files (test/lib/jump.c); what they measure time with goes on as ever.
"""
import datetime
import functools
import json
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

from cluster import Cluster
from machines import BLANK, machines_of
from node import BUILD

PLAIN_ONLY = "what is preloaded comes before the sanitizer's runtime"

JUMP = BUILD / "test/integration/jump.so"
HOUR = 3600
GIB = 1 << 30
LOOKS = 400


def moment(text):
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))


def now():
    return datetime.datetime.now(datetime.timezone.utc)


class Clock(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if not shutil.which("qemu-system-x86_64"):
            raise unittest.SkipTest("there is no qemu-system-x86_64")
        linked = subprocess.run(["ldd", BUILD / "blixard"], stdout=subprocess.PIPE, text=True, check=True).stdout
        if re.search(r"/lib[at]san\.so", linked):
            raise unittest.SkipTest(PLAIN_ONLY)
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="blixard-clock-")))
        cls.cluster = Cluster(2, here=True, arguments=("--placement-hold-after-ms", "3000"))
        cls.addClassCleanup(cls.cluster.close)
        cls.set_clock(0)
        for server in cls.cluster.servers:
            server.start = functools.partial(server.start, env={"LD_PRELOAD": str(JUMP), "TEST_CLOCK": str(cls.folder / server.name)})
        cls.cluster.form(servers=1)
        cls.enterClassContext(machines_of(*(server.folder for server in cls.cluster.servers)))
        cls.a, cls.b = cls.cluster.servers
        blank = cls.folder / "blank.raw"
        blank.write_bytes(BLANK)
        cls.a.cli("image", "import", "blank", "--disk", blank, "--no-agent")
        has = cls.wait("/v1/nodes", lambda seen: all(node["attributes"].get("memory_bytes") for node in seen["nodes"]))["nodes"][0]["attributes"]
        cls.most = (has["memory_bytes"] - has["reserved"]["memory_bytes"]) // GIB - 1

    @classmethod
    def set_clock(cls, seconds, *servers):
        """So far ahead of the right one; of all, where none is named."""
        for server in servers or cls.cluster.servers:
            written = cls.folder / "clock.new"
            written.write_text(f"{seconds}\n")
            written.rename(cls.folder / server.name)

    @classmethod
    def wait(cls, path, holds):
        """A document once it is so."""
        seen = index = None
        for _ in range(LOOKS):
            seen, index = cls.a.look(path, index, 500)
            if holds(seen):
                return seen
        raise AssertionError(f"{path} never is so: {seen}")

    def tearDown(self):
        self.set_clock(0)
        for machine in self.a.get("/v1/machines")["machines"]:
            self.a.cli("vm", "delete", machine["name"])
        for reservation in self.a.get("/v1/placement")["reservations"]:
            self.a.cli("placement", "release", reservation["name"])

    def create(self, name, memory, *words):
        return self.a.cli("vm", "create", name, "--image", "blank", "--memory", memory, "--disk", "16MiB", *words)

    def waits(self, *words):
        self.assertRaisesRegex(RuntimeError, ": 75: .* is pending: ", self.create, *words)

    def test_who_began_to_wait_by_a_clock_that_was_ahead_waits_from_now_on(self):
        """It is not the last of all until that moment, and holds a node as soon as any other."""
        here = ("--constraint", f"node={self.b.name}")
        self.create("first", f"{self.most}GiB", *here)
        self.set_clock(6 * HOUR)
        self.waits("late", f"{self.most}GiB", *here)
        self.set_clock(0)
        (waits,) = self.wait("/v1/placement", lambda seen: "holds" in seen["pending"][0])["pending"]
        self.assertLess(moment(waits["pending_since"]), now() + datetime.timedelta(minutes=1))
        # There and back while it holds: its turns go on.
        self.set_clock(6 * HOUR)
        self.create("probe", "64MiB")
        self.set_clock(0)
        self.wait("/v1/placement", lambda seen: "holds" not in seen["pending"][0])
        self.wait("/v1/placement", lambda seen: "holds" in seen["pending"][0])

    def test_room_is_kept_over_a_jump_there_and_back(self):
        self.a.cli("placement", "reserve", "tonight", "--memory", "64MiB", "--ttl", "1h")
        self.set_clock(5 * HOUR)
        self.assertNotIn("tonight", self.a.cli("placement", "list", "--reservations"))
        self.a.cli("placement", "reserve", "other", "--memory", "64MiB", "--ttl", "1h")
        self.set_clock(0)
        self.assertEqual({kept["name"] for kept in self.a.get("/v1/placement")["reservations"]}, {"tonight", "other"})

    def test_room_that_expires_by_a_jump_is_given_to_who_waits_for_it(self):
        self.a.cli("placement", "reserve", "all", "--memory", f"{self.most}GiB", "--node", self.b.name, "--ttl", "1h")
        self.waits("next", "2GiB", "--constraint", f"node={self.b.name}")
        self.set_clock(2 * HOUR)
        self.wait("/v1/machines/next", lambda machine: machine["state"] == "running")

    def test_who_is_always_beaten_waits(self):
        """The one that decides believes in room that its node does not: what is kept there has expired by its clock alone."""
        self.a.cli("placement", "reserve", "all", "--memory", f"{self.most}GiB", "--node", self.b.name, "--ttl", "1h")
        self.set_clock(2 * HOUR, self.a)
        done = self.a.cli("vm", "create", "beaten", "--image", "blank", "--memory", "2GiB", "--disk", "16MiB", "--no-wait",
                          "--constraint", f"node={self.b.name}", check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.set_clock(2 * HOUR)
        self.wait("/v1/machines/beaten", lambda machine: machine["state"] == "running")

    def test_a_taint_that_is_borne_for_hours_drives_away_when_the_clock_says_so(self):
        self.create("guest", "64MiB", "--constraint", f"node={self.a.name}", "--toleration", "noisy:NoExecute:7200")
        self.a.cli("vm", "set", "guest", "--constraint", "none")
        self.a.cli("node", "taint", self.a.name, "noisy:NoExecute")
        try:
            self.wait("/v1/placement/explain/guest", lambda seen: "leaves_at" in seen)
            self.set_clock(3 * HOUR)
            self.wait("/v1/machines/guest", lambda machine: (machine["state"], machine["node"]) == ("running", self.b.name))
        finally:
            self.a.cli("node", "taint", self.a.name, "noisy-")

    def test_a_window_is_not_left_out_because_the_clock_was_at_a_later_one_before(self):
        opens = now() + datetime.timedelta(hours=2)
        self.a.cli("node", "maintenance", "set", self.b.name, "daily", "--schedule", f"{opens.minute} {opens.hour} * * *", "--duration", "1h", "--deadline", "1s")

        def duty_is(*duty):
            self.wait("/v1/nodes", lambda seen: next(node["duty"] for node in seen["nodes"] if node["name"] == self.b.name) in duty)

        try:
            self.set_clock(53 * HOUR // 2)  # that of tomorrow
            duty_is("drained")
            self.set_clock(0)
            duty_is("active")
            self.set_clock(5 * HOUR // 2)  # that of today
            duty_is("drained")
            self.assertEqual([w["problem"] for w in json.loads(self.a.cli("node", "maintenance", "list", "--output", "json"))["windows"]], [""])
        finally:
            self.a.cli("node", "maintenance", "clear", self.b.name, "daily")
            duty_is("active")


if __name__ == "__main__":
    unittest.main()
