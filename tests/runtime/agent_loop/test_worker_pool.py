"""Several workers in one process: load, deaths, hand-over, settling. Trials are simulated, in virtual time."""

from __future__ import annotations

import asyncio
import errno
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runtime.agent_loop.groups import GroupRequest, GroupRunner
from runtime.agent_loop.remote_result import RemoteResult, place_bytes, place_of
from runtime.agent_loop.trial_bytes import from_bytes
from runtime.agent_loop.trial_journal import TrialJournal, journal_files, read_place
from runtime.agent_loop.types import TrialKey, TrialResult
from runtime.agent_loop.worker import Beat, Order, TrialWorker, slot_of
from runtime.agent_loop.worker_pool import MOST_DEATHS, Patience, WorkerLost, WorkerPool
from runtime.errors import Termination
from runtime.task import Task
from tests.runtime.agent_loop.conftest import make_key, make_task
from tests.runtime.agent_loop.local_workers import LocalWorker
from tests.runtime.agent_loop.test_step_metrics import trial
from tests.runtime.agent_loop.virtual_time import run_virtual

SIZE = 4


class Trials:
    """Each takes ten seconds."""

    def __init__(self) -> None:
        self.begun: list[str] = []

    async def run(self, task: Task, *, key: TrialKey, temperature: float, queued: float = 0.0) -> TrialResult:
        self.begun.append(key.trial_id)
        await asyncio.sleep(10)
        return trial(1.0, key=key)


class Crew:
    """``count`` workers; every one that was ever made is in ``made``."""

    def __init__(self, count: int = 2, *, attempts: int = 2, patience: Patience | None = None) -> None:
        self.made: list[LocalWorker] = []
        self.published: list[tuple[str, str, float | None]] = []
        self.pool = WorkerPool(
            self._start,
            count=count,
            attempts=attempts,
            order=lambda task, key, temperature, queued: Order(str(task.path), None, key, temperature, queued),
            patience=patience,
            clock=lambda: asyncio.get_running_loop().time(),
        )

    async def _start(self, number: int) -> LocalWorker:
        name = f"{number}.{len(self.made)}"

        async def publish(row: Mapping[str, Any], results: Sequence[TrialResult], partition: str) -> None:
            self.published += [(name, one.key.trial_id, one.reward) for one in results]

        self.made.append(
            LocalWorker(TrialWorker(Trials(), name=name, journal=None, publish=publish, counts=lambda: {"boxes": 1.0}))
        )
        return self.made[-1]


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return make_task(tmp_path_factory.mktemp("task"))


def request(task: Task, group: str = "g", **changes: Any) -> GroupRequest:
    return GroupRequest(task, "train", group, 1, SIZE, 1.0, uid=group, **changes)


def test_siblings_are_spread_and_their_group_settles_where_its_tokens_are(task: Task) -> None:
    async def play() -> None:
        crew = Crew(2)
        await crew.pool.open()
        groups = GroupRunner(crew.pool, concurrency=100)  # type: ignore[arg-type]
        first, second = await asyncio.gather(groups.run(request(task)), groups.run(request(task, "h")))
        assert [one.key.index for one in first] == list(range(SIZE))
        assert Counter(one.worker for one in first if isinstance(one, RemoteResult)) == {"0.0": 2, "1.1": 2}
        assert not any(one.samples for one in first) and all(one.trainable and one.has_samples for one in first)
        assert [worker.inside.held for worker in crew.made] == [SIZE, SIZE]
        solved = [replace(one, reward=0.5) for one in first[:3]]
        assert await crew.pool.publish({"uid": "g"}, solved, partition="train") == []
        assert sorted(crew.published) == sorted(
            (one.worker, one.key.trial_id, 0.5) for one in solved if isinstance(one, RemoteResult)
        )
        await crew.pool.forget([one.key for one in (*first, *second)])
        assert [worker.inside.held for worker in crew.made] == [0, 0]
        await asyncio.sleep(2)
        assert crew.pool.counts() == {"boxes": 2.0}
        await crew.pool.close()

    run_virtual(play())


def test_a_trial_that_is_cut_short_while_it_is_kept_is_let_go_too(task: Task) -> None:
    class Keeper:
        """Slow with the last one."""

        def reserve(self, request: GroupRequest) -> list[TrialResult]:
            return []

        async def keep(self, request: GroupRequest, result: TrialResult) -> None:
            await asyncio.sleep(60 * (result.key.index == SIZE))

    async def play() -> None:
        crew = Crew(2)
        await crew.pool.open()
        groups = GroupRunner(crew.pool, concurrency=100, keeper=Keeper())
        wanted = request(task, spare=1)
        assert len(await groups.run(wanted)) == SIZE
        assert sum(worker.inside.held for worker in crew.made) == SIZE + 1
        await crew.pool.forget([wanted.key(index) for index in range(wanted.most)])
        assert [worker.inside.held for worker in crew.made] == [0, 0]
        await crew.pool.close()

    run_virtual(play())


def test_a_dead_worker_is_started_again_and_others_play_its_trials_once(task: Task) -> None:
    async def play() -> None:
        crew = Crew(2)
        await crew.pool.open()
        groups = GroupRunner(crew.pool, concurrency=100)  # type: ignore[arg-type]
        work = asyncio.create_task(groups.run(request(task)))
        await asyncio.sleep(5)
        states = [(one["worker"], one["state"], one["in_flight"], one["oldest_sec"]) for one in crew.pool.status()]
        assert states == [(0, "up", 2, 5.0), (1, "up", 2, 5.0)]
        crew.made[0].kill()
        await asyncio.sleep(0)
        results = await work
        assert [(one.key.index, one.reward) for one in results] == [(index, 1.0) for index in range(SIZE)]
        assert sorted(one.key.attempt for one in results) == [0, 0, 1, 1]
        begun = [name for worker in crew.made for name in worker.trials.begun]
        assert len(begun) == SIZE + 2 == len(set(begun))
        assert (crew.pool.handed_over, crew.pool.restarts, len(crew.made)) == (2, 1, 3)
        # Tokens of a worker that has died since: whoever asks for them is told.
        crew.made[1].kill()
        theirs = [one for one in results if isinstance(one, RemoteResult) and one.worker == "1.1"]
        assert theirs and await crew.pool.publish({}, results, partition="train") == theirs
        await crew.pool.close()

    run_virtual(play())


def test_a_trial_that_kills_its_workers_is_given_up_and_typed(task: Task) -> None:
    async def play() -> None:
        crew = Crew(2, attempts=2)
        await crew.pool.open()
        work = asyncio.create_task(crew.pool.run(task, key=make_key(), temperature=1.0))
        for _ in range(2):
            await asyncio.sleep(3)
            next(worker for worker in crew.made if worker.inside._running).kill()
        result = await work
        assert (result.termination, result.reward, result.key.attempt) == (Termination.WORKER_LOST, None, 1)
        assert "died" in str(result.error)
        await crew.pool.close()

    run_virtual(play())


def test_a_silent_worker_is_ended(task: Task) -> None:
    async def play() -> None:
        crew = Crew(2, patience=Patience(silent_sec=5.0))
        await crew.pool.open()
        work = asyncio.create_task(GroupRunner(crew.pool, concurrency=100).run(request(task)))  # type: ignore[arg-type]
        await asyncio.sleep(1)
        crew.made[0].stopped = True
        results = await work
        assert [one.reward for one in results] == [1.0] * SIZE and crew.made[0].gone
        await crew.pool.close()

    run_virtual(play())


def test_a_worker_that_fails_to_say_how_it_is_has_a_successor(task: Task) -> None:
    """Its place would have nobody who looks after it, and the next death in it would be the last."""

    async def play() -> None:
        crew = Crew(1)
        await crew.pool.open()
        first, work = crew.made[0], asyncio.create_task(crew.pool.run(task, key=make_key(), temperature=1.0))
        await asyncio.sleep(2)

        async def broken() -> Beat:
            raise OSError(errno.EIO, "reading /proc/meminfo")

        first.beat = broken  # type: ignore[method-assign]
        result = await work
        assert (result.reward, result.key.attempt, first.gone, crew.pool.restarts) == (1.0, 1, True, 1)
        await crew.pool.close()

    run_virtual(play())


def test_a_worker_that_only_seems_dead_is_ended_before_another_takes_its_place(task: Task) -> None:
    async def play() -> None:
        crew = Crew(1)
        await crew.pool.open()
        first, work = crew.made[0], asyncio.create_task(crew.pool.run(task, key=make_key(), temperature=1.0))
        await asyncio.sleep(2)

        async def unreachable() -> Beat:
            raise WorkerLost("no way to it")

        first.beat = unreachable  # type: ignore[method-assign]
        result = await work
        assert (result.reward, result.key.attempt, len(crew.made)) == (1.0, 1, 2)
        assert first.gone and not first.inside._running
        await crew.pool.close()

    run_virtual(play())


def test_what_is_cancelled_while_it_is_journaled_is_not_held(task: Task) -> None:
    class Slow:
        bytes = 0

        async def keep(self, result: TrialResult) -> None:
            await asyncio.sleep(10)

    async def publish(row: Mapping[str, Any], results: Sequence[TrialResult], partition: str) -> None: ...

    async def play() -> None:
        journal: Any = Slow()
        worker = TrialWorker(Trials(), name="0.0", journal=journal, publish=publish, load=lambda *_: task)
        playing = asyncio.create_task(worker.play(Order("", None, make_key(), 1.0)))
        await asyncio.sleep(15)
        await worker.cancel(slot_of(make_key()))
        assert await playing is None
        assert (worker.held, worker._running) == (0, {})

    run_virtual(play())


def test_a_full_disk_under_a_workers_journal(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No room for the next file: the old one grows on. No room for a trial: it has no grade."""
    monkeypatch.setattr("runtime.agent_loop.trial_journal.SEGMENT_BYTES", 1)
    journal = TrialJournal(tmp_path, "worker-0")

    async def publish(row: Mapping[str, Any], results: Sequence[TrialResult], partition: str) -> None: ...

    class AtOnce:
        async def run(self, task: Task, *, key: TrialKey, temperature: float, queued: float = 0.0) -> TrialResult:
            return trial(1.0, key=key)

    worker = TrialWorker(AtOnce(), name="0.0", journal=journal, publish=publish, load=lambda *_: task)

    async def play(index: int) -> RemoteResult:
        result = await worker.play(Order("", None, make_key(index=index), 1.0))
        assert result is not None
        return result

    def full(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr("runtime.agent_loop.trial_journal.RecordLog", full)
        results = [asyncio.run(play(0)), asyncio.run(play(1))]
        disk.setattr("runtime.rollouter.record_log.RecordLog._write", full)
        lost = asyncio.run(play(2))
    assert (lost.termination, lost.reward, lost.place) == (Termination.NOT_KEPT, None, None)
    results += [asyncio.run(play(3)), asyncio.run(play(4))]
    assert len({one.place.file for one in results if one.place}) == 2
    for number, one in zip((0, 1, 3, 4), results, strict=True):
        assert one.place is not None and from_bytes(read_place(tmp_path, one.place)).key.index == number
    journal.close()


def test_a_cancelled_trial_ends_on_its_worker(task: Task) -> None:
    async def play() -> None:
        crew = Crew(2)
        await crew.pool.open()
        groups = GroupRunner(crew.pool, concurrency=100, deadline_sec=lambda _: 4.0)  # type: ignore[arg-type]
        assert await groups.run(request(task)) == []
        assert [(worker.inside.held, len(worker.inside._running)) for worker in crew.made] == [(0, 0), (0, 0)]
        assert [one["in_flight"] for one in crew.pool.status()] == [0, 0]
        await crew.pool.close()

    run_virtual(play())


def test_workers_that_only_die_are_given_up_and_nobody_waits_for_ever(task: Task) -> None:
    async def play() -> None:
        crew = Crew(1, attempts=10)
        await crew.pool.open()
        work = asyncio.create_task(crew.pool.run(task, key=make_key(), temperature=1.0))
        for count in range(1, MOST_DEATHS + 1):
            while len(crew.made) < count:
                await asyncio.sleep(0.1)
            await asyncio.sleep(3)
            crew.made[-1].kill()
        result = await work
        assert result.termination is Termination.WORKER_LOST
        assert "worker 0: died 5 times in a row" in str(crew.pool.why_hopeless())
        await crew.pool.close()

    run_virtual(play())


def test_what_keeps_the_first_worker_from_being_made_is_raised() -> None:
    async def start(number: int) -> LocalWorker:
        raise OSError("no room")

    async def play() -> None:
        pool = WorkerPool(start, count=2, attempts=1, order=lambda *_: None)  # type: ignore[arg-type, return-value]
        with pytest.raises(OSError, match="no room"):
            await pool.open()

    run_virtual(play())


def test_a_journal_is_on_disk_and_read_back_by_its_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.agent_loop.trial_journal.SEGMENT_BYTES", 2000)
    journal = TrialJournal(tmp_path, "worker-0")
    results = [trial(1.0, key=make_key(index=index)) for index in range(8)]

    async def keep() -> list[Any]:
        return list(await asyncio.gather(*map(journal.keep, results)))

    places = asyncio.run(keep())
    journal.close()
    assert len(journal_files(tmp_path)) > 1 and {place.file for place in places} <= set(journal_files(tmp_path))
    for result, place in zip(results, places, strict=True):
        assert place_of(place_bytes(place)) == place
        assert from_bytes(read_place(tmp_path, place)) == result
    assert place_of(read_place(tmp_path, places[0])) is None
    damaged = tmp_path / places[0].file
    content = bytearray(damaged.read_bytes())
    content[places[0].start + 3] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(OSError, match="no whole record"):
        read_place(tmp_path, places[0])
