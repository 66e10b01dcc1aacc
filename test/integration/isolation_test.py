"""Isolation from outside: what a function leaves behind, its limits, and what a node picks, on both back ends."""
import http.client
import json
import os
import pathlib
import select
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BUILD = pathlib.Path(os.environ.get("BLIXARD_BUILD", ROOT / "build"))
folder = None
module = None

SOURCE = r"""
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static unsigned char room[65536];
static volatile int never;
static int deep(int n) { return never ? n : deep(n + 1) * 3 + never; }
static void mark(unsigned char *at, size_t length, const char *name)
{
    for (size_t i = 0; i < length; i++) {
        if (at[i] != 0) { printf("found in %s\n", name); break; }
    }
    memset(at, 0xa5, length);
}
int main(void)
{
    char what[16] = "";
    volatile int zero = 0;
    if (read(0, what, sizeof(what) - 1) < 0) return 9;
    switch (what[0]) {
    case 'm': {
        size_t old = __builtin_wasm_memory_grow(0, 16);
        if (old == (size_t)-1) return 8;
        mark(room, sizeof(room), "globals");
        mark((unsigned char *)(old << 16), 16 << 16, "grown memory");
        puts("looked");
        return 0;
    }
    case 's': for (;;) __asm__ volatile("");
    case 'o': *(volatile int *)0xfffffff0u = 1; return 0;
    case 'z': return what[0] / zero;
    case 'd': return deep(0);
    case 'u': if (zero == 0) { __builtin_trap(); }
    case 'f': for (int i = 0; i < 300; i++) { memset(room, 'x', 1024); if (write(1, room, 1024) < 0) return 7; } return 0;
    case 'l': for (int i = 0; i < 300; i++) { memset(room, 'y', 1023); room[1023] = '\n'; write(2, room, 1024); } return 0;
    case 'g': return __builtin_wasm_memory_grow(0, 100000) == (size_t)-1 ? (puts("refused"), 0) : 6;
    }
    puts("fine");
    return 0;
}
"""


def setUpModule():
    global folder, module
    folder = tempfile.TemporaryDirectory(prefix="blixard-isolation-")
    source = pathlib.Path(folder.name) / "isolation.c"
    module = source.with_suffix(".wasm")
    source.write_text(SOURCE)
    subprocess.run(["clang-14", "--target=wasm32-wasi", "-O1", "-Wno-infinite-recursion", "-o", module, source],
                   check=True)


def tearDownModule():
    folder.cleanup()


def has_kvm():
    """Whether it can be used, not only whether it is there."""
    done = subprocess.run([BUILD / "blixard", "doctor", "--output", "json"], stdout=subprocess.PIPE, timeout=60)
    return json.loads(done.stdout)["isolation"] == "microvm"


class Claims:
    """The same for both back ends."""
    isolation = None

    @classmethod
    def setUpClass(cls):
        from node import Node  # test/lib/node.py

        if cls.isolation == "microvm" and not has_kvm():
            raise unittest.SkipTest("no usable /dev/kvm")
        if cls.isolation == "process" and "ASAN_OPTIONS" in os.environ:
            raise unittest.SkipTest("the sanitizer takes the addresses of the process sandbox")
        cls.node = Node(arguments=["--isolation", cls.isolation])
        cls.node.deploy("f", module, timeout_ms=400, output_bytes_max=100 * 1024, memory_bytes=16 << 20)

    @classmethod
    def tearDownClass(cls):
        cls.node.stop()

    def refusal(self, what):
        """The detail of a failed call; the next one is served."""
        from node import Refused

        with self.assertRaises(Refused, msg=what) as caught:
            self.node.invoke("f", what)
        self.assertEqual(self.node.invoke("f", b"!"), "fine\n")
        return caught.exception.status, caught.exception.problem["detail"]

    def test_node_and_function_say_how_they_are_isolated(self):
        self.assertEqual(self.node.json("/v1/node")["isolation"], self.isolation)
        self.assertIn(f'"isolation":"{self.isolation}"', self.node.get("/v1/functions/f"))

    def test_nothing_is_left_for_the_next_request(self):
        for _ in range(40):  # an instance gives its pages back now and then
            self.assertEqual(self.node.invoke("f", b"m"), "looked\n")

    def test_every_failure_has_its_name(self):
        for what, text in ((b"o", "out of bounds memory access"), (b"z", "integer divide by zero"),
                           (b"d", "stack"), (b"u", "unreachable")):
            status, detail = self.refusal(what)
            self.assertEqual((status, text in detail), (502, True), f"{what}: {detail}")

    def test_a_runaway_loop_times_out(self):
        status, detail = self.refusal(b"s")
        self.assertEqual(status, 504)
        self.assertIn("longer than its timeout of 400 ms", detail)

    def test_output_has_a_limit(self):
        with self.assertRaises(http.client.IncompleteRead):  # never delivered as if whole
            self.node.invoke("f", b"f")
        self.assertEqual(self.node.invoke("f", b"!"), "fine\n")

    def test_logs_have_a_limit_and_the_call_goes_on(self):
        self.node.invoke("f", b"l")
        self.assertEqual(self.node.invoke("f", b"!"), "fine\n")

    def test_memory_has_a_limit(self):
        self.assertEqual(self.node.invoke("f", b"g"), "refused\n")

    def test_runners_end_with_a_killed_daemon(self):
        from node import Node

        with Node(arguments=["--isolation", self.isolation]) as other:
            other.deploy("f", module)
            other.invoke("f", b"!")
            handles = [os.pidfd_open(runner["pid"]) for runner in other.json("/v1/node")["runners"]]
            self.assertTrue(handles)
            other.kill()
            for handle in handles:
                self.assertTrue(select.select([handle], [], [], 20)[0], "a runner outlived its daemon")
                os.close(handle)


class Microvm(Claims, unittest.TestCase):
    isolation = "microvm"


class Process(Claims, unittest.TestCase):
    isolation = "process"


HIDDEN = ["unshare", "--mount", "sh", "-c", 'mount --bind /dev/null /dev/kvm && exec "$@"', "hidden"]


class Hidden(unittest.TestCase):
    """A machine without /dev/kvm: /dev/null lies over it, in a mount namespace of its own."""

    def setUp(self):
        if os.geteuid() != 0 or not os.path.exists("/dev/kvm") or subprocess.run([*HIDDEN, "true"]).returncode:
            self.skipTest("cannot hide /dev/kvm here")

    def start(self, isolation, **options):
        data = tempfile.mkdtemp(dir=folder.name)
        return subprocess.Popen([*HIDDEN, BUILD / "blixard", "dev", "--data-folder", data, "--api-address",
                                 "127.0.0.1:0", "--gateway-address", "127.0.0.1:0", "--isolation", isolation],
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def test_microvm_is_refused_with_what_to_do(self):
        node = self.start("microvm")
        said, _ = node.communicate(timeout=30)
        self.assertNotEqual(node.returncode, 0)
        self.assertIn("isolation=microvm, but there is no usable KVM", said)
        self.assertIn("blixard doctor", said)

    def test_auto_picks_process(self):
        node = self.start("auto")
        try:
            said = ""
            for line in node.stdout:
                said += line
                if "isolation " in line:
                    break
            self.assertRegex(said, r"isolation\s+process")
        finally:
            node.terminate()
            node.communicate(timeout=30)
