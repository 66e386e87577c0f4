"""What a rule is, and words that several of them use."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

from compiler.errors import Path, Problem
from compiler.plan import Plan

Rule = Callable[[Plan], Iterator[Problem]]


def divisors(number: int) -> str:
    """Numbers that divide ``number``, for people; long lists are cut."""
    found = [candidate for candidate in range(1, min(number, 1 << 16) + 1) if number % candidate == 0]
    shown = found if len(found) <= 12 else [*found[:11], number]
    return ", ".join(map(str, shown))


def unreadable(value: object, place: Path, reader: Callable[[str], str]) -> Iterator[Problem]:
    """The texts in ``value`` that a reader of compiled files (``compiler.readers``) would take for something else."""
    if isinstance(value, str) and (why := reader(value)):
        yield Problem(place, f"{json.dumps(value, ensure_ascii=False)}: {why}", fix="choose another")
    elif isinstance(value, dict | list | tuple):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from unreadable(inner, (*place, key), reader)
