#!/usr/bin/env python3
"""How many asynchronous invocations one node accepts durably in a second, and how soon they start.

    test/bench/invocation_bench.py [SECONDS] [CONNECTIONS]

A node of its own (process or microVM, as the machine has it); an empty function; 100 bytes of body.  Start: from the
request to the answer of its 202 is `accept`; from the 202's row to the end of the attempt, as the state has it, is `done`.
"""
import http.client
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "test/lib"))
from node import Node  # noqa: E402


def main():
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 5
    connections = int(sys.argv[2]) if len(sys.argv) > 2 else 32
    with tempfile.TemporaryDirectory() as folder, Node() as node:
        source, module = pathlib.Path(folder) / "n.c", pathlib.Path(folder) / "n.wasm"
        source.write_text("int main(void) { return 0; }\n")
        subprocess.run(["clang-14", "--target=wasm32-wasi", "-O2", "-o", module, source], check=True)
        node.deploy("nothing", module)
        host, port = node.gateway.rsplit(":", 1)
        ids, times, lock = [], [], threading.Lock()

        def load(end):
            connection = http.client.HTTPConnection(host, int(port))
            while time.monotonic() < end:
                begun = time.monotonic()
                connection.request("POST", "/fn/nothing", b"x" * 100, {"Prefer": "respond-async"})
                answer = connection.getresponse()
                document = json.loads(answer.read())
                if answer.status == 202:
                    with lock:
                        ids.append(document["id"])
                        times.append(time.monotonic() - begun)

        def run(count, seconds):
            ids.clear(), times.clear()
            threads = [threading.Thread(target=load, args=(time.monotonic() + seconds,)) for _ in range(count)]
            [thread.start() for thread in threads]
            [thread.join() for thread in threads]

        run(1, 2)
        done = []
        for name in ids[-200:]:
            document = node.json(f"/v1/invocations/{name}/wait?timeout=10s")
            moments = [time.strptime(document[key][:19], "%Y-%m-%dT%H:%M:%S") for key in ("created_at", "updated_at")]
            parts = [time.mktime(moment) * 1000 + int(document[key][20:23])
                     for moment, key in zip(moments, ("created_at", "updated_at"))]
            done.append(parts[1] - parts[0])
        print(f"one connection: {len(ids) / 2:.0f} accepted/s, accept p50 {statistics.median(times) * 1000:.2f} ms, "
              f"accept to end recorded p50 {statistics.median(done):.0f} ms")
        run(connections, seconds)
        print(f"{connections} connections: {len(ids) / seconds:.0f} accepted/s (durable), "
              f"accept p50 {statistics.median(times) * 1000:.1f} ms")


main()
