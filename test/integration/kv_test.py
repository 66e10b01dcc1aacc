"""Keys and values: by the command line and by the API, at one node."""
import json
import pathlib
import subprocess
import tempfile
import unittest

from node import BUILD, Node


class Kv(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.node = Node(arguments=("--isolation", "process"))

    @classmethod
    def tearDownClass(cls):
        cls.node.stop()

    def run_cli(self, *arguments, data=b""):
        """(exit status, output, errors), as bytes."""
        done = subprocess.run([BUILD / "blixard", "kv", *arguments], env=self.node.env, input=data, capture_output=True)
        return done.returncode, done.stdout, done.stderr

    def cli(self, *arguments, data=b""):
        status, out, err = self.run_cli(*arguments, data=data)
        self.assertEqual(status, 0, err)
        return out

    def test_values_are_any_bytes(self):
        value = bytes(range(256)) * 3
        with tempfile.NamedTemporaryFile() as file:
            file.write(value)
            file.flush()
            self.cli("set", "bytes/file", "--file", file.name)
        self.cli("set", "bytes/stdin", "-", data=value)
        self.cli("set", "bytes/empty", "")
        self.assertEqual(self.cli("get", "bytes/file"), value)
        self.assertEqual(self.cli("get", "bytes/stdin"), value)
        self.assertEqual(self.cli("get", "bytes/empty"), b"")
        entry = json.loads(self.cli("get", "bytes/file", "--output", "json"))
        self.assertEqual((entry["size_bytes"], entry["value"]), (768, None))

    def test_conditions(self):
        self.cli("set", "lock", "me", "--if-absent")
        status, _, err = self.run_cli("set", "lock", "you", "--if-absent")
        self.assertEqual((status, b"there already" in err), (75, True), err)
        revision = str(json.loads(self.cli("get", "lock", "--output", "json"))["revision"])
        self.cli("set", "lock", "me again", "--if-revision", revision)
        status, _, err = self.run_cli("set", "lock", "you", "--if-revision", revision)
        self.assertEqual((status, b"another revision" in err), (75, True), err)
        self.assertEqual(self.run_cli("delete", "lock", "--if-revision", revision)[0], 75)
        self.assertEqual(self.cli("get", "lock", "--linearizable"), b"me again")
        self.assertIn(b"deleted lock", self.cli("delete", "lock"))
        self.assertEqual(self.run_cli("get", "lock")[0], 66)
        self.assertEqual(self.run_cli("delete", "lock")[0], 66)

    def test_lists_and_keys_with_slashes(self):
        for name in ("a", "a/b", "a//b/", "ä?&=%", "b"):
            self.cli("set", "list/" + name, name)
        keys = [entry["key"] for entry in json.loads(self.cli("list", "list/", "--output", "json"))["keys"]]
        self.assertEqual(keys, ["list/a", "list/a//b/", "list/a/b", "list/b", "list/ä?&=%"])
        self.assertEqual(self.cli("get", "list/ä?&=%").decode(), "ä?&=%")
        page = self.node.json("/v1/kv?prefix=list/&limit=2&after=list/a&values=true")
        self.assertEqual([entry["value"] for entry in page["keys"]], ["a//b/", "a/b"])
        self.assertTrue(page["more"])
        self.assertIn(b"list/a/b", self.cli("list", "list/a", "--limit", "3"))
        self.assertEqual(self.node.get("/v1/kv/list/a/b"), "a/b")  # as it is, without %2F

    def test_time_to_live(self):
        self.cli("set", "short", "1", "--ttl", "1ms")
        self.assertEqual(self.run_cli("get", "short")[0], 66)
        self.cli("set", "long", "1", "--ttl", "1h")
        status, _, fields = self.node.request("GET", "/v1/kv/long")
        self.assertEqual(status, 200)
        self.assertRegex(fields["x-blixard-expires"], r"^20\d\d-")
        self.assertEqual(fields["etag"], '"%s"' % fields["x-blixard-revision"])

    def test_what_is_wrong_is_said(self):
        for arguments, wanted in ((("set", "k"), b"no value"), (("set", "k", "v", "--file", "x"), b"given twice"),
                                  (("set", "k", "v", "--ttl", "soon"), b"is no time"),
                                  (("set", "k" * 513, "v"), b"1 to 512 bytes"),
                                  (("set", "k", "v", "--if-absent", "--if-revision", "3"), b"exclude"),
                                  (("list", "--limit", "x"), b"no number")):
            status, _, err = self.run_cli(*arguments)
            self.assertEqual((status, wanted in err), (64, True), err)
        status, _, err = self.run_cli("set", "k", "-", data=b"x" * (256 * 1024 + 1))
        self.assertEqual(status, 65, err)

    def test_values_survive_a_power_cut(self):
        node = Node(arguments=("--isolation", "process"))
        try:
            node.call("PUT", "/v1/kv/kept", b"value")
            node.kill()
            again = Node(node.folder, arguments=("--isolation", "process"))
            self.assertEqual(again.get("/v1/kv/kept"), "value")
            again.stop()
        finally:
            node.stop()


if __name__ == "__main__":
    unittest.main()
