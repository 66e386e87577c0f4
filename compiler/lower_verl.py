"""Plan -> verl's Hydra configuration (``verl.yaml``), on top of verl 0.9.1's own ``ppo_trainer``.

Every value that matters is written, also where it equals verl's default: verl's YAML and dataclass defaults disagree
with each other and move between versions. Paths come from the environment at run time, so that the bytes hold no
folder of any machine.
"""

from __future__ import annotations

from compiler.facts import Facts
from compiler.plan import Plan
from compiler.spec.algorithm import KlLoss, KlReward, Ppo
from compiler.spec.mode import ColocateAsync, SeparateAsync, Sync
from compiler.spec.policy import NewPolicy
from compiler.spec.rollout import VllmRollout

RUN_DIR = "${oc.env:LIVERL_RUN_DIR}"
ACTOR, ROLLOUT, MODEL, REF = (f"actor_rollout_ref.{part}" for part in ("actor", "rollout", "model", "ref"))
ESTIMATORS = {"grpo": "grpo", "gspo": "grpo", "ppo": "gae"}
"""Spec algorithm -> verl's ``algorithm.adv_estimator``."""
LOSSES = {"grpo": "vanilla", "gspo": "gspo", "ppo": "vanilla"}
"""Spec algorithm -> verl's ``policy_loss.loss_mode``."""
TORCH_ROLLOUT = "liverl_cpu"
TORCH_CHECKPOINT_ENGINE = "liverl_ray"
CUDA_CHECKPOINT_ENGINE = "nccl"


def lower_verl(plan: Plan) -> Facts:
    facts = Facts()
    _trainer(plan, facts)
    _algorithm(plan, facts)
    _data(plan, facts)
    _model(plan, facts, MODEL)
    _actor(plan, facts)
    _engine(plan, facts, f"{ACTOR}.fsdp_config")
    _reference(plan, facts)
    _rollout(plan, facts)
    if plan.needs_critic:
        _critic(plan, facts)
    _process(plan, facts)
    return facts


def model_path(plan: Plan) -> str:
    """Where the policy lies: made in the run directory, or given."""
    return f"{RUN_DIR}/policy" if isinstance(plan.spec.policy, NewPolicy) else plan.spec.policy.path


def _trainer(plan: Plan, facts: Facts) -> None:
    spec, put = plan.spec, facts.follow
    schedule = spec.schedule
    put("trainer.device", spec.trainer.device, "trainer.device")
    put("trainer.nnodes", spec.trainer.nodes, "trainer.nodes")
    put(
        "trainer.n_gpus_per_node",
        spec.trainer.ranks_per_node,
        "trainer.ranks_per_node",
        why="verl counts ranks as GPUs, also on CPU",
    )
    facts.decide("trainer.project_name", "liverl", "groups runs in experiment trackers")
    put("trainer.experiment_name", spec.name, "name")
    put("trainer.logger", list(spec.observability.loggers), "observability.loggers")
    put("trainer.total_training_steps", schedule.steps, "schedule.steps")
    facts.decide("trainer.total_epochs", 1_000_000, "total_training_steps ends the run, not the number of epochs")
    put(
        "trainer.val_before_train",
        schedule.validate_before and bool(spec.tasks.validation),
        "schedule.validate_before",
        "tasks.validation",
    )
    put(
        "trainer.test_freq",
        schedule.validate_every if schedule.validate_every and spec.tasks.validation else -1,
        "schedule.validate_every",
        "tasks.validation",
    )
    put("trainer.save_freq", schedule.save_every or -1, "schedule.save_every")
    facts.decide(
        "trainer.checkpoint_callback_class",
        "runtime.trainer.stable.StableMarker",
        "marks whole checkpoints; only those are resumed from",
    )
    # verl removes the oldest before the newest is whole; the callback removes it afterwards.
    for role in ("actor", "critic"):
        put(
            f"trainer.max_{role}_ckpt_to_keep",
            schedule.keep_checkpoints + 1,
            "schedule.keep_checkpoints",
            why="one more than asked for, until the newest is whole",
        )
    facts.decide("trainer.default_local_dir", f"{RUN_DIR}/checkpoints", "the run directory's layout")
    facts.decide("trainer.resume_mode", "auto", "a restarted run goes on from its newest checkpoint")
    put(
        "trainer.critic_warmup",
        spec.algorithm.critic.warmup_steps if isinstance(spec.algorithm, Ppo) else 0,
        "algorithm",
    )
    facts.decide("trainer.log_val_generations", 0, "trials are kept in the run directory instead")
    facts.decide("trainer.balance_batch", True, "equal work for all ranks")
    facts.decide("trainer.use_v1", True, "the only trainer with the agent-loop seam")
    _mode(plan, facts)


def _mode(plan: Plan, facts: Facts) -> None:
    mode, put = plan.spec.mode, facts.follow
    put("trainer.v1.trainer_mode", mode.type, "mode.type")
    if isinstance(mode, ColocateAsync | SeparateAsync):
        put(f"trainer.v1.{mode.type}.num_warmup_batches", mode.warmup_batches, "mode.warmup_batches")
        put("trainer.v1.sampler.max_off_policy_threshold", mode.max_staleness, "mode.max_staleness")
        put("trainer.v1.sampler.max_off_policy_strategy", mode.stale, "mode.stale")
    if isinstance(mode, SeparateAsync):
        put("trainer.v1.separate_async.parameter_sync_step", mode.sync_every, "mode.sync_every")
    if plan.spec.rollout.type == "torch":
        why = "verl's own sampler polls every two seconds"
        facts.decide("trainer.v1.sampler.custom_sampler.path", "pkg://runtime.trainer.verl_cpu.sampler", why)
        sampler = "PromptReplayBuffer" if isinstance(mode, Sync) else "PromptReplayBufferAsync"
        put("trainer.v1.sampler.custom_sampler.name", sampler, "mode.type", why=why)


def _algorithm(plan: Plan, facts: Facts) -> None:
    algorithm, put = plan.spec.algorithm, facts.follow
    put("algorithm.adv_estimator", ESTIMATORS[algorithm.type], "algorithm.type")
    if isinstance(algorithm, Ppo):
        put("algorithm.gamma", algorithm.gamma, "algorithm.gamma")
        put("algorithm.lam", algorithm.gae_lambda, "algorithm.gae_lambda")
    else:
        put("algorithm.norm_adv_by_std_in_grpo", algorithm.normalize_by_std, "algorithm.normalize_by_std")
    in_reward = isinstance(algorithm.kl, KlReward)
    put("algorithm.use_kl_in_reward", in_reward, "algorithm.kl.type")
    if isinstance(algorithm.kl, KlReward):
        put("algorithm.kl_penalty", algorithm.kl.estimator, "algorithm.kl.estimator")
        facts.decide("algorithm.kl_ctrl.type", "fixed", "a fixed coefficient")
        put("algorithm.kl_ctrl.kl_coef", algorithm.kl.coefficient, "algorithm.kl.coefficient")


def _data(plan: Plan, facts: Facts) -> None:
    spec, put = plan.spec, facts.follow
    facts.decide("data.train_files", f"{RUN_DIR}/data/train.parquet", "the run directory's layout")
    facts.decide("data.val_files", f"{RUN_DIR}/data/val.parquet", "the run directory's layout")
    put("data.train_batch_size", spec.schedule.train_batch_size, "schedule.train_batch_size")
    put("data.max_prompt_length", spec.rollout.prompt_length, "rollout.prompt_length")
    put("data.max_response_length", spec.rollout.response_length, "rollout.response_length")
    facts.decide("data.truncation", "error", "a prompt that is too long is refused, never cut")
    facts.decide("data.filter_overlong_prompts", False, "the scaffold renders the real prompt later")
    facts.decide("data.shuffle", True, "tasks come in a random order")
    put("data.seed", spec.seed, "seed")
    facts.decide("data.dataloader_num_workers", 0, "rows are small; a worker process costs more than it brings")


def _model(plan: Plan, facts: Facts, prefix: str) -> None:
    spec = plan.spec
    facts.follow(f"{prefix}.path", model_path(plan), "policy")
    facts.follow(f"{prefix}.override_config.attn_implementation", spec.trainer.attention, "trainer.attention")
    flash = spec.trainer.attention == "flash_attention_2"
    facts.follow(f"{prefix}.use_remove_padding", flash, "trainer.attention", why="packing needs flash attention")
    facts.follow(
        f"{prefix}.enable_gradient_checkpointing", spec.trainer.gradient_checkpointing, "trainer.gradient_checkpointing"
    )


def _optimizer(plan: Plan, facts: Facts, prefix: str, *, learning_rate: float, origin: str) -> None:
    optimizer, put = plan.spec.trainer.optimizer, facts.follow
    put(f"{prefix}.lr", learning_rate, origin)
    put(f"{prefix}.lr_scheduler_type", optimizer.schedule, "trainer.optimizer.schedule")
    put(f"{prefix}.lr_warmup_steps", optimizer.warmup_steps, "trainer.optimizer.warmup_steps")
    facts.decide(f"{prefix}.lr_warmup_steps_ratio", 0.0, "warm-up is given in steps")
    put(f"{prefix}.weight_decay", optimizer.weight_decay, "trainer.optimizer.weight_decay")
    put(f"{prefix}.betas", [optimizer.beta1, optimizer.beta2], "trainer.optimizer.beta1", "trainer.optimizer.beta2")
    put(f"{prefix}.clip_grad", optimizer.grad_clip, "trainer.optimizer.grad_clip")


def _actor(plan: Plan, facts: Facts) -> None:
    spec, put = plan.spec, facts.follow
    algorithm, trainer = spec.algorithm, spec.trainer
    put(f"{ACTOR}.strategy", trainer.type, "trainer.type")
    _optimizer(
        plan,
        facts,
        f"{ACTOR}.optim",
        learning_rate=trainer.optimizer.learning_rate,
        origin="trainer.optimizer.learning_rate",
    )
    put(f"{ACTOR}.grad_clip", trainer.optimizer.grad_clip, "trainer.optimizer.grad_clip")
    put(f"{ACTOR}.ppo_mini_batch_size", spec.schedule.mini_batch_size, "schedule.mini_batch_size")
    put(f"{ACTOR}.ppo_micro_batch_size_per_gpu", trainer.micro_batch_size, "trainer.micro_batch_size")
    facts.decide(f"{ACTOR}.use_dynamic_bsz", False, "micro-batches are counted in sequences")
    put(f"{ACTOR}.ppo_epochs", algorithm.epochs, "algorithm.epochs")
    facts.decide(f"{ACTOR}.shuffle", False, "mini-batches keep the order of the batch")
    put(f"{ACTOR}.data_loader_seed", spec.seed, "seed")
    put(f"{ACTOR}.policy_loss.loss_mode", LOSSES[algorithm.type], "algorithm.type")
    put(f"{ACTOR}.loss_agg_mode", algorithm.loss_aggregation, "algorithm.loss_aggregation")
    put(f"{ACTOR}.clip_ratio", algorithm.clip.low, "algorithm.clip.low")
    put(f"{ACTOR}.clip_ratio_low", algorithm.clip.low, "algorithm.clip.low")
    put(f"{ACTOR}.clip_ratio_high", algorithm.clip.high, "algorithm.clip.high")
    put(f"{ACTOR}.clip_ratio_c", algorithm.clip.dual, "algorithm.clip.dual")
    put(f"{ACTOR}.entropy_coeff", algorithm.entropy_coefficient, "algorithm.entropy_coefficient")
    put(f"{ACTOR}.use_kl_loss", isinstance(algorithm.kl, KlLoss), "algorithm.kl.type")
    if isinstance(algorithm.kl, KlLoss):
        put(f"{ACTOR}.kl_loss_coef", algorithm.kl.coefficient, "algorithm.kl.coefficient")
        put(f"{ACTOR}.kl_loss_type", algorithm.kl.estimator, "algorithm.kl.estimator")
    put(
        f"{ACTOR}.use_torch_compile",
        trainer.device == "cuda",
        "trainer.device",
        why="compiling costs more than it brings on a CPU",
    )
    contents = ["model", "optimizer", "extra", "hf_model"]
    facts.decide(f"{ACTOR}.checkpoint.save_contents", contents, "hf_model: loadable by transformers")
    facts.decide(f"{ACTOR}.checkpoint.load_contents", contents[:3], "what verl itself resumes from")


def _engine(plan: Plan, facts: Facts, prefix: str) -> None:
    """FSDP settings of one engine. verl computes in bf16 unless told otherwise, and mixed types between engines
    corrupt TransferQueue fields."""
    trainer, put = plan.spec.trainer, facts.follow
    put(f"{prefix}.use_torch_compile", trainer.device == "cuda", "trainer.device")
    facts.decide(f"{prefix}.model_dtype", "fp32", "master weights")
    put(f"{prefix}.mixed_precision.param_dtype", trainer.precision, "trainer.precision")
    facts.decide(f"{prefix}.mixed_precision.reduce_dtype", "fp32", "gradients are summed in full precision")
    facts.decide(f"{prefix}.mixed_precision.buffer_dtype", "fp32", "rotary tables keep full precision")
    put(f"{prefix}.seed", plan.spec.seed, "seed")


def _reference(plan: Plan, facts: Facts) -> None:
    """Written also where no reference model runs: a later KL term must find sound settings."""
    trainer = plan.spec.trainer
    facts.follow(f"{REF}.log_prob_micro_batch_size_per_gpu", trainer.micro_batch_size, "trainer.micro_batch_size")
    facts.follow(f"{REF}.use_torch_compile", trainer.device == "cuda", "trainer.device")
    _engine(plan, facts, f"{REF}.fsdp_config")


def _rollout(plan: Plan, facts: Facts) -> None:
    spec, put = plan.spec, facts.follow
    rollout = spec.rollout
    torch_engine = rollout.type == "torch"
    put(f"{ROLLOUT}.name", TORCH_ROLLOUT if torch_engine else "vllm", "rollout.type")
    facts.decide(f"{ROLLOUT}.mode", "async", "the only mode of verl 0.9.1")
    put(f"{ROLLOUT}.n", spec.algorithm.group_size, "algorithm.group_size")
    put(f"{ROLLOUT}.temperature", rollout.temperature, "rollout.temperature")
    put(f"{ROLLOUT}.top_p", rollout.top_p, "rollout.top_p")
    put(f"{ROLLOUT}.top_k", rollout.top_k, "rollout.top_k")
    put(f"{ROLLOUT}.prompt_length", rollout.prompt_length, "rollout.prompt_length")
    put(f"{ROLLOUT}.response_length", rollout.response_length, "rollout.response_length")
    put(f"{ROLLOUT}.max_model_len", plan.sequence_length, "rollout.prompt_length", "rollout.response_length")
    put(f"{ROLLOUT}.max_num_seqs", rollout.slots, "rollout.slots")
    put(f"{ROLLOUT}.seed", spec.seed, "seed")
    put(f"{ROLLOUT}.dtype", "float32" if spec.trainer.precision == "fp32" else "bfloat16", "trainer.precision")
    tensor_parallel = rollout.tensor_parallel_size if isinstance(rollout, VllmRollout) else 1
    put(f"{ROLLOUT}.tensor_model_parallel_size", tensor_parallel, "rollout")
    facts.decide(f"{ROLLOUT}.data_parallel_size", 1, "replicas are the parallelism")
    facts.decide(f"{ROLLOUT}.pipeline_model_parallel_size", 1, "verl refuses more")
    if isinstance(rollout, VllmRollout):
        put(f"{ROLLOUT}.gpu_memory_utilization", rollout.gpu_memory_utilization, "rollout.gpu_memory_utilization")
        put(f"{ROLLOUT}.enforce_eager", rollout.enforce_eager, "rollout.enforce_eager")
    facts.decide(
        f"{ROLLOUT}.calculate_log_probs", True, "log-probabilities of the rollout are compared with the trainer's"
    )
    put(f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu", spec.trainer.micro_batch_size, "trainer.micro_batch_size")
    facts.decide(f"{ROLLOUT}.val_kwargs.n", 1, "each validation task is tried once")
    facts.decide(f"{ROLLOUT}.val_kwargs.do_sample", False, "each validation set brings its own temperature")
    facts.decide(f"{ROLLOUT}.val_kwargs.temperature", 0, "each validation set brings its own temperature")
    facts.decide(f"{ROLLOUT}.agent.num_workers", 1, "the manager below replaces verl's workers")
    facts.decide(
        f"{ROLLOUT}.agent.agent_loop_manager_class",
        "runtime.agent_loop.verl_manager.LiverlAgentLoopManager",
        "where LiveRL enters the trainer",
    )
    if torch_engine:
        facts.decide(
            f"{ROLLOUT}.router_config_path",
            f"{RUN_DIR}/state/router.yaml",
            "sticky, least-loaded routing over all engine servers",
        )
    facts.decide(
        f"{ROLLOUT}.custom.liverl.runtime_config",
        f"{RUN_DIR}/bundle/runtime.json",
        "everything the agent loop must know",
    )
    if isinstance(spec.mode, SeparateAsync):
        facts.follow("actor_rollout_ref.hybrid_engine", False, "mode.type", why="rollout only on its own hardware")
        facts.follow(f"{ROLLOUT}.nnodes", 1, "mode.type")
        facts.follow(f"{ROLLOUT}.n_gpus_per_node", plan.rollout_gpus or 1, "mode.type", "rollout")
        engine = TORCH_CHECKPOINT_ENGINE if torch_engine else CUDA_CHECKPOINT_ENGINE
        facts.follow(f"{ROLLOUT}.checkpoint_engine.backend", engine, "mode.type", "rollout.type")
    else:
        facts.follow("actor_rollout_ref.hybrid_engine", True, "mode.type")
        facts.follow(f"{ROLLOUT}.nnodes", 0, "mode.type")
        facts.follow(f"{ROLLOUT}.checkpoint_engine.backend", "naive", "mode.type")


def _critic(plan: Plan, facts: Facts) -> None:
    spec, put = plan.spec, facts.follow
    assert isinstance(spec.algorithm, Ppo)
    critic = spec.algorithm.critic
    _model(plan, facts, "critic.model")
    put("critic.strategy", spec.trainer.type, "trainer.type")
    _optimizer(plan, facts, "critic.optim", learning_rate=critic.learning_rate, origin="algorithm.critic.learning_rate")
    put("critic.grad_clip", spec.trainer.optimizer.grad_clip, "trainer.optimizer.grad_clip")
    put("critic.ppo_mini_batch_size", spec.schedule.mini_batch_size, "schedule.mini_batch_size")
    put("critic.ppo_micro_batch_size_per_gpu", spec.trainer.micro_batch_size, "trainer.micro_batch_size")
    put("critic.ppo_epochs", spec.algorithm.epochs, "algorithm.epochs")
    put("critic.cliprange_value", critic.clip_range, "algorithm.critic.clip_range")
    put("critic.data_loader_seed", spec.seed, "seed")
    _engine(plan, facts, "critic.fsdp")


def _process(plan: Plan, facts: Facts) -> None:
    """Ray, TransferQueue and Hydra themselves."""
    spec = plan.spec
    cpu = spec.trainer.device == "cpu"
    facts.decide("reward.num_workers", 0, "rewards come with the trajectories: no process for them")
    facts.decide(
        "transfer_queue.backend.SimpleStorage.num_data_storage_units",
        1 if cpu else 8,
        "one process is enough on one machine",
    )
    init = "ray_kwargs.ray_init"
    facts.decide(f"{init}.num_cpus", 16, "actors of verl reserve CPUs that they do not use")
    ranks = plan.trainer_ranks + (plan.rollout_gpus or 1 if isinstance(spec.mode, SeparateAsync) else 0)
    if cpu:
        facts.follow(
            f"{init}.num_gpus",
            ranks,
            "trainer.nodes",
            "trainer.ranks_per_node",
            "mode.type",
            why="verl places ranks on GPUs; here they are tokens",
        )
        facts.decide(f"{init}.object_store_memory", 300_000_000, "batches of a small policy")
    facts.decide(f"{init}.include_dashboard", False, "not needed")
    facts.decide(
        f"{init}._temp_dir",
        "${oc.env:LIVERL_RAY_DIR}",
        "a short path: the name of a Unix socket must fit in 107 characters",
    )
    facts.decide("hydra.run.dir", f"{RUN_DIR}/logs/hydra", "nothing is written into the working directory")
    facts.decide("hydra.output_subdir", None, "the bundle already holds the configuration")
    facts.decide("hydra.job.chdir", False, "the working directory stays the run directory")
