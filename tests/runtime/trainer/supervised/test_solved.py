"""Rejection sampling: what of a run's trials may be learnt from."""

from __future__ import annotations

from pathlib import Path

from runtime.report.trial import read_trial
from runtime.report.trials import TrialFilter, TrialIndex
from runtime.trainer.supervised.solved import solved_trials
from tests.run_directories import make_run


def test_solved_training_trials_with_their_own_tokens(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs").path
    taken = solved_trials(run, per_task=1000)
    with TrialIndex(run) as index:
        paid = index.rows(TrialFilter(reward_min=1.0))
        wanted = [row for row in paid if not row.validation and row.trainable and not row.problem]
        samples = [(row.task, one) for row in wanted for one in read_trial(index.folder(row)).samples]
    assert samples and any(row.validation for row in paid), "the made run lacks what this test is about"
    expected = sorted(
        (task, [*one.prompt_ids, *one.response_ids], [0] * len(one.prompt_ids) + list(one.response_mask))
        for task, one in samples
    )
    rows = taken.demonstrations.table.to_pylist()
    assert sorted((row["task"], row["input_ids"], row["loss_mask"]) for row in rows) == expected
    assert taken.left_out["of validation tasks"] == sum(row.validation for row in paid)


def test_no_task_gives_more_than_its_share(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs").path
    taken = solved_trials(run, per_task=1)
    with TrialIndex(run) as index:
        counts = index.counts("task", TrialFilter(reward_min=1.0, validation=False))
    assert max(counts.values()) > 1
    assert taken.left_out["of tasks that have enough"] > 0
    assert len(set(taken.demonstrations.texts("task"))) == len(counts)
