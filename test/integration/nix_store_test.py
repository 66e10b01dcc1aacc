"""Nix stores of nodes: what the real client of Nix reads from them and writes to them, and what nodes give each other.

Every store is a private one (nixstores.py): nothing but loopback and namespaces of the test's own is asked.
"""
import functools
import hashlib
import http.client
import json
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

from cluster import Cluster
from forger import Asker, Forger
from hosts import need_hosts
from nixstores import Stores
from ports import free_port
from web import Authority

PLAIN_ONLY = "what is tried are programs beside ours"


def in_store(server, store):
    """Its daemon has this store from now on."""
    server.start = functools.partial(server.start, wrap=store.wrap)
    server.store = store


class Alone(unittest.TestCase):
    """One node, whose store is a binary cache."""

    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="blx-nix-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        cls.stores = Stores(cls.folder)
        cls.one = cls.stores.new("one")
        cls.port = free_port()
        cls.url = f"http://127.0.0.1:{cls.port}"
        cls.token = cls.folder / "token"
        cls.token.write_text("the-token\n")
        cls.friend = cls.folder / "friend.secret"
        cls.stranger = cls.folder / "stranger.secret"
        keys = {}
        for key in (cls.friend, cls.stranger):
            cls.one.run("nix-store", "--generate-binary-cache-key", f"{key.stem}-1", key, key.with_suffix(".public"))
            keys[key] = key.with_suffix(".public").read_text().strip()
        cls.cluster = Cluster(1, here=True, arguments=["--isolation", "process", "--nix-cache-address", f"127.0.0.1:{cls.port}",
                                                      "--nix-upload-token-file", cls.token, "--nix-trusted-keys", keys[cls.friend]])
        cls.addClassCleanup(lambda: cls.cluster.close())
        cls.node = cls.cluster[0]
        in_store(cls.node, cls.one)
        cls.node.start().wait_ready()
        cls.path = cls.one.build("hello")
        cls.key = cls.node.cli("store", "key").strip()

    def ask(self, method, path, body=None, **fields):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in fields.items()})
            answer = connection.getresponse()
            return answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()}
        finally:
            connection.close()

    def narinfo(self, path):
        status, body, _ = self.ask("GET", f"/{pathlib.Path(path).name[:32]}.narinfo")
        self.assertEqual(status, 200, body)
        return dict(line.split(": ", 1) for line in body.decode().splitlines() if ": " in line)

    def copy_to(self, path, client, *options, secret=None, check=False, token="the-token", compression="zstd"):
        """`nix copy --to` the node."""
        netrc = self.folder / "netrc"
        netrc.write_text(f"machine 127.0.0.1 login anybody password {token}\n")
        url = f"{self.url}?compression={compression}" + (f"&secret-key={secret}" if secret else "")
        return client.run("nix", "copy", "--to", url, "--option", "netrc-file", netrc, *options, path, check=check)

    # ---- With a certificate ----

    def test_with_a_certificate_it_speaks_tls_alone_and_a_reader_shows_a_token(self):
        authority = Authority(self.folder, subprocess.run)
        pem = authority.certificate("cache", "IP:127.0.0.1")
        url = self.url.replace("http:", "https:")
        more = ["--nix-cache-tls-certificate", pem, "--nix-cache-tls-key", pem, "--nix-read-token-file", self.token]
        self.node.stop()
        half = self.node.start(*more[:2])
        self.assertNotEqual(half.process.wait(timeout=60), 0)
        self.assertIn("needs both nix_cache_tls_certificate and nix_cache_tls_key", half.said())
        half.process = None
        self.node.start(*more).wait_ready()
        try:
            client = self.stores.new("secure")
            netrc = self.folder / "netrc-secure"
            take = ["nix", "copy", "--from", url, "--option", "trusted-public-keys", self.key, "--option", "netrc-file", netrc,
                    "--option", "download-attempts", "1", self.path]
            believes = ["env", f"NIX_SSL_CERT_FILE={authority.file}"]
            netrc.write_text("machine 127.0.0.1 login any password another\n")
            self.assertIn("does not appear to be a binary cache", client.run(*believes, *take, check=False).stderr)
            netrc.write_text("machine 127.0.0.1 login any password the-token\n")
            self.assertRegex(client.run(*take, check=False).stderr, "certificate")
            client.run(*believes, *take)
            self.assertEqual(client.content(self.path), self.one.content(self.path))
            with self.assertRaises((OSError, http.client.HTTPException)):
                self.ask("GET", "/nix-cache-info")  # in the clear
            said = self.node.call("GET", "/metrics")
            for line in ('requests_total{asked="narinfo",answered="served"}', 'requests_total{asked="nar",answered="served"}', "sent_bytes_total"):
                self.assertRegex(said, rf"(?m)^blixard_nix_cache_{re.escape(line)} [1-9]")
        finally:
            self.node.stop()
            self.node.start().wait_ready()

    # ---- Reading ----

    def test_a_client_takes_a_closure_that_the_cluster_signed(self):
        client = self.stores.new("reads")
        refused = client.run("nix", "copy", "--from", self.url, self.path, check=False)
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn("lacks a valid signature", refused.stderr)
        self.assertFalse(client.has(self.path))
        client.run("nix", "copy", "--from", self.url, "--option", "trusted-public-keys", self.key, self.path)
        self.assertEqual(client.content(self.path), self.one.content(self.path))
        below = [path for path in client.run("nix-store", "-qR", self.path).split() if "below-" in path]
        self.assertEqual(len(below), 1)
        self.assertTrue(client.has(below[0]))

    def test_a_client_substitutes_from_it(self):
        client = self.stores.new("substitutes")
        client.run("nix-store", "-r", self.path, "--option", "substituters", self.url, "--option", "trusted-public-keys", self.key)
        self.assertEqual(client.content(self.path), self.one.content(self.path))

    def test_a_client_is_told_of_a_path_before_it_takes_it(self):
        client = self.stores.new("looks")
        self.node.cli("store", "show", self.path)
        said = json.loads(client.run("nix", "path-info", "--json", "--store", self.url, self.path))[0]
        own = json.loads(self.one.run("nix", "path-info", "--json", self.path))[0]
        self.assertEqual(said["narHash"], own["narHash"])
        self.assertEqual(said["narSize"], own["narSize"])
        self.assertEqual([name.split(":")[0] for name in said["signatures"]], [self.key.split(":")[0]])

    def test_an_archive_is_read_from_anywhere_on(self):
        url = "/" + self.narinfo(self.path)["URL"]
        status, whole, fields = self.ask("GET", url)
        self.assertEqual((status, int(fields["content-length"])), (200, len(whole)))
        self.assertEqual(fields["accept-ranges"], "bytes")
        self.assertEqual(whole[:4], b"\x28\xb5\x2f\xfd")  # zstd
        for text, expected in (("5-9", whole[5:10]), ("100-", whole[100:]), ("-7", whole[-7:]), (f"0-{len(whole) + 9}", whole)):
            status, part, fields = self.ask("GET", url, Range=f"bytes={text}")
            self.assertEqual((status, part), (206, expected), text)
            self.assertTrue(fields["content-range"].endswith(f"/{len(whole)}"))
        status, _, fields = self.ask("GET", url, Range=f"bytes={len(whole)}-")
        self.assertEqual((status, fields["content-range"]), (416, f"bytes */{len(whole)}"))
        status, nothing, fields = self.ask("HEAD", url)
        self.assertEqual((status, nothing, int(fields["content-length"])), (200, b"", len(whole)))
        self.assertEqual(int(self.narinfo(self.path)["FileSize"]), len(whole))
        hashed = self.one.run("nix-hash", "--type", "sha256", "--to-base32", hashlib.sha256(whole).hexdigest())
        self.assertEqual(self.narinfo(self.path)["FileHash"], f"sha256:{hashed}")

    def test_what_is_not_valid_is_not_there(self):
        nothing = "0" * 32
        url = self.narinfo(self.path)["URL"]
        for path in (f"/{nothing}.narinfo", f"/nar/{nothing}{url[4 + 32:]}", "/nar/../nix-cache-info", "/etc/passwd", "/", f"/{nothing}",
                     "/nar/" + url[4:].replace("-", "-1", 1)[:-9] + ".nar.zst"):
            self.assertEqual(self.ask("GET", path)[0], 404, path)
        self.assertEqual(self.ask("DELETE", f"/{nothing}.narinfo")[0], 405)
        self.assertIn(b"StoreDir: " + str(self.stores.place / "store").encode(), self.ask("GET", "/nix-cache-info")[1])

    def test_what_was_changed_in_the_store_is_not_sent(self):
        path = self.one.build("spoilt", "what it was")
        url = "/" + self.narinfo(path)["URL"]
        file = self.one.real(path) / "text"
        file.chmod(0o644)
        file.write_text("what it is".ljust(len(file.read_text())))
        status, body, _ = self.ask("GET", url)
        self.assertEqual(status, 500, body[:200])
        self.assertIn(b"not what Nix's database says", body)
        said = self.node.cli("store", "verify", path, check=False)
        self.assertNotEqual(said.returncode, 0)
        self.assertIn("1 path is not what it was", said.stderr)
        self.assertIn(pathlib.Path(path).name, said.stderr)
        self.one.run("nix-store", "--delete", path)

    # ---- Writing ----

    def test_an_upload_needs_the_token(self):
        client = self.stores.new("stranger")
        path = client.build("unwelcome")
        refused = self.copy_to(path, client, secret=self.friend, token="another")
        self.assertNotEqual(refused.returncode, 0)
        self.assertFalse(self.one.has(path))
        self.assertEqual(self.ask("PUT", "/nar/x.nar.zst", b"x")[0], 401)
        self.assertEqual(self.ask("PUT", "/nar/x.nar.zst", b"x", Authorization="Bearer another")[0], 401)

    def test_an_upload_leaves_the_disk_some_room(self):
        uploads = self.node.folder / "nix/incoming/uploads"
        uploads.mkdir(parents=True, exist_ok=True)
        inside = ["nsenter", "-t", self.node.process.pid, "-m"]  # where it has its store
        if subprocess.run([*map(str, inside), "mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", uploads], stderr=subprocess.DEVNULL).returncode != 0:
            self.skipTest("no file system can be mounted")
        self.addCleanup(subprocess.run, [*map(str, inside), "umount", "-l", uploads], check=True)
        status, said = self.ask("PUT", "/nar/x.nar.zst", b"x", Authorization="Bearer the-token")[:2]
        self.assertEqual(status, 507, said)
        self.assertIn("of which Blixard keeps 128 MiB", str(said))

    def test_an_upload_that_a_friend_signed_is_in_the_store(self):
        for compression in ("zstd", "xz", "none", "bzip2"):
            client = self.stores.new(f"friend-{compression}")
            path = client.build(f"welcome-{compression}")
            self.copy_to(path, client, secret=self.friend, check=True, compression=compression)
            self.assertTrue(self.one.has(path))
            self.assertEqual(self.one.content(path), client.content(path))
            self.copy_to(path, client, secret=self.friend, check=True, compression=compression)  # it is there

    def test_an_upload_that_nobody_trusted_signed_is_refused(self):
        client = self.stores.new("unsigned")
        path = client.build("unsigned")
        for secret in (None, self.stranger):
            refused = self.copy_to(path, client, secret=secret)
            self.assertNotEqual(refused.returncode, 0)
            self.assertIn("403", refused.stderr)
            self.assertFalse(self.one.has(path))

    def test_an_upload_that_was_changed_on_the_way_is_refused(self):
        client = self.stores.new("tampered")
        path = client.build("tampered")
        cache = self.folder / "cache"
        client.run("nix", "copy", "--to", f"file://{cache}?compression=none&secret-key={self.friend}", path)
        below = client.run("nix-store", "-q", "--references", path)
        bearer = {"Authorization": "Bearer the-token"}

        def put(store_path, change_archive=lambda b: b, change_info=lambda b: b):
            info = (cache / f"{pathlib.Path(store_path).name[:32]}.narinfo").read_bytes()
            url = re.search(rb"^URL: (.*)$", info, re.M).group(1).decode()
            status, body, _ = self.ask("PUT", "/" + url, change_archive((cache / url).read_bytes()), **bearer)
            self.assertEqual(status, 201, body)
            return self.ask("PUT", f"/{pathlib.Path(store_path).name[:32]}.narinfo", change_info(info), **bearer)

        status, body, _ = put(below, change_archive=lambda bytes: bytes.replace(b"some text", b"s0me text"))
        self.assertEqual(status, 400, body)
        self.assertIn(b"hash", body)
        status, body, _ = put(below, change_info=lambda info: info.replace(b"NarSize: ", b"NarSize: 1"))
        self.assertEqual(status, 403, body)
        status, body, _ = put(below, change_info=lambda info: re.sub(rb"References:.*", b"References: " + pathlib.Path(self.path).name.encode(), info))
        self.assertEqual(status, 403, body)
        status, body, _ = put(path)  # what it refers to is not there
        self.assertEqual(status, 400, body)
        status, body, _ = put(below, change_info=lambda info: b"nonsense")
        self.assertEqual(status, 400, body)
        self.assertFalse(self.one.has(below) or self.one.has(path))
        self.assertEqual(put(below)[0], 201)
        self.assertEqual(put(below)[0], 201, "it is there")
        self.assertEqual(put(path)[0], 201)
        self.assertEqual(self.one.content(path), client.content(path))
        incoming = self.node.folder / "nix/incoming"
        self.assertEqual([left.name for left in incoming.iterdir()], ["uploads"], "nothing of them is left")

    # ---- Verbs ----

    def test_pins_keep_what_garbage_collection_would_take(self):
        kept, lost = self.one.build("kept"), self.one.build("lost")
        self.node.cli("store", "pin", kept, "--name", "mine")
        roots = json.loads(self.node.cli("store", "roots", "--output", "json"))["roots"]
        self.assertIn({"root": "pin-mine", "path": kept, "name": "kept", "valid": True}, roots)
        shown = json.loads(self.node.cli("store", "show", kept, "--output", "json"))
        self.assertEqual((shown["roots"], shown["closure_paths"], len(shown["references"])), (["pin-mine"], 2, 1))
        self.node.cli("store", "pin", self.path, "--name", "hello")
        trial = json.loads(self.node.cli("store", "gc", "--dry-run", "--output", "json"))
        self.assertGreaterEqual(trial["paths"], 2)
        self.assertTrue(self.one.has(lost))
        self.node.cli("store", "gc")
        self.assertTrue(self.one.has(kept))
        self.assertFalse(self.one.has(lost))
        self.assertTrue(self.one.has(self.path))
        self.node.cli("store", "unpin", "mine")
        refused = self.node.cli("store", "unpin", "mine", check=False)
        self.assertEqual((refused.returncode, "store roots" in refused.stderr), (66, True), refused.stderr)
        self.node.cli("store", "gc")
        self.assertFalse(self.one.has(kept))
        refused = self.node.cli("store", "pin", kept, "--name", "mine", check=False)
        self.assertEqual(refused.returncode, 66, refused.stderr)

    def test_paths_are_listed_and_verified(self):
        self.node.cli("store", "pin", self.path, "--name", "hello")
        all_of_them = json.loads(self.node.cli("store", "list", "--match", "hello", "--limit", "1000", "--output", "json"))["paths"]
        self.assertIn(self.path, [path["path"] for path in all_of_them])
        found, after = [], None
        while True:
            page = json.loads(self.node.cli("store", "list", "--match", "hello", "--limit", "1", "--output", "json",
                                            *(["--after", after] if after else [])))
            found += page["paths"]
            after = page["next"]
            if after is None:
                break
        self.assertEqual(found, all_of_them)
        self.node.cli("store", "verify", self.path)
        for words in (["show", "/nix/store/none"], ["list", "--after", "x"], ["copy", "x"], ["verify", "x"]):
            self.assertEqual(self.node.cli("store", *words, check=False).returncode, 64, words)
        self.assertEqual(self.node.cli("store", "copy", f"{'0' * 32}-nothing", check=False).returncode, 66)


class Without(unittest.TestCase):
    def test_a_node_without_nix_says_what_to_install(self):
        folder = pathlib.Path(tempfile.mkdtemp(prefix="blx-nix-"))
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        with Cluster(1, here=True, arguments=["--isolation", "process"]) as cluster:
            node = cluster[0]
            node.start(env={"PATH": str(folder)}).wait_ready()
            for words in (["list"], ["gc"], ["verify"], ["copy", f"{'0' * 32}-a"], ["pin", f"{'0' * 32}-a"], ["show", f"{'0' * 32}-a"]):
                refused = node.cli("store", *words, check=False)
                self.assertEqual(refused.returncode, 65, (words, refused.stderr))
                self.assertIn("nix-bin", refused.stderr)


class Together(unittest.TestCase):
    """Three nodes on hosts of their own; no cache stands between them."""

    @classmethod
    def setUpClass(cls):
        need_hosts()
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="blx-nix-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        cls.stores = Stores(cls.folder)
        cls.cluster = Cluster(3, "nix", arguments=["--isolation", "process"])
        cls.addClassCleanup(lambda: cls.cluster.close())
        for server in cls.cluster.servers:
            in_store(server, cls.stores.new(server.name))
        cls.cluster.form()

    def test_paths_go_from_node_to_node(self):
        one, two, three = self.cluster.servers
        path = one.store.build("shared")
        two.cli("store", "copy", path, "--from", "n1")
        self.assertEqual(two.store.content(path), one.store.content(path))
        self.assertEqual(len({node.cli("store", "key") for node in self.cluster.servers}), 1)
        self.assertIn(one.cli("store", "key").strip(), two.cli("cluster", "status"))
        self.assertEqual(one.cli("store", "copy", path, "--from", "n3", "--to", "n2", check=False).returncode, 0)  # it is there
        lost = one.cli("store", "copy", f"{'0' * 32}-nothing", "--to", "n3", check=False)
        self.assertEqual(lost.returncode, 66, lost.stderr)
        one.cli("store", "copy", path, "--to", "n3")
        self.assertEqual(three.store.content(path), one.store.content(path))
        listed = json.loads(one.cli("store", "list", "--node", "n3", "--match", "shared", "--output", "json"))["paths"]
        self.assertEqual(len(listed), 2)

    def test_a_holder_whose_path_is_damaged_is_left_for_the_next(self):
        one, two, three = self.cluster.servers
        path = one.store.build("damaged")
        self.assertEqual(three.store.build("damaged"), path)
        file = one.store.real(path) / "text"
        file.chmod(0o644)
        file.write_text("other text".ljust(len(file.read_text())))
        refused = two.cli("store", "copy", path, "--from", "n1", check=False)
        self.assertNotEqual(refused.returncode, 0)
        self.assertFalse(two.store.has(path))
        two.cli("store", "copy", path)
        self.assertEqual(two.store.content(path), three.store.content(path))

    def test_the_holder_in_the_own_zone_is_asked_first(self):
        one, two, three = self.cluster.servers

        def packed(server):
            return int(re.search(r"(?m)^blixard_nix_packed_bytes (\d+)$", server.call("GET", "/metrics"))[1])

        for name, near, far in (("zone-a", two, three), ("zone-b", three, two)):
            path = two.store.build(name)
            self.assertEqual(three.store.build(name), path)
            for server, zone in ((one, "here"), (near, "here"), (far, "elsewhere")):
                one.call("PUT", f"/v1/nodes/{server.name}/labels/zone", {"value": zone})
            before = packed(near), packed(far)
            one.cli("store", "copy", path)
            self.assertTrue(one.store.has(path))
            self.assertGreater(packed(near), before[0])
            self.assertEqual(packed(far), before[1])

    def test_a_node_that_forges_is_believed_nothing(self):
        one, two, three = self.cluster.servers
        path = one.store.build("forged")
        top = pathlib.Path(path).name[:32]
        ask = Asker(three, one)
        closure = ask.get(f"/v1/peer/nix-closures/{top}")
        members = re.findall(r"(?m)^StorePath: .*/([0-9a-z]{32})-", closure.decode())
        self.assertEqual(len(members), 2)
        packed = {member: ask.get(f"/v1/peer/nix-packed/{member}") for member in members}
        below = next(member for member in members if member != top)

        def digest(text, base):
            return one.store.run("nix-hash", "--type", "sha256", f"--to-base{base}", text)

        def id_of(narinfo):
            return digest(re.search(rb"(?m)^FileHash: (.*)$", narinfo)[1].decode(), 16)

        def with_file(narinfo, content):
            """Its archive is another one, and said to be."""
            hashed = digest(hashlib.sha256(content).hexdigest(), 32).encode()
            narinfo = re.sub(rb"(?m)^FileHash: .*$", b"FileHash: sha256:" + hashed, narinfo)
            return re.sub(rb"(?m)^FileSize: .*$", b"FileSize: %d" % len(content), narinfo)

        blobs = {member: ask.get(f"/v1/blobs/{id_of(packed[member])}") for member in members}
        three.kill()
        try:
            with Forger(three, self.folder / "lies") as forger:
                def tell(closure=closure, packed=packed, blobs=blobs):
                    forger.put(f"/v1/peer/nix-closures/{top}", closure)
                    for member in members:
                        forger.put(f"/v1/peer/nix-packed/{member}", packed[member])
                        if packed[member].startswith(b"StorePath"):
                            forger.put(f"/v1/blobs/{id_of(packed[member])}", blobs[member])

                def refused(said, **lie):
                    tell(**lie)
                    answer = two.cli("store", "copy", path, "--from", "n3", check=False)
                    self.assertNotEqual(answer.returncode, 0)
                    self.assertRegex(answer.stderr, said)
                    self.assertFalse(two.store.has(path))

                forged = re.sub(rb"(?m)^(Sig: [^:]*:)....", rb"\g<1>AAAA", closure)
                refused("signed by nobody", closure=forged)
                refused("signed by nobody", closure=re.sub(rb"(?m)^(NarHash: sha256:.)....", rb"\g<1>aaaa", closure))
                half, other = blobs[top][:len(blobs[top]) // 2], blobs[below]
                refused("archive|damaged|hash", packed={**packed, top: with_file(packed[top], half)}, blobs={**blobs, top: half})
                refused("archive|damaged|hash", packed={**packed, top: with_file(packed[top], other)}, blobs={**blobs, top: other})
                refused("another path", packed={**packed, top: packed[below]})
                refused("more than|too large|bytes", packed={**packed, top: b"x" * (2 << 20)})
                refused("nothing|refer|valid", closure=next(part for part in closure.split(b"\n\n") if top.encode() in part.split(b"\n")[0]) + b"\n")
                tell(blobs={**blobs, top: other})  # not what its digest says: n1 has the blob as well
                two.cli("store", "copy", path, "--from", "n3")
                self.assertEqual(two.store.content(path), one.store.content(path))
                self.assertRegex(two.call("GET", "/metrics"), r"(?m)^blixard_nix_distrusted_total [6-9]")
        finally:
            three.start().wait_ready()
            self.cluster.settled()

    def test_what_a_lost_node_had_comes_from_another_that_took_it(self):
        one, two, three = self.cluster.servers
        path = two.store.build("survives")
        three.cli("store", "copy", path, "--from", "n2")
        two.kill()
        try:
            one.cli("store", "copy", path)
            self.assertEqual(one.store.content(path), three.store.content(path))
        finally:
            two.start().wait_ready()
            self.cluster.settled()


if __name__ == "__main__":
    unittest.main()
