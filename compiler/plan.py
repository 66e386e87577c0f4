"""The plan: everything that follows from a spec whatever the target, computed once.

A pure function of the spec. Knows the arithmetic of batches, tokens and memory; knows no file format, no target and
no machine.
"""

from __future__ import annotations

from dataclasses import dataclass

from compiler.spec.experiment import ExperimentSpec
from compiler.spec.mode import SeparateAsync
from compiler.spec.policy import NewPolicy
from compiler.spec.rollout import VllmRollout

_BYTES = {"fp32": 4, "bf16": 2}


@dataclass(frozen=True)
class PolicyMemory:
    """Memory of the policy in bytes, by part, and the formula of each."""

    parameters: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    kv_cache_per_replica: int

    @property
    def trainer_total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations


@dataclass(frozen=True)
class Plan:
    """A spec and what follows from it."""

    spec: ExperimentSpec
    trajectories_per_step: int
    optimizer_steps_per_step: int
    sequence_length: int
    """Longest training sequence in tokens: prompt and response."""
    trainer_ranks: int
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
    """None where the architecture is not in the spec."""


def make_plan(spec: ExperimentSpec) -> Plan:
    """Derive the plan. Total: never fails on a spec that its models accept (checks are in ``compiler.check``)."""
    schedule, rollout = spec.schedule, spec.rollout
    ranks = spec.trainer.nodes * spec.trainer.ranks_per_node
    trajectories = schedule.train_batch_size * spec.algorithm.group_size
    updates = max(1, schedule.train_batch_size // schedule.mini_batch_size)
    per_update = schedule.mini_batch_size * spec.algorithm.group_size
    length = rollout.prompt_length + rollout.response_length
    separate = isinstance(spec.mode, SeparateAsync)
    return Plan(
        spec=spec,
        trajectories_per_step=trajectories,
        optimizer_steps_per_step=updates * spec.algorithm.epochs,
        sequence_length=length,
        trainer_ranks=ranks,
        micro_batches_per_rank=-(-per_update // (ranks * spec.trainer.micro_batch_size)),
        rollout_gpus=rollout.replicas * rollout.tensor_parallel_size
        if separate and isinstance(rollout, VllmRollout)
        else 0,
        max_tokens_per_step=trajectories * length,
        trajectories_total=trajectories * schedule.steps,
        needs_critic=spec.algorithm.type == "ppo",
        needs_reference=spec.algorithm.kl.type != "off",
        policy_memory=_memory(spec, length),
    )


def _memory(spec: ExperimentSpec, length: int) -> PolicyMemory | None:
    if not isinstance(spec.policy, NewPolicy):
        return None
    shape = spec.policy.architecture
    size = _BYTES[spec.trainer.precision]
    head = shape.hidden_size // shape.num_heads if shape.num_heads else 0
    kv_width = head * shape.num_key_value_heads
    attention = shape.hidden_size * (2 * shape.hidden_size + 2 * kv_width) + shape.hidden_size + 2 * kv_width
    layer = attention + 3 * shape.hidden_size * shape.intermediate_size + 2 * shape.hidden_size
    parameters = shape.vocabulary_size * shape.hidden_size + shape.num_layers * layer + shape.hidden_size
    tokens = spec.trainer.micro_batch_size * length
    # Per token and layer about 10 values of the hidden size, the MLP's three, and attention scores; then the logits
    # and their gradient.
    per_layer = (
        tokens * (10 * shape.hidden_size + 3 * shape.intermediate_size)
        + spec.trainer.micro_batch_size * shape.num_heads * length * length
    )
    activations = size * (
        (1 if spec.trainer.gradient_checkpointing else shape.num_layers) * per_layer
        + 2 * tokens * shape.vocabulary_size
    )
    return PolicyMemory(
        parameters=parameters,
        weights=4 * parameters,
        gradients=4 * parameters,
        optimizer=8 * parameters,
        activations=activations,
        kv_cache_per_replica=size * 2 * shape.num_layers * kv_width * length * spec.rollout.slots,
    )
