"""HTTP end to end: our functions, and node, deno, workerd and nginx under the same load in the same run.

tools/bench http runs it.  The JavaScript of ours, deno and workerd is one file (test/bench/handler/main.js); the C
function of ours and node's WASI are one module.  deno and workerd come from npm, into build/bench, once.
"""
import contextlib
import pathlib
import shutil
import subprocess
import tempfile

from load import KEPT, ROOT, busy, find, interleaved, need, nginx, post, running, free_port, wait_for, wait_for_tier, wrk

HERE = ROOT / "test" / "bench"
PROGRAMS = {"deno": "@deno/linux-x64-glibc/deno", "workerd": "@cloudflare/workerd-linux-64/bin/workerd"}
NPM_SECONDS = 240
WORKERD = """using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [(name = "main", worker = (modules = [(name = "main.js", esModule = embed "main.js")], compatibilityDate = "2024-01-01"))],
  sockets = [(name = "http", address = "127.0.0.1:%d", http = (), service = "main")]
);
"""


# ---- From npm ----

def from_npm(name, quick):
    """(program, None), or (None, why there is none)."""
    program = KEPT / "node_modules" / PROGRAMS[name]
    if not program.exists() and quick:
        return None, "it would have to be fetched, which --quick does not"
    if not program.exists():
        if find("npm") is None:
            return None, "npm is not installed: tools/bootstrap run"
        KEPT.mkdir(parents=True, exist_ok=True)
        print(f"installing {name} from npm into {KEPT} (once)", flush=True)
        try:
            ended = subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--no-save", "--ignore-scripts", "--prefix", KEPT, *PROGRAMS],
                                   stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=NPM_SECONDS)
        except subprocess.TimeoutExpired:
            return None, f"npm had not brought it after {NPM_SECONDS} s"
        if not program.exists():
            said = ended.stderr.strip().splitlines() or ["it is not there for this machine"]
            return None, f"npm did not bring it: {said[0][:200]}"
    return program, None


# ---- Servers: each (pid, URL) ----

def start_blixard(stack, folder, quick):
    """({function: (pid, URL)}, the module in C); without JavaScript when its engine would take a minute that is not there."""
    from node import Node
    data = folder / "data"
    keep = KEPT / "compiled"
    for part in ("images", "build"):
        if (keep / part).exists():
            shutil.copytree(keep / part, data / part)
    node = stack.enter_context(Node(data, arguments=["--log-level", "error"], env={"XDG_CACHE_HOME": str(KEPT / "cache")}))
    projects = {"upper": HERE / "upper"}
    if not quick or any((KEPT / "cache").glob("blixard/javascript-*.wasm")):
        projects["upper-js"] = HERE / "handler"
    for name, source in projects.items():
        shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("build"))
        print(f"deploying {name} (JavaScript's engine is compiled the first time: a minute or two)" if name == "upper-js" else f"deploying {name}", flush=True)
        node.cli("fn", "deploy", name, folder / name)
        with (folder / name / "blixard.yaml").open("a") as settings:
            settings.write("reuse: instance\n")
        node.cli("fn", "deploy", f"{name}-sticky", folder / name)
    names = [f"{name}{kind}" for name in projects for kind in ("", "-sticky")]
    wait_for_tier(node, *(names[:2] if quick else names))
    shutil.rmtree(keep, ignore_errors=True)
    for part in ("images", "build"):
        shutil.copytree(data / part, keep / part)
    return {name: (node.process.pid, f"http://{node.gateway}/fn/{name}") for name in names}, next((folder / "upper").rglob("*.wasm"))


def start_node(stack, script, *arguments):
    process, port = stack.enter_context(running(["node", "--no-warnings", "--expose-gc", HERE / script, *arguments], ready=r"(\d+)"))
    return process.pid, f"http://127.0.0.1:{port[1]}/"


def start_deno(stack, program):
    port = free_port()
    process, _ = stack.enter_context(running([program, "serve", "--no-config", "--host", "127.0.0.1", "--port", port, HERE / "handler" / "main.js"],
                                             stderr=subprocess.DEVNULL))
    wait_for(f"http://127.0.0.1:{port}/")
    return process.pid, f"http://127.0.0.1:{port}/"


def start_workerd(stack, program, folder):
    port = free_port()
    shutil.copy(HERE / "handler" / "main.js", folder)
    config = folder / "workerd.capnp"
    config.write_text(WORKERD % port)
    process, _ = stack.enter_context(running([program, "serve", config], stderr=subprocess.DEVNULL))
    wait_for(f"http://127.0.0.1:{port}/")
    return process.pid, f"http://127.0.0.1:{port}/"


def start_all(stack, folder, quick):
    """({title: (pid, URL)}, {title: why it is not measured})."""
    servers, lacking = {}, {}
    ours, module = start_blixard(stack, folder, quick)
    servers["Blixard C, a VM's state per request"] = ours["upper"]
    servers["Blixard C, reuse: instance"] = ours["upper-sticky"]
    if "upper-js" in ours:
        servers["Blixard JS, a VM's state per request"] = ours["upper-js"]
        servers["Blixard JS, reuse: instance"] = ours["upper-js-sticky"]
    else:
        lacking["Blixard JS"] = "its engine would have to be compiled, which --quick does not"
    servers["node"] = start_node(stack, "node_http.mjs")
    for name in PROGRAMS:
        program, why = from_npm(name, quick)
        if program is None:
            lacking[name] = why
        else:
            servers[name] = start_deno(stack, program) if name == "deno" else start_workerd(stack, program, folder)
    servers["node's WASI, an instance per request"] = start_node(stack, "node_wasi.mjs", module)
    process, port = stack.enter_context(nginx('server { listen 127.0.0.1:{port}; location / { return 200 "HELLO, WORLD\\n"; } }'))
    servers["nginx, a static body"] = (process.pid, f"http://127.0.0.1:{port}/")
    return servers, lacking


# ---- The measurement ----

def measure(quick, long):
    need("nginx", "wrk", "node", "clang-14")
    seconds, rounds = (1, 1) if quick else (2, 5 if long else 3)
    with tempfile.TemporaryDirectory(prefix="blixard-bench-") as name, contextlib.ExitStack() as stack:
        servers, lacking = start_all(stack, pathlib.Path(name), quick)
        for _, url in servers.values():
            if quick:
                wait_for(url)
            else:
                wrk(url, post("hello, world"), 1)
        rows = interleaved(servers, rounds, lambda _, server: wrk(server[1], post("hello, world"), seconds, cpu_of=server[0]))
    base = rows["node"]["requests_per_second"]
    print(f"\nHTTP end to end, 16 connections, POST of 12 bytes, median of {rounds} runs of {seconds} s; load average {busy()}")
    print(f"{'server':<38}{'requests/s':>11}{'to node':>9}{'p50 us':>8}{'p99 us':>9}{'CPU us':>8}{'refused':>9}")
    for who, row in rows.items():
        row["ratio_to_node"] = round(row["requests_per_second"] / base, 3)
        print(f"{who:<38}{row['requests_per_second']:>11.0f}{row['ratio_to_node']:>9.2f}{row['p50_us']:>8.0f}{row['p99_us']:>9.0f}"
              f"{row.get('cpu_us_per_request', 0):>8.1f}{row['refused']:>9}")
    for who, why in lacking.items():
        print(f"{who:<38}not measured: {why}")
    return {"rows": rows, "lacking": lacking, "load_average": busy()}
