"""``SUMMARY.md``: one page for the person who reviews a compiled experiment."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from compiler.errors import Problem
from compiler.facts import Facts, section
from compiler.memory import GPU_GIB, PolicyMemory, Size
from compiler.plan import Plan
from compiler.spec.mode import SeparateAsync
from compiler.spec.rollout import VllmRollout
from compiler.spec.trainer import Trainer
from runtime.config.policy import DemonstrationFile, Demonstrations, EarlierTrials, NewPolicy
from runtime.config.scaffold import ImportedScaffold, ShellScaffold
from runtime.config.tasks import (
    DirectorySource,
    GenerateSource,
    HarborSource,
    HistorySource,
    IndexSource,
    PublishedSource,
    Source,
    SynthSource,
    TaskSet,
    TerminalBenchSource,
)


@dataclass(frozen=True)
class Page:
    """``tables``: their rows by name; a value is the second cell, or both where the first says more than the name."""

    text: str
    tables: tuple[Facts, ...]


def summary(plan: Plan, *, title: str, warnings: Iterable[Problem]) -> Page:
    tables = run, numbers, memory = Facts(plan.reads), Facts(plan.reads), Facts(plan.reads)
    _run(plan, run)
    _arithmetic(plan, numbers)
    _memory(plan, memory)
    parts = [f"# {title}", _table(run), "## Arithmetic", _table(numbers)]
    if plan.policy_memory is not None:
        parts += [
            "## Memory of the policy",
            _table(memory),
            "Activations are an estimate for full-length sequences"
            + (", recomputed layer by layer." if plan.spec.trainer.gradient_checkpointing else ", all kept."),
        ]
    found = [f"- {problem.text}" for problem in warnings]
    parts += ["## Warnings", "\n".join(found) if found else "None."]
    return Page("\n\n".join(parts) + "\n", tables)


def _table(facts: Facts) -> str:
    cells = [(name, fact.value) for name, fact in facts.items()]
    return table([(value[0], value[1]) if isinstance(value, list) else (name, str(value)) for name, value in cells])


def row_name(cell: str) -> str:
    """The first cell of a row without its formula: ``weights (4 bytes each)`` -> ``weights``."""
    name = cell.partition(" (")[0]
    return "activations" if name.startswith("activations of") else name


def _run(plan: Plan, facts: Facts) -> None:
    """What will run."""
    spec, put = plan.spec, facts.derive
    trainer, rollout, environment = spec.trainer, spec.rollout, spec.environment
    put("policy", lambda: _policy(plan))
    put(
        "algorithm",
        lambda: (
            f"{spec.algorithm.type}, groups of {spec.algorithm.group_size}, clip "
            f"{spec.algorithm.clip.low:g}/{spec.algorithm.clip.high:g}, KL {spec.algorithm.kl.type}"
        ),
    )
    put("mode", lambda: spec.mode.type)
    put(
        "trainer",
        lambda: (
            f"{trainer.type} on {trainer.device}, {plan.trainer_ranks} rank(s), {trainer.precision}, "
            f"learning rate {trainer.optimizer.learning_rate:g} ({trainer.optimizer.schedule})"
        ),
    )
    put(
        "rollout",
        lambda: (
            f"{rollout.type}, {rollout.replicas} replica(s) x {rollout.slots} slots, "
            f"temperature {rollout.temperature:g}, {rollout.concurrency} trials in flight"
        ),
    )
    put("scaffold", lambda: _scaffold(plan))
    put(
        "environment",
        lambda: (
            f"{environment.type}, {environment.memory_mib} MiB, agent "
            f"{environment.agent_timeout_sec:g} s, verifier {environment.verifier_timeout_sec:g} s"
        ),
    )
    put("training tasks", lambda: "; ".join(f"{one.name}: {_source(one.source)}" for one in spec.tasks.train))
    with facts.section():
        if (chosen := spec.tasks.curriculum) is not None:
            put(
                "curriculum",
                lambda: (
                    f"tasks with a pass rate of {chosen.band.least:g} to {chosen.band.most:g} first, the others at "
                    f"least {chosen.floor:.0%} of a set's prompts, from step {chosen.warmup_steps + 1} on"
                ),
            )
    put("validation tasks", lambda: "; ".join(_validated(plan, one) for one in spec.tasks.validation) or "none")
    put("seed", lambda: str(spec.seed))


def _arithmetic(plan: Plan, facts: Facts) -> None:
    """Batches and tokens, with the formula of each."""
    spec, put = plan.spec, facts.derive
    schedule, algorithm, rollout = spec.schedule, spec.algorithm, spec.rollout
    put(
        "steps",
        lambda: (
            f"{schedule.steps:,}; validation every {schedule.validate_every or '-'}, "
            f"checkpoint {f'every {schedule.save_every}' if schedule.save_every else 'after the last'}"
        ),
    )
    put(
        "trajectories per step",
        lambda: f"{schedule.train_batch_size} prompts x {algorithm.group_size} = {plan.trajectories_per_step:,}",
    )
    put(
        "optimizer steps per step",
        lambda: (
            f"{schedule.train_batch_size} / {schedule.mini_batch_size} x "
            f"{algorithm.epochs} epoch(s) = {plan.optimizer_steps_per_step}"
        ),
    )
    put(
        "micro-batches per rank and optimizer step",
        lambda: (
            f"{schedule.mini_batch_size} x {algorithm.group_size} / ({plan.data_parallel} x "
            f"{spec.trainer.micro_batch_size}) = {plan.micro_batches_per_rank}"
        ),
    )
    put(
        "longest sequence",
        lambda: f"{rollout.prompt_length} + {rollout.response_length} = {plan.sequence_length:,} tokens",
    )
    put(
        "most tokens per step",
        lambda: f"{plan.trajectories_per_step} x {plan.sequence_length} = {plan.max_tokens_per_step:,}",
    )
    put("trajectories in all", lambda: f"{plan.trajectories_per_step} x {schedule.steps} = {plan.trajectories_total:,}")
    put(
        "models in memory",
        lambda: "policy" + (", critic" if plan.needs_critic else "") + (", reference" if plan.needs_reference else ""),
    )
    put(
        "weight syncs",
        lambda: (
            f"every {spec.mode.sync_every} optimizer step(s)"
            if isinstance(spec.mode, SeparateAsync)
            else "after every step"
        ),
    )


@section
def _memory(plan: Plan, facts: Facts) -> None:
    memory, put, trainer = plan.policy_memory, facts.derive, plan.spec.trainer
    if memory is None:
        return
    put("parameters", lambda: f"{memory.parameters:,}")
    put("weights", lambda: _part(plan, "weights", memory.weights, "4 bytes each"))
    put("gradients", lambda: _part(plan, "gradients", memory.gradients, "4 bytes each"))
    put("AdamW state", lambda: _part(plan, "AdamW state", memory.optimizer, "8 bytes each"))
    put("activations", lambda: _part(plan, _activations(trainer), memory.activations))
    cache = "KV cache of one replica"
    put(cache, lambda: _part(plan, cache, memory.kv_cache_per_replica, f"{plan.spec.rollout.slots} slots"))
    with facts.section():
        if trainer.device == "cuda":
            rollout = "rollout weights per GPU"
            put(rollout, lambda: _part(plan, rollout, memory.rollout_weights))
            with facts.section():
                if plan.needs_critic:
                    put("critic", lambda: _part(plan, "critic", memory.critic))
            with facts.section():
                if plan.needs_reference:
                    put("reference", lambda: _part(plan, "reference", memory.reference))
            _against_gpu(plan, facts, memory)


def _part(plan: Plan, name: str, size: Size, simple: str = "") -> list[str]:
    """``simple``: what its formula comes to on a CPU. There one rank shares nothing, and the formula says no more."""
    formula = size.formula if plan.spec.trainer.device == "cuda" else simple
    return [name + (f" ({formula})" if formula else ""), amount(size)]


def _activations(trainer: Trainer) -> str:
    packed = trainer.max_tokens_per_rank
    return f"activations of {packed:,} tokens" if packed else f"activations of {trainer.micro_batch_size} sequences"


@section
def _against_gpu(plan: Plan, facts: Facts, memory: PolicyMemory) -> None:
    """What fits where, where the kind of GPU is known."""
    gpu, rollout = plan.spec.trainer.gpu, plan.spec.rollout
    if gpu is None:
        return
    name, limit = "training, per GPU", GPU_GIB[gpu]
    facts.derive(
        name,
        lambda: [
            f"{name} (weights + gradients + AdamW state + activations"
            + (" + critic and reference that stay)" if memory.resident_beside else ")"),
            f"{amount(memory.trainer_total + memory.resident_beside)} of {limit} GiB ({gpu})",
        ],
    )
    if isinstance(rollout, VllmRollout):
        facts.derive("sequences of full length that a replica holds", lambda: _held(memory, rollout, limit))


def _held(memory: PolicyMemory, rollout: VllmRollout, limit: int) -> list[str]:
    share = int(rollout.gpu_memory_utilization * limit * (1 << 30))
    fit = max(0, share - memory.rollout_weights) // memory.kv_cache_per_sequence
    return [
        f"sequences of full length that a replica holds (({rollout.gpu_memory_utilization:g} x {limit} "
        f"GiB - weights) / {amount(memory.kv_cache_per_sequence)})",
        f"{fit:,} of {rollout.slots} slots" if fit < rollout.slots else f"all {rollout.slots} slots",
    ]


def _validated(plan: Plan, one: TaskSet) -> str:
    temperature = plan.spec.rollout.temperature if one.temperature is None else one.temperature
    return f"{one.name}: {_source(one.source)}, temperature {temperature:g}"


def _policy(plan: Plan) -> str:
    policy = plan.spec.policy
    if isinstance(policy, NewPolicy):
        shape = policy.architecture
        count = f"{plan.policy_memory.parameters:,} parameters" if plan.policy_memory else ""
        return (
            f"new: {count}, {shape.num_layers} layers x {shape.hidden_size}, vocabulary {shape.vocabulary_size:,}; "
            f"warm start {policy.warm_start.steps} steps on {_source(policy.warm_start.demonstrations)}"
        )
    stage = plan.supervised
    if stage is None:
        return f"pretrained: {policy.path}"
    length = f"{stage.epochs} epochs" if stage.steps is None else f"{stage.steps} steps"
    return (
        f"pretrained: {policy.path}; supervised {length} of {stage.tokens_per_batch:,} tokens a step on "
        + ", ".join(_demonstrations(one) for one in stage.demonstrations)
    )


def _demonstrations(one: Demonstrations) -> str:
    if isinstance(one, DemonstrationFile):
        return one.path
    if isinstance(one, EarlierTrials):
        return f"solved trials of {one.run}"
    shown = [] if one.tasks is None else [f"{one.trials_per_task} trial(s) of each of {_source(one.tasks)}"]
    if one.pairs is not None:
        shown.append(f"{one.pairs.tokens:,} tokens of bug-repair pairs")
    return " and ".join(shown)


def _scaffold(plan: Plan) -> str:
    scaffold = plan.spec.scaffold
    if isinstance(scaffold, ShellScaffold):
        return f"shell ({scaffold.tools} tools), {scaffold.max_turns} turns, {scaffold.max_edits} edits"
    if isinstance(scaffold, ImportedScaffold):
        return scaffold.type
    return f"{scaffold.type} {scaffold.version}, {scaffold.max_turns} turns"


def _source(source: Source) -> str:
    if isinstance(source, SynthSource):
        often = "".join(f", {family} x {times:g}" for family, times in source.families.items())
        return f"{source.count:,} generated repositories ({source.split}, seed {source.seed}{often})"
    if isinstance(source, GenerateSource):
        names = ", ".join(f"{package.name} {package.version}" for package in source.packages)
        several = f"{source.bugs} bugs at a time" if source.bugs > 1 else "bugs"
        split = source.split or "all functions"
        return f"{several} injected into {names} ({split}, at most {source.per_package} each)"
    if isinstance(source, HistorySource):
        after = f" after {source.after}" if source.after is not None else ""
        return f"at most {source.count} commits of {source.repository}{after} up to {source.revision}"
    if isinstance(source, HarborSource):
        return f"Harbor dataset {source.dataset} {source.version} of {source.registry}"
    if isinstance(source, PublishedSource):
        where = source.rows or source.dataset or "the hub"
        what = f"{source.type} of {where}" + (f" at {source.revision}" if source.revision else "")
        chosen = ", ".join((*source.instances, *source.repositories))
        limit = f", at most {source.limit}" if source.limit is not None else ""
        return what + (f": {chosen}" if chosen else "") + limit
    if isinstance(source, TerminalBenchSource):
        limit = f", at most {source.limit}" if source.limit is not None else ""
        return f"{source.type} tasks of {source.path}{limit}"
    if isinstance(source, IndexSource):
        band = source.pass_rate
        return source.path + (f", pass rate {band.least:g} to {band.most:g}" if band is not None else "")
    assert isinstance(source, DirectorySource)
    return ", ".join(source.paths)


def amount(size: int) -> str:
    return f"{size / (1 << 30):,.1f} GiB" if size >= 10 << 30 else f"{size / (1 << 20):,.1f} MiB"


def table(lines: list[tuple[str, str]]) -> str:
    escaped = [(left, right.replace("|", "\\|").replace("\n", " ")) for left, right in lines]
    return "\n".join(["| | |", "|---|---|", *(f"| {left} | {right} |" for left, right in escaped)])
