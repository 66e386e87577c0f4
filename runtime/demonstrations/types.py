"""What a demonstration is, as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Demonstration:
    """One conversation as tokens. ``loss_mask`` is 1 on the tokens that the policy is to write. ``package``: whose code
    was repaired; ``kind``: of bug; ``task``: a task's id, or the place of a function."""

    input_ids: Sequence[int]
    loss_mask: Sequence[int]
    package: str
    kind: str
    task: str


@dataclass(frozen=True)
class Edit:
    """A call of the tool ``edit_file``: ``old`` begins in ``line`` of the file, counted from 1."""

    path: str
    line: int
    old: str
    new: str


@dataclass(frozen=True)
class Shown:
    """Lines of a file that the agent has seen, counted from 1, both ends included."""

    path: str
    first: int
    last: int
