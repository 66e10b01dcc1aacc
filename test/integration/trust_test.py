"""Who may do what: every operation of spec/operations.def over TLS, asked by every kind of caller.

EXPECTED names what each operation is; VERDICTS says what each kind of caller gets for each of these.
An operation that is added must be given its place here, or the first test fails.
"""
import base64
import contextlib
import http.client
import json
import os
import pathlib
import re
import shutil
import socket
import ssl
import struct
import subprocess
import tempfile
import time
import unittest

from member import Member, WAIT_SECONDS

ROOT = pathlib.Path(__file__).resolve().parents[2]
OPERATION = re.compile(r'^OPERATION\((\w+),\s*(\w+),\s*"([^"]+)",\s*"([^"]+)"', re.M)

# public: anybody; member: who reads and runs functions, nodes carry that on for others; admin: clients and the
# administrator of the machine; peer: nodes; stranger: anybody over TLS, who then shows a secret.
EXPECTED = {
    "blob_put": "member", "blob_get": "member", "function_list": "member", "function_get": "member", "function_forecast": "member", "function_usage": "member", "function_delete": "member",
    "version_create": "member", "version_list": "member", "version_get": "member", "version_delete": "member",
    "alias_set": "member", "invocation_create": "member", "log_get": "member", "operation_list": "member",
    "operation_get": "member", "operation_wait": "member", "operation_cancel": "member", "event_list": "member",
    "node_get": "member", "node_forecast": "member", "cluster_get": "member", "cluster_init": "admin", "leader_set": "admin", "node_list": "member",
    "node_show": "member", "node_update": "admin", "node_remove": "admin", "node_label": "admin", "node_unlabel": "admin",
    "node_cordon": "admin", "node_uncordon": "admin", "cluster_rebalance": "admin", "node_drain": "admin", "node_restore": "admin", "node_taint": "admin", "node_untaint": "admin", "node_window_set": "admin", "node_window_delete": "admin",
    "token_create": "admin", "token_list": "admin", "token_delete": "admin", "client_create": "admin", "client_list": "admin",
    "client_delete": "admin", "join": "stranger", "login": "stranger", "node_heartbeat": "peer", "certificate_renew": "peer",
    "key_get": "peer", "image_get": "peer", "cluster_backup": "admin", "openapi_get": "public", "metrics_get": "member",
    "health_get": "public", "ready_get": "public",
    "alias_delete": "member", "alias_history": "member", "alias_rollback": "member", "kv_list": "member", "kv_get": "member",
    "kv_set": "member", "kv_delete": "member", "queue_list": "member", "queue_create": "member", "queue_get": "member",
    "queue_update": "member", "queue_delete": "member", "queue_send": "member", "queue_peek": "member",
    "queue_receive": "member", "queue_ack": "member", "queue_nack": "member", "queue_extend": "member",
    "queue_purge": "member", "queue_redrive": "member", "stream_list": "member", "stream_create": "member",
    "stream_get": "member", "stream_update": "member", "stream_delete": "member", "stream_append": "member",
    "stream_read": "member", "checkpoint_set": "member", "checkpoint_list": "member", "group_delete": "member",
    "invocation_list": "member", "invocation_get": "member", "invocation_wait": "member", "invocation_cancel": "member",
    "invocation_redrive": "member", "trigger_list": "member", "trigger_create": "member", "trigger_get": "member",
    "trigger_set": "member", "trigger_update": "member", "trigger_delete": "member", "trigger_test": "member", "trigger_check": "member",
    "route_list": "member", "route_get": "member", "route_set": "member", "route_update": "member", "route_delete": "member",
    "trace_list": "member", "trace_get": "member",
    "secret_list": "member", "secret_get": "member", "secret_set": "member", "secret_delete": "member",
    "secrets_key_get": "peer",
    "store_path_list": "member", "store_path_get": "member", "store_root_list": "member", "store_pin": "member", "store_unpin": "member",
    "store_gc": "member", "store_verify": "member", "store_copy": "member", "store_key_get": "member", "nix_closure_get": "peer",
    "nix_packed_get": "peer",
    "machine_list": "member", "machine_create": "member", "machine_get": "member", "machine_forecast": "member", "machine_delete": "member",
    "machine_act": "member", "machine_update": "member", "machine_usage": "member", "machine_event_list": "member", "machine_exec": "member", "machine_console": "member", "machine_log": "member",
    "machine_snapshot_list": "member", "machine_snapshot_create": "member", "machine_snapshot_get": "member",
    "machine_snapshot_delete": "member", "machine_restore": "member", "machine_clone": "member",
    "machine_migrate": "member", "machine_arrive": "peer", "machine_visit": "peer", "machine_export": "member", "machine_import": "member",
    "machine_file_get": "member", "machine_file_put": "member", "hypervisor_list": "member", "image_blob_put": "member", "image_pull": "member", "image_verify": "member", "image_pulled_get": "member", "image_pulled_delete": "member",
    "machine_image_list": "member", "machine_image_get": "member", "machine_image_set": "member",
    "machine_image_delete": "member", "volume_list": "member", "volume_create": "member", "volume_get": "member",
    "volume_update": "member", "volume_delete": "member", "volume_snapshot_list": "member",
    "volume_snapshot_create": "member", "volume_snapshot_delete": "member", "volume_snapshot_restore": "member",
    "machine_volume_put": "member", "machine_volume_delete": "member",
    "network_list": "member", "network_create": "member", "network_get": "member", "network_update": "member", "network_delete": "member",
    "security_group_list": "member", "security_group_create": "member", "security_group_get": "member",
    "security_group_delete": "member", "security_rule_add": "member", "security_rule_remove": "member",
    "quota_list": "member", "quota_get": "member", "quota_set": "admin", "quota_update": "admin", "quota_delete": "admin",
    "plan_create": "member", "apply_create": "member", "manifest_list": "member",
    "machine_gang_create": "member", "placement_list": "member", "placement_explain": "member", "placement_preview": "member",
    "placement_strategy_get": "member", "placement_strategy_set": "member", "cluster_strategy_set": "admin", "reservation_create": "member", "reservation_list": "member", "reservation_get": "member",
    "strategy_list": "member", "strategy_get": "member", "strategy_put": "member", "strategy_delete": "member",
    "reservation_delete": "member", "placement_group_list": "member", "placement_group_create": "member",
    "placement_group_get": "member", "placement_group_delete": "member",
}

IN, WHO, NO, OUT = "let in", "401", "403", "no connection"
KINDS = ("public", "stranger", "member", "admin", "peer")
VERDICTS = {
    # what is shown                                 public stranger member admin peer
    "nothing":                              dict(zip(KINDS, (IN, IN, WHO, WHO, WHO))),
    "a certificate of another authority":   dict(zip(KINDS, (OUT,) * 5)),
    "a client's of another cluster":        dict(zip(KINDS, (OUT,) * 5)),
    "an expired certificate":               dict(zip(KINDS, (OUT,) * 5)),
    "a removed node's certificate":         dict(zip(KINDS, (IN, IN, NO, NO, NO))),
    "a deleted client's certificate":       dict(zip(KINDS, (IN, IN, WHO, WHO, WHO))),
    "a client's first certificate":         dict(zip(KINDS, (IN, IN, WHO, WHO, WHO))),
    "a node's certificate":                 dict(zip(KINDS, (IN, IN, IN, NO, IN))),
    "a client's certificate":               dict(zip(KINDS, (IN, IN, IN, IN, NO))),
    "a client's that says it is a node":    dict(zip(KINDS, (IN, IN, IN, IN, NO))),
    "a token":                              dict(zip(KINDS, (IN, IN, IN, IN, NO))),
    "a token that says it is a node":       dict(zip(KINDS, (IN, IN, IN, IN, NO))),
    "a wrong token":                        dict(zip(KINDS, (IN, IN, WHO, WHO, WHO))),
    "a deleted client's token":             dict(zip(KINDS, (IN, IN, WHO, WHO, WHO))),
    "an expired token":                     dict(zip(KINDS, (IN, IN, WHO, WHO, WHO))),
    "a login token as a bearer's":          dict(zip(KINDS, (IN, IN, WHO, WHO, WHO))),
    "a join token as a bearer's":           dict(zip(KINDS, (IN, IN, WHO, WHO, WHO))),
    "nothing, on loopback":                 dict(zip(KINDS, (IN, NO, IN, IN, NO))),
}

HOP = {"X-Blixard-Hop": "1", "X-Blixard-Deadline-Ms": "1000"}


def setUpModule():
    if shutil.which("openssl") is None:
        raise unittest.SkipTest("no openssl program")


def openssl(*arguments, stdin=None):
    return subprocess.run(["openssl", *map(str, arguments)], input=stdin, check=True, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, timeout=60).stdout


class Holder:
    """A key with what was signed for it."""

    def __init__(self, folder, name):
        place = pathlib.Path(folder, name + os.urandom(4).hex())
        self.key, self.pair = place.with_suffix(".key"), place.with_suffix(".pem")
        self.request = openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout",
                               self.key, "-subj", "/CN=x").decode()

    def take(self, certificate):
        self.pair.write_bytes(self.key.read_bytes() + certificate)
        return self.pair


def secret_of(token):
    text = token.removeprefix("blx1.")
    return json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


def token_of(fields):
    return "blx1." + base64.urlsafe_b64encode(json.dumps(fields, separators=(",", ":")).encode()).decode().rstrip("=")


class Cluster:
    """One node, with whoever may want something of it."""

    def __init__(self):
        self.stack = contextlib.ExitStack()
        self.folder = pathlib.Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="blixard-trust-")))
        self.one = self._begin("one", 1)
        self.ca = self.one.data / "cluster/ca.pem"

    def _begin(self, name, number):
        member = Member(name, number)
        self.stack.callback(member.clean)
        member.begin()
        member.request("POST", "/v1/cluster", {"name": "home"})
        return member

    def tls(self, pair=None, protocols=("http/1.1",), ca=None):
        context = ssl.create_default_context(cafile=ca or self.ca)
        context.check_hostname = False
        context.set_alpn_protocols(protocols)
        if pair:
            context.load_cert_chain(pair)
        return context

    def connect(self, pair=None, member=None, **more):
        host, port = (member or self.one).cluster.split(":")
        more.setdefault("ca", (member or self.one).data / "cluster/ca.pem")
        return http.client.HTTPSConnection(host, int(port), context=self.tls(pair, **more), timeout=WAIT_SECONDS)

    def raw(self, pair=None, protocols=("blixard-store/1",)):
        host, port = self.one.cluster.split(":")
        stream = socket.create_connection((host, int(port)), timeout=WAIT_SECONDS)
        return self.tls(pair, protocols).wrap_socket(stream)

    def post(self, path, body, member=None):
        with contextlib.closing(self.connect(member=member)) as connection:
            connection.request("POST", path, json.dumps(body))
            answer = connection.getresponse()
            data = json.loads(answer.read())
            return answer.status, data

    def join(self, name, token=None, **changed):
        """As a node would that is none: (status, answer, its holder)."""
        token = secret_of(token or self.one.token(role="worker"))
        holder = Holder(self.folder, name)
        wanted = {"token": token["t"], "secret": token["s"], "request": holder.request, "name": name,
                  "address": f"{name}:7421", "gateway": "", "failure_domain": "", "version": "0",
                  "schema": self.one.request("GET", "/v1/cluster")["schema"], **changed}
        status, answer = self.post("/v1/join", wanted)
        if status == 201:
            holder.take(answer["certificate"].encode())
        return status, answer, holder

    def client(self, name, kind="certificate", member=None, **more):
        return (member or self.one).request("POST", "/v1/clients", {"name": name, "kind": kind, **more})["token"]

    def login(self, name, member=None, **more):
        token = secret_of(self.client(name, member=member, **more))
        holder = Holder(self.folder, name)
        status, answer = self.post("/v1/login", {"client": name, "secret": token["s"], "request": holder.request}, member)
        assert status == 201, answer
        return holder.take(answer["certificate"].encode())

    def impostor(self, identity):
        """Signed by an authority of its own, with the name of somebody here."""
        ca = self.folder / "evil"
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{ca}.key",
                "-out", f"{ca}.pem", "-subj", "/CN=home", "-days", "2")
        holder = Holder(self.folder, "impostor")
        extensions = self.folder / "extensions"
        extensions.write_text(f"subjectAltName=URI:{identity}\nextendedKeyUsage=clientAuth,serverAuth\n")
        return holder.take(openssl("x509", "-req", "-CA", f"{ca}.pem", "-CAkey", f"{ca}.key", "-CAcreateserial", "-days", "1",
                                   "-extfile", extensions, stdin=holder.request.encode()))


def until(member, holds, what):
    """Nothing tells that a certificate has ended: it is asked again and again, in the pace of the node's answers."""
    end = time.monotonic() + WAIT_SECONDS
    while not holds():
        if time.monotonic() > end:
            raise AssertionError(f"never: {what}")
        member.request("GET", f"/v1/cluster?index={member.status()['index']}&wait=50ms")


def ask_over(connection, method, path, fields=None):
    """(status, the problem or {}); of what streams, the head."""
    body = "x" if method in ("POST", "PUT", "PATCH") else None
    connection.request(method, path, body, fields or {})
    answer = connection.getresponse()
    if answer.status >= 400:
        return answer.status, json.loads(answer.read())
    return answer.status, {}


REFUSED = ("who asks?", "is one between nodes", "may not do this", "was removed from the cluster", "knows no node", "log in again",
           "the token is", "the token of client", "this is asked with TLS", "is of nobody in this cluster", "the token is damaged")


def verdict_of(connection, method, path, fields):
    """Over a connection that others may have used: one that was closed meanwhile is none of the verdict."""
    for _ in range(2 if connection.sock else 1):
        try:
            status, problem = ask_over(connection, method, path, fields)
        except (OSError, http.client.HTTPException):
            connection.close()
            continue
        if status < 400:
            connection.close()  # it may stream
        elif status in (401, 403) and any(word in problem["detail"] for word in REFUSED):
            return str(status)
        return IN
    return OUT


def verdict_alone(connect, *question):
    with contextlib.closing(connect()) as connection:
        return verdict_of(connection, *question)


class Trust(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.cluster = cluster = Cluster()
        cls.addClassCleanup(cluster.stack.close)
        cls.operations = OPERATION.findall((ROOT / "spec/operations.def").read_text())
        cls.domain = cluster.one.status()["id"]
        cls.node = cluster.join("ghost")[2].pair
        cls.ann = cluster.login("ann")
        cls.bearer = cluster.client("ci", "token")

    # ---- Every operation and every kind of caller ----

    def callers(self):
        """Name: (how to connect, fields)."""
        cluster = self.cluster
        other = cluster._begin("other", 2)
        gone = cluster.join("gone")[2].pair
        cluster.one.request("DELETE", "/v1/nodes/gone")
        bob = cluster.login("bob")
        cluster.one.request("DELETE", "/v1/clients/bob")
        first = cluster.login("cleo")
        cluster.one.request("DELETE", "/v1/clients/cleo")
        cluster.login("cleo")
        short = cluster.login("short", ttl="1s")
        short_token = cluster.client("brief", "token", ttl="1s")
        dead_token = cluster.client("dead", "token")
        cluster.one.request("DELETE", "/v1/clients/dead")

        def tls(pair=None):
            return lambda: cluster.connect(pair)

        def bearer(token, **more):
            return tls(), {"Authorization": f"Bearer {token}", **more}

        def loopback():
            return http.client.HTTPConnection(*cluster.one.api.rsplit(":", 1), timeout=WAIT_SECONDS)

        until(cluster.one, lambda: verdict_alone(tls(short), "GET", "/healthz", {}) == OUT, "the certificate ends")
        until(cluster.one, lambda: verdict_alone(tls(), "GET", "/v1/nodes", bearer(short_token)[1]) == WHO, "the token ends")
        return {
            "nothing": (tls(), {}),
            "a certificate of another authority": (tls(cluster.impostor(f"spiffe://{self.domain}/client/ann")), {}),
            "a client's of another cluster": (tls(cluster.login("ann", member=other)), {}),
            "an expired certificate": (tls(short), {}),
            "a removed node's certificate": (tls(gone), {}),
            "a deleted client's certificate": (tls(bob), {}),
            "a client's first certificate": (tls(first), {}),
            "a node's certificate": (tls(self.node), {}),
            "a client's certificate": (tls(self.ann), {}),
            "a client's that says it is a node": (tls(self.ann), HOP),
            "a token": bearer(self.bearer),
            "a token that says it is a node": bearer(self.bearer, **HOP),
            "a wrong token": bearer("0" * 40),
            "a deleted client's token": bearer(dead_token),
            "an expired token": bearer(short_token),
            "a login token as a bearer's": bearer(cluster.client("later")),
            "a join token as a bearer's": bearer(cluster.one.token()),
            "nothing, on loopback": (loopback, {}),
        }

    def test_every_operation_has_a_decision_here(self):
        self.assertEqual({name for name, *_ in self.operations}, set(EXPECTED))

    def test_every_caller_gets_what_is_its_own_and_no_more(self):
        callers = self.callers()
        self.assertEqual(set(callers), set(VERDICTS))
        wrong = []
        for caller, (connect, fields) in callers.items():
            with contextlib.closing(connect()) as connection:
                for name, method, pattern, _ in self.operations:
                    got = verdict_of(connection, method, re.sub(r"\{[\w.]+\}", "nobody", pattern), fields)
                    wanted = VERDICTS[caller][EXPECTED[name]]
                    if name == "key_get" and got == IN and caller == "a node's certificate":
                        got = self.key_of_a_worker()
                    if got != wanted:
                        wrong.append(f"{name}: {caller}: {got}, not {wanted}")
        self.assertEqual(wrong, [])

    def key_of_a_worker(self):
        """Let in as a peer; and still no key for one that is no server."""
        with contextlib.closing(self.cluster.connect(self.node)) as connection:
            status, problem = ask_over(connection, "GET", "/v1/peer/servers-key")
        self.assertEqual((status, problem["detail"]), (403, "only a node that is to be a server gets this key"))
        return IN

    # ---- Where a token says that the cluster is ----

    def test_a_node_joins_nobody_but_its_tokens_cluster(self):
        other = self.cluster._begin("elsewhere", 3)
        fields = secret_of(self.cluster.one.token(role="worker"))
        joins = Member("joins", 4)
        self.addCleanup(joins.clean)
        joins.begin(token_of({**fields, "a": [other.cluster]}), wait=False)
        joins.until_says("authority is not the one expected")
        self.assertEqual(joins.process.wait(timeout=WAIT_SECONDS), 77)
        self.assertFalse((joins.data / "cluster").exists())
        joins.begin(token_of({**fields, "a": [other.cluster, self.cluster.one.cluster]}))
        self.assertEqual(joins.status()["id"], self.domain)

    # ---- What nodes pass on ----

    def test_only_a_node_passes_calls_of_functions_on(self):
        hop = {**HOP, "X-Blixard-Function": "default/nothing", "X-Blixard-Script": "0"}
        for pair, fields, wanted in ((None, {}, 401), (self.ann, {}, 403), (None, {"Authorization": f"Bearer {self.bearer}"}, 403),
                                     (self.node, {}, 404)):
            with contextlib.closing(self.cluster.connect(pair)) as connection:
                self.assertEqual(ask_over(connection, "GET", "/fn/nothing", {**hop, **fields})[0], wanted, (pair, fields))

    def test_a_callers_own_token_is_not_the_passing_nodes(self):
        hop = {**HOP, "X-Blixard-Function": "default/nothing", "X-Blixard-Script": "0", "Authorization": "Bearer of-the-function"}
        with contextlib.closing(self.cluster.connect(self.node)) as connection:
            self.assertEqual(ask_over(connection, "GET", "/fn/nothing", hop)[0], 404)

    # ---- What stands ----

    def test_a_connection_that_stands_is_worth_what_its_caller_is(self):
        cluster = self.cluster
        node = cluster.join("leaving")[2].pair
        client = cluster.login("leaver")
        for pair, path, wanted in ((node, "/v1/nodes/leaving", 403), (client, "/v1/clients/leaver", 401)):
            with contextlib.closing(cluster.connect(pair)) as connection:
                self.assertEqual(ask_over(connection, "GET", "/v1/functions/nothing")[0], 404)
                cluster.one.request("DELETE", path)
                self.assertEqual(ask_over(connection, "GET", "/v1/functions/nothing")[0], wanted)

    def test_a_session_of_http2_that_stands_is_too(self):
        pair = self.cluster.login("twice")
        with contextlib.closing(self.cluster.raw(pair, ("h2",))) as stream:
            stream.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b""))
            self.assertIn(b"not_found", h2_get(stream, 1, "/v1/functions/nothing"))
            self.cluster.one.request("DELETE", "/v1/clients/twice")
            self.assertIn(b"unauthenticated", h2_get(stream, 3, "/v1/functions/nothing"))

    def test_a_stream_of_events_ends_with_its_node(self):
        node = self.cluster.join("listener")[2].pair
        with contextlib.closing(self.cluster.connect(node)) as connection:
            connection.request("GET", "/v1/events")
            answer = connection.getresponse()
            self.assertEqual(answer.status, 200)
            self.cluster.one.request("DELETE", "/v1/nodes/listener")
            answer.read()  # it ends

    # ---- The store's own streams ----

    def speak(self, pair):
        """Greet and ask for an index, as a node does that wants to read: b"" when nobody listens."""
        try:
            stream = self.cluster.raw(pair)
            stream.sendall(store_frame(1, struct.pack("<BII", 0, 1, 1)) + store_frame(11, struct.pack("<Q", 7)))
            return stream, stream.recv(64)
        except (ssl.SSLError, ConnectionError):
            return None, b""

    def test_the_state_is_for_nodes_alone(self):
        cluster = self.cluster
        gone = cluster.join("removed")[2].pair
        cluster.one.request("DELETE", "/v1/nodes/removed")
        for pair in (None, self.ann, gone, cluster.impostor(f"spiffe://{self.domain}/node/1")):
            self.assertEqual(self.speak(pair)[1], b"", pair)
        stream, answer = self.speak(self.node)
        self.assertNotEqual(answer, b"")
        stream.close()

    def test_a_worker_does_not_pass_for_a_server(self):
        """Votes in a high term, entries of a leader of a higher one: nobody hears them."""
        one = self.cluster.one
        before = one.status()
        vote = struct.pack("<QQQQBB", 1000, 1, 1000000, 1000, 1, 0)
        append = struct.pack("<QQQQI", 2000, 0, 0, 1000000, 0)
        stream = self.cluster.raw(self.node)
        stream.sendall(store_frame(1, struct.pack("<BII", 0, 1, 1)) + store_frame(2, vote) + store_frame(4, append))
        one.until_says("is no server and speaks like one")
        stream.close()
        one.token()
        after = one.status()
        self.assertEqual((after["term"], after["leader"]), (before["term"], "one"))

    def test_a_node_that_is_removed_loses_its_streams(self):
        node = self.cluster.join("streaming")[2].pair
        stream, answer = self.speak(node)
        self.assertNotEqual(answer, b"")
        self.cluster.one.request("DELETE", "/v1/nodes/streaming")
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            while stream.recv(4096):
                pass
        stream.close()


def frame(kind, flags, stream, body):
    return struct.pack(">I", len(body))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + body


def h2_get(stream, number, path):
    """The body of an answer; fields are sent literally (RFC 7541, 6.2.2)."""
    def field(name, value):
        return b"\x00" + bytes((len(name),)) + name + bytes((len(value),)) + value

    head = b"".join(field(*pair) for pair in ((b":method", b"GET"), (b":scheme", b"https"), (b":path", path.encode()),
                                              (b":authority", b"localhost")))
    stream.sendall(frame(1, 5, number, head))
    reader = stream.makefile("rb")
    body = b""
    while True:
        size, kind, flags, on = struct.unpack(">I", b"\0" + reader.read(3)) + tuple(reader.read(2)) + struct.unpack(">I", reader.read(4))
        data = reader.read(size)
        if kind == 4 and not flags & 1:
            stream.sendall(frame(4, 1, 0, b""))
        if on == number and kind == 0:
            body += data
        if on == number and kind in (0, 1) and flags & 1:
            return body


def store_frame(kind, body):
    return struct.pack("<IB", len(body) + 1, kind) + body


if __name__ == "__main__":
    unittest.main()
