"""Many trials at once: bounded concurrency, groups that finish as one, and a deadline for the sibling that never
returns.

Knows trials by their results only; what becomes of a finished group is its caller's business.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from runtime.agent_loop.trial import TrialRunner
from runtime.agent_loop.types import TrialKey, TrialResult
from runtime.task import Task

_UNBOUNDED = 0.0


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

    def key(self, index: int) -> TrialKey:
        return TrialKey(
            task=self.task.id,
            task_set=self.task_set,
            step=self.step,
            group=self.group,
            index=index,
            validation=self.validation,
        )


class GroupRunner:
    """Runs groups with at most ``concurrency`` trials in flight over all of them.

    ``deadline_sec`` bounds a group from its first trial's start to its end (0: no bound): what has not finished by
    then is cancelled and missing from the group's results. ``on_trial`` sees every finished trial at once.
    """

    def __init__(
        self,
        runner: TrialRunner,
        *,
        concurrency: int,
        deadline_sec: float = _UNBOUNDED,
        on_trial: Callable[[TrialResult], None] | None = None,
    ) -> None:
        self._runner = runner
        self._gate = asyncio.Semaphore(max(1, concurrency))
        self._deadline_sec = deadline_sec
        self._on_trial = on_trial
        self.in_flight = 0

    async def run(self, request: GroupRequest) -> list[TrialResult]:
        """Results of every trial that came to an end, in order of ``index``; returns only after all of them have
        settled."""
        began = asyncio.Event()
        trials = [asyncio.create_task(self._trial(request, index, began)) for index in range(request.size)]
        try:
            if self._deadline_sec != _UNBOUNDED:
                await asyncio.wait({asyncio.create_task(began.wait())}, return_when=asyncio.FIRST_COMPLETED)
                await asyncio.wait(trials, timeout=self._deadline_sec)
                for trial in trials:
                    trial.cancel()
            settled = await asyncio.gather(*trials, return_exceptions=True)
        except asyncio.CancelledError:
            for trial in trials:
                trial.cancel()
            await asyncio.gather(*trials, return_exceptions=True)
            raise
        for outcome in settled:
            if isinstance(outcome, BaseException) and not isinstance(outcome, asyncio.CancelledError):
                raise outcome
        return [outcome for outcome in settled if isinstance(outcome, TrialResult)]

    async def _trial(self, request: GroupRequest, index: int, began: asyncio.Event) -> TrialResult:
        asked = time.monotonic()
        async with self._gate:
            began.set()
            self.in_flight += 1
            try:
                result = await self._runner.run(
                    request.task,
                    key=request.key(index),
                    temperature=request.temperature,
                    queued=time.monotonic() - asked,
                )
            finally:
                self.in_flight -= 1
        if self._on_trial is not None:
            self._on_trial(result)
        return result


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
