"""Machines of flakes: built by the command line, kept from the collector, and brought to the node that runs them."""
import functools
import json
import os
import pathlib
import shutil
import tempfile
import unittest

import hosts
import machines
import runners
from cluster import Cluster
from nixstores import Stores
from node import BUILD

PLAIN_ONLY = "the time goes to guests that are emulated, and to QEMU"

FLAKE = """{
  outputs = { self }: {
    nixosConfigurations.web.config.microvm = {
      mem = 192;
      vcpu = 2;
      interfaces = [ ];
      declaredRunner = derivation {
        name = "microvm-qemu-web"; system = "x86_64-linux"; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
        guest = builtins.path { path = ./guest; name = "guest"; };
        text = builtins.readFile ./run; shutdown = builtins.readFile ./shutdown; said = "%(name)s";
        args = [ "-c" ''
          mkdir -p $out/bin $out/share/microvm
          printf '%%s' "$text" | sed "s|@guest@|$guest|g; s|@said@|$said|g" > $out/bin/microvm-run
          printf '%%s' "$shutdown" > $out/bin/microvm-shutdown
          chmod 555 $out/bin/*
          echo qemu > $out/share/microvm/hypervisor
          echo vnet_hdr > $out/share/microvm/tap-flags
          ln -s $guest $out/share/microvm/system
        '' ];
      };
    };
  };
}
"""


def setUpModule():
    reason = machines.why_not()
    if reason:
        raise unittest.SkipTest(reason)
    if os.geteuid() != 0:
        raise unittest.SkipTest("runners belong to root")
    hosts.need_hosts()


class Flakes(unittest.TestCase):
    """Two nodes, each with a store of its own; the command line is at the first one's."""

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="blx-flake-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.folder.chmod(0o755)
        self.stores = Stores(self.folder)
        self.flake = self.folder / "flake"
        self.flake.mkdir()
        runners.guest(self.flake / "guest")
        text = runners.run_text("@guest@/vmlinux", "@guest@/initrd", "@said@", volume=True)
        (self.flake / "run").write_text(text)
        (self.flake / "shutdown").write_text(runners.SHUT_DOWN)
        self.desk = self.stores.new("desk")
        self.secret, self.token = self.folder / "secret", self.folder / "token"
        self.desk.run("nix-store", "--generate-binary-cache-key", "desk-1", self.secret, self.folder / "public")
        self.token.write_text("the-token")
        self.cluster = Cluster(2, "flake", arguments=["--isolation", "process", "--machine-runner-folders", self.stores.place / "store",
                                                      "--nix-cache-address", "0.0.0.0:7430", "--nix-upload-token-file", self.token,
                                                      "--nix-trusted-keys", (self.folder / "public").read_text().strip()])
        self.addCleanup(lambda: self.cluster.close())
        for server in self.cluster.servers:
            store = self.stores.new(server.name)
            server.start = functools.partial(server.start, wrap=store.wrap)
            server.store = store
        self.cluster.form()
        self.one, self.two = self.cluster.servers
        self.enterContext(machines.machines_of(*(server.folder for server in self.cluster.servers)))

    def write(self, name):
        (self.flake / "flake.nix").write_text(FLAKE % {"name": name})

    def cli(self, *words, check=True, store=None, config=""):
        """In the first node's store, or another one, as its administrator."""
        return (store or self.one.store).run("env", f"BLIXARD_ADDR=unix:{self.one.folder / 'api.sock'}", f"HOME={self.folder}",
                                             f"NIX_CONFIG={config}", BUILD / "blixard", *words, check=check, host=self.one.host)

    def shown(self, name):
        return json.loads(self.cli("vm", "show", name, "--output", "json"))

    def until_up(self, name, said):
        def is_up():
            machine = self.shown(name)
            self.assertEqual(machine["restarts"], 0, machine.get("reason"))
            return f"guest {said} is up" in self.cli("vm", "logs", name)
        runners.until(f"{name} says {said}", is_up)

    def test_a_flake_becomes_a_machine_on_another_node_and_another_one(self):
        self.write("first")
        installable = f"path:{self.flake}#web"
        self.assertIn("is not REFERENCE#NAME", self.cli("vm", "create", "m", "--flake", ".", check=False).stderr)
        self.assertIn("nothing", self.cli("vm", "create", "m", "--flake", f"path:{self.flake}#nothing", check=False).stderr)

        self.cli("vm", "create", "web", "--flake", installable, "--node", self.two.name)
        self.until_up("web", "first")
        machine = self.shown("web")
        first = machine["runner"]
        self.assertEqual((machine["node"], machine["flake"], machine["memory_bytes"], machine["cpus"], machine["booted_runner"]),
                         (self.two.name, installable, 192 << 20, 2, first))
        self.assertTrue(first.startswith(str(self.stores.place / "store")), first)
        self.assertTrue(self.two.store.has(first), "it came from the node that had it")

        missing = first.replace("microvm-qemu-web", "microvm-qemu-else")
        self.assertIn("store copy", self.cli("vm", "update", "web", "--runner", missing, check=False).stderr)

        # While it is a machine's, the collector leaves it; so with what it may go back to.
        # From a desk whose store is no node's: it is copied to one of them, which wants a token and a signature.
        self.write("second")
        address = f"{self.two.host.address}:7430"
        update = ["vm", "update", "web", "--flake", installable, "--copy-to"]
        netrc = self.folder / "netrc"
        netrc.write_text(f"machine {self.two.host.address} login any password the-token\n")
        config = f"netrc-file = {netrc}"
        refused = self.cli(*update, f"http://{address}?secret-key={self.secret}", store=self.desk, check=False)
        self.assertIn("401", refused.stderr)
        refused = self.cli(*update, f"http://{address}", store=self.desk, config=config, check=False)
        self.assertRegex(refused.stderr, "signature|403")
        self.assertEqual(self.shown("web")["runner"], first)
        said = self.cli(*update, f"http://{address}?compression=zstd&secret-key={self.secret}", store=self.desk, config=config)
        self.assertIn("takes effect at the next start: runner", said)
        self.assertTrue(self.two.store.has(self.shown("web")["runner"]))
        self.assertFalse(self.one.store.has(self.shown("web")["runner"]))
        second = self.shown("web")["runner"]
        self.assertNotEqual(first, second)
        roots = json.loads(self.cli("store", "roots", "--node", self.two.name, "--output", "json"))["roots"]
        self.assertEqual({root["path"] for root in roots}, {first, second})
        self.cli("store", "gc", "--node", self.two.name)
        self.assertTrue(self.two.store.has(first) and self.two.store.has(second))
        self.assertEqual(self.shown("web")["booted_runner"], first)
        self.cli("vm", "update", "web", "--flake", installable, "--restart")
        self.until_up("web", "second")
        self.cli("vm", "rollback", "web")
        self.assertEqual((self.shown("web")["runner"], self.shown("web")["outdated"]), (first, True))

        # A document says the same.
        document = self.flake / "web.yaml"
        document.write_text(f"kind: Machine\nname: web\nspec:\n  flake: {installable}\n  memory: 192MiB\n  cpus: 2\n")
        planned = self.cli("plan", "--file", document, check=False)
        self.assertIn("runner", planned.stdout, planned.stderr)
        self.cli("apply", "--file", document)
        self.assertEqual(self.shown("web")["runner"], second)

        self.cli("vm", "delete", "web")
        self.cli("store", "gc", "--node", self.two.name)
        self.assertFalse(self.two.store.has(first), "nothing keeps it any more")

        # A node that does not answer in that moment may have it: it is asked again, and that is said.
        self.write("third")
        runner = f"path:{self.flake}#nixosConfigurations.web.config.microvm.declaredRunner"
        third = json.loads(self.two.store.run("nix", "build", "--no-link", "--json", runner, host=self.two.host))[0]["outputs"]["out"]
        self.two.stop()
        self.cli("vm", "create", "late", "--runner", third, "--memory", "192MiB", "--node", self.one.name, "--no-wait")
        shown = {}  # one answer: while it is asked again there is no reason
        runners.until("it is told why", lambda: shown.update(self.shown("late")) or "it is asked for again in" in (shown["reason"] or ""))
        self.assertEqual(shown["state"], "creating")
        self.assertIn(f"node {self.two.name}", shown["reason"])
        self.two.start().wait_ready()
        self.until_up("late", "third")
        self.assertTrue(self.one.store.has(third))
        self.cli("vm", "delete", "late")


if __name__ == "__main__":
    unittest.main()
