"""Every call of WASI with what does not belong there: addresses, lengths, counts, descriptors, flags, numbers.

Each argument of a good call in turn is a bad one.  What is wrong with the shape of arguments is told first (EINVAL), then the
descriptor (EBADF); an address outside the memory is a trap, as witx has it.  The instance answers rightly afterwards, and the folder
that it was given has nothing in it that the calls could not have made.
"""
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

from node import BUILD, ROOT

OK, BADF, EXIST, ILSEQ, INVAL, ISDIR, NOENT, NOTDIR, NOTSOCK, PERM, NOTCAPABLE = 0, 8, 20, 25, 28, 31, 44, 54, 57, 63, 76
TRAP = "trap out of bounds memory access"
PAGE = 65536
# What is in memory: paths, a list of one vector, one subscription (a clock, now), room.
PATH, OTHER, LINK, VECTORS, SUBSCRIPTION, ROOM = 1024, 1040, 1048, 1056, 1088, 4096
DATA = {PATH: b"file", OTHER: b"other", LINK: b"link", VECTORS: (ROOM.to_bytes(4, "little") + (16).to_bytes(4, "little")), SUBSCRIPTION: bytes(48)}
FOLDER, FILE = 3, "FILE"  # a descriptor that is opened first
STANDARD = range(4)
# What others need afterwards is left alone; and what is written to standard output would stand between answers.
NOT_OF_STANDARD = {"fd_renumber", "fd_fdstat_set_rights", "fd_write"}

# Kinds of arguments.  "out N": where N bytes go; "in": where bytes are, their count follows as "length"; "vectors", their count follows.
CALLS = {
    "args_get": [("out", 4), ("room", ROOM)],
    "args_sizes_get": [("out", 4), ("out", 4)],
    "environ_get": [("out", 0), ("out", 0)],
    "environ_sizes_get": [("out", 4), ("out", 4)],
    "clock_res_get": [("most", 3, 0), ("out", 8)],
    "clock_time_get": [("most", 3, 0), ("number", 0), ("out", 8)],
    "fd_advise": [("fd", FILE), ("number", 0), ("number", 0), ("most", 5, 0)],
    "fd_allocate": [("fd", FILE), ("number", 0), ("number", 1)],
    "fd_datasync": [("fd", FILE)],
    "fd_fdstat_get": [("fd", FILE), ("out", 24)],
    "fd_fdstat_set_flags": [("fd", FILE), ("most", 31, 0)],
    "fd_fdstat_set_rights": [("fd", FILE), ("number", 0x1fffffff), ("number", 0)],
    "fd_filestat_get": [("fd", FILE), ("out", 64)],
    "fd_filestat_set_size": [("fd", FILE), ("number", 3)],
    "fd_filestat_set_times": [("fd", FILE), ("number", 0), ("number", 0), ("most", 15, 0)],
    "fd_pread": [("fd", FILE), ("vectors", VECTORS), ("count", 1), ("offset", 0), ("out", 4)],
    "fd_prestat_get": [("fd", FOLDER), ("out", 8)],
    "fd_prestat_dir_name": [("fd", FOLDER), ("out", 4), ("length", 5)],
    "fd_pwrite": [("fd", FILE), ("vectors", VECTORS), ("count", 1), ("offset", 0), ("out", 4)],
    "fd_read": [("fd", FILE), ("vectors", VECTORS), ("count", 1), ("out", 4)],
    "fd_readdir": [("fd", FOLDER), ("room", ROOM), ("length", 100), ("number", 0), ("out", 4)],
    "fd_renumber": [("fd", FILE), ("fd", FILE)],
    "fd_seek": [("fd", FILE), ("number", 0), ("most", 2, 0), ("out", 8)],
    "fd_sync": [("fd", FILE)],
    "fd_tell": [("fd", FILE), ("out", 8)],
    "fd_write": [("fd", FILE), ("vectors", VECTORS), ("count", 1), ("out", 4)],
    "path_create_directory": [("fd", FOLDER), ("in", OTHER), ("length", 5)],
    "path_filestat_get": [("fd", FOLDER), ("most", 1, 1), ("in", PATH), ("length", 4), ("out", 64)],
    "path_filestat_set_times": [("fd", FOLDER), ("most", 1, 1), ("in", PATH), ("length", 4), ("number", 0), ("number", 0), ("most", 15, 0)],
    "path_link": [("fd", FOLDER), ("most", 1, 0), ("in", PATH), ("length", 4), ("fd", FOLDER), ("in", OTHER), ("length", 5)],
    "path_open": [("fd", FOLDER), ("most", 1, 1), ("in", PATH), ("length", 4), ("most", 15, 0), ("number", 2), ("number", 0), ("most", 31, 0), ("out", 4)],
    "path_readlink": [("fd", FOLDER), ("in", LINK), ("length", 4), ("room", ROOM), ("length", 100), ("out", 4)],
    "path_remove_directory": [("fd", FOLDER), ("in", OTHER), ("length", 5)],
    "path_rename": [("fd", FOLDER), ("in", PATH), ("length", 4), ("fd", FOLDER), ("in", PATH), ("length", 4)],
    "path_symlink": [("in", PATH), ("length", 4), ("fd", FOLDER), ("in", OTHER), ("length", 5)],
    "path_unlink_file": [("fd", FOLDER), ("in", OTHER), ("length", 5)],
    "poll_oneoff": [("vectors", SUBSCRIPTION), ("out", 32), ("count", 1), ("out", 4)],
    "random_get": [("room", ROOM), ("length", 8)],
    "sock_accept": [("fd", FILE), ("most", 31, 0), ("out", 4)],
    "sock_recv": [("fd", FILE), ("vectors", VECTORS), ("count", 1), ("most", 3, 0), ("out", 4), ("out", 2)],
    "sock_send": [("fd", FILE), ("vectors", VECTORS), ("count", 1), ("most", 0, 0), ("out", 4)],
    "sock_shutdown": [("fd", FILE), ("most", 3, 1)],
    "fd_close": [("fd", 99)],
}
# What a good call may end with, beside success: some are done again and again.
GOOD = {"path_create_directory": {EXIST}, "path_remove_directory": {NOENT, NOTDIR}, "path_link": {EXIST}, "path_symlink": {EXIST},
        "path_unlink_file": {NOENT, ISDIR, PERM}, "fd_close": {BADF},
        "fd_fdstat_set_rights": {NOTCAPABLE}}
SOCKETS = {name for name in CALLS if name.startswith("sock_")}


def outside(size):
    return [PAGE - size + 1, PAGE - 1, PAGE, PAGE + 1, 0x7fffffff, 0x80000000, 0xfffffff0, 0xffffffff] if size > 1 else [PAGE, 0x80000000, 0xffffffff]


def bad(kind, good):
    """Bad values of an argument, each with what the call may end with; None: anything but a good end is fine."""
    if kind == "out":
        return [(address, {TRAP}) for address in (outside(good) if good else [])] + [(PAGE - good, "good"), (0, "good"), (2049, "good")]
    if kind == "room":
        return [(PAGE, {TRAP}), (PAGE - 1, {TRAP}), (0xffffffff, {TRAP})]
    if kind == "in":
        return [(PAGE, {TRAP}), (PAGE - 2, {TRAP, INVAL}), (0xffffffff, {TRAP}), (0xfffffffe, {TRAP}), (0, {INVAL, ILSEQ, NOENT})]
    if kind == "length":
        return [(0, None), (PAGE, None), (PAGE - 1, None), (0x80000000, None), (0xffffffff, None)]
    if kind == "vectors":
        return [(PAGE, {TRAP}), (PAGE - 4, {TRAP}), (PAGE - 7, {TRAP}), (0xffffffff, {TRAP}), (0xfffffffc, {TRAP})]
    if kind == "count":
        return [(0, {OK, INVAL}), (1025, {INVAL}), (0x20000000, {INVAL}), (0x80000001, {INVAL}), (0xffffffff, {INVAL}), (1024, None)]
    if kind == "fd":
        return [(number, {BADF}) for number in (99, 0x7fffffff, 0x80000000, 0xffffffff, 1024, 65536)] + [(number, None) for number in STANDARD]
    if kind == "most":
        return [(good + 1, {INVAL}), (0x80000000, {INVAL}), (0xffffffff, {INVAL})]
    if kind == "offset":  # what is read or written ends below 2^63
        return [(number, {INVAL}) for number in (1 << 63, (1 << 64) - 1, (1 << 63) - 1, (1 << 63) - 16)] + [((1 << 63) - 17, None), (1 << 32, None)]
    return [(number, None) for number in (1 << 63, (1 << 64) - 1, (1 << 63) - 1, 1 << 62, 1 << 32)]


def signatures():
    """Of engine/wasm/imports.def."""
    found = {}
    for line in (ROOT / "src/engine/wasm/imports.def").read_text().splitlines():
        if line.startswith("WASI("):
            name, _, kinds = line[5:].partition(", ")
            found[name] = kinds.split('"')[1]
    return found


def escaped(data):
    return "".join(f"\\{byte:02x}" for byte in data)


def module():
    """Exports every call as it is, and reads its memory."""
    names = {"i": "i32", "I": "i64"}
    lines = ["(module"]
    for name, kinds in signatures().items():
        parameters, _, results = kinds.partition(">")
        declared = " ".join(["(param", *(names[kind] for kind in parameters), ")"]) if parameters else ""
        result = "(result i32)" if results else ""
        lines.append(f'(import "wasi_snapshot_preview1" "{name}" (func $i_{name} {declared} {result}))')
    for name, kinds in signatures().items():
        parameters, _, results = kinds.partition(">")
        declared = " ".join(["(param", *(names[kind] for kind in parameters), ")"]) if parameters else ""
        given = " ".join(f"(local.get {i})" for i in range(len(parameters)))
        lines.append(f'(func (export "{name}") {declared} {"(result i32)" if results else ""} (call $i_{name} {given}))')
    lines.append('(memory (export "memory") 1 1) (func (export "load") (param i32) (result i32) (i32.load (local.get 0)))')
    lines += [f"(data (i32.const {at}) \"{escaped(data)}\")" for at, data in DATA.items()]
    return "\n".join([*lines, ")"])


class Sweep:
    """The lines of a script, and what each may be answered."""

    def __init__(self, file):
        self.file = file
        self.lines, self.wanted = [], []

    def add(self, name, values, wanted):
        self.lines.append(" ".join(["invoke", name, *map(str, values)]))
        self.wanted.append(wanted)

    def good_value(self, argument):
        kind, value, *rest = argument
        if kind == "out":
            return ROOM + 512
        if kind == "most":
            return rest[0]
        return self.file if value == FILE else value

    def good_ends(self, name):
        return {NOTSOCK} if name in SOCKETS else {OK} | GOOD.get(name, set())

    def call(self, name, arguments):
        good = [self.good_value(argument) for argument in arguments]
        self.add(name, good, self.good_ends(name))
        for i, argument in enumerate(arguments):
            for value, wanted in bad(argument[0], argument[1]):
                if argument[0] == "fd" and value in STANDARD and name in NOT_OF_STANDARD:
                    continue
                values = [*good[:i], value, *good[i + 1:]]
                if wanted == "good" or (name in SOCKETS and argument[0] != "fd"):
                    wanted = self.good_ends(name)  # nothing is looked at of what is no socket
                self.add(name, values, wanted)
        self.shape_first(name, arguments, good)

    def shape_first(self, name, arguments, good):
        """Flags that are none are told before a descriptor that is not open."""
        kinds = [argument[0] for argument in arguments]
        if "fd" in kinds and "most" in kinds and name not in SOCKETS:
            values = list(good)
            values[kinds.index("fd")] = 99
            values[kinds.index("most")] = 0x100
            self.add(name, values, {INVAL})


def is_wanted(answer, wanted):
    got = int(answer.partition("i32:")[2]) if answer.startswith("ok ") else answer
    return got in wanted if wanted is not None else got == TRAP or (isinstance(got, int) and 0 <= got <= 76)


@unittest.skipIf(shutil.which("wat2wasm") is None or shutil.which("wasm2c") is None, "needs wabt")
class Hostile(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory(prefix="blixard-hostile-")
        cls.folder = pathlib.Path(cls.temporary.name)
        cls.folder.chmod(0o711)
        (cls.folder / "calls.wat").write_text(module())
        subprocess.run(["wat2wasm", "-o", cls.folder / "calls.wasm", cls.folder / "calls.wat"], check=True)

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def run_script(self, lines, *flags):
        return subprocess.run([BUILD / "blixard", "fn", "run", self.folder / "calls.wasm", "--script", "-", "--timeout", "60s", *flags],
                              input="\n".join(lines) + "\n", text=True, errors="replace", capture_output=True, timeout=120,
                              env={**os.environ, "XDG_CACHE_HOME": str(self.folder / "cache")})

    def open_file(self):
        """Create it with all rights, and a link; what number it has is asked of the memory."""
        return [f"invoke path_symlink {PATH} 4 {FOLDER} {LINK} 4", f"invoke path_open {FOLDER} 0 {PATH} 4 1 0x1fffffff 0 0 2048", "invoke load 2048"]

    def sweep(self, *flags):
        done = self.run_script(self.open_file(), *flags)
        self.assertEqual(done.stdout.splitlines()[:2], ["ok i32:0"] * 2, done.stderr)
        sweep = Sweep(int(done.stdout.splitlines()[2].partition("i32:")[2]))
        for name, arguments in CALLS.items():
            sweep.call(name, arguments)
        sweep.add("fd_tell", [sweep.file, 2048], {OK})
        sweep.add("args_sizes_get", [2048, 2052], {OK})
        done = self.run_script([*self.open_file(), *sweep.lines], *flags)
        self.assertEqual(done.returncode, 0, done.stderr)
        said = done.stdout.splitlines()[3:]
        self.assertEqual(len(said), len(sweep.lines))
        wrong = [(line, answer, wanted) for line, answer, wanted in zip(sweep.lines, said, sweep.wanted) if not is_wanted(answer, wanted)]
        self.assertEqual(wrong, [], "\n".join(map(str, wrong)))

    def isolations(self):
        yield from ["microvm"] if os.access("/dev/kvm", os.W_OK) else []
        yield from [] if "ASAN_OPTIONS" in os.environ else ["process"]

    def test_of_memory(self):
        for isolation in self.isolations():
            self.sweep("--isolation", isolation)

    def test_of_a_folder_of_the_host(self):
        for isolation in self.isolations():
            given = self.folder / f"given-{isolation}"
            given.mkdir()
            (self.folder / "secret").write_text("secret\n")
            self.sweep("--isolation", isolation, "--dir", f"{given}::/work")
            self.assertLessEqual({path.name for path in given.iterdir()}, {"file", "other", "link"})
            self.assertEqual((self.folder / "secret").read_text(), "secret\n")

    def test_every_call_is_here(self):
        """But for those that end the run, or take nothing."""
        self.assertEqual(set(signatures()) - set(CALLS), {"proc_exit", "proc_raise", "sched_yield"})
        self.assertEqual([name for name, arguments in CALLS.items() if len(arguments) != len(signatures()[name].partition(">")[0])], [])
