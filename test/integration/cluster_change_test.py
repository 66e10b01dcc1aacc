"""A cluster that changes while it works: nodes begin again, come and go, and are made anew."""
import http.client
import pathlib
import subprocess
import tempfile
import threading
import unittest

from cluster import Cluster
from node import Refused
from torture import bytes_of, states_of

PLAIN_ONLY = "the time goes to waiting for elections, leases and nodes that begin again"

ARGUMENTS = []  # with the isolation that there is
ECHO = """
#include <unistd.h>
int main(void) { char b[512]; long n; while ((n = read(0, b, sizeof(b))) > 0) { write(1, b, n); } return 0; }
"""


def echo():
    """The module."""
    with tempfile.TemporaryDirectory(prefix="blixard-echo-") as folder:
        source = pathlib.Path(folder, "echo.c")
        source.write_text(ECHO)
        subprocess.run(["clang-14", "--target=wasm32-wasi", "-O1", "-o", source.with_suffix(".wasm"), source], check=True)
        return source.with_suffix(".wasm").read_bytes()


class Callers:
    """One caller per node, who calls a function at that node's gateway again and again."""

    def __init__(self, cluster, name):
        self.name = name
        self.over = threading.Event()
        self.stops = {server.name: threading.Event() for server in cluster.servers}
        self.asked = dict.fromkeys(self.stops, 0)
        self.failures = []
        self.changed = threading.Condition()
        self.threads = [threading.Thread(target=self._call, args=(server,), daemon=True) for server in cluster.servers]
        for thread in self.threads:
            thread.start()

    def _call(self, server):
        connection = None
        while not self.over.is_set():
            if self.stops[server.name].is_set():
                if connection:
                    connection.close()
                connection = None
                self.over.wait(0.02)
                continue
            body = f"{server.name} {self.asked[server.name]}".encode()
            try:
                if connection is None:
                    connection = http.client.HTTPConnection(server.host.address, server.gateway_port, timeout=30)
                    connection.sock = server.host.connect(server.host.address, server.gateway_port)
                connection.request("POST", f"/fn/{self.name}", body)
                answer = connection.getresponse()
                data = answer.read()
                if answer.status != 200 or data != body:
                    raise OSError(f"{answer.status} {data[:500]}")
                with self.changed:
                    self.asked[server.name] += 1
                    self.changed.notify_all()
            except (OSError, http.client.HTTPException) as error:
                if not self.stops[server.name].is_set():
                    self.failures.append(f"{body.decode()}: {error!r}")
                connection = None

    def wait_for(self, more, but):
        """Until everybody but one has been answered so many times more."""
        with self.changed:
            targets = {name: asked + more for name, asked in self.asked.items() if name != but}
            return self.changed.wait_for(lambda: self.failures or all(self.asked[n] >= t for n, t in targets.items()), 60)

    def end(self):
        self.over.set()
        for thread in self.threads:
            thread.join()


class Change(unittest.TestCase):
    def test_nodes_begin_again_one_by_one_and_no_call_at_the_others_fails(self):
        with Cluster(3, "rolling", ARGUMENTS) as cluster:
            cluster.form()
            cluster[0].deploy("echo", echo())
            for server in cluster.servers:
                self.runs_itself(server, "echo")
            callers = Callers(cluster, "echo")
            try:
                for server in cluster.servers:
                    self.assertTrue(callers.wait_for(50, None))
                    callers.stops[server.name].set()  # its own connections are its own matter
                    self.assertEqual(server.stop(), 0, server.said())
                    self.assertTrue(callers.wait_for(100, server.name))
                    server.start().wait_ready()
                    cluster.settled()
                    self.runs_itself(server, "echo")
                    callers.stops[server.name].clear()
            finally:
                callers.end()
            self.assertEqual(callers.failures, [])
            print(f"calls meanwhile: {callers.asked}", flush=True)

    def runs_itself(self, server, name):
        """Until it answers without asking another node."""
        index = None
        while True:
            function, index = server.look(f"/v1/functions/{name}", index, 200)
            if server.name in [node["name"] for node in function["version"]["nodes"]]:
                return
            self.assertTrue(server.is_running())

    def test_a_worker_takes_the_place_of_a_server_that_is_removed(self):
        with Cluster(5, "places", ARGUMENTS) as cluster:
            view = cluster.form(servers=3).settled()
            servers = {node["name"] for node in view["nodes"] if node["role"] == "server"}
            self.assertEqual(len(servers), 3)
            leader = cluster.leader()
            gone = cluster.find(sorted(servers - {leader.name})[0])
            leader.call("DELETE", f"/v1/nodes/{gone.name}")
            self.assertNotEqual(gone.wait(), 0)
            view = cluster.settled()
            now = {node["name"] for node in view["nodes"] if node["role"] == "server"}
            self.assertEqual(len(now), 3)
            self.assertEqual(len(now - servers), 1)
            cluster[0 if gone is not cluster[0] else 1].call("POST", "/v1/clients", {"name": "after", "kind": "token"})
            self.all_the_same(cluster)

    def test_a_node_is_promoted_and_demoted(self):
        with Cluster(4, "roles", ARGUMENTS) as cluster:
            view = cluster.form(servers=3).settled()
            worker = next(node["name"] for node in view["nodes"] if node["role"] == "worker")
            server = next(node["name"] for node in view["nodes"] if node["role"] == "server" and not node["leader"])
            cluster[0].call("PATCH", f"/v1/nodes/{server}", {"role": "worker"})
            cluster[0].until(lambda view: {node["name"] for node in view["nodes"] if node["role"] == "server"} >= {worker}
                             and all(node["role"] == "worker" for node in view["nodes"] if node["name"] == server), "other roles")
            cluster.settled()
            cluster.find(server).call("POST", "/v1/clients", {"name": "by-a-worker", "kind": "token"})
            self.all_the_same(cluster)

    def test_a_backup_becomes_a_cluster_again(self):
        with Cluster(3, "backup", ARGUMENTS) as cluster:
            cluster.form()
            first, second, third = cluster.servers
            first.deploy("echo", echo())
            second.deploy("other", echo())
            cluster.same_index()  # a backup has what its node has applied
            saved = cluster.root / "saved.tar"
            third.cli("cluster", "backup", saved)
            third.call("DELETE", "/v1/functions/other")
            for server in cluster.servers:
                server.kill()
                server.folder.rename(server.base / "before")
            first.cli("cluster", "restore", saved, "--data-folder", first.folder)
            first.start().wait_ready()
            self.assertIsNone(first.view()[0]["name"])  # its certificates are not in a backup
            self.assertEqual(first.invoke("echo", b"again"), (200, b"again"))
            self.begin_anew(cluster)

    def test_one_server_goes_on_when_the_others_are_gone_for_good(self):
        with Cluster(4, "recover", ARGUMENTS) as cluster:
            view = cluster.form(servers=3).settled()
            worker = cluster.find(next(node["name"] for node in view["nodes"] if node["role"] == "worker"))
            survivor, *gone = [server for server in cluster.servers if server is not worker]
            survivor.call("POST", "/v1/clients", {"name": "kept", "kind": "token"})
            cluster.same_index()
            refused = survivor.cli("cluster", "recover", "--force", "--data-folder", survivor.folder, check=False)
            self.assertNotEqual(refused.returncode, 0)  # it runs
            for server in gone:
                server.kill()
            with self.assertRaises(Refused) as nobody:
                survivor.call("POST", "/v1/clients", {"name": "nobody", "kind": "token"})
            self.assertIn(nobody.exception.problem["code"], ("unavailable", "unknown_outcome"))
            survivor.stop()
            worker.until(lambda view: view["leader"] is None, "end of the leader")
            said = survivor.cli("cluster", "recover", "--data-folder", survivor.folder)
            self.assertIn("Nothing was changed", said)
            survivor.cli("cluster", "recover", "--force", "--data-folder", survivor.folder)
            survivor.start().wait_ready()
            survivor.call("POST", "/v1/clients", {"name": "after", "kind": "token"})
            for server in gone:
                server.start()
                self.assertNotEqual(server.wait(), 0)
                self.assertIn("removed", server.said())
            cluster.voters = 1
            cluster.settled()
            self.all_the_same(cluster)
            names = {client["name"] for client in worker.get("/v1/clients")["clients"]}
            self.assertGreaterEqual(names, {"kept", "after"})

    def test_certificates_are_renewed_while_everything_goes_on(self):
        with Cluster(3, "renewal", [*ARGUMENTS, "--certificate-lifetime-ms", "12000"]) as cluster:
            cluster.form()
            ends = {node["name"]: node["certificate_expires_at"] for node in cluster[0].view()[0]["nodes"]}
            for round in range(2):
                view = cluster[0].until(lambda view: all(node["certificate_expires_at"] > ends[node["name"]] for node in view["nodes"]),
                                        "new certificate of every node")
                ends = {node["name"]: node["certificate_expires_at"] for node in view["nodes"]}
                for server in cluster.servers:
                    server.call("POST", "/v1/clients", {"name": f"{server.name}-{round}", "kind": "token"})
            self.assertEqual([server.name for server in cluster.servers if not server.is_running()], [])
            cluster.settled()
            for server in cluster.servers:  # connections are made anew, with what is valid now
                server.stop()
                server.start().wait_ready()
                cluster.settled()
            self.all_the_same(cluster)

    def begin_anew(self, cluster):
        """The first is there again, alone; the others join it with empty data folders."""
        first, *others = cluster.servers
        first.call("POST", "/v1/cluster", {"name": "anew", "servers": 3})
        for server in others:
            cluster.join(server)
        cluster.settled()
        for server in cluster.servers:
            for name in ("echo", "other"):
                self.runs_itself(server, name)
                self.assertEqual(server.invoke(name, b"anew"), (200, b"anew"))
        self.all_the_same(cluster)

    def all_the_same(self, cluster):
        self.assertEqual(len({bytes_of(state) for state in states_of(cluster).values()}), 1)


if __name__ == "__main__":
    unittest.main()
