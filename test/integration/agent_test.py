"""The agent as an ordinary process, asked by the daemon's own client."""
import os
import pathlib
import signal
import select
import socket
import subprocess
import tarfile
import threading
import tty
import unittest

from agent import CALL, Scene

class Process(Scene):
    """Everything that needs no machine of its own."""

    def setUp(self):
        super().setUp()
        self.socket = self.folder / "agent"
        self.begin("--listen", self.socket, "--no-vsock", "--port-name", "none")

    def test_tells_who_it_is(self):
        info = self.call("info")
        self.assertEqual(info["kernel"], os.uname().release)
        self.assertEqual(info["boot_id"], pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        self.assertEqual((info["hostname"], info["problem"]), (os.uname().nodename, ""))

    def test_runs_programs(self):
        done = self.exec("sh", "-c", "echo out; echo err >&2; exit 7")
        self.assertEqual((done.status, done.output), (7, b"out\n"))
        self.assertIn("err\n", done.said)
        self.assertGreater(int(done["pid"]), 0)
        killed = self.exec("sh", "-c", "kill -TERM $$")
        self.assertEqual((killed["signal"], killed["exit"]), ("15", "-1"))
        self.assertEqual(self.call("exec", "folder=/proc", "--", "pwd").output, b"/proc\n")

    def test_says_why_a_program_does_not_run(self):
        self.assertIn("error not_found: running nonesuch", self.exec("nonesuch").said)
        self.assertIn("error denied", self.exec("/etc/passwd").said)
        self.assertIn("error not_found", self.call("exec", "folder=/nonesuch", "--", "true").said)
        self.assertIn('no user "nonesuch"', self.call("exec", "user=nonesuch", "--", "true").said)
        self.assertIn("error invalid", self.call("exec", "user=1:x", "--", "true").said)
        self.assertIn("error too_large", self.exec("echo", *["x" * 30000] * 5).said)

    @unittest.skipUnless(os.getuid() == 0, "becoming somebody else needs root")
    def test_runs_programs_as_somebody_else(self):
        done = self.call("exec", "user=nobody", "--", "sh", "-c", "id -un; echo $HOME; grep ^Groups /proc/self/status")
        self.assertEqual(done.output.split()[:2], [b"nobody", b"/nonexistent"])
        self.assertEqual(self.call("exec", "user=1234:4321", "--", "sh", "-c", "id -u; id -g").output, b"1234\n4321\n")

    def test_kills_what_runs_too_long(self):
        done = self.call("exec", "timeout=100", "--", "sh", "-c", "echo before; sleep 1000")
        self.assertEqual((done["timed_out"], done["signal"], done.output), ("1", "9", b"before\n"))

    def test_is_told_what_to_do_with_what_runs(self):
        cancelled = self.call("exec", "then=cancel", "--", "sleep", "1000")
        self.assertIn("error cancelled", cancelled.said)
        signalled = self.call("exec", "then=signal", "--", "sh", "-c", "trap 'exit 9' TERM; while :; do sleep 0.01; done")
        self.assertIn(signalled["exit"] + signalled["signal"], ("90", "-115"))  # it may come before the trap is set
        sized = self.call("exec", "tty", "then=resize", "--", "sh", "-c",
                          "until stty size | grep -q '50 132'; do :; done; echo wide")
        self.assertEqual(sized.output, b"wide\r\n")

    def test_serves_a_line_whose_other_end_comes_and_goes(self):
        """A pty in place of the port: each time it is opened a host finds the agent, in a clean state."""
        self.agent.kill()
        master, slave = os.openpty()
        self.begin("--port", os.ttyname(slave), "--no-vsock")
        tty.setraw(slave)
        for turn in range(3):
            listener = socket.socket(socket.AF_UNIX)
            path = self.folder / f"line{turn}"
            listener.bind(str(path))
            listener.listen(1)
            relay = threading.Thread(target=self.relay, args=(listener, master))
            relay.start()
            first = subprocess.Popen([CALL, path, "exec", "--", "sh", "-c", "echo begun; cat /dev/zero"],
                                     stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            self.assertEqual(first.stdout.readline(), b"begun\n")
            first.kill()  # in the middle of a frame, as likely as not
            first.wait()
            first.stdout.close()
            relay.join()
            listener.close()
        os.close(master)
        os.close(slave)

    @staticmethod
    def relay(listener, master):
        peer, _ = listener.accept()
        while True:
            ready, _, _ = select.select([peer, master], [], [])
            try:
                if peer in ready:
                    data = peer.recv(65536)
                    if not data:
                        return
                    os.write(master, data)
                if master in ready:
                    peer.sendall(os.read(master, 65536))
            except OSError:
                return

    def test_does_not_wait_for_what_is_left_in_the_background(self):
        done = self.exec("sh", "-c", "sleep 1000 & echo $!")
        self.assertEqual(done.status, 0)
        os.kill(int(done.output), signal.SIGKILL)

    def test_gives_terminals(self):
        done = self.call("exec", "tty", "--", "sh", "-c", "test -t 0 && test -t 1 && stty size && echo $TERM")
        self.assertEqual(done.output, b"24 80\r\nxterm-256color\r\n")
        typed = self.call("exec", "tty", "input", "--", "sh", "-c", "stty -echo; echo ready; cat", data=b"typed\n")
        self.assertIn(b"typed", typed.output)
        self.assertEqual(typed.status, 0)

    def test_streams_more_than_any_buffer_holds(self):
        data = os.urandom(1 << 16) * 160
        self.assertEqual(self.call("exec", "input", "--", "cat", data=data).output, data)
        self.assertEqual(self.call("exec", "input", "--", "head", "-c", "5", data=data).output, data[:5])
        counted = self.call("exec", "input", "--", "wc", "-c", data=data)
        self.assertEqual(int(counted.output), len(data))

    def test_writes_files_whole_or_not_at_all(self):
        data = os.urandom(3_000_000)
        path = self.folder / "made" / "on the way" / "file"
        self.assertEqual(self.call("put", path, "04750", data=data)["bytes"], str(len(data)))
        self.assertEqual(path.read_bytes(), data)
        self.assertEqual((path.stat().st_mode & 0o7777, path.stat().st_mtime_ns), (0o4750, 1234567890123456789))
        self.assertEqual(os.listdir(path.parent), ["file"])
        self.assertEqual(self.call("put", path, "0600", data=b"").status, 0)
        self.assertEqual(path.read_bytes(), b"")
        self.assertIn("error invalid", self.call("put", self.folder, "0600", data=b"x").said)

    def test_leaves_nothing_of_a_file_whose_sender_has_gone(self):
        sender = subprocess.Popen([CALL, self.socket, "put", self.folder / "file", "0600"], stdin=subprocess.PIPE,
                                  stderr=subprocess.DEVNULL)
        sender.stdin.write(b"x" * 3_000_000)
        sender.stdin.flush()
        sender.kill()
        sender.wait()
        sender.stdin.close()
        self.exec("true")
        names = [name for name in os.listdir(self.folder) if name.startswith("file")]
        while names and names != ["file"]:
            names = [name for name in os.listdir(self.folder) if name.startswith("file")]
        self.assertEqual(names, [])

    def test_reads_files(self):
        data = os.urandom(2_000_000)
        (self.folder / "file").write_bytes(data)
        got = self.call("get", self.folder / "file")
        self.assertEqual((got.output, got["size"], got["bytes"]), (data, str(len(data)), str(len(data))))
        self.assertIn("error not_found", self.call("get", self.folder / "nonesuch").said)
        self.assertIn("error invalid", self.call("get", self.folder).said)
        os.symlink("a target", self.folder / "link")
        self.assertEqual(self.call("stat", self.folder / "link")["target"], "a target")

    def make_tree(self):
        tree = self.folder / "tree"
        deep = tree / ("n" * 120) / ("m" * 120)
        deep.mkdir(parents=True)
        (deep / "file").write_bytes(os.urandom(100_001))
        (deep / "file").chmod(0o640)
        os.utime(deep / "file", ns=(1, 1500000000123456789))
        (tree / "empty").write_bytes(b"")
        os.symlink("../" + "t" * 150, tree / "link")
        os.link(tree / "empty", tree / "same")
        os.mkfifo(tree / "fifo")
        return tree, deep / "file"

    def test_packs_trees_that_tar_reads(self):
        tree, file = self.make_tree()
        packed = self.call("pack", tree)
        (self.folder / "tree.tar").write_bytes(packed.output)
        with tarfile.open(self.folder / "tree.tar") as archive:
            names = {member.name: member for member in archive}
            member = names[str(file.relative_to(self.folder))]
            self.assertEqual(archive.extractfile(member).read(), file.read_bytes())
            self.assertEqual((member.mode, round(member.mtime, 3)), (0o640, 1500000000.123))
            self.assertEqual(names["tree/link"].linkname, "../" + "t" * 150)
            self.assertTrue(names["tree/fifo"].isfifo())
            self.assertEqual(len(names), int(packed["count"]))

    def test_unpacks_what_tar_writes(self):
        tree, file = self.make_tree()
        for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
            with tarfile.open(self.folder / "in.tar", "w", format=form) as archive:
                archive.add(tree, "tree")
            target = self.folder / f"out{form}"
            done = self.call("unpack", target, data=(self.folder / "in.tar").read_bytes())
            self.assertEqual(done.status, 0, done.said)
            copy = target / file.relative_to(self.folder)
            self.assertEqual(copy.read_bytes(), file.read_bytes())
            self.assertEqual(copy.stat().st_mode & 0o7777, 0o640)
            self.assertEqual(os.readlink(target / "tree" / "link"), "../" + "t" * 150)
            self.assertTrue(os.path.samefile(target / "tree" / "empty", target / "tree" / "same"))

    def test_unpacks_below_its_folder_and_nowhere_else(self):
        outside = self.folder / "outside"
        outside.mkdir()
        for number, names in enumerate((["../evil"], ["a/../../evil"], ["link", "link/evil"])):
            archive_path = self.folder / "in.tar"
            with tarfile.open(archive_path, "w") as archive:
                for name in names:
                    member = tarfile.TarInfo(name)
                    if name == "link":
                        member.type, member.linkname = tarfile.SYMTYPE, str(outside)
                    archive.addfile(member)
            done = self.call("unpack", self.folder / "in" / str(number), data=archive_path.read_bytes())
            self.assertGreaterEqual(done.status, 100, names)
        self.assertEqual(os.listdir(outside), [])
        self.assertFalse((self.folder / "evil").exists() or (self.folder / "in" / "evil").exists())
        self.assertIn("error invalid", self.call("unpack", self.folder / "in", data=b"no archive" * 100).said)

    def test_tells_how_the_machine_is(self):
        metrics = self.call("metrics")
        self.assertEqual(int(metrics["cpus"]), os.sysconf("SC_NPROCESSORS_ONLN"))
        self.assertEqual(int(metrics["memory"]) >> 20,
                         os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20)
        self.assertIn("link lo", metrics.said)
        self.assertIn("mounted / ", metrics.said)

    def test_checks_services(self):
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)
        port = listener.getsockname()[1]
        for kind in ("listen", "tcp"):
            self.assertEqual(self.call("check", kind, port).status, 0, kind)

        def serve(status):
            peer, _ = listener.accept()
            if kind == "http":
                peer.recv(4096)
                peer.sendall(b"HTTP/1.1 %d x\r\n\r\n" % status)
            peer.close()

        kind = "tcp"
        serve(0)
        kind = "http"
        for status, expected in ((204, 0), (302, 0), (404, 100 + 12), (500, 100 + 12)):
            server = threading.Thread(target=serve, args=(status,))
            server.start()
            answer = self.call("check", "http", port, "/health")
            server.join()
            self.assertEqual(answer.status, expected, answer.said)
        listener.close()
        for kind in ("listen", "tcp", "http"):
            self.assertIn("error unavailable", self.call("check", kind, port).said)

    def test_a_new_host_finds_a_clean_state(self):
        """What ran for one host is killed when it goes, and the next one is served at once."""
        first = subprocess.Popen([CALL, self.socket, "exec", "--", "sh", "-c", "echo $$; exec sleep 1000"],
                                 stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        pid = int(first.stdout.readline())
        first.kill()
        first.wait()
        first.stdout.close()
        self.assertEqual(self.exec("true").status, 0)
        self.exec("sh", "-c", f"while kill -0 {pid} 2>/dev/null; do :; done")


@unittest.skipUnless(os.getuid() == 0, "a network of its own needs root")
class Network(Scene):
    """In a network namespace, where nothing of this machine's is changed."""

    def setUp(self):
        super().setUp()
        self.socket = self.folder / "agent"
        names = ["unshare", "--net", "--mount", "--uts", "--propagation", "private", "sh", "-ec",
                 "mkdir $0/etc; mount --bind $0/etc /etc; shift 0; exec \"$@\"", self.folder]
        self.begin("--listen", self.socket, "--no-vsock", "--port-name", "none", prefix=names)
        while not self.socket.exists():
            self.assertIsNone(self.agent.poll())
        for words in ("link add veth0 type veth peer name veth1", "link set veth0 address 52:54:00:00:00:05",
                      "address add 10.9.9.9/24 dev veth0"):
            self.assertEqual(self.exec("ip", *words.split()).status, 0)

    def test_is_as_the_host_says(self):
        plan = ("52:54:00:00:00:05", "eth7", "10.1.2.3/24", "default via 10.1.2.1", "web", "10.1.2.1")
        for _ in range(2):
            done = self.call("network", *plan)
            self.assertEqual(done.status, 0, done.said)
            shown = self.exec("ip", "address", "show", "dev", "eth7").output.decode()
            self.assertIn("inet 10.1.2.3/24", shown)
            self.assertIn("mtu 1400", shown)
            self.assertNotIn("10.9.9.9", shown)
            self.assertIn("default via 10.1.2.1 dev eth7", self.exec("ip", "route").output.decode())
        lines = "\n".join(f"route add 10.{64 + i // 250}.{i % 250}.0/24 via 10.1.2.1 dev eth7" for i in range(300))
        more = "\n".join(f"address add 10.3.{i}.1/24 dev eth7" for i in range(100))
        self.assertEqual(self.exec("sh", "-c", f"echo '{lines}\n{more}' | ip -batch -").status, 0)
        self.assertEqual(self.call("network", *plan).status, 0)
        self.assertEqual(len(self.exec("ip", "-4", "route").output.splitlines()), 2)
        self.assertEqual(self.exec("ip", "-4", "address", "show", "dev", "eth7").output.count(b"inet "), 1)
        moved = self.call("network", "52:54:00:00:00:05", "eth7", "fd00::5/64", "default via fd00::1", "web2", "fd00::1")
        self.assertEqual(moved.status, 0, moved.said)
        self.assertEqual(self.exec("ip", "-4", "route").output, b"")
        self.assertIn("default via fd00::1", self.exec("ip", "-6", "route").output.decode())
        self.assertEqual((self.folder / "etc" / "resolv.conf").read_text(), "nameserver fd00::1\n")
        self.assertEqual(self.exec("uname", "-n").output, b"web2\n")
        self.assertIn("error not_found", self.call("network", "52:54:00:00:00:99", "", "10.0.0.1/8", "", "w", "").said)
        self.assertIn("error invalid", self.call("network", plan[0], "", "10.0.0.1/33", "", "w", "").said)
