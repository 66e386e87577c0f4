"""Numbers of one step of the agent loop, from its trials: times by part, proxy, filter, groups, weights.

Names follow the field's (verl's metrics and its successors' rollout-side names). Knows nothing of where rows are
written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from runtime.agent_loop.types import TrialResult

_PARTS: Mapping[str, Callable[[TrialResult], float]] = {
    "harbor_env_setup": lambda one: one.timings.setup,
    "harbor_agent_execute": lambda one: one.timings.agent,
    "harbor_agent_model_inference": lambda one: one.timings.model,
    "harbor_agent_tool_call": lambda one: one.timings.tools,
    "harbor_verifier": lambda one: one.timings.verifier,
    "harbor_total": lambda one: one.timings.total,
    "download": lambda one: one.timings.download,
    "teardown": lambda one: one.timings.teardown,
    "queue": lambda one: one.timings.queue,
}


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest-rank percentile of a non-empty sequence."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(share * (len(ordered) - 1))))]


def step_metrics(groups: Iterable[Sequence[TrialResult]], *, group_size: int, seconds: float) -> dict[str, float]:
    """One flat row. ``groups`` are the step's groups with every settled trial; ``seconds`` from the first prompt to
    the last group."""
    listed = [list(group) for group in groups]
    trials = [trial for group in listed for trial in group]
    row: dict[str, float] = {"timing_s/agent_loop/step": seconds, "agent_loop/trials": len(trials)}
    if not trials:
        return row
    slowest = max(trials, key=lambda one: one.timings.total)
    for name, part in _PARTS.items():
        values = [part(one) for one in trials]
        row[f"timing_s/agent_loop/{name}/min"] = min(values)
        row[f"timing_s/agent_loop/{name}/mean"] = sum(values) / len(values)
        row[f"timing_s/agent_loop/{name}/max"] = max(values)
        row[f"timing_s/agent_loop/slowest/{name}"] = part(slowest)
    starts = [one.timings.setup for one in trials if one.timings.setup > 0]
    if starts:
        row["sandbox/start_p50"] = percentile(starts, 0.5)
        row["sandbox/start_p95"] = percentile(starts, 0.95)
    row["proxy_num_calls"] = sum(one.model_calls for one in trials)
    row["proxy_num_aborts"] = sum(one.aborted for one in trials)
    row["proxy_mismatches"] = sum(one.mismatches for one in trials)
    row["proxy_unread_calls"] = sum(one.unread_calls for one in trials)
    for fate in ("sampled", "trained", "discarded", "auxiliary", "lost"):
        row[f"proxy_tokens/{fate}"] = sum(getattr(one.accounting, fate) for one in trials)
    row["proxy_total_prompt_tokens"] = sum(one.prompt_tokens for one in trials)
    row["proxy_total_completion_tokens"] = sum(one.completion_tokens for one in trials)
    gaps = [gap for one in trials for gap in one.tool_gaps]
    if gaps:
        row["proxy_tool_gap_mean"] = sum(gaps) / len(gaps)
        row["proxy_tool_gap_max"] = max(gaps)
        row["proxy_tool_gap_min"] = min(gaps)
        row["proxy_tool_gap_p90"] = percentile(gaps, 0.9)
    row.update(_filter(trials))
    row.update(_groups(listed, group_size))
    row.update(_sets(trials))
    versions = [span for one in trials if (span := one.weight_versions) is not None]
    if versions:
        row["weights/served_min"] = min(low for low, _ in versions)
        row["weights/served_max"] = max(high for _, high in versions)
    row["agent_loop/completion_tokens_per_s"] = row["proxy_total_completion_tokens"] / max(seconds, 1e-9)
    return row


def image_metrics(before: Mapping[str, float], now: Mapping[str, float]) -> dict[str, float]:
    """Of tasks' images between two looks at what the sandboxes count: the share of boxes that found theirs, the seconds
    that the others waited, and images fetched ahead. Empty where no box asked for one."""
    found = {name: now.get(name, 0.0) - before.get(name, 0.0) for name in ("image_hits", "image_misses")}
    asked = sum(found.values())
    row: dict[str, float] = {}
    if asked:
        row["images/hit_rate"] = found["image_hits"] / asked
        row["images/waited_sec"] = now.get("image_fetch_sec", 0.0) - before.get("image_fetch_sec", 0.0)
        row["images/ahead"] = now.get("images_ahead", 0.0) - before.get("images_ahead", 0.0)
    return row


def _filter(trials: Sequence[TrialResult]) -> dict[str, float]:
    invalid = [one for one in trials if not one.trainable]
    row: dict[str, float] = {
        "trajectory_filter/invalid_count": len(invalid),
        "trajectory_filter/invalid_ratio": len(invalid) / len(trials),
        "trajectory_filter/dropped_count": sum(one.dropped for one in trials),
        "agent_loop/ungraded": sum(one.reward is None for one in trials),
        "agent_loop/retried": sum(one.key.attempt > 0 for one in trials),
        "agent_loop/unrecorded": sum(one.unrecorded is not None for one in trials),
        "agent_loop/reused_verdicts": sum(one.reused_verdict for one in trials),
        "integrity/defence_ratio": sum(bool(one.defences) for one in trials) / len(trials),
        "integrity/isolated_ratio": sum(one.isolation != "none" for one in trials) / len(trials),
    }
    for reason, count in Counter(one.termination.value for one in invalid).items():
        row[f"trajectory_filter/reason/{reason}"] = count
    for reason, count in Counter(one.termination.value for one in trials).items():
        row[f"termination/{reason}"] = count
    return row


def _groups(groups: Sequence[Sequence[TrialResult]], group_size: int) -> dict[str, float]:
    rewards = [[one.reward for one in group if one.reward is not None] for group in groups]
    graded = [group for group in rewards if group]
    row: dict[str, float] = {
        "groups/total": len(groups),
        "groups/partial": sum(len(group) < group_size for group in rewards),
    }
    if graded:
        row["groups/all_wrong"] = sum(max(group) <= 0.0 for group in graded)
        row["groups/all_correct"] = sum(min(group) >= 1.0 for group in graded)
        row["groups/mixed"] = sum(min(group) < max(group) for group in graded)
        row["groups/no_signal_frac"] = sum(min(group) == max(group) for group in graded) / len(graded)
    return row


def _sets(trials: Sequence[TrialResult]) -> dict[str, float]:
    """Of each task set, where a step has trials of several."""
    row: dict[str, float] = {}
    counts = Counter(one.key.task_set for one in trials)
    if len(counts) > 1:
        for name, count in counts.items():
            rewards = [one.reward for one in trials if one.key.task_set == name and one.reward is not None]
            row[f"sets/{name}/trials"] = count
            if rewards:
                row[f"sets/{name}/reward"] = sum(rewards) / len(rewards)
    return row
