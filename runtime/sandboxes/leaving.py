"""What is being taken away while those who ask for it may be cancelled, once and again.

``asyncio.shield`` alone keeps the work going and forgets it: when the loop ends, nobody has waited for it, and a box
stays behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class Leaving:
    """For one event loop."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Future[Any]] = set()

    async def await_(self, work: Coroutine[Any, Any, Any]) -> None:
        """Wait for ``work``, which goes on where the caller is cancelled. Raises what it raises."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.shield(task)

    async def close(self) -> None:
        """Wait for all of it, however it ends."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
