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


def cpu_ms(pid):
    """Of all threads that live, by the kernel's own count."""
    return sum(int(task.read_text().split()[0]) for task in pathlib.Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e6


def boot_bare(folder, words):
    """Milliseconds from QEMU's start to the agent's first byte, by the words of a machine's launch.json; and of its CPU."""
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
                    return (time.monotonic() - begin) * 1000, cpu_ms(process.pid)
            except (FileNotFoundError, ConnectionRefusedError):
                if process.poll() is not None:
                    raise Lacking("qemu does not start by these words")
                pause(0.001)
    finally:
        process.kill()
        process.wait()
        (place / "agent").unlink(missing_ok=True)
        (place / "control").unlink(missing_ok=True)


def bench(place, inside, what):
    inside.mkdir()
    done = subprocess.run([BUILD / "test/bench/template-bench", microvm.KERNEL_FOLDER / "vmlinux", place / "initrd", inside, str(what)],
                          stdout=subprocess.PIPE, check=True, timeout=500,
                          env={**os.environ, "BLIXARD_MONITOR": str(BUILD / "blixard-monitor")})
    return json.loads(done.stdout)


def boot_pairs(place, words, count):
    """[(ours, bare ms, bare CPU ms)], now the one first and now the other: what changes on the host meanwhile meets both."""
    pairs = []
    for turn in range(count):
        ours = None if turn % 2 else bench(place, place / f"pair{turn}", "boot")
        bare = boot_bare(place, words)
        ours = ours or bench(place, place / f"pair{turn}", "boot")
        pairs.append((ours, *bare))
    return pairs


def measure(quick, long):
    reason = microvm.reason()
    if reason:
        raise Lacking(reason)
    rounds = 1 if quick else 7 if long else 3
    clones = 2 if quick else 8
    runs = []
    with tempfile.TemporaryDirectory(prefix="blixard-clone-bench-") as folder:
        place = pathlib.Path(folder)
        (place / "initrd").write_bytes(microvm.initrd())
        for turn in range(rounds):
            runs.append(bench(place, place / str(turn), clones))
        words = json.loads((place / "0" / "source" / "launch.json").read_text())["argv"]
        pairs = boot_pairs(place, words, 2 if quick else 30 if long else 12)
    ups = sorted(clone["up_ms"] for run in runs for clone in run["clones"])
    own = [clone["pss_bytes"] for run in runs for clone in run["clones"]]
    boots, bare = [ours["boot_ms"] for ours, *_ in pairs], [wall for _, wall, _ in pairs]
    over = sorted(ours["boot_ms"] - wall for ours, wall, _ in pairs)
    cpu_over = sorted(ours["vmm_cpu_ms"] + ours["own_cpu_ms"] - cpu for ours, _, cpu in pairs)
    figures = {
        "boot_ms": statistics.median(boots), "bare_boot_ms": statistics.median(bare),
        "boot_overhead_ms": statistics.median(over), "boot_overhead_least_ms": min(boots) - min(bare),
        "boot_overhead_quarters_ms": [over[len(over) // 4], over[-1 - len(over) // 4]],
        "boot_cpu_overhead_ms": statistics.median(cpu_over), "own_cpu_ms": statistics.median(ours["own_cpu_ms"] for ours, *_ in pairs),
        "pairs": len(pairs),
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
          f"difference {figures['boot_overhead_ms']:+.0f} ms (median of {len(pairs)} pairs; half of them "
          f"{over[len(over) // 4]:+.0f} to {over[-1 - len(over) // 4]:+.0f}; of the fastest of each {min(boots) - min(bare):+.0f})")
    print(f"  CPU time besides the VMM's {figures['own_cpu_ms']:9.1f} ms   all of it against QEMU alone {figures['boot_cpu_overhead_ms']:+.1f} ms")
    print(f"  a clone's agent answers    {figures['clone_up_ms']:9.0f} ms   {figures['clone_up_ms'] / figures['boot_ms']:.3f} of a boot; "
          f"best {ups[0]:.0f} ms, worst {ups[-1]:.0f} ms")
    print(f"  CPU time of its VMM then   {figures['clone_cpu_ms']:9.0f} ms   {figures['clone_cpu_ms'] / figures['boot_cpu_ms']:.3f} of a boot's "
          f"{figures['boot_cpu_ms']:.0f} ms")
    print(f"  and it is itself           {figures['clone_renewed_ms']:9.0f} ms")
    print(f"  the source stands still    {figures['save_ms']:9.0f} ms   and {figures['stamp_ms']:.0f} ms to stamp the template")
    print(f"  memory of a clone, its own {figures['pss_bytes'] / (1 << 20):9.1f} MiB  {figures['pss_bytes'] / figures['source_pss_bytes']:.2f} "
          f"of the source's {figures['source_pss_bytes'] / (1 << 20):.0f} MiB, with {clones} running")
    return figures
