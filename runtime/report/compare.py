"""Runs side by side: their curves, and what their policies solve of the same held-out tasks, tested in pairs.

Two policies that were scored on the same tasks are compared task by task: an exact McNemar test on the tasks that one
of them alone solves, and a bootstrap interval of the difference of their solve rates, drawn over tasks. Knows run
directories; not what their specs differ in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count as count_from
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np

from runtime.grading.base import solved_share
from runtime.report.trials import TrialFilter, TrialIndex
from runtime.run_paths import RunPaths
from runtime.telemetry.metrics import read_rows, series
from runtime.telemetry.scores import SCORE, validation_scores

CURVES = (SCORE, "response_length/mean", "actor/entropy", "actor/kl_loss", "actor/grad_norm", "timing_s/step")
_DRAWS = 10_000
_SOLVED = 0.999

Scores = Mapping[tuple[str, str], Sequence[float]]
"""(task set, task) -> what each of its trials was worth, 0 to 1."""


@dataclass(frozen=True)
class Paired:
    """``b`` against ``a`` on the tasks that both were scored on. ``only_a`` and ``only_b``: pairs of trials of which
    that one alone solved the task; ``p_value``: of so uneven a split by chance (exact McNemar, two-sided); ``low`` and
    ``high``: 95 % bootstrap interval of ``difference``, the solve rate of b less that of a."""

    tasks: int
    pairs: int
    rate_a: float
    rate_b: float
    difference: float
    low: float
    high: float
    only_a: int
    only_b: int
    p_value: float


@dataclass(frozen=True)
class HeldOut:
    """What a run's newest scored step is worth. ``step`` is None where no validation trial was kept."""

    step: int | None
    scores: Scores


def held_out(run: Path, *, step: int | None = None) -> HeldOut:
    """The kept validation trials of one step; None: of the newest that has any. An evaluation is all of step 0."""
    with TrialIndex(run) as trials:
        if step is None:
            newest = trials.rows(TrialFilter(validation=True), sort="step", descending=True, limit=1)
            if not newest:
                return HeldOut(None, {})
            step = newest[0].step
        found: dict[tuple[str, str], list[float]] = {}
        for row in trials.rows(TrialFilter(validation=True, step=step), sort="id"):
            if row.reward is not None and row.task is not None:
                found.setdefault((row.task_set or "", row.task), []).append(solved_share(row.reward))
    return HeldOut(step, found)


def paired(a: Scores, b: Scores, *, seed: int = 0) -> Paired | None:
    """None where no task is in both. Where tasks have several trials, those of equal number are paired."""
    both = sorted(a.keys() & b.keys())
    if not both:
        return None
    means = np.array([[np.mean(a[name]), np.mean(b[name])] for name in both])
    differences = means[:, 1] - means[:, 0]
    draws = np.random.default_rng(seed).integers(0, len(both), size=(_DRAWS, len(both)))
    low, high = np.quantile(differences[draws].mean(axis=1), [0.025, 0.975])
    pairs = [pair for name in both for pair in zip(a[name], b[name], strict=False)]
    only_a = sum(one >= _SOLVED > other for one, other in pairs)
    only_b = sum(other >= _SOLVED > one for one, other in pairs)
    return Paired(
        tasks=len(both),
        pairs=len(pairs),
        rate_a=float(means[:, 0].mean()),
        rate_b=float(means[:, 1].mean()),
        difference=float(differences.mean()),
        low=float(low),
        high=float(high),
        only_a=only_a,
        only_b=only_b,
        p_value=mcnemar(only_a, only_b),
    )


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided p-value: how often a fair coin splits the discordant pairs at least so unevenly.

    >>> mcnemar(0, 5)
    0.0625
    """
    total, fewer = only_a + only_b, min(only_a, only_b)
    ways: int = sum(math.comb(total, k) for k in range(fewer + 1))
    return min(1.0, float(2 * ways / 2**total))


def compare(runs: Sequence[Path], *, curves: Sequence[str] = CURVES) -> dict[str, Any]:
    """Everything about the runs that needs no compiler, fit for JSON: curves by metric and run, newest held-out scores,
    and every later run paired with the first."""
    rows = {run: read_rows(RunPaths(run).metrics) for run in runs}
    scored = {run: held_out(run) for run in runs}
    validation = {name for one in rows.values() for row in one for name in row.data if name.startswith("val-core/")}
    names = [*curves, *sorted(validation)]
    return {
        "runs": [
            {
                "path": str(run),
                "steps": rows[run][-1].step if rows[run] else None,
                "held_out_step": scored[run].step,
                "held_out": {name: value for row in rows[run] for name, value in validation_scores(row).items()},
            }
            for run in runs
        ],
        "curves": {
            name: found for name in dict.fromkeys(names) if any(found := [series(rows[run], name) for run in runs])
        },
        "paired": [
            {"a": str(runs[0]), "b": str(other), **(asdict(result) if result is not None else {"tasks": 0})}
            for other in runs[1:]
            for result in [paired(scored[runs[0]].scores, scored[other].scores)]
        ],
    }


def letters(count: int) -> list[str]:
    """What runs are called: A to Z, then AA, AB ...

    >>> letters(28)[25:]
    ['Z', 'AA', 'AB']
    """
    alphabet = [chr(ord("A") + number) for number in range(26)]
    return list(islice(("".join(one) for size in count_from(1) for one in product(alphabet, repeat=size)), count))


def words(result: Mapping[str, Any]) -> list[str]:
    """The comparison as lines for people, runs called A, B, C ..."""
    called = letters(len(result["runs"]))
    lines = []
    for letter, run in zip(called, result["runs"], strict=True):
        scores = ", ".join(f"{name} {value:.1%}" for name, value in run["held_out"].items())
        reached = "no step" if run["steps"] is None else f"step {run['steps']}"
        lines.append(f"{letter}  {run['path']}  {reached}{f'  {scores}' if scores else ''}")
    if result["curves"]:
        width = max(map(len, result["curves"]))
        lines.append(f"{'first → last':>{width + 12}}" if width else "")
        for name, curves in result["curves"].items():
            cells = [f"{one[0][1]:.4g} → {one[-1][1]:.4g}" if one else "–" for one in curves]
            lines.append(
                f"{name:<{width}}  " + "  ".join(f"{letter} {cell}" for letter, cell in zip(called, cells, strict=True))
            )
    for letter, pair in zip(called[1:], result["paired"], strict=True):
        if not pair["tasks"]:
            lines.append(f"A and {letter}: no held-out task of which both have kept trials: nothing to pair")
            continue
        lines.append(
            f"A and {letter} on {pair['tasks']} held-out tasks: {pair['rate_a']:.1%} and {pair['rate_b']:.1%},"
            f" difference {pair['difference']:+.1%} (95 % {pair['low']:+.1%} to {pair['high']:+.1%});"
            f" solved by A alone {pair['only_a']}, by {letter} alone {pair['only_b']}, p = {pair['p_value']:.3g}"
        )
    return lines
