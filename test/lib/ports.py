"""Ports for servers that must be told one.

They are not those that the kernel gives to who asks for any (32768 and up, ip(7)): between finding such a port free and listening
there, another test's daemon or connection may get it.
"""
import random
import socket

FIRST, LAST = 10000, 19999
claimed = []  # a name for each port that was given, held as long as this process lives


def free_port(host="127.0.0.1"):
    return free_ports(1, host)[0]


def claim(port):
    """Nobody else is given it, though nobody listens there yet: abstract names are of one network namespace, as ports are."""
    name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        name.bind(f"\0blixard-test-port-{port}")
    except OSError:
        name.close()
        return False
    claimed.append(name)
    return True


def free_ports(count, host="127.0.0.1"):
    """So many that nobody has now, chosen by chance, and that nobody was given: not even this process, for a server that has not begun."""
    found = []
    for port in random.sample(range(FIRST, LAST + 1), 1000):
        if len(found) == count:
            break
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue  # taken
        if claim(port):
            found.append(port)
    assert len(found) == count, f"no {count} free ports among 1000"
    return found
