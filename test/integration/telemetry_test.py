"""Traces and metrics: from a client's traceparent to the terminal, a collector and a real Prometheus."""
import http.client
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import threading
import time
import unittest
import urllib.parse
import urllib.request

from member import Member
from node import BUILD, Node
from otlp import Collector
from ports import free_port

SECONDS = 60
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
SOURCE = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
int main(void)
{
    const char *query = getenv("QUERY_STRING");
    fprintf(stderr, "says %s\n", query);
    if (strcmp(query, "trap") == 0) {
        __builtin_trap();
    }
    if (strcmp(query, "long") == 0) {
        for (time_t end = time(NULL) + 2; time(NULL) < end;) {
        }
    }
    printf("%s|%s|%s", getenv("TRACEPARENT"), getenv("HTTP_TRACEPARENT"), getenv("TRACESTATE") ? getenv("TRACESTATE") : "");
}
"""
module = None
node = None
collector = None
folder = None


def setUpModule():
    global module, node, collector, folder
    folder = tempfile.TemporaryDirectory(prefix="blixard-telemetry-")
    source = pathlib.Path(folder.name) / "main.c"
    source.write_text(SOURCE)
    subprocess.run(["clang-14", "--target=wasm32-wasi", "-O1", "-o", source.with_suffix(".wasm"), source], check=True)
    module = source.with_suffix(".wasm").read_bytes()
    headers = pathlib.Path(folder.name) / "headers"
    headers.write_text("# for the collector\nAuthorization: Bearer hidden\n")
    collector = Collector(answers=[503, 200])
    node = Node(arguments=["--otlp-endpoint", collector.url, "--otlp-headers-file", headers, "--otlp-compression", "gzip",
                           "--traces-per-second", "1000"])
    node.deploy("fn", module)


def tearDownModule():
    node.stop()
    collector.close()
    folder.cleanup()


def call(gateway, query="", fields=None, name="fn"):
    """(status, body, fields) from the gateway."""
    host, port = gateway.rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=SECONDS)
    try:
        connection.request("GET", f"/fn/{name}?{query}", headers=fields or {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), {n.lower(): v for n, v in answer.getheaders()}
    finally:
        connection.close()


def shown(trace, *arguments):
    return json.loads(node.cli("trace", "show", trace, "--output", "json", *arguments))["spans"]


class Traces(unittest.TestCase):
    def test_a_function_is_told_where_in_the_clients_trace_it_is(self):
        status, body, fields = call(node.gateway, "in", {"traceparent": PARENT, "tracestate": "a=1"})
        own, field, state = body.split("|")
        self.assertEqual((status, own, state), (200, field, "a=1"))
        spans = {span["name"]: span for span in shown(TRACE)}
        request, run = spans["GET /fn/fn"], spans["run"]
        self.assertEqual(own, f"00-{TRACE}-{run['id']}-01")
        self.assertEqual(fields["traceresponse"], f"00-{TRACE}-{request['id']}-01")
        self.assertEqual((request["parent"], run["parent"]), ("b7ad6b7169203331", request["id"]))
        self.assertEqual(request["attributes"]["http.response.status_code"], "200")
        self.assertEqual(request["attributes"]["faas.invocation_id"], fields["x-request-id"])
        self.assertEqual((request["attributes"]["client.address"], request["attributes"]["faas.version"]), ("127.0.0.1", "1"))
        self.assertIn("queue", spans)
        self.assertIn("says in", node.cli("fn", "logs", "fn", "--trace", TRACE))
        self.assertIn("says in", node.cli("fn", "logs", "fn", "--trace", TRACE[:12]))
        waterfall = node.cli("trace", "show", TRACE[:12])
        self.assertRegex(waterfall, r"GET /fn/fn +[=█]+.*\n +queue")

    def test_what_is_malformed_begins_a_new_trace(self):
        for fields in ({"traceparent": PARENT[:-1] + "x", "tracestate": "a=1"}, {}):
            _, body, _ = call(node.gateway, "new", fields)
            own, _, state = body.split("|")
            self.assertRegex(own, "^00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]$")
            self.assertNotIn(TRACE, own)
            self.assertEqual(state, "")

    def test_what_failed_is_kept_although_nobody_sampled_it(self):
        """The flag of the caller says no; the log finds the trace, and the trace says why."""
        trace = "1" * 32
        quiet = "2" * 32
        call(node.gateway, "fine", {"traceparent": f"00-{quiet}-b7ad6b7169203331-00"})
        status, _, _ = call(node.gateway, "trap", {"traceparent": f"00-{trace}-b7ad6b7169203331-00"})
        self.assertEqual(status, 502)
        errors = [span for span in shown(trace) if span["status"] == "error"]
        self.assertEqual({span["name"] for span in errors}, {"GET /fn/fn", "run"})
        self.assertIn(trace, node.cli("trace", "list", "--errors", "--function", "fn"))
        waterfall = node.cli("trace", "show", trace)
        self.assertEqual(("  trap: unreachable\n" in waterfall, "trap: trap:" in waterfall), (True, False), waterfall)
        self.assertNotIn(quiet, node.cli("trace", "list"))
        self.assertIn("says trap", node.cli("fn", "logs", "fn", "--trace", trace))
        self.assertNotIn(trace, node.cli("trace", "list", "--function", "other"))
        self.assertNotIn(trace, node.cli("trace", "list", "--slower-than", "10m"))

    def test_a_message_goes_on_with_the_trace_of_its_sender(self):
        trace = "5" * 32
        node.cli("queue", "create", "work")
        node.cli("trigger", "create", "work", "--kind", "queue", "--function", "fn", "--set", "queue=work")
        node.cli("queue", "send", "work", "--data", "x", "--attribute", f"traceparent=00-{trace}-b7ad6b7169203331-01")
        spans = {s["name"]: s for s in collector.until(lambda spans: sum(s["trace_id"] == trace for s in spans) >= 3) if s["trace_id"] == trace}
        span = spans["trigger work"]
        self.assertEqual({s["parent_span_id"] for name, s in spans.items() if name != "trigger work"}, {span["span_id"]})
        self.assertLessEqual({"queue", "run"}, set(spans))
        attributes = span["attributes"]
        self.assertEqual((span["kind"], span["parent_span_id"]), (5, "b7ad6b7169203331"))
        self.assertEqual((attributes["faas.name"], attributes["faas.version"], attributes["faas.trigger"]), ("fn", "1", "pubsub"))
        self.assertIn(trace, node.cli("trace", "list", "--function", "fn"))

    def test_errors_say_what_to_do(self):
        for arguments, says in ((["show", "3" * 32], "trace list"), (["show", "zz"], "trace list"),
                                (["show", "3" * 33], "32 hex digits"), (["show", "3" * 32, "--node", "nobody"], "there is no node nobody"),
                                (["list", "--since", "yesterday"], "for example"), (["list", "--count", "0"], "above 0")):
            with self.assertRaises(subprocess.CalledProcessError) as refused:
                node.cli("trace", *arguments, stderr=subprocess.PIPE)
            self.assertIn(says, refused.exception.stderr)

    def test_a_collector_gets_each_span_once(self):
        """The first request is answered 503: it comes again.  Every span passes a strict decoder."""
        trace = "4" * 32
        for _ in range(3):
            call(node.gateway, "sent", {"traceparent": f"00-{trace}-b7ad6b7169203331-01", "tracestate": "v=1"})
        spans = [span for span in collector.until(lambda spans: sum(s["trace_id"] == trace for s in spans) >= 9)
                 if span["trace_id"] == trace]
        requests = [span for span in spans if span["name"] == "GET /fn/fn"]
        self.assertEqual(len(requests), 3)
        self.assertEqual(len({span["span_id"] for span in spans}), len(spans))
        self.assertEqual(requests[0]["attributes"]["faas.name"], "fn")
        self.assertEqual(requests[0]["attributes"]["http.response.status_code"], 200)
        self.assertEqual((requests[0]["trace_state"], requests[0]["kind"]), ("v=1", 2))
        self.assertEqual(requests[0]["resource"]["service.name"], "blixard")
        path, headers, _ = collector.requests[0]
        self.assertEqual((path, headers["Authorization"], headers["Content-Encoding"]), ("/v1/traces", "Bearer hidden", "gzip"))
        self.assertIn(503, [status for _, _, status in collector.requests])


class Export(unittest.TestCase):
    def test_what_waits_at_the_end_is_sent(self):
        """More than a request holds waits, because the collector wants to be left alone; then the node ends."""
        with Collector(answers=[(429, {"Retry-After": "3000"}, b"")]) as other:
            one = Node(arguments=["--otlp-endpoint", other.url, "--traces-per-second", "1000000"])
            try:
                one.deploy("fn", module)
                call(one.gateway, "first", {"traceparent": f"00-{'7' * 32}-b7ad6b7169203331-01"})
                other.until_asked(1)
                trace = "8" * 32
                host, port = one.gateway.rsplit(":", 1)
                connection = http.client.HTTPConnection(host, int(port), timeout=SECONDS)
                for number in range(900):
                    connection.request("GET", "/fn/fn", headers={"traceparent": f"00-{trace[:28]}{number // 300:04x}-b7ad6b7169203331-01"})
                    connection.getresponse().read()
                connection.close()
            finally:
                one.stop()
            spans = [span for span in other.spans if span["trace_id"].startswith(trace[:28])]
            self.assertEqual(len({span["span_id"] for span in spans if span["kind"] == 2}), 900)
            self.assertGreaterEqual(len(spans), 2700)  # a call that had to wait for its instance has one more
            self.assertEqual([status for _, _, status in other.requests], [429, 200, 200, 200, 200])

    def test_the_log_has_what_a_collector_says(self):
        """Of spans that it took (a partial success that refuses none), and why it refuses (google.rpc.Status)."""
        took = b"\x0a\x11\x12\x0fuse\x20less\x20events"
        answers = [(200, {}, took), (200, {}, took), (400, {}, b"\x08\x03\x12\x09no\x20tenant")]
        with Collector(answers=answers) as other:
            one = Node(arguments=["--otlp-endpoint", other.url])
            try:
                one.deploy("fn", module)
                for number in range(1, 4):
                    call(one.gateway, "x", {"traceparent": f"00-{str(number) * 32}-b7ad6b7169203331-01"})
                    other.until_asked(number)
                call(one.gateway, "x", {"traceparent": f"00-{'4' * 32}-b7ad6b7169203331-01"})
                other.until(lambda spans: any(span["trace_id"] == "4" * 32 for span in spans))
                log = one.log.read_text()
            finally:
                one.stop()
            self.assertEqual(log.count("took the spans and says: use less events"), 1, log)
            self.assertIn("it answers 400 Bad Request: no tenant", log)

    def test_a_compression_that_is_not_known_is_refused(self):
        with self.assertRaises(Exception) as refused:
            Node(arguments=["--otlp-endpoint", "http://127.0.0.1:1", "--otlp-compression", "zstd"]).stop()
        self.assertIn("neither none nor gzip", str(refused.exception))


@unittest.skipIf("ASAN_OPTIONS" in os.environ, "the sanitizer takes the addresses of the process sandbox")
class Cluster(unittest.TestCase):
    def test_a_call_that_is_passed_on_is_one_trace_of_two_nodes(self):
        one, two = Member("one", 1), Member("two", 2)
        try:
            one.begin()
            one.request("POST", "/v1/cluster", {"name": "home"})
            two.begin(one.token())
            two.until(lambda view: [node["health"] for node in view["nodes"]] == ["healthy"] * 2, "two healthy nodes")
            env = {**os.environ, "BLIXARD_ADDR": f"http://{one.api}"}

            def cli(*arguments):
                return subprocess.run([BUILD / "blixard", *arguments], env=env, check=True, text=True, stdout=subprocess.PIPE,
                                      timeout=300).stdout
            wasm = pathlib.Path(folder.name) / "main.wasm"
            cli("fn", "deploy", "fn", str(wasm))
            end = time.monotonic() + SECONDS
            index = 0
            while len(one.request("GET", "/v1/functions/fn/versions/1")["nodes"]) < 2:
                assert time.monotonic() < end
                index = one.request("GET", f"/v1/cluster?index={index}&wait=250ms")["index"]
            trace = "5" * 32
            cli("fn", "invoke", "fn", "--node", "two", "--header", f"traceparent: 00-{trace}-b7ad6b7169203331-01")
            spans = json.loads(cli("trace", "show", trace, "--output", "json"))["spans"]
            by_id = {span["id"]: span for span in spans}
            (run,) = [span for span in spans if span["name"] == "run"]
            way = []
            while run:
                way.append((run["name"], run["node"]))
                run = by_id.get(run.get("parent"))
            self.assertEqual(way, [("run", "two"), ("POST /fn/fn", "two"), ("forward", "one"), ("POST /fn/fn", "one")])
            self.assertIn("one, two", cli("trace", "list"))
        finally:
            one.clean()
            two.clean()


class Metrics(unittest.TestCase):
    @unittest.skipUnless(shutil.which("promtool"), "needs the package prometheus")
    def test_promtool_has_nothing_to_say(self):
        call(node.gateway, "metrics")
        call(node.gateway, "trap")
        node.cli("route", "set", "lint", "--function", "fn", "--path", "/lint")
        self.addCleanup(node.cli, "route", "delete", "lint")
        node.cli("queue", "create", "lint")
        node.cli("trigger", "create", "often", "--kind", "cron", "--function", "fn", "--set", "schedule=@every 1s")
        self.addCleanup(node.cli, "trigger", "delete", "often")
        text = node.get("/metrics")
        for has in ("blixard_route_requests_total{", "blixard_queue_messages{", "blixard_trigger_in_flight"):
            self.assertIn(has, text)
        checked = subprocess.run(["promtool", "check", "metrics"], input=text, text=True, stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT)
        self.assertEqual((checked.returncode, checked.stdout), (0, ""), checked.stdout)
        self.assertRegex(text, r'faas_errors_total\{blixard_project="default",faas_name="fn",error_type="trap"\} \d')

    def test_what_is_deleted_is_gone(self):
        node.deploy("gone", module)
        call(node.gateway, "x", name="gone")
        self.assertIn('faas_name="gone"', node.get("/metrics"))
        node.cli("fn", "delete", "gone")
        self.assertNotIn('faas_name="gone"', node.get("/metrics"))

    def test_a_call_that_outlives_its_function_leaves_nothing(self):
        """Neither metrics nor a log; a new function of the name has both."""
        node.deploy("short", module)
        caller = threading.Thread(target=call, args=(node.gateway, "long", {}, "short"))
        caller.start()
        end = time.monotonic() + SECONDS
        while "blixard_instances_busy 0\n" in node.get("/metrics"):
            assert time.monotonic() < end
            node.get("/v1/functions?index=1000000&wait=50ms")
        node.cli("fn", "delete", "short")
        caller.join()
        self.assertNotIn('faas_name="short"', node.get("/metrics"))
        self.assertFalse(any((node.folder / "logs").glob("*/short")), list(node.folder.glob("*")))
        node.deploy("short", module)
        call(node.gateway, "again", name="short")
        self.assertIn('faas_name="short"', node.get("/metrics"))
        self.assertIn("says again", node.cli("fn", "logs", "short"))

    @unittest.skipUnless(shutil.which("prometheus"), "needs the package prometheus")
    def test_a_real_prometheus_scrapes_them_with_exemplars(self):
        call(node.gateway, "scraped", {"traceparent": f"00-{'6' * 32}-b7ad6b7169203331-01"})
        with tempfile.TemporaryDirectory(prefix="blixard-prometheus-") as data:
            config = pathlib.Path(data) / "prometheus.yml"
            config.write_text("global: {scrape_interval: 1s}\nscrape_configs: [{job_name: blixard, static_configs: "
                              f"[{{targets: ['{node.api}']}}]}}]\n")
            address = f"127.0.0.1:{free_port('127.0.0.1')}"
            prometheus = subprocess.Popen(["prometheus", f"--config.file={config}", f"--storage.tsdb.path={data}/tsdb",
                                           f"--web.listen-address={address}", "--enable-feature=exemplar-storage"],
                                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            try:
                for line in prometheus.stderr:
                    if "Server is ready" in line:
                        break
                found = self.until(address, "query", 'sum(faas_invocations_total{faas_name="fn"})')
                self.assertGreater(float(found["result"][0]["value"][1]), 0)
                found = self.until(address, "query", "blixard_function_duration_seconds_count")
                found = self.until(address, "query_exemplars", "blixard_function_duration_seconds_bucket")
                self.assertIn("trace_id", found[0]["exemplars"][0]["labels"])
            finally:
                prometheus.kill()
                prometheus.stderr.close()
                prometheus.wait()

    def until(self, address, api, query):
        """What Prometheus has of it, once it has scraped: while nothing happens here it is asked again."""
        end = time.monotonic() + SECONDS
        parameters = urllib.parse.urlencode({"query": query, "start": int(time.time()) - 600, "end": int(time.time()) + 600})
        while time.monotonic() < end:
            with urllib.request.urlopen(f"http://{address}/api/v1/{api}?{parameters}") as answer:
                data = json.load(answer)["data"]
            if data if api == "query_exemplars" else data["result"]:
                return data
            node.get("/v1/functions?index=1000000&wait=500ms")  # as long as nothing changes
        raise AssertionError(f"Prometheus never had {query}")


if __name__ == "__main__":
    unittest.main()
