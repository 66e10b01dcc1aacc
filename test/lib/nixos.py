"""Nix for tests: the module and the flake, evaluated by nix-instantiate with the stand-ins of test/nix, and a host that is switched.

    class Module(Evaluation):
        def test_it(self):
            self.rendered("first")                  # a case of test/nix/cases
            self.rendered("{ services.blixard.enable = true; }")
"""
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

from node import BUILD, ROOT

NIX = ROOT / "test/nix"


def need_nix():
    if shutil.which("nix-instantiate") is None:
        raise unittest.SkipTest("there is no nix-instantiate (Debian: nix-bin)")


class Evaluation(unittest.TestCase):
    """A store of its own, and nobody asked over the network."""

    @classmethod
    def setUpClass(cls):
        cls.scratch = pathlib.Path(tempfile.mkdtemp(prefix="blixard-nix-"))
        cls.addClassCleanup(cls.remove)
        conf = "build-users-group =\nsubstituters =\nsandbox = false\nexperimental-features = nix-command flakes\nflake-registry =\n"
        (cls.scratch / "nix.conf").write_text(conf)
        cls.env = {**os.environ, "NIX_CONF_DIR": str(cls.scratch), "NIX_STORE_DIR": f"{cls.scratch}/store", "NIX_STATE_DIR": f"{cls.scratch}/var",
                   "NIX_LOG_DIR": f"{cls.scratch}/log", "HOME": f"{cls.scratch}/home", "XDG_CACHE_HOME": f"{cls.scratch}/cache"}
        (cls.scratch / "home").mkdir()

    @classmethod
    def remove(cls):
        subprocess.run(["chmod", "-R", "u+w", cls.scratch], check=True)
        shutil.rmtree(cls.scratch)

    def nix(self, *words, code=0):
        done = subprocess.run([*map(str, words)], env=self.env, cwd=ROOT, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=300)
        self.assertEqual(done.returncode, code, f"{words}: {done.stdout[-500:]}{done.stderr[-3000:]}")
        return done.stdout if code == 0 else done.stderr

    def value(self, expression, *words):
        return json.loads(self.nix("nix-instantiate", "--eval", "--strict", "--json", "--expr", expression, *words))

    def rendered(self, module):
        """What the module makes of a configuration: a case's name, or the text of a module."""
        text = f"{NIX}/cases/{module}.nix" if module.isalnum() else f"({module})"
        return self.value(f"import {NIX}/eval.nix {{ module = {text}; }}")


class Switched(Evaluation):
    """A host whose node is self.node: each configuration is brought to it by the script of the unit, in self.folder."""

    def cli(self, *words):
        done = subprocess.run([BUILD / "blixard", *map(str, words)], env=self.node.env, cwd=self.folder, text=True, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=300)
        self.assertEqual(done.returncode, 0, f"{words}: {done.stdout}{done.stderr}\n{self.node.log.read_text()[-2000:]}")
        return done.stdout

    def switch(self, words, code=0):
        """As nixos-rebuild has it: other files, and the unit is started again."""
        case = self.rendered(f"{{ networking.hostName = \"dev\"; services.blixard = {{ enable = true; dataDir = \"{self.node.folder}\"; {words} }}; }}")
        self.assertEqual(case["failed"], [])
        manifests = self.folder / "manifests"
        shutil.rmtree(manifests, ignore_errors=True)
        manifests.mkdir()
        for name, text in case["files"].items():
            if name.startswith("blixard/manifests/"):
                (manifests / pathlib.Path(name).name).write_text(text)
        self.case = case
        return self.unit("blixard-apply", code=code, BLIXARD_MANIFESTS=str(manifests), CREDENTIALS_DIRECTORY=str(self.folder))

    def unit(self, name, part="script", code=0, **env):
        """A script of a unit of the last configuration, beside a systemctl that says that the host goes down."""
        programs, state = self.folder / "programs", self.folder / f"{name}-state"
        programs.mkdir(exist_ok=True)
        state.mkdir(exist_ok=True)
        (programs / "systemctl").write_text("#!/bin/sh\necho stopping\n")
        (programs / "systemctl").chmod(0o755)
        env = {**self.node.env, "PATH": f"{BUILD}:{programs}:{os.environ['PATH']}", "STATE_DIRECTORY": str(state), **env}
        done = subprocess.run(["bash", "-e", "-c", self.case["scripts"][name][part]], env=env, text=True, cwd=self.folder,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)
        self.assertEqual(done.returncode, code, f"{done.stdout}\n{self.node.log.read_text()[-1000:]}")
        return done.stdout
