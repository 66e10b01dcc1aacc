"""Queues, streams and brokers as what calls functions: order, failures, dead letters, a kill in between."""
import contextlib
import json
import pathlib
import socket
import subprocess
import tempfile
import threading
import time
import unittest

from foreign import Server, find
from node import BUILD, Node
from ports import free_port

SECONDS = 60
# Tells what it gets; a body with "poison" fails, "busy" is not taken now, "slow" takes its time; of a batch, "part" is said to have failed; with "other", one that is not there.
SOURCE = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
static void tell_parts(const char *body)
{
    const char *separator = "";
    if (strstr(body, "other") != NULL) {
        puts("Content-Type: application/json\n\n{\"batchItemFailures\":[{\"itemIdentifier\":\"0\"}]}");
        return;
    }
    printf("Content-Type: application/json\n\n{\"batchItemFailures\":[");
    for (const char *at = body; (at = strstr(at, "part")) != NULL; at++) {
        const char *id = at;
        while (strncmp(id, "\"id\":\"", 6) != 0) {
            id--;
        }
        printf("%s{\"itemIdentifier\":\"%.*s\"}", separator, (int)strcspn(id + 6, "\""), id + 6);
        separator = ",";
    }
    puts("]}");
}
int main(void)
{
    static char body[1 << 20];
    const char *id = getenv("HTTP_CE_ID");
    body[fread(body, 1, sizeof(body) - 1, stdin)] = 0;
    fprintf(stderr, "got %s %s %s %s\n", id ? id : "-", getenv("HTTP_CE_TYPE") ? getenv("HTTP_CE_TYPE") : "-",
            getenv("HTTP_CE_TRACE") ? getenv("HTTP_CE_TRACE") : "-", body);
    if (strstr(body, "slow") != NULL) {
        struct timespec from, now;
        clock_gettime(CLOCK_MONOTONIC, &from);
        do {
            clock_gettime(CLOCK_MONOTONIC, &now);
        } while ((now.tv_sec - from.tv_sec) * 1000 + (now.tv_nsec - from.tv_nsec) / 1000000 < 300);
    }
    if (strstr(body, "poison") != NULL) {
        puts("Status: 500\n");
        return 0;
    }
    if (strstr(body, "busy") != NULL) {
        puts("Status: 503\n");
        return 0;
    }
    if (body[0] == '[') {
        tell_parts(body);
        return 0;
    }
    puts("Content-Type: text/plain\n\nok");
    return 0;
}
"""


def setUpModule():
    global folder, module
    folder = tempfile.TemporaryDirectory(prefix="blixard-sources-")
    source = pathlib.Path(folder.name) / "main.c"
    source.write_text(SOURCE)
    subprocess.run(["clang-14", "--target=wasm32-wasi", "-O1", "-o", source.with_suffix(".wasm"), source], check=True)
    module = source.with_suffix(".wasm").read_bytes()


def tearDownModule():
    folder.cleanup()


class Case(unittest.TestCase):
    count = 0

    @classmethod
    def setUpClass(cls):
        cls.node = Node()
        cls.addClassCleanup(lambda: cls.node.stop())

    def setUp(self):
        Case.count += 1
        self.name = f"f{Case.count}"
        self.node.deploy(self.name, module)

    def trigger(self, kind, settings, **more):
        self.node.call("POST", "/v1/triggers", json.dumps({"name": self.name, "kind": kind, "function": self.name, "settings": settings, **more}).encode())
        self.addCleanup(lambda: self.node.call("DELETE", f"/v1/triggers/{self.name}"))

    def got(self):
        lines = self.node.json(f"/v1/functions/{self.name}/logs?tail=1000")["lines"]
        return [line["text"].split(" ", 4)[1:] for line in lines if line["text"].startswith("got ")]

    def until(self, holds, what="what was to come"):
        """The log is looked at again whenever the state has changed, or after a moment."""
        end = time.monotonic() + SECONDS
        while not holds():
            self.assertLess(time.monotonic(), end, f"{what}: {self.got()[-5:]} {self.look()}")
            threading.Event().wait(0.05)

    def kill(self):
        """As a power cut has it, and on again."""
        self.node.kill()
        killed = self.node
        type(self).node = self.node = Node(folder=killed.folder)
        self.node.owned, killed.owned = killed.owned, None

    def look(self):
        return self.node.json(f"/v1/triggers/{self.name}")

    def cli(self, *words, stdin=None):
        done = subprocess.run([BUILD / "blixard", *map(str, words)], env=self.node.env, text=True, input=stdin,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout


class Queues(Case):
    def test_messages_call_the_function_and_are_gone(self):
        self.cli("queue", "create", self.name)
        self.trigger("queue", {"queue": self.name})
        for n in range(20):
            self.cli("queue", "send", self.name, "--data", f"m{n}")
        self.until(lambda: len(self.got()) >= 20)
        self.assertEqual(sorted(g[3] for g in self.got()), sorted(f"m{n}" for n in range(20)))
        self.assertEqual({g[1] for g in self.got()}, {"blixard.queue.message"})
        self.until(lambda: self.node.json(f"/v1/queues/{self.name}")["depth"] == 0, "an empty queue")
        self.until(lambda: self.look()["delivered"] == 20, "the count")

    def test_poison_goes_to_the_dead_letters(self):
        self.cli("queue", "create", f"{self.name}-dead")
        self.cli("queue", "create", self.name, "--dead-letter", f"{self.name}-dead", "--max-receives", "3")
        self.trigger("queue", {"queue": self.name})
        self.cli("queue", "send", self.name, "--data", "poison")
        self.cli("queue", "send", self.name, "--data", "fine")
        self.until(lambda: self.node.json(f"/v1/queues/{self.name}-dead")["depth"] == 1, "a dead letter")
        self.until(lambda: len(self.got()) >= 4, "the one that was sent later")
        self.assertEqual(sorted(g[3] for g in self.got()), ["fine", "poison", "poison", "poison"])

    def test_what_its_function_does_not_take_now_is_no_dead_letter(self):
        self.cli("queue", "create", f"{self.name}-dead")
        self.cli("queue", "create", self.name, "--dead-letter", f"{self.name}-dead", "--max-receives", "1")
        self.trigger("queue", {"queue": self.name})
        self.cli("queue", "send", self.name, "--data", "busy")
        self.until(lambda: len(self.got()) >= 2, "the call, again")
        self.cli("trigger", "pause", self.name)
        self.until(lambda: self.node.json(f"/v1/queues/{self.name}")["in_flight"] == 0, "the message, given back")
        queue = self.node.json(f"/v1/queues/{self.name}")
        self.assertEqual((queue["depth"], queue["died"]), (1, 0))
        self.assertEqual([m["receives"] for m in json.loads(self.cli("queue", "messages", self.name, "--output", "json"))["messages"]], [0])

    def test_poison_without_dead_letters_is_not_all_that_is_done(self):
        self.cli("queue", "create", self.name)
        self.trigger("queue", {"queue": self.name}, retry_delay_ms=3600000, retry_delay_max_ms=3600000)
        self.cli("queue", "send", self.name, "--data", "poison")
        self.until(lambda: self.look()["failed"] >= 1, "a failure")
        for n in range(30):
            self.cli("queue", "send", self.name, "--data", f"fine {n}")
        self.until(lambda: self.look()["delivered"] == 30, "those that are fine")
        self.assertEqual([g[3] for g in self.got()].count("poison"), 1)
        self.assertEqual(self.node.json(f"/v1/queues/{self.name}")["depth"], 1)

    def batch(self, *bodies):
        """A queue that gives up after two tries, all of `bodies` in it, and a trigger that takes them together."""
        self.cli("queue", "create", f"{self.name}-dead")
        self.cli("queue", "create", self.name, "--dead-letter", f"{self.name}-dead", "--max-receives", "2")
        self.node.call("POST", f"/v1/queues/{self.name}/messages", {"messages": [{"body": body} for body in bodies]})

    def dead(self):
        return [m["body"] for m in self.node.json(f"/v1/queues/{self.name}-dead/messages")["messages"]]

    def test_a_batch_that_fails_is_halved_until_the_one_is_found(self):
        self.batch(*(f"m{n}" for n in range(5)), "poison", "m6", "m7")
        self.trigger("queue", {"queue": self.name}, batch_size=8, bisect=True)
        self.until(lambda: self.look()["delivered"] == 7 and self.dead(), "seven that were delivered, and a dead letter")
        self.assertEqual(self.dead(), ["poison"])

    def test_what_is_said_to_have_failed_comes_again_alone(self):
        self.batch("m0", "part", "m2", "m3")
        self.trigger("queue", {"queue": self.name}, batch_size=4)
        self.until(lambda: self.look()["delivered"] == 3 and self.dead(), "three that were delivered, and a dead letter")
        self.assertEqual(self.dead(), ["part"])
        self.until(lambda: len(self.got()) == 2, "two batches")
        self.assertEqual([g[3].count('"specversion"') for g in self.got()], [4, 1])

    def test_a_trial_is_told_what_the_function_says_has_failed(self):
        self.cli("queue", "create", self.name)
        self.trigger("queue", {"queue": self.name}, batch_size=4)
        for data, delivered, reason in (("fine", True, None), ("part", False, "the function listed it in batchItemFailures"),
                                        ("other", False, "batchItemFailures of the answer name what is no event of the batch")):
            event = json.dumps({"specversion": "1.0", "id": "e1", "source": "/t", "type": "t", "data": data})
            done = subprocess.run([BUILD / "blixard", "trigger", "test", self.name, "--event", "-", "-o", "json"], env=self.node.env,
                                  text=True, input=event, capture_output=True, timeout=60)
            said = json.loads(done.stdout)
            self.assertEqual((said["delivered"], said.get("error"), said["status"]), (delivered, reason, 200))
            self.assertEqual(done.returncode, 0 if delivered else 70)

    def test_all_come_again_where_what_is_said_to_have_failed_is_none_of_them(self):
        self.batch("m0", "other", "m2", "m3")
        self.trigger("queue", {"queue": self.name}, batch_size=4, batch_window_ms=5000)  # one alone has no list of failures
        self.until(lambda: len(self.dead()) == 4, "four dead letters")
        self.assertEqual(self.look()["delivered"], 0)
        self.assertIn("name what is no event of the batch", self.look()["last_error"])

    def test_a_message_is_not_for_a_receiver_that_has_just_gone(self):
        self.cli("queue", "create", self.name)
        with socket.create_connection(self.node.api.rsplit(":", 1)) as receiver:
            body = b'{"wait":"20s"}'
            receiver.sendall(b"POST /v1/queues/%s/receive HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                             % (self.name.encode(), self.node.api.encode(), len(body), body))
            self.node.get(f"/v1/queues/{self.name}")  # what was said before it has been read
            receiver.setblocking(False)
            self.assertRaises(BlockingIOError, receiver.recv, 1)  # it waits
        self.node.call("POST", f"/v1/queues/{self.name}/messages", {"messages": [{"body": "mine"}]})
        got = json.loads(self.node.call("POST", f"/v1/queues/{self.name}/receive", {"wait": "10s"}))["messages"]
        self.assertEqual([message["body"] for message in got], ["mine"])

    def test_groups_are_kept_in_order(self):
        self.cli("queue", "create", self.name, "--fifo")
        self.trigger("queue", {"queue": self.name}, concurrency_max=8)
        for n in range(12):
            self.cli("queue", "send", self.name, "--data", f"g{n % 3}-{n:02}", "--group", f"g{n % 3}")
        self.until(lambda: len(self.got()) >= 12)
        for group in range(3):
            seen = [g[3] for g in self.got() if g[3].startswith(f"g{group}")]
            self.assertEqual(seen, sorted(seen))

    def test_a_batch_has_the_first_of_each_group(self):
        self.cli("queue", "create", self.name, "--fifo")
        for n in range(8):
            self.cli("queue", "send", self.name, "--data", f"m{n}", "--group", f"g{n % 4}")
        self.trigger("queue", {"queue": self.name}, batch_size=4, batch_window_ms=5000)
        self.until(lambda: len(self.got()) >= 2, "two batches")
        batches = [sorted(event["subject"] + str(event.get("data")) for event in json.loads(" ".join(g[3:]))) for g in self.got()]
        self.assertEqual(batches, [["g0m0", "g1m1", "g2m2", "g3m3"], ["g0m4", "g1m5", "g2m6", "g3m7"]])

    def test_what_was_under_way_at_a_kill_is_delivered_again(self):
        self.cli("queue", "create", self.name, "--visibility", "2s")
        self.trigger("queue", {"queue": self.name})
        for n in range(10):
            self.cli("queue", "send", self.name, "--data", f"slow{n}")
        self.until(lambda: len(self.got()) >= 2)
        self.kill()
        self.until(lambda: self.node.json(f"/v1/queues/{self.name}")["depth"] == 0, "an empty queue")
        queue = self.node.json(f"/v1/queues/{self.name}")  # what is acknowledged was delivered; logs may end with the process
        self.assertEqual((queue["acked"], queue["died"], queue["expired"]), (10, 0, 0))


class Streams(Case):
    def append(self, *bodies, key=None):
        for body in bodies:
            self.cli("stream", "append", self.name, "--data", body, *(["--key", key] if key else []))

    def test_records_of_a_key_come_in_order(self):
        self.cli("stream", "create", self.name, "--partitions", "2")
        self.append("before", key="a")
        self.trigger("stream", {"stream": self.name}, concurrency_max=8)
        self.until(lambda: self.look()["state"] == "running", "a running trigger")
        for n in range(12):
            self.append(f"k{n % 3}-{n:02}", key=f"k{n % 3}")
        self.until(lambda: len(self.got()) >= 12)
        for key in range(3):
            seen = [g[3] for g in self.got() if g[3].startswith(f"k{key}")]
            self.assertEqual(seen, sorted(seen))
        self.assertNotIn("before", [g[3] for g in self.got()])
        self.until(lambda: self.look().get("lag") == 0, "no lag")

    def test_all_from_the_beginning_and_on_from_the_checkpoint(self):
        self.cli("stream", "create", self.name, "--partitions", "1")
        self.append("one", "two")
        self.trigger("stream", {"stream": self.name, "start": "all"})
        self.until(lambda: [g[3] for g in self.got()] == ["one", "two"])
        self.until(lambda: self.look().get("lag") == 0, "no lag")
        self.cli("trigger", "pause", self.name)
        self.append("three")
        self.cli("trigger", "resume", self.name)
        self.until(lambda: [g[3] for g in self.got()] == ["one", "two", "three"])

    def test_what_cannot_be_delivered_goes_to_its_destination(self):
        self.cli("stream", "create", self.name, "--partitions", "1")
        self.cli("queue", "create", f"{self.name}-failed")
        self.trigger("stream", {"stream": self.name, "start": "all"}, retries=1, retry_delay_ms=10, on_failure=f"queue:{self.name}-failed")
        self.append("poison", "fine", key="k")
        self.until(lambda: self.node.json(f"/v1/queues/{self.name}-failed")["depth"] == 1, "a failure")
        self.until(lambda: [g[3] for g in self.got()][-1:] == ["fine"])


    def failing(self, *bodies, **more):
        self.cli("stream", "create", self.name, "--partitions", "1")
        self.cli("queue", "create", f"{self.name}-failed")
        self.append(*bodies, key="k")
        self.trigger("stream", {"stream": self.name, "start": "all"}, retries=1, retry_delay_ms=10,
                     on_failure=f"queue:{self.name}-failed", **more)
        self.until(lambda: self.look().get("lag") == 0, "no lag")
        self.until(lambda: (self.look()["delivered"], self.look()["dead"]) == (len(bodies) - 1, 1), "the counts")
        return [m["body"] for m in self.node.json(f"/v1/queues/{self.name}-failed/messages")["messages"]]

    def test_a_batch_that_fails_is_halved_until_the_one_is_found(self):
        failed = self.failing(*(f"r{n}" for n in range(5)), "poison", "r6", "r7", batch_size=8, bisect=True)
        self.assertEqual(len(failed), 1)
        self.assertIn("poison", failed[0])

    def test_what_is_said_to_have_failed_is_tried_again_alone(self):
        failed = self.failing("r0", "part", "r2", "r3", batch_size=4)
        self.assertEqual(len(failed), 1)
        self.assertEqual([g[3].count('"specversion"') for g in self.got()], [4, 1])

    def test_a_stream_that_was_made_anew_is_read_from_its_beginning(self):
        self.cli("stream", "create", self.name, "--partitions", "1")
        self.trigger("stream", {"stream": self.name})
        self.append("one", "two", "three")
        self.until(lambda: len(self.got()) == 3)
        self.cli("stream", "delete", self.name)
        self.cli("stream", "create", self.name, "--partitions", "2")
        self.append("anew", key="a")
        self.append("and on", key="b")
        self.until(lambda: {"anew", "and on"} <= {g[3] for g in self.got()}, "what the new one holds")
        self.until(lambda: self.look()["state"] == "running" and self.look().get("lag") == 0, "no lag")

    def test_a_pause_loses_nothing(self):
        """What was read and not yet delivered, or waits to be tried again, is the stream's again."""
        self.cli("stream", "create", self.name, "--partitions", "1")
        bodies = [f"slow{n}" for n in range(12)]
        self.node.call("POST", f"/v1/streams/{self.name}/records", {"records": [{"body": body, "key": "k"} for body in bodies]})
        self.trigger("stream", {"stream": self.name, "start": "all"}, concurrency_max=5)
        self.until(lambda: self.got(), "the first one")
        self.cli("trigger", "pause", self.name)
        self.until(lambda: self.look()["delivered"] > 0, "the count, which is written when all has ended")
        self.assertLess(len(self.got()), len(bodies))
        self.cli("trigger", "resume", self.name)
        self.until(lambda: self.look().get("lag") == 0, "no lag")
        self.assertEqual(sorted({g[3] for g in self.got()}), sorted(bodies))

    def test_a_pause_longer_than_the_retention_ends_with_the_next_record(self):
        """All that the trigger had not read is gone: it waits, and the node does other things."""
        self.cli("stream", "create", self.name, "--partitions", "1", "--retention", "1s")
        self.trigger("stream", {"stream": self.name, "start": "all"}, paused=True)
        self.append("gone", "gone as well")
        self.until(lambda: self.node.json(f"/v1/streams/{self.name}")["records"] == 0, "an empty stream")
        self.cli("trigger", "resume", self.name)
        self.append("there")
        self.until(lambda: [g[3] for g in self.got()] == ["there"], "the next record")

    def test_a_change_does_not_wait_for_what_fails(self):
        """Neither for the next attempt, nor for a destination that takes nothing."""
        self.cli("stream", "create", self.name, "--partitions", "1")
        self.cli("queue", "create", f"{self.name}-gone")
        self.append("poison")
        settings = {"stream": self.name, "start": "all"}
        self.trigger("stream", settings, retries=5, retry_delay_ms=3600000, retry_delay_max_ms=3600000)
        self.until(lambda: self.look()["failed"] == 1, "a first attempt")
        change = {"name": self.name, "kind": "stream", "function": self.name, "settings": settings, "retries": 0, "on_failure": f"queue:{self.name}-gone"}
        self.cli("queue", "delete", f"{self.name}-gone")
        self.node.call("PUT", f"/v1/triggers/{self.name}", json.dumps(change).encode())
        self.until(lambda: len(self.got()) >= 2 and self.look()["last_error"].startswith("there is no queue"), "what is in force now")
        self.node.call("PUT", f"/v1/triggers/{self.name}", json.dumps(change | {"on_failure": None}).encode())
        self.until(lambda: self.look().get("lag") == 0 and self.look()["dead"] >= 1, "an end")

    def test_what_comes_after_the_trigger_was_made_is_not_lost_by_a_kill(self):
        self.cli("stream", "create", self.name, "--partitions", "1")
        self.trigger("stream", {"stream": self.name}, concurrency_max=1)
        self.node.call("POST", f"/v1/streams/{self.name}/records", {"records": [{"body": f"slow{n}", "key": "k"} for n in range(3)]})
        self.kill()
        self.until(lambda: {"slow1", "slow2"} <= {g[3] for g in self.got()}, "what the one that was killed had not come to")
        self.until(lambda: self.look().get("lag") == 0, "no lag")


class Brokers(Case):
    def setUp(self):
        super().setUp()
        self.stack = contextlib.ExitStack()
        self.addCleanup(self.stack.close)
        self.folder = pathlib.Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="blixard-broker-")))

    def serve(self, *command, port):
        server = Server(*command, port=port).begin()
        self.stack.callback(server.kill)
        return server

    def test_redis(self):
        port = free_port()
        server = self.serve(find("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(self.folder),
                            "--appendonly", "yes", "--appendfsync", "always", "--save", "", port=port)
        cli = [find("redis-cli"), "-p", str(port)]
        self.trigger("redis", {"url": f"redis://127.0.0.1:{port}", "stream": "orders", "start": "all"})
        subprocess.run([*cli, "XADD", "orders", "*", "data", "one", "trace", "t1"], check=True, stdout=subprocess.DEVNULL)
        self.until(lambda: [g[1:] for g in self.got()] == [["blixard.redis.message", "t1", "one"]])
        pending = lambda: subprocess.run([*cli, "XPENDING", "orders", "blixard"], stdout=subprocess.PIPE, check=True).stdout.split()[0]
        self.until(lambda: pending() == b"0", "nothing pending")
        server.kill()
        said = f"connecting to 127.0.0.1, port {port}: Connection refused"
        self.until(lambda: self.look().get("source") == said, "a problem that is told")
        self.assertEqual(self.look()["state"], "failing")
        server.begin()
        two = [*cli, "-e", "XADD", "orders", "*", "data", "two"]  # refused while it reads what it had kept
        self.until(lambda: subprocess.run(two, stdout=subprocess.DEVNULL).returncode == 0, "a server that has loaded")
        self.until(lambda: [g[3] for g in self.got()] == ["one", "two"])
        self.until(lambda: pending() == b"0", "nothing pending")
        self.assertEqual((self.look()["state"], self.look()["source"]), ("running", "connected"))

    def test_what_is_too_large_is_given_up_and_told(self):
        port = free_port()
        self.serve(find("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", "", port=port)
        cli = [find("redis-cli"), "-p", str(port)]
        lost = f"lost-{self.name}"
        self.cli("queue", "create", lost)
        self.trigger("redis", {"url": f"redis://127.0.0.1:{port}", "stream": "orders", "start": "all"}, on_failure=f"queue:{lost}")
        add = lambda data: subprocess.run([*cli, "-x", "XADD", "orders", "*", "trace", "t1", "data"], input=data, check=True, stdout=subprocess.DEVNULL)
        add(b"x" * (10 << 20))
        add(b"fits")
        self.until(lambda: [g[3] for g in self.got()] == ["fits"])
        self.until(lambda: self.look()["dead"] == 1, "one that was given up")
        seen = self.look()
        self.assertEqual((seen["seen"], seen["delivered"], seen["failed"]), (2, 1, 1), seen)
        self.assertIn("a message of 10485760 bytes", seen["last_error"])
        told = json.loads(json.loads(self.cli("queue", "receive", lost, "--wait", "20s", "--output", "json"))["messages"][0]["body"])
        self.assertEqual((told["trace"], told["blixardtrigger"], "10485760" in told["blixarderror"], told.get("data", "")), ("t1", self.name, True, ""))
        pending = lambda: subprocess.run([*cli, "XPENDING", "orders", "blixard"], stdout=subprocess.PIPE, check=True).stdout.split()[0]
        self.until(lambda: pending() == b"0", "nothing pending")

    def test_a_password_is_a_secret(self):
        port = free_port()
        self.serve(find("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", "",
                   "--requirepass", "first-word", port=port)
        redis = lambda word, *command: subprocess.run([find("redis-cli"), "-p", str(port), "-a", word, "--no-auth-warning", *command],
                                                      check=True, stdout=subprocess.PIPE).stdout
        self.trigger("redis", {"url": f"redis://127.0.0.1:{port}", "stream": "orders", "start": "all", "password_secret": "redis-word"})
        self.until(lambda: "there is no secret redis-word" in str(self.look()), "a secret that is missing")
        self.cli("secret", "set", "redis-word", stdin="first-word\n")
        redis("first-word", "XADD", "orders", "*", "data", "one")
        self.until(lambda: [g[3] for g in self.got()] == ["one"])
        shown = json.loads(self.cli("secret", "show", "redis-word", "--output", "json"))
        self.assertEqual(shown["used_by"], [f"trigger {self.name}"])
        self.assertNotIn("first-word", json.dumps(self.look()))
        # What has no answer when the connection ends would come once more.
        self.until(lambda: redis("first-word", "XPENDING", "orders", "blixard").split()[:1] == [b"0"], "nothing pending")
        # The next connection is made with what the secret is then.
        redis("first-word", "CONFIG", "SET", "requirepass", "second-word")
        redis("second-word", "CLIENT", "KILL", "TYPE", "normal")
        self.cli("secret", "set", "redis-word", stdin="second-word\n")
        redis("second-word", "XADD", "orders", "*", "data", "two")
        self.until(lambda: [g[3] for g in self.got()] == ["one", "two"])
        done = subprocess.run([BUILD / "blixard", "secret", "delete", "redis-word"], env=self.node.env, capture_output=True)
        self.assertEqual((done.returncode, f"used by trigger {self.name};".encode() in done.stderr), (75, True), done.stderr)

    def serve_mqtt(self, settings=None, **more):
        port = free_port()
        conf = self.folder / "mosquitto.conf"
        conf.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nuser root\n")
        self.serve(find("mosquitto"), "-c", str(conf), port=port)
        self.trigger("mqtt", {"url": f"mqtt://127.0.0.1:{port}", "topics": ["home/#"], "qos": 1, **(settings or {})}, **more)
        self.until(lambda: self.look().get("source") == "connected", "a connection")
        return lambda body, qos=1: subprocess.run([find("mosquitto_pub"), "-p", str(port), "-V", "5", "-q", str(qos), "-t", "home/attic", "-m", body],
                                                  check=True)

    def test_mqtt(self):
        publish = self.serve_mqtt()
        publish("one")
        self.until(self.got)
        self.assertEqual(self.got()[0][1], "blixard.mqtt.message")

    def test_an_mqtt_trigger_loses_nothing_at_a_pause_or_a_change(self):
        publish = self.serve_mqtt(concurrency_max=2)
        bodies = [f"slow{n}" for n in range(12)]
        for n, body in enumerate(bodies):
            publish(body, 1 + n % 2)
        self.until(self.got)
        self.cli("trigger", "pause", self.name)
        publish("meanwhile")
        self.cli("trigger", "resume", self.name)
        self.until(lambda: len(self.got()) > len(bodies) // 2)
        self.cli("trigger", "update", self.name, "--retries", "4")
        wanted = sorted([*bodies, "meanwhile"])
        self.until(lambda: sorted(set(g[3] for g in self.got())) == wanted)
        # What was under way at a pause ended, and was acknowledged, before the connection did.
        self.assertEqual(sorted(g[3] for g in self.got()), wanted)

    def test_an_mqtt_trigger_loses_nothing_at_a_kill(self):
        publish = self.serve_mqtt({"shared": "workers", "qos": 2}, concurrency_max=1)
        bodies = [f"slow{n}" for n in range(12)]
        for n, body in enumerate(bodies):
            publish(body, 1 + n % 2)
        self.until(self.got)
        before = {g[3] for g in self.got()}
        self.kill()
        publish("meanwhile")
        self.until(lambda: before | {g[3] for g in self.got()} == {*bodies, "meanwhile"})


if __name__ == "__main__":
    unittest.main()
