"""Linux machines by the command line: made, used, stopped, found again, ended in all ways."""
import json
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
import unittest
import urllib.parse
import urllib.request

from foreign import until
from ports import free_port
from machines import PATIENT, kernel_flags, machines_of, root_archive, runs, why_not
from node import BUILD, Node, Refused
from node_case import NodeCase


def setUpModule():
    global folder, image
    reason = why_not()
    if reason:
        raise unittest.SkipTest(reason)
    folder = tempfile.TemporaryDirectory(prefix="blixard-machines-")
    image = pathlib.Path(folder.name) / "root.tar.gz"
    image.write_bytes(root_archive())


def tearDownModule():
    folder.cleanup()


class Case(NodeCase):
    count = 0

    @classmethod
    def setUpClass(cls):
        cls.node = Node(arguments=PATIENT)
        cls.addClassCleanup(lambda: cls.node.stop())
        cls.enterClassContext(machines_of(cls.node.folder))
        cls.ok("image", "import", "small", "--root", image, *kernel_flags())

    def create(self, *flags):
        Case.count += 1
        name = f"m{Case.count}"
        self.ok("vm", "create", name, "--image", "small", "--memory", "128MiB", "--disk", "64MiB", *flags)
        self.addCleanup(self.run_cli, "vm", "delete", name)
        return name

    @classmethod
    def shared(cls):
        """One machine for the tests of a class that leave it running; its port 80 is published at cls.port."""
        if "common" not in vars(cls):
            cls.port = free_port()
            cls.common = f"{cls.__name__.lower()}-common"
            cls.ok("vm", "create", cls.common, "--image", "small", "--memory", "128MiB", "--disk", "64MiB", "--publish", f"127.0.0.1:{cls.port}:80")
            cls.addClassCleanup(cls.run_cli, "vm", "delete", cls.common)
        return cls.common

    def show(self, name):
        return json.loads(self.ok("vm", "show", name, "--output", "json"))

    def shell(self, name, script, **options):
        return self.ok("vm", "exec", name, "--", "sh", "-c", script, **options)

    def folder_of(self, name):
        return self.node.folder / "machines" / self.show(name)["id"]

    def pids(self, name):
        return [int(word) for word in (self.folder_of(name) / "lock").read_text().split()]


class Life(Case):
    def test_programs_files_and_ports(self):
        name = self.shared()
        self.assertEqual(self.shell(name, "uname -n").strip(), name)
        done = self.run_cli("vm", "exec", name, "--", "sh", "-c", "echo out; echo err >&2; exit 7")
        self.assertEqual((done.returncode, done.stdout, done.stderr), (7, "out\n", "err\n"))
        self.assertEqual(self.run_cli("vm", "exec", name, "--", "sh", "-c", "kill -9 $$").returncode, 137)
        self.assertEqual(self.ok("vm", "exec", name, "--", "cat", stdin="abc" * 50000), "abc" * 50000)
        self.assertEqual(self.ok("vm", "exec", name, "--user", "nobody", "--env", "A=b c", "--cwd", "/srv", "--",
                                 "sh", "-c", "id -u; echo $A; ls"), "65534\nb c\nindex.html\n")
        self.assertIn("no program", self.refused("vm", "exec", name, "--", "/bin/nothing"))

        self.shell(name, "httpd -p 80 -h /srv")
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=60) as answer:
            self.assertEqual(answer.read(), b"hello from a machine\n")

        here = pathlib.Path(folder.name) / "file"
        here.write_bytes(bytes(range(256)) * 4000)
        self.ok("vm", "cp", here, f"{name}:/root/file")
        self.ok("vm", "cp", f"{name}:/root/file", f"{here}.back")
        self.ok("vm", "cp", here, f"{name}:/srv/")
        self.ok("vm", "cp", f"{name}:/srv/{here.name}", f"{here}.again")
        self.assertEqual(pathlib.Path(f"{here}.again").read_bytes(), here.read_bytes())
        self.assertEqual(self.ok("vm", "cp", "-", f"{name}:/root/said", stdin="said\n" * 9000), f"copied - to {name}:/root/said\n")
        self.assertEqual(self.ok("vm", "cp", f"{name}:/root/said", "-"), "said\n" * 9000)
        self.assertIn("has no name", self.refused("vm", "cp", "-", f"{name}:/root/"))
        self.assertIn("with a / behind it", self.refused("vm", "cp", here, f"{name}:/root"))
        self.assertIn("--recursive", self.refused("vm", "cp", f"{name}:/root", here))
        self.assertEqual(pathlib.Path(f"{here}.back").read_bytes(), here.read_bytes())
        cut = subprocess.run(["sh", "-c", 'trap "" XFSZ; ulimit -f 10; exec "$@"', "sh", BUILD / "blixard", "vm", "cp", f"{name}:/root/file", f"{here}.cut"],
                             env=self.node.env, text=True, stderr=subprocess.PIPE)
        self.assertIn(f"writing {here}.cut: File too large", cut.stderr)
        self.assertEqual([path.name for path in here.parent.glob("file.cut*")], [])
        tree = pathlib.Path(folder.name) / "tree"
        (tree / "below").mkdir(parents=True)
        (tree / "below" / "leaf").write_text("leaf\n")
        self.ok("vm", "cp", "-r", tree, f"{name}:/root/tree")
        self.assertEqual(self.shell(name, "cat /root/tree/below/leaf"), "leaf\n")
        self.ok("vm", "cp", "-r", f"{name}:/root/tree", f"{tree}.back")
        self.assertEqual((pathlib.Path(f"{tree}.back") / "below/leaf").read_text(), "leaf\n")
        there = pathlib.Path(folder.name) / "there"
        there.mkdir()
        self.ok("vm", "cp", "-r", f"{name}:/root/tree/", there)
        self.ok("vm", "cp", "-r", f"{name}:/root/tree/below/.", there)
        self.assertEqual((there / "tree/below/leaf").read_text() + (there / "leaf").read_text(), "leaf\nleaf\n")
        self.ok("vm", "cp", "-r", tree, f"{name}:/srv/")
        self.assertEqual(self.shell(name, "cat /srv/tree/below/leaf"), "leaf\n")
        # One that fails half way says what is there.
        (tree / "below" / "much").write_bytes(os.urandom(2 << 20))
        self.shell(name, "mkdir /root/small; mount -t tmpfs -o size=1m none /root/small")
        told = self.refused("vm", "cp", "-r", tree, f"{name}:/root/small/")
        self.assertIn("/root/small/tree has a part of it, which stays", told)
        self.assertIn("No space left on device", told)
        shutil.rmtree(there)
        (there / "tree" / "below").mkdir(parents=True)
        (there / "tree" / "below" / "leaf").mkdir()
        (there / "tree" / "below" / "leaf" / "own").write_text("")
        self.assertIn("may have a part of it, which stays", self.refused("vm", "cp", "-r", f"{name}:/root/tree", there))

    def test_what_is_refused_while_its_input_still_comes_is_told(self):
        """Goal: an agent that refuses while the file still comes ends the request, not the daemon.  Method: more than
        a connection holds, to where it cannot be, and to a program that there is not."""
        name = self.shared()
        here = pathlib.Path(folder.name) / "large"
        here.write_bytes(bytes(1 << 20))
        for _ in range(3):
            self.assertIn("No such file", self.refused("vm", "cp", here, f"{name}:/nowhere/x"))
            self.assertIn("no program", self.run_cli("vm", "exec", name, "--", "/bin/nothing", stdin="x" * (8 << 20)).stderr)
        self.assertEqual(self.show(name)["state"], "running")

    def exec_of(self, name, spec, *frames):
        """A request of a program and frames behind it, as they are; its connection."""
        query = urllib.parse.urlencode({"exec": json.dumps(spec)})
        body = b"".join(struct.pack(">BI", kind, len(content)) + content for kind, content in frames)
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(60)
        client.connect(str(self.node.folder / "api.sock"))
        client.sendall(f"POST /v1/machines/{name}/exec?{query} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                       + body)
        return client

    def test_frames_that_a_program_does_not_want_end_nothing(self):
        """Goal: what a client says to a program is input to the daemon.  Method: no body, input to a program that was to
        get none, input behind the end of input, the end twice; by hand, as the command line says none of that."""
        name = self.shared()
        quiet = {"arguments": ["sh", "-c", "cat; echo done"]}
        loud = {**quiet, "input": True}
        for spec, frames in [(quiet, []), (quiet, [(0, b"word")]), (quiet, [(1, b"")]), (loud, [(0, b"word"), (1, b""), (0, b"more"), (1, b"")]),
                             (loud, [(1, b""), (4, b"")]), (loud, [(2, b"xxxx"), (3, b"\0"), (9, b"?"), (0, b"")])]:
            with self.subTest(spec=spec, frames=frames), self.exec_of(name, spec, *frames) as client:
                answer = b"".join(iter(lambda client=client: client.recv(65536), b""))
                self.assertIn(b"done", answer)
                self.assertIn(b'"exit_code":0', answer)
                self.assertEqual(b"word" in answer, spec is loud and (0, b"word") in frames)
        self.assertEqual(self.show(name)["state"], "running")

    def test_who_leaves_before_a_program_has_begun_ends_nothing(self):
        """Method: the connection is closed while the agent has not yet said that the program runs, which it then kills."""
        name = self.shared()
        for _ in range(20):
            self.exec_of(name, {"arguments": ["sleep", "1000"]}).close()
        self.shell(name, "while pidof sleep > /dev/null; do :; done")
        self.assertEqual(self.show(name)["state"], "running")

    def test_who_leaves_before_a_console_has_begun_ends_nothing(self):
        """Method: the connection is closed before the first byte of the answer, more often than a console has places."""
        name = self.shared()
        for what in ("console", "log?follow=true"):
            for _ in range(20):
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(str(self.node.folder / "api.sock"))
                    method = "POST" if what == "console" else "GET"
                    client.sendall(f"{method} /v1/machines/{name}/{what} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
            with subprocess.Popen([BUILD / "blixard", "vm", "logs", name, "--follow"], env=self.node.env, text=True,
                                  stdout=subprocess.PIPE) as follower:
                self.shell(name, "while echo there is room; do sleep 1; done > /dev/ttyS0 2> /dev/null & echo $! > /run/pid")
                self.assertTrue(any("there is room" in line for line in follower.stdout))
                self.shell(name, "kill $(cat /run/pid)")
                follower.kill()

    def test_what_was_written_is_there_after_stop_and_start(self):
        name = self.shared()
        self.shell(name, "echo kept > /root/note; mkdir /root/new; echo leaf > /root/new/leaf")
        self.ok("vm", "stop", name)
        stopped = self.show(name)
        self.assertEqual((stopped["state"], stopped["desired"]), ("stopped", "stopped"))
        self.assertIn("not running", self.refused("vm", "exec", name, "--", "true"))
        self.ok("vm", "start", name)
        self.assertEqual(self.shell(name, "cat /root/note /root/new/leaf"), "kept\nleaf\n")
        self.ok("vm", "restart", name)
        self.assertEqual(self.shell(name, "cat /root/note"), "kept\n")

    def test_pause_and_console(self):
        name = self.shared()
        self.ok("vm", "pause", name)
        self.assertEqual(self.show(name)["state"], "paused")
        self.assertIn("paused", self.refused("vm", "exec", name, "--", "true"))
        self.ok("vm", "resume", name)
        self.assertEqual(self.shell(name, "echo again"), "again\n")
        self.shell(name, "echo said on the console > /dev/ttyS0")
        metrics = self.node.get("/metrics")
        self.assertIn('blixard_machines{state="running"}', metrics)
        self.assertRegex(metrics, f'blixard_machine_resident_bytes{{project="default",machine="{name}"}} [1-9]')
        log = self.ok("vm", "logs", name)
        self.assertIn("said on the console", log)
        self.shell(name, "printf 'first\\nsecond\\nthird\\n' > /dev/ttyS0")
        end = time.monotonic() + 60
        while "third" not in self.ok("vm", "logs", name):  # on its way through the guest's port and the monitor
            self.assertLess(time.monotonic(), end)
        self.assertEqual(self.ok("vm", "logs", name, "--tail", "2").splitlines(), ["second", "third"])

    def test_a_halted_one_is_made_and_not_started(self):
        name = self.create("--strategy", "Halted")
        self.assertEqual(self.show(name)["state"], "stopped")
        self.ok("vm", "start", name)
        self.assertEqual(self.show(name)["state"], "running")

    def test_who_stops_waiting_is_told_what_goes_on(self):
        """Goal: Ctrl-C ends the waiting alone.  Method: when the second thread is there, what it will say is."""
        Case.count += 1
        name = f"m{Case.count}"
        self.addCleanup(self.run_cli, "vm", "delete", name)
        with subprocess.Popen([BUILD / "blixard", "vm", "create", name, "--image", "small", "--memory", "128MiB", "--disk", "64MiB"],
                              env=self.node.env, text=True, stderr=subprocess.PIPE) as create:
            until(lambda: len(list(pathlib.Path(f"/proc/{create.pid}/task").iterdir())) == 2)
            create.send_signal(signal.SIGINT)
            said = create.communicate(timeout=60)[1]
        self.assertEqual((create.returncode, "the node goes on with it: blixard operation wait" in said), (-signal.SIGINT, True), said)
        self.ok("operation", "wait", said.split()[-1])
        self.assertEqual(self.shell(name, "echo up"), "up\n")

    def test_deleting_leaves_nothing(self):
        name = self.create()
        place = self.folder_of(name)
        monitor, vmm = self.pids(name)
        self.assertIn("in use", self.refused("image", "delete", "small"))
        self.ok("vm", "delete", name)
        self.assertFalse(place.exists())
        for pid in (monitor, vmm):
            self.assertFalse(runs(pid))
        self.assertIn("no machine", self.refused("vm", "show", name))


class Restarts(Case):
    def again(self, number):
        self.node.process.send_signal(number)
        self.node.process.wait(timeout=60)
        ended = self.node
        type(self).node = self.node = Node(folder=ended.folder, arguments=PATIENT)
        self.node.owned, ended.owned = ended.owned, None

    def test_machines_outlive_the_daemon(self):
        name = self.create()
        self.shell(name, "echo in memory > /tmp/note; mount | head -1 > /dev/null")
        before = self.pids(name)
        for number in (signal.SIGTERM, signal.SIGKILL):
            self.again(number)
            self.assertEqual(self.pids(name), before)
            self.ok("vm", "wait", name, "--timeout", "60s")
            self.assertEqual(self.shell(name, "cat /tmp/note"), "in memory\n")
        self.assertEqual(self.show(name)["restarts"], 0)

    def test_what_ended_meanwhile_is_noticed(self):
        gone = self.create("--strategy", "Once")
        again = self.create("--strategy", "Always")
        pids = self.pids(gone), self.pids(again)
        self.node.process.kill()
        self.node.process.wait(timeout=60)
        for _, vmm in pids:
            os.kill(vmm, signal.SIGKILL)
        ended = self.node
        type(self).node = self.node = Node(folder=ended.folder, arguments=PATIENT)
        self.node.owned, ended.owned = ended.owned, None
        self.ok("vm", "wait", gone, "--for", "failed", "--timeout", "60s")
        self.ok("vm", "wait", again, "--timeout", "180s")
        self.assertEqual(self.show(again)["restarts"], 1)


class Refusals(Case):
    def test_what_cannot_be_is_said(self):
        name = self.create("--strategy", "Halted", "--publish", "127.0.0.1:7999:80")
        for words, text in (
                (("vm", "create", name, "--image", "small"), "already"),
                (("vm", "create", "x", "--image", "nothing"), "no image"),
                (("vm", "create", "x", "--image", "small", "--publish", "7999:80"), "published by machine"),
                (("vm", "create", "x", "--image", "small", "--publish", "80"), "HOST-PORT"),
                (("vm", "create", "x", "--image", "small", "--memory", "1MiB"), "--memory is 1 MiB"),
                (("vm", "create", "x", "--image", "small", "--cpus", "1000"), "cpus"),
                (("vm", "create", "X_y", "--image", "small"), "no name"),
                (("vm", "create", "x"), "--image"),
                (("vm", "pause", name), "nothing to pause"),
                (("vm", "console", name), "does not run"),
                (("vm", "stop", "nobody"), "no machine"),
                (("vm", "cp", "a", "b"), "NAME:PATH"),
                (("vm", "cp", "a", f"{name}:"), "NAME:PATH"),
                (("vm", "cp", "no-such-file", f"{name}:/"), "does not exist"),
                (("vm", "import", "no-such-file"), "does not exist"),
                (("vm", "create", "x", "--image", "small", "--cpus", "0"), "from 1 to 64"),
                (("vm", "create", "x", "--image", "small", "--memory", "1XB"), "is no size (for example 512MiB)"),
                (("vm", "create", "x", "--image", "small", "--memory", "2TiB"), "--memory is 2 TiB; it must be from 64 MiB to 1 TiB"),
                (("image", "import", "i", "--root", "/etc/passwd"), "archive"),
                (("image", "import", "i", "--kernel", "/etc/passwd"), "bzImage")):
            self.assertIn(text, self.refused(*words), words)

    @unittest.skipUnless(os.geteuid() == 0 and shutil.which("sqfstar"), "needs root, to be somebody else, and squashfs-tools")
    def test_an_image_is_made_by_somebody_who_is_not_root(self):
        """Goal: an ordinary user's import becomes SquashFS, with the archive's owners.  Method: as nobody, with a program of theirs."""
        with tempfile.TemporaryDirectory(prefix="blixard-nobody-") as home:
            program = shutil.copy(BUILD / "blixard", home)
            archive = shutil.copy(image, home)
            for path in (home, program, archive):
                os.chmod(path, 0o755)
            words = [program, "image", "import", "theirs", "--root", archive, *kernel_flags()]
            if any(subprocess.run(["test", "-r", path], user=65534, group=65534).returncode != 0 for path in words[7::2]):
                self.skipTest("the kernel's folder is root's alone")
            done = subprocess.run(words, user=65534, group=65534, extra_groups=[], env={**self.node.env, "HOME": home}, text=True, capture_output=True)
            self.assertEqual((done.returncode, "squashfs" in done.stderr), (0, True), done.stderr)
        self.ok("vm", "create", "theirs", "--image", "theirs", "--memory", "128MiB", "--disk", "64MiB")
        self.addCleanup(self.run_cli, "vm", "delete", "theirs")
        self.assertEqual(self.shell("theirs", "stat -c %u:%g /bin"), "0:0\n")

    def test_what_is_no_archive_is_not_taken_for_one(self):
        """Goal: an import takes its archive away at its end, and nothing else.  Method: one of the kernel of an image."""
        about = json.loads(self.ok("image", "show", "small", "--output", "json"))
        for part in ("kernel", "root"):
            with self.assertRaises(Refused) as refused:
                self.node.call("POST", "/v1/machine-imports", {"blob": about[part]})
            self.assertIn("no archive of a machine", refused.exception.problem["detail"])
        self.create()

    def test_what_will_not_come_is_not_waited_for(self):
        name = self.create("--strategy", "Halted")
        for state in ("running", "failed", "backoff", "paused"):
            self.assertIn(f"stays so until somebody starts it (blixard vm start {name}): it will not be {state}",
                          self.refused("vm", "wait", name, "--for", state))
        self.ok("vm", "wait", name, "--for", "stopped")
        self.assertIn("is not checked", self.refused("vm", "wait", name, "--for", "healthy"))
        self.ok("vm", "start", name)
        self.assertIn("has the strategy Halted: it is not started again", self.refused("vm", "wait", name, "--for", "backoff"))
        self.ok("vm", "pause", name)
        self.assertIn("stays so until somebody resumes it", self.refused("vm", "wait", name))

    def test_one_that_only_begins_is_started_anew_and_deleted(self):
        """Neither waits for a guest that has not come up."""
        name = self.create("--no-wait")
        self.ok("vm", "restart", name)
        self.assertEqual(self.show(name)["state"], "running")
        self.ok("vm", "restart", name, "--no-wait")
        self.ok("vm", "delete", name)
        self.assertIn("no machine", self.refused("vm", "show", name))

    def test_a_vmm_that_does_not_start_says_why(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            name = "taken"
            self.addCleanup(self.run_cli, "vm", "delete", name)
            done = self.run_cli("vm", "create", name, "--image", "small", "--strategy", "Once", "--publish",
                                f"127.0.0.1:{port}:80", "--memory", "128MiB")
            self.assertNotEqual(done.returncode, 0)
            self.assertIn("host forwarding", done.stderr)
        self.ok("vm", "start", name)


if __name__ == "__main__":
    unittest.main()
