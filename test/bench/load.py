"""What the parts of tools/bench share: servers, load, figures.

Rounds of all who are compared are interleaved, and the median of the rounds is what counts: a neighbour
that is busy for a second then disturbs one round of one server, not one server's result.
"""
import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("BLIXARD_BUILD", ROOT / "build")).resolve()
KEPT = BUILD / "bench"  # what is fetched or compiled once
UNIT = {"us": 1, "ms": 1000, "s": 1000000, "m": 60000000}

sys.path.insert(0, str(ROOT / "test" / "lib"))
from ports import free_port  # noqa: E402, F401


class Lacking(Exception):
    """What this machine would need for a measurement."""


def find(name):
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")


def need(*programs):
    missing = [name for name in programs if find(name) is None]
    if missing:
        raise Lacking(f"{', '.join(missing)} not installed: tools/bootstrap bench")


def pause(seconds):
    """For what can only be asked for again and again."""
    threading.Event().wait(seconds)


# ---- Figures ----

def percentile(values, part):
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


def busy():
    """How many runnable threads the machine has had in the last minute: those who read the figures are told."""
    return round(os.getloadavg()[0], 1)


def family(pid):
    """A process and all below it."""
    parents = {}
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rsplit(")", 1)[1].split()
            parents.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found = [pid]
    for one in found:
        found += parents.get(one, [])
    return found


def cpu_seconds(pid):
    """Of a process and all below it, of their threads that live: the scheduler counts nanoseconds, where stat has ticks of 10 ms."""
    total = 0
    for one in family(pid):
        for thread in pathlib.Path(f"/proc/{one}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):
                total += int(thread.read_text().split()[0])
    return total / 1e9


def pss_bytes(pid):
    total = 0
    for one in family(pid):
        with contextlib.suppress(OSError):
            text = pathlib.Path(f"/proc/{one}/smaps_rollup").read_text()
            total += int(re.search(r"^Pss:\s+(\d+)", text, re.M)[1]) * 1024
    return total


# ---- Servers ----

@contextlib.contextmanager
def running(command, ready=None, **options):
    """A server for the duration of a block, ended by its pid: (process, match of `ready` in what it says first)."""
    process = subprocess.Popen([str(word) for word in command], stdin=subprocess.PIPE, text=True,
                               stdout=subprocess.PIPE if ready else subprocess.DEVNULL, **options)
    try:
        said = None
        while ready and said is None:
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"{command[0]} ended before it was ready")
            said = re.search(ready, line)
        yield process, said
    finally:
        process.stdin.close()
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(url, data=b"x", attempts=200):
    for attempt in range(attempts):
        try:
            with urllib.request.urlopen(urllib.request.Request(url, data=data), timeout=5) as answer:
                return answer.status
        except urllib.error.HTTPError as answer:
            return answer.code
        except OSError:
            if attempt == attempts - 1:
                raise
            pause(0.05)
    return None


@contextlib.contextmanager
def nginx(http):
    """nginx, one worker like our one gateway thread; `http` is its configuration, {port} its port: (process, port)."""
    port = free_port()
    user = "user root;" if os.geteuid() == 0 else ""
    with tempfile.TemporaryDirectory(prefix="blixard-bench-") as folder:
        places = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        path = pathlib.Path(folder, "nginx.conf")
        path.write_text(f"daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log; worker_processes 1; {user}\n"
                        f"events {{ worker_connections 256; }}\n"
                        f"http {{ access_log off; {places} keepalive_requests 1000000000; client_max_body_size 64m;\n"
                        f"{http.replace('{port}', str(port))} }}\n")
        with running([find("nginx"), "-c", path, "-p", folder], stderr=subprocess.DEVNULL) as (process, _):
            wait_for(f"http://127.0.0.1:{port}/")
            yield process, port


def wait_for_tier(node, *names, patience=400):
    """Until the optimised code of functions runs."""
    for name in names:
        for _ in range(patience * 10):
            if (node.json(f"/v1/functions/{name}").get("version") or {}).get("tier") == "optimized":
                break
            pause(0.1)
        else:
            print(f"warning: the optimised tier of {name} did not come; measuring the fast one", file=sys.stderr)


def compile_c(folder, name, source):
    path = pathlib.Path(folder, f"{name}.c")
    path.write_text(source)
    kind = ["-mexec-model=reactor"] if "export_name" in source else []
    subprocess.run(["clang-14", "--target=wasm32-wasi", "-O2", *kind, "-o", path.with_suffix(".wasm"), path], check=True)
    return path.with_suffix(".wasm")


# ---- Load ----

def wrk(url, script, seconds, connections=16, cpu_of=None):
    """Requests per second and latencies of one short run; with `cpu_of`, a pid, what a request costs it."""
    used = cpu_seconds(cpu_of) if cpu_of else 0
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        said = subprocess.run(["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "--latency", "-s", file.name, url],
                              check=True, text=True, stdout=subprocess.PIPE).stdout
    used = cpu_seconds(cpu_of) - used if cpu_of else 0
    latency = {p: float(v) * UNIT[u] for p, v, u in re.findall(r"(50|99)%\s+([\d.]+)(us|ms|s|m)\b", said)}
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    count = int(re.search(r"(\d+) requests in", said)[1])
    figures = {"requests_per_second": float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1]), "p50_us": latency.get("50"),
               "p99_us": latency.get("99"), "refused": int(refused[1]) if refused else 0}
    if cpu_of and count:
        figures["cpu_us_per_request"] = round(used / count * 1e6, 1)
    return figures


def post(body):
    return f'wrk.method = "POST"\nwrk.body = {json.dumps(body)}\n'


def post_bytes(count):
    return f'wrk.method = "POST"\nwrk.body = string.rep("x", {count})\n'


def interleaved(who, rounds, measure):
    """{name: the run with the median rate, with all rates, the medians of the latencies and the least CPU}; measure(name, what) is one run."""
    runs = {name: [] for name in who}
    for _ in range(rounds):
        for name, what in who.items():
            try:
                runs[name].append(measure(name, what))
            except subprocess.CalledProcessError as error:
                raise RuntimeError(f"{name} could not be measured") from error
    result = {}
    for name, of_one in runs.items():
        of_one = [run for run in of_one if run["requests_per_second"] > 0]  # too busy a machine: none ended in time
        if not of_one:
            raise RuntimeError(f"{name}: no request was answered in any of {rounds} runs")
        middle = sorted(of_one, key=lambda run: run["requests_per_second"])[len(of_one) // 2]
        result[name] = {**middle, "runs": [round(run["requests_per_second"]) for run in of_one]}
        for latency in ("p50_us", "p99_us"):
            if latency in middle:
                result[name][latency] = percentile([run[latency] for run in of_one], 0.5)
        if "cpu_us_per_request" in middle:  # whoever is disturbed takes more, nobody less
            result[name]["cpu_us_per_request"] = min(run["cpu_us_per_request"] for run in of_one)
    return result


class Client:
    """A kept connection; requests go out in one piece, and when the head of the answer has come is known."""

    def __init__(self, address):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.rest = b""

    def post(self, path, body=b"", fields=""):
        """(status, body, nanoseconds before, nanoseconds after), both of the machine's clock."""
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        before = time.time_ns()
        self.socket.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{fields}"
                            f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        data = self.rest
        while b"\r\n\r\n" not in data:
            data += self._more()
        after = time.time_ns()
        head, data = data.split(b"\r\n\r\n", 1)
        length = int(re.search(rb"content-length: (\d+)", head, re.I)[1])
        while len(data) < length:
            data += self._more()
        self.rest = data[length:]
        return int(head.split(b" ", 2)[1]), data[:length], before, after

    def _more(self):
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError("the server has closed the connection")
        return data

    def close(self):
        self.socket.close()
