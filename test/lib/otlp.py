"""A collector for tests: takes OTLP over HTTP, and decodes it strictly, from the protocol's .proto files
(opentelemetry-proto 1.x: collector/trace/v1, trace/v1, common/v1, resource/v1).

    with Collector() as collector:
        ... --otlp-endpoint collector.url ...
        spans = collector.until(lambda spans: len(spans) >= 3)

A field that is not in the schema, a wrong wire type, a string that is not UTF-8, or bytes left over are
errors: they fail the test, because a real collector would drop or misread them.
"""
import gzip
import http.server
import struct
import threading
import time

SECONDS = 30


class Malformed(Exception):
    pass


# name -> {number: (field, kind, is repeated)}; kind: a message's name, or a scalar's.
SCHEMA = {
    "Request": {1: ("resource_spans", "ResourceSpans", True)},
    "ResourceSpans": {1: ("resource", "Resource", False), 2: ("scope_spans", "ScopeSpans", True), 3: ("schema_url", "string", False)},
    "Resource": {1: ("attributes", "KeyValue", True), 2: ("dropped_attributes_count", "uint32", False)},
    "ScopeSpans": {1: ("scope", "Scope", False), 2: ("spans", "Span", True), 3: ("schema_url", "string", False)},
    "Scope": {1: ("name", "string", False), 2: ("version", "string", False), 3: ("attributes", "KeyValue", True),
              4: ("dropped_attributes_count", "uint32", False)},
    "Span": {1: ("trace_id", "bytes", False), 2: ("span_id", "bytes", False), 3: ("trace_state", "string", False),
             4: ("parent_span_id", "bytes", False), 5: ("name", "string", False), 6: ("kind", "enum", False),
             7: ("start_time_unix_nano", "fixed64", False), 8: ("end_time_unix_nano", "fixed64", False),
             9: ("attributes", "KeyValue", True), 10: ("dropped_attributes_count", "uint32", False),
             11: ("events", "Event", True), 12: ("dropped_events_count", "uint32", False), 13: ("links", "Link", True),
             14: ("dropped_links_count", "uint32", False), 15: ("status", "Status", False), 16: ("flags", "fixed32", False)},
    "Event": {1: ("time_unix_nano", "fixed64", False), 2: ("name", "string", False), 3: ("attributes", "KeyValue", True),
              4: ("dropped_attributes_count", "uint32", False)},
    "Link": {1: ("trace_id", "bytes", False), 2: ("span_id", "bytes", False), 3: ("trace_state", "string", False),
             4: ("attributes", "KeyValue", True), 6: ("flags", "fixed32", False)},
    "Status": {2: ("message", "string", False), 3: ("code", "enum", False)},
    "KeyValue": {1: ("key", "string", False), 2: ("value", "AnyValue", False)},
    "AnyValue": {1: ("string_value", "string", False), 2: ("bool_value", "bool", False), 3: ("int_value", "int64", False),
                 4: ("double_value", "double", False), 7: ("bytes_value", "bytes", False)},
}
WIRE = {"uint32": 0, "enum": 0, "bool": 0, "int64": 0, "fixed64": 1, "double": 1, "fixed32": 5}


def varint(data, at):
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise Malformed("a varint that does not end")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def decode(data, message):
    """The message as a dict; a repeated field is a list, and there is no field twice that is not one."""
    fields = SCHEMA[message]
    out = {name: [] for name, _, repeated in fields.values() if repeated}
    at = 0
    while at < len(data):
        tag, at = varint(data, at)
        number, wire = tag >> 3, tag & 7
        if number not in fields:
            raise Malformed(f"{message} has no field {number}")
        name, kind, repeated = fields[number]
        if wire != WIRE.get(kind, 2):
            raise Malformed(f"{message}.{name}: wire type {wire}")
        if wire == 0:
            value, at = varint(data, at)
            if kind == "int64" and value >= 1 << 63:
                value -= 1 << 64
        elif wire == 2:
            length, at = varint(data, at)
            if at + length > len(data):
                raise Malformed(f"{message}.{name}: {length} bytes, {len(data) - at} are left")
            value, at = data[at:at + length], at + length
            if kind == "string":
                value = value.decode()
            elif kind != "bytes":
                value = decode(value, kind)
        else:
            size = 8 if wire == 1 else 4
            if at + size > len(data):
                raise Malformed(f"{message}.{name}: cut")
            value, at = struct.unpack("<d" if kind == "double" else "<Q" if size == 8 else "<I", data[at:at + size])[0], at + size
        if repeated:
            out[name].append(value)
        elif name in out:
            raise Malformed(f"{message}.{name} twice")
        else:
            out[name] = value
    return out


def attributes(pairs):
    out = {}
    for pair in pairs:
        if pair["key"] in out:
            raise Malformed(f"attribute {pair['key']} twice")
        (value,) = pair["value"].values()
        out[pair["key"]] = value
    return out


def spans_of(body):
    """What the specification demands of each span, checked; its attributes as a dict, the resource's beside."""
    found = []
    for group in decode(body, "Request")["resource_spans"]:
        resource = attributes(group["resource"]["attributes"])
        for scope in group["scope_spans"]:
            for span in scope["spans"]:
                if len(span["trace_id"]) != 16 or len(span["span_id"]) != 8 or not any(span["trace_id"]) or not any(span["span_id"]):
                    raise Malformed("ids")
                if len(span.get("parent_span_id", b"")) not in (0, 8) or not span["name"] or span["kind"] not in range(1, 6):
                    raise Malformed(f"{span}")
                if span["end_time_unix_nano"] < span["start_time_unix_nano"]:
                    raise Malformed("it ends before it begins")
                found.append({**span, "trace_id": span["trace_id"].hex(), "span_id": span["span_id"].hex(),
                              "parent_span_id": span.get("parent_span_id", b"").hex(), "resource": resource,
                              "attributes": attributes(span["attributes"])})
    return found


class Collector:
    """`answers`: for the first requests, then 200: a status, or (status, fields, body)."""

    def __init__(self, answers=()):
        self.answers = list(answers)
        self.spans, self.requests, self.problems = [], [], []
        self.changed = threading.Condition()
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.take(self, body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # a node that is ended breaks its connection off
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def take(self, handler, body):
        with self.changed:
            answer = self.answers.pop(0) if self.answers else 200
            status, fields, said = answer if isinstance(answer, tuple) else (answer, {}, b"")
            self.requests.append((handler.path, dict(handler.headers.items()), status))
            try:
                if handler.headers["Content-Type"] != "application/x-protobuf":
                    raise Malformed(handler.headers["Content-Type"])
                if handler.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                spans = spans_of(body)
                if status == 200:
                    self.spans += spans
            except (Malformed, KeyError, UnicodeDecodeError, ValueError) as problem:
                self.problems.append(f"{problem!r}: {body.hex()}")
            self.changed.notify_all()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/x-protobuf")
        for name, value in fields.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(said)))
        handler.end_headers()
        handler.wfile.write(said)

    def until(self, holds, seconds=SECONDS):
        """The spans, once `holds` of them."""
        end = time.monotonic() + seconds
        with self.changed:
            while not holds(self.spans):
                assert not self.problems, self.problems
                assert self.changed.wait(end - time.monotonic()), (self.requests, self.spans)
            assert not self.problems, self.problems
            return list(self.spans)

    def until_asked(self, times, seconds=SECONDS):
        end = time.monotonic() + seconds
        with self.changed:
            while len(self.requests) < times:
                assert self.changed.wait(end - time.monotonic()), self.requests

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
