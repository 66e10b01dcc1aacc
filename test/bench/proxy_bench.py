"""Bodies that one node passes on to another, against nginx in that node's place.

tools/bench proxy runs it.  Two nodes of a cluster are here; a function that sends back what it was sent runs at one of
them only.  The gateway of the other passes calls on, as it does for each function that a node has not got (yet).  nginx
does the same work with proxy_pass: HTTP/1.1 from the client, kept connections with mutual TLS 1.3 to the same port of
the same node, with a node's certificate, and bodies kept in memory.

All share two cores, and the node behind costs the same whoever is in front of it, so that the rates of both come close
to each other as it gets the more expensive part.  The CPU time that the front takes for a request is what differs; the
ratio is that of requests per second of the front's CPU.
"""
import contextlib
import pathlib
import shutil
import stat
import tempfile

from load import busy, compile_c, interleaved, need, nginx, post_bytes, wait_for, wrk

TOOLS = ("bash", "sh", "wasm-validate", "wasm-opt", "wasm2c", "gcc", "ld", "as")
SIZES = (1 << 10, 64 << 10, 1 << 20)
CONNECTIONS = 16

# Reading and writing at once: neither side holds a whole body.
ECHO = """
#include <unistd.h>
static char bytes[65536];
__attribute__((export_name("handle"))) void handle(void)
{
    ssize_t length;
    while ((length = read(0, bytes, sizeof(bytes))) > 0) {
        for (ssize_t at = 0; at < length;) {
            ssize_t wrote = write(1, bytes + at, (size_t)(length - at));
            if (wrote < 0) {
                __builtin_trap();
            }
            at += wrote;
        }
    }
}
"""

NGINX = """
  upstream back {{ server {address}; keepalive 64; keepalive_requests 1000000000; }}
  proxy_ssl_certificate {folder}/node.pem; proxy_ssl_certificate_key {folder}/node.key;
  proxy_ssl_trusted_certificate {folder}/ca.pem; proxy_ssl_verify on; proxy_ssl_name {name}; proxy_ssl_protocols TLSv1.3;
  client_body_buffer_size 2m; proxy_buffer_size 64k; proxy_buffers 32 64k; proxy_busy_buffers_size 256k; proxy_max_temp_file_size 0;
  server {{ listen 127.0.0.1:{{port}}; location / {{ {buffering}
    proxy_pass https://back; proxy_http_version 1.1; proxy_set_header Connection "";
    proxy_set_header X-Blixard-Hop 1; proxy_set_header X-Blixard-Function default/echo; proxy_set_header X-Blixard-Script 8; }} }}
"""


def without_compilers(folder):
    """A PATH whose wasm2c is another one that fails: a node with it has no function of its own."""
    folder.mkdir()
    for tool in TOOLS:
        if shutil.which(tool):
            (folder / tool).symlink_to(shutil.which(tool))
    (folder / "wasm2c").unlink()
    (folder / "wasm2c").write_text("#!/bin/sh\n[ \"$1\" = --version ] && echo 0.0 && exit 0\nexit 1\n")
    (folder / "wasm2c").chmod(stat.S_IRWXU | stat.S_IRGRP | stat.S_IXGRP | stat.S_IROTH | stat.S_IXOTH)
    return {"PATH": str(folder)}


@contextlib.contextmanager
def nodes(folder):
    from cluster import Cluster
    with Cluster(2, "bench", ["--log-level", "error"], here=True) as cluster:
        front, back = cluster[1], cluster[0]
        back.start().wait_ready()
        back.call("POST", "/v1/cluster", {"name": "bench", "servers": 1})
        token = front.base / "token"
        token.touch(0o600)
        token.write_text(cluster.token())
        front.start("--join-token-file", token, env=without_compilers(folder / "bin")).wait_ready()
        back.deploy("echo", compile_c(folder, "echo", ECHO).read_bytes())
        yield front, back


# ---- The measurement ----

def in_front(stack, front, back):
    """{who: (pid, URL)}."""
    who = {"Blixard": (front.process.pid, f"http://{front.gateway}/fn/echo")}
    for name, buffering in (("nginx proxy_pass", ""), ("nginx, unbuffered", "proxy_buffering off; proxy_request_buffering off;")):
        settings = NGINX.format(address=back.address, folder=back.folder / "cluster", name=back.name, buffering=buffering)
        process, port = stack.enter_context(nginx(settings))
        who[name] = (process.pid, f"http://127.0.0.1:{port}/fn/echo")
    return who


def rows_of(who, seconds, rounds, quick):
    rows = []
    for size in SIZES:
        for _, url in who.values():
            if quick:
                wait_for(url)
            else:
                wrk(url, post_bytes(size), 1, CONNECTIONS)
        long = seconds * (2 if size >= 1 << 20 and not quick else 1)
        found = interleaved(who, rounds, lambda _, server, size=size, long=long: wrk(server[1], post_bytes(size), long, CONNECTIONS, server[0]))
        theirs = min(found[name]["cpu_us_per_request"] for name in found if name != "Blixard")
        fastest = max(found[name]["requests_per_second"] for name in found if name != "Blixard")
        for name, row in found.items():
            rows.append({"server": name, "bytes": size, **row})
        rows[-len(found)]["ratio_to_nginx"] = round(theirs / found["Blixard"]["cpu_us_per_request"], 2)
        rows[-len(found)]["rate_ratio_to_nginx"] = round(found["Blixard"]["requests_per_second"] / fastest, 2)
    return rows


def measure(quick, long):
    need("nginx", "wrk", "clang-14", "wasm2c")
    seconds, rounds = (1, 1) if quick else (1, 15 if long else 5)
    with tempfile.TemporaryDirectory(prefix="blixard-bench-") as name, contextlib.ExitStack() as stack:
        front, back = stack.enter_context(nodes(pathlib.Path(name)))
        rows = rows_of(in_front(stack, front, back), seconds, rounds, quick)
    print(f"\nBodies passed on to another node and back, {CONNECTIONS} connections, median of {rounds} runs of {seconds} s (1 MiB: {2 * seconds} s); load average {busy()}")
    print(f"{'in front':<20}{'bytes':>9}{'requests/s':>12}{'p50 us':>9}{'p99 us':>9}{'CPU us':>9}{'refused':>9}{'to nginx':>10}{'its rate':>10}")
    for row in rows:
        print(f"{row['server']:<20}{row['bytes']:>9}{row['requests_per_second']:>12.0f}{row['p50_us']:>9.0f}{row['p99_us']:>9.0f}"
              f"{row['cpu_us_per_request']:>9.1f}{row['refused']:>9}{row.get('ratio_to_nginx', ''):>10}{row.get('rate_ratio_to_nginx', ''):>10}", flush=True)
    return {"rows": rows, "load_average": busy()}
