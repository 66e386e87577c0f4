"""Whether what the trainer does makes sense: reasons to end a run that its own numbers give.

A gradient that is no number makes verl skip its optimizer step and go on; one such step may be bad luck, several in a
row say that loss or weights are broken. And an engine that samples from another distribution than the trainer computes
for the same tokens and weights makes every update wrong, while rewards may even rise.
Reads the rows that verl's file logger writes, in which what is no number is null. Upstream: ``optimizer_step`` of
``verl/workers/engine/fsdp/transformer_impl.py``, ``calculate_debug_metrics`` of ``verl/utils/debug/metrics.py``, 0.9.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import orjson

MOST = 3
"""Steps in a row that are no bad luck."""
APART = 0.002
"""Mean difference of probabilities from which a low correlation counts: where a policy is nearly certain of every token
rounding alone makes it low. bf16 against bf16 differs by 0.0005 (docs/measurements.md)."""
_NORMS = ("actor/grad_norm", "critic/grad_norm")
_CORRELATION = "training/rollout_actor_probs_pearson_corr"
_DIFFERENCE = "training/rollout_probs_diff_mean"
_STALENESS = "training/off_policy/trajectory_staleness/max"
_TAIL_BYTES = 1 << 17
"""More than so many rows take."""
_Step = tuple[int, dict[str, object]]


class TrainedSteps:
    """``rows``: the file of this start's trainer. Where verl writes none, nobody can tell. ``least_correlation``: see
    ``Health``."""

    def __init__(self, rows: Path, *, least_correlation: float | None = None) -> None:
        self._rows = rows
        self._least = least_correlation
        self._size = 0
        self._why: str | None = None

    def why_stop(self) -> str | None:
        """A reason to end the run in words for people; None while there is none. May be asked once a second."""
        try:
            size = self._rows.stat().st_size
            if size == self._size:
                return self._why
            with self._rows.open("rb") as stream:
                stream.seek(max(0, size - _TAIL_BYTES))
                tail = stream.read()
        except OSError:
            return self._why
        self._size = size
        newest = [row for line in tail.splitlines() if (row := _trained(line)) is not None][-MOST:]
        self._why = (_skipped(newest) or self._apart(newest)) if len(newest) == MOST else None
        return self._why

    def _apart(self, newest: Sequence[_Step]) -> str | None:
        if self._least is None:
            return None
        found = [_number(data, _CORRELATION) for _, data in newest]
        differ = [_number(data, _DIFFERENCE) for _, data in newest]
        if any((_number(data, _STALENESS) or 0.0) > 0 for _, data in newest):
            return None  # the policy itself has moved on
        if not all(one is not None and one < self._least for one in found):
            return None
        if not all(one is not None and one > APART for one in differ):
            return None
        said = ", ".join(f"{one:.3f}" for one in found)
        return (
            f"steps {newest[0][0]} to {newest[-1][0]}: the engine samples with other probabilities than the trainer "
            f"computes (correlation {said}; health.least_correlation is {self._least}), so that what is learnt is "
            "wrong: take flags of the engine away (rollout.flags), set routing_replay for a mixture of experts, or "
            "the same precision on both sides"
        )


def _skipped(newest: Sequence[_Step]) -> str | None:
    why = None
    for name in _NORMS:
        if all(name in data and data[name] is None for _, data in newest):
            why = (
                f"steps {newest[0][0]} to {newest[-1][0]} updated nothing or only in part: {name} was no number, "
                "and such an update is skipped; lower the learning rate, or go back to an earlier checkpoint"
            )
    return why


def _number(data: dict[str, object], name: str) -> float | None:
    value = data.get(name)
    return float(value) if isinstance(value, int | float) else None


def _trained(line: bytes) -> _Step | None:
    """A step with an update; None for other rows, and for what a cut has left of one."""
    try:
        row = orjson.loads(line)
        data = row["data"]
        return (int(row["step"]), data) if any(name in data for name in _NORMS) else None
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return None
