"""Values that are found out once and then known, whoever asks and whoever gives up waiting. Knows nothing of tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")


class Once(Generic[_K, _V]):
    """For one event loop."""

    def __init__(self) -> None:
        self._tasks: dict[_K, asyncio.Task[_V]] = {}

    async def get(self, key: _K, make: Callable[[], Coroutine[Any, Any, _V]]) -> _V:
        """What ``make`` gives, made by a task of its own: a verdict that is given up does not end it, and the next
        finds it done. A failure is not kept."""
        task = self._tasks.get(key)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self._tasks[key] = asyncio.ensure_future(make())
            task.add_done_callback(_looked_at)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """End what is still on its way."""
        running = [task for task in self._tasks.values() if not task.done()]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def _looked_at(task: asyncio.Task[Any]) -> None:
    """So that a failure which nobody waits for any more is none of the event loop's business."""
    if not task.cancelled():
        task.exception()
