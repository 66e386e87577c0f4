"""What may go and what stays: live runs, the newest and the best checkpoint."""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path

import pytest

from runtime.launch import free, lifecycle
from runtime.launch.rundir import RunDirectory, create
from runtime.sandboxes import images
from runtime.trainer.stable import stable_steps
from tests.run_directories import write_checkpoint
from tests.runtime.rows import append_row

OLD = "2020-01-01T00:00:00+00:00"


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "runs"


def _run(runs: Path, *, state: str = "succeeded", end: str = OLD) -> RunDirectory:
    directory = create(runs, experiment="x", target="local")
    for step, score in ((1, 0.2), (2, 0.9), (3, 0.4), (4, 0.3)):
        write_checkpoint(directory, step)
        append_row(directory.metrics, step, {"val-core/h/reward/mean@1": score})
    half = directory.checkpoints / "global_step_5"
    half.mkdir()
    (half / "part").write_bytes(bytes(10_000))
    (directory.trials / "1" / "t").mkdir(parents=True)
    (directory.trials / "1" / "t" / "trial.json").write_text("{}")
    directory.update(state=state, end=end)
    return directory


def test_the_newest_and_the_best_checkpoint_stay(runs: Path) -> None:
    directory = _run(runs)
    found = free.find(runs, kinds=["checkpoints"])
    assert {one.path.name: one.why for one in found} == {
        "global_step_1": "neither the newest nor the best",
        "global_step_3": "neither the newest nor the best",
        "global_step_5": "not whole",
    }
    assert all(one.size > 0 for one in found)
    assert free.remove(found) == []
    assert stable_steps(directory.checkpoints) == [2, 4] and free.find(runs, kinds=["checkpoints"]) == []


def test_a_run_that_goes_on_is_not_touched(runs: Path) -> None:
    directory = _run(runs)
    (runs / ".cache" / "tasks").mkdir(parents=True)
    for path in (runs / ".cache" / "tasks", runs / ".cache"):
        os.utime(path, (0, 0))
    assert {one.kind for one in free.find(runs)} == {"checkpoints", "trials", "caches"}
    with lifecycle.running(directory):
        assert free.find(runs) == []
    directory.update(end=OLD, state="running", pid=1, pid_start=1)  # left behind by a kill: it may be resumed
    assert free.find(runs) == []


def test_only_what_is_old_enough(runs: Path) -> None:
    directory = _run(runs, end="")
    assert free.find(runs) == []
    directory.finish("failed", exit_code=4, cause="")
    assert free.find(runs) == []
    assert {one.kind for one in free.find(runs, older_than_days=0)} == {"checkpoints", "trials"}


def test_trials_go_with_their_index(runs: Path) -> None:
    directory = _run(runs)
    free.remove(free.find(runs, kinds=["trials"]))
    assert not directory.trials.exists() and directory.metrics.exists() and stable_steps(directory.checkpoints)


@pytest.mark.parametrize("linked", ["checkpoints/global_step_1", "checkpoints", "trials", ".", ".."])
def test_nothing_goes_behind_a_link(runs: Path, tmp_path: Path, linked: str) -> None:
    directory = _run(runs)
    there = tmp_path / "elsewhere"
    (directory.path / linked).resolve().rename(there)
    Path(os.path.normpath(directory.path / linked)).symlink_to(there)
    before = sorted(path.relative_to(there) for path in there.rglob("*"))
    free.remove(free.find(runs))
    assert sorted(path.relative_to(there) for path in there.rglob("*")) == before


def test_what_another_run_stands_on_stays(runs: Path) -> None:
    directory = _run(runs)
    first, third = (directory.checkpoints / f"global_step_{step}" for step in (1, 3))
    other = create(runs, experiment="y", target="local")
    (first / "actor" / "huggingface").mkdir(parents=True, exist_ok=True)
    other.policy.symlink_to(first / "actor" / "huggingface")
    other.update(state="succeeded", end="")
    found = free.find(runs, kinds=["checkpoints"])
    assert [one.path.name for one in found] == ["global_step_3", "global_step_5"]
    evaluation = create(runs, experiment="y", target="local", kind="eval")
    (evaluation.path / "scoring.json").write_text(json.dumps({"checkpoint": str(third)}))
    evaluation.update(state="stopped", end="")  # it may be resumed
    free.remove(found)  # and began after it was looked for
    assert first.exists() and third.exists() and not (directory.checkpoints / "global_step_5").exists()


def test_a_run_that_was_taken_up_since_is_left_alone(runs: Path) -> None:
    directory = _run(runs)
    found = free.find(runs)
    directory.update(resumed=1)
    assert found and free.remove(found) == [] and all(one.there for one in found)


def test_an_image_in_use_by_any_run_stays(runs: Path) -> None:
    _run(runs)
    cache = images.default_cache()
    used, held, unused = (cache / images._digest([pin]) for pin in ("a==1", "b==1", "c==1"))
    for folder in (used, held, unused):
        folder.mkdir(parents=True)
        (folder / ".complete").touch()
        folder.with_name(f"{folder.name}.lock").touch()
        for path in (folder / ".complete", folder):
            os.utime(path, (0, 0))
    images.prepare("a==1")
    found = free.find(runs, kinds=["images"], older_than_days=0)
    assert {one.path for one in found} == {held, unused}
    with held.with_name(f"{held.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        assert free.remove(found) == []
    assert used.exists() and held.exists() and not unused.exists()
    images.prepare("b==1")
    free.remove(found)
    assert held.exists()
    os.utime(held / ".complete", (time.time() - 3600,) * 2)
    assert free.find(runs, kinds=["images"], older_than_days=0) == []  # a day at the least
