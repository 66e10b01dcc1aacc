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
from node import Node, Refused
from node_case import NodeCase

PLAIN_ONLY = "the time goes to guests that are emulated, and to QEMU"

USER_DATA = "#cloud-config\npassword: very-secret\n"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIL9pfe1V5 tester"


class Disk(NodeCase):
    def setUp(self):
        reason = machines.why_not()
        missing = [tool for tool in ("syslinux", "mformat", "qemu-img") if shutil.which(tool) is None]
        if reason or missing:
            self.skipTest(reason or f"{missing[0]} is not installed")
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="blixard-disk-")))
        type(self).node = Node()
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

        self.ok("image", "import", "disk", "--disk", machines.boot_disk(self.folder))
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

    def shell(self, name, script):
        return self.ok("vm", "exec", name, "--", "/bin/sh", "-c", script)

    def say(self, name, text):
        """In its memory, and where its disk has nothing else."""
        self.shell(name, f"echo {text} > /note; dd if=/note of=/dev/vda bs=512 seek=130000 conv=fsync 2>/dev/null")

    def said(self, name):
        return self.shell(name, "cat /note; dd if=/dev/vda bs=512 skip=130000 count=1 2>/dev/null").replace("\0", "")

    def check_life_cycle(self):
        """One machine, booted once: snapshots, clones and archives begin from it."""
        (self.folder / "user-data").write_text(USER_DATA)
        self.ok("vm", "create", "m", "--image", "disk", "--memory", "256MiB", "--user-data", self.folder / "user-data", "--disk", "65MiB",
                "--boot-timeout", "390s")
        self.say("m", "one")
        self.ok("vm", "snapshot", "create", "m", "one")
        self.say("m", "two")
        self.ok("vm", "clone", "m", "live")
        self.assertEqual(self.said("live"), "two\ntwo\n")
        self.assertEqual(self.shell("live", "uname -n"), "live\n")
        self.ok("vm", "restore", "m", "one")
        self.assertEqual(self.said("m"), "one\none\n")
        self.assertEqual(self.said("live"), "two\ntwo\n")
        self.ok("vm", "delete", "live")
        archive = self.folder / "m.blixard"
        self.ok("vm", "export", "m", archive, "--snapshots")
        self.ok("vm", "delete", "m")
        self.ok("image", "delete", "disk")
        self.ok("vm", "import", archive, "--name", "back")
        self.ok("vm", "restore", "back", "one")
        self.assertEqual(self.said("back"), "one\none\n")
        back = json.loads(self.ok("vm", "show", "back", "--output", "json"))
        seed = self.node.folder / "machines" / back["id"] / "seed.iso"
        self.assertIn(USER_DATA.encode(), seed.read_bytes())
        self.ok("vm", "snapshot", "create", "back", "disk", "--disk-only")
        self.ok("vm", "stop", "back")
        self.ok("vm", "restore", "back", "disk")
        self.ok("vm", "clone", "back", "cold")
        self.assertEqual(self.shell("cold", "dd if=/dev/vda bs=512 skip=130000 count=1 2>/dev/null").strip("\0"), "one\n")
        for name in ("cold", "back"):
            self.ok("vm", "delete", name)

    def test_a_whole_disk_is_kept_cloned_and_carried(self):
        self.ok("image", "import", "disk", "--disk", machines.boot_disk(self.folder))
        self.check_life_cycle()

    def test_so_is_one_with_uefi_and_its_variables(self):
        if not pathlib.Path("/usr/share/OVMF/OVMF_VARS_4M.fd").exists():
            self.skipTest("ovmf is not installed")
        self.ok("image", "import", "disk", "--disk", machines.efi_disk(self.folder), "--firmware", "uefi")
        self.check_life_cycle()


if __name__ == "__main__":
    unittest.main()
