"""The judge of histories knows good ones from bad ones."""
import itertools
import random
import types
import unittest

import linearizability


def operation(kind, value, began, ended, register="r"):
    return types.SimpleNamespace(register=register, kind=kind, value=value, began=began, ended=ended, process=0, server="n1")


def write(value, began, ended):
    return operation("write", value, began, ended)


def read(value, began, ended):
    return operation("read", value, began, ended)


def swap(expected, value, began, ended):
    made = operation("swap", value, began, ended)
    made.expected = expected
    return made


def refused(expected, began, ended):
    made = operation("refused", None, began, ended)
    made.expected = expected
    return made


def by_force(history):
    """Every order is tried."""
    known = [o for o in history if o.ended is not None]
    unknown = [o for o in history if o.ended is None and o.kind in ("write", "swap")]
    for count in range(len(unknown) + 1):
        for taken in itertools.combinations(unknown, count):
            for order in itertools.permutations(known + list(taken)):
                if fits(order):
                    return True
    return False


def fits(order):
    value = None
    for number, o in enumerate(order):
        if any(later.ended is not None and later.ended < o.began for later in order[number + 1:]):
            return False
        if o.kind == "read" and o.value != value:
            return False
        if o.kind == "swap" and o.expected != value or o.kind == "refused" and o.expected == value:
            return False
        if o.kind in ("write", "swap"):
            value = o.value
    return True


class Linearizability(unittest.TestCase):
    def good(self, *history):
        self.assertIsNone(linearizability.check(history))

    def bad(self, *history):
        self.assertIsNotNone(linearizability.check(history))

    def test_one_after_the_other(self):
        self.good(read(None, 1, 2), write("a", 3, 4), read("a", 5, 6), write("b", 7, 8), read("b", 9, 10))
        self.bad(write("a", 3, 4), read(None, 5, 6))
        self.bad(write("a", 1, 2), write("b", 3, 4), read("a", 5, 6))
        self.bad(read("a", 1, 2), write("a", 3, 4))
        self.bad(read("x", 1, 2))

    def test_calls_that_overlap_have_either_order(self):
        for seen in ("a", "b"):
            self.good(write("a", 1, 5), write("b", 2, 6), read(seen, 7, 8), read(seen, 9, 10))
        self.bad(write("a", 1, 5), write("b", 2, 6), read("a", 7, 8), read("b", 9, 10))
        self.good(write("a", 1, 10), read(None, 2, 3), read("a", 4, 5))
        self.bad(write("a", 1, 10), read("a", 2, 3), read(None, 4, 5))

    def test_an_unknown_write_comes_late_or_never_but_once(self):
        self.good(write("a", 1, None), read(None, 2, 3), read("a", 100, 101))
        self.good(write("a", 1, None), read(None, 100, 101))
        self.bad(write("a", 1, None), write("b", 2, 3), read("a", 4, 5), read("b", 6, 7))
        self.bad(write("a", 1, None), read("a", 2, 3), write("b", 4, 5), read("a", 6, 7))  # twice

    def test_a_swap_needs_what_it_expects(self):
        self.good(write("a", 1, 2), swap("a", "b", 3, 4), read("b", 5, 6))
        self.bad(write("a", 1, 2), swap("x", "b", 3, 4))
        self.bad(write("a", 1, 2), swap(None, "b", 3, 4))
        self.bad(swap(None, "a", 1, 5), swap(None, "b", 2, 6))  # both have won
        self.good(swap(None, "a", 1, 5), refused(None, 2, 6), read("a", 7, 8))
        self.bad(refused(None, 1, 2), write("a", 3, 4))
        self.good(refused("a", 1, 2), write("a", 3, 4))
        self.bad(write("a", 1, 2), refused("a", 3, 4))
        self.good(swap(None, "a", 1, None), refused(None, 2, 3), read("a", 4, 5))
        self.good(swap(None, "a", 1, None), refused(None, 2, 3))  # nobody read it, and it was there
        self.bad(swap("x", "a", 1, None), refused(None, 2, 3))
        self.good(write("x", 1, None), swap("x", "a", 1, None), read("a", 2, 3))  # needed by what was read
        self.bad(swap(None, "a", 1, None), swap("a", "b", 2, 3), read("a", 4, 5))

    def test_registers_are_apart(self):
        self.assertIsNone(linearizability.check([operation("write", "a", 1, 2, "x"), operation("read", None, 3, 4, "y")]))
        self.assertIn("register y", linearizability.check([operation("write", "a", 1, 2, "x"), operation("read", "a", 3, 4, "y")]))

    def test_it_agrees_with_trying_every_order(self):
        chance = random.Random(7)
        verdicts = {True: 0, False: 0}
        for _ in range(3000):
            history = []
            for n in range(chance.randint(2, 6)):
                began = chance.randrange(12) + n / 100
                ended = began + chance.randrange(1, 8) + 0.001
                known = [None, *[o.value for o in history if o.kind in ("write", "swap")]]
                kind = chance.random()
                if kind < 0.35:
                    history.append(write(n, began, None if chance.random() < 0.25 else ended))
                elif kind < 0.5:
                    history.append(swap(chance.choice(known), n, began, None if chance.random() < 0.25 else ended))
                elif kind < 0.6:
                    history.append(refused(chance.choice(known), began, ended))
                else:
                    history.append(read(chance.choice(known), began, ended))
            expected = by_force(history)
            verdicts[expected] += 1
            self.assertEqual(linearizability.check(history) is None, expected, history)
        self.assertGreater(min(verdicts.values()), 100, verdicts)

    def test_a_long_history_takes_no_time(self):
        """A register behind a lock; each call is told a little before and after it has it.  And the same with one lie."""
        chance = random.Random(11)
        history, now, value = [], 0, None
        for n in range(4000):
            now += 10
            spread = chance.randrange(1, 60), chance.randrange(1, 60)
            if chance.random() < 0.5:
                unknown = chance.random() < 0.05
                history.append(write(n, now - spread[0], None if unknown else now + spread[1]))
                if not unknown or chance.random() < 0.5:
                    value = n
            else:
                history.append(read(value, now - spread[0], now + spread[1]))
        self.good(*history)
        reads = [o for o in history if o.kind == "read"]
        reads[1500].value = reads[100].value
        self.bad(*history)


if __name__ == "__main__":
    unittest.main()
