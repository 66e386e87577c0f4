"""``liverl tasks prepare``: what it makes lies where the runs of the folder look."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from liverl.cli import build_app
from runtime.errors import UserError
from runtime.laptop.synth import write
from runtime.launch.rundir import RunDirectory
from runtime.tasks import prepare as sets
from tests.compiler.golden_cases import LAB
from tests.runtime.scaffolds.shell_trials import REPOSITORY


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    write(REPOSITORY, "train", 4, out=tmp_path / "mine")
    return tmp_path


def prepare(here: Path, *arguments: str) -> None:
    sets = json.dumps([{"name": "mine", "source": {"type": "directories", "paths": [str(here / "mine")]}}])
    line = ["tasks", "prepare", str(LAB), "--only", "mine", "--sandbox", "process", "--set", f"tasks.train={sets}"]
    build_app()([*line, *arguments], standalone_mode=False)


def test_runs_find_what_was_prepared(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a flag, in the folder of all runs; and where another folder is named, there."""
    places: list[Path] = []

    def watched(*arguments: Any, cache: Path, **more: Any) -> Any:
        places.append(cache)
        return made(*arguments, cache=cache, **more)

    made = sets.prepare
    monkeypatch.setattr(sets, "prepare", watched)
    prepare(here)
    assert "mine: 1 tasks, kept in runs/.cache" in capsys.readouterr().out
    prepare(here, "--runs-dir", "others")
    prepare(here, "--cache", "third")
    assert places == [Path("runs/.cache"), Path("others/.cache"), Path("third")]
    assert places[0] == RunDirectory(Path("runs/experiment/run")).cache


def test_a_set_is_copied_whole_and_over_nobodys(here: Path) -> None:
    prepare(here, "-o", "out")
    (task,) = (here / "out" / "mine").iterdir()
    assert (task / "task.toml").is_file() and [path.name for path in (here / "out").iterdir()] == ["mine"]
    with pytest.raises(UserError, match="is there already"):
        prepare(here, "-o", "out")


def test_two_at_a_time_do_not_harm_each_other(here: Path) -> None:
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda name: prepare(here, "-o", name), ("one", "two")))
    assert [len(list((here / name / "mine").iterdir())) for name in ("one", "two")] == [1, 1]
