"""Rules across fields: what no single value shows. Every rule looks at the plan and yields problems; none changes
anything.

Fatal problems stop the compilation; warnings are printed and go on. Knows no target (targets bring their own checks).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import get_args

from compiler.check import environment, secrets, trainer
from compiler.check.trainer import divisors
from compiler.errors import Path, Problem
from compiler.models import facts_of
from compiler.plan import Plan
from compiler.spec.algorithm import Gspo, Ppo, ReinforcePlusPlus, Remax
from compiler.spec.environment import Ecs, Harbor, Kubernetes
from compiler.spec.mode import SeparateAsync, Sync
from compiler.spec.policy import NewPolicy
from compiler.spec.rollout import TorchRollout, VllmRollout
from compiler.spec.scaffold import ImportedScaffold, ShellScaffold
from compiler.spec.tasks import (
    BugFamily,
    GenerateSource,
    HarborSource,
    HistorySource,
    IndexSource,
    Source,
    SynthSource,
    Tasks,
    TaskSet,
)
from compiler.spec.trainer import Fsdp, Megatron, Trainer

MIN_PROMPT_TOKENS = {
    "claude-code": 16_000,
    "opencode": 8_000,
    "openhands-sdk": 7_500,
    "terminus-2": 1_200,
    "mini-swe-agent": 1_000,
}
"""About what an agent's instructions and tools take before the task is even named, at four characters per token of the
recorded requests."""

Rule = Callable[[Plan], Iterator[Problem]]


def check(plan: Plan) -> list[Problem]:
    """Every problem of every rule."""
    return [problem for rule in rules() for problem in rule(plan)]


def rules() -> tuple[Rule, ...]:
    """Everything that is held against a plan whatever its target."""
    return (*RULES, *trainer.RULES, *environment.RULES, *secrets.RULES)


def batches(plan: Plan) -> Iterator[Problem]:
    schedule, ranks = plan.spec.schedule, plan.data_parallel
    size, mini = schedule.train_batch_size, schedule.mini_batch_size
    if mini > size:
        yield Problem(("schedule", "mini_batch_size"), f"{mini} is more than train_batch_size {size}", f"1 to {size}")
        return
    if size % mini:
        yield Problem(
            ("schedule", "mini_batch_size"), f"{mini} does not divide train_batch_size {size}", divisors(size)
        )
        return
    if plan.trainer_ranks % plan.model_parallel:
        return  # how many ranks train on their own is unknown until the parallel sizes fit
    if plan.trajectories_per_step % ranks:
        yield Problem(
            ("schedule", "train_batch_size"),
            f"{size} prompts x {plan.spec.algorithm.group_size} trajectories = "
            f"{plan.trajectories_per_step}, not divisible by {ranks} data-parallel trainer ranks",
            fix="change train_batch_size, algorithm.group_size or trainer.ranks_per_node",
        )
    update, micro = mini * plan.spec.algorithm.group_size, plan.spec.trainer.micro_batch_size
    per_rank, left = divmod(update, ranks)
    if left:  # verl asserts it at the first update
        yield Problem(
            ("schedule", "mini_batch_size"),
            f"{mini} prompts x {plan.spec.algorithm.group_size} trajectories = {update}, not divisible by {ranks} "
            "data-parallel trainer ranks",
            fix="change mini_batch_size, algorithm.group_size or trainer.ranks_per_node",
        )
        return
    yield from _unpacked(plan)
    if per_rank and micro > per_rank and plan.spec.trainer.max_tokens_per_rank is None:
        yield Problem(
            ("trainer", "micro_batch_size"),
            f"{micro} is more than the {per_rank} sequences that a rank has per optimizer step",
            f"1 to {per_rank}",
        )
    elif per_rank % micro and plan.spec.trainer.max_tokens_per_rank is None:
        yield Problem(
            ("trainer", "micro_batch_size"),
            f"{micro} does not divide the {per_rank} sequences of a rank per optimizer step",
            divisors(per_rank),
        )


def _unpacked(plan: Plan) -> Iterator[Problem]:
    """verl's own rule for batches that are counted in sequences: by all ranks, whatever they share."""
    trainer, size = plan.spec.trainer, plan.spec.schedule.train_batch_size
    least = plan.data_parallel * trainer.micro_batch_size if isinstance(trainer, Megatron) else plan.trainer_ranks
    if trainer.max_tokens_per_rank is None and plan.trajectories_per_step % least:
        what = "data-parallel ranks x micro_batch_size" if isinstance(trainer, Megatron) else "trainer ranks"
        yield Problem(
            ("schedule", "train_batch_size"),
            f"{size} prompts x {plan.spec.algorithm.group_size} trajectories = {plan.trajectories_per_step}, not "
            f"divisible by {least} {what}",
            fix="change train_batch_size or algorithm.group_size, or pack sequences (trainer.max_tokens_per_rank)",
        )


def course(plan: Plan) -> Iterator[Problem]:
    """The learning rate's rise against the length of the training."""
    warmup = plan.spec.trainer.optimizer.warmup_steps
    steps = plan.optimizer_steps_per_step * plan.spec.schedule.steps
    if warmup >= steps:
        yield Problem(
            ("trainer", "optimizer", "warmup_steps"),
            f"{warmup}, but there are {steps} optimizer steps: the learning rate is never reached",
            f"< {steps}",
            severity="warn",
        )


def groups(plan: Plan) -> Iterator[Problem]:
    algorithm = plan.spec.algorithm
    if not isinstance(algorithm, Ppo | ReinforcePlusPlus | Remax) and algorithm.group_size < 2:
        yield Problem(
            ("algorithm", "group_size"),
            f"{algorithm.group_size}: {algorithm.type} compares trajectories "
            "of one prompt, so their advantage would always be 0",
            ">= 2",
            "raise group_size, or use ppo or remax",
        )
    if isinstance(algorithm, Gspo) and algorithm.clip.high > 0.05:
        yield Problem(
            ("algorithm", "clip", "high"),
            f"{algorithm.clip.high} is a range for single tokens; "
            "GSPO's ratio of whole sequences hardly ever leaves it",
            "about 0.0004",
            "use liverl.algorithm.gspo's clip",
            severity="warn",
        )
    if algorithm.clip.dual <= 1 + algorithm.clip.high:
        yield Problem(
            ("algorithm", "clip", "dual"),
            f"{algorithm.clip.dual} lies within the clip range",
            f"> {1 + algorithm.clip.high}",
        )


def lengths(plan: Plan) -> Iterator[Problem]:
    rollout, policy = plan.spec.rollout, plan.spec.policy
    facts = facts_of(policy)
    given = None if isinstance(policy, NewPolicy) else policy.max_position
    limit = given or (facts.max_position if facts is not None else None)
    if limit is not None and plan.sequence_length > limit:
        where = "policy.max_position" if given else "the model's longest sequence"
        if isinstance(policy, NewPolicy):
            where = "policy.architecture.max_position"
        yield Problem(
            ("rollout", "response_length"),
            f"prompt_length {rollout.prompt_length} + response_length "
            f"{rollout.response_length} = {plan.sequence_length} exceeds {where} {limit}",
            f"<= {limit - rollout.prompt_length}" if limit > rollout.prompt_length else "",
            f"shorten the lengths or raise {where}",
        )
    if rollout.max_tokens_per_turn > rollout.response_length:
        yield Problem(
            ("rollout", "max_tokens_per_turn"),
            f"{rollout.max_tokens_per_turn} is more than response_length {rollout.response_length}",
            f"1 to {rollout.response_length}",
        )


def architecture(plan: Plan) -> Iterator[Problem]:
    policy = plan.spec.policy
    if not isinstance(policy, NewPolicy):
        return
    shape, place = policy.architecture, ("policy", "architecture")
    if shape.hidden_size % shape.num_heads:
        yield Problem(
            (*place, "num_heads"),
            f"{shape.num_heads} does not divide hidden_size {shape.hidden_size}",
            divisors(shape.hidden_size),
        )
    elif shape.hidden_size // shape.num_heads % 2:
        yield Problem(
            (*place, "num_heads"),
            f"heads of width {shape.hidden_size // shape.num_heads}: rotary positions need an even width",
            fix="change num_heads or hidden_size",
        )
    if shape.num_heads % shape.num_key_value_heads:
        yield Problem(
            (*place, "num_key_value_heads"),
            f"{shape.num_key_value_heads} does not divide num_heads {shape.num_heads}",
            divisors(shape.num_heads),
        )


def engines(plan: Plan) -> Iterator[Problem]:
    trainer, rollout, mode = plan.spec.trainer, plan.spec.rollout, plan.spec.mode
    cpu = trainer.device == "cpu"
    if cpu and trainer.type != "fsdp2":
        yield Problem(("trainer", "type"), f'"{trainer.type}" does not run on a CPU', "fsdp2")
    if cpu and isinstance(trainer, Fsdp) and trainer.attention == "flash_attention_2":
        yield Problem(("trainer", "attention"), '"flash_attention_2" needs a GPU', "sdpa, eager")
    if cpu and trainer.precision != "fp32":
        yield Problem(("trainer", "precision"), f'"{trainer.precision}" is slow and inexact on a CPU', "fp32")
    if cpu:
        yield from _unread_on_cpu(trainer)
    if isinstance(rollout, VllmRollout):
        if cpu:
            yield Problem(
                ("rollout", "type"),
                '"vllm" needs trainer.device cuda',
                "torch",
                "use liverl.rollout.torch, or liverl.trainer.fsdp2",
            )
        ranks = plan.trainer_ranks
        if not isinstance(mode, SeparateAsync) and rollout.replicas * rollout.tensor_parallel_size != ranks:
            yield Problem(
                ("rollout", "replicas"),
                f"{rollout.replicas} replicas x tensor_parallel_size {rollout.tensor_parallel_size} "
                f"must equal the {ranks} GPUs shared with the trainer",
                str(ranks // rollout.tensor_parallel_size) if ranks % rollout.tensor_parallel_size == 0 else "",
                "change replicas, tensor_parallel_size or the trainer's ranks",
            )
        facts = facts_of(plan.spec.policy)
        heads = facts.num_key_value_heads if facts is not None else None
        # vLLM repeats key-value heads on GPUs that are a multiple of them.
        if heads is not None and heads % rollout.tensor_parallel_size and rollout.tensor_parallel_size % heads:
            yield Problem(
                ("rollout", "tensor_parallel_size"),
                f"{rollout.tensor_parallel_size} does not divide num_key_value_heads {heads}",
                divisors(heads),
            )
        elif facts is not None and facts.num_heads % rollout.tensor_parallel_size:
            yield Problem(
                ("rollout", "tensor_parallel_size"),
                f"{rollout.tensor_parallel_size} does not divide the model's {facts.num_heads} attention heads",
                divisors(facts.num_heads),
            )
        here = trainer.ranks_per_node
        if not isinstance(mode, SeparateAsync) and rollout.tensor_parallel_size > here:
            yield Problem(
                ("rollout", "tensor_parallel_size"),
                f"{rollout.tensor_parallel_size} GPUs of a replica span machines of {here}, over slow links",
                f"1 to {here}",
                severity="warn",
            )
    elif not cpu:
        yield Problem(
            ("rollout", "type"),
            '"torch" runs small policies on a CPU, next to a CPU trainer',
            "vllm",
            "use liverl.rollout.vllm",
        )


def _unread_on_cpu(trainer: Trainer) -> Iterator[Problem]:
    """What nobody reads where there is no GPU."""
    for field in ("parameters", "optimizer"):
        if getattr(trainer.offload, field):
            yield Problem(("trainer", "offload", field), "true on a CPU, whose memory is the host's", "false")
    if isinstance(trainer, Fsdp) and trainer.shard_size is not None:
        yield Problem(("trainer", "shard_size"), f"{trainer.shard_size} on a CPU: it is for GPUs", "null")


def modes(plan: Plan) -> Iterator[Problem]:
    mode, schedule = plan.spec.mode, plan.spec.schedule
    if isinstance(plan.spec.algorithm, Remax) and not isinstance(mode, Sync):
        yield Problem(
            ("mode", "type"),
            f'"{mode.type}" with remax, whose greedy baseline must come from the weights of its siblings',
            "sync",
        )
    if isinstance(mode, SeparateAsync) and schedule.train_batch_size != mode.sync_every * schedule.mini_batch_size:
        yield Problem(
            ("mode", "sync_every"),
            f"{mode.sync_every} x mini_batch_size {schedule.mini_batch_size} "
            f"must equal train_batch_size {schedule.train_batch_size}",
            str(schedule.train_batch_size // schedule.mini_batch_size)
            if schedule.train_batch_size % schedule.mini_batch_size == 0
            else "",
            "change sync_every, mini_batch_size or train_batch_size",
        )


def imported(plan: Plan) -> Iterator[Problem]:
    rollout = plan.spec.rollout
    if isinstance(rollout, TorchRollout) and rollout.kwargs and rollout.import_path is None:
        yield Problem(("rollout", "kwargs"), "arguments for an engine that import_path does not name", "{}")


def turns(plan: Plan) -> Iterator[Problem]:
    spec = plan.spec
    if not isinstance(spec.scaffold, ShellScaffold):
        yield from agents(plan)
        return
    if spec.scaffold.max_edits > spec.scaffold.max_turns:
        yield Problem(
            ("scaffold", "max_edits"),
            f"{spec.scaffold.max_edits} edits do not fit into max_turns {spec.scaffold.max_turns}",
            f"1 to {spec.scaffold.max_turns}",
        )
    if spec.scaffold.tools == "repair" and spec.rollout.tool_parser == "hermes" and isinstance(spec.policy, NewPolicy):
        yield Problem(("rollout", "tool_parser"), '"hermes" with a new policy, which writes "compact" calls', "compact")
    elif isinstance(spec.policy, NewPolicy) and spec.rollout.tool_parser != "compact":
        yield Problem(
            ("rollout", "tool_parser"),
            f'"{spec.rollout.tool_parser}" with a new policy, whose chat template is compact',
            "compact",
        )


def agents(plan: Plan) -> Iterator[Problem]:
    """Published agents: what they run in, and whom they can be driven by."""
    spec = plan.spec
    if isinstance(spec.scaffold, ShellScaffold | ImportedScaffold):
        return
    agent = spec.scaffold.type
    if spec.environment.type == "process":
        yield Problem(
            ("environment", "type"),
            f'"process" with the scaffold {agent}, which runs any command without asking, on this machine',
            "bubblewrap",
            "use liverl.environment.bubblewrap",
        )
    if isinstance(spec.policy, NewPolicy):
        yield Problem(
            ("scaffold", "type"),
            f'"{agent}" with a new small policy, whose compact calls cannot carry its arguments',
            "shell",
            "use liverl.scaffold.repair, or a pretrained policy",
        )
    image, pods = spec.scaffold.runtime_image, isinstance(spec.environment, Kubernetes)
    if image is not None and not pods:
        yield Problem(
            ("scaffold", "runtime_image"),
            f'"{image}", but sandboxes of {spec.environment.type} are no pods: they see what the machine installed',
            "null",
        )
    elif image is not None:
        yield from environment.image_problems(image, ("scaffold", "runtime_image"))
    elif isinstance(spec.environment, Kubernetes | Ecs | Harbor):
        yield Problem(
            ("scaffold", "runtime_image") if pods else ("scaffold", "type"),
            f"{agent} is uploaded into every sandbox, hundreds of megabytes",
            fix="set scaffold.runtime_image" if pods else "use sandboxes of kubernetes with scaffold.runtime_image",
            severity="warn",
        )
    compact_tokens = getattr(spec.scaffold, "compact_tokens", None)
    context = spec.rollout.prompt_length + spec.rollout.response_length
    if compact_tokens is not None and compact_tokens >= context:
        yield Problem(
            ("scaffold", "compact_tokens"),
            f"{compact_tokens} tokens are never reached: prompt_length and response_length give {context}",
            f"< {context}",
            severity="warn",
        )
    least = MIN_PROMPT_TOKENS[agent]
    if spec.rollout.prompt_length < least:
        yield Problem(
            ("rollout", "prompt_length"),
            f"{spec.rollout.prompt_length} tokens are fewer than the first prompt of {agent} with its tools",
            f">= {least}",
            severity="warn",
        )


def concurrency(plan: Plan) -> Iterator[Problem]:
    rollout = plan.spec.rollout
    if rollout.concurrency > rollout.replicas * rollout.slots:
        yield Problem(
            ("rollout", "concurrency"),
            f"{rollout.concurrency} trials share {rollout.replicas} "
            f"x {rollout.slots} slots, so some wait for the engine",
            f"<= {rollout.replicas * rollout.slots}",
            severity="warn",
        )


def tasks(plan: Plan) -> Iterator[Problem]:
    spec = plan.spec
    names: dict[str, str] = {}
    for group, sets in (("train", spec.tasks.train), ("validation", spec.tasks.validation)):
        for index, task_set in enumerate(sets):
            place = ("tasks", group, index, "name")
            if task_set.knows("name"):
                if task_set.name in names:
                    yield Problem(
                        place,
                        f'"{task_set.name}" is already the name of {names[task_set.name]}',
                        fix="give every task set its own name",
                    )
                names[task_set.name] = f"tasks.{group}[{index}]"
            if task_set.knows("source"):
                yield from _split(task_set, group, index)
                yield from _source(task_set.source, ("tasks", group, index, "source"))
    yield from _later_commits(spec.tasks)
    for index, task_set in enumerate(spec.tasks.train):
        if task_set.temperature is not None:
            yield Problem(
                ("tasks", "train", index, "temperature"),
                "only validation sets have a temperature",
                fix="set rollout.temperature",
            )
    available = [_count(task_set.source) for task_set in spec.tasks.train]
    if None not in available and sum(filter(None, available)) < spec.schedule.train_batch_size:
        yield Problem(
            ("schedule", "train_batch_size"),
            f"{spec.schedule.train_batch_size} prompts per step, but the "
            f"training sets hold {sum(filter(None, available))} tasks",
            fix="lower train_batch_size or add tasks",
        )
    if spec.tasks.baselines and not spec.tasks.validation:
        yield Problem(
            ("tasks", "baselines"),
            "true, but there are no validation tasks to score them on",
            "false",
            "add tasks.validation",
        )
    if spec.schedule.validate_every and not spec.tasks.validation:
        yield Problem(
            ("schedule", "validate_every"),
            f"{spec.schedule.validate_every}, but tasks.validation is empty",
            "0",
            severity="warn",
        )
    if isinstance(spec.policy, NewPolicy):
        source = spec.policy.warm_start.demonstrations
        yield from _source(source, ("policy", "warm_start", "demonstrations"))
        split = ("policy", "warm_start", "demonstrations", "split")
        if isinstance(source, SynthSource | GenerateSource) and source.split != "demonstrations":
            yield Problem(
                split, f'"{source.split}" tasks as demonstrations would leak into reinforcement', "demonstrations"
            )


def _split(task_set: TaskSet, group: str, index: int) -> Iterator[Problem]:
    source = task_set.source
    if isinstance(source, IndexSource) and source.pass_rate is not None:
        band, where = source.pass_rate, ("tasks", group, index, "source", "pass_rate")
        if band.least > band.most:
            yield Problem((*where, "least"), f"{band.least:g} is above most {band.most:g}", f"0 to {band.most:g}")
        if group == "validation":
            yield Problem(
                where, "a validation set chosen by what earlier policies solved is biased", "null", severity="warn"
            )
    if not isinstance(source, SynthSource | GenerateSource):
        return
    place = ("tasks", group, index, "source", "split")
    if group == "train" and source.split != "train":
        yield Problem(place, f'"{source.split}" tasks must not be trained on', "train")
    if group == "validation" and source.split == "demonstrations":
        yield Problem(place, "validation on demonstrated tasks measures memory", "held_out, train")


def _source(source: Source, place: Path) -> Iterator[Problem]:
    if isinstance(source, HarborSource) and "://" in source.registry and not source.registry.startswith("https://"):
        yield Problem(
            (*place, "registry"),
            f'"{source.registry}": what it names is run, and nothing shows that it is what its owner wrote',
            "an address that begins with https://, or a file",
        )
    if isinstance(source, SynthSource):
        left = set(get_args(BugFamily)) - {family for family, times in source.families.items() if not times}
        if not left:
            yield Problem((*place, "families"), "every family is at 0: nothing is left to generate", "one above 0")


def _later_commits(tasks: Tasks) -> Iterator[Problem]:
    """Validation on a repository that is trained on must begin where training ends: code holds what earlier commits
    brought, so earlier ones are solved before the eyes of the policy, and equal ones are trained on."""
    trained = [one.source for one in tasks.train if isinstance(one.source, HistorySource)]
    for index, task_set in enumerate(tasks.validation):
        source = task_set.source
        if not isinstance(source, HistorySource):
            continue
        for train in trained:
            if train.repository == source.repository and source.after != train.revision:
                yield Problem(
                    ("tasks", "validation", index, "source", "after"),
                    f"{json.dumps(source.after)}, but training takes commits of this repository up to {train.revision}",
                    f'"{train.revision}"' if train.revision != "HEAD" else "",
                    ""
                    if train.revision != "HEAD"
                    else "let training end at an earlier revision, and validation begin after it",
                )


def observability(plan: Plan) -> Iterator[Problem]:
    loggers = plan.spec.observability.loggers
    if "file" not in loggers:
        yield Problem(
            ("observability", "loggers"),
            f"{', '.join(loggers)}: without file there is no metrics.jsonl, by which runs are followed and resumed",
            fix="add 'file'",
        )
    for number, logger in enumerate(loggers):
        if logger in loggers[:number]:
            yield Problem(("observability", "loggers", number), f'"{logger}" is named twice', fix="remove it")
    dashboard, proxy = plan.spec.observability.dashboard, plan.spec.proxy
    place = ("observability", "dashboard")
    if dashboard is not None and dashboard.port == proxy.port:
        yield Problem((*place, "port"), f"{dashboard.port} is the proxy's port (proxy.port)", "any other")
    if dashboard is not None and not dashboard.host.startswith("127."):
        yield Problem(
            (*place, "host"),
            f"{dashboard.host}: whoever reaches Ray's dashboard can run programs as the trainer does",
            fix="keep 127.0.0.1 and forward its port with ssh -L",
            severity="warn",
        )


def integers(plan: Plan) -> Iterator[Problem]:
    """Free-form fields take any number, and Jsonnet has rounded those that a double cannot hold."""

    def walk(value: object, path: Path) -> Iterator[Problem]:
        if isinstance(value, int) and abs(value) > 1 << 53:
            yield Problem(path, f"{value} is beyond 2^53 and has been rounded", "-2^53 to 2^53", "write it as a string")
        elif isinstance(value, dict | list):
            for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
                yield from walk(inner, (*path, key))

    yield from walk(plan.resolved, ())


def _count(source: Source) -> int | None:
    """Tasks in a source, where the spec alone says so."""
    return source.count if isinstance(source, SynthSource) else None


RULES: tuple[Rule, ...] = (
    batches,
    course,
    groups,
    lengths,
    architecture,
    engines,
    modes,
    imported,
    turns,
    concurrency,
    tasks,
    observability,
    integers,
)
