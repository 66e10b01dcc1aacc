"""The examples and the pages for beginners do what they say."""
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

from node import QUICK
from registry import need_registry

PLAIN_ONLY = "the time goes to compilers"

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("BLIXARD_BUILD", ROOT / "build")).resolve()
GUIDES = ("getting-started/README.md", "user-guide/api.md")
EXAMPLES = "examples/README.md"
FROM_NPM = ("webhook", "clicks")  # whose compiler or engine npm brings


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
blixard dev {quick} > node.log 2>&1 &
node=$!
trap 'kill "$node"; wait "$node"' EXIT
curl --silent --fail --retry 100 --retry-delay 0 --retry-connrefused --retry-all-errors --output /dev/null \
    http://127.0.0.1:7420/readyz
"""


class Guides(unittest.TestCase):
    def setUp(self):
        if os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("ip") is None:
            self.skipTest("needs root, to have a network in which the documented ports are free")

    def test_every_command_works_as_written(self):
        for guide in GUIDES:
            with self.subTest(guide=guide), tempfile.TemporaryDirectory(prefix="blixard-guide-") as folder:
                self.run_guide(guide, folder)

    def test_every_example_works_as_written(self):
        with tempfile.TemporaryDirectory(prefix="blixard-guide-") as folder:
            projects = pathlib.Path(folder) / "examples"
            shutil.copytree(ROOT / "examples", projects, ignore=shutil.ignore_patterns("build"))
            shutil.copy(ROOT / "README.md", folder)
            for name in FROM_NPM:  # into the cache, from a network that has the registry
                done = subprocess.run([BUILD / "blixard", "fn", "build", projects / name], text=True, stdin=subprocess.DEVNULL,
                                      stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
                if done.returncode != 0:
                    need_registry("a compiler and an engine")
                self.assertEqual(done.returncode, 0, done.stdout)
            cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
            said = self.run_guide(EXAMPLES, folder, {"XDG_CACHE_HOME": cache})
            for words in ("<h1>Blixard</h1>", "Location: https://www.debian.org/", '{"votes": 2, "choices": {"apples": 1, "pears": 1}}',
                          '"sent": 3', '"problem": "a quantity is 1 to 10000"', '"seen before"', '{"paid":1}',
                          '"http://127.0.0.1:7480/fn/markdown","status":200', '"http://127.0.0.1:9/","error":"connect: '):
                self.assertIn(words, said)

    def run_guide(self, guide, folder, more=()):
        found = list(commands(guide))
        self.assertGreater(len(found), 8)
        script = pathlib.Path(folder) / "guide.sh"
        echoed = "".join(f"echo '+ {quoted(line)}'\n{line}\n" for line in found)
        script.write_text(SCRIPT.replace("{quick}", " ".join(QUICK)) + echoed)
        env = {**os.environ, "HOME": folder, "PATH": f"{BUILD}:{os.environ['PATH']}"}
        for name in ("BLIXARD_ADDR", "XDG_STATE_HOME", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME"):
            env.pop(name, None)
        env.update(more)
        done = subprocess.run(in_own_network(f"sh {script}"), cwd=folder, env=env, text=True, timeout=900,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        log = pathlib.Path(folder, "node.log")
        self.assertEqual(done.returncode, 0, done.stdout + (log.read_text() if log.exists() else ""))
        return done.stdout


class Demo(unittest.TestCase):
    def test_it_ends_well(self):
        """Its functions: for the machine it fetches packages, and tests speak to nobody."""
        done = subprocess.run([ROOT / "tools" / "demo", "functions"], env={**os.environ, "BLIXARD_BUILD": str(BUILD)}, text=True,
                              timeout=600, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.assertEqual(done.returncode, 0, done.stdout)
        for name in ("markdown", "thumbnail", "logstat"):
            self.assertRegex(done.stdout, rf"(?m)^{name} +\w+ ")


if __name__ == "__main__":
    unittest.main()
