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

PLAIN_ONLY = "the time goes to guests that are emulated, and to QEMU"


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


# What may be said of an object, and goes again when nobody says it.
SAID = {
    "Machine": """{image: small, memory: 64MiB, disk: 64MiB, strategy: Halted, publish: ["28080:80"], volumes: [kept-1], cpu_limit_percent: 50,
        disk_iops: 100, disk_read_bandwidth: 10MiB, boot_timeout: 60s, health: agent, health_interval: 5s, health_timeout: 2s,
        health_retries: 9, health_start_period: 9s, health_action: none, constraints: ["label.gone is_not_set"], affinities: ["50 label.disk = ssd"],
        spreads: [zone], placement_group: near, tolerations: ["gpu"], priority: 70, node_pool: default, reservation: room,
        eviction_strategy: restart, node_loss: restart-fresh, rebalance: never}""",
    "Queue": "{visibility: 5s, retention: 1h, delay: 1s, dedup: 10s, max_depth: 10, max_bytes: 1MiB, max_receives: 3, dead_letter: dead}",
    "Stream": "{retention: 1h, retention_bytes: 1MiB}",
    "Network": "{subnet: 10.98.NUMBER.0/24, mode: routed, peering: true, dns: [10.98.0.53], description: mine}",
    "Volume": "{size: 16MiB, iops: 100, bandwidth: 1MiB}",
    "SecurityGroup": "{rules: [{direction: in, allow: tcp/80, peer: 10.0.0.0/8}]}",
}
BARE = {"Machine": "{image: small, memory: 64MiB, disk: 64MiB, strategy: Halted}", "Network": "{subnet: 10.98.NUMBER.0/24}", "Volume": "{size: 16MiB}"}


def documents(which, number):
    """Of each kind one, called after the number."""
    return "".join(f"kind: {kind}\nname: kept-{number}\nspec: {which.get(kind, '{}').replace('NUMBER', str(number))}\n---\n" for kind in SAID)


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
        # What nobody asks for any more becomes what it would be if nobody ever had.
        (self.folder / "before.yaml").write_text("kind: Queue\nname: dead\n---\nkind: PlacementGroup\nname: near\n---\n"
                                                 "kind: Reservation\nname: room\nspec: {memory: 64MiB, disk: 64MiB}\n")
        path = self.folder / "kept.yaml"
        for text, count in ((documents(SAID, 1), 6), (documents(BARE, 1), 6), (documents(BARE, 2), 6)):
            path.write_text(text)
            self.cli("apply", "-f", "before.yaml")
            self.assertIn(f"Done: {count} changed.", self.cli("apply", "-f", "kept.yaml"))
            self.assertIn("No changes", self.cli("plan", "-f", "kept.yaml"))
        for kind in SAID:
            one, other = (self.cli("export", kind, f"kept-{number}").replace(f"10.98.{number}.", "10.98.0.") for number in (1, 2))
            self.assertEqual(one.replace("kept-1", "kept-2"), other)
        # Sizes stay, and that is said.
        path.write_text("kind: Machine\nname: kept-1\nspec: {image: small, strategy: Halted}\n")
        self.assertIn("memory_bytes is not this owner's any more, and stays", self.cli("plan", "-f", "kept.yaml"))


if __name__ == "__main__":
    unittest.main()