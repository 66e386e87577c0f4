"""Health lamps: each holds one signal of a run against its threshold and says why it shines as it does.

The thresholds are those of the field; a signal that a run does not emit is unknown, never well."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from runtime.report.curves import derived
from runtime.telemetry.metrics import Row, series

State = Literal["ok", "warn", "ill", "unknown"]
SILENT_SEC = 30 * 60.0
"""A living run whose files have not changed for so long hangs."""


@dataclass(frozen=True)
class Lamp:
    """``reason`` holds the number and what it is held against."""

    name: str
    state: State
    reason: str


def lamps(rows: Sequence[Row], *, alive: bool = False, silent_sec: float | None = None) -> list[Lamp]:
    """Every lamp of a run. ``silent_sec``: age of the file that changed last."""
    found = [Lamp(name, *rule(rows)) for name, rule in _RULES.items()]
    return [*found, Lamp("signs of life", *_life(alive, silent_sec))]


Judged = tuple[State, str]
Rule = Callable[[Sequence[Row]], Judged]


def _newest(rows: Sequence[Row], key: str) -> float | None:
    found = series(list(rows), key)
    return found[-1][1] if found else None


def _band(key: str, *, warn: float, ill: float, above: bool, words: str, scale: str = "{:.3g}") -> Rule:
    """The newest value of ``key`` against two thresholds; ``above``: large values are ill."""

    def rule(rows: Sequence[Row]) -> Judged:
        value = _newest(rows, key)
        if value is None:
            return "unknown", f"{key} is not in the metrics"
        reason = f"{scale.format(value)}; {words}"
        sign = 1 if above else -1
        return ("ill" if sign * value > sign * ill else "warn" if sign * value > sign * warn else "ok"), reason

    return rule


def _kl(rows: Sequence[Row]) -> Judged:
    value = _newest(rows, "rollout_corr/kl")
    if value is None:
        return "unknown", "rollout_corr/kl is not in the metrics"
    lag = _newest(rows, "training/off_policy/trajectory_staleness/mean") or 0.0
    reason = f"{value:.2g} at a mean staleness of {lag:.2g}; healthy below 1e-3 on policy"
    if abs(value) < 1e-3:
        return "ok", reason
    return ("warn" if abs(value) < 1e-2 or lag > 0 else "ill"), reason


def _pearson(rows: Sequence[Row]) -> Judged:
    value = _newest(rows, "training/rollout_actor_probs_pearson_corr")
    if value is None:
        return "unknown", "training/rollout_actor_probs_pearson_corr is not in the metrics"
    lag = _newest(rows, "training/off_policy/trajectory_staleness/mean") or 0.0
    reason = f"{value:.4f} at a mean staleness of {lag:.2g}; healthy from 0.99"
    return ("ok" if value >= 0.99 else "warn" if value >= 0.95 or lag > 0 else "ill"), reason


def _rate(rows: Sequence[Row]) -> Judged:
    found = series(list(rows), "actor/lr")
    if not found:
        return "unknown", "actor/lr is not in the metrics"
    # A schedule that ends at 0 is well; one that was 0 in the middle of the run taught nothing.
    zero = [step for step, value in found if value == 0.0]
    if len(zero) > 1 or (zero and zero[0] != found[-1][0]) or (zero and len(found) == 1):
        return "ill", f"0 at {len(zero)} of {len(found)} steps, first at step {zero[0]}: nothing is learnt there"
    return "ok", "0 at the end of its schedule" if zero else f"{found[-1][1]:.2g}; healthy above 0"


def _gradient(rows: Sequence[Row]) -> Judged:
    values = [value for _, value in series(list(rows), "actor/grad_norm")]
    if not values:
        return "unknown", "actor/grad_norm is not in the metrics"
    usual = median(values[:-1][-50:] or values)
    reason = f"{values[-1]:.3g}; its own median is {usual:.3g}"
    if len(values) < 5 or not usual:
        return "ok" if values[-1] > 0 else "warn", reason
    return ("ok" if usual / 10 <= values[-1] <= usual * 10 else "ill"), reason


def _score(rows: Sequence[Row]) -> Judged:
    values = [value for _, value in series(list(rows), "critic/score/mean")]
    if not values:
        return "unknown", "no step was scored yet"
    if len(values) >= 3 and not any(values):
        return "ill", f"0 at all {len(values)} steps: look at the verifier and the sandboxes before the policy"
    return "ok", f"{values[-1]:.3g}; between {min(values):.3g} and {max(values):.3g} so far"


def _turns(rows: Sequence[Row]) -> Judged:
    values = [value for _, value in series(list(rows), "num_turns/mean")]
    if not values:
        return "unknown", "num_turns/mean is not in the metrics"
    reason = f"{values[-1]:.3g} a trial, from {values[0]:.3g}"
    return ("ill" if values[-1] < 1.5 and values[0] >= 1.5 else "warn" if values[-1] < 1.5 else "ok"), reason


def _environment(rows: Sequence[Row]) -> Judged:
    trials = _newest(rows, "agent_loop/trials")
    if not trials:
        return "unknown", "no trials were counted yet"
    last = next(row for row in reversed(rows) if "agent_loop/trials" in row.data)
    share = last.data.get("termination/env_setup_failed", 0.0) / trials
    state: State = "ill" if share > 0.2 else "warn" if share > 0.02 else "ok"
    return state, f"{share:.1%} of the trials of step {last.step} got no sandbox; healthy about 0"


def _idle(rows: Sequence[Row]) -> Judged:
    for row in reversed(rows):
        share = derived(row, counts={}).get("derived/trainer_idle")
        if share is not None:
            sync = "fully_async/trainer/idle_ratio" not in row.data
            state: State = "ok" if share < 0.5 or sync else "warn"
            return state, f"{share:.0%} of step {row.step}" + (
                "; rollouts and updates take turns in this mode" if sync else "; high: add rollout workers"
            )
    return "unknown", "no step was timed yet"


def _life(alive: bool, silent_sec: float | None) -> Judged:
    if not alive:
        return "unknown", "the run has ended"
    if silent_sec is None:
        return "unknown", "no file has been written yet"
    reason = f"newest file is {silent_sec / 60:.0f} min old; healthy below 30"
    return ("ill" if silent_sec > SILENT_SEC else "warn" if silent_sec > SILENT_SEC / 3 else "ok"), reason


_RULES: dict[str, Rule] = {
    "score moves": _score,
    "learning rate": _rate,
    "gradient norm": _gradient,
    "rollout and trainer agree": _pearson,
    "rollout KL": _kl,
    "turns": _turns,
    "sandboxes start": _environment,
    "trials in the loss": _band(
        "trajectory_filter/invalid_ratio",
        warn=0.1,
        ill=0.3,
        above=True,
        words="share outside; healthy below 0.1",
    ),
    "responses fit": _band(
        "response_length/clip_ratio", warn=0.1, ill=0.3, above=True, words="share cut at the limit; healthy if low"
    ),
    "groups differ": _band(
        "groups/no_signal_frac", warn=0.8, ill=0.98, above=True, words="share of groups without signal; healthy if low"
    ),
    "effective samples": _band(
        "rollout_corr/rollout_is_eff_sample_size",
        warn=0.5,
        ill=0.1,
        above=False,
        words="healthy near 1; about 0.06 is sequence-level weighting of long trials",
    ),
    "trainer busy": _idle,
}
