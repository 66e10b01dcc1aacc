"""Manifests by the command line: plans, applying, owners, pruning, and what ends in the middle."""
import json
import pathlib
import subprocess
import tempfile
import threading
import unittest

from node import BUILD, Node
from shows import compile_guest

APPLICATION = """
kind: Route
name: hello
labels: {app: shop}
spec:
  function: hello
  path: /hello
  methods: [GET]
---
kind: Function
name: hello
labels: {app: shop}
spec:
  module: shows.wasm
  memory: 64MiB
  timeout: 5s
  environment: {GREETING: hi}
---
kind: Queue
name: orders
labels: {app: shop}
spec: {visibility: 45s, dead_letter: dead}
---
kind: Queue
name: dead
labels: {app: shop}
---
kind: Trigger
name: nightly
labels: {app: shop}
spec:
  kind: cron
  function: hello
  settings: {schedule: "0 3 * * *", timezone: Europe/Berlin}
---
kind: SecurityGroup
name: web
labels: {app: shop}
spec:
  rules:
    - allow: tcp/80
    - {allow: icmp, peer: 10.0.0.0/8}
---
kind: Network
name: back
labels: {app: shop}
spec: {subnet: 10.77.0.0/24}
---
kind: Stream
name: log
labels: {app: shop}
---
kind: Volume
name: data
labels: {app: shop}
spec: {size: 64MiB, filesystem: none}
---
{"kind": "Alias", "name": "hello:stable", "labels": {"app": "shop"}, "spec": {"version": 1}}
"""


def changed(text):
    """Another version of it, without what stands last."""
    text = text.split("---\nkind: Stream")[0]
    for old, new in (("path: /hello", "path: /hallo"), ("45s", "50s"), ("tcp/80", "tcp/443"), ("{GREETING: hi}", "{GREETING: ho}")):
        text = text.replace(old, new)
    return text


class Manifests(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="blixard-manifest-")))
        self.node = Node()
        self.addCleanup(self.node.stop)
        module = pathlib.Path(compile_guest(self.folder))
        (self.folder / "shows.wasm").write_bytes(module.read_bytes())
        self.write("app.yaml", APPLICATION)

    def write(self, name, text):
        (self.folder / name).write_text(text)
        return name

    def run_cli(self, *words, given=None):
        return subprocess.run([BUILD / "blixard", *words], env=self.node.env, cwd=self.folder, text=True, input=given,
                              stdin=subprocess.DEVNULL if given is None else None, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=120)

    def cli(self, *words, code=0, given=None):
        done = self.run_cli(*words, given=given)
        self.assertEqual(done.returncode, code, f"{words}: {done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    def plan(self, *words, code=1):
        done = self.run_cli("plan", *words, "--output", "json")
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return json.loads(done.stdout)

    def actions(self, plan):
        return {f"{a['kind']} {a['name']}": a["action"] for a in plan["actions"] if a["action"] != "none"}

    def test_an_application_is_made_once_and_changed_by_its_documents(self):
        self.assertEqual(self.plan("-f", "app.yaml")["create"], 10)
        self.assertIn("Done: 10 changed.", self.cli("apply", "-f", "app.yaml"))
        # It is there, in an order in which it could be made.
        self.assertEqual(self.node.json("/v1/functions/hello")["version"]["environment"], {"GREETING": "hi"})
        self.assertEqual(self.node.json("/v1/queues/orders")["dead_letter"], "dead")
        # Nothing changes ever after, by whatever describes it.
        self.assertEqual(self.plan("-f", "app.yaml", code=0)["unchanged"], 10)
        self.assertIn("Done: 0 changed.", self.cli("apply", "-f", "app.yaml"))
        self.assertEqual(self.node.json("/v1/functions/hello")["version"]["number"], 1)
        whole = self.cli("export")
        self.write("export.yaml", whole)
        self.assertEqual(self.plan("-f", "export.yaml", code=0)["changes"], 0)
        self.cli("apply", "-f", "export.yaml", "--owner", "copy")
        self.assertEqual(self.plan("-f", "app.yaml", code=0)["changes"], 0)
        # What is changed by hand is put right.
        self.cli("queue", "update", "orders", "--visibility", "1m")
        plan = self.plan("-f", "app.yaml")
        self.assertEqual(self.actions(plan), {"Queue orders": "update"})
        change = [a for a in plan["actions"] if a["name"] == "orders"][0]["changes"]
        self.assertEqual([(c["path"], c["before"], c["after"]) for c in change], [("visibility_ms", "60000", "45000")])
        self.cli("apply", "-f", "app.yaml")
        self.assertEqual(self.node.json("/v1/queues/orders")["visibility_ms"], 45000)

    def test_what_is_not_described_any_more_is_pruned_and_the_rest_changed(self):
        self.cli("apply", "-f", "app.yaml")
        self.cli("queue", "create", "by-hand")
        self.write("app.yaml", changed(APPLICATION))
        wanted = {"SecurityGroup web": "update", "Queue orders": "update", "Function hello": "update",
                  "Route hello": "update", "Alias hello:stable": "delete", "Stream log": "delete", "Volume data": "delete"}
        prune = ("-f", "app.yaml", "--prune", "-l", "app=shop")
        self.assertEqual(self.actions(self.plan(*prune)), wanted)
        self.cli("apply", *prune)
        self.assertEqual(self.plan(*prune, code=0)["changes"], 0)
        self.assertEqual(self.node.json("/v1/routes/hello")["path"], "/hallo")
        self.assertEqual([r["allow"] for r in self.node.json("/v1/security-groups/web")["rules"]], ["icmp", "tcp/443"])
        self.assertEqual(self.node.json("/v1/streams")["streams"], [])
        self.assertIn("by-hand", [q["name"] for q in self.node.json("/v1/queues")["queues"]])
        self.assertIn("need", self.cli("apply", "-f", "app.yaml", "--prune", code=64))

    def test_what_must_be_made_anew_is_said_before_and_allowed(self):
        self.cli("apply", "-f", "app.yaml")
        before = self.node.json("/v1/volumes/data")["id"]
        self.write("app.yaml", APPLICATION.replace("filesystem: none", "filesystem: none, format: raw").replace("10.77", "10.78"))
        self.assertEqual(self.actions(self.plan("-f", "app.yaml")), {"Network back": "update", "Volume data": "replace"})
        self.assertIn("--replace allows that", self.cli("apply", "-f", "app.yaml", code=64))
        self.assertEqual(self.node.json("/v1/networks/back")["subnet"], "10.77.0.0/24")  # none of it was done
        self.cli("apply", "-f", "app.yaml", "--replace")
        self.assertNotEqual(self.node.json("/v1/volumes/data")["id"], before)
        self.assertEqual(self.node.json("/v1/networks/back")["subnet"], "10.78.0.0/24")
        self.assertEqual(self.plan("-f", "app.yaml", code=0)["changes"], 0)

    def test_two_owners_share_an_object_and_are_told_of_each_other(self):
        self.cli("apply", "-f", "app.yaml")
        self.write("theirs.yaml", "kind: Queue\nname: orders\nspec: {visibility: 90s, max_depth: 7}\n")
        said = self.cli("apply", "-f", "theirs.yaml", "--owner", "ops", code=75)
        self.assertIn("visibility_ms is cli's, who wants 45000", said)
        self.assertEqual(self.node.json("/v1/queues/orders")["visibility_ms"], 45000)
        self.cli("apply", "-f", "theirs.yaml", "--owner", "ops", "--force-conflicts")
        self.assertEqual(self.node.json("/v1/queues/orders")["visibility_ms"], 90000)
        # It is theirs now; what the first one had besides is still its own.
        self.assertIn("visibility_ms is ops's", self.cli("apply", "-f", "app.yaml", code=75))
        self.write("ours.yaml", "kind: Queue\nname: orders\nlabels: {app: shop}\nspec: {dead_letter: dead}\n")
        self.assertEqual(self.plan("-f", "ours.yaml", code=0)["changes"], 0)

    def test_a_plan_is_done_as_it_was_shown_or_not_at_all(self):
        plan = self.plan("-f", "app.yaml")
        self.cli("queue", "create", "dead")
        said = self.cli("apply", "-f", "app.yaml", "--plan", plan["plan"], code=75)
        self.assertIn("plan again", said)
        self.assertEqual(self.node.json("/v1/networks")["networks"], [])
        plan = self.plan("-f", "app.yaml")
        self.cli("apply", "-f", "app.yaml", "--plan", plan["plan"])
        # Somebody has applied since.
        self.assertIn("since index", self.cli("apply", "-f", "app.yaml", "--if-index", str(plan["index"]), code=75))

    def test_what_failed_in_the_middle_goes_on_with_the_next_apply(self):
        self.write("app.yaml", APPLICATION.replace("kind: cron\n  function: hello", "kind: cron\n  function: nobody"))
        said = self.cli("apply", "-f", "app.yaml", code=66)
        self.assertIn("! there is no function nobody (function), nor among the documents", said)
        self.assertIn("Trigger nightly", said)
        self.assertIn("done before: SecurityGroup web, Network back", said)
        self.write("app.yaml", APPLICATION)
        self.assertEqual(self.actions(self.plan("-f", "app.yaml")), {"Trigger nightly": "create"})
        self.assertIn("Done: 1 changed.", self.cli("apply", "-f", "app.yaml"))

    def test_deleting_by_documents_leaves_nothing_of_them(self):
        self.cli("apply", "-f", "app.yaml")
        self.cli("delete", "-f", "app.yaml")
        self.assertEqual(self.plan("-f", "app.yaml", "--delete", code=0)["changes"], 0)
        self.assertEqual(self.node.json("/v1/functions")["functions"], [])
        self.assertEqual(self.plan("-f", "app.yaml")["create"], 10)

    def test_wrong_documents_are_refused_where_they_are_wrong(self):
        for text, words in (("kind: Queue\nname: a\nspec:\n  max_deph: 1\n", "bad.yaml:4: spec.max_deph is not known; did you mean max_depth?"),
                            ("kind: Route\nname: a\nspec: {path: /}\n", "bad.yaml:1: there is no such Route yet"),
                            ("kind: [\n", "bad.yaml: line"), ("a: &x 1\n", "anchors"),
                            ("kind: Queue\nname: a\n---\nkind: Queue\nname: a\n", "stands at bad.yaml:1 already")):
            self.write("bad.yaml", text)
            self.assertIn(words, self.cli("plan", "-f", "bad.yaml", code=255))
        self.assertIn("nowhere.yaml does not exist", self.cli("plan", "-f", "nowhere.yaml", code=255))

    def test_secrets_are_named_and_never_described(self):
        self.write("secret.yaml", "kind: Secret\nname: pw\n")
        self.assertEqual(self.plan("-f", "secret.yaml")["missing"], 1)
        self.assertIn("blixard secret set pw", self.cli("apply", "-f", "secret.yaml", code=66))
        self.cli("secret", "set", "pw", given="hush")
        self.assertEqual(self.plan("-f", "secret.yaml", code=0)["changes"], 0)
        self.cli("apply", "-f", "secret.yaml")
        self.cli("delete", "-f", "secret.yaml")  # it is not the documents' to delete
        self.assertEqual(self.node.json("/v1/secrets/pw")["version"], 1)

    def test_a_plan_says_what_is_named_and_not_there_and_what_could_not_be_made(self):
        trigger = 'kind: Trigger\nname: hourly\nspec: {kind: cron, function: work, settings: {schedule: "@every 1h"}, on_failure: "stream:lost"}\n'
        self.write("app.yaml", "kind: Queue\nname: there\nspec: {}\n---\nkind: Function\nname: work\nspec:\n  module: shows.wasm\n  secrets: {KEY: key}\n"
                               "  async: {on_success: 'queue:there', on_failure: 'queue:nowhere'}\n---\n" + trigger)

        def lacks(code):
            return {action["name"]: action["lacks"] for action in self.plan("-f", "app.yaml", code=code)["actions"] if action["lacks"]}

        wanted = {"work": ["there is no secret key (secrets.KEY), nor among the documents",
                           "there is no queue nowhere (async.on_failure), nor among the documents"],
                  "hourly": ["there is no stream lost (on_failure), nor among the documents"]}
        self.assertEqual(lacks(1), wanted)
        self.assertIn("! there is no stream lost (on_failure), nor among the documents\n", self.cli("apply", "-f", "app.yaml"))
        self.assertEqual(lacks(0), wanted)
        self.cli("secret", "set", "key", given="k")
        self.cli("queue", "create", "nowhere")
        self.cli("stream", "create", "lost")
        self.assertEqual(lacks(0), {})
        self.write("bad.yaml", trigger.replace("@every 1h", "sometimes"))
        self.assertIn('bad.yaml:1: Trigger hourly: schedule "sometimes"', self.cli("plan", "-f", "bad.yaml", code=255))
        self.cli("apply", "-f", "bad.yaml", code=64)

    def test_a_folder_and_several_files_are_one_set(self):
        (self.folder / "deploy").mkdir()
        parts = APPLICATION.split("---\n")
        self.write("deploy/10.yaml", "---\n".join(parts[2:4]))
        self.write("deploy/20.yml", parts[6])
        self.write("deploy/README.md", "no document")
        self.write("more.json", '{"kind": "Stream", "name": "other"}')
        self.cli("apply", "-f", "deploy", "-f", "more.json")
        self.assertEqual({q["name"] for q in self.node.json("/v1/queues")["queues"]}, {"orders", "dead"})
        self.assertEqual(self.node.json("/v1/streams/other")["name"], "other")

    def test_of_two_that_apply_at_once_each_object_is_one_of_theirs(self):
        texts = ["".join(f"---\nkind: Queue\nname: q{i}\nspec: {{max_depth: {depth}}}\n" for i in range(20)) for depth in (11, 22)]
        for number, text in enumerate(texts):
            self.write(f"{number}.yaml", text)
        codes = {}
        threads = [threading.Thread(target=lambda n=n: codes.update({n: self.run_cli("apply", "-f", f"{n}.yaml")})) for n in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for n, done in codes.items():
            self.assertIn(done.returncode, (0, 75, 73), done.stderr)
        self.cli("apply", "-f", "1.yaml")
        self.assertEqual({q["max_depth"] for q in self.node.json("/v1/queues")["queues"]}, {22})


if __name__ == "__main__":
    unittest.main()
