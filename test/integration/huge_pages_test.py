"""Machines whose memory is of huge pages: real ones, that are set aside for the test and given back after it."""
import fcntl
import glob
import json
import os
import pathlib
import re
import tempfile
import unittest

from cluster import Cluster
from machines import kernel_flags, machines_of, root_archive, why_not

PLAIN_ONLY = "the time goes to guests that are emulated, and to QEMU"

PAGES = pathlib.Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")
WANTED = 64  # of a machine with 128 MiB


def set_aside(count):
    """As many as the kernel finds."""
    PAGES.write_text(str(count))
    return int(PAGES.read_text())


class HugePages(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        reason = why_not() or ("only root sets huge pages aside" if os.geteuid() else None)
        if reason or not PAGES.exists():
            raise unittest.SkipTest(reason or "this kernel has no huge pages of 2 MiB")
        cls.folder = cls.enterClassContext(tempfile.TemporaryDirectory(prefix="blixard-pages-"))
        lock = cls.enterClassContext(open("/tmp/blixard-huge-pages.lock", "w"))  # there is one pool of them
        fcntl.flock(lock, fcntl.LOCK_EX)
        cls.before = int(PAGES.read_text())
        cls.addClassCleanup(set_aside, cls.before)
        if set_aside(cls.before + 4 * WANTED) < cls.before + 4 * WANTED:
            raise unittest.SkipTest("this machine's memory is in too many pieces for huge pages")
        set_aside(cls.before)
        cls.cluster = Cluster(2, here=True)
        cls.addClassCleanup(cls.cluster.close)
        cls.cluster.form(servers=1)
        cls.near, cls.far = cls.cluster[0], cls.cluster[1]
        cls.enterClassContext(machines_of(*(server.folder for server in cls.cluster.servers)))
        root = pathlib.Path(cls.folder) / "root.tar.gz"
        root.write_bytes(root_archive())
        cls.near.cli("image", "import", "small", "--root", root, *kernel_flags())

    def refused(self, code, *words):
        done = self.near.cli(*words, check=False)
        self.assertEqual(done.returncode, code, done.stderr)
        return done.stderr

    def machine(self, name):
        return json.loads(self.near.cli("vm", "show", name, "--output", "json"))

    def runs(self, name):
        self.near.until(lambda _: self.machine(name)["state"] == "running", f"{name} to run")

    def pages_of(self, name):
        """What its VMM has of huge pages, by the kernel."""
        pid = self.machine(name)["vmm_pid"]
        sizes = re.findall(r"memfd:memory-backend.*?KernelPageSize: +(\d+) kB", pathlib.Path(f"/proc/{pid}/smaps").read_text(), re.S)
        taken = re.search(r"HugetlbPages:\s+(\d+) kB", pathlib.Path(f"/proc/{pid}/status").read_text())
        return sizes, int(taken[1]) // 2048

    def bounds(self, name):
        """Of its control group, where there is one for huge pages; promised or taken."""
        groups = glob.glob(f"/sys/fs/cgroup/**/blixard/{self.machine(name)['id']}/hugetlb.2MB.*", recursive=True)
        return {int(pathlib.Path(file).read_text()) for file in groups if file.endswith((".max", "limit_in_bytes"))}

    def pool(self, server, found, what):
        """A node looks every two seconds at what its operator has set aside."""
        def holds(_):
            node = json.loads(self.near.cli("node", "show", server.name, "--output", "json"))
            pools = [pool for pool in node["attributes"]["hugepages"] if pool["name"] == "2048kB"]
            given = sum(pool["count"] for pool in node["allocated"]["hugepages"])
            return found(pools[0]["count"] - self.before, pools[0].get("others", 0), given)
        self.near.until(holds, what)

    def create(self, name, *flags):
        return ("vm", "create", name, "--image", "small", "--memory", "128MiB", "--disk", "16MiB", "--huge-pages", "2MiB", *flags)

    def test_huge_pages_are_kept_for_who_names_them(self):
        keep = ("placement", "reserve", "tonight", "--memory", "128MiB", "--huge-pages", "2MiB", "--node", self.near.name)
        self.assertIn("say 64 or 66 MiB", self.refused(64, "placement", "reserve", "odd", "--memory", "65MiB", "--huge-pages", "2MiB"))
        self.assertIn("1 hugepages-2m", self.refused(69, *keep))
        set_aside(self.before + WANTED)
        self.addCleanup(set_aside, self.before)
        self.pool(self.near, lambda count, others, given: count - others >= WANTED, "the node to say what it has")
        self.near.cli(*keep)
        self.assertEqual(self.near.get("/v1/placement")["reservations"][0]["huge_pages"], "2MiB")
        self.assertRegex(self.near.cli("placement", "list", "--reservations"), "tonight +n1 +1 +128 MiB +2MiB")
        self.assertIn("1 hugepages-2m", self.refused(75, *self.create("other", "--node", self.near.name)))
        self.near.cli("vm", "delete", "other")
        self.near.cli(*self.create("mine", "--node", self.near.name, "--reservation", "tonight"))
        self.runs("mine")
        self.assertEqual(self.near.get("/v1/placement")["reservations"], [])
        self.near.cli("vm", "delete", "mine")

    def test_memory_is_of_huge_pages_wherever_it_goes(self):
        self.what_cannot_be_is_refused()
        self.waits_until_there_are_some()
        self.another_one_waits_for_more()
        self.lives_on_when_its_daemon_is_killed()
        self.is_kept_and_cloned()
        self.moves_while_it_runs()
        self.says_what_is_missing_when_it_starts()

    def what_cannot_be_is_refused(self):
        self.assertIn("say 64 or 66 MiB", self.refused(64, "vm", "create", "m", "--image", "small", "--memory", "65MiB", "--huge-pages", "2MiB"))
        self.assertIn("say 1024 MiB", self.refused(64, "vm", "create", "m", "--image", "small", "--memory", "128MiB", "--huge-pages", "1GiB"))
        self.assertIn("huge_pages is 2MiB or 1GiB", str(self.near.ask("POST", "/v1/machines", {"name": "m", "image": "small", "huge_pages": "4KiB"})))

    def waits_until_there_are_some(self):
        self.pool(self.near, lambda count, others, given: count - others < WANTED, "the node to say that there are none yet")
        self.assertIn("m is pending", self.refused(75, *self.create("m", "--node", self.near.name)))
        why = self.near.cli("placement", "explain", "m")
        self.assertRegex(why, rf"{self.near.name} .*not enough huge pages of 2MiB: 64 wanted, \d+ free of \d+; \d+ more would do \(sysctl vm.nr_hugepages\)")
        set_aside(self.before + WANTED + 10)
        self.runs("m")
        self.assertEqual(self.pages_of("m"), (["2048"], WANTED))
        self.assertLessEqual(self.bounds("m"), {128 << 20})
        self.pool(self.near, lambda count, others, given: (count, given) == (WANTED + 10, WANTED), "the node to say what it has")
        self.pool(self.far, lambda count, others, given: others >= WANTED and given == 0, "the other one to say that they are not its machines'")

    def another_one_waits_for_more(self):
        self.assertIn("fits nowhere", self.refused(69, *self.create("second", "--no-pending")))

    def lives_on_when_its_daemon_is_killed(self):
        pid = self.machine("m")["vmm_pid"]
        self.near.kill()
        self.near.start()
        self.near.wait_ready()
        self.near.until(lambda _: self.machine("m").get("agent"), "its agent to answer")
        self.assertEqual((self.machine("m")["vmm_pid"], self.pages_of("m")), (pid, (["2048"], WANTED)))
        self.pool(self.near, lambda count, others, given: others == 0 and given == WANTED, "the node to know them for its machine's")
        # No balloon takes what cannot be given back.
        self.assertIn("takes effect at the next start: memory", self.near.cli("vm", "resize", "m", "--memory", "64MiB"))
        self.near.cli("vm", "resize", "m", "--memory", "128MiB")
        self.assertIn("multiple", self.refused(64, "vm", "resize", "m", "--memory", "129MiB"))

    def is_kept_and_cloned(self):
        shell = ("vm", "exec", "m", "--", "sh", "-c")
        self.near.cli(*shell, "echo then > /tmp/word")
        self.near.cli("vm", "snapshot", "create", "m", "s")
        self.near.cli(*shell, "echo now > /tmp/word")
        self.near.cli("vm", "restore", "m", "s")
        self.assertEqual(self.near.cli(*shell, "cat /tmp/word"), "then\n")
        self.assertEqual(self.pages_of("m"), (["2048"], WANTED))
        set_aside(self.before + 3 * WANTED)
        self.pool(self.near, lambda count, others, given: count == 3 * WANTED, "the node to say that it has more")
        self.near.cli("vm", "clone", "m", "twin")
        self.assertEqual(self.near.cli("vm", "exec", "twin", "--", "cat", "/tmp/word"), "then\n")
        self.assertEqual((self.pages_of("twin"), self.pages_of("m")), ((["2048"], WANTED), (["2048"], WANTED)))
        self.near.cli("vm", "delete", "twin")

    def moves_while_it_runs(self):
        set_aside(self.before + WANTED)  # both nodes have the same ones here: there is no second place
        self.assertIn("huge pages of 2MiB", self.refused(69, "vm", "migrate", "m", "--to", self.far.name))
        set_aside(self.before + 3 * WANTED)
        self.pool(self.far, lambda count, others, given: count == 3 * WANTED, "the node to say that it has more")
        self.near.cli("vm", "migrate", "m", "--to", self.far.name)
        self.assertEqual(self.machine("m")["node"], self.far.name)
        self.assertEqual(self.near.cli("vm", "exec", "m", "--", "cat", "/tmp/word"), "then\n")
        self.assertEqual(json.loads(self.far.cli("vm", "show", "m", "--output", "json"))["huge_pages"], "2MiB")

    def says_what_is_missing_when_it_starts(self):
        self.near.cli("vm", "stop", "m")
        set_aside(self.before + WANTED // 2)
        self.refused(69, "vm", "start", "m")
        self.assertRegex(self.machine("m")["reason"], r"it asks for 64 huge pages of 2MiB, and of the \d+ of node \S+ \d+ are free: "
                                                      r"set more aside there \(sysctl vm.nr_hugepages=\d+\), or stop what has them")
        set_aside(self.before + WANTED)
        self.near.cli("vm", "start", "m")
        self.assertEqual(self.pages_of("m"), (["2048"], WANTED))


if __name__ == "__main__":
    unittest.main()
