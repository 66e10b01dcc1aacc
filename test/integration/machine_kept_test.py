"""A machine with volumes, kept, restored and cloned: its memory, its disk and what its volumes held are of one moment."""
import unittest

from machine_case import MachineCase

PLAIN_ONLY = "the time goes to guests that are emulated, and to QEMU"

# What is in memory and not on disk yet, and a file that a program holds open.
BEGIN = ("echo one > /srv/data/file; echo key > /srv/vault/file; echo one > /root/note; sync; "
         "(exec 3>> /srv/data/log; sleep 100000) > /dev/null 2>&1 & echo $! > /tmp/pid; echo unwritten > /srv/data/late")


class Kept(MachineCase):
    @classmethod
    def setUpClass(cls):
        cls.begin("qemu-img")
        cls.ok("volume", "create", "data", "--size", "32MiB")
        cls.ok("volume", "create", "vault", "--size", "32MiB", "--format", "raw")
        cls.ok("vm", "create", "m", "--image", "small", "--memory", "128MiB", "--disk", "64MiB",
               "--volume", "data:/srv/data", "--volume", "vault:/srv/vault")

    def kept_names(self, volume):
        return [one["name"] for one in self.json("volume", "snapshot", "list", volume)["snapshots"]]

    def check_files(self, name):
        """Through the cache, and once more from the disk."""
        for before in ("", "echo 3 > /proc/sys/vm/drop_caches; "):
            self.assertEqual(self.shell(name, before + "cat /root/note /srv/data/file /srv/vault/file /srv/data/late"),
                             "one\none\nkey\nunwritten\n")
        self.assertEqual(self.shell(name, "kill -0 $(cat /tmp/pid) && echo runs"), "runs\n")
        self.shell(name, "echo after > /srv/data/after && sync && cat /srv/data/after")

    def test_1_memory_and_volumes_come_back_together(self):
        self.shell("m", BEGIN)
        self.ok("vm", "snapshot", "create", "m", "one")
        shown = self.json("vm", "snapshot", "show", "m", "one")
        self.assertEqual((shown["memory"], sorted(shown["volumes"])), (True, ["data", "vault"]))
        kept = self.kept_names("data")
        self.assertEqual(kept, ["machine-" + shown["id"]])
        self.assertIn("vm snapshot delete m one", self.refused("volume", "snapshot", "delete", "data", kept[0]))
        for _ in range(2):  # a second time as well
            self.shell("m", "echo two > /root/note; echo two > /srv/data/file; rm /srv/vault/file /srv/data/late; sync; kill $(cat /tmp/pid)")
            self.ok("vm", "restore", "m", "one")
            self.check_files("m")
        self.assertEqual(self.json("volume", "show", "data")["machine"], "m")

    def test_2_a_clone_has_volumes_of_its_own(self):
        self.ok("vm", "restore", "m", "one")
        seen = self.json("vm", "clone", "m", "twin", "--count", "2")
        self.assertEqual([one["name"] for one in seen["machines"]], ["twin-1", "twin-2"])
        self.check_files("twin-1")
        self.shell("twin-1", "echo twin > /srv/data/file; sync")
        self.assertEqual(self.shell("m", "cat /srv/data/file"), "one\n")
        self.assertEqual(self.shell("twin-2", "cat /srv/data/file; uname -n"), "one\ntwin-2\n")
        self.assertEqual(self.json("volume", "show", "data-twin-1")["machine"], "twin-1")
        self.ok("vm", "restart", "twin-1")  # and finds them by their own names
        self.assertEqual(self.shell("twin-1", "cat /srv/data/file /srv/vault/file"), "twin\nkey\n")
        self.ok("vm", "delete", "twin-2")
        self.ok("vm", "clone", "m", "later", "--snapshot", "one")
        self.check_files("later")
        self.ok("vm", "stop", "later")
        self.ok("vm", "clone", "later", "cold")
        self.assertEqual(self.shell("cold", "cat /srv/data/after /srv/vault/file"), "after\nkey\n")
        self.assertIn("there is a volume", self.refused("volume", "create", "data-later-cold"))
        for name in ("twin-1", "later", "cold"):
            self.ok("vm", "delete", name)

    def test_2_one_that_fails_takes_only_its_own_snapshots_with_it(self):
        self.ok("volume", "create", "other", "--size", "16MiB")
        self.ok("volume", "snapshot", "create", "other", "for-more")
        self.ok("quota", "set", "default", "--machines", "1")
        self.addCleanup(self.ok, "quota", "set", "default", "--machines", "none")
        self.assertIn("machines", self.refused("vm", "clone", "m", "more"))
        self.assertEqual(self.kept_names("other"), ["for-more"])
        self.assertNotIn("for-more", self.kept_names("data"))

    def test_3_what_does_not_belong_together_is_refused(self):
        self.ok("vm", "stop", "m")
        self.ok("volume", "detach", "data")
        self.assertIn("blixard volume attach data m", self.refused("vm", "restore", "m", "one"))
        self.ok("vm", "restore", "m", "one", "--disk-only")
        self.ok("volume", "attach", "data", "m", "--path", "/srv/data")
        self.ok("vm", "restore", "m", "one")
        self.check_files("m")
        # A disk alone is a disk alone; a machine that is stopped is kept with its volumes, too.
        self.ok("vm", "snapshot", "create", "m", "disk", "--disk-only")
        self.assertEqual(self.json("vm", "snapshot", "show", "m", "disk")["volumes"], [])
        self.ok("vm", "stop", "m")
        self.ok("vm", "snapshot", "create", "m", "stopped")
        self.ok("vm", "start", "m")
        self.shell("m", "echo three > /srv/data/file; sync")
        self.ok("vm", "restore", "m", "stopped")
        self.assertEqual(self.shell("m", "cat /srv/data/file"), "one\n")

    def test_4_an_encrypted_one_too_and_they_go_together(self):
        self.ok("volume", "create", "safe", "--size", "16MiB", "--encrypt")
        self.ok("volume", "attach", "safe", "m", "--path", "/srv/safe")
        self.shell("m", "echo key > /srv/safe/file")
        self.ok("vm", "snapshot", "create", "m", "safe")
        self.shell("m", "rm /srv/safe/file; sync")
        self.ok("vm", "restore", "m", "safe")
        self.assertEqual(self.shell("m", "echo 3 > /proc/sys/vm/drop_caches; cat /srv/safe/file"), "key\n")
        self.ok("vm", "snapshot", "delete", "m", "safe")
        self.assertEqual(self.kept_names("safe"), [])
        self.ok("vm", "delete", "m")
        left = self.json("volume", "snapshot", "list", "vault")["snapshots"]  # what clones began with
        self.assertEqual([one["name"] for one in left if one["name"].startswith("machine-") and one["clones"] == 0], [])


if __name__ == "__main__":
    unittest.main()
