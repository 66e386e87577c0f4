"""The data buffer: each trial once, whole groups, bounded, fresh, and all of it again after a crash at any byte."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from runtime.errors import RunError
from runtime.rollouter.buffer import BufferFull, DataBuffer, TrialKey

ROOT = Path(__file__).parents[3]


def fill(buffer: DataBuffer, group: str, *, version: int = 0, members: int = 2) -> None:
    for index in range(members):
        assert buffer.put(TrialKey("task", group, index), {"reward": index}, weight_version=version)


def test_groups_come_whole_and_in_order(tmp_path: Path) -> None:
    buffer = DataBuffer(None, capacity=10, group_size=2)
    buffer.put(TrialKey("task", "early", 1), {}, weight_version=0)
    fill(buffer, "a")
    fill(buffer, "b")
    assert buffer.ready() == 2
    (group,) = buffer.take(1)
    assert (group.group, [entry.payload["reward"] for entry in group.entries]) == ("a", [0, 1])
    buffer.put(TrialKey("task", "early", 0), {}, weight_version=0)
    assert [group.group for group in buffer.take(5)] == ["early", "b"]
    assert buffer.take(5) == []


def test_a_member_is_kept_once_whatever_its_attempt() -> None:
    buffer = DataBuffer(None, capacity=10, group_size=2)
    assert buffer.put(TrialKey("task", "a", 0, attempt=1), {"reward": 1}, weight_version=0)
    assert not buffer.put(TrialKey("task", "a", 0, attempt=1), {"reward": 0}, weight_version=0)
    assert not buffer.put(TrialKey("task", "a", 0, attempt=2), {"reward": 0}, weight_version=0)
    buffer.put(TrialKey("task", "a", 1), {}, weight_version=0)
    (group,) = buffer.take(1)
    assert group.entries[0].payload == {"reward": 1}
    assert not buffer.put(TrialKey("task", "a", 0, attempt=3), {}, weight_version=0)
    buffer.acknowledge([group])
    assert not buffer.put(TrialKey("task", "a", 0, attempt=4), {}, weight_version=0)
    assert len(buffer) == 0
    with pytest.raises(KeyError):
        buffer.acknowledge([group])


def test_it_is_bounded_until_groups_are_acknowledged() -> None:
    buffer = DataBuffer(None, capacity=2, group_size=2)
    fill(buffer, "a")
    with pytest.raises(BufferFull):
        buffer.put(TrialKey("task", "b", 0), {}, weight_version=0)
    groups = buffer.take(1)
    with pytest.raises(BufferFull):
        buffer.put(TrialKey("task", "b", 0), {}, weight_version=0)
    buffer.acknowledge(groups)
    fill(buffer, "b")


def test_stale_groups_are_dropped_for_good_and_counted(tmp_path: Path) -> None:
    buffer = DataBuffer(tmp_path / "journal", capacity=10, group_size=2)
    fill(buffer, "old", version=3)
    fill(buffer, "new", version=4)
    buffer.put(TrialKey("task", "partial", 0), {}, weight_version=2)
    assert [group.group for group in buffer.take(5, oldest_version=4)] == ["new"]
    assert buffer.dropped_stale == 2
    assert TrialKey("task", "partial", 1) in buffer
    buffer.close()
    again = DataBuffer(tmp_path / "journal", capacity=10, group_size=2)
    assert [group.group for group in again.take(5)] == ["new"]
    again.close()


def test_a_torn_last_line_is_cut_and_damage_above_is_an_error(tmp_path: Path) -> None:
    journal = tmp_path / "deep" / "journal"
    buffer = DataBuffer(journal, capacity=10, group_size=2)
    fill(buffer, "a")
    fill(buffer, "b")
    buffer.close()
    whole = journal.read_bytes()
    first = whole.index(b"\n") + 1
    for length in range(first, len(whole) + 1):
        journal.write_bytes(whole[:length])
        again = DataBuffer(journal, capacity=10, group_size=2)
        # A line that lacks only its newline is complete.
        lines = whole[: length + 1].count(b"\n") if whole[length : length + 1] == b"\n" else whole[:length].count(b"\n")
        assert len(again) == lines - 1
        again.close()
    journal.write_bytes(whole.replace(b'"b"', b'"c"', 1))
    with pytest.raises(RunError, match=r"journal:4: damaged line"):
        DataBuffer(journal, capacity=10, group_size=2)


def test_kill_9_loses_nothing_that_put_returned_for(tmp_path: Path) -> None:
    program = f"""
from runtime.rollouter.buffer import DataBuffer, TrialKey
from pathlib import Path
buffer = DataBuffer(Path({str(tmp_path / "journal")!r}), capacity=10**6, group_size=2)
number = 0
while True:
    buffer.put(TrialKey("task", str(number // 2), number % 2), {{"tokens": list(range(500))}}, weight_version=0)
    number += 1
    print(number, flush=True)
"""
    child = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    for line in child.stdout:
        if int(line) > 200:
            break
    os.kill(child.pid, signal.SIGKILL)
    stored = max([201, *map(int, child.stdout.read().split("\n")[:-1])])
    child.stdout.close()
    child.wait()
    buffer = DataBuffer(tmp_path / "journal", capacity=10**6, group_size=2)
    assert len(buffer) in (stored, stored + 1)
    groups = buffer.take(10**6)
    assert all(len(entry.payload["tokens"]) == 500 for group in groups for entry in group.entries)
    buffer.close()


@settings(max_examples=40, stateful_step_count=30, deadline=None)
class BufferMachine(RuleBasedStateMachine):
    """Against a plain model: ``stored`` trials by group in order of arrival, groups ``taken``, groups ``ended``."""

    @initialize(capacity=st.integers(2, 9))
    def start(self, capacity: int) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.journal = Path(self.folder.name) / "journal"
        self.capacity = capacity
        self.stored: dict[str, dict[int, int]] = {}
        self.taken: dict[str, dict[int, int]] = {}
        self.ended: set[str] = set()
        self.open()

    def open(self) -> None:
        self.buffer = DataBuffer(self.journal, capacity=self.capacity, group_size=2)

    def size(self) -> int:
        return sum(map(len, [*self.stored.values(), *self.taken.values()]))

    @rule(
        group=st.sampled_from("abcdef"), index=st.integers(0, 1), attempt=st.integers(0, 2), version=st.integers(0, 5)
    )
    def put(self, group: str, index: int, attempt: int, version: int) -> None:
        key = TrialKey("task", group, index, attempt)
        if group in self.ended or group in self.taken or index in self.stored.get(group, {}):
            assert key in self.buffer
            assert not self.buffer.put(key, {}, weight_version=version)
        elif self.size() >= self.capacity:
            with pytest.raises(BufferFull):
                self.buffer.put(key, {}, weight_version=version)
        else:
            assert self.buffer.put(key, {"version": version}, weight_version=version)
            self.stored.setdefault(group, {})[index] = version

    @rule(count=st.integers(0, 3), oldest=st.none() | st.integers(0, 5))
    def take(self, count: int, oldest: int | None) -> None:
        stale = {name for name, versions in self.stored.items() if min(versions.values()) < (oldest or 0)}
        for name in stale:
            del self.stored[name]
        self.ended |= stale
        whole = [name for name, versions in self.stored.items() if len(versions) == 2][:count]
        groups = self.buffer.take(count, oldest_version=oldest)
        assert [group.group for group in groups] == whole
        for group in groups:
            versions = self.taken[group.group] = self.stored.pop(group.group)
            assert {entry.key.index: entry.weight_version for entry in group.entries} == versions
            assert all(entry.payload == {"version": entry.weight_version} for entry in group.entries)

    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        names = data.draw(st.lists(st.sampled_from(sorted(self.taken)), unique=True)) if self.taken else []
        held = self.buffer._taken
        self.buffer.acknowledge([held["task", name] for name in names])
        for name in names:
            del self.taken[name]
        self.ended |= set(names)

    @rule(torn=st.binary(max_size=12).filter(lambda tail: b"\n" not in tail))
    def crash(self, torn: bytes) -> None:
        """What was taken and not acknowledged comes back; it keeps its place by order of arrival."""
        self.buffer.close()
        with self.journal.open("ab") as file:
            file.write(torn)
        arrived = self.arrivals()
        self.open()
        everything = self.stored | self.taken
        self.stored = {name: everything[name] for name in arrived if name in everything}
        self.taken = {}

    def arrivals(self) -> list[str]:
        import re

        return list(dict.fromkeys(re.findall(r'"group":"(\w)"', self.journal.read_bytes().decode(errors="replace"))))

    @invariant()
    def sizes_agree(self) -> None:
        assert len(self.buffer) == self.size() <= self.capacity
        assert self.buffer.ready() == sum(len(versions) == 2 for versions in self.stored.values())

    def teardown(self) -> None:
        if hasattr(self, "buffer"):
            self.buffer.close()
            self.folder.cleanup()


TestBufferMachine = BufferMachine.TestCase
