"""Code that is nested deeper than Python's parser, or a walk over its tree, goes: one such file is left out, and ends
nothing."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from runtime.demonstrations.slips import is_python, slips_of
from runtime.grading.canary import _spoil_file, _used
from runtime.scaffolds.shell.own_tests import _parsed
from runtime.tasks.generate.functions import functions_of
from runtime.tasks.generate.mutate import mutants_of

FORMS = {
    "parentheses": lambda depth: "(" * depth + "x" + ")" * depth,
    "lists": lambda depth: "[" * depth + "x" + "]" * depth,
    "minus": lambda depth: "-" * depth + "x",
    "not": lambda depth: "not " * depth + "x",
    "sum": lambda depth: " + ".join(["x"] * depth),
    "power": lambda depth: " ** ".join(["x"] * depth),
    "calls": lambda depth: "x" + "()" * depth,
    "attributes": lambda depth: "x" + ".y" * depth,
    "lambdas": lambda depth: "lambda: " * depth + "x",
    "conditions": lambda depth: "x if x else " * depth + "x",
}


@pytest.mark.parametrize("depth", [80, 400, 3000, 100_000])
@pytest.mark.parametrize("form", FORMS)
def test_it_ends_nothing(form: str, depth: int) -> None:
    segment = f"def test_f(x):\n    assert x == {FORMS[form](depth)}\n"
    for function in functions_of("a.py", segment):
        mutants_of(function, segment)
    if is_python(segment):
        slips_of(segment)
    source = segment.encode()
    content, done = _spoil_file(source, None, random.Random(0))
    assert (content == source) == (not done)
    assert isinstance(_used(source), frozenset)


@pytest.mark.parametrize("form", FORMS)
def test_an_agents_own_tests_may_hold_it(tmp_path: Path, form: str) -> None:
    file = tmp_path / "test_a.py"
    file.write_text(f"x = {FORMS[form](100_000)}\n")
    tree, lines = _parsed(str(file))
    assert (tree is None) == (not lines)
