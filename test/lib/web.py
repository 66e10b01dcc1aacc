"""A web server for what functions fetch: the path says how it behaves.  It serves until stop().

    web = Web()                          # http://127.0.0.1:PORT
    web = Web(certificate="cert.pem")    # https
    web.seen                             # requests, as dictionaries
    web.go.set()                         # what /held and /pieces wait for
"""
import gzip
import http.server
import json
import ssl
import threading
import urllib.parse


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", fields=()):
        self.send_response(status)
        for name, value in fields:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def chunk(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def begin_chunks(self, fields=()):
        self.send_response(200)
        for name, value in fields:
            self.send_header(name, value)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def do(self):
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length).decode(errors="replace")
        self.server.web.seen.append({"method": self.command, "path": self.path, "body": body, "port": self.client_address[1],
                                     "fields": {name.lower(): value for name, value in self.headers.items()}})
        getattr(self, "on_" + url.path.strip("/").split("/")[0], self.on_echo)(query)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_PROPFIND = do

    def on_echo(self, _):
        self.answer(200, json.dumps(self.server.web.seen[-1]).encode(), [("Content-Type", "application/json"), ("X-One", "1")])

    def on_plain(self, _):
        seen = self.server.web.seen[-1]
        text = f"{seen['method']} {seen['path']} {seen['body'] or '-'} {seen['fields'].get('x-mine', '-')}"
        self.answer(201, text.encode(), [("X-One", "eins")])

    def on_status(self, query):
        self.answer(int(query["n"]), b"" if query["n"] in ("204", "304") else b"said so\n")

    def on_redirect(self, query):
        self.answer(int(query.get("status", 302)), b"elsewhere\n" * 10, [("Location", query["to"])])

    def on_loop(self, _):
        self.answer(302, b"", [("Location", "/loop")])

    def on_far(self, query):
        """So many redirects until it is there."""
        left = int(query["n"])
        self.answer(302 if left else 200, b"there\n", [("Location", f"far?n={left - 1}")] if left else [])

    def on_big(self, query):
        self.begin_chunks()
        left = int(query["n"])
        while left > 0:
            self.chunk(b"x" * min(left, 65536))
            left -= 65536
        self.chunk(b"")

    def on_endless(self, _):
        self.begin_chunks()
        try:
            while True:
                self.chunk(b"y" * 65536)
        except OSError:
            self.server.web.gone.set()
            self.close_connection = True

    def on_silent(self, _):
        """No answer, until the other side goes."""
        try:
            self.connection.recv(1)
        except OSError:
            pass
        self.server.web.gone.set()
        self.close_connection = True

    def on_held(self, query):
        """The first ones wait for the last one."""
        if query["n"] == "2":
            self.server.web.go.set()
        else:
            self.server.web.go.wait(20)
        self.answer(200, query["n"].encode())

    def on_pieces(self, _):
        self.begin_chunks()
        self.chunk(b"first\n")
        self.server.web.go.wait(20)
        self.chunk(b"second\n")
        self.chunk(b"")

    def on_gzip(self, _):
        self.answer(200, gzip.compress(b"squeezed\n" * 1000), [("Content-Encoding", "gzip"), ("Content-Type", "text/plain")])

    def on_bomb(self, _):
        self.answer(200, gzip.compress(b"\0" * (64 << 20)), [("Content-Encoding", "gzip")])

    def on_badgzip(self, _):
        self.answer(200, b"this is no gzip", [("Content-Encoding", "gzip")])

    def raw(self, data):
        self.wfile.write(data)
        self.wfile.flush()
        self.close_connection = True

    def on_cut(self, _):
        self.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nten bytes.")

    def on_close(self, _):
        self.close_connection = True

    def on_garbage(self, _):
        self.raw(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")

    def on_headers(self, query):
        self.answer(200, b"many", [(f"X-{i}", "v" * 1000) for i in range(int(query["n"]))])

    def on_badfield(self, _):
        self.raw(b"HTTP/1.1 200 OK\r\nA b: c\r\nContent-Length: 0\r\n\r\n")

    def on_interim(self, _):
        self.raw(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nX-Folded: one\r\n  two\r\nBlixard-Url: no\r\n"
                 b"Set-Cookie: a=b\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Trailer: t\r\n\r\n")

    def on_upgrade(self, _):
        self.raw(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n")


class Web:
    def __init__(self, certificate=None, host="127.0.0.1"):
        self.seen = []
        self.go = threading.Event()
        self.gone = threading.Event()
        self.server = http.server.ThreadingHTTPServer((host, 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # clients that go, and those that do not believe the certificate
        self.server.web = self
        self.port = self.server.server_address[1]
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"{'https' if certificate else 'http'}://{host}:{self.port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


class Authority:
    """A CA in a folder, by openssl: authority.pem, and certificates with keys."""

    def __init__(self, folder, run):
        self.folder, self.run = folder, run
        run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=tests",
             "-days", "2", "-keyout", folder / "authority.key", "-out", folder / "authority.pem"], check=True, capture_output=True)
        self.file = folder / "authority.pem"

    def certificate(self, name, names, days=2):
        """names: "DNS:localhost,IP:127.0.0.1"."""
        key, request, certificate, both = (self.folder / f"{name}.{kind}" for kind in ("key", "csr", "crt", "pem"))
        extension = self.folder / f"{name}.ext"
        extension.write_text(f"subjectAltName={names}\n")
        self.run(["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
                  "-keyout", key, "-out", request], check=True, capture_output=True)
        self.run(["openssl", "x509", "-req", "-in", request, "-CA", self.file, "-CAkey", self.folder / "authority.key",
                  "-CAcreateserial", "-days", str(days), "-extfile", extension, "-out", certificate], check=True, capture_output=True)
        both.write_text(certificate.read_text() + key.read_text())
        return both
