"""Spoiled tests: valid Python, failed by the code that passes the originals, one changed statement each."""

import ast
import contextlib
import random
import unittest
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.grading.canary import spoil, spoil_all

# ruff: noqa: E501 - programs

SHAPES = {
    "a number": "def test_it():\n    assert twice(2) == 4\n",
    "a text": "def test_it():\n    assert twice('a') == 'aa'\n",
    "the other way round": "def test_it():\n    assert 4 == twice(2)\n",
    "a list": "def test_it():\n    assert [twice(2)] == [4]\n",
    "a negative number": "def test_it():\n    assert twice(-2) == -4\n",
    "true": "def test_it():\n    assert twice(1)\n",
    "with a message": "def test_it():\n    assert twice(2) == 4, 'why'\n",
    "over lines": "def test_it():\n    assert (\n        twice(2)\n        == 4  # four\n    )\n",
    "on one line": "def test_it(): assert twice(2) == 4\n",
    "no assertion": "def test_it():\n    check(twice(2), 4)\n",
    "no assertion, on one line": "def test_it(): check(twice(2), 4)\n",
    "a loop that may be empty": "def test_it():\n    for n in range(2, 3):\n        assert twice(n) == 4\n",
    "a loop over values": "def test_it():\n    for n in (2, 2):\n        assert twice(n) == 4\n",
    "an early end": "def test_it():\n    if twice(2) == 4:\n        return\n    assert twice(2) == 5\n",
    "an error": "def test_it():\n    with raises.raises(TypeError):\n        twice(None)\n",
    "unittest": "class TestIt(unittest.TestCase):\n    def test_it(self):\n        self.assertEqual(twice(2), 4)\n",
    "other letters": "def test_it():\n    żółć = 'żółć'; assert twice('ż') == 'żż' and żółć\n",
    "a function inside": "def test_it():\n    def inner(): return 4\n    assert twice(2) == inner()\n",
    "a conditional error": "def test_it():\n    with expectation:\n        assert twice(2) == 4\n",
    "an error that is expected": "def test_it():\n    with raises.raises(TypeError) as caught:\n        twice(None)\n    "
    "assert caught\n",
    "something swallowed": "def test_it():\n    with swallowing():\n        twice(None)\n        assert twice(2) == 4\n",
    "a loop over nothing": "def test_it():\n    for n in []:\n        assert twice(n) == 4\n",
    "a list of nothing": "def test_it():\n    for n in [*()]:\n        assert twice(n) == 4\n    assert twice(1) == 2\n",
    "an else": "def test_it():\n    try:\n        twice(None)\n    except TypeError:\n        return\n    assert False\n",
    "tolerance": "def test_it():\n    assert 4 == approx(twice(2), abs=9)\n",
    "a docstring": 'def test_it():\n    """Doc."""\n    assert twice(2) == 4\n',
}


def check(left: object, right: object) -> None:
    if left != right:
        raise AssertionError


class _Raises:
    raises = staticmethod(pytest.raises)


def run(source: str, *, failing: bool = False) -> None:
    names: dict[str, Any] = {
        "twice": lambda value: value + value,
        "check": check,
        "unittest": unittest,
        "raises": _Raises,
        "approx": pytest.approx,
        "expectation": pytest.raises(TypeError) if failing else contextlib.nullcontext(),
        "swallowing": lambda: contextlib.suppress(TypeError),
    }
    exec(compile(source, "test_it.py", "exec"), names)
    if "TestIt" in names:
        result = unittest.TestResult()
        names["TestIt"]("test_it").run(result)
        assert result.wasSuccessful()
    else:
        names["test_it"]()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(6))
def test_what_passes_the_original_fails_the_spoiled(shape: str, seed: int) -> None:
    source = SHAPES[shape]
    run(source)
    name = "TestIt::test_it" if "class" in source else "test_it"
    canary = spoil({"tests/test_it.py": source.encode()}, [f"tests/test_it.py::{name}"], seed)
    assert canary.ids == (f"tests/test_it.py::{name}",)
    spoiled = canary.files["tests/test_it.py"].decode()
    assert spoiled != source
    with pytest.raises((AssertionError, TypeError)):
        run(spoiled)


@pytest.mark.parametrize("seed", range(12))
def test_an_exception_that_is_expected_makes_no_look_alike_pass(seed: int) -> None:
    """pytest's documented way to expect an exception for some parameters: what is inside is then not reached."""
    source = "def test_it():\n    with expectation:\n        assert twice(None) == 4\n        assert twice(2) == 4\n"
    run(source, failing=True)
    canary = spoil({"t.py": source.encode()}, ["t.py::test_it"], seed)
    with pytest.raises((AssertionError, TypeError)):
        run(canary.files["t.py"].decode(), failing=True)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("expected", ["4", "[4]", "twice(2)", "{'a': 4}"])
def test_what_equals_everything_passes_the_look_alike_too(seed: int, expected: str) -> None:
    class Everything:
        def __eq__(self, other: object) -> bool:
            return True

    source = f"def test_it():\n    assert made() == {expected}\n"
    canary = spoil({"t.py": source.encode()}, ["t.py::test_it"], seed)
    names: dict[str, Any] = {"made": Everything, "twice": lambda value: value + value}
    exec(canary.files["t.py"].decode(), names)
    names["test_it"]()


@pytest.mark.parametrize("decorator", ["@retried", "@settings", "@pytest.fixture", "@functools.cache"])
def test_what_a_decorator_may_make_of_a_test_is_not_guessed(decorator: str) -> None:
    assert spoil({"t.py": f"{decorator}\ndef test_it(): assert 1 == 1\n".encode()}, ["t.py::test_it"], 0).ids == ()


def test_parametrised_ids_share_a_function() -> None:
    source = b"@parametrize('x', [1, 2])\ndef test_it(x):\n    assert twice(x) == x + x\n"
    ids = ["t.py::test_it[1]", "t.py::test_it[2]", "t.py::test_gone", "u.py::test_it"]
    assert spoil({"t.py": source}, ids, 0).ids == tuple(ids[:2])


@pytest.mark.parametrize("decorator", ["@pytest.mark.xfail", "@given(x)", "@pytest.mark.flaky(reruns=2)"])
def test_tests_of_uncertain_end_are_left_alone(decorator: str) -> None:
    assert spoil({"t.py": f"{decorator}\ndef test_it(): assert 1 == 1\n".encode()}, ["t.py::test_it"], 0).ids == ()


@pytest.mark.parametrize("source", [b"def test_it(:", b"\xff\xfe", b"", b"\0"])
def test_what_is_no_python_has_no_canary(source: bytes) -> None:
    assert spoil({"t.py": source}, ["t.py::test_it"], 0).files == {}
    assert spoil_all(source, 0) is None


@given(st.lists(st.sampled_from(sorted(SHAPES)), min_size=1, max_size=6), st.integers(0, 1 << 32))
def test_every_mixture_stays_python_and_keeps_its_names(shapes: list[str], seed: int) -> None:
    parts = [
        SHAPES[shape].replace("test_it", f"test_{n}").replace("TestIt", f"Test{n}") for n, shape in enumerate(shapes)
    ]
    source = "\n".join(parts)
    random.Random(seed).shuffle(parts)
    spoiled = spoil_all(source.encode(), seed)
    assert spoiled is not None
    names: Callable[[str], list[str]] = lambda text: [  # noqa: E731
        node.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)
    ]
    assert names(spoiled.decode()) == names(source)


STANDING = {
    "a call": ("", "def test_b():\n    test_a()\n"),
    "a call in a method": ("", "class TestB:\n    def test_b(self):\n        test_a()\n"),
    "an alias": ("", "test_b = test_a\n"),
    "by name": ("", "def test_b():\n    globals()['test_a']()\n"),
    "a module's": ("from . import test_one", "def test_b():\n    test_one.test_a()\n"),
    "taken from elsewhere": ("from test_one import test_a", "def test_b():\n    assert 1\n"),
    "everything from elsewhere": ("from pkg.test_one import *", "def test_b():\n    assert 1\n"),
}


@pytest.mark.parametrize("case", STANDING)
def test_a_test_on_which_others_stand_is_left_as_it_is(case: str) -> None:
    """toolz calls its tests from other tests: a look-alike of the first would fail honest work in the second."""
    imports, more = STANDING[case]
    first = "def test_a(flag=False):\n    assert 1 + 1 == 2\n\n\ndef test_free():\n    assert 1 + 1 == 2\n\n\n"
    first += "if __name__ == '__main__':\n    test_free()\n"
    whole = not imports
    sources = {"test_one.py": (first + more if whole else first).encode()}
    sources |= {} if whole else {"test_two.py": f"{imports}\n{more}".encode()}
    ids = ["test_one.py::test_a", "test_one.py::test_free"]
    left = () if "import *" in imports else ("test_one.py::test_free",)
    assert spoil(sources, ids, 1).ids == left


def test_a_class_from_which_others_derive_is_left_as_it_is() -> None:
    source = b"class TestA:\n    def test_x(self):\n        assert 1 == 1\n\n\nclass TestB(TestA):\n    pass\n"
    assert spoil({"t.py": source}, ["t.py::TestA::test_x", "t.py::TestB::test_x"], 1).ids == ()
