"""Aliases with weights, sticky choices, going back, and old versions."""
import collections
import pathlib
import subprocess
import tempfile
import unittest

node = None
folder = None


def setUpModule():
    global node, folder
    from node import Node  # test/lib/node.py

    folder = tempfile.TemporaryDirectory(prefix="blixard-alias-")
    source = pathlib.Path(folder.name) / "which.c"
    module = pathlib.Path(folder.name) / "which.wasm"
    source.write_text('#include <stdio.h>\n#include <stdlib.h>\nint main(void) { printf("%s", getenv("WHICH")); }\n')
    subprocess.run(["clang-14", "--target=wasm32-wasi", "-O2", "-o", module, source], check=True)
    node = Node()
    for number in range(1, 5):
        node.deploy("which", module, environment={"WHICH": f"v{number}"})


def tearDownModule():
    node.stop()
    folder.cleanup()


def ask(fields=None, name="which"):
    import http.client

    host, port = node.gateway.rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    try:
        connection.request("GET", f"/fn/{name}", headers=fields or {})
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def cli(*words):
    return node.cli("fn", *words)


class Aliases(unittest.TestCase):
    def test_1_weights_share_the_calls(self):
        said = cli("alias", "set", "which", "live", "v1=75", "v2=25")
        self.assertEqual(said, "which:live is v1=75 v2=25\n")
        seen = collections.Counter(ask() for _ in range(400))
        self.assertEqual(set(seen), {"v1", "v2"})
        self.assertTrue(50 < seen["v2"] < 160, seen)
        self.assertEqual(node.json("/v1/functions/which")["aliases"]["live"], "v1=75 v2=25")

    def test_2_the_same_value_gets_the_same_version(self):
        cli("alias", "set", "which", "live", "v1=50", "v2=50", "--sticky", "header:X-User")
        users = {f"u{number}": ask({"X-User": f"u{number}"}) for number in range(40)}
        self.assertEqual(set(users.values()), {"v1", "v2"})
        for user, version in users.items():
            self.assertEqual(ask({"X-User": user}), version)
        # Who had v1 and more of it keeps it.
        cli("alias", "set", "which", "live", "v1=80", "v2=20", "--sticky", "header:X-User")
        for user, version in users.items():
            if version == "v1":
                self.assertEqual(ask({"X-User": user}), "v1")
        cli("alias", "set", "which", "beta", "v3=1", "v4=1", "--sticky", "cookie:who")
        first = ask({"Cookie": "a=b; who=me"}, "which:beta")
        self.assertEqual({ask({"Cookie": "who=me"}, "which:beta") for _ in range(20)}, {first})
        self.assertRegex(cli("alias", "list", "which"), r"STICKY\nbeta +v3=1 v4=1 +cookie:who\nlive +v1=80 v2=20 +header:X-User\n")
        self.assertIn('sticky: "cookie:who"', node.cli("export", "Alias"))

    def test_3_rollback_goes_back_and_forth(self):
        cli("alias", "set", "which", "live", "3")
        self.assertEqual(ask(), "v3")
        cli("alias", "set", "which", "live", "4")
        self.assertEqual(ask(), "v4")
        self.assertEqual(cli("rollback", "which"), "which:live is version 3 again\n")
        self.assertEqual(ask(), "v3")
        cli("rollback", "which")
        self.assertEqual(ask(), "v4")
        self.assertIn("v1=80 v2=20", cli("alias", "history", "which"))

    def test_4_a_version_with_weight_stays(self):
        cli("alias", "set", "which", "live", "v1=99", "v4=1")
        from node import Refused

        with self.assertRaises(Refused) as caught:
            node.call("DELETE", "/v1/functions/which/versions/4")
        self.assertEqual(caught.exception.status, 409)
        cli("alias", "delete", "which", "beta")
        with self.assertRaises(Refused):
            node.call("DELETE", "/v1/functions/which/aliases/live")
        cli("prune", "which", "--keep", "0")
        left = {one["number"] for one in node.json("/v1/functions/which/versions")["versions"]}
        self.assertEqual(left, {1, 4})

    def test_5_what_is_refused(self):
        for words, status, said in ((("alias", "set", "which", "live", "v1=50", "v1=50"), 64, "version 1 is named twice"),
                                    (("rollback", "which", "nobody"), 66, "which has no alias nobody"),
                                    (("alias", "set", "which", "1x", "1"), 64, "no name of an alias"),):
            with self.assertRaises(subprocess.CalledProcessError) as caught:
                node.cli("fn", *words, stderr=subprocess.PIPE)
            self.assertEqual(caught.exception.returncode, status)
            self.assertIn(said, caught.exception.stderr)
        for words in (("v1=0", "v4=1"), ("v1=1", "v1=2"), ("v1=x",), ("v99=1",)):
            with self.assertRaises(subprocess.CalledProcessError):
                cli("alias", "set", "which", "live", *words)
        with self.assertRaises(subprocess.CalledProcessError):
            cli("alias", "set", "which", "live", "v1=1", "v4=1", "--sticky", "moon:full")

    def test_6_what_was_deleted_is_no_way_back(self):
        cli("alias", "set", "which", "live", "4")
        node.call("DELETE", "/v1/functions/which/versions/1")
        with self.assertRaises(subprocess.CalledProcessError) as caught:
            node.cli("fn", "rollback", "which", stderr=subprocess.PIPE)
        self.assertIn("which:live pointed to version 1 before, which was deleted; blixard fn alias set", caught.exception.stderr)
