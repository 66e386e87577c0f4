"""Run directories and the ledger over them."""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runtime.errors import UserError
from runtime.files import write_folder, write_whole
from runtime.launch import ledger, rundir
from runtime.launch.rundir import RunDirectory
from tests.runtime.rows import append_row


def _create(runs_dir: str) -> str:
    return rundir.create(Path(runs_dir), experiment="x", target="local").path.name


def test_run_ids_sort_by_age_and_never_clash(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(_create, [str(tmp_path)] * 64))
    assert len(set(names)) == 64
    later = _create(str(tmp_path))
    assert later == max([*names, later])


def test_the_record_survives_a_round_trip_and_unknown_fields(tmp_path: Path) -> None:
    directory = rundir.create(tmp_path, experiment="x", target="local", spec="a.jsonnet")
    directory.update(state="running", phases={"tasks": 1.5}, left_out=("a", "b"))
    raw = json.loads(directory.record_file.read_text())
    directory.record_file.write_text(json.dumps({**raw, "added_later": 1}))
    record = directory.read()
    assert (record.state, record.phases, record.left_out, record.spec) == (
        "running",
        {"tasks": 1.5},
        ("a", "b"),
        "a.jsonnet",
    )
    assert directory.alive and record.start and not record.end
    directory.finish("stopped", exit_code=130, cause="interrupted")
    assert directory.read().state == "stopped" and directory.read().end and not directory.alive


@pytest.mark.parametrize(
    "wrong",
    [{"step": 1}, {"run": None}, {"start": "yesterday"}, {"end": 5}, {"pid": "x"}, {"phases": []}, {"tasks": None}],
)
def test_a_record_that_is_no_record_is_a_user_error_and_ends_no_list(tmp_path: Path, wrong: dict[str, object]) -> None:
    good, bad = (rundir.create(tmp_path, experiment="x", target="local") for _ in range(2))
    raw = json.loads(bad.record_file.read_text())
    bad.record_file.write_text(json.dumps(wrong if "step" in wrong else {**raw, **wrong}))
    with pytest.raises(UserError, match="not a run directory"):
        RunDirectory(bad.path).read()
    assert [one.directory.path for one in ledger.runs(tmp_path)] == [good.path]
    (problem,) = ledger.unreadable(tmp_path)
    assert problem.startswith(f"{bad.path}: not a run directory (run.json: ")
    assert "step" in wrong or f"{next(iter(wrong))}: " in problem


def test_find_takes_paths_ids_prefixes_and_last(tmp_path: Path) -> None:
    first = rundir.create(tmp_path, experiment="a", target="local")
    second = rundir.create(tmp_path, experiment="b", target="local")
    found = [
        ledger.find(text, runs_dir=tmp_path).path
        for text in (str(first.path), first.path.name, f"a/{first.path.name}", "a/")
    ]
    assert found == [first.path] * 4
    assert ledger.find("last", runs_dir=tmp_path) == second
    with pytest.raises(UserError, match="matches 2 runs"):
        ledger.find(first.path.name[:4], runs_dir=tmp_path)
    with pytest.raises(UserError, match="matches no run"):
        ledger.find("nothing", runs_dir=tmp_path)
    with pytest.raises(UserError, match="liverl run"):
        ledger.find("last", runs_dir=tmp_path / "empty")


def test_status_joins_record_and_metrics(tmp_path: Path) -> None:
    directory = rundir.create(tmp_path, experiment="a", target="local")
    append_row(directory.metrics, 0, {"val-core/h/reward/mean@1": 0.2})
    append_row(directory.metrics, 3, {"critic/score/mean": 0.5})
    facts = ledger.status(directory)
    assert facts["state"] == "pending" and facts["alive"] and facts["step"] == 3 and facts["score"] == 0.5
    assert facts["validation"]["h"] == {"first": 0.2, "first_step": 0, "last": 0.2, "last_step": 0}
    json.dumps(facts)


def test_a_run_whose_process_is_gone_is_lost(tmp_path: Path) -> None:
    directory = rundir.create(tmp_path, experiment="a", target="local")
    ended = subprocess.Popen(["true"])
    ended.wait()
    directory.update(state="running", pid=ended.pid)
    (one,) = ledger.runs(tmp_path)
    assert one.state == "lost" and not one.directory.alive


def test_logs_are_listed_and_followed_to_the_end_of_the_run(tmp_path: Path) -> None:
    directory = rundir.create(tmp_path, experiment="a", target="local")
    log = directory.logs / "trainer.log"
    log.write_text("one\ntwo\nthree\n")
    directory.finish("succeeded", exit_code=0, cause="")
    assert ledger.log_files(directory) == [log]
    assert list(ledger.follow(log, directory=directory, lines=2, forever=True)) == ["two\n", "three\n"]


def test_files_and_folders_appear_whole(tmp_path: Path) -> None:
    write_whole(tmp_path / "f", b"1")
    write_whole(tmp_path / "f", b"2")
    assert (tmp_path / "f").read_bytes() == b"2"
    write_folder(tmp_path / "target", {"a": "1", "b/c": "2"})
    assert (tmp_path / "target/b/c").read_text() == "2"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f", "target"]
