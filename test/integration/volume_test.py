"""Volumes by the command line: made, grown, kept, cloned, encrypted; given to a machine that runs, and taken."""
import json
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

from machines import kernel_flags, machines_of, root_archive, why_not
from node import BUILD, Node
from node_case import NodeCase

PLAIN_ONLY = "the time goes to guests that are emulated, and to QEMU"


class Case(NodeCase):
    @classmethod
    def setUpClass(cls):
        if shutil.which("qemu-img") is None or not pathlib.Path("/usr/sbin/mke2fs").exists():
            raise unittest.SkipTest("qemu-img or mke2fs is not installed")
        cls.node = Node()
        cls.addClassCleanup(lambda: cls.node.stop())
        cls.enterClassContext(machines_of(cls.node.folder))

    def show(self, name):
        return json.loads(self.ok("volume", "show", name, "--output", "json"))

    def files(self):
        return {path.name for path in (self.node.folder / "volumes").iterdir()}

    def again(self, with_signal=signal.SIGKILL):
        """The daemon is gone at once, and comes back."""
        folder = self.node.folder
        type(self).owned = type(self).node.owned or getattr(self, "owned", None)
        self.node.owned = None
        self.node.process.send_signal(with_signal)
        self.node.process.wait()
        type(self).node = Node(folder)
        self.node.owned = self.owned


class Alone(Case):
    def test_what_is_made_is_there_and_what_is_deleted_is_not(self):
        self.ok("volume", "create", "data", "--size", "32MiB")
        self.assertIn("there is a volume data already", self.refused("volume", "create", "data"))
        self.assertIn("from 1 MiB", self.refused("volume", "create", "tiny", "--size", "12"))
        self.assertIn("can never be filled", self.refused("volume", "create", "huge", "--size", "16000GiB"))
        self.assertIn("qcow2, not raw", self.refused("volume", "create", "x", "--format", "raw", "--encrypt"))
        self.assertIn("no secret", self.refused("volume", "create", "x", "--encrypted", "nothing"))
        shown = self.show("data")
        self.assertEqual((shown["state"], shown["size_bytes"], shown["filesystem"]), ("ready", 32 << 20, "ext4"))
        self.assertLess(shown["used_bytes"], 8 << 20)
        self.ok("volume", "resize", "data", "64MiB")
        self.assertIn("cannot become smaller", self.refused("volume", "resize", "data", "32MiB"))
        self.again()
        self.assertEqual(self.show("data")["size_bytes"], 64 << 20)
        metrics = self.node.request("GET", "/metrics")[1].decode()
        self.assertIn('blixard_volume_size_bytes{project="default",volume="data"} 67108864', metrics)
        self.ok("volume", "delete", "data")
        self.assertIn("no volume data", self.refused("volume", "show", "data"))

    def test_a_snapshot_with_clones_stays(self):
        before = self.files()
        self.ok("volume", "create", "base", "--size", "16MiB", "--format", "raw")
        self.ok("volume", "snapshot", "create", "base", "first")
        self.assertIn("first already", self.refused("volume", "snapshot", "create", "base", "first"))
        self.ok("volume", "create", "copy", "--from", "base@first")
        self.assertEqual(self.show("copy")["from"], "base@first")
        self.assertIn("has clones: copy", self.refused("volume", "snapshot", "delete", "base", "first"))
        self.assertIn("has snapshots: first", self.refused("volume", "delete", "base"))
        self.ok("volume", "delete", "copy")
        self.ok("volume", "snapshot", "delete", "base", "first")
        while len(self.files() - before) > 1:  # the two layers become one
            self.ok("volume", "list")
        self.ok("volume", "delete", "base")
        self.again(signal.SIGTERM)  # what is removed behind an answer has been, then
        self.assertEqual(self.files() - before, set())

    def test_an_orphan_is_told_of_and_left_alone(self):
        volumes = self.node.folder / "volumes"
        (volumes / "0123456789abcdef.raw").write_bytes(b"somebody's")
        (volumes / "fedcba9876543210.qcow2.partial").write_bytes(b"half of it")
        self.again()
        self.assertEqual((volumes / "0123456789abcdef.raw").read_bytes(), b"somebody's")
        self.assertFalse((volumes / "fedcba9876543210.qcow2.partial").exists())
        self.assertIn("0123456789abcdef.* is of no volume", self.node.log.read_text())
        (volumes / "0123456789abcdef.raw").unlink()

    def test_a_key_that_was_made_ends_with_its_volume(self):
        self.ok("volume", "create", "vault", "--size", "16MiB", "--encrypt")
        secret = self.show("vault")["secret"]
        self.assertIn(secret, self.ok("secret", "list"))
        self.assertIn("vault", self.refused("secret", "delete", secret))
        self.assertIn("vault", self.refused("secret", "set", secret, "--from-file", __file__))
        self.ok("volume", "resize", "vault", "32MiB")
        self.ok("volume", "delete", "vault")
        self.assertNotIn(secret, self.ok("secret", "list"))


class WithAMachine(Case):
    @classmethod
    def setUpClass(cls):
        reason = why_not()
        if reason:
            raise unittest.SkipTest(reason)
        super().setUpClass()
        folder = tempfile.TemporaryDirectory(prefix="blixard-volumes-")
        cls.addClassCleanup(folder.cleanup)
        image = pathlib.Path(folder.name) / "root.tar.gz"
        image.write_bytes(root_archive())
        cls.ok("image", "import", "small", "--root", image, *kernel_flags())

    def shell(self, script):
        return self.ok("vm", "exec", "m", "--", "sh", "-c", script)

    def seconds(self, script):
        begun = time.monotonic()
        self.shell(script)
        return time.monotonic() - begun

    def size(self, path):
        return int(self.shell(f"df -k {path}").splitlines()[-1].split()[1]) >> 10

    def check_discard(self, name):
        """What a file took goes back to the node when the guest has no use for it."""
        before = self.show(name)["used_bytes"]
        self.shell(f"head -c {12 << 20} /dev/urandom > /srv/{name}/much; sync")
        self.assertGreater(self.show(name)["used_bytes"], before + (11 << 20))
        self.shell(f"rm /srv/{name}/much; sync; busybox fstrim /srv/{name}")
        self.assertLess(self.show(name)["used_bytes"], before + (4 << 20))

    def test_volumes_come_and_go_while_it_runs(self):
        """One machine, booted once: what is told of each step is seen inside it."""
        self.ok("volume", "create", "cold", "--size", "32MiB")
        self.ok("volume", "create", "vault", "--size", "32MiB", "--encrypt")
        self.ok("volume", "create", "hot", "--size", "32MiB", "--format", "raw")
        self.assertIn("no volume none", self.refused("vm", "create", "m", "--image", "small", "--volume", "none"))
        self.ok("vm", "create", "m", "--image", "small", "--memory", "128MiB", "--disk", "64MiB",
                "--volume", "cold:/srv/cold", "--volume", "vault:/srv/vault:ro")
        mounted = self.shell("mount")
        self.assertRegex(mounted, r"on /srv/cold type ext4 \(rw")
        self.assertRegex(mounted, r"on /srv/vault type ext4 \(ro")
        self.shell("echo first > /srv/cold/file")

        self.ok("volume", "attach", "hot", "m", "--path", "/srv/hot")
        self.assertIn("has volume hot", self.refused("volume", "attach", "hot", "m"))
        self.assertIn("machine m has volume hot", self.refused("volume", "delete", "hot"))
        self.shell("echo one > /srv/hot/file")
        self.ok("volume", "resize", "hot", "96MiB")
        self.assertGreater(self.size("/srv/hot"), 64)
        for name in ("hot", "cold"):  # raw and qcow2
            self.check_discard(name)

        self.ok("volume", "snapshot", "create", "hot", "then")  # the machine's file systems are held still
        self.shell("echo two > /srv/hot/file")
        self.assertIn("runs with volume hot", self.refused("volume", "snapshot", "restore", "hot", "then"))
        self.ok("volume", "clone", "hot", "copy", "--snapshot", "then")
        self.ok("volume", "attach", "copy", "m", "--path", "/srv/copy", "--read-only")
        self.assertEqual(self.shell("cat /srv/copy/file /srv/hot/file"), "one\ntwo\n")

        # One of a machine that stands still is as after a power cut: it can be read even where nobody may write.
        self.ok("vm", "pause", "m")
        self.ok("volume", "snapshot", "create", "hot", "cut")
        self.ok("vm", "resume", "m")
        self.ok("volume", "clone", "hot", "torn", "--snapshot", "cut")
        self.ok("volume", "attach", "torn", "m", "--path", "/srv/torn", "--read-only")
        self.assertEqual(self.shell("cat /srv/torn/file"), "one\n")
        self.ok("volume", "detach", "torn")

        # Freezes that follow each other, and two at once, hold: nothing is to be replayed.
        for number in range(3):
            self.shell(f"echo {number} > /srv/hot/more; echo {number} > /srv/cold/more")
            both = [subprocess.Popen([BUILD / "blixard", "volume", "snapshot", "create", name, f"still-{number}"], env=self.node.env)
                    for name in ("hot", "cold")]
            self.assertEqual([one.wait() for one in both], [0, 0])
            self.ok("volume", "clone", "hot", f"still-{number}", "--snapshot", f"still-{number}")
            self.ok("volume", "attach", f"still-{number}", "m", "--path", "/srv/still", "--read-only")
            self.assertEqual(self.shell("cat /srv/still/more"), f"{number}\n")
            self.assertNotIn("noload", self.shell("cat /proc/mounts").split("/srv/still", 1)[1].splitlines()[0])
            self.ok("volume", "detach", f"still-{number}")

        self.again()  # the machine goes on meanwhile, and has what it had
        for _ in range(200):  # until its agent has been found, too
            if subprocess.run([BUILD / "blixard", "vm", "exec", "m", "--", "true"], env=self.node.env).returncode == 0:
                break
        self.assertEqual(self.shell("cat /srv/copy/file /srv/cold/file"), "one\nfirst\n")
        self.ok("volume", "limit", "hot", "--iops", "1000", "--bandwidth", "50MiB/s")

        # Reading and writing together, or each by itself: 4 MiB take 16 s at 256 KiB/s.
        write = "dd if=/dev/zero of=/srv/hot/rate bs=64k count=64 2> /dev/null; sync"
        read = "echo 3 > /proc/sys/vm/drop_caches; cat /srv/hot/rate > /dev/null"
        self.assertIn("limits reading and writing together", self.refused("volume", "limit", "hot", "--read-iops", "5"))
        self.ok("volume", "limit", "hot", "--iops", "0", "--bandwidth", "0", "--read-bandwidth", "256KiB/s", "--write-iops", "5000")
        shown = self.show("hot")
        self.assertEqual((shown.get("bandwidth"), shown["read_bandwidth"], shown["write_iops"]), (None, 256 << 10, 5000))
        quick, limited = self.seconds(write), self.seconds(read)
        self.assertGreater(limited, max(12, quick))
        self.ok("volume", "limit", "hot", "--read-bandwidth", "0", "--write-bandwidth", "256KiB/s")
        quick, limited = self.seconds(read), self.seconds(write)
        self.assertGreater(limited, max(12, quick))
        self.ok("volume", "limit", "hot", "--write-bandwidth", "0", "--write-iops", "0")

        holder = subprocess.Popen([BUILD / "blixard", "vm", "exec", "m", "--", "sh", "-c",
                                   "cd /srv/hot; echo in; read x"],
                                  env=self.node.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.assertEqual(holder.stdout.readline(), "in\n")
        self.assertIn("in use at /srv/hot", self.refused("volume", "detach", "hot"))
        holder.communicate("\n")
        self.ok("volume", "detach", "hot")
        self.ok("volume", "detach", "copy")
        self.assertNotIn("/srv/hot", self.shell("mount"))
        self.ok("volume", "snapshot", "restore", "hot", "then")
        self.ok("volume", "attach", "hot", "m", "--path", "/srv/hot")
        self.assertEqual(self.shell("cat /srv/hot/file"), "one\n")

        self.ok("vm", "delete", "m")
        for name in ("hot", "cold", "vault"):
            self.assertNotIn("machine", self.show(name))


if __name__ == "__main__":
    unittest.main()
