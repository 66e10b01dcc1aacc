"""How soon a clone of a Linux machine answers, what memory it has for itself, and what Blixard adds to QEMU's own start.

tools/bench clone runs it.  The machine is Debian's kernel with the agent as its init and nothing else.  Beside it: the same
machine booted, by Blixard and by QEMU alone with the same words.  What Blixard adds to that are two short stretches, each measured by
itself, as two boots differ by far more than it: from the order to start until the VMM obeys (monitor, confinement, QMP), against QEMU
alone until it obeys; and the session with an agent that is there.
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


def connect(path, process):
    """To a socket that QEMU makes when it begins."""
    while True:
        made = socket.socket(socket.AF_UNIX)
        made.settimeout(120)
        try:
            made.connect(str(path))
            return made
        except (FileNotFoundError, ConnectionRefusedError):
            made.close()
            if process.poll() is not None:
                raise Lacking("qemu does not start by these words") from None
            pause(0.0005)


def bare(place, words, boots):
    """Milliseconds from QEMU's start until it obeys, by the words of a machine's launch.json; with `boots` also until the agent's first
    byte, and of its CPU then."""
    line = [re.sub(r"^socket,id=(\w+),fd=\d+,", lambda m: f"socket,id={m[1]},path={place}/{m[1]},", word) for word in words]
    begin = time.monotonic()
    process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with connect(place / "control", process) as control, control.makefile("rw") as talk:
            for word in ("qmp_capabilities", "query-status"):  # as Blixard asks
                talk.readline()
                talk.write(f'{{"execute": "{word}"}}\n')
                talk.flush()
            talk.readline()
            obeys_ms = (time.monotonic() - begin) * 1000
            if not boots:
                return obeys_ms
            with connect(place / "agent", process) as agent:
                agent.recv(1)
                return obeys_ms, (time.monotonic() - begin) * 1000, cpu_ms(process.pid)
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


def in_pairs(place, words, count, what):
    """[(ours, QEMU alone)], now the one first and now the other: what changes on the host meanwhile meets both."""
    pairs = []
    for turn in range(count):
        ours = None if turn % 2 else bench(place, place / f"{what}{turn}", what)
        alone = bare(place, words, what == "boot")
        ours = ours or bench(place, place / f"{what}{turn}", what)
        pairs.append((ours, alone))
    return pairs


def spread(values):
    """(median, lower quarter, upper quarter)"""
    values = sorted(values)
    return statistics.median(values), values[len(values) // 4], values[-1 - len(values) // 4]


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
        pairs = in_pairs(place, words, 2 if quick else 30 if long else 12, "boot")
        starts = in_pairs(place, words, 4 if quick else 100 if long else 40, "start")
    ups = sorted(clone["up_ms"] for run in runs for clone in run["clones"])
    own = [clone["pss_bytes"] for run in runs for clone in run["clones"]]
    boots, alone = [ours["boot_ms"] for ours, _ in pairs], [wall for _, (_, wall, _) in pairs]
    over = spread(ours["boot_ms"] - wall for ours, (_, wall, _) in pairs)
    start_over = spread(ours["obeys_ms"] - wall for ours, wall in starts)
    session = spread(ours["session_ms"] for ours, _ in pairs)
    figures = {
        "boot_ms": statistics.median(boots), "bare_boot_ms": statistics.median(alone),
        "boot_difference_ms": over[0], "boot_difference_quarters_ms": over[1:],
        "start_ms": statistics.median(ours["obeys_ms"] for ours, _ in starts), "bare_start_ms": statistics.median(wall for _, wall in starts),
        "start_overhead_ms": start_over[0], "start_overhead_quarters_ms": start_over[1:],
        "session_ms": session[0], "session_quarters_ms": session[1:], "boot_overhead_ms": start_over[0] + session[0],
        "own_cpu_ms": statistics.median(ours["own_cpu_ms"] for ours, _ in pairs),
        "pairs": len(pairs), "start_pairs": len(starts),
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
    print(f"  boot to the agent          {figures['boot_ms']:9.0f} ms   QEMU alone {figures['bare_boot_ms']:.0f} ms; "
          f"differences of {len(pairs)} pairs {over[0]:+.0f} ms ({over[1]:+.0f} to {over[2]:+.0f})")
    print(f"  start until it obeys       {figures['start_ms']:9.1f} ms   QEMU alone {figures['bare_start_ms']:.1f} ms; "
          f"differences of {len(starts)} pairs {start_over[0]:+.1f} ms ({start_over[1]:+.1f} to {start_over[2]:+.1f})")
    print(f"  a session with the agent   {session[0]:9.1f} ms   ({session[1]:.1f} to {session[2]:.1f})")
    print(f"  so Blixard adds            {figures['boot_overhead_ms']:9.1f} ms   and {figures['own_cpu_ms']:.1f} ms of CPU besides the VMM's")
    print(f"  a clone's agent answers    {figures['clone_up_ms']:9.0f} ms   {figures['clone_up_ms'] / figures['boot_ms']:.3f} of a boot; "
          f"best {ups[0]:.0f} ms, worst {ups[-1]:.0f} ms")
    print(f"  CPU time of its VMM then   {figures['clone_cpu_ms']:9.0f} ms   {figures['clone_cpu_ms'] / figures['boot_cpu_ms']:.3f} of a boot's "
          f"{figures['boot_cpu_ms']:.0f} ms")
    print(f"  and it is itself           {figures['clone_renewed_ms']:9.0f} ms")
    print(f"  the source stands still    {figures['save_ms']:9.0f} ms   and {figures['stamp_ms']:.0f} ms to stamp the template")
    print(f"  memory of a clone, its own {figures['pss_bytes'] / (1 << 20):9.1f} MiB  {figures['pss_bytes'] / figures['source_pss_bytes']:.2f} "
          f"of the source's {figures['source_pss_bytes'] / (1 << 20):.0f} MiB, with {clones} running")
    return figures
