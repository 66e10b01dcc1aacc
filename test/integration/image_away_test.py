"""What placement says of a machine whose image is on no node that answers."""
import json
import pathlib
import tempfile
import unittest

from cluster import Cluster
from machines import BLANK, kernel_flags, machines_of, root_archive, why_not


class ImageAway(unittest.TestCase):
    def test_each_node_says_that_the_image_is_away(self):
        if why_not():
            self.skipTest(why_not())
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="blixard-away-")))
        cluster = Cluster(2, here=True, arguments=("--image-copies", "1"))
        self.addCleanup(cluster.close)
        cluster.form(servers=1)
        self.enterContext(machines_of(*(server.folder for server in cluster.servers)))
        near, far = cluster[0], cluster[1]
        root = folder / "root.tar.gz"
        root.write_bytes(root_archive())
        far.cli("image", "import", "small", "--root", root, *kernel_flags())
        near.cli("vm", "create", "m", "--image", "small", "--disk", "16MiB", "--strategy", "Halted", "--affinity", f"100 node={far.name}")
        disk = folder / "disk.raw"
        disk.write_bytes(BLANK)
        far.cli("image", "import", "fresh", "--disk", disk, "--no-agent")
        far.kill()  # before it has said that it has that

        def explained(_):
            explanation = json.loads(near.cli("placement", "explain", "m", "--output", "json"))
            self.nodes = {node["name"]: node for node in explanation["nodes"]}
            self.choice = explanation.get("choice")
            return self.nodes[far.name].get("filter") == "not-ready"
        near.until(explained, "the loss of the other node")
        self.assertEqual(self.nodes[near.name]["filter"], "image")
        self.assertIn(f"its image small is on no node that answers: node {far.name} has it", self.nodes[near.name]["reason"])
        self.assertIsNone(self.choice)
        refused = near.cli("vm", "create", "n", "--image", "fresh", "--memory", "64MiB", check=False)
        self.assertEqual(refused.returncode, 69, refused.stderr)
        self.assertIn(f"its image fresh is on no node that answers: node {far.name} has it", refused.stderr)


if __name__ == "__main__":
    unittest.main()
