"""How much of a package's functions and tests its tasks are made of. Plain data; the defaults are the spec's."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Caps:
    """``per_function``: bugs of one function, for variety over numbers; ``tests``: of one task, the most specific
    first; ``slow_sec``: tests that take longer are left out, because they would set the price of every verdict. The
    time that a test waits for a processor does not count.
    """

    per_function: int = 4
    tests: int = 30
    slow_sec: float = 0.5


DEFAULT = Caps()
