"""Who is let in by a real cluster: clients with certificates and tokens, and the node that was removed."""
import json
import os
import pathlib
import ssl
import subprocess
import tempfile
import unittest
import urllib.error
import urllib.request

PLAIN_ONLY = "the time goes to waiting for elections, leases and nodes that begin again"

BUILD = pathlib.Path(os.environ.get("BLIXARD_BUILD", pathlib.Path(__file__).resolve().parents[2] / "build")).resolve()
cluster = None


def setUpModule():
    global cluster
    from cluster import Cluster  # test/lib/cluster.py

    cluster = Cluster(2, "home", here=True)
    cluster.form(servers=1)


def tearDownModule():
    cluster.__exit__(None, None, None)


class Access(unittest.TestCase):
    def setUp(self):
        self.home = tempfile.TemporaryDirectory(prefix="blixard-home-")
        self.addCleanup(self.home.cleanup)
        self.name = "c" + os.urandom(4).hex()

    def run_it(self, *arguments, stdin="", **env):
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("BLIXARD_", "XDG_"))}
        done = subprocess.run([BUILD / "blixard", *arguments], env={**clean, "HOME": self.home.name, **env}, input=stdin,
                              text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
        return done.returncode, done.stdout, done.stderr

    def good(self, *arguments, **options):
        status, out, errors = self.run_it(*arguments, **options)
        self.assertEqual(status, 0, errors)
        return out

    def wrong(self, status, words, *arguments, **options):
        got = self.run_it(*arguments, **options)
        self.assertEqual(got[0], status, got)
        self.assertIn(words, got[2])

    def admin(self, *arguments):
        return self.good(*arguments, "--addr", f"unix:{cluster[0].folder}/api.sock")

    def log_in(self):
        made = self.admin("client", "create", self.name)
        self.assertTrue(made.startswith("blixard login blx1."), made)
        token = made.split()[2]
        self.good("login", "-", stdin=token)
        return token

    def ask(self, path, authorization=None):
        """The status, from a program that shows no certificate."""
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        request = urllib.request.Request(f"https://{cluster[0].address}{path}", headers=authorization or {})
        try:
            with urllib.request.urlopen(request, context=context, timeout=30) as answer:
                return answer.status, dict(answer.headers)
        except urllib.error.HTTPError as refusal:
            with refusal:
                return refusal.code, dict(refusal.headers)

    def test_a_client_logs_in_once_and_is_let_in_until_it_is_deleted(self):
        token = self.log_in()
        about = json.loads(self.good("cluster", "status", "--output", "json"))
        self.assertEqual(about["name"], "home")
        known = json.loads(self.good("context", "show", "--output", "json"))["addresses"]
        self.assertEqual(set(known), {server.address for server in cluster.servers})
        self.wrong(77, "was used or revoked", "login", token, "--name", "again")
        for server in cluster.servers:
            self.good("fn", "list", "--addr", f"https://{server.address}")
        self.good("client", "delete", self.name)
        self.wrong(77, "log in again", "fn", "list")

    def test_a_token_is_shown_with_each_request(self):
        token = self.admin("client", "create", self.name, "--token").strip()
        self.good("node", "list", BLIXARD_TOKEN=token)
        self.assertEqual(self.ask("/v1/nodes", {"Authorization": f"Bearer {token}"})[0], 200)
        self.admin("client", "delete", self.name)
        self.wrong(77, "not known, or was revoked", "node", "list", BLIXARD_TOKEN=token)

    def test_who_shows_nothing_is_asked_who_it_is(self):
        for path in ("/v1/nodes", "/metrics", "/v1/cluster/backup", "/v1/peer/servers-key"):
            status, fields = self.ask(path)
            self.assertEqual((status, fields.get("WWW-Authenticate")), (401, 'Bearer realm="blixard"'), path)
        self.assertEqual(self.ask("/healthz")[0], 200)

    def test_a_client_is_no_peer(self):
        token = self.admin("client", "create", self.name, "--token").strip()
        self.assertEqual(self.ask("/v1/peer/servers-key", {"Authorization": f"Bearer {token}"})[0], 403)
        status, _, _ = cluster[0].ask("GET", "/v1/peer/servers-key")
        self.assertEqual(status, 403)

    def test_a_removed_node_ends_and_is_told_why(self):
        node = cluster.add()
        cluster.join(node, role="worker")
        self.log_in()
        self.good("node", "label", node.name, "disk=ssd")
        self.assertIn("disk=ssd", self.good("node", "show", node.name))
        self.good("node", "remove", node.name)
        self.assertNotEqual(node.wait(), 0)
        self.assertIn("was removed from the cluster", node.said())
        node.start()
        self.assertNotEqual(node.wait(), 0)
        self.assertIn("was removed from the cluster", node.said())
        cluster.servers.remove(node)
