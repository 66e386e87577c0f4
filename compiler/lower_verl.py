"""Plan -> verl's Hydra configuration (``verl.yaml``), on top of verl 0.9.1's own ``ppo_trainer``.

Every value that matters is written, also where it equals verl's default: verl's YAML and dataclass defaults disagree
with each other and move between versions. Paths come from the environment at run time, so that the bytes hold no
folder of any machine.
"""

from __future__ import annotations

from typing import Any

from compiler.facts import Facts
from compiler.lower_algorithm import put_algorithm, put_loss
from compiler.lower_engine import engine_key, model_engine, put_engine, put_optimizer
from compiler.plan import Plan
from compiler.spec.algorithm import Ppo
from compiler.spec.mode import ColocateAsync, SeparateAsync, Sync
from compiler.spec.policy import PretrainedPolicy
from compiler.spec.rollout import VllmRollout
from compiler.spec.trainer import Fsdp, Megatron
from runtime.config.policy import NewPolicy

RUN_DIR = "${oc.env:LIVERL_RUN_DIR}"
ACTOR, ROLLOUT, MODEL, REF = (f"actor_rollout_ref.{part}" for part in ("actor", "rollout", "model", "ref"))
TORCH_ROLLOUT = "liverl_cpu"
TORCH_CHECKPOINT_ENGINE = "liverl_ray"
CUDA_CHECKPOINT_ENGINE = "nccl"


def verl_tree(plan: Plan, facts: Facts) -> dict[str, Any]:
    """``verl.yaml``: the facts on top of the defaults of verl that suit the training engine."""
    engine = model_engine(plan)
    chosen = [] if engine == "dp" else [{"override model_engine": engine}]
    return {"defaults": ["ppo_trainer", *chosen, "_self_"], **facts.tree()}


def lower_verl(plan: Plan) -> Facts:
    facts = Facts()
    _trainer(plan, facts)
    put_algorithm(plan, facts)
    _data(plan, facts)
    _model(plan, facts, MODEL)
    _actor(plan, facts)
    put_engine(plan, facts, f"{ACTOR}.{engine_key(plan)}")
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
    spec, put = plan.spec, facts.follow
    trainer = spec.trainer
    put(f"{prefix}.path", model_path(plan), "policy")
    if isinstance(trainer, Megatron):
        facts.decide(f"{prefix}.use_remove_padding", True, "Megatron packs sequences")
    else:
        put(f"{prefix}.override_config.attn_implementation", trainer.attention, "trainer.attention")
        flash = trainer.attention.startswith("flash_attention")
        put(f"{prefix}.use_remove_padding", flash, "trainer.attention", why="packing needs flash attention")
    put(f"{prefix}.enable_gradient_checkpointing", trainer.gradient_checkpointing, "trainer.gradient_checkpointing")
    lora = spec.policy.lora if isinstance(spec.policy, PretrainedPolicy) else None
    if lora is None or prefix != MODEL:
        return
    modules = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    # Megatron reads the nested form, FSDP and VeOmni the flat one.
    if isinstance(trainer, Megatron):
        put(f"{prefix}.lora.rank", lora.rank, "policy.lora.rank")
        put(f"{prefix}.lora.alpha", lora.alpha, "policy.lora.alpha")
        if modules != "all-linear":
            put(f"{prefix}.lora.target_modules", modules, "policy.lora.target_modules")
    else:
        put(f"{prefix}.lora_rank", lora.rank, "policy.lora.rank")
        put(f"{prefix}.lora_alpha", lora.alpha, "policy.lora.alpha")
        put(f"{prefix}.target_modules", modules, "policy.lora.target_modules")
    put(f"{prefix}.lora.merge", lora.merge, "policy.lora.merge")


def _actor(plan: Plan, facts: Facts) -> None:
    spec, put = plan.spec, facts.follow
    algorithm, trainer = spec.algorithm, spec.trainer
    put(f"{ACTOR}.strategy", trainer.type, "trainer.type")
    put_optimizer(
        plan,
        facts,
        f"{ACTOR}.optim",
        learning_rate=trainer.optimizer.learning_rate,
        origin="trainer.optimizer.learning_rate",
    )
    if isinstance(trainer, Fsdp):
        put(f"{ACTOR}.grad_clip", trainer.optimizer.grad_clip, "trainer.optimizer.grad_clip")
        if trainer.device == "cuda":
            # The reference takes its own from here.
            put(f"{ACTOR}.ulysses_sequence_parallel_size", trainer.sequence_parallel, "trainer.sequence_parallel")
    put(f"{ACTOR}.ppo_mini_batch_size", spec.schedule.mini_batch_size, "schedule.mini_batch_size")
    put(f"{ACTOR}.ppo_micro_batch_size_per_gpu", trainer.micro_batch_size, "trainer.micro_batch_size")
    _packing(plan, facts, ACTOR)
    put(f"{ACTOR}.ppo_epochs", algorithm.epochs, "algorithm.epochs")
    facts.decide(f"{ACTOR}.shuffle", False, "mini-batches keep the order of the batch")
    put(f"{ACTOR}.data_loader_seed", spec.seed, "seed")
    put_loss(plan, facts)
    put(
        f"{ACTOR}.use_torch_compile",
        trainer.device == "cuda",
        "trainer.device",
        why="compiling costs more than it brings on a CPU",
    )
    contents = ["model", "optimizer", "extra", "hf_model"]
    facts.decide(f"{ACTOR}.checkpoint.save_contents", contents, "hf_model: loadable by transformers")
    facts.decide(f"{ACTOR}.checkpoint.load_contents", contents[:3], "what verl itself resumes from")


def _packing(plan: Plan, facts: Facts, prefix: str) -> None:
    """How micro-batches are cut; the reference and the rollout's log-probabilities take the actor's way."""
    tokens = plan.spec.trainer.max_tokens_per_rank
    if tokens is None:
        facts.decide(f"{prefix}.use_dynamic_bsz", False, "micro-batches are counted in sequences")
    else:
        facts.follow(f"{prefix}.use_dynamic_bsz", True, "trainer.max_tokens_per_rank")
        facts.follow(f"{prefix}.ppo_max_token_len_per_gpu", tokens, "trainer.max_tokens_per_rank")


def _reference(plan: Plan, facts: Facts) -> None:
    """Written also where no reference model runs: a later KL term must find sound settings."""
    trainer = plan.spec.trainer
    facts.follow(f"{REF}.log_prob_micro_batch_size_per_gpu", trainer.micro_batch_size, "trainer.micro_batch_size")
    facts.follow(f"{REF}.use_torch_compile", trainer.device == "cuda", "trainer.device")
    put_engine(plan, facts, f"{REF}.{engine_key(plan)}", training=False)


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
        put(f"{ROLLOUT}.max_num_batched_tokens", rollout.max_batched_tokens, "rollout.max_batched_tokens")
        put(
            f"{ROLLOUT}.expert_parallel_size",
            tensor_parallel if rollout.expert_parallel else 1,
            "rollout.expert_parallel",
            "rollout.tensor_parallel_size",
        )
        put(f"{ROLLOUT}.enable_rollout_routing_replay", spec.routing_replay == "R3", "routing_replay")
        for name, value in rollout.flags.items():
            put(f"{ROLLOUT}.engine_kwargs.vllm.{name.replace('-', '_')}", value, f"rollout.flags.{name}")
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
        "runtime.trainer.agent_loop_manager.LiverlAgentLoopManager",
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
        nodes = spec.mode.rollout_nodes
        facts.follow(f"{ROLLOUT}.nnodes", nodes, "mode.rollout_nodes")
        gpus = max(1, plan.rollout_gpus // nodes)
        facts.follow(f"{ROLLOUT}.n_gpus_per_node", gpus, "mode.rollout_nodes", "rollout")
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
    put_optimizer(
        plan, facts, "critic.optim", learning_rate=critic.learning_rate, origin="algorithm.critic.learning_rate"
    )
    if isinstance(spec.trainer, Fsdp):
        put("critic.grad_clip", spec.trainer.optimizer.grad_clip, "trainer.optimizer.grad_clip")
        if spec.trainer.device == "cuda":
            put("critic.ulysses_sequence_parallel_size", spec.trainer.sequence_parallel, "trainer.sequence_parallel")
    put("critic.ppo_mini_batch_size", spec.schedule.mini_batch_size, "schedule.mini_batch_size")
    put("critic.ppo_micro_batch_size_per_gpu", spec.trainer.micro_batch_size, "trainer.micro_batch_size")
    put("critic.ppo_epochs", spec.algorithm.epochs, "algorithm.epochs")
    put("critic.cliprange_value", critic.clip_range, "algorithm.critic.clip_range")
    put("critic.data_loader_seed", spec.seed, "seed")
    if spec.trainer.max_tokens_per_rank is not None:
        _packing(plan, facts, "critic")
    put_engine(plan, facts, f"critic.{engine_key(plan, critic=True)}")


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
    dashboard = spec.observability.dashboard
    if dashboard is None:
        facts.decide(f"{init}.include_dashboard", False, "not needed")
    else:
        facts.follow(f"{init}.include_dashboard", True, "observability.dashboard")
        facts.follow(f"{init}.dashboard_host", dashboard.host, "observability.dashboard.host")
        facts.follow(f"{init}.dashboard_port", dashboard.port, "observability.dashboard.port")
    facts.decide(
        f"{init}._temp_dir",
        "${oc.env:LIVERL_RAY_DIR}",
        "a short path: the name of a Unix socket must fit in 107 characters",
    )
    facts.decide("hydra.run.dir", f"{RUN_DIR}/logs/hydra", "nothing is written into the working directory")
    facts.decide("hydra.output_subdir", None, "the bundle already holds the configuration")
    facts.decide("hydra.job.chdir", False, "the working directory stays the run directory")
