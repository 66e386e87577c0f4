"""Who plays the trials for the agent loop manager: this process, or several workers (``runtime.trainer.ray_workers``).

Knows what the manager needs of them, and the way of this process.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from runtime.agent_loop.services import open_services
from runtime.agent_loop.trial import TrialRunner
from runtime.agent_loop.types import TrialKey, TrialResult
from runtime.agent_loop.worker import PlaysTrials
from runtime.config import RuntimeConfig
from runtime.rollouter.pool import ReplicaPool
from runtime.run_paths import RunPaths
from runtime.sandboxes.base import SandboxProvider
from runtime.trainer.platform import Platform
from runtime.trainer.publish import publish_group


class Players(Protocol):
    @property
    def runner(self) -> PlaysTrials:
        """For a ``GroupRunner``."""

    async def publish(self, row: Mapping[str, Any], results: Sequence[TrialResult], *, partition: str) -> int:
        """The trajectories of a group's trials, which have all settled, and then its status. Returns how many of the
        trials are lost because nobody has their tokens any more."""

    async def forget(self, keys: Sequence[TrialKey]) -> None:
        """These trials will not be published (again), whether they came to an end or not."""

    def counts(self) -> Mapping[str, float]:
        """What the sandboxes count, by name."""

    def metrics(self) -> Mapping[str, float]:
        """Of the players themselves, for each step's row."""

    def memory(self) -> float:
        """Share of the memory in use on other machines than this one."""

    def status(self) -> Sequence[Mapping[str, Any]]:
        """Of every worker, for people."""

    def why_hopeless(self) -> str | None:
        """Why nothing can be played any more."""


class ThisProcess:
    """Implements ``Players``. Use ``open``."""

    def __init__(self, runner: TrialRunner, provider: SandboxProvider) -> None:
        self.runner = runner
        self._provider = provider

    @classmethod
    @asynccontextmanager
    async def open(
        cls, config: RuntimeConfig, *, platform: Platform, model_folder: Path, run: RunPaths
    ) -> AsyncIterator[ThisProcess]:
        engine = ReplicaPool(platform.replicas(), config={"routing": config.rollout.routing}, waits=run.waits)
        async with open_services(
            config, engine=engine, model_folder=model_folder, state=run.state, journal=run.journal
        ) as services:
            yield cls(TrialRunner(services, config, trials=run.trials), services.provider)

    async def publish(self, row: Mapping[str, Any], results: Sequence[TrialResult], *, partition: str) -> int:
        await publish_group(row, results, partition=partition)
        return 0

    async def forget(self, keys: Sequence[TrialKey]) -> None:
        """Nothing is held."""

    def counts(self) -> Mapping[str, float]:
        return self._provider.counts

    def metrics(self) -> Mapping[str, float]:
        return {}

    def memory(self) -> float:
        return 0.0

    def status(self) -> Sequence[Mapping[str, Any]]:
        return ()

    def why_hopeless(self) -> str | None:
        return None
