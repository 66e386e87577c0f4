"""``SUMMARY.md``: one page for the person who reviews a compiled experiment."""

from __future__ import annotations

from collections.abc import Iterable

from compiler.errors import Problem
from compiler.memory import GPU_GIB, PolicyMemory
from compiler.plan import Plan
from compiler.spec.mode import SeparateAsync
from compiler.spec.rollout import VllmRollout
from runtime.config.policy import NewPolicy
from runtime.config.scaffold import ImportedScaffold, ShellScaffold
from runtime.config.tasks import (
    DirectorySource,
    GenerateSource,
    HarborSource,
    HistorySource,
    IndexSource,
    Source,
    SynthSource,
)


def summary(plan: Plan, *, target: str, warnings: Iterable[Problem]) -> str:
    return page(plan, title=f"{plan.spec.name} on {target}", warnings=warnings)


def page(plan: Plan, *, title: str, warnings: Iterable[Problem]) -> str:
    parts = [f"# {title}", table(rows(plan)), "## Arithmetic", table(arithmetic(plan))]
    memory = memory_rows(plan)
    if memory:
        parts += [
            "## Memory of the policy",
            table(memory),
            "Activations are an estimate for full-length sequences"
            + (", recomputed layer by layer." if plan.spec.trainer.gradient_checkpointing else ", all kept."),
        ]
    found = [f"- {problem.text}" for problem in warnings]
    parts += ["## Warnings", "\n".join(found) if found else "None."]
    return "\n\n".join(parts) + "\n"


def origins(plan: Plan) -> dict[str, tuple[str, ...]]:
    """What each row of the page's tables is called -> the spec fields that it follows from."""
    model = ("policy", "trainer")
    found: dict[str, tuple[str, ...]] = {
        "policy": ("policy",),
        "algorithm": ("algorithm",),
        "mode": ("mode",),
        "trainer": ("trainer",),
        "rollout": ("rollout",),
        "scaffold": ("scaffold",),
        "environment": ("environment",),
        "training tasks": ("tasks.train",),
        "validation tasks": ("tasks.validation",),
        "seed": ("seed",),
        "steps": ("schedule.steps", "schedule.validate_every", "schedule.save_every"),
        "trajectories per step": ("schedule.train_batch_size", "algorithm.group_size"),
        "optimizer steps per step": ("schedule.train_batch_size", "schedule.mini_batch_size", "algorithm.epochs"),
        "micro-batches per rank and optimizer step": (
            "schedule.mini_batch_size",
            "algorithm.group_size",
            "trainer.micro_batch_size",
            "trainer.ranks_per_node",
        ),
        "longest sequence": ("rollout.prompt_length", "rollout.response_length"),
        "most tokens per step": ("schedule.train_batch_size", "algorithm.group_size", "rollout.response_length"),
        "trajectories in all": ("schedule.steps", "schedule.train_batch_size", "algorithm.group_size"),
        "models in memory": ("algorithm",),
        "weight syncs": ("mode",),
    }
    if plan.policy_memory is not None:
        memory = {"activations": (*model, "rollout.response_length"), "KV cache of one replica": ("policy", "rollout")}
        memory |= {"sequences of full length that a replica holds": ("policy", "rollout", "trainer.gpu")}
        found |= {label: memory.get(label, model) for label, _ in map(_named, memory_rows(plan))}
    return found


def _named(row: tuple[str, str]) -> tuple[str, str]:
    """A row by its name alone, without the formula behind it."""
    return row_name(row[0]), row[1]


def row_name(cell: str) -> str:
    """The first cell of a row without its formula: ``weights (4 bytes each)`` -> ``weights``."""
    name = cell.partition(" (")[0]
    return "activations" if name.startswith("activations of") else name


def rows(plan: Plan) -> list[tuple[str, str]]:
    """What will run."""
    spec = plan.spec
    trainer, rollout = spec.trainer, spec.rollout
    return [
        ("policy", _policy(plan)),
        (
            "algorithm",
            f"{spec.algorithm.type}, groups of {spec.algorithm.group_size}, clip "
            f"{spec.algorithm.clip.low:g}/{spec.algorithm.clip.high:g}, KL {spec.algorithm.kl.type}",
        ),
        ("mode", spec.mode.type),
        (
            "trainer",
            f"{trainer.type} on {trainer.device}, {plan.trainer_ranks} rank(s), {trainer.precision}, "
            f"learning rate {trainer.optimizer.learning_rate:g} ({trainer.optimizer.schedule})",
        ),
        (
            "rollout",
            f"{rollout.type}, {rollout.replicas} replica(s) x {rollout.slots} slots, "
            f"temperature {rollout.temperature:g}, {rollout.concurrency} trials in flight",
        ),
        (
            "scaffold",
            _scaffold(plan),
        ),
        (
            "environment",
            f"{spec.environment.type}, {spec.environment.memory_mib} MiB, agent "
            f"{spec.environment.agent_timeout_sec:g} s, verifier {spec.environment.verifier_timeout_sec:g} s",
        ),
        ("training tasks", "; ".join(f"{one.name}: {_source(one.source)}" for one in spec.tasks.train)),
        (
            "validation tasks",
            "; ".join(
                f"{one.name}: {_source(one.source)}, temperature "
                f"{rollout.temperature if one.temperature is None else one.temperature:g}"
                for one in spec.tasks.validation
            )
            or "none",
        ),
        ("seed", str(spec.seed)),
    ]


def arithmetic(plan: Plan) -> list[tuple[str, str]]:
    """Batches and tokens, with the formula of each."""
    spec = plan.spec
    schedule, size = spec.schedule, spec.algorithm.group_size
    return [
        (
            "steps",
            f"{schedule.steps:,}; validation every {schedule.validate_every or '-'}, "
            f"checkpoint every {schedule.save_every or '-'}",
        ),
        ("trajectories per step", f"{schedule.train_batch_size} prompts x {size} = {plan.trajectories_per_step:,}"),
        (
            "optimizer steps per step",
            f"{schedule.train_batch_size} / {schedule.mini_batch_size} x "
            f"{spec.algorithm.epochs} epoch(s) = {plan.optimizer_steps_per_step}",
        ),
        (
            "micro-batches per rank and optimizer step",
            f"{schedule.mini_batch_size} x {size} / ({plan.data_parallel} x "
            f"{spec.trainer.micro_batch_size}) = {plan.micro_batches_per_rank}",
        ),
        (
            "longest sequence",
            f"{spec.rollout.prompt_length} + {spec.rollout.response_length} = {plan.sequence_length:,} tokens",
        ),
        (
            "most tokens per step",
            f"{plan.trajectories_per_step} x {plan.sequence_length} = {plan.max_tokens_per_step:,}",
        ),
        ("trajectories in all", f"{plan.trajectories_per_step} x {schedule.steps} = {plan.trajectories_total:,}"),
        (
            "models in memory",
            "policy" + (", critic" if plan.needs_critic else "") + (", reference" if plan.needs_reference else ""),
        ),
        (
            "weight syncs",
            f"every {spec.mode.sync_every} optimizer step(s)"
            if isinstance(spec.mode, SeparateAsync)
            else "after every step",
        ),
    ]


def memory_rows(plan: Plan) -> list[tuple[str, str]]:
    memory = plan.policy_memory
    if memory is None:
        return []
    cuda = plan.spec.trainer.device == "cuda"
    # On one CPU rank nothing is shared, and the formula says no more than the bytes per parameter.
    how = memory.formulas if cuda else {"weights": "4 bytes each", "gradients": "4 bytes each"}
    found = [
        ("parameters", f"{memory.parameters:,}"),
        (f"weights ({how['weights']})", amount(memory.weights)),
        (f"gradients ({how['gradients']})", amount(memory.gradients)),
        (f"AdamW state ({how.get('optimizer', '8 bytes each')})", amount(memory.optimizer)),
        (_activations(plan), amount(memory.activations)),
        (f"KV cache of one replica ({plan.spec.rollout.slots} slots)", amount(memory.kv_cache_per_replica)),
    ]
    if cuda:
        found[4] = (f"{found[4][0]} ({how['activations']})", found[4][1])
        found[5] = (f"KV cache of one replica ({how['kv_cache']})", found[5][1])
        found.append((f"rollout weights per GPU ({how['rollout weights']})", amount(memory.rollout_weights)))
        if plan.needs_critic:
            found.append((f"critic ({how['critic']})", amount(memory.critic)))
        if plan.needs_reference:
            found.append((f"reference ({how['reference']})", amount(memory.reference)))
        found += _against_gpu(plan, memory)
    return found


def _against_gpu(plan: Plan, memory: PolicyMemory) -> list[tuple[str, str]]:
    """What fits where, where the kind of GPU is known."""
    gpu, rollout = plan.spec.trainer.gpu, plan.spec.rollout
    if gpu is None:
        return []
    beside = memory.resident_beside(plan.spec)
    whole, others = memory.trainer_total + beside, " + critic and reference that stay" if beside else ""
    rows = [
        (
            f"training, per GPU (weights + gradients + AdamW state + activations{others})",
            f"{amount(whole)} of {GPU_GIB[gpu]} GiB ({gpu})",
        )
    ]
    if isinstance(rollout, VllmRollout):
        share = int(rollout.gpu_memory_utilization * GPU_GIB[gpu] * (1 << 30))
        fit = max(0, share - memory.rollout_weights) // memory.kv_cache_per_sequence
        rows.append(
            (
                f"sequences of full length that a replica holds (({rollout.gpu_memory_utilization:g} x {GPU_GIB[gpu]} "
                f"GiB - weights) / {amount(memory.kv_cache_per_sequence)})",
                f"{fit:,} of {rollout.slots} slots" if fit < rollout.slots else f"all {rollout.slots} slots",
            )
        )
    return rows


def _activations(plan: Plan) -> str:
    packed = plan.spec.trainer.max_tokens_per_rank
    return (
        f"activations of {packed:,} tokens"
        if packed
        else (f"activations of {plan.spec.trainer.micro_batch_size} sequences")
    )


def _policy(plan: Plan) -> str:
    policy = plan.spec.policy
    if isinstance(policy, NewPolicy):
        shape = policy.architecture
        count = f"{plan.policy_memory.parameters:,} parameters" if plan.policy_memory else ""
        return (
            f"new: {count}, {shape.num_layers} layers x {shape.hidden_size}, vocabulary {shape.vocabulary_size:,}; "
            f"warm start {policy.warm_start.steps} steps on {_source(policy.warm_start.demonstrations)}"
        )
    return f"pretrained: {policy.path}"


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
        return f"{several} injected into {names} ({source.split}, at most {source.per_package} each)"
    if isinstance(source, HistorySource):
        after = f" after {source.after}" if source.after is not None else ""
        return f"at most {source.count} commits of {source.repository}{after} up to {source.revision}"
    if isinstance(source, HarborSource):
        return f"Harbor dataset {source.dataset} {source.version} of {source.registry}"
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
