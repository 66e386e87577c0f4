"""What a run waits for can be read while it waits, and by its name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from runtime.telemetry.waits import overdue, read_waits, waiting


def test_a_wait_has_an_owner_a_name_and_a_deadline(tmp_path: Path) -> None:
    folder = tmp_path / "waits"
    assert read_waits(folder) == []
    with (
        waiting(folder, owner="trainer", what="8 groups of step 7", deadline_sec=3600),
        waiting(folder, owner="weight-sync", what="replica 3 to take version 17", deadline_sec=60),
    ):
        first, second = read_waits(folder)
        assert (
            second.words(second.since + 40)
            == "waiting 40 s for replica 3 to take version 17 (weight-sync; at most 60 s)"
        )
        assert first.words(first.since) == "waiting 0 s for 8 groups of step 7 (trainer; at most 60 min)"
    assert read_waits(folder) == []


def test_a_wait_ends_with_what_goes_wrong(tmp_path: Path) -> None:
    with pytest.raises(KeyError), waiting(tmp_path, owner="trainer", what="nothing", deadline_sec=1):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_the_waits_of_the_dead_are_left_out(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    wait = {"owner": "trainer", "what": "godot", "since": 0.0, "deadline_sec": 1.0, "pid": dead.pid}
    (tmp_path / "one.json").write_bytes(orjson.dumps(wait))
    (tmp_path / "two.json").write_bytes(b"{torn")
    assert read_waits(tmp_path) == []
    # Of another machine's process nobody here can tell.
    (tmp_path / "three.json").write_bytes(orjson.dumps({**wait, "kernel": "another boot 4026531836"}))
    assert [one.what for one in read_waits(tmp_path)] == ["godot"]


def test_the_last_word_names_what_was_waited_for() -> None:
    said = overdue("replica 3 to take version 17", owner="weight-sync", deadline_sec=600)
    assert said == "WaitedTooLong: weight-sync waited 600 s for replica 3 to take version 17"
