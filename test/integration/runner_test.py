"""Machines that are programs of Nix: a runner of microvm.nix's form, run by a real QEMU with a small guest."""
import json
import os
import pathlib
import shutil
import signal
import tempfile
import unittest

import machines
import microvm
import runners
from node import Node
from node_case import NodeCase

PLAIN_ONLY = "the time goes to guests that are emulated, and to QEMU"


class Runner(NodeCase):
    options = ()

    @classmethod
    def setUpClass(cls):
        reason = machines.why_not()
        if reason:
            raise unittest.SkipTest(reason)
        if os.geteuid() != 0:
            raise unittest.SkipTest("runners belong to root")

    def shown(self, name):
        return json.loads(self.ok("vm", "show", name, "--output", "json"))

    def until_said(self, name, text):
        runners.until(f"{name}: {text}", lambda: text in self.ok("vm", "logs", name))

    def begin(self, folder=None):
        type(self).node = Node(folder, arguments=["--machine-runner-folders", str(self.store), *self.options])
        self.addCleanup(self.node.stop)
        return self.node

    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="blixard-runner-")))
        self.folder.chmod(0o755)
        self.store = self.folder / "store"
        self.store.mkdir()
        self.begin()
        self.enterContext(machines.machines_of(self.node.folder))

    def make(self, name, **more):
        kernel, initrd = runners.guest(self.store / "guest")
        return runners.make(self.store / name, kernel, initrd, name, **more)


class Life(Runner):
    def test_a_machine_lives_by_its_runner_and_changes_it(self):
        one, two = self.make("one", volume=True), self.make("two", volume=True)
        self.ok("vm", "create", "web", "--runner", one, "--memory", "256MiB")
        self.until_said("web", "guest one is up")
        machine = self.shown("web")
        self.assertEqual((machine["state"], machine["driver"], machine["runner"], machine["booted_runner"], machine["outdated"]),
                         ("running", "runner", str(one), str(one), False))
        status = pathlib.Path(f"/proc/{machine['vmm_pid']}/status").read_text()
        uid = int(status.split("Uid:")[1].split()[0])
        self.assertGreater(uid, 2000000000, "the VMM has a user of its own")
        self.assertEqual(int(status.split("CapEff:")[1].split()[0], 16), 0)
        environment = pathlib.Path(f"/proc/{machine['vmm_pid']}/environ").read_bytes()
        self.assertEqual({word.split(b"=")[0] for word in environment.split(b"\0") if word} - {b"PWD", b"SHLVL", b"OLDPWD", b"_"},
                         {b"PATH", b"HOME", b"TMPDIR"})
        metrics = self.node.get("/metrics")
        self.assertIn('blixard_machine_resident_bytes{project="default",machine="web"}', metrics)

        for words, said in ((("exec", "web", "--", "true"), "no agent"), (("pause", "web"), "be paused"),
                            (("snapshot", "create", "web", "s"), "snapshot"), (("clone", "web", "other"), "be cloned")):
            self.assertIn(said, self.refused("vm", *words))

        # The same again changes nothing; another one waits for the next start.
        self.ok("vm", "update", "web", "--runner", one, "--restart")
        self.assertEqual(self.shown("web")["vmm_pid"], machine["vmm_pid"])
        self.assertIn("takes effect at the next start: runner", self.ok("vm", "update", "web", "--runner", two))
        changed = self.shown("web")
        self.assertEqual((changed["runner"], changed["booted_runner"], changed["outdated"], changed["runner_generation"],
                          changed["vmm_pid"]), (str(two), str(one), True, 2, machine["vmm_pid"]))
        listed = json.loads(self.ok("vm", "list", "--output", "json"))["machines"][0]
        self.assertEqual((listed["booted_runner"], listed["outdated"]), (str(one), True))

        # The daemon ends and comes back: it knows still what runs, and what is to.
        folder = self.node.folder
        self.node.kill()
        self.begin(folder)
        runners.until("it is found again", lambda: self.shown("web")["state"] == "running")
        self.assertEqual([self.shown("web")[key] for key in ("vmm_pid", "booted_runner", "outdated")],
                         [machine["vmm_pid"], str(one), True])

        self.ok("vm", "restart", "web")
        self.until_said("web", "guest two is up")
        log = self.ok("vm", "logs", "web")
        self.assertIn("guest one goes down", log, "its runner's own program has asked it to")
        self.assertIn("guest two has written by one", log, "its folder is kept")
        self.assertEqual(self.shown("web")["outdated"], False)

        self.ok("vm", "rollback", "web", "--restart")
        runners.until("generation 1 runs", lambda: self.shown("web")["booted_runner"] == str(one))
        self.assertEqual([entry["runner"] for entry in self.shown("web")["runner_generations"]], [str(one), str(two)])
        self.assertIn("oldest", self.refused("vm", "rollback", "web"))
        self.assertIn("generation 7", self.refused("vm", "rollback", "web", "--generation", 7))
        self.ok("vm", "delete", "web")
        self.assertEqual(list(pathlib.Path(self.node.folder, "machines").glob("*/state")), [])

    def test_one_that_fails_is_started_again_and_one_that_does_not_go_down_is_ended(self):
        stubborn = self.store / "stubborn"
        runners.write(stubborn / "bin/microvm-run", "#!/bin/sh\necho it runs\n(sleep 1000; echo never) &\nwait\n", 0o555)
        self.ok("vm", "create", "m", "--runner", stubborn, "--strategy", "Always")
        self.until_said("m", "it runs")
        pid = self.shown("m")["vmm_pid"]
        group = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        os.kill(pid, signal.SIGKILL)
        runners.until("it was started again", lambda: self.shown("m")["restarts"] > 0 and self.shown("m").get("vmm_pid", pid) != pid)
        runners.until("nothing of it is left", lambda: not any(machines.runs(child) for child in group))
        pid = self.shown("m")["vmm_pid"]
        self.ok("vm", "stop", "m")
        self.assertFalse(machines.runs(pid))
        self.assertEqual(self.shown("m")["state"], "stopped")


class Refusals(Runner):
    def test_what_is_no_runner_is_refused_with_its_reason(self):
        good = self.make("good")
        for words, said in ((("--image", "x"), "image"), (("--volume", "v"), "volumes"), (("--cmdline", "quiet"), "cmdline"),
                            (("--publish", "80:80"), "publish"), (("--health", "agent"), "health"),
                            (("--driver", "qemu"), "driver"), (("--hostname", "h"), "hostname")):
            self.assertIn(said, self.refused("vm", "create", "m", "--runner", good, *words))
        self.assertIn("not below a folder", self.refused("vm", "create", "m", "--runner", "/usr"))
        self.assertIn("has no folder", self.refused("vm", "create", "m", "--runner", self.store / "missing"))
        self.assertIn("absolute", self.refused("vm", "create", "m", "--runner", "store/good"))
        self.assertIn("absolute", self.refused("vm", "create", "m", "--runner", f"{good}\nx"))

        def hostile(change, said):
            bad = self.store / "bad"
            shutil.rmtree(bad, ignore_errors=True)
            shutil.copytree(good, bad)
            for path in bad.rglob("*"):
                path.chmod(0o755)
            change(bad)
            self.assertIn(said, self.refused("vm", "create", "m", "--runner", bad))

        def write(name, text):
            return lambda bad: runners.write(bad / name, text)

        def link(name, target):
            def change(bad):
                (bad / name).unlink()
                (bad / name).symlink_to(target)
            return change

        hostile(link("bin/microvm-run", "/bin/sh"), "leads out of")
        hostile(link("share/microvm/hypervisor", "/etc/shadow"), "leads out of")
        hostile(link("bin/microvm-run", "microvm-run"), "leads nowhere")
        hostile(lambda bad: (bad / "bin/microvm-run").unlink(), "no bin/microvm-run")
        hostile(lambda bad: (bad / "bin/microvm-run").chmod(0o644), "no program")
        hostile(lambda bad: (bad / "bin/microvm-run").chmod(0o777), "others may write it")
        hostile(lambda bad: os.chown(bad / "bin/microvm-shutdown", 1234, 1234), "another user")
        hostile(lambda bad: (bad / "share").chmod(0o777), "others may write it")
        hostile(write("share/microvm/tap-interfaces", "a" * 5000), "at most 4096 bytes")
        hostile(write("share/microvm/tap-interfaces", "../../etc\n"), "tap-interfaces")
        hostile(write("share/microvm/tap-interfaces", "way-too-long-a-name\n"), "tap-interfaces")
        hostile(write("share/microvm/tap-interfaces", "a\na\n"), "twice")
        hostile(write("share/microvm/tap-interfaces", "a b c d e"), "at most 4 taps")
        hostile(write("share/microvm/tap-interfaces", "vm-a\n"), "opens 1 tap, and it is in 0 networks")
        hostile(write("share/microvm/hypervisor", "qemu\nrm -rf\n"), "one line")
        hostile(write("share/microvm/vsock-cid", "2\n"), "vsock-cid")
        hostile(write("share/microvm/macvtap-interfaces", "a 02:00:00:00:00:01 eth0 bridge\n"), "machine_macvtap_links")
        hostile(write("share/microvm/pci-devices", "0000:00:01.0\n"), "--device 0000:00:01.0")
        hostile(write("share/microvm/pci-devices", "../../etc\n"), "no address")
        hostile(lambda bad: os.mkfifo(bad / "share/microvm/usb-devices"), "no file")

        def share(tag, socket, source):
            def change(bad):
                runners.write(bad / f"share/microvm/virtiofs/{tag}/socket", socket)
                runners.write(bad / f"share/microvm/virtiofs/{tag}/source", source)
            return change

        hostile(share("a", "a.sock\n", "/etc\n"), "machine_share_folders")
        hostile(share("a", "../a.sock\n", "/etc\n"), "own folder")
        hostile(share("a", "a.sock\n", "/no/such/folder\n"), "no folder")
        hostile(share("a", "a.sock\n", "/etc\n/usr\n"), "one line")
        hostile(share("a b", "a.sock\n", "/etc\n"), "no name")
        self.assertEqual(json.loads(self.ok("vm", "list", "--output", "json"))["machines"], [])

    def test_a_node_that_names_no_folder_runs_none(self):
        self.node.stop()
        type(self).node = Node()
        self.addCleanup(self.node.stop)
        self.assertIn("not below a folder that this node runs machines from (machine_runner_folders: none)",
                      self.refused("vm", "create", "m", "--runner", self.store, "--no-pending"))
        drivers = json.loads(self.ok("vm", "drivers", "--output", "json"))["hypervisors"]
        runner = next(driver for driver in drivers if driver["name"] == "runner")
        self.assertEqual((runner["usable"], runner["snapshot"], runner["live_migration"], runner["hotplug"]), (False,) * 4)


del Runner

if __name__ == "__main__":
    unittest.main()
