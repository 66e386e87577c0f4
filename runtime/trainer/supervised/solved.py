"""Rejection sampling: solved trials of an earlier run, as demonstrations of what the policy itself has written.

A sample's tokens and mask are taken as they were recorded: nothing is tokenised again. Free of torch and verl.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.report.trial import read_trial
from runtime.report.trials import TrialFilter, TrialIndex, TrialRow
from runtime.trainer.supervised import table

SOLVED = 1.0
KIND = "solved"


@dataclass(frozen=True)
class Taken:
    """``left_out``: solved trials that were not taken, by the reason."""

    demonstrations: table.Demonstrations
    left_out: dict[str, int]


def solved_trials(run: Path, *, per_task: int) -> Taken:
    """Trials of training tasks that were paid in full and that the run itself would have trained on; of one task those
    with the fewest tokens."""
    left_out: dict[str, int] = defaultdict(int)
    with TrialIndex(run) as index:
        rows = index.rows(TrialFilter(reward_min=SOLVED), sort="id")
        by_task: dict[str, list[TrialRow]] = defaultdict(list)
        for row in rows:
            why = _unfit(row)
            if why:
                left_out[why] += 1
            else:
                by_task[str(row.task)].append(row)
        chosen = [row for found in by_task.values() for row in _shortest(found, per_task, left_out)]
        made = [one for row in chosen for one in _samples(index.folder(row), str(row.task), left_out)]
    return Taken(table.of_rows(made), dict(left_out))


def _unfit(row: TrialRow) -> str:
    """Why a solved trial teaches nothing that may be taught."""
    if row.validation:
        return "of validation tasks"
    if not row.trainable or row.problem:
        return "not fit to be trained on"
    return "" if row.task else "of no task"


def _shortest(rows: Sequence[TrialRow], number: int, left_out: dict[str, int]) -> Sequence[TrialRow]:
    ordered = sorted(rows, key=lambda row: (row.completion_tokens or 0, row.trial_id))
    if len(ordered) > number:
        left_out["of tasks that have enough"] += len(ordered) - number
    return ordered[:number]


def _samples(folder: Path, task: str, left_out: dict[str, int]) -> list[dict[str, object]]:
    samples = read_trial(folder).samples
    if not samples:
        left_out["without recorded tokens"] += 1
    return [
        {
            "input_ids": [*one.prompt_ids, *one.response_ids],
            "loss_mask": [*[0] * len(one.prompt_ids), *(int(bool(written)) for written in one.response_mask)],
            "package": "",
            "kind": KIND,
            "task": task,
        }
        for one in samples
    ]
