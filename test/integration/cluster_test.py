"""A cluster on this machine's loopback addresses: begun, joined, looked at, changed, left."""
import http.client
import json
import shutil
import socket
import ssl
import unittest

from member import READY, WAIT_SECONDS, Member, is_whole, node_of
from node import Refused


class One(unittest.TestCase):
    """A node that begins a cluster."""

    def setUp(self):
        self.one = Member("one", 1).begin()
        self.addCleanup(self.one.clean)

    def refused(self, member, method, path, body=None):
        with self.assertRaises(Refused) as caught:
            member.request(method, path, body)
        return caught.exception.problem

    def test_a_node_alone_shows_itself_and_listens_for_nobody(self):
        status = self.one.status()
        self.assertIsNone(status["name"])
        self.assertEqual([(node["name"], node["role"], node["self"]) for node in status["nodes"]], [("one", "server", True)])
        with self.assertRaises(ConnectionRefusedError):
            socket.create_connection(tuple(self.one.cluster.split(":")), timeout=5)
        self.assertEqual(self.refused(self.one, "POST", "/v1/tokens", {})["code"], "invalid")

    def test_init_makes_a_cluster_that_survives_a_restart(self):
        made = self.one.request("POST", "/v1/cluster", {"name": "home"})
        self.assertEqual((made["name"], made["leader"], made["servers_wanted"]), ("home", "one", 3))
        self.assertEqual(self.refused(self.one, "POST", "/v1/cluster", {"name": "other"})["code"], "exists")
        identity = self.one.data / "cluster"
        self.assertEqual({path.name: oct(path.stat().st_mode & 0o777) for path in identity.iterdir()},
                         {name: "0o600" for name in ("node.json", "ca.pem", "node.pem", "node.key", "servers.key")})
        self.one.kill()
        again = self.one.begin().status()
        self.assertEqual((again["id"], again["leader"]), (made["id"], "one"))

    def test_what_is_wrong_with_a_cluster_to_be_is_said(self):
        for body, word in (({"name": "No Name"}, "$.name"), ({"name": "home", "servers": 2}, "1, 3 or 5"),
                           ({"name": "home", "size": 3}, "$.size"), ({"name": "home", "address": ":1"}, "advertise_address")):
            self.assertIn(word, self.refused(self.one, "POST", "/v1/cluster", body)["detail"])
        self.assertFalse((self.one.data / "cluster").exists())
        self.assertEqual(self.one.request("POST", "/v1/cluster", {"name": "home"})["name"], "home")

    def test_an_init_that_cannot_listen_leaves_nothing(self):
        with socket.socket() as taken:
            host, port = self.one.cluster.split(":")
            taken.bind((host, int(port)))
            taken.listen()
            self.assertEqual(self.refused(self.one, "POST", "/v1/cluster", {"name": "home"})["code"], "exists")
        self.assertFalse((self.one.data / "cluster").exists())
        self.one.request("POST", "/v1/cluster", {"name": "home"})

    def test_a_node_that_cannot_be_reached_does_not_use_its_token_up(self):
        self.one.request("POST", "/v1/cluster", {"name": "home"})
        token = self.one.token()
        two = Member("two", 2)
        self.addCleanup(two.clean)
        with socket.socket() as taken:
            host, port = two.cluster.split(":")
            taken.bind((host, int(port)))
            taken.listen()
            two.begin(token, wait=False)
            two.until_says("cluster_address: .* is in use")
            self.assertEqual(two.process.wait(timeout=WAIT_SECONDS), 73)
        for wrong in ("::bad::", "no host", "1.2.3.4:0"):
            two.begin(token, False, "--advertise-address", wrong)
            two.until_says("advertise_address")
            self.assertEqual(two.process.wait(timeout=WAIT_SECONDS), 64)
        two.begin(token, False, "--advertise-address", self.one.cluster)
        two.until_says(f"node one is at {self.one.cluster}")
        self.assertEqual(two.process.wait(timeout=WAIT_SECONDS), 73)
        self.assertEqual(len(self.one.status()["nodes"]), 1)
        two.begin(token)

    def test_a_node_that_is_not_where_it_says_is_named(self):
        self.one.request("POST", "/v1/cluster", {"name": "home"})
        two = Member("two", 2)
        self.addCleanup(two.clean)
        two.begin(self.one.token(role="worker"), True, "--advertise-address", "127.0.0.77:7421")
        seen = self.one.until(lambda status: node_of(status, "two")["problems"], "what is wrong")
        self.assertEqual(node_of(seen, "two")["problems"],
                         ["it lives, but the leader does not reach it at 127.0.0.77:7421: see its advertise_address"])

    def test_strangers_are_let_in_nowhere(self):
        self.one.request("POST", "/v1/cluster", {"name": "home"})
        context = ssl.create_default_context(cafile=self.one.data / "cluster/ca.pem")
        context.check_hostname = False
        host, port = self.one.cluster.split(":")

        def ask(method, path, body=None):
            connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=30)
            connection.request(method, path, body)
            answer = connection.getresponse()
            status, data = answer.status, json.loads(answer.read())
            connection.close()
            return status, data

        for method, path in (("GET", "/v1/cluster"), ("GET", "/v1/functions"), ("POST", "/v1/tokens"),
                             ("POST", "/v1/peer/heartbeat"), ("GET", "/v1/peer/servers-key"), ("GET", "/v1/events")):
            self.assertEqual(ask(method, path, "{}" if method == "POST" else None)[0], 401, path)
        wanted = {"token": "0" * 12, "secret": "0" * 40, "request": "", "name": "x", "address": "127.0.0.9:1", "gateway": "",
                  "failure_domain": "", "version": "0", "schema": 3}
        status, problem = ask("POST", "/v1/join", json.dumps(wanted))
        self.assertEqual((status, problem["code"]), (403, "denied"))
        self.assertIn("node token create", problem["detail"])
        newer = {**wanted, "of_a_version_to_come": {"a": 1}}  # a program is no person who has mistyped a word
        self.assertEqual(ask("POST", "/v1/join", json.dumps(newer))[0], 403)
        self.assertEqual(ask("POST", "/v1/login", json.dumps({"client": "x", "secret": "0" * 40, "request": ""}))[0], 403)
        self.assertEqual(self.refused(self.one, "POST", "/v1/join", wanted)["code"], "denied")  # in the clear
        self.assertEqual(self.refused(self.one, "POST", "/v1/peer/heartbeat", {})["code"], "denied")

    def test_who_is_revoked_hears_no_more_of_what_it_asked_for(self):
        self.one.request("POST", "/v1/cluster", {"name": "home"})
        token = self.one.request("POST", "/v1/clients", {"name": "ci", "kind": "token"})["token"]
        context = ssl.create_default_context(cafile=self.one.data / "cluster/ca.pem")
        context.check_hostname = False
        host, port = self.one.cluster.split(":")

        def ask(path):
            connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=WAIT_SECONDS)
            connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
            return connection, connection.getresponse()

        connection, events = ask("/v1/events")
        self.assertEqual(events.status, 200)
        self.one.request("DELETE", "/v1/clients/ci")
        events.read()  # it ends
        connection.close()
        connection, answer = ask("/v1/functions")
        self.assertEqual((answer.status, json.loads(answer.read())["code"]), (401, "unauthenticated"))
        connection.close()


class Many(unittest.TestCase):
    """Three nodes; one test after the other changes what they are."""

    @classmethod
    def setUpClass(cls):
        cls.one, cls.two, cls.three = cls.members = [Member("one", 1), Member("two", 2), Member("three", 3)]
        for member in cls.members:
            cls.addClassCleanup(member.clean)
        cls.one.begin()
        cls.one.request("POST", "/v1/cluster", {"name": "home"})
        cls.first = cls.one.token()
        cls.two.begin(cls.first)
        cls.three.begin(cls.two.token())  # of another node than the first

    def by_name(self, name):
        return next(member for member in self.members if member.name == name)

    def test_1_every_node_sees_three_servers(self):
        for member in self.members:
            status = member.until(is_whole(3), "three healthy servers")
            self.assertEqual({node["name"]: (node["role"], node["self"]) for node in status["nodes"]},
                             {other.name: ("server", other is member) for other in self.members})
            self.assertEqual(status["problems"], [])
            self.assertEqual(status["leader"], "one")
        for member in self.members:
            self.assertTrue((member.data / "cluster/servers.key").is_file())

    def test_2_a_token_is_used_once(self):
        late = Member("late", 4)
        self.addCleanup(late.clean)
        late.begin(self.first, wait=False).process.wait(timeout=WAIT_SECONDS)
        self.assertEqual(late.process.returncode, 77)
        late.until_says("the token is used up")
        self.assertFalse((late.data / "cluster").exists())

    def test_2_a_name_is_given_once(self):
        twin = Member("two", 4)
        self.addCleanup(twin.clean)
        twin.begin(self.one.token(), wait=False)
        twin.until_says("there is a node two already")
        self.assertEqual(twin.process.wait(timeout=WAIT_SECONDS), 73)

    def test_2_tokens_are_listed_and_revoked(self):
        made = self.two.request("POST", "/v1/tokens", {"role": "worker", "ttl": "5m", "uses": 2})
        listed = self.three.request("GET", f"/v1/tokens?index=0&consistency=linearizable")["tokens"]
        shown = next(token for token in listed if token["id"] == made["id"])
        self.assertEqual((shown["role"], shown["uses"]), ("worker", 2))
        self.assertNotIn("token", shown)
        self.three.request("DELETE", f"/v1/tokens/{made['id']}")
        fourth = Member("fourth", 4)
        self.addCleanup(fourth.clean)
        fourth.begin(made["token"], wait=False)
        fourth.until_says("revoked")

    def test_2_labels_and_failure_domains_are_kept(self):
        self.two.request("PUT", "/v1/nodes/three/labels/disk", {"value": "ssd"})
        node = self.two.request("PATCH", "/v1/nodes/three", {"failure_domain": "rack-1"})
        self.assertEqual((node["labels"], node["failure_domain"]), ({"disk": "ssd"}, "rack-1"))
        self.two.request("DELETE", "/v1/nodes/three/labels/disk")
        self.assertEqual(self.two.request("GET", "/v1/nodes/three")["labels"], {})

    def test_3_the_leadership_moves_on_request(self):
        self.three.request("PUT", "/v1/cluster/leader", {"node": "two"})
        for member in self.members:
            member.until(lambda status: status["leader"] == "two" and is_whole(3)(status), "two lead")

    def test_4_the_leader_dies_and_the_others_go_on(self):
        leader = self.by_name(self.one.status()["leader"])
        others = [member for member in self.members if member is not leader]
        leader.kill()
        others[0].token()
        status = others[1].until(lambda seen: seen["leader"] not in (None, leader.name), "another leader")
        self.assertIn(status["leader"], [member.name for member in others])
        leader.begin()
        for member in self.members:
            member.until(is_whole(3), "all of them again")

    def test_5_a_worker_follows_and_is_made_a_server(self):
        worker = Member("worker", 4)
        self.addCleanup(worker.clean)
        worker.begin(self.one.token(role="worker"))
        seen = worker.until(lambda status: len(status["nodes"]) == 4 and is_whole(3)(status), "four nodes")
        self.assertEqual(node_of(seen, "worker")["role"], "worker")
        self.assertFalse((worker.data / "cluster/servers.key").exists())
        worker.request("PUT", "/v1/nodes/worker/labels/from", {"value": "worker"})
        self.assertEqual(worker.request("GET", "/v1/nodes/worker")["labels"], {"from": "worker"})
        # It takes the place of one that is sent away.
        worker.request("PATCH", "/v1/nodes/worker", {"role": "server"})
        worker.request("PATCH", "/v1/nodes/three", {"role": "worker"})
        for member in (*self.members, worker):
            seen = member.until(lambda status: node_of(status, "three")["role"] == "worker"
                                and node_of(status, "worker")["role"] == "server" and is_whole(3)(status), "the exchange")
        self.assertTrue((worker.data / "cluster/servers.key").is_file())
        self.three.until(lambda _: not (self.three.data / "cluster/servers.key").exists(), "the key gone")
        # And back: the one that returns comes under another id.
        before = node_of(seen, "three")["id"]
        worker.request("PATCH", "/v1/nodes/three", {"role": "server"})
        worker.request("PATCH", "/v1/nodes/worker", {"role": "worker"})
        for member in (*self.members, worker):
            seen = member.until(lambda status: node_of(status, "three")["role"] == "server"
                                and node_of(status, "worker")["role"] == "worker" and is_whole(3)(status), "the exchange back")
        self.assertNotEqual(node_of(seen, "three")["id"], before)
        worker.request("DELETE", "/v1/nodes/worker")  # itself
        worker.until_says("was removed from the cluster")
        self.assertEqual(worker.process.wait(timeout=WAIT_SECONDS), 77)

    def test_6_the_leader_steps_down_when_it_stops(self):
        leader = self.by_name(self.one.status()["leader"])
        other = next(member for member in self.members if member is not leader)
        self.assertEqual(leader.stop(), 0)
        other.token()
        self.assertFalse(any("nobody took the leadership over" in line for line in leader.said))
        leader.begin()
        other.until(is_whole(3), "all of them again")

    def test_7_all_of_them_come_back_after_a_power_cut(self):
        made = self.one.request("POST", "/v1/tokens", {})["id"]
        for member in self.members:
            member.kill()
        for member in self.members:
            member.begin(wait=False)
        for member in self.members:
            member.api, member.gateway = member.until_says(READY).groups()
            member.until(is_whole(3), "all of them again")
            self.assertIn(made, [token["id"] for token in member.request("GET", "/v1/tokens")["tokens"]])

    def test_8_a_node_that_was_removed_is_told_so(self):
        leader = self.one.status()["leader"]
        gone = next(member for member in self.members if member.name != leader)
        left = [member for member in self.members if member is not gone]
        left[0].request("DELETE", f"/v1/nodes/{gone.name}")
        gone.until_says("was removed from the cluster")
        self.assertEqual(gone.process.wait(timeout=WAIT_SECONDS), 77)
        for member in left:
            status = member.until(lambda seen: seen["servers"] == 2 and len(seen["nodes"]) == 2, "two left")
            self.assertIn("2 servers, 3 wanted", status["problems"])
        left[1].token()
        gone.begin(wait=False)
        gone.until_says("was removed from the cluster")
        self.assertEqual(gone.process.wait(timeout=WAIT_SECONDS), 77)
        # With an empty folder and a token it is welcome.
        shutil.rmtree(gone.data)
        gone.begin(left[1].token())
        gone.until(is_whole(3), "three again")

    def test_9_certificates_are_renewed_without_a_restart(self):
        short = Member("short", 5)
        self.addCleanup(short.clean)
        for member in self.members:
            member.stop()
            member.begin(None, True, "--certificate-lifetime-ms", "20s")
        self.one.until(is_whole(3), "three again")
        short.begin(self.one.token(role="worker"))
        before = node_of(short.status(), "short")["certificate_expires_at"]
        short.until_says("the certificate was renewed")
        after = short.until(lambda seen: node_of(seen, "short")["certificate_expires_at"] > before, "a later end")
        self.assertEqual(node_of(after, "short")["health"], "healthy")
        self.assertGreater(node_of(self.one.status(), "short")["certificate_expires_at"], before)


if __name__ == "__main__":
    unittest.main()
