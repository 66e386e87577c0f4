"""The batches of a schedule against trajectories and ranks, and the learning rate's rise against its length."""

from __future__ import annotations

from collections.abc import Iterator

from compiler.check.rule import Rule, divisors
from compiler.errors import Problem
from compiler.plan import Plan
from compiler.spec.trainer import Megatron


def batches(plan: Plan) -> Iterator[Problem]:
    schedule, ranks = plan.spec.schedule, plan.data_parallel
    size, mini = schedule.train_batch_size, schedule.mini_batch_size
    if mini > size:
        yield Problem(("schedule", "mini_batch_size"), f"{mini} is more than train_batch_size {size}", f"1 to {size}")
        return
    if size % mini:
        yield Problem(
            ("schedule", "mini_batch_size"), f"{mini} does not divide train_batch_size {size}", divisors(size)
        )
        return
    if plan.trainer_ranks % plan.model_parallel:
        return  # how many ranks train on their own is unknown until the parallel sizes fit
    if plan.trajectories_per_step % ranks:
        yield Problem(
            ("schedule", "train_batch_size"),
            f"{size} prompts x {plan.spec.algorithm.group_size} trajectories = "
            f"{plan.trajectories_per_step}, not divisible by {ranks} data-parallel trainer ranks",
            fix="change train_batch_size, algorithm.group_size or trainer.ranks_per_node",
        )
    update, micro = mini * plan.spec.algorithm.group_size, plan.spec.trainer.micro_batch_size
    per_rank, left = divmod(update, ranks)
    if left:  # verl asserts it at the first update
        yield Problem(
            ("schedule", "mini_batch_size"),
            f"{mini} prompts x {plan.spec.algorithm.group_size} trajectories = {update}, not divisible by {ranks} "
            "data-parallel trainer ranks",
            fix="change mini_batch_size, algorithm.group_size or trainer.ranks_per_node",
        )
        return
    yield from _unpacked(plan)
    if micro > per_rank and plan.spec.trainer.max_tokens_per_rank is None:
        yield Problem(
            ("trainer", "micro_batch_size"),
            f"{micro} is more than the {per_rank} sequences that a rank has per optimizer step",
            f"1 to {per_rank}",
        )
    elif per_rank % micro and plan.spec.trainer.max_tokens_per_rank is None:
        yield Problem(
            ("trainer", "micro_batch_size"),
            f"{micro} does not divide the {per_rank} sequences of a rank per optimizer step",
            divisors(per_rank),
        )


def _unpacked(plan: Plan) -> Iterator[Problem]:
    """verl's own rule for batches that are counted in sequences: by all ranks, whatever they share."""
    trainer, size = plan.spec.trainer, plan.spec.schedule.train_batch_size
    least = plan.data_parallel * trainer.micro_batch_size if isinstance(trainer, Megatron) else plan.trainer_ranks
    if trainer.max_tokens_per_rank is None and plan.trajectories_per_step % least:
        what = "data-parallel ranks x micro_batch_size" if isinstance(trainer, Megatron) else "trainer ranks"
        yield Problem(
            ("schedule", "train_batch_size"),
            f"{size} prompts x {plan.spec.algorithm.group_size} trajectories = {plan.trajectories_per_step}, not "
            f"divisible by {least} {what}",
            fix="change train_batch_size or algorithm.group_size, or pack sequences (trainer.max_tokens_per_rank)",
        )


def course(plan: Plan) -> Iterator[Problem]:
    """The learning rate's rise against the length of the training."""
    warmup = plan.spec.trainer.optimizer.warmup_steps
    steps = plan.optimizer_steps_per_step * plan.spec.schedule.steps
    if 0 < steps <= warmup:
        yield Problem(
            ("trainer", "optimizer", "warmup_steps"),
            f"{warmup}, but there are {steps} optimizer steps: the learning rate is never reached",
            f"< {steps}",
            severity="warn",
        )


def nothing(plan: Plan) -> Iterator[Problem]:
    """A run that would neither train nor measure."""
    schedule = plan.spec.schedule
    if (
        schedule.steps == 0
        and plan.supervised is None
        and not (schedule.validate_before and plan.spec.tasks.validation)
    ):
        yield Problem(
            ("schedule", "steps"),
            "0, and nothing else is asked for",
            ">= 1",
            "give policy.warm_start, or tasks.validation with schedule.validate_before",
        )


RULES: tuple[Rule, ...] = (batches, course, nothing)
