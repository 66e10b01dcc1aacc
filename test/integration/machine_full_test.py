"""A node whose disk is full: its machines stand still and lose nothing.  By the command line, on a file system of its own."""
import json
import os
import pathlib
import subprocess
import tempfile
import unittest

from machines import kernel_flags, machines_of, root_archive, why_not
from node import BUILD, Node
from node_case import NodeCase

PLAIN_ONLY = "the time goes to guests that are emulated, and to QEMU"


def pieces(megabytes, path):
    """What a guest writes: the same random megabyte again and again, as an emulated guest makes few of them in a second."""
    return f"for i in $(seq {megabytes}); do cat /root/piece || exit; done > {path}"


class Full(NodeCase):
    @classmethod
    def setUpClass(cls):
        if why_not():
            raise unittest.SkipTest(why_not())
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="blixard-full-")))
        cls.disk = cls.folder / "disk"
        cls.disk.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2g", "tmpfs", cls.disk], stderr=subprocess.DEVNULL).returncode != 0:
            raise unittest.SkipTest("no file system can be mounted")
        cls.addClassCleanup(subprocess.run, ["umount", "-l", cls.disk], check=True)
        (cls.disk / "data").mkdir()
        cls.enterClassContext(machines_of(cls.disk / "data"))
        cls.node = Node(folder=cls.disk / "data")
        cls.addClassCleanup(lambda: cls.node.stop())
        (cls.folder / "root.tar.gz").write_bytes(root_archive())

    def show(self):
        return json.loads(self.ok("vm", "show", "m", "--output", "json"))

    def wait_for(self, state):
        for _ in range(600):
            shown = self.show()
            if shown["state"] == state:
                return shown
            subprocess.run([BUILD / "blixard", "vm", "events", "m", "--tail", "1"], env=self.node.env, stdout=subprocess.DEVNULL)
        self.fail(f"it does not become {state}: {shown}\n{self.node.log.read_text()[-3000:]}")

    def fill(self, left=16 << 20):
        status = os.statvfs(self.disk)
        with (self.disk / "filler").open("wb") as filler:
            os.posix_fallocate(filler.fileno(), 0, status.f_bavail * status.f_frsize - left)

    def check_full(self, text, *words):
        done = self.run_cli(*words)
        self.assertEqual(done.returncode, 74, done.stderr)
        self.assertIn(text, done.stderr)

    def test_a_machine_waits_for_room_and_goes_on(self):
        self.ok("image", "import", "small", "--root", self.folder / "root.tar.gz", *kernel_flags())
        self.ok("volume", "create", "data", "--size", "200MiB")
        self.ok("vm", "create", "m", "--image", "small", "--memory", "384MiB", "--disk", "64MiB", "--volume", "data:/srv/data")
        # Its memory has no room: it is told, and the machine goes on.
        self.ok("vm", "exec", "m", "--", "sh", "-c",
                "head -c 1000000 /dev/urandom > /root/piece && sync && mkdir /ram && mount -t tmpfs -o size=260m none /ram && " + pieces(230, "/ram/much"))
        self.fill(160 << 20)
        self.check_full("no space is left on the disk of its node", "vm", "snapshot", "create", "m")
        self.assertEqual(self.ok("vm", "exec", "m", "--", "cat", "/proc/sys/kernel/ostype"), "Linux\n")
        (self.disk / "filler").unlink()
        self.ok("vm", "exec", "m", "--", "busybox", "umount", "/ram")
        self.fill()
        self.check_full("of which Blixard keeps 128 MiB", "vm", "snapshot", "create", "m")
        writer = subprocess.Popen([BUILD / "blixard", "vm", "exec", "m", "--", "sh", "-c",
                                   pieces(100, "/srv/data/much") + " && sync && busybox md5sum < /srv/data/much; echo $?"],
                                  env=self.node.env, stdout=subprocess.PIPE, text=True)
        shown = self.wait_for("paused")
        self.assertIn("disk is full", shown["reason"])
        self.assertIn("full", self.run_cli("volume", "create", "more", "--size", "64MiB").stderr)
        self.check_full("of which Blixard keeps 128 MiB", "vm", "create", "n", "--image", "small", "--memory", "128MiB", "--disk", "16MiB")
        self.ok("vm", "delete", "n")
        # What is large is refused before it takes the last of it, from the daemon's own state.
        disk = self.folder / "large.raw"
        disk.write_bytes(bytes(510) + b"\x55\xaa" + os.urandom(8 << 20))
        self.check_full("of which Blixard keeps 128 MiB", "image", "import", "large", "--disk", disk, "--no-agent")
        # Who comes back finds it so, and still knows why.
        self.node.process.kill()
        self.node.process.wait()
        (self.disk / "filler").unlink()  # the daemon's own state needs some
        type(self).node = Node(folder=self.disk / "data")
        self.wait_for("running")
        writer.communicate(timeout=60)
        self.assertEqual(self.ok("vm", "exec", "m", "--", "sh", "-c", "echo three > /srv/data/x && sync && cat /srv/data/x"), "three\n")
        self.assertEqual(self.run_cli("vm", "exec", "m", "--", "sh", "-c", "busybox dmesg | grep -c 'I/O error'").stdout, "0\n")
        # Who wants it to end does not wait for room: it is killed when its time to go down is over.
        self.fill()
        writer = subprocess.Popen([BUILD / "blixard", "vm", "exec", "m", "--", "sh", "-c",
                                   pieces(100, "/srv/data/more") + " && sync"],
                                  env=self.node.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.wait_for("paused")
        self.ok("vm", "stop", "m")
        self.assertEqual(self.show()["state"], "stopped")
        writer.wait(timeout=60)
        self.check_full("delete something, or give it more room", "vm", "start", "m")
        (self.disk / "filler").unlink()
        self.ok("vm", "start", "m")


if __name__ == "__main__":
    unittest.main()
