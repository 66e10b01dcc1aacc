"""What belongs to a machine moves with it, running and stopped: volumes, snapshots, a template's disk below its own, a whole disk."""
import json
import pathlib
import shutil
import tempfile
import unittest

from cluster import Cluster
from machines import boot_disk, kernel_flags, machines_of, root_archive, why_not

USER_DATA = "#cloud-config\npassword: very-secret\n"
BOOT = "cat /proc/sys/kernel/random/boot_id"


class Belongings(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        reason = why_not()
        if reason:
            raise unittest.SkipTest(reason)
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="blixard-belongings-")))
        cls.shared = cls.folder / "shared"
        cls.shared.mkdir()
        cls.cluster = Cluster(2, here=True)
        cls.addClassCleanup(cls.cluster.close)
        cls.cluster[0].arguments += ["--machine-share-folders", str(cls.shared)]
        cls.cluster.form(servers=1)
        cls.enterClassContext(machines_of(*(server.folder for server in cls.cluster.servers)))
        cls.near, cls.far = cls.cluster.servers
        root = cls.folder / "root.tar.gz"
        root.write_bytes(root_archive())
        cls.near.cli("image", "import", "small", "--root", root, *kernel_flags())

    def create(self, name, *flags):
        self.near.cli("vm", "create", name, "--image", "small", "--memory", "128MiB", "--disk", "64MiB", "--node", self.near.name, *flags)

    def shell(self, name, script):
        return self.near.cli("vm", "exec", name, "--", "sh", "-c", script)

    def migrate(self, name, to, *flags):
        said = self.near.cli("vm", "migrate", name, "--to", to.name, *flags)
        self.assertIn(f"is on node {to.name}", said)
        machine = json.loads(self.near.cli("vm", "show", name, "--output", "json"))
        self.assertEqual(machine["node"], to.name)
        return machine

    def refused(self, *words):
        done = self.near.cli(*words, check=False)
        self.assertNotEqual(done.returncode, 0, words)
        return done.stderr

    def nothing_left(self, server):
        """The old copies, and what was sent, are gone: files of machines, of snapshots, of volumes."""
        def left():
            return [path for part in ("machines", "volumes") for path in (server.folder / part).rglob("*") if path.is_file()]
        server.until(lambda _: left() == [], f"end of {left()}")

    def test_volumes_and_snapshots_go_with_it(self):
        near, far = self.near, self.far
        near.cli("volume", "create", "sealed", "--size", "32MiB", "--encrypt")
        near.cli("volume", "create", "plain", "--size", "32MiB", "--format", "raw")
        near.cli("volume", "create", "kept", "--size", "32MiB")
        self.create("db", "--volume", "sealed:/mnt/sealed", "--volume", "plain:/mnt/plain", "--volume", "kept:/mnt/kept")
        self.shell("db", "for v in sealed plain kept; do echo $v one > /mnt/$v/one; done; echo own > /root/own; sync")
        near.cli("volume", "snapshot", "create", "kept", "before")
        near.cli("vm", "snapshot", "create", "db", "before", "--disk-only")
        self.shell("db", "echo kept two > /mnt/kept/two; sync")
        boot = self.shell("db", BOOT)
        whole = "sealed one\nplain one\nkept one\nkept two\nown\n"

        for to, other in ((far, near), (near, far)):
            machine = self.migrate("db", to, "--live")
            self.assertEqual(machine["state"], "running")
            self.assertEqual(self.shell("db", "cat /mnt/*/one /mnt/kept/two /root/own | sort -r"), "".join(sorted(whole.splitlines(True), reverse=True)))
            self.assertEqual(self.shell("db", BOOT), boot)
            self.assertEqual({row["node"] for row in json.loads(near.cli("volume", "list", "--output", "json"))["volumes"]}, {to.name})
            self.nothing_left(other)
        self.shell("db", "echo plain two > /mnt/plain/two; sync")

        self.migrate("db", far, "--cold")
        self.assertNotEqual(self.shell("db", BOOT), boot)
        self.assertEqual(self.shell("db", "cat /mnt/sealed/one /mnt/plain/two /mnt/kept/two /root/own"),
                         "sealed one\nplain two\nkept two\nown\n")
        self.nothing_left(near)
        self.assertIn(far.name, near.cli("vm", "snapshot", "list", "db"))
        near.cli("vm", "stop", "db")
        near.cli("volume", "snapshot", "restore", "kept", "before")
        near.cli("vm", "restore", "db", "before")
        near.cli("vm", "start", "db")
        self.assertEqual(self.shell("db", "cat /mnt/kept/one /root/own; ls /mnt/kept"), "kept one\nown\nlost+found\none\n")

        # One that shares its files with a clone stays where that is.
        near.cli("volume", "clone", "kept", "other", "--snapshot", "before")
        self.assertIn("clones", self.refused("vm", "migrate", "db", "--live"))
        near.cli("vm", "stop", "db")
        self.assertIn("clones", self.refused("vm", "migrate", "db", "--cold"))
        near.cli("volume", "delete", "other")
        near.cli("vm", "delete", "db")
        near.cli("volume", "snapshot", "delete", "kept", "before")
        for name in ("sealed", "plain", "kept"):  # layers may still be merged
            near.until(lambda _: near.cli("volume", "delete", name, check=False).returncode == 0, f"end of volume {name}")
        self.nothing_left(far)

    def test_a_clone_goes_with_what_is_below_its_disk(self):
        self.create("template")
        self.shell("template", "echo template > /root/mine")
        self.near.cli("vm", "clone", "template", "copy")
        self.shell("copy", "echo copy > /root/own")
        self.near.cli("vm", "snapshot", "create", "copy", "warm")
        boot = self.shell("copy", BOOT)
        self.migrate("copy", self.far, "--live")
        self.assertEqual(self.shell("copy", f"cat /root/mine /root/own; {BOOT}"), "template\ncopy\n" + boot)
        self.shell("copy", "echo later > /root/own; sync")
        self.near.cli("vm", "restore", "copy", "warm")  # its memory has come, too
        self.assertEqual(self.shell("copy", f"cat /root/mine /root/own; {BOOT}"), "template\ncopy\n" + boot)
        self.migrate("copy", self.near, "--cold")
        self.assertEqual(self.shell("copy", "cat /root/mine /root/own"), "template\ncopy\n")
        self.near.cli("vm", "delete", "copy")
        self.near.cli("vm", "delete", "template")
        self.nothing_left(self.far)
        self.nothing_left(self.near)

    def test_a_whole_disk_goes_over_its_image(self):
        missing = [tool for tool in ("syslinux", "mformat", "qemu-img") if shutil.which(tool) is None]
        if missing:
            self.skipTest(f"{missing[0]} is not installed")
        self.near.cli("image", "import", "disk", "--disk", boot_disk(self.folder))
        (self.folder / "user-data").write_text(USER_DATA)
        self.near.cli("vm", "create", "pc", "--image", "disk", "--memory", "128MiB", "--node", self.near.name,
                      "--user-data", self.folder / "user-data")
        self.shell("pc", "echo far beyond the image | dd of=/dev/vda bs=512 seek=4000000 conv=notrunc,fsync 2> /dev/null")
        look = "dd if=/dev/vda bs=512 skip=4000000 count=1 2> /dev/null | head -n 1"
        seed = "mkdir -p /m; mount -t iso9660 -o ro /dev/vdb /m; cat /m/user-data"
        uptime = float(self.shell("pc", "cat /proc/uptime").split()[0])
        self.migrate("pc", self.far, "--live")
        self.assertEqual(self.shell("pc", look), "far beyond the image\n")
        self.assertEqual(self.shell("pc", seed), USER_DATA)
        self.assertGreater(float(self.shell("pc", "cat /proc/uptime").split()[0]), uptime)
        disk = next((self.far.folder / "machines").glob("*/disk.qcow2"))
        self.assertLess(disk.stat().st_blocks * 512, 8 << 20)  # what the image has was not sent
        self.nothing_left(self.near)
        self.migrate("pc", self.near, "--cold")
        self.assertEqual(self.shell("pc", look), "far beyond the image\n")
        self.assertEqual(self.shell("pc", seed), USER_DATA)
        self.near.cli("vm", "delete", "pc")
        self.nothing_left(self.far)

    def test_a_state_that_is_written_down_goes_on_elsewhere(self):
        """As of VMMs that know no other way; with a volume, and a disk that lies over another one."""
        self.near.cli("volume", "create", "more", "--size", "16MiB")
        self.create("first")
        self.near.cli("vm", "clone", "first", "second")
        self.near.cli("volume", "attach", "more", "second", "--path", "/mnt/more")
        boot = self.shell("second", BOOT)
        self.shell("second", "(i=0; while true; do i=$((i+1)); echo $i >> /mnt/more/ticks; sleep 0.1; done) > /dev/null 2>&1 &")
        self.assertIn("exclude", self.refused("vm", "migrate", "second", "--live", "--snapshot"))
        for to, other in ((self.far, self.near), (self.near, self.far)):
            machine = self.migrate("second", to, "--snapshot")
            self.assertEqual(machine["state"], "running")
            self.assertEqual(self.shell("second", BOOT), boot)
            seen = self.shell("second", "cat /mnt/more/ticks").split()
            self.near.until(lambda _: len(self.shell("second", "cat /mnt/more/ticks").split()) > len(seen) + 2, "ticks")
            ticks = self.shell("second", "cat /mnt/more/ticks").split()
            self.assertEqual([int(tick) for tick in ticks], list(range(1, len(ticks) + 1)))
            self.assertEqual(list((other.folder / "volumes").iterdir()), [])
        operation = json.loads(self.near.cli("vm", "migrate", "second", "--to", self.far.name, "--snapshot", "--no-wait",
                                             "--output", "json"))["operation"]
        self.near.cli("operation", "cancel", operation, check=False)
        self.near.get(f"/v1/operations/{operation}/wait?timeout=60s")
        self.assertEqual(self.shell("second", BOOT), boot)  # wherever it is, it runs
        self.near.cli("vm", "delete", "second")
        self.near.cli("vm", "delete", "first")
        self.near.cli("volume", "delete", "more")

    def test_folders_of_the_host_stay(self):
        drivers = json.loads(self.near.cli("vm", "drivers", "--output", "json"))["hypervisors"]
        if not any(driver["name"] == "qemu" and driver["shares"] for driver in drivers):
            self.skipTest("no virtiofsd")
        self.create("sharing", "--share", f"{self.shared}:/srv/shared")
        self.assertIn("shares", self.refused("vm", "migrate", "sharing", "--live"))
        self.assertIn("does not share", self.refused("vm", "migrate", "sharing", "--cold"))
        self.assertEqual(self.shell("sharing", "echo here"), "here\n")  # it was started again where it was
        self.near.cli("vm", "delete", "sharing")


if __name__ == "__main__":
    unittest.main()
