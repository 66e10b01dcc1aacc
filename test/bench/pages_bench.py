"""Pages that the code of different functions has in common: what sharing equal pages between images would save.

Builds the example projects, compiles each with `fn optimize`, and compares the pages of the segments of their images, byte
for byte, wherever in an image they stand.
"""
import hashlib
import json
import os
import pathlib
import shutil
import struct
import subprocess
import tempfile

from load import BUILD, ROOT, Lacking

PAGE = 4096
LOAD = 1  # of ELF's program headers: what is in memory


def pages(image):
    """Of a 64-bit ELF's segments, those that are not all zeros."""
    start, = struct.unpack_from("<Q", image, 32)
    count, = struct.unpack_from("<H", image, 56)
    for i in range(count):
        kind, _, offset, _, _, length, _, _ = struct.unpack_from("<IIQQQQQQ", image, start + 56 * i)
        for at in range(0, length if kind == LOAD else 0, PAGE):
            page = image[offset + at:offset + min(at + PAGE, length)]
            if page.strip(b"\0"):
                yield hashlib.sha256(page.ljust(PAGE, b"\0")).digest()


def build(project, folder):
    """The module of an example; None: its compiler is not here."""
    copy = folder / project.name
    shutil.copytree(project, copy)
    done = subprocess.run([BUILD / "blixard", "fn", "build", copy], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    modules = list(copy.glob("build/*.wasm"))
    return modules[0] if done.returncode == 0 and modules else None


def compile_module(module, folder):
    """The images of both tiers."""
    done = subprocess.run([BUILD / "blixard", "fn", "optimize", module, "--calls", "1", "--output", "json"], stdout=subprocess.PIPE,
                          env={**os.environ, "XDG_CACHE_HOME": str(folder)})
    if done.returncode != 0:
        raise Lacking("the compilers of functions (blixard doctor says which)")
    for row in json.loads(done.stdout)["code"]:
        yield row["tier"], next(folder.rglob(row["image"])).read_bytes()


def measure(quick, long):
    images = {"fast": {}, "optimized": {}}
    with tempfile.TemporaryDirectory(prefix="blixard-pages-") as name:
        folder = pathlib.Path(name)
        folder.chmod(0o711)
        projects = sorted(path.parent for path in (ROOT / "examples").glob("*/blixard.yaml"))
        if quick:  # C has the least to compile; the other languages bring megabytes of their own
            projects = [project for project in projects if "language: c\n" in (project / "blixard.yaml").read_text()][:2]
        for project in projects:
            module = build(project, folder)
            for tier, image in compile_module(module, folder / "cache") if module else ():
                images[tier][project.name] = list(pages(image))
    figures = {}
    print(f"\n{'tier':12}{'functions':>10}{'pages':>8}{'distinct':>10}{'equal pages of two functions':>30}")
    for tier, found in images.items():
        count = sum(map(len, found.values()))
        distinct = {name: set(own) for name, own in found.items()}
        shared = sum(len(own) for own in distinct.values()) - len(set().union(*distinct.values()))
        figures[tier] = {"functions": len(found), "pages": count, "distinct": len(set().union(*distinct.values())), "shared": shared}
        print(f"{tier:12}{len(found):>10}{count:>8}{figures[tier]['distinct']:>10}{shared:>30}")
    return figures
