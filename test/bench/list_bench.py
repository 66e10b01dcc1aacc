#!/usr/bin/python3
"""How long it takes to list many machines through the API, and to tell many clients of a change.

    BLIXARD_BUILD=build test/bench/list_bench.py [--machines 10000] [--clients 1000]

The machines wait for room (no node has the label that they ask for), so that no VMM runs: their rows are like any others.
JSON on standard output; `ratio` is a figure against its target (100 ms for the list), below 1 is better.
"""
import argparse
import json
import pathlib
import select
import socket
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
from cluster import Cluster  # noqa: E402
from machines import BLANK  # noqa: E402

LIST_TARGET_MS = 100


def make_machines(server, count):
    begun = time.monotonic()
    made = 0
    while made < count:
        some = min(64, count - made)
        server.call("POST", "/v1/machine-gangs", {"count": some, "machine": {
            "name": f"m{made}", "image": "blank", "memory_bytes": 64 << 20, "disk_bytes": 16 << 20, "constraints": ["label.none = such"]}})
        made += some
    return time.monotonic() - begun


def time_list(server, times=9):
    took = []
    for _ in range(times):
        begun = time.monotonic()
        status, body, _ = server.ask("GET", "/v1/machines")
        took.append((time.monotonic() - begun) * 1000)
        assert status == 200, body
    return sorted(took), len(body)


def watch(server, count):
    """So many connections that hear of every change."""
    watchers = []
    for _ in range(count):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(str(server.host.path(server.folder / "api.sock")))
        connection.sendall(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        watchers.append(connection)
    for connection in watchers:
        assert connection.recv(65536).startswith(b"HTTP/1.1 200"), "no stream"
    return watchers


def time_fan_out(server, watchers):
    """From a change that is asked for until the last one has heard of it."""
    waits = select.epoll()
    for connection in watchers:
        connection.setblocking(False)
        waits.register(connection, select.EPOLLIN)
    by_fd = {connection.fileno(): connection for connection in watchers}
    begun = time.monotonic()
    server.call("PUT", "/v1/kv/bench", b"value")
    answered = time.monotonic()
    left = dict(by_fd)
    heard = {fd: b"" for fd in by_fd}
    while left and time.monotonic() - begun < 60:
        for fd, _ in waits.poll(1):
            heard[fd] += by_fd[fd].recv(65536)
            if b'"table":"kv"' in heard[fd]:
                left.pop(fd, None)
    return (answered - begun) * 1000, (time.monotonic() - begun) * 1000, len(left)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--machines", type=int, default=10000)
    parser.add_argument("--clients", type=int, default=1000)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Cluster(1, here=True) as cluster:
        server = cluster.form(servers=1)[0]
        disk = pathlib.Path(folder, "blank.raw")
        disk.write_bytes(BLANK)
        server.cli("image", "import", "blank", "--disk", disk, "--no-agent")
        made_s = make_machines(server, wanted.machines)
        took, size = time_list(server)
        watchers = watch(server, wanted.clients)
        answered_ms, told_ms, deaf = time_fan_out(server, watchers)
        for connection in watchers:
            connection.close()
        print(json.dumps({
            "machines": wanted.machines, "made_per_second": round(wanted.machines / made_s), "list_bytes": size,
            "list_ms": {"min": round(took[0], 1), "median": round(took[len(took) // 2], 1), "max": round(took[-1], 1)},
            "list_ratio": round(took[len(took) // 2] / LIST_TARGET_MS, 2),
            "clients": wanted.clients, "change_answered_ms": round(answered_ms, 1), "last_client_told_ms": round(told_ms, 1),
            "clients_not_told": deaf}))


if __name__ == "__main__":
    main()
