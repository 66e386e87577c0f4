"""Series of numbers by step from the rows of ``metrics.jsonl``: as they stand there, and a few that follow from them.

Knows the meaning of the names that it derives from; nothing of plots."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from runtime.telemetry.intervals import wilson
from runtime.telemetry.metrics import Row
from runtime.telemetry.scores import SCORE, validation_scores

TRAIN = "solve/train"
"""Solve rate of the training trials; ``/low`` and ``/high`` are the ends of its 95 % interval."""
HELD_OUT = "solve/held-out/"
"""The same of a held-out set, followed by its name."""


def table(rows: Sequence[Row], *, counts: Mapping[str, int], since: int = -1) -> dict[str, Any]:
    """``{"steps": [...], "series": {key: [number or None, ...]}}`` of the steps from ``since`` on. ``counts``: tasks
    by set, for the intervals of held-out scores."""
    chosen = [row for row in rows if row.step >= since]
    full = [{**row.data, **derived(row, counts=counts)} for row in chosen]
    keys = sorted({key for data in full for key in data})
    return {"steps": [row.step for row in chosen], "series": {key: [data.get(key) for data in full] for key in keys}}


def derived(row: Row, *, counts: Mapping[str, int]) -> dict[str, float]:
    """What follows from one row. A number whose parts are missing is left out."""
    found = {key: value for key, rule in _RULES.items() if (value := rule(row.data)) is not None}
    graded = row.data.get("agent_loop/trials", 0.0) - row.data.get("agent_loop/ungraded", 0.0)
    if SCORE in row.data:
        found.update(_interval(TRAIN, row.data[SCORE], round(graded)))
    for name, score in validation_scores(row).items():
        found.update(_interval(HELD_OUT + name, score, counts.get(name, 0)))
    return found


def _interval(key: str, rate: float, total: int) -> dict[str, float]:
    clipped = min(max(rate, 0.0), 1.0)  # a tampered trial is paid -1
    if total <= 0:
        return {key: rate}
    low, high = wilson(clipped * total, total)
    return {key: rate, f"{key}/low": low, f"{key}/high": high}


def _ratio(over: str, under: str) -> Callable[[Mapping[str, float]], float | None]:
    def rule(data: Mapping[str, float]) -> float | None:
        below = data.get(under, 0.0)
        return data[over] / below if over in data and below else None

    return rule


def _trainer_idle(data: Mapping[str, float]) -> float | None:
    """The trainer's own figure where there is one; else the share of the step in which it waited for rollouts."""
    if "fully_async/trainer/idle_ratio" in data:
        return data["fully_async/trainer/idle_ratio"]
    step = data.get("timing_s/step", 0.0)
    waits = [data[key] for key in ("timing_s/gen", "timing_s/switch_wait") if key in data]
    return min(1.0, sum(waits) / step) if step and waits else None


def _rollout_idle(data: Mapping[str, float]) -> float | None:
    if "fully_async/rollouter/idle_ratio" in data:
        return data["fully_async/rollouter/idle_ratio"]
    step, busy = data.get("timing_s/step", 0.0), data.get("timing_s/agent_loop/step")
    return max(0.0, 1.0 - busy / step) if step and busy is not None else None


def _hits(good: tuple[str, ...], bad: str) -> Callable[[Mapping[str, float]], float | None]:
    """Share of ``good`` counts in all; None before the first."""

    def rule(data: Mapping[str, float]) -> float | None:
        hits = sum(data.get(key, 0.0) for key in good)
        total = hits + data.get(bad, 0.0)
        return hits / total if total else None

    return rule


_RULES: Mapping[str, Callable[[Mapping[str, float]], float | None]] = {
    "derived/tokens_per_turn": _ratio("response_length/mean", "num_turns/mean"),
    "derived/tokens_per_s": _ratio("perf/total_num_tokens", "timing_s/step"),
    "derived/reused_verdicts": _ratio("agent_loop/reused_verdicts", "agent_loop/trials"),
    # Of Docker's engine, which counts what it built, found and was asked for again; and of boxes made ahead.
    "derived/image_cache": _hits(("sandbox/images_found", "sandbox/images_reused"), "sandbox/images_built"),
    "derived/warm_boxes": _hits(("sandbox/hits",), "sandbox/misses"),
    "derived/trainer_idle": _trainer_idle,
    "derived/rollout_idle": _rollout_idle,
}


def newest(rows: Iterable[Row], key: str) -> float | None:
    """The newest value of one metric."""
    return next((row.data[key] for row in reversed(list(rows)) if key in row.data), None)
