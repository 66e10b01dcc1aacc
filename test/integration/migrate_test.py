"""A machine goes to another node and back: whole, once, and whoever ends in the middle."""
import glob
import json
import os
import pathlib
import tempfile
import unittest

from cluster import Cluster
from machines import kernel_flags, machines_of, root_archive, why_not

PLAIN_ONLY = "the time goes to guests that are emulated, and to QEMU"


TICKS = "i=0; while true; do i=$((i+1)); echo $i >> /root/ticks; echo tick $i > /dev/ttyS0; sleep 0.1; done"


def disks(server):
    """What a node has of machines' disks, wherever it keeps them."""
    return [path for path in glob.glob(f"{server.folder}/machines/**/disk.*", recursive=True)]


def blobs(server):
    return {path.name for path in pathlib.Path(server.folder).rglob("*") if len(path.name) == 64}


class Migration(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        reason = why_not()
        if reason:
            raise unittest.SkipTest(reason)
        cls.folder = cls.enterClassContext(tempfile.TemporaryDirectory(prefix="blixard-migrate-"))
        cls.cluster = Cluster(2, here=True)
        cls.addClassCleanup(cls.cluster.close)
        cls.cluster.form(servers=1)
        cls.enterClassContext(machines_of(*(server.folder for server in cls.cluster.servers)))

    def refused(self, server, *words):
        with self.assertRaises(Exception) as caught:
            server.cli(*words)
        return str(caught.exception) + str(getattr(caught.exception, "stderr", ""))

    def machine(self, server):
        return json.loads(server.cli("vm", "show", "m", "--output", "json"))

    def ends(self, server, operation):
        return server.get(f"/v1/operations/{operation}/wait?timeout=60s")

    def test_a_stopped_machine_moves_and_is_whole(self):
        near, far = self.cluster[0], self.cluster[1]
        root = pathlib.Path(self.folder) / "root.tar.gz"
        root.write_bytes(root_archive())
        near.cli("image", "import", "small", "--root", root, *kernel_flags())
        near.cli("vm", "create", "m", "--image", "small", "--memory", "128MiB", "--disk", "64MiB", "--node", near.name,
                 "--strategy", "Halted", "--publish", "27417:80")
        self.refuses_what_makes_no_sense(near, far)
        before = blobs(near)
        self.cancelled_stays(near, far)
        self.source_killed_stays(near, far)
        self.started_stays(near, far)
        note = pathlib.Path(self.folder) / "note"
        note.write_bytes(bytes(range(256)) * 4096)
        near.cli("vm", "cp", note, "m:/root/note")
        near.cli("vm", "stop", "m")
        near.cli("vm", "snapshot", "create", "m", "before")
        self.assertEqual(blobs(near), before, "an archive was left behind")
        self.port_is_taken(near, far)

        near.cli("vm", "migrate", "m", "--to", far.name)
        self.assertEqual(self.machine(far)["node"], far.name)
        near.until(lambda _: (disks(near), blobs(near)) == ([], before), "end of the old copy and the archive")
        self.assertIn(far.name, near.cli("vm", "snapshot", "list", "m"))
        near.cli("vm", "start", "m")
        back = pathlib.Path(self.folder) / "back"
        near.cli("vm", "cp", "m:/root/note", back)
        self.assertEqual(back.read_bytes(), note.read_bytes())
        near.cli("vm", "stop", "m")
        near.cli("vm", "restore", "m", "before")

        # The target ends once it has everything, and the machine is found there again; then all the way back.
        moved = json.loads(far.cli("vm", "migrate", "m", "--output", "json"))
        self.assertEqual(moved["node"], near.name)
        far.until(lambda _: disks(far) == [], "end of the old copy")
        near.kill()
        near.start()
        near.wait_ready()
        near.cli("vm", "delete", "m")
        self.assertEqual(disks(near) + disks(far), [])

    def test_a_running_machine_moves_and_counts_on(self):
        near, far = self.cluster[0], self.cluster[1]
        root = pathlib.Path(self.folder) / "live.tar.gz"
        root.write_bytes(root_archive())
        near.cli("image", "import", "live", "--root", root, *kernel_flags())
        near.cli("vm", "create", "m", "--image", "live", "--memory", "128MiB", "--disk", "64MiB", "--node", near.name)
        note = pathlib.Path(self.folder) / "ballast"
        note.write_bytes(os.urandom(8 << 20))
        near.cli("vm", "cp", note, "m:/root/ballast")
        near.cli("vm", "exec", "m", "--", "sh", "-c", "(" + TICKS + ") > /dev/null 2>&1 &")
        self.assertIn("exclude", self.refused(near, "vm", "migrate", "m", "--live", "--cold"))
        self.assertIn("--downtime", self.refused(near, "vm", "migrate", "m", "--downtime", "soon"))
        boots = near.cli("vm", "exec", "m", "--", "cat", "/proc/sys/kernel/random/boot_id")
        self.live_cancelled_runs_on(near, far)
        self.live_source_killed_runs_on(near, far)

        said = near.cli("vm", "migrate", "m", "--to", far.name, "--live")
        self.assertIn(f"is on node {far.name}", said)
        self.assertRegex(said, r"stood still for \d+ ms")
        near.until(lambda _: disks(near) == [], "end of the old copy")
        self.assertEqual(self.machine(far)["state"], "running")
        self.counts_on(near, boots, note)

        # The target ends right after it; what it took is found again, and moves back.
        far.kill()
        far.start()
        far.wait_ready()
        far.until(lambda _: self.machine(far)["state"] == "running", "the machine is found again")
        near.cli("vm", "migrate", "m", "--to", near.name, "--downtime", "500ms", "--bandwidth", "200MiB")
        self.assertEqual(self.machine(near)["node"], near.name)
        self.counts_on(near, boots, note)
        near.cli("vm", "migrate", "m", "--cold")
        self.assertEqual((self.machine(near)["node"], self.machine(near)["state"]), (far.name, "running"))
        self.assertNotEqual(near.cli("vm", "exec", "m", "--", "cat", "/proc/sys/kernel/random/boot_id"), boots)
        near.cli("vm", "delete", "m")
        self.assertEqual(disks(near) + disks(far), [])
        self.assertEqual(glob.glob(f"{near.folder}/machines/arriving/*") + glob.glob(f"{far.folder}/machines/arriving/*"), [])

    def counts_on(self, server, boots, note):
        """It is the same boot, and no number is missing or there twice, on its disk and on its console."""
        server.until(lambda _: self.answers(server), "its agent is spoken to again")
        self.assertEqual(server.cli("vm", "exec", "m", "--", "cat", "/proc/sys/kernel/random/boot_id"), boots)
        count = len(server.cli("vm", "exec", "m", "--", "cat", "/root/ticks").split())
        server.until(lambda _: len(server.cli("vm", "exec", "m", "--", "cat", "/root/ticks").split()) > count + 3, "ticks")
        ticks = server.cli("vm", "exec", "m", "--", "cat", "/root/ticks").split()
        self.assertEqual([int(tick) for tick in ticks], list(range(1, len(ticks) + 1)))
        told = [int(line.split()[1]) for line in server.cli("vm", "logs", "m").splitlines() if line.startswith("tick ")]
        self.assertEqual(told, list(range(told[0], told[0] + len(told))))
        back = pathlib.Path(self.folder) / "ballast-back"
        server.cli("vm", "cp", "m:/root/ballast", back)
        self.assertEqual(back.read_bytes(), note.read_bytes())

    def answers(self, server):
        try:
            return server.cli("vm", "exec", "m", "--", "true") == ""
        except RuntimeError:
            return False

    def begin_slowly(self, near, far):
        operation = json.loads(near.cli("vm", "migrate", "m", "--to", far.name, "--live", "--bandwidth", "1MiB", "--no-wait",
                                        "--output", "json"))["operation"]
        near.until(lambda _: "copying its disk" in str(near.get(f"/v1/operations/{operation}")), "the disk is copied")
        return operation

    def runs_on(self, near, far):
        near.until(lambda _: self.machine(near)["state"] == "running", "the machine runs on")
        self.assertEqual(self.machine(near)["node"], near.name)
        far.until(lambda _: disks(far) == [], "nothing of it is left there")
        near.until(lambda _: self.answers(near), "its agent is spoken to again")
        count = len(near.cli("vm", "exec", "m", "--", "cat", "/root/ticks").split())
        near.until(lambda _: len(near.cli("vm", "exec", "m", "--", "cat", "/root/ticks").split()) > count, "ticks")

    def live_cancelled_runs_on(self, near, far):
        operation = self.begin_slowly(near, far)
        near.cli("operation", "cancel", operation)
        self.assertEqual(self.ends(near, operation)["state"], "cancelled")
        self.runs_on(near, far)

    def live_source_killed_runs_on(self, near, far):
        operation = self.begin_slowly(near, far)
        near.kill()
        near.start()
        near.wait_ready()
        self.assertEqual(self.ends(near, operation)["state"], "failed")
        self.runs_on(near, far)

    def refuses_what_makes_no_sense(self, near, far):
        self.assertIn("no node", self.refused(near, "vm", "migrate", "m", "--to", "nowhere"))
        self.assertIn("already", self.refused(near, "vm", "migrate", "m", "--to", near.name))
        self.assertIn("no machine", self.refused(near, "vm", "migrate", "none"))
        self.assertIn("--timeout", self.refused(near, "vm", "migrate", "m", "--timeout", "soon"))
        self.assertIn("at most 7d", self.refused(near, "vm", "migrate", "m", "--timeout", "8d"))
        self.assertIn("at most 60s", self.refused(near, "vm", "migrate", "m", "--downtime", "61s"))
        self.assertIn("node list", self.refused(near, "vm", "migrate", "m", "--to", ""))

    def begin_with_a_silent_target(self, near, far):
        far.pause()
        return json.loads(near.cli("vm", "migrate", "m", "--to", far.name, "--no-wait", "--output", "json"))["operation"]

    def stays(self, near):
        machine = self.machine(near)
        self.assertEqual((machine["node"], machine["state"]), (near.name, "stopped"))
        self.assertGreater(len(disks(near)), 0)

    def cancelled_stays(self, near, far):
        operation = self.begin_with_a_silent_target(near, far)
        near.until(lambda _: "is asked" in str(near.get(f"/v1/operations/{operation}")), "the question")
        self.assertIn("something else", self.refused(near, "vm", "snapshot", "create", "m", "meanwhile"))
        near.cli("operation", "cancel", operation)
        self.assertEqual(self.ends(near, operation)["state"], "cancelled")
        far.resume()
        self.stays(near)

    def source_killed_stays(self, near, far):
        operation = self.begin_with_a_silent_target(near, far)
        near.until(lambda _: "is asked" in str(near.get(f"/v1/operations/{operation}")), "the question")
        near.kill()
        far.resume()
        near.start()
        near.wait_ready()
        self.assertEqual(self.ends(near, operation)["state"], "failed")
        self.stays(near)

    def started_stays(self, near, far):
        """Who starts it need not wait for a move."""
        operation = self.begin_with_a_silent_target(near, far)
        near.until(lambda _: "is asked" in str(near.get(f"/v1/operations/{operation}")), "the question")
        near.cli("vm", "start", "m")
        ended = self.ends(near, operation)
        far.resume()
        self.assertEqual(ended["state"], "failed")
        self.assertIn("something else", str(ended))
        self.assertEqual(self.machine(near)["node"], near.name)

    def port_is_taken(self, near, far):
        near.cli("vm", "create", "other", "--image", "small", "--memory", "128MiB", "--disk", "64MiB", "--node", far.name,
                 "--strategy", "Halted", "--publish", "27417:80")
        self.assertIn("27417", self.refused(near, "vm", "migrate", "m", "--to", far.name))
        self.stays(near)
        near.cli("vm", "delete", "other")


if __name__ == "__main__":
    unittest.main()
