"""What calls functions, in a cluster of three whose nodes are killed: schedules, queues and streams go on at another one.

Functions write what they have done into a stream, by the host API: that is there whoever dies afterwards.
"""
import contextlib
import datetime
import os
import pathlib
import subprocess
import tempfile
import threading
import time
import unittest

from cluster import Cluster
from node import ROOT

PLAIN_ONLY = "the time goes to waiting for elections, leases and nodes that begin again"

SECONDS = 90
ARGUMENTS = [] if "ASAN_OPTIONS" in os.environ else ["--isolation", "process"]  # what the sanitizer leaves
# Takes a moment, then writes down what it was given; what is called more than once is written down as often.
SOURCE = r"""
#include "blixard.h"
#include <stdlib.h>
#include <time.h>
static void take(long ms)
{
    struct timespec from, now;
    clock_gettime(CLOCK_MONOTONIC, &from);
    do {
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while ((now.tv_sec - from.tv_sec) * 1000 + (now.tv_nsec - from.tv_nsec) / 1000000 < ms);
}
BLIXARD_HANDLER
{
    char text[256] = "", schedule[256] = "";
    int32_t length = blixard_request_read(text, sizeof(text) - 1);
    text[length > 0 ? length : 0] = 0;
    blixard_request_get("HTTP_CE_ID", schedule, sizeof(schedule));
    const char *what = strncmp(schedule, "cron-", 5) == 0 ? schedule : text;
    take(100);
    struct blixard_message record = {.body = what, .length = strlen(what), .content_type = "text/plain"};
    if (blixard_stream_append("done", &record, NULL) < 0) {
        blixard_response_status(500);
    }
}
"""
KINDS = {
    "cron": {"settings": {"schedule": "@every 1s", "misfire": "all"}},
    "queue": {"settings": {"queue": "work"}, "concurrency_max": 4},
    "stream": {"settings": {"stream": "work"}, "concurrency_max": 4},
}


def first_of_each(words):
    return list(dict.fromkeys(words))


def has_gaps(ran):
    """Is a slot missing between the first and the last?"""
    times = sorted(datetime.datetime.fromisoformat(word.split("/")[1].replace("Z", "+00:00")) for word in set(ran))
    return {(b - a).total_seconds() for a, b in zip(times, times[1:])} != {1.0}


class Sources(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with tempfile.TemporaryDirectory(prefix="blixard-sources-") as folder:
            source, module = (pathlib.Path(folder) / name for name in ("main.c", "main.wasm"))
            source.write_text(SOURCE)
            subprocess.run(["clang-14", "--target=wasm32-wasi", "-O1", "-I", ROOT / "sdk/c", "-mexec-model=reactor",
                            "-o", module, source], check=True)
            cls.module = module.read_bytes()
        cls.cluster = cls.enterClassContext(Cluster(3, "sources", ARGUMENTS, here=True))
        cls.cluster.form()
        cls.cluster[0].deploy("work", cls.module)

    def run(self, result=None):
        bad = len(result.failures) + len(result.errors)
        super().run(result)
        self.cluster.failed |= len(result.failures) + len(result.errors) > bad

    # ---- Looking ----

    def known(self, server, name):
        return next((t for t in server.get("/v1/triggers")["triggers"] if t["name"] == name), {})

    def runners(self, name, among=None):
        return [server for server in among or self.cluster.running() if self.known(server, name).get("state") == "running"]

    def until(self, server, holds, what):
        """Each change of the state is looked at."""
        end = time.monotonic() + SECONDS
        index = None
        while not (found := holds()):
            self.assertLess(time.monotonic(), end, f"{what}\n{server.said()}")
            _, index = server.look("/v1/cluster", index, 250)
        return found

    def done(self, server):
        records = server.get("/v1/streams/done/records?partition=0&from=TRIM_HORIZON&limit=1000")["records"]
        return [record["body"] for record in records]

    # ---- Work ----

    def run_at(self, victim, kind, number):
        """A trigger of this kind that the victim runs: who runs it is a matter of its name."""
        for attempt in range(50):
            name = f"{kind}-{number}-{attempt}"
            victim.call("POST", "/v1/triggers", {"name": name, "kind": kind, "function": "work", **KINDS[kind]})
            at = self.until(victim, lambda: self.runners(name), f"a runner of {name}")
            if at == [victim]:
                return name
            victim.call("DELETE", f"/v1/triggers/{name}")
            self.until(victim, lambda: not any(self.known(server, name) for server in self.cluster.running()), f"the end of {name}")
        raise AssertionError("no name is the victim's")

    def add(self, server, number, first, count):
        """Messages of four groups and records of four keys."""
        for n in range(first, first + count):
            key = f"g{n % 4}"
            server.call("POST", "/v1/queues/work/messages",
                        {"messages": [{"body": f"queue/{number}/{key}/{n:03}", "group": key}]})
            server.call("POST", "/v1/streams/work/records", {"records": [{"body": f"stream/{number}/{key}/{n:03}", "key": key}]})

    def check_order(self, found, kind, number):
        for key in range(4):
            seen = [word for word in found if word.startswith(f"{kind}/{number}/g{key}/")]
            self.assertEqual(first_of_each(seen), sorted(set(seen)), seen)

    def kill_the_owner(self, victim, number):
        others = [server for server in self.cluster.servers if server is not victim]
        victim.call("POST", "/v1/queues", {"name": "work", "fifo": True, "visibility_ms": 3000})
        victim.call("POST", "/v1/streams", {"name": "work", "partitions": 2})
        victim.call("POST", "/v1/streams", {"name": "done", "partitions": 1})
        names = {kind: self.run_at(victim, kind, number) for kind in KINDS}
        self.add(others[0], number, 0, 24)
        ours = lambda: [w for w in self.done(others[0]) if f"/{number}/g" in w]
        self.until(others[0], lambda: len(ours()) >= 8, "work under way")
        victim.kill()
        self.add(others[1], number, 24, 8)
        wanted = {f"{kind}/{number}/g{n % 4}/{n:03}" for kind in ("queue", "stream") for n in range(32)}
        self.until(others[0], lambda: wanted <= set(ours()), f"all that was sent: {wanted - set(ours())}")
        cron = lambda: [w for w in self.done(others[0]) if w.startswith(names["cron"] + "/")]
        seen = len(cron())
        self.until(others[0], lambda: len(cron()) >= seen + 3 and not has_gaps(cron()), f"the schedule going on: {cron()}")
        for name in names.values():
            self.assertEqual(len(self.runners(name, others)), 1, name)
        victim.start().wait_ready()
        self.cluster.settled()
        for name in names.values():
            victim.call("PATCH", f"/v1/triggers/{name}", {"paused": True})
            self.until(victim, lambda: not self.runners(name), f"no runner of {name}")
        found = self.done(others[0])
        for kind in ("queue", "stream"):
            self.check_order(found, kind, number)
        ran = [w for w in found if w.startswith(names["cron"] + "/")]
        self.assertFalse(has_gaps(ran), ran)
        # At least once: what ran when its node was killed may have run again, and nothing else.
        self.assertLessEqual(len(ran) - len(set(ran)), 1, ran)
        queue = victim.get("/v1/queues/work")
        self.assertEqual((queue["depth"], queue["acked"], queue["died"]), (0, 32 * (number + 1), 0))

    def test_the_owner_is_killed_and_all_goes_on_in_order(self):
        leader = self.cluster.leader()
        self.kill_the_owner(next(server for server in self.cluster.servers if server is not leader), 0)
        self.kill_the_owner(self.cluster.leader(), 1)

    def test_swaps_raced_at_all_nodes_lose_no_count(self):
        """Each node adds 1, 20 times, while others do: to what it has read, and again when that was refused."""
        self.cluster[0].call("PUT", "/v1/kv/count", b"0")
        self.cluster.same_index()
        refused = []

        def add(server):
            with contextlib.closing(server.api()) as api:
                added = 0
                while added < 20:
                    _, value, fields = api.ask("GET", "/v1/kv/count")
                    status, answer, _ = api.ask("PUT", f"/v1/kv/count?if_revision={fields['x-blixard-revision']}", b"%d" % (int(value) + 1))
                    self.assertIn(status, (200, 409), answer)
                    added += status == 200
                    refused.extend([answer] * (status == 409))

        threads = [threading.Thread(target=add, args=(server,)) for server in self.cluster.servers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.cluster.same_index()
        self.assertEqual({server.call("GET", "/v1/kv/count") for server in self.cluster.servers}, {"60"})
        self.assertGreater(len(refused), 0)


if __name__ == "__main__":
    unittest.main()
