"""Which metric names carry solve rates. The names are verl's (reference: verl 0.9.1, trainer/ppo/metric_utils.py)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from runtime.telemetry.metrics import Row

SCORE = "critic/score/mean"
"""Mean reward of the step's training trials."""

MIXED, GROUPS = "groups/mixed", "groups/total"
"""Groups of a step whose trials were rewarded differently, and all of them: only from the former a policy learns what
to prefer."""
NOTHING_LEARNT = "no group differed: nothing was learnt"

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


def learnt_nothing(row: Row) -> bool:
    """Whether the step's groups were each rewarded alike: their advantages are zero."""
    return row.data.get(GROUPS, 0.0) > 1 and row.data.get(MIXED) == 0.0


def idle_steps(rows: list[Row]) -> tuple[int, int]:
    """(steps from which nothing was learnt, steps that had groups)."""
    trained = [row for row in rows if MIXED in row.data]
    return sum(learnt_nothing(row) for row in trained), len(trained)


def idle_words(rows: list[Row]) -> str:
    """The steps from which nothing was learnt, and what to do about it; "" where there are none."""
    idle, steps = idle_steps(rows)
    if not idle:
        return ""
    which = f"in all {steps} steps" if idle == steps else f"in {idle} of {steps} steps"
    return (
        f"{NOTHING_LEARNT} {which}: all trials of a task got the same reward. Larger groups (algorithm.group_size),"
        " more tasks a step (schedule.train_batch_size), or tasks that the policy solves now and then would help"
    )


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
