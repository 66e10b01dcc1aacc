"""The examples and the pages for beginners do what they say."""
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("BLIXARD_BUILD", ROOT / "build")).resolve()
GUIDES = ("getting-started/README.md", "user-guide/api.md")


def commands(guide):
    """The lines of the guide's ```sh blocks, in order."""
    for block in re.findall(r"^```sh\n(.*?)^```", (ROOT / "docs" / guide).read_text(), re.S | re.M):
        yield from (line for line in block.splitlines() if line.strip())


def quoted(line):
    """Inside single quotes of sh."""
    return line.replace("'", "'\\''")


def in_own_network(command):
    """As root: a network of our own, so that the documented ports are free."""
    return ["unshare", "--net", "sh", "-c", f"ip link set lo up && exec {command}"]


SCRIPT = """
set -eu
blixard dev > node.log 2>&1 &
node=$!
trap 'kill "$node"; wait "$node"' EXIT
curl --silent --fail --retry 100 --retry-delay 0 --retry-connrefused --retry-all-errors --output /dev/null \
    http://127.0.0.1:7420/readyz
"""


class Guides(unittest.TestCase):
    def test_every_command_works_as_written(self):
        if os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("ip") is None:
            self.skipTest("needs root, to have a network in which the documented ports are free")
        for guide in GUIDES:
            with self.subTest(guide=guide):
                self.run_guide(guide)

    def run_guide(self, guide):
        found = list(commands(guide))
        self.assertGreater(len(found), 8)
        with tempfile.TemporaryDirectory(prefix="blixard-guide-") as folder:
            script = pathlib.Path(folder) / "guide.sh"
            echoed = "".join(f"echo '+ {quoted(line)}'\n{line}\n" for line in found)
            script.write_text(SCRIPT + echoed)
            env = {**os.environ, "HOME": folder, "PATH": f"{BUILD}:{os.environ['PATH']}"}
            for name in ("BLIXARD_ADDR", "XDG_STATE_HOME", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME"):
                env.pop(name, None)
            done = subprocess.run(in_own_network(f"sh {script}"), cwd=folder, env=env, text=True, timeout=300,
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            log = pathlib.Path(folder, "node.log")
            self.assertEqual(done.returncode, 0, done.stdout + (log.read_text() if log.exists() else ""))


class Demo(unittest.TestCase):
    def test_it_ends_well(self):
        done = subprocess.run([ROOT / "tools" / "demo"], env={**os.environ, "BLIXARD_BUILD": str(BUILD)}, text=True,
                              timeout=600, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.assertEqual(done.returncode, 0, done.stdout)
        for name in ("markdown", "thumbnail", "logstat"):
            self.assertRegex(done.stdout, rf"(?m)^{name} +\w+ ")


if __name__ == "__main__":
    unittest.main()
