"""Runs `def handler(event, context)` against the Runtime API (AWS_LAMBDA_RUNTIME_API).

_HANDLER is MODULE.FUNCTION; the module is in LAMBDA_TASK_ROOT, with folders as a/b.function or a.b.function.

What a handler yields (text or bytes) is passed on as it comes.  A dict that comes first has statusCode, headers and cookies.
"""
import base64
import http.client
import importlib
import json
import os
import sys
import time
import traceback
import types

SECRETS = "/run/secrets"  # written before each invocation: never part of what all of them begin with
PREFIX = "/2018-06-01/runtime/"
connection = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])


def call(method, path, body=None, fields=None):
    connection.request(method, PREFIX + path, body, fields or {})
    answer = connection.getresponse()
    return answer, answer.read()


def error_of(error):
    frames = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in frames if frame.filename != __file__ and not frame.filename.startswith("<frozen")]
    return json.dumps({"errorMessage": str(error), "errorType": type(error).__name__,
                       "stackTrace": traceback.format_list(frames)}).encode()


class Context:
    def __init__(self, fields):
        self.aws_request_id = fields["Lambda-Runtime-Aws-Request-Id"]
        self.invoked_function_arn = fields["Lambda-Runtime-Invoked-Function-Arn"]
        self.function_name = os.environ["AWS_LAMBDA_FUNCTION_NAME"]
        self.function_version = os.environ["AWS_LAMBDA_FUNCTION_VERSION"]
        self.memory_limit_in_mb = os.environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"]
        self.log_group_name = "/aws/lambda/" + self.function_name
        self.log_stream_name = self.aws_request_id
        self.identity = None
        self.client_context = None
        self.deadline_ms = int(fields["Lambda-Runtime-Deadline-Ms"])

    def get_remaining_time_in_millis(self):
        return max(0, self.deadline_ms - int(time.time() * 1000))

    @staticmethod
    def log(message):
        sys.stdout.write(str(message))


def take_secrets():
    if os.path.isdir(SECRETS):
        for name in os.listdir(SECRETS):
            with open(os.path.join(SECRETS, name), "rb") as secret:
                os.environb[os.fsencode(name)] = secret.read()


def find_handler():
    module, _, function = os.environ["_HANDLER"].rpartition(".")
    if not module:
        raise ImportError("the handler is to be MODULE.FUNCTION, not " + repr(os.environ["_HANDLER"]))
    return getattr(importlib.import_module(module.replace("/", ".")), function)


def stream(path, pieces):
    """The answer in pieces; an error behind the first of them goes into the trailer."""
    pieces = iter(pieces)
    first = next(pieces, b"")
    type_of = "application/octet-stream"
    if isinstance(first, dict):
        type_of = "application/vnd.awslambda.http-integration-response"
        first = json.dumps(first).encode() + bytes(8)
    connection.putrequest("POST", PREFIX + path + "/response")
    connection.putheader("Lambda-Runtime-Function-Response-Mode", "streaming")
    connection.putheader("Content-Type", type_of)
    connection.putheader("Transfer-Encoding", "chunked")
    connection.putheader("Trailer", "Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body")
    connection.endheaders()
    trailer = b""
    try:
        send(first)
        for piece in pieces:
            send(piece)
    except Exception as error:
        traceback.print_exc()
        name = type(error).__name__
        body = json.dumps({"errorType": name, "errorMessage": str(error)[:2048]}).encode()
        trailer = (b"Lambda-Runtime-Function-Error-Type: " + name.encode("ascii", "replace") + b"\r\n"
                   b"Lambda-Runtime-Function-Error-Body: " + base64.b64encode(body) + b"\r\n")
    sys.stdout.flush()
    sys.stderr.flush()
    connection.send(b"0\r\n" + trailer + b"\r\n")
    connection.getresponse().read()


def send(piece):
    piece = piece.encode() if isinstance(piece, str) else bytes(piece)
    if piece:
        connection.send(b"%x\r\n%b\r\n" % (len(piece), piece))


def answer_to(path, value):
    if isinstance(value, types.GeneratorType):
        stream(path, value)
    else:
        answer = json.dumps(value).encode()
        sys.stdout.flush()
        call("POST", path + "/response", answer)


def main():
    sys.path.insert(0, os.environ["LAMBDA_TASK_ROOT"])
    sys.stdout.reconfigure(line_buffering=True)
    try:
        handler = find_handler()
    except BaseException as error:
        traceback.print_exc()
        call("POST", "init/error", error_of(error), {"Lambda-Runtime-Function-Error-Type": "Runtime.ImportModuleError"})
        sys.exit(1)
    while True:
        fields, event = call("GET", "invocation/next")
        path = "invocation/" + fields.headers["Lambda-Runtime-Aws-Request-Id"]
        os.environ["_X_AMZN_TRACE_ID"] = fields.headers.get("Lambda-Runtime-Trace-Id", "")
        try:
            take_secrets()
            answer_to(path, handler(json.loads(event), Context(fields.headers)))
        except Exception as error:
            traceback.print_exc()
            sys.stderr.flush()
            call("POST", path + "/error", error_of(error))


main()
