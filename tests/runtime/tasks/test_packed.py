"""Sets of tasks that lie in one file: taken out where they were, and nobody loses what he uses."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import orjson
import pytest

from runtime.config import SynthSource, TaskSet
from runtime.errors import TrialError
from runtime.report.patch import read_patch
from runtime.task import load_task
from runtime.task_format import packed
from runtime.tasks.directories import find_task_directories
from runtime.tasks.prepare import prepare
from tests.run_directories import make_run

SET = TaskSet(name="train", source=SynthSource(count=3, seed=5, split="train"))


def _contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mode & 0o777)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_folded_set_is_two_files_and_comes_back_as_it_was(tmp_path: Path) -> None:
    made = prepare(SET, cache=tmp_path, on_problem=print)
    home = made[0].path.parent
    before = _contents(home)
    assert len(before) > 50
    packed.fold(tmp_path)
    assert sorted(_contents(home)) == ["set.json", packed.ARCHIVE]
    one = load_task(made[1].path)  # as a record of the run names it
    assert one == made[1] and sorted(path.name for path in home.iterdir() if path.is_dir()) == [made[1].id]
    assert [task.path for task in prepare(SET, cache=tmp_path, on_problem=print)] == [task.path for task in made]
    assert _contents(home) == before
    packed.fold(tmp_path)
    assert find_task_directories([made[2].path]) == [made[2].path] and find_task_directories([home])[0] == made[0].path
    packed.fold(tmp_path)


def test_what_another_process_uses_stays_until_it_ends(tmp_path: Path) -> None:
    task = prepare(SET, cache=tmp_path, on_problem=print)[0]
    packed.fold(tmp_path)
    program = "import sys; from pathlib import Path; from runtime.task import load_task\nload_task(Path(sys.argv[1]))\n"
    program += "print('up', flush=True); sys.stdin.readline()\n"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(task.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdin is not None and other.stdout is not None
        other.stdout.readline()
        packed.fold(tmp_path)
        assert (task.path / "task.toml").is_file()
        other.stdin.close()
        other.wait(30)
    assert not task.path.exists()  # it took away what it had taken out


def test_a_patch_is_shown_without_writing_into_the_run(tmp_path: Path) -> None:
    tasks = tuple(prepare(SET, cache=tmp_path / "runs" / "x", on_problem=print))
    run = make_run(tmp_path / "runs", tasks=tasks[:1], steps=1)
    (trial,) = list((run.path / "trials" / "0").glob("*/trial.json"))[:1]
    record = orjson.loads(trial.read_bytes())
    whole = read_patch(run.path, record)
    packed.fold(tmp_path)
    assert not tasks[0].path.exists()
    assert read_patch(run.path, record) == whole and not whole.missing
    assert not tasks[0].path.exists()


def test_names_that_lead_out_are_not_followed(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / packed.ARCHIVE, "w") as archive:
        archive.writestr("task/../../out/task.toml", "")
    with pytest.raises(zipfile.BadZipFile, match="leads out"):
        packed.unpack(tmp_path)


def test_a_damaged_archive_is_a_task_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / packed.ARCHIVE).write_bytes(b"no archive")
    with pytest.raises(TrialError, match=r"task: cannot be taken out of its set"):
        load_task(tmp_path / "task")
    assert packed.names(tmp_path) == []
    packed.fold(tmp_path)
