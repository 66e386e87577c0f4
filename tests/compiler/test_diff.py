"""The difference of two experiments: what was changed, what follows, and because of what."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from compiler import SpecError, compile_all, compile_spec
from compiler.causes import causes, units
from compiler.diff import Difference, compare, render
from compiler.sides import open_side, target_of
from tests.compiler.golden_cases import LAB, REPOSITORY, spec_path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "b"
    compile_spec(LAB, out=folder, target="k8s")
    return folder


def between(tmp_path: Path, bundle: Path, *sets: str, target: str = "k8s") -> Difference:
    other = tmp_path / "other"
    compile_spec(LAB, out=other, target=target, sets=sets)
    return compare(open_side(str(bundle), target=target), open_side(str(other), target=target))


def test_equal_experiments_have_no_difference(bundle: Path) -> None:
    sides = open_side(str(bundle), target="k8s"), open_side(str(LAB), target="k8s")
    assert "the same artifacts" in render(compare(*sides), markdown=False)


@pytest.mark.parametrize("markdown", [False, True])
def test_a_difference_shows_facts_and_what_follows(bundle: Path, tmp_path: Path, markdown: bool) -> None:
    other = tmp_path / "other"
    compile_spec(LAB, out=other, target="k8s", sets=["algorithm.group_size=16"])
    text = render(compare(open_side(str(bundle), target="k8s"), open_side(str(other), target="k8s")), markdown=markdown)
    assert "algorithm.group_size" in text
    assert "trajectories_per_step" in text
    assert "actor_rollout_ref.rollout.n" in text
    assert "verl.yaml" in text


def test_a_spec_of_another_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises(SpecError, match="no such revision"):
        open_side("no-such-revision:specs/quickstart.jsonnet", target="local")


def test_what_follows_names_its_cause(tmp_path: Path, bundle: Path) -> None:
    found = between(tmp_path, bundle, "algorithm.group_size=16", "schedule.steps=7", "seed=3")
    because = {change.path: change.because for change in found.follows}
    assert because["steps"] == ("schedule.steps",)
    assert because["trajectories_per_step"] == ("algorithm.group_size",)
    assert because["trajectories_total"] == ("algorithm.group_size", "schedule.steps")
    artifacts = {name: {change.path: change.because for change in changes} for name, changes in found.artifacts.items()}
    assert artifacts["verl.yaml"]["actor_rollout_ref.rollout.n"] == ("algorithm.group_size",)
    assert artifacts["verl.yaml"]["trainer.total_training_steps"] == ("schedule.steps",)
    assert all(change.because for changes in found.artifacts.values() for change in changes)


def test_memory_names_its_cause(tmp_path: Path, bundle: Path) -> None:
    found = between(tmp_path, bundle, "policy.architecture.hidden_size=128", "name=wide", "rollout.slots=16")
    because = {change.path: change.because for change in found.amounts}
    assert because["memory: weights"] == ("policy.architecture.hidden_size",)
    assert set(because["memory: kv cache per replica"]) == {"policy.architecture.hidden_size", "rollout.slots"}


def test_a_change_of_the_variant_is_one_cause() -> None:
    old = {"a": {"type": "x", "n": 1}, "b": [1, 2], "c": {"d": 1}}
    new = {"a": {"type": "y", "m": 2}, "b": [1, 3], "c": {"e": 1}}
    assert units(old, new) == [("a",), ("b", 1), ("c", "d"), ("c", "e")]
    assert causes(old, new, lambda spec: {"last": spec["b"][-1]}) == {"last": ("b[1]",)}


def test_long_values_that_differ_at_their_end_differ(tmp_path: Path, bundle: Path) -> None:
    """What is cut for the screen is compared whole."""
    paths = [json.dumps("/data/" + "x" * 200 + end) for end in "ab"]
    sides = []
    for number, path in enumerate(paths):
        source = f'[{{"name": "t", "source": {{"type": "directories", "paths": [{path}]}}}}]'
        compile_spec(LAB, out=tmp_path / str(number), target="k8s", sets=[f"tasks.train={source}"])
        sides.append(open_side(str(tmp_path / str(number)), target="k8s"))
    (change,) = compare(*sides).facts
    assert change.path == "tasks.train[0].source.paths[0]" and change.old != change.new
    assert len(change.old) < 100 and change.old.endswith('a"')


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit of a spec in it."""
    folder = tmp_path / "repo"
    (folder / "specs").mkdir(parents=True)
    (folder / "specs" / "q.jsonnet").write_text(spec_path("quickstart").read_text())
    (folder / "specs" / "bad.jsonnet").write_text("{\n name: 'Bad_Name' }")
    (folder / "specs" / "out").symlink_to("/etc")
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "1"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(
    ("cwd", "what"), [(".", "specs/q.jsonnet"), ("specs", "q.jsonnet"), ("specs", "specs/q.jsonnet")]
)
def test_a_revision_is_read_from_anywhere(
    repository: Path, monkeypatch: pytest.MonkeyPatch, cwd: str, what: str
) -> None:
    spec = repository / "specs" / "q.jsonnet"
    spec.write_text(re.sub(r"(?m)^    steps: \d+", "    steps: 7", spec.read_text()))
    monkeypatch.chdir(repository / cwd)
    found = compare(open_side(f"HEAD:{what}", target="local"), open_side(str(spec), target="local"))
    assert [(change.path, change.new) for change in found.facts] == [("schedule.steps", "7")]


def test_problems_of_a_revision_are_at_the_revision(repository: Path) -> None:
    with pytest.raises(SpecError) as caught:
        open_side("HEAD:specs/bad.jsonnet", target="local")
    assert "HEAD:specs/bad.jsonnet:2:2: name:" in str(caught.value)
    assert "liverl-diff" not in str(caught.value)
    with pytest.raises(SpecError, match=r"HEAD:specs/none\.jsonnet: no such file"):
        open_side("HEAD:specs/none.jsonnet", target="local")
    with pytest.raises(SpecError, match="not a revision"):
        open_side("--output=x:specs/q.jsonnet", target="local")


def test_a_bundle_brings_its_target(bundle: Path, tmp_path: Path) -> None:
    assert target_of(str(bundle)) == "k8s" and target_of(str(LAB)) is None and target_of("HEAD:x") is None
    (bundle / "liverl.lock").rename(tmp_path / "lock")
    with pytest.raises(SpecError, match="but no bundle"):
        open_side(str(bundle), target="k8s")
    (tmp_path / "lock").rename(bundle / "liverl.lock")


def test_a_folder_of_a_sweep_says_what_to_compare(tmp_path: Path) -> None:
    compile_all(spec_path("sweep"), out=tmp_path / "s")
    with pytest.raises(SpecError, match="compare the bundles of its points"):
        open_side(str(tmp_path / "s"), target="local")
