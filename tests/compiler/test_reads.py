"""What is read of a spec is noted, however it is read, and said as narrowly as it was."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compiler.facts import Facts, section
from compiler.load import evaluate
from compiler.plan import Plan, make_plan
from compiler.reads import narrowest
from compiler.spec.policy import NewPolicy
from compiler.spec.rollout import VllmRollout
from compiler.spec.trainer import Fsdp, Megatron
from compiler.validate import validate
from tests.compiler.golden_cases import LAB, REPOSITORY, spec_path


@pytest.fixture(scope="module")
def lab() -> Plan:
    return make_plan(validate(evaluate(LAB).value))


@pytest.fixture(scope="module")
def moe() -> Plan:
    return make_plan(validate(evaluate(spec_path("moe-async")).value))


READ: dict[str, tuple[Callable[[Any], Any], tuple[str, ...]]] = {
    "a field": (lambda spec: spec.trainer.nodes, ("trainer.nodes",)),
    "several": (lambda spec: spec.trainer.nodes * spec.seed, ("trainer.nodes", "seed")),
    "one twice": (lambda spec: spec.seed + spec.seed, ("seed",)),
    "a part, but nothing of it": (lambda spec: spec.trainer and None, ()),
    "its kind": (lambda spec: isinstance(spec.trainer, Megatron | Fsdp), ("trainer.type",)),
    "a kind that it is not": (lambda spec: isinstance(spec.rollout, VllmRollout), ("rollout.type",)),
    "that something is null": (lambda spec: spec.observability.dashboard is None, ("observability.dashboard",)),
    "a default": (lambda spec: spec.trainer.shard_size or -1, ("trainer.shard_size",)),
    "whether there are any": (lambda spec: bool(spec.tasks.validation), ("tasks.validation",)),
    "how many": (lambda spec: len(spec.tasks.validation), ("tasks.validation",)),
    "of each": (
        lambda spec: [one.name for one in spec.tasks.validation],
        ("tasks.validation[0].name", "tasks.validation[1].name"),
    ),
    "a list of values": (lambda spec: list(spec.observability.loggers), ("observability.loggers",)),
    "a list without values": (
        lambda spec: list(spec.environment.required_defences),
        ("environment.required_defences",),
    ),
    "a field that other kinds have": (lambda spec: getattr(spec.scaffold, "own_memory_mib", 0), ("scaffold.type",)),
    "two parts whole": (lambda spec: spec.algorithm.clip == spec.algorithm.kl, ("algorithm.clip", "algorithm.kl")),
    "as a text": (lambda spec: str(spec.proxy), ("proxy",)),
    "a part whole, and of it": (lambda spec: (str(spec.proxy), spec.proxy.port), ("proxy",)),
}


@pytest.mark.parametrize("how", READ)
def test_what_is_read_is_noted(lab: Plan, how: str) -> None:
    read, expected = READ[how]
    assert narrowest(lab.reads.during(lambda: read(lab.spec))[1]) == expected


@pytest.mark.parametrize("how", READ)
def test_a_view_answers_as_the_spec(how: str) -> None:
    read, _ = READ[how]
    spec = validate(evaluate(LAB).value)
    assert read(make_plan(spec).spec) == read(spec)


def test_of_what_may_be_missing_only_what_was_read_of_it_is_said(moe: Plan) -> None:
    """That it is there goes without saying where more of it was read."""
    host, noted = moe.reads.during(lambda: (one := moe.spec.cluster.rollout) and one.cpus)
    assert host and narrowest(noted) == ("cluster.rollout.cpus",)
    assert narrowest(moe.reads.during(lambda: moe.spec.cluster.rollout is None)[1]) == ("cluster.rollout",)


def test_entries_with_free_names(moe: Plan) -> None:
    assert isinstance(moe.spec.rollout, VllmRollout)
    flags = moe.spec.rollout.flags
    name = next(iter(flags))
    assert narrowest(moe.reads.during(lambda: list(flags))[1]) == ("rollout.flags",)
    assert narrowest(moe.reads.during(lambda: flags[name])[1]) == (f"rollout.flags.{name}",)
    assert moe.reads.plain(flags) == moe.resolved["rollout"]["flags"]


def test_who_reads_a_derived_number_reads_what_it_was_derived_from(lab: Plan) -> None:
    for _ in range(2):  # computed, and kept
        _, noted = lab.reads.during(lambda: lab.max_tokens_per_step)
        assert set(narrowest(noted)) == {
            "schedule.train_batch_size", "algorithm.group_size", "rollout.prompt_length", "rollout.response_length"
        }  # fmt: skip


def test_a_number_of_a_new_policy_follows_from_the_sizes_that_it_needs(lab: Plan) -> None:
    assert isinstance(lab.spec.policy, NewPolicy) and lab.policy_memory is not None
    _, noted = lab.reads.during(lambda: lab.policy_memory and lab.policy_memory.kv_cache_per_replica)
    assert "policy.architecture.num_layers" in narrowest(noted)
    assert not {"policy.architecture.vocabulary_size", "policy.architecture.max_position"} & set(narrowest(noted))


def test_what_chose_a_section_is_an_origin_of_it_and_of_nothing_else(lab: Plan) -> None:
    @section
    def chosen(plan: Plan, facts: Facts) -> None:
        facts.derive("before", lambda: plan.spec.seed)
        if plan.spec.trainer.device == "cpu":
            facts.derive("in", lambda: plan.spec.seed)
            facts.decide("decided", 1, "because")
            inner(plan, facts)
        facts.derive("last", lambda: plan.spec.seed)

    @section
    def inner(plan: Plan, facts: Facts) -> None:
        if plan.spec.tasks.baselines:
            facts.derive("inner", lambda: plan.spec.name)

    facts = Facts(lab.reads)
    chosen(lab, facts)
    facts.derive("after", lambda: lab.spec.seed)
    assert {name: fact.origins for name, fact in facts.items()} == {
        "before": ("seed",),
        "in": ("seed", "trainer.device"),
        "decided": ("trainer.device",),
        "inner": ("name", "trainer.device", "tasks.baselines"),
        "last": ("seed", "trainer.device"),
        "after": ("seed",),
    }
    assert [name for name, fact in facts.items() if fact.decided] == ["decided"]


def test_a_part_that_was_copied_can_be_changed_in_one_place(lab: Plan) -> None:
    facts = Facts(lab.reads)
    facts.derive("proxy", lambda: lab.spec.proxy)
    facts.split("proxy")
    facts.replace("proxy.host", lambda: "0.0.0.0", why="because")
    assert facts.tree()["proxy"] == {**lab.resolved["proxy"], "host": "0.0.0.0"}
    assert facts["proxy.port"].origins == ("proxy.port",) and facts["proxy.host"].decided


def test_no_origin_is_typed() -> None:
    """The words by which origins were once told: what is read tells them."""
    typed = re.compile(r"\.follow\(|\| (q|sh)\((?!indent=)")
    for folder, suffix in (("compiler", "*.py"), ("targets", "*.py"), ("templates", "*.j2")):
        for path in Path(REPOSITORY / folder).rglob(suffix):
            assert not typed.search(path.read_text()), path
