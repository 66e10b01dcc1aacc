"""Triggers on one node: schedules, retries, destinations, testing, and a kill in the middle of a run."""
import datetime
import json
import pathlib
import re
import subprocess
import tempfile
import threading
import time
import unittest

from node import BUILD, Node, Refused

SECONDS = 60
FAKETIME = next(pathlib.Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
# Tells what it gets; fails when it is asked to; "slow" takes 2 s.
SOURCE = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
static void take(long ms)
{
    struct timespec from, now;
    clock_gettime(CLOCK_MONOTONIC, &from);
    do {
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while ((now.tv_sec - from.tv_sec) * 1000 + (now.tv_nsec - from.tv_nsec) / 1000000 < ms);
}
int main(void)
{
    static char body[65536];
    const char *id = getenv("HTTP_CE_ID");
    body[fread(body, 1, sizeof(body) - 1, stdin)] = 0;
    fprintf(stderr, "got %s %s %s\n", id ? id : "-", getenv("HTTP_CE_TYPE") ? getenv("HTTP_CE_TYPE") : "-", body);
    if (strstr(body, "slow")) {
        take(2000);
    }
    if (strstr(body, "part")) {
        puts("Content-Type: application/json\n\n{\"batchItemFailures\":[]}");
        return 0;
    }
    if (strstr(body, "fail")) {
        puts("Status: 500\n");
        return 0;
    }
    printf("Content-Type: text/plain\n\nok %s", body);
}
"""
folder = None
module = None


def setUpModule():
    global folder, module
    folder = tempfile.TemporaryDirectory(prefix="blixard-trigger-")
    source = pathlib.Path(folder.name) / "main.c"
    source.write_text(SOURCE)
    subprocess.run(["clang-14", "--target=wasm32-wasi", "-O1", "-o", source.with_suffix(".wasm"), source], check=True)
    module = source.with_suffix(".wasm").read_bytes()


def tearDownModule():
    folder.cleanup()


def until(node, path, holds):
    """Blocking reads until what is there holds."""
    end = time.monotonic() + SECONDS
    index = 0
    while True:
        status, body, fields = node.request("GET", f"{path}?index={index}&wait=5s" if index else path)
        document = json.loads(body)
        if status == 200 and holds(document):
            return document
        if time.monotonic() > end:
            raise AssertionError(f"{path}: {document}")
        index = int(fields["x-blixard-index"]) + 1


def got(node, name):
    """(id, type, body) of what the function has told."""
    lines = node.json(f"/v1/functions/{name}/logs?tail=1000")["lines"]
    return [line["text"].split(" ", 3)[1:] for line in lines if line["text"].startswith("got ")]


def until_got(node, name, holds):
    """What the function has told, once `holds` of it: a destination hears of an end after it was counted."""
    end = time.monotonic() + SECONDS
    while not holds(lines := got(node, name)):
        if time.monotonic() > end:
            raise AssertionError(f"{name}: {lines}")
        threading.Event().wait(0.05)
    return lines


def write(name, text):
    path = pathlib.Path(folder.name) / name
    path.write_text(text)
    return path


def at(text):
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))


def event(identity, data, kind="order.created"):
    return {"specversion": "1.0", "id": identity, "source": "/test", "type": kind, "data": data}


class Triggers(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.node = Node()
        cls.addClassCleanup(cls.node.stop)
        cls.node.deploy("work", module)
        cls.node.deploy("sink", module)

    def refused(self, code, says, **spec):
        with self.assertRaises(Refused) as caught:
            self.node.call("POST", "/v1/triggers", {"name": "bad", "kind": "cron", "function": "work", **spec})
        self.assertEqual(caught.exception.problem["code"], code)
        self.assertIn(says, caught.exception.problem["detail"])

    def test_what_is_not_said_is_shown_as_it_is_in_force(self):
        self.node.cli("trigger", "create", "quiet", "--function", "work", "--schedule", "@yearly", "--retries", "7")
        seen = self.node.json("/v1/triggers/quiet")
        numbers = ("batch_size", "concurrency_max", "retries", "retry_delay_ms", "retry_delay_max_ms")
        self.assertEqual([seen[number] for number in numbers], [1, 10, 7, 1000, 60000])
        self.assertNotIn("timeout_ms", seen)  # the function's
        said = dict(line.split(maxsplit=1) for line in self.node.cli("trigger", "get", "quiet").splitlines() if line[:1].isalpha())
        self.assertEqual((said["concurrency"], said["retries"]), ("10", "7"))
        self.node.cli("trigger", "delete", "quiet")

    def test_a_schedule_calls_its_function_once_per_slot(self):
        self.node.cli("trigger", "create", "tick", "--function", "work", "--schedule", "@every 1s")
        seen = until(self.node, "/v1/triggers/tick", lambda t: t["delivered"] >= 3)
        self.assertEqual((seen["state"], seen["dead"], seen["failed"]), ("running", 0, 0))
        self.node.cli("trigger", "pause", "tick")
        until(self.node, "/v1/triggers/tick", lambda t: t["state"] == "paused")
        ids = [line[0] for line in got(self.node, "work") if line[0].startswith("tick/")]
        self.assertEqual(len(ids), len(set(ids)), ids)
        times = sorted(datetime.datetime.fromisoformat(i.split("/")[1].replace("Z", "+00:00")) for i in ids)
        self.assertEqual({(b - a).total_seconds() for a, b in zip(times, times[1:])}, {1.0}, ids)
        self.node.cli("trigger", "resume", "tick")
        until(self.node, "/v1/triggers/tick", lambda t: t["delivered"] > len(ids))
        self.node.cli("trigger", "delete", "tick")
        with self.assertRaises(Refused):
            self.node.get("/v1/triggers/tick")

    def test_what_is_given_up_goes_to_its_destination(self):
        self.node.call("POST", "/v1/triggers", {
            "name": "broken", "kind": "cron", "function": "work", "retries": 1, "retry_delay_ms": 10,
            "on_failure": "function:sink", "settings": {"schedule": "@every 1s", "data": "fail"}})
        seen = until(self.node, "/v1/triggers/broken", lambda t: t["dead"] >= 1)
        self.assertIn("500", seen["last_error"])
        self.assertEqual(seen["delivered"], 0)
        self.assertGreaterEqual(seen["failed"], 2)
        self.node.call("DELETE", "/v1/triggers/broken")
        until_got(self.node, "sink", lambda lines: '"fail"' in [line[2] for line in lines if line[0].startswith("broken/")])

    def test_queues_and_streams_are_destinations(self):
        self.node.cli("queue", "create", "lost")
        self.node.cli("stream", "create", "made", "--partitions", "1")
        self.node.call("POST", "/v1/triggers", {
            "name": "both", "kind": "cron", "function": "work", "retries": 0,
            "on_failure": "queue:lost", "on_success": "stream:made", "settings": {"schedule": "@every 1s", "data": "fail"}})
        until(self.node, "/v1/triggers/both", lambda t: t["dead"] >= 1)
        self.node.call("PUT", "/v1/triggers/both", {
            "kind": "cron", "function": "work", "on_success": "stream:made", "settings": {"schedule": "@every 1s"}})
        until(self.node, "/v1/triggers/both", lambda t: t["delivered"] >= 1)
        self.node.call("DELETE", "/v1/triggers/both")
        self.assertIn("blixarderror", self.node.cli("queue", "receive", "lost", "--wait", "20s", "-o", "json"))
        self.assertIn("blixard.function.succeeded", self.node.cli("stream", "read", "made", "--wait", "20s", "-o", "json"))

    def test_answers_go_to_theirs(self):
        self.node.call("POST", "/v1/triggers", {
            "name": "told", "kind": "cron", "function": "work", "on_success": "function:sink",
            "transform": "made at {{ .time }}", "settings": {"schedule": "@every 1s"}})
        until(self.node, "/v1/triggers/told", lambda t: t["delivered"] >= 1)
        self.node.call("DELETE", "/v1/triggers/told")
        lines = until_got(self.node, "sink", lambda lines: "blixard.function.succeeded" in [line[1] for line in lines])
        lines = [line for line in lines if line[1] == "blixard.function.succeeded"]
        self.assertTrue(lines[0][2].startswith("ok made at 20"), lines)

    def test_a_filter_that_lets_nothing_through_is_seen(self):
        self.node.call("POST", "/v1/triggers", {
            "name": "deaf", "kind": "cron", "function": "work", "filter": "type = 'other'",
            "settings": {"schedule": "@every 1s"}})
        seen = until(self.node, "/v1/triggers/deaf", lambda t: t["seen"] >= 2)
        self.assertEqual((seen["matched"], seen["delivered"]), (0, 0))
        self.assertIn("has let none of", self.node.cli("trigger", "get", "deaf"))
        self.assertIn("blixard_trigger_in_flight{", self.node.get("/metrics"))
        self.node.cli("trigger", "delete", "deaf")

    def test_an_event_is_tried_stage_by_stage(self):
        file = write("trigger.yaml", "name: orders\nkind: cron\nfunction: work\npaused: true\n"
                                     "settings: {schedule: '@daily', timezone: Europe/Berlin}\n"
                                     "filter: {data: {total: [{numeric: ['>', 100]}]}}\n"
                                     "transform: {sum: $.data.total}\nretry_delay: 5s\n")
        self.node.cli("trigger", "create", "--file", file)
        self.assertEqual(self.node.json("/v1/triggers/orders")["retry_delay_ms"], 5000)
        small = write("small.json", json.dumps(event("e1", {"total": 5})))
        large = write("large.json", json.dumps(event("e2", {"total": 500})))
        said = json.loads(self.node.cli("trigger", "test", "orders", "--event", small, "-o", "json"))
        self.assertEqual((said["matches"], "delivered" in said), (False, False))
        said = json.loads(self.node.cli("trigger", "test", "orders", "--event", large, "-o", "json"))
        self.assertEqual((said["transformed"]["data"], said["status"], said["answer"]),
                         ({"sum": 500}, 200, 'ok {"sum":500}'))
        said = self.node.cli("trigger", "test", "orders", "--event", large, "--no-deliver")
        self.assertIn("lets it through", said)
        self.assertNotIn("status", said)
        self.node.cli("trigger", "update", "orders", "--filter", "", "--transform", "fail")
        with self.assertRaises(subprocess.CalledProcessError) as caught:
            self.node.cli("trigger", "test", "orders", "--event", large, stderr=subprocess.PIPE)
        self.assertEqual(caught.exception.returncode, 70)
        self.assertIn("not accepted", caught.exception.stderr)
        wrong = write("wrong.json", '{"specversion": "1.0"}')
        with self.assertRaises(subprocess.CalledProcessError) as caught:
            self.node.cli("trigger", "test", "orders", "--event", wrong, stderr=subprocess.PIPE)
        self.assertIn('no "id"', caught.exception.stderr)
        self.node.cli("trigger", "delete", "orders")

    def test_a_project_brings_its_triggers(self):
        project = pathlib.Path(folder.name) / "project"
        project.mkdir()
        (project / "main.c").write_text(SOURCE)
        (project / "blixard.yaml").write_text("language: c\ntriggers:\n  every-night:\n    settings:\n"
                                              "      schedule: 0 3 * * *\n")
        self.node.cli("fn", "deploy", "mine", project)
        seen = self.node.json("/v1/triggers/every-night")
        self.assertEqual((seen["kind"], seen["function"]), ("cron", "mine"))
        (project / "blixard.yaml").write_text("language: c\ntriggers:\n  every-night:\n    scedule: x\n")
        with self.assertRaises(subprocess.CalledProcessError) as caught:
            self.node.cli("fn", "deploy", "mine", project, stderr=subprocess.PIPE)
        self.assertIn("scedule", caught.exception.stderr)

    def test_a_project_whose_triggers_cannot_be_is_not_deployed(self):
        project = pathlib.Path(folder.name) / "untriggered"
        project.mkdir()
        (project / "main.c").write_text(SOURCE)
        for lines, says in (("kind: croon", 'trigger given: there is no kind "croon"'), ("settings: {schedul: '@daily'}", "did you mean schedule"),
                            ("settings: {schedule: '0 4 30 2 *'}", "names no time after now"),
                            ("{kind: http, path: nowhere}", "begins with /"), ("{kind: http, path: /x, retries: 3}", "$.retries")):
            (project / "blixard.yaml").write_text(f"language: c\ntriggers:\n  given:\n    {lines}\n")
            with self.assertRaises(subprocess.CalledProcessError) as caught:
                self.node.cli("fn", "deploy", "untriggered", project, stderr=subprocess.PIPE)
            self.assertIn(says, caught.exception.stderr)
        with self.assertRaises(Refused) as caught:
            self.node.json("/v1/functions/untriggered")
        self.assertEqual(caught.exception.status, 404)
        (project / "blixard.yaml").write_text("language: c\ntriggers:\n  given:\n    {kind: http, path: /given}\n")
        self.node.cli("fn", "deploy", "untriggered", project)
        self.assertEqual(self.node.json("/v1/triggers/given")["path"], "/given")

    def test_a_change_of_something_else_leaves_the_schedule(self):
        """Deploying every day neither puts off what comes once a day, nor fails for what was to come once."""
        spec = {"name": "steady", "kind": "cron", "function": "work", "settings": {"schedule": "@every 24h"}}
        first = json.loads(self.node.call("POST", "/v1/triggers", spec))["next_at"]
        spec["settings"]["jitter"] = "1s"
        self.assertEqual(json.loads(self.node.call("PUT", "/v1/triggers/steady", {**spec, "retries": 5}))["next_at"], first)
        spec["settings"]["schedule"] = "@every 25h"
        self.assertNotEqual(json.loads(self.node.call("PUT", "/v1/triggers/steady", spec))["next_at"], first)
        self.node.call("DELETE", "/v1/triggers/steady")
        soon = (datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=3)).strftime("%Y-%m-%dT%H:%M:%SZ")
        spec = {"name": "once", "kind": "cron", "function": "work", "settings": {"schedule": f"@at {soon}"}}
        self.node.call("POST", "/v1/triggers", spec)
        until(self.node, "/v1/triggers/once", lambda t: t["delivered"] == 1 and not t.get("next_at"))
        self.node.call("POST", "/v1/triggers/once/check", {**spec, "retries": 5})
        self.assertEqual(json.loads(self.node.call("PUT", "/v1/triggers/once", {**spec, "retries": 5}))["retries"], 5)
        self.node.call("DELETE", "/v1/triggers/once")

    def test_the_next_runs_are_shown_by_the_clocks_of_the_zone(self):
        self.node.cli("trigger", "create", "halves", "--function", "work", "--schedule", "30 2 1 JAN,JUL *", "--timezone", "Europe/Berlin")
        runs = self.node.json("/v1/triggers/halves")["next_runs"]
        self.assertEqual({run[4:] for run in runs}, {"-01-01T02:30:00+01:00", "-07-01T02:30:00+02:00"})
        self.assertEqual(len(runs), 5)
        self.assertIn(runs[0], self.node.cli("trigger", "get", "halves"))
        self.node.cli("trigger", "delete", "halves")

    def test_what_is_wrong_is_refused_by_name(self):
        self.refused("invalid", "hour", settings={"schedule": "0 30 * * *"})
        self.refused("invalid", "names no time after now", settings={"schedule": "@at 2020-01-01T00:00:00Z"})
        self.refused("not_found", "Mars/Olympus", settings={"schedule": "@daily", "timezone": "Mars/Olympus"})
        self.refused("invalid", "schedule", settings={})
        self.refused("invalid", "did you mean", settings={"schedule": "@daily", "jiter": "1s"})
        self.refused("invalid", "at 8", settings={"schedule": "@daily"}, filter="type = ")
        self.refused("invalid", "transform", settings={"schedule": "@daily"}, transform="{{ x }}")
        self.refused("invalid", "no kind", kind="crn")
        self.refused("invalid", "path", kind="http")
        self.refused("invalid", "has none", kind="http", path="/x", batch_size=3)
        self.refused("invalid", "it is $.path", kind="http", settings={"path": "/x"})
        self.refused("invalid", "filter", kind="http", path="/x", filter="type = ")
        self.refused("not_found", "deploy it first", function="nobody", settings={"schedule": "@daily"})
        self.refused("invalid", "no destination", settings={"schedule": "@daily"}, on_failure="mailto:me")
        self.refused("invalid", '"what:ever" is no part of a name', settings={"schedule": "@daily"}, on_failure="queue:q:what:ever")
        self.refused("invalid", '"a:b" is no alias or version', settings={"schedule": "@daily"}, on_success="function:sink:a:b")
        self.refused("invalid", '"" is no alias or version', settings={"schedule": "@daily"}, on_success="function:sink:")
        self.refused("invalid", "batch_size", settings={"schedule": "@daily"}, batch_size=100000)


class Overlap(unittest.TestCase):
    """Runs that take longer than their schedule; and a clock that jumps."""

    @classmethod
    def setUpClass(cls):
        cls.clock = write("clock", "+0")
        linked = subprocess.run(["ldd", BUILD / "blixard"], stdout=subprocess.PIPE, text=True, check=True).stdout
        cls.can_jump = FAKETIME is not None and re.search(r"/lib[at]san\.so", linked) is None
        cls.node = Node(env={"LD_PRELOAD": str(FAKETIME), "FAKETIME_TIMESTAMP_FILE": str(cls.clock), "FAKETIME_NO_CACHE": "1",
                             "FAKETIME_DONT_FAKE_MONOTONIC": "1"} if cls.can_jump else None)
        cls.addClassCleanup(cls.node.stop)
        cls.node.deploy("work", module)

    def make(self, name, overlap):
        self.node.call("POST", "/v1/triggers", {
            "name": name, "kind": "cron", "function": "work",
            "settings": {"schedule": "@every 1s", "overlap": overlap, "data": "slow"}})

    def test_forbidden_slots_are_passed_over_and_replaced_runs_are_broken_off(self):
        self.make("forbids", "forbid")
        self.make("replaces", "replace")
        seen = until(self.node, "/v1/triggers/forbids", lambda t: t["delivered"] >= 2)
        self.assertGreaterEqual(seen["skipped"], 1)
        seen = until(self.node, "/v1/triggers/replaces", lambda t: t["seen"] >= 3)
        self.assertLess(seen["delivered"], seen["seen"] - 1)  # a slot that comes late finds nothing to replace
        self.assertEqual(seen["failed"], 0)
        self.node.cli("trigger", "delete", "forbids")
        self.node.cli("trigger", "delete", "replaces")

    def test_a_schedule_follows_a_clock_that_jumps_there_and_back(self):
        """By less than a day, so that what it has taken is not far away."""
        if not self.can_jump:
            self.skipTest("needs libfaketime, and no sanitizer: tools/bootstrap test")
        self.node.call("POST", "/v1/triggers", {"name": "jumps", "kind": "cron", "function": "work", "settings": {"schedule": "* * * * * *"}})
        begin = at(until(self.node, "/v1/triggers/jumps", lambda t: t["delivered"] >= 1)["next_at"])
        far = begin + datetime.timedelta(hours=5)
        write("clock", "+6h")
        there = until(self.node, "/v1/triggers/jumps", lambda t: at(t["next_at"]) > far and t["skipped"] > 500)
        write("clock", "+0")
        until(self.node, "/v1/triggers/jumps", lambda t: at(t["next_at"]) < far and t["delivered"] > there["delivered"])
        self.node.cli("trigger", "delete", "jumps")


class Kill(unittest.TestCase):
    def test_a_run_that_was_cut_off_runs_again_and_no_slot_is_lost(self):
        with tempfile.TemporaryDirectory(prefix="blixard-trigger-") as data:
            node = Node(data)
            self.addCleanup(lambda: node.stop())
            node.deploy("work", module)
            node.call("POST", "/v1/triggers", {
                "name": "cut", "kind": "cron", "function": "work",
                "settings": {"schedule": "@every 1s", "data": "slow", "misfire": "all"}})
            until(node, "/v1/triggers/cut", lambda t: t["delivered"] >= 1)
            node.kill()
            node = Node(data)
            seen = until(node, "/v1/triggers/cut", lambda t: t["delivered"] >= 8)
            self.assertEqual((seen["dead"], seen["failed"]), (0, 0))
            node.cli("trigger", "pause", "cut")
            until(node, "/v1/triggers/cut", lambda t: t["state"] == "paused")
            # A run that was cut off may come after later ones.
            until_got(node, "work", lambda lines: self.steps({line[0] for line in lines}) == {1.0})

    @staticmethod
    def steps(slots):
        times = [datetime.datetime.fromisoformat(slot.split("/")[1].replace("Z", "+00:00")) for slot in sorted(slots)]
        return {(b - a).total_seconds() for a, b in zip(times, times[1:])}


if __name__ == "__main__":
    unittest.main()
