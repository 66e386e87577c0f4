"""Seconds that a trial waits for a place among sandboxes, told to whoever measures it: no part of a box's start.

Whoever waits on behalf of somebody does not know who that is, however many calls lie between the two.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass
class Waited:
    seconds: float = 0.0


_WAITED: ContextVar[Waited | None] = ContextVar("liverl_waited", default=None)


@contextmanager
def waiting_measured() -> Iterator[Waited]:
    """What is waited for a place inside of the block, also by the tasks that it starts."""
    waited = Waited()
    token = _WAITED.set(waited)
    try:
        yield waited
    finally:
        _WAITED.reset(token)


def has_waited(seconds: float) -> None:
    """Said by who keeps the places."""
    waited = _WAITED.get()
    if waited is not None:
        waited.seconds += seconds
