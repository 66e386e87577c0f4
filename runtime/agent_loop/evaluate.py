"""Evaluation and batch inference without a trainer: tasks times ``n`` on in-process engines, resumable.

A trial whose ``trial.json`` exists is not run again. Knows nothing of verl or Ray; used by ``liverl eval``, ``liverl
infer`` and tests.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runtime.agent_loop.groups import GroupRequest, GroupRunner, run_groups
from runtime.agent_loop.records import read_record
from runtime.agent_loop.services import open_services
from runtime.agent_loop.trial import TrialRunner
from runtime.agent_loop.types import TrialResult
from runtime.config import RuntimeConfig
from runtime.grading.base import solved_share
from runtime.proxy.chat_endpoint import ChatEndpoint
from runtime.rollouter.engine import Engine
from runtime.task import Task

EVALUATION_STEP = 0


@dataclass(frozen=True)
class EvaluationSet:
    """Tasks scored under one name; ``temperature`` 0 is greedy, ``n`` trials each."""

    name: str
    tasks: Sequence[Task]
    temperature: float
    n: int = 1


@dataclass(frozen=True)
class SetScore:
    """Mean reward over graded trials with its standard error over tasks; ``ungraded`` trials are in neither."""

    name: str
    trials: int
    graded: int
    mean: float
    standard_error: float

    @property
    def ungraded(self) -> int:
        return self.trials - self.graded


async def evaluate(
    sets: Sequence[EvaluationSet],
    *,
    config: RuntimeConfig,
    engine: Engine | ChatEndpoint,
    model_folder: Path | None,
    out: Path,
    on_trial: Callable[[Mapping[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """Run what is missing and return every trial's record (the content of its ``trial.json``), finished earlier or now.

    Folders are written below ``out/trials``; ``out/state`` is scratch. The engine stays the caller's.
    """
    trials = out / "trials"
    kept = config.model_copy(update={"dump": config.dump.model_copy(update={"trials_every": 1})})
    records: list[dict[str, Any]] = []
    requests: list[GroupRequest] = []
    for group in (request for one in sets for request in _requests(one)):
        if (record := _graded(trials, group, attempts=config.rollout.attempts)) is not None:
            records.append(record)
        else:
            requests.append(group)

    def finished(result: TrialResult) -> None:
        record = result.record()
        records.append(record)
        if on_trial is not None:
            on_trial(record)

    if requests:
        async with open_services(kept, engine=engine, model_folder=model_folder, state=out / "state") as services:
            runner = TrialRunner(services, kept, trials=trials)
            await run_groups(GroupRunner(runner, concurrency=config.rollout.concurrency, on_trial=finished), requests)
    return records


def _requests(one: EvaluationSet) -> list[GroupRequest]:
    """One group of size 1 per trial, so that each can be skipped by itself on resume."""
    return [
        GroupRequest(
            task=task,
            task_set=one.name,
            group=f"{one.name}-{sample}",
            step=EVALUATION_STEP,
            size=1,
            temperature=one.temperature,
            validation=True,
        )
        for task in one.tasks
        for sample in range(one.n)
    ]


def _graded(trials: Path, request: GroupRequest, *, attempts: int) -> dict[str, Any] | None:
    """The graded record of any attempt of the one trial in ``request``."""
    for attempt in range(max(1, attempts)):
        key = replace(request.key(0), attempt=attempt)
        record = read_record(trials, step=EVALUATION_STEP, trial_id=key.trial_id)
        if record is not None and record.get("reward") is not None:
            return record
    return None


def scores(records: Sequence[Mapping[str, Any]]) -> list[SetScore]:
    """One line per task set, in order of first appearance. Trials of one task are averaged before the error is
    taken over tasks."""
    by_set: dict[str, dict[str, list[float]]] = {}
    counts: dict[str, int] = {}
    for record in records:
        name = str(record["task_set"])
        counts[name] = counts.get(name, 0) + 1
        tasks = by_set.setdefault(name, {})
        if record["reward"] is not None:
            tasks.setdefault(str(record["task"]), []).append(solved_share(float(record["reward"])))
    table = []
    for name, tasks in by_set.items():
        means = [sum(rewards) / len(rewards) for rewards in tasks.values()]
        mean = sum(means) / len(means) if means else math.nan
        variance = sum((value - mean) ** 2 for value in means) / max(1, len(means) - 1)
        table.append(
            SetScore(
                name=name,
                trials=counts[name],
                graded=sum(len(rewards) for rewards in tasks.values()),
                mean=mean,
                standard_error=math.sqrt(variance / len(means)) if means else math.nan,
            )
        )
    return table
