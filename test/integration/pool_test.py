"""Pools: instances that keep their memory, that are there before a call, that begin anew."""
import http.client
import pathlib
import subprocess
import tempfile
import unittest

from node import Node, Refused

SOURCE = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wasi/libc-environ.h>
static int calls;
__attribute__((export_name("handle"))) void handle(void)
{
    __wasilibc_deinitialize_environ(); /* libc keeps what it saw first */
    const char *query = getenv("QUERY_STRING");
    calls++;
    if (query != NULL && strcmp(query, "trap") == 0) {
        __builtin_trap();
    }
    printf("%d", calls);
    fflush(stdout);
}
"""
node = None
modules = {}
folder = None


def setUpModule():
    global node, folder
    folder = tempfile.TemporaryDirectory(prefix="blixard-pool-")
    source = pathlib.Path(folder.name) / "main.c"
    source.write_text(SOURCE)
    for name, text, flags in (("handler", SOURCE, ["-mexec-model=reactor"]), ("program", "int main(void) { return 0; }\n", [])):
        source = pathlib.Path(folder.name) / f"{name}.c"
        source.write_text(text)
        subprocess.run(["clang-14", "--target=wasm32-wasi", "-O1", *flags, "-o", source.with_suffix(".wasm"), source], check=True)
        modules[name] = source.with_suffix(".wasm").read_bytes()
    node = Node()


def tearDownModule():
    node.stop()
    folder.cleanup()


def call(name, query=""):
    host, port = node.gateway.rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    try:
        connection.request("GET", f"/fn/{name}?{query}")
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), "cold;" in (answer.getheader("Server-Timing") or "")
    finally:
        connection.close()


def keeps_memory():
    """What the isolation of this machine can: in the process sandbox each call has a process of its own."""
    return node.json("/v1/node")["isolation"] == "microvm"


class Reuse(unittest.TestCase):
    def test_each_request_finds_the_snapshot_unless_asked_otherwise(self):
        node.deploy("fresh", modules["handler"])
        self.assertEqual([call("fresh")[:2] for _ in range(3)], [(200, "1")] * 3)

    def test_an_instance_keeps_its_memory_until_a_call_fails(self):
        node.deploy("sticky", modules["handler"], reuse="instance", concurrency_max=1)
        said = [call("sticky")[1] for _ in range(3)]
        self.assertEqual(said, ["1", "2", "3"] if keeps_memory() else ["1"] * 3)
        self.assertEqual(call("sticky", "trap")[0], 502)
        self.assertEqual(call("sticky")[1], "1")

    def test_functions_share_no_memory(self):
        for name in ("one", "two"):
            node.deploy(name, modules["handler"], reuse="instance", concurrency_max=1)
        call("one")
        self.assertEqual(call("two")[1], "1")

    def test_a_program_cannot_be_reused_and_it_is_said_why(self):
        with self.assertRaisesRegex(RuntimeError, "needs a handler"):
            node.deploy("program", modules["program"], reuse="instance")
        with self.assertRaises(Refused) as refused:
            node.deploy("program", modules["program"], reuse="sometimes")
        self.assertEqual(refused.exception.status, 400)
        with self.assertRaises(Refused) as refused:
            node.deploy("program", modules["program"], instances_min=3, instances_max=2)
        self.assertIn("more than instances_max", refused.exception.problem["detail"])

    def test_an_instance_begins_anew_after_so_many_calls(self):
        node.deploy("recycled", modules["handler"], reuse="instance", recycle_requests=2, concurrency_max=1)
        said = [call("recycled")[1] for _ in range(4)]
        self.assertEqual(said, ["1", "2", "1", "2"] if keeps_memory() else ["1"] * 4)


class Warm(unittest.TestCase):
    def test_instances_min_are_warm_before_the_first_call(self):
        node.deploy("warm", modules["handler"], instances_min=2)
        self.assertEqual(call("warm"), (200, "1", False))


if __name__ == "__main__":
    unittest.main()
