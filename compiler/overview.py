"""What an experiment will use, before anything is compiled for a target: batches, tokens, memory (``liverl plan``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compiler.assemble import checked_plan
from compiler.cost import cost, cost_numbers, cost_rows
from compiler.errors import Problem
from compiler.load import evaluate
from compiler.plan import DERIVED, Plan
from compiler.summary import summary, table


@dataclass(frozen=True)
class Overview:
    """``page`` for people (Markdown), ``numbers`` for programs."""

    page: str
    numbers: Mapping[str, Any]
    warnings: tuple[Problem, ...]


def overview(
    spec: Path,
    *,
    tlas: Mapping[str, str] | None = None,
    sets: Sequence[str] = (),
    point: str | None = None,
    catalogue: Path | None = None,
) -> Overview:
    """Raises ``SpecError`` with every problem of the spec. ``catalogue``: prices, as in ``compiler.cost``."""
    evaluated = evaluate(spec, tlas=tlas, sets=sets, point=point)
    plan, problems = checked_plan(evaluated)
    found = cost(plan, catalogue)
    text = summary(plan, title=plan.spec.name, warnings=problems).text
    priced = f"{text}\n## Cost\n\n{table(cost_rows(plan, found))}\n"
    return Overview(priced, {**numbers(plan), "cost": cost_numbers(plan, found)}, tuple(problems))


def numbers(plan: Plan) -> dict[str, Any]:
    """Everything the plan derives, as plain values."""
    derived = {name: getattr(plan, name) for name in DERIVED}
    memory = plan.policy_memory
    if memory is not None:
        derived["policy_memory"] = memory.numbers()
    return {"experiment": plan.spec.name, "steps": plan.spec.schedule.steps, **derived}
