"""Task sets: names, splits that must not leak, enough tasks for a batch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import get_args

from compiler.check.rule import Rule
from compiler.errors import Path, Problem
from compiler.plan import Plan
from runtime.config.demonstrations import MadeDemonstrations
from runtime.config.policy import NewPolicy
from runtime.config.tasks import (
    BugFamily,
    GenerateSource,
    HarborSource,
    HistorySource,
    IndexSource,
    PublishedSource,
    Source,
    SynthSource,
    TaskSet,
    canonical,
)


def sets(plan: Plan) -> Iterator[Problem]:
    """Each set by itself, and its name among the others."""
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


def temperatures(plan: Plan) -> Iterator[Problem]:
    for index, task_set in enumerate(plan.spec.tasks.train):
        if task_set.temperature is not None:
            yield Problem(
                ("tasks", "train", index, "temperature"),
                "only validation sets have a temperature",
                fix="set rollout.temperature",
            )


def weights(plan: Plan) -> Iterator[Problem]:
    """All training sets have one, or none has: what the others' share would be is not said otherwise."""
    trained = plan.spec.tasks.train
    named = [one for one in trained if one.weight is not None]
    for index, task_set in enumerate(trained):
        if named and task_set.weight is None:
            yield Problem(
                ("tasks", "train", index, "weight"),
                f"null, but {named[0].name} has {named[0].weight:g}",
                "a number above 0",
                "give every training set a weight, or none",
            )
    for index, task_set in enumerate(plan.spec.tasks.validation):
        if task_set.weight is not None:
            yield Problem(
                ("tasks", "validation", index, "weight"),
                "every task of a validation set is scored, each as often as the others",
                "null",
            )


def curriculum(plan: Plan) -> Iterator[Problem]:
    """What leaves a curriculum without an effect, or without a band."""
    spec, place = plan.spec, ("tasks", "curriculum")
    found, steps = spec.tasks.curriculum, spec.schedule.steps
    if found is None:
        return
    band = found.band
    if band.least > band.most:
        yield Problem((*place, "band", "least"), f"{band.least:g} is above most {band.most:g}", f"0 to {band.most:g}")
    elif (band.least, band.most) == (0.0, 1.0):
        yield Problem(
            (*place, "band"), "0 to 1: no task is ever outside of it", fix="name a narrower band, or no curriculum"
        )
    if steps == 0:
        yield Problem(place, "nothing is reinforced: schedule.steps is 0", "null")
    elif found.warmup_steps >= steps:
        yield Problem(
            (*place, "warmup_steps"),
            f"{found.warmup_steps} of {steps} steps: nothing would ever go by the band",
            f"0 to {steps - 1}",
        )
    for index, task_set in enumerate(spec.tasks.train):
        source = task_set.source
        limit = getattr(source, "count", None) if isinstance(source, SynthSource) else getattr(source, "limit", None)
        chosen = source.pass_rate if isinstance(source, IndexSource) else None
        if limit is not None and limit <= 2:
            yield Problem(
                ("tasks", "train", index, "source"),
                f"at most {limit} tasks: a curriculum has nothing to choose there, for none comes twice in a row",
                fix="more tasks, or no tasks.curriculum",
                severity="warn",
            )
        if chosen is not None and (chosen.least > band.most or chosen.most < band.least):
            yield Problem(
                ("tasks", "train", index, "source", "pass_rate"),
                f"{chosen.least:g} to {chosen.most:g}: none of these was in the curriculum's band, "
                f"{band.least:g} to {band.most:g}",
                fix="let the two overlap, or drop one of them",
            )


def enough(plan: Plan) -> Iterator[Problem]:
    """Tasks for one batch, where the spec alone says how many there are."""
    size = plan.spec.schedule.train_batch_size
    available = [one.source.count if isinstance(one.source, SynthSource) else None for one in plan.spec.tasks.train]
    if None not in available and sum(filter(None, available)) < size:
        yield Problem(
            ("schedule", "train_batch_size"),
            f"{size} prompts per step, but the training sets hold {sum(filter(None, available))} tasks",
            fix="lower train_batch_size or add tasks",
        )


def validation(plan: Plan) -> Iterator[Problem]:
    """What needs validation tasks, where there are none."""
    spec = plan.spec
    if spec.tasks.validation:
        return
    if spec.tasks.baselines:
        yield Problem(
            ("tasks", "baselines"),
            "true, but there are no validation tasks to score them on",
            "false",
            "add tasks.validation",
        )
    if spec.schedule.validate_every:
        yield Problem(
            ("schedule", "validate_every"),
            f"{spec.schedule.validate_every}, but tasks.validation is empty",
            "0",
            severity="warn",
        )


def demonstrations(plan: Plan) -> Iterator[Problem]:
    for source, place in _demonstrated(plan):
        yield from _source(source, place)
        if isinstance(source, SynthSource | GenerateSource) and source.split != "demonstrations":
            which = "all" if source.split is None else f'"{source.split}"'
            yield Problem(
                (*place, "split"),
                f"{which} tasks as demonstrations would leak into reinforcement",
                "demonstrations",
            )
    policy = plan.spec.policy
    if not isinstance(policy, NewPolicy):
        return
    source, informed = policy.warm_start.demonstrations, policy.warm_start.informed_families
    if isinstance(source, SynthSource) and informed and not set(informed) & (occurring := _families(source)):
        yield Problem(
            ("policy", "warm_start", "informed_families"),
            f"none of the demonstrations is of {', '.join(informed)}",
            f"some of {', '.join(sorted(occurring))}; [] for all",
        )


def _demonstrated(plan: Plan) -> Iterator[tuple[Source, Path]]:
    """Where the tasks come from that a policy is shown before reinforcement."""
    policy, place = plan.spec.policy, ("policy", "warm_start", "demonstrations")
    if isinstance(policy, NewPolicy):
        yield policy.warm_start.demonstrations, place
        return
    for index, one in enumerate(plan.supervised.demonstrations if plan.supervised is not None else ()):
        if isinstance(one, MadeDemonstrations) and one.tasks is not None:
            yield one.tasks, (*place, index, "tasks")


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
        which = "all" if source.split is None else f'"{source.split}"'
        yield Problem(place, f"{which} tasks must not be trained on", "train")
    if group == "validation" and source.split == "demonstrations":
        yield Problem(place, "validation on demonstrated tasks measures memory", "held_out, train")


def _source(source: Source, place: Path) -> Iterator[Problem]:
    if isinstance(source, HarborSource) and "://" in source.registry and not source.registry.startswith("https://"):
        yield Problem(
            (*place, "registry"),
            f'"{source.registry}": what it names is run, and nothing shows that it is what its owner wrote',
            "an address that begins with https://, or a file",
        )
    if isinstance(source, PublishedSource):
        yield from _published(source, place)
    if isinstance(source, SynthSource) and not _families(source):
        yield Problem((*place, "families"), "every family is at 0: nothing is left to generate", "one above 0")


def _published(source: PublishedSource, place: Path) -> Iterator[Problem]:
    for name in ("dataset", "split", "revision"):
        value = getattr(source, name)
        if source.rows is not None and value is not None:
            yield Problem(
                (*place, name), f'"{value}": rows names a file, and nothing is fetched', "null", "or rows: null"
            )
    if source.dataset is not None and source.dataset.count("/") != 1:
        yield Problem((*place, "dataset"), f'"{source.dataset}" is no data set of the hub', "OWNER/NAME")
    for number, repository in enumerate(source.repositories):
        if repository.count("/") != 1:
            yield Problem((*place, "repositories", number), f'"{repository}" is no repository', "owner/name")
    for name in ("instances", "repositories"):
        chosen = getattr(source, name)
        for number, one in enumerate(chosen):
            if one in chosen[:number]:
                yield Problem((*place, name, number), f'"{one}" is there twice', fix="name it once")


def environments(plan: Plan) -> Iterator[Problem]:
    """Tasks of published sets are made of images, which not every backend can make boxes of."""
    kind = plan.spec.environment.type
    if kind in _WITH_IMAGES:
        return
    groups = (("train", plan.spec.tasks.train), ("validation", plan.spec.tasks.validation))
    sources: list[tuple[Source, Path]] = [
        (one.source, ("tasks", group, index, "source")) for group, sets in groups for index, one in enumerate(sets)
    ]
    for source, place in [*sources, *_demonstrated(plan)]:
        if isinstance(source, PublishedSource):
            yield Problem(
                (*place, "type"),
                f'"{source.type}" tasks are made of images, of which environment.type {kind} makes no boxes',
                fix=f"set environment.type to {' or '.join(_WITH_IMAGES)}",
            )


def required_defences(plan: Plan) -> Iterator[Problem]:
    """Verdicts on tasks of published sets are read from logs, which code under test can write."""
    required = set(plan.spec.environment.required_defences)
    groups = (plan.spec.tasks.train, plan.spec.tasks.validation)
    used = [one.source for sets in groups for one in sets] + [source for source, _ in _demonstrated(plan)]
    for kind in dict.fromkeys(source.type for source in used if isinstance(source, PublishedSource)):
        # Look-alikes are made of files of tests; other sets bring their tests in a patch.
        lacking = sorted(required & (_NEVER_OF_LOGS | ({"canary"} if kind != "r2e" else set())))
        if lacking:
            yield Problem(
                ("environment", "required_defences"),
                f'"{kind}" tasks never have {", ".join(lacking)}: code under test can write the log of its tests',
                fix="take them out, or train on tasks with test ids",
            )


_NEVER_OF_LOGS = {"report_nonce", "reward_file", "solution_user"}
_WITH_IMAGES = ("bubblewrap", "docker", "kubernetes", "ecs")


def _families(source: SynthSource) -> set[str]:
    """Of the bugs that it generates."""
    return set(get_args(BugFamily)) - {family for family, times in source.families.items() if not times}


def held_out_packages(plan: Plan) -> Iterator[Problem]:
    """Validation on all functions of packages: none of them may be trained on."""
    trained = {
        canonical(package.name): one.name
        for one in plan.spec.tasks.train
        if isinstance(one.source, GenerateSource)
        for package in one.source.packages
    }
    for index, task_set in enumerate(plan.spec.tasks.validation):
        source = task_set.source
        if not isinstance(source, GenerateSource) or source.split is not None:
            continue
        both = [package.name for package in source.packages if canonical(package.name) in trained]
        if both:
            yield Problem(
                ("tasks", "validation", index, "source", "split"),
                f"null, all functions, but {trained[canonical(both[0])]!r} trains on {', '.join(both)}",
                "held_out",
                "take other packages for validation, or functions of the split held_out",
            )


def later_commits(plan: Plan) -> Iterator[Problem]:
    """Validation on a repository that is trained on must begin where training ends: code holds what earlier commits
    brought, so earlier ones are solved before the eyes of the policy, and equal ones are trained on."""
    trained = [one.source for one in plan.spec.tasks.train if isinstance(one.source, HistorySource)]
    for index, task_set in enumerate(plan.spec.tasks.validation):
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


RULES: tuple[Rule, ...] = (
    sets,
    weights,
    curriculum,
    environments,
    required_defences,
    held_out_packages,
    later_commits,
    temperatures,
    enough,
    validation,
    demonstrations,
)
