"""No kind of bug is more than its share."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

_T = TypeVar("_T")


def capped(items: Sequence[_T], kind: Callable[[_T], str], share: float) -> list[_T]:
    """The longest beginning of every kind with which none is more than ``share`` of all. Fewer kinds than that allows
    (ten for a tenth) can only be all of one size: then the rarest decides."""
    counts = Counter(map(kind, items))
    if not counts:
        return []
    # The largest number per kind that is at most its share of what such a limit leaves.
    if len(counts) * share <= 1:
        limit = min(counts.values())
    else:
        sizes = range(1, max(counts.values()) + 1)
        fitting = [size for size in sizes if size <= math.floor(share * _left(counts, size) + 1e-9)]
        limit = max(fitting, default=min(counts.values()))
    taken: Counter[str] = Counter()
    kept = []
    for item in items:
        taken[kind(item)] += 1
        if taken[kind(item)] <= limit:
            kept.append(item)
    return kept


def _left(counts: Counter[str], limit: int) -> int:
    return sum(min(count, limit) for count in counts.values())
