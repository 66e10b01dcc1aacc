"""A node that lies: it has the certificate of a real one, whose daemon is down, and serves what a test puts into a folder.

    truth = Asker(three, one)                    # as n3 asks n1
    closure = truth.get("/v1/peer/nix-closures/HASH")
    three.kill()
    with Forger(three, folder) as forger:
        forger.put("/v1/peer/nix-closures/HASH", closure.replace(b"Sig", b"sig"))
"""
import http.client
import pathlib
import ssl
import subprocess
import sys

SERVER = """
import http.server, pathlib, ssl, sys
folder, address, port, certificate, key = sys.argv[1:]
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        file = pathlib.Path(folder, self.path.strip("/").replace("/", "+"))
        body = file.read_bytes() if file.exists() else b"{}"
        self.send_response(200 if file.exists() else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *words):
        pass
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
context.set_alpn_protocols(["http/1.1"])
server = http.server.ThreadingHTTPServer((address, int(port)), Handler)
server.socket = context.wrap_socket(server.socket, server_side=True)
print("ready", flush=True)
server.serve_forever()
"""


def credentials(server):
    pem = next(server.folder.rglob("node.pem"))
    return pem, pem.with_suffix(".key")


class Asker:
    """What a node is answered by another."""

    def __init__(self, node, other):
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.load_cert_chain(*credentials(node))
        address, port = other.address.rsplit(":", 1)
        self.connection = http.client.HTTPConnection(address, int(port))
        self.connection.sock = context.wrap_socket(node.host.connect(address, int(port)))

    def get(self, path):
        self.connection.request("GET", path)
        answer = self.connection.getresponse()
        body = answer.read()
        assert answer.status == 200, (path, answer.status, body)
        return body


class Forger:
    def __init__(self, node, folder):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir()
        address, port = node.address.rsplit(":", 1)
        self.command = node.host.command(sys.executable, "-c", SERVER, self.folder, address, port, *credentials(node))

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout.readline() == "ready\n"
        return self

    def put(self, path, body):
        (self.folder / path.strip("/").replace("/", "+")).write_bytes(body)

    def __exit__(self, *what):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
