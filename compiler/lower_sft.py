"""Plan -> the configuration of verl's SFT trainer (``sft.yaml``), on top of verl 0.9.1's own ``sft_trainer_engine``.

Only where a supervised stage comes before reinforcement. Numbers that depend on the demonstrations (steps, a smaller
batch) are given by the runtime, which has them.
"""

from __future__ import annotations

from compiler.facts import Facts
from compiler.lower_engine import put_precision
from compiler.lower_verl import RUN_DIR
from compiler.plan import Plan
from compiler.spec.policy import PretrainedPolicy
from compiler.spec.trainer import Fsdp

PLACE = f"{RUN_DIR}/supervised"


def lower_sft(plan: Plan) -> Facts | None:
    policy, trainer = plan.spec.policy, plan.spec.trainer
    if not isinstance(policy, PretrainedPolicy) or policy.warm_start is None or not isinstance(trainer, Fsdp):
        return None
    facts = Facts(plan.reads)
    with facts.section():
        facts.decide("defaults", ["sft_trainer_engine", "_self_"], "verl's own")
        _trainer(plan, facts)
        _data(plan, facts)
        _model(plan, facts)
        _optimizer(plan, facts)
    return facts


def _trainer(plan: Plan, facts: Facts) -> None:
    spec, stage, put = plan.spec, plan.supervised, facts.derive
    assert stage is not None
    put("trainer.device", lambda: spec.trainer.device)
    put("trainer.nnodes", lambda: spec.trainer.nodes)
    put("trainer.n_gpus_per_node", lambda: spec.trainer.ranks_per_node)
    facts.decide("trainer.project_name", "liverl", "groups runs in experiment trackers")
    put("trainer.experiment_name", lambda: spec.name)
    facts.decide("trainer.logger", ["file"], "the run's rows")
    put("trainer.seed", lambda: spec.seed)
    why = "the number of steps ends it; one that goes on where an epoch had ended begins with an empty one"
    facts.decide("trainer.total_epochs", 1_000_000, why)
    put("trainer.save_freq", lambda: stage.save_every or -1)
    facts.decide("trainer.test_freq", -1, "what the policy can do is measured on tasks")
    facts.decide("trainer.max_ckpt_to_keep", 2, "one that is whole, while the next is written")
    facts.decide("trainer.default_local_dir", f"{PLACE}/checkpoints", "the run directory's layout")
    facts.decide("trainer.resume_mode", "auto", "a stage that was killed goes on from its newest checkpoint")
    contents = ["model", "optimizer", "extra", "hf_model"]
    facts.decide("checkpoint.save_contents", contents, "hf_model: what rollout and trainer start from")
    facts.decide("checkpoint.load_contents", contents[:3], "what verl itself resumes from")


def _data(plan: Plan, facts: Facts) -> None:
    stage, put = plan.supervised, facts.derive
    assert stage is not None
    facts.decide("data.train_files", f"{PLACE}/demonstrations.parquet", "what the runtime has gathered")
    facts.decide("data.custom_cls.path", "pkg://runtime.trainer.supervised.dataset", "rows are packs")
    facts.decide("data.custom_cls.name", "Packs", "rows are packs of demonstrations, of token ids already")
    put("data.pack_tokens", lambda: stage.tokens_per_pass)
    put("data.seed", lambda: plan.spec.seed)
    put(
        "data.train_batch_size",
        lambda: max(1, stage.tokens_per_batch // stage.tokens_per_pass),
        why="packs per optimizer step",
    )
    facts.decide("data.pad_mode", "no_padding", "packs are full")
    facts.decide("data.use_dynamic_bsz", False, "packs have one size already")
    facts.decide("data.micro_batch_size_per_gpu", 1, "a pack is a forward and backward pass")
    put("data.max_token_len_per_gpu", lambda: stage.tokens_per_pass)
    facts.decide("data.num_workers", 0, "a pack is a view of an array: a process costs more")


def _model(plan: Plan, facts: Facts) -> None:
    trainer, stage, put = plan.spec.trainer, plan.supervised, facts.derive
    assert isinstance(trainer, Fsdp) and stage is not None
    facts.decide("model.path", f"{PLACE}/base", "the run's own folder leads to every policy")
    why = "no demonstration sees another of its pack"
    facts.decide("model.override_config.attn_implementation", "liverl_varlen", why)
    facts.decide("model.external_lib", "runtime.trainer.cuda.varlen", "where that is")
    facts.decide("model.use_remove_padding", True, "packs are one long row")
    facts.decide("model.use_fused_kernels", True, "log-probabilities come from the model, of scored tokens alone")
    put(
        "model.enable_gradient_checkpointing",
        lambda: (
            trainer.gradient_checkpointing if stage.gradient_checkpointing is None else stage.gradient_checkpointing
        ),
    )
    put("engine.strategy", lambda: trainer.type)
    put_precision(plan, facts, trainer, "engine")
    put("engine.fsdp_size", lambda: trainer.shard_size or -1)
    why = "one rank has all of it anyway"
    put("engine.reshard_after_forward", lambda: trainer.nodes * trainer.ranks_per_node > 1, why=why)
    facts.decide("engine.ulysses_sequence_parallel_size", 1, "a pack is one rank's")
    facts.decide("engine.use_no_sync_for_gradient_accumulation", True, "gradients are summed once per step")
    facts.decide("engine.pad_to_length", True, "every pass has one shape")
    put("engine.pad_to_length_bucket", lambda: stage.tokens_per_pass)
    put("engine.param_offload", lambda: trainer.offload.parameters)
    put("engine.optimizer_offload", lambda: trainer.offload.optimizer)


def _optimizer(plan: Plan, facts: Facts) -> None:
    stage, put = plan.supervised, facts.derive
    assert stage is not None
    put("optim.lr", lambda: stage.learning_rate)
    put("optim.lr_scheduler_type", lambda: stage.schedule)
    put("optim.lr_warmup_steps_ratio", lambda: stage.warmup)
    facts.decide("optim.lr_warmup_steps", -1, "warm-up is given as a share")
    facts.decide("optim.zero_indexed_step", False, "the first step learns too")
    put("optim.min_lr_ratio", lambda: stage.final_learning_rate)
    put("optim.weight_decay", lambda: stage.weight_decay)
    put("optim.betas", lambda: [stage.beta1, stage.beta2])
    put("optim.clip_grad", lambda: stage.grad_clip)
