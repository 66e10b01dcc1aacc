"""A schedule in a cluster of three: one node runs it, and when that one is killed another goes on."""
import datetime
import json
import pathlib
import subprocess
import tempfile
import time
import unittest

from member import Member, is_whole
from node import Refused

SECONDS = 90
SOURCE = r"""
#include <stdio.h>
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
int main(void)
{
    fprintf(stderr, "got %s\n", getenv("HTTP_CE_ID"));
    take(300);
    puts("Content-Type: text/plain\n\nok");
}
"""


class Cluster(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="blixard-trigger-")
        cls.addClassCleanup(folder.cleanup)
        source = pathlib.Path(folder.name) / "main.c"
        source.write_text(SOURCE)
        subprocess.run(["clang-14", "--target=wasm32-wasi", "-O1", "-o", source.with_suffix(".wasm"), source], check=True)
        cls.module = source.with_suffix(".wasm")
        cls.members = {}
        for number, name in enumerate(("one", "two", "three"), 1):
            cls.members[name] = Member(name, number, "--isolation", "auto")
            cls.addClassCleanup(cls.members[name].clean)
        one = cls.members["one"].begin()
        one.request("POST", "/v1/cluster", {"name": "home"})
        cls.members["two"].begin(one.token())
        cls.members["three"].begin(one.token())
        one.until(is_whole(3), "three servers")
        subprocess.run([pathlib.Path(one.process.args[0]), "fn", "deploy", "work", cls.module, "--addr", one.api],
                       check=True, stdout=subprocess.DEVNULL)

    def look(self, member):
        return member.request("GET", "/v1/triggers/tick")

    def runners(self, members):
        return [name for name, member in members.items() if self.look(member)["state"] == "running"]

    def until(self, member, holds):
        end = time.monotonic() + SECONDS
        while not holds(seen := self.look(member)):
            self.assertLess(time.monotonic(), end, f"{seen}")
            index = member.status()["index"]
            member.request("GET", f"/v1/cluster?index={index + 1}&wait=1s")
        return seen

    def slots(self, members):
        found = []
        for name, member in members.items():
            document = member.request("GET", f"/v1/functions/work/logs?tail=1000&node={name}")
            found += [line["text"].split()[1] for line in document["lines"] if line["text"].startswith("got tick/")]
        return found

    def test_the_owner_is_killed_and_no_slot_is_lost(self):
        one = self.members["one"]
        one.request("POST", "/v1/triggers", {
            "name": "tick", "kind": "cron", "function": "work",
            "settings": {"schedule": "@every 1s", "misfire": "all"}})
        self.until(one, lambda t: t["delivered"] >= 3)
        runners = self.runners(self.members)
        self.assertEqual(len(runners), 1)
        owner = self.members[runners[0]]
        others = {name: member for name, member in self.members.items() if member is not owner}
        before = self.look(owner)["delivered"]
        owner.kill()
        other = next(iter(others.values()))
        self.until(other, lambda t: t["delivered"] >= before + 12)
        self.assertEqual(len(self.runners(others)), 1)
        owner.begin()
        other.until(is_whole(3), "the killed one back")
        self.until(other, lambda t: t["delivered"] >= before + 16)
        other.request("PATCH", "/v1/triggers/tick", {"paused": True})
        self.until(other, lambda t: t["paused"] and not self.runners(self.members))
        found = self.slots(self.members)
        times = sorted(datetime.datetime.fromisoformat(slot.split("/")[1].replace("Z", "+00:00")) for slot in set(found))
        self.assertEqual({(b - a).total_seconds() for a, b in zip(times, times[1:])}, {1.0}, sorted(found))
        # At least once: what ran when its node was killed ran again, and nothing else.
        self.assertLessEqual(len(found) - len(times), 1, sorted(found))


if __name__ == "__main__":
    unittest.main()
