"""Phases are timed over all attempts, and finished ones are known."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from runtime.config import DirectorySource, PlainProcess, RuntimeConfig, TaskSet
from runtime.errors import RunError
from runtime.launch import phases, rundir
from runtime.telemetry.progress import Progress


def test_a_phase_that_was_cut_short_is_not_done_but_its_time_counts(tmp_path: Path) -> None:
    directory = rundir.create(tmp_path, experiment="x", target="local")
    progress = Progress("x", console=Console(file=io.StringIO()))
    with pytest.raises(KeyboardInterrupt), phases.timed(directory, "policy", progress):
        raise KeyboardInterrupt
    assert not phases.done(directory, "policy")
    directory.update(unfinished={"policy": 10.0, "train": 1.0})
    with phases.timed(directory, "policy", progress):
        pass
    assert phases.done(directory, "policy")
    assert directory.read().phases["policy"] >= 10.0
    assert directory.read().unfinished == {"train": 1.0}


def test_a_set_without_a_usable_task_ends_the_run_and_says_why(
    tmp_path: Path, quickstart_config: RuntimeConfig
) -> None:
    broken = tmp_path / "tasks" / "broken"
    broken.mkdir(parents=True)
    (broken / "task.toml").write_text("schema_version = '1.4'\n")
    directory = rundir.create(tmp_path / "runs", experiment="x", target="local")
    source = DirectorySource(paths=(str(tmp_path / "tasks"),))
    config = quickstart_config.model_copy(
        update={
            "train": (TaskSet(name="train", source=source),),
            "environment": PlainProcess(),
        }
    )
    progress = Progress("x", console=Console(file=io.StringIO()))
    with pytest.raises(RunError, match=r"'train' has no usable task: .*broken"):
        phases.prepare_tasks(directory, config, progress, cache=tmp_path / "cache")


def test_directories_that_two_sets_share_are_proved_once(
    tmp_path: Path, quickstart_config: RuntimeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    proved: list[str] = []

    def prepare(task_set: TaskSet, **_: object) -> list[str]:
        proved.append(task_set.name)
        return [f"of {task_set.name}"]

    monkeypatch.setattr("runtime.tasks.prepare.prepare", prepare)
    directory = rundir.create(tmp_path / "runs", experiment="x", target="local")
    shared, other = DirectorySource(paths=("tasks",)), DirectorySource(paths=("others",))
    sets = (TaskSet(name="greedy", source=shared, temperature=0.0), TaskSet(name="sampled", source=shared))
    config = quickstart_config.model_copy(
        update={"train": (TaskSet(name="train", source=other),), "validation": sets, "environment": PlainProcess()}
    )
    progress = Progress("x", console=Console(file=io.StringIO()))
    found = phases.prepare_tasks(directory, config, progress, cache=tmp_path / "cache", demonstrations=False)
    assert proved == ["train", "greedy"]
    assert found.validation == {"greedy": ["of greedy"], "sampled": ["of greedy"]}
