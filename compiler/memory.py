"""GPU memory of a plan, by part, with the formula of each: what a person would otherwise compute on paper.

Weights, gradients and optimizer state are exact arithmetic; activations are an estimate for full-length sequences.
Knows nothing of any machine but the nominal memory of its GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

from compiler.models import dense_parameters, expert_parameters, facts_of
from compiler.spec.experiment import ExperimentSpec
from compiler.spec.policy import ModelFacts, PretrainedPolicy
from compiler.spec.rollout import VllmRollout
from compiler.spec.trainer import Fsdp, Megatron, VeOmni
from runtime.config.policy import NewPolicy

GPU_GIB = {"A10G": 22, "A100": 39, "A100-80GB": 79, "B200": 178, "H100": 79, "H200": 139, "L4": 22, "L40S": 44}
"""Usable memory of one GPU."""
_BYTES = {"fp32": 4, "bf16": 2}


@dataclass(frozen=True)
class PolicyMemory:
    """Memory of the policy in bytes, by part. What is trained counts per rank, on the GPU while it trains."""

    parameters: int
    """Of the whole policy."""
    weights: int
    gradients: int
    optimizer: int
    activations: int
    critic: int
    """The critic's weights, gradients and optimizer state; 0 without one."""
    reference: int
    """The reference's weights; 0 without one."""
    rollout_weights: int
    """Per GPU of a replica; 0 for the torch engine, which shares the trainer's size."""
    kv_cache_per_replica: int
    """All slots at full length."""
    kv_cache_per_sequence: int
    """One sequence at full length, per GPU of a replica."""
    formulas: dict[str, str]
    """Part -> how it was computed."""

    @property
    def trainer_state(self) -> int:
        """What must be on a GPU at once for one optimizer step of the policy, activations aside."""
        return self.weights + self.gradients + self.optimizer

    def resident_beside(self, spec: ExperimentSpec) -> int:
        """What critic and reference keep on a GPU while the policy trains or rolls out."""
        parameters = 0 if spec.trainer.offload.parameters else (self.weights if self.critic else 0) + self.reference
        optimizer = 0 if spec.trainer.offload.optimizer or not self.critic else self.optimizer
        return parameters + optimizer

    @property
    def trainer_total(self) -> int:
        return self.trainer_state + self.activations


def policy_memory(spec: ExperimentSpec, length: int) -> PolicyMemory | None:
    """None where the sizes of the model are unknown. ``length``: longest sequence in tokens."""
    facts = facts_of(spec.policy)
    if facts is None:
        return None
    trainer = spec.trainer
    dense = dense_parameters(facts, bias=isinstance(spec.policy, NewPolicy))
    experts = expert_parameters(facts)
    trained = _trained(spec, facts, dense + experts)
    ranks = trainer.nodes * trainer.ranks_per_node
    if isinstance(trainer, Megatron):
        weights, gradients, optimizer, formulas = _megatron(trainer, ranks, dense, experts, trained)
    else:
        weights, gradients, optimizer, formulas = _sharded(trainer, ranks, dense + experts, trained)
    state = weights + gradients + optimizer
    size = _BYTES[trainer.precision]
    kv_token = size * 2 * facts.num_layers * facts.num_key_value_heads * facts.head_dim
    tensor_parallel = spec.rollout.tensor_parallel_size if isinstance(spec.rollout, VllmRollout) else 1
    served = 2 * (dense + experts) // tensor_parallel if isinstance(spec.rollout, VllmRollout) else 0
    formulas["rollout weights"] = f"2 bytes x {dense + experts:,} / tensor_parallel_size {tensor_parallel}"
    formulas["kv_cache"] = (
        f"{size} bytes x 2 x {facts.num_layers} layers x {facts.num_key_value_heads} heads x {facts.head_dim} "
        f"x {length:,} tokens x {spec.rollout.slots} slots"
    )
    activations, formulas["activations"] = _activations(spec, facts, length)
    if spec.algorithm.type == "ppo":
        formulas["critic"] = "weights + gradients + AdamW state of a model of the policy's size"
    if spec.algorithm.kl.type != "off":
        formulas["reference"] = "weights of a model of the policy's size"
    return PolicyMemory(
        parameters=dense + experts,
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        activations=activations,
        critic=state if spec.algorithm.type == "ppo" else 0,
        reference=weights if spec.algorithm.kl.type != "off" else 0,
        rollout_weights=served,
        kv_cache_per_replica=kv_token * length * spec.rollout.slots,
        kv_cache_per_sequence=kv_token * length // min(tensor_parallel, facts.num_key_value_heads),
        formulas=formulas,
    )


def _trained(spec: ExperimentSpec, facts: ModelFacts, parameters: int) -> int:
    """Parameters that get gradients: all, or LoRA's additions to the seven matrices of every layer."""
    lora = spec.policy.lora if isinstance(spec.policy, PretrainedPolicy) else None
    if lora is None:
        return parameters
    query, kv = facts.num_heads * facts.head_dim, facts.num_key_value_heads * facts.head_dim
    hidden, width = facts.hidden_size, facts.expert_intermediate_size or facts.intermediate_size
    attention = 2 * (hidden + query) + 2 * (hidden + kv)
    return lora.rank * facts.num_layers * (attention + 3 * (facts.num_experts or 1) * (hidden + width))


def _sharded(trainer: Fsdp | VeOmni, ranks: int, parameters: int, trained: int) -> tuple[int, int, int, dict[str, str]]:
    shards = min(trainer.shard_size or ranks, ranks)
    share = f" / {shards} ranks" if shards > 1 else ""
    return (
        4 * parameters // shards,
        4 * trained // shards,
        8 * trained // shards,
        {
            "weights": f"4 bytes x {parameters:,}{share}",
            "gradients": f"4 bytes x {trained:,}{share}",
            "optimizer": f"8 bytes x {trained:,}{share}",
        },
    )


def _megatron(
    trainer: Megatron, ranks: int, dense: int, experts: int, trained: int
) -> tuple[int, int, int, dict[str, str]]:
    """bf16 weights and fp32 gradients per model-parallel rank; the optimizer's fp32 copy and moments are spread over
    the data-parallel ranks too."""
    dense_cut = trainer.tensor_parallel * trainer.pipeline_parallel
    expert_tensor = trainer.expert_tensor_parallel or trainer.tensor_parallel
    expert_cut = expert_tensor * trainer.expert_parallel * trainer.pipeline_parallel
    local = dense // dense_cut + experts // expert_cut
    share = trained / (dense + experts)
    spread = max(1, ranks // dense_cut), max(1, ranks // expert_cut)
    optimizer = int(share * 12 * (dense // dense_cut // spread[0] + experts // expert_cut // spread[1]))
    text = f"({dense:,} / {dense_cut} + {experts:,} / {expert_cut})"
    return (
        2 * local,
        int(4 * local * share),
        optimizer,
        {
            "weights": f"2 bytes x {text}",
            "gradients": f"4 bytes x {text}",
            "optimizer": f"12 bytes x ({dense:,} / {dense_cut * spread[0]} + {experts:,} / {expert_cut * spread[1]})",
        },
    )


def _activations(spec: ExperimentSpec, facts: ModelFacts, length: int) -> tuple[int, str]:
    """Bytes and formula. Per token and layer about 10 values of the hidden size and the MLP's three, plus attention
    scores where they are kept; then the logits and their gradient. With gradient checkpointing one layer, and the input
    of every other."""
    trainer = spec.trainer
    size = _BYTES[trainer.precision]
    micro = trainer.micro_batch_size
    sequence = trainer.context_parallel if isinstance(trainer, Megatron) else trainer.sequence_parallel
    packed = trainer.max_tokens_per_rank
    tokens = packed if packed is not None else -(-micro * length // sequence)
    width = facts.intermediate_size
    if facts.num_experts:
        width = (facts.experts_per_token or 1) * (facts.expert_intermediate_size or 0)
    per_token = 10 * facts.hidden_size + 3 * width
    per_layer, text = tokens * per_token, f"{tokens:,} tokens x (10 x {facts.hidden_size} + 3 x {width})"
    if not isinstance(trainer, Megatron) and not trainer.attention.startswith("flash_attention"):
        per_layer += micro * facts.num_heads * length * length
        text += f" + {micro} x {facts.num_heads} heads x {length:,}^2"
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
    return size * (kept + 2 * tokens * facts.vocabulary_size) // cut, formula
