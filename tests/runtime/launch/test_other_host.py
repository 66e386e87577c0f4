"""A run of another host: believed while it gives signs of life, and no dead end when it gives none."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import UserError
from runtime.launch import ledger, lifecycle, local, rundir
from runtime.launch.rundir import SILENT_SEC, RunDirectory, refuse_living

# As an earlier version wrote it: no kernel, no sign of life.
OLD_RECORD = """{
 "run": "20240107-000000-000", "experiment": "exp", "target": "local", "kind": "train", "state": "running",
 "host": "laptop-yesterday", "pid": 12, "pid_start": 5, "start": "2024-01-07T00:00:00+00:00", "end": "",
 "phases": {}, "tasks": {}
}"""


@pytest.fixture
def old(tmp_path: Path) -> RunDirectory:
    folder = tmp_path / "runs" / "exp" / "20240107-000000-000"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(OLD_RECORD)
    (folder / "logs").mkdir()
    return RunDirectory(folder)


@pytest.fixture
def far(tmp_path: Path) -> RunDirectory:
    """A run that another machine goes on with, below a folder that both see."""
    directory = rundir.create(tmp_path / "runs", experiment="exp", target="local")
    directory.update(state="running", host="elsewhere", kernel="another boot")
    return directory


def _silence(directory: RunDirectory, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(directory.heartbeat, (then, then))


def test_a_record_under_an_old_name_can_be_stopped_and_resumed(old: RunDirectory, tmp_path: Path) -> None:
    assert ledger.entry(old).state == "lost"
    refuse_living(old)
    assert "was not running" in lifecycle.stop(old)
    record = old.read()
    assert (record.state, record.exit_code) == ("failed", 4) and "laptop-yesterday" in record.exit_cause


def test_what_lives_elsewhere_is_left_alone(far: RunDirectory) -> None:
    assert ledger.entry(far).state == "running"
    for attempt in (lifecycle.stop, refuse_living):
        with pytest.raises(UserError, match=r"host elsewhere, which gave a sign of life \d+ s ago"):
            attempt(far)
    assert lifecycle.tidy_all(far.runs_dir) == [] and far.read().state == "running"


def test_silence_ends_it_for_whoever_names_it(far: RunDirectory) -> None:
    _silence(far, SILENT_SEC + 60)
    assert lifecycle.tidy_all(far.runs_dir) == [], "it may be asleep: nobody asked"
    assert "was not running" in lifecycle.stop(far)
    assert "no sign of life for 6 minutes" in far.read().exit_cause


def test_a_new_name_of_this_machine_changes_nothing(tmp_path: Path) -> None:
    directory = rundir.create(tmp_path / "runs", experiment="exp", target="local")
    directory.update(state="running", host="the-name-of-another-network")
    assert directory.alive, "this very process owns it"
    directory.update(pid_start=1)
    assert not directory.alive and lifecycle.tidy(directory)


def test_an_owner_gives_signs_of_life(tmp_path: Path) -> None:
    directory = rundir.create(tmp_path / "runs", experiment="exp", target="local")
    _silence(directory, 1000)
    with lifecycle.running(directory):
        deadline = time.monotonic() + 20
        while (silent := directory.silent_sec()) is None or silent > 500:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_lost_run_ended_when_it_last_gave_a_sign(old: RunDirectory) -> None:
    """Not when somebody found it: days later it would have gone on for days."""
    for hours in (2, 3):
        then = datetime(2024, 1, 7, hours, tzinfo=UTC).timestamp()
        os.utime(old.record_file, (then, then))
        assert old.last_sign() == f"2024-01-07T0{hours}:00:00+00:00"
    lifecycle.stop(old)
    assert ledger.entry(old).seconds == 3 * 3600


def test_a_run_without_its_bundle_cannot_go_on_and_says_so(old: RunDirectory) -> None:
    with pytest.raises(UserError, match=r"bundle: verl.yaml, liverl.lock, runtime.json missing"):
        local.reopen(old)


def test_a_record_that_cannot_be_read_says_why_where_its_run_is_named(old: RunDirectory) -> None:
    old.record_file.write_text(OLD_RECORD.replace("2024-01-07T", "yesterday"))
    with pytest.raises(UserError, match=r"start: .* is no time"):
        ledger.find("exp/20240107-000000-000", runs_dir=old.runs_dir).read()


def test_a_clock_that_jumps_makes_no_living_run_lost(far: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are stamped by the file system's clock; what lies between two of them is no affair of this host's."""
    real = time.time
    for jump in (86_400.0, -86_400.0):
        monkeypatch.setattr(time, "time", lambda jump=jump: real() + jump)
        assert far.alive
    monkeypatch.undo()
    _silence(far, SILENT_SEC + 60)
    monkeypatch.setattr(time, "time", lambda: real() - 86_400.0)
    assert not far.alive


@pytest.mark.parametrize("change", [{"kernel": "another boot", "host": "elsewhere"}, {"state": "failed"}])
def test_who_was_asleep_leaves_the_run_to_whoever_took_it_over(
    tmp_path: Path, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "BEAT_SEC", 0.05)
    directory = rundir.create(tmp_path / "runs", experiment="exp", target="local")
    child = os.fork()
    if child == 0:
        with lifecycle.running(directory):
            time.sleep(60)
        os._exit(0)
    while directory.read().state != "running":
        time.sleep(0.01)
    directory.update(**change)
    taken = directory.record_file.read_bytes()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == lifecycle.TAKEN_OVER_CODE
    assert directory.record_file.read_bytes() == taken, "not a word of it is changed"
