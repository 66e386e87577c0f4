"""Concurrency, completion and deadlines of groups, on trials that only wait."""

from __future__ import annotations

import asyncio
import errno
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from runtime.agent_loop.groups import GroupRequest, GroupRunner, first_ended, run_groups
from runtime.agent_loop.trial import TrialRunner
from runtime.agent_loop.types import Sampling, Timings, TrialKey, TrialResult
from runtime.errors import Termination
from runtime.task import Task
from tests.runtime.agent_loop.conftest import make_task


def result(key: TrialKey, reward: float | None = 1.0) -> TrialResult:
    return TrialResult(
        key=key,
        termination=Termination.COMPLETED,
        reward=reward,
        isolation="none",
        timings=Timings(),
        sampling=Sampling(1.0, 0),
    )


class WaitingTrials:
    """In ``TrialRunner``'s place: sleeps per index, counts what runs at once."""

    def __init__(self, seconds: dict[int, float]) -> None:
        self.seconds = seconds
        self.running = self.most = self.cancelled = 0

    async def run(self, task: Task, *, key: TrialKey, temperature: float, queued: float = 0.0) -> TrialResult:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(self.seconds.get(key.index, 0.01))
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        return result(key)


def request(task: Task, name: str, size: int = 4) -> GroupRequest:
    return GroupRequest(task=task, task_set="train", group=name, step=1, size=size, temperature=1.0)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return make_task(Path(tmp_path_factory.mktemp("tasks")))


def runner(trials: WaitingTrials, **settings: Any) -> GroupRunner:
    return GroupRunner(cast(TrialRunner, trials), **{"concurrency": 3, **settings})


def test_groups_share_the_slots_and_finish_one_by_one(task: Task) -> None:
    trials, order = WaitingTrials({}), []

    async def finished(one: GroupRequest, results: list[TrialResult]) -> None:
        order.append((one.group, [r.key.index for r in results]))

    requests = [request(task, name) for name in ("a", "b", "c")]
    results = asyncio.run(run_groups(runner(trials), requests, on_group=finished))
    assert trials.most == 3
    assert [(r.key.group, r.key.index) for r in results] == [(g, i) for g in ("a", "b", "c") for i in range(4)]
    assert order == [(g, [0, 1, 2, 3]) for g in ("a", "b", "c")]


def test_a_sibling_that_never_returns_costs_only_itself(task: Task) -> None:
    trials = WaitingTrials({2: 3600.0})
    results = asyncio.run(runner(trials, deadline_sec=lambda task: 0.2).run(request(task, "a")))
    assert [r.key.index for r in results] == [0, 1, 3] and trials.cancelled == 1 and trials.running == 0


def test_cancelling_a_group_cancels_its_trials(task: Task) -> None:
    trials = WaitingTrials(dict.fromkeys(range(4), 3600.0))

    async def run() -> None:
        group = asyncio.create_task(runner(trials).run(request(task, "a")))
        await asyncio.sleep(0.05)
        group.cancel()
        with pytest.raises(asyncio.CancelledError):
            await group

    asyncio.run(run())
    assert trials.running == 0 and trials.cancelled == 3


def test_a_fault_of_the_machine_ends_the_group_after_its_siblings_settled(task: Task) -> None:
    class FullDisk(WaitingTrials):
        async def run(self, task: Task, *, key: TrialKey, temperature: float, queued: float = 0.0) -> TrialResult:
            done = await super().run(task, key=key, temperature=temperature)
            if key.index == 0:
                raise OSError(28, "No space left on device")
            return done

    trials = FullDisk({})
    with pytest.raises(OSError, match="No space left"):
        asyncio.run(runner(trials).run(request(task, "a")))
    assert trials.running == 0


def test_spare_trials_are_ended_when_the_group_has_enough(task: Task) -> None:
    trials = WaitingTrials({1: 60.0, 4: 60.0})
    told: list[int] = []
    loop = runner(trials, concurrency=6, on_trial=lambda one: told.append(one.key.index))
    results = asyncio.run(loop.run(replace(request(task, "a"), spare=2)))
    assert [one.key.index for one in results] == sorted(told) == [0, 2, 3, 5]
    assert (trials.cancelled, trials.running, loop.cut_short, loop.in_flight) == (2, 0, 2, 0)


def test_of_spare_trials_that_end_together_the_first_that_ended_are_left() -> None:
    ends = {0: 5.0, 1: 3.0, 2: 9.0, 3: 3.0, 4: 3.0}
    ended = [
        replace(result(TrialKey("t", "train", 1, "g", index)), started=end - 1, timings=Timings(total=1.0))
        for index, end in ends.items()
    ]
    assert [one.key.index for one in first_ended(ended, 4)] == [0, 1, 3, 4]
    assert [one.key.index for one in first_ended(ended, 2)] == [1, 3], "equal ends: by index"
    assert first_ended(ended, 9) == ended


def test_a_spare_trial_stands_in_for_one_that_nobody_graded(task: Task) -> None:
    class Ungraded(WaitingTrials):
        async def run(self, task: Task, *, key: TrialKey, temperature: float, queued: float = 0.0) -> TrialResult:
            ended = await super().run(task, key=key, temperature=temperature, queued=queued)
            return result(key, None) if key.index == 0 else ended

    results = asyncio.run(runner(Ungraded({5: 60.0}), concurrency=6).run(replace(request(task, "a"), spare=2)))
    assert [(one.key.index, one.reward) for one in results] == [(0, None), (1, 1.0), (2, 1.0), (3, 1.0), (4, 1.0)]


def test_a_trial_that_cannot_be_kept_costs_itself_alone(task: Task) -> None:
    class Keeper:
        def reserve(self, request: GroupRequest) -> list[TrialResult]:
            return []

        async def keep(self, request: GroupRequest, result: TrialResult) -> None:
            if result.key.index == 1:
                raise OSError(errno.ENOSPC, "No space left on device")

    told: list[TrialResult] = []
    groups = runner(WaitingTrials({}), keeper=Keeper(), on_trial=told.append)
    results = asyncio.run(groups.run(request(task, "a")))
    assert [one.reward for one in results] == [1.0, None, 1.0, 1.0] and len(told) == 4
    assert results[1].termination is Termination.NOT_KEPT and "No space left" in (results[1].error or "")
