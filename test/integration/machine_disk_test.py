"""A machine whose image is a whole disk: what is taken and refused, its boot loader, its seed for cloud-init."""
import hashlib
import json
import pathlib
import shutil
import subprocess
import tempfile
import unittest

import machines
import microvm
from node import BUILD, Node, Refused

MODULES = ("virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_console virtio_blk failover "
           "net_failover virtio_net virtio_balloon virtio-rng cdrom isofs button evdev").split()
SYSLINUX = ("SERIAL 0 115200\nDEFAULT linux\nLABEL linux\n KERNEL vmlinuz\n"
            " APPEND initrd=initrd console=ttyS0 quiet panic=-1 cryptomgr.notests mitigations=off\n")
USER_DATA = "#cloud-config\npassword: very-secret\n"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIL9pfe1V5 tester"


def boot_disk(folder):
    """A FAT file system with SYSLINUX, Debian's kernel and the agent as init."""
    disk = folder / "disk.raw"
    busybox = machines.BUSYBOX.read_bytes()
    (folder / "initrd").write_bytes(microvm.initrd({f"/bin/{tool}": busybox for tool in ("sh", "mount", "cat", "mkdir")},
                                                   MODULES))
    (folder / "syslinux.cfg").write_text(SYSLINUX)
    with disk.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mformat", "-i", disk, "-F", "::"], check=True)
    for source, target in ((machines.kernel_flags()[1], "vmlinuz"), (folder / "initrd", "initrd"),
                           (folder / "syslinux.cfg", "syslinux.cfg")):
        subprocess.run(["mcopy", "-i", disk, source, f"::{target}"], check=True)
    subprocess.run(["syslinux", "--install", disk], check=True)
    subprocess.run(["qemu-img", "convert", "-c", "-O", "qcow2", disk, folder / "disk.qcow2"], check=True)
    return folder / "disk.qcow2"


class Disk(unittest.TestCase):
    def run_cli(self, *words):
        return subprocess.run([BUILD / "blixard", *map(str, words)], env=self.node.env, text=True, input="",
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=400)

    def ok(self, *words):
        done = self.run_cli(*words)
        self.assertEqual(done.returncode, 0, f"{words}: {done.stderr}{done.stdout}")
        return done.stdout

    def refused(self, *words):
        done = self.run_cli(*words)
        self.assertNotEqual(done.returncode, 0, words)
        return done.stderr

    def setUp(self):
        reason = machines.why_not()
        missing = [tool for tool in ("syslinux", "mformat", "qemu-img") if shutil.which(tool) is None]
        if reason or missing:
            self.skipTest(reason or f"{missing[0]} is not installed")
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="blixard-disk-")))
        self.node = Node()
        self.addCleanup(self.node.stop)
        self.enterContext(machines.machines_of(self.node.folder))

    def test_a_disk_boots_and_has_its_seed(self):
        evil = self.folder / "evil.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", evil, "64M"],
                       check=True)
        self.assertIn("backing file", self.refused("image", "import", "evil", "--disk", evil))
        self.node.request("POST", "/v1/images/blobs", evil.read_bytes())
        blob = hashlib.sha256(evil.read_bytes()).hexdigest()
        with self.assertRaises(Refused) as refusal:  # whatever the command line looks at
            self.node.call("PUT", "/v1/images/evil", {"disk": blob})
        self.assertIn("backing file", refusal.exception.problem["detail"])

        self.ok("image", "import", "disk", "--disk", boot_disk(self.folder))
        image = json.loads(self.ok("image", "show", "disk", "--output", "json"))
        self.assertEqual((image["disk_format"], image["disk_size_bytes"]), ("qcow2", 64 << 20))
        self.assertIn("q35", self.refused("vm", "create", "m", "--image", "disk", "--machine", "microvm"))
        self.assertIn("64 MiB", self.refused("vm", "create", "m", "--image", "disk", "--disk", "32MiB"))

        (self.folder / "user-data").write_text(USER_DATA)
        self.ok("vm", "create", "m", "--image", "disk", "--user-data", self.folder / "user-data", "--ssh-key", KEY)
        shown = self.ok("vm", "show", "m", "--output", "json")
        self.assertNotIn("very-secret", shown)
        machine = json.loads(shown)
        self.assertEqual(machine["machine_type"], "q35")
        self.assertEqual(machine["user_data_digest"], hashlib.sha256(USER_DATA.encode()).hexdigest())
        seed = self.ok("vm", "exec", "m", "--", "/bin/sh", "-c",
                       "mkdir /m; mount -t iso9660 -o ro /dev/vdb /m; cat /m/user-data /m/meta-data")
        self.assertTrue(seed.startswith(USER_DATA), seed)
        self.assertEqual(json.loads(seed[len(USER_DATA):]),
                         {"instance-id": machine["id"], "local-hostname": "m", "public-keys": [KEY]})
        self.ok("vm", "pause", "m")
        self.ok("vm", "resume", "m")
        self.ok("vm", "stop", "m")
        folder = self.node.folder / "machines" / machine["id"]
        self.assertEqual((folder / "user-data").stat().st_mode & 0o777, 0o600)
        self.ok("vm", "delete", "m")
        self.assertFalse(folder.exists())


if __name__ == "__main__":
    unittest.main()
