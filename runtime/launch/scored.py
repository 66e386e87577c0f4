"""What an evaluation came to, read from its run directory: solve rates, pass@k, and an earlier one beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from runtime.launch.rundir import RunDirectory
from runtime.report.compare import held_out, paired
from runtime.report.passes import passes
from runtime.report.trials import TrialIndex
from runtime.telemetry.intervals import wilson


def scored(directory: RunDirectory, *, ks: Sequence[int] = (1,), against: Path | None = None) -> dict[str, Any]:
    """Fit for JSON: for each task set the graded trials, their mean with its Wilson interval, and pass@k; ``against``:
    a run or evaluation of the same tasks, whose newest held-out trials are paired with these (0 ``tasks``: none is in
    both)."""
    rewards: dict[str, dict[str, list[float]]] = {}
    counts: dict[str, int] = {}
    with TrialIndex(directory.path) as trials:
        for row in trials.rows():
            name, task = row.task_set or "", row.task or ""
            counts[name] = counts.get(name, 0) + 1
            found = rewards.setdefault(name, {})
            if row.reward is not None:
                found.setdefault(task, []).append(max(0.0, row.reward))
    sets = []
    for name, tasks in rewards.items():
        values = [reward for one in tasks.values() for reward in one]
        mean = sum(values) / len(values) if values else None
        low, high = wilson(sum(values), len(values)) if values else (0.0, 1.0)
        each = [one for k in ks if (one := passes(tasks, k)) is not None]
        sets.append(
            {
                "name": name,
                "tasks": len(tasks),
                "trials": counts[name],
                "graded": len(values),
                "mean": mean,
                "low": low,
                "high": high,
                "pass": [asdict(one) for one in each],
            }
        )
    result: dict[str, Any] = {"run": str(directory.path), "sets": sets, "against": None}
    if against is not None:
        pair = paired(held_out(against).scores, held_out(directory.path).scores)
        # Not worth an error: what was scored stands.
        result["against"] = {"run": str(against), **(asdict(pair) if pair is not None else {"tasks": 0})}
    return result


def print_scored(result: dict[str, Any], *, console: Console) -> None:
    table = Table(title="Solve rate (95 % Wilson intervals over trials)", title_justify="left")
    ks = sorted({one["k"] for line in result["sets"] for one in line["pass"] if one["k"] > 1})
    for name in ("task set", "trials", "graded", "solved", "95 %", *(f"pass@{k} (95 % over tasks)" for k in ks)):
        table.add_column(name, justify="left" if name == "task set" else "right")
    for line in result["sets"]:
        solved = "–" if line["mean"] is None else f"{line['mean']:.1%}"
        by_k = {one["k"]: f"{one['value']:.1%} ({one['low']:.1%} – {one['high']:.1%})" for one in line["pass"]}
        table.add_row(
            line["name"],
            str(line["trials"]),
            str(line["graded"]),
            solved,
            f"{line['low']:.1%} – {line['high']:.1%}",
            *(by_k.get(k, "–") for k in ks),
        )
    console.print(table)
    if (pair := result["against"]) is not None:
        words = (
            f"against {pair['run']}: it has no kept validation trial of any task that was scored here"
            if not pair["tasks"]
            else f"against {pair['run']} on {pair['tasks']} tasks: {pair['rate_a']:.1%} then, {pair['rate_b']:.1%} now,"
            f" difference {pair['difference']:+.1%} (95 % {pair['low']:+.1%} to {pair['high']:+.1%}),"
            f" p = {pair['p_value']:.3g}"
        )
        console.print(words, highlight=False, markup=False, soft_wrap=True)
