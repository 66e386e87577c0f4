"""Where demonstrations begin in a pack, for attention that lets none see another
(``runtime/trainer/cuda/varlen.py``)."""

from __future__ import annotations

from itertools import pairwise

import torch

BOUNDS_STEP = 64
"""Boundaries come in multiples of it: as few shapes as possible."""
SHORTEST = 256
"""Lengths are rounded up to this times a power of two, for the same reason."""


def bounds_of(positions: torch.Tensor, *, padding: int) -> tuple[torch.Tensor, int]:
    """Cumulative lengths of what lies in a pack, and a bound on them; the padding behind it is cut into pieces that are
    no longer."""
    total = len(positions)
    starts = (positions == 0).nonzero()[:, 0].tolist()
    longest = SHORTEST
    while longest < max(end - start for start, end in pairwise([*starts, total])):
        longest *= 2
    bounds = [*starts, *range(total, total + padding, longest), total + padding]
    bounds += [total + padding] * (-len(bounds) % BOUNDS_STEP)
    return torch.tensor(bounds, dtype=torch.int32), longest
