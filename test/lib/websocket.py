"""A WebSocket client by hand (RFC 6455, RFC 7692), that can do what no good one does."""
import base64
import socket
import struct
import zlib

WAIT_SECONDS = 60
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
FIN, MASK = 0x80, 0x80
PACKED = 0x40  # the first bit of extensions
DEFLATE = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"


def frame(kind, payload=b"", fin=True, mask=b"\1\2\3\4", first=0):
    """As a client writes it; mask None: without."""
    head = bytes([(FIN if fin else 0) | first | kind])
    bit = MASK if mask is not None else 0
    if len(payload) < 126:
        head += bytes([bit | len(payload)])
    elif len(payload) < 65536:
        head += struct.pack(">BH", bit | 126, len(payload))
    else:
        head += struct.pack(">BQ", bit | 127, len(payload))
    if mask is None:
        return head + payload
    key = mask * (len(payload) // 4 + 1)
    return head + mask + bytes(a ^ b for a, b in zip(payload, key))


def pack(data):
    """A message, packed by itself (RFC 7692, 7.2.1)."""
    packer = zlib.compressobj(wbits=-15)
    return (packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]


def unpack(data):
    return zlib.decompressobj(wbits=-15).decompress(data + b"\0\0\xff\xff")


class Client:
    """A client by hand, that can do what no good one does."""

    KEY = base64.b64encode(b"0123456789abcdef")

    def __init__(self, address, path, fields=(), context=None, receive_bytes=None):
        host, port = address.split(":")
        self.socket = socket.socket()
        if receive_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(WAIT_SECONDS)
        self.socket.connect((host, int(port)))
        if context:
            self.socket = context.wrap_socket(self.socket, server_hostname="127.0.0.1")
        lines = {"Host": address, "Upgrade": "websocket", "Connection": "keep-alive, Upgrade", "Sec-WebSocket-Key": self.KEY.decode(),
                 "Sec-WebSocket-Version": "13", **dict(fields)}
        text = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value is not None)
        self.socket.sendall(f"GET {path} HTTP/1.1\r\n{text}\r\n".encode())
        self.heard = b""
        head = self.until(b"\r\n\r\n").decode()
        self.status = int(head.split()[1])
        self.fields = {line.split(":")[0].lower(): line.split(":", 1)[1].strip() for line in head.splitlines()[1:] if ":" in line}

    def close(self):
        self.socket.close()

    def more(self):
        piece = self.socket.recv(65536)
        if not piece:
            raise EOFError(self.heard)
        self.heard += piece

    def until(self, end):
        while end not in self.heard:
            self.more()
        taken, self.heard = self.heard.split(end, 1)
        return taken

    def take(self, count):
        while len(self.heard) < count:
            self.more()
        taken, self.heard = self.heard[:count], self.heard[count:]
        return taken

    def send(self, *frames):
        self.socket.sendall(b"".join(frames))

    def receive(self, packed=False):
        """(kind, payload) of a frame, which must be whole and unmasked, and packed where that is expected."""
        first, second = self.take(2)
        assert bool(first & PACKED) == packed, first
        assert first & FIN and not second & MASK, (first, second)
        length = second & 127
        if length == 126:
            length, = struct.unpack(">H", self.take(2))
        elif length == 127:
            length, = struct.unpack(">Q", self.take(8))
        payload = self.take(length)
        return first & 15, unpack(payload) if packed else payload

    def closed(self):
        """(code, reason) of the close that comes, and then the end."""
        kind, payload = self.receive()
        while kind != CLOSE:
            kind, payload = self.receive()
        try:
            while True:
                self.more()
        except (EOFError, ConnectionResetError):
            pass
        return (struct.unpack(">H", payload[:2])[0], payload[2:].decode()) if payload else (None, "")
