from http.server import BaseHTTPRequestHandler, HTTPServer
import socket

class Hello(BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"hello from {socket.gethostname()}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

HTTPServer(("", 8000), Hello).serve_forever()
