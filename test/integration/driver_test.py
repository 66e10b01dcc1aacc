"""The drivers firecracker and cloud-hypervisor: against the real programs where they are in PATH and Linux boots under KVM,
else against stand-ins written from their API descriptions."""
import contextlib
import json
import os
import pathlib
import queue
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
from node import BUILD  # noqa: E402

STAND_IN = pathlib.Path(__file__).resolve().parent.parent / "lib" / "vmm_standin.py"
DRIVE = BUILD / "test" / "hypervisor-drive"
ENDS = {"shutdown": "0", "panic": "2", "killed": "3", "failed": "4"}


class Drive:
    """One process that has a driver in its hand."""

    def __init__(self, place, how, driver, tap=""):
        self.lines = queue.Queue()
        self.process = subprocess.Popen(
            [DRIVE, BUILD / "blixard-monitor", how, driver, place / "machine", place / "kernel", place / "disk", tap],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1,
            env={**os.environ, "PATH": f"{place / 'bin'}:{os.environ['PATH']}"})
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            self.lines.put(line.strip())
        self.lines.put("the end")

    def say(self, text):
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def expect(self, start, limit_s=60):
        """The next line; it begins so."""
        try:
            line = self.lines.get(timeout=limit_s)
        except queue.Empty:
            line = "silence"
        if not line.startswith(start):
            raise AssertionError(f"{line!r} does not begin with {start!r}")
        return line

    def end(self):
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


class Drivers:
    """What is asked of each."""

    driver = None

    def setUp(self):
        self.place = pathlib.Path(tempfile.mkdtemp(prefix="blixard-driver-"))
        self.drives = []
        self.addCleanup(self.leave, self.place, self.drives)
        self.place.chmod(0o755)
        (self.place / "bin").mkdir()
        (self.place / "machine").mkdir(mode=0o700)
        (self.place / "kernel").write_bytes(b"\x7fELF")
        (self.place / "disk").write_bytes(bytes(4096))
        (self.place / "disk").chmod(0o666)
        program = self.place / "bin" / self.driver
        shutil.copy(STAND_IN, program)
        program.chmod(0o755)

    @staticmethod
    def leave(place, drives):
        """Whoever writes there has ended when it is removed."""
        for drive in drives:
            drive.end()
        lock = place / "machine" / "lock"
        for pid in lock.read_text().split()[:1] if lock.exists() else []:
            with contextlib.suppress(ProcessLookupError):
                monitor = os.pidfd_open(int(pid))
                signal.pidfd_send_signal(monitor, signal.SIGTERM)
                select.select([monitor], [], [], 60)
                os.close(monitor)
        if place.exists():
            shutil.rmtree(place)

    def drive(self, how="start", tap=""):
        drive = Drive(self.place, how, self.driver, tap)
        self.drives.append(drive)
        return drive

    def requests(self):
        text = (self.place / "machine" / "vmm" / "requests").read_text()
        return [json.loads(line) for line in text.splitlines()]

    def attach(self, history=0):
        console = socket.socket(socket.AF_UNIX)
        folder = os.open(self.place / "machine", os.O_PATH)
        try:
            console.connect(f"/proc/self/fd/{folder}/console.sock")
        except OSError:
            console.close()
            raise
        finally:
            os.close(folder)
        console.settimeout(60)
        console.sendall(f"attach {history}\n".encode())
        return console

    def attached(self, drive):
        """As soon as there is a console to attach to."""
        while drive.process.poll() is None:
            try:
                return self.attach(4096)
            except (FileNotFoundError, ConnectionRefusedError):
                threading.Event().wait(0.02)
        raise AssertionError("it has ended")

    def console(self, word):
        with self.attach() as console:
            console.sendall(word.encode() + b"\n")
            while console.recv(4096):
                pass

    def test_a_machine_is_started_as_the_description_says(self):
        drive = self.drive(tap="tap0")
        drive.expect("started")
        refused = [r for r in self.requests() if r["status"] >= 400 and not r["path"].endswith("/vm.info")]
        self.assertEqual(refused, [])
        text = " ".join(r["body"] for r in self.requests())
        for word in ("tap0", "02:00:00:00:00:01", "word", "/machine/kernel", "/machine/disk0", "4321", "7654321"):
            self.assertIn(word, text)
        self.assertTrue((self.place / "machine" / "agent.sock").is_socket())
        self.assertEqual((self.place / "machine" / "vmm").stat().st_mode & 0o777, 0o700)

    def test_its_memory_is_of_huge_pages_and_no_balloon_is_beside_them(self):
        drive = self.drive("huge", tap="tap0")
        drive.expect("started")
        asked = [r for r in self.requests() if r["method"] == "PUT"]
        self.assertEqual([r for r in asked if r["status"] >= 400], [])
        text = " ".join(r["path"] + r["body"] for r in asked)
        for word in {"firecracker": ['"huge_pages":"2M"'], "cloud-hypervisor": ['"hugepages":true', f'"hugepage_size":{2 << 20}']}[self.driver]:
            self.assertIn(word, text)
        self.assertNotIn("balloon", text)

    def test_its_guest_sees_numa_nodes_and_its_balloon_is_of_all_their_memory(self):
        drive = self.drive("cells")
        if self.driver == "firecracker":
            self.assertIn("sees NUMA nodes under cloud-hypervisor", drive.expect("error"))
            return
        drive.expect("started")
        config = next(json.loads(r["body"]) for r in self.requests() if r["path"].endswith("/vm.create"))
        self.assertEqual(config["memory"], {"size": 0, "zones": [{"id": "cell0", "size": 48 << 20}, {"id": "cell1", "size": 80 << 20}]})
        self.assertEqual(config["numa"], [{"guest_numa_id": n, "cpus": [n], "memory_zones": [f"cell{n}"]} for n in (0, 1)])
        self.assertEqual(config["cpus"]["topology"]["packages"], 2)
        drive.say(f"balloon {96 << 20}")
        drive.expect("done")
        self.assertIn(f'"desired_balloon":{32 << 20}', self.requests()[-1]["body"])
        self.assertEqual([r for r in self.requests() if r["status"] >= 400 and r["method"] == "PUT"], [])

    def test_a_device_of_the_host_is_passed_on_by_its_folder_and_no_balloon_is_beside_it(self):
        found = sorted(pathlib.Path("/sys/bus/pci/devices").glob("*:*"))
        if not found:
            self.skipTest("this machine has no PCI")
        drive = self.drive(f"device {found[0].name}", tap="tap0")
        if self.driver == "firecracker":
            self.assertIn("passes none through", drive.expect("error"))
            return
        drive.expect("started")
        asked = [r for r in self.requests() if r["method"] == "PUT"]
        self.assertEqual([r for r in asked if r["status"] >= 400], [])
        text = " ".join(r["path"] + r["body"] for r in asked)
        self.assertIn(f'"devices":[{{"id":"device0","path":"{found[0]}"}}]', text)
        self.assertNotIn("balloon", text)

    def test_it_is_paused_ballooned_saved_and_read_again(self):
        drive = self.drive()
        drive.expect("started")
        for order, told in (("pause", "paused"), ("resume", "resumed")):
            drive.say(order)
            drive.expect(told)
            drive.expect("done")
        drive.say(f"balloon {96 << 20}")
        drive.expect("done")
        asked = self.requests()[-1]
        self.assertIn({"firecracker": '"amount_mib":32', "cloud-hypervisor": f'"desired_balloon":{32 << 20}'}[self.driver], asked["body"])
        drive.say(f"save {self.place / 'saved'}")
        drive.expect("paused")
        drive.expect("done")
        self.assertEqual((self.place / "saved").read_bytes()[:8], b"BLXSTATE")
        self.assertFalse((self.place / "machine" / "vmm" / "memory").exists())
        drive.say("kill")
        drive.expect(f"exit {ENDS['killed']}")

        again = self.drive("incoming")
        again.expect("started")
        again.expect("paused")
        (self.place / "cut").write_bytes((self.place / "saved").read_bytes()[:-100])
        again.say(f"load {self.place / 'cut'}")
        again.expect("error corrupt")
        again.say(f"load {self.place / 'saved'}")
        again.expect("paused")
        again.expect("done")
        again.say("resume")
        again.expect("resumed")
        again.expect("done")
        self.assertTrue((self.place / "machine" / "agent.sock").is_socket())

    def test_a_state_is_read_in_another_folder(self):
        """As on another node: nothing in it says where the machine was."""
        drive = self.drive()
        drive.expect("started")
        drive.say(f"save {self.place / 'saved'}")
        drive.expect("paused")
        drive.expect("done")
        drive.say("kill")
        drive.expect(f"exit {ENDS['killed']}")
        state = (self.place / "saved").read_bytes()
        self.assertNotIn(str(self.place).encode(), state)
        self.leave(self.place, self.drives)
        self.setUp()  # another place
        (self.place / "saved").write_bytes(state)
        again = self.drive("incoming")
        again.expect("started")
        again.expect("paused")
        again.say(f"load {self.place / 'saved'}")
        again.expect("paused")
        again.expect("done")
        again.say("resume")
        again.expect("resumed")
        again.expect("done")

    def test_who_comes_back_finds_it(self):
        drive = self.drive()
        drive.expect("started")
        drive.process.kill()
        drive.process.wait()
        made = len([r for r in self.requests() if r["method"] != "GET"])
        again = self.drive("attach")
        again.expect("started")
        self.assertEqual(len([r for r in self.requests() if r["method"] != "GET"]), made)
        again.say("power-down")
        again.expect("done")
        again.expect(f"exit {ENDS['shutdown']}")

    def test_who_comes_back_before_it_runs_tells_it_the_rest(self):
        """The first order to boot gets no answer, and the one who gave it is killed."""
        program = self.place / "bin" / self.driver
        program.write_text(program.read_text().replace("            answer = vmm.answer(self.command, self.path, body)\n", """\
            if (b"InstanceStart" in raw or self.path.endswith("/vm.boot")) and not hasattr(vmm, "held"):
                vmm.held = print("held", flush=True)
                threading.Event().wait()
            answer = vmm.answer(self.command, self.path, body)
"""))
        drive = self.drive()
        with self.attached(drive) as console:
            said = b""
            while b"held" not in said:
                said += console.recv(4096)
        drive.process.kill()
        drive.process.wait()
        self.drive("attach").expect("started")
        self.assertEqual([r for r in self.requests() if r["status"] >= 400 and not r["path"].endswith("/vm.info")], [])

    def test_how_it_ends_is_told(self):
        for word, end in (("poweroff", "shutdown"), ("crash", "failed"), *self.more_ends):
            with self.subTest(word):
                drive = self.drive()
                drive.expect("started")
                self.console(word)
                self.assertIn("out of luck" if word == "crash" else "", drive.expect(f"exit {ENDS[end]}"))

    def test_what_it_refuses_is_the_error(self):
        (self.place / "kernel").unlink()
        self.assertIn("/machine/kernel", self.drive().expect(f"exit {ENDS['failed']}"))

    def test_sockets_that_are_none_are_not_taken(self):
        """A VMM that a guest has taken over puts a link where its socket should be."""
        program = self.place / "bin" / self.driver
        program.write_text(program.read_text().replace(
            "Server(api_path, Handler).serve_forever()",
            "os.symlink('/run/other.sock', api_path); threading.Event().wait()"))
        self.assertIn("is no socket of its VMM", self.drive().expect(f"exit {ENDS['failed']}"))


class Firecracker(Drivers, unittest.TestCase):
    driver = "firecracker"
    more_ends = (("panic", "panic"),)

    def test_a_reset_is_refused(self):
        drive = self.drive()
        drive.expect("started")
        drive.say("reset")
        drive.expect("error unsupported")


class CloudHypervisor(Drivers, unittest.TestCase):
    driver = "cloud-hypervisor"
    more_ends = ()

    def test_a_reset_is_done(self):
        drive = self.drive()
        drive.expect("started")
        drive.say("reset")
        drive.expect("done")


if __name__ == "__main__":
    unittest.main()
