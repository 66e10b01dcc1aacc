"""Machines with their volumes as one file, by the command line: there and back, and archives that mean harm."""
import io
import json
import subprocess
import tarfile
import unittest

from machine_case import MachineCase

PLAIN_ONLY = "the time goes to guests that are emulated, and to QEMU"


class Export(MachineCase):
    @classmethod
    def setUpClass(cls):
        cls.begin("qemu-img", "zstd")
        cls.ok("volume", "create", "data", "--size", "64MiB", "--iops", "5000")
        cls.ok("volume", "create", "vault", "--size", "32MiB", "--format", "raw")
        cls.ok("vm", "create", "m", "--image", "small", "--memory", "128MiB", "--disk", "64MiB",
               "--volume", "data:/srv/data", "--volume", "vault:/srv/vault")
        cls.shell("m", "echo one > /srv/data/file; echo key > /srv/vault/file; sync")
        cls.ok("volume", "snapshot", "create", "data", "early")
        cls.shell("m", "echo two > /srv/data/file; head -c 20000000 /dev/urandom > /srv/data/much; busybox md5sum /srv/data/much > /srv/data/sum; "
                       "echo late > /srv/data/late")
        cls.archive = cls.folder / "m.blixard"
        cls.ok("vm", "export", "m", cls.archive, "--volumes")

    def names(self, what):
        return sorted(one["name"] for one in self.json(what, "list")["machines" if what == "vm" else "volumes"])

    def files(self):
        return sorted(path.name for path in (self.node.folder / "volumes").iterdir())

    def test_a_machine_comes_back_with_what_its_volumes_held(self):
        def kept():
            return [one["name"] for one in self.json("volume", "snapshot", "list", "data")["snapshots"]]

        self.assertTrue(any(kept() == ["early"] for _ in range(200)), "what was kept for the export goes in a moment")
        self.assertIn("there is a machine m", self.refused("vm", "import", self.archive))
        self.ok("vm", "import", self.archive, "--name", "back")
        volume = self.json("volume", "show", "data-back")
        self.assertEqual((volume["machine"], volume["size_bytes"], volume["iops"], volume["format"]), ("back", 64 << 20, 5000, "raw"))
        self.ok("vm", "start", "back")
        self.assertEqual(self.shell("back", "cat /srv/data/file /srv/data/late /srv/vault/file"), "two\nlate\nkey\n")
        self.assertEqual(self.shell("back", "busybox md5sum /srv/data/much"), self.shell("back", "cat /srv/data/sum"))
        self.shell("back", "echo mine > /srv/data/file; sync")
        self.assertEqual(self.shell("m", "cat /srv/data/file"), "two\n")
        self.ok("volume", "snapshot", "create", "data-back", "one")  # it is a volume as any
        self.ok("volume", "snapshot", "delete", "data-back", "one")
        self.ok("vm", "delete", "back")
        self.assertEqual(self.names("volume"), ["data", "data-back", "vault", "vault-back"])
        # A volume of that name is there, though the machine is not.
        before = self.files()
        self.assertIn("there is a volume data-back", self.refused("vm", "import", self.archive, "--name", "back"))
        self.assertEqual(self.names("vm"), ["m"])
        self.assertLessEqual(set(self.files()), set(before), "what goes by itself may have gone")
        self.ok("volume", "delete", "data-back")
        self.ok("volume", "delete", "vault-back")

    def test_what_is_not_asked_for_is_not_there_and_what_is_sealed_stays(self):
        alone = self.folder / "alone.blixard"
        self.ok("vm", "export", "m", alone)
        self.assertLess(alone.stat().st_size, self.archive.stat().st_size - 19000000)
        self.ok("volume", "create", "sealed", "--size", "16MiB", "--encrypt")
        self.ok("volume", "attach", "sealed", "m")
        self.assertIn("sealed is encrypted", self.refused("vm", "export", "m", self.folder / "no.blixard", "--volumes"))
        self.assertFalse((self.folder / "no.blixard").exists())
        self.ok("volume", "detach", "sealed")
        self.ok("volume", "delete", "sealed")

    def changed(self, name, change):
        """The archive with one of its files changed."""
        raw = subprocess.run(["zstd", "-dc", self.archive], stdout=subprocess.PIPE, check=True).stdout
        out = io.BytesIO()
        with tarfile.open(fileobj=io.BytesIO(raw)) as given, tarfile.open(fileobj=out, mode="w") as taken:
            for entry in given:
                content = given.extractfile(entry).read()
                if entry.name == name:
                    content = change(content)
                plain = tarfile.TarInfo(entry.name)
                plain.size = len(content)
                taken.addfile(plain, io.BytesIO(content))
        path = self.folder / "changed.blixard"
        path.write_bytes(out.getvalue())
        return path

    def with_snapshot(self, key, value):
        """The archive with a snapshot of what the machine is, with another setting."""
        def edit(content):
            return json.dumps({**json.loads(content), "snapshots": [{"name": "one"}]}).encode()

        path = self.changed("manifest.json", edit)
        with tarfile.open(path) as given:
            contents = {entry.name: given.extractfile(entry).read() for entry in given}
        about = json.loads(contents["content/manifest.json"])
        about["config"][key] = value
        contents["content/manifest.json"] = json.dumps(about).encode()
        with tarfile.open(path, "a") as archive:
            for name in [name for name in contents if name.startswith("content/")]:
                plain = tarfile.TarInfo(name.replace("content/", "snapshots/one/"))
                plain.size = len(contents[name])
                archive.addfile(plain, io.BytesIO(contents[name]))
        return path

    def test_an_archive_that_means_harm_leaves_nothing(self):
        before = self.files()

        def with_volumes(change):
            def edit(content):
                manifest = json.loads(content)
                change(manifest["volumes"])
                return json.dumps(manifest).encode()
            return self.changed("content/manifest.json", edit)

        def set_first(**fields):
            return lambda volumes: volumes[0].update(fields)

        cases = [(lambda: self.changed("content/volume-0.raw", lambda content: content[:-1] + b"x"), "damaged"),
                 (lambda: self.changed("content/volume-0.raw", lambda content: content[:-512]), "bytes"),
                 (lambda: with_volumes(set_first(slot=99)), "no place"),
                 (lambda: with_volumes(set_first(slot=1)), "no place"),
                 (lambda: with_volumes(set_first(slot="0")), "no place"),
                 (lambda: with_volumes(set_first(name="../../etc")), "no sense"),
                 (lambda: with_volumes(set_first(path="/proc")), "no sense"),
                 (lambda: with_volumes(set_first(path="/a b=c")), "no sense"),
                 (lambda: with_volumes(set_first(config={"filesystem": "vfat"})), "no sense"),
                 (lambda: with_volumes(set_first(config={"iops": 1 << 62})), "no sense"),
                 (lambda: with_volumes(lambda volumes: volumes.extend([dict(volumes[0])] * 20)), "no place")]

        def as_part(content):
            return json.dumps({**json.loads(content), "is_part": True}).encode()

        cases.append((lambda: self.changed("manifest.json", as_part), "a part of a machine"))
        for key, value in (("kernel", "../../etc/passwd"), ("cpus", 1 << 40), ("memory_bytes", -1), ("cmdline", ["x", 1])):
            cases.append((lambda key=key, value=value: self.with_snapshot(key, value), "a snapshot"))
        def no_archive():
            path = self.folder / "none"
            path.write_text("no archive at all\n" * 100)
            return path

        cases.append((no_archive, "no good archive"))
        for make, word in cases:
            with self.subTest(word):
                done = self.run_cli("vm", "import", make(), "--name", "harm")
                self.assertIn(done.returncode, (64, 65), "a fault of what was sent, not of the node")
                self.assertIn(word, done.stderr)
                self.assertEqual(self.names("vm"), ["m"])
                self.assertLessEqual(set(self.files()), set(before), "what goes by itself may have gone")
        self.assertEqual(self.names("volume"), ["data", "vault"])


if __name__ == "__main__":
    unittest.main()
