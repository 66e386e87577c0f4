"""Judges the kept work of a finished run once more and writes the verdicts beside the run's own records.

For changed tests, a mended verifier, or trials that got no grade. The run itself is never rewritten: each call makes
one new folder ``<run>/regrades/<number>/`` with ``regrade.json`` (counts and every changed verdict), ``verdicts.jsonl``
(one line per trial) and, for changed ones, the verifier's raw output. Knows nothing of agents or models.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from runtime.errors import TrialError, UserError
from runtime.grading.base import Verifier
from runtime.grading.work import MANIFEST, Work, WorkStore, task_of
from runtime.task import Task


@dataclass(frozen=True)
class Regraded:
    """One trial's verdict then and now. A reward is None where nothing graded the trial; ``problem`` says why now."""

    step: str
    trial: str
    task: str
    reward_then: float | None
    reward_now: float | None
    verdict_then: str
    verdict_now: str
    problem: str | None
    defences: tuple[str, ...] = ()
    raw: bytes = b""

    @property
    def changed(self) -> bool:
        return (self.reward_then, self.verdict_then) != (self.reward_now, self.verdict_now)

    def row(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if key != "raw"} | {"changed": self.changed}


@dataclass(frozen=True)
class Regrade:
    """``left_out``: trials without kept work, by reason. ``folder``: where all of it was written."""

    trials: tuple[Regraded, ...]
    left_out: Mapping[str, int]
    folder: Path

    @property
    def changed(self) -> tuple[Regraded, ...]:
        return tuple(trial for trial in self.trials if trial.changed)

    def summary(self) -> dict[str, Any]:
        then, now = ([t.reward_then for t in self.trials], [t.reward_now for t in self.trials])
        return {
            "trials": len(self.trials),
            "changed": [trial.row() for trial in self.changed],
            "mean_reward_then": _mean(then),
            "mean_reward_now": _mean(now),
            "ungraded_then": then.count(None),
            "ungraded_now": now.count(None),
            "left_out": dict(self.left_out),
        }


def _mean(rewards: Sequence[float | None]) -> float | None:
    graded = [reward for reward in rewards if reward is not None]
    return sum(graded) / len(graded) if graded else None


async def regrade(
    run: Path,
    *,
    verifier: Verifier,
    tasks: Mapping[str, Task],
    concurrency: int,
    on_trial: Callable[[Regraded], None] = lambda trial: None,
) -> Regrade:
    """Grade every trial of ``run`` whose work was kept; at most ``concurrency`` at once.

    tasks: by id, taken instead of those that the run used. Raises ``UserError`` when no work was kept at all.
    """
    store = WorkStore(run / "artifacts")
    left_out: Counter[str] = Counter()
    gate = asyncio.Semaphore(concurrency)

    async def one(folder: Path, record: dict[str, Any], work: Work) -> Regraded:
        async with gate:
            trial = await _grade(folder, record, work, verifier, tasks)
        on_trial(trial)
        return trial

    kept = list(_kept(run, store, left_out))
    if not kept:
        reasons = "; ".join(f"{count}: {reason}" for reason, count in left_out.items()) or "it has no trials"
        raise UserError(
            f"{run}: no trial's work was kept ({reasons}); set observability.dumps.work_every to 1 for the next run"
        )
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(one(*each)) for each in kept]
    trials = tuple(task.result() for task in running)
    return _write(run, trials, left_out)


def _kept(run: Path, store: WorkStore, left_out: Counter[str]) -> Iterator[tuple[Path, dict[str, Any], Work]]:
    for path in sorted(run.glob("trials/*/*/trial.json")):
        try:
            record = orjson.loads(path.read_bytes())
            if (manifest := record.get(MANIFEST)) is None:
                left_out["its work was not kept"] += 1
                continue
            work = store.get(manifest)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            left_out[f"cannot be read: {error}"] += 1
            continue
        if work.left_out is not None:
            left_out["its work was too large to be kept"] += 1
        else:
            yield path.parent, record, work


async def _grade(
    folder: Path, record: dict[str, Any], work: Work, verifier: Verifier, tasks: Mapping[str, Task]
) -> Regraded:
    before = Regraded(
        step=folder.parent.name,
        trial=folder.name,
        task=work.task_id,
        reward_then=record.get("reward"),
        reward_now=None,
        verdict_then=str(record.get("verdict", "no-grade")),
        verdict_now="no-grade",
        problem=None,
    )
    try:
        verdict = await verifier.grade(task_of(work, tasks), work.files)
    except TrialError as error:
        return replace(before, problem=f"{error.termination.value}: {error}")
    return replace(
        before,
        reward_now=verdict.reward,
        verdict_now=verdict.status,
        defences=tuple(verdict.defences),
        raw=verdict.raw,
    )


def _write(run: Path, trials: tuple[Regraded, ...], left_out: Mapping[str, int]) -> Regrade:
    home = run / "regrades"
    home.mkdir(exist_ok=True)
    partial = home / f".{os.getpid()}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for trial in trials:
        if trial.changed and trial.raw:
            raw = partial / "verifier" / trial.step / trial.trial
            raw.parent.mkdir(parents=True, exist_ok=True)
            raw.write_bytes(trial.raw)
    (partial / "verdicts.jsonl").write_bytes(b"".join(orjson.dumps(trial.row()) + b"\n" for trial in trials))
    number = 1 + max((int(path.name) for path in home.iterdir() if path.name.isdigit()), default=0)
    result = Regrade(trials, left_out, home / str(number))
    summary = orjson.dumps(result.summary(), option=orjson.OPT_INDENT_2) + b"\n"
    (partial / "regrade.json").write_bytes(summary)
    partial.rename(result.folder)
    return result
