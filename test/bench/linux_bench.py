"""What a call of a Linux function takes: of a clone that waits, of one that is begun for the call, and until a function is live.

tools/bench linux runs it.  The machine is Debian's kernel with a root of busybox; the handler is a shell script, whose own processes
are part of each call.  Calls follow each other at once, so a fresh clone is never there beforehand: that is the worst case.
"""
import http.client
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from load import BUILD, Lacking, busy

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))

import machines  # noqa: E402
from node import Node  # noqa: E402

# One process per step of a shell script is what most of a call's time would be: as few as can be.
BOOTSTRAP = """#!/bin/sh
api=http://$AWS_LAMBDA_RUNTIME_API/2018-06-01/runtime
cr=$(printf '\\r')
while true; do
    wget -q -S -O /dev/null $api/invocation/next 2>/tmp/head
    while read -r name value; do
        case $name in Lambda-Runtime-Aws-Request-Id:) id=${value%"$cr"};; esac
    done </tmp/head
    wget -q -O /dev/null --post-data '{"statusCode":200,"body":"hello"}' $api/invocation/$id/response
done
"""


def call(address, path):
    """Milliseconds to the whole answer."""
    host, port = address.rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=120)
    begin = time.monotonic()
    connection.request("POST", path, b"{}")
    answer = connection.getresponse()
    body = answer.read()
    took = (time.monotonic() - begin) * 1000
    connection.close()
    if answer.status != 200:
        raise RuntimeError(f"{path}: {answer.status} {body[:200]!r}")
    return took


def measure(quick, long):
    reason = machines.why_not()
    if reason:
        raise Lacking(reason)
    rounds = 3 if quick else 40 if long else 15
    machines.TOOLS += [tool for tool in ("wget",) if tool not in machines.TOOLS]
    with tempfile.TemporaryDirectory(prefix="blixard-linux-bench-") as folder:
        place = pathlib.Path(folder)
        (place / "root.tar.gz").write_bytes(machines.root_archive())
        app = place / "app"
        app.mkdir()
        (app / "bootstrap").write_text(BOOTSTRAP)
        (app / "bootstrap").chmod(0o755)
        (app / "blixard.yaml").write_text("runtime: linux\nimage: small\nhandler: main\nmemory: 96MiB\ntimeout: 60s\n")
        (place / "data").mkdir()
        node = Node(folder=place / "data")
        try:
            def cli(*words):
                subprocess.run([BUILD / "blixard", *map(str, words)], env=node.env, check=True, stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, timeout=400)

            cli("image", "import", "small", "--root", place / "root.tar.gz", *machines.kernel_flags())
            begin = time.monotonic()
            cli("fn", "deploy", "fresh", app)
            deploy_ms = (time.monotonic() - begin) * 1000
            cli("fn", "deploy", "kept", app, "--reuse", "instance")
            cold = [call(node.gateway, "/fn/fresh") for _ in range(rounds)]
            call(node.gateway, "/fn/kept")
            warm = [call(node.gateway, "/fn/kept") for _ in range(rounds)]
            node.process.kill()
            node.process.wait()
            node = Node(folder=place / "data")
            restart_ms = call(node.gateway, "/fn/fresh")
        finally:
            node.stop()
            with machines.machines_of(place / "data"):
                pass  # a clone that was being begun
    figures = {"deploy_ms": deploy_ms, "cold_ms": statistics.median(cold), "cold_best_ms": min(cold), "cold_worst_ms": max(cold),
               "warm_ms": statistics.median(warm), "warm_best_ms": min(warm), "warm_worst_ms": max(warm),
               "after_restart_ms": restart_ms, "rounds": rounds}
    print(f"  load average {busy()}")
    print(f"  deploy until it is live    {deploy_ms:9.0f} ms   a boot, and the template")
    print(f"  call with a fresh clone    {figures['cold_ms']:9.0f} ms   best {min(cold):.0f} ms, worst {max(cold):.0f} ms")
    print(f"  call with the same clone   {figures['warm_ms']:9.0f} ms   best {min(warm):.0f} ms, worst {max(warm):.0f} ms")
    print(f"  first after a restart      {restart_ms:9.0f} ms   the template is found on disk")
    return figures


if __name__ == "__main__":
    print(json.dumps(measure("--quick" in sys.argv, "--long" in sys.argv)))
