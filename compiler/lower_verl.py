"""Plan -> verl's Hydra configuration (``verl.yaml``), on top of verl 0.9.1's own ``ppo_trainer``.

Every value that matters is written, also where it equals verl's default: verl's YAML and dataclass defaults disagree
with each other and move between versions. Paths come from the environment at run time, so that the bytes hold no
folder of any machine.
"""

from __future__ import annotations

import math
from functools import partial

from compiler.facts import Facts, section
from compiler.lower_algorithm import put_algorithm, put_loss
from compiler.lower_engine import ACTOR, CRITIC, REF, model_engine, put_engine, put_optimizer
from compiler.plan import Plan
from compiler.spec.algorithm import Ppo
from compiler.spec.mode import ColocateAsync, SeparateAsync, Sync
from compiler.spec.policy import PretrainedPolicy
from compiler.spec.rollout import VllmRollout
from compiler.spec.trainer import PACKED_ATTENTION, Fsdp, Megatron
from runtime.config.model_layers import COMPILED_LAYERS, REPLAY_ENGINE, SHARED_PREFIXES
from runtime.config.rollout import AgentLoop

RUN_DIR = "${oc.env:LIVERL_RUN_DIR}"
ROLLOUT, MODEL = "actor_rollout_ref.rollout", "actor_rollout_ref.model"
TORCH_ROLLOUT = "liverl_cpu"
TORCH_CHECKPOINT_ENGINE = "liverl_ray"
CUDA_CHECKPOINT_ENGINE = "liverl_nccl"
CPUS_PER_GPU = 3
"""What verl's placement groups reserve beside each GPU (``ResourcePoolManager.max_colocate_count``)."""
RAY_CPUS = 16
"""For all actors of verl beside them, which reserve CPUs that they do not use."""


def _workers_cpus(loop: AgentLoop) -> int:
    """What several agent-loop workers reserve; one is no process of its own."""
    return math.ceil(loop.workers * loop.cpus) if loop.workers > 1 else 0


def lower_verl(plan: Plan) -> Facts:
    facts = Facts(plan.reads)
    facts.derive("defaults", lambda: ["ppo_trainer", *model_engine(plan), "_self_"])
    _trainer(plan, facts)
    put_algorithm(plan, facts)
    _data(plan, facts)
    _model(plan, facts, MODEL)
    _lora(plan, facts)
    _actor(plan, facts)
    put_engine(plan, facts, ACTOR)
    _reference(plan, facts)
    _rollout(plan, facts)
    _critic(plan, facts)
    _process(plan, facts)
    return facts


MODEL_PATH = f"{RUN_DIR}/policy"
"""The run directory has it: made there, or a link to where it lies on the machine that runs."""


def _trainer(plan: Plan, facts: Facts) -> None:
    spec, put = plan.spec, facts.derive
    schedule, tasks = spec.schedule, spec.tasks
    put("trainer.device", lambda: spec.trainer.device)
    put("trainer.nnodes", lambda: spec.trainer.nodes)
    why = "verl counts ranks as GPUs, also on CPU"
    put("trainer.n_gpus_per_node", lambda: spec.trainer.ranks_per_node, why=why)
    facts.decide("trainer.project_name", "liverl", "groups runs in experiment trackers")
    put("trainer.experiment_name", lambda: spec.name)
    put("trainer.logger", lambda: spec.observability.loggers)
    put("trainer.total_training_steps", lambda: schedule.steps or 1)
    with facts.section():
        if schedule.steps == 0:
            facts.decide("trainer.val_only", True, "nothing is reinforced")
    facts.decide("trainer.total_epochs", 1_000_000, "total_training_steps ends the run, not the number of epochs")
    put("trainer.val_before_train", lambda: schedule.validate_before and bool(tasks.validation))
    put("trainer.test_freq", lambda: schedule.validate_every if schedule.validate_every and tasks.validation else -1)
    put("trainer.save_freq", lambda: schedule.save_every or schedule.steps or 1)
    facts.decide(
        "trainer.checkpoint_callback_class",
        "runtime.trainer.stable.StableMarker",
        "marks whole checkpoints; only those are resumed from",
    )
    # verl removes the oldest before the newest is whole; the callback removes it afterwards.
    why = "one more than asked for, until the newest is whole"
    put("trainer.max_actor_ckpt_to_keep", lambda: schedule.keep_checkpoints + 1, why=why)
    put("trainer.max_critic_ckpt_to_keep", lambda: schedule.keep_checkpoints + 1, why=why)
    facts.decide("trainer.default_local_dir", f"{RUN_DIR}/checkpoints", "the run directory's layout")
    facts.decide("trainer.resume_mode", "auto", "a restarted run goes on from its newest checkpoint")
    put(
        "trainer.critic_warmup",
        lambda: spec.algorithm.critic.warmup_steps if isinstance(spec.algorithm, Ppo) else 0,
    )
    facts.decide("trainer.log_val_generations", 0, "trials are kept in the run directory instead")
    facts.decide("trainer.balance_batch", True, "equal work for all ranks")
    facts.decide("trainer.use_v1", True, "the only trainer with the agent-loop seam")
    _mode(plan, facts)


def _mode(plan: Plan, facts: Facts) -> None:
    mode, put = plan.spec.mode, facts.derive
    put("trainer.v1.trainer_mode", lambda: mode.type)
    with facts.section():
        if isinstance(mode, ColocateAsync | SeparateAsync):
            put(f"trainer.v1.{mode.type}.num_warmup_batches", lambda: mode.warmup_batches)
            put("trainer.v1.sampler.max_off_policy_threshold", lambda: mode.max_staleness)
            put("trainer.v1.sampler.max_off_policy_strategy", lambda: mode.stale)
        if isinstance(mode, SeparateAsync):
            put("trainer.v1.separate_async.parameter_sync_step", lambda: mode.sync_every)
    custom, why = "trainer.v1.sampler.custom_sampler", "verl's own sampler polls every two seconds"
    facts.decide(f"{custom}.path", "pkg://runtime.trainer.sampler", why)
    sampler = {True: "PromptReplayBuffer", False: "PromptReplayBufferAsync"}
    put(f"{custom}.name", lambda: sampler[isinstance(mode, Sync)], why=why)
    with facts.section():
        if plan.spec.algorithm.drop_uniform_groups:
            own, why = "trainer.v1.sampler.sampler_kwargs", "verl hands what filters groups to its own sampler alone"
            facts.decide(f"{own}.filter_groups_metric", "reward", why)
            facts.decide(f"{own}.gen_batch_size", 1, why)
            put(f"{own}.train_batch_size", lambda: plan.spec.schedule.train_batch_size, why=why)
            if isinstance(mode, Sync):
                why = "verl begins one batch at a time, and replicas idle while most of its groups are dropped"
                put(f"{own}.max_inflight_gen_batches", lambda: _batches_at_once(plan), why=why)
                why = "a group without a trial that can be trained is replaced, as one without signal is"
                facts.decide(f"{own}.sync_refill_failed_groups", True, why)


def _batches_at_once(plan: Plan) -> int:
    """As many as fit into the trials that may be in flight, and two that wait behind them: the first in order may
    end last, and until it has, nobody knows whether more are needed."""
    spec = plan.spec
    group = spec.algorithm.group_size + spec.rollout.spare_trials
    return spec.rollout.concurrency // (spec.schedule.train_batch_size * group) + 2


def _data(plan: Plan, facts: Facts) -> None:
    spec, put = plan.spec, facts.derive
    facts.decide("data.train_files", f"{RUN_DIR}/data/train.parquet", "the run directory's layout")
    facts.decide("data.val_files", f"{RUN_DIR}/data/val.parquet", "the run directory's layout")
    put("data.train_batch_size", lambda: spec.schedule.train_batch_size)
    put("data.max_prompt_length", lambda: spec.rollout.prompt_length)
    put("data.max_response_length", lambda: spec.rollout.response_length)
    facts.decide("data.truncation", "error", "a prompt that is too long is refused, never cut")
    facts.decide("data.filter_overlong_prompts", False, "the scaffold renders the real prompt later")
    with facts.section():
        if spec.tasks.curriculum is None:
            facts.decide("data.shuffle", True, "tasks come in a random order")
        else:
            facts.decide("data.shuffle", False, "the curriculum says which task comes")
            why = "verl lets no sampler be chosen, but the data set"
            facts.decide("data.custom_cls.path", "pkg://runtime.trainer.curriculum_dataset", why)
            facts.decide("data.custom_cls.name", "CurriculumDataset", why)
    put("data.seed", lambda: spec.seed)
    facts.decide("data.dataloader_num_workers", 0, "rows are small; a worker process costs more than it brings")


def _model(plan: Plan, facts: Facts, prefix: str) -> None:
    trainer, put = plan.spec.trainer, facts.derive
    facts.decide(f"{prefix}.path", MODEL_PATH, "the run's own folder leads to every policy")
    with facts.section():
        if isinstance(trainer, Megatron):
            facts.decide(f"{prefix}.use_remove_padding", True, "Megatron packs sequences")
        else:
            own = {"varlen": "liverl_varlen"}
            put(f"{prefix}.override_config.attn_implementation", lambda: own.get(trainer.attention, trainer.attention))
            why = "packing needs attention that knows of it"
            put(f"{prefix}.use_remove_padding", lambda: trainer.attention in PACKED_ATTENTION, why=why)
            _external_lib(plan, facts, prefix)
    put(f"{prefix}.enable_gradient_checkpointing", lambda: trainer.gradient_checkpointing)
    if prefix == MODEL:
        _head(plan, facts)


@section
def _external_lib(plan: Plan, facts: Facts, prefix: str) -> None:
    """The one module that verl imports where it makes a model."""
    trainer = plan.spec.trainer
    if prefix == MODEL and isinstance(trainer, Fsdp) and plan.spec.routing_replay == "R3":
        why = "verl's FSDP engine with routing replay; brings varlen too"
        facts.decide(f"{prefix}.external_lib", REPLAY_ENGINE, why)
    elif isinstance(trainer, Fsdp) and trainer.share_prefixes:
        facts.decide(f"{prefix}.external_lib", SHARED_PREFIXES, "what begins alike, once")
    elif prefix == MODEL and isinstance(trainer, Fsdp) and trainer.compile:
        facts.decide(f"{prefix}.external_lib", COMPILED_LAYERS, "verl compiles no layer; brings varlen too")
    elif isinstance(trainer, Fsdp) and trainer.attention == "varlen":
        facts.decide(f"{prefix}.external_lib", "runtime.trainer.cuda.varlen", "where varlen is")


@section
def _head(plan: Plan, facts: Facts) -> None:
    """How log-probabilities come from the last layer. Without flash-attn's own kernel verl would make them token by
    token in Python, which takes longer than all the rest of an update."""
    trainer = plan.spec.trainer
    if isinstance(trainer, Fsdp) and trainer.device == "cuda" and trainer.attention != "flash_attention_2":
        facts.decide(
            f"{MODEL}.use_fused_kernels", True, "log-probabilities in pieces of 512 tokens, logits never whole"
        )
        facts.decide(f"{MODEL}.fused_kernel_options.impl_backend", "torch", "needs nothing but torch")


@section
def _lora(plan: Plan, facts: Facts) -> None:
    """Megatron reads the nested form, FSDP and VeOmni the flat one."""
    lora, put = plan.spec.policy.lora if isinstance(plan.spec.policy, PretrainedPolicy) else None, facts.derive
    if lora is None:
        return
    megatron = isinstance(plan.spec.trainer, Megatron)
    prefix = f"{MODEL}.lora." if megatron else f"{MODEL}.lora_"
    put(f"{prefix}rank", lambda: lora.rank)
    put(f"{prefix}alpha", lambda: lora.alpha)
    if not megatron:
        put(f"{MODEL}.target_modules", lambda: lora.target_modules)
    elif lora.target_modules != "all-linear":
        put(f"{prefix}target_modules", lambda: lora.target_modules)
    put(f"{MODEL}.lora.merge", lambda: lora.merge)


def _actor(plan: Plan, facts: Facts) -> None:
    spec, put = plan.spec, facts.derive
    trainer = spec.trainer
    put(f"{ACTOR}.strategy", lambda: trainer.type)
    put(f"{ACTOR}.optim.lr", lambda: trainer.optimizer.learning_rate)
    put_optimizer(plan, facts, f"{ACTOR}.optim")
    _sharded(plan, facts, ACTOR)
    put(f"{ACTOR}.ppo_mini_batch_size", lambda: spec.schedule.mini_batch_size)
    put(f"{ACTOR}.ppo_micro_batch_size_per_gpu", lambda: trainer.micro_batch_size)
    _packing(plan, facts, ACTOR)
    put(f"{ACTOR}.ppo_epochs", lambda: spec.algorithm.epochs)
    facts.decide(f"{ACTOR}.shuffle", False, "mini-batches keep the order of the batch")
    put(f"{ACTOR}.data_loader_seed", lambda: spec.seed)
    put_loss(plan, facts)
    why = "compiling costs more than it brings on a CPU"
    put(f"{ACTOR}.use_torch_compile", lambda: trainer.device == "cuda", why=why)
    _checkpoint(plan, facts)


@section
def _checkpoint(plan: Plan, facts: Facts) -> None:
    policy, resumed = plan.spec.policy, ["model", "optimizer", "extra"]
    if isinstance(policy, PretrainedPolicy) and policy.lora is not None and isinstance(plan.spec.trainer, Fsdp):
        facts.decide(f"{ACTOR}.checkpoint.save_contents", resumed, "the base is known: what is trained is the adapter")
        facts.decide(f"{ACTOR}.checkpoint.save_lora_only", True, "the base is known: what is trained is the adapter")
    else:
        facts.decide(f"{ACTOR}.checkpoint.save_contents", [*resumed, "hf_model"], "hf_model: loadable by transformers")
    facts.decide(f"{ACTOR}.checkpoint.load_contents", resumed, "what verl itself resumes from")


@section
def _sharded(plan: Plan, facts: Facts, role: str) -> None:
    """What verl reads beside the settings of FSDP too; the reference takes the actor's."""
    trainer = plan.spec.trainer
    if isinstance(trainer, Fsdp):
        facts.derive(f"{role}.grad_clip", lambda: trainer.optimizer.grad_clip)
        if trainer.device == "cuda":
            facts.derive(f"{role}.ulysses_sequence_parallel_size", lambda: trainer.sequence_parallel)


@section
def _packing(plan: Plan, facts: Facts, role: str) -> None:
    """How micro-batches are cut; the reference and the rollout's log-probabilities take the actor's way."""
    trainer = plan.spec.trainer
    packed = trainer.max_tokens_per_rank is not None
    if packed or role == ACTOR:
        facts.derive(f"{role}.use_dynamic_bsz", lambda: trainer.max_tokens_per_rank is not None)
    if packed:
        facts.derive(f"{role}.ppo_max_token_len_per_gpu", lambda: trainer.max_tokens_per_rank)


def _reference(plan: Plan, facts: Facts) -> None:
    """Written also where no reference model runs: a later KL term must find sound settings."""
    trainer, put = plan.spec.trainer, facts.derive
    put(f"{REF}.log_prob_micro_batch_size_per_gpu", lambda: trainer.micro_batch_size)
    put(f"{REF}.use_torch_compile", lambda: trainer.device == "cuda")
    put_engine(plan, facts, REF)


def _rollout(plan: Plan, facts: Facts) -> None:
    spec, put = plan.spec, facts.derive
    rollout = spec.rollout
    put(f"{ROLLOUT}.name", lambda: {"torch": TORCH_ROLLOUT, "vllm": "vllm"}[rollout.type])
    facts.decide(f"{ROLLOUT}.mode", "async", "the only mode of verl 0.9.1")
    put(f"{ROLLOUT}.n", lambda: spec.algorithm.group_size)
    put(f"{ROLLOUT}.temperature", lambda: rollout.temperature)
    put(f"{ROLLOUT}.top_p", lambda: rollout.top_p)
    put(f"{ROLLOUT}.top_k", lambda: rollout.top_k)
    put(f"{ROLLOUT}.prompt_length", lambda: rollout.prompt_length)
    put(f"{ROLLOUT}.response_length", lambda: rollout.response_length)
    put(f"{ROLLOUT}.max_model_len", lambda: plan.sequence_length)
    put(f"{ROLLOUT}.max_num_seqs", lambda: rollout.slots)
    put(f"{ROLLOUT}.seed", lambda: spec.seed)
    put(f"{ROLLOUT}.dtype", lambda: "float32" if spec.trainer.precision == "fp32" else "bfloat16")
    put(
        f"{ROLLOUT}.tensor_model_parallel_size",
        lambda: rollout.tensor_parallel_size if isinstance(rollout, VllmRollout) else 1,
    )
    facts.decide(f"{ROLLOUT}.data_parallel_size", 1, "replicas are the parallelism")
    facts.decide(f"{ROLLOUT}.pipeline_model_parallel_size", 1, "verl refuses more")
    _vllm(plan, facts)
    with facts.section():
        if rollout.type == "torch" and spec.routing_replay == "R3":
            facts.decide(f"{ROLLOUT}.enable_rollout_routing_replay", True, "the engine tells the experts it chose")
    facts.decide(
        f"{ROLLOUT}.calculate_log_probs", True, "log-probabilities of the rollout are compared with the trainer's"
    )
    put(f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu", lambda: spec.trainer.micro_batch_size)
    facts.decide(f"{ROLLOUT}.val_kwargs.n", 1, "each validation task is tried once")
    facts.decide(f"{ROLLOUT}.val_kwargs.do_sample", False, "each validation set brings its own temperature")
    facts.decide(f"{ROLLOUT}.val_kwargs.temperature", 0, "each validation set brings its own temperature")
    facts.decide(f"{ROLLOUT}.agent.num_workers", 1, "the manager below replaces verl's workers")
    facts.decide(
        f"{ROLLOUT}.agent.agent_loop_manager_class",
        "runtime.trainer.agent_loop_manager.LiverlAgentLoopManager",
        "where LiveRL enters the trainer",
    )
    with facts.section():
        if rollout.type == "torch":
            path, why = f"{RUN_DIR}/state/router.yaml", "sticky, least-loaded routing over all engine servers"
            facts.decide(f"{ROLLOUT}.router_config_path", path, why)
    facts.decide(
        f"{ROLLOUT}.custom.liverl.runtime_config",
        f"{RUN_DIR}/bundle/runtime.json",
        "everything the agent loop must know",
    )
    _placement(plan, facts)


@section
def _vllm(plan: Plan, facts: Facts) -> None:
    spec, put = plan.spec, facts.derive
    rollout = spec.rollout
    if not isinstance(rollout, VllmRollout):
        return
    put(f"{ROLLOUT}.gpu_memory_utilization", lambda: rollout.gpu_memory_utilization)
    put(f"{ROLLOUT}.enforce_eager", lambda: rollout.enforce_eager)
    put(f"{ROLLOUT}.free_cache_engine", lambda: rollout.release_memory)
    put(f"{ROLLOUT}.max_num_batched_tokens", lambda: rollout.max_batched_tokens)
    put(f"{ROLLOUT}.expert_parallel_size", lambda: rollout.tensor_parallel_size if rollout.expert_parallel else 1)
    put(f"{ROLLOUT}.enable_rollout_routing_replay", lambda: spec.routing_replay == "R3")
    for name in rollout.flags:
        put(f"{ROLLOUT}.engine_kwargs.vllm.{name.replace('-', '_')}", partial(rollout.flags.get, name))


@section
def _placement(plan: Plan, facts: Facts) -> None:
    """On whose hardware rollout runs, and how weights get there."""
    mode, put = plan.spec.mode, facts.derive
    put("actor_rollout_ref.hybrid_engine", lambda: not isinstance(mode, SeparateAsync))
    if isinstance(mode, SeparateAsync):
        put(f"{ROLLOUT}.nnodes", lambda: mode.rollout_nodes)
        put(f"{ROLLOUT}.n_gpus_per_node", lambda: max(1, plan.rollout_gpus // mode.rollout_nodes))
        engines = {"torch": TORCH_CHECKPOINT_ENGINE, "vllm": CUDA_CHECKPOINT_ENGINE}
        put(f"{ROLLOUT}.checkpoint_engine.backend", lambda: engines[plan.spec.rollout.type])
        with facts.section():
            if plan.spec.rollout.type == "vllm":
                module, why = "runtime.trainer.cuda.checkpoint_engine", "weights arrive with the trainer's fingerprint"
                facts.decide(f"{ROLLOUT}.checkpoint_engine.custom_backend_module", module, why)
    else:
        facts.decide(f"{ROLLOUT}.nnodes", 0, "rollout shares the trainer's hardware")
        facts.decide(f"{ROLLOUT}.checkpoint_engine.backend", "naive", "weights stay on the hardware")


@section
def _critic(plan: Plan, facts: Facts) -> None:
    spec, put = plan.spec, facts.derive
    if not isinstance(spec.algorithm, Ppo):
        return
    critic = spec.algorithm.critic
    _model(plan, facts, f"{CRITIC}.model")
    put(f"{CRITIC}.strategy", lambda: spec.trainer.type)
    put(f"{CRITIC}.optim.lr", lambda: critic.learning_rate)
    put_optimizer(plan, facts, f"{CRITIC}.optim")
    _sharded(plan, facts, CRITIC)
    put(f"{CRITIC}.ppo_mini_batch_size", lambda: spec.schedule.mini_batch_size)
    put(f"{CRITIC}.ppo_micro_batch_size_per_gpu", lambda: spec.trainer.micro_batch_size)
    put(f"{CRITIC}.ppo_epochs", lambda: spec.algorithm.epochs)
    put(f"{CRITIC}.cliprange_value", lambda: critic.clip_range)
    put(f"{CRITIC}.data_loader_seed", lambda: spec.seed)
    _packing(plan, facts, CRITIC)
    put_engine(plan, facts, CRITIC)


def _process(plan: Plan, facts: Facts) -> None:
    """Ray, TransferQueue and Hydra themselves."""
    spec, init = plan.spec, "ray_kwargs.ray_init"
    facts.decide("reward.num_workers", 0, "rewards come with the trajectories: no process for them")
    facts.derive(
        "transfer_queue.backend.SimpleStorage.num_data_storage_units",
        lambda: 1 if spec.trainer.device == "cpu" else 2 * spec.trainer.nodes,
        why="a process that holds batches in memory; few are enough on one machine",
    )
    facts.derive(
        f"{init}.num_cpus",
        lambda: (
            RAY_CPUS
            + (0 if spec.trainer.device == "cpu" else CPUS_PER_GPU * plan.placed_ranks)
            + _workers_cpus(spec.rollout.agent_loop)
        ),
        why="actors of verl reserve CPUs that they do not use",
    )
    with facts.section():
        if spec.trainer.device == "cpu":
            why = "verl places ranks on GPUs; here they are tokens"
            facts.derive(f"{init}.num_gpus", lambda: plan.placed_ranks, why=why)
            facts.decide(f"{init}.object_store_memory", 300_000_000, "batches of a small policy")
    facts.derive(f"{init}.include_dashboard", lambda: spec.observability.dashboard is not None)
    with facts.section():
        if dashboard := spec.observability.dashboard:
            facts.derive(f"{init}.dashboard_host", lambda: dashboard.host)
            facts.derive(f"{init}.dashboard_port", lambda: dashboard.port)
    facts.decide(
        f"{init}._temp_dir",
        "${oc.env:LIVERL_RAY_DIR}",
        "a short path: the name of a Unix socket must fit in 107 characters",
    )
    facts.decide("hydra.run.dir", f"{RUN_DIR}/logs/hydra", "nothing is written into the working directory")
    facts.decide("hydra.output_subdir", None, "the bundle already holds the configuration")
    facts.decide("hydra.job.chdir", False, "the working directory stays the run directory")
