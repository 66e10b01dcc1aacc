"""Servers of others, which tests begin on loopback."""
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import unittest

WAIT_SECONDS = 60


def find(program):
    path = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/lib/rabbitmq/bin")
    if path is None:
        raise unittest.SkipTest(f"needs {program}: tools/bootstrap test")
    return path


def until(holds):
    """Nothing tells what a foreign server has seen: it is asked again and again."""
    end = time.monotonic() + WAIT_SECONDS
    while not holds():
        if time.monotonic() > end:
            raise AssertionError("never")
        threading.Event().wait(0.02)


class Server:
    """A server on loopback that can be killed and begun again with what it had."""

    def __init__(self, *command, port, env=None):
        self.command, self.port, self.env = command, port, {**os.environ, **(env or {})}
        self.process = None

    def begin(self):
        self.process = subprocess.Popen(self.command, env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL, start_new_session=True)
        end = time.monotonic() + WAIT_SECONDS
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return self
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{self.command[0]} did not begin")
            threading.Event().wait(0.02)  # nothing tells that a foreign server listens

    def kill(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def kill_group(self):
        """Of a server that is a script and what that begins."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None
