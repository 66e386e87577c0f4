"""The manager's side of several agent-loop workers: gives each trial to the least busy one, starts dead ones again, and
gives their trials to others.

A worker is dead when it says so no more: its process is gone, or it leaves signs of life out for too long and is ended.
A trial that its worker took along is tried again as its failure's policy says (``WORKER_LOST``). It cannot count twice:
its group takes one result for each slot, and a worker publishes nothing but what it is told to. Knows neither Ray nor
the trainer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from runtime.agent_loop.remote_result import RemoteResult
from runtime.agent_loop.types import Sampling, Timings, TrialKey, TrialResult
from runtime.agent_loop.worker import Beat, Order, Settled, slot_of
from runtime.errors import Termination
from runtime.task import Task

log = logging.getLogger(__name__)

MOST_DEATHS = 5
"""In a row, without a trial that came to its end, before a worker's place is given up."""


class WorkerLost(Exception):
    """The worker's process is gone, and what it held in memory with it."""


class Worker(Protocol):
    """One worker as the manager reaches it. Every method but ``end`` raises ``WorkerLost`` when it is gone."""

    @property
    def name(self) -> str:
        """Nobody else's, before or after it: ``RemoteResult.worker``."""

    @property
    def node(self) -> str:
        """For people: where it runs."""

    async def play(self, order: Order) -> RemoteResult | None: ...

    async def cancel(self, slot: str) -> None: ...

    async def settle(self, settled: Settled) -> None: ...

    async def beat(self) -> Beat: ...

    async def end(self) -> None:
        """End its process, whatever it does; there may be none any more. Never raises."""


@dataclass(frozen=True)
class Patience:
    """``beat_sec``: pause between signs of life; ``silent_sec``: without one for so long, a worker is ended.
    ``again_sec``: before a dead one is started again, doubled with every death in a row."""

    beat_sec: float = 1.0
    silent_sec: float = 60.0
    again_sec: float = 0.5


@dataclass
class _Place:
    """One worker's place, whoever stands in it. ``playing``: slot -> since when."""

    number: int
    worker: Worker | None = None
    died: asyncio.Event = field(default_factory=asyncio.Event)
    playing: dict[str, float] = field(default_factory=dict)
    given: int = 0
    deaths: int = 0
    """In a row."""
    beat: Beat = field(default_factory=Beat)
    given_up: str = ""

    @property
    def name(self) -> str:
        return f"worker {self.number}"


class WorkerPool:
    """``start`` makes the worker of a number; it may wait for room on some machine, and raises what keeps it from being
    made. ``attempts``: how often a trial may be begun. For one event loop."""

    def __init__(
        self,
        start: Callable[[int], Awaitable[Worker]],
        *,
        count: int,
        attempts: int,
        order: Callable[[Task, TrialKey, float, float], Order],
        patience: Patience | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._start, self._order, self._attempts = start, order, max(1, attempts)
        self._patience, self._clock = patience or Patience(), clock
        self._places = [_Place(number) for number in range(count)]
        self._changed = asyncio.Event()
        self._keepers: list[asyncio.Task[None]] = []
        self._holders: dict[str, str] = {}
        """Slot -> name of the worker that has its tokens, until it is told to forget them."""
        self._gone: Counter[str] = Counter()
        """What dead workers had counted."""
        self.restarts = 0
        self.handed_over = 0
        """Trials that were begun again because their worker died."""

    async def open(self) -> None:
        """Returns once every worker has come up. Raises what keeps one from being made at all."""
        up: list[asyncio.Future[None]] = [asyncio.get_running_loop().create_future() for _ in self._places]
        self._keepers = [
            asyncio.create_task(self._keep(place, ready), name=f"agent-loop-{place.number}")
            for place, ready in zip(self._places, up, strict=True)
        ]
        try:
            await asyncio.gather(*up)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        await asyncio.gather(*(place.worker.end() for place in self._places if place.worker is not None))

    # -- trials

    async def run(self, task: Task, *, key: TrialKey, temperature: float, queued: float = 0.0) -> TrialResult:
        """What a ``GroupRunner`` asks of its runner: the trial on the least busy worker, on another one when that
        dies."""
        began, slot = self._clock(), slot_of(key)
        for attempt in range(self._attempts):
            place = await self._least_busy()
            if place is None or place.worker is None:
                break
            worker, current = place.worker, replace(key, attempt=key.attempt + attempt)
            place.playing[slot] = self._clock()
            place.given += 1
            self.handed_over += attempt > 0
            try:
                result = await worker.play(self._order(task, current, temperature, queued))
            except WorkerLost as lost:
                log.warning("%s: %s died while it played this trial: %s", current.trial_id, place.name, lost)
                self._dead(place, worker)
            except asyncio.CancelledError:
                await asyncio.shield(self._cancel(place, worker, slot))
                raise
            else:
                if result is None:
                    break  # cancelled, but not from here
                place.deaths = 0
                self._holders[slot] = result.worker
                return result
            finally:
                place.playing.pop(slot, None)
        why = self.why_hopeless() or f"its worker died, {self._attempts} times"
        return TrialResult(
            key=replace(key, attempt=key.attempt + self._attempts - 1),
            termination=Termination.WORKER_LOST,
            reward=None,
            isolation="none",
            timings=Timings(queue=queued, total=self._clock() - began),
            sampling=Sampling(temperature, 0),
            error=why,
        )

    async def publish(
        self, row: Mapping[str, Any], results: Sequence[TrialResult], *, partition: str
    ) -> list[RemoteResult]:
        """Let the workers publish those of these trials that they hold; returns those whose workers are gone."""
        remote = [one for one in results if isinstance(one, RemoteResult)]

        async def publish(name: str) -> list[RemoteResult]:
            mine = [one for one in remote if one.worker == name]
            rewards = {slot_of(one.key): one.reward for one in mine if one.reward is not None}
            return [] if await self._settle(name, Settled(row, partition, rewards)) else mine

        left = await asyncio.gather(*(publish(name) for name in dict.fromkeys(one.worker for one in remote)))
        return [one for theirs in left for one in theirs]

    async def forget(self, keys: Iterable[TrialKey]) -> None:
        """Nothing of these trials is needed any more, whatever has become of them."""
        held: dict[str, list[str]] = {}
        for slot in map(slot_of, keys):
            if (name := self._holders.pop(slot, None)) is not None:
                held.setdefault(name, []).append(slot)
        await asyncio.gather(*(self._settle(name, Settled({}, "", {}, tuple(slots))) for name, slots in held.items()))

    # -- for people

    def counts(self) -> dict[str, float]:
        """What all workers count, those that are gone included."""
        total = Counter(self._gone)
        for place in self._places:
            total.update(place.beat.counts)
        return dict(total)

    def memory(self) -> float:
        """Share of the memory in use on the fullest of their machines."""
        return max(place.beat.memory for place in self._places)

    def status(self) -> list[dict[str, Any]]:
        """Of every worker: where it is, what it plays, and since when the oldest of it."""
        now = self._clock()
        return [
            {
                "worker": place.number,
                "node": "" if place.worker is None else place.worker.node,
                "state": "lost" if place.given_up else "starting" if place.worker is None else "up",
                "in_flight": len(place.playing),
                "oldest": next(iter(place.playing), ""),
                "oldest_sec": round(now - next(iter(place.playing.values()), now), 1),
            }
            for place in self._places
        ]

    def why_hopeless(self) -> str | None:
        """Why there will be no worker any more; None while there is one, or hope for one."""
        if all(place.given_up for place in self._places):
            return "; ".join(f"{place.name}: {place.given_up}" for place in self._places[:4])
        return None

    # -- workers

    async def _least_busy(self) -> _Place | None:
        """None: there will be none."""
        while True:
            living = [place for place in self._places if place.worker is not None]
            if living:
                return min(living, key=lambda place: (len(place.playing), place.given))
            if self.why_hopeless() is not None:
                return None
            self._changed.clear()
            await self._changed.wait()

    async def _keep(self, place: _Place, ready: asyncio.Future[None]) -> None:
        """A worker in this place, again and again."""
        while True:
            try:
                place.worker = worker = await self._start(place.number)
            except Exception as error:
                if not ready.done():
                    ready.set_exception(error)
                    return
                log.warning("agent-loop %s could not be started again: %s", place.name, error)
                why = f"could not be started again: {error}"
            else:
                place.died.clear()
                self._changed.set()
                if not ready.done():
                    ready.set_result(None)
                await self._watch(place, worker)
                # One that could not be reached may live on, and play what others have been given.
                await worker.end()
                why = f"died {MOST_DEATHS} times in a row, without a trial that came to its end"
                self._gone.update(place.beat.counts)
                place.beat = Beat()
                self.restarts += 1
            place.deaths += 1
            if place.deaths >= MOST_DEATHS:
                log.error("agent-loop %s is given up: %s", place.name, why)
                place.given_up = why
                self._changed.set()
                return
            await asyncio.sleep(self._patience.again_sec * 2 ** (place.deaths - 1))

    async def _watch(self, place: _Place, worker: Worker) -> None:
        """Returns when the worker is dead."""
        while not place.died.is_set():
            try:
                async with asyncio.timeout(self._patience.silent_sec):
                    place.beat = await worker.beat()
            except WorkerLost as lost:
                log.warning("agent-loop %s (%s) died: %s", place.name, worker.node, lost)
                self._dead(place, worker)
            except TimeoutError:
                log.warning(
                    "agent-loop %s (%s) gave no sign of life for %.0f s and is ended",
                    place.name,
                    worker.node,
                    self._patience.silent_sec,
                )
                self._dead(place, worker)
            except Exception:  # nobody would look after this place any more
                log.exception("agent-loop %s (%s) fails to say how it is, and is ended", place.name, worker.node)
                self._dead(place, worker)
            else:
                try:
                    async with asyncio.timeout(self._patience.beat_sec):
                        await place.died.wait()
                except TimeoutError:
                    continue

    def _dead(self, place: _Place, worker: Worker) -> None:
        if place.worker is worker:
            place.worker = None
            place.died.set()

    async def _cancel(self, place: _Place, worker: Worker, slot: str) -> None:
        try:
            await worker.cancel(slot)
        except WorkerLost:
            self._dead(place, worker)

    async def _settle(self, name: str, settled: Settled) -> bool:
        """Whether the worker of this name was there to do it."""
        place = next((one for one in self._places if one.worker is not None and one.worker.name == name), None)
        if place is None or place.worker is None:
            return False
        worker = place.worker
        try:
            await worker.settle(settled)
        except WorkerLost:
            self._dead(place, worker)
            return False
        return True
