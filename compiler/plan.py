"""The plan: everything that follows from a spec whatever the target, each part computed once.

A pure function of the spec. Knows the arithmetic of batches, tokens and memory; knows no file format, no target and
no machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from compiler.memory import PolicyMemory
from compiler.models import facts_of
from compiler.reads import Reads, derived
from compiler.spec.experiment import ExperimentSpec
from compiler.spec.mode import SeparateAsync
from compiler.spec.policy import PretrainedPolicy, SupervisedStage
from compiler.spec.rollout import VllmRollout
from compiler.spec.trainer import Megatron


@dataclass(frozen=True)
class Plan:
    """A spec and what follows from it, computed when first asked for: of a spec that is wrong in places, what does not
    depend on them is still known. ``reads`` notes what is read of the spec, also by way of what follows from it."""

    spec: ExperimentSpec
    reads: Reads

    @derived
    def trajectories_per_step(self) -> int:
        return self.spec.schedule.train_batch_size * self.spec.algorithm.group_size

    @derived
    def optimizer_steps_per_step(self) -> int:
        schedule = self.spec.schedule
        return max(1, schedule.train_batch_size // schedule.mini_batch_size) * self.spec.algorithm.epochs

    @derived
    def sequence_length(self) -> int:
        """Longest training sequence in tokens: prompt and response."""
        return self.spec.rollout.prompt_length + self.spec.rollout.response_length

    @derived
    def trainer_ranks(self) -> int:
        return self.spec.trainer.nodes * self.spec.trainer.ranks_per_node

    @derived
    def model_parallel(self) -> int:
        """Ranks that work on one sequence together."""
        trainer = self.spec.trainer
        if isinstance(trainer, Megatron):
            return trainer.tensor_parallel * trainer.pipeline_parallel * trainer.context_parallel
        return trainer.sequence_parallel

    @derived
    def data_parallel(self) -> int:
        """Ranks, or groups of ranks, that each train on their own sequences."""
        return max(1, self.trainer_ranks // self.model_parallel)

    @derived
    def micro_batches_per_rank(self) -> int:
        """Forward and backward passes of one rank per optimizer step."""
        per_update = self.spec.schedule.mini_batch_size * self.spec.algorithm.group_size
        return -(-per_update // (self.data_parallel * self.spec.trainer.micro_batch_size))

    @derived
    def rollout_gpus(self) -> int:
        """Accelerators of a separate rollout pool; 0 where rollout shares the trainer's or runs on CPU."""
        rollout = self.spec.rollout
        separate = isinstance(self.spec.mode, SeparateAsync) and isinstance(rollout, VllmRollout)
        return rollout.replicas * rollout.tensor_parallel_size if separate else 0  # type: ignore[union-attr]

    @derived
    def placed_ranks(self) -> int:
        """Ranks that verl places on GPUs, those of a rollout apart from the trainer included."""
        return self.trainer_ranks + (self.rollout_gpus or 1 if isinstance(self.spec.mode, SeparateAsync) else 0)

    @derived
    def max_tokens_per_step(self) -> int:
        """Upper bound: every trajectory as long as allowed."""
        return self.trajectories_per_step * self.sequence_length

    @derived
    def trajectories_total(self) -> int:
        return self.trajectories_per_step * self.spec.schedule.steps

    @derived
    def needs_critic(self) -> bool:
        return self.spec.algorithm.type == "ppo"

    @property
    def supervised(self) -> SupervisedStage | None:
        """The stage before reinforcement, where a pretrained policy has one."""
        policy = self.spec.policy
        return policy.warm_start if isinstance(policy, PretrainedPolicy) else None

    @derived
    def needs_reference(self) -> bool:
        return self.spec.algorithm.kl.type != "off"

    @derived
    def policy_memory(self) -> PolicyMemory | None:
        """None where the sizes of the model are unknown."""
        facts = facts_of(self.spec.policy)
        return None if facts is None else PolicyMemory(self.spec, self.reads, facts)

    @property
    def resolved(self) -> dict[str, Any]:
        """The spec as plain values, defaults filled in. Not to be changed: several files are made from it."""
        return self.reads.resolved


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
    reads = Reads(spec)
    return Plan(reads.view, reads)
