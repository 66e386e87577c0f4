"""The index of a run's trials: what it lists is what the folders say, whatever became of it or of them."""

from __future__ import annotations

import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from runtime.agent_loop.types import TrialKey
from runtime.report import trials as index
from runtime.report.trials import SORTS, TrialFilter, TrialIndex
from tests.run_directories import MadeRun, make_run, write_one


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeRun:
    return make_run(tmp_path_factory.mktemp("index") / "runs")


@pytest.fixture
def run(made: MadeRun, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made.path, tmp_path / "run", symlinks=True))


def _records(run: Path) -> dict[tuple[int, str], dict[str, object]]:
    return {
        (int(path.parts[-3]), path.parent.name): orjson.loads(path.read_bytes())
        for path in run.glob("trials/*/*/trial.json")
    }


def _listed(run: Path) -> dict[tuple[int, str], float | None]:
    with TrialIndex(run) as trials:
        return {(row.step, row.trial_id): row.reward for row in trials.rows()}


def _true(run: Path) -> dict[tuple[int, str], object]:
    return {name: record["reward"] for name, record in _records(run).items()}


def test_rows_are_written_as_the_run_goes(made: MadeRun) -> None:
    with sqlite3.connect(made.path / "trials" / index.INDEX) as database:
        (count,) = database.execute("SELECT count(*) FROM trials").fetchone()
    database.close()
    assert count == len(_records(made.path)) == 3 * 3 * 4 + 4 * 3


def test_a_row_says_what_the_record_says(made: MadeRun) -> None:
    records = _records(made.path)
    with TrialIndex(made.path) as trials:
        rows = trials.rows()
        assert trials.count() == len(rows) == len(records)
    for row in rows:
        record = records[row.step, row.trial_id]
        for name in ("task", "task_set", "group", "index", "attempt", "validation", "reward", "verdict", "started"):
            assert getattr(row, name) == record[name], name
        assert row.seconds == record["timings"]["total"] and row.completion_tokens == record["completion_tokens"]  # type: ignore[index]
        assert row.problem == record["error"]


@pytest.mark.parametrize(
    ("wanted", "keep"),
    [
        (TrialFilter(task="calc-1"), lambda record: record["task"] == "calc-1"),
        (TrialFilter(task="calc-[12]*"), lambda record: record["task"] in ("calc-1", "calc-2")),
        (TrialFilter(step=2, validation=False), lambda record: record["step"] == 2 and not record["validation"]),
        (TrialFilter(failed=True), lambda record: record["reward"] is None),
        (TrialFilter(verdict="solved"), lambda record: record["reward"] == 1.0),
        (TrialFilter(reward_min=0.5, task_set="train"), lambda one: (one["reward"], one["task_set"]) == (1, "train")),
        (TrialFilter(reward_max=0.0), lambda record: record["reward"] == 0.0),
        (TrialFilter(termination="sandbox_lost"), lambda record: record["termination"] == "sandbox_lost"),
        (TrialFilter(words="box is gone"), lambda record: record["error"] is not None),
        (TrialFilter(task="' OR 1 --"), lambda record: False),
    ],
    ids=lambda value: "" if callable(value) else str(value),  # a function's text is another one in each process
)  # fmt: skip
def test_filters(made: MadeRun, wanted: TrialFilter, keep: object) -> None:
    expected = {name for name, record in _records(made.path).items() if keep(record)}  # type: ignore[operator]
    with TrialIndex(made.path) as trials:
        assert {(row.step, row.trial_id) for row in trials.rows(wanted)} == expected
        assert trials.count(wanted) == len(expected)


def test_every_sort_orders_and_pages(made: MadeRun) -> None:
    with TrialIndex(made.path) as trials:
        for name in SORTS:
            rows = trials.rows(sort=name, descending=True)
            pages = [
                row
                for start in range(0, 60, 7)
                for row in trials.rows(sort=name, descending=True, limit=7, offset=start)
            ]
            assert pages == rows, name
        rewards = [row.reward for row in trials.rows(sort="reward", descending=True)]
    assert rewards == [*sorted([reward for reward in rewards if reward is not None], reverse=True), None]


@pytest.mark.parametrize("settled", [True, False])
@pytest.mark.parametrize("harm", ["missing", "damaged", "other version", "stale rows", "no table"])
def test_an_index_that_is_wrong_is_made_right(
    run: Path, harm: str, settled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "_SETTLED_NS", 0 if settled else 1 << 60)
    path = run / "trials" / index.INDEX
    _listed(run)
    if harm == "missing":
        path.unlink()
    elif harm == "damaged":
        path.write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    else:
        database = sqlite3.connect(path)
        statement = {
            "other version": "PRAGMA user_version = 99",
            "stale rows": "UPDATE trials SET step = 9, reward = 1 WHERE step = 1",
            "no table": "DROP TABLE steps",
        }[harm]
        database.executescript(statement)
        database.close()
    assert _listed(run) == _true(run)


def test_folders_that_come_go_and_change_are_seen(made: MadeRun, run: Path) -> None:
    with TrialIndex(run) as trials:
        before = trials.count()
        gone = run / "trials" / "2"
        # A resume sets the trials of a step aside; another attempt then writes it anew.
        shutil.move(gone, run / "aside")
        trials.refresh()
        assert trials.count(TrialFilter(step=2)) == 0 and trials.count() < before
        directory = replace(made.directory, path=run)
        key = TrialKey(task="calc-0", task_set="train", step=2, group="g", index=0)
        folder = write_one(directory, made.tasks[0], key, solved=False)
        (run / "trials" / index.INDEX).rename(run / "trials" / "kept")  # this one the index is not told of
        write_one(directory, made.tasks[0], replace(key, index=1), solved=True)
        (run / "trials" / "kept").replace(run / "trials" / index.INDEX)
        assert trials.one(f"2/{folder.name}") is not None
    assert _listed(run) == _true(run)
    write_one(directory, made.tasks[0], key, solved=True)
    assert _listed(run)[2, folder.name] == 1.0


def test_a_record_that_cannot_be_read_is_listed_as_such(run: Path) -> None:
    victims = sorted((run / "trials" / "1").glob("calc*"))
    (victims[0] / "trial.json").write_text("{")
    (victims[1] / "trial.json").unlink()
    (run / "trials" / index.INDEX).unlink()
    with TrialIndex(run) as trials:
        rows = {row.trial_id: row for row in trials.rows(TrialFilter(step=1, failed=True))}
    for victim in victims[:2]:
        assert "trial.json cannot be read" in (rows[victim.name].problem or "")


def test_where_no_index_can_be_written_the_folders_are_read(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "_WAIT_SEC", 0.01)
    path = run / "trials" / index.INDEX
    shutil.move(run / "trials" / "1", run / "aside")
    writer = sqlite3.connect(path)
    writer.execute("BEGIN EXCLUSIVE")
    try:
        assert _listed(run) == _true(run)
    finally:
        writer.close()
    path.unlink()
    path.mkdir()
    assert _listed(run) == _true(run)


def test_a_run_without_trials_has_none(tmp_path: Path) -> None:
    with TrialIndex(tmp_path) as trials:
        assert trials.rows() == [] and trials.count() == 0 and trials.one("x") is None


def test_names_siblings_counts_and_grid(made: MadeRun) -> None:
    with TrialIndex(made.path) as trials:
        row = trials.rows(TrialFilter(step=1, validation=False, task="calc-1"))[0]
        assert trials.one(row.trial_id) == trials.one(f"1/{row.trial_id}") == row
        assert trials.one("2/" + row.trial_id) is None
        assert row in trials.beginning("calc-1.train-1")
        siblings = trials.siblings(row)
        assert len(siblings) == 4 and row in siblings and {one.group for one in siblings} == {row.group}
        assert trials.folder(row).is_dir()
        assert trials.counts("termination") == {"agent_completed": 47, "sandbox_lost": 1}
        assert trials.counts("step") == {"1": 15, "2": 15, "3": 15, "0": 3}
        grid = trials.grid(TrialFilter(validation=False))
        assert sum(count for _, _, count, _ in grid) == 35 and all(0 <= share <= 1 for *_, share in grid)
