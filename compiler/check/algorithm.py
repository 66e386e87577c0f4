"""Fields of the algorithm that contradict each other, or that verl would silently ignore."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from compiler.check.rule import Rule
from compiler.errors import Path, Problem
from compiler.lower_algorithm import policy_loss
from compiler.plan import Plan
from compiler.spec.algorithm import (
    BypassCorrection,
    DecoupledCorrection,
    Gspo,
    PlainLoss,
    Ppo,
    RatioRejection,
    ReinforcePlusPlus,
    Remax,
)
from runtime.config.run import GradedEnd


def groups(plan: Plan) -> Iterator[Problem]:
    algorithm = plan.spec.algorithm
    if not isinstance(algorithm, Ppo | ReinforcePlusPlus | Remax) and algorithm.group_size < 2:
        yield Problem(
            ("algorithm", "group_size"),
            f"{algorithm.group_size}: {algorithm.type} compares trajectories "
            "of one prompt, so their advantage would always be 0",
            ">= 2",
            "raise group_size, or use ppo or remax",
        )
    if isinstance(algorithm, Gspo) and algorithm.clip.high > 0.05:
        yield Problem(
            ("algorithm", "clip", "high"),
            f"{algorithm.clip.high} is a range for single tokens; "
            "GSPO's ratio of whole sequences hardly ever leaves it",
            "about 0.0004",
            "use liverl.algorithm.gspo's clip",
            severity="warn",
        )
    if algorithm.clip.dual <= 1 + algorithm.clip.high:
        yield Problem(
            ("algorithm", "clip", "dual"),
            f"{algorithm.clip.dual} lies within the clip range",
            f"> {1 + algorithm.clip.high}",
        )


def corrections(plan: Plan) -> Iterator[Problem]:
    chosen, place = plan.spec.algorithm, ("algorithm", "correction")
    correction = chosen.correction
    if isinstance(correction, BypassCorrection) and policy_loss(plan) != PlainLoss.model_construct(type="vanilla"):
        yield Problem(
            (*place, "type"),
            '"bypass" brings its own loss, so the one of algorithm would be silently ignored',
            "off, decoupled",
            "use decoupled, or the loss vanilla",
        )
    if set(get_args(GradedEnd)) <= set(chosen.trajectory_filter.drop):
        yield Problem(
            ("algorithm", "trajectory_filter", "drop"),
            "every end is dropped, so nothing would be trained on",
            fix="keep agent_completed",
        )
    if not isinstance(correction, DecoupledCorrection | BypassCorrection):
        return
    if correction.importance is not None and correction.importance.level == "sequence":
        yield Problem(
            (*place, "importance", "level"),
            '"sequence" weights of long trajectories are almost all cut',
            "token",
            severity="warn",
        )
    ranges: list[tuple[Path, float, float]] = []
    if correction.importance is not None and correction.importance.lower is not None:
        ranges.append(((*place, "importance"), correction.importance.lower, correction.importance.upper))
    for index, one in enumerate(correction.rejection):
        if isinstance(one, RatioRejection):
            ranges.append(((*place, "rejection", index), one.lower, one.upper))
    for where, lower, upper in ranges:
        if lower >= upper:
            yield Problem((*where, "lower"), f"{lower} is not below upper {upper}", f"< {upper}")


RULES: tuple[Rule, ...] = (groups, corrections)
