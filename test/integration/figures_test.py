"""What functions do, as the command line shows it: figures of the recent time, by version, by node."""
import http.client
import json
import os
import pathlib
import pty
import signal
import subprocess
import tempfile
import termios
import threading
import unittest

from cluster import Cluster
from node import BUILD, QUICK, Node

SOURCE = r"""
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int main(void)
{
    char line[16] = "";
    fgets(line, sizeof(line), stdin);
    if (line[0] == 'x') {
        __builtin_trap();
    }
    if (line[0] == 'e') {
        return 3;
    }
    while (line[0] == 'l') {
    }
    printf("%s", getenv("WHICH") != NULL ? getenv("WHICH") : "ok");
}
"""
node = None
folder = None
module = None


def setUpModule():
    global node, folder, module
    folder = tempfile.TemporaryDirectory(prefix="blixard-figures-")
    source = pathlib.Path(folder.name) / "work.c"
    module = pathlib.Path(folder.name) / "work.wasm"
    source.write_text(SOURCE)
    subprocess.run(["clang-14", "--target=wasm32-wasi", "-O2", "-o", module, source], check=True)
    node = Node(arguments=QUICK)


def tearDownModule():
    node.stop()
    folder.cleanup()


def facts(text):
    """Lines "name: value" of a verb that shows one thing, two blanks or more between them."""
    return {line[:15].strip(): line[16:].strip() for line in text.splitlines()}


class Limits(unittest.TestCase):
    def test_no_limit_is_said_to_be_none(self):
        node.deploy("free", module, idle_ms=0)
        node.deploy("bound", module, concurrency_max=3, instances_max=2, recycle_requests=9, recycle_ms=60000)
        free, bound = facts(node.cli("fn", "get", "free")), facts(node.cli("fn", "get", "bound"))
        names = ("concurrency", "instances max", "idle", "recycle calls", "recycle after", "async timeout")
        self.assertEqual([free[name] for name in names], ["none"] * 6)
        self.assertEqual([bound[name] for name in names], ["3", "2", "10 min", "9", "1 min", "none"])
        self.assertEqual(free["instances min"], "0")  # a number, and no bound


def cli(*words, check=True):
    """Standard output; or the whole of it, where it may fail."""
    done = subprocess.run([BUILD / "blixard", *words], env=node.env, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, timeout=300)
    if check and done.returncode != 0:
        raise AssertionError(f"{words}: {done.returncode}: {done.stderr}")
    return done.stdout if check else done


def document(*words):
    return json.loads(cli(*words, "--output", "json"))


def reasons(row):
    return {error["reason"]: error["calls"] for error in row["errors"]}


def ask(name, body, times=1):
    for _ in range(times):
        node.request("POST", f"/v1/functions/{name}/invocations", body)


class OneNode(unittest.TestCase):
    maxDiff = None

    def test_what_a_function_did_is_shown_with_it(self):
        node.deploy("did", module, timeout_ms=300)
        self.assertEqual(document("fn", "get", "did")["usage"]["calls"], 0)
        ask("did", b"a", 5)
        ask("did", b"x", 2)
        ask("did", b"e")
        ask("did", b"l")
        usage = document("fn", "get", "did")["usage"]
        self.assertEqual((usage["calls"], reasons(usage)), (9, {"trap": 2, "error": 1, "timeout": 1}))
        self.assertEqual((usage["cold_starts"] + usage["warm_starts"], usage["running"], usage["silent"]), (9, 0, []))
        self.assertGreater(usage["idle"], 0)
        self.assertGreater(usage["memory_bytes"], 65535)
        self.assertLessEqual(usage["p50_us"], usage["p99_us"])
        self.assertGreater(usage["p99_us"], 250000)  # of nine calls the last hundredth is the one that ran into its timeout
        shown = facts(cli("fn", "get", "did"))
        self.assertRegex(shown["figures"], r"^of the last \d+ (ms|s|min)")
        self.assertRegex(shown["calls"], r"^9 \(.*/s\)$")
        self.assertRegex(shown["errors"], r"^4 \(44\.4 %\): ")
        self.assertIn("trap 2", shown["errors"])
        self.assertRegex(shown["duration"], r"^p50 .* [um]?s, p99 .* [um]?s$")
        self.assertRegex(shown["starts"], r"^\d+ warm, \d+ cold$")
        self.assertEqual(shown["calls now"], "0 running, 0 waiting")
        listed = {function["name"]: function["usage"]["calls"] for function in document("fn", "list")["functions"]}
        self.assertEqual(listed["did"], 9)
        self.assertRegex(cli("fn", "list"), r"\nNAME|^NAME .*CALLS +ERRORS +P99 +RUNNING")
        self.assertRegex(cli("fn", "list"), r"\ndid .* 9 +4 \(44\.4 %\) +[\d.]+ ms +0 ")

    def test_versions_of_an_alias_are_side_by_side(self):
        node.deploy("canary", module)
        node.deploy("canary", module, environment={"WHICH": "two"})
        cli("fn", "alias", "set", "canary", "live", "v1=3", "v2=1")
        ask("canary:1", b"a", 4)
        ask("canary:2", b"a")
        ask("canary:2", b"x", 2)
        known = document("fn", "alias", "get", "canary")
        self.assertEqual((known["alias"], known["target"]), ("live", "v1=3 v2=1"))
        one, two = known["versions"]
        self.assertEqual((one["version"], one["share_percent"], one["calls"], one["errors"]), (1, 75, 4, []))
        self.assertEqual((two["version"], two["share_percent"], two["calls"], reasons(two)), (2, 25, 3, {"trap": 2}))
        self.assertTrue(all(row["p99_us"] > 0 for row in known["versions"]))
        table = cli("fn", "alias", "get", "canary")
        self.assertRegex(table, r"\n1 +75 % +4 +0 +\d")
        self.assertRegex(table, r"\n2 +25 % +3 +2 \(66\.7 %\) +\d")
        self.assertRegex(cli("fn", "get", "canary"), r"\n\nVERSION +SHARE +CALLS(.|\n)*\n1 +75 % +4 (.|\n)*\n2 +25 % +3 ")
        # A version that was never called has its row; one that is not in the alias is in fn get.
        node.deploy("canary", module, environment={"WHICH": "three"})
        cli("fn", "alias", "set", "canary", "beta", "3")
        (three,) = document("fn", "alias", "get", "canary", "beta")["versions"]
        self.assertEqual((three["version"], three["share_percent"], three["calls"]), (3, 100, 0))
        self.assertEqual({row["version"] for row in document("fn", "get", "canary")["usage"]["versions"] if row["calls"]}, {1, 2})
        wrong = cli("fn", "alias", "get", "canary", "gamma", check=False)
        self.assertEqual((wrong.returncode, wrong.stderr), (66, "blixard: canary has no alias gamma: blixard fn alias list canary\n"))

    def test_what_runs_now_is_counted(self):
        node.deploy("busy", module, timeout_ms=60000, concurrency_max=1)
        host, port = node.api.rsplit(":", 1)
        calls = [http.client.HTTPConnection(host, int(port), timeout=60) for _ in range(2)]
        for call in calls:
            call.request("POST", "/v1/functions/busy/invocations", b"l")
        try:
            while (usage := document("fn", "get", "busy")["usage"])["waiting"] != 1 or usage["running"] != 1:
                pass
            self.assertEqual(usage["calls"], 0)
            self.assertEqual(facts(cli("fn", "get", "busy"))["calls now"], "1 running, 1 waiting")
            self.assertRegex(facts(cli("fn", "get", "busy"))["instances"], "^1 busy, ")  # one more may be made ready for the next call
            (row,) = [row for row in document("fn", "top")["functions"] if row["name"] == "busy"]
            self.assertEqual((row["running"], row["waiting"], row["calls"]), (1, 1, 0))
        finally:
            for call in calls:
                call.close()  # the gateway breaks off what nobody waits for
        while (usage := document("fn", "get", "busy")["usage"])["running"] + usage["waiting"]:
            pass
        self.assertEqual(reasons(usage), {"cancelled": 2})

    def test_top_has_rates_without_a_terminal(self):
        node.deploy("topped", module)
        node.deploy("another", module, memory_bytes=64 << 20)
        over = threading.Event()

        def go_on():
            while not over.is_set():
                ask("topped", b"a")

        asking = threading.Thread(target=go_on)
        asking.start()
        try:
            rows = {row["name"]: row for row in document("fn", "top")["functions"]}
            sorted_by = document("fn", "top", "--sort", "calls", "--interval", "500ms")["functions"]
        finally:
            over.set()
            asking.join()
        self.assertEqual(sorted_by[0]["name"], "topped")
        self.assertGreater(rows["topped"]["calls_per_second"], 0)
        self.assertEqual((rows["another"]["calls_per_second"], rows["another"]["calls"]), (0, 0))
        self.assertNotIn("p99_us", rows["another"])
        self.assertEqual(list(rows), sorted(rows))
        table = cli("fn", "top", "--once")
        self.assertRegex(table, r"^NAME +CALLS/S +ERRORS/S +COLD/S +P50 +P99 ")
        self.assertNotIn("\033", table)
        versions = document("fn", "top", "topped")["versions"]
        self.assertEqual([row["version"] for row in versions], [1])
        self.assertEqual(document("vm", "top", "--sort", "cpu"), {"machines": [], "silent": []})

    def test_what_is_wrong_is_told(self):
        for words, status, told in ((("top", "--sort", "age"), 64, "--sort age is not one of: name calls"),
                                    (("top", "--interval", "1ms"), 64, "--interval 1ms is not a duration of 100ms to 1h"),
                                    (("top", "--interval", "soon"), 64, "--interval soon is not a duration"),
                                    (("top", "nobody"), 66, "there is no function nobody"),
                                    (("top", "--node", "nowhere"), 66, "there is no node nowhere")):
            done = cli("fn", *words, check=False)
            self.assertEqual((done.returncode, done.stdout), (status, ""), words)
            self.assertIn(told, done.stderr)

    def test_a_project_sees_its_own(self):
        node.deploy("mine", module)
        ask("mine", b"a")
        self.assertEqual(document("fn", "top", "--project", "other")["functions"], [])
        self.assertEqual(node.json("/v1/function-usage?project=other")["functions"], [])


class Terminal(unittest.TestCase):
    """As somebody sees it; what is typed comes when something is on the screen."""

    def watch(self, *words):
        master, slave = pty.openpty()
        before = termios.tcgetattr(slave)
        process = subprocess.Popen([BUILD / "blixard", *words], env=node.env, stdin=slave, stdout=slave, stderr=slave,
                                   start_new_session=True)
        self.addCleanup(os.close, master)
        self.addCleanup(os.close, slave)
        return process, master, lambda: termios.tcgetattr(slave) == before

    def read(self, master, times):
        seen = b""
        while seen.count(b"q ends") < times:
            seen += os.read(master, 65536)
        return seen

    def test_it_goes_on_until_a_key(self):
        for verb in (("fn", "top"), ("vm", "top")):
            for key in (b"q", b"\x03", b"\x04"):
                with self.subTest(verb=verb, key=key):
                    process, master, is_as_before = self.watch(*verb, "--interval", "100ms")
                    seen = self.read(master, 3)
                    self.assertIn(b"\033[H\033[J", seen)
                    self.assertFalse(is_as_before())
                    os.write(master, key)
                    self.assertEqual(process.wait(timeout=30), 0)
                    self.assertTrue(is_as_before())

    def test_whoever_ends_it_gets_the_terminal_back(self):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            process, master, is_as_before = self.watch("fn", "top", "--interval", "1h")
            self.read(master, 1)
            process.send_signal(number)
            self.assertEqual(process.wait(timeout=30), -number)
            self.assertTrue(is_as_before(), number)


class TwoNodes(unittest.TestCase):
    def test_nodes_are_summed_and_who_is_silent_is_named(self):
        with Cluster(2, "figures", QUICK) as cluster:
            cluster.form()
            one, two = cluster.servers
            one.deploy("both", module.read_bytes())
            index = None
            while True:
                version, index = one.look("/v1/functions/both/versions/1", index, 1000)
                if len(version["nodes"]) == 2:
                    break
            for server, times in ((one, 3), (two, 4)):
                for number in range(times):
                    one.cli("fn", "invoke", "both", "--node", server.name, "--data", "a" if number else "x", check=False)

            def usage():
                return json.loads(one.cli("fn", "get", "both", "--output", "json"))["usage"]

            both = usage()
            self.assertEqual((both["calls"], reasons(both), both["silent"]), (7, {"trap": 2}, []))
            self.assertEqual([row["node"] for row in both["nodes"]], ["n1", "n2"])
            self.assertEqual([row["calls"] for row in both["versions"]], [7])
            self.assertRegex(facts(one.cli("fn", "get", "both"))["figures"], "; of 2 nodes$")
            top = json.loads(one.cli("fn", "top", "--output", "json"))
            self.assertEqual(([row["name"] for row in top["functions"]], top["silent"]), (["both"], []))
            (here,) = json.loads(one.cli("fn", "top", "--node", "n2", "--output", "json"))["functions"]
            self.assertLessEqual(here["idle"], both["idle"])

            two.pause()  # as it is when its machine hangs: connections stay, and nobody answers
            alone = usage()
            self.assertEqual((alone["calls"], [row["node"] for row in alone["nodes"]]), (3, ["n1"]))
            self.assertEqual([row["node"] for row in alone["silent"]], ["n2"])
            self.assertRegex(facts(one.cli("fn", "get", "both"))["not counted"], "^n2: ")
            listed = one.cli("fn", "list", check=False)
            self.assertEqual(listed.returncode, 0)
            self.assertRegex(listed.stderr, "^blixard: not counted: n2: ")
            topped = one.cli("fn", "top", "--once", check=False)
            self.assertRegex(topped.stderr, "^blixard: not counted: n2: ")
            self.assertRegex(topped.stdout, "\nboth ")
            one.until(lambda view: "lost" in [node["health"] for node in view["nodes"]], "lost node")
            self.assertEqual(usage()["silent"], [{"node": "n2", "reason": "is lost"}])
            self.assertEqual(json.loads(one.cli("vm", "top", "--output", "json"))["silent"], [{"node": "n2", "reason": "is lost"}])
            two.resume()
            cluster.settled()
            self.assertEqual((usage()["calls"], usage()["silent"]), (7, []))
