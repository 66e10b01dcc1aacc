"""Images of machines are on two nodes, and go from both when nobody needs them."""
import os
import pathlib
import tempfile
import time
import unittest

from cluster import Cluster
from hosts import need_hosts
from machines import machines_of, why_not

PLAIN_ONLY = "the time goes to waiting for what nodes see of each other"
SECONDS = 60


class ImageCopies(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        reason = why_not()
        if reason:
            raise unittest.SkipTest(reason)
        need_hosts()
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="blixard-copies-")))
        cls.cluster = Cluster(2, arguments=["--image-unused-ms", "0"])
        cls.addClassCleanup(cls.cluster.close)
        cls.cluster.form()
        cls.enterClassContext(machines_of(*(server.folder for server in cls.cluster.servers)))
        cls.first, cls.second = cls.cluster.servers

    def disk(self, words):
        path = self.folder / "disk.raw"
        path.write_bytes(words.ljust(510, b"\0") + b"\x55\xaa" + bytes((1 << 20) - 512))
        return path

    def image(self, name):
        return self.first.get(f"/v1/images/{name}")

    def await_(self, holds, what):
        end = time.monotonic() + SECONDS
        index = None
        while not holds():
            self.assertLess(time.monotonic(), end, what)
            _, index = self.first.view(index, 200)

    def holders(self, blob):
        return {server.name for server in self.cluster.servers if os.path.exists(f"{server.folder}/images/{blob[:2]}/{blob}")}

    def add(self, words, name="blank"):
        self.first.cli("image", "import", name, "--disk", self.disk(words), "--no-agent")
        self.await_(lambda: self.image(name)["nodes"] == ["n1", "n2"], "a copy")
        blob = self.image(name)["disk"]
        self.assertEqual(self.holders(blob), {"n1", "n2"})
        return blob

    def test_a_copy_is_made_and_goes_with_the_last_who_needs_it(self):
        one = self.add(b"one")
        self.first.cli("vm", "create", "user", "--image", "blank", "--memory", "64MiB", "--disk", "16MiB")
        two = self.add(b"two")  # the same name: the machine has the old one still
        three = self.add(b"three", "other")
        self.first.cli("image", "delete", "other")
        self.await_(lambda: not self.holders(three), "what nobody needs goes from both")
        self.assertEqual(self.holders(one), {"n1", "n2"}, "a machine has it")
        self.first.cli("vm", "delete", "user")
        self.await_(lambda: not self.holders(one), "with the machine")
        self.assertEqual(self.holders(two), {"n1", "n2"}, "the image has it")
        self.assertIn("n1, n2", self.second.cli("image", "list"))
        self.first.cli("image", "delete", "blank")
        self.await_(lambda: not self.holders(two), "with the image")

    def test_what_is_uploaded_again_stays_until_it_is_named(self):
        again, gone = self.add(b"again", "again"), self.add(b"gone", "gone")
        content = self.disk(b"again").read_bytes()
        self.first.cli("image", "delete", "again", "gone")
        self.assertEqual(self.first.call("POST", "/v1/images/blobs", content)["id"], again)
        self.await_(lambda: not self.holders(gone), "the other, which was deleted with it")
        self.assertIn("n1", self.holders(again))
        self.first.call("PUT", "/v1/images/again", {"disk": again})
        self.await_(lambda: self.image("again")["nodes"] == ["n1", "n2"], "a copy of it")
        self.first.cli("image", "delete", "again")
        self.await_(lambda: not self.holders(again), "once it had been named")

    def test_a_copy_that_was_lost_is_made_again(self):
        blob = self.add(b"lost", "lost")
        os.remove(f"{self.second.folder}/images/{blob[:2]}/{blob}")
        self.first.cli("image", "import", "news", "--disk", self.disk(b"news"), "--no-agent")  # it looks around
        self.await_(lambda: self.holders(blob) == {"n1", "n2"}, "fetched again")
        for name in ("lost", "news"):
            self.first.cli("image", "delete", name)


if __name__ == "__main__":
    unittest.main()
