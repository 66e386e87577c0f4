"""Many trials at once: bounded concurrency, groups that finish as one, and a deadline for the sibling that never
returns.

Knows trials by their results only; what becomes of a finished group is its caller's business.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from runtime.agent_loop.types import TrialKey, TrialResult
from runtime.agent_loop.worker import PlaysTrials
from runtime.task import Task

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GroupRequest:
    """``size`` trials of one task under one policy version."""

    task: Task
    task_set: str
    group: str
    step: int
    size: int
    temperature: float
    validation: bool = False
    uid: str = ""
    """The trainer's own name of the group; what has none is not kept."""
    turn: int = 0
    """Groups of this task that the step had been given before."""
    spare: int = 0
    """Trials beyond ``size``, which are begun too: the group ends when ``size`` of all have a grade."""

    @property
    def most(self) -> int:
        """Trials that are begun at most."""
        return self.size + self.spare

    def key(self, index: int) -> TrialKey:
        return TrialKey(
            task=self.task.id,
            task_set=self.task_set,
            step=self.step,
            group=self.group,
            index=index,
            validation=self.validation,
            turn=self.turn,
        )


class Keeper(Protocol):
    """Remembers finished trials beyond the death of this process."""

    def reserve(self, request: GroupRequest) -> list[TrialResult]:
        """The group begins; its trials that are known already."""

    async def keep(self, request: GroupRequest, result: TrialResult) -> None:
        """Returns once the result is safe. Raises ``OSError`` where it cannot be."""


class GroupRunner:
    """Runs groups with at most ``concurrency`` trials in flight over all of them.

    ``deadline_sec`` of a task bounds each trial from its start, not from when it was asked for: what has not ended by
    then is cancelled and missing from the group's results. ``on_trial`` sees every finished trial at once, as soon as
    ``keeper`` has it.
    """

    def __init__(
        self,
        runner: PlaysTrials,
        *,
        concurrency: int,
        deadline_sec: Callable[[Task], float] | None = None,
        on_trial: Callable[[TrialResult], None] | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        self._runner = runner
        self._keeper = keeper
        self._gate = asyncio.Semaphore(max(1, concurrency))
        self._deadline_sec = deadline_sec
        self._on_trial = on_trial
        self.in_flight = 0
        self.cut_short = 0
        """Trials that were ended, or not begun, because their group or its step had enough without them."""

    async def run(self, request: GroupRequest) -> list[TrialResult]:
        """Results of every trial that came to an end, in order of ``index``; returns only after all of them have
        settled: without spare ones, come to an end by themselves."""
        known = [] if self._keeper is None else self._keeper.reserve(request)
        for result in known:
            self._tell(result)
        missing = [index for index in range(request.most) if index not in {one.key.index for one in known}]
        ended = list(known)
        trials = {asyncio.create_task(self._trial(request, index)) for index in missing}
        try:
            while trials and not (request.spare and _graded(ended) >= request.size):
                done, trials = await asyncio.wait(trials, return_when=asyncio.FIRST_COMPLETED)
                ended += [outcome for one in done if (outcome := one.result()) is not None]
        finally:
            self.cut_short += len(trials)
            for trial in trials:
                trial.cancel()
            await asyncio.gather(*trials, return_exceptions=True)
        return sorted(ended, key=lambda one: one.key.index)

    async def _trial(self, request: GroupRequest, index: int) -> TrialResult | None:
        asked = time.monotonic()
        key = request.key(index)
        async with self._gate:
            self.in_flight += 1
            limit = None if self._deadline_sec is None else self._deadline_sec(request.task)
            deadline = asyncio.timeout(limit)
            try:
                async with deadline:
                    result = await self._runner.run(
                        request.task, key=key, temperature=request.temperature, queued=time.monotonic() - asked
                    )
            except TimeoutError:
                if not deadline.expired():
                    raise
                log.warning("%s: has not ended after %.0f s; left out", key.trial_id, limit)
                return None
            finally:
                self.in_flight -= 1
        if self._keeper is not None:
            result = await self._kept(self._keeper, request, result)
        self._tell(result)
        return result

    async def _kept(self, keeper: Keeper, request: GroupRequest, result: TrialResult) -> TrialResult:
        """The trial once it is safe, or as one without a grade. Its siblings may have been luckier."""
        try:
            await keeper.keep(request, result)
        except Exception as failure:
            log.error("%s: not kept: %r", result.key.trial_id, failure)
            return result.not_kept(failure)
        return result

    def _tell(self, result: TrialResult) -> None:
        if self._on_trial is not None:
            self._on_trial(result)


def first_ended(results: Sequence[TrialResult], most: int) -> list[TrialResult]:
    """At most so many of a group's results, in order of ``index``: the first that ended. Spare trials that end together
    are more than the group needs, and the trainer would pad a batch of more than it planned. By what is on record of
    each, so that the same ones are left after a crash."""
    chosen = sorted(results, key=lambda one: (one.started + one.timings.total, one.key.index))[:most]
    return sorted(chosen, key=lambda one: one.key.index)


def _graded(results: Sequence[TrialResult]) -> int:
    return sum(one.reward is not None for one in results)


async def run_groups(
    runner: GroupRunner,
    requests: Sequence[GroupRequest],
    *,
    on_group: Callable[[GroupRequest, list[TrialResult]], Awaitable[None]] | None = None,
) -> list[TrialResult]:
    """Run all groups and return all results, in order of ``requests``; ``on_group`` is awaited as each one
    completes."""

    async def one(request: GroupRequest) -> list[TrialResult]:
        results = await runner.run(request)
        if on_group is not None:
            await on_group(request, results)
        return results

    async with asyncio.TaskGroup() as tasks:
        pending = [tasks.create_task(one(request)) for request in requests]
    return [result for task in pending for result in task.result()]
