#!/usr/bin/env python3
"""Run the integration tests: test/integration/*_test.py, or those whose file name contains an argument.

Prints a line per test (ok, not ok, skip) in the form tools/test reads.  BLIXARD_BUILD names the
build folder under test (default: build).
"""
import importlib.util
import pathlib
import sys
import traceback
import unittest

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent


class Lines(unittest.TestResult):
    """Reports as it goes."""

    def addSuccess(self, test):
        super().addSuccess(test)
        print(f"ok {test.id()}", flush=True)

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


def main(wanted):
    sys.path.insert(0, str(HERE))
    result = Lines()
    for path in sorted((ROOT / "test" / "integration").glob("*_test.py")):
        if wanted and not any(word in path.name for word in wanted):
            continue
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
        unittest.defaultTestLoader.loadTestsFromModule(module).run(result)
    bad = len(result.failures) + len(result.errors)
    print(f"{result.testsRun - bad - len(result.skipped)} passed, {bad} failed, {len(result.skipped)} skipped")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
