"""What tests say to a node by the command line.  They set cls.node, or type(self).node."""
import datetime
import json
import subprocess
import unittest

from node import BUILD

SECONDS_MAX = 500  # of one command, on a busy machine


def at(seconds):
    """So many seconds from now, as RFC 3339."""
    return (datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class NodeCase(unittest.TestCase):
    @classmethod
    def run_cli(cls, *words, stdin=""):
        return subprocess.run([BUILD / "blixard", *map(str, words)], env=cls.node.env, text=True, input=stdin,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=SECONDS_MAX)

    @classmethod
    def ok(cls, *words, stdin=""):
        done = cls.run_cli(*words, stdin=stdin)
        assert done.returncode == 0, f"{words}: {done.stderr}{done.stdout}\n{cls.node.log.read_text()[-4000:]}"
        return done.stdout

    def refused(self, *words):
        done = self.run_cli(*words)
        self.assertNotEqual(done.returncode, 0, f"{words}: {done.stdout}")
        return done.stderr

    @classmethod
    def json(cls, *words):
        return json.loads(cls.ok(*words, "--output", "json"))
