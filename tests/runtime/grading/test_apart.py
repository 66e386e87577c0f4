"""Plain data across processes, and which tests can be run with their code in another one."""

from __future__ import annotations

import datetime
import decimal
import fractions
import math
import pathlib
import re
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.config import Bubblewrap
from runtime.grading.base import Verdict
from runtime.grading.make import make_verifier
from runtime.grading.testkit import plain
from runtime.sandboxes.bubblewrap import BubblewrapProvider
from runtime.sandboxes.userns import spare_user
from runtime.task import Task

from .conftest import Run, needs_bubblewrap

KEYS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
PLAIN = st.recursive(
    KEYS
    | st.complex_numbers(allow_nan=False)
    | st.sets(KEYS)
    | st.frozensets(KEYS)
    | st.builds(bytearray, st.binary()),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(KEYS, inner),
    max_leaves=20,
)


def same(one: Any, two: Any) -> bool:
    """Equal, and of the same types all the way down."""
    if type(one) is not type(two):
        return False
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, dict):
        return list(map(repr, one)) == list(map(repr, two)) and all(map(same, one.values(), two.values()))
    return repr(one) == repr(two) or one == two


@given(PLAIN)
def test_plain_data_cross_unchanged(value: Any) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        plain.send(ours, ["value", plain.encode(value)])
        message = plain.receive(theirs)
        assert message is not None and same(plain.decode(message[1]), value)


class Number(int):
    pass


def endless() -> Iterator[int]:
    while True:
        yield 1


@pytest.mark.parametrize("value", [Number(3), object(), len, [Number(1)], {1: {2: Number(3)}}, type, iter([1])])
def test_nothing_else_crosses(value: object) -> None:
    with pytest.raises(plain.NotPlain):
        plain.encode(value)


MORE = [
    range(1, 9, 3),
    decimal.Decimal("1.50"),
    fractions.Fraction(1, 3),
    datetime.datetime(2020, 1, 2, 3, 4, 5, 6),
    datetime.date(2020, 1, 2),
    datetime.timedelta(days=-1, microseconds=3),
    pathlib.Path("/a/b"),
    uuid.UUID(int=7),
]


@pytest.mark.parametrize("value", MORE, ids=repr)
def test_values_of_the_standard_library_cross(value: Any) -> None:
    back = plain.decode(plain.encode([value, {2: value}]))
    assert back == [value, {2: value}] and type(back[0]) is type(value)
    assert plain.decode(plain.encode({1: value}.keys())) == {1}
    with pytest.raises(plain.NotPlain):
        plain.decode(["v", "subprocess", "Popen", "true"])


def test_iterators_cross_as_their_items_and_nests_and_endless_ones_do_not() -> None:
    assert list(plain.decode(plain.encode(iter([1, (2,)]), iterators=True))) == [1, (2,)]
    nest: list[Any] = []
    nest.append(nest)
    for value in (nest, endless()):
        with pytest.raises(plain.NotPlain):
            plain.encode(value, iterators=True)
    assert math.isnan(plain.decode(plain.encode(math.nan)))


@pytest.mark.parametrize(
    "data", [[], {}, ["x"], ["d", [1]], ["b", "zz"], ["b", 1], ["c", "x", 1], ["s", ["l"]], [1], ["l", {}], ["d", 1]]
)
def test_malformed_data_are_refused(data: Any) -> None:
    with pytest.raises(plain.NotPlain):
        plain.decode(data)


CALC = """
import shop.rules
from shop.rules import LIMIT, TooMuch
calls = []
def add(a, b=0): return a {} b
def fill(items): items.append(1); return len(items)
def table(): return {{"a": (1, 2.5), b"k": {{3}}}}
def count(n): yield from range(n)
def check(n):
    if n > LIMIT: raise TooMuch(n)
    return n
class Money:
    def __init__(self, value): self.value = value
    def plus(self, other): return Money(self.value + other.value)
def apply(function, value): return function(value)
"""
RULES = "LIMIT = 3\nclass TooMuch(ValueError):\n    pass\n"
POSSIBLE = """
import shop.calc
from shop import calc as c
from shop.calc import LIMIT, TooMuch, add, check, count, fill, table
from helper import five

def test_values():
    assert add(2, b=3) == five() == 5 and shop.calc.add(1, 1) == c.add(2, 0) == 2
    assert table() == {"a": (1, 2.5), b"k": {3}} and LIMIT == 3

def test_arguments_change():
    items = [0]
    assert fill(items) == 2 and items == [0, 1]

def test_iterators(): assert list(count(3)) == [0, 1, 2]

def test_errors():
    for kind in (ValueError, TooMuch, shop.calc.TooMuch):
        try: check(4)
        except kind as error: assert error.args == (4,)
        else: raise AssertionError("nothing was raised")
    try: add("a")
    except TypeError: pass
    try: c.nothing
    except AttributeError: pass
    else: raise AssertionError("no such name")
"""
OBJECTS = """
import pytest
import shop.calc
from shop.calc import Bag, Colour, Money, Point, apply, cached, each, open_bag, total

class Total:
    def __init__(self): self.value = 0
    def add(self, item): self.value += item

class TestObjects:
    def test_instances(self):
        money = Money(2).plus(Money(3))
        assert money.value == 5 and isinstance(money, Money) and not isinstance(5, Money)
        assert money == Money(5) and money != Money(6) and Money(5) in [Money(1), money]
        assert str(money) == "5" and f"{money:>3}" == "  5" and total([money, Money(1)]) == 6
        money.value = 9
        assert shop.calc.total([money]) == 9 and money.doubled == 18

    def test_containers(self):
        bag = Bag([3, 1])
        bag.put(2)
        assert len(bag) == 3 and 2 in bag and bag[0] == 3 and list(bag) == [3, 1, 2] and bag
        with pytest.raises(IndexError):
            bag[7]
        del bag[0]
        assert sorted(bag) == [1, 2] and [item.value for item in bag.monies()] == [1, 2]

    def test_enumerations_and_tuples(self):
        assert Colour.RED.value == 1 and Colour(2) is Colour.BLUE and Colour.RED.name == "RED"
        assert Point(1, 2) == (1, 2) and Point(1, 2).x == 1

    def test_contexts(self):
        with open_bag() as bag:
            bag.put(1)
        assert bag.closed and list(bag) == [1]
        with pytest.raises(AssertionError):
            with open_bag():
                assert False

def test_callbacks():
    seen, sums = [], Total()
    each([1, 2], seen.append)
    each([1, 2], sums.add)
    assert seen == [1, 2] and sums.value == 3
    assert apply(lambda x: x + 1, 1) == 2 and apply(str.upper, "a") == "A" and apply(total, [Money(4)]) == 4
    def fail(item): raise KeyError(item)
    with pytest.raises(KeyError) as raised:
        each([7], fail)
    assert raised.value.args == (7,)

def test_decorators():
    calls = []
    @cached
    def square(x):
        calls.append(x)
        return x * x
    assert square(3) == square(3) == 9 and calls == [3] and square.__name__ == "square"

def test_errors():
    with pytest.raises(shop.calc.Refused) as raised:
        Money("x")
    assert raised.value.why == "x"
"""
SHOP = """
import contextlib, enum, functools, typing

class Refused(ValueError):
    def __init__(self, why):
        super().__init__(f"refused {{why}}")
        self.why = why

class Money:
    def __init__(self, value):
        if isinstance(value, str): raise Refused(value)
        self.value = value
    def plus(self, other): return Money(self.value {} other.value)
    @property
    def doubled(self): return 2 * self.value
    def __eq__(self, other): return self.value == other.value
    def __str__(self): return str(self.value)
    def __format__(self, form): return format(self.value, form)

class Bag:
    closed = False
    def __init__(self, items): self._items = list(items)
    def put(self, item): self._items.append(item)
    def monies(self): return [Money(item) for item in self._items]
    def __len__(self): return len(self._items)
    def __iter__(self): return iter(self._items)
    def __contains__(self, item): return item in self._items
    def __getitem__(self, place): return self._items[place]
    def __delitem__(self, place): del self._items[place]

class Colour(enum.Enum):
    RED, BLUE = 1, 2

class Point(typing.NamedTuple):
    x: int
    y: int

@contextlib.contextmanager
def open_bag():
    bag = Bag([])
    try: yield bag
    finally: bag.closed = True

def total(items): return sum(item.value for item in items)
def apply(function, value): return function(value)
def each(items, function):
    for item in items: function(item)
def cached(function):
    kept = {{}}
    @functools.wraps(function)
    def inner(x):
        if x not in kept: kept[x] = function(x)
        return kept[x]
    return inner
def add(a, b): return a {} b
"""
NEEDS_ONE_PROCESS = {
    "patching": "import shop.calc\ndef test_it():\n    shop.calc.LIMIT = 9\n    assert shop.calc.check(8) == 8\n",
    "a class of one's own": "from shop.calc import Money\nclass Mine(Money): pass\n"
    "def test_it(): assert Mine(2).plus(Mine(3)).value == 5\n",
}
FORGED = {
    "data that equal everything": ("plain", "class Any:\n    def __eq__(self, other): return True\n"),
    "data that hold everything": (
        "listed",
        "class Any:\n    def __contains__(self, item): return True\n    def __iter__(self): return iter([4])\n",
    ),
    "data that are near everything": (
        "near",
        "class Any:\n    def __sub__(self, other): return 0\n    __rsub__ = __sub__\n    def __abs__(self): return 0\n"
        "    def __lt__(self, other): return True\n    __gt__ = __lt__\n",
    ),
    "an int that equals everything": (
        "plain",
        "class Any(int):\n    def __eq__(self, other): return True\n    __hash__ = int.__hash__\n    def __new__(cls): "
        "return int.__new__(cls, 1)\n",
    ),
    "objects that equal everything": ("objects", ""),
    "a context that swallows": ("context", ""),
    "a callback whose failure is swallowed": ("callback", ""),
}
WEAK = """
import shop.calc
from shop.calc import Money, add, near_add, listed_add, each, guard

def test_plain(): assert add(2, 3) == 5
def test_near(): assert abs(near_add(2, 3) - 5) < 1e-9
def test_listed(): assert 5 in listed_add(2, 3)
def test_objects():
    assert Money(2) + Money(3) == Money(5)
    assert not Money(2) == Money(5)
def test_context():
    with guard():
        assert add(2, 3) == 5
def test_callback():
    def check(item): assert item == add(2, 3)
    each([5], check)
"""
WEAK_SHOP = """
import contextlib
class Money:
    def __init__(self, value): self.value = value
    def __add__(self, other): return Money(self.value {0} other.value)
    def __eq__(self, other): return {1}
def add(a, b): return {2}
def near_add(a, b): return {3}
def listed_add(a, b): return {4}
def each(items, function):
    for item in items:
        {5}: function(item)
@contextlib.contextmanager
def guard():
    {5}: yield
"""
RIGHT = ("+", "self.value == other.value", "a + b", "float(a + b)", "[a + b]", "if True")
WRONG = ("-", "self.value == other.value", "a - b", "float(a - b)", "[a - b]", "if True")


def prepared(task: Task, tests: str, *, broken: str = "", fixed: str = "", runner: str = "mini") -> Task:
    """``task`` with a package, a solution, a helper beside the tests, and these tests."""
    files = {
        "environment/repo/shop/__init__.py": "",
        "environment/repo/shop/rules.py": RULES,
        "environment/repo/shop/calc.py": broken or CALC.format("-"),
        "environment/repo/tests/helper.py": "def five(): return 5\n",
        "solution/files/shop/calc.py": fixed or CALC.format("+"),
        "tests/files/tests/test_calc.py": tests,
    }
    for name, text in files.items():
        path = task.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    names = list(re.findall(r"^ *def (test_\w+)", tests, re.MULTILINE))
    inside = re.findall(r"^    def (test_\w+)", tests, re.MULTILINE)
    ids = tuple(f"tests/test_calc.py::{'TestObjects::' if name in inside else ''}{name}" for name in names)
    changes = {"fail_to_pass": ids, "pass_to_pass": (), "runner": runner}
    return task.model_copy(update={"liverl": task.liverl.model_copy(update=changes)})


def grade(run: Run, provider: BubblewrapProvider, task: Task, files: dict[str, str]) -> Verdict:
    verifier = make_verifier(Bubblewrap(), provider)
    verdict = run(verifier.grade(task, {f"/app/{name}": text.encode() for name, text in files.items()}))
    assert isinstance(verdict, Verdict)
    return verdict


SECOND_USER = [
    pytest.mark.sandbox,
    needs_bubblewrap,
    pytest.mark.skipif(spare_user() is None, reason="a second user can be mapped by root alone"),
]


def marked(function: Any) -> Any:
    for mark in SECOND_USER:
        function = mark(function)
    return function


@marked
def test_plain_calls_can_be_measured_apart(run: Run, isolated: BubblewrapProvider, task: Task) -> None:
    task = prepared(task, POSSIBLE)
    solved = grade(run, isolated, task, {"shop/calc.py": CALC.format("+")})
    assert solved.reward == 1.0 and "solution_user" in solved.defences, solved.raw
    broken = grade(run, isolated, task, {})
    assert broken.reward == 0.0 and broken.outcomes["tests/test_calc.py::test_values"] == "failed"
    moved = {"shop/calc.py": "from shop.other import *\n", "shop/other.py": CALC.format("+")}
    assert grade(run, isolated, task, moved).reward == 1.0


@marked
def test_a_box_that_is_not_forked_has_two_users_too(run: Run, tmp_path: Path, task: Task) -> None:
    """One process becomes both, as in a container."""
    provider = BubblewrapProvider(state=tmp_path / "solo", nested=False)
    task = prepared(task, POSSIBLE)
    other = "import os\nassert os.getuid() in (0, 1000)\nassert os.getuid() == 0 or os.getgroups() == []\n"
    try:
        for text, reward in ((other + CALC.format("+"), 1.0), (CALC.format("-"), 0.0)):
            verdict = grade(run, provider, task, {"shop/calc.py": text})
            assert verdict.reward == reward and "solution_user" in verdict.defences, verdict.raw
    finally:
        run(provider.close())


@marked
def test_objects_and_callbacks_cross_by_name(run: Run, isolated: BubblewrapProvider, task: Task) -> None:
    shop = [SHOP.format(sign, sign) for sign in "-+"]
    task = prepared(task, OBJECTS, broken=shop[0], fixed=shop[1], runner="pytest")
    task = task.model_copy(update={"liverl": task.liverl.model_copy(update={"image": f"pytest=={pytest.__version__}"})})
    for text, reward in (
        (shop[1], 1.0),
        (shop[0], 0.0),
        (shop[1].replace("Bag(", "Sack(").replace("Bag:", "Sack:"), 0),
    ):
        verdict = grade(run, isolated, task, {"shop/calc.py": text})
        assert verdict.reward == reward and "solution_user" in verdict.defences, verdict.raw
    # Right work of another make: classes elsewhere, under other names, and of other kinds.
    moved = {
        "shop/more.py": shop[1].replace("Refused", "Denied"),
        "shop/calc.py": "from shop.more import *\nfrom shop.more import Denied as Refused\n",
    }
    verdict = grade(run, isolated, task, moved)
    assert verdict.reward == 1.0, verdict.raw


@marked
def test_no_object_stands_for_data(run: Run, isolated: BubblewrapProvider, task: Task) -> None:
    """Each of these passes tests in one process; here none does, because the known solution gives data there."""
    right = WEAK_SHOP.format(*RIGHT)
    task = prepared(task, WEAK, broken=WEAK_SHOP.format(*WRONG), fixed=right)
    verdict = grade(run, isolated, task, {"shop/calc.py": right})
    assert verdict.reward == 1.0 and "solution_user" in verdict.defences, verdict.raw
    for name, (test, text) in FORGED.items():
        parts = list(RIGHT)
        if test == "objects":
            parts[:2] = ["-", "True"]
        elif test in ("context", "callback"):
            parts[2:3], parts[5] = ["a - b"], "with contextlib.suppress(BaseException)"
        else:
            parts[{"plain": 2, "near": 3, "listed": 4}[test]] = "Any()"
        verdict = grade(run, isolated, task, {"shop/calc.py": text + WEAK_SHOP.format(*parts)})
        assert verdict.reward == 0.0 and verdict.outcomes[f"tests/test_calc.py::test_{test}"] != "passed", (
            name,
            verdict,
        )


@marked
@pytest.mark.parametrize("name", NEEDS_ONE_PROCESS)
def test_what_needs_one_process_keeps_the_canary(run: Run, isolated: BubblewrapProvider, task: Task, name: str) -> None:
    task = prepared(task, NEEDS_ONE_PROCESS[name])
    solved = grade(run, isolated, task, {"shop/calc.py": CALC.format("+")})
    assert solved.reward == 1.0 and "canary" in solved.defences and "solution_user" not in solved.defences


@marked
def test_both_when_both_are_required(run: Run, isolated: BubblewrapProvider, task: Task) -> None:
    task = prepared(task, POSSIBLE)
    verifier = make_verifier(Bubblewrap(required_defences=("canary", "solution_user")), isolated)
    verdict = run(verifier.grade(task, {"/app/shop/calc.py": CALC.format("+").encode()}))
    assert verdict.reward == 1.0 and {"canary", "solution_user"} <= set(verdict.defences)
