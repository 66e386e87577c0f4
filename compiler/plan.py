"""The plan: everything that follows from a spec whatever the target, computed once.

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
    """A spec and what follows from it."""

    spec: ExperimentSpec
    trajectories_per_step: int
    optimizer_steps_per_step: int
    sequence_length: int
    """Longest training sequence in tokens: prompt and response."""
    trainer_ranks: int
    data_parallel: int
    """Ranks, or groups of ranks, that each train on their own sequences."""
    micro_batches_per_rank: int
    """Forward and backward passes of one rank per optimizer step."""
    rollout_gpus: int
    """Accelerators of a separate rollout pool; 0 where rollout shares the trainer's or runs on CPU."""
    max_tokens_per_step: int
    """Upper bound: every trajectory as long as allowed."""
    trajectories_total: int
    needs_critic: bool
    needs_reference: bool
    policy_memory: PolicyMemory | None
    """None where the sizes of the model are unknown."""

    @cached_property
    def resolved(self) -> dict[str, Any]:
        """The spec as plain values, defaults filled in. Not to be changed: several files are made from it."""
        return self.spec.model_dump(mode="json")


def make_plan(spec: ExperimentSpec) -> Plan:
    """Derive the plan. Total: never fails on a spec that its models accept (checks are in ``compiler.check``)."""
    schedule, rollout = spec.schedule, spec.rollout
    ranks = spec.trainer.nodes * spec.trainer.ranks_per_node
    trajectories = schedule.train_batch_size * spec.algorithm.group_size
    updates = max(1, schedule.train_batch_size // schedule.mini_batch_size)
    per_update = schedule.mini_batch_size * spec.algorithm.group_size
    length = rollout.prompt_length + rollout.response_length
    data_parallel = max(1, ranks // _model_parallel(spec))
    separate = isinstance(spec.mode, SeparateAsync)
    return Plan(
        spec=spec,
        trajectories_per_step=trajectories,
        optimizer_steps_per_step=updates * spec.algorithm.epochs,
        sequence_length=length,
        trainer_ranks=ranks,
        data_parallel=data_parallel,
        micro_batches_per_rank=-(-per_update // (data_parallel * spec.trainer.micro_batch_size)),
        rollout_gpus=rollout.replicas * rollout.tensor_parallel_size
        if separate and isinstance(rollout, VllmRollout)
        else 0,
        max_tokens_per_step=trajectories * length,
        trajectories_total=trajectories * schedule.steps,
        needs_critic=spec.algorithm.type == "ppo",
        needs_reference=spec.algorithm.kl.type != "off",
        policy_memory=policy_memory(spec, length),
    )


def _model_parallel(spec: ExperimentSpec) -> int:
    """Ranks that work on one sequence together."""
    trainer = spec.trainer
    if isinstance(trainer, Megatron):
        return trainer.tensor_parallel * trainer.pipeline_parallel * trainer.context_parallel
    return trainer.sequence_parallel
