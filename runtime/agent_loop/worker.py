"""An agent-loop worker: plays the trials that it is given, keeps their tokens until their groups have settled, and
publishes what it is told to.

One process holds one, with a proxy, sandboxes and a journal of its own. Knows neither groups nor other workers, nor how
orders reach it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from runtime.agent_loop.remote_result import RemoteResult, without_tokens
from runtime.agent_loop.trial_journal import TrialJournal
from runtime.agent_loop.types import TrialKey, TrialResult
from runtime.task import Task, load_task

log = logging.getLogger(__name__)

MOST_ROUTED_BYTES = 1 << 30
"""Of a journal, beyond which trials with a mixture's experts are not kept: they are a hundred times the size of their
tokens."""

Publish = Callable[[Mapping[str, Any], Sequence[TrialResult], str], Awaitable[None]]
"""Of a group's row, graded trials and a partition: their trajectories are with the trainer when it returns."""


class PlaysTrials(Protocol):
    """``TrialRunner``, or what stands for it."""

    async def run(self, task: Task, *, key: TrialKey, temperature: float, queued: float = 0.0) -> TrialResult: ...


@dataclass(frozen=True)
class Order:
    """One trial to be played. ``path`` and ``image`` lead to its task."""

    path: str
    image: str | None
    key: TrialKey
    temperature: float
    queued: float = 0.0


@dataclass(frozen=True)
class Settled:
    """What becomes of a group's trials on one worker. ``published``: slot -> reward, in the order of the group."""

    row: Mapping[str, Any]
    partition: str
    published: Mapping[str, float]
    forgotten: tuple[str, ...] = ()


@dataclass(frozen=True)
class Beat:
    """A worker's sign of life, with what it counts. ``memory``: share of its machine's that is in use."""

    counts: Mapping[str, float] = field(default_factory=dict)
    memory: float = 0.0


def slot_of(key: TrialKey) -> str:
    """What manager and worker call a trial, whatever attempt it has come to."""
    return replace(key, attempt=0).trial_id


class TrialWorker:
    """For one event loop. ``load``: the task of a path and an image."""

    def __init__(
        self,
        runner: PlaysTrials,
        *,
        name: str,
        journal: TrialJournal | None,
        publish: Publish,
        counts: Callable[[], Mapping[str, float]] = dict,
        memory: Callable[[], float] = lambda: 0.0,
        load: Callable[[str, str | None], Task] = lambda path, image: load_task(Path(path), image=image),
    ) -> None:
        self.name = name
        self._runner, self._journal, self._publish = runner, journal, publish
        self._counts, self._memory, self._load = counts, memory, load
        self._tasks: dict[tuple[str, str | None], Task] = {}
        self._running: dict[str, asyncio.Task[RemoteResult]] = {}
        self._held: dict[str, TrialResult] = {}

    async def play(self, order: Order) -> RemoteResult | None:
        """The trial to its end; None when it was cancelled before."""
        slot = slot_of(order.key)
        running = self._running[slot] = asyncio.ensure_future(self._play(self._task(order), slot, order))
        try:
            return await running
        except asyncio.CancelledError:
            if running.cancelled():
                return None
            running.cancel()
            await asyncio.wait([running])
            raise
        finally:
            del self._running[slot]

    async def _play(self, task: Task, slot: str, order: Order) -> RemoteResult:
        """All of it can be cancelled: what comes to its end after that would be held for ever."""
        result = await self._runner.run(task, key=order.key, temperature=order.temperature, queued=order.queued)
        place = None
        if self._journal is not None and result.reward is not None and self._has_room(result):
            try:
                place = await self._journal.keep(result)
            except Exception as failure:
                log.error("%s: not kept: %r", result.key.trial_id, failure)
                result = result.not_kept(failure)
        self._held[slot] = result
        return without_tokens(result, worker=self.name, place=place)

    async def cancel(self, slot: str) -> None:
        """Returns once the trial has left nothing behind. One that is not played (any more) is not an error."""
        running = self._running.get(slot)
        if running is not None:
            running.cancel()
            await asyncio.wait([running])
        self._held.pop(slot, None)

    async def settle(self, settled: Settled) -> None:
        """Publish these trials, forget those. Raises ``KeyError`` when one is not here."""
        results = [replace(self._held[slot], reward=reward) for slot, reward in settled.published.items()]
        if results:
            await self._publish(settled.row, results, settled.partition)
        for slot in (*settled.published, *settled.forgotten):
            self._held.pop(slot, None)

    @property
    def held(self) -> int:
        return len(self._held)

    async def beat(self) -> Beat:
        return Beat(dict(self._counts()), self._memory())

    def _task(self, order: Order) -> Task:
        place = order.path, order.image
        if place not in self._tasks:
            self._tasks[place] = self._load(*place)
        return self._tasks[place]

    def _has_room(self, result: TrialResult) -> bool:
        """A mixture's experts are not kept without bound."""
        routed = result.routed_bytes
        return not routed or self._journal is None or self._journal.bytes + routed <= MOST_ROUTED_BYTES
