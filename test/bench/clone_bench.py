"""How soon a clone of a Linux machine answers, what memory it has for itself, and what Blixard adds to QEMU's own start.

tools/bench clone runs it.  The machine is Debian's kernel with the agent as its init and nothing else.  Beside it: the same
machine booted, by Blixard (monitor, confinement, agent's session) and by QEMU alone with the same words.
"""
import json
import os
import pathlib
import re
import socket
import statistics
import subprocess
import tempfile
import time

from load import BUILD, Lacking, busy, pause

import microvm


def boot_bare(folder, words):
    """Milliseconds from QEMU's start to the agent's first byte, by the words of a machine's launch.json."""
    place = pathlib.Path(folder)
    line = [re.sub(r"^socket,id=(\w+),fd=\d+,", lambda m: f"socket,id={m[1]},path={place}/{m[1]},", word) for word in words]
    begin = time.monotonic()
    process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                with socket.socket(socket.AF_UNIX) as agent:
                    agent.connect(f"{place}/agent")
                    agent.settimeout(120)
                    agent.recv(1)
                    return (time.monotonic() - begin) * 1000
            except (FileNotFoundError, ConnectionRefusedError):
                if process.poll() is not None:
                    raise Lacking("qemu does not start by these words")
                pause(0.001)
    finally:
        process.kill()
        process.wait()
        (place / "agent").unlink(missing_ok=True)
        (place / "control").unlink(missing_ok=True)


def measure(quick, long):
    reason = microvm.reason()
    if reason:
        raise Lacking(reason)
    rounds = 1 if quick else 7 if long else 3
    clones = 2 if quick else 8
    runs, bare = [], []
    with tempfile.TemporaryDirectory(prefix="blixard-clone-bench-") as folder:
        place = pathlib.Path(folder)
        (place / "initrd").write_bytes(microvm.initrd())
        for turn in range(rounds):
            inside = place / str(turn)
            inside.mkdir()
            done = subprocess.run([BUILD / "test/bench/template-bench", microvm.KERNEL_FOLDER / "vmlinux", place / "initrd",
                                   inside, str(clones)], stdout=subprocess.PIPE, check=True, timeout=500,
                                  env={**os.environ, "BLIXARD_MONITOR": str(BUILD / "blixard-monitor")})
            runs.append(json.loads(done.stdout))
            words = json.loads((inside / "source" / "launch.json").read_text())["argv"]
            bare.append(boot_bare(folder, words))
    ups = sorted(clone["up_ms"] for run in runs for clone in run["clones"])
    own = [clone["pss_bytes"] for run in runs for clone in run["clones"]]
    boots = [run["boot_ms"] for run in runs]
    figures = {
        "boot_ms": statistics.median(boots), "bare_boot_ms": statistics.median(bare),
        "boot_overhead_ms": statistics.median(a - b for a, b in zip(boots, bare)),
        "clone_up_ms": statistics.median(ups), "clone_up_best_ms": ups[0], "clone_up_worst_ms": ups[-1],
        "clone_renewed_ms": statistics.median(clone["renewed_ms"] for run in runs for clone in run["clones"]),
        "boot_cpu_ms": statistics.median(run["boot_cpu_ms"] for run in runs),
        "clone_cpu_ms": statistics.median(clone["cpu_ms"] for run in runs for clone in run["clones"]),
        "save_ms": statistics.median(run["save_ms"] for run in runs),
        "stamp_ms": statistics.median(run["stamp_ms"] for run in runs),
        "pss_bytes": statistics.median(own), "source_pss_bytes": statistics.median(run["source_pss_bytes"] for run in runs),
        "clones": clones, "rounds": rounds,
    }
    print(f"  load average {busy()}")
    print(f"  boot to the agent          {figures['boot_ms']:9.0f} ms   QEMU alone {figures['bare_boot_ms']:.0f} ms, "
          f"difference {figures['boot_overhead_ms']:+.0f} ms")
    print(f"  a clone's agent answers    {figures['clone_up_ms']:9.0f} ms   {figures['clone_up_ms'] / figures['boot_ms']:.3f} of a boot; "
          f"best {ups[0]:.0f} ms, worst {ups[-1]:.0f} ms")
    print(f"  CPU time of its VMM then   {figures['clone_cpu_ms']:9.0f} ms   {figures['clone_cpu_ms'] / figures['boot_cpu_ms']:.3f} of a boot's "
          f"{figures['boot_cpu_ms']:.0f} ms")
    print(f"  and it is itself           {figures['clone_renewed_ms']:9.0f} ms")
    print(f"  the source stands still    {figures['save_ms']:9.0f} ms   and {figures['stamp_ms']:.0f} ms to stamp the template")
    print(f"  memory of a clone, its own {figures['pss_bytes'] / (1 << 20):9.1f} MiB  {figures['pss_bytes'] / figures['source_pss_bytes']:.2f} "
          f"of the source's {figures['source_pss_bytes'] / (1 << 20):.0f} MiB, with {clones} running")
    return figures
