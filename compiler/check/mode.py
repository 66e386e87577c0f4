"""What the mode asks of algorithm and batches."""

from __future__ import annotations

from collections.abc import Iterator

from compiler.check.rule import Rule
from compiler.errors import Problem
from compiler.plan import Plan
from compiler.spec.algorithm import Remax
from compiler.spec.mode import SeparateAsync, Sync


def modes(plan: Plan) -> Iterator[Problem]:
    mode, schedule = plan.spec.mode, plan.spec.schedule
    if isinstance(plan.spec.algorithm, Remax) and not isinstance(mode, Sync):
        yield Problem(
            ("mode", "type"),
            f'"{mode.type}" with remax, whose greedy baseline must come from the weights of its siblings',
            "sync",
        )
    if isinstance(mode, SeparateAsync) and schedule.train_batch_size != mode.sync_every * schedule.mini_batch_size:
        yield Problem(
            ("mode", "sync_every"),
            f"{mode.sync_every} x mini_batch_size {schedule.mini_batch_size} "
            f"must equal train_batch_size {schedule.train_batch_size}",
            str(schedule.train_batch_size // schedule.mini_batch_size)
            if schedule.train_batch_size % schedule.mini_batch_size == 0
            else "",
            "change sync_every, mini_batch_size or train_batch_size",
        )


RULES: tuple[Rule, ...] = (modes,)
