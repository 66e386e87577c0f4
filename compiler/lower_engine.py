"""Plan -> the parts of verl's configuration that differ between training engines: strategy, parallelism, memory,
optimizer. Used for the actor, the reference and the critic."""

from __future__ import annotations

from compiler.facts import Facts
from compiler.plan import Plan
from compiler.spec.trainer import Fsdp, Megatron, VeOmni

_CRITIC_KEYS = {"fsdp": "fsdp", "fsdp2": "fsdp", "veomni": "veomni", "megatron": "megatron"}
_MODEL_ENGINES = {"fsdp": "dp", "fsdp2": "dp", "veomni": "veomni", "megatron": "megatron"}


def model_engine(plan: Plan) -> str:
    """verl's Hydra group ``model_engine``: which defaults actor, reference and critic start from."""
    return _MODEL_ENGINES[plan.spec.trainer.type]


def engine_key(plan: Plan, *, critic: bool = False) -> str:
    """Name of the engine's settings below an actor, a reference or a critic."""
    if not critic and isinstance(plan.spec.trainer, Fsdp):
        return "fsdp_config"
    return _CRITIC_KEYS[plan.spec.trainer.type]


def put_engine(plan: Plan, facts: Facts, prefix: str, *, training: bool = True) -> None:
    """Settings of one engine at ``prefix``. ``training`` is false for the reference, which has no optimizer."""
    trainer = plan.spec.trainer
    if isinstance(trainer, Fsdp):
        _fsdp(plan, trainer, facts, prefix)
    elif isinstance(trainer, VeOmni):
        _veomni(plan, trainer, facts, prefix, training=training)
    else:
        _megatron(plan, trainer, facts, prefix, training=training)
    if trainer.device == "cuda":
        facts.follow(f"{prefix}.param_offload", trainer.offload.parameters, "trainer.offload.parameters")
        if training:
            facts.follow(f"{prefix}.optimizer_offload", trainer.offload.optimizer, "trainer.offload.optimizer")


def _fsdp(plan: Plan, trainer: Fsdp, facts: Facts, prefix: str) -> None:
    """verl computes in bf16 unless told otherwise, and mixed types between engines corrupt TransferQueue fields."""
    put = facts.follow
    put(f"{prefix}.use_torch_compile", trainer.device == "cuda", "trainer.device")
    facts.decide(f"{prefix}.model_dtype", "fp32", "master weights")
    put(f"{prefix}.mixed_precision.param_dtype", trainer.precision, "trainer.precision")
    facts.decide(f"{prefix}.mixed_precision.reduce_dtype", "fp32", "gradients are summed in full precision")
    facts.decide(f"{prefix}.mixed_precision.buffer_dtype", "fp32", "rotary tables keep full precision")
    put(f"{prefix}.seed", plan.spec.seed, "seed")
    if trainer.device == "cuda":
        put(f"{prefix}.ulysses_sequence_parallel_size", trainer.sequence_parallel, "trainer.sequence_parallel")
        put(f"{prefix}.fsdp_size", trainer.shard_size or -1, "trainer.shard_size")


def _veomni(plan: Plan, trainer: VeOmni, facts: Facts, prefix: str, *, training: bool) -> None:
    put = facts.follow
    put(f"{prefix}.mixed_precision", trainer.precision == "bf16", "trainer.precision")
    put(f"{prefix}.ulysses_parallel_size", trainer.sequence_parallel, "trainer.sequence_parallel")
    put(f"{prefix}.expert_parallel_size", trainer.expert_parallel, "trainer.expert_parallel")
    put(f"{prefix}.fsdp_size", trainer.shard_size or -1, "trainer.shard_size")
    put(f"{prefix}.attn_implementation", trainer.attention, "trainer.attention")
    put(f"{prefix}.seed", plan.spec.seed, "seed")
    if training and prefix.startswith("actor_rollout_ref"):
        _routing_replay(plan, facts, prefix)


def _megatron(plan: Plan, trainer: Megatron, facts: Facts, prefix: str, *, training: bool) -> None:
    put = facts.follow
    put(f"{prefix}.dtype", "bfloat16", "trainer.precision")
    put(f"{prefix}.tensor_model_parallel_size", trainer.tensor_parallel, "trainer.tensor_parallel")
    put(f"{prefix}.pipeline_model_parallel_size", trainer.pipeline_parallel, "trainer.pipeline_parallel")
    put(f"{prefix}.virtual_pipeline_model_parallel_size", trainer.virtual_pipeline, "trainer.virtual_pipeline")
    put(f"{prefix}.context_parallel_size", trainer.context_parallel, "trainer.context_parallel")
    put(f"{prefix}.expert_model_parallel_size", trainer.expert_parallel, "trainer.expert_parallel")
    put(f"{prefix}.expert_tensor_parallel_size", trainer.expert_tensor_parallel, "trainer.expert_tensor_parallel")
    put(
        f"{prefix}.sequence_parallel",
        trainer.sequence_parallel and trainer.tensor_parallel > 1,
        "trainer.sequence_parallel",
        "trainer.tensor_parallel",
    )
    facts.decide(f"{prefix}.use_mbridge", True, "Hugging Face weights are read and written without conversion")
    facts.decide(f"{prefix}.use_remove_padding", True, "sequences are packed")
    put(f"{prefix}.seed", plan.spec.seed, "seed")
    if not training:
        return
    facts.decide(f"{prefix}.use_distributed_optimizer", True, "AdamW's state is spread over data-parallel ranks")
    checkpointing = trainer.gradient_checkpointing
    recompute: dict[str, str | int] = {"granularity": "full", "method": "uniform", "num_layers": 1}
    for key, value in recompute.items():
        put(
            f"{prefix}.override_transformer_config.recompute_{key}",
            value if checkpointing else None,
            "trainer.gradient_checkpointing",
        )
    if prefix.startswith("actor_rollout_ref"):
        _routing_replay(plan, facts, prefix)


def _routing_replay(plan: Plan, facts: Facts, prefix: str) -> None:
    replay = plan.spec.routing_replay
    facts.follow(f"{prefix}.router_replay.mode", "disabled" if replay == "off" else replay, "routing_replay")


def put_optimizer(plan: Plan, facts: Facts, prefix: str, *, learning_rate: float, origin: str) -> None:
    """AdamW at ``prefix``; ``origin`` is the spec field of the learning rate."""
    optimizer, put = plan.spec.trainer.optimizer, facts.follow
    put(f"{prefix}.lr", learning_rate, origin)
    schedule = "lr_decay_style" if isinstance(plan.spec.trainer, Megatron) else "lr_scheduler_type"
    put(f"{prefix}.{schedule}", optimizer.schedule, "trainer.optimizer.schedule")
    put(f"{prefix}.lr_warmup_steps", optimizer.warmup_steps, "trainer.optimizer.warmup_steps")
    facts.decide(f"{prefix}.lr_warmup_steps_ratio", 0.0, "warm-up is given in steps")
    put(f"{prefix}.weight_decay", optimizer.weight_decay, "trainer.optimizer.weight_decay")
    put(f"{prefix}.betas", [optimizer.beta1, optimizer.beta2], "trainer.optimizer.beta1", "trainer.optimizer.beta2")
    put(f"{prefix}.clip_grad", optimizer.grad_clip, "trainer.optimizer.grad_clip")
