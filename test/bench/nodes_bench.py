"""Five daemons in network namespaces with functions and machines: a node dies, comes back, is drained, joins.

tools/bench nodes runs all of it.  The machines are QEMU's with a boot sector that halts, so that twenty of them
fit on what the benchmark runs on; the times are those of the cluster, not of a guest's boot.  While each thing
happens every other node is asked for the functions in turn, by a caller in its own namespace.
"""
import contextlib
import http.client
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "test" / "lib"))

from cluster import Cluster  # noqa: E402
from load import Lacking, busy, percentile  # noqa: E402
from machines import BLANK, machines_of  # noqa: E402

NODES = 5
PATIENCE_SECONDS = 240
CALL_SECONDS = 5
PROJECT_SIZES = {True: (20, 5), False: (200, 20)}  # functions, machines


def module(folder):
    """A function that says hello."""
    source = pathlib.Path(folder, "hello.c")
    source.write_text('#include <stdio.h>\nint main(void) { puts("hello"); return 0; }\n')
    subprocess.run(["clang-14", "--target=wasm32-wasi", "-O1", "-o", source.with_suffix(".wasm"), source], check=True)
    return source.with_suffix(".wasm").read_bytes()


class Caller(threading.Thread):
    """Calls one function after the other through one node, until it is told to stop."""

    def __init__(self, server, functions):
        super().__init__(daemon=True)
        self.server = server
        self.functions = functions
        self.over = threading.Event()
        self.took = []      # seconds, of those that were answered
        self.failed = []    # what was answered instead
        self.longest = 0.0  # seconds from one good answer to the next
        self.start()

    def run(self):
        last = time.monotonic()
        while not self.over.is_set():
            for name in self.functions:
                begun = time.monotonic()
                try:
                    status, _ = self.server.invoke(name, timeout=CALL_SECONDS)
                except (OSError, http.client.HTTPException) as why:
                    status = type(why).__name__
                now = time.monotonic()
                if status == 200:
                    self.took.append(now - begun)
                    self.longest = max(self.longest, now - last)
                    last = now
                else:
                    self.failed.append(status)
                if self.over.wait(0.01):
                    return


@contextlib.contextmanager
def called(servers, functions, figures):
    """What callers saw meanwhile goes into `figures`."""
    callers = [Caller(server, functions) for server in servers]
    try:
        yield
    finally:
        for caller in callers:
            caller.over.set()
        for caller in callers:
            caller.join()
        took = [seconds for caller in callers for seconds in caller.took]
        figures["calls"] = {
            "answered": len(took), "failed": sum(len(caller.failed) for caller in callers),
            "p50_ms": round(percentile(took, 0.5) * 1000, 1) if took else None,
            "p99_ms": round(percentile(took, 0.99) * 1000, 1) if took else None,
            "longest_pause_ms": round(max(caller.longest for caller in callers) * 1000),
        }


class World:
    def __init__(self, cluster, functions):
        self.cluster = cluster
        self.functions = functions

    def machines(self, server):
        return {machine["name"]: machine for machine in server.get("/v1/machines")["machines"]}

    def until(self, server, holds, what):
        """Until it holds; woken by changes of the state, and some times a second.  When that was."""
        end = time.monotonic() + PATIENCE_SECONDS
        index = None
        while not holds():
            if time.monotonic() > end:
                raise TimeoutError(f"{what}: not within {PATIENCE_SECONDS} s")
            _, index = server.view(index, 100)
        return time.monotonic()

    def has_functions(self, seen_by, server):
        """Does `server` hold all of them, as `seen_by` has it?"""
        return all(any(node["name"] == server.name for node in seen_by.get(f"/v1/functions/{name}/versions/1")["nodes"])
                   for name in self.functions)


def deploy(world, code, machine_count):
    first = world.cluster[0]
    begun = time.monotonic()
    for name in world.functions:
        first.deploy(name, code)
    deployed = time.monotonic()
    ready = [world.until(first, lambda: world.has_functions(first, server), f"functions at {server.name}") for server in world.cluster.servers]
    figures = {"functions": len(world.functions), "deployed_s": round(deployed - begun, 1), "everywhere_s": round(max(ready) - deployed, 1)}
    begun = time.monotonic()
    for number in range(machine_count):
        first.cli("vm", "create", f"m{number}", "--image", "blank", "--memory", "64MiB", "--disk", "16MiB", "--node-loss", "restart-fresh")
    end = world.until(first, lambda: all(machine["state"] == "running" for machine in world.machines(first).values()), "machines run")
    spread = {}
    for machine in world.machines(first).values():
        spread[machine["node"]] = spread.get(machine["node"], 0) + 1
    figures |= {"machines": machine_count, "machines_run_s": round(end - begun, 1), "machines_per_node": spread}
    return figures


def kill(world):
    """The daemon that leads, with SIGKILL; its machines start elsewhere once none of them can run there."""
    cluster = world.cluster
    lost = cluster.leader()
    seen = next(server for server in cluster.servers if server is not lost)
    others = [server for server in cluster.servers if server is not lost]
    had = [name for name, machine in world.machines(seen).items() if machine["node"] == lost.name]
    figures = {"killed": "the leader", "machines": len(had)}
    with called(others, world.functions, figures):
        begun = time.monotonic()
        lost.kill()
        led = world.until(seen, lambda: seen.view()[0].get("leader") not in (None, "", lost.name), "a leader")
        judged = world.until(seen, lambda: any(node["name"] == lost.name and node["health"] == "lost" for node in seen.view()[0]["nodes"]), "lost")
        back = {}

        def all_run():
            for name, machine in world.machines(seen).items():
                if name in had and name not in back and machine["node"] != lost.name and machine["state"] == "running":
                    back[name] = time.monotonic() - begun
            return len(back) == len(had)

        world.until(seen, all_run, "machines elsewhere")
    figures |= {"leader_s": round(led - begun, 1), "lost_s": round(judged - begun, 1)}
    if back:
        figures |= {"first_machine_s": round(min(back.values()), 1), "last_machine_s": round(max(back.values()), 1)}
    begun = time.monotonic()
    lost.start().wait_ready()
    ready = time.monotonic()
    cluster.settled()
    figures |= {"begins_again_s": round(ready - begun, 1), "settled_again_s": round(time.monotonic() - begun, 1)}
    return figures


def drain(world):
    cluster = world.cluster
    seen = cluster[0]
    counts = {server.name: 0 for server in cluster.servers[1:]}
    for machine in world.machines(seen).values():
        if machine["node"] in counts:
            counts[machine["node"]] += 1
    name = max(counts, key=counts.get)
    figures = {"machines": counts[name]}
    with called([server for server in cluster.servers if server.name != name], world.functions, figures):
        begun = time.monotonic()
        seen.cli("node", "drain", name)
        figures["drained_s"] = round(time.monotonic() - begun, 1)
    left = [machine for machine in world.machines(seen).values() if machine["node"] == name]
    figures["machines_left"] = len(left)
    begun = time.monotonic()
    seen.cli("node", "restore", name)
    figures["restored_s"] = round(time.monotonic() - begun, 1)
    return figures


def add(world):
    cluster = world.cluster
    seen = cluster[0]
    figures = {}
    with called(list(cluster.servers), world.functions, figures):
        new = cluster.add()
        begun = time.monotonic()
        cluster.join(new)
        ready = time.monotonic()
        healthy = world.until(seen, lambda: any(node["name"] == new.name and node["health"] == "healthy" for node in seen.view()[0]["nodes"]), "healthy")
        first = world.until(new, lambda: new.invoke(world.functions[0])[0] == 200, "a call")
        all_there = world.until(seen, lambda: world.has_functions(seen, new), "its functions")
        seen.cli("vm", "create", "newcomer", "--no-wait", "--image", "blank", "--memory", "64MiB", "--disk", "16MiB", "--node", new.name)
        placed = world.until(seen, lambda: world.machines(seen)["newcomer"]["state"] == "running", "a machine")
        moving = time.monotonic()
        seen.cli("cluster", "rebalance", "--threshold", "1", "--batch", "8")
        moved = time.monotonic()
    spread = [sum(machine["node"] == server.name for machine in world.machines(seen).values()) for server in cluster.servers]
    figures |= {"ready_s": round(ready - begun, 1), "healthy_s": round(healthy - begun, 1), "answers_s": round(first - begun, 1),
                "has_all_functions_s": round(all_there - begun, 1), "machine_runs_s": round(placed - all_there, 1),
                "rebalanced_s": round(moved - moving, 1), "machines_per_node": {"from": min(spread), "to": max(spread)}}
    return figures


def show(title, figures):
    print(f"\n{title}")
    for name, value in figures.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {of}" for key, of in value.items())
        print(f"  {name.replace('_', ' '):24} {value}", flush=True)


def measure(quick, long):
    """`long` is for busy machines alone: there is nothing to repeat."""
    for program in ("qemu-system-x86_64", "clang-14"):
        if not shutil.which(program):
            raise Lacking(f"{program} is not installed: tools/bootstrap test")
    function_count, machine_count = PROJECT_SIZES[quick]
    figures = {"load_average": busy()}
    try:
        cluster = Cluster(NODES, "nodes", arguments=["--log-level", "warn"])
    except unittest.SkipTest as why:
        raise Lacking(str(why)) from None
    with tempfile.TemporaryDirectory() as folder, cluster:
        begun = time.monotonic()
        cluster.form()
        figures["formed_s"] = round(time.monotonic() - begun, 1)
        folders = [server.base / "data" for server in cluster.servers] + [cluster.root / f"n{NODES + 1}" / "data"]
        with machines_of(*folders):
            disk = pathlib.Path(folder, "blank.raw")
            disk.write_bytes(BLANK)
            cluster[0].cli("image", "import", "blank", "--disk", disk, "--no-agent")
            world = World(cluster, [f"f{number}" for number in range(function_count)])
            for name, part in (("deploy", lambda: deploy(world, module(folder), machine_count)), ("kill", lambda: kill(world)),
                               ("drain", lambda: drain(world)), ("add", lambda: add(world))):
                figures[name] = part()
                show({"deploy": f"{NODES} nodes, load average {figures['load_average']}", "kill": "a node dies", "drain": "a node is drained",
                      "add": "a node joins"}[name], figures[name])
    return figures
