"""A cluster for tests: real daemons, one per host (hosts.py), on the disk of a temporary folder.

    with Cluster(3, "torture") as cluster:
        cluster.form()                       # init at the first, a token and a join for each other
        cluster.leader().kill()              # kill -9; start() begins it again on its folder
        cluster[0].until(lambda view: view["leader"], "leader")
        cluster.servers[1].call("PUT", "/v1/nodes/n1/labels/a", {"value": "b"})

The API is reached through each daemon's unix socket, so whatever happens to the network, a test can look at
every node.  Waiting is for events: READY=1 of the daemon, its end, and blocking queries; never for time to
pass.  The folder with logs and data is kept, and named, when the test that made it failed.
"""
import contextlib
import http.client
import json
import os
import pathlib
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.parse

from hosts import Here, Network
from node import BUILD, Refused
from ports import free_ports

READY_SECONDS = 60
API_PORT, PORT, GATEWAY_PORT = 7420, 7421, 7480


class Api(http.client.HTTPConnection):
    """A kept connection to one daemon's unix socket; begun again when it was closed."""

    def __init__(self, path, timeout=60):
        super().__init__("localhost", timeout=timeout)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)

    def ask(self, method, path, body=None, fields=None):
        """(status, body, fields); OSError or HTTPException when there was no answer."""
        if isinstance(body, (dict, list)):
            body = json.dumps(body).encode()
        try:
            self.request(method, path, body, fields or {})
            answer = self.getresponse()
            return answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()}
        except BaseException:
            self.close()
            raise

    def call(self, method, path, body=None, fields=None):
        """The document that is answered, or None; raises Refused."""
        status, data, got = self.ask(method, path, body, fields)
        if status >= 300:
            raise Refused(status, data, got)
        return json.loads(data) if data and "json" in got.get("content-type", "") else data.decode(errors="replace")


class Server:
    """One daemon on one host."""

    def __init__(self, host, folder, name, arguments=()):
        self.host = host
        self.name = name
        self.base = pathlib.Path(folder)
        self.base.mkdir()
        self.folder = self.base / "data"
        self.log = self.base / "log"
        self.arguments = list(arguments)
        self.program = BUILD / "blixard"
        api, port, self.gateway_port = free_ports(3) if isinstance(host, Here) else (API_PORT, PORT, GATEWAY_PORT)
        self.api_address = f"127.0.0.1:{api}"
        self.address = f"{host.address}:{port}"
        self.gateway = f"{host.address}:{self.gateway_port}"
        self.process = None
        self.notify = None
        self.is_paused = False

    # ---- Its life ----

    def start(self, *more, env=None, wrap=()):
        """Begin; wait_ready() says when it serves."""
        assert self.process is None, self.name
        path = self.base / "notify"
        path.unlink(missing_ok=True)
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(str(path))
        command = [*wrap, self.program, "server", "--data-folder", self.folder, "--node-name", self.name,
                   "--api-address", self.api_address, "--cluster-address", self.address, "--gateway-address", self.gateway,
                   *self.arguments, *more]
        with self.log.open("ab") as log:
            log.write(b"--- start\n")
            log.flush()
            self.process = subprocess.Popen(self.host.command(*command), env={**os.environ, "NOTIFY_SOCKET": str(path), **(env or {})},
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        self.is_paused = False
        return self

    def wait_ready(self, seconds=READY_SECONDS):
        """Until it says that it serves."""
        end = time.monotonic() + seconds
        pid = os.pidfd_open(self.process.pid)
        try:
            while True:
                heard, _, _ = select.select([self.notify, pid], [], [], max(0, end - time.monotonic()))
                if self.notify in heard and b"READY=1" in self.notify.recv(4096):
                    return self
                if pid in heard and self.notify not in heard:
                    raise RuntimeError(f"{self.name} ended with {self.process.wait()}:\n{self.said()}")
                if not heard:
                    raise TimeoutError(f"{self.name} was not ready within {seconds} s:\n{self.said()}")
        finally:
            os.close(pid)

    def said(self, characters=4000):
        """The end of its log."""
        return self.log.read_text(errors="replace")[-characters:] if self.log.exists() else ""

    def is_running(self):
        return self.process is not None and self.process.poll() is None

    def kill(self):
        """As a power cut has it."""
        self.process.kill()
        return self._over()

    def stop(self, seconds=60):
        """Gracefully; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self._over(seconds)

    def wait(self, seconds=60):
        """Until it has ended by itself; the exit status."""
        return self._over(seconds)

    def _over(self, seconds=None):
        try:
            return self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise TimeoutError(f"{self.name} did not end within {seconds} s:\n{self.said()}") from None
        finally:
            self.process = None
            self.notify.close()

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)
        self.is_paused = True

    def resume(self):
        self.process.send_signal(signal.SIGCONT)
        self.is_paused = False

    # ---- Its API ----

    def api(self, timeout=60):
        """A connection of the caller's own."""
        return Api(self.host.path(self.folder / "api.sock"), timeout)

    def ask(self, method, path, body=None, fields=None, timeout=60):
        with contextlib.closing(self.api(timeout)) as api:
            return api.ask(method, path, body, fields)

    def call(self, method, path, body=None, fields=None, timeout=60):
        with contextlib.closing(self.api(timeout)) as api:
            return api.call(method, path, body, fields)

    def get(self, path, timeout=60):
        return self.call("GET", path, timeout=timeout)

    def view(self, index=None, wait_ms=0):
        """(what it knows of the cluster, the index of that)."""
        return self.look("/v1/cluster", index, wait_ms)

    def look(self, path, index=None, wait_ms=0):
        """(a document, the index of that): at once, or when the state has passed `index`, or the time."""
        query = "" if index is None else "?" + urllib.parse.urlencode({"index": index, "wait": f"{wait_ms}ms"})
        status, data, fields = self.ask("GET", path + query, timeout=10 + wait_ms / 1000)
        if status >= 300:
            raise Refused(status, data, fields)
        return json.loads(data), int(fields["x-blixard-index"])

    def until(self, found, what, seconds=READY_SECONDS):
        """The view of this node once found(view) holds."""
        end = time.monotonic() + seconds
        index = view = refused = None
        while time.monotonic() < end:
            try:
                view, index = self.view(index, 100)
                if found(view):
                    return view
            except (Refused, OSError, http.client.HTTPException) as why:
                refused, index = why, None
                self._pause_for_change(0.05)
        raise TimeoutError(f"{self.name} saw no {what} within {seconds} s; last {json.dumps(view)}, {refused}\n{self.said()}")

    def _pause_for_change(self, seconds):
        """What cannot be waited for by asking it: that a daemon answers at all.  Its end is noticed at once."""
        if not self.is_running():
            raise RuntimeError(f"{self.name} does not run:\n{self.said()}")
        pid = os.pidfd_open(self.process.pid)
        try:
            select.select([pid], [], [], seconds)
        finally:
            os.close(pid)

    def cli(self, *words, check=True, text=True, **options):
        """`blixard WORDS` on this host, with this node."""
        done = subprocess.run(self.host.command(BUILD / "blixard", *words), text=text, stdin=subprocess.DEVNULL,
                              env={**os.environ, "BLIXARD_ADDR": f"unix:{self.folder / 'api.sock'}"},
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=300, **options)
        if check and done.returncode != 0:
            raise RuntimeError(f"blixard {' '.join(map(str, words))}: {done.returncode}: {done.stderr}")
        return done.stdout if check else done

    # ---- Functions ----

    def deploy(self, name, module, **settings):
        """Upload, deploy, wait; the version's number."""
        blob = self.call("POST", "/v1/blobs", module)
        begun = self.call("POST", f"/v1/functions/{name}/versions", {"module": blob["id"], **settings})
        ended = self.call("GET", f"/v1/operations/{begun['operation']}/wait?timeout=120s", timeout=130)
        if ended["state"] != "succeeded":
            raise RuntimeError(f"deploying {name}: {ended}")
        return begun["version"]

    def invoke(self, name, body=b"", timeout=30):
        """Through the gateway, from this very host: (status, body)."""
        connection = http.client.HTTPConnection(self.host.address, self.gateway_port, timeout=timeout)
        with contextlib.closing(connection):
            connection.sock = self.host.connect(self.host.address, self.gateway_port, timeout)
            connection.request("POST", f"/fn/{name}", body)
            answer = connection.getresponse()
            return answer.status, answer.read()


class Cluster:
    """So many daemons on hosts of their own; `here`: on this machine's loopback."""

    def __init__(self, count, name="test", arguments=(), here=False):
        self.network = None if here else Network(count)
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="blx-"))
        self.arguments = list(arguments)
        self.servers = []
        self.name = name
        self.voters = None  # how many nodes vote once it is settled
        self.failed = False
        for host in [Here()] * count if here else self.network.hosts:
            self._server(host)

    def _server(self, host):
        number = len(self.servers) + 1
        server = Server(host, self.root / f"n{number}", f"n{number}", self.arguments)
        self.servers.append(server)
        return server

    def add(self):
        """A host more, with a daemon that is not yet started."""
        return self._server(self.network.add() if self.network else Here())

    def __getitem__(self, index):
        return self.servers[index]

    # ---- Becoming one ----

    def form(self, servers=None, **options):
        """All daemons started and one cluster; `servers` is how many shall vote."""
        first, *others = self.servers
        first.start(**options).wait_ready()
        wanted = servers or (5 if len(self.servers) >= 5 else 3 if len(self.servers) >= 3 else 1)
        self.voters = wanted if len(self.servers) >= wanted else 1
        first.call("POST", "/v1/cluster", {"name": self.name, "servers": wanted})
        for server in others:
            self.join(server)
        self.settled()
        return self

    def token(self, via=None, **body):
        return (via or self.servers[0]).call("POST", "/v1/tokens", body)["token"]

    def join(self, server, via=None, **body):
        """A member more, ready."""
        token = server.base / "token"
        token.touch(0o600)
        token.write_text(self.token(via, **body))
        server.start("--join-token-file", token).wait_ready()
        return server

    # ---- Looking ----

    def running(self):
        return [server for server in self.servers if server.is_running() and not server.is_paused]

    def find(self, name):
        return next(server for server in self.servers if server.name == name)

    def leader(self, seconds=READY_SECONDS, among=None):
        """The daemon that leads, as a node that runs sees it."""
        looking = (among or self.running())[0]
        view = looking.until(lambda view: view.get("leader") and any(s.name == view["leader"] for s in self.running()), "leader", seconds)
        return self.find(view["leader"])

    def settled(self, seconds=READY_SECONDS):
        """Until every running node sees the same leader and all running nodes healthy, with the roles they are to have."""
        names = {server.name for server in self.running()}
        leaders = set()
        for server in self.running():
            view = server.until(lambda view: is_settled(view, names, self.voters), "settled cluster", seconds)
            leaders.add(view["leader"])
        if len(leaders) > 1:
            return self.settled(seconds)
        return view

    def same_index(self, seconds=READY_SECONDS):
        """Until all running nodes have applied the same; nobody writes meanwhile.  The index."""
        end = time.monotonic() + seconds
        while True:
            indexes = {server.name: server.view()[1] for server in self.running()}
            furthest = max(indexes.values())
            if set(indexes.values()) == {furthest}:
                return furthest
            if time.monotonic() > end:
                raise TimeoutError(f"the nodes did not come together: {indexes}")
            slowest = self.find(min(indexes, key=indexes.get))
            slowest.view(indexes[slowest.name], 1000)

    # ---- Its end ----

    def close(self, failed=False):
        for server in self.servers:
            if server.is_running():
                if server.is_paused:
                    server.resume()
                server.process.kill()
            if server.process is not None:
                server._over()
        if self.network:
            self.network.close()
        if failed or self.failed:
            print(f"logs and data are kept: {self.root}", file=sys.stderr, flush=True)
        else:
            shutil.rmtree(self.root, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.close(failed=kind is not None and not issubclass(kind, unittest.SkipTest))


def is_settled(view, names, voters):
    """One leader, so many voters, all of `names` there, healthy and in the role they are to have."""
    seen = {node["name"]: node for node in view.get("nodes", ())}
    return (view.get("leader") in names and names <= seen.keys() and voters in (None, view["servers"]) and
            all(seen[name]["health"] == "healthy" and seen[name]["role"] == seen[name].get("wanted_role", seen[name]["role"])
                for name in names))
