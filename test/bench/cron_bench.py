"""What 10,000 schedules cost: making them, having them, and a thousand that come at one moment.

tools/bench cron runs it, on a node of its own.  There is nothing beside it that a reader knows.
"""
import concurrent.futures
import datetime
import os
import pathlib
import re
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "test" / "lib"))
from node import Node  # noqa: E402

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident_mib(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())[1]) / 1024


def invocations(node):
    found = re.findall(r'^faas_invocations_total\{[^}]*\} (\d+)', node.get("/metrics"), re.M)
    return sum(map(int, found))


def make(node, name, schedule):
    node.call("POST", "/v1/triggers", {"name": name, "kind": "cron", "function": "work",
                                       "settings": {"schedule": schedule}})


def measure(quick, long):
    import subprocess
    import tempfile
    count, at_once, idle = (500, 50, 3) if quick else (10000, 1000, 20 if long else 10)
    with tempfile.TemporaryDirectory(prefix="blixard-bench-") as folder, Node() as node:
        source = pathlib.Path(folder) / "main.c"
        source.write_text('#include <stdio.h>\nint main(void) { puts("ok"); }\n')
        subprocess.run(["clang-14", "--target=wasm32-wasi", "-O1", "-o", source.with_suffix(".wasm"), source], check=True)
        node.deploy("work", source.with_suffix(".wasm"))
        before = resident_mib(node.process.pid)
        begin = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda n: make(node, f"s{n}", f"{n % 60} {n % 24} * * *"), range(count)))
        made = count / (time.monotonic() - begin)
        used = cpu_seconds(node.process.pid)
        threading.Event().wait(idle)
        cpu = (cpu_seconds(node.process.pid) - used) / idle * 100
        memory = resident_mib(node.process.pid) - before
        moment = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0) + datetime.timedelta(
            seconds=5 + at_once // 100)
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            text = moment.strftime("@at %Y-%m-%dT%H:%M:%SZ")
            list(pool.map(lambda n: make(node, f"a{n}", text), range(at_once)))
        wanted = invocations(node) + at_once
        while invocations(node) < wanted:
            if time.time() > moment.timestamp() + 120:
                raise SystemExit("the runs did not come")
            threading.Event().wait(0.02)
        burst = time.time() - moment.timestamp()
    print(f"\nSchedules, {count} of them on one node")
    print(f"{'made per second':<40}{made:>10.0f}")
    print(f"{'CPU while none is due, % of one':<40}{cpu:>10.2f}")
    print(f"{'memory, MiB':<40}{memory:>10.1f}")
    print(f"{f'{at_once} due at one moment: all done, s':<40}{burst:>10.2f}")
    return {"schedules": count, "made_per_second": round(made), "idle_cpu_percent": round(cpu, 2),
            "memory_mib": round(memory, 1), "at_once": at_once, "at_once_seconds": round(burst, 2)}
