"""Finished trials on their way to whoever uses them: each kept once, handed out by whole groups, and not lost by a
crash.

Payloads are opaque JSON objects; this module does not know trajectories, rewards or the trainer. Single-threaded and
synchronous.

Journal: one line per event, ``<crc32 of the JSON> <JSON>``, appended with one unbuffered write each, so that it
survives ``kill -9`` (the kernel holds it; pass ``fsync`` to survive the machine as well). A torn last line is cut off;
damage further up is an error. Groups that were taken but not acknowledged come back after a restart: delivery is at
least once, and exactly once for whoever stores the acknowledgement with its own state.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from runtime.errors import RunError


class BufferFull(Exception):
    """No room for another trial: take groups first. Nothing was stored."""


@dataclass(frozen=True, order=True)
class TrialKey:
    """Which trial: the ``attempt``-th start of member ``index`` of a group of trials of one task."""

    task: str
    group: str
    index: int
    attempt: int = 0


@dataclass(frozen=True)
class Entry:
    """A finished trial. ``weight_version`` is the oldest that produced one of its tokens."""

    key: TrialKey
    weight_version: int
    payload: Mapping[str, Any]


@dataclass(frozen=True)
class Group:
    """All members of one group, one entry per index, in order of index."""

    task: str
    group: str
    entries: tuple[Entry, ...]


class DataBuffer:
    """At most ``capacity`` trials that nobody has acknowledged; a group is complete with ``group_size`` different
    indexes.

    ``journal`` None keeps everything in memory only. Raises ``RunError`` when an existing journal is damaged.
    """

    def __init__(self, journal: Path | None, *, capacity: int, group_size: int, fsync: bool = False) -> None:
        if not 1 <= group_size <= capacity:
            raise ValueError(
                f"buffer: group_size {group_size}, capacity {capacity}; 1 <= group_size <= capacity is needed"
            )
        self._capacity, self._group_size, self._fsync = capacity, group_size, fsync
        self._ended: set[tuple[str, str]] = set()
        self._groups: dict[tuple[str, str], dict[int, Entry]] = {}
        self._taken: dict[tuple[str, str], Group] = {}
        self._file: int | None = None
        self.dropped_stale = 0
        if journal is not None:
            self._replay(journal)
            self._rewrite(journal)
            self._file = os.open(journal, os.O_WRONLY | os.O_APPEND)

    def __len__(self) -> int:
        """Trials stored and not acknowledged."""
        return sum(map(len, self._groups.values())) + sum(len(group.entries) for group in self._taken.values())

    def __contains__(self, key: TrialKey) -> bool:
        """Is there nothing more to do for this member: stored, by this or another attempt, or its group used or
        dropped?"""
        name = (key.task, key.group)
        return name in self._ended or name in self._taken or key.index in self._groups.get(name, {})

    def put(self, key: TrialKey, payload: Mapping[str, Any], *, weight_version: int) -> bool:
        """Store a finished trial; False, and nothing changes, when ``key in buffer``. Raises ``BufferFull``."""
        if key in self:
            return False
        if len(self) >= self._capacity:
            raise BufferFull(f"{self._capacity} finished trials wait already")
        entry = Entry(key, weight_version, payload)
        self._append(_put_event(entry))
        self._insert(entry)
        return True

    def ready(self) -> int:
        """Complete groups that can be taken."""
        return sum(len(members) == self._group_size for members in self._groups.values())

    def take(self, count: int, *, oldest_version: int | None = None) -> list[Group]:
        """Up to ``count`` complete groups, oldest first. Groups with a trial older than ``oldest_version`` are dropped
        for good and counted in ``dropped_stale``. What is taken is out of the buffer for others, but stays in the
        journal until ``acknowledge``."""
        stale = [
            name
            for name, members in self._groups.items()
            if oldest_version is not None and any(entry.weight_version < oldest_version for entry in members.values())
        ]
        if stale:
            self._append({"end": stale})
            for name in stale:
                del self._groups[name]
            self._ended.update(stale)
            self.dropped_stale += len(stale)
        complete = [name for name, members in self._groups.items() if len(members) == self._group_size][:count]
        groups = []
        for name in complete:
            members = self._groups.pop(name)
            group = Group(*name, entries=tuple(members[index] for index in sorted(members)))
            self._taken[name] = group
            groups.append(group)
        return groups

    def acknowledge(self, groups: Iterable[Group]) -> None:
        """These were used: they never come back. Raises ``KeyError`` for one that is not taken."""
        names = [(group.task, group.group) for group in groups]
        for name in names:
            if name not in self._taken:
                raise KeyError(name)
        self._append({"end": names})
        for name in names:
            del self._taken[name]
        self._ended.update(names)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _insert(self, entry: Entry) -> None:
        key = entry.key
        self._groups.setdefault((key.task, key.group), {})[key.index] = entry

    def _append(self, event: Mapping[str, Any]) -> None:
        if self._file is None:
            return
        line = _line(event)
        written = os.write(self._file, line)
        if written != len(line):
            # A full disk: take the torn part away again, so that later lines stay readable.
            os.ftruncate(self._file, os.fstat(self._file).st_size - written)
            raise OSError(f"journal: only {written} of {len(line)} bytes could be written")
        if self._fsync:
            os.fsync(self._file)

    def _replay(self, journal: Path) -> None:
        lines = journal.read_bytes().split(b"\n") if journal.exists() else []
        for number, line in enumerate(lines, start=1):
            event = _parse(line)
            if event is None:
                # The last piece has no newline behind it: it is empty, or torn.
                if number == len(lines):
                    return
                raise RunError(f"{journal}:{number}: damaged line; move the journal away to start with an empty buffer")
            if "put" in event:
                self._insert(Entry(TrialKey(**event["put"]), event["weight_version"], event["payload"]))
            else:
                for task, group in event["end"]:
                    self._groups.pop((task, group), None)
                    self._ended.add((task, group))

    def _rewrite(self, journal: Path) -> None:
        """Compact: what has ended by name alone, then what is still waiting; written aside and renamed."""
        events: list[Mapping[str, Any]] = [{"end": sorted(self._ended)}]
        events += [_put_event(entry) for members in self._groups.values() for entry in members.values()]
        journal.parent.mkdir(parents=True, exist_ok=True)
        aside = journal.with_name(journal.name + ".new")
        with aside.open("wb") as file:
            file.writelines(map(_line, events))
            file.flush()
            os.fsync(file.fileno())
        aside.replace(journal)


def _put_event(entry: Entry) -> dict[str, Any]:
    return {"put": asdict(entry.key), "weight_version": entry.weight_version, "payload": entry.payload}


def _line(event: Mapping[str, Any]) -> bytes:
    text = orjson.dumps(event)
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _parse(line: bytes) -> dict[str, Any] | None:
    """None when the line is not whole."""
    checksum, _, text = line.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(text):
        return None
    event: dict[str, Any] = orjson.loads(text)
    return event
