"""The plan: everything that follows from a spec whatever the target, each part computed once.

A pure function of the spec. Knows the arithmetic of batches, tokens and memory; knows no file format, no target and
no machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from compiler.memory import PolicyMemory, policy_memory
from compiler.spec.experiment import ExperimentSpec
from compiler.spec.mode import SeparateAsync
from compiler.spec.rollout import VllmRollout
from compiler.spec.trainer import Megatron


@dataclass(frozen=True)
class Plan:
    """A spec and what follows from it, computed when first asked for: of a spec that is wrong in places, what does not
    depend on them is still known."""

    spec: ExperimentSpec

    @cached_property
    def trajectories_per_step(self) -> int:
        return self.spec.schedule.train_batch_size * self.spec.algorithm.group_size

    @cached_property
    def optimizer_steps_per_step(self) -> int:
        schedule = self.spec.schedule
        return max(1, schedule.train_batch_size // schedule.mini_batch_size) * self.spec.algorithm.epochs

    @cached_property
    def sequence_length(self) -> int:
        """Longest training sequence in tokens: prompt and response."""
        return self.spec.rollout.prompt_length + self.spec.rollout.response_length

    @cached_property
    def trainer_ranks(self) -> int:
        return self.spec.trainer.nodes * self.spec.trainer.ranks_per_node

    @cached_property
    def model_parallel(self) -> int:
        """Ranks that work on one sequence together."""
        trainer = self.spec.trainer
        if isinstance(trainer, Megatron):
            return trainer.tensor_parallel * trainer.pipeline_parallel * trainer.context_parallel
        return trainer.sequence_parallel

    @cached_property
    def data_parallel(self) -> int:
        """Ranks, or groups of ranks, that each train on their own sequences."""
        return max(1, self.trainer_ranks // self.model_parallel)

    @cached_property
    def micro_batches_per_rank(self) -> int:
        """Forward and backward passes of one rank per optimizer step."""
        per_update = self.spec.schedule.mini_batch_size * self.spec.algorithm.group_size
        return -(-per_update // (self.data_parallel * self.spec.trainer.micro_batch_size))

    @cached_property
    def rollout_gpus(self) -> int:
        """Accelerators of a separate rollout pool; 0 where rollout shares the trainer's or runs on CPU."""
        rollout = self.spec.rollout
        separate = isinstance(self.spec.mode, SeparateAsync) and isinstance(rollout, VllmRollout)
        return rollout.replicas * rollout.tensor_parallel_size if separate else 0  # type: ignore[union-attr]

    @cached_property
    def max_tokens_per_step(self) -> int:
        """Upper bound: every trajectory as long as allowed."""
        return self.trajectories_per_step * self.sequence_length

    @cached_property
    def trajectories_total(self) -> int:
        return self.trajectories_per_step * self.spec.schedule.steps

    @cached_property
    def needs_critic(self) -> bool:
        return self.spec.algorithm.type == "ppo"

    @cached_property
    def needs_reference(self) -> bool:
        return self.spec.algorithm.kl.type != "off"

    @cached_property
    def policy_memory(self) -> PolicyMemory | None:
        """None where the sizes of the model are unknown."""
        return policy_memory(self.spec, self.sequence_length)

    @cached_property
    def resolved(self) -> dict[str, Any]:
        """The spec as plain values, defaults filled in. Not to be changed: several files are made from it."""
        return self.spec.model_dump(mode="json", warnings=False)


DERIVED = (
    "trajectories_per_step",
    "optimizer_steps_per_step",
    "sequence_length",
    "trainer_ranks",
    "data_parallel",
    "micro_batches_per_rank",
    "rollout_gpus",
    "max_tokens_per_step",
    "trajectories_total",
    "needs_critic",
    "needs_reference",
    "policy_memory",
)
"""What a plan says, in the order of reports."""


def make_plan(spec: ExperimentSpec) -> Plan:
    """The plan of a spec. Never fails on one that its models accept (checks are in ``compiler.check``)."""
    return Plan(spec)
