"""Plan -> ``runtime.json``, the contract that the runtime executes (``runtime.config``)."""

from __future__ import annotations

from functools import partial

from compiler.facts import Facts
from compiler.plan import Plan
from compiler.spec.policy import PretrainedPolicy
from runtime.config import RuntimeConfig
from runtime.config.policy import SupervisedStage
from runtime.config.rollout import ServedRollout, TorchRollout


def lower_runtime(plan: Plan, *, target: str) -> Facts:
    """Facts whose tree is a valid ``RuntimeConfig``."""
    facts = Facts(plan.reads)
    spec, put = plan.spec, facts.derive
    policy, rollout = spec.policy, spec.rollout
    facts.decide("schema_version", 1, "version of the contract")
    put("experiment", lambda: spec.name)
    facts.decide("target", target, "the target that was compiled for")
    put("seed", lambda: spec.seed)
    with facts.section():
        if isinstance(policy, PretrainedPolicy):
            put("policy.type", lambda: policy.type)
            put("policy.path", lambda: policy.path)
            if (stage := policy.warm_start) is None:
                put("policy.warm_start", lambda: policy.warm_start)
            else:
                for name in SupervisedStage.model_fields:
                    put(f"policy.warm_start.{name}", partial(getattr, stage, name))
        else:
            put("policy", lambda: policy)
    put("scaffold", lambda: spec.scaffold)
    put("environment", lambda: spec.environment)
    put("proxy", lambda: spec.proxy)
    put("train", lambda: spec.tasks.train)
    put("curriculum", lambda: spec.tasks.curriculum)
    put("validation", lambda: spec.tasks.validation)
    put("baselines", lambda: spec.tasks.baselines)
    with facts.section():
        for name in (TorchRollout if isinstance(rollout, TorchRollout) else ServedRollout).model_fields:
            put(f"rollout.{name}", partial(getattr, rollout, name))
    put("trajectory_filter.drop", lambda: spec.algorithm.trajectory_filter.drop)
    put("secrets", lambda: [{"variable": secret.variable, "used_by": secret.used_by} for secret in spec.secrets])
    put("loggers", lambda: spec.observability.loggers)
    put("notify", lambda: spec.observability.notify)
    put("upload", lambda: spec.schedule.upload)
    put("dump", lambda: spec.observability.dumps)
    put("health", lambda: spec.health)
    return facts


def contract(facts: Facts) -> RuntimeConfig:
    """The facts as the runtime will read them, defaults filled in."""
    return RuntimeConfig.model_validate(facts.tree(), strict=False)
