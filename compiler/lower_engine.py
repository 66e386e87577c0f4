"""Plan -> the parts of verl's configuration that differ between training engines: strategy, parallelism, memory,
optimizer. Used for the actor, the reference and the critic."""

from __future__ import annotations

from typing import Literal

from compiler.facts import Facts, section
from compiler.plan import Plan
from compiler.spec.trainer import Fsdp, Megatron, VeOmni

Role = Literal["actor_rollout_ref.actor", "actor_rollout_ref.ref", "critic"]
ACTOR: Role = "actor_rollout_ref.actor"
REF: Role = "actor_rollout_ref.ref"
CRITIC: Role = "critic"
_ENGINE_KEYS = {"fsdp": "fsdp", "fsdp2": "fsdp", "veomni": "veomni", "megatron": "megatron"}
_MODEL_ENGINES = {"veomni": "veomni", "megatron": "megatron"}
"""Training engines whose defaults are not those of verl's ``ppo_trainer``."""

_ROUTING_REPLAY = {"off": "disabled", "R2": "R2", "R3": "R3"}


def model_engine(plan: Plan) -> list[dict[str, str]]:
    """verl's Hydra group ``model_engine``: which defaults actor, reference and critic start from."""
    engine = _MODEL_ENGINES.get(plan.spec.trainer.type)
    return [] if engine is None else [{"override model_engine": engine}]


def _engine_key(plan: Plan, role: Role) -> str:
    """Name of the engine's settings below a role."""
    if role != CRITIC and isinstance(plan.spec.trainer, Fsdp):
        return "fsdp_config"
    return _ENGINE_KEYS[plan.spec.trainer.type]


@section
def put_engine(plan: Plan, facts: Facts, role: Role) -> None:
    """Settings of a role's engine. The reference has no optimizer."""
    trainer, prefix = plan.spec.trainer, f"{role}.{_engine_key(plan, role)}"
    if isinstance(trainer, Fsdp):
        _fsdp(plan, facts, trainer, prefix)
    elif isinstance(trainer, VeOmni):
        _veomni(plan, facts, trainer, prefix)
    else:
        _megatron(plan, facts, trainer, prefix)
        if role != REF:
            _megatron_training(facts, trainer, prefix)
    if role == ACTOR:
        _router_replay(plan, facts, f"{prefix}.router_replay")
    if trainer.device == "cuda":
        facts.derive(f"{prefix}.param_offload", lambda: trainer.offload.parameters)
        if role != REF:
            facts.derive(f"{prefix}.optimizer_offload", lambda: trainer.offload.optimizer)


@section
def _router_replay(plan: Plan, facts: Facts, prefix: str) -> None:
    if isinstance(plan.spec.trainer, Fsdp):
        if plan.spec.routing_replay == "off":
            return
        # verl's defaults for FSDP do not have the part.
        facts.decide(f"{prefix}._target_", "verl.workers.config.EngineRouterReplayConfig", "verl's type of the part")
    facts.derive(f"{prefix}.mode", lambda: _ROUTING_REPLAY[plan.spec.routing_replay])


@section
def _fsdp(plan: Plan, facts: Facts, trainer: Fsdp, prefix: str) -> None:
    put_precision(plan, facts, trainer, prefix)
    if trainer.device == "cuda":
        facts.derive(f"{prefix}.ulysses_sequence_parallel_size", lambda: trainer.sequence_parallel)
        facts.derive(f"{prefix}.fsdp_size", lambda: trainer.shard_size or -1)


def put_precision(plan: Plan, facts: Facts, trainer: Fsdp, prefix: str) -> None:
    """verl computes in bf16 unless told otherwise, and mixed types between engines corrupt TransferQueue fields."""
    put = facts.derive
    put(f"{prefix}.use_torch_compile", lambda: trainer.device == "cuda")
    facts.decide(f"{prefix}.model_dtype", "fp32", "master weights")
    put(f"{prefix}.mixed_precision.param_dtype", lambda: trainer.precision)
    facts.decide(f"{prefix}.mixed_precision.reduce_dtype", "fp32", "gradients are summed in full precision")
    facts.decide(f"{prefix}.mixed_precision.buffer_dtype", "fp32", "rotary tables keep full precision")
    put(f"{prefix}.seed", lambda: plan.spec.seed)


def _veomni(plan: Plan, facts: Facts, trainer: VeOmni, prefix: str) -> None:
    put = facts.derive
    put(f"{prefix}.mixed_precision", lambda: trainer.precision == "bf16")
    put(f"{prefix}.ulysses_parallel_size", lambda: trainer.sequence_parallel)
    put(f"{prefix}.expert_parallel_size", lambda: trainer.expert_parallel)
    put(f"{prefix}.fsdp_size", lambda: trainer.shard_size or -1)
    put(f"{prefix}.attn_implementation", lambda: trainer.attention)
    put(f"{prefix}.seed", lambda: plan.spec.seed)


def _megatron(plan: Plan, facts: Facts, trainer: Megatron, prefix: str) -> None:
    put = facts.derive
    put(f"{prefix}.dtype", lambda: {"bf16": "bfloat16"}[trainer.precision])
    put(f"{prefix}.tensor_model_parallel_size", lambda: trainer.tensor_parallel)
    put(f"{prefix}.pipeline_model_parallel_size", lambda: trainer.pipeline_parallel)
    put(f"{prefix}.virtual_pipeline_model_parallel_size", lambda: trainer.virtual_pipeline)
    put(f"{prefix}.context_parallel_size", lambda: trainer.context_parallel)
    put(f"{prefix}.expert_model_parallel_size", lambda: trainer.expert_parallel)
    put(f"{prefix}.expert_tensor_parallel_size", lambda: trainer.expert_tensor_parallel)
    put(f"{prefix}.sequence_parallel", lambda: trainer.sequence_parallel and trainer.tensor_parallel > 1)
    facts.decide(f"{prefix}.use_mbridge", True, "Hugging Face weights are read and written without conversion")
    facts.decide(f"{prefix}.use_remove_padding", True, "sequences are packed")
    put(f"{prefix}.seed", lambda: plan.spec.seed)


def _megatron_training(facts: Facts, trainer: Megatron, prefix: str) -> None:
    facts.decide(f"{prefix}.use_distributed_optimizer", True, "AdamW's state is spread over data-parallel ranks")
    recompute = f"{prefix}.override_transformer_config.recompute"
    facts.derive(f"{recompute}_granularity", lambda: "full" if trainer.gradient_checkpointing else None)
    facts.derive(f"{recompute}_method", lambda: "uniform" if trainer.gradient_checkpointing else None)
    facts.derive(f"{recompute}_num_layers", lambda: 1 if trainer.gradient_checkpointing else None)


def put_optimizer(plan: Plan, facts: Facts, prefix: str) -> None:
    """AdamW at ``prefix``, its learning rate aside."""
    optimizer, put = plan.spec.trainer.optimizer, facts.derive
    with facts.section():
        name = "lr_decay_style" if isinstance(plan.spec.trainer, Megatron) else "lr_scheduler_type"
        put(f"{prefix}.{name}", lambda: optimizer.schedule)
    put(f"{prefix}.lr_warmup_steps", lambda: optimizer.warmup_steps)
    facts.decide(f"{prefix}.lr_warmup_steps_ratio", 0.0, "warm-up is given in steps")
    put(f"{prefix}.weight_decay", lambda: optimizer.weight_decay)
    put(f"{prefix}.betas", lambda: [optimizer.beta1, optimizer.beta2])
    put(f"{prefix}.clip_grad", lambda: optimizer.grad_clip)
