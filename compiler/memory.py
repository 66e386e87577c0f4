"""GPU memory of a plan, by part, with the formula of each: what a person would otherwise compute on paper.

Weights, gradients and optimizer state are exact arithmetic; activations are an estimate for full-length sequences.
Knows nothing of any machine but the nominal memory of its GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from compiler.models import dense_parameters, expert_parameters
from compiler.reads import Reads, derived
from compiler.spec.experiment import ExperimentSpec
from compiler.spec.policy import ModelFacts, PretrainedPolicy
from compiler.spec.rollout import VllmRollout
from compiler.spec.trainer import PACKED_ATTENTION, Megatron
from runtime.config.policy import NewPolicy

GPU_GIB = {"A10G": 22, "A100": 39, "A100-80GB": 79, "B200": 178, "H100": 79, "H200": 139, "L4": 22, "L40S": 44}
"""Usable memory of one GPU."""
_BYTES = {"fp32": 4, "bf16": 2}


class Size(int):
    """Bytes, and how they were computed."""

    formula: str

    def __new__(cls, size: int, formula: str) -> Self:
        made = super().__new__(cls, size)
        made.formula = formula
        return made


@dataclass(frozen=True)
class PolicyMemory:
    """Memory of the policy in bytes, by part. What is trained counts per rank, on the GPU while it trains."""

    spec: ExperimentSpec
    reads: Reads
    facts: ModelFacts

    @derived
    def _dense(self) -> int:
        return dense_parameters(self.facts, bias=isinstance(self.spec.policy, NewPolicy))

    @derived
    def _experts(self) -> int:
        return expert_parameters(self.facts)

    @derived
    def parameters(self) -> int:
        """Of the whole policy."""
        return self._dense + self._experts

    @derived
    def _trained(self) -> int:
        """Parameters that get gradients: all, or LoRA's additions to the seven matrices of every layer."""
        lora, facts = self.spec.policy.lora if isinstance(self.spec.policy, PretrainedPolicy) else None, self.facts
        if lora is None:
            return self.parameters
        query, kv = facts.num_heads * facts.head_dim, facts.num_key_value_heads * facts.head_dim
        hidden, width = facts.hidden_size, facts.expert_intermediate_size or facts.intermediate_size
        attention = 2 * (hidden + query) + 2 * (hidden + kv)
        return lora.rank * facts.num_layers * (attention + 3 * (facts.num_experts or 1) * (hidden + width))

    @derived
    def _ranks(self) -> int:
        return self.spec.trainer.nodes * self.spec.trainer.ranks_per_node

    def _sharded(self, size: int, parameters: int) -> Size:
        """Of an FSDP rank: its share."""
        trainer = self.spec.trainer
        assert not isinstance(trainer, Megatron)
        shards = min(trainer.shard_size or self._ranks, self._ranks)
        share = f" / {shards} ranks" if shards > 1 else ""
        return Size(size * parameters // shards, f"{size} bytes x {parameters:,}{share}")

    @derived
    def _cuts(self) -> tuple[int, int]:
        """Into how many pieces Megatron's model parallelism cuts dense parameters, and experts."""
        trainer = self.spec.trainer
        assert isinstance(trainer, Megatron)
        expert_tensor = trainer.expert_tensor_parallel or trainer.tensor_parallel
        return (
            trainer.tensor_parallel * trainer.pipeline_parallel,
            expert_tensor * trainer.expert_parallel * trainer.pipeline_parallel,
        )

    def _local(self, size: int, share: float) -> Size:
        """Of one of Megatron's model-parallel ranks."""
        dense_cut, expert_cut = self._cuts
        local = self._dense // dense_cut + self._experts // expert_cut
        formula = f"{size} bytes x ({self._dense:,} / {dense_cut} + {self._experts:,} / {expert_cut})"
        return Size(int(size * local * share), formula)

    @derived
    def weights(self) -> Size:
        """bf16 with Megatron, whose optimizer holds an fp32 copy; fp32 with the others."""
        return self._local(2, 1) if isinstance(self.spec.trainer, Megatron) else self._sharded(4, self.parameters)

    @derived
    def gradients(self) -> Size:
        if isinstance(self.spec.trainer, Megatron):
            return self._local(4, self._trained / self.parameters)
        return self._sharded(4, self._trained)

    @derived
    def optimizer(self) -> Size:
        """Megatron spreads the fp32 copy and the moments over the data-parallel ranks too."""
        if not isinstance(self.spec.trainer, Megatron):
            return self._sharded(8, self._trained)
        (dense_cut, expert_cut), share = self._cuts, self._trained / self.parameters
        dense_spread, expert_spread = max(1, self._ranks // dense_cut), max(1, self._ranks // expert_cut)
        local = self._dense // dense_cut // dense_spread + self._experts // expert_cut // expert_spread
        return Size(
            int(share * 12 * local),
            f"12 bytes x ({self._dense:,} / {dense_cut * dense_spread} + {self._experts:,} / "
            f"{expert_cut * expert_spread})",
        )

    @derived
    def _length(self) -> int:
        return self.spec.rollout.prompt_length + self.spec.rollout.response_length

    @derived
    def activations(self) -> Size:
        """Per token and layer about 10 values of the hidden size and the MLP's three, plus attention scores where they
        are kept; then the logits and their gradient. With gradient checkpointing one layer, and the input of every
        other."""
        trainer, facts = self.spec.trainer, self.facts
        size, micro, packed = _BYTES[trainer.precision], trainer.micro_batch_size, trainer.max_tokens_per_rank
        sequence = trainer.context_parallel if isinstance(trainer, Megatron) else trainer.sequence_parallel
        tokens = packed if packed is not None else -(-micro * self._length // sequence)
        width = facts.intermediate_size
        if facts.num_experts:
            width = (facts.experts_per_token or 1) * (facts.expert_intermediate_size or 0)
        per_token = 10 * facts.hidden_size + 3 * width
        per_layer, text = tokens * per_token, f"{tokens:,} tokens x (10 x {facts.hidden_size} + 3 x {width})"
        if not isinstance(trainer, Megatron) and trainer.attention not in PACKED_ATTENTION:
            per_layer += micro * facts.num_heads * self._length * self._length
            text += f" + {micro} x {facts.num_heads} heads x {self._length:,}^2"
        layers, cut = facts.num_layers, 1
        if isinstance(trainer, Megatron):
            layers, cut = -(-layers // trainer.pipeline_parallel), trainer.tensor_parallel
        logits = f"2 x {tokens:,} x {facts.vocabulary_size} logits"
        if trainer.gradient_checkpointing:
            kept = per_layer + (layers - 1) * tokens * facts.hidden_size
            text = f"one layer of {text} + {layers - 1} layers x {tokens:,} x {facts.hidden_size} + {logits}"
        else:
            kept = layers * per_layer
            text = f"{layers} layers x ({text}) + {logits}"
        formula = f"{size} bytes x ({text})" + (f" / tensor_parallel {cut}" if cut > 1 else "")
        return Size(size * (kept + 2 * tokens * facts.vocabulary_size) // cut, formula)

    @derived
    def critic(self) -> Size:
        """The critic's weights, gradients and optimizer state; 0 without one."""
        there = self.spec.algorithm.type == "ppo"
        return Size(
            self.trainer_state if there else 0, "weights + gradients + AdamW state of a model of the policy's size"
        )

    @derived
    def reference(self) -> Size:
        """The reference's weights; 0 without one."""
        there = self.spec.algorithm.kl.type != "off"
        if isinstance(self.spec.policy, PretrainedPolicy) and self.spec.policy.lora is not None:
            return Size(0, "the policy itself, its adapter left out")
        return Size(self.weights if there else 0, "weights of a model of the policy's size")

    @derived
    def _tensor_parallel(self) -> int:
        return self.spec.rollout.tensor_parallel_size if isinstance(self.spec.rollout, VllmRollout) else 1

    @derived
    def rollout_weights(self) -> Size:
        """Per GPU of a replica; 0 for the torch engine, which shares the trainer's size."""
        return Size(
            2 * self.parameters // self._tensor_parallel if isinstance(self.spec.rollout, VllmRollout) else 0,
            f"2 bytes x {self.parameters:,} / tensor_parallel_size {self._tensor_parallel}",
        )

    def _kv_cache(self) -> tuple[int, str]:
        """Of one sequence at full length, on all GPUs of a replica together."""
        facts, size = self.facts, _BYTES[self.spec.trainer.precision]
        return size * 2 * facts.num_layers * facts.num_key_value_heads * facts.head_dim * self._length, (
            f"{size} bytes x 2 x {facts.num_layers} layers x {facts.num_key_value_heads} heads x {facts.head_dim} "
            f"x {self._length:,} tokens"
        )

    @derived
    def kv_cache_per_replica(self) -> Size:
        """All slots at full length."""
        (size, formula), slots = self._kv_cache(), self.spec.rollout.slots
        return Size(size * slots, f"{formula} x {slots} slots")

    @derived
    def kv_cache_per_sequence(self) -> int:
        """One sequence at full length, per GPU of a replica."""
        return self._kv_cache()[0] // min(self._tensor_parallel, self.facts.num_key_value_heads)

    @derived
    def trainer_state(self) -> int:
        """What must be on a GPU at once for one optimizer step of the policy, activations aside."""
        return self.weights + self.gradients + self.optimizer

    @derived
    def resident_beside(self) -> int:
        """What critic and reference keep on a GPU while the policy trains or rolls out."""
        offload = self.spec.trainer.offload
        parameters = 0 if offload.parameters else (self.weights if self.critic else 0) + self.reference
        return parameters + (0 if offload.optimizer or not self.critic else self.optimizer)

    @derived
    def trainer_total(self) -> int:
        return self.trainer_state + self.activations

    def numbers(self) -> dict[str, Any]:
        """Every part by its name, and how each was computed."""
        sizes = {part: int(getattr(self, part)) for part in PARTS}
        formulas = {name: getattr(self, part).formula for part, name in _FORMULAS.items()}
        formulas |= {part: getattr(self, part).formula for part in ("critic", "reference") if sizes[part]}
        return {**sizes, "formulas": formulas, "trainer_total": self.trainer_total}


PARTS = ("parameters", "weights", "gradients", "optimizer", "activations", "critic", "reference", "rollout_weights",
          "kv_cache_per_replica", "kv_cache_per_sequence")  # fmt: skip
_FORMULAS = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer",
    "rollout_weights": "rollout weights",
    "kv_cache_per_replica": "kv_cache",
    "activations": "activations",
}
"""Parts whose formula is always told, and what it is called."""
