"""What a cluster does per second, how long it is without a leader, how soon a node is back, what many nodes cost.

tools/bench cluster runs all of it.  Every daemon is a process of this machine, on loopback; where etcd is
installed it does the same in the same run, through its own HTTP/JSON API, as ours is HTTP/JSON.
"""
import base64
import concurrent.futures
import contextlib
import hashlib
import http.client
import io
import json
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "test" / "lib"))

from cluster import BUILD, Cluster  # noqa: E402
from ports import free_ports  # noqa: E402
from node import Refused  # noqa: E402

OUTSTANDING = (1, 16, 64)
ARGUMENTS = ["--isolation", "process", "--log-level", "warn"]
UNIT = {"us": 1, "ms": 1000, "s": 1000000}

# A write each: a row, or a key, that was not there before.
OURS = 'return wrk.format("POST", "/v1/clients", {{}}, string.format(\'{{"name":"w{run}-%d","kind":"token"}}\', n))'
ETCDS = 'return wrk.format("POST", "/v3/kv/put", {{}}, string.format(\'{{"key":"{run:04d}%08d","value":"{value}"}}\', n))'
VALUE = base64.b64encode(bytes(198)).decode()


def percentile(values, part):
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


def wrk(address, line, outstanding, seconds, run):
    """Writes per second, and how long each took, at one node."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write("local n = 0\nfunction request()\n  n = n + 1\n  " + line.format(run=run, value=VALUE) + "\nend\n")
        script.flush()
        said = subprocess.run(["wrk", "-t1", f"-c{outstanding}", f"-d{seconds}s", "--latency", "-s", script.name, f"http://{address}/"],
                              check=True, text=True, stdout=subprocess.PIPE).stdout
    latency = {p: float(v) * UNIT[u] for p, v, u in re.findall(r"(50|99)%\s+([\d.]+)(us|ms|s)", said)}
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    return {"outstanding": outstanding, "writes_per_second": float(re.search(r"Requests/sec:\s+([\d.]+)", said).group(1)),
            "p50_us": latency["50"], "p99_us": latency["99"], "refused": int(refused.group(1)) if refused else 0}


class Etcd:
    """One member or three, with its defaults or with our times."""

    def __init__(self, count, folder, arguments=()):
        program = shutil.which("etcd", path=f"{os.environ['PATH']}:/usr/bin")
        self.members = []
        self.dead = {}
        ports = free_ports(2 * count)
        self.clients = [f"127.0.0.1:{port}" for port in ports[:count]]
        peers = [f"http://127.0.0.1:{port}" for port in ports[count:]]
        everybody = ",".join(f"m{n}={url}" for n, url in enumerate(peers))
        for n in range(count):
            self.members.append([program, "--name", f"m{n}", "--data-dir", f"{folder}/etcd-{n}", "--listen-client-urls", f"http://{self.clients[n]}",
                                 "--advertise-client-urls", f"http://{self.clients[n]}", "--listen-peer-urls", peers[n],
                                 "--initial-advertise-peer-urls", peers[n], "--initial-cluster", everybody, "--log-level", "error", *arguments])
        self.processes = [self._start(n) for n in range(count)]
        for n in range(count):
            self.until(n)

    def _start(self, n):
        return subprocess.Popen(self.members[n], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def call(self, n, path, body, timeout=60):
        host, port = self.clients[n].split(":")
        with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=timeout)) as connection:
            connection.request("POST", path, json.dumps(body))
            answer = connection.getresponse()
            data = json.loads(answer.read())
            if answer.status != 200:
                raise OSError(str(data))
            return data

    def write(self, n, timeout=60):
        self.call(n, "/v3/kv/put", {"key": "YQ==", "value": VALUE}, timeout)

    def until(self, n):
        """Until a write is accepted there."""
        while True:
            try:
                return self.write(n, 5)
            except (OSError, ValueError, http.client.HTTPException):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.processes[n].wait(timeout=0.005)

    def leader(self):
        for n in range(len(self.members)):
            status = self.call(n, "/v3/maintenance/status", {})
            if status["leader"] == status["header"]["member_id"]:
                return n
        return 0

    def kill(self, n):
        self.processes[n].kill()
        self.processes[n].wait()

    def again(self, n):
        self.processes[n] = self._start(n)
        self.until(n)

    def close(self):
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            process.wait()


@contextlib.contextmanager
def etcd(count, arguments=()):
    with tempfile.TemporaryDirectory(prefix="blixard-bench-") as folder:
        members = Etcd(count, folder, arguments)
        try:
            yield members
        finally:
            members.close()


def has_etcd():
    return shutil.which("etcd") is not None


@contextlib.contextmanager
def ours(count, **options):
    with Cluster(count, "bench", ARGUMENTS, here=True) as cluster:
        cluster.form(**options)
        yield cluster


# ---- Writes ----

def through_the_store(seconds, json_file):
    print("\nWrites through the store's door, 200 bytes each, on disk with fsync; several nodes: a process each, mutual TLS", flush=True)
    subprocess.run([BUILD / "test" / "bench" / "store-bench", "--json", json_file, "--seconds", str(seconds)], check=True)
    return json.loads(json_file.read_text())


def through_the_api(seconds):
    rows = []
    print("\nWrites through the HTTP API of the leader: a new row each (etcd: a new key of 200 bytes)")
    print(f"{'':<10}{'nodes':>6}{'outstanding':>13}{'writes/s':>11}{'p50 us':>10}{'p99 us':>10}{'refused':>9}{'to etcd':>9}", flush=True)
    for count in (1, 3):
        theirs = {}
        if has_etcd():
            with etcd(count) as members:
                address = members.clients[members.leader()]
                for run, outstanding in enumerate(OUTSTANDING):
                    theirs[outstanding] = {"server": "etcd", "nodes": count, **wrk(address, ETCDS, outstanding, seconds, run)}
        with ours(count) as cluster:
            leader = cluster.leader()
            for run, outstanding in enumerate(OUTSTANDING):
                row = {"server": "Blixard", "nodes": count, **wrk(leader.api_address, OURS, outstanding, seconds, run)}
                if outstanding in theirs:
                    row["ratio_to_etcd"] = round(row["writes_per_second"] / theirs[outstanding]["writes_per_second"], 2)
                rows += [row, *([theirs[outstanding]] if outstanding in theirs else [])]
    for row in rows:
        print(f"{row['server']:<10}{row['nodes']:>6}{row['outstanding']:>13}{row['writes_per_second']:>11.0f}{row['p50_us']:>10.0f}"
              f"{row['p99_us']:>10.0f}{row['refused']:>9}{row.get('ratio_to_etcd', ''):>9}")
    return rows


# ---- Without a leader ----

PATIENCE_SECONDS = 0.1
LOOKED_AT = 3


def first_write(write):
    """How long until a write is accepted, from now, in milliseconds; one that is not within PATIENCE_SECONDS is tried again."""
    began = time.monotonic()
    while True:
        try:
            write()
            return (time.monotonic() - began) * 1000
        except (OSError, Refused, http.client.HTTPException):
            if time.monotonic() - began > 60:
                raise


def our_failovers(rounds):
    times = []
    with ours(3) as cluster:
        for number in range(rounds):
            leader = cluster.leader()
            survivor = next(server for server in cluster.servers if server is not leader)
            with contextlib.closing(survivor.api(PATIENCE_SECONDS)) as api:
                leader.kill()
                tries = iter(range(1 << 30))
                times.append(first_write(lambda: api.call("POST", "/v1/clients", {"name": f"f{number}-{next(tries)}", "kind": "token"})))
            leader.start().wait_ready()
            cluster.settled()
    return times


def their_failovers(rounds, arguments):
    times = []
    with etcd(3, arguments) as members:
        for _ in range(rounds):
            leader = members.leader()
            survivor = (leader + 1) % 3
            members.kill(leader)
            times.append(first_write(lambda: members.write(survivor, PATIENCE_SECONDS)))
            members.again(leader)
    return times


def failover(rounds):
    print(f"\nThe leader of three is killed: until the next write is accepted at another node, {rounds} times")
    figures = {"Blixard": our_failovers(rounds)}
    if has_etcd():
        figures["etcd, its defaults"] = their_failovers(rounds, ())
        figures["etcd, 50/500 ms"] = their_failovers(rounds, ("--heartbeat-interval", "50", "--election-timeout", "500"))
    print(f"{'':<20}{'p50 ms':>10}{'least':>10}{'most':>10}")
    rows = {}
    for who, times in figures.items():
        rows[who] = {"p50_ms": statistics.median(times), "least_ms": min(times), "most_ms": max(times), "runs_ms": [round(t) for t in times]}
        print(f"{who:<20}{rows[who]['p50_ms']:>10.0f}{rows[who]['least_ms']:>10.0f}{rows[who]['most_ms']:>10.0f}", flush=True)
    return rows


# ---- A large state ----

def grown(backup, megabytes):
    """The backup with a state of that size: rows of finished operations."""
    with tarfile.open(fileobj=io.BytesIO(backup)) as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar}
    files.pop("SHA256SUMS")
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "state.sqlite")
        path.write_bytes(files["state.sqlite"])
        database = sqlite3.connect(path)
        text = "x" * 4000
        database.executemany("INSERT INTO operation (key, kind, project, resource, state, progress, result, created_ms, updated_ms) "
                             "VALUES (?, 'bench', 'default', '', 'succeeded', 100, ?, 0, 0)",
                             ((f"bench-{n}", text) for n in range(megabytes * 250)))
        database.commit()
        database.close()
        files["state.sqlite"] = path.read_bytes()
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items())
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in {**files, "SHA256SUMS": sums.encode()}.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def seconds_of(work):
    began = time.monotonic()
    work()
    return round(time.monotonic() - began, 2)


def pss_bytes(pid):
    return int(re.search(r"^Pss:\s+(\d+)", pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M).group(1)) * 1024


def large_state(megabytes):
    """Restored at one node, joined by two, one of them and all of them begun again."""
    figures = {"megabytes": megabytes}
    with Cluster(3, "bench", ARGUMENTS, here=True) as cluster:
        first, second, third = cluster.servers
        first.start().wait_ready()
        status, backup, _ = first.ask("GET", "/v1/cluster/backup")
        assert status == 200, backup
        first.stop()
        shutil.rmtree(first.folder)
        saved = cluster.root / "large.tar"
        saved.write_bytes(grown(backup, megabytes))
        figures["restore_s"] = seconds_of(lambda: subprocess.run([BUILD / "blixard", "cluster", "restore", saved, "--data-folder", first.folder],
                                                                 check=True, stdout=subprocess.DEVNULL))
        figures["start_alone_s"] = seconds_of(lambda: first.start().wait_ready())
        first.call("POST", "/v1/cluster", {"name": "bench", "servers": 3})
        figures["join_and_catch_up_s"] = seconds_of(lambda: cluster.join(second))
        cluster.join(third)
        cluster.settled()
        follower = next(server for server in cluster.servers if server is not cluster.leader())
        follower.kill()
        for n in range(100):
            cluster.leader().call("POST", "/v1/clients", {"name": f"behind-{n}", "kind": "token"})
        figures["follower_back_s"] = seconds_of(lambda: (follower.start().wait_ready(), cluster.same_index()))
        for server in cluster.servers:
            server.process.kill()
        for server in cluster.servers:
            server.kill()

        def all_again():
            for server in cluster.servers:
                server.start()
            for server in cluster.servers:
                server.wait_ready()
        figures["all_back_s"] = seconds_of(all_again)
        figures["pss_bytes"] = max(pss_bytes(server.process.pid) for server in cluster.servers)
    print(f"\nA state of {megabytes} MB, three nodes")
    for name, text in (("restore_s", "restored from a backup, s"), ("start_alone_s", "started alone, s"),
                       ("join_and_catch_up_s", "another joins until it serves, s"),
                       ("follower_back_s", "a killed follower is back and has caught up, s"),
                       ("all_back_s", "all killed, all serve again, s")):
        print(f"{text:<52}{figures[name]:>8.2f}")
    print(f"{'memory of a node (most of the three), MB':<52}{figures['pss_bytes'] / 1e6:>8.0f}", flush=True)
    return figures


# ---- Many workers ----

def many_workers(workers, seconds):
    """One leader and its followers, all here; how long after its acknowledgement a write is visible at each."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    with Cluster(1, "bench", ARGUMENTS, here=True) as cluster:
        leader = cluster[0]
        leader.start().wait_ready()
        leader.call("POST", "/v1/cluster", {"name": "bench", "servers": 1})
        began = time.monotonic()
        for _ in range(workers):
            cluster.join(cluster.add(), role="worker")
        joined_s = time.monotonic() - began
        cluster.same_index()
        memory = [pss_bytes(server.process.pid) for server in cluster.servers[1:]]
        over, lags = threading.Event(), []

        def write_on():
            with contextlib.closing(leader.api()) as api:
                count = 0
                while not over.is_set():
                    count += 1
                    api.call("POST", "/v1/clients", {"name": f"load-{count}", "kind": "token"})
                return count

        def seen(server, index, acknowledged):
            status, data, _ = server.ask("GET", f"/v1/nodes?index={index - 1}&wait=30s")
            assert status == 200, data
            return (time.monotonic() - acknowledged) * 1000

        # A few at a time, or what is measured is this program.
        with concurrent.futures.ThreadPoolExecutor(LOOKED_AT + 1) as pool:
            load = pool.submit(write_on)
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                looked_at = random.sample(cluster.servers[1:], min(LOOKED_AT, workers))
                _, _, fields = leader.ask("PUT", "/v1/nodes/n1/labels/marker", {"value": str(time.monotonic_ns())})
                index, acknowledged = int(fields["x-blixard-index"]), time.monotonic()
                lags += pool.map(lambda server: seen(server, index, acknowledged), looked_at)
            over.set()
            written = load.result()
        behind = cluster.same_index()
    figures = {"workers": workers, "joined_s": joined_s, "pss_bytes_median": statistics.median(memory), "pss_bytes_most": max(memory),
               "writes_per_second": written / seconds, "lag_ms_p50": statistics.median(lags), "lag_ms_p99": percentile(lags, 0.99), "index": behind}
    print(f"\n{workers} workers follow one server on this machine, {figures['writes_per_second']:.0f} writes/s")
    print(f"{'memory per worker, MB, median and most':<52}{figures['pss_bytes_median'] / 1e6:>8.1f}{figures['pss_bytes_most'] / 1e6:>8.1f}")
    print(f"{'acknowledged until visible at a worker, ms, p50, p99':<52}{figures['lag_ms_p50']:>8.1f}{figures['lag_ms_p99']:>8.1f}", flush=True)
    return figures


def measure(quick, long):
    seconds = 1 if quick else 4 if long else 2
    figures = {"store": through_the_store(seconds, BUILD / "bench-store.json")}
    if shutil.which("wrk"):
        figures["api"] = through_the_api(seconds)
    figures["failover"] = failover(2 if quick else 11 if long else 5)
    figures["large_state"] = large_state(5 if quick else 100)
    figures["workers"] = many_workers(3 if quick else 50, seconds)
    return figures
