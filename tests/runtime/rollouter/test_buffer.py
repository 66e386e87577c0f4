"""Nothing lost: the buffer's journal over every point at which the process may be killed. Of whole runs, killed again
and again, see ``tests/faults/test_crash_points.py``."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from runtime.rollouter import record_log
from runtime.rollouter.buffer import DataBuffer, Slot
from runtime.rollouter.record_log import RecordLog, read_records
from tests.runtime.rollouter.crashes import GROUPS, SAVE_EVERY, SIZE, STEPS, World, check, run_with_kills

SLOT = Slot("train", "task", 1)


def open_group(path: Path, *, name: str = "g", slot: Slot = SLOT) -> DataBuffer:
    buffer = DataBuffer(path)
    buffer.recover(0)
    buffer.reserve(name, slot)
    return buffer


@pytest.mark.parametrize("lag", [0, 1], ids=["synchronous", "ahead"])
@pytest.mark.parametrize("power", [False, True], ids=["killed", "power cut"])
def test_killed_at_any_write_a_group_is_trained_once_or_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lag: int, power: bool
) -> None:
    world = World(tmp_path / "whole", lag)
    state, writes = run_with_kills(world, [], power=power, patch=monkeypatch)
    check(world, state, resumed_from="never killed")
    assert sum(world.played.values()) == STEPS * GROUPS * SIZE and not state["buffer"].lost
    for at in range(1, writes + 1):
        world = World(tmp_path / str(at), lag)
        state, _ = run_with_kills(world, [at], power=power, patch=monkeypatch)
        check(world, state, resumed_from=f"write {at}")
        # Played again: what was not acknowledged, and what had come from weights that are no more.
        again = sum(world.played.values()) - STEPS * GROUPS * SIZE
        assert again <= 1 + (SAVE_EVERY - 1) * GROUPS * SIZE
        assert again >= sum(len(one.trials) for one in state["buffer"].lost)


def test_a_group_is_never_taken_twice(tmp_path: Path) -> None:
    buffer = open_group(tmp_path / "log")
    buffer.taken(["g"], step=1)
    with pytest.raises(ValueError, match=r"group g is taken already \(step 1\)"):
        buffer.taken(["g"], step=2)


def test_a_trial_is_kept_once(tmp_path: Path) -> None:
    buffer = open_group(tmp_path / "log")
    assert buffer.put("g", 0, b"first", versions=(0, 0)) is not None
    assert buffer.put("g", 0, b"second", versions=(0, 0)) is None
    assert buffer.claim("g", 0) == b"first"


def test_what_was_dropped_after_the_checkpoint_is_open_again(tmp_path: Path) -> None:
    buffer = open_group(tmp_path / "log")
    buffer.commit(buffer.put("g", 0, b"trial", versions=(0, 0)))
    buffer.dropped(["g"], step=3, reason="stale")
    assert buffer.state("g") == ("dropped", 3)
    buffer.recover(3)
    assert buffer.state("g") == ("dropped", 3)
    buffer.recover(2)
    assert buffer.state("g") == ("open", 0)


def test_a_dropped_group_that_is_given_out_again_is_open(tmp_path: Path) -> None:
    """A prompt that was given out two steps ahead ends without a grade after a checkpoint that holds it as running:
    the drop counts for the prompt's step, which the checkpoint has, and whoever goes on from there plays it again."""
    buffer = open_group(tmp_path / "log")
    for index, version in enumerate((1, 4)):
        buffer.commit(buffer.put("g", index, b"trial", versions=(version, version)))
    buffer.dropped(["g"], step=2, reason="too few of its trials have a grade")
    buffer.close()
    again = DataBuffer(tmp_path / "log")
    again.recover(3)
    assert again.state("g") == ("dropped", 2)
    again.reserve("g", SLOT)
    assert again.claim("g", 0) == b"trial" and again.claim("g", 1) is None, "of weights that are no more"
    again.taken(["g"], step=4)
    again.close()
    assert DataBuffer(tmp_path / "log").state("g") == ("taken", 4)


def test_trials_that_nobody_asks_for_again_are_reported(tmp_path: Path) -> None:
    buffer = open_group(tmp_path / "log")
    buffer.commit(buffer.put("g", 0, b"trial", versions=(0, 0)))
    buffer.close()
    buffer = DataBuffer(tmp_path / "log")
    assert buffer.recover(0) == []
    assert buffer.taken([], step=2) == []
    (lost,) = buffer.taken([], step=3)
    assert (lost.group, lost.trials) == ("g", (0,)) and "nobody asked" in lost.reason
    assert buffer.stats() == {"lost": 1, "lost_trials": 1}


def test_what_a_checkpoint_brings_back_is_not_given_to_others(tmp_path: Path) -> None:
    buffer = open_group(tmp_path / "log")
    buffer.commit(buffer.put("g", 0, b"trial", versions=(0, 0)))
    buffer.recover(0, restored=["g"])
    buffer.reserve("other", SLOT)
    assert buffer.claim("other", 0) is None
    buffer.taken(["g"], step=9)
    assert not buffer.lost


def test_the_file_is_written_anew_without_what_is_final(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.rollouter.buffer._COMPACT_BYTES", 10_000)
    path = tmp_path / "log"
    buffer = open_group(path)
    buffer.commit(buffer.put("g", 0, b"trial", versions=(0, 0)))
    buffer.recover(0)  # and nobody asks for it again
    for step in range(1, 30):
        buffer.reserve(f"g{step}", Slot("train", "task", step))
        buffer.commit(buffer.put(f"g{step}", 0, bytes(1000), versions=(step - 1, step - 1)))
        if step < 29:
            buffer.taken([f"g{step}"], step=step)
        buffer.saved(step - 1)
    assert path.stat().st_size < 20_000
    assert buffer.stats()["lost_trials"] == 1
    assert buffer.claim("g29", 0) == bytes(1000) and buffer.claim("g28", 0) == bytes(1000)
    buffer.close()
    again = DataBuffer(path)
    assert again.state("g28") == ("taken", 28) and again.state("g29") == ("open", 0)
    assert again.claim("g29", 0) == bytes(1000)
    assert again.stats()["lost_trials"] == 1, "what became of them is not forgotten with their groups"


def test_payloads_are_on_disk_alone(tmp_path: Path) -> None:
    """Also those that no commit has written, and those that a new file has in other places."""
    buffer = open_group(tmp_path / "log")
    payloads = [bytes([index]) * (100 + index) for index in range(4)]
    for index in (0, 1):
        number = buffer.put("g", index, payloads[index], versions=(0, 0))
    buffer.commit(number)
    for index in (2, 3):
        buffer.put("g", index, payloads[index], versions=(0, 0))
    assert [buffer.claim("g", index) for index in range(4)] == payloads
    buffer.commit()
    held = [value for kept in buffer._groups["g"].trials.values() for value in vars(kept).values()]
    assert len(held) == 12 and not any(isinstance(value, bytes) for value in held)
    assert not buffer._log._pending and not buffer._log._flying
    assert [buffer.claim("g", index) for index in range(4)] == payloads


@pytest.mark.parametrize("damage", ["torn", "flipped", "rubbish", "zeros"])
def test_a_damaged_end_is_cut_off_and_the_rest_is_read(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "log"
    log = RecordLog(path)
    for number in range(3):
        log.append(b"record %d" % number)
    log.close()
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[-1] ^= 1
    behind = {"rubbish": b"\xff" * 7, "zeros": bytes(4096)}.get(damage, b"")
    path.write_bytes(content[:-3] if damage == "torn" else content + behind)
    kept = 3 if behind else 2
    assert list(read_records(path)) == [b"record %d" % number for number in range(kept)]
    log = RecordLog(path)
    log.append(b"next")
    log.close()
    assert list(read_records(path)) == [*(b"record %d" % number for number in range(kept)), b"next"]
    assert list(tmp_path.iterdir()) == [path]


def test_what_lies_behind_a_damaged_record_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "log"
    for name in ("log.damaged", "log.1.damaged"):
        log = RecordLog(path)
        for number in range(3):
            log.append(b"record %d" % number)
        log.close()
        content = bytearray(path.read_bytes())
        content[8] ^= 1
        path.write_bytes(content)
        caplog.clear()
        RecordLog(path).close()
        assert path.read_bytes() == b"" and (tmp_path / name).read_bytes() == content
        assert f"damaged at byte 0: {len(content)} bytes" in caplog.text and name in caplog.text


def test_a_record_that_could_not_be_read_back_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_log, "_LONGEST", 10)
    log = RecordLog(tmp_path / "log")
    for record in (b"", bytes(11)):
        with pytest.raises(ValueError, match=r"a record of \d+ bytes; allowed are 1 to 10"):
            log.append(record)
    log.append(b"x" * 10)
    log.close()
    assert list(read_records(tmp_path / "log")) == [b"x" * 10]


def test_on_a_full_disk_a_commit_fails_and_the_next_one_makes_it_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        full = True

        def write(self, file: int, block: memoryview) -> int:
            if self.full and len(block) < 8:
                raise OSError(errno.ENOSPC, "No space left on device")
            return os.write(file, block[:5])

        def __getattr__(self, name: str) -> object:
            return getattr(os, name)

    disk = Full()
    path = tmp_path / "log"
    log = RecordLog(path)
    log.append(b"before")
    log.commit()
    monkeypatch.setattr(record_log, "os", disk)
    number = log.append(b"during")
    with pytest.raises(OSError, match="No space"):
        log.commit(number)
    assert list(read_records(path)) == [b"before"]
    disk.full = False
    log.commit(number)
    assert list(read_records(path)) == [b"before", b"during"]
