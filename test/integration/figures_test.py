"""What functions do, as the command line shows it: figures of the recent time, by version, by node."""
import json
import pathlib
import subprocess
import tempfile
import unittest

SOURCE = r"""
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int main(void)
{
    char line[16] = "";
    fgets(line, sizeof(line), stdin);
    if (line[0] == 'x') {
        __builtin_trap();
    }
    if (line[0] == 'e') {
        return 3;
    }
    while (line[0] == 'l') {
    }
    printf("%s", getenv("WHICH") != NULL ? getenv("WHICH") : "ok");
}
"""
node = None
folder = None
module = None


def setUpModule():
    global node, folder, module
    from node import QUICK, Node  # test/lib/node.py

    folder = tempfile.TemporaryDirectory(prefix="blixard-figures-")
    source = pathlib.Path(folder.name) / "work.c"
    module = pathlib.Path(folder.name) / "work.wasm"
    source.write_text(SOURCE)
    subprocess.run(["clang-14", "--target=wasm32-wasi", "-O2", "-o", module, source], check=True)
    node = Node(arguments=QUICK)


def tearDownModule():
    node.stop()
    folder.cleanup()


def facts(text):
    """Lines "name: value" of a verb that shows one thing, two blanks or more between them."""
    return {line[:15].strip(): line[16:].strip() for line in text.splitlines()}


class Limits(unittest.TestCase):
    def test_no_limit_is_said_to_be_none(self):
        node.deploy("free", module, idle_ms=0)
        node.deploy("bound", module, concurrency_max=3, instances_max=2, recycle_requests=9, recycle_ms=60000)
        free, bound = facts(node.cli("fn", "get", "free")), facts(node.cli("fn", "get", "bound"))
        names = ("concurrency", "instances max", "idle", "recycle calls", "recycle after", "async timeout")
        self.assertEqual([free[name] for name in names], ["none"] * 6)
        self.assertEqual([bound[name] for name in names], ["3", "2", "10 min", "9", "1 min", "none"])
        self.assertEqual(free["instances min"], "0")  # a number, and no bound
