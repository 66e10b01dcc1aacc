"""OCI images as machines: from a layout and from a registry, by tag and by digest; and one that runs its entrypoint."""
import json
import pathlib
import shutil
import subprocess
import tempfile
import unittest

import oci
from foreign import until
from machines import BUSYBOX, kernel_flags, machines_of, why_not
from node import Node
from node_case import NodeCase
from ports import free_port

PLAIN_ONLY = "the time goes to guests that are emulated, and to QEMU"

TOOLS = "sh cat echo httpd ls true false id env stat sleep".split()
SERVE = b"""#!/bin/sh
echo "greeting is $GREETING, in $(pwd), as $(id -un), with $*"
[ "$1" = fail ] && exit 3
exec httpd -f -p 8080 -h /srv
"""


def base():
    """A small system."""
    return oci.layer(("bin/", None), ("bin/busybox", BUSYBOX.read_bytes()), *[(f"bin/{tool}", "->busybox") for tool in TOOLS],
                     ("etc/", None), ("etc/passwd", b"root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/srv:/bin/sh\n"),
                     ("etc/group", b"root:x:0:\napp:x:1000:\n"), ("etc/gone", b"1"), ("old/", None), ("old/a", b"1"),
                     ("old/b", b"2"), ("lib64", "->lib"), ("lib/", None))


def program():
    """What comes on top, with everything that a layer may do to those below it."""
    return oci.layer(("srv/", None), ("srv/serve", SERVE), ("srv/index.html", b"hello from a layer\n"),
                     ("etc/.wh.gone", b""), ("old/.wh..wh..opq", b""), ("old/c", b"3"), ("srv/again", "=srv/index.html"),
                     ("lib64/x", b"in lib"), ("srv/f\u00fcnf", b"5"))


CONFIG = {"Entrypoint": ["/srv/serve"], "Cmd": ["one", "two"], "Env": ["PATH=/bin", "GREETING=image"], "WorkingDir": "/srv",
          "User": "app:app", "ExposedPorts": {"8080/tcp": {}}, "Volumes": {"/data": {}}}


class Oci(NodeCase):
    @classmethod
    def setUpClass(cls):
        reason = why_not() or oci.why_no_registry()
        if reason:
            raise unittest.SkipTest(reason)
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="blixard-oci-")))
        (cls.folder / "shared").mkdir()
        (cls.folder / "shared/word").write_text("of the host\n")
        cls.node = Node(arguments=["--machine-share-folders", cls.folder / "shared"])
        cls.addClassCleanup(cls.node.stop)
        cls.enterClassContext(machines_of(cls.node.folder))
        cls.node.env["XDG_CACHE_HOME"] = str(cls.folder / "cache")
        cls.layout = oci.Layout(cls.folder / "layout")
        cls.layout.add("arm", [base()], {}, architecture="arm64")
        cls.digest = cls.layout.add("web", [base(), program()], CONFIG, packings=("gzip", "zstd"))
        cls.layout.add("gzip", [base(), program()], CONFIG)  # Docker's own format has no zstd
        cls.ok("image", "import", "linux", *kernel_flags())

    def show(self, noun, name):
        return json.loads(self.ok(noun, "show", name, "--output", "json"))

    def test_one_image_from_anywhere_is_the_same_root(self):
        port = free_port()
        self.ok("image", "import", "from-layout", "--oci", f"{self.layout.folder}:web")
        image = self.show("image", "from-layout")
        self.assertEqual(image["digest"], self.digest)
        self.assertEqual(image["ports"], ["8080/tcp"])
        self.assertEqual(image["volumes"], ["/data"])
        self.assertEqual(image["user"], "app:app")

        archive = self.folder / "layout.tar"
        subprocess.run(["tar", "-C", self.layout.folder, "-cf", archive, "."], check=True)
        saved = self.folder / "saved.tar"
        subprocess.run(["skopeo", "--insecure-policy", "copy", "-q", f"oci:{self.layout.folder}:gzip",
                        f"docker-archive:{saved}:web:latest"], check=True)
        self.ok("image", "import", "from-archive", "--oci", f"{archive}:web")
        self.ok("image", "import", "from-docker", "--oci", saved)
        with oci.registry(self.folder, port) as registry:
            oci.push(self.layout.folder, "web", f"{registry}/team/web:1")
            self.assertIn("--insecure", self.refused("image", "pull", "registry.example.com/web:1", "--insecure"))
            self.assertIn("has no team/web:2", self.refused("image", "pull", f"{registry}/team/web:2", "--insecure"))
            self.ok("image", "pull", f"docker://{registry}/team/web:1", "--insecure")
            self.ok("image", "pull", f"{registry}/team/web@{self.digest}", "--insecure", "--name", "by-digest")
        for name in ("from-archive", "from-docker", "web", "by-digest"):
            self.assertEqual(self.show("image", name)["root"], image["root"], name)
        self.assertEqual(self.show("image", "web")["digest"], self.digest)

        self.assertIn("linux/amd64", self.refused("image", "import", "x", "--oci", f"{self.layout.folder}:arm"))
        self.assertIn("no image of the tag", self.refused("image", "import", "x", "--oci", f"{self.layout.folder}:nope"))
        broken = self.folder / "broken"
        shutil.copytree(self.layout.folder, broken)
        largest = max((broken / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
        largest.write_bytes(largest.read_bytes()[:-1] + b"x")
        linux = self.show("image", "linux")
        guest = {key: linux[key] for key in ("kernel", "kernel_version", "initrd") if linux.get(key)}
        self.node.call("PUT", "/v1/images/guest", {**guest, "brings_agent": True})
        self.assertIn("what a runner boots", self.refused("image", "import", "x", "--oci", f"{self.layout.folder}:web", "--kernel-image", "guest"))
        self.assertIn("not what its digest says", self.refused("image", "import", "x", "--oci", f"{broken}:web"))
        self.runs_its_entrypoint()

    def runs_its_entrypoint(self):
        port = free_port()
        limited = self.ok("vm", "drivers", "--output", "json").count("cgroup v")
        limit = ["--cpu-limit", "400"] if limited else []
        shares = '"shares":true' in self.ok("vm", "drivers", "--output", "json").replace(" ", "")
        limit += ["--share", f"{self.folder}/shared:/shared:ro"] if shares else []
        self.assertIn("machine_share_folders",
                      self.refused("vm", "create", "x", "--image", "from-layout", "--share", "/etc:/x"))
        self.ok("vm", "create", "web", "--image", "from-layout", "--memory", "128MiB", "--disk", "64MiB", "--env",
                "GREETING=hello", "--publish", f"127.0.0.1:{port}:8080", "--health", "http://:8080/index.html",
                "--health-interval", "500ms", "--health-retries", "2", *limit)
        self.addCleanup(self.run_cli, "vm", "delete", "web")
        self.assertIn("no machine nobody", self.refused("vm", "create", "x", "--image", "from-layout", "--after", "nobody"))
        self.assertEqual(self.show("vm", "web")["arguments"], ["/srv/serve", "one", "two"])
        until(lambda: "greeting is hello, in /srv, as app, with one two" in self.ok("vm", "logs", "web"))
        seen = self.ok("vm", "exec", "web", "--", "sh", "-c",
                       "cat /srv/again; ls /old; echo; ls /etc /lib; ls -d /data; cat /lib64/x; stat -c %h /srv/index.html")
        self.assertIn("hello from a layer", seen)
        self.assertNotIn("gone", seen)
        self.assertIn("layer\nc\n\n", seen)
        self.assertIn("in lib", seen)
        self.assertIn("/data\n", seen)
        self.assertTrue(seen.endswith("2\n"), seen)
        if shares:
            self.assertEqual(self.ok("vm", "exec", "web", "--", "cat", "/shared/word"), "of the host\n")
            self.refused("vm", "exec", "web", "--", "sh", "-c", "echo >/shared/word")
            self.assertIn("shares", self.refused("vm", "snapshot", "create", "web", "--memory"))
        if limited:
            group = self.show("vm", "web")["id"]
            self.assertIn("blixard_machine_group_memory_max_bytes{", self.node.get("/metrics"))
            self.assertTrue(list(pathlib.Path("/sys/fs/cgroup").glob(f"**/blixard/{group}/cgroup.procs")))
        # It is healthy until its page is gone; then it is started again, and another one waits for it.
        self.ok("vm", "wait", "web", "--for", "healthy")
        self.ok("vm", "exec", "web", "--", "sh", "-c", "busybox mv /srv/index.html /srv/away")
        self.ok("vm", "wait", "web", "--for", "backoff")
        self.assertIn("unhealthy", self.show("vm", "web")["reason"])
        self.ok("vm", "create", "next", "--image", "from-layout", "--memory", "128MiB", "--disk", "64MiB", "--strategy", "Once",
                "--after", "web", "--no-wait", "--", "fail")
        self.addCleanup(self.run_cli, "vm", "delete", "next")
        until(lambda: "it starts after web" in (self.show("vm", "next").get("reason") or ""))
        self.ok("vm", "wait", "web")
        self.ok("vm", "exec", "web", "--", "sh", "-c", "busybox mv /srv/away /srv/index.html")
        self.ok("vm", "wait", "web", "--for", "healthy")
        self.ok("vm", "delete", "web")
        if limited:
            self.assertFalse(list(pathlib.Path("/sys/fs/cgroup").glob(f"**/blixard/{group}")))
        # Its program says how it has ended.
        self.ok("vm", "wait", "next", "--for", "failed")
        self.assertIn("exit code 3", self.show("vm", "next")["reason"])


if __name__ == "__main__":
    unittest.main()
