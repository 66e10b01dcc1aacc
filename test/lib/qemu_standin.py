#!/usr/bin/python3
"""A stand-in for qemu-system-x86_64 that has no machine, and obeys worse than QEMU does.

It says what QEMU says of itself, and speaks QMP at the socket that it is given.  No state is ever written: that has
failed, and as QEMU it does not go on before it has been seen to be done with it.  A test tells it by signals:

    SIGHUP   what would stop or go on is refused from now on
    SIGUSR1  the connection is closed; who connects anew is heard
    SIGUSR2  the connection is closed, and nobody is heard any more
"""
import json
import os
import re
import signal
import socket
import sys

GREETING = {"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": ""}, "capabilities": []}}


class StandIn:
    def __init__(self, listener):
        self.listener, self.connection = listener, None
        self.runs, self.refuses = True, False
        self.finishing = 0  # so often it is to be asked for its status until it has done with a state
        signal.signal(signal.SIGHUP, self.refuse)
        signal.signal(signal.SIGUSR1, lambda *_: self.hang_up())
        signal.signal(signal.SIGUSR2, lambda *_: self.go_deaf())

    def refuse(self, *_):
        self.refuses = True

    def hang_up(self):
        if self.connection is not None:
            self.connection.shutdown(socket.SHUT_RDWR)

    def go_deaf(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.listener = None
        self.hang_up()

    def say(self, document):
        self.connection.sendall(json.dumps(document).encode() + b"\r\n")

    def obey(self, command):
        name = command["execute"]
        if name == "migrate":
            self.finishing = 2
        if name == "cont" and self.finishing > 0:
            self.say({"error": {"class": "GenericError", "desc": "Migration is not finalized yet"}})
            return
        if name == "stop" and not self.runs:
            self.say({"error": {"class": "GenericError", "desc": "it stands still"}})
            return
        if name in ("stop", "cont"):
            if self.refuses:
                self.say({"error": {"class": "GenericError", "desc": "it does not want to"}})
                return
            was, self.runs = self.runs, name == "cont"
            if was != self.runs:
                self.say({"event": "RESUME" if self.runs else "STOP", "timestamp": {}})
        self.say({"return": self.answer(name)})
        if name == "quit":
            os._exit(0)

    def answer(self, name):
        if name == "query-migrate":
            return {"status": "failed"}
        if name != "query-status":
            return {}
        status = "finish-migrate" if self.finishing > 0 else "running" if self.runs else "paused"
        self.finishing = max(self.finishing - 1, 0)
        return {"running": self.runs, "status": status}

    def serve(self):
        while self.listener is not None:
            try:
                self.connection, _ = self.listener.accept()
                self.say(GREETING)
                for line in self.connection.makefile():
                    self.obey(json.loads(line))
            except OSError:
                pass
            self.connection.close()
            self.connection = None
        while True:
            signal.pause()


def main():
    if "--version" in sys.argv:
        print("QEMU emulator version 7.2.0 (a stand-in)")
    elif "help" in sys.argv:
        print("microvm              a machine\nq35                  another one")
    else:
        control = next(re.search(r"id=control,fd=(\d+)", word) for word in sys.argv if "id=control" in word)
        StandIn(socket.socket(fileno=int(control[1]))).serve()


main()
