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


def tell_weights(version: int, fingerprint: str) -> None:
    """All replicas that were sent this version hold it: the pools of several agent-loop workers keep others out."""
    try:
        registry = ray.get_actor(REGISTRY)
    except ValueError:
        return  # trials are played in the trainer's own process
    registry.expect.remote(WeightIdentity(version, fingerprint))
