#!/usr/bin/env python3
"""Run the integration tests: test/integration/*_test.py, or those whose file name contains an argument.

Prints a line per test (ok, not ok, skip) in the form tools/test reads.  Several files run at once, each
in a process of its own: they wait more than they compute.  BLIXARD_TEST_JOBS says how many (default:
two for each CPU and one), BLIXARD_BUILD names the build folder under test (default: build).
"""
import collections
import concurrent.futures
import ctypes
import importlib.util
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import traceback
import unittest

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent


PR_SET_CHILD_SUBREAPER = 36
LEFT_SECONDS = 20  # for what was told to end
FILE_SECONDS_MAX = 1500
JOBS = int(os.environ.get("BLIXARD_TEST_JOBS", 2 * (os.cpu_count() or 1) + 1))
# Begin with these: what takes longest from its beginning to its end must not be left alone at the end.
LONGEST = ("cluster_faults", "cluster_change", "migrate_belongings", "torture", "examples", "cli", "placement_life", "cluster", "machine_disk", "machine", "machine_ends",
           "volume", "agent_boot", "placement", "trigger_sources", "websocket", "migrate_phases", "anynode", "vmm_state", "node_loss", "sdk", "node_life",
           "machine_kept", "trigger", "migrate", "nix_machine", "network")
# A file with this line runs in the plain lane alone: PLAIN_ONLY = "the reason".  It is for what takes its time in other programs (guests
# that are emulated, compilers, servers) or in waiting, where sanitizers see nothing of ours that other files and unit tests do not show
# them.  BLIXARD_TEST_ALL=1 has them under the sanitizers, too.
PLAIN_ONLY = re.compile(r'^PLAIN_ONLY = "(.+)"$', re.MULTILINE)
COUNTS = re.compile(r"^(\d+) passed, (\d+) failed, (\d+) skipped$", re.MULTILINE)


class Lines(unittest.TestResult):
    """Reports as it goes, and counts what passed: of the rest a test may have many (its subtests), or there is no test (setUpClass)."""

    passed = 0

    def startTest(self, test):
        super().startTest(test)
        self.started = time.monotonic()

    def addSuccess(self, test):
        super().addSuccess(test)
        self.passed += 1
        print(f"ok {test.id()}: {time.monotonic() - self.started:.1f} s", flush=True)

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        print(f"skip {test.id().split(' ')[0]}: {reason}", flush=True)

    def report(self, test, err):
        traceback.print_exception(*err, file=sys.stdout)
        print(f"not ok {str(test.id()).split(' ')[0]}", flush=True)

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.report(test, err)

    def addError(self, test, err):
        super().addError(test, err)
        self.report(test, err)

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err is not None:
            self.report(subtest, err)


def run_file(path):
    """All tests of a file, in this process."""
    sys.path.insert(0, str(HERE))
    result = Lines()
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    unittest.defaultTestLoader.loadTestsFromModule(module).run(result)
    bad = len(result.failures) + len(result.errors)
    print(f"{result.passed} passed, {bad} failed, {len(result.skipped)} skipped", flush=True)
    return 1 if bad else 0


def children():
    return [int(pid) for pid in pathlib.Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def run_alone(path):
    """All tests of a file, in a child.  What outlives it (machines do, and who begun them) is adopted here, counted, and ended."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    started = time.monotonic()
    tests = os.fork()
    if tests == 0:
        sys.exit(run_file(path))
    cost = collections.Counter()
    left = {}

    def bury(pid):
        name = "tests" if pid == tests else pathlib.Path(f"/proc/{pid}/comm").read_text().strip()
        _, status, used = os.wait4(pid, 0)
        cost[name] += used.ru_utime + used.ru_stime
        return name, os.waitstatus_to_exitcode(status)

    def kill(*_):
        for pid in children():
            left[pid] = pathlib.Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
            os.kill(pid, signal.SIGKILL)
        signal.alarm(1 if left else 0)

    name = status = None
    while name != "tests":
        name, status = bury(os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT).si_pid)
    signal.signal(signal.SIGALRM, kill)
    signal.alarm(LEFT_SECONDS)
    while children():
        bury(os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT).si_pid)
    for command in left.values():
        print(f"left behind, and ended: {command[:200]}")
    print(f"{path.stem}: {time.monotonic() - started:.0f} s, {cost.total():.0f} s of a core:", *(f"{k} {v:.0f}" for k, v in cost.most_common(4)))
    return status


def run_apart(path, env=None):
    """All tests of a file, in a process of its own: its lines, and the three counts."""
    try:
        done = subprocess.run([sys.executable, __file__, str(path)], cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, errors="replace", timeout=FILE_SECONDS_MAX)
        text = done.stdout
    except subprocess.TimeoutExpired as late:
        text = (late.stdout or b"").decode(errors="replace")
    counts = COUNTS.search(text)
    if counts is None:
        return f"{text}\nnot ok {path.stem}.ended_early\n", (0, 1, 0)
    return text[:counts.start()] + text[counts.end() + 1:], tuple(int(n) for n in counts.groups())


def rank(path):
    """Where a file is in the order in which they begin."""
    name = path.stem.removesuffix("_test")
    return (LONGEST.index(name) if name in LONGEST else len(LONGEST), -path.stat().st_size)


def files(wanted=(), is_sanitized=False):
    """The files to run, in the order to begin them."""
    paths = [path for path in (ROOT / "test" / "integration").glob("*_test.py")
             if not wanted or any(word in path.name for word in wanted)]
    if not wanted and is_sanitized and not os.environ.get("BLIXARD_TEST_ALL"):
        paths = [path for path in paths if not PLAIN_ONLY.search(path.read_text())]
    return sorted(paths, key=rank)


def main(wanted):
    if len(wanted) == 1 and pathlib.Path(wanted[0]).is_file():
        return run_alone(pathlib.Path(wanted[0]))
    total = [0, 0, 0]
    with concurrent.futures.ThreadPoolExecutor(JOBS) as pool:
        jobs = [pool.submit(run_apart, path) for path in files(wanted, bool({"ASAN_OPTIONS", "TSAN_OPTIONS"} & os.environ.keys()))]
        for future in concurrent.futures.as_completed(jobs):
            text, counts = future.result()
            print(text, end="", flush=True)
            total = [a + b for a, b in zip(total, counts)]
    print("{} passed, {} failed, {} skipped".format(*total))
    return 1 if total[1] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
