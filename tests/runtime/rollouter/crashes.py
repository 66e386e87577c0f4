"""A small training loop over the real buffer, journal and checkpoints that can be killed at any of its writes."""

from __future__ import annotations

import json
import os
import stat
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from runtime.rollouter import record_log
from runtime.rollouter.buffer import DataBuffer, Slot
from runtime.trainer import stable

STEPS, GROUPS, SIZE, SAVE_EVERY = 5, 2, 2, 2


class Killed(BaseException):
    """The process is gone."""


@dataclass
class Killer:
    """Stands for ``os`` in the journal's module. Ends the process at write number ``at``, which gets half way; with
    ``power`` what was not synced is gone as well."""

    at: int
    power: bool = False
    count: int = 0
    synced: dict[int, int] = field(default_factory=dict)
    dead: bool = False

    def point(self) -> None:
        if self.dead:
            raise Killed
        self.count += 1
        if self.count == self.at:
            self.dead = True

    def write(self, file: int, block: Any) -> int:
        self.point()
        if not self.dead:
            return os.write(file, block)
        os.write(file, bytes(block)[: len(block) // 2])
        self._cut_power()
        raise Killed

    def fsync(self, file: int) -> None:
        self.point()
        if self.dead:
            self._cut_power()
            raise Killed
        found = os.fstat(file)
        if stat.S_ISREG(found.st_mode):
            self.synced[file] = found.st_size

    def _cut_power(self) -> None:
        if self.power:
            for file, size in self.synced.items():
                os.ftruncate(file, size)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


@dataclass
class World:
    """What outlives processes, and what an observer saw of all of them."""

    folder: Path
    lag: int
    """Batches that are rolled out ahead of the trainer."""
    starts: int = 0
    played: Counter[tuple[int, int, int]] = field(default_factory=Counter)
    """(batch, group, index) -> how often it was played."""
    offered: set[str] = field(default_factory=set)
    acknowledged: set[str] = field(default_factory=set)

    @property
    def journal(self) -> Path:
        return self.folder / "groups.log"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"


def live(world: World) -> dict[str, Any]:
    """One process: from the newest whole checkpoint to the last step. Returns the final state."""
    world.starts += 1
    step = stable.choose(world.checkpoints, reported=range(STEPS + 1))
    stable.prepare_resume(world.checkpoints, step)
    state: dict[str, Any] = {"step": 0, "trained": [], "flying": {}, "finished": []}
    if step is not None:
        state = json.loads((stable.step_folder(world.checkpoints, step) / "state.json").read_bytes())
    buffer = DataBuffer(world.journal)
    restored = list(state["finished"])
    buffer.recover(int(state["step"]), restored=restored)
    flying: dict[str, list[str]] = state["flying"]
    finished: dict[str, str] = {}
    for now in range(int(state["step"]) + 1, STEPS + 1):
        for batch in range(now, min(STEPS, now + world.lag) + 1):
            names = flying.setdefault(str(batch), [f"{world.starts}:{batch}:{one}" for one in range(GROUPS)])
            for number, name in enumerate(names):
                if name not in finished and name not in restored:
                    play(world, buffer, name, (batch, number), step=now)
                finished[name] = name
        mine = flying.pop(str(now))
        buffer.taken(mine, step=now)
        for name in mine:
            state["trained"] += [payload(buffer, name, index) for index in range(SIZE)]
        state["step"] = now
        if now % SAVE_EVERY == 0 or now == STEPS:
            done = [name for names in flying.values() for name in names]
            save(world, {**state, "flying": flying, "finished": done})
            buffer.saved(stable.stable_steps(world.checkpoints)[0])
    return {**state, "buffer": buffer}


def play(world: World, buffer: DataBuffer, name: str, place: tuple[int, int], *, step: int) -> None:
    batch, number = place
    buffer.reserve(name, Slot("train", f"task-{batch}-{number}", step))
    for index in range(SIZE):
        if buffer.claim(name, index) is not None:
            continue
        world.played[batch, number, index] += 1
        text = f"{world.starts}/{batch}/{number}/{index}"
        world.offered.add(text)
        buffer.commit(buffer.put(name, index, text.encode(), versions=(step - 1, step - 1)))
        world.acknowledged.add(text)


def payload(buffer: DataBuffer, name: str, index: int) -> str:
    found = buffer.claim(name, index)
    assert found is not None, f"{name} has no trial {index}"
    return found.decode()


def save(world: World, state: dict[str, Any]) -> None:
    folder = stable.step_folder(world.checkpoints, int(state["step"]))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "state.json").write_text(json.dumps(state))
    stable.mark_stable(folder)


def run_with_kills(world: World, kills: list[int], *, power: bool, patch: pytest.MonkeyPatch) -> tuple[Any, int]:
    """Start again after every kill until the run is through: its final state, and the writes of the last start."""
    for at in [*kills, 0]:
        killer = Killer(at, power=power)
        patch.setattr(record_log, "os", killer)
        patch.setattr(stable, "sync", lambda path, killer=killer: _sync(killer))
        try:
            return live(world), killer.count
        except Killed:
            continue
    raise AssertionError("the last start was not to be killed")


def _sync(killer: Killer) -> None:
    killer.point()
    if killer.dead:
        killer._cut_power()
        raise Killed


def check(world: World, state: Any, *, resumed_from: str) -> None:
    """The invariants: nothing trained twice, and everything acknowledged is trained or reported."""
    trained = state["trained"]
    places = [text.split("/", 1)[1] for text in trained]
    assert len(set(trained)) == len(trained) == STEPS * GROUPS * SIZE, resumed_from
    assert len(set(places)) == len(places), f"{resumed_from}: a trial's place was trained twice"
    lost = sum(len(one.trials) for one in state["buffer"].lost)
    assert set(trained) <= world.offered, resumed_from
    # A kill between write and acknowledgement may leave a trial that nobody was told of.
    missing = [len(seen - set(trained)) for seen in (world.acknowledged, world.offered)]
    assert missing[0] <= lost <= missing[1], f"{resumed_from}: {lost} reported, missing are {missing}"
