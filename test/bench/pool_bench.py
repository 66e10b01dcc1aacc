"""How the pool takes bursts: cold starts, waits, instances and memory while a made-up trace is replayed.

tools/bench pool runs it.  The trace is the same each time: functions of unequal popularity, each silent for seconds and
then called many times at once, as clouds tell of most of theirs; a call takes 30 ms, asleep.  Calls come when the trace
says, however slow the answers are.  What keeping all instances for ten minutes, as is customary, or none at all would
have cost for these arrivals is computed beside it.
"""
import collections
import concurrent.futures
import heapq
import http.client
import random
import re
import tempfile
import threading
import time

from load import busy, compile_c, need, pause, percentile, pss_bytes

FUNCTIONS = 12
CALL_MS = 30
SENDERS = 96
SEED = 1970

# Each with a number of its own: functions of one module and the same limits share instances.
SLEEPS = f"""
#include <poll.h>
#include <stddef.h>
#include <unistd.h>
__attribute__((export_name("handle"))) void handle(void)
{{
    poll(NULL, 0, {CALL_MS});
    write(1, "NUMBER", 2);
}}
"""


def trace(seconds):
    """[(when, function)], in order: bursts of Poisson arrivals between silences, both of exponential length."""
    chance = random.Random(SEED)
    arrivals = []
    for function in range(FUNCTIONS):
        rate = 150 / (1 + function)  # in a burst; popularity as Zipf has it
        at = chance.expovariate(1 / 2)
        while at < seconds:
            end = at + chance.expovariate(1 / 0.8)
            while at < min(end, seconds):
                arrivals.append((at, function))
                at += chance.expovariate(rate)
            at = end + chance.expovariate(1 / 4)
    return sorted(arrivals)


def kept(arrivals, keep_seconds):
    """What a policy would have done that keeps each idle instance for so long: (cold starts, mean of instances, most)."""
    idle = collections.defaultdict(list)  # of a function: when each went idle
    busy_until, spans, cold, most, there = [], [], 0, 0, 0
    for at, function in arrivals:
        while busy_until and busy_until[0][0] <= at:
            when, whose, since = heapq.heappop(busy_until)
            idle[whose].append((when, since))
        for whose in idle:
            spans += [(since, when + keep_seconds) for when, since in idle[whose] if when + keep_seconds < at]
            idle[whose] = [one for one in idle[whose] if one[0] + keep_seconds >= at]
        since = idle[function].pop()[1] if idle[function] else at
        cold += since == at
        heapq.heappush(busy_until, (at + CALL_MS / 1000, function, since))
        there = len(busy_until) + sum(map(len, idle.values()))
        most = max(most, there)
    end = arrivals[-1][0]
    spans += [(since, min(end, when + keep_seconds)) for whose in idle.values() for when, since in whose]
    spans += [(since, end) for _, _, since in busy_until]
    return cold, sum(max(0, b - a) for a, b in spans) / end, most


def replay(node, arrivals):
    """[(status, wait ms, was it cold)], each call at its time."""
    host, port = node.gateway.split(":")
    own = threading.local()

    def call(function):
        if not hasattr(own, "connection"):
            own.connection = http.client.HTTPConnection(host, int(port), timeout=60)
        own.connection.request("POST", f"/fn/sleeps{function}", b"")
        answer = own.connection.getresponse()
        answer.read()
        parts = dict(re.findall(r"(\w+);dur=([\d.]+)", answer.headers.get("Server-Timing", "")))
        return answer.status, float(parts.get("queue", 0)) + float(parts.get("cold", 0)), "cold" in parts

    begun = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(SENDERS) as pool:
        calls = []
        for at, function in arrivals:
            left = begun + at - time.monotonic()
            if left > 0:
                pause(left)
            calls.append(pool.submit(call, function))
        return [one.result() for one in calls]


def metric(text, name):
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? ([\d.e+]+)", text, re.M))


def watch(node, over, samples):
    """Twice a second: instances, and the memory of the node with its runners."""
    while not over.wait(0.5):
        text = node.get("/metrics")
        samples.append((metric(text, "blixard_instances"), pss_bytes(node.process.pid)))


def measure(quick, long):
    need("clang-14")
    from node import Node
    seconds = 6 if quick else 120 if long else 30
    arrivals = trace(seconds)
    samples, over = [], threading.Event()
    with tempfile.TemporaryDirectory(prefix="blixard-bench-") as name, Node(arguments=["--log-level", "error"]) as node:
        for function in range(FUNCTIONS):
            node.deploy(f"sleeps{function}", compile_c(name, f"sleeps{function}", SLEEPS.replace("NUMBER", f"{function:02}")))
        before, memory = node.get("/metrics"), pss_bytes(node.process.pid)
        watcher = threading.Thread(target=watch, args=(node, over, samples))
        watcher.start()
        try:
            answers = replay(node, arrivals)
        finally:
            over.set()
            watcher.join()
        after = node.get("/metrics")
    cold = metric(after, "blixard_starts_cold_total") - metric(before, "blixard_starts_cold_total")
    waits = [wait for _, wait, _ in answers]
    cold_waits = [wait for _, wait, was_cold in answers if was_cold] or [0]
    refused = sum(status != 200 for status, _, _ in answers)
    mean = sum(count for count, _ in samples) / len(samples)
    rows = {"Blixard": {"cold_percent": round(100 * cold / len(arrivals), 2), "instances_mean": round(mean, 1),
                        "instances_most": int(max(count for count, _ in samples)), "wait_ms_p50": round(percentile(waits, 0.5), 3),
                        "wait_ms_p99": round(percentile(waits, 0.99), 3),
                        "cold_wait_ms_p50": round(percentile(cold_waits, 0.5), 3), "refused": refused,
                        "memory_mib_most": round((max(size for _, size in samples) - memory) / 2**20, 1)}}
    for who, keep in (("kept for 10 minutes", 600), ("kept for 10 s", 10), ("none kept", 0)):
        count, average, most = kept(arrivals, keep)
        rows[who] = {"cold_percent": round(100 * count / len(arrivals), 2), "instances_mean": round(average, 1), "instances_most": most}
    print(f"\nBursts: {len(arrivals)} calls of {CALL_MS} ms to {FUNCTIONS} functions in {seconds} s (seed {SEED}); load average {busy()}")
    print(f"{'':<24}{'cold %':>8}{'instances mean':>16}{'most':>6}{'wait ms p50':>13}{'p99':>9}{'cold p50':>10}{'refused':>9}{'MiB':>8}")
    for who, row in rows.items():
        print(f"{who:<24}{row['cold_percent']:>8.2f}{row['instances_mean']:>16.1f}{row['instances_most']:>6}"
              f"{row.get('wait_ms_p50', ''):>13}{row.get('wait_ms_p99', ''):>9}{row.get('cold_wait_ms_p50', ''):>10}{row.get('refused', ''):>9}{row.get('memory_mib_most', ''):>8}")
    return {"calls": len(arrivals), "seconds": seconds, "rows": rows, "instances_over_time": [count for count, _ in samples],
            "memory_mib_over_time": [round((size - memory) / 2**20, 1) for _, size in samples], "load_average": busy()}
