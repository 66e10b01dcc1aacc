#!/usr/bin/env python3
"""Run the integration tests: test/integration/*_test.py, or those whose file name contains an argument.

Prints a line per test (ok, not ok, skip) in the form tools/test reads.  Several files run at once, each
in a process of its own: they wait more than they compute.  BLIXARD_TEST_JOBS says how many (default:
two for each CPU), BLIXARD_BUILD names the build folder under test (default: build).
"""
import concurrent.futures
import importlib.util
import os
import pathlib
import re
import subprocess
import sys
import time
import traceback
import unittest

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent


FILE_SECONDS_MAX = 1500
LONGEST = ("cluster_change", "bench", "cluster_faults", "placement", "anynode", "sdk", "torture", "cluster", "migrate_phases", "machine_disk")  # begin with these: none is left alone at the end
# What these try is programs beside ours, compilers, documents: a sanitizer sees nothing in them that it does not see elsewhere.
WITHOUT_SANITIZERS = ("bench", "conformance", "examples", "first_cluster", "hosts", "nix", "sdk")
# What these try takes minutes each, in other programs (QEMU, compilers) or in waiting for elections; their rooms are under the sanitizers
# in unit and simulation tests, and in the files that stay.  BLIXARD_TEST_ALL=1 has them there, too.
LONG = ("agent_boot", "anynode", "cli", "cluster_change", "cluster_faults", "http2", "linux_function", "linux_stream", "machine_change", "machine_cluster",
        "machine_disk", "machine_export", "machine_full", "machine_kept", "machine_snapshot", "migrate", "migrate_belongings", "migrate_network",
        "migrate_phases", "network", "network_cluster", "nix_machine", "oci", "upgrade")
COUNTS = re.compile(r"^(\d+) passed, (\d+) failed, (\d+) skipped$", re.MULTILINE)


class Lines(unittest.TestResult):
    """Reports as it goes."""

    def startTest(self, test):
        super().startTest(test)
        self.started = time.monotonic()

    def addSuccess(self, test):
        super().addSuccess(test)
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
    print(f"{result.testsRun - bad - len(result.skipped)} passed, {bad} failed, {len(result.skipped)} skipped")
    return 1 if bad else 0


def run_apart(path):
    """All tests of a file, in a process of its own: its lines, and the three counts."""
    try:
        done = subprocess.run([sys.executable, __file__, str(path)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, errors="replace", timeout=FILE_SECONDS_MAX)
        text = done.stdout
    except subprocess.TimeoutExpired as late:
        text = (late.stdout or b"").decode(errors="replace")
    counts = COUNTS.search(text)
    if counts is None:
        return f"{text}\nnot ok {path.stem}.ended_early\n", (0, 1, 0)
    return text[:counts.start()], tuple(int(n) for n in counts.groups())


def main(wanted):
    if len(wanted) == 1 and pathlib.Path(wanted[0]).is_file():
        return run_file(pathlib.Path(wanted[0]))
    paths = [path for path in (ROOT / "test" / "integration").glob("*_test.py")
             if not wanted or any(word in path.name for word in wanted)]
    if not wanted and {"ASAN_OPTIONS", "TSAN_OPTIONS"} & os.environ.keys():
        left_out = WITHOUT_SANITIZERS if os.environ.get("BLIXARD_TEST_ALL") else WITHOUT_SANITIZERS + LONG
        paths = [path for path in paths if path.stem.removesuffix("_test") not in left_out]
    paths.sort(key=lambda path: (path.stem.removesuffix("_test") not in LONGEST, -path.stat().st_size))
    jobs = int(os.environ.get("BLIXARD_TEST_JOBS", 2 * (os.cpu_count() or 1)))
    total = [0, 0, 0]
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        for future in concurrent.futures.as_completed([pool.submit(run_apart, path) for path in paths]):
            text, counts = future.result()
            print(text, end="", flush=True)
            total = [a + b for a, b in zip(total, counts)]
    print("{} passed, {} failed, {} skipped".format(*total))
    return 1 if total[1] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
