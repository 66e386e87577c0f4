"""One generated repository: a package of a few modules, its tests, and one bug that some of those tests see.

Pure: (seed, split, number) -> files in memory. Knows nothing of directories or of the task format.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from runtime.laptop.synth.bugs import Bug, bugs, draw_family
from runtime.laptop.synth.grammar import Function, Writer, structure_split
from runtime.laptop.synth.words import Split, nouns, numbers

NUM_MODULES: Final = 2
FUNCTIONS_PER_MODULE: Final = 2
TESTS_PER_FUNCTION: Final = 4
LARGEST_RESULT: Final = 9_999


@dataclass(frozen=True)
class Repository:
    """``broken`` is what the agent gets; ``repaired`` holds the one file that differs in the right version."""

    name: str
    family: str
    tool: str
    broken: Mapping[str, str]
    repaired: Mapping[str, str]
    tests: Mapping[str, str]
    fail_to_pass: tuple[str, ...]
    pass_to_pass: tuple[str, ...]
    structures: tuple[str, ...]
    line: int
    """1-based line of the bug in the repaired file."""


@dataclass(frozen=True)
class _Case:
    arguments: tuple[int | bool, ...]
    want: int


def build(split: Split, *, seed: int, number: int, families: Mapping[str, float] | None = None) -> Repository:
    """The ``number``-th repository of a split: drafts until one can carry a bug of the drawn family that tests see.

    ``families`` as in ``draw_family``.
    """
    rng = random.Random(f"{seed}/{split}/{number}")
    family = draw_family(rng, families)
    while True:
        draft = _draft(rng, split, family)
        if draft is not None:
            return draft


def _draft(rng: random.Random, split: Split, family: str) -> Repository | None:
    pool = nouns(split)
    rng.shuffle(pool)
    package = pool.pop()
    modules: dict[str, list[Function]] = {}
    for _ in range(NUM_MODULES):
        module = pool.pop()
        functions: list[Function] = []
        while len(functions) < FUNCTIONS_PER_MODULE:
            writer = Writer(rng, pool[:40], numbers(split))
            function = writer.function(f"{rng.choice(pool)}_{rng.choice(pool)}")
            if structure_split(function.structure) == split and function.name not in [
                other.name for other in functions
            ]:
                functions.append(function)
        modules[module] = functions
    module = rng.choice(sorted(modules))
    function = rng.choice(modules[module])
    choices = bugs(function, family)
    if not choices:
        return None
    bug = rng.choice(choices)
    tests: dict[str, str] = {}
    failing: list[str] = []
    passing: list[str] = []
    for name, functions in modules.items():
        lines = [f"from {package}.{name} import {', '.join(item.name for item in functions)}", ""]
        for item in functions:
            cases = _cases(rng, item, bug if item is function else None, numbers(split))
            if cases is None:
                return None
            for index, (case, broken) in enumerate(cases):
                call = f"{item.name}({', '.join(map(repr, case.arguments))})"
                lines += ["", f"def test_{item.name}_{index}():", f"    assert {call} == {case.want}", ""]
                (failing if broken else passing).append(f"tests/test_{name}.py::test_{item.name}_{index}")
        tests[f"tests/test_{name}.py"] = "\n".join(lines).rstrip() + "\n"
    right = {f"{package}/{name}.py": _module(functions) for name, functions in modules.items()}
    path = f"{package}/{module}.py"
    offset = sum(len(item.source()) + 2 for item in modules[module][: modules[module].index(function)])
    text = right[path].splitlines()
    text[offset + bug.index] = bug.text
    broken_files = {f"{package}/__init__.py": "", **right, path: "\n".join(text) + "\n"}
    return Repository(
        name=package,
        family=family,
        tool=bug.tool,
        broken=broken_files,
        repaired={path: right[path]},
        tests=tests,
        fail_to_pass=tuple(failing),
        pass_to_pass=tuple(passing),
        structures=tuple(item.structure for items in modules.values() for item in items),
        line=offset + bug.index + 1,
    )


def _module(functions: Sequence[Function]) -> str:
    return "\n\n\n".join("\n".join(function.source()) for function in functions) + "\n"


def _compile(source: Sequence[str], name: str) -> Callable[..., object]:
    scope: dict[str, Callable[..., object]] = {}
    exec(compile("\n".join(source), "<draft>", "exec"), scope)
    return scope[name]


def _call(function: Callable[..., object], arguments: Sequence[int | bool]) -> int | None:
    """The function's result, or None if it raises or leaves the range of readable numbers."""
    try:
        result = function(*arguments)
    except (ArithmeticError, UnboundLocalError, TypeError):
        return None
    return result if isinstance(result, int) and abs(result) <= LARGEST_RESULT else None


def _cases(
    rng: random.Random, function: Function, bug: Bug | None, values: Sequence[int]
) -> list[tuple[_Case, bool]] | None:
    """Tests of one function, with whether the bug breaks each: at least one broken if there is a bug, else None."""
    source = function.source()
    wrong = [*source[: bug.index], bug.text, *source[bug.index + 1 :]] if bug else source
    right, broke = _compile(source, function.name), _compile(wrong, function.name)
    near = [value for threshold in function.thresholds for value in (threshold,)] or list(values[:3])
    found: dict[tuple[int | bool, ...], tuple[_Case, bool]] = {}
    broken = 0
    for _ in range(60):
        arguments = tuple(
            rng.random() < 0.5 if name in function.flags else rng.choice(near if rng.random() < 0.4 else values[:9])
            for name in function.parameters
        )
        want, got = _call(right, arguments), _call(broke, arguments)
        if want is None or (bug is not None and got is None) or arguments in found:
            continue
        differs = got != want
        if (
            bug is not None
            and bug.family == "constant"
            and differs
            and got is not None
            and (got > want) != (bug.tool == "lower")
        ):
            continue
        if bug is not None and not differs and len(found) - broken >= TESTS_PER_FUNCTION - 1:
            continue
        found[arguments] = (_Case(arguments, want), differs)
        broken += differs
        if len(found) >= TESTS_PER_FUNCTION and (bug is None or broken):
            break
    if len(found) < TESTS_PER_FUNCTION or (bug is not None and not broken):
        return None
    kept = list(found.values())[:TESTS_PER_FUNCTION]
    if bug is not None and not any(differs for _, differs in kept):
        kept[-1] = next(item for item in found.values() if item[1])
    return kept
