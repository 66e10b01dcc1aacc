"""How long a machine stands still when it moves to another node and back, each way, and what is sent in a second.

tools/bench migrate runs it: two nodes on this machine, so both VMMs and both daemons share its CPUs.  The guest is Debian's kernel with a
root of busybox; a loop in it writes files all the time.  `downtime` is what the operation says: from the moment that the guest stands
still to the answer of the node that it runs there.
"""
import json
import pathlib
import re
import statistics
import sys
import tempfile
import time

from load import Lacking

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))

import machines  # noqa: E402
from cluster import Cluster  # noqa: E402

WRITES = "i=0; while true; do i=$((i+1)); echo $i >> /root/ticks; done"


def move(cluster, way):
    """(how long it stood still, how long all took, in ms)"""
    near = cluster[0]
    here = json.loads(near.cli("vm", "show", "m", "--output", "json"))["node"]
    there = next(server.name for server in cluster.servers if server.name != here)
    begin = time.monotonic()
    said = near.cli("vm", "migrate", "m", "--to", there, way)
    took = (time.monotonic() - begin) * 1000
    found = re.search(r"stood still for (\d+) ms", said)
    return (int(found.group(1)) if found else took), took


def moves(cluster, way, rounds):
    pairs = [move(cluster, way) for _ in range(rounds)]
    still = sorted(pair[0] for pair in pairs)
    return {"downtime_ms": statistics.median(still), "downtime_best_ms": still[0], "downtime_worst_ms": still[-1],
            "total_ms": statistics.median(pair[1] for pair in pairs)}


def measure(quick, long):
    reason = machines.why_not()
    if reason:
        raise Lacking(reason)
    rounds = 1 if quick else 20 if long else 8
    cluster = Cluster(2, here=True)
    try:
        cluster.form(servers=1)
        near = cluster[0]
        with machines.machines_of(*(server.folder for server in cluster.servers)), tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder) / "root.tar.gz"
            root.write_bytes(machines.root_archive())
            near.cli("image", "import", "small", "--root", root, *machines.kernel_flags())
            near.cli("vm", "create", "m", "--image", "small", "--memory", "128MiB", "--disk", "64MiB", "--node", near.name)
            idle = moves(cluster, "--live", rounds)
            near.cli("vm", "exec", "m", "--", "sh", "-c", "(" + WRITES + ") > /dev/null 2>&1 &")
            figures = {"idle": idle, "writing": moves(cluster, "--live", rounds),
                       "snapshot": moves(cluster, "--snapshot", 1 if quick else 4), "cold": moves(cluster, "--cold", 1 if quick else 2),
                       "rounds": rounds}
            near.cli("vm", "delete", "m")
    finally:
        cluster.close()
    print(f"  {'':10} {'stands still':>14} {'best':>8} {'worst':>8} {'whole move':>12}   (ms, median of {rounds})")
    for name in ("idle", "writing", "snapshot", "cold"):
        row = figures[name]
        print(f"  {name:10} {row['downtime_ms']:14.0f} {row['downtime_best_ms']:8.0f} {row['downtime_worst_ms']:8.0f} {row['total_ms']:12.0f}")
    return figures
