"""Generated repositories: repeatable, truly broken and truly repaired, and nothing shared between splits."""

import re
import sys
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.laptop.policy.memory import MemoryWorkspace
from runtime.laptop.synth import generate
from runtime.laptop.synth.bugs import FAMILIES
from runtime.laptop.synth.grammar import structure_split
from runtime.laptop.synth.repository import Repository, build
from runtime.laptop.synth.words import NOUNS, Split, nouns, numbers
from runtime.laptop.tools import repairs
from runtime.task import load_task

SPLITS: tuple[Split, ...] = get_args(Split)
KEYWORDS = {"def", "return", "if", "not", "min", "max"}


def sample(split: Split, count: int = 60, seed: int = 3) -> list[Repository]:
    return [build(split, seed=seed, number=number) for number in range(count)]


def code(repository: Repository) -> str:
    texts = {**repository.broken, **repository.repaired}
    return "\n".join(text for texts in (texts, repository.broken) for text in texts.values())


def test_the_same_seed_gives_the_same_repositories() -> None:
    assert sample("train", 5) == sample("train", 5)
    assert sample("train", 5) != sample("train", 5, seed=4)


@settings(max_examples=40, deadline=None)
@given(split=st.sampled_from(SPLITS), seed=st.integers(0, 10**6), number=st.integers(0, 10**4))
def test_the_bug_breaks_exactly_the_recorded_tests_and_the_repair_mends_them(
    split: Split, seed: int, number: int
) -> None:
    repository = build(split, seed=seed, number=number)
    ids = repository.fail_to_pass + repository.pass_to_pass
    repaired = {**repository.broken, **repository.repaired}
    assert repository.fail_to_pass
    assert MemoryWorkspace(repaired, repository.tests, ids).passes()
    assert MemoryWorkspace(repository.broken, repository.tests, repository.pass_to_pass).passes()
    for test_id in repository.fail_to_pass:
        assert not MemoryWorkspace(repository.broken, repository.tests, (test_id,)).passes()


def test_the_recorded_repair_undoes_the_bug() -> None:
    for repository in sample("train"):
        (path,) = repository.repaired
        lines = repository.broken[path].split("\n")
        edited = repairs.apply(repository.tool, lines, repository.line - 1)
        assert edited == repository.repaired[path].split("\n")[repository.line - 1]


def test_no_name_number_or_structure_is_in_two_splits() -> None:
    names: dict[Split, set[str]] = {}
    values: dict[Split, set[str]] = {}
    structures: dict[Split, set[str]] = {}
    for split in SPLITS:
        texts = [code(repository) for repository in sample(split)]
        stripped = [re.sub(r"#.*", "", text) for text in texts]
        words = {word for text in stripped for name in re.findall(r"[a-z_]+", text) for word in name.split("_")}
        names[split] = words - KEYWORDS - {""}
        values[split] = {number for text in stripped for number in re.findall(r"\d+", text)}
        structures[split] = {item for repository in sample(split) for item in repository.structures}
        assert all(structure_split(item) == split for item in structures[split])
    for left in SPLITS:
        for right in SPLITS:
            if left != right:
                assert not names[left] & names[right]
                assert not values[left] & values[right]
                assert not structures[left] & structures[right]
                assert not set(nouns(left)) & set(nouns(right))
                assert not set(numbers(left)) & set(numbers(right))


def test_every_family_occurs_and_structures_are_many() -> None:
    repositories = sample("train", 300)
    assert set(Counter(repository.family for repository in repositories)) == set(FAMILIES)
    structures = [item for repository in repositories for item in repository.structures]
    assert len(set(structures)) > 0.5 * len(structures)


def test_specs_know_every_family() -> None:
    from runtime.config.tasks import BugFamily

    assert get_args(BugFamily) == tuple(FAMILIES)


def test_families_come_as_often_as_is_asked() -> None:
    usual = sample("train", 300)
    asked = [build("train", seed=3, number=number, families={"operator": 3, "name": 0}) for number in range(300)]
    counts, before = (Counter(one.family for one in repositories) for repositories in (asked, usual))
    assert counts["name"] == 0
    assert counts["operator"] > 1.8 * before["operator"]
    assert [build("train", seed=3, number=n, families={"bound": 1}) for n in range(20)] == usual[:20]


@pytest.mark.parametrize("families", [{"spelling": 1.0}, dict.fromkeys(FAMILIES, 0.0), {"name": -1.0}])
def test_families_that_cannot_be_drawn_are_refused(families: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="families: "):
        build("train", seed=0, number=0, families=families)


def test_nouns_can_be_packages() -> None:
    assert not set(NOUNS) & set(sys.stdlib_module_names)
    assert all(word.isidentifier() for word in NOUNS)


def test_generate_writes_tasks_that_load(tmp_path: Path) -> None:
    paths = generate(3, seed=0, split="held_out", out=tmp_path)
    tasks = [load_task(path) for path in paths]
    assert [task.id for task in tasks] == [path.name for path in paths]
    for task in tasks:
        assert task.liverl.source == "synth"
        assert set(task.liverl.artifacts) <= {path.name for path in task.repository.iterdir()}
        assert MemoryWorkspace.of_task(task).failure() is not None
