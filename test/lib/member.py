"""Members of a cluster for tests: `blixard server` on addresses of this machine's loopback.

    one = Member("one", 1).begin()
    one.request("POST", "/v1/cluster", {"name": "home"})
    two = Member("two", 2).begin(one.token())
    two.until(is_whole(2), "two servers")
"""
import http.client
import json
import os
import pathlib
import queue
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time

from node import BUILD, Refused
from ports import free_port

SANDBOX = () if "ASAN_OPTIONS" in os.environ else ("--isolation", "process")  # which sanitizers have not

WAIT_SECONDS = 60
READY = re.compile(r"is ready: API http://([^,]+), gateway http://([^,]+),")


class Member:
    """`blixard server` at an address of its own; its data stays until clean()."""

    def __init__(self, name, number, *arguments):
        self.name = name
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix=f"blixard-{name}-"))
        self.data = self.folder / "data"
        self.host = f"127.0.0.{number}"
        self.cluster = f"{self.host}:{free_port(self.host)}"
        self.arguments = arguments
        self.said = []
        self.process = None

    def begin(self, token=None, wait=True, *arguments):
        """Start; with a token on standard input, join."""
        command = [BUILD / "blixard", "server", "--data-folder", self.data, "--node-name", self.name, *SANDBOX,
                   "--api-address", "127.0.0.1:0", "--gateway-address", "127.0.0.1:0", "--cluster-address", self.cluster,
                   *self.arguments, *arguments]
        self.lines = queue.Queue()
        self.process = subprocess.Popen([*command, "--join", "-"] if token else command, text=True, errors="replace",
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.process.stdin.write(token or "")
        self.process.stdin.close()
        threading.Thread(target=self._read, args=(self.process, self.lines), daemon=True).start()
        if wait:
            self.api, self.gateway = self.until_says(READY).groups()
        return self

    def _read(self, process, lines):
        for line in process.stdout:
            self.said.append(line)
            lines.put(line)
        lines.put(None)

    def until_says(self, pattern):
        """The next line that matches."""
        while (line := self.lines.get(timeout=WAIT_SECONDS)) is not None:
            if found := re.search(pattern, line):
                return found
        raise AssertionError(f"{self.name} ended without saying {pattern}:\n{''.join(self.said[-30:])}")

    def request(self, method, path, body=None):
        host, port = self.api.rsplit(":", 1)
        connection = http.client.HTTPConnection(host, int(port), timeout=WAIT_SECONDS)
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None)
            answer = connection.getresponse()
            data = answer.read()
            if answer.status >= 300:
                raise Refused(answer.status, data, {n.lower(): v for n, v in answer.getheaders()})
            return json.loads(data) if data else None
        finally:
            connection.close()

    def status(self):
        return self.request("GET", "/v1/cluster")

    def until(self, holds, what):
        """The cluster as this node sees it, once `holds` of it; the state's index wakes."""
        end = time.monotonic() + WAIT_SECONDS
        seen = self.status()
        while not holds(seen):
            if time.monotonic() > end:
                raise AssertionError(f"{self.name} never saw {what}: {json.dumps(seen, indent=1)}\n{''.join(self.said[-30:])}")
            seen = self.request("GET", f"/v1/cluster?index={seen['index']}&wait=250ms")
        return seen

    def token(self, **wanted):
        return self.request("POST", "/v1/tokens", wanted)["token"]

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=WAIT_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.process.returncode if self.process else None

    def clean(self):
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def node_of(status, name):
    return next((node for node in status["nodes"] if node["name"] == name), None)


def is_whole(count):
    def holds(status):
        return (status["servers"] == count and status["leader"] and len(status["nodes"]) >= count
                and all(node["health"] == "healthy" for node in status["nodes"]))
    return holds
