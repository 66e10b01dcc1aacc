"""What belongs to a machine moves with it, running and stopped: volumes, snapshots, a template's disk below its own, a whole disk."""
import json
import pathlib
import shutil
import tempfile
import unittest

from cluster import Cluster
from machines import boot_disk, efi_disk, kernel_flags, machines_of, root_archive, why_not

PLAIN_ONLY = "the time goes to guests that are emulated, and to QEMU"

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

    def create(self, name, *flags, node=None):
        self.near.cli("vm", "create", name, "--image", "small", "--memory", "128MiB", "--disk", "64MiB", "--node", (node or self.near).name, *flags)

    def shell(self, name, script):
        return self.near.cli("vm", "exec", name, "--", "sh", "-c", script)

    def migrate(self, name, to, *flags):
        said = self.near.cli("vm", "migrate", name, "--to", to.name, *flags)
        self.assertIn(f"is on node {to.name}", said)
        machine = json.loads(self.near.cli("vm", "show", name, "--output", "json"))
        self.assertEqual(machine["node"], to.name)
        return machine

    def nodes(self):
        return {row["name"]: row["node"] for row in json.loads(self.near.cli("volume", "list", "--output", "json"))["volumes"]}

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

        # What a clone needs as well is copied: either goes, the other stays.
        for name, source in (("other", "kept"), ("secret", "sealed")):
            if name == "secret":
                near.cli("volume", "snapshot", "create", source, "before")
            near.cli("volume", "clone", source, name, "--snapshot", "before")
        self.migrate("db", near, "--live")
        self.assertEqual(self.nodes(), {"kept": near.name, "plain": near.name, "sealed": near.name, "other": far.name, "secret": far.name})
        self.assertEqual(self.shell("db", "cat /mnt/kept/one /mnt/sealed/one /mnt/plain/two"), "kept one\nsealed one\nplain two\n")
        near.cli("volume", "clone", "kept", "twin", "--snapshot", "before")
        near.cli("volume", "detach", "kept")
        near.cli("volume", "attach", "twin", "db", "--path", "/mnt/twin")
        self.shell("db", "echo twin > /mnt/twin/two; sync")
        for way in ("--live", "--cold"):
            self.migrate("db", far if way == "--live" else near, way)
            self.assertEqual(self.shell("db", "cat /mnt/twin/one /mnt/twin/two"), "kept one\ntwin\n")
            near.cli("volume", "snapshot", "create", "twin", way[2:])
            near.cli("volume", "clone", "twin", way[2:], "--snapshot", way[2:])
        self.assertEqual(self.nodes()["kept"], near.name)
        near.cli("vm", "stop", "db")
        for name in ("twin", "sealed"):
            near.cli("volume", "detach", name)
        near.cli("volume", "snapshot", "restore", "kept", "before")
        near.cli("volume", "attach", "kept", "db", "--path", "/mnt/kept")
        near.cli("vm", "start", "db")
        self.assertEqual(self.shell("db", "cat /mnt/kept/one; ls /mnt/kept"), "kept one\nlost+found\none\n")
        near.cli("vm", "delete", "db")
        # What is far was left complete, and is mended with what was below.
        self.create("reader", "--volume", "other:/mnt/other", "--volume", "secret:/mnt/secret", "--volume", "live:/mnt/live", node=far)
        self.assertEqual(self.shell("reader", "cat /mnt/other/one /mnt/secret/one /mnt/live/two"), "kept one\nsealed one\ntwin\n")
        near.cli("vm", "delete", "reader")
        for name in ("live", "cold", "twin", "other", "secret", "sealed", "plain", "kept"):
            rows = json.loads(near.cli("volume", "snapshot", "list", name, "--output", "json"))["snapshots"]
            for words in [("snapshot", "delete", name, row["name"]) for row in rows] + [("delete", name)]:
                # layers may still be merged
                near.until(lambda _: near.cli("volume", *words, check=False).returncode == 0, f"end of volume {words}")
        self.nothing_left(near)
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
        has_uefi = pathlib.Path("/usr/share/OVMF/OVMF_VARS_4M.fd").exists()
        disk = efi_disk(self.folder) if has_uefi else boot_disk(self.folder)
        self.near.cli("image", "import", "disk", "--disk", disk, "--firmware", "uefi" if has_uefi else "bios")
        (self.folder / "user-data").write_text(USER_DATA)
        self.near.cli("vm", "create", "pc", "--image", "disk", "--memory", "256MiB", "--node", self.near.name,
                      "--user-data", self.folder / "user-data", "--boot-timeout", "390s")
        variable = "/sys/firmware/efi/efivars/{}-12345678-1234-1234-1234-123456789abc".format
        mount = "mount -t efivarfs none /sys/firmware/efi/efivars; "
        if has_uefi:
            self.shell("pc", f"{mount} printf '\\007\\000\\000\\000before' > {variable('Before')}")
        self.shell("pc", "echo far beyond the image | dd of=/dev/vda bs=512 seek=4000000 conv=notrunc,fsync 2> /dev/null")
        look = "dd if=/dev/vda bs=512 skip=4000000 count=1 2> /dev/null | head -n 1"
        seed = "mkdir -p /m; mount -t iso9660 -o ro /dev/vdb /m; cat /m/user-data"
        uptime = float(self.shell("pc", "cat /proc/uptime").split()[0])
        self.migrate("pc", self.far, "--live")
        self.assertEqual(self.shell("pc", look), "far beyond the image\n")
        self.assertEqual(self.shell("pc", seed), USER_DATA)
        self.assertGreater(float(self.shell("pc", "cat /proc/uptime").split()[0]), uptime)
        if has_uefi:
            self.shell("pc", f"printf '\\007\\000\\000\\000there' > {variable('There')}")
        disk = next((self.far.folder / "machines").glob("*/disk.qcow2"))
        self.assertLess(disk.stat().st_blocks * 512, 8 << 20)  # what the image has was not sent
        self.nothing_left(self.near)
        self.migrate("pc", self.near, "--cold")
        self.assertEqual(self.shell("pc", look), "far beyond the image\n")
        self.assertEqual(self.shell("pc", seed), USER_DATA)
        if has_uefi:  # what was there before, and what was written after it had come there
            said = self.shell("pc", f"{mount} cat {variable('Before')} {variable('There')}")
            self.assertEqual(said.replace("\7", "").replace("\0", ""), "beforethere")
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
        refusal = self.refused("vm", "migrate", "sharing", "--live")
        for part in ("shares", f"{self.shared}:/srv/shared", "--cold"):
            self.assertIn(part, refusal)
        boot = self.shell("sharing", BOOT)
        refusal = self.refused("vm", "migrate", "sharing", "--cold")
        for part in (str(self.shared), self.far.name, "machine_share_folders"):
            self.assertIn(part, refusal)
        self.assertEqual(self.shell("sharing", BOOT), boot)  # the other node was asked first
        self.near.cli("vm", "delete", "sharing")


if __name__ == "__main__":
    unittest.main()
