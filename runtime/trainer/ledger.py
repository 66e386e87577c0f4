"""What the trainer's process keeps of every group: the data buffer, shared by agent loop manager, sampler and
checkpoints, which verl makes apart from each other.

Without a manager of ours it keeps nothing. Only groups for training are kept: a validation is played again. So are
trials that hold a mixture's experts, once the journal is large: they are a hundred times the size of their tokens.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from pathlib import Path

from runtime.agent_loop.groups import GroupRequest
from runtime.agent_loop.remote_result import RemoteResult, place_bytes, place_of
from runtime.agent_loop.trial_bytes import from_bytes, to_bytes
from runtime.agent_loop.trial_journal import journal_files, read_place, remove_files
from runtime.agent_loop.types import TrialResult
from runtime.agent_loop.worker import MOST_ROUTED_BYTES
from runtime.rollouter.buffer import DataBuffer, Lost, Slot
from runtime.run_paths import RunPaths
from runtime.trainer.stable import LATEST, stable_steps

log = logging.getLogger(__name__)

_PLACE_BYTES = 512
"""No trial is as small as the name of its place."""


class Ledger:
    """Implements ``runtime.agent_loop.groups.Keeper`` for the trials of training groups."""

    def __init__(self) -> None:
        self._buffer: DataBuffer | None = None
        self._paths: RunPaths | None = None
        self._left_out = self._unread = 0
        self._idle: dict[str, int] = {}
        """Files of workers' journals that nothing was needed of at the last checkpoint, with their sizes."""
        self._old: frozenset[str] = frozenset()
        """Those of workers of earlier starts."""

    def open(self, paths: RunPaths, *, restored: Collection[str] = ()) -> None:
        """Read what an earlier start of the trainer left. ``restored``: see ``DataBuffer.recover``."""
        step = resumed_step(paths.checkpoints)
        self._paths = paths
        self._buffer = DataBuffer(paths.groups_journal)
        self._old = frozenset(journal_files(paths.trial_journals))
        _say(self._buffer.recover(step, restored=restored))

    def close(self) -> None:
        if self._buffer is not None:
            self._buffer.close()
        self._buffer = None

    def reserve(self, request: GroupRequest) -> list[TrialResult]:
        """A group is given out; its trials that had been finished before a crash."""
        if self._buffer is None or request.validation or not request.uid:
            return []
        name = request.uid
        self._buffer.reserve(name, Slot(request.task_set, request.task.id, request.step, request.turn))
        payloads = [self._buffer.claim(name, index) for index in range(request.most)]
        found = [result for payload in payloads if payload is not None and (result := self._read(payload))]
        for result in found:
            self._bring_back(result)
        return found

    async def keep(self, request: GroupRequest, result: TrialResult) -> None:
        """Returns once the trial is on disk. What nobody graded is not kept: it would be played again."""
        if self._buffer is None or request.validation or not request.uid or result.reward is None:
            return
        await asyncio.to_thread(self._keep, self._buffer, request.uid, result)

    def _read(self, payload: bytes) -> TrialResult | None:
        """The trial of a payload, or of the worker's journal that it names. None where that is gone or damaged: the
        trial is played again."""
        assert self._paths is not None
        if (place := place_of(payload)) is not None:
            try:
                payload = read_place(self._paths.trial_journals, place)
            except OSError as error:
                log.error("a finished trial is lost and played again: %s", error)
                self._unread += 1
                return None
        return from_bytes(payload)

    def _keep(self, buffer: DataBuffer, group: str, result: TrialResult) -> None:
        if isinstance(result, RemoteResult):
            if result.place is None:
                self._left_out += 1
                return
            number = buffer.put(group, result.key.index, place_bytes(result.place), versions=result.weight_versions)
            if number is not None:
                buffer.commit(number)
            return
        routed = result.routed_bytes
        if routed and buffer.journal_bytes + routed > MOST_ROUTED_BYTES:
            if not self._left_out:
                log.warning(
                    "%s: not kept, its experts take %d MiB and the journal has %d: it, and more such trials, would be "
                    "played again after a crash",
                    result.key.trial_id,
                    routed >> 20,
                    buffer.journal_bytes >> 20,
                )
            self._left_out += 1
            return
        number = buffer.put(group, result.key.index, to_bytes(result), versions=result.weight_versions)
        if number is not None:
            buffer.commit(number)

    def taken(self, groups: Collection[str], *, step: int) -> None:
        if self._buffer is not None:
            _say(self._buffer.taken(groups, step=step))

    def dropped(self, groups: Collection[str], *, step: int, reason: str) -> None:
        if self._buffer is not None:
            self._buffer.dropped(groups, step=step, reason=reason)

    def saved(self, checkpoints: Path) -> None:
        """A checkpoint is whole: what the oldest kept one holds needs no record any more."""
        if self._buffer is not None and (steps := stable_steps(checkpoints)):
            self._buffer.saved(steps[0])
            self._tidy(self._buffer, steps[0])

    def _tidy(self, buffer: DataBuffer, step: int) -> None:
        """Remove files of workers' journals in which nothing is needed any more. Only those that were so at the last
        checkpoint too, and have not grown since: of a trial that has just ended nobody may have heard yet."""
        assert self._paths is not None
        folder = self._paths.trial_journals
        files = journal_files(folder)
        if not files:
            return
        places = (place_of(payload) for payload in buffer.payloads_after(step, smaller_than=_PLACE_BYTES))
        needed = {place.file for place in places if place is not None}
        # The newest file of a worker of this start may be written to at any time.
        newest = {name.rpartition("-")[0]: name for name in sorted(files) if name not in self._old}
        idle = {name: size for name, size in files.items() if name not in {*needed, *newest.values()}}
        remove_files(folder, [name for name, size in idle.items() if self._idle.get(name) == size])
        self._idle = idle

    def _bring_back(self, result: TrialResult) -> None:
        """Its folder had left its place with the step that is taken again."""
        assert self._paths is not None
        name = Path(str(result.key.step)) / result.key.trial_id
        target = self._paths.trials / name
        aside = sorted(self._paths.abandoned.glob(f"*/{name}"))
        if aside and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            aside[-1].rename(target)

    def stats(self) -> dict[str, int]:
        if self._buffer is None:
            return {}
        stats = dict(self._buffer.stats())
        stats["lost_trials"] += self._unread
        return {**stats, "left_out": self._left_out}


def _say(lost: Collection[Lost]) -> None:
    for one in lost:
        log.warning("group %s: %d finished trial(s) lost: %s", one.group, len(one.trials), one.reason)


def resumed_step(checkpoints: Path) -> int:
    """The step of the checkpoint that verl goes on from; 0 without one."""
    try:
        return int((checkpoints / LATEST).read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        return 0


LEDGER = Ledger()
