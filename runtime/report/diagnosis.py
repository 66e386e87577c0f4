"""Known failures of a run by their signature: each rule looks at the facts, and where it fires says on what evidence
and what to do.

The signatures are the field's and those that follow from verl's source. Rules are exclusive where one failure would
show another's sign: so the first cause is told, not its consequences."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from runtime.report.curves import derived
from runtime.report.facts import Facts
from runtime.telemetry.intervals import wilson
from runtime.telemetry.metrics import Row
from runtime.telemetry.scores import learnt_nothing, validation_scores

MIN_STEPS = 3
"""Steps after which a flat 0 is a sign."""
SILENT_SEC = 30 * 60.0
Evidence = str | None


@dataclass(frozen=True)
class Finding:
    """One rule that fired."""

    rule: str
    title: str
    evidence: str
    advice: str


@dataclass(frozen=True)
class Rule:
    """``look``: what it looks for; ``test`` returns the evidence, or None."""

    id: str
    title: str
    look: str
    advice: str
    test: Callable[[Facts], Evidence]


def diagnose(facts: Facts) -> list[Finding]:
    """Every rule that fires, in the order of the table."""
    found = []
    for rule in RULES:
        evidence = rule.test(facts)
        if evidence is not None:
            found.append(Finding(rule.id, rule.title, evidence, rule.advice))
    return found


def _all_zero(facts: Facts) -> bool:
    """Every training step was paid 0, for other reasons than that nothing was graded, read or started."""
    rows = facts.trained
    zero = len(rows) >= MIN_STEPS and all(row.data["critic/score/mean"] == 0 for row in rows)
    return zero and _environment(facts) is None and _mask(facts) is None


def _turns(facts: Facts) -> float | None:
    values = facts.values("num_turns/mean")
    return median(value for _, value in values[-10:]) if values else None


def _grader(facts: Facts) -> Evidence:
    turns = _turns(facts)
    if not _all_zero(facts) or turns is None or turns < 2:
        return None
    verified = [value for _, value in facts.values("timing_s/agent_loop/harbor_verifier/mean")]
    if not verified or max(verified) <= 0:
        return None
    return (
        f"reward 0 at all {len(facts.trained)} steps, {turns:.1f} turns a trial,"
        f" and the verifier ran {verified[-1]:.2g} s a trial"
    )


def _no_tools(facts: Facts) -> Evidence:
    turns = _turns(facts)
    if not _all_zero(facts) or turns is None or turns >= 2:
        return None
    return f"reward 0 at all {len(facts.trained)} steps, and {turns:.2f} turns a trial"


def _mask(facts: Facts) -> Evidence:
    first = next((row for row in facts.rows if row.data.get("proxy_num_calls", 0) > 0), None)
    if first is None or first.data.get("proxy_tokens/trained", 1.0) > 0:
        return None
    unread = first.data.get("proxy_unread_calls", 0.0)
    return (
        f"step {first.step}: {first.data['proxy_num_calls']:.0f} calls of the model, no token to train on,"
        f" {unread:.0f} tool calls that could not be read"
    )


def _logprobs(facts: Facts) -> Evidence:
    silent, looked = facts.silent_logprobs
    if looked and silent == looked:
        return f"all {looked} conversations looked at have log-probability 0 for every token of the policy"
    ours, theirs = "rollout_corr/rollout_log_ppl", "rollout_corr/training_log_ppl"
    flat = [row for row in facts.rows if row.data.get(ours) == 0.0 and row.data.get(theirs, 0.0) > 0.01]
    if not flat:
        return None
    value = f"{flat[-1].data[theirs]:.3g}"
    return f"step {flat[-1].step}: the rollout's log-perplexity is exactly 0, the trainer's {value}"


def _environment(facts: Facts) -> Evidence:
    for row in reversed(facts.rows):
        trials = row.data.get("agent_loop/trials", 0.0)
        failed = row.data.get("termination/env_setup_failed", 0.0)
        if trials:
            return (
                f"step {row.step}: {failed:.0f} of {trials:.0f} trials got no sandbox"
                if failed >= 0.8 * trials
                else None
            )
    return None


def _stuck(facts: Facts) -> Evidence:
    status = facts.status
    fresh = facts.alive and facts.status_age_sec is not None and facts.status_age_sec < 120
    if not fresh or facts.quiet_sec is None or facts.quiet_sec < SILENT_SEC:
        return None
    if not status.get("sandboxes") or status.get("tokens_per_sec"):
        return None
    memory = facts.values("actor/perf/max_memory_allocated_gb")
    held = f", the trainer held {memory[-1][1]:.0f} GB of GPU memory" if memory else ""
    quiet = f"no trial has ended for {facts.quiet_sec / 60:.0f} min"
    return f"{status['sandboxes']} sandboxes at work, 0 tokens/s, and {quiet}{held}"


def _no_engine(facts: Facts) -> Evidence:
    if facts.starting_sec is None or facts.engines or facts.starting_sec < SILENT_SEC:
        return None
    return f"the trainer started {facts.starting_sec / 60:.0f} min ago, and no inference server has registered"


def _illegal_access(facts: Facts) -> Evidence:
    line = _line(facts.log, r"illegal memory access")
    return line if line and not facts.trained else None


def _partial_validation(facts: Facts) -> Evidence:
    for row in reversed(facts.rows):
        expected = sum(facts.counts.get(name, 0) for name in validation_scores(row))
        graded = row.data.get("val-aux/agent_loop/trials", 0.0) - row.data.get("val-aux/agent_loop/ungraded", 0.0)
        if expected and "val-aux/agent_loop/trials" in row.data and not _no_environment(facts):
            return (
                f"step {row.step}: {graded:.0f} of {expected} held-out tasks were scored"
                if graded < 0.9 * expected
                else None
            )
    return None


def _no_environment(facts: Facts) -> Evidence:
    for row in reversed(facts.rows):
        scores, turns = validation_scores(row), row.data.get("val-aux/num_turns/mean")
        if scores and turns is not None:
            if max(scores.values()) == 0 and turns < 0.5:
                return f"step {row.step}: held-out score 0 with {turns:.2g} turns a trial: no agent ran"
            return None
    return None


def _jump(facts: Facts) -> Evidence:
    """A rise beyond both intervals while nothing was learnt in between."""
    scored = [(row, validation_scores(row)) for row in facts.rows if validation_scores(row)]
    for (old, before), (new, after) in pairwise(scored):
        between = [row for row in facts.trained if old.step < row.step <= new.step]
        if not all(_learnt_nothing(row) for row in between):
            continue
        for name, score in after.items():
            total = facts.counts.get(name, 0)
            if name not in before or not total or not (0 <= before[name] <= 1 and 0 <= score <= 1):
                continue
            if wilson(before[name] * total, total)[1] < wilson(score * total, total)[0]:
                rose = f"{name} rose from {before[name]:.1%} (step {old.step}) to {score:.1%} (step {new.step})"
                return f"{rose}, and no update between them had a gradient"
    return None


def _learnt_nothing(row: Row) -> bool:
    return row.data.get("actor/grad_norm") == 0.0 or row.data.get("actor/lr") == 0.0 or learnt_nothing(row)


def _slow_starts(facts: Facts) -> Evidence:
    values = [value for _, value in facts.values("sandbox/start_p50")]
    hours = sum(value for _, value in facts.values("timing_s/step")) / 3600
    if len(values) < 8 or hours < 1:
        return None
    quarter = len(values) // 4
    parts = [median(values[at * quarter : (at + 1) * quarter]) for at in range(4)]
    if parts[3] < 2 * parts[0] or sorted(parts) != parts:
        return None
    now = f"within {parts[3]:.1f} s now, {hours:.1f} h later"
    return f"half of the sandboxes started within {parts[0]:.1f} s at first, {now}"


def _disk(facts: Facts) -> Evidence:
    line = _line(f"{facts.log}\n{facts.cause}", r"No space left on device|ENOSPC|disk of .* is full")
    if line:
        return line
    if facts.alive and facts.disk_used is not None and facts.disk_used >= 0.98:
        return f"the run's disk is {facts.disk_used:.1%} full"
    return None


def _schedule(facts: Facts) -> Evidence:
    values = facts.values("actor/lr")
    zero = [step for step, value in values if value == 0.0]
    # The last step of a schedule may be 0.
    if not zero or (len(zero) == 1 and len(values) > 1 and zero[0] == values[-1][0]):
        return None
    return f"actor/lr is 0 at {len(zero)} of {len(values)} steps, the first is step {zero[0]}"


def _collapse(facts: Facts) -> Evidence:
    entropy = [value for _, value in facts.values("actor/entropy")]
    reward = [value for _, value in facts.values("critic/score/mean")]
    if len(entropy) < 8 or len(reward) < 8 or _all_zero(facts):
        return None
    quarter = max(2, len(entropy) // 4)
    old, new = median(entropy[:quarter]), median(entropy[-quarter:])
    was, now = median(reward[:quarter]), median(reward[-quarter:])
    solved = now > 0.9  # a policy that is sure because it is right
    if old <= 0 or new > 0.3 * old or abs(now - was) > 0.03 or solved:
        return None
    return f"entropy fell from {old:.3g} to {new:.3g} while the reward stayed at {was:.3g} to {now:.3g}"


def _too_slow(facts: Facts) -> Evidence:
    bound = facts.staleness_bound
    worst, evicted = (
        facts.values(f"training/off_policy/{name}") for name in ("trajectory_staleness/max", "evicted_samples")
    )
    lost = sum(value for _, value in evicted)
    if not bound or not worst or worst[-1][1] < bound or not lost:
        return None
    return f"staleness is {worst[-1][1]:.0f} of at most {bound:.0f}, and {lost:.0f} samples were thrown away"


def _refilled(facts: Facts) -> Evidence:
    lost = [(step, value) for step, value in facts.values("training/rollout_failure/evicted_samples") if value > 0]
    idle = [share for row in facts.rows if (share := derived(row, counts={}).get("derived/trainer_idle")) is not None]
    if not lost or not idle or idle[-1] < 0.5:
        return None
    waited = f"the trainer waited for {idle[-1]:.0%} of the newest step"
    return f"{waited}, and failed groups were replaced at {len(lost)} steps"


def _small_batch(facts: Facts) -> Evidence:
    if not facts.batch or _environment(facts):
        return None
    for row in reversed(facts.trained):
        trials = row.data.get("agent_loop/trials")
        if trials is None:
            continue
        padded = row.data.get("training/num_padding", row.data.get("batch/is_padding", 0.0))
        good = trials - row.data.get("agent_loop/ungraded", 0.0)
        if good >= 0.9 * facts.batch and padded < 0.1 * facts.batch:
            return None
        return (
            f"step {row.step}: {good:.0f} graded trials for a batch of {facts.batch}; verl fills the rest with padding"
        )
    return None


def _line(text: str, pattern: str) -> str | None:
    found = re.search(rf"[^\n]*(?:{pattern})[^\n]*", text, re.IGNORECASE)
    return found[0].strip()[:300] if found else None


RULES: tuple[Rule, ...] = (
    Rule(
        "grader-broken",
        "The grader is broken",
        "All rewards 0, normal turns, and the verifier ran.",
        "Read the verifier's output of any trial first: an asset that it fetches without network, or a missing tool."
        " Verifying the task shows whether its solution passes.",
        _grader,
    ),
    Rule(
        "no-tools",
        "The policy uses no tools",
        "All rewards 0 and about one turn a trial.",
        "Open a trial: if its text holds a tool call, rollout.tool_parser does not fit the model; if not, the policy"
        " has collapsed: go back to an earlier checkpoint, and warm it up with demonstrations.",
        _no_tools,
    ),
    Rule(
        "mask-empty",
        "No token to train on",
        "The model was called, and nothing that it wrote is trained.",
        "rollout.tool_parser does not fit the model's format (XML against JSON): choose the model's own.",
        _mask,
    ),
    Rule(
        "logprobs-zero",
        "Log-probabilities are missing",
        "All log-probabilities of the rollout are 0.",
        "The engine returns none, or a history was rebuilt without computing them again: turn the engine's"
        " log-probabilities on (rollout.calculate_log_probs), and do not train on these samples.",
        _logprobs,
    ),
    Rule(
        "no-sandbox",
        "Sandboxes do not start",
        "Nearly all trials end with env_setup_failed.",
        "Read a trial's error: an install inside the sandbox without network, or an image that cannot be pulled.",
        _environment,
    ),
    Rule(
        "sandbox-stuck",
        "Sandboxes hang",
        "GPU memory held, no tokens made, and no trial ends.",
        "Look at the sandboxes' side: containers or pods of this run, their events, and the queue for them.",
        _stuck,
    ),
    Rule(
        "no-engine",
        "No inference server registers",
        "Half an hour after the start no replica is there.",
        "An engine could not start: read its log from the first error on.",
        _no_engine,
    ),
    Rule(
        "illegal-access",
        "Illegal memory access",
        "The GPU reports it before the first step is done.",
        "The number of GPUs of a replica must divide the model's key-value heads: change rollout.parallel.tensor.",
        _illegal_access,
    ),
    Rule(
        "validation-partial",
        "Validation covers a part of its set",
        "Fewer held-out tasks are scored than there are.",
        "One deadline for all is too short: give validation time of its own, or more concurrency.",
        _partial_validation,
    ),
    Rule(
        "validation-no-agent",
        "Validation is 0 because no agent ran",
        "Held-out score 0 with 0 turns.",
        "A failure of the environment, not of the policy: read the errors of its trials, then score the checkpoint"
        " again.",
        _no_environment,
    ),
    Rule(
        "validation-jump",
        "Validation jumps while the policy stands",
        "A rise beyond chance without learning between.",
        "A grader or an image was mended in between: grade the earlier trials again before you compare.",
        _jump,
    ),
    Rule(
        "starts-slow-down",
        "Sandboxes start slower and slower",
        "The median start doubles over hours.",
        "A leak on the node, mostly of control groups: drain and restart it.",
        _slow_starts,
    ),
    Rule(
        "disk-full",
        "The disk is full",
        "The disk is at its end, or a log says so.",
        "Free some space (`liverl gc` says what could go), keep caches of packages off this disk, then --resume.",
        _disk,
    ),
    Rule(
        "lr-zero",
        "The learning rate is 0",
        "actor/lr is 0 before the last step.",
        "A schedule without its number of steps: set schedule.steps, or a constant rate.",
        _schedule,
    ),
    Rule(
        "entropy-collapse",
        "Entropy collapses",
        "Entropy falls while the reward stays flat.",
        "Go back to an earlier checkpoint; lower the rate, or add an entropy bonus. With GSPO also check the clip"
        " bounds: they are of the order 1e-4.",
        _collapse,
    ),
    Rule(
        "rollout-too-slow",
        "Rollouts are too slow for the sync cadence",
        "Staleness at its bound, samples thrown away.",
        "Add inference servers, sync more seldom, or raise the staleness that is allowed.",
        _too_slow,
    ),
    Rule(
        "refilled-groups",
        "Failed groups are made again and again",
        "The trainer waits, and failed groups are replaced.",
        "Read the errors of failed trials: each costs a group. Mend the environment before you add machines.",
        _refilled,
    ),
    Rule(
        "small-batch",
        "Batches are too small",
        "Fewer graded trials than the batch, the rest is padding.",
        "Failed sessions shrink the batch: read the reasons below trajectory_filter, and the errors of their trials.",
        _small_batch,
    ),
)
