"""A node with the small image, and its command line: what tests of machines that run have in common."""
import pathlib
import shutil
import tempfile
import unittest

from machines import PATIENT, kernel_flags, machines_of, root_archive, why_not
from node import Node
from node_case import NodeCase


class MachineCase(NodeCase):
    @classmethod
    def begin(cls, *tools, data=None, arguments=()):
        """cls.node with the image `small`, beside cls.folder for files of the tests'; skipped where a tool is missing.

        `data`: name of the data folder in cls.folder; the node's own otherwise.  `arguments`: more words for the node.
        """
        missing = [tool for tool in tools if shutil.which(tool) is None]
        reason = why_not() or (f"{missing[0]} is not installed" if missing else None)
        if reason:
            raise unittest.SkipTest(reason)
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="blixard-machines-")))
        if data:
            (cls.folder / data).mkdir()
        cls.node = Node(folder=cls.folder / data if data else None, arguments=(*PATIENT, *arguments))
        cls.addClassCleanup(lambda: cls.node.stop())
        cls.enterClassContext(machines_of(cls.node.folder))
        (cls.folder / "root.tar.gz").write_bytes(root_archive())
        cls.ok("image", "import", "small", "--root", cls.folder / "root.tar.gz", *kernel_flags())

    @classmethod
    def shell(cls, name, script):
        return cls.ok("vm", "exec", name, "--", "sh", "-c", script)
