"""Rules across fields: what no single value shows. Every rule looks at the plan and yields problems; none changes
anything. A module per section of the spec.

Fatal problems stop the compilation; warnings are printed and go on. Knows no target (targets bring their own checks).
"""

from compiler.check import (
    algorithm,
    cluster,
    environment,
    limits,
    memory,
    mode,
    observability,
    policy,
    rollout,
    routing,
    scaffold,
    schedule,
    secrets,
    supervised,
    tasks,
    trainer,
    values,
)
from compiler.check.rule import Rule
from compiler.errors import Problem
from compiler.plan import Plan

RULES: tuple[Rule, ...] = (
    *policy.RULES,
    *supervised.RULES,
    *algorithm.RULES,
    *mode.RULES,
    *trainer.RULES,
    *memory.RULES,
    *routing.RULES,
    *rollout.RULES,
    *scaffold.RULES,
    *environment.RULES,
    *tasks.RULES,
    *schedule.RULES,
    *observability.RULES,
    *secrets.RULES,
    *cluster.RULES,
    *values.RULES,
    *limits.RULES,
)
"""Everything that is held against a plan whatever its target, in the order of a spec's sections."""


def check(plan: Plan) -> list[Problem]:
    """Every problem of every rule."""
    return [problem for rule in RULES for problem in rule(plan)]
