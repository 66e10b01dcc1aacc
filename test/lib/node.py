"""A node for tests: `blixard dev` on ports and in a folder of its own, ended by its pid.

    node = Node()
    node.deploy("hello", "hello.wasm", timeout_ms=300)
    node.get("/v1/functions/hello")
    node.stop()

BLIXARD_BUILD names the build folder (default: build).
"""
import hashlib
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

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("BLIXARD_BUILD", ROOT / "build")).resolve()
READY_SECONDS = 30
QUICK = ("--build-optimized", "0")  # engines and libraries of languages are large: what optimises them takes a minute of a core
ADDRESS = re.compile(r"^\s+(API|functions)\s+http://([^/\s]+)", re.M)


class Refused(Exception):
    """An answer that is no success: .status, .problem (the document), .fields."""

    def __init__(self, status, body, fields):
        super().__init__(f"{status}: {body[:2000].decode(errors='replace')}")
        self.status = status
        self.fields = fields
        self.body = body
        self.problem = json.loads(body) if fields.get("content-type") == "application/problem+json" else None


class Node:
    def __init__(self, folder=None, arguments=(), env=None):
        """`folder`: data of a node that ran before (it is kept); None: a new one, removed by stop()."""
        self.owned = None if folder else tempfile.mkdtemp(prefix="blixard-node-")
        self.folder = pathlib.Path(folder or self.owned)
        self.log = self.folder.with_name(self.folder.name + ".log")
        self.lines = queue.Queue()
        self.env = {**os.environ, **(env or {})}
        command = [BUILD / "blixard", "dev", "--data-folder", self.folder, "--api-address", "127.0.0.1:0",
                   "--gateway-address", "127.0.0.1:0", *arguments]
        self.process = subprocess.Popen(command, env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, text=True, errors="replace")
        threading.Thread(target=self._read, daemon=True).start()
        self._wait()
        self.env["BLIXARD_ADDR"] = f"http://{self.api}"

    def _read(self):
        """All it says goes to the log; what it says first, to whom waits for it."""
        with self.log.open("a") as log:
            for line in self.process.stdout:
                log.write(line)
                log.flush()
                self.lines.put(line)
        self.lines.put(None)

    def _wait(self):
        said = self.said = ""
        addresses = {}
        while len(addresses) < 2:
            try:
                line = self.lines.get(timeout=READY_SECONDS)
            except queue.Empty:
                line = None
            if line is None:
                self.stop()
                raise RuntimeError(f"the node did not start:\n{said}")
            said += line
            addresses = dict(ADDRESS.findall(said))
        while not said.endswith("\n\n") and "  data" not in said:
            said += self.lines.get(timeout=READY_SECONDS) or "\n\n"
        self.said = said
        self.api, self.gateway = addresses["API"], addresses["functions"]
        self.get("/readyz")

    # ---- The API ----

    def request(self, method, path, body=None, fields=None, timeout=60):
        """(status, body, fields) whatever the status."""
        host, port = self.api.rsplit(":", 1)
        connection = http.client.HTTPConnection(host, int(port), timeout=timeout)
        try:
            if isinstance(body, (dict, list)):
                body = json.dumps(body).encode()
            connection.request(method, path, body, fields or {})
            answer = connection.getresponse()
            return answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()}
        finally:
            connection.close()

    def call(self, method, path, body=None, fields=None, timeout=60):
        """The body as text; raises Refused."""
        status, data, got = self.request(method, path, body, fields, timeout)
        if status >= 300:
            raise Refused(status, data, got)
        return data.decode()

    def get(self, path):
        return self.call("GET", path)

    def json(self, path):
        return json.loads(self.get(path))

    def upload(self, module):
        data = module if isinstance(module, bytes) else pathlib.Path(module).read_bytes()
        blob = json.loads(self.call("POST", "/v1/blobs", data))
        assert blob["id"] == hashlib.sha256(data).hexdigest(), blob
        return blob["id"]

    def begin_deploy(self, name, module, **settings):
        """Upload and start: {"operation": ..., "version": ...}."""
        body = {"module": self.upload(module), **settings}
        return json.loads(self.call("POST", f"/v1/functions/{name}/versions", body))

    def wait(self, operation, timeout=120):
        return json.loads(self.call("GET", f"/v1/operations/{operation}/wait?timeout={timeout}s", timeout=timeout + 10))

    def deploy(self, name, module, **settings):
        """Deploy and wait; the version's number."""
        begun = self.begin_deploy(name, module, **settings)
        ended = self.wait(begun["operation"])
        if ended["state"] != "succeeded":
            raise RuntimeError(f"deploying {name}: {ended}")
        return begun["version"]

    def invoke(self, name, body=b""):
        return self.call("POST", f"/v1/functions/{name}/invocations", body)

    # ---- The command line ----

    def cli(self, *arguments, **options):
        return subprocess.run([BUILD / "blixard", *map(str, arguments)], env=self.env, check=True, text=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=300, **options).stdout

    # ---- Its end ----

    def kill(self):
        """As a power cut has it: no drain.  The folder stays; begin again with Node(folder)."""
        self.process.kill()
        self.process.wait()

    def stop(self):
        """Gracefully; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.owned:
            shutil.rmtree(self.owned, ignore_errors=True)
            self.log.unlink(missing_ok=True)
        return self.process.returncode

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
