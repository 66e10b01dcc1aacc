"""Hosts for tests: network namespaces on one switch, which can be cut from each other.

    network = Network(3)            # skips the test, with the reason, where the machine refuses
    one, two, three = network.hosts
    one.run("ip", "address")        # a command on that host
    one.cut(two)                    # neither hears the other; heal() ends it
    three.unplug()                  # nobody hears it; plug() ends it
    network.close()

Every host has a namespace with a lo and an eth0 of its own; the switch (a bridge) lives in a namespace
too, so the machine's own network is not touched.  Names carry the id and the start time of the process
that made them.  What a dead test has left behind is taken away when the next one begins.
"""
import contextlib
import ctypes
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import threading
import unittest

CLONE_NEWNET = 0x40000000
NAMESPACES = pathlib.Path("/run/netns")
SYSTEM = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}
libc = ctypes.CDLL(None, use_errno=True)
made = 0
making = threading.Lock()


def tool(*words, **options):
    """A system tool; what it says; its complaint as an error."""
    options.setdefault("input", "")
    done = subprocess.run([str(word) for word in words], env=SYSTEM, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, timeout=60, **options)
    if done.returncode != 0:
        raise OSError(f"{' '.join(map(str, words))}: {done.stderr.strip()}")
    return done.stdout


def started(pid):
    """When a process began, in ticks since the machine did; None when there is none."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


def need_hosts():
    """Skip unless this machine lets us make hosts."""
    if os.geteuid() != 0:
        raise unittest.SkipTest("needs root, to make network namespaces")
    for program in ("ip", "nft", "nsenter", "unshare"):
        if shutil.which(program, path=SYSTEM["PATH"]) is None:
            raise unittest.SkipTest(f"needs {program}: tools/bootstrap test")
    tried = subprocess.run(["unshare", "--net", "true"], stderr=subprocess.PIPE, text=True)
    if tried.returncode != 0:
        raise unittest.SkipTest(f"network namespaces are refused: {tried.stderr.strip()}")


def sweep():
    """Take away the namespaces of tests that died, with what still runs in them."""
    for path in NAMESPACES.glob("blx-*") if NAMESPACES.is_dir() else ():
        found = re.fullmatch(r"blx-(\d+)-(\d+)-\w+", path.name)
        if found and started(found.group(1)) != found.group(2):
            with contextlib.suppress(OSError):
                for pid in tool("ip", "netns", "pids", path.name).split():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
                tool("ip", "netns", "delete", path.name)


class Host:
    def __init__(self, network, number):
        self.network = network
        self.number = number
        self.name = f"{network.prefix}{number}"
        self.address = f"{network.subnet}.{number}"
        self.holder = None  # of a mount namespace

    def _make(self):
        switch = self.network.switch
        tool("ip", "netns", "add", self.name)
        tool("ip", "-n", switch, "link", "add", f"port{self.number}", "type", "veth", "peer", "name", "eth0", "netns", self.name)
        tool("ip", "-n", switch, "link", "set", f"port{self.number}", "master", "switch", "up")
        tool("ip", "-n", self.name, "address", "add", f"{self.address}/24", "dev", "eth0")
        tool("ip", "-n", self.name, "link", "set", "lo", "up")
        tool("ip", "-n", self.name, "link", "set", "eth0", "up")
        self._filter("table inet test {\n"
                     "  set deaf_for { type ipv4_addr; }\n"
                     "  chain input { type filter hook input priority 0; ip saddr @deaf_for drop; }\n"
                     "}\n")

    def _filter(self, rules):
        tool("ip", "netns", "exec", self.name, "nft", "-f", "-", input=rules)

    # ---- Being there ----

    def command(self, *words):
        """The words as a command of this host; the process that runs it is the command itself."""
        namespaces = [f"--net={NAMESPACES / self.name}"]
        if self.holder:
            namespaces.append(f"--mount=/proc/{self.holder.pid}/ns/mnt")
        return ["nsenter", *namespaces, "--", *map(str, words)]

    def run(self, *words, **options):
        return tool(*self.command(*words), **options)

    @contextlib.contextmanager
    def entered(self):
        """This thread's new sockets belong to the host; they stay there."""
        with open("/proc/thread-self/ns/net") as before, open(NAMESPACES / self.name) as there:
            if libc.setns(there.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), f"entering {self.name}")
            try:
                yield
            finally:
                if libc.setns(before.fileno(), CLONE_NEWNET) != 0:
                    os.abort()  # this thread would go on in a wrong place

    def connect(self, address, port, timeout=30):
        """A TCP connection from this host."""
        with self.entered():
            return socket.create_connection((address, port), timeout=timeout)

    # ---- What befalls its network ----

    def cut(self, other, here=True, there=True):
        """This host and the other no longer hear each other, silently; or only this one is deaf (`here`), or the other (`there`)."""
        if here:
            self._filter(f"add element inet test deaf_for {{ {other.address} }}\n")
        if there:
            other._filter(f"add element inet test deaf_for {{ {self.address} }}\n")

    def heal(self):
        """All cuts that begin or end here are over."""
        self._filter("flush set inet test deaf_for\n")
        for other in self.network.hosts:
            if other is not self:
                element = f"element inet test deaf_for {{ {self.address} }}\n"
                other._filter(f"add {element}delete {element}")

    def unplug(self):
        tool("ip", "-n", self.network.switch, "link", "set", f"port{self.number}", "down")

    def plug(self):
        tool("ip", "-n", self.network.switch, "link", "set", f"port{self.number}", "up")

    def shape(self, delay_ms=0, loss_percent=0):
        """What leaves this host is late or lost; skips where the kernel has no netem."""
        try:
            tool("ip", "netns", "exec", self.name, "tc", "qdisc", "replace", "dev", "eth0", "root", "netem",
                 "delay", f"{delay_ms}ms", "loss", f"{loss_percent}%")
        except OSError as refused:
            raise unittest.SkipTest(f"no delay and loss on this machine: {refused}") from refused

    # ---- Its disk ----

    def small_disk(self, folder, size_bytes):
        """`folder` is a disk of that size for everything that is started on this host from now on."""
        pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
        if self.holder is None:
            self.holder = subprocess.Popen(["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo held; exec cat"],
                                           env=SYSTEM, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            if self.holder.stdout.readline() != "held\n":
                raise unittest.SkipTest(f"mount namespaces are refused: {self.holder.stderr.read().strip()}")
        self.run("mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", folder)

    def path(self, path):
        """Where what this host sees as `path` is for us."""
        return pathlib.Path(f"/proc/{self.holder.pid}/root{path}") if self.holder else pathlib.Path(path)

    def _end(self):
        with contextlib.suppress(OSError):
            for pid in tool("ip", "netns", "pids", self.name).split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        with contextlib.suppress(OSError):
            tool("ip", "netns", "delete", self.name)
        if self.holder:
            self.holder.stdin.close()
            self.holder.wait()
            self.holder.stdout.close()
            self.holder.stderr.close()


class Here:
    """This machine as the host of many daemons, each with ports of its own; for measuring, needs no root."""

    name = "here"
    address = "127.0.0.1"

    def command(self, *words):
        return list(map(str, words))

    def connect(self, address, port, timeout=30):
        return socket.create_connection((address, port), timeout=timeout)

    def path(self, path):
        return pathlib.Path(path)


class Network:
    """So many hosts at one switch; their addresses are `subnet`.1 and so on."""

    def __init__(self, count, subnet=None):
        global made
        need_hosts()
        sweep()
        with making:
            made += 1
            self.number = made % 250 + 1
        self.prefix = f"blx-{os.getpid()}-{started(os.getpid())}-{self.number}n"
        self.subnet = subnet or f"10.77.{self.number}"
        self.switch = f"{self.prefix}s"
        self.hosts = []
        try:
            tool("ip", "netns", "add", self.switch)
            tool("ip", "-n", self.switch, "link", "add", "switch", "type", "bridge")
            tool("ip", "-n", self.switch, "link", "set", "switch", "up")
            for _ in range(count):
                self.add()
        except OSError as refused:
            self.close()
            raise unittest.SkipTest(f"this machine makes no hosts: {refused}") from refused

    def add(self):
        """One host more."""
        host = Host(self, len(self.hosts) + 1)
        self.hosts.append(host)
        host._make()
        return host

    def heal(self):
        for host in self.hosts:
            host._filter("flush set inet test deaf_for\n")
            host.plug()

    def close(self):
        for host in self.hosts:
            host._end()
        with contextlib.suppress(OSError):
            tool("ip", "netns", "delete", self.switch)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
