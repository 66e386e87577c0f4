"""Whether the agents of a batch work at all. Where every one of them dies, no policy is measured: the run must stop.

One agent may die of what its policy did, and is graded like any other. All of them at once die of what they were given.
Knows ends of trials, nothing of trainers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from runtime.errors import Termination

FEWEST = 2
"""Trials that make a batch: one death alone says nothing."""


class Ended(Protocol):
    """What is looked at of a trial; ``TrialResult`` has it."""

    @property
    def termination(self) -> Termination: ...

    @property
    def reward(self) -> float | None: ...

    @property
    def cause(self) -> str | None: ...


@dataclass(frozen=True)
class End:
    """A trial of which only its record is left."""

    termination: Termination
    reward: float | None
    cause: str | None


def why_all_died(trials: Sequence[Ended]) -> str | None:
    """What to tell a person when every trial ended with a dead agent or without a grade, and at least one with a dead
    agent; else None. Batches in which nothing was graded for other reasons are the trainer's to refuse."""
    died = [one for one in trials if one.termination is Termination.AGENT_DIED]
    ungraded = sum(one.reward is None for one in trials)
    if len(trials) < FEWEST or not died or len(died) + ungraded < len(trials):
        return None
    causes = Counter(" ".join(one.cause.split()) for one in died if one.cause)
    cause = f"; most often: {causes.most_common(1)[0][0]}" if causes else ""
    rest = f", {ungraded} trials had no grade" if ungraded else ""
    return f"every agent died ({len(died)} of {len(trials)} trials{rest}){cause}"
