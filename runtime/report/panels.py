"""Which metrics are plotted together, in what order, and what they are called. A table of names; reads nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Line:
    """One series; with ``/low`` and ``/high`` of it there, a band. ``key`` may end in ``*``: every series whose name
    begins so, called by the rest. ``dash``: drawn broken, as a bound beside a mean is."""

    key: str
    label: str
    dash: bool = False


@dataclass(frozen=True)
class Panel:
    """One plot. ``note``: what to look for, in one sentence. ``unit``: ``share`` is shown in per cent."""

    id: str
    section: str
    title: str
    lines: tuple[Line, ...]
    note: str = ""
    unit: str = ""
    log: bool = False
    view: str = "overview"


def _span(key: str, name: str = "mean") -> tuple[Line, ...]:
    return (Line(f"{key}/mean", name), Line(f"{key}/min", "least", dash=True), Line(f"{key}/max", "most", dash=True))


_STEP_PARTS = (
    *("gen", "reward", "old_log_prob", "ref", "values", "adv", "update_critic", "update_actor", "update_weights"),
    *("save_checkpoint", "testing", "switch_wait"),
)
_TRIAL_PARTS = {
    "queue": "waiting for a place",
    "harbor_env_setup": "sandbox start",
    "harbor_agent_model_inference": "model",
    "harbor_agent_tool_call": "tools",
    "download": "artifacts out",
    "harbor_verifier": "verifier",
    "teardown": "sandbox stop",
}

PANELS: tuple[Panel, ...] = (
    Panel(
        "solve",
        "Does it learn?",
        "Solve rate",
        (Line("solve/train", "training"),),
        "Mean reward of the step's training trials, with Wilson's 95 % interval.",
        "share",
    ),
    Panel(
        "held-out",
        "Does it learn?",
        "Held-out solve rate",
        (Line("solve/held-out/*", ""),),
        "Tasks that are never trained on.",
        "share",
    ),
    Panel(
        "groups",
        "Groups of trials of one task",
        "Groups by outcome",
        (
            Line("groups/all_wrong", "all wrong"),
            Line("groups/mixed", "mixed"),
            Line("groups/all_correct", "all right"),
            Line("groups/partial", "incomplete", dash=True),
        ),
        "Only from mixed groups a policy learns what to prefer.",
        view="groups",
    ),
    Panel(
        "curriculum",
        "Groups of trials of one task",
        "Tasks by the curriculum's band",
        (
            Line("curriculum/below", "below"),
            Line("curriculum/within", "within"),
            Line("curriculum/above", "above"),
            Line("curriculum/untried", "never tried", dash=True),
        ),
        "Nearly none within: widen the band, or bring other tasks.",
        "tasks",
        view="groups",
    ),
    Panel("ends", "Groups of trials of one task", "How trials ended", (Line("termination/*", ""),), view="groups"),
    Panel(
        "failures",
        "Groups of trials of one task",
        "Trials outside the loss, by reason",
        (Line("trajectory_filter/reason/*", ""), Line("agent_loop/ungraded", "without a grade", dash=True)),
        view="groups",
    ),
    Panel(
        "tokens",
        "Groups of trials of one task",
        "What became of sampled tokens",
        tuple(Line(f"proxy_tokens/{fate}", fate) for fate in ("sampled", "trained", "discarded", "auxiliary", "lost")),
        "Trained, discarded, auxiliary and lost make up sampled.",
        "tokens",
        view="groups",
    ),
    Panel("reward", "Does it learn?", "Reward", _span("critic/score"), "Flat at 0 from step 1 is infrastructure."),
    Panel(
        "signal",
        "Does it learn?",
        "Groups without signal",
        (Line("groups/no_signal_frac", "all trials of the group alike"),),
        "Near 1: tasks are too easy or too hard for this policy.",
        "share",
    ),
    Panel(
        "policy-kl",
        "Is the update sound?",
        "KL of the update",
        (Line("actor/ppo_kl", "new policy against old"), Line("actor/kl_loss", "against the reference")),
    ),
    Panel(
        "rollout-kl",
        "Is the update sound?",
        "KL rollout against trainer",
        (Line("rollout_corr/kl", "kl"), Line("rollout_corr/k3_kl", "k3")),
        "Below 1e-3 on policy. Rising: engine and trainer disagree, or the policy lags.",
    ),
    Panel(
        "pearson",
        "Is the update sound?",
        "Correlation of probabilities, rollout and trainer",
        (Line("training/rollout_actor_probs_pearson_corr", "pearson"),),
        "At least 0.99 where there is no lag.",
    ),
    Panel("entropy", "Is the update sound?", "Entropy", (Line("actor/entropy", "entropy"),)),
    Panel(
        "clip",
        "Is the update sound?",
        "Clip fraction",
        (Line("actor/pg_clipfrac", "clipped"), Line("actor/pg_clipfrac_lower", "clipped below", dash=True)),
        unit="share",
    ),
    Panel(
        "grad",
        "Is the update sound?",
        "Gradient norm",
        (Line("actor/grad_norm", "actor"), Line("critic/grad_norm", "critic")),
    ),
    Panel("lr", "Is the update sound?", "Learning rate", (Line("actor/lr", "actor"), Line("critic/lr", "critic"))),
    Panel("loss", "Is the update sound?", "Policy loss", (Line("actor/pg_loss", "policy gradient"),)),
    Panel("length", "What do trials look like?", "Response length", _span("response_length"), unit="tokens"),
    Panel(
        "length-clip",
        "What do trials look like?",
        "Responses cut at the limit",
        (Line("response_length/clip_ratio", "cut"), Line("response/aborted_ratio", "aborted", dash=True)),
        "High: the budget is too small, or loops do not end.",
        "share",
    ),
    Panel("turns", "What do trials look like?", "Turns", _span("num_turns"), "Towards 1: the policy uses no tools."),
    Panel(
        "turn-tokens",
        "What do trials look like?",
        "Tokens per turn",
        (Line("derived/tokens_per_turn", "response length by turns"),),
        unit="tokens",
    ),
    Panel(
        "invalid",
        "What do trials look like?",
        "Trials outside the loss",
        (Line("trajectory_filter/invalid_ratio", "outside"),),
        "Below 0.1.",
        "share",
    ),
    Panel(
        "defences",
        "What do trials look like?",
        "Defences and isolation",
        (Line("integrity/defence_ratio", "with defences"), Line("integrity/isolated_ratio", "isolated", dash=True)),
        unit="share",
    ),
    Panel("mfu", "How fast is it?", "MFU", (Line("perf/mfu/actor", "actor"), Line("perf/mfu/critic", "critic"))),
    Panel(
        "speed",
        "How fast is it?",
        "Tokens per second",
        (
            Line("perf/throughput", "trained, per device"),
            Line("derived/tokens_per_s", "trained, whole step"),
            Line("agent_loop/completion_tokens_per_s", "sampled"),
        ),
    ),
    Panel(
        "step-time",
        "How fast is it?",
        "Time per step, by part",
        (Line("timing_s/step", "whole step"), *(Line(f"timing_s/{part}", part) for part in _STEP_PARTS)),
        unit="s",
    ),
    Panel(
        "trial-time",
        "How fast is it?",
        "Time per trial, by part",
        tuple(Line(f"timing_s/agent_loop/{part}/mean", label) for part, label in _TRIAL_PARTS.items()),
        "Means over the step's trials.",
        "s",
    ),
    Panel(
        "idle",
        "How fast is it?",
        "Idle shares",
        (Line("derived/trainer_idle", "trainer waits"), Line("derived/rollout_idle", "rollouts wait", dash=True)),
        "A trainer that waits much is bound by rollouts.",
        "share",
    ),
    Panel(
        "staleness",
        "How fast is it?",
        "Staleness",
        (
            Line("training/off_policy/trajectory_staleness/mean", "mean"),
            Line("training/off_policy/trajectory_staleness/max", "most", dash=True),
            Line("training/off_policy/evicted_samples", "evicted samples"),
        ),
        "In weight versions.",
    ),
    Panel(
        "queues",
        "How fast is it?",
        "Queue depths",
        (
            Line("fully_async/monitor/active_tasks_size", "trials at work"),
            Line("fully_async/monitor/queue/pending_queue_size", "waiting to start"),
            Line("fully_async/monitor/queue/mq_queue_size", "waiting to be trained"),
            Line("buffer/*", "groups "),
        ),
    ),
    Panel(
        "sandbox",
        "How fast is it?",
        "Sandbox start",
        (
            Line("sandbox/start_p50", "p50"),
            Line("sandbox/start_p95", "p95", dash=True),
            Line("timing_s/agent_loop/queue/mean", "waiting for a place, mean"),
        ),
        "Growth over hours is a leak on the node.",
        "s",
    ),
    Panel(
        "cache",
        "How fast is it?",
        "Caches",
        (
            Line("derived/image_cache", "image cache hits, since the start"),
            Line("derived/warm_boxes", "boxes made ahead, since the start"),
            Line("derived/reused_verdicts", "verdicts of equal work"),
        ),
        unit="share",
    ),
    Panel(
        "weights",
        "How fast is it?",
        "Weight sync",
        (Line("weights/sync_s", "sync"), Line("timing_s/update_weights", "update_weights", dash=True)),
        unit="s",
    ),
)


STAGE = "supervised"
SUPERVISED: tuple[Panel, ...] = (
    Panel(
        "supervised-loss",
        "Supervised stage",
        "Loss on demonstrations",
        (Line("supervised/loss", "per scored token, in nats"),),
        "Near 0 they are known by heart, and groups of trials will be alike.",
        view=STAGE,
    ),
    Panel(
        "supervised-speed",
        "Supervised stage",
        "Tokens per second",
        (Line("supervised/tokens_per_sec", "tokens/s"),),
        view=STAGE,
    ),
)
"""By the steps of the supervised stage, which are not those of the run."""


def as_data() -> list[dict[str, Any]]:
    """The tables, ready for JSON."""
    return [asdict(panel) for panel in (*PANELS, *SUPERVISED)]
