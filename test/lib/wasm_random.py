"""Random modules of WebAssembly 2.0 (without SIMD) that are valid, end, and do the same wherever they run.

A module is a function of its seed.  Loops and calls spend fuel, which `refuel` gives; results of arithmetic that are NaN are made
the canonical one (their bits are anybody's: core specification, 4.3.3), while loads, moves and signs keep what they find.  What is
exported takes and gives floats as their bits, for JavaScript keeps no payloads: functions `f0`, `f1`, ..., globals `g0`, `g1`, ...,
`refuel`, `hash` (of the memory) and `tables` (sizes, and which elements are null).
"""
import random
import struct

I32, I64, F32, F64, FUNCREF, EXTERNREF = 0x7f, 0x7e, 0x7d, 0x7c, 0x70, 0x6f
NUMBERS = (I32, I64, F32, F64)
REFERENCES = (FUNCREF, EXTERNREF)
AS_BITS = {F32: I32, F64: I64}
FUEL = 400
CUSTOM, TYPE, IMPORT, FUNCTION, TABLE, MEMORY, GLOBAL, EXPORT, START, ELEMENT, CODE, DATA, DATA_COUNT = range(13)
END = b"\x0b"


def unsigned(value):
    out = bytearray()
    while True:
        value, low = value >> 7, value & 0x7f
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)


def signed(value):
    out = bytearray()
    while True:
        value, low = value >> 7, value & 0x7f
        done = (value == 0 and not low & 0x40) or (value == -1 and low & 0x40)
        out.append(low | (0 if done else 0x80))
        if done:
            return bytes(out)


def vector(items):
    return unsigned(len(items)) + b"".join(items)


def types(kinds):
    return unsigned(len(kinds)) + bytes(kinds)


def name(text):
    return unsigned(len(text.encode())) + text.encode()


def section(number, content):
    return bytes([number]) + unsigned(len(content)) + content


def i32(value):
    return b"\x41" + signed(value - (1 << 32) if value >> 31 else value)


def local_get(index):
    return b"\x20" + unsigned(index)


def local_set(index):
    return b"\x21" + unsigned(index)


def global_get(index):
    return b"\x23" + unsigned(index)


def global_set(index):
    return b"\x24" + unsigned(index)


def operations():
    """Every instruction that takes numbers off the stack and puts one there: (code, parameters, result)."""
    found = []

    def add(first, last, parameters, result, prefix=b""):
        found.extend((prefix + bytes([code]), parameters, result) for code in range(first, last + 1))
    add(0x45, 0x45, [I32], I32)
    add(0x46, 0x4f, [I32, I32], I32)
    add(0x50, 0x50, [I64], I32)
    add(0x51, 0x5a, [I64, I64], I32)
    add(0x5b, 0x60, [F32, F32], I32)
    add(0x61, 0x66, [F64, F64], I32)
    for kind, unary, binary, last in ((I32, 0x67, 0x6a, 0x78), (I64, 0x79, 0x7c, 0x8a), (F32, 0x8b, 0x92, 0x98), (F64, 0x99, 0xa0, 0xa6)):
        add(unary, binary - 1, [kind], kind)
        add(binary, last, [kind, kind], kind)
    conversions = [(I64, I32), *[(F32, I32)] * 2, *[(F64, I32)] * 2, *[(I32, I64)] * 2, *[(F32, I64)] * 2, *[(F64, I64)] * 2,
                   *[(I32, F32)] * 2, *[(I64, F32)] * 2, (F64, F32), *[(I32, F64)] * 2, *[(I64, F64)] * 2, (F32, F64),
                   (F32, I32), (F64, I64), (I32, F32), (I64, F64), *[(I32, I32)] * 2, *[(I64, I64)] * 3]
    for code, (parameter, result) in enumerate(conversions, 0xa7):
        add(code, code, [parameter], result)
    for code, (parameter, result) in enumerate([*[(F32, I32)] * 2, *[(F64, I32)] * 2, *[(F32, I64)] * 2, *[(F64, I64)] * 2]):
        add(code, code, [parameter], result, b"\xfc")
    return found


OPERATIONS = {kind: [(code, parameters) for code, parameters, result in operations() if result == kind] for kind in NUMBERS}
CALCULATES = {bytes([code]) for first, last in ((0x8d, 0x97), (0x9b, 0xa5), (0xb6, 0xb6), (0xbb, 0xbb)) for code in range(first, last + 1)}
DIVIDES = {bytes([code]) for code in (*range(0x6d, 0x71), *range(0x7f, 0x83))}
TRUNCATES = {bytes([code]) for code in (*range(0xa8, 0xac), *range(0xae, 0xb2))}
LOADS = {I32: (0x28, 0x2c, 0x2d, 0x2e, 0x2f), I64: (0x29, *range(0x30, 0x36)), F32: (0x2a,), F64: (0x2b,)}
STORES = {I32: (0x36, 0x3a, 0x3b), I64: (0x37, 0x3c, 0x3d, 0x3e), F32: (0x38,), F64: (0x39,)}
ALIGNMENTS = {0x28: 2, 0x29: 3, 0x2a: 2, 0x2b: 3, 0x2e: 1, 0x2f: 1, 0x32: 1, 0x33: 1, 0x34: 2, 0x35: 2,
              0x36: 2, 0x37: 3, 0x38: 2, 0x39: 3, 0x3b: 1, 0x3d: 1, 0x3e: 2}
EDGES = [0, 1, 2, 7, 31, 32, 63, 64, 127, 128, 255, 256, 0x7fff, 0x8000, 0xffff, 0x10000, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff,
         0x7fffffffffffffff, 0x8000000000000000, 0xffffffffffffffff, 0x3f800000, 0xbf800000, 0x7f800000, 0xff800000, 0x7fa00001, 0xffc12345,
         0x4f000000, 0xcf000001, 0x5f000000, 0x3ff0000000000000, 0x7ff0000000000000, 0xfff0000000000000, 0x7ff4000000000001, 0xfff8123456789abc,
         0x41e0000000000000, 0xc1e0000000200000, 0x43e0000000000000, 0xc3e0000000000000, 0x1, 0x8000000000000001]
CHOICES = "constant local global operation operation operation load block if call indirect select tee memory".split()


class Module:
    """`functions` are those that call each other; further ones are at the fixed places below."""
    FUEL_GLOBAL = 0
    TABLES = (FUNCREF, EXTERNREF, FUNCREF)

    def __init__(self, seed, budget=260):
        self.random = random.Random(seed)
        self.budget = budget  # so large is a function, about
        self.is_plain = seed % 4 == 3  # as compilers write them: what wasm-opt takes
        self.signatures = [([], []), ([F32], [F32]), ([F64], [F64]), ([], [I64])]
        choose = self.random
        for _ in range(choose.randint(3, 8)):
            kinds = [*NUMBERS, *NUMBERS, *REFERENCES]
            self.signatures.append((choose.choices(kinds, k=choose.randint(0, 4)), choose.choices(kinds, k=choose.choice([0, 1, 1, 1, 2, 3]))))
        self.globals = [(I32, True)] + [(choose.choice([*NUMBERS, *NUMBERS, *REFERENCES]), choose.random() < .8) for _ in range(choose.randint(3, 8))]
        self.functions = [choose.choice(self.signatures) for _ in range(choose.randint(3, 7))]
        self.pages = choose.randint(1, 2)
        self.segments = choose.randint(1, 4)
        self.elements = choose.randint(3, 6)
        self.table_sizes = [choose.randint(4, 12) for _ in self.TABLES]
        self.helpers = [("canonical32", [F32], [F32]), ("canonical64", [F64], [F64]), ("spend", [], [])]

    def signature(self, parameters, results):
        wanted = (list(parameters), list(results))
        if wanted not in self.signatures:
            self.signatures.append(wanted)
        return self.signatures.index(wanted)

    def helper(self, wanted):
        return len(self.functions) + [called for called, _, _ in self.helpers].index(wanted)

    # ---- What is always the same ----

    def helper_bodies(self):
        spend = (global_get(0) + i32(1) + b"\x6b" + b"\x24\x00" + global_get(0) + i32(0) + b"\x48\x04\x40\x00\x0b")
        canonical = [local_get(0) + constant + local_get(0) * 2 + bytes([same]) + b"\x1b"
                     for constant, same in ((struct.pack("<BI", 0x43, 0x7fc00000), 0x5b), (struct.pack("<BQ", 0x44, 0x7ff8000000000000), 0x61))]
        return [b"\x00" + body + END for body in (*canonical, spend)]

    def hash_body(self):
        """FNV-1a over words, and the count of pages."""
        step = (b"\x20\x01" + b"\x20\x00\x29\x03\x00" + b"\x85" + b"\x42" + signed(0x100000001b3) + b"\x7e" + b"\x21\x01"
                + b"\x20\x00" + i32(8) + b"\x6a\x22\x00" + b"\x3f\x00" + i32(65536) + b"\x6c\x49\x0d\x00")
        return (vector([b"\x01\x7f", b"\x01\x7e"]) + b"\x42" + signed(1469598103934665603) + b"\x21\x01" + b"\x03\x40" + step + END + b"\x20\x01" + END)

    def tables_body(self):
        """A bit for each element of each table that is null, and their sizes; rotated together."""
        code = b""
        for number in range(len(self.TABLES)):
            place = unsigned(number)
            code += i32(0) + b"\x21\x00" + b"\x02\x40\x03\x40" + b"\x20\x00\xfc\x10" + place + b"\x4f\x0d\x01"
            code += b"\x20\x01\x42\x01\x89" + b"\x20\x00\x25" + place + b"\xd1\xad\x85\x21\x01"
            code += b"\x20\x00\x41\x01\x6a\x21\x00\x0c\x00" + END + END
            code += b"\x20\x01\x42\x0d\x89\xfc\x10" + place + b"\xad\x85\x21\x01"
        return vector([b"\x01\x7f", b"\x01\x7e"]) + code + b"\x20\x01" + END

    def wrapper(self, number):
        """With floats as their bits."""
        parameters, results = self.functions[number]
        code = b"".join(local_get(i) + {F32: b"\xbe", F64: b"\xbf"}.get(kind, b"") for i, kind in enumerate(parameters))
        code += b"\x10" + unsigned(number)
        first = len(parameters)
        code += b"".join(local_set(first + i) for i in reversed(range(len(results))))
        code += b"".join(local_get(first + i) + {F32: b"\xbc", F64: b"\xbd"}.get(kind, b"") for i, kind in enumerate(results))
        return vector([b"\x01" + bytes([kind]) for kind in results]) + code + END

    def reader(self, number):
        kind, _ = self.globals[number]
        return b"\x00" + global_get(number) + {F32: b"\xbc", F64: b"\xbd"}.get(kind, b"") + END

    # ---- The whole ----

    def constant(self, kind):
        choose = self.random
        if kind == FUNCREF:
            return b"\xd0\x70" if choose.random() < .3 else b"\xd2" + unsigned(choose.randrange(len(self.functions)))
        if kind == EXTERNREF:
            return b"\xd0\x6f"
        value = choose.choice(EDGES) if choose.random() < .7 else choose.getrandbits(64)
        if choose.random() < .3:
            value = -value
        bits = value & (1 << (32 if kind in (I32, F32) else 64)) - 1
        return {I32: lambda: i32(bits), I64: lambda: b"\x42" + signed(bits - (1 << 64) if bits >> 63 else bits),
                F32: lambda: b"\x43" + struct.pack("<I", bits), F64: lambda: b"\x44" + struct.pack("<Q", bits)}[kind]()

    def element(self, number):
        choose = self.random
        if number == 0:  # so that every function may be referred to
            return b"\x03\x00" + vector([unsigned(i) for i in range(len(self.functions))])
        items = [unsigned(choose.randrange(len(self.functions))) for _ in range(choose.randint(0, 4))]
        expressions = [self.constant(FUNCREF) + END for _ in range(choose.randint(0, 4))]
        offset = i32(choose.randint(0, self.table_sizes[0] - 4)) + END
        second = unsigned(2) + i32(choose.randint(0, self.table_sizes[2] - 4)) + END
        if self.is_plain:
            return b"\x02" + second + b"\x00" + vector(items or [b"\x00"])
        return choose.choice([b"\x00" + offset + vector(items), b"\x01\x00" + vector(items), b"\x02" + second + b"\x00" + vector(items),
                              b"\x04" + offset + vector(expressions), b"\x05\x70" + vector(expressions),
                              b"\x06" + second + b"\x70" + vector(expressions), b"\x05\x6f" + vector([b"\xd0\x6f\x0b"] * len(items))])

    def encode(self):
        choose = self.random
        elements = [self.element(i) for i in range(self.elements)]
        self.kinds = [EXTERNREF if segment[:2] == b"\x05\x6f" else FUNCREF for segment in elements]
        bodies = [Body(self, *signature).encode() for signature in self.functions] + self.helper_bodies()
        signatures = self.functions + [(parameters, results) for _, parameters, results in self.helpers]
        exports = []

        def export(called, parameters, results, body):
            exports.append(name(called) + b"\x00" + unsigned(len(bodies)))
            bodies.append(body)
            signatures.append(([AS_BITS.get(kind, kind) for kind in parameters], [AS_BITS.get(kind, kind) for kind in results]))
        for number, signature in enumerate(self.functions):
            export(f"f{number}", *signature, self.wrapper(number))
        for number, (kind, _) in enumerate(self.globals):
            export(f"g{number}", [], [kind], self.reader(number))
        export("refuel", [], [], b"\x00" + i32(FUEL) + global_set(self.FUEL_GLOBAL) + END)
        export("hash", [], [I64], self.hash_body())
        export("tables", [], [I64], self.tables_body())
        data = []
        for _ in range(self.segments):
            content = choose.randbytes(choose.randint(0, 40))
            where = choose.choice([b"\x01", b"\x00" + i32(choose.randrange(1000)) + END,
                                   b"\x02\x00" + i32(65536 * self.pages - len(content)) + END])
            data.append(where + unsigned(len(content)) + content)
        indexes = [unsigned(self.signature(*signature)) for signature in signatures]  # before the types are written
        parts = [(TYPE, vector([b"\x60" + types(parameters) + types(results) for parameters, results in self.signatures])),
                 (FUNCTION, vector(indexes)),
                 (TABLE, vector([bytes([kind]) + b"\x01" + unsigned(size) + unsigned(size + 5) for kind, size in zip(self.TABLES, self.table_sizes)])),
                 (MEMORY, vector([b"\x01" + unsigned(self.pages) + unsigned(4)])),
                 (GLOBAL, vector([bytes([kind, changes]) + self.constant(kind) + END for kind, changes in self.globals])),
                 (EXPORT, vector(exports)),
                 (ELEMENT, vector(elements)),
                 (DATA_COUNT, unsigned(len(data))),
                 (CODE, vector([unsigned(len(body)) + body for body in bodies])),
                 (DATA, vector(data))]
        return b"\0asm\1\0\0\0" + b"".join(section(number, content) for number, content in parts)

    def exported(self, called):
        """Parameters and results of an export, with floats as their bits."""
        fixed = {"refuel": ([], []), "hash": ([], [I64]), "tables": ([], [I64])}
        if called in fixed:
            return fixed[called]
        number = int(called[1:])
        kinds = self.functions[number] if called[0] == "f" else ([], [self.globals[number][0]])
        return tuple([AS_BITS.get(kind, kind) for kind in list_of] for list_of in kinds)

    def script(self):
        """What is called, in one instance, after encode()."""
        choose = self.random
        lines = []
        for number, (parameters, _) in enumerate(self.functions):
            for _ in range(4):
                values = []
                for kind in parameters:
                    if kind in REFERENCES:
                        values.append("null" if kind == FUNCREF or choose.random() < .3 else str(choose.randrange(100)))
                    else:
                        bits = choose.choice(EDGES) if choose.random() < .6 else choose.getrandbits(64)
                        values.append(str(bits & (1 << (32 if kind in (I32, F32) else 64)) - 1))
                lines += ["refuel", " ".join([f"f{number}", *values]), "hash", "tables"]
        lines += [f"g{number}" for number in range(len(self.globals))]
        return [f"invoke {line}" for line in lines]


class Body:
    """A function: expressions that leave one value, and statements that leave none."""

    def __init__(self, module, parameters, results):
        self.module = module
        self.random = module.random
        self.results = results
        self.locals = list(parameters)
        self.parameter_count = len(parameters)
        self.locals += self.random.choices([*NUMBERS, *NUMBERS, *REFERENCES], k=self.random.randint(2, 8))
        self.labels = [results]  # what a branch to each takes, innermost last
        self.budget = module.budget

    def encode(self):
        declared = vector([b"\x01" + bytes([kind]) for kind in self.locals[self.parameter_count:]])
        code = b"\x10" + unsigned(self.module.helper("spend"))
        code += b"".join(self.statement(5) for _ in range(self.random.randint(2, 8)))
        return declared + code + b"".join(self.expression(kind, 4) for kind in self.results) + END

    def values(self, kinds, depth):
        return b"".join(self.expression(kind, depth) for kind in kinds)

    def local_of(self, kind):
        found = [i for i, other in enumerate(self.locals) if other == kind]
        return self.random.choice(found) if found else None

    def block_type(self, parameters, results):
        if not parameters and not results:
            return b"\x40"
        if not parameters and len(results) == 1 and self.random.random() < .8:
            return bytes(results)
        index = self.module.signature(parameters, results)
        return signed(index)

    def taken(self, counts):
        """What a block takes off the stack."""
        return [] if self.module.is_plain else self.random.choices([*NUMBERS, *REFERENCES], k=self.random.choice(counts))

    def address(self, depth):
        """Mostly inside, now and then at an edge, seldom anywhere."""
        choose = self.random
        how = choose.random()
        if how < .8:
            return self.expression(I32, depth) + i32(choose.choice([0xff, 0xfff, 0xfff8])) + b"\x71"
        if how < .97:
            return i32(choose.choice([65536 * self.module.pages - choose.randint(0, 17), choose.randint(0, 70000)]))
        return self.expression(I32, depth)

    def access(self, code):
        alignment = self.random.randint(0, ALIGNMENTS.get(code, 0))
        offset = self.random.choice([0, 0, 0, 1, 3, 8, 255, 65535, 0xffffffff if self.random.random() < .1 else 4])
        return bytes([code]) + unsigned(alignment) + unsigned(offset)

    # ---- Statements ----

    def statement(self, depth):
        choose = self.random
        self.budget -= 1
        if depth <= 0 or self.budget < 0:
            kind = choose.choice([*NUMBERS, *REFERENCES])
            return self.expression(kind, 0) + b"\x1a"
        how = choose.choice(["set", "set", "global", "store", "store", "block", "loop", "if", "branch", "branch if", "table", "bulk", "bulk",
                             "drop", "call", "dead", "references"])
        return getattr(self, "do_" + how.replace(" ", "_"))(depth - 1)

    def statements(self, depth):
        return b"".join(self.statement(depth) for _ in range(self.random.randint(0, 3)))

    def do_set(self, depth):
        index = self.random.randrange(len(self.locals))
        return self.expression(self.locals[index], depth) + local_set(index)

    def do_global(self, depth):
        changing = [i for i, (_, changes) in enumerate(self.module.globals) if changes and i != self.module.FUEL_GLOBAL]
        if not changing:
            return b"\x01"
        index = self.random.choice(changing)
        return self.expression(self.module.globals[index][0], depth) + global_set(index)

    def do_store(self, depth):
        kind = self.random.choice(NUMBERS)
        return self.address(depth) + self.expression(kind, depth) + self.access(self.random.choice(STORES[kind]))

    def do_block(self, depth):
        parameters = self.taken([0, 0, 0, 1, 2])
        before = self.values(parameters, depth)
        self.labels.append([])
        inner = b"\x1a" * len(parameters) + self.statements(depth)
        self.labels.pop()
        return before + b"\x02" + self.block_type(parameters, []) + inner + END

    def do_loop(self, depth):
        """Each turn costs; it is taken again as long as a value says so."""
        parameters = self.taken([0, 0, 0, 1, 2])
        before = self.values(parameters, depth)
        self.labels.append(parameters)
        inner = b"\x10" + unsigned(self.module.helper("spend")) + b"\x1a" * len(parameters) + self.statements(depth)
        inner += self.values(parameters, depth) + self.expression(I32, depth) + i32(7) + b"\x71\x0d\x00" + b"\x1a" * len(parameters)
        self.labels.pop()
        return before + b"\x03" + self.block_type(parameters, []) + inner + END

    def do_if(self, depth):
        condition = self.expression(I32, depth)
        self.labels.append([])
        inner = self.statements(depth) + (b"\x05" + self.statements(depth) if self.random.random() < .5 else b"")
        self.labels.pop()
        return condition + b"\x04\x40" + inner + END

    def label(self):
        depth = self.random.randrange(len(self.labels))
        return depth, self.labels[-1 - depth]

    def guarded(self, depth, code):
        """What is never seen again: only now and then."""
        return self.expression(I32, depth) + i32(15) + b"\x71\x45\x04\x40" + code + END

    def do_branch(self, depth):
        self.labels.append([])
        how = self.random.random()
        if how < .1:
            code = b"\x00"
        elif how < .3:
            code = self.values(self.results, depth) + b"\x0f"
        else:
            to, kinds = self.label()
            code = self.values(kinds, depth) + b"\x0c" + unsigned(to)
        self.labels.pop()
        return self.guarded(depth, code)

    def do_branch_if(self, depth):
        to, kinds = self.label()
        return self.values(kinds, depth) + self.expression(I32, depth) + b"\x0d" + unsigned(to) + b"\x1a" * len(kinds)

    def do_table(self, depth):
        """br_table, in a block of its own; labels are those that take the same."""
        self.labels.append([])
        _, kinds = self.label()
        same = [i for i in range(len(self.labels)) if self.labels[-1 - i] == kinds]
        index = self.expression(I32, depth) + (i32(7) + b"\x71" if self.random.random() < .8 else b"")
        code = self.values(kinds, depth) + index + b"\x0e" + vector([unsigned(self.random.choice(same)) for _ in range(self.random.randint(0, 6))])
        code += unsigned(self.random.choice(same)) + self.dead(depth)
        self.labels.pop()
        return b"\x02\x40" + code + END

    def dead(self, depth):
        """Code that is never reached, where the stack holds what is wanted of it."""
        code = self.random.choice([b"", b"\x6a\x1a", b"\x1a", b"\x45\xac\x1a", self.statements(min(depth, 1))])
        return b"" if self.module.is_plain else code

    def do_dead(self, depth):
        self.labels.append([])
        to, kinds = self.label()
        code = self.values(kinds, depth) + b"\x0c" + unsigned(to) + self.dead(depth)
        self.labels.pop()
        return self.guarded(depth, code)

    def do_drop(self, depth):
        return self.expression(self.random.choice([*NUMBERS, *REFERENCES]), depth) + b"\x1a"

    def do_call(self, depth):
        number = self.random.randrange(len(self.module.functions))
        parameters, results = self.module.functions[number]
        return self.values(parameters, depth) + b"\x10" + unsigned(number) + b"\x1a" * len(results)

    def do_bulk(self, depth):
        segment = unsigned(self.random.randrange(self.module.segments))
        length = i32(self.random.choice([0, 1, 7, 30, 300])) if self.random.random() < .9 else self.expression(I32, depth)
        near = i32(self.random.randint(0, 40))
        return self.random.choice([self.address(depth) + self.address(depth) + length + b"\xfc\x0a\x00\x00",
                                   self.address(depth) + self.expression(I32, depth) + length + b"\xfc\x0b\x00",
                                   self.address(depth) + near + i32(self.random.randint(0, 9)) + b"\xfc\x08" + segment + b"\x00",
                                   b"\xfc\x09" + segment if self.random.random() < .2 else b"\x01",
                                   self.expression(I32, depth) + i32(1) + b"\x71\x40\x00\x1a"])

    def place(self, depth):
        return self.expression(I32, depth) + i32(7) + b"\x71" if self.random.random() < .8 else i32(self.random.randint(0, 18))

    def do_references(self, depth):
        """Tables: set, grow, fill, copy, init, drop."""
        choose = self.random
        table = choose.randrange(3)
        kind = self.module.TABLES[table]
        segments = [i for i, other in enumerate(self.module.kinds) if other == kind]
        place, value = self.place(depth), self.expression(kind, depth)
        other = choose.choice([i for i, of in enumerate(self.module.TABLES) if of == kind])
        forms = [place + value + b"\x26" + unsigned(table),
                 value + i32(choose.choice([0, 1, 1, 2, 9])) + b"\xfc\x0f" + unsigned(table) + b"\x1a",
                 place + value + i32(choose.randint(0, 5)) + b"\xfc\x11" + unsigned(table),
                 place + self.place(depth) + i32(choose.randint(0, 5)) + b"\xfc\x0e" + unsigned(table) + unsigned(other)]
        if self.module.is_plain:
            return choose.choice(forms[:2])
        if segments:
            segment = unsigned(choose.choice(segments))
            forms.append(place + i32(choose.randint(0, 4)) + i32(choose.randint(0, 3)) + b"\xfc\x0c" + segment + unsigned(table))
            forms.append(b"\xfc\x0d" + segment if choose.random() < .2 else b"\x01")
        return choose.choice(forms)

    # ---- Expressions ----

    def expression(self, kind, depth):
        self.budget -= 1
        if depth <= 0 or self.budget < 0:
            return self.leaf(kind)
        how = self.random.choice(CHOICES)
        return getattr(self, "give_" + how)(kind, depth - 1)

    def leaf(self, kind):
        index = self.local_of(kind)
        return local_get(index) if index is not None and self.random.random() < .6 else self.module.constant(kind)

    def give_constant(self, kind, depth):
        return self.module.constant(kind)

    def give_local(self, kind, depth):
        return self.leaf(kind)

    def give_global(self, kind, depth):
        found = [i for i, (other, _) in enumerate(self.module.globals) if other == kind and i != self.module.FUEL_GLOBAL]
        return global_get(self.random.choice(found)) if found else self.leaf(kind)

    def give_operation(self, kind, depth):
        if kind in REFERENCES:
            tables = [i for i, other in enumerate(self.module.TABLES) if other == kind]
            return self.place(depth) + b"\x25" + unsigned(self.random.choice(tables))
        code, parameters = self.random.choice(OPERATIONS[kind])
        if code in TRUNCATES and self.random.random() < .8:
            return self.leaf(kind)
        operands = self.values(parameters, depth)
        if code in DIVIDES and self.random.random() < .8:
            operands += i32(3) + b"\x72" if kind == I32 else b"\x42\x03\x84"
        helper = {F32: "canonical32", F64: "canonical64"}.get(kind)
        return operands + code + (b"\x10" + unsigned(self.module.helper(helper)) if code in CALCULATES else b"")

    def give_load(self, kind, depth):
        if kind in REFERENCES:
            return self.leaf(kind)
        return self.address(depth) + self.access(self.random.choice(LOADS[kind]))

    def give_block(self, kind, depth):
        parameters = self.taken([0, 0, 1, 2])
        before = self.values(parameters, depth)
        self.labels.append([kind])
        inner = b"\x1a" * len(parameters) + self.statements(depth) + self.expression(kind, depth)
        if self.random.random() < .3:
            inner += self.expression(I32, depth) + b"\x0d\x00"
        elif self.random.random() < .2:
            inner += b"\x0c\x00" + (b"" if self.module.is_plain else self.random.choice([b"", b"\x1a" + self.leaf(kind), b"\x6a\x1a"]))
        self.labels.pop()
        return before + b"\x02" + self.block_type(parameters, [kind]) + inner + END

    def give_if(self, kind, depth):
        parameters = self.taken([0, 0, 1])
        before = self.values(parameters, depth) + self.expression(I32, depth)
        self.labels.append([kind])
        arms = [b"\x1a" * len(parameters) + self.statements(depth) + self.expression(kind, depth) for _ in range(2)]
        self.labels.pop()
        return before + b"\x04" + self.block_type(parameters, [kind]) + arms[0] + b"\x05" + arms[1] + END

    def one_of(self, results, kind):
        """Of a call's results the first of the kind, by way of a local; the others go."""
        index = self.local_of(kind)
        at = results.index(kind)
        if len(results) == 1:
            return b""
        if index is None:
            return None
        return b"\x1a" * (len(results) - at - 1) + local_set(index) + b"\x1a" * at + local_get(index)

    def give_call(self, kind, depth):
        found = [i for i, (_, results) in enumerate(self.module.functions) if kind in results]
        if not found or self.random.random() < .5:
            return self.leaf(kind)
        number = self.random.choice(found)
        parameters, results = self.module.functions[number]
        after = self.one_of(results, kind)
        return self.leaf(kind) if after is None else self.values(parameters, depth) + b"\x10" + unsigned(number) + after

    def give_indirect(self, kind, depth):
        found = [i for i, (_, results) in enumerate(self.module.functions) if kind in results]
        if not found or self.random.random() < .5:
            return self.leaf(kind)
        parameters, results = self.module.functions[self.random.choice(found)]
        after = self.one_of(results, kind)
        if after is None:
            return self.leaf(kind)
        index = self.module.signature(parameters, results)
        return self.values(parameters, depth) + self.place(depth) + b"\x11" + unsigned(index) + unsigned(self.random.choice([0, 2])) + after

    def give_select(self, kind, depth):
        typed = kind in REFERENCES or self.random.random() < .3
        return self.values([kind, kind, I32], depth) + (b"\x1c\x01" + bytes([kind]) if typed else b"\x1b")

    def give_tee(self, kind, depth):
        index = self.local_of(kind)
        return self.expression(kind, depth) + (b"\x22" + unsigned(index) if index is not None else b"")

    def give_memory(self, kind, depth):
        """Sizes, and what is null."""
        if kind == FUNCREF:
            return b"\xd2" + unsigned(self.random.randrange(len(self.module.functions)))
        if kind != I32:
            return self.leaf(kind)
        reference = self.random.choice(REFERENCES)
        return self.random.choice([b"\x3f\x00", self.expression(I32, depth) + i32(1) + b"\x71\x40\x00", b"\xfc\x10" + unsigned(self.random.randrange(3)),
                                   self.expression(reference, depth) + b"\xd1"])
