"""Several agent-loop workers as Ray actors, spread over the machines of the trainer's Ray: how the manager, in verl's
task runner, starts, reaches and replaces them.

Who plays what is decided by ``runtime.agent_loop.worker_pool``; what a worker is made of, in
``runtime.trainer.worker_process``. Upstream: Ray 2.60.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from runtime.agent_loop.remote_result import RemoteResult
from runtime.agent_loop.trial_bytes import from_bytes
from runtime.agent_loop.trial_journal import read_place
from runtime.agent_loop.types import TrialKey, TrialResult
from runtime.agent_loop.worker import Beat, Order, Settled
from runtime.agent_loop.worker_pool import WorkerLost, WorkerPool
from runtime.config import RuntimeConfig
from runtime.errors import RunError
from runtime.rollouter.session_registry import SessionRegistry
from runtime.run_paths import WORKER, RunPaths
from runtime.task import Task
from runtime.telemetry.waits import overdue, waiting
from runtime.trainer.publish import end_group, kept_row, put_trajectories
from runtime.trainer.sessions import REGISTRY
from runtime.trainer.worker_process import WorkerProcess

log = logging.getLogger(__name__)

START_SEC = 1800.0
"""For a place on some machine, and for the imports of a busy one."""
_OWNER = "agent-loop"
Answer = TypeVar("Answer")


class RayWorker:
    """Implements ``worker_pool.Worker``. Holds the actor's handle, without which Ray would end it."""

    def __init__(self, name: str, actor: Any, node: str) -> None:
        self.name, self.node = name, node
        self._actor = actor

    async def play(self, order: Order) -> RemoteResult | None:
        return await _answer(self._actor.play.remote(order))

    async def cancel(self, slot: str) -> None:
        await _answer(self._actor.cancel.remote(slot))

    async def settle(self, settled: Settled) -> None:
        await _answer(self._actor.settle.remote(settled))

    async def beat(self) -> Beat:
        return await _answer(self._actor.beat.remote())

    async def end(self) -> None:
        ray.kill(self._actor)


async def _answer(asked: Awaitable[Answer]) -> Answer:
    try:
        return await asked
    except RayTaskError:
        raise  # what the worker itself has raised
    except RayError as error:
        raise WorkerLost(" ".join(str(error).split())[:300]) from None


class RayWorkers:
    """Implements ``runtime.trainer.players.Players``. Use ``open``."""

    def __init__(
        self,
        config: RuntimeConfig,
        *,
        device: str,
        model_folder: Path,
        run: RunPaths,
        image_of: Callable[[Task], str | None],
    ) -> None:
        """``image_of``: with which image a task was loaded, which a worker loads by its path."""
        self._settings, self._run = config.rollout.agent_loop, run
        self._concurrency = config.rollout.concurrency
        self._process = {"device": device, "model_folder": str(model_folder)}
        self._starts = itertools.count()
        self._names: dict[int, str] = {}
        self._image_of = image_of
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        made = ray.remote(SessionRegistry).options(
            name=REGISTRY, num_cpus=0, get_if_exists=True, max_restarts=-1, scheduling_strategy=here
        )
        self._registry = made.remote()
        self.runner = WorkerPool(
            self._start, count=self._settings.workers, attempts=config.rollout.attempts, order=self._order
        )

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        config: RuntimeConfig,
        *,
        device: str,
        model_folder: Path,
        run: RunPaths,
        image_of: Callable[[Task], str | None],
    ) -> AsyncIterator[RayWorkers]:
        made = cls(config, device=device, model_folder=model_folder, run=run, image_of=image_of)
        await made.runner.open()
        try:
            yield made
        finally:
            await made.runner.close()

    async def publish(self, row: Mapping[str, Any], results: Sequence[TrialResult], *, partition: str) -> int:
        kept, lost = kept_row(row), 0
        left: list[TrialResult] = [one for one in results if not isinstance(one, RemoteResult)]
        for one in await self.runner.publish(kept, results, partition=partition):
            found = await asyncio.to_thread(self._journaled, one)
            lost += found is None
            left += [] if found is None else [found]
        if left:
            await put_trajectories(kept, left, partition)
        await end_group(row, partition=partition, published=len(results) > lost)
        return lost

    async def forget(self, keys: Sequence[TrialKey]) -> None:
        await self.runner.forget(keys)

    def counts(self) -> Mapping[str, float]:
        return self.runner.counts()

    def metrics(self) -> Mapping[str, float]:
        states = [one["state"] for one in self.runner.status()]
        return {
            "agent_loop/workers": states.count("up"),
            "agent_loop/worker_restarts": self.runner.restarts,
            "agent_loop/handed_over": self.runner.handed_over,
        }

    def memory(self) -> float:
        return self.runner.memory()

    def status(self) -> Sequence[Mapping[str, Any]]:
        return self.runner.status()

    def why_hopeless(self) -> str | None:
        return self.runner.why_hopeless()

    def _journaled(self, result: RemoteResult) -> TrialResult | None:
        """A trial whose worker has died, from its journal; its reward as it was given last."""
        try:
            if result.place is None:
                raise OSError("it was not journaled")
            found = from_bytes(read_place(self._run.trial_journals, result.place))
        except OSError as error:
            log.error("%s: lost with its worker: %s", result.key.trial_id, error)
            return None
        return replace(found, reward=result.reward)

    def _order(self, task: Task, key: TrialKey, temperature: float, queued: float) -> Order:
        return Order(str(task.path), self._image_of(task), key, temperature, queued)

    async def _start(self, number: int) -> RayWorker:
        name = f"{number}.{next(self._starts)}"
        if number in self._names:
            self._registry.leave.remote(self._names[number])
        self._names[number] = name
        settings = self._settings
        actor = (
            ray.remote(WorkerProcess)
            .options(
                name=f"liverl_agent_loop_{name}",
                num_cpus=settings.cpus,
                resources={settings.resource: 1} if settings.resource else None,
                scheduling_strategy="SPREAD",
                # Signs of life must not stand in line behind trials.
                max_concurrency=2 * self._concurrency + 64,
                runtime_env={"env_vars": {WORKER: name}},
            )
            .remote(name, **self._process)
        )
        lacking = f"{settings.cpus:g} cpus" + (f", one {settings.resource}" if settings.resource else "")
        what = f"worker {number} to start on a machine with {lacking}"
        with waiting(self._run.waits, owner=_OWNER, what=what, deadline_sec=START_SEC):
            try:
                node = await asyncio.wait_for(_answer(actor.open.remote()), START_SEC)
            except TimeoutError:
                ray.kill(actor)
                raise RunError(overdue(what, owner=_OWNER, deadline_sec=START_SEC)) from None
        log.info("agent-loop worker %d runs on %s", number, node)
        return RayWorker(name, actor, node)
