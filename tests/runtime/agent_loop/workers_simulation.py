"""The demand of many trainers on many workers, in virtual time: what a test asserts of and the benchmark reports.

Real are the manager's side (groups of trials, the pool of workers, the data buffer with its journal) and each worker's
(``TrialWorker``, its boxes ahead and the queue for them, its pool of replicas), with the registry of sessions between
the pools. Simulated are boxes, agents and replicas; there is no HTTP and no Ray. What is measured is this process's
CPU, or the lines of ``runtime`` that it goes through, in equal parts of the run: neither may grow with what has
happened before, and lines do not grow with a machine's load either.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any, cast

import runtime
from runtime.agent_loop.groups import GroupRequest, GroupRunner
from runtime.agent_loop.remote_result import Place, RemoteResult, place_bytes
from runtime.agent_loop.types import Sampling, Timings, TrialKey, TrialResult
from runtime.agent_loop.worker import Order, TrialWorker
from runtime.agent_loop.worker_pool import Patience, WorkerPool
from runtime.errors import Termination
from runtime.proxy.types import Sample
from runtime.rollouter.balanced import HealthChecks
from runtime.rollouter.buffer import DataBuffer, Slot
from runtime.rollouter.engine import Generation, SamplingParams, WeightIdentity
from runtime.rollouter.leased import LeasedPool
from runtime.rollouter.session_registry import SessionRegistry
from runtime.sandboxes.base import SandboxRequest
from runtime.sandboxes.fair_queue import FairQueue
from runtime.sandboxes.pool import PooledProvider
from runtime.task import Task
from tests.runtime.agent_loop.local_workers import LocalWorker
from tests.runtime.agent_loop.virtual_time import run_virtual

SIZE, TURNS = 8, 4
RUNTIME = str(Path(runtime.__file__).parent)
PARAMS = SamplingParams(max_tokens=1)


class _Leases:
    """The registry, a message away."""

    def __init__(self, registry: SessionRegistry) -> None:
        self._registry = registry
        self.granted = 0

    async def lease(self, pool: str, session: str, **asked: Any) -> Any:
        self.granted += 1
        await asyncio.sleep(0.002)
        return self._registry.lease(pool, session, **asked)

    async def report(self, pool: str, report: Any) -> Any:
        await asyncio.sleep(0.002)
        return self._registry.report(pool, report)

    async def join(self, pool: str, servers: Sequence[str], homes: Mapping[str, str]) -> None:
        self._registry.join(pool, servers, homes)


class _Inference:
    def __init__(self) -> None:
        self.in_flight = self.most = 0

    async def generate(self, prompt_ids: Sequence[int], params: SamplingParams, *, session: str) -> Generation:
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        await asyncio.sleep(4.0)
        self.in_flight -= 1
        return Generation([1], [0.0], [1], "stop")

    async def identity(self) -> WeightIdentity:
        return WeightIdentity(1, "one")

    async def abort_all(self) -> int:
        return 0

    async def close(self) -> None: ...


class _Boxes:
    """In a provider's place."""

    capabilities = None
    counts: Mapping[str, float] = {}
    open = most = 0

    async def start(self, request: SandboxRequest) -> Any:
        await asyncio.sleep(0.5)
        _Boxes.open += 1
        _Boxes.most = max(_Boxes.most, _Boxes.open)
        return SimpleNamespace(alive=True, stop=self._stop, proxy_url="")

    async def _stop(self) -> None:
        _Boxes.open -= 1

    async def close(self) -> None: ...


class _Trials:
    """In ``TrialRunner``'s place: a box, and turns of calls and tools with it."""

    def __init__(self, engine: LeasedPool, boxes: PooledProvider, dice: random.Random) -> None:
        self._engine, self._boxes, self._dice = engine, boxes, dice

    async def run(self, task: Task, *, key: TrialKey, temperature: float, queued: float = 0.0) -> TrialResult:
        box = await self._boxes.start(_request(key))
        for turn in range(TURNS):
            await self._engine.generate(range(500 * (turn + 1)), PARAMS, session=key.trial_id)
            await asyncio.sleep(self._dice.expovariate(1 / 6.0))
        self._engine.end_session(key.trial_id)
        await box.stop()
        return TrialResult(
            key=key,
            termination=Termination.COMPLETED,
            reward=float(self._dice.random() < 0.5),
            isolation="none",
            timings=Timings(),
            sampling=Sampling(1.0, 0),
            samples=(Sample([1], [2], [1], [0.0], [1]),),
        )


def _request(key: TrialKey) -> SandboxRequest:
    return SandboxRequest(name=key.trial_id, lower=Path("/"), workdir="/app")


@dataclass
class Outcome:
    trials: int = 0
    published: int = 0
    spread: int = 0
    """Most minus fewest sessions of a replica, once all of the first have begun."""
    boxes: int = 0
    handed_over: int = 0
    held: int = 0
    """Trials whose tokens living workers hold at the end."""
    leases: float = 0.0
    """Per trial."""
    cpu_ms: list[float] = field(default_factory=list)
    """Per trial, in the order of the run's equal parts."""
    cpu_sec: float = 0.0
    lines: list[float] = field(default_factory=list)
    """Gone through per trial, in the same way; where they were to be counted."""


@contextmanager
def _lines_of(folder: str) -> Iterator[list[int]]:
    """How many lines of files below ``folder`` are gone through inside the block; every turn of a loop, and of a
    comprehension, is one at least."""
    before, count = sys.gettrace(), [0]

    def line(frame: FrameType, event: str, argument: object) -> Any:
        count[0] += event == "line"
        return line

    def call(frame: FrameType, event: str, argument: object) -> Any:
        return line if frame.f_code.co_filename.startswith(folder) else None

    sys.settrace(call)
    try:
        yield count
    finally:
        sys.settrace(before)


class _Keeper:
    """The data buffer without threads, which virtual time cannot wait for."""

    def __init__(self, buffer: DataBuffer) -> None:
        self._buffer = buffer

    def reserve(self, request: GroupRequest) -> list[TrialResult]:
        self._buffer.reserve(request.uid, Slot(request.task_set, request.uid, request.step))
        return []

    async def keep(self, request: GroupRequest, result: TrialResult) -> None:
        assert isinstance(result, RemoteResult)
        payload = place_bytes(Place("worker-0-00000000-000.trials", 0, 5000))
        self._buffer.put(request.uid, result.key.index, payload, versions=result.weight_versions)


async def _play(
    task: Task, journal: Path, *, replicas: int, boxes: int, workers: int, waves: int, kill: bool, count: bool
) -> Outcome:
    loop, outcome, dice = asyncio.get_running_loop(), Outcome(), random.Random(0)
    registry = SessionRegistry(clock=loop.time)
    leases = _Leases(registry)
    fleet = {f"replica-{number}": _Inference() for number in range(replicas)}
    _Boxes.open = _Boxes.most = 0
    made: list[LocalWorker] = []

    async def start(number: int) -> LocalWorker:
        name = f"{number}.{len(made)}"
        engine = LeasedPool(
            dict(fleet), name=name, leases=leases, checks=HealthChecks(interval_sec=600.0, timeout_sec=60.0)
        )
        provider = PooledProvider(
            cast(Any, _Boxes()), warm=2, max_idle=8, queue=FairQueue(boxes // workers), run=name, clock=loop.time
        )

        async def publish(row: Mapping[str, Any], results: Sequence[TrialResult], partition: str) -> None:
            outcome.published += len(results)

        runner = _Trials(engine, provider, random.Random(number))
        inside = TrialWorker(runner, name=name, journal=None, publish=publish, load=lambda *_: task)
        made.append(LocalWorker(inside))
        return made[-1]

    pool = WorkerPool(
        start,
        count=workers,
        attempts=3,
        order=lambda task, key, temperature, queued: Order("task", None, key, temperature, queued),
        patience=Patience(beat_sec=5.0),
        clock=loop.time,
    )
    await pool.open()
    buffer = DataBuffer(journal)
    buffer.recover(0)
    groups = GroupRunner(pool, concurrency=boxes, keeper=_Keeper(buffer))
    numbers = itertools.count()

    async def group(step: int) -> None:
        uid = f"u{next(numbers):06d}"
        results = await groups.run(GroupRequest(task, "train", uid, step, SIZE, 1.0, uid=uid))
        kept = [one for one in results if one.trainable]
        await pool.publish({"uid": uid}, kept, partition="train")
        await pool.forget([one.key for one in results])
        buffer.taken([uid], step=step)
        outcome.trials += len(results)

    for wave in range(1, waves + 1):
        began, before = time.process_time(), outcome.trials
        with _lines_of(RUNTIME) if count else nullcontext([0]) as lines:
            work = [asyncio.create_task(group(wave)) for _ in range(boxes // SIZE)]
            await asyncio.sleep(3.0)
            sessions = registry._sessions.values()
            if wave == 1:
                outcome.spread = max(sessions) - min(sessions)
            if kill and wave == 2:
                made[dice.randrange(workers)].kill()
            await asyncio.gather(*work)
        spent = time.process_time() - began
        outcome.lines.append(lines[0] / (outcome.trials - before))
        outcome.cpu_ms.append(spent / (outcome.trials - before) * 1e3)
        outcome.cpu_sec += spent
        # As after a checkpoint.
        buffer.saved(wave)
    outcome.held = sum(worker.inside.held for worker in made if not worker.gone)
    outcome.leases = leases.granted / outcome.trials
    outcome.boxes, outcome.handed_over = _Boxes.most, pool.handed_over
    await pool.close()
    buffer.close()
    return outcome


def simulate(
    task: Task,
    folder: Path,
    *,
    replicas: int,
    boxes: int,
    workers: int,
    waves: int = 4,
    kill: bool = True,
    count: bool = False,
) -> Outcome:
    """``waves`` times as many trials as there are boxes, a step each; in the second a worker is killed. ``count``:
    lines, which takes CPU of its own."""
    size = {"replicas": replicas, "boxes": boxes, "workers": workers, "waves": waves}
    return run_virtual(_play(task, folder / f"{replicas}.log", **size, kill=kill, count=count))
