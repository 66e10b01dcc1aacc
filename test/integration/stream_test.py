"""`blixard stream read`: all partitions, from anywhere, to the end or on and on."""
import json
import subprocess
import tempfile
import unittest

from node import BUILD, Node

SECONDS = 60
KEYS = ["b", "a", "a", "d", "b", "c"]  # of the partitions 1, 0, 0, 3, 1, 2


class Reading(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.node = Node()
        cls.addClassCleanup(cls.node.stop)
        cls.run_cli("stream", "create", "clicks")
        for number, key in enumerate(KEYS):
            cls.run_cli("stream", "append", "clicks", "--key", key, "--data", f"click {number}")

    @classmethod
    def run_cli(cls, *arguments, status=0):
        ran = subprocess.run([BUILD / "blixard", *arguments], env=cls.node.env, capture_output=True, text=True, timeout=SECONDS)
        assert ran.returncode == status, (arguments, ran)
        return ran.stdout if status == 0 else ran.stderr

    def read(self, *arguments):
        return json.loads(self.run_cli("stream", "read", "clicks", "--output", "json", *arguments))

    def bodies(self, *arguments):
        return [record["body"] for record in self.read(*arguments)["records"]]

    def test_all_partitions_are_read_the_oldest_record_first(self):
        self.assertEqual(self.bodies(), [f"click {n}" for n in range(len(KEYS))])
        self.assertEqual([record["partition"] for record in self.read()["records"]], [1, 0, 0, 3, 1, 2])
        table = self.run_cli("stream", "read", "clicks").splitlines()
        self.assertEqual(table[0].split(), ["TIME", "PARTITION", "SEQUENCE", "KEY", "BODY"])
        self.assertEqual(table[3].split()[1:], ["0", "2", "a", "click", "2"])
        self.assertEqual(self.run_cli("stream", "read", "clicks", "--raw").splitlines(), [f"click {n}" for n in range(len(KEYS))])

    def test_one_partition_alone(self):
        self.assertEqual(self.bodies("--partition", "1"), ["click 0", "click 4"])
        self.assertEqual(self.bodies("--partition", "1", "--from", "2"), ["click 4"])
        self.assertIn("there is no 4 yet", self.run_cli("stream", "read", "clicks", "--partition", "1", "--from", "4", status=64))
        self.assertIn("no 4", self.run_cli("stream", "read", "clicks", "--partition", "4", status=66))

    def test_a_read_goes_on_where_another_has_ended(self):
        first = self.read("--limit", "4")
        self.assertEqual(len(first["records"]), 4)
        self.assertEqual(self.bodies("--from", first["cursor"]), ["click 4", "click 5"])
        self.assertEqual(self.bodies("--from", "LATEST"), [])
        self.assertEqual(self.bodies("--from", first["records"][3]["time"]), ["click 3", "click 4", "click 5"])
        self.assertEqual(self.bodies("--from", "1h"), self.bodies("--from", "trim_horizon"))
        self.assertIn("say which one", self.run_cli("stream", "read", "clicks", "--from", "2", status=64))
        self.assertIn("is none of", self.run_cli("stream", "read", "clicks", "--from", "yesterday", status=64))

    def test_a_group_is_there_with_its_first_checkpoint(self):
        self.assertIn("has no group billing", self.run_cli("stream", "checkpoint", "clicks", "billing", status=66))
        self.run_cli("stream", "checkpoint", "clicks", "billing", "--sequence", "2")
        self.assertEqual(self.run_cli("stream", "checkpoint", "clicks", "billing").splitlines()[1].split(), ["0", "2", "0"])
        self.assertIn("has moved it", self.run_cli("stream", "checkpoint", "clicks", "billing", "--sequence", "1", status=75))
        self.run_cli("stream", "checkpoint", "clicks", "billing", "--forget")
        self.run_cli("stream", "checkpoint", "clicks", "billing", status=66)

    def test_more_than_a_page_is_read_to_the_end(self):
        self.run_cli("stream", "create", "long")
        lines = "".join(f"{n}\n" for n in range(2500))
        subprocess.run([BUILD / "blixard", "stream", "append", "long", "--lines", "-"], env=self.node.env, input=lines, text=True, check=True,
                       capture_output=True, timeout=SECONDS)
        read = self.run_cli("stream", "read", "long", "--raw").split()
        self.assertEqual(sorted(read, key=int), lines.split())
        self.assertEqual(self.run_cli("stream", "read", "long", "--raw", "--limit", "1200").split(), read[:1200])

    def test_what_comes_is_followed(self):
        self.run_cli("stream", "create", "live", "--partitions", "2")
        self.run_cli("stream", "append", "live", "--data", "before")
        reader = subprocess.Popen([BUILD / "blixard", "stream", "read", "live", "--follow", "--raw"], env=self.node.env, text=True,
                                  stdout=subprocess.PIPE)
        self.addCleanup(reader.wait)
        self.addCleanup(reader.kill)
        self.addCleanup(reader.stdout.close)
        self.assertEqual(reader.stdout.readline(), "before\n")
        for number in range(5):
            self.run_cli("stream", "append", "live", "--key", str(number), "--data", f"then {number}")
            self.assertEqual(reader.stdout.readline(), f"then {number}\n")

    def test_following_ends_with_the_stream(self):
        self.run_cli("stream", "create", "short")
        self.run_cli("stream", "append", "short", "--data", "only")
        reader = subprocess.Popen([BUILD / "blixard", "stream", "read", "short", "--follow", "--raw"], env=self.node.env, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.assertEqual(reader.stdout.readline(), "only\n")
        self.run_cli("stream", "delete", "short")
        self.assertIn("there is no stream short", reader.communicate(timeout=SECONDS)[1])
        self.assertEqual(reader.returncode, 66)

    def test_following_goes_on_when_the_node_is_back(self):
        with tempfile.TemporaryDirectory(prefix="blixard-stream-") as folder:
            node = Node(folder=folder)
            self.addCleanup(lambda: node.stop())
            env = {**node.env, "BLIXARD_ADDR": f"unix:{folder}/api.sock"}

            def append(text):
                subprocess.run([BUILD / "blixard", "stream", "append", "steady", "--data", text], env=env, check=True, capture_output=True, timeout=SECONDS)

            subprocess.run([BUILD / "blixard", "stream", "create", "steady"], env=env, check=True, capture_output=True, timeout=SECONDS)
            append("one")
            reader = subprocess.Popen([BUILD / "blixard", "stream", "read", "steady", "--follow", "--raw"], env=env, text=True, stdout=subprocess.PIPE,
                                      stderr=subprocess.PIPE)
            self.addCleanup(reader.communicate)
            self.addCleanup(reader.kill)
            self.assertEqual(reader.stdout.readline(), "one\n")
            node.kill()
            self.assertIn("trying again", reader.stderr.readline())
            node = Node(folder=folder)
            append("two")
            self.assertEqual(reader.stdout.readline(), "two\n")


if __name__ == "__main__":
    unittest.main()
