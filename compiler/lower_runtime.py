"""Plan -> ``runtime.json``, the contract that the runtime executes (``runtime.config``)."""

from __future__ import annotations

from compiler.facts import Facts
from compiler.plan import Plan
from runtime.config import RuntimeConfig
from runtime.config.rollout import ServedRollout, TorchRollout

_SAME = ("seed", "policy", "scaffold", "environment", "proxy")
"""Parts that the contract takes over as they are in the spec."""


def lower_runtime(plan: Plan, *, target: str) -> Facts:
    """Facts whose tree is a valid ``RuntimeConfig``."""
    spec, facts = plan.spec, Facts()
    facts.decide("schema_version", 1, "version of the contract")
    facts.follow("experiment", spec.name, "name")
    facts.decide("target", target, "the target that was compiled for")
    dumped = plan.resolved
    for part in _SAME:
        facts.follow(part, dumped[part], part)
    if spec.policy.type == "pretrained":
        facts.replace("policy", {"type": "pretrained", "path": spec.policy.path}, "policy", why="")
    facts.follow("train", dumped["tasks"]["train"], "tasks.train")
    facts.follow("validation", dumped["tasks"]["validation"], "tasks.validation")
    facts.follow("baselines", spec.tasks.baselines, "tasks.baselines")
    rollout = spec.rollout
    for name in (TorchRollout if isinstance(rollout, TorchRollout) else ServedRollout).model_fields:
        facts.follow(f"rollout.{name}", dumped["rollout"][name], f"rollout.{name}")
    drop = list(spec.algorithm.trajectory_filter.drop)
    facts.follow("trajectory_filter.drop", drop, "algorithm.trajectory_filter.drop")
    secrets = [{"variable": secret.variable, "used_by": secret.used_by} for secret in spec.secrets]
    facts.follow("secrets", secrets, "secrets")
    facts.follow("loggers", list(spec.observability.loggers), "observability.loggers")
    for name in ("trials_every", "work_every", "work_max_mib"):
        facts.follow(f"dump.{name}", getattr(spec.observability.dumps, name), f"observability.dumps.{name}")
    return facts


def contract(facts: Facts) -> RuntimeConfig:
    """The facts as the runtime will read them, defaults filled in."""
    return RuntimeConfig.model_validate(facts.tree(), strict=False)
