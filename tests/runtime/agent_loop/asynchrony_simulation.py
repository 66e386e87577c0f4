"""Synchronous and asynchronous training on a long-tailed mix of trials, in virtual time: what a test asserts of and the
benchmark reports.

Real are the groups of trials with their gate and deadlines (``GroupRunner``) and the data buffer with its journal;
simulated are the engine, the tools and the optimizer. Both ways get the same hardware, two units: the synchronous one
uses both for rollouts and then both for training, the asynchronous one a unit for each.

Tokens of a trial are lognormal with median 500 and 99th percentile 5000, the "typical reasoning-RL run" of
https://jiahuanglin.xyz/all_lessons/RL/lessons/22b_longtail_rollouts.html. A sequence is decoded faster the fewer others
are decoded with it, so that the tail of a batch is not as slow as its bulk.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from runtime.agent_loop.groups import GroupRequest, GroupRunner
from runtime.agent_loop.trial import TrialRunner
from runtime.agent_loop.types import Sampling, Timings, TrialKey, TrialResult
from runtime.errors import Termination
from runtime.proxy.types import Sample
from runtime.rollouter.buffer import DataBuffer, Slot
from runtime.task import Task
from tests.runtime.agent_loop.virtual_time import run_virtual

GROUPS, SIZE = 16, 8
"""Groups of a training step, trials of a group."""
SLOTS = 64
"""Trials in flight on one unit of hardware."""
MEDIAN_TOKENS, SIGMA = 500.0, 0.99
TURNS, TOOL_SEC = 4, 3.0
ALONE_TOKENS_PER_SEC, HALF_SPEED_AT = 80.0, 32
SYNC_SEC = 2.0
"""Pause of the engine for new weights."""


class Unit:
    """An engine on one unit: all its sequences advance at one speed, which falls with their number."""

    def __init__(self) -> None:
        self._active: list[tuple[float, int, asyncio.Future[None]]] = []
        self._served = self._since = 0.0
        self._numbers = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._paused = False

    @property
    def load(self) -> int:
        return len(self._active)

    async def decode(self, tokens: float) -> None:
        self._advance()
        done = asyncio.get_running_loop().create_future()
        heapq.heappush(self._active, (self._served + tokens, next(self._numbers), done))
        self._plan()
        await done

    def pause(self, paused: bool) -> None:
        self._advance()
        self._paused = paused
        self._plan()

    def _speed(self) -> float:
        return 0.0 if self._paused else ALONE_TOKENS_PER_SEC / (1 + len(self._active) / HALF_SPEED_AT)

    def _advance(self) -> None:
        now = asyncio.get_running_loop().time()
        self._served += (now - self._since) * self._speed()
        self._since = now

    def _plan(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._active and not self._paused:
            wait = max(0.0, self._active[0][0] - self._served) / self._speed()
            self._timer = asyncio.get_running_loop().call_later(wait, self._next)

    def _next(self) -> None:
        self._advance()
        while self._active and self._active[0][0] <= self._served + 1e-6:
            done = heapq.heappop(self._active)[2]
            if not done.done():
                done.set_result(None)
        self._plan()


class Trials:
    """In ``TrialRunner``'s place: turns of tokens and tools. ``version``: weights that are served now."""

    def __init__(self, units: Sequence[Unit], seed: int) -> None:
        self._units = units
        self._seed = seed
        self.version = 0
        self.ended = 0

    async def run(self, task: Task, *, key: TrialKey, temperature: float, queued: float = 0.0) -> TrialResult:
        dice = random.Random(f"{self._seed}/{key.group}/{key.index}")
        tokens = dice.lognormvariate(0.0, SIGMA) * MEDIAN_TOKENS
        unit = min(self._units, key=lambda one: one.load)
        versions = []
        for _ in range(TURNS):
            versions.append(self.version)
            await unit.decode(tokens / TURNS)
            versions.append(self.version)
            await asyncio.sleep(dice.expovariate(1 / TOOL_SEC))
        self.ended += 1
        sample = Sample([1], [2] * len(versions), [1] * len(versions), [0.0] * len(versions), versions)
        return TrialResult(
            key=key,
            termination=Termination.COMPLETED,
            reward=float(dice.random() < 0.5),
            isolation="none",
            timings=Timings(),
            sampling=Sampling(1.0, 0),
            samples=(sample,),
        )


@dataclass
class Outcome:
    """``seconds``: virtual, from the first prompt to the last step. ``staleness``: of every trained trial."""

    seconds: float = 0.0
    trained: int = 0
    dropped: int = 0
    staleness: list[int] = field(default_factory=list)
    partial: int = 0
    """Trained trials with tokens of more than one version."""

    @property
    def trials_per_sec(self) -> float:
        return self.trained / self.seconds


class Training:
    """One run of ``steps`` steps. ``ahead``: batches given out before the first; ``limit``: most versions behind."""

    def __init__(
        self, task: Task, journal: Path, *, units: int, train_sec: float, ahead: int, limit: int, seed: int = 0
    ) -> None:
        self._task, self._train_sec, self._ahead, self._limit = task, train_sec, ahead, limit
        self._units = [Unit() for _ in range(units)]
        self._trials = Trials(self._units, seed)
        self._groups = GroupRunner(cast(TrialRunner, self._trials), concurrency=SLOTS * units)
        self._buffer = DataBuffer(journal)
        self._ready: dict[str, list[TrialResult]] = {}
        self._changed = asyncio.Condition()
        self._given = 0
        self._running: set[asyncio.Task[None]] = set()
        self.outcome = Outcome()

    async def run(self, steps: int) -> Outcome:
        loop = asyncio.get_running_loop()
        self._give_out(self._ahead * GROUPS, step=1)
        for step in range(1, steps + 1):
            self._give_out(GROUPS, step=step)
            batch = await self._take(step)
            await asyncio.sleep(self._train_sec)
            self.outcome.trained += sum(len(group) for group in batch)
            await self._new_weights(step)
        self.outcome.seconds = loop.time()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self._buffer.close()
        return self.outcome

    def _give_out(self, count: int, *, step: int) -> None:
        for _ in range(count):
            self._given += 1
            name = f"{self._given:06d}"
            self._buffer.reserve(name, Slot("train", name, step))
            task = asyncio.get_running_loop().create_task(self._play(name, step))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _play(self, name: str, step: int) -> None:
        results = await self._groups.run(GroupRequest(self._task, "train", name, step, SIZE, 1.0))
        for result in results:
            self._buffer.put(name, result.key.index, b"", versions=result.weight_versions)
        async with self._changed:
            self._ready[name] = results
            self._changed.notify_all()

    async def _take(self, step: int) -> list[list[TrialResult]]:
        """The oldest groups that have ended; those that are too old are dropped and replaced."""
        async with self._changed:
            while True:
                stale = [name for name, group in self._ready.items() if _behind(group, step) > self._limit]
                for name in stale:
                    self.outcome.dropped += len(self._ready.pop(name))
                if stale:
                    self._buffer.dropped(stale, step=step, reason="stale")
                    self._give_out(len(stale), step=step)
                if len(self._ready) >= GROUPS:
                    break
                await self._changed.wait()
            chosen = sorted(self._ready)[:GROUPS]
            batch = [self._ready.pop(name) for name in chosen]
        self._buffer.taken(chosen, step=step)
        for trial in (trial for group in batch for trial in group):
            low, high = trial.weight_versions or (step - 1, step - 1)
            self.outcome.staleness.append(step - 1 - low)
            self.outcome.partial += low < high
        return batch

    async def _new_weights(self, version: int) -> None:
        for unit in self._units:
            unit.pause(True)
        await asyncio.sleep(SYNC_SEC)
        self._trials.version = version
        for unit in self._units:
            unit.pause(False)


def _behind(group: Sequence[TrialResult], step: int) -> int:
    return max((step - 1 - one.weight_versions[0] for one in group if one.weight_versions), default=0)


def rollout_rate(task: Task, *, seconds: float = 4000.0) -> float:
    """Trials that one unit ends in a second when it always has enough to do."""

    async def saturate() -> float:
        trials = Trials([Unit()], seed=1)
        groups = GroupRunner(cast(TrialRunner, trials), concurrency=SLOTS)
        work = [
            asyncio.create_task(groups.run(GroupRequest(task, "train", f"{number:06d}", 1, SIZE, 1.0)))
            for number in range(2000)
        ]
        await asyncio.sleep(seconds)
        for one in work:
            one.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        return trials.ended / seconds

    return run_virtual(saturate())


def compare(task: Task, folder: Path, *, steps: int = 12, ahead: int = 2, limit: int = 4) -> dict[str, float]:
    """Both ways on the same work. The trainer of one unit takes as long as its engine takes to roll a batch out."""
    rate = rollout_rate(task)
    batch_sec = GROUPS * SIZE / rate

    async def run(name: str, *, units: int, train_sec: float, ahead: int, limit: int) -> Outcome:
        training = Training(task, folder / name, units=units, train_sec=train_sec, ahead=ahead, limit=limit)
        return await training.run(steps)

    synchronous = run_virtual(run("sync", units=2, train_sec=batch_sec / 2, ahead=0, limit=0))
    asynchronous = run_virtual(run("async", units=1, train_sec=batch_sec, ahead=ahead, limit=limit))
    # The first batches have nobody to overlap with: the bound is that of the steps after them.
    bound = GROUPS * SIZE * steps / (batch_sec * (steps + 1) + SYNC_SEC * steps)
    return {
        "async_over_sync": asynchronous.trials_per_sec / synchronous.trials_per_sec,
        "share_of_bound": asynchronous.trials_per_sec / bound,
        "staleness_max": max(asynchronous.staleness),
        "staleness_mean": sum(asynchronous.staleness) / len(asynchronous.staleness),
        "staleness_max_sync": max(synchronous.staleness),
        "dropped_share": asynchronous.dropped / (asynchronous.dropped + asynchronous.trained),
        "partial_share": asynchronous.partial / asynchronous.trained,
        "batch_sec": batch_sec,
        "sync_trials_per_s": synchronous.trials_per_sec,
        "async_trials_per_s": asynchronous.trials_per_sec,
    }
