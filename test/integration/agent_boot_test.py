"""The agent as init of machines, with Debian's kernel under QEMU."""
import json
import os
import pathlib
import shutil
import socket
import subprocess
import unittest

import microvm
from agent import CALL, SECONDS, Scene

PLAIN_ONLY = "the time goes to guests that are emulated, and to QEMU"

BUSYBOX = pathlib.Path("/bin/busybox")
APPLETS = ("sh cat echo sleep mount ls touch poweroff reboot init true kill wc sync test head id pidof").split()


def entrypoint(*arguments):
    return subprocess.run([CALL, "-", "entrypoint", *arguments], stdout=subprocess.PIPE, check=True).stdout


@unittest.skipIf(microvm.reason(), microvm.reason())
class Booted(Scene):
    def boot(self, **options):
        machine = microvm.Machine(self.folder, **options)
        self.addCleanup(machine.stop)
        self.socket = machine.socket
        return machine

    # ---- What machines are made of ----

    def tree(self, files=()):
        """A small root: busybox, and what else is given."""
        root = self.folder / "root"
        for name in ("bin", "sbin", "dev", "proc", "sys", "run", "etc/blixard", "tmp", "root"):
            (root / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(BUSYBOX, root / "bin" / "busybox")
        for name in APPLETS:
            folder = "sbin" if name in ("init", "poweroff", "reboot") else "bin"
            os.symlink("/bin/busybox", root / folder / name)
        for name, content in dict(files).items():
            (root / name).write_bytes(content)
            (root / name).chmod(0o755)
        return root

    def run_tool(self, *command):
        if shutil.which(command[0]) is None:
            self.skipTest(f"{command[0]} is not installed")
        subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def erofs(self, root):
        image = self.folder / "root.erofs"
        self.run_tool("mkfs.erofs", "-T0", "--all-root", image, root)
        return image

    def ext4(self, name, size, root=None):
        image = self.folder / name
        with image.open("wb") as file:
            file.truncate(size)
        self.run_tool("mke2fs", "-q", "-F", "-t", "ext4", *(["-d", root] if root else []), image)
        return image

    @staticmethod
    def disk(image, serial, read_only=False):
        mode = ",readonly=on" if read_only else ""
        return ["-drive", f"if=none,id={serial},file={image},format=raw{mode}",
                "-device", f"virtio-blk-device,drive={serial},serial={serial}"]

    def sh(self, script, **options):
        return self.exec("/bin/busybox", "sh", "-c", script, **options)

    # ---- Tests ----

    def test_boots_is_asked_and_powers_off(self):
        machine = self.boot(command_line="blixard.hostname=web", files={"/bin/busybox": BUSYBOX.read_bytes()})
        info = self.call("info")
        self.assertEqual((info["hostname"], info["init"], info["problem"]), ("web", "3", ""), machine.said())
        done = self.sh("echo $$; cat /proc/1/comm; exit 3")
        self.assertEqual((done.status, done.output.split()[1]), (3, b"init"))
        terminal = self.call("exec", "tty", "--", "/bin/busybox", "sh", "-c", "busybox tty || /bin/busybox tty")
        self.assertIn(b"/dev/pts/", terminal.output)
        self.assertEqual(self.call("time", 1700000000 * 10**9).status, 0)
        self.assertEqual(int(self.call("info")["time"]) // 10**12, 1700000)
        self.assertEqual(self.call("reseed").status, 0)
        self.assertEqual(self.call("poweroff", 1000).status, 0)
        self.assertEqual(machine.wait(), 0)

    def test_hosts_come_and_go(self):
        """Through the port: what ran for the one is gone when the next one asks; a frame cut short harms nobody."""
        self.boot(files={"/bin/busybox": BUSYBOX.read_bytes()})
        for _ in range(5):
            first = subprocess.Popen([CALL, self.socket, "exec", "--", "/bin/busybox", "sh", "-c",
                                      "echo begun; exec /bin/busybox cat /dev/zero"], stdout=subprocess.PIPE,
                                     stderr=subprocess.DEVNULL)
            self.assertEqual(first.stdout.readline(), b"begun\n")
            first.stdout.read(100_000)
            first.kill()
            first.wait()
            first.stdout.close()
            self.assertEqual(self.sh("while /bin/busybox pidof cat; do :; done; echo gone").output, b"gone\n")
        data = os.urandom(1 << 20)
        self.assertEqual(self.call("put", "/made", "0600", data=data).status, 0)
        self.assertEqual(self.call("get", "/made").output, data)

    def test_runs_the_entrypoint_of_an_image(self):
        script = "echo working; trap 'exit 5' TERM; while :; do sleep 0.1; done"
        root = self.tree({"etc/blixard/entrypoint": entrypoint("sh", "-c", script)})
        machine = self.boot(command_line="blixard.root=serial:rootd blixard.overlay=tmpfs",
                            arguments=self.disk(self.erofs(root), "rootd", read_only=True))
        info = self.call("info")
        self.assertEqual((info["init"], info["problem"]), ("1", ""), machine.said())
        mounts = self.sh("cat /proc/mounts").output.decode()
        self.assertIn("overlay / overlay", mounts)
        self.assertEqual(self.sh("touch /made && ls -d /lib 2>&1; cat /made").status, 0)
        metrics = self.call("metrics")
        self.assertIn("disk vda rootd", metrics.said)
        watcher = subprocess.Popen([CALL, self.socket, "events"], stderr=subprocess.PIPE, text=True)
        self.addCleanup(watcher.stderr.close)
        self.addCleanup(watcher.wait)
        self.addCleanup(watcher.kill)
        for line in watcher.stderr:
            if line.startswith("http"):
                break
        self.powerdown()
        said = watcher.communicate(timeout=SECONDS)[1]
        self.assertEqual(machine.wait(), 0)
        self.assertIn("event 2 5 0 0", said, machine.said())
        self.assertIn("event 3 0 0 0", said)
        self.assertIn("working", machine.said())

    def test_tells_an_end_to_a_host_that_comes_after_it(self):
        root = self.tree({"etc/blixard/entrypoint": entrypoint("sh", "-c", "exit 3")})
        machine = self.boot(command_line="blixard.root=serial:rootd blixard.overlay=tmpfs",
                            arguments=self.disk(self.erofs(root), "rootd", read_only=True))
        machine.until_said("power off")
        said = subprocess.run([CALL, self.socket, "events"], stderr=subprocess.PIPE, text=True, timeout=SECONDS).stderr
        self.assertIn("event 2 3 0 0", said, machine.said())
        self.assertEqual(machine.wait(), 0)

    def powerdown(self):
        """The power button."""
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.connect(str(self.folder / "qmp"))
            lines = monitor.makefile("rw")
            lines.readline()
            for command in ("qmp_capabilities", "system_powerdown"):
                lines.write(json.dumps({"execute": command}))
                lines.flush()
                lines.readline()

    def test_keeps_what_is_written_and_grows(self):
        root = self.erofs(self.tree({"etc/blixard/entrypoint": entrypoint("sleep", "1000000")}))
        data = self.ext4("data", 32 << 20)
        more = self.ext4("more", 16 << 20)
        options = {"command_line": "blixard.root=serial:rootd blixard.overlay=serial:data",
                   "arguments": [*self.disk(root, "rootd", read_only=True), *self.disk(data, "data"),
                                 *self.disk(more, "more")]}
        machine = self.boot(**options)
        self.assertEqual(self.call("info")["problem"], "", machine.said())
        self.assertEqual(self.sh("echo kept > /kept").status, 0)
        for _ in range(2):
            self.assertEqual(self.call("mount", "serial:more", "/srv/more").status, 0)
        self.assertIn("mounted /srv/more ext4", self.call("metrics").said)
        self.assertIn("error not_found", self.call("mount", "serial:none", "/srv/none").said)
        self.assertGreaterEqual(int(self.call("freeze", 60000)["count"]), 2)
        writer = subprocess.Popen([CALL, self.socket, "ping"], stderr=subprocess.DEVNULL)
        self.assertEqual(writer.wait(timeout=SECONDS), 0)  # it still answers
        self.assertGreaterEqual(int(self.call("thaw")["count"]), 2)
        self.assertEqual(self.call("freeze", 300).status, 0)
        self.assertEqual(self.sh("echo more > /srv/more/file && sync").status, 0)  # it thaws itself
        self.assertEqual(self.call("unmount", "/srv/more").status, 0)
        self.assertIn("error not_found", self.call("unmount", "/srv/more").said)
        self.assertEqual(self.call("poweroff", 200).status, 0)
        self.assertEqual(machine.wait(), 0)
        with data.open("r+b") as file:
            file.truncate(64 << 20)
        machine = self.boot(**options)
        self.assertEqual(self.sh("cat /kept").output, b"kept\n", machine.said())
        self.assertEqual(self.call("grow", "/")["bytes"], str(64 << 20))
        size = [int(line.split()[3]) for line in self.call("metrics").said.splitlines()
                if line.startswith("mounted /run/blixard/rw ext4")]
        self.assertGreater(size[0], 50 << 20)

    def test_stays_beside_the_init_of_a_distribution(self):
        root = self.tree({"etc/inittab": b"::sysinit:/bin/echo busybox begins\n::respawn:/bin/sleep 100000\n"})
        image = self.ext4("rootfs", 32 << 20, root)
        machine = self.boot(command_line="blixard.root=serial:rootd", arguments=self.disk(image, "rootd"))
        info = self.call("info")
        self.assertEqual((info["init"], info["problem"]), ("0", ""), machine.said())
        self.assertEqual(self.sh("cat /proc/1/comm; ls /init 2>/dev/null").output, b"init\n")
        killed = self.sh("kill -9 $(cat /proc/$$/status | /bin/busybox sed -n 's/^PPid:.//p')")
        self.assertIn("down unavailable", killed.said)  # the agent itself: and here it is again
        self.assertEqual(self.sh("test -w / && echo there").output, b"there\n")
        self.assertEqual(self.call("poweroff").status, 0)
        self.assertEqual(machine.wait(), 0)
        self.assertIn("busybox begins", machine.said())

    def test_stays_up_and_says_why_when_there_is_no_root(self):
        machine = self.boot(command_line="blixard.root=serial:nonesuch")
        info = self.call("info")
        self.assertEqual(info["init"], "2", machine.said())
        self.assertEqual(info["problem"], 'the root: the machine has no disk with serial "nonesuch"')
        self.assertEqual(self.call("reboot", 100).status, 0)
        self.assertEqual(machine.wait(), 0)
