"""Modules that are broken in one or two places: a mutant is a function of its seed.  Most keep the sizes of their sections right, so that
what is wrong is found where it is."""
import random

import wasm_random
from wasm_random import section, unsigned

BYTES = [0, 1, 2, 3, 4, 5, 7, 0x0b, 0x40, 0x41, 0x60, 0x6f, 0x70, 0x7b, 0x7c, 0x7d, 0x7e, 0x7f, 0x80, 0x81, 0xfc, 0xff, 0xd0, 0x10, 0x11, 0x02, 0x0e, 0x1c, 0xfd]
NUMBERS = [b"\xff\xff\xff\xff\x0f", b"\xff\xff\xff\xff\x7f", b"\x80\x80\x80\x80\x10", b"\x80\x80\x80\x80\x70", b"\x80\x80\x80\x80\x08",
           b"\xff" * 9 + b"\x01", b"\xff" * 9 + b"\x7f", b"\x80" * 9 + b"\x01", b"\x80\x80\x04", b"\x81\x80\x04"]
CUSTOM = [b"\x01a", b"\x03\xff\xfe\xfd", b"\x00", b"", b"\x05ab", b"\x04name\x00\x01\x00", b"\x02\xc3\x28", b"\x03\xed\xa0\x80", b"\x04\xf4\x90\x80\x80", b"\x01"]


def read_unsigned(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7f) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def sections(module):
    at, found = 8, []
    while at < len(module):
        length, start = read_unsigned(module, at + 1)
        found.append((module[at], module[start:start + length]))
        at = start + length
    return found


def padded(value, length):
    return bytes(value >> 7 * i & 0x7f | (0x80 if i < length - 1 else 0) for i in range(length))


def another_byte(choose, data, at):
    byte = choose.choice([choose.choice(BYTES), choose.randrange(256), data[at] ^ 1 << choose.randrange(8), (data[at] + choose.choice([1, 255])) % 256])
    return data[:at] + bytes([byte]) + data[at + 1:]


def change_content(choose, data):
    at = choose.randrange(len(data))
    how = choose.randrange(10)
    if how < 6:
        return another_byte(choose, data, at)
    if how == 6:
        return data[:at] + bytes([choose.choice(BYTES)]) + data[at:]
    if how == 7:
        return data[:at] + data[at + 1:]
    if how == 8:
        return data[:at] + padded(data[at] & 0x7f, choose.choice([2, 4, 5, 6, 10, 11])) + data[at + 1:]
    return data[:at] + choose.choice(NUMBERS) + data[at + 1:]


def change_sections(choose, parts):
    at = choose.randrange(len(parts))
    how = choose.randrange(5)
    if how == 0:
        parts.insert(choose.randrange(len(parts)), parts[at])
    elif how == 1:
        parts.pop(at)
    elif how == 2:
        other = choose.randrange(len(parts))
        parts[at], parts[other] = parts[other], parts[at]
    elif how == 3:
        parts.insert(at, (choose.choice([0, 0, 0, 13, 14, 12, 8, 255]), choose.choice(CUSTOM)))
    else:
        parts[at] = (choose.randrange(14), parts[at][1])


def encode(parts):
    return b"\0asm\1\0\0\0" + b"".join(section(number, content) for number, content in parts)


def mutant(seed, bases=()):
    """Of one of the modules, or of a random one."""
    choose = random.Random(seed)
    if bases and choose.random() < .5:
        module = choose.choice(bases)
    else:
        module = wasm_random.Module(choose.randrange(1000), budget=12).encode()
    parts = sections(module)
    for _ in range(choose.choice([1, 1, 1, 2])):
        at = choose.randrange(len(parts))
        if choose.random() < .3 and len(parts) > 1:
            change_sections(choose, parts)
        elif parts[at][1]:
            parts[at] = (parts[at][0], change_content(choose, parts[at][1]))
    module = encode(parts)
    if choose.random() < .1:
        at = choose.randrange(len(module))
        return choose.choice([module[:at], another_byte(choose, module, at), module + unsigned(choose.randrange(256))])
    return module
