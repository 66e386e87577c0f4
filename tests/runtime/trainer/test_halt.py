"""A run that should not go on ends after a checkpoint, and says why; what is asked for again has a budget."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runtime.errors import RunError
from runtime.trainer.diagnosis import diagnose, ended_by_itself
from runtime.trainer.halt import Halt
from runtime.trainer.refills import RefillBudget
from runtime.trainer.rows import RowWriter
from runtime.trainer.trained_steps import TrainedSteps


def config(save_freq: int = 10) -> Any:
    return SimpleNamespace(trainer=SimpleNamespace(save_freq=save_freq))


def test_the_run_ends_after_the_checkpoint_that_is_written_for_it(tmp_path: Path) -> None:
    verl = config()
    halt = Halt(verl)
    halt.check(5)
    halt.saved(tmp_path / "global_step_5")
    halt.check(6)
    halt.ask("40 of the newest 64 trials ended without a grade")
    assert verl.trainer.save_freq == 1, "verl saves at the end of this step"
    halt.check(7)
    halt.saved(tmp_path / "global_step_7")
    halt.ask("another reason, later")
    with pytest.raises(
        RunError, match=r"^RunHalted: 40 of .*; the run was ended after the checkpoint of step 7$"
    ) as end:
        halt.check(8)
    log = f"Traceback ...\nruntime.errors.RunError: {end.value}\n"
    assert diagnose(log, exit_code=1).startswith("40 of the newest")
    assert ended_by_itself(log) and not ended_by_itself("Traceback ...\nruntime.errors.RunError: WaitedTooLong: x\n")


def test_a_full_disk_ends_it_without_a_checkpoint_of_its_own(tmp_path: Path) -> None:
    verl = config()
    halt = Halt(verl)
    halt.check(6)
    halt.ask("40 of the newest 64 trials ended without a grade")
    halt.ask("100 MiB of disk are free", save=False)
    assert verl.trainer.save_freq == 10, "the checkpoint that was asked for would fill the disk"
    with pytest.raises(RunError, match=r"^RunHalted: 40 of .* before step 7, without a further checkpoint$"):
        halt.check(7)


def test_before_the_first_step_there_is_nothing_to_save() -> None:
    halt = Halt(config())
    halt.ask("97.5% of the memory are in use")
    with pytest.raises(RunError, match="before it had trained a step"):
        halt.check(1)


def test_what_is_asked_for_again_has_a_budget_for_each_batch() -> None:
    asked: list[int] = []
    budget = RefillBudget(asked.append)
    for step in (1, 2):
        budget.begin(step, 2)
        budget(5)
        budget(3)
    with pytest.raises(RunError, match=r"step 2: 9 groups had to be asked for again .* more than 8"):
        budget(1)
    assert asked == [5, 3, 5, 3]


def test_a_step_that_cannot_end_ends_a_run_that_is_to_end_by_the_reason_for_it() -> None:
    """Its checkpoint would never come, and a job that its platform starts again would not hear that it is over."""
    why: list[str] = []
    budget = RefillBudget(None, per_group=1, halting=lambda: why[-1] if why else None)
    budget.begin(7, 2)
    budget(2)
    why.append("64 of the newest 64 trials ended without a grade")
    with pytest.raises(RunError, match=r"^RunHalted: 64 of .* step 7 could not be brought to its end, with 3 ") as end:
        budget(1)
    assert ended_by_itself(f"Traceback ...\nruntime.errors.RunError: {end.value}\n")


def test_updates_that_are_skipped_one_after_another_end_the_run(tmp_path: Path) -> None:
    """A gradient that is no number: verl skips the step and says so in its row (here, as there, written by orjson)."""
    skipped, rows = TrainedSteps(tmp_path / "verl-0.jsonl"), RowWriter(tmp_path / "verl-0.jsonl")
    assert skipped.why_stop() is None

    def seen(step: int, **data: float) -> str | None:
        rows.write(step, data)
        return skipped.why_stop()

    nan, norm, critic = float("nan"), "actor/grad_norm", "critic/grad_norm"
    assert not any([seen(1, **{norm: nan}), seen(2, **{norm: nan}), seen(3, **{norm: 0.5})])
    assert not any([seen(4, **{norm: nan, critic: nan}), seen(5, **{norm: 1.0, critic: float("inf")})])
    assert not seen(5, **{"val-core/reward": nan}), "a validation"
    why = seen(6, **{norm: nan, critic: nan})
    assert why is not None and why.startswith("steps 4 to 6 updated nothing or only in part: critic/grad_norm was no")
    assert why == skipped.why_stop()
    assert seen(7, **{norm: nan, critic: 0.1}) is None
    assert "actor/grad_norm" in (seen(8, **{norm: nan, critic: 0.1}) or "")
    rows.close()


@pytest.mark.parametrize(
    ("changed", "ends"),
    [
        ({}, True),
        ({"training/rollout_probs_diff_mean": 5e-4}, False),  # nearly certain of every token: rounding
        ({"training/rollout_actor_probs_pearson_corr": 0.999}, False),
        ({"training/rollout_actor_probs_pearson_corr": float("nan")}, False),
        ({"training/off_policy/trajectory_staleness/max": 1}, False),
        ({"training/off_policy/trajectory_staleness/max": 0}, True),
    ],
)
def test_an_engine_that_samples_from_another_policy_ends_the_run(
    tmp_path: Path, changed: dict[str, float], ends: bool
) -> None:
    """Figures of a run whose engine was wrong: it went on for ten steps."""
    measured = [(0.971, 0.0041), (0.965, 0.0045), (0.962, 0.0039)]
    watch = TrainedSteps(tmp_path / "verl-0.jsonl", least_correlation=0.98)
    off = TrainedSteps(tmp_path / "verl-0.jsonl", least_correlation=None)
    rows = RowWriter(tmp_path / "verl-0.jsonl")
    for step, (correlation, difference) in enumerate(measured, 1):
        assert watch.why_stop() is None
        row = {
            "actor/grad_norm": 0.1,
            "training/rollout_actor_probs_pearson_corr": correlation,
            "training/rollout_probs_diff_mean": difference,
        }
        rows.write(step, row | (changed if step == 2 else {}))
    assert (watch.why_stop() is not None) is ends and off.why_stop() is None
    if ends:
        assert "steps 1 to 3" in str(watch.why_stop()) and "0.971, 0.965, 0.962" in str(watch.why_stop())
    rows.close()
