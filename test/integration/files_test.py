"""Files of a function: assets that its project carries, and /tmp."""
import concurrent.futures
import contextlib
import json
import os
import pathlib
import subprocess
import tempfile
import unittest

from node import BUILD, Node

READER = r"""
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wasi/api.h>

static char before_the_snapshot[64];

__attribute__((export_name("wizer.initialize"))) void initialize(void)
{
    /* No constructor of the libc has run: WASI itself. */
    __wasi_fd_t fd;
    __wasi_size_t length;
    __wasi_iovec_t part = {(uint8_t *)before_the_snapshot, sizeof(before_the_snapshot) - 1};
    if (__wasi_path_open(3, 0, "greeting", 0, __WASI_RIGHTS_FD_READ, 0, 0, &fd) != 0 ||
        __wasi_fd_read(fd, &part, 1, &length) != 0 || __wasi_fd_close(fd) != 0) {
        before_the_snapshot[0] = '?';
    }
}

static void list(const char *path)
{
    DIR *folder = opendir(path);
    for (struct dirent *entry = readdir(folder); entry != NULL; entry = readdir(folder)) {
        char below[512];
        if (entry->d_name[0] == '.') {
            continue;
        }
        snprintf(below, sizeof(below), "%s%s%s", path, strcmp(path, "/") ? "/" : "", entry->d_name);
        printf("%s\n", below);
        if (entry->d_type == DT_DIR) {
            list(below);
        }
    }
    closedir(folder);
}

int main(void)
{
    char line[256] = "";
    printf("Content-Type: text/plain\n\n");
    fgets(line, sizeof(line), stdin);
    if (line[0] == '\0') {
        printf("%s", before_the_snapshot);
        return 0;
    }
    if (strcmp(line, "list") == 0) {
        list("/");
        return 0;
    }
    int is_tmp = strncmp(line, "/tmp/", 5) == 0;
    FILE *file = fopen(line, is_tmp ? "a+" : "r");
    if (file == NULL) {
        printf("%s\n", strerror(errno));
        return 0;
    }
    if (is_tmp) {
        fputs("once", file);
        rewind(file);
    }
    while (fgets(line, sizeof(line), file) != NULL) {
        fputs(line, stdout);
    }
    return 0;
}
"""


class Files(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory(prefix="blixard-files-")
        cls.project = pathlib.Path(cls.temporary.name) / "reader"
        cls.write("main.c", READER)
        cls.node = Node()

    @classmethod
    def tearDownClass(cls):
        cls.node.stop()
        cls.temporary.cleanup()

    @classmethod
    def write(cls, name, text):
        path = cls.project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def deploy(self, assets, more=""):
        self.write("blixard.yaml", f"name: reader\nlanguage: c\nsource: main.c\n{more}assets:\n{assets}")
        return self.node.cli("fn", "deploy", "reader", str(self.project))

    def read(self, path):
        return self.node.cli("fn", "invoke", "reader", "--data", path)

    def test_assets_are_at_their_places(self):
        self.write("greeting", "hello\n")
        self.write("public/index.html", "<p>index\n")
        self.write("public/deep/empty", "")
        self.write("templates/a.txt", "a\n")
        self.write("templates/b.md", "b\n")
        self.deploy("  - greeting\n  - public\n  - templates/*.txt\n")
        self.assertEqual(self.read("list").split(), [
            "/greeting", "/public", "/public/deep", "/public/deep/empty", "/public/index.html", "/templates",
            "/templates/a.txt", "/tmp"])
        self.assertEqual(self.read("/public/index.html"), "<p>index\n")
        self.assertEqual(self.read("/public/../greeting"), "hello\n")
        self.assertEqual(self.read("/templates/b.md"), "No such file or directory\n")
        self.assertEqual(self.read(""), "hello\n", "read during initialisation")

    def test_another_script_is_not_another_compilation(self):
        self.write("greeting", "first\n")
        self.write("templates/a.txt", "a\n")
        self.deploy("  /greeting: greeting\n  /www: templates\n")
        self.assertEqual(self.read("/greeting"), "first\n")
        self.write("greeting", "second\n")
        self.deploy("  /greeting: greeting\n")
        self.assertEqual(self.read("/greeting"), "second\n")
        entries = [json.loads(path.read_text()) for path in self.node.folder.glob("**/cache/*.json")]
        self.assertEqual(len({entry["code"] for entry in entries if entry["code"]}), 1)
    def test_tmp_is_new_for_each_request(self):
        self.write("greeting", "x")
        self.deploy("  - greeting\n", "tmp_max: 64KiB\n")
        self.assertEqual(self.read("/tmp/log"), "once")
        self.assertEqual(self.read("/tmp/log"), "once")
        self.assertEqual(self.node.json("/v1/functions/reader")["version"]["tmp_bytes_max"], 65536)

    def test_what_cannot_be_an_asset_is_refused(self):
        outside = pathlib.Path(self.temporary.name) / "outside"
        outside.write_text("secret")
        link = self.project / "link"
        if not link.is_symlink():
            os.symlink(outside, link)
        self.write("greeting", "x")
        for assets, words in (
                ("  - nothing*\n", "nothing in"),
                ("  - ../outside\n", "not inside the project"),
                ("  - link\n", "not inside the project"),
                ("  /tmp/x: greeting\n", "/tmp is the function's own"),
                ("  - greeting\n  - greeting\n", "two assets"),
                ("  - [greeting]\n", "must be a path")):
            with self.subTest(assets=assets):
                self.write("blixard.yaml", f"name: reader\nlanguage: c\nsource: main.c\nassets:\n{assets}")
                done = subprocess.run([BUILD / "blixard", "fn", "build", self.project], stdin=subprocess.DEVNULL,
                                      stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)
                self.assertNotEqual(done.returncode, 0)
                self.assertIn(words, done.stderr)


SUMS = r"""
#include <stdio.h>
int main(void)
{
    static unsigned char piece[65536];
    unsigned hash = 2166136261u;
    FILE *file = fopen("/data/large.bin", "r");
    size_t count = 0;
    while (file != NULL && (count = fread(piece, 1, sizeof(piece), file)) > 0) {
        for (size_t i = 0; i < count; i++) {
            hash = (hash ^ piece[i]) * 16777619u;
        }
    }
    printf("%u\n", hash);
}
"""


def fnv(data):
    value = 2166136261
    for byte in data:
        value = (value ^ byte) * 16777619 & 0xffffffff
    return value


class Large(unittest.TestCase):
    """Files that are in memory once, for all instances."""

    LARGE = 2 << 20
    INSTANCES = 6

    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory(prefix="blixard-files-")
        cls.addClassCleanup(cls.temporary.cleanup)
        cls.node = Node(arguments=("--slots-per-runner", str(cls.INSTANCES), "--runners-max", "1"))
        cls.addClassCleanup(cls.node.stop)

    def deploy(self, name, data, more=""):
        project = pathlib.Path(self.temporary.name) / name
        (project / "data").mkdir(parents=True)
        (project / "data/large.bin").write_bytes(data)
        (project / "main.c").write_text(SUMS)
        (project / "blixard.yaml").write_text(f"name: {name}\nlanguage: c\nsource: main.c\n{more}assets: [data]\n")
        self.node.cli("fn", "deploy", name, str(project))

    def runner(self):
        """Its own memory, in bytes."""
        for path in pathlib.Path("/proc").glob("[0-9]*/status"):
            with contextlib.suppress(OSError):
                text = path.read_text()
                if f"PPid:\t{self.node.process.pid}\n" in text and "Name:\tblixard-runner" in text:
                    return int(text.split("RssAnon:")[1].split()[0]) << 10
        return None

    @unittest.skipIf("ASAN_OPTIONS" in os.environ, "sanitizers keep memory of their own")
    def test_instances_do_not_copy_them(self):
        data = [os.urandom(self.LARGE - 5000), bytes([7]) * (self.LARGE + 4097)]
        for i, content in enumerate(data):
            self.deploy(f"large{i}", content)
        if json.loads(self.node.cli("node", "show", "-o", "json"))["isolation"] != "microvm":
            self.skipTest("the process sandbox copies them")
        sums = [f"{fnv(content)}\n" for content in data]
        for _ in range(3):  # the same shells get the one and the other
            for i in (0, 1):
                with concurrent.futures.ThreadPoolExecutor(self.INSTANCES) as several:
                    self.assertEqual(set(several.map(lambda _: self.node.invoke(f"large{i}"), range(2 * self.INSTANCES))), {sums[i]})
        self.assertLess(self.runner(), self.INSTANCES * self.LARGE // 2 + (5 << 20))


if __name__ == "__main__":
    unittest.main()
