"""Finding and loading task directories: bad ones are named, good ones go on, ids are unique."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from runtime.errors import Termination, TrialError, UserError
from runtime.task import load_task
from runtime.tasks.directories import find_task_directories, load_tasks
from tests.runtime.tasks.test_write import write_shop


def test_tasks_and_folders_of_tasks(tmp_path: Path) -> None:
    one = write_shop(tmp_path / "a", "one")
    two = write_shop(tmp_path / "a", "two")
    (tmp_path / "a" / "notes").mkdir()
    (tmp_path / "a" / ".hidden").mkdir()
    assert find_task_directories([tmp_path / "a", one]) == [one, two]


def test_every_bad_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        find_task_directories([tmp_path / "missing", tmp_path])
    assert [problem.split(":")[0] for problem in caught.value.problems] == [str(tmp_path / "missing"), str(tmp_path)]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda task: (task / "task.toml").unlink(), "no task.toml"),
        (lambda task: (task / "instruction.md").unlink(), "no instruction.md"),
        (lambda task: (task / "task.toml").write_text("[[["), "task.toml"),
        (lambda task: (task / "task.toml").write_text("[verifier]\ntimeout_sec = -1"), "verifier.timeout_sec"),
        (lambda task: (task / "task.toml").write_text("[metadata.liverl]\nfail_too = []"), "fail_too"),
        (lambda task: shutil.rmtree(task / "tests"), "tests/test.sh"),
        (lambda task: shutil.rmtree(task / "environment"), "environment"),
    ],
)
def test_a_damaged_task_is_named_and_left_out(tmp_path: Path, damage, words: str) -> None:  # type: ignore[no-untyped-def]
    good, bad = write_shop(tmp_path, "good"), write_shop(tmp_path, "bad")
    damage(bad)
    problems: list[str] = []
    tasks = load_tasks(find_task_directories([tmp_path]), on_problem=problems.append)
    assert [task.path for task in tasks] == [good]
    (problem,) = problems
    assert str(bad) in problem and words in problem
    with pytest.raises(TrialError) as caught:
        load_task(bad)
    assert caught.value.termination is Termination.TASK_INVALID


def test_two_tasks_of_one_id_are_refused(tmp_path: Path) -> None:
    directories = [write_shop(tmp_path / "a", "same"), write_shop(tmp_path / "b", "same")]
    with pytest.raises(UserError, match="'same' is taken"):
        load_tasks(directories, on_problem=lambda text: None)
