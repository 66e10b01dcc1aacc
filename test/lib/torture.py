"""Load on a cluster that is written down, and faults that befall it: what torture_test.py is made of.

    load = Load(cluster, seed)           # registers (labels of nodes), keys that are swapped and creates (clients), by several threads
    load.start()
    faults = Faults(cluster, seed, load)
    for _ in range(30):
        faults.cycle()                   # something breaks, is broken for a while, is mended
    load.stop()

Each operation of a register is written down with when it began and ended, what was written or read, and
whether its outcome is known; linearizability.py judges that.
"""
import contextlib
import http.client
import io
import json
import random
import signal
import sqlite3
import tarfile
import tempfile
import threading
import time

from node import Refused

# Errors after which the change has certainly not come to be; any other failure of a write leaves that open.
NOT_DONE = {"not_leader", "overloaded", "conflict", "limit", "unavailable", "unauthenticated", "denied", "invalid", "not_found"}
LABELS = 6
KEYS = 3
UNANSWERED_SECONDS = 6


class Operation:
    """One call of one process (a process is a thread between two unknown outcomes)."""
    __slots__ = ("process", "register", "kind", "value", "expected", "began", "ended", "server")

    def __init__(self, process, register, kind, value, server):
        self.process = process
        self.register = register
        self.kind = kind      # "write", "read", "swap", "refused"
        self.value = value    # written, or read
        self.expected = None  # of a swap
        self.server = server
        self.began = time.monotonic_ns()
        self.ended = None     # None: never answered, or with an unknown outcome


def code_of(answer):
    """Of a refusal; otherwise None."""
    return (answer.problem or {}).get("code", str(answer.status)) if isinstance(answer, Refused) else None


class Load:
    def __init__(self, cluster, seed, writers=4, swappers=2, creators=2):
        self.cluster = cluster
        self.seed = seed
        self.nodes = [server.name for server in cluster.servers]
        self.history = []
        self.clients = {}       # name: "acknowledged" or "unknown"
        self.refused = {}
        self.acknowledged = 0
        self.changed = threading.Condition()
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self._guard, args=(self._registers, n), daemon=True) for n in range(writers)]
        self.threads += [threading.Thread(target=self._guard, args=(self._swaps, n), daemon=True) for n in range(swappers)]
        self.threads += [threading.Thread(target=self._guard, args=(self._creates, n), daemon=True) for n in range(creators)]
        self.broken = []

    def start(self):
        for thread in self.threads:
            thread.start()

    def stop(self):
        self.over.set()
        for thread in self.threads:
            thread.join()
        if self.broken:
            raise self.broken[0]

    def wait_for(self, more, seconds):
        """Until so many more writes were acknowledged; whether they were."""
        with self.changed:
            target = self.acknowledged + more
            return self.changed.wait_for(lambda: self.acknowledged >= target or self.broken, seconds)

    def _guard(self, work, number):
        try:
            work(number, random.Random(f"{self.seed}/{work.__name__}/{number}"))
        except BaseException as error:
            self.broken.append(error)
            with self.changed:
                self.changed.notify_all()

    def _acknowledge(self):
        with self.changed:
            self.acknowledged += 1
            self.changed.notify_all()

    def _server(self, chance, api):
        """A connection to any daemon, kept for a while: (server, Api) or None after a pause."""
        if api[0] is None or not api[0].is_running() or chance.random() < 0.05:
            if api[1]:
                api[1].close()
            api[0] = chance.choice(self.cluster.servers)
            api[1] = api[0].api(UNANSWERED_SECONDS)
        return api

    def _call(self, chance, api, method, path, body=None, fields=None):
        """(what is known: "done", "not done" or "unknown"; the answer)."""
        self._server(chance, api)
        try:
            return "done", api[1].call(method, path, body, fields)
        except Refused as refused:
            code = code_of(refused)
            self.refused[code] = self.refused.get(code, 0) + 1
            self.over.wait(0.01)
            return ("not done" if code in NOT_DONE else "unknown"), refused
        except (ConnectionRefusedError, FileNotFoundError) as error:
            api[0] = None
            self.over.wait(0.02)
            return "not done", error
        except (OSError, http.client.HTTPException) as error:
            api[0] = None
            self.over.wait(0.02)
            return "unknown", error

    def _registers(self, number, chance):
        api = [None, None]
        process, count = number, 0
        while not self.over.is_set():
            node, label = chance.choice(self.nodes), f"r{chance.randrange(LABELS)}"
            self._server(chance, api)
            if chance.random() < 0.6:
                count += 1
                operation = Operation(process, f"{node}/{label}", "write", f"{number}.{count}", api[0].name)
                known, _ = self._call(chance, api, "PUT", f"/v1/nodes/{node}/labels/{label}", {"value": operation.value})
                if known == "not done":
                    continue
                if known == "done":
                    operation.ended = time.monotonic_ns()
                    self._acknowledge()
            else:
                operation = Operation(process, f"{node}/{label}", "read", None, api[0].name)
                known, answer = self._call(chance, api, "GET", f"/v1/nodes/{node}?consistency=linearizable")
                if known != "done":
                    continue
                operation.value = answer["labels"].get(label)
                operation.ended = time.monotonic_ns()
            self.history.append(operation)
            if operation.ended is None:
                process += 1000  # its call may still come to be: it is another process that goes on

    def _swaps(self, number, chance):
        """Keys that are written if they are as they were seen last; that one is not says something, too."""
        api = [None, None]
        process, count = number, 0
        seen = {}  # key: (value, revision; 0: there is none)
        while not self.over.is_set():
            key = f"s{chance.randrange(KEYS)}"
            self._server(chance, api)
            operation = Operation(process, f"kv/{key}", "read", None, api[0].name)
            if key not in seen or chance.random() < 0.3:
                known, answer = self._call(chance, api, "GET", f"/v1/kv/{key}?format=json&consistency=linearizable")
                if code_of(answer) == "not_found":
                    seen[key] = None, 0
                elif known == "done":
                    seen[key] = answer["value"], answer["revision"]
                else:
                    continue
                operation.value = seen[key][0]
            else:
                count += 1
                operation.kind, operation.value = "swap", f"s{number}.{count}"
                operation.expected, revision = seen.pop(key)
                only_if = f"if_revision={revision}" if revision else "if_absent=true"
                known, answer = self._call(chance, api, "PUT", f"/v1/kv/{key}?{only_if}", operation.value)
                if known == "unknown":
                    self.history.append(operation)
                    process += 1000
                    continue
                if known == "done":
                    seen[key] = operation.value, answer["revision"]
                    self._acknowledge()
                elif code_of(answer) == "conflict":
                    operation.kind, operation.value = "refused", None
                else:
                    continue
            operation.ended = time.monotonic_ns()
            self.history.append(operation)

    def _creates(self, number, chance):
        """Clients with names of their own, asked for again until it is known that they are there."""
        api = [None, None]
        count = 0
        while not self.over.is_set():
            count += 1
            name = f"c{number}-{count}"
            tries = []
            while not self.over.is_set():
                began = time.monotonic()
                known, answer = self._call(chance, api, "POST", "/v1/clients", {"name": name, "kind": "token"})
                exists = code_of(answer) == "exists"
                tries.append(f"{time.monotonic() - began:.3f} s, {known}: {str(answer)[:300]}")
                if exists and self.clients.get(name) != "unknown":
                    raise AssertionError(f"client {name} is there, and nobody was told that it may be: {tries}")
                if known == "done" or exists:
                    self.clients[name] = "acknowledged"
                    self._acknowledge()
                    break
                if known == "unknown":
                    self.clients[name] = "unknown"


class Faults:
    """What breaks, chosen by the seed; each cycle mends it all."""

    def __init__(self, cluster, seed, load):
        self.cluster = cluster
        self.chance = random.Random(f"{seed}/faults")
        self.load = load
        self.told = []
        self.kinds = {"kill": self.kill, "kill the leader": self.kill_leader, "kill many": self.kill_many, "stop": self.stop,
                      "pause": self.pause, "pause the leader": self.pause_leader, "unplug": self.unplug,
                      "unplug the leader": self.unplug_leader, "cut": self.cut, "cut one way": self.cut_one_way,
                      "split": self.split, "transfer": self.transfer}

    def cycle(self):
        kind = self.chance.choice(list(self.kinds))
        began = time.monotonic()
        self.told.append(kind)
        with contextlib.ExitStack() as mending:
            self.kinds[kind](mending)
            self.load.wait_for(100, self.chance.uniform(0.2, 1.2))
        mended = time.monotonic()
        if not self.load.wait_for(10, 30):
            raise AssertionError(f"nothing is acknowledged any more, 30 s after \"{kind}\" was mended (cycle {len(self.told)})")
        self.told[-1] += f" {mended - began:.1f}s, writes again after {time.monotonic() - mended:.1f}s"

    def anyone(self):
        return self.chance.choice(self.cluster.servers)

    def leader(self):
        """Who leads in the eyes of whoever answers; anyone when nobody knows."""
        for server in self.chance.sample(self.cluster.servers, len(self.cluster.servers)):
            with contextlib.suppress(Refused, OSError, http.client.HTTPException):
                view = server.call("GET", "/v1/cluster", timeout=1)
                if view["leader"]:
                    return self.cluster.find(view["leader"])
        return self.anyone()

    def _killed(self, mending, servers):
        for server in servers:
            server.process.kill()
        for server in servers:
            server.kill()
            mending.callback(server.start)

    def kill(self, mending):
        self._killed(mending, [self.anyone()])

    def kill_leader(self, mending):
        self._killed(mending, [self.leader()])

    def kill_many(self, mending):
        """A majority, or all."""
        count = self.chance.randint(len(self.cluster.servers) // 2 + 1, len(self.cluster.servers))
        self._killed(mending, self.chance.sample(self.cluster.servers, count))

    def stop(self, mending):
        server = self.anyone()
        status = server.stop()
        mending.callback(server.start)
        if status not in (0, -signal.SIGTERM):  # the latter: it had only just begun
            raise AssertionError(f"{server.name} ended with {status} when it was asked to stop:\n{server.said()}")

    def _paused(self, mending, server):
        server.pause()
        mending.callback(server.resume)

    def pause(self, mending):
        self._paused(mending, self.anyone())

    def pause_leader(self, mending):
        self._paused(mending, self.leader())

    def _unplugged(self, mending, server):
        server.host.unplug()
        mending.callback(server.host.plug)

    def unplug(self, mending):
        self._unplugged(mending, self.anyone())

    def unplug_leader(self, mending):
        self._unplugged(mending, self.leader())

    def cut(self, mending):
        one, two = self.chance.sample(self.cluster.servers, 2)
        mending.callback(self.cluster.network.heal)
        one.host.cut(two.host)

    def cut_one_way(self, mending):
        one, two = self.chance.sample(self.cluster.servers, 2)
        mending.callback(self.cluster.network.heal)
        one.host.cut(two.host, there=False)

    def split(self, mending):
        """A minority on one side."""
        servers = self.chance.sample(self.cluster.servers, len(self.cluster.servers))
        minority = self.chance.randint(1, (len(servers) - 1) // 2)
        mending.callback(self.cluster.network.heal)
        for one in servers[:minority]:
            for other in servers[minority:]:
                one.host.cut(other.host)

    def transfer(self, mending):
        del mending
        with contextlib.suppress(Refused, OSError, http.client.HTTPException):
            self.anyone().call("PUT", "/v1/cluster/leader", {}, timeout=5)


def ended_badly(cluster):
    """Daemons that died of themselves."""
    return [server for server in cluster.servers if server.process is not None and server.process.poll() is not None]


# ---- What the nodes have in the end ----

STATES_TRIES = 50


def saved_of(server):
    """(index, database) of its backup."""
    status, data, _ = server.ask("GET", "/v1/cluster/backup")
    assert status == 200, data[:500]
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        manifest = json.loads(tar.extractfile("manifest.json").read())
        return manifest["index"], tar.extractfile("state.sqlite").read()


def state_of(server):
    """The database in its backup."""
    return saved_of(server)[1]


def states_of(cluster):
    """{name: database} of all running nodes at one index: what is built in the background may still be written."""
    for _ in range(STATES_TRIES):
        cluster.same_index()
        saved = {server.name: saved_of(server) for server in cluster.running()}
        if len({index for index, _ in saved.values()}) == 1:
            return {name: database for name, (_, database) in saved.items()}
    raise AssertionError(f"the nodes were at no time at one index: { {name: index for name, (index, _) in saved.items()} }")


def bytes_of(database):
    """But what SQLite counts for itself: how often the file was changed since it was opened, and who wrote it last."""
    return database[:24] + bytes(4) + database[28:92] + bytes(8) + database[100:]


def rows_of(database):
    """All that it says, as text: schema and rows."""
    with tempfile.NamedTemporaryFile(suffix=".sqlite") as file:
        file.write(database)
        file.flush()
        connection = sqlite3.connect(file.name)
        try:
            return "\n".join(connection.iterdump())
        finally:
            connection.close()


def keys_of(database, table):
    """The keys of one table."""
    with tempfile.NamedTemporaryFile(suffix=".sqlite") as file:
        file.write(database)
        file.flush()
        connection = sqlite3.connect(file.name)
        try:
            return [key for key, in connection.execute(f"SELECT key FROM {table}")]
        finally:
            connection.close()
