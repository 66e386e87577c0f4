"""Mutants: each differs from its function in one place, compiles, and leaves every other character alone."""

from __future__ import annotations

import ast
import textwrap

import pytest

from runtime.tasks.generate.functions import functions_of, lines_of
from runtime.tasks.generate.mutate import Mutant, mutants_of
from runtime.tasks.generate.mutators import KINDS


def mutants(source: str, name: str = "f") -> list[Mutant]:
    function = next(function for function in functions_of("m.py", source) if function.name == name)
    return mutants_of(function, source)


def edits(body: str, kind: str, signature: str = "a, b") -> set[str]:
    """The last line of every mutant of one kind of a function with this body."""
    source = f"def f({signature}):\n" + textwrap.indent(textwrap.dedent(body).strip(), "    ") + "\n"
    return {mutant.segment for mutant in mutants(source) if mutant.kind == kind and mutant.segment != source}


@pytest.mark.parametrize(
    ("kind", "body", "expected"),
    [
        ("comparison", "return a < b", "return a <= b"),
        ("comparison", "return a is not None", "return a is None"),
        ("comparison", "return a not in b", "return a in b"),
        ("arithmetic", "return a + b", "return a - b"),
        ("arithmetic", "a += b", "a -= b"),
        ("boolean", "return a and b", "return a or b"),
        ("dropped_not", "return not a", "return a"),
        ("negated_condition", "if a:\n    return b", "if not a:"),
        ("constant", "return a[3]", "return a[4]"),
        ("constant", "return True", "return False"),
        ("string", "return b.join('')", "return b.join(' ')"),
        ("off_by_one", "return a[:b]", "return a[:b - 1]"),
        ("swapped_arguments", "return g(a, b)", "return g(b, a)"),
        ("missing_argument", "return g(a, b)", "return g(a)"),
        ("sibling_call", "return a.lstrip(b)", "return a.rstrip(b)"),
        ("wrong_return", "return a, b", "return b, a"),
        ("wrong_return", "return g(a)", "return None"),
        ("swapped_branches", "return 1 if g() else 2", "return 2 if g() else 1"),
        ("loop_control", "for x in a:\n    break", "continue"),
        ("wrong_exception", "try:\n    g()\nexcept KeyError:\n    pass", "except IndexError:"),
        ("missing_statement", "a.append(b)\nreturn a", "def f(a, b):\n    return a"),
        ("wrong_variable", "return g(a)", "return g(b)"),
    ],
)
def test_every_kind(kind: str, body: str, expected: str) -> None:
    assert any(expected in edit for edit in edits(body, kind)), edits(body, kind)


def test_default() -> None:
    assert "def f(a=2):\n    return a\n" in edits("return a", "default", "a=1")


def test_each_registered_kind_has_a_line_for_people() -> None:
    assert len(KINDS) >= 15
    assert all(KINDS.values())


SOURCE = '''import os


class Box:
    """A box."""

    @property
    @staticmethod
    def f(a: int = 3, *, b=(1,
                            2)) -> int:  # why
        """Doc with 1 < 2."""
        text = """
unindented 7
"""
        if a < len(text) and not b:  # keep me
            return g(
                a,
                key=lambda x: x + 1,
            )
        raise ValueError("no 5")


def other():\f
    return 1
'''


def test_a_mutant_changes_one_place_of_its_function_alone() -> None:
    found = mutants(SOURCE)
    assert len(found) > 5
    (function,) = {mutant.function for mutant in found}
    assert (function.qualified_name, function.start) == ("Box.f", 7)
    before = lines_of(SOURCE)
    for mutant in found:
        after = mutant.apply(SOURCE)
        ast.parse(after)
        lines = lines_of(after)
        assert lines[: function.start - 1] == before[: function.start - 1]
        assert lines[-(len(before) - function.end) :] == before[function.end :]
        changed = [i for i, (x, y) in enumerate(zip(before, lines, strict=False)) if x != y]
        assert changed[0] == mutant.line - 1
        for kept in ('"""Doc with 1 < 2."""', 'raise ValueError("no 5")', "a: int", "# keep me", "# why"):
            assert kept in after
    assert len({mutant.segment for mutant in found}) == len(found)


def test_lines_of_a_call_keep_their_indentation() -> None:
    (mutant,) = [m for m in mutants(SOURCE) if m.kind == "missing_argument"]
    assert "            return g(\n                a,\n            )\n" in mutant.segment


def test_functions_hidden_in_branches_and_classes_are_found() -> None:
    source = "if True:\n    def a(): return 1\nclass C:\n    class D:\n        async def b(self): pass\n"
    assert [function.qualified_name for function in functions_of("m.py", source)] == ["a", "C.D.b"]


@pytest.mark.parametrize("source", ["def f(:", "def f():\n    '''only a docstring'''\n", "\0"])
def test_nothing_to_mutate(source: str) -> None:
    assert functions_of("m.py", source) == []
