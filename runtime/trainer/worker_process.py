"""The process of one of several agent-loop workers: a Ray actor around a ``TrialWorker`` and all it plays with.

Imports torch and the TransferQueue's client, but not verl, which would take ten seconds and half a gigabyte. Whoever
ends it, and however, its janitor clears up behind it on this machine. Upstream: Ray's asynchronous actors, 2.60.
"""

from __future__ import annotations

import os
import socket
from contextlib import AsyncExitStack
from pathlib import Path

import ray

from runtime.agent_loop.health import memory_in_use
from runtime.agent_loop.janitor import Janitor
from runtime.agent_loop.remote_result import RemoteResult
from runtime.agent_loop.services import open_services
from runtime.agent_loop.trial import TrialRunner
from runtime.agent_loop.trial_journal import TrialJournal
from runtime.agent_loop.worker import Beat, Order, Settled, TrialWorker
from runtime.config import RuntimeConfig, load_runtime_config
from runtime.rollouter.balanced import HealthChecks
from runtime.rollouter.leased import LeasedPool
from runtime.rollouter.pool import ReplicaPool
from runtime.run_paths import RunPaths
from runtime.trainer.platform import find_platform
from runtime.trainer.sessions import RayLeases


class WorkerProcess:
    """``name``: ``NUMBER.START``, nobody else's. Nothing is played before ``open`` has returned."""

    def __init__(self, name: str, *, device: str, model_folder: str) -> None:
        self._name, self._number = name, int(name.partition(".")[0])
        self._device, self._model_folder = device, Path(model_folder)
        self._stack = AsyncExitStack()
        self._inside: TrialWorker | None = None

    async def open(self) -> str:
        """Start all that trials need; where that is, for people."""
        from runtime.trainer.publish import put_trajectories

        run = RunPaths.of_process()
        config = own_share(load_runtime_config(run.runtime_json), number=self._number)
        state = run.worker_state(self._name)
        janitor = Janitor(run.path, worker=self._name, state=state)
        self._stack.callback(janitor.close)
        services = await self._stack.enter_async_context(
            open_services(
                config,
                engine=self._engine(config, waits=run.waits),
                model_folder=self._model_folder,
                state=state,
                journal=run.worker_journal(self._number),
            )
        )
        journal = TrialJournal(run.trial_journals, f"worker-{self._number}")
        self._stack.callback(journal.close)
        self._inside = TrialWorker(
            TrialRunner(services, config, trials=run.trials),
            name=self._name,
            journal=journal,
            publish=put_trajectories,
            counts=lambda: {name: float(value) for name, value in services.provider.counts.items()},
            memory=memory_in_use,
        )
        node = ray.get_runtime_context().get_node_id()[:8]
        return f"{socket.gethostname()} ({ray.util.get_node_ip_address()}, node {node}, process {os.getpid()})"

    def _engine(self, config: RuntimeConfig, *, waits: Path) -> ReplicaPool:
        replicas = find_platform(self._device).replicas()
        settings = {"routing": config.rollout.routing}
        if config.rollout.routing == "rendezvous":
            # The names of session and replicas alone decide: the same in every process.
            return ReplicaPool(replicas, config=settings, waits=waits)
        # What one finds the others hear: together they look as often as a few would.
        checks = HealthChecks(
            interval_sec=HealthChecks().interval_sec * max(1.0, config.rollout.agent_loop.workers / 4)
        )
        return LeasedPool(replicas, name=self._name, leases=RayLeases(), config=settings, checks=checks, waits=waits)

    @property
    def _worker(self) -> TrialWorker:
        assert self._inside is not None, "not opened"
        return self._inside

    async def play(self, order: Order) -> RemoteResult | None:
        return await self._worker.play(order)

    async def cancel(self, slot: str) -> None:
        await self._worker.cancel(slot)

    async def settle(self, settled: Settled) -> None:
        await self._worker.settle(settled)

    async def beat(self) -> Beat:
        return await self._worker.beat()


def own_share(config: RuntimeConfig, *, number: int) -> RuntimeConfig:
    """The settings of one of several workers: its part of the sandboxes, and a port of its own where one is given."""
    workers, environment, proxy = config.rollout.agent_loop.workers, config.environment, config.proxy
    if environment.max_sandboxes is not None:
        share = max(1, environment.max_sandboxes // workers)
        environment = environment.model_copy(update={"max_sandboxes": share})
    if proxy.port:
        proxy = proxy.model_copy(update={"port": proxy.port + number})
    return config.model_copy(update={"environment": environment, "proxy": proxy})
