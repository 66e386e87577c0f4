"""Trials that had been finished before a crash are not played again: the ledger with real groups of trials."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from runtime.agent_loop.groups import GroupRequest, GroupRunner
from runtime.agent_loop.remote_result import without_tokens
from runtime.agent_loop.trial import TrialRunner
from runtime.agent_loop.trial_journal import TrialJournal
from runtime.agent_loop.types import TrialKey, TrialResult
from runtime.proxy.types import Sample
from runtime.rollouter.engine import Routing
from runtime.run_paths import RunPaths
from runtime.task import Task
from runtime.trainer import stable
from runtime.trainer.ledger import Ledger
from tests.runtime.agent_loop.conftest import make_task
from tests.runtime.agent_loop.test_groups import result


class Dying(BaseException):
    """The process ends here."""


class Trials:
    """In ``TrialRunner``'s place: counts what is played; the process dies at trial ``dies_at``."""

    def __init__(self, *, dies_at: int | None = None, ungraded: int | None = None) -> None:
        self.played: list[int] = []
        self._dies_at, self._ungraded = dies_at, ungraded

    async def run(self, task: Task, *, key: TrialKey, temperature: float, queued: float = 0.0) -> TrialResult:
        if key.index == self._dies_at:
            while len(asyncio.all_tasks()) > 2:  # beside the group's own: trials that are being kept
                await asyncio.sleep(0.001)
            raise Dying
        self.played.append(key.index)
        return result(key, None if key.index == self._ungraded else float(key.index))


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return make_task(Path(tmp_path_factory.mktemp("tasks")))


def play(run: Path, task: Task, trials: Trials, *, uid: str, step: int = 1, validation: bool = False) -> list[float]:
    """One start of the trainer that plays one group."""
    ledger = Ledger()
    ledger.open(RunPaths(run))
    request = GroupRequest(task, "train", f"train-{uid}", step, 4, 1.0, validation=validation, uid=uid)
    runner = GroupRunner(cast(TrialRunner, trials), concurrency=1, keeper=ledger)
    try:
        results = asyncio.run(runner.run(request))
    finally:
        ledger.close()
    assert [one.key.index for one in results] == [0, 1, 2, 3]
    return [one.reward if one.reward is not None else -1.0 for one in results]


def test_only_what_had_not_ended_is_played_again(tmp_path: Path, task: Task) -> None:
    first = Trials(dies_at=3)
    with pytest.raises(Dying):
        play(tmp_path, task, first, uid="one")
    assert first.played == [0, 1, 2]
    # Its folders had left their place with the step that is taken again.
    aside = RunPaths(tmp_path).abandoned / "000" / "1" / f"{task.id}.train-one.0"
    aside.mkdir(parents=True)
    second = Trials()
    assert play(tmp_path, task, second, uid="two") == [0.0, 1.0, 2.0, 3.0]
    assert second.played == [3]
    assert (RunPaths(tmp_path).trials / "1" / aside.name).is_dir() and not aside.exists()


def test_another_step_or_task_set_plays_its_own(tmp_path: Path, task: Task) -> None:
    play(tmp_path, task, Trials(), uid="one")
    other = Trials()
    play(tmp_path, task, other, uid="two", step=2)
    assert other.played == [0, 1, 2, 3]


def test_validations_and_what_nobody_graded_are_played_again(tmp_path: Path, task: Task) -> None:
    play(tmp_path, task, Trials(), uid="one", validation=True)
    play(tmp_path, task, Trials(ungraded=1), uid="two")
    third = Trials()
    play(tmp_path, task, third, uid="three")
    assert third.played == [1]


def test_experts_are_kept_while_the_journal_is_small(
    tmp_path: Path, task: Task, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sample = Sample([1], [2], [1], [-0.5], [0], routed_experts=Routing(0, bytes(1000), (1, 1), 1))
    request = GroupRequest(task, "train", "train-one", 1, 4, 1.0, uid="one")
    ledger = Ledger()
    ledger.open(RunPaths(tmp_path))
    ledger.reserve(request)
    monkeypatch.setattr("runtime.trainer.ledger.MOST_ROUTED_BYTES", 4000)
    for index in range(4):
        asyncio.run(ledger.keep(request, replace(result(request.key(index)), samples=(sample,))))
    kept = [one.key.index for one in ledger.reserve(request)]
    assert kept == [0, 1] and ledger.stats()["left_out"] == 2
    assert caplog.text.count("played again after a crash") == 1
    asyncio.run(ledger.keep(request, result(request.key(3))))
    assert [one.key.index for one in ledger.reserve(request)] == [0, 1, 3], "what has no experts is always kept"
    ledger.close()


def test_trained_groups_are_not_given_out_again(tmp_path: Path, task: Task) -> None:
    paths = RunPaths(tmp_path)
    play(tmp_path, task, Trials(), uid="one")
    ledger = Ledger()
    ledger.open(paths)
    ledger.taken(["one"], step=1)
    ledger.close()
    folder = stable.step_folder(paths.checkpoints, 1)
    folder.mkdir(parents=True)
    (folder / "weights").write_text("of step 1")
    stable.mark_stable(folder)
    stable.prepare_resume(paths.checkpoints, 1)
    again = Trials()
    play(tmp_path, task, again, uid="two")
    assert again.played == [0, 1, 2, 3]


class Remote(Trials):
    """The same by a worker with a journal of its own."""

    def __init__(self, run: Path, **changes: int) -> None:
        super().__init__(**changes)
        self._journal = TrialJournal(RunPaths(run).trial_journals, "worker-0")

    async def run(self, task: Task, *, key: TrialKey, temperature: float, queued: float = 0.0) -> TrialResult:
        played = await super().run(task, key=key, temperature=temperature, queued=queued)
        return without_tokens(played, worker="0.0", place=await self._journal.keep(played))


def test_of_trials_of_other_processes_the_place_in_their_journal_is_kept(tmp_path: Path, task: Task) -> None:
    with pytest.raises(Dying):
        play(tmp_path, task, Remote(tmp_path, dies_at=3), uid="a")
    assert RunPaths(tmp_path).groups_journal.stat().st_size < 1500, "no tokens pass through the manager"
    again = Remote(tmp_path)
    assert play(tmp_path, task, again, uid="b") == [0.0, 1.0, 2.0, 3.0]
    assert again.played == [3]


def test_a_trial_whose_workers_journal_is_gone_is_played_again(tmp_path: Path, task: Task) -> None:
    with pytest.raises(Dying):
        play(tmp_path, task, Remote(tmp_path, dies_at=3), uid="a")
    (journal,) = RunPaths(tmp_path).trial_journals.iterdir()
    journal.write_bytes(journal.read_bytes()[:-5])  # the newest, torn
    again = Remote(tmp_path)
    assert play(tmp_path, task, again, uid="b") == [0.0, 1.0, 2.0, 3.0]
    assert again.played == [2, 3]


def test_journals_of_workers_go_when_nothing_in_them_is_needed(
    tmp_path: Path, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.agent_loop.trial_journal.SEGMENT_BYTES", 1)  # a file for each trial
    paths = RunPaths(tmp_path)
    ledger = Ledger()
    ledger.open(paths)
    trials = Remote(tmp_path)

    def files() -> int:
        return len(list(paths.trial_journals.iterdir()))

    def saved(step: int) -> None:
        folder = stable.step_folder(paths.checkpoints, step)
        folder.mkdir(parents=True)
        (folder / "model.pt").write_bytes(b"x")
        stable.mark_stable(folder)
        for old in stable.stable_steps(paths.checkpoints)[:-1]:
            shutil.rmtree(stable.step_folder(paths.checkpoints, old))
        ledger.saved(paths.checkpoints)

    def played(uid: str, step: int) -> None:
        runner = GroupRunner(cast(TrialRunner, trials), concurrency=1, keeper=ledger)
        asyncio.run(runner.run(GroupRequest(task, "train", f"train-{uid}", step, 4, 1.0, uid=uid)))

    played("open", 1)
    found = []
    for step in (1, 2, 3):
        played(f"u{step}", step)
        ledger.taken([f"u{step}"], step=step)
        saved(step)
        found.append(files())
    # Those of the open group, and the newest, which may be written to; the rest once it was not needed for two
    # checkpoints.
    assert found == [4 + 1 + 4] * 3
    ledger.close()
