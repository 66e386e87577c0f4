"""The registry of sessions as an actor, in a run of several agent-loop workers: how pools and weight syncs reach it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import ray

from runtime.rollouter.engine import WeightIdentity
from runtime.rollouter.session_registry import Lease, News, Report

REGISTRY = "liverl_sessions"


class RayLeases:
    """The registry of sessions, an actor of this run."""

    def __init__(self) -> None:
        self._registry = ray.get_actor(REGISTRY)

    async def lease(
        self, pool: str, session: str, *, blocks: int, avoid: Collection[str], ended: Sequence[str]
    ) -> Lease | None:
        asked = self._registry.lease.remote(pool, session, blocks=blocks, avoid=tuple(avoid), ended=tuple(ended))
        lease: Lease | None = await asked
        return lease

    async def report(self, pool: str, report: Report) -> News:
        news: News = await self._registry.report.remote(pool, report)
        return news

    async def join(self, pool: str, servers: Sequence[str], homes: Mapping[str, str]) -> None:
        await self._registry.join.remote(pool, servers, homes)


class WeightNews:
    """What the pools of several agent-loop workers are told of weights: replicas that are found with older ones get no
    calls. Told when the next weights begin to travel: only then does every replica surely have those before."""

    def __init__(self) -> None:
        self._settled: WeightIdentity | None = None

    def settled(self, version: int, fingerprint: str) -> None:
        """The replicas of this sender hold this version."""
        self._settled = WeightIdentity(version, fingerprint)

    def next(self) -> None:
        """The next version is about to be sent."""
        if self._settled is None:
            return
        try:
            registry = ray.get_actor(REGISTRY)
        except ValueError:
            return  # trials are played in the trainer's own process
        registry.expect.remote(self._settled)
