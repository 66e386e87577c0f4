"""First looks, one for all trials of a task: its repository and tests are the same for each.

The first trial of a task looks, in its own box and before its model has said anything; the others are told what it saw.
Does not know how one looks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

KEPT = 4096
"""Texts of some thousand characters each; the oldest go."""


class Looks:
    """For one event loop."""

    def __init__(self) -> None:
        self._found: dict[str, asyncio.Future[str | None]] = {}

    async def of(self, task: str, look: Callable[[], Awaitable[str | None]], *, timeout_sec: float) -> str | None:
        """What ``look`` of this or another trial of the task gave. None: it failed, or others took longer than
        ``timeout_sec``; each trial then looks for itself, and the next one tries again."""
        known = self._found.get(task)
        if known is not None:
            if not known.done():
                await asyncio.wait({known}, timeout=timeout_sec)
            return known.result() if known.done() else None
        mine: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._found[task] = mine
        found = None
        try:
            found = await look()
        finally:
            mine.set_result(found)
            if found is None and self._found.get(task) is mine:
                del self._found[task]
        while len(self._found) > KEPT:
            self._found.pop(next(iter(self._found)))
        return found
