"""What this version of the runtime refuses (``runtime.config.LIMITS``), told before anything is launched. Knows none of
the limits.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial, reduce

from compiler.check.rule import Rule
from compiler.errors import Problem
from compiler.plan import Plan
from runtime.config import LIMITS, Limit


def _limit(limit: Limit, plan: Plan) -> Iterator[Problem]:
    if what := limit.refused(lambda field: reduce(getattr, field.split("."), plan.spec)):
        yield Problem(
            tuple(limit.field.split(".")), f"{what}, so `liverl run` refuses it", fix=limit.fix, severity="warn"
        )


RULES: tuple[Rule, ...] = tuple(partial(_limit, limit) for limit in LIMITS)
