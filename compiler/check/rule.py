"""What a rule is, and words that several of them use."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from compiler.errors import Problem
from compiler.plan import Plan

Rule = Callable[[Plan], Iterator[Problem]]


def divisors(number: int) -> str:
    """Numbers that divide ``number``, for people; long lists are cut."""
    found = [candidate for candidate in range(1, min(number, 1 << 16) + 1) if number % candidate == 0]
    shown = found if len(found) <= 12 else [*found[:11], number]
    return ", ".join(map(str, shown))
