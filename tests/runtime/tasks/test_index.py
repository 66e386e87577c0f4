"""The task index and its difficulty filter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from liverl import cli_tasks
from runtime.config import DirectorySource, IndexSource, PassRate, TaskSet
from runtime.errors import UserError
from runtime.task import load_task
from runtime.tasks.index import oracle_seconds, parse_band, pass_rates, read_index, write_index
from runtime.tasks.prepare import prepare
from tests.runtime.tasks.test_write import write_shop


def write_trials(run: Path, rewards: dict[str, list[float | None]]) -> Path:
    for task, values in rewards.items():
        for i, reward in enumerate(values):
            folder = run / "trials" / "0" / f"{task}-{i}"
            folder.mkdir(parents=True)
            (folder / "trial.json").write_text(json.dumps({"task": task, "reward": reward}))
    return run


def test_rows_point_at_tasks_and_carry_pass_rates(tmp_path: Path) -> None:
    tasks = [load_task(write_shop(tmp_path / "tasks", name)) for name in ("easy", "even", "new")]
    rates = pass_rates([write_trials(tmp_path / "run", {"easy": [1, 1], "even": [1, 0, None], "gone": [1]})])
    out = tmp_path / "deep" / "index.parquet"
    assert write_index(tasks, out, rates=rates) == 3
    rows = {row["id"]: row for row in read_index(out)}
    assert (rows["easy"]["pass_rate"], rows["easy"]["trials"]) == (1.0, 2)
    assert (rows["even"]["pass_rate"], rows["even"]["trials"]) == (0.5, 2)
    assert (rows["new"]["pass_rate"], rows["new"]["trials"]) == (None, 0)
    assert load_task(Path(str(rows["new"]["path"]))) == tasks[2]
    assert rows["new"]["fail_to_pass"] == 1
    assert write_index(tasks, out, rates=rates, band=parse_band("0.1:0.9")) == 1
    assert [row["id"] for row in read_index(out)] == ["even"]
    assert [path.name for path in out.parent.iterdir()] == ["index.parquet"]


@pytest.mark.parametrize("text", ["", "0.5", "0.9:0.1", "-1:1", "0:2", "a:b", "0:1:2", "nan:1"])
def test_bad_bands(text: str) -> None:
    with pytest.raises(UserError, match="LO:HI"):
        parse_band(text)


def test_open_bands() -> None:
    assert 1.0 in parse_band("0.5:") and 0.0 in parse_band(":0.5") and 0.4 not in parse_band("0.5:")


def test_what_is_no_run_or_no_index_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"trial\.json"):
        pass_rates([tmp_path])
    (tmp_path / "x.parquet").write_text("no")
    with pytest.raises(UserError, match="not a task index"):
        read_index(tmp_path / "x.parquet")


@pytest.mark.parametrize(
    "text",
    ["[]", "{", '{"tasks": 3}', '{"tasks": [3]}', '{"tasks": [{"path": "x", "checks": {"a": 1}}]}', "[" * 100_000],
)
def test_a_report_of_something_else_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(UserError, match=r"report\.json: not a report of"):
        oracle_seconds([tmp_path / "report.json"])


def test_records_that_are_no_grades_do_not_count(tmp_path: Path) -> None:
    """What a killed run or a hand left among the trials: no task, no number, no file."""
    run = write_trials(tmp_path / "run", {"mine": [1, 0]})
    for place, text in enumerate(["[]", '{"reward": 1}', '{"task": "mine", "reward": true}', "NaN", '{"task": "mi']):
        (folder := run / "trials" / "0" / f"odd-{place}").mkdir()
        (folder / "trial.json").write_text(text)
    (run / "trials" / "0" / "nan").mkdir()
    (run / "trials" / "0" / "nan" / "trial.json").write_text('{"task": "mine", "reward": NaN}')
    (run / "trials" / "0" / "folder" / "trial.json").mkdir(parents=True)
    assert {task: (rate.trials, rate.mean) for task, rate in pass_rates([run]).items()} == {"mine": (2, 0.5)}


def test_the_command_says_what_it_does_not_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    task = write_shop(tmp_path / "tasks", "imaged")
    toml = task / "task.toml"
    toml.write_text(toml.read_text().replace("[environment]", '[environment]\ndocker_image = "registry.invalid/x:1"'))
    write_shop(tmp_path / "tasks", "plain")
    run = write_trials(tmp_path / "other", {"elsewhere": [1]})
    app = typer.Typer()
    cli_tasks.register(app)
    result = CliRunner().invoke(app, ["tasks", "index", "tasks", "-o", "i.parquet", "--trials", str(run)])
    assert result.exit_code == 0, result.output
    assert "1 tasks without digest and size of their image" in result.output and "imaged" in result.output
    assert "no task has a pass rate" in result.output
    result = CliRunner().invoke(app, ["tasks", "index", "tasks", "-o", "j.parquet", "--trials", "last"])
    assert isinstance(result.exception, UserError) and "no runs here" in str(result.exception)
    assert not (tmp_path / "j.parquet").exists()


@pytest.mark.sandbox
def test_a_task_set_takes_its_band_from_the_index(tmp_path: Path) -> None:
    """As a run prepares it: the tasks that are sometimes solved, screened like any others."""
    names = ("always", "sometimes", "never", "unknown")
    tasks = [load_task(write_shop(tmp_path / "tasks", name)) for name in names]
    rates = pass_rates([write_trials(tmp_path / "run", {"always": [1, 1], "sometimes": [1, 0], "never": [0, 0]})])
    out = tmp_path / "index.parquet"
    write_index(tasks, out, rates=rates)

    def prepared(band: PassRate | None) -> list[str]:
        task_set = TaskSet(name="mine", source=IndexSource(path=str(out), pass_rate=band))
        return [task.id for task in prepare(task_set, cache=tmp_path / "cache", on_problem=problems.append)]

    problems: list[str] = []
    assert prepared(PassRate(least=0.1, most=0.9)) == ["sometimes"]
    assert prepared(PassRate(least=0.0, most=0.9)) == ["sometimes", "never"]
    assert prepared(None) == list(names)
    limited = IndexSource(path=str(out), pass_rate=PassRate(least=0.0, most=0.9), limit=1)
    found = prepare(TaskSet(name="mine", source=limited), cache=tmp_path / "cache", on_problem=problems.append)
    assert [task.id for task in found] == ["sometimes"]
    folders = DirectorySource(paths=(str(tmp_path / "tasks"),), limit=3)
    found = prepare(TaskSet(name="mine", source=folders), cache=tmp_path / "cache", on_problem=problems.append)
    assert [task.id for task in found] == ["always", "never", "sometimes"], "in order of name"
    with pytest.raises(UserError, match="3 have a pass rate"):
        prepared(PassRate(least=0.6, most=0.9))
    assert problems == []
    (tmp_path / "tasks" / "sometimes").rename(tmp_path / "elsewhere")
    assert prepared(PassRate(least=0.1, most=0.9)) == [] and len(problems) == 1
