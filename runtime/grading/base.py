"""Where the rest of the runtime meets verdicts: protocol and plain data, no implementation.

A ``Verifier`` turns the declared artifacts of a finished trial into a verdict, in another fresh sandbox.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from runtime.sandboxes.entries import Entry
from runtime.task import Task

TAMPERED_REWARD = -1.0
"""Less than for nothing done: a forger who guesses right one time in a few must lose by it on the whole."""


def solved_share(reward: float) -> float:
    """What a reward counts in a solve rate, 0 to 1: tampering costs more than failure in training alone."""
    return max(0.0, reward)


@dataclass(frozen=True)
class Verdict:
    """What the host computed from the verifier's report.

    ``reward`` is within [0, 1], or ``TAMPERED_REWARD``. ``outcomes`` maps each expected test id to passed, failed,
    error, skipped or missing. ``defences`` names what was in force; ``raw`` is the verifier's raw output, kept for the
    trial record.
    ``tampered``: the work passed tests that no honest work passes. What cannot be graded is no
    verdict but a ``TrialError``.
    """

    reward: float
    status: Literal["solved", "unsolved", "tampered"]
    outcomes: Mapping[str, str]
    defences: tuple[str, ...]
    seconds: float
    raw: bytes = b""
    reused: bool = False
    """Equal work on the task had been graded before (``reuse.py``)."""


class Verifier(Protocol):
    """Grades the artifacts of one trial.

    Raises ``TrialError`` (verifier boundary) when it cannot decide: that is no grade, never a 0.
    """

    async def grade(self, task: Task, artifacts: Mapping[str, Entry]) -> Verdict:
        """``artifacts``: path inside -> what the agent made of the pristine repository there (``difference.py``)."""

    async def close(self) -> None: ...
