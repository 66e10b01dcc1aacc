"""Blixard is replaced by its next version: node after node in a cluster, and on folders of long ago.

The next version is blixard-next (meson.build): the same rooms with one more version of the schema.
"""
import contextlib
import hashlib
import http.client
import itertools
import json
import pathlib
import tarfile
import threading
import unittest

from cluster import Cluster
from node import BUILD, ROOT, Refused

PLAIN_ONLY = "the time goes to waiting for elections, leases and nodes that begin again"

NOW, NEXT = BUILD / "blixard", BUILD / "blixard-next"
NEXT_VERSION = "0.1.1-next"
UNSUPPORTED = 65  # exit status, spec/errors.def
LABELS = 8
SAID = "from an older version\n"


def setUpModule():
    if not NEXT.exists():
        raise unittest.SkipTest("needs blixard-next, which is built with -Dtests=true")


def fixture(schema):
    return ROOT / f"test/fixtures/schema-{schema}.tar.xz"


def module():
    """A function that says SAID."""
    with tarfile.open(fixture(2)) as old:
        name = next(member for member in old.getmembers() if member.name.startswith("images/") and member.isfile())
        return old.extractfile(name).read()


def node_of(view, name):
    return next(node for node in view["nodes"] if node["name"] == name)


def problems_of(view):
    return view["problems"] + [problem for node in view["nodes"] for problem in node["problems"]]


def contents(folder):
    """Every file of a folder by what is in it; not the lock, which says who came last."""
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(pathlib.Path(folder).rglob("*")) if path.is_file() and path.name != "lock"}


def replace(server, program=NEXT):
    """Stop, and begin again on the same folder as another version."""
    status = server.stop()
    server.program = program
    server.start().wait_ready()
    return status


def refuse(server, program=NOW):
    """It begins as `program`, and ends by itself; what it said."""
    begun = len(server.log.read_text(errors="replace")) if server.log.exists() else 0
    server.program = program
    status = server.start().wait()
    said = server.log.read_text(errors="replace")[begun:]
    assert status == UNSUPPORTED, f"it ended with {status}:\n{said}"
    return said


class Writer(threading.Thread):
    """Writes the numbers from 1 to labels in turn, through whoever is there; knows what was acknowledged."""

    def __init__(self, servers):
        super().__init__(daemon=True)
        self.servers = servers
        self.acknowledged = {}
        self.count = 0
        self.over = threading.Event()
        self.start()

    def run(self):
        for number in itertools.count(1):
            server = self.servers[number % len(self.servers)]
            with contextlib.suppress(Refused, OSError, http.client.HTTPException):
                server.call("PUT", f"/v1/nodes/n1/labels/l{number % LABELS}", {"value": str(number)}, timeout=10)
                self.acknowledged[f"l{number % LABELS}"] = number
                self.count += 1
            if self.over.is_set():
                return

    def stop(self):
        self.over.set()
        self.join()


class Rolling(unittest.TestCase):
    """Three servers and a worker; one test after the other brings them further."""

    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster(3, "upgrade", here=True)
        cls.addClassCleanup(cls.close)
        cls.cluster.form()
        cls.worker = cls.cluster.join(cls.cluster.add(), role="worker")
        cls.schema = cls.cluster[0].view()[0]["schema"]
        cls.cluster[0].deploy("hi", module())

    @classmethod
    def close(cls):
        cls.cluster.close(cls.cluster.failed)

    def run(self, result=None):
        bad = len(result.failures) + len(result.errors)
        super().run(result)
        self.cluster.failed |= len(result.failures) + len(result.errors) > bad

    def see(self, schema):
        """Every node says that the state is of this schema."""
        for server in self.cluster.running():
            server.until(lambda view: view["schema"] == schema, f"schema {schema}")

    def test_1_nodes_are_replaced_one_by_one_and_nothing_is_lost(self):
        one, two, three = self.cluster.servers[:3]
        writer = Writer([one, two, three, self.worker])
        replaced = []
        for server in (self.worker, two, three, one):
            self.see(self.schema)
            before = writer.count
            self.assertEqual(replace(server), 0)
            replaced.append(server.name)
            self.cluster.settled()
            server.until(lambda view: all((node_of(view, name)["version"], node_of(view, name)["schema"])
                                          == (NEXT_VERSION, self.schema + 1) for name in replaced), "the new version")
            self.assertEqual(server.invoke("hi"), (200, SAID.encode()))
            self.assertGreater(writer.count, before)
            if server is two:
                view = server.view()[0]
                self.assertIn(f"the state is of schema {self.schema} until node", " ".join(view["problems"]))
                self.join_new_one()
        self.see(self.schema + 1)
        writer.stop()
        self.cluster.settled()
        for server in self.cluster.running():
            view = server.until(lambda view: not problems_of(view), "end of all problems")
            self.assertEqual({node["version"] for node in view["nodes"]}, {NEXT_VERSION})
        self.assertEqual(len(writer.acknowledged), LABELS)
        self.cluster.same_index()
        for server in self.cluster.running():
            labels = node_of(server.view()[0], "n1")["labels"]
            for label, number in writer.acknowledged.items():
                self.assertGreaterEqual(int(labels[label]), number, label)
            self.assertEqual(server.invoke("hi"), (200, SAID.encode()))

    def join_new_one(self):
        """A node of the next version, while the state is still of this one's."""
        new = self.cluster.add()
        new.program = NEXT
        self.cluster.join(new, via=self.cluster[0])
        self.cluster.settled()
        self.assertEqual(node_of(new.view()[0], new.name)["schema"], self.schema + 1)
        self.assertEqual(new.view()[0]["schema"], self.schema)

    def test_2_people_see_versions_and_schema(self):
        status = self.cluster[0].cli("cluster", "status")
        self.assertEqual(status.count(NEXT_VERSION), len(self.cluster.servers))
        self.assertRegex(status, rf"(?m)^cluster upgrade: all is well, .*, schema {self.schema + 1}$")
        shown = self.cluster[0].cli("node", "show", "n2")
        self.assertRegex(shown, rf"(?m)^version +{NEXT_VERSION}$")
        self.assertRegex(shown, rf"(?m)^schema +{self.schema + 1}$")
        self.assertIn(f'"schema": {self.schema + 1}', self.cluster[0].cli("cluster", "status", "-o", "json"))

    def test_3_an_older_program_is_refused_before_it_opens_anything(self):
        for server in (self.cluster[1], self.worker):
            self.assertEqual(server.stop(), 0)
            before = contents(server.folder)
            said = refuse(server)
            self.assertIn(f"the cluster's state is of schema {self.schema + 1}", said)
            self.assertIn("start the newer Blixard", said)
            self.assertEqual(contents(server.folder), before)
            server.program = NEXT
            server.start().wait_ready()
            self.cluster.settled()

    def test_4_an_older_program_that_learns_it_late_ends_and_harms_nothing(self):
        """The node died before it wrote down that the schema was raised: the others say so."""
        for server in (self.cluster[1], self.worker):
            server.kill()
            facts = server.folder / "cluster/node.json"
            written = json.loads(facts.read_text())
            self.assertEqual(written["schema"], self.schema + 1)
            written["schema"] = self.schema
            facts.write_text(json.dumps(written))
            self.assertIn(f"schema {self.schema + 1}", refuse(server))
            server.program = NEXT
            server.start().wait_ready()
            self.cluster.settled()
        self.cluster.same_index()

    def test_5_an_older_program_cannot_join(self):
        late = self.cluster.add()
        token = late.base / "token"
        token.write_text(self.cluster.token())
        token.chmod(0o600)
        late.program = NOW
        late.start("--join-token-file", token)
        self.assertEqual(late.wait(), UNSUPPORTED)
        self.assertIn("upgrade the node first", late.said())
        self.assertFalse((late.folder / "cluster").exists())
        late.program = NEXT  # the token is as good as before
        late.start("--join-token-file", token).wait_ready()
        self.cluster.settled()


class Folders(unittest.TestCase):
    """Data folders of single nodes, as earlier versions have left them: "hi" has two versions, the first is live."""

    def setUp(self):
        self.cluster = Cluster(1, "folders", here=True)
        self.addCleanup(self.cluster.close)
        self.one = self.cluster[0]

    def unpack(self, schema):
        self.one.folder.mkdir(mode=0o700)
        with tarfile.open(fixture(schema)) as old:
            old.extractall(self.one.folder, filter="data")

    def grow(self):
        """A cluster of it, with a second node, both of which answer."""
        self.one.start().wait_ready()
        now = self.one.view()[0]["schema"]
        self.one.call("POST", "/v1/cluster", {"name": "old"})
        two = self.cluster.join(self.cluster.add())
        self.cluster.settled()
        for server in (self.one, two):
            self.assertEqual(server.get("/v1/functions/hi")["aliases"], {"live": "1"})
            self.assertEqual(server.invoke("hi"), (200, SAID.encode()))
            self.assertEqual(server.view()[0]["schema"], now)
        return two, now

    def test_a_folder_of_the_first_schema_becomes_a_cluster(self):
        self.unpack(1)
        self.grow()

    def test_a_folder_of_the_second_schema_becomes_a_cluster_and_is_upgraded(self):
        self.unpack(2)
        two, now = self.grow()
        operations = self.one.get("/v1/operations")["operations"]
        self.assertEqual({operation["state"] for operation in operations}, {"succeeded"})
        for program, knows in ((NEXT, now + 1), (NOW, now), (NEXT, now + 1)):  # it can go back until all know it
            replace(two, program)
            self.one.until(lambda view: node_of(view, "n2")["schema"] == knows, f"a node that knows {knows}")
            self.cluster.settled()
            self.assertEqual(self.one.view()[0]["schema"], now)
        replace(self.one)
        self.cluster.settled()
        for server in (self.one, two):
            server.until(lambda view: view["schema"] == now + 1, "the next schema")
            self.assertEqual(server.invoke("hi"), (200, SAID.encode()))

    def test_a_node_alone_goes_on_and_does_not_go_back(self):
        self.unpack(2)
        self.one.start().wait_ready()
        now = self.one.view()[0]["schema"]
        self.assertEqual(replace(self.one), 0)
        self.assertEqual(self.one.view()[0]["schema"], now + 1)
        backup, other = self.one.base / "next.tar", self.one.base / "other"
        self.one.cli("cluster", "backup", backup)
        restored = self.one.cli("cluster", "restore", backup, "--data-folder", other, check=False)
        self.assertEqual((restored.returncode, other.exists()), (UNSUPPORTED, False))
        self.assertIn("start a newer one", restored.stderr)
        self.assertEqual(self.one.stop(), 0)
        said = refuse(self.one)
        self.assertIn("start a newer one", said)
        self.one.program = NEXT
        self.one.start().wait_ready()
        self.assertEqual(self.one.invoke("hi"), (200, SAID.encode()))


if __name__ == "__main__":
    unittest.main()
