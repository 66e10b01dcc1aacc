"""Each change of a machine's state is an event, listed and streamed; and /metrics has what its agent and the kernel know."""
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest
import urllib.request

import hosts
from machines import kernel_flags, machines_of, root_archive, why_not
from node import BUILD, Node
from node_case import NodeCase


class Events(NodeCase):
    """One story, as each machine takes its time to boot."""

    @classmethod
    def setUpClass(cls):
        reason = why_not()
        if reason:
            raise unittest.SkipTest(reason)
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="blixard-events-")))
        cls.is_root = os.geteuid() == 0 and os.path.exists("/dev/net/tun") and hosts.libc.unshare(hosts.CLONE_NEWNET) == 0
        if cls.is_root:
            hosts.tool("ip", "link", "set", "lo", "up")
        cls.node = Node()
        cls.addClassCleanup(shutil.rmtree, cls.node.folder, ignore_errors=True)
        cls.addClassCleanup(lambda: cls.node.stop())
        cls.enterClassContext(machines_of(cls.node.folder))
        root = cls.folder / "root.tar.gz"
        root.write_bytes(root_archive())
        cls.ok("image", "import", "small", "--root", root, *kernel_flags())

    def events(self, *words):
        return json.loads(self.ok("vm", "events", *words, "--output", "json"))["events"]

    def types(self, *words):
        return [event["type"] for event in self.events(*words)]

    def test_all_that_becomes_of_a_machine(self):
        follower = subprocess.Popen([BUILD / "blixard", "vm", "events", "--follow", "--output", "json"], env=self.node.env, text=True,
                                    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self.addCleanup(follower.stdout.close)
        self.addCleanup(follower.wait)
        self.addCleanup(follower.kill)
        network = ()
        if self.is_root:
            self.ok("network", "create", "back")
            network = ("--network", "back")
        self.ok("vm", "create", "web", "--image", "small", "--memory", "128MiB", "--disk", "64MiB", "--health", "agent", *network)
        self.ok("vm", "wait", "web", "--for", "healthy", "--timeout", "100s")
        self.metrics(follower)
        self.ok("vm", "pause", "web")
        self.ok("vm", "resume", "web")
        self.ok("vm", "rename", "web", "site")
        self.node.kill()
        type(self).node = Node(self.node.folder)
        self.ok("vm", "wait", "site", "--timeout", "100s")
        self.ok("vm", "stop", "site")
        self.ok("vm", "delete", "site")

        ever = [event for event in self.events() if event["type"] != "vm.health-changed"]
        self.assertEqual([event["type"] for event in ever],
                         ["vm.created", "vm.preparing", "vm.prepared", "vm.starting", "vm.started", "vm.paused", "vm.resumed", "vm.renamed",
                          "vm.recovering", "vm.recovered", "vm.stopping", "vm.stopped", "vm.deleting", "vm.deleted"])
        self.assertEqual({event["data"]["machine_id"] for event in ever}, {ever[0]["data"]["machine_id"]})
        self.assertEqual([event["data"]["machine"] for event in ever if event["type"] in ("vm.started", "vm.renamed", "vm.deleted")],
                         ["web", "site", "site"])
        sequences = [event["sequence"] for event in self.events()]
        self.assertEqual(sequences, sorted(set(sequences)))
        self.assertEqual(ever[4]["source"], "/projects/default/machines/web")
        self.assertEqual((ever[4]["data"]["state"], ever[-1]["data"]["state"]), ("running", ""))
        self.assertIn("it was web", self.ok("vm", "events", "site"))
        self.assertEqual(self.types("--tail", "1"), ["vm.deleted"])
        self.assertIn("no machine", self.refused("vm", "events", "nobody"))

    def metrics(self, follower):
        """As they come, a follower hears of them; and of what runs there is all that is known."""
        heard = []
        for line in follower.stdout:
            event = json.loads(line)
            heard.append(event["type"])
            if event["type"] == "vm.health-changed" and event["data"]["reason"] == "healthy":
                break
        self.assertEqual(heard[:5], ["vm.created", "vm.preparing", "vm.prepared", "vm.starting", "vm.started"])

        if self.is_root:
            self.ok("vm", "exec", "web", "--", "ping", "-c", "1", "-W", "30", "10.64.0.1")
        for kind in ("text/plain", "application/openmetrics-text"):
            asked = urllib.request.Request(f"http://{self.node.api}/metrics", headers={"Accept": kind})
            with urllib.request.urlopen(asked, timeout=60) as answer:
                text = answer.read().decode()
            for name in ("agent_up", "memory_bytes", "balloon_bytes", "guest_memory_total_bytes", "guest_processes",
                         "guest_cpu_seconds_total", "guest_filesystem_size_bytes"):
                self.assertRegex(text, rf'(?m)^blixard_machine_{name}{{project="default",machine="web"[^}}]*}} \d')
            self.assertIn('blixard_machine_agent_up{project="default",machine="web"} 1\n', text)
            if self.is_root:
                sent = r'blixard_machine_network_sent_packets_total{project="default",machine="web",network="back"} [1-9]'
                self.assertRegex(text, sent)
            if kind == "text/plain" and shutil.which("promtool"):
                checked = subprocess.run(["promtool", "check", "metrics"], input=text, text=True, stdout=subprocess.PIPE,
                                         stderr=subprocess.STDOUT)
                self.assertEqual((checked.returncode, checked.stdout), (0, ""))


if __name__ == "__main__":
    unittest.main()
