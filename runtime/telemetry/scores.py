"""Which metric names carry solve rates. The names are verl's (reference: verl 0.9.1, trainer/ppo/metric_utils.py)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from runtime.telemetry.metrics import Row

SCORE = "critic/score/mean"
"""Mean reward of the step's training trials."""

_VALIDATION = re.compile(r"^val-core/(?P<name>.+)/(?P<kind>reward|acc)/mean@(?P<n>\d+)$")


def validation_scores(row: Row) -> dict[str, float]:
    """Mean held-out reward by task set. ``reward`` rows win over ``acc`` rows of the same set (verl writes either or
    both)."""
    found: dict[str, tuple[bool, float]] = {}
    for name, value in row.data.items():
        match = _VALIDATION.match(name)
        if match and (match["kind"] == "reward" or match["name"] not in found):
            found[match["name"]] = (match["kind"] == "reward", value)
    return {name: value for name, (_, value) in found.items()}


@dataclass(frozen=True)
class BeforeAfter:
    """One task set's first score (before the first update) and its last, with the steps they were taken at."""

    name: str
    first_step: int
    first: float
    last_step: int
    last: float


def before_and_after(rows: list[Row]) -> list[BeforeAfter]:
    """For every validation set, in the order of first appearance."""
    found: dict[str, BeforeAfter] = {}
    for row in rows:
        for name, value in validation_scores(row).items():
            earlier = found.get(name)
            found[name] = (
                BeforeAfter(name, row.step, value, row.step, value)
                if earlier is None
                else BeforeAfter(name, earlier.first_step, earlier.first, row.step, value)
            )
    return list(found.values())
