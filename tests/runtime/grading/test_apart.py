"""Plain data across processes, and which tests can be run with their code in another one."""

from __future__ import annotations

import math
import socket
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


@pytest.mark.parametrize("value", [Number(3), object(), len, [Number(1)], {1: {2: Number(3)}}, type, range(3)])
def test_nothing_else_crosses(value: object) -> None:
    with pytest.raises(plain.NotPlain):
        plain.encode(value)


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
NEEDS_ONE_PROCESS = {
    "classes": "from shop.calc import Money\ndef test_it(): assert Money(2).plus(Money(3)).value == 5\n",
    "callbacks": "from shop.calc import apply\ndef test_it(): assert apply(lambda x: x + 1, 1) == 2\n",
    "patching": "import shop.calc\ndef test_it():\n    shop.calc.LIMIT = 9\n    assert shop.calc.check(8) == 8\n",
}


def prepared(task: Task, tests: str) -> Task:
    """``task`` with a package, a solution, a helper beside the tests, and these tests."""
    files = {
        "environment/repo/shop/__init__.py": "",
        "environment/repo/shop/rules.py": RULES,
        "environment/repo/shop/calc.py": CALC.format("-"),
        "environment/repo/tests/helper.py": "def five(): return 5\n",
        "solution/files/shop/calc.py": CALC.format("+"),
        "tests/files/tests/test_calc.py": tests,
    }
    for name, text in files.items():
        path = task.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    names = [line.partition("(")[0].removeprefix("def ") for line in tests.splitlines() if line.startswith("def test_")]
    ids = tuple(f"tests/test_calc.py::{name}" for name in names)
    return task.model_copy(update={"liverl": task.liverl.model_copy(update={"fail_to_pass": ids, "pass_to_pass": ()})})


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
    other = "import os\nassert os.getuid() == 1000 and os.getgroups() == []\n"
    try:
        for text, reward in ((other + CALC.format("+"), 1.0), (CALC.format("-"), 0.0)):
            verdict = grade(run, provider, task, {"shop/calc.py": text})
            assert verdict.reward == reward and "solution_user" in verdict.defences, verdict.raw
    finally:
        run(provider.close())


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
