"""Guests that are a burden to their node: a flooded console, an agent that says nothing, memory that is wanted and given back.

One node and three machines for all of it, as each takes its time to boot, and an agent's silence is noticed after 45 s.
"""
import os
import pty
import re
import select
import signal
import subprocess
import unittest

from machine_case import MachineCase
from machines import kernel_flags
from node import BUILD
from node_case import SECONDS_MAX

PLAIN_ONLY = "the time goes to guests that are emulated, and to QEMU"

MIB = 1 << 20
CONSOLE_BYTES_MAX = 2 * MIB  # on disk: two files of half as much
FLOOD_BYTES = 256 << 10  # more than anybody on the way keeps; the guest's port is slow
LINE = "a line of a flood"


class Terminal:
    """`vm console` at a terminal."""

    def __init__(self, node, name):
        self.master, slave = pty.openpty()
        self.said = b""
        self.process = subprocess.Popen([BUILD / "blixard", "vm", "console", name], env=node.env, stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)

    def type(self, text):
        os.write(self.master, text.encode())

    def until(self, text):
        """What was said up to `text`; EIO is the end of a terminal that nobody has open."""
        while text.encode() not in self.said:
            if not select.select([self.master], [], [], SECONDS_MAX)[0]:
                raise AssertionError(f"{text!r} is not said: {self.said[-2000:]}")
            try:
                self.said += os.read(self.master, 65536)
            except OSError:
                raise AssertionError(f"it ended before {text!r}: {self.said[-2000:]}")
        before, _, self.said = self.said.partition(text.encode())
        return before.decode(errors="replace")

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.master)


class Guests(MachineCase):
    @classmethod
    def setUpClass(cls):
        # What all machines may have together: of this node's memory, in whole percent.
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        percent = 512 * MIB * 100 // total + 1
        cls.limit_mib = total // 100 * percent // MIB
        cls.begin(arguments=("--machine-memory-percent", str(percent)))
        cls.ok("vm", "create", "mute", "--image", "small", "--memory", "128MiB", "--disk", "16MiB")
        cls.ok("vm", "create", "m", "--image", "small", "--memory", "320MiB", "--disk", "16MiB")
        # Its agent stands still, with a program that was begun before.
        cls.asking = subprocess.Popen([BUILD / "blixard", "vm", "exec", "mute", "--", "sh", "-c",
                                       "echo $PPID; read x; kill -STOP $PPID; sleep 1000"],
                                      env=cls.node.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        cls.addClassCleanup(cls.asking.kill)
        cls.asking.stdout.readline()
        cls.asking.stdin.write("\n")
        cls.asking.stdin.flush()

    def place(self, name):
        return self.node.folder / "machines" / self.json("vm", "show", name)["id"]

    def terminal(self, name):
        terminal = Terminal(self.node, name)
        self.addCleanup(terminal.close)
        terminal.until("Ctrl-] detaches.")
        return terminal

    def listen(self):
        """What is typed at the console is answered there."""
        self.shell("m", "(while read line; do echo heard $line; done) < /dev/ttyS0 > /dev/ttyS0 & echo $! > /run/reader")
        self.addCleanup(self.shell, "m", "kill $(cat /run/reader)")

    def test_1_two_terminals_are_at_one_console_and_the_key_leaves_it(self):
        self.listen()
        one, two = self.terminal("m"), self.terminal("m")
        one.type("from one\n")
        for terminal in (one, two):
            terminal.until("heard from one")
        two.type("from two\n")
        for terminal in (one, two):
            terminal.until("heard from two")
        two.type("half a line\x1dand what is behind the key")
        two.until("Detached.")
        self.assertEqual(two.process.wait(timeout=60), 0)
        one.until("half a line")  # its echo: two connections have no order
        one.type(" and its end\n")
        one.until("heard half a line and its end")
        one.type("\x1d")
        one.until("Detached.")
        self.assertEqual(one.process.wait(timeout=60), 0)
        self.assertEqual(self.json("vm", "show", "m")["state"], "running")

    def test_2_a_flood_is_bounded_and_holds_nobody_up(self):
        self.listen()
        asleep, awake = self.terminal("m"), self.terminal("m")
        asleep.process.send_signal(signal.SIGSTOP)  # one who does not read holds nobody up
        self.shell("m", f"busybox yes {LINE} > /dev/ttyS0 & echo $! > /run/flood")
        logs = self.place("m") / "console.log", self.place("m") / "console.log.1"
        said = lambda: sum(log.stat().st_size for log in logs if log.exists())
        while said() < FLOOD_BYTES:
            awake.until(LINE)
        self.assertEqual(self.shell("m", "echo is there"), "is there\n")
        self.assertLessEqual(said(), CONSOLE_BYTES_MAX)
        self.assertIn(LINE, self.ok("vm", "logs", "m", "--tail", "4KiB"))
        self.shell("m", "kill $(cat /run/flood)")
        awake.type("after the flood\n")
        awake.until("heard after the flood")
        # It goes on, or was given up by the node meanwhile, and then says so.
        asleep.process.send_signal(signal.SIGCONT)
        asleep.type("\x1d")
        self.assertIn(asleep.process.wait(timeout=SECONDS_MAX), (0, 69))

    def resident(self, name):
        return self.json("vm", "show", name)["resident_bytes"]

    def until_resident_below(self, name, bytes_max):
        """The guest reports its free pages every two seconds."""
        for _ in range(120):
            now = self.resident(name)
            if now < bytes_max:
                return
            self.shell(name, "sleep 0.5")
        self.fail(f"{now >> 20} MiB stay with the VMM")

    def test_3_memory_that_a_guest_has_no_use_for_comes_back(self):
        self.shell("m", "mkdir /ram; mount -t tmpfs -o size=256m none /ram; head -c 160000000 /dev/zero > /ram/much")
        most = self.resident("m")
        self.shell("m", "rm /ram/much")
        self.until_resident_below("m", most - 120 * MIB)
        # And what it was given and does not use, by its balloon: the guest's own count of it is smaller.
        whole = self.shell("m", "head -c 100000000 /dev/zero > /ram/much; head -n 2 /proc/meminfo")
        most = self.resident("m")
        self.shell("m", "rm /ram/much")
        self.ok("vm", "resize", "m", "--memory", "200MiB")
        self.until_resident_below("m", most - 80 * MIB)
        while int(self.shell("m", "head -n 2 /proc/meminfo").split()[4]) > int(whole.split()[4]) + 60 * 1024:
            pass
        self.ok("vm", "resize", "m", "--memory", "320MiB")

    def test_4_beyond_the_limit_of_all_machines_none_is_started(self):
        needed = self.limit_mib - 128 - 320 + 1
        refused = self.refused("vm", "create", "x", "--image", "small", "--disk", "16MiB", "--memory", f"{needed}MiB", "--strategy", "Once")
        said = re.search(rf"it needs {needed} MiB, and of the (\d+) MiB that machines may have here", refused)
        self.assertIsNotNone(said, refused)
        text, limit_mib = said.group(0), int(said.group(1))
        self.assertLessEqual(limit_mib, self.limit_mib)  # what the host has set aside in huge pages is not the machines'
        self.assertIn("the others have 448 MiB: stop one, make it smaller or move it", refused)
        shown = self.json("vm", "show", "x")
        self.assertEqual(shown["state"], "failed")
        self.assertIn(text, shown["reason"])
        self.assertIn("or move it", self.ok("vm", "show", "x"))  # whole
        self.assertIn(text, self.refused("vm", "start", "x"))
        self.ok("vm", "resize", "x", "--memory", f"{min(limit_mib - 128 - 320, needed - 1)}MiB")
        self.ok("vm", "start", "x")
        self.ok("vm", "delete", "x")

    def test_5_an_agent_that_says_nothing_is_told_of_and_its_machine_ends(self):
        self.assertNotEqual(self.asking.wait(timeout=200), 0)
        self.assertIn("does not answer any more", self.asking.stderr.read())
        shown = self.json("vm", "show", "mute")
        self.assertEqual((shown["state"], shown["reason"]), ("running", "its agent does not answer"))
        self.assertIn("the agent in machine mute does not answer", self.refused("vm", "exec", "mute", "--", "true"))
        # Whoever is asked to go down by a silent agent does not; the second one who asks has less patience.
        self.assertIn("is no time", self.refused("vm", "stop", "mute", "--timeout", "soon"))
        self.assertIn("has no effect", self.refused("vm", "stop", "mute", "--force", "--timeout", "1s"))
        self.assertIn("a day", self.refused("vm", "stop", "mute", "--timeout", "2d"))
        self.ok("vm", "stop", "mute", "--timeout", "20h", "--no-wait")
        self.assertEqual(self.json("vm", "show", "mute")["state"], "stopping")
        self.ok("vm", "stop", "mute", "--timeout", "500ms")
        self.assertEqual(self.json("vm", "show", "mute")["state"], "stopped")
        status, body, _ = self.node.request("POST", "/v1/machines/mute/actions/start?timeout=1s")
        self.assertEqual(status, 400)
        self.assertIn("of stop and restart", body.decode())

    def test_6_a_boot_that_takes_too_long_is_the_reason(self):
        refused = self.refused("vm", "create", "late", "--image", "small", "--memory", "128MiB", "--disk", "16MiB",
                               "--strategy", "Once", "--boot-timeout", "1s")
        self.assertIn("its agent had not spoken within 1 s of its start", refused)
        self.assertEqual(self.json("vm", "show", "late")["state"], "failed")
        self.ok("vm", "delete", "late")

    def test_7_a_kernel_that_panics_as_it_boots_is_the_reason_at_once(self):
        """Goal: the panic is told, and not the time for a boot, which is not over.  Method: a kernel that finds neither an init nor a root."""
        self.ok("image", "import", "rootless", "--root", self.folder / "root.tar.gz", *kernel_flags(), "--cmdline", "rdinit=/none")
        refused = self.refused("vm", "create", "lost", "--image", "rootless", "--memory", "128MiB", "--disk", "16MiB", "--strategy", "Once",
                               "--boot-timeout", "120s")
        self.assertIn("the guest's kernel panicked as it booted: VFS: Unable to mount root fs", refused)
        self.assertEqual(self.json("vm", "show", "lost")["state"], "failed")
        self.ok("vm", "delete", "lost")


if __name__ == "__main__":
    unittest.main()
