"""Whether a recorded history of registers is linearizable: each call seems to take effect at one moment between its
beginning and its end, in one order for all.

A register is judged apart from the others (linearizability is local: Herlihy and Wing, 1990).  An order is searched for
depth first, as Wing and Gong (1993) do, and no situation (which calls have taken effect, what the register holds) is
looked at twice (Lowe, 2017).  Every written value is another one, which makes the search short: which write a read has
seen is known.  A write whose outcome nobody knows may take effect at any time after its beginning, or never.

    check(history) -> None, or what is wrong, in words

An operation has: register, kind ("read", "write", "swap", "refused"), value, began and ended (ended None: outcome
unknown), and `process` and `server`, for the words.  A "swap" has written `value` because the register held `expected`;
a "refused" one has not, because it held something else.  A swap whose outcome is unknown may be either, or never have
happened.  A register holds None at first.
"""
import collections
import sys

NEVER = float("inf")


def check(history):
    """None, or what is wrong with the first register that is not linearizable."""
    registers = collections.defaultdict(list)
    for operation in history:
        registers[operation.register].append(operation)
    for register, operations in sorted(registers.items()):
        wrong = check_register(operations)
        if wrong:
            return f"register {register}: {wrong}"
    return None


def check_register(operations):
    written = collections.Counter(o.value for o in operations if is_writing(o))
    twice = [value for value, times in written.items() if times > 1]
    if twice:
        raise ValueError(f"{twice[0]!r} is written twice: the history says too little")
    read = {o.value for o in operations if o.kind == "read" and o.ended is not None}
    read |= {o.expected for o in operations if o.kind == "swap" and o.ended is not None}
    strange = read - set(written) - {None}
    if strange:
        return f"{sorted(strange)[0]!r} was read and never written"
    # What nobody knows the end of and nobody has read may as well never have happened; unless it explains a refusal, or
    # makes a swap possible that does.
    all_count = any(o.kind == "refused" for o in operations) or any(o.kind == "swap" and o.ended is None for o in operations)
    kept = [o for o in operations if o.ended is not None or (is_writing(o) and (all_count or o.value in read))]
    return search(sorted(kept, key=lambda o: o.began))


def is_writing(operation):
    return operation.kind in ("write", "swap")


def changes_nothing(operation, value):
    """It can take effect while the register holds `value`, and leaves it so."""
    if operation.kind == "read":
        return operation.value == value
    return operation.kind == "refused" and operation.expected != value


def end_of(operation):
    return NEVER if operation.ended is None else operation.ended


def candidates(operations, done, first):
    """The calls that may take effect next: those that began before the first end of what has not yet taken effect."""
    limit, found = NEVER, []
    for number in range(first, len(operations)):
        operation = operations[number]
        if operation.began > limit:
            break
        if not done >> number & 1:
            found.append(number)
            limit = min(limit, end_of(operation))
    return [number for number in found if operations[number].began <= limit]


def search(operations):
    """An order for all of them (`operations` by their beginning), or the place where there is none."""
    required = sum(1 << number for number, o in enumerate(operations) if o.ended is not None)
    seen = set()
    furthest = (-1, 0, None)
    stack = [(0, 0, None)]  # (which have taken effect, the first that has not, what the register holds)
    while stack:
        done, first, value = stack.pop()
        if done & required == required:
            return None
        if (done, value) in seen:
            continue
        seen.add((done, value))
        if done.bit_count() > furthest[0]:
            furthest = (done.bit_count(), done, value)
        while done >> first & 1:
            first += 1
        possible = candidates(operations, done, first)
        agreeing = [n for n in possible if changes_nothing(operations[n], value)]
        if agreeing:  # what fits now and changes nothing loses nothing by being first
            stack.append((done | sum(1 << n for n in agreeing), first, value))
            continue
        for number in possible:
            operation = operations[number]
            if operation.kind == "write" or (operation.kind == "swap" and operation.expected == value):
                stack.append((done | 1 << number, first, operations[number].value))
    return describe(operations, *furthest[1:])


def describe(operations, done, value):
    """Where the longest order ends: what would have to come next, and cannot."""
    first = next(n for n in range(len(operations)) if not done >> n & 1)
    lines = [f"no order of all {len(operations)} calls explains what was read; the longest has {done.bit_count()}, the register "
             f"holds {value!r} then, and next would be one of:"]
    for number in candidates(operations, done, first):
        o = operations[number]
        took = "never answered" if o.ended is None else f"{(o.ended - o.began) / 1e6:.1f} ms"
        lines.append(f"  {o.kind} {o.value!r} by {o.process} at {o.server}, began {o.began}, {took}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(__doc__)
