"""The guide to the first cluster does what it says, on three hosts with the addresses it names."""
import os
import pathlib
import re
import subprocess
import tempfile
import unittest

from hosts import Network
from node import BUILD, ROOT

PLAIN_ONLY = "what is tried are programs beside ours"

GUIDE = ROOT / "docs" / "getting-started" / "first-cluster.md"
TOKEN = re.compile(r"\bblx1\.\S+")


class Machine:
    """A shell on a host, which is given the guide's lines."""

    def __init__(self, host, folder):
        folder.mkdir()
        self.folder = folder
        env = {**os.environ, "HOME": str(folder), "PATH": f"{BUILD}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8"}
        for name in ("BLIXARD_ADDR", "BLIXARD_CONTEXT", "BLIXARD_TOKEN", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME"):
            env.pop(name, None)
        self.shell = subprocess.Popen(host.command("sh", "-eu"), cwd=folder, env=env, text=True, stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.run(f"cd '{folder}'")

    def run(self, lines):
        """All they say; AssertionError where one fails."""
        self.shell.stdin.write(f"{lines}\necho the-block-is-over\n")
        self.shell.stdin.flush()
        said = ""
        for line in self.shell.stdout:
            if line == "the-block-is-over\n":
                return said
            said += line
        log = self.folder / "node.log"
        raise AssertionError(f"{lines}\n{said}\n{log.read_text() if log.exists() else ''}")

    def close(self):
        self.shell.stdin.close()
        self.shell.stdout.close()
        self.shell.wait()


class FirstCluster(unittest.TestCase):
    def test_every_command_works_as_written(self):
        blocks = re.findall(r"^```sh (one|two|three)\n(.*?)^```", GUIDE.read_text(), re.S | re.M)
        self.assertGreater(len(blocks), 10)
        with Network(3, subnet="10.0.0") as network, tempfile.TemporaryDirectory(prefix="blixard-guide-") as folder:
            machines = {name: Machine(host, pathlib.Path(folder, name)) for name, host in zip(("one", "two", "three"), network.hosts)}
            token = "none was printed"
            try:
                for name, lines in blocks:
                    said = machines[name].run(re.sub(r"\b(TOKEN|LOGIN)\b", token, lines))
                    token = (TOKEN.findall(said) or [token])[-1]
            finally:
                for machine in machines.values():
                    machine.close()


if __name__ == "__main__":
    unittest.main()
