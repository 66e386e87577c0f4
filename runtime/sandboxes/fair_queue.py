"""Whose sandbox comes next: a bounded number of places, shared evenly by the runs that want some, in order within each.

A free place goes to the waiting run that holds the fewest; among equals to the one that was served longest ago. So a
run that asks for thousands at once delays another's first by one place. It does not know what takes the places.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from dataclasses import dataclass, field


@dataclass
class _Run:
    held: int = 0
    served: int = -1
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)


class FairQueue:
    """``places`` at once; None: no bound, and nobody waits. For one event loop."""

    def __init__(self, places: int | None) -> None:
        assert places is None or places > 0
        self._free = places
        self._runs: dict[str, _Run] = {}
        self._clock = itertools.count()

    @property
    def waiting(self) -> int:
        return sum(len(run.waiting) for run in self._runs.values())

    def held(self, run: str) -> int:
        return self._runs[run].held if run in self._runs else 0

    async def acquire(self, run: str) -> None:
        """Wait for a place. A cancelled wait takes none."""
        one = self._runs.setdefault(run, _Run())
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        one.waiting.append(future)
        self._serve()
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.release(run)  # it had been given the place in the same moment
            else:
                if future in one.waiting:
                    one.waiting.remove(future)
                self._tidy(run)
            raise

    def release(self, run: str) -> None:
        """Give a place back."""
        one = self._runs[run]
        one.held -= 1
        assert one.held >= 0
        if self._free is not None:
            self._free += 1
        self._tidy(run)
        self._serve()

    def _serve(self) -> None:
        while self._free is None or self._free > 0:
            wanting = [run for run in self._runs.values() if run.waiting]
            if not wanting:
                return
            run = min(wanting, key=lambda run: (run.held, run.served))
            future = run.waiting.popleft()
            if future.done():  # cancelled in this moment
                continue
            run.held += 1
            run.served = next(self._clock)
            if self._free is not None:
                self._free -= 1
            future.set_result(None)

    def _tidy(self, run: str) -> None:
        """A run that holds and wants nothing is forgotten; should it come back, it has waited longest."""
        one = self._runs.get(run)
        if one is not None and not one.held and not one.waiting:
            del self._runs[run]
