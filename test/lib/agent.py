"""The daemon's client of agents, for tests: build/test/integration/agent-call."""
import pathlib
import shutil
import subprocess
import tempfile
import unittest

import node

CALL = node.BUILD / "test" / "integration" / "agent-call"
HERE = node.BUILD / "blixard-agent-here"
SECONDS = 60


class Answer:
    """What a call brought: .status, .output (bytes), .said (its lines), ["key"] -> value."""

    def __init__(self, done):
        self.status, self.output = done.returncode, done.stdout
        self.said = done.stderr.decode(errors="replace")

    def __getitem__(self, key):
        for line in self.said.splitlines():
            name, _, value = line.partition(" ")
            if name == key:
                return value
        raise KeyError(f"{key} in {self.said!r}")


def call(path, *words, data=None, seconds=SECONDS):
    done = subprocess.run([CALL, path, *map(str, words)], input=data, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          timeout=seconds, stdin=subprocess.DEVNULL if data is None else None)
    return Answer(done)


class Scene(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="blixard-agent-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def begin(self, *arguments, prefix=()):
        self.agent = subprocess.Popen([*prefix, HERE, "--once", *arguments], stdin=subprocess.DEVNULL)
        self.addCleanup(self.agent.wait)
        self.addCleanup(self.agent.kill)

    def call(self, *words, **options):
        return call(self.socket, *words, **options)

    def exec(self, *arguments, **options):
        return self.call("exec", "--", *arguments, **options)
