"""Functions whose machine is the guest of a runner of microvm.nix's form, cloned from what it is when it is up."""
import json
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

import machines
import microvm
import runners
from nixstores import Stores
from node import BUILD, ROOT, Node

PLAIN_ONLY = "the time goes to guests that are emulated, and to QEMU"

FLAKE = """{
  inputs.guest = { url = "path:%s"; flake = false; };
  outputs = { self, guest }: {
    nixosConfigurations.hello.config.microvm = {
      mem = 256;
      vcpu = 1;
      interfaces = [ ];
      declaredRunner = derivation {
        name = "microvm-qemu-hello"; system = "x86_64-linux"; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
        inherit guest;
        text = builtins.readFile ./run;
        args = [ "-c" ''
          mkdir -p $out/bin $out/share/microvm
          printf '%%s' "$text" | sed "s|@guest@|$guest|g" > $out/bin/microvm-run
          chmod 555 $out/bin/*
          echo qemu > $out/share/microvm/hypervisor
        '' ];
      };
    };
  };
}
"""


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        reason = machines.why_not()
        if reason:
            raise unittest.SkipTest(reason)
        if shutil.which("mkfs.erofs") is None:
            raise unittest.SkipTest("mkfs.erofs is not installed")
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="blixard-guest-")))
        cls.store = cls.folder / "store"
        (cls.store / "tree").mkdir(parents=True)
        (cls.store / "tree/bootstrap").write_text(runners.FUNCTION_BOOTSTRAP)
        (cls.store / "tree/bootstrap").chmod(0o755)
        cls.disk = cls.store / "disk"
        subprocess.run(["mkfs.erofs", cls.disk, cls.store / "tree"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        agent = {"/bin/blixard-agent": microvm.AGENT.read_bytes()}
        cls.kernel, cls.initrd = runners.guest(cls.store / "guest", runners.FUNCTION_INIT, runners.FUNCTION_TOOLS, agent)
        data = cls.folder / "data"
        data.mkdir()
        cls.enterClassContext(machines.machines_of(data))
        cls.node = Node(folder=data, arguments=["--image-unused-ms", "0"])
        cls.addClassCleanup(cls.node.stop)
        cls.app = cls.folder / "app"
        cls.app.mkdir()

    def cli(self, *words):
        return subprocess.run([BUILD / "blixard", *map(str, words)], env=self.node.env, text=True, input="",
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=400)

    def ok(self, *words):
        done = self.cli(*words)
        self.assertEqual(done.returncode, 0, f"{words}: {done.stderr}{done.stdout}\n{self.node.log.read_text()[-2000:]}")
        return done.stdout

    def refused(self, *words):
        done = self.cli(*words)
        self.assertNotEqual(done.returncode, 0, f"{words}: {done.stdout}")
        return done.stderr

    def make(self, name, **more):
        return runners.make(self.store / name, self.kernel, self.initrd, name, **({"store": self.disk, "words": [f"colour={name}"], "memory": 256} | more))

    def project(self, *lines):
        (self.app / "blixard.yaml").write_text("\n".join(["runtime: linux", "timeout: 120s", "command: [/store/bootstrap]", *lines]) + "\n")

    def call(self, name):
        return json.loads(self.ok("fn", "invoke", name, "--data", "{}"))

    def images(self):
        return [image["name"] for image in json.loads(self.ok("image", "list", "--output", "json"))["images"]]

    def test_calls_run_in_clones_of_what_the_guest_is_when_it_is_up(self):
        blue, green = self.make("blue"), self.make("green")
        self.project(f"runner: {blue}")
        self.ok("fn", "deploy", "shell", self.app)
        first, second = self.call("shell"), self.call("shell")
        self.assertEqual((first["colour"], first["count"]), ("blue", 1), "with its own disk, and its own words for the kernel")
        self.assertEqual(first, second, "it was booted once, and each call finds what it was then")
        shown = json.loads(self.ok("fn", "get", "shell", "--output", "json"))["version"]
        self.assertEqual((shown["linux"]["runner"], shown["memory_bytes"]), (str(blue), 256 << 20), "its memory is the runner's")

        # The same again needs no other image; another runner does, which a flag says relative to here.
        images = self.images()
        self.ok("fn", "deploy", "again", self.app)
        self.assertEqual(self.images(), images)
        self.project()
        self.ok("fn", "deploy", "shell", self.app, "--runner", green)
        self.assertEqual(self.call("shell")["colour"], "green")
        self.assertEqual(len(self.images()), len(images) + 1)
        self.assertIn("in use by function", self.refused("image", "delete", shown["linux"]["image"]))

        # By hand the same is an image of its own name; machines run runners, not what they boot.
        self.ok("image", "import", "guest", "--runner", blue)
        self.project("image: guest", "memory: 256MiB")
        self.ok("fn", "deploy", "named", self.app)
        self.assertEqual(self.call("named")["colour"], "blue")
        self.assertIn("vm create --runner", self.refused("vm", "create", "m", "--image", "guest"))

        # What a deploy has made goes with the last version that has it, with its files, but not those that another image has.
        files = {name: {image[part] for part in ("kernel", "initrd", "root")} for name, image in self.described().items()}
        made = {colour: self.version(number)["image"] for colour, number in (("blue", 1), ("green", 2))}
        self.assertEqual(made["blue"], shown["linux"]["image"])
        self.ok("fn", "delete", "shell")
        self.assertEqual((made["blue"] in self.images(), made["green"] in self.images()), (True, False), "another function has the blue one")
        self.ok("fn", "delete", "again")
        self.assertNotIn(made["blue"], self.images())
        self.assertEqual(self.there(files["guest"]), files["guest"])
        self.assertEqual(self.call("named")["colour"], "blue")
        self.ok("fn", "delete", "named")
        self.assertIn("guest", self.images(), "who made it by hand deletes it")
        self.ok("image", "delete", "guest")
        runners.until("its files go", lambda: not self.there(set().union(*files.values())))

    def described(self):
        return {image["name"]: image for image in json.loads(self.ok("image", "list", "--output", "json"))["images"]}

    def version(self, number):
        return self.node.json(f"/v1/functions/shell/versions/{number}")["linux"]

    def there(self, blobs):
        return {path.name for path in (self.node.folder / "images").rglob("*")} & blobs

    def test_a_flake_is_built_where_it_is_deployed_and_its_guest_runs(self):
        stores = Stores(self.enterContext(tempfile.TemporaryDirectory(prefix="blixard-nix-")))
        desk = stores.new("desk")
        flake, guest = stores.folder / "hello", stores.folder / "guest"
        flake.mkdir()
        guest.mkdir()
        for name, path in (("vmlinux", self.kernel), ("initrd", self.initrd), ("disk", self.disk)):
            shutil.copy(path, guest / name)
        (flake / "run").write_text(runners.run_text("@guest@/vmlinux", "@guest@/initrd", "hello", store="@guest@/disk", words=["colour=yellow"],
                                                    memory=256))
        (flake / "flake.nix").write_text(FLAKE % guest)
        (flake / "blixard.yaml").write_text("runtime: linux\ntimeout: 120s\ncommand: [/store/bootstrap]\nflake: .#hello\n")
        deploy = ["env", f"BLIXARD_ADDR={self.node.env['BLIXARD_ADDR']}", f"HOME={stores.folder}", BUILD / "blixard", "fn", "deploy", "hello", flake]
        self.assertIn("nix flake lock", desk.run(*deploy, check=False).stderr, "what is not locked may be another tomorrow")
        desk.run("env", f"HOME={stores.folder}", "nix", "flake", "lock", f"path:{flake}")
        desk.run(*deploy)
        self.assertEqual(self.call("hello")["colour"], "yellow")
        shown = json.loads(self.ok("fn", "get", "hello", "--output", "json"))["version"]
        self.assertRegex(shown["linux"]["runner"], r"/nix/store/\w{32}-microvm-qemu-hello$")
        self.assertEqual((shown["flake"], shown["memory_bytes"]), (".#hello", 256 << 20))
        self.ok("fn", "delete", "hello")
        self.assertNotIn(shown["linux"]["image"], self.images())

    def test_a_document_says_it_as_well(self):
        runner = self.make("red")
        document = self.folder / "red.yaml"
        document.write_text(f"kind: Function\nname: red\nspec:\n  runtime: linux\n  runner: {runner}\n  memory: 256MiB\n"
                            "  timeout: 120s\n  command: [/store/bootstrap]\n")
        before = self.images()
        self.assertIn("red", self.cli("plan", "-f", document).stdout)
        self.assertEqual(self.images(), before, "a plan makes nothing")
        self.ok("apply", "-f", document)
        self.assertEqual(self.call("red")["colour"], "red")
        self.assertIn("No changes: 1 object is as it is to be.", self.ok("plan", "-f", document))
        self.ok("fn", "delete", "red")
        self.assertEqual(self.images(), before)

    def test_an_agent_of_another_release_is_the_error_of_the_deploy(self):
        """One that speaks another version of the protocol than the nodes: its sources, and that number."""
        source = ROOT / "src/guest/agent"
        other = self.folder / "other-release"
        (other / "engine/agent").mkdir(parents=True)
        protocol = (ROOT / "src/engine/agent/protocol.h").read_text()
        self.assertEqual(protocol.count("AGENT_VERSION = 1,"), 1)
        (other / "engine/agent/protocol.h").write_text(protocol.replace("AGENT_VERSION = 1,", "AGENT_VERSION = 2,"))
        files = [str(source / name) for name in re.findall(r"'((?:\.\./)*[\w/]+\.c)'", (source / "meson.build").read_text())]
        subprocess.run(["gcc", "-static", "-O1", "-w", "-std=gnu17", "-D_GNU_SOURCE", '-DBLIXARD_VERSION="9.9.9"', "-I", other, "-I", ROOT / "src", "-I", ROOT / "spec",
                        "-o", other / "agent", *files], check=True, timeout=300)
        kernel, initrd = runners.guest(self.store / "other-guest", runners.FUNCTION_INIT, runners.FUNCTION_TOOLS,
                                       {"/bin/blixard-agent": (other / "agent").read_bytes()})
        runner = runners.make(self.store / "other-release", kernel, initrd, "other", store=self.disk, memory=256)
        self.project(f"runner: {runner}")
        said = self.refused("fn", "deploy", "other", self.app)
        self.assertIn("agent (9.9.9) does not speak version 1 of the protocol", said)
        self.ok("fn", "delete", "other")

    def test_what_a_function_has_not_is_refused_with_what_to_do(self):
        for name, more, said in (("tap", {"taps": ["vm-a"]}, "microvm.interfaces has to be empty"),
                                 ("share", {"shares": [("data", "a.sock", self.store)]}, "microvm.storeOnDisk"),
                                 ("volume", {"volume": True}, "no microvm.volumes"),
                                 ("vsock", {"options": ["-device vhost-vsock-device,guest-cid=3"]}, "microvm.vsock.cid"),
                                 ("secret", {"options": ["-fw_cfg name=opt/a,file=/b"]}, "functions have secrets")):
            self.project(f"runner: {self.make(name, **more)}")
            self.assertIn(said, self.refused("fn", "deploy", "other", self.app))
        other = self.store / "other"
        runners.write(other / "bin/microvm-run", "#!/bin/sh\nexec cloud-hypervisor --kernel /x\n", 0o555)
        self.project(f"runner: {other}")
        self.assertIn("becomes no qemu-system-x86_64", self.refused("fn", "deploy", "other", self.app))
        self.project("runner: nowhere")
        self.assertIn("no runner of microvm.nix", self.refused("fn", "deploy", "other", self.app))
        self.project(f"runner: {other}", "image: small")
        self.assertIn("exclude each other", self.refused("fn", "deploy", "other", self.app))
        self.assertIn("no effect with a runner", self.refused("image", "import", "x", "--runner", other, "--cmdline", "a"))
        (self.app / "blixard.yaml").write_text("language: c\nflake: .#x\n")
        self.assertIn("flake is of projects with runtime: linux", self.refused("fn", "deploy", "other", self.app))
        module = self.folder / "module.wasm"
        module.write_bytes(b"")
        self.assertIn("of a folder with runtime: linux", self.refused("fn", "deploy", "other", module, "--flake", ".#x"))
        self.assertIn("of a folder with runtime: linux", self.refused("fn", "deploy", "other", module, "--runner", other))


if __name__ == "__main__":
    unittest.main()
