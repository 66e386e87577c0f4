"""Faults of reference/reliability.md, section 2, by their numbers there: injected into a small run, invariants after
each. Those that end the process are in ``tests/runtime/rollouter/test_buffer.py`` (12, 13, 18: every write of buffer
and checkpoint), those of the launcher in ``tests/runtime/trainer/test_process.py`` and ``tests/runtime/launch``.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import Termination, TrialError
from runtime.grading.base import Verdict, Verifier
from runtime.rollouter.engine import Generation, WeightIdentity
from runtime.rollouter.pool import ReplicaPool
from runtime.rollouter.record_log import read_records
from runtime.run_paths import RunPaths
from runtime.sandboxes.base import SandboxProvider, SandboxRequest
from runtime.task import Task
from runtime.trainer import stable
from tests.faults.world import GONE, SIZE, World, with_verifier
from tests.runtime.agent_loop.conftest import make_task
from tests.runtime.proxy.tiny_model import write_model

pytestmark = pytest.mark.deep


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tokenizer"), family="chatml")


@pytest.fixture
def world(tmp_path: Path, tokenizer: Path) -> World:
    return World(tmp_path / "run", tokenizer)


@pytest.fixture(scope="session")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> list[Task]:
    folder = tmp_path_factory.mktemp("tasks")
    return [make_task(folder, name) for name in ("one", "two")]


def test_nothing_happens(world: World, tasks: list[Task]) -> None:
    results = world.play(*tasks)
    assert [one.reward for one in results] == [1.0] * 2 * SIZE


def test_what_must_hold_is_seen_when_it_does_not(world: World, tasks: list[Task]) -> None:
    """A box that nobody removes; weights of the step before last."""

    class Leaking:
        def __init__(self, real: SandboxProvider) -> None:
            self._real = real

        async def start(self, request: SandboxRequest) -> Any:
            box: Any = await self._real.start(request)
            stop, asked = box.stop, itertools.count()

            async def late() -> None:
                if next(asked):  # by the provider's end, not by the trial's
                    await stop()

            box.stop = late
            return box

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

    world.changed = lambda services: dataclasses.replace(services, provider=Leaking(services.provider))
    with pytest.raises(AssertionError, match=r"sandboxes were left: \['box-"):
        world.play(tasks[0])
    world.changed = lambda services: services
    for replica in world.replicas:
        replica.load(0)
    with pytest.raises(AssertionError, match="too old"):
        world.play(tasks[1])


def test_1_a_replica_dies_in_mid_reply(world: World, tasks: list[Task]) -> None:
    dying, other = world.replicas

    async def die() -> None:
        if dying.calls == 2:
            dying.dead = True
            raise GONE

    dying.fault = die
    results = world.play(*tasks)
    assert [one.reward for one in results] == [1.0] * 2 * SIZE and dying.dead
    assert all(one.key.attempt == 0 for one in results), "the reply was asked of the other replica, the trial went on"
    assert other.calls > dying.calls


def test_2_a_replica_accepts_and_never_answers(world: World, tasks: list[Task]) -> None:
    hanging = world.replicas[0]

    async def hang() -> None:
        if hanging.calls == 2:
            hanging.hung = True
            await asyncio.Event().wait()

    hanging.fault = hang
    results = world.play(*tasks)
    assert [one.reward for one in results] == [1.0] * 2 * SIZE and hanging.hung


def test_3_all_replicas_are_down(world: World, tasks: list[Task]) -> None:
    for replica in world.replicas:
        replica.dead = True
    results = world.play(tasks[0])
    assert {(one.termination, one.reward, one.key.attempt) for one in results} == {
        (Termination.MODEL_UNAVAILABLE, None, 1)
    }
    assert not any(one.samples for one in results)
    assert sum(one.calls for one in world.replicas) <= 2 * SIZE * len(world.replicas), "what is down is asked in a loop"


def test_4_a_storm_of_failures(world: World, tasks: list[Task]) -> None:
    for replica in world.replicas:
        count = itertools.count()

        async def storm(count: itertools.count[int] = count) -> None:
            if next(count) % 3 == 0:
                raise TrialError(Termination.MODEL_UNAVAILABLE, "500 Internal Server Error")

        replica.fault = storm
    results = world.play(*tasks)
    solved = [one for one in results if one.reward == 1.0]
    assert len(solved) >= SIZE, "a storm that lets two of three calls through"
    others = {(one.termination, one.reward) for one in results if one not in solved}
    assert others <= {(Termination.MODEL_UNAVAILABLE, None)} and len(results) == 2 * SIZE


def test_8_a_verifier_that_never_answers_gives_no_grade(
    world: World, tasks: list[Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hung:
        def __init__(self, _: Verifier) -> None: ...

        async def grade(self, task: Task, artifacts: Mapping[str, Any]) -> Verdict:
            await asyncio.Event().wait()
            raise AssertionError

        async def close(self) -> None: ...

    monkeypatch.setattr("runtime.agent_loop.trial.longest_sec", lambda *_: 0.05)
    world.changed = with_verifier(Hung)
    results = world.play(tasks[0])
    assert {(one.termination, one.reward) for one in results} == {(Termination.VERIFIER_TIMEOUT, None)}
    assert all(not one.trainable for one in results)


def test_9_a_verifier_that_crashes_once_is_asked_again(world: World, tasks: list[Task]) -> None:
    crashes = itertools.count()

    class Crashing:
        def __init__(self, real: Verifier) -> None:
            self._real = real

        async def grade(self, task: Task, artifacts: Mapping[str, Any]) -> Verdict:
            if next(crashes) == 0:
                raise TrialError(Termination.VERIFIER_CRASHED, "the report is no JSON")
            return await self._real.grade(task, artifacts)

        async def close(self) -> None: ...

    world.changed = with_verifier(Crashing)
    results = world.play(tasks[0])
    assert [one.reward for one in results] == [1.0] * SIZE
    assert sorted(one.key.attempt for one in results) == [0, 0, 1]


def test_11_a_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        folder = stable.step_folder(tmp_path, step)
        folder.mkdir()
        (folder / "model.pt").write_bytes(bytes(1000))
        stable.mark_stable(folder)
    (stable.step_folder(tmp_path, 3) / "model.pt").write_bytes(bytes(999))
    (stable.step_folder(tmp_path, 2) / "STABLE").write_bytes(b"{torn")
    assert stable.choose(tmp_path, reported={1, 2, 3}) == 1


def test_15_a_replica_that_missed_the_sync_samples_nothing(world: World, tasks: list[Task]) -> None:
    late, ready = world.replicas

    async def sync(pool: ReplicaPool) -> None:
        ready.load(2)
        assert set(await pool.verify(WeightIdentity(2, "print-2"))) == {late.name}
        late.calls = 0

    results = world.play(*tasks, during=sync)
    assert late.calls == 0 and [one.reward for one in results] == [1.0] * 2 * SIZE
    assert {one.weight_versions for one in results} <= {(1, 1), (1, 2), (2, 2)}


def test_weights_change_under_replies_in_flight(world: World, tasks: list[Task]) -> None:
    """Cut, held, and continued within the same budget: each token has the version that sampled it."""
    begun, changed = asyncio.Event(), asyncio.Event()
    cut: set[str] = set()

    for replica in world.replicas:

        async def held(replica: Any = replica) -> Generation | None:
            if replica.name in cut:
                await changed.wait()
                return None
            cut.add(replica.name)
            part = replica.part("I think ")
            begun.set()
            return part

        replica.fault = held

    async def sync(pool: ReplicaPool) -> None:
        await begun.wait()
        for replica in world.replicas:
            replica.load(2)
        assert not await pool.verify(WeightIdentity(2, "print-2"))
        changed.set()

    results = world.play(tasks[0], during=sync)
    assert [one.reward for one in results] == [1.0] * SIZE
    segmented = [one for one in results if one.weight_versions == (1, 2)]
    assert segmented, "no trial spans two versions"
    assert sum(one.aborted for one in results) == len(cut)


def test_22_the_clock_jumps(world: World, tasks: list[Task], monkeypatch: pytest.MonkeyPatch) -> None:
    real, jumps = time.time, itertools.cycle([0.0, 86_400.0, -86_400.0])
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    results = world.play(tasks[0])
    assert [one.reward for one in results] == [1.0] * SIZE
    assert all(0 <= one.timings.total < 300 for one in results)


def test_24_a_poison_task_costs_its_own_group_alone(world: World, tasks: list[Task]) -> None:
    class Poisoned:
        def __init__(self, real: Verifier) -> None:
            self._real = real

        async def grade(self, task: Task, artifacts: Mapping[str, Any]) -> Verdict:
            if task.id == "one":
                raise TrialError(Termination.VERIFIER_CRASHED, "its tests kill the verifier")
            return await self._real.grade(task, artifacts)

        async def close(self) -> None: ...

    world.changed = with_verifier(Poisoned)
    results = world.play(*tasks)
    rewards = {name: [one.reward for one in results if one.key.task == name] for name in ("one", "two")}
    assert rewards == {"one": [None] * SIZE, "two": [1.0] * SIZE}
    assert all(one.key.attempt == 1 for one in results if one.key.task == "one"), "tried again, and then no more"


def test_25_a_trial_that_never_ends_does_not_hold_its_group(world: World, tasks: list[Task]) -> None:
    first = itertools.count()

    async def stuck() -> None:
        if next(first) == 0:
            await asyncio.Event().wait()

    world.replicas[0].fault = world.replicas[1].fault = stuck
    world.deadline_sec = 8.0
    results = world.play(tasks[0])
    assert len(results) == SIZE - 1 and all(one.reward == 1.0 for one in results)


def test_18_the_process_dies_and_the_next_one_goes_on(world: World, tasks: list[Task], tokenizer: Path) -> None:
    """What had ended is claimed by whoever plays the same step again; what had not is played."""
    dead = World(world.folder, tokenizer)

    def kept() -> int:
        return sum(b'"do":"put"' in record for record in read_records(RunPaths(world.folder).groups_journal))

    ended = itertools.count(1)

    class Dying:
        def __init__(self, real: Verifier) -> None:
            self._real = real

        async def grade(self, task: Task, artifacts: Mapping[str, Any]) -> Verdict:
            if next(ended) > 2:
                while not kept():
                    await asyncio.sleep(0.02)
                raise Died
            return await self._real.grade(task, artifacts)

        async def close(self) -> None: ...

    dead.changed = with_verifier(Dying)
    with pytest.raises(Died):
        dead.play(tasks[0])
    before = kept()
    assert 0 < before < SIZE
    results = world.play(tasks[0])
    assert [one.reward for one in results] == [1.0] * SIZE
    groups = [one.key.group for one in results]
    assert sorted(groups.count(name) for name in set(groups)) == sorted([before, SIZE - before])


class Died(BaseException):
    """The process ends here."""
