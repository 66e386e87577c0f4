"""The supervised stage of a pretrained policy: what verl's SFT trainer and the packs ask of its numbers."""

from __future__ import annotations

from collections.abc import Iterator

from compiler.check.rule import Rule
from compiler.errors import Path, Problem
from compiler.models import facts_of
from compiler.plan import Plan
from compiler.spec.policy import PretrainedPolicy
from compiler.spec.trainer import Fsdp
from runtime.config.demonstrations import MadeDemonstrations
from runtime.config.scaffold import ShellScaffold
from runtime.config.tasks import GenerateSource, canonical, packages_of

PLACE: Path = ("policy", "warm_start")
ENOUGH_EPOCHS = 2


def hardware(plan: Plan) -> Iterator[Problem]:
    trainer = plan.spec.trainer
    if plan.supervised is None:
        return
    if not isinstance(trainer, Fsdp):
        yield Problem(
            PLACE,
            f'the supervised stage is trained with FSDP, not with "{trainer.type}"',
            "null",
            "train it in a run of its own with liverl.trainer.fsdp2, and name its result as policy.path",
        )
        return
    if trainer.nodes > 1:
        yield Problem(
            PLACE,
            f"the supervised stage is trained on one machine, but trainer.nodes is {trainer.nodes}",
            "null",
            "train it in a run of its own on one machine, and name its result as policy.path",
        )
    if trainer.device == "cpu" and plan.supervised.compile:
        what = "true, but on a CPU compiling takes minutes and gains nothing"
        yield Problem((*PLACE, "compile"), what, "false")
    if trainer.device == "cuda" and trainer.precision == "fp32":
        what = "fp32: demonstrations of a pack are attended to one by one, which is slow on a GPU"
        yield Problem(("trainer", "precision"), what, '"bf16"', severity="warn")


def batches(plan: Plan) -> Iterator[Problem]:
    stage = plan.supervised
    if stage is None:
        return
    packs, ranks = stage.tokens_per_batch // stage.tokens_per_pass, plan.trainer_ranks
    if packs == 0:
        yield Problem(
            (*PLACE, "tokens_per_batch"),
            f"{stage.tokens_per_batch}, but one pass takes {stage.tokens_per_pass} tokens",
            f"{stage.tokens_per_pass * ranks} or more, or a smaller tokens_per_pass",
        )
    elif packs % ranks:
        yield Problem(
            (*PLACE, "tokens_per_batch"),
            f"{stage.tokens_per_batch} tokens are {packs} passes of {stage.tokens_per_pass}, not divisible by "
            f"{ranks} ranks",
            f"a multiple of {stage.tokens_per_pass * ranks}",
        )


def lengths(plan: Plan) -> Iterator[Problem]:
    """Of one demonstration."""
    stage, policy = plan.supervised, plan.spec.policy
    if stage is None or stage.max_length is None:
        return
    place = (*PLACE, "max_length")
    if stage.max_length > stage.tokens_per_pass:
        yield Problem(
            place, f"{stage.max_length}, but a pass takes {stage.tokens_per_pass} tokens", f"<= {stage.tokens_per_pass}"
        )
    facts = facts_of(policy)
    if facts is not None and isinstance(policy, PretrainedPolicy) and stage.max_length > facts.max_position:
        yield Problem(place, f"{stage.max_length}, but the model reads {facts.max_position} tokens")


def duration(plan: Plan) -> Iterator[Problem]:
    stage = plan.supervised
    if stage is None:
        return
    if stage.steps is not None and stage.epochs != 1:
        yield Problem((*PLACE, "epochs"), f"{stage.epochs}, but steps says how long: {stage.steps}", "1")
    elif stage.epochs > ENOUGH_EPOCHS:
        what = f"{stage.epochs}: what is learnt by heart leaves groups of trials that are all alike"
        yield Problem((*PLACE, "epochs"), what, f"1 to {ENOUGH_EPOCHS}", "give more demonstrations", severity="warn")


def made(plan: Plan) -> Iterator[Problem]:
    """Demonstrations that LiveRL makes: of nothing that is trained on or held out, for an agent that it can imitate."""
    stage, scaffold = plan.supervised, plan.spec.scaffold
    held_out = packages_of(plan.spec.tasks.validation) - packages_of(plan.spec.tasks.train)
    for index, one in enumerate(stage.demonstrations if stage is not None else ()):
        if not isinstance(one, MadeDemonstrations):
            continue
        place = (*PLACE, "demonstrations", index)
        if one.tasks is None and one.pairs is None:
            yield Problem(place, "neither tasks nor pairs", fix="name one of them")
        if not isinstance(scaffold, ShellScaffold) or scaffold.tools != "free":
            yield Problem(place, "made for the shell scaffold with free tools alone", fix="use liverl.scaffold.shell")
        else:
            for name in ("first_look", "test_after_edit"):
                if not getattr(scaffold, name):
                    what = "off, but demonstrations edit what the first look shows, and end when the tests pass"
                    yield Problem(("scaffold", name), what, fix="set it")
        for number, package in enumerate(one.tasks.packages if isinstance(one.tasks, GenerateSource) else ()):
            if canonical(package.name) in held_out:
                what = f'"{package.name}" is held out for validation'
                yield Problem((*place, "tasks", "packages", number, "name"), what, fix="leave it out")


RULES: tuple[Rule, ...] = (hardware, batches, lengths, duration, made)
