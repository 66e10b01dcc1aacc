"""What npm brings: AssemblyScript's compiler, JavaScript's engine."""
import functools
import shutil
import subprocess
import unittest


@functools.cache
def has_registry():
    """Whether npm can bring what is not in its cache."""
    return shutil.which("npm") is not None and subprocess.run(
        ["npm", "ping", "--silent", "--fetch-retries=0", "--fetch-timeout=10000"], stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


def need_registry(what):
    if not has_registry():
        raise unittest.SkipTest(f"the npm registry, which has {what}, cannot be reached")
