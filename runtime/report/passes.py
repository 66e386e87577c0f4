"""pass@k of an evaluation, with intervals.

Of n trials of a task, c of them solved, 1 - C(n - c, k) / C(n, k) is the unbiased estimate of solving it in k trials
(Chen et al. 2021, arXiv 2107.03374); a mean of such over tasks has a bootstrap interval, drawn over tasks. Knows
rewards, nothing of runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_DRAWS = 10_000
SOLVED = 0.999
"""A reward from here on is a solved task."""


@dataclass(frozen=True)
class PassAt:
    """``tasks``: those with at least k graded trials; others say nothing of k. ``low``, ``high``: 95 % interval."""

    k: int
    tasks: int
    value: float
    low: float
    high: float


def pass_at(trials: int, solved: int, k: int) -> float:
    """Unbiased estimate for one task.

    >>> [round(pass_at(4, 1, k), 3) for k in (1, 2, 4)]
    [0.25, 0.5, 1.0]
    """
    if not 0 <= solved <= trials or not 1 <= k <= trials:
        raise ValueError(f"{solved} solved of {trials}, k = {k}")
    return 1.0 - math.comb(trials - solved, k) / math.comb(trials, k)


def passes(rewards: Mapping[str, Sequence[float]], k: int, *, seed: int = 0) -> PassAt | None:
    """Over all tasks with k graded trials (task -> rewards); None where there are none."""
    values = np.array(
        [pass_at(len(one), sum(reward >= SOLVED for reward in one), k) for one in rewards.values() if len(one) >= k]
    )
    if not len(values):
        return None
    draws = np.random.default_rng(seed).integers(0, len(values), size=(_DRAWS, len(values)))
    low, high = np.quantile(values[draws].mean(axis=1), [0.025, 0.975])
    return PassAt(k, len(values), float(values.mean()), float(low), float(high))
