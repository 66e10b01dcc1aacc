"""Backups: taken while the node runs, checked, and a data folder again."""
import concurrent.futures
import hashlib
import http.client
import io
import json
import pathlib
import shutil
import sqlite3
import subprocess
import tarfile
import tempfile
import unittest

from node import BUILD, Node

ECHO = """
#include <unistd.h>
int main(void) { char b[512]; long n; while ((n = read(0, b, sizeof(b))) > 0) { write(1, b, n); } return 0; }
"""


def blixard(*words, env=None, **options):
    """(exit status, standard output, standard error)"""
    done = subprocess.run([BUILD / "blixard", *map(str, words)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, timeout=120, env=env, **options)
    return done.returncode, done.stdout, done.stderr.decode()


class Backup(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="blixard-backup-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        source = cls.folder / "echo.c"
        source.write_text(ECHO)
        subprocess.run(["clang-14", "--target=wasm32-wasi", "-O1", "-o", cls.folder / "echo.wasm", source], check=True)
        cls.module = (cls.folder / "echo.wasm").read_bytes()
        cls.node = Node()
        cls.addClassCleanup(cls.node.stop)
        cls.node.deploy("echo", cls.module)
        cls.node.deploy("echo", cls.module, environment={"A": "b"})
        cls.node.call("PUT", "/v1/functions/echo/aliases/first", {"version": 1})
        cls.saved = cls.folder / "saved.tar"
        status, said, words = blixard("cluster", "backup", cls.saved, "--output", "json", env=cls.node.env)
        assert status == 0, words
        assert json.loads(said)["bytes"] == cls.saved.stat().st_size

    def restore(self, path, target="restored"):
        target = self.folder / target
        self.addCleanup(shutil.rmtree, target, ignore_errors=True)
        return target, *blixard("cluster", "restore", path, "--data-folder", target, "--output", "json")

    def refused(self, path, status, words):
        target, got, _, said = self.restore(path)
        self.assertEqual(got, status, said)
        self.assertIn(words, said)
        self.assertFalse(target.exists())
        self.assertEqual([p.name for p in self.folder.iterdir() if ".restoring-" in p.name], [])

    def test_standard_tools_read_it(self):
        with tarfile.open(self.saved) as tar:
            files = {member.name: tar.extractfile(member).read() for member in tar}
        self.assertEqual(list(files)[0], "manifest.json")
        sums = dict(reversed(line.split("  ")) for line in files.pop("SHA256SUMS").decode().splitlines())
        self.assertEqual(sums, {name: hashlib.sha256(data).hexdigest() for name, data in files.items()})
        self.assertIn(self.module, files.values())
        state = self.folder / "state.sqlite"
        state.write_bytes(files["state.sqlite"])
        connection = sqlite3.connect(state)
        self.assertEqual(connection.execute("SELECT count(*) FROM version").fetchone(), (2,))
        connection.close()
        self.assertEqual(self.saved.stat().st_mode & 0o777, 0o600)

    def test_a_node_goes_on_from_it(self):
        target, status, said, words = self.restore(self.saved)
        self.assertEqual(status, 0, words)
        saved_index = json.loads(said)["index"]
        for _ in range(2):
            with Node(target) as again:
                function = again.json("/v1/functions/echo")
                self.assertEqual(function["aliases"], {"live": "2", "first": "1"})
                self.assertEqual(again.json("/v1/functions/echo/versions/2")["environment"], {"A": "b"})
                self.assertEqual(again.invoke("echo", b"hello"), "hello")
                self.assertEqual(again.invoke("echo:first", b"hello"), "hello")
                index = int(again.request("GET", "/v1/functions")[2]["x-blixard-index"])
                self.assertGreater(index, saved_index)
                with Events(again, f"/v1/events?index={saved_index}") as event:
                    self.assertEqual(event, "compacted")  # what came before is in no log
                again.deploy("more", self.module)
                again.call("DELETE", "/v1/functions/more")

    def test_it_is_whole_while_functions_come_and_go(self):
        with Node() as busy, concurrent.futures.ThreadPoolExecutor(2) as pool:
            busy.deploy("stays", self.module)
            over = False

            def churn():
                rounds = 0
                while not over:
                    busy.call("POST", "/v1/functions/comes/versions", {"module": busy.upload(self.module + bytes([0, 2, 1, rounds % 100]))})
                    busy.call("DELETE", "/v1/functions/comes")
                    rounds += 1
                return rounds
            churning = pool.submit(churn)
            for i in range(5):
                saved = self.folder / f"busy-{i}.tar"
                status, _, words = blixard("cluster", "backup", saved, env=busy.env)
                self.assertEqual(status, 0, words)
                target, status, _, words = self.restore(saved, f"busy-{i}")
                self.assertEqual(status, 0, words)
            over = True
            self.assertGreater(churning.result(timeout=60), 5)
        with Node(target) as again:
            self.assertEqual(again.invoke("stays", b"x"), "x")

    def test_every_cut_is_seen(self):
        data = self.saved.read_bytes()
        cut = self.folder / "cut.tar"
        for length in [0, 1, 511, 512, 700, 5000, len(data) // 2, len(data) - 2048, len(data) - 1600]:
            cut.write_bytes(data[:length])
            target, status, _, words = self.restore(cut)
            self.assertNotEqual(status, 0, length)
            self.assertIn("cut.tar", words)
            self.assertFalse(target.exists())

    def test_every_changed_byte_is_seen(self):
        data = self.saved.read_bytes()
        changed = self.folder / "changed.tar"
        for at in range(600, len(data) - 2048, max(1777, len(data) // 100)):
            changed.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1:])
            target, status, _, _ = self.restore(changed)
            if status == 0:  # a byte that says nothing: the rest of a block, a time
                with tarfile.open(changed) as one, tarfile.open(self.saved) as other:
                    self.assertEqual([m.name for m in one], [m.name for m in other])
                shutil.rmtree(target)

    def made(self, *files):
        path = self.folder / "made.tar"
        with tarfile.open(path, "w") as tar:
            for name, data in files:
                member = tarfile.TarInfo(name)
                if data is None:
                    member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
                    tar.addfile(member)
                else:
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
        return path

    def test_what_is_no_backup_is_refused(self):
        manifest = ("manifest.json", b'{"format":1,"blixard":"0.1.0","index":5}')
        newer = ("manifest.json", b'{"format":2,"blixard":"9.0","index":5}')
        self.refused(self.folder / "nobody.tar", 66, "there is no file")
        self.refused(self.folder / "echo.wasm", 74, "cut or damaged")
        self.refused(self.made(("x", b"y")), 64, "no backup")
        self.refused(self.made(newer), 65, "Blixard 9.0")
        self.refused(self.made(manifest), 74, "cut or damaged")
        self.refused(self.made(manifest, ("../../x", b"y")), 64, "a file that no backup has")
        self.refused(self.made(manifest, ("blobs/../../x", b"y")), 74, "not what its name says")
        self.refused(self.made(manifest, ("blobs/link", None)), 64, "no backup")
        body = b"not a database" * 100
        sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in (manifest, ("state.sqlite", body)))
        self.refused(self.made(manifest, ("state.sqlite", body), ("SHA256SUMS", sums.encode())), 74, "database")

    def test_nothing_is_overwritten(self):
        status, _, words = blixard("cluster", "backup", self.saved, env=self.node.env)
        self.assertEqual(status, 73)
        self.assertIn("is there already", words)
        target = self.folder / "full"
        target.mkdir()
        (target / "file").write_text("mine")
        status, _, words = blixard("cluster", "restore", self.saved, "--data-folder", target)
        self.assertEqual(status, 73)
        self.assertIn("is not empty", words)
        self.assertEqual((target / "file").read_text(), "mine")

    def test_a_disk_that_is_full_leaves_no_half(self):
        status, _, words = blixard("cluster", "backup", "/dev/full/x", env=self.node.env)
        self.assertNotEqual(status, 0)
        with open("/dev/full", "wb") as full:
            done = subprocess.run([BUILD / "blixard", "cluster", "backup", "-"], stdout=full, stderr=subprocess.PIPE, env=self.node.env, timeout=60)
        self.assertEqual(done.returncode, 74)
        self.assertIn(b"No space left", done.stderr)

    def test_a_client_that_goes_away_leaves_the_node_well(self):
        host, port = self.node.api.rsplit(":", 1)
        for _ in range(5):
            connection = http.client.HTTPConnection(host, int(port), timeout=30)
            connection.request("GET", "/v1/cluster/backup")
            connection.sock.recv(100)
            connection.close()
        self.assertEqual(self.node.invoke("echo", b"well"), "well")


class Events:
    """The name of the first event of a stream."""

    def __init__(self, node, path):
        host, port = node.api.rsplit(":", 1)
        self.connection = http.client.HTTPConnection(host, int(port), timeout=30)
        self.connection.request("GET", path)
        self.answer = self.connection.getresponse()

    def __enter__(self):
        for line in iter(self.answer.readline, b""):
            if line.startswith(b"event: "):
                return line[7:].decode().strip()
        return None

    def __exit__(self, *_):
        self.connection.close()


if __name__ == "__main__":
    unittest.main()
