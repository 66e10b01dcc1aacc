"""`fn run`: a module here, and the folders it is given."""
import os
import pathlib
import pty
import shutil
import subprocess
import tempfile
import unittest

from node import BUILD, ROOT

READ = r"""
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int count, char **paths)
{
    for (int i = 1; i < count; i++) {
        char line[64] = "";
        FILE *file = fopen(paths[i], paths[i][0] == '+' ? "w" : "r");
        if (file == NULL) {
            printf("%s\n", strerror(errno));
            continue;
        }
        fgets(line, sizeof(line), file);
        printf("%s", line);
        fclose(file);
    }
    printf("%s", getenv("NAME") != NULL ? getenv("NAME") : "");
    return count;
}
"""

NUMBERS = r"""
#include <stdio.h>
#include <wasi/api.h>

int main(void)
{
    printf("%d %d\n", __wasi_sock_shutdown(3, 1), __wasi_sock_shutdown(4, 1));
    return 0;
}
"""
BADF, NOTSOCK = 8, 57

PREOPENS = r"""
#include <stdio.h>
#include <wasi/api.h>

int main(void)
{
    __wasi_prestat_t given;
    for (int fd = 3; __wasi_fd_prestat_get(fd, &given) == 0; fd++) {
        char name[16] = "";
        (void)!__wasi_fd_prestat_dir_name(fd, (uint8_t *)name, given.u.dir.pr_name_len);
        printf("%s ", name);
    }
    return fopen("/none", "r") != NULL;
}
"""


STREAMS = r"""
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

int main(void)
{
    int left = -1;
    FILE *file = fopen("/tmp/file", "w+");
    fputs("12345", file);
    fseek(file, 2, SEEK_SET);
    ioctl(fileno(file), FIONREAD, &left);
    printf("%d %d %d %d\n", isatty(0), isatty(1), isatty(2), left);
    return 0;
}
"""


START = """
(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $sizes (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 8) "\\10\\00\\00\\00\\06\\00\\00\\00early\\n")
  (func $start
    (drop (call $write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 0)))
    (drop (call $sizes (i32.const 32) (i32.const 36)))
    (call $exit (i32.load (i32.const 32))))
  (start $start)
  (func (export "_start") unreachable))
"""

EXIT = """
(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start") (call $exit (i32.const %d))))
"""

TYPED = """
(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (table $t 2 funcref)
  (elem declare func $a $b)
  (func $a (result i32) (i32.const 3))
  (func $b (result i32) (i32.const 4))
  (func (export "_start")
    (table.set $t (i32.const 1) (select (result funcref) (ref.func $a) (ref.func $b) (i32.load (i32.const 0))))
    (call $exit (call_indirect $t (result i32) (i32.const 1)))))
"""

COUNT = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int count, char **words)
{
    size_t bytes = 0;
    for (int i = 1; i < count; i++) {
        bytes += strlen(words[i]) + 1;
    }
    printf("%d %zu %c %zu", count - 1, bytes, words[count - 1][0], strlen(getenv("LONG")));
    return 0;
}
"""

OUTSIDE = r"""(module
  (import "wasi_snapshot_preview1" "fd_filestat_get" (func $stat (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_create_directory" (func $make (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_readdir" (func $list (param i32 i32 i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 8) "\00\00\01\00\ff\ff\00\00")
  (global $called (mut i32) (i32.const 0))
  (func $call (global.set $called (i32.add (global.get $called) (i32.const 1))))
  (func (export "stat") (param i32) (result i32) (call $call) (call $stat (local.get 0) (i32.const 65473)))
  (func (export "make") (param i32) (result i32) (call $call) (call $make (local.get 0) (i32.const 65535) (i32.const 2)))
  (func (export "list") (param i32) (result i32) (call $call)
    (call $list (local.get 0) (i32.const 65530) (i32.const 100) (i64.const 0) (i32.const 0)))
  (func (export "write") (param i32) (result i32) (call $call)
    (call $write (local.get 0) (i32.const 8) (i32.const 1) (i32.const 0)))
  (func (export "read") (param i32) (result i32) (call $call)
    (call $read (local.get 0) (i32.const 8) (i32.const 1) (i32.const 0)))
  (func (export "count") (result i32) (global.get $called)))"""


@unittest.skipIf(shutil.which("clang-14") is None or shutil.which("wasm2c") is None, "needs clang-14 and wabt")
class Run(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory(prefix="blixard-run-")
        cls.folder = pathlib.Path(cls.temporary.name)
        cls.folder.chmod(0o711)
        (cls.folder / "read.c").write_text(READ)
        for name, source in (("read", cls.folder / "read.c"), *((name, ROOT / f"test/guests/{name}.c") for name in ("files", "preview1"))):
            subprocess.run(["clang-14", "--target=wasm32-wasi", "-O1", "-o", cls.folder / f"{name}.wasm", source], check=True)
        inside = cls.folder / "inside"
        (inside / "deep").mkdir(parents=True)
        (inside / "file").write_text("inside\n")
        (cls.folder / "secret").write_text("secret\n")
        (inside / "up").symlink_to("../secret")
        (inside / "absolute").symlink_to(cls.folder / "secret")
        (inside / "deep" / "back").symlink_to("../file")
        (inside / "proc").symlink_to("/proc/self/root")
        os.mkfifo(inside / "pipe")

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def run_module(self, name, *arguments, flags=(), stdin=subprocess.DEVNULL):
        env = {**os.environ, "XDG_CACHE_HOME": str(self.folder / "cache")}
        return subprocess.run([BUILD / "blixard", "fn", "run", *flags, self.folder / f"{name}.wasm", "--", *arguments],
                              env=env, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              timeout=120)

    def isolations(self):
        if "ASAN_OPTIONS" not in os.environ:
            yield "process"
        if os.access("/dev/kvm", os.R_OK | os.W_OK):
            yield "microvm"

    def test_an_instance_lives_on_when_the_host_was_to_use_memory_that_is_not_there(self):
        """Of a folder of the host and of the streams, as of all else: the trap is one line's, not the run's."""
        (self.folder / "outside.wat").write_text(OUTSIDE)
        subprocess.run(["wat2wasm", "-o", self.folder / "outside.wasm", self.folder / "outside.wat"], check=True)
        script = self.folder / "outside.script"
        calls = ["stat 3", "make 3", "list 3", "write 1", "write 2", "read 0"]
        script.write_text("".join(f"invoke {call}\n" for call in [*calls, "count"]))
        (self.folder / "long").write_text("x" * 100000)
        for isolation in self.isolations():
            with self.subTest(isolation=isolation), open(self.folder / "long") as stdin:
                done = self.run_module("outside", stdin=stdin,
                                       flags=("--isolation", isolation, "--dir", f"{self.folder / 'inside'}::/g", "--script", script))
                self.assertEqual(done.stdout.splitlines(), ["trap out of bounds memory access"] * len(calls) + [f"ok i32:{len(calls)}"])
                self.assertEqual((done.stderr, done.returncode), ("", 0))

    def test_a_folder_of_the_host_is_as_good_as_one_in_memory(self):
        for isolation in self.isolations():
            with self.subTest(isolation=isolation):
                given = self.folder / f"given-{isolation}"
                given.mkdir()
                done = self.run_module("files", "rootless", flags=("--isolation", isolation, "--dir", f"{given}::/tmp"))
                self.assertEqual((done.stdout, done.stderr, done.returncode), ("fine\n", "", 0))
                self.assertEqual([path.name for path in given.iterdir()], ["left"])
                done = self.run_module("files", "rootless", flags=("--isolation", isolation))
                self.assertEqual((done.stdout, done.returncode), ("fine\n", 0))

    def test_calls_answer_alike_in_memory_and_in_a_folder_of_the_host(self):
        for isolation in self.isolations():
            with self.subTest(isolation=isolation), tempfile.TemporaryDirectory(dir=self.folder) as given:
                for folder, flags in (("/tmp", ()), ("/given", ("--dir", f"{given}::/given"))):
                    done = self.run_module("preview1", folder, flags=("--isolation", isolation, *flags))
                    self.assertEqual((done.stdout, done.stderr, done.returncode), ("fine\n", "", 0), folder)
                self.assertEqual(os.listdir(given), [])

    def test_status_arguments_and_environment_are_the_programs(self):
        done = self.run_module("read", "/none", flags=("--env", "NAME=value"))
        self.assertEqual((done.stdout, done.returncode), ("Capabilities insufficient\nvalue", 2))
        (self.folder / "hidden").write_text("of a file")
        done = self.run_module("read", "/none", flags=("--secret", f"NAME={self.folder / 'hidden'}"))
        self.assertEqual((done.stdout, done.returncode), ("Capabilities insufficient\nof a file", 2))

    def test_a_start_function_is_part_of_the_run(self):
        (self.folder / "start.wat").write_text(START)
        subprocess.run(["wat2wasm", self.folder / "start.wat", "-o", self.folder / "start.wasm"], check=True)
        for isolation in self.isolations():
            done = self.run_module("start", "one", "two", flags=("--isolation", isolation))
            self.assertEqual((done.stdout, done.stderr, done.returncode), ("early\n", "", 3), isolation)

    def test_no_status_but_zero_is_success(self):
        for code, status in ((0, 0), (126, 126), (256, 255), (257, 1), (0xffffffff, 255)):
            (self.folder / "exit.wat").write_text(EXIT % code)
            subprocess.run(["wat2wasm", self.folder / "exit.wat", "-o", self.folder / "exit.wasm"], check=True)
            self.assertEqual(self.run_module("exit").returncode, status, code)

    def test_what_wasm_opt_makes_that_nobody_else_knows_is_done_without_it(self):
        """It gives the select the type of its functions."""
        (self.folder / "typed.wat").write_text(TYPED)
        subprocess.run(["wat2wasm", "-o", self.folder / "typed.wasm", self.folder / "typed.wat"], check=True)
        done = self.run_module("typed", flags=("--tier", "optimized"))
        self.assertEqual(done.returncode, 4, done.stderr)

    def test_arguments_and_variables_may_be_long(self):
        (self.folder / "count.c").write_text(COUNT)
        subprocess.run(["clang-14", "--target=wasm32-wasi", "-O1", "-o", self.folder / "count.wasm", self.folder / "count.c"], check=True)
        variable = ("--env", "LONG=" + 100000 * "x")
        for isolation in self.isolations():
            for words in ([], 3000 * ["y"], [100000 * "y", 100000 * "z"]):
                done = self.run_module("count", *words, "w", flags=("--isolation", isolation, *variable))
                length = sum(len(word) + 1 for word in words) + 2
                self.assertEqual((done.stdout, done.stderr), (f"{len(words) + 1} {length} w 100000", ""))
        many = [flag for i in range(900) for flag in ("--env", f"LONG{i}=" + 1300 * "x")]
        done = self.run_module("count", flags=many)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("may have 1048576 together", done.stderr)

    def test_a_program_meets_no_folder_that_nobody_gave_it(self):
        """Where it names no path, not even /tmp; its first descriptor is then the first folder given."""
        (self.folder / "numbers.c").write_text(NUMBERS)
        subprocess.run(["clang-14", "--target=wasm32-wasi", "-O1", "-o", self.folder / "numbers.wasm", self.folder / "numbers.c"],
                       check=True)
        self.assertEqual(self.run_module("numbers").stdout, f"{BADF} {BADF}\n")
        self.assertEqual(self.run_module("numbers", flags=("--dir", f"{self.folder}::/")).stdout, f"{NOTSOCK} {BADF}\n")
        (self.folder / "preopens.c").write_text(PREOPENS)
        subprocess.run(["clang-14", "--target=wasm32-wasi", "-O1", "-o", self.folder / "preopens.wasm", self.folder / "preopens.c"],
                       check=True)
        for names, seen in (((), "/tmp "), (("/d", "/e"), "/d /e /tmp "), (("/d", "/tmp"), "/d /tmp ")):
            flags = [flag for name in names for flag in ("--dir", f"{self.folder}::{name}")]
            self.assertEqual(self.run_module("preopens", flags=flags).stdout, seen)
        self.assertEqual(self.run_module("read", "relative").stdout, "Capabilities insufficient\n")
        self.assertEqual(self.run_module("read", "/tmp/none").stdout, "No such file or directory\n")
        for mode in ("", ":rw"):
            self.assertEqual(self.run_module("read", "file", flags=("--dir", f"{self.folder / 'inside'}::/{mode}")).stdout, "inside\n")

    def test_what_is_no_terminal_does_not_pass_for_one(self):
        """A shell or an interpreter would ask line by line, of a pipe; and poll says what is left of a file."""
        (self.folder / "streams.c").write_text(STREAMS)
        subprocess.run(["clang-14", "--target=wasm32-wasi", "-O1", "-o", self.folder / "streams.wasm", self.folder / "streams.c"],
                       check=True)
        self.assertEqual(self.run_module("streams").stdout, "0 0 0 3\n")
        control, terminal = pty.openpty()
        self.addCleanup(os.close, control)
        self.addCleanup(os.close, terminal)
        self.assertEqual(self.run_module("streams", stdin=terminal).stdout, "1 0 0 3\n")

    def test_nothing_outside_is_reached(self):
        given = ("--dir", f"{self.folder / 'inside'}::/in")
        paths = ("/in/file", "/in/deep/back", "/in/deep/../file", "/in/up", "/in/absolute", "/in/../secret", "/in/proc/etc/passwd",
                 "/in/deep/../../secret", "/in/pipe")
        done = self.run_module("read", *paths, flags=given)
        lines = done.stdout.splitlines()
        self.assertEqual(lines[:3], ["inside"] * 3)
        for path, line in zip(paths[3:], lines[3:]):
            self.assertIn(line, ("Operation not permitted", "No such file or directory", "Not supported", "Capabilities insufficient"),
                          path)
        self.assertEqual(len(lines), len(paths))
        self.assertNotIn("secret", done.stdout)

    def test_read_only_is(self):
        given = self.folder / "fixed"
        given.mkdir()
        (given / "file").write_text("as it was\n")
        done = self.run_module("files", flags=("--dir", f"{given}::/tmp:ro"))
        self.assertNotEqual(done.returncode, 0)
        self.assertEqual((given / "file").read_text(), "as it was\n")
        self.assertEqual([path.name for path in given.iterdir()], ["file"])

    def test_what_cannot_be_is_told(self):
        for flags, words in ((("--dir", "/none/such"), "does not exist"), (("--dir", "::/x"), "HOST[::GUEST][:ro|:rw]"),
                             (("--env", "NAME"), "NAME=VALUE"), (("--secret", "NAME"), "NAME=FILE"),
                             (("--secret", "NAME=/none/such"), "does not exist")):
            done = self.run_module("read", flags=flags)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn(words, done.stderr)


if __name__ == "__main__":
    unittest.main()
