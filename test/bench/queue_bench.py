"""Queues and invocations: accepted durably per second, through triggers per second, and how soon a function starts.

tools/bench queue runs it, on a node of its own.  Beside it Redis Streams with appendfsync always, which too answers when
a message is on disk, under redis-benchmark; its protocol is lighter than HTTP with JSON.  How soon: the function
says when it began, by the clock of the machine, which is the client's clock, too.
"""
import json
import pathlib
import re
import subprocess
import tempfile
import time

from load import Client, busy, compile_c, find, free_port, need, pause, percentile, running, wrk

OUTSTANDING = (1, 16, 64)
PAUSE_SECONDS = 0.005
BODY = "x" * 200

NOTHING = "int main(void) { return 0; }\n"
SAYS_WHEN = """
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
int main(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    const char *message = getenv("HTTP_CE_ID");
    fprintf(stderr, "began %s %lld%09ld\\n", message != NULL ? message : getenv("BLIXARD_REQUEST_ID"), (long long)now.tv_sec, now.tv_nsec);
    return 0;
}
"""


# ---- Accepted ----

def script(method_fields, body):
    return f"wrk.method = 'POST'\nwrk.body = [[{body}]]\n{method_fields}"


def redis_adds(connections, seconds, port):
    """XADD per second, one stream, each on disk before its answer."""
    count = 2000
    begun = time.monotonic()
    while True:
        subprocess.run([find("redis-benchmark"), "-p", str(port), "-c", str(connections), "-n", str(count), "-q",
                        "XADD", "stream", "*", "data", BODY], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        took, begun = time.monotonic() - begun, time.monotonic()
        if took > seconds / 2:
            return count / took
        count = int(count * min(8, seconds / took))


def accepted(node, seconds, port):
    """Rows of what is accepted per second at so many outstanding."""
    message = json.dumps({"messages": [{"body": BODY}]})
    work = {"queue send": (f"http://{node.api}/v1/queues/filled/messages", script("", message)),
            "invocation": (f"http://{node.gateway}/fn/nothing", script("wrk.headers['Prefer'] = 'respond-async'\n", BODY))}
    rows = []
    for outstanding in OUTSTANDING:
        redis = redis_adds(outstanding, seconds, port) if port else None
        for name, (url, lua) in work.items():
            row = {"what": name, "outstanding": outstanding, **wrk(url, lua, seconds, outstanding)}
            if redis:
                row["ratio_to_redis"] = round(row["requests_per_second"] / redis, 2)
            rows.append(row)
            node.call("POST", "/v1/queues/filled/purge")
            settle(node)
        if redis:
            rows.append({"what": "Redis XADD", "outstanding": outstanding, "requests_per_second": redis, "refused": 0})
    return rows


def settle(node):
    """Until all accepted invocations have run: they are no part of what is measured next."""
    while re.search(r"^blixard_invocations_(?:pending|running)\S* [1-9]", node.get("/metrics"), re.M):
        pause(0.05)


# ---- Through a trigger ----

def through_trigger(node, count, batch):
    """Messages per second, from the moment the trigger goes on until the queue is empty."""
    queue, trigger = f"work{batch}", f"work{batch}"
    node.call("POST", "/v1/queues", {"name": queue})
    for _ in range(count // 100):
        node.call("POST", f"/v1/queues/{queue}/messages", {"messages": [{"body": BODY}] * 100})
    begun = time.monotonic()
    node.call("POST", "/v1/triggers", {"name": trigger, "kind": "queue", "function": "nothing", "batch_size": batch,
                                       "concurrency_max": 16, "settings": {"queue": queue}})
    while node.json(f"/v1/queues/{queue}")["depth"] > 0:
        pause(0.01)
    took = time.monotonic() - begun
    node.call("DELETE", f"/v1/triggers/{trigger}")
    return {"batch_size": batch, "messages": count, "messages_per_second": round(count / took)}


# ---- How soon ----

def starts(node):
    """{id: when its function began, ns}."""
    log = node.json("/v1/functions/says-when/logs?tail=5000")
    return {word: int(when) for word, when in re.findall(r"began (\S+) (\d+)", json.dumps(log))}


def how_soon(node, count, address, request, name_of):
    client = Client(address)
    accepted_at = {}
    for n in range(count + 20):
        status, body, before, after = client.post(*request)
        if status not in (201, 202):
            raise RuntimeError(f"{status}: {body[:200]}")
        if n >= 20:  # the first ones find nothing warm
            accepted_at[name_of(json.loads(body))] = (before, after)
        pause(PAUSE_SECONDS)
    client.close()
    end = time.monotonic() + 30
    while True:
        began = starts(node)
        missing = accepted_at.keys() - began.keys()
        if not missing:
            break
        if time.monotonic() > end:
            raise RuntimeError(f"{len(missing)} of {count} were not seen to begin")
        pause(0.1)
    took = {"accepted_ms": [(after - before) / 1e6 for before, after in accepted_at.values()],
            "to_start_ms": [(began[name] - after) / 1e6 for name, (_, after) in accepted_at.items()],
            "sent_to_start_ms": [(began[name] - before) / 1e6 for name, (before, _) in accepted_at.items()]}
    return {f"{what}_{label}": round(percentile(values, part), 3) for what, values in took.items() for label, part in (("p50", 0.5), ("p99", 0.99))}


def latencies(node, count):
    node.call("POST", "/v1/queues", {"name": "soon"})
    node.call("POST", "/v1/triggers", {"name": "soon", "kind": "queue", "function": "says-when", "settings": {"queue": "soon"}})
    message = {"messages": [{"body": BODY}]}
    return {"queue message": how_soon(node, count, node.api, ("/v1/queues/soon/messages", message), lambda answer: f"soon-{answer['messages'][0]['id']}"),
            "invocation": how_soon(node, count, node.gateway, ("/fn/says-when", BODY.encode(), "Prefer: respond-async\r\n"), lambda answer: answer["id"])}


# ---- All of it ----

def redis(stack_folder):
    port = free_port()
    return port, running([find("redis-server"), "--port", port, "--bind", "127.0.0.1", "--dir", stack_folder, "--save", "", "--appendonly", "yes",
                          "--appendfsync", "always"], ready="Ready to accept")


def measure(quick, long):
    need("wrk", "clang-14", "redis-server", "redis-benchmark")
    from node import Node
    seconds, count, messages = (1, 20, 500) if quick else (4 if long else 2, 300, 5000)
    with tempfile.TemporaryDirectory(prefix="blixard-bench-") as name, Node(arguments=["--log-level", "error"]) as node:
        node.deploy("nothing", compile_c(name, "nothing", NOTHING))
        node.deploy("says-when", compile_c(name, "says-when", SAYS_WHEN))
        node.call("POST", "/v1/queues", {"name": "filled", "max_depth": 1000000, "max_bytes": 1 << 30})
        port, server = redis(name)
        soon = latencies(node, count)
        with server:
            rows = accepted(node, seconds, port)
        flows = [through_trigger(node, messages, batch) for batch in (1, 50)]
    print(f"\nAccepted durably, 200 bytes each, one node; load average {busy()}")
    print(f"{'':<14}{'outstanding':>12}{'per second':>12}{'p50 us':>9}{'p99 us':>9}{'refused':>9}{'to Redis':>10}")
    for row in rows:
        print(f"{row['what']:<14}{row['outstanding']:>12}{row['requests_per_second']:>12.0f}{row.get('p50_us', 0):>9.0f}"
              f"{row.get('p99_us', 0):>9.0f}{row['refused']:>9}{row.get('ratio_to_redis', ''):>10}")
    print(f"\nFrom sending to the start of the function, ms, {count} of each, one at a time")
    print(f"{'':<16}{'accepted p50':>13}{'p99':>8}{'then started p50':>18}{'p99':>8}{'in all p50':>12}{'p99':>8}")
    for what, row in soon.items():
        print(f"{what:<16}{row['accepted_ms_p50']:>13.2f}{row['accepted_ms_p99']:>8.2f}{row['to_start_ms_p50']:>18.2f}{row['to_start_ms_p99']:>8.2f}"
              f"{row['sent_to_start_ms_p50']:>12.2f}{row['sent_to_start_ms_p99']:>8.2f}")
    print("\nThrough a trigger, an empty function, concurrency 16")
    for row in flows:
        print(f"{'batches of ' + str(row['batch_size']):<20}{row['messages_per_second']:>8} messages/s")
    return {"accepted": rows, "start": soon, "through_trigger": flows, "load_average": busy()}
