"""Plan -> ``runtime.json``, the contract that the runtime executes (``runtime.config``)."""

from __future__ import annotations

from compiler.facts import Facts
from compiler.plan import Plan
from compiler.spec.rollout import TorchRollout
from runtime.config import RuntimeConfig

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
    facts.follow("rollout.engine", rollout.type, "rollout.type")
    for name in [
        "replicas",
        "slots",
        "prompt_length",
        "response_length",
        "max_tokens_per_turn",
        "temperature",
        "top_p",
        "top_k",
        "tool_parser",
        "concurrency",
        "routing",
        "attempts",
    ]:
        facts.follow(f"rollout.{name}", dumped["rollout"][name], f"rollout.{name}")
    if isinstance(rollout, TorchRollout) and rollout.import_path is not None:
        facts.follow("rollout.import_path", rollout.import_path, "rollout.import_path")
        facts.follow("rollout.kwargs", dict(rollout.kwargs), "rollout.kwargs")
    facts.follow("rollout.group_size", spec.algorithm.group_size, "algorithm.group_size")
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
    return RuntimeConfig.model_validate(facts.tree())
