"""The documents of examples/shop: a function, its routes and triggers, and a machine in a network with a volume."""
import json
import pathlib
import shutil
import subprocess
import tempfile
import unittest

import hosts
from machines import kernel_flags, machines_of, root_archive, why_not
from node import BUILD, ROOT, Node


def setUpModule():
    """This process, which runs this file alone, is a host of its own from here on."""
    reason = why_not()
    if reason:
        raise unittest.SkipTest(reason)
    hosts.need_hosts()
    if not pathlib.Path("/dev/net/tun").exists():
        raise unittest.SkipTest("there is no /dev/net/tun")
    if hosts.libc.unshare(hosts.CLONE_NEWNET) != 0:
        raise unittest.SkipTest("network namespaces are refused")
    hosts.tool("ip", "link", "set", "lo", "up")


class Shop(unittest.TestCase):
    """One story, as a machine takes its time to boot."""

    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="blixard-shop-")))
        self.node = Node()
        self.addCleanup(lambda: self.node.stop())
        self.enterContext(machines_of(self.node.folder))
        archive = self.folder / "root.tar.gz"
        archive.write_bytes(root_archive())
        self.cli("image", "import", "small", "--root", archive, *kernel_flags())
        shutil.copytree(ROOT / "examples/shop", self.folder / "shop")
        self.cli("fn", "new", "hello", cwd=self.folder / "shop")
        self.cli("fn", "build", "hello", cwd=self.folder / "shop")

    def cli(self, *words, code=0, cwd=None):
        done = subprocess.run([BUILD / "blixard", *map(str, words)], env=self.node.env, cwd=cwd or self.folder, text=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=300)
        self.assertEqual(done.returncode, code, f"{words}: {done.stdout}{done.stderr}\n{self.node.log.read_text()[-2000:]}")
        return done.stdout + done.stderr

    def test_a_whole_application_is_applied_changed_and_deleted(self):
        self.cli("plan", "-f", "shop", code=1)
        self.assertIn("Done: 10 changed.", self.cli("apply", "-f", "shop", "--wait", "healthy", "--timeout", "4m"))
        machine = self.node.json("/v1/machines/db")
        self.assertEqual((machine["state"], machine["health_state"]), ("running", "healthy"))
        self.assertEqual(machine["volumes"], ["shop-data:/srv/data"])
        self.assertIn("/srv/data", self.cli("vm", "exec", "db", "--", "cat", "/proc/mounts"))
        self.assertEqual(machine["interfaces"][0]["groups"], ["database"])
        # A second time: nothing, by these documents and by what they became.
        self.assertIn("No changes", self.cli("plan", "-f", "shop"))
        self.assertIn("Done: 0 changed.", self.cli("apply", "-f", "shop"))
        (self.folder / "export.yaml").write_text(self.cli("export"))
        self.assertIn("No changes", self.cli("plan", "-f", "export.yaml"))
        # In place, at its next start, and anew.
        path = self.folder / "shop/machines.yaml"
        path.write_text(path.read_text().replace("cpus: 1", "cpus: 2").replace("health: agent", "health: exec:true"))
        plan = json.loads(self.cli("plan", "-f", "shop", "--output", "json", code=1))
        machine_plan = [a for a in plan["actions"] if a["name"] == "db"][0]
        self.assertEqual({c["path"]: c["effect"] for c in machine_plan["changes"]}, {"cpus": "restart", "health": ""})
        self.assertIn("machine db has its cpus from its next start on", self.cli("apply", "-f", "shop"))
        self.assertEqual(self.node.json("/v1/machines/db")["id"], machine["id"])
        self.assertIn("No changes", self.cli("plan", "-f", "shop"))
        path.write_text(path.read_text().replace("disk: 64MiB", "disk: 64MiB\n  hostname: other"))
        self.assertIn("must be deleted and made anew", self.cli("plan", "-f", "shop", code=1))
        self.cli("apply", "-f", "shop", code=64)
        self.cli("delete", "-f", "shop")
        self.assertEqual(self.node.json("/v1/machines")["machines"], [])
        self.assertEqual(self.node.json("/v1/volumes")["volumes"], [])
        self.assertEqual(self.node.json("/v1/networks")["networks"], [])


if __name__ == "__main__":
    unittest.main()
