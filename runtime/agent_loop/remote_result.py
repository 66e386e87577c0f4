"""A trial that a worker in another process has played, as the manager knows it: everything but its tokens.

The tokens stay with the worker, in memory until its group has settled and in its journal; ``Place`` says where. The
trainer's own record of the trial is that place. Knows nothing of how workers are reached.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import orjson

from runtime.agent_loop.types import TrialResult

_MARK = b"\xff\xff\xff\xffplace"
"""No trial's bytes begin so (``trial_bytes``): they would say that their head has 4 GiB."""


@dataclass(frozen=True)
class Place:
    """A record of a worker's journal: ``size`` bytes from ``start`` of the file of this name."""

    file: str
    start: int
    size: int


@dataclass(frozen=True)
class RemoteResult(TrialResult):
    """``samples`` is empty: what is asked of them otherwise is said here."""

    worker: str = ""
    place: Place | None = None
    """None: not in a journal; with its worker it would be lost."""
    count: int = 0
    """Of its samples."""
    tokens: int = 0
    span: tuple[int, int] | None = None

    @property
    def has_samples(self) -> bool:
        return self.count > 0

    @property
    def trainable(self) -> bool:
        return self.reward is not None and not self.dropped and self.tokens > 0

    @property
    def weight_versions(self) -> tuple[int, int] | None:
        return self.span

    @property
    def completion_tokens(self) -> int:
        return self.tokens


def without_tokens(result: TrialResult, *, worker: str, place: Place | None) -> RemoteResult:
    """What travels of a trial."""
    known = {one.name: getattr(result, one.name) for one in fields(TrialResult) if one.name != "samples"}
    return RemoteResult(
        **known,
        worker=worker,
        place=place,
        count=len(result.samples),
        tokens=result.completion_tokens,
        span=result.weight_versions,
    )


def place_bytes(place: Place) -> bytes:
    """What the data buffer keeps of the trial."""
    return _MARK + orjson.dumps(place)


def place_of(payload: bytes) -> Place | None:
    """The place that a payload of the data buffer names; None where it is the trial itself."""
    return Place(**orjson.loads(payload[len(_MARK) :])) if payload.startswith(_MARK) else None
