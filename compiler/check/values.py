"""Rules about any value, wherever it stands."""

from __future__ import annotations

from collections.abc import Iterator

from compiler.check.rule import Rule
from compiler.errors import Path, Problem
from compiler.plan import Plan


def integers(plan: Plan) -> Iterator[Problem]:
    """Free-form fields take any number, and Jsonnet has rounded those that a double cannot hold."""

    def walk(value: object, path: Path) -> Iterator[Problem]:
        if isinstance(value, int) and abs(value) > 1 << 53:
            yield Problem(path, f"{value} is beyond 2^53 and has been rounded", "-2^53 to 2^53", "write it as a string")
        elif isinstance(value, dict | list):
            for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
                yield from walk(inner, (*path, key))

    yield from walk(plan.resolved, ())


RULES: tuple[Rule, ...] = (integers,)
