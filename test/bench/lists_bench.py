"""How long it takes to list many machines through the API, and to tell many clients of a change.

tools/bench lists runs it.  The machines wait for room (no node has the label that they ask for), so that no VMM
runs: their rows are like any others.  A ratio is a figure against its target (100 ms for the list): below 1 is better.
"""
import pathlib
import resource
import select
import shutil
import socket
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

from cluster import Cluster  # noqa: E402
from load import Lacking, busy  # noqa: E402
from machines import BLANK  # noqa: E402

LIST_TARGET_MS = 100
PATIENCE_SECONDS = 60


def make_machines(server, count):
    begun = time.monotonic()
    made = 0
    while made < count:
        some = min(64, count - made)
        server.call("POST", "/v1/machine-gangs", {"count": some, "machine": {
            "name": f"m{made}", "image": "blank", "memory_bytes": 64 << 20, "disk_bytes": 16 << 20, "constraints": ["label.none = such"]}})
        made += some
    return time.monotonic() - begun


def time_list(server, times):
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
    while left and time.monotonic() - begun < PATIENCE_SECONDS:
        for fd, _ in waits.poll(1):
            heard[fd] += by_fd[fd].recv(65536)
            if b'"table":"kv"' in heard[fd]:
                left.pop(fd, None)
    return (answered - begun) * 1000, (time.monotonic() - begun) * 1000, len(left)


def measure(quick, long):
    if not shutil.which("qemu-img"):
        raise Lacking("qemu-img is not installed: tools/bootstrap test")
    machines, clients, times = (500, 50, 3) if quick else (10000, 1000, 25 if long else 9)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, clients + 200)), hard))
    with tempfile.TemporaryDirectory() as folder, Cluster(1, here=True) as cluster:
        server = cluster.form(servers=1)[0]
        disk = pathlib.Path(folder, "blank.raw")
        disk.write_bytes(BLANK)
        server.cli("image", "import", "blank", "--disk", disk, "--no-agent")
        made_s = make_machines(server, machines)
        took, size = time_list(server, times)
        watchers = watch(server, clients)
        answered_ms, told_ms, deaf = time_fan_out(server, watchers)
        for connection in watchers:
            connection.close()
    middle = took[len(took) // 2]
    figures = {
        "load_average": busy(), "machines": machines, "made_per_second": round(machines / made_s), "list_bytes": size,
        "list_ms": {"min": round(took[0], 1), "median": round(middle, 1), "max": round(took[-1], 1)},
        "list_ratio": round(middle / LIST_TARGET_MS, 2),
        "clients": clients, "change_answered_ms": round(answered_ms, 1), "last_client_told_ms": round(told_ms, 1), "clients_not_told": deaf}
    print(f"\nlists (load average {figures['load_average']})")
    print(f"  {machines} machines in {size / 1e6:.1f} MB  {middle:.1f} ms ({took[0]:.1f} to {took[-1]:.1f} of {times}); target {LIST_TARGET_MS} ms")
    print(f"  a change is answered    {answered_ms:.1f} ms; the last of {clients} clients has heard after {told_ms:.1f} ms, {deaf} never")
    return figures
