"""The data buffer: every finished trial is on disk before it counts, and every group is trained once or reported.

It keeps what became of each group of trials: given out, finished, taken by the trainer for a step, dropped, lost. A
checkpoint of step N makes everything final that was taken up to N; when a run goes on from there, what was taken later
is untrained again, and its trials can be claimed by whoever asks for them, unless weights that no longer exist have
sampled them. Payloads are opaque bytes, on disk alone. Which groups a step takes is the sampler's decision. Safe for
several threads.
"""

from __future__ import annotations

import struct
import threading
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any, Literal

import orjson

from runtime.rollouter.record_log import RecordLog, scan

State = Literal["open", "taken", "dropped", "lost"]
_META = struct.Struct("<I")
_COMPACT_BYTES = 64 << 20
"""The file is written anew, without what is final, when it has grown by so much, and to twice its size: what is not
final is written again each time."""


@dataclass(frozen=True)
class Slot:
    """What a group is for: who asks for the same may have its trials after a crash."""

    task_set: str
    task: str
    step: int
    turn: int = 0
    """Of this task within the step. A journal of before says none: then it is the first."""


@dataclass
class Kept:
    """A finished trial: where the journal has its payload. ``versions``: oldest and newest weights that sampled a token
    of it; None without a token."""

    start: int
    size: int
    versions: tuple[int, int] | None


@dataclass
class _Group:
    slot: Slot
    trials: dict[int, Kept] = field(default_factory=dict)
    state: State = "open"
    step: int = 0
    """That took or dropped it."""


@dataclass(frozen=True)
class Lost:
    """Trials that will not be trained, and why."""

    group: str
    trials: tuple[int, ...]
    """Their indices in it."""
    reason: str


class DataBuffer:
    """``path``: its journal. Groups are named by whoever gives them out; a name is used once."""

    def __init__(self, path: Path) -> None:
        self._groups: dict[str, _Group] = {}
        self._open: dict[str, _Group] = {}
        """Those of them that are open: few, however many are remembered."""
        self._lock = threading.RLock()
        self._lost: list[Lost] = []
        self._lost_before = 0
        """Trials that were lost before the file was last written anew."""
        for end, record in scan(path):
            meta, size = _unpack(record)
            self._replay(meta, size, end=end)
        self._log = RecordLog(path)
        self._compacted_at = self._log.bytes
        self._claimable: dict[Slot, list[tuple[str, int]]] = defaultdict(list)
        self._alive: set[str] = set()
        """Groups that somebody works on or holds in this start of the trainer."""
        self._resumed = 0

    def recover(self, step: int, *, restored: Collection[str] = ()) -> list[Lost]:
        """Go on from the checkpoint of ``step`` (0: from the start). ``restored``: finished groups that the checkpoint
        itself brings back to the trainer. Durable when it returns; returns what is lost by it."""
        with self._lock:
            known = len(self._lost)
            self._do({"do": "resume", "step": step})
            self._resumed = step
            self._alive = set(restored)
            self._claimable.clear()
            for name, group in self._groups.items():
                if group.state == "open" and name not in self._alive:
                    self._claimable[group.slot] += [(name, index) for index in sorted(group.trials)]
            lost = self._lost[known:]
        self._log.commit()
        return lost

    def reserve(self, group: str, slot: Slot) -> None:
        """A group is given out. The same name again (a restarted trainer, whose checkpoint holds it as unfinished)
        changes nothing, but that a group that was dropped or lost meanwhile is open again."""
        with self._lock:
            self._alive.add(group)
            if group not in self._groups:
                self._do({"do": "reserve", "group": group, "slot": astuple(slot)})
            elif self._groups[group].state in ("dropped", "lost"):
                self._do({"do": "reopen", "group": group, "step": self._resumed})

    def claim(self, group: str, index: int) -> bytes | None:
        """The payload of this trial, when it had been finished before a crash: of the group itself, else of one that
        was given out for the same slot and is gone. Each is handed out once."""
        with self._lock:
            mine = self._groups[group]
            if (kept := mine.trials.get(index)) is not None:
                return self._log.read(kept.start, kept.size)
            waiting = self._claimable.get(mine.slot, [])
            for place, (other, number) in enumerate(waiting):
                theirs = self._groups.get(other)
                if number != index or other == group or theirs is None or number not in theirs.trials:
                    continue
                del waiting[place]
                self._do({"do": "claim", "group": group, "index": index, "of": other})
                moved = mine.trials[index]
                return self._log.read(moved.start, moved.size)
        return None

    def put(self, group: str, index: int, payload: bytes, *, versions: tuple[int, int] | None) -> int | None:
        """A trial has ended. Insert-if-absent: None when the buffer has it already. The number is for ``commit``: until
        that has returned, a crash may lose the trial."""
        with self._lock:
            if group not in self._groups or index in self._groups[group].trials:
                return None
            return self._do({"do": "put", "group": group, "index": index, "versions": versions}, payload)

    def commit(self, number: int | None = None) -> None:
        self._log.commit(number)

    def taken(self, groups: Collection[str], *, step: int) -> list[Lost]:
        """The trainer trains these groups in ``step``. Durable when it returns; returns what is lost, because no later
        step can take it. Raises ``ValueError`` when one of them was taken or dropped before: it would be trained
        twice."""
        with self._lock:
            known_lost = len(self._lost)
            for name in groups:
                if (found := self._groups.get(name)) is not None and found.state != "open":
                    raise ValueError(f"group {name} is {found.state} already (step {found.step})")
            self._do({"do": "take", "groups": sorted(groups), "step": step})
            late = [
                name
                for name, group in self._open.items()
                # Two steps: the prompts of the step before may be on their way to the agent loop.
                if group.trials and group.slot.step < step - 1 and name not in self._alive
            ]
            if late:
                self._do({"do": "lose", "groups": late, "reason": f"nobody asked for it again before step {step}"})
            lost = self._lost[known_lost:]
        self._log.commit()
        return lost

    def dropped(self, groups: Collection[str], *, step: int, reason: str) -> None:
        """These groups will not be trained: stale, failed, or without signal. Durable when it returns. Raises
        ``ValueError`` when one of them was taken: it has been trained."""
        with self._lock:
            known = [name for name in groups if name in self._groups]
            if not known:
                return
            for name in known:
                if (found := self._groups[name]).state == "taken":
                    raise ValueError(f"group {name} was taken by step {found.step}: it cannot be dropped")
            self._do({"do": "drop", "groups": sorted(known), "step": step, "reason": reason})
        self._log.commit()

    def saved(self, step: int) -> None:
        """No checkpoint before ``step`` will be gone back to: what was final by then is forgotten, now and then."""
        with self._lock:
            if self._log.bytes - self._compacted_at < max(_COMPACT_BYTES, self._compacted_at):
                return
            for name, group in list(self._groups.items()):
                if group.state == "lost" or (group.state != "open" and group.step <= step):
                    del self._groups[name]
            entries = list(self._snapshot())
            ends = self._log.replace(_pack(meta, self._payload(kept)) for meta, kept in entries)
            for (_, kept), end in zip(entries, ends, strict=True):
                if kept is not None:
                    kept.start = end - kept.size
            self._compacted_at = self._log.bytes

    def payloads_after(self, step: int, *, smaller_than: int) -> list[bytes]:
        """The payloads of so many bytes that are needed while no checkpoint before ``step`` is gone back to."""
        with self._lock:
            return [
                self._payload(kept)
                for group in self._groups.values()
                if group.state == "open" or (group.state != "lost" and group.step > step)
                for kept in group.trials.values()
                if kept.size < smaller_than
            ]

    def state(self, group: str) -> tuple[State, int]:
        """What became of a group, and the step that took or dropped it."""
        with self._lock:
            found = self._groups[group]
            return found.state, found.step

    def groups(self) -> list[tuple[Slot, State, int]]:
        """Every group that is remembered: what it was for, and what became of it."""
        with self._lock:
            return [(group.slot, group.state, group.step) for group in self._groups.values()]

    def stats(self) -> Mapping[str, int]:
        """Groups by state, and trials lost since the file was begun."""
        with self._lock:
            counts: Counter[str] = Counter(group.state for group in self._groups.values())
            return {**counts, "lost_trials": self._lost_trials()}

    @property
    def journal_bytes(self) -> int:
        return self._log.bytes

    @property
    def lost(self) -> tuple[Lost, ...]:
        return tuple(self._lost)

    def close(self) -> None:
        self._log.close()

    # -- the journal

    def _lost_trials(self) -> int:
        return self._lost_before + sum(len(one.trials) for one in self._lost)

    def _do(self, meta: dict[str, Any], payload: bytes = b"") -> int:
        number = self._log.append(_pack(meta, payload))
        self._replay(meta, len(payload), end=self._log.bytes)
        return number

    def _payload(self, kept: Kept | None) -> bytes:
        return b"" if kept is None else self._log.read(kept.start, kept.size)

    def _replay(self, meta: Mapping[str, Any], size: int, *, end: int) -> None:
        """One record's effect: the only place where the state changes, so that a restart reaches the same. It ends at
        ``end`` of the journal, with a payload of ``size`` bytes."""
        match meta["do"]:
            case "lost_before":
                self._lost_before = meta["trials"]
            case "reserve":
                self._groups[meta["group"]] = self._open[meta["group"]] = _Group(Slot(*meta["slot"]))
            case "put":
                versions = meta["versions"]
                kept = Kept(end - size, size, None if versions is None else (versions[0], versions[1]))
                self._groups[meta["group"]].trials.setdefault(meta["index"], kept)
            case "claim":
                moved = self._groups[meta["of"]].trials.pop(meta["index"])
                self._groups[meta["group"]].trials[meta["index"]] = moved
            case "take":
                for name in meta["groups"]:
                    if name in self._groups:
                        self._end(name, "taken", step=meta["step"])
            case "drop":
                for name in meta["groups"]:
                    self._end(name, "dropped", step=meta["step"])
            case "lose":
                for name in meta["groups"]:
                    self._lose(name, range(1 << 30), meta["reason"])
                    self._end(name, "lost", step=self._groups[name].step)
            case "reopen":
                # A drop counts for the step that its prompt was given out for, which may be one of the checkpoint's.
                self._reopen(meta["group"], step=meta["step"])
            case "resume":
                for name, group in self._groups.items():
                    if group.state == "open" or (group.state != "lost" and group.step > meta["step"]):
                        self._reopen(name, step=meta["step"])

    def _end(self, name: str, state: State, *, step: int) -> None:
        self._groups[name].state, self._groups[name].step = state, step
        self._open.pop(name, None)

    def _reopen(self, name: str, *, step: int) -> None:
        """The trainer goes on from ``step``."""
        group = self._open[name] = self._groups[name]
        group.state, group.step = "open", 0
        gone = [i for i, one in group.trials.items() if one.versions is not None and one.versions[1] > step]
        self._lose(name, gone, f"sampled under weights after step {step}, which are gone")

    def _lose(self, name: str, indices: Collection[int], reason: str) -> None:
        trials = self._groups[name].trials
        gone = [index for index in trials if index in indices]
        for index in gone:
            del trials[index]
        if gone:
            self._lost.append(Lost(name, tuple(gone), reason))

    def _snapshot(self) -> Iterator[tuple[dict[str, Any], Kept | None]]:
        """The records of all that is remembered, and the trials whose payloads end them."""
        yield {"do": "lost_before", "trials": self._lost_trials()}, None
        for name, group in self._groups.items():
            yield {"do": "reserve", "group": name, "slot": astuple(group.slot)}, None
            for index, kept in group.trials.items():
                yield {"do": "put", "group": name, "index": index, "versions": kept.versions}, kept
            if group.state != "open":
                final = {"groups": [name], "step": group.step, "reason": ""}
                yield {"do": "take" if group.state == "taken" else "drop", **final}, None


def _pack(meta: Mapping[str, Any], payload: bytes = b"") -> bytes:
    head = orjson.dumps(meta)
    return _META.pack(len(head)) + head + payload


def _unpack(record: bytes) -> tuple[dict[str, Any], int]:
    """What it says, and the size of its payload."""
    (length,) = _META.unpack_from(record)
    meta: dict[str, Any] = orjson.loads(record[_META.size : _META.size + length])
    return meta, len(record) - _META.size - length
