"""A later verdict on kept work: what changed is said, the run's own records stay byte for byte."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from liverl import cli_tasks
from runtime.agent_loop.trial import TrialRunner
from runtime.config import Dumps, RuntimeConfig
from runtime.errors import UserError
from runtime.grading.work import Work, WorkStore
from runtime.sandboxes.entries import Entry, Folder, Link, Program, Removed
from runtime.task import Task
from tests.runtime.agent_loop.conftest import REPAIRED, TEST, Opened, make_config, make_key

STRICTER = TEST + b"    assert add(2, 2) == 5\n"


def play(opened: Opened, task: Task, run: Path, script: list[str], *, step: int, config: RuntimeConfig) -> None:
    async def main() -> None:
        async with opened(script, config) as (services, _):
            runner = TrialRunner(services, config, trials=run / "trials")
            for index in range(len(script) // 2):
                await runner.run(task, key=make_key(step=step, index=index), temperature=1.0)

    asyncio.run(main())


def call(*arguments: str) -> tuple[str, BaseException | None]:
    app = typer.Typer()
    cli_tasks.register(app)
    result = CliRunner().invoke(app, ["tasks", "regrade", *arguments, "--sandbox", "process"])
    return result.stdout, result.exception


def snapshot(run: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in run.rglob("*") if path.is_file() and "regrades" not in path.parts}


def test_many_trials_may_leave_the_same_work_at_once(tmp_path: Path) -> None:
    store = WorkStore(tmp_path)
    with ThreadPoolExecutor(16) as pool:
        for number in range(50):
            work = Work("calc", tmp_path, {"/app/calc.py": b"x" * 100_000 + str(number).encode()}, None)
            kept = list(pool.map(lambda work: store.put(work, max_bytes=1 << 20), [work] * 16))
            assert all(store.get(manifest) == work for manifest in kept)
    assert not list(tmp_path.rglob("*.partial"))


def test_changed_verdicts_are_shown_and_written_beside_the_run(opened: Opened, task: Task, tmp_path: Path) -> None:
    run = tmp_path / "run"
    play(opened, task, run, ["hm", "SOLVE", "hm", "SOLVE", "so", "BREAK"], step=3, config=make_config())
    before = snapshot(run)
    work = json.loads((run / "trials" / "3" / "calc.g.0" / "trial.json").read_text())["work"]
    assert list(work["files"]) == ["/app/calc.py"] and work["task_path"] == str(task.path)
    assert len([path for path in (run / "artifacts").rglob("*") if path.is_file()]) == 2, "equal work is kept once"

    out, error = call(str(run))
    assert error is None and "0 of 3 verdicts changed" in out

    # The verifier's copy of the tests is mended: two solutions turn out to be none.
    (task.path / "tests" / "files" / "tests" / "test_calc.py").write_bytes(STRICTER)
    out, error = call(str(run))
    assert error is None and "2 of 3 verdicts changed" in out
    assert "changed 3/calc.g.0: solved (1) -> unsolved (0)" in out
    assert snapshot(run) == before
    assert json.loads((run / "regrades" / "1" / "regrade.json").read_text())["changed"] == []
    second = json.loads((run / "regrades" / "2" / "regrade.json").read_text())
    assert [row["trial"] for row in second["changed"]] == ["calc.g.0", "calc.g.1"]
    assert second["mean_reward_then"] == pytest.approx(2 / 3) and second["mean_reward_now"] == 0.0
    assert len((run / "regrades" / "2" / "verdicts.jsonl").read_text().splitlines()) == 3
    assert b"add(2, 2) gave 4, want 5" in (run / "regrades" / "2" / "verifier" / "3" / "calc.g.0").read_bytes()


def test_what_is_not_kept_or_was_damaged_is_left_out_by_reason(opened: Opened, task: Task, tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = make_config().model_copy(update={"dump": Dumps(work_every=2)})
    play(opened, task, run, ["hm", "SOLVE"], step=1, config=config)
    with pytest.raises(UserError, match="1: its work was not kept"):
        raise call(str(run))[1] or AssertionError
    play(opened, task, run, ["hm", "SOLVE", "hm", "BREAK"], step=2, config=config)
    blob = next(p for p in (run / "artifacts").rglob("*") if p.is_file() and p.read_bytes() == REPAIRED)
    blob.write_bytes(b"def add(a, b):\n    return 3\n")
    out, error = call(str(run), "--json")
    assert error is None
    report = json.loads(out)
    assert report["trials"] == 1 and report["changed"] == []
    assert sorted(report["left_out"].values()) == [1, 1] and any("has changed" in why for why in report["left_out"])


def test_tasks_that_moved_are_found_and_missing_ones_named(opened: Opened, task: Task, tmp_path: Path) -> None:
    run = tmp_path / "run"
    play(opened, task, run, ["hm", "SOLVE"], step=1, config=make_config())
    task.path.parent.rename(tmp_path / "moved")
    out, error = call(str(run))
    assert error is None and "solved (1) -> no-grade: task_invalid" in out
    out, error = call(str(run), "--tasks", str(tmp_path / "moved"))
    assert error is None and "0 of 1 verdicts changed" in out


def test_names_that_are_no_text_and_sizes_over_the_limit(task: Task, tmp_path: Path) -> None:
    store = WorkStore(tmp_path / "artifacts")
    files: dict[str, Entry] = {"/app/\udcff\\x": b"1", "/app/zażółć\n": b"2", "/app/calc.py": REPAIRED}
    files |= {"/app/run": Program(b"3"), "/app/link": Link("calc.py"), "/app/new": Folder(), "/app/old": Removed()}
    work = Work(task.id, task.path, files)
    assert store.get(store.put(work, max_bytes=100)) == work
    small = store.get(store.put(work, max_bytes=10))
    assert small.files == {} and small.left_out is not None and "the limit is 10" in small.left_out
