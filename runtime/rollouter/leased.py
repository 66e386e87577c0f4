"""A pool of replicas that shares them with the pools of other processes: homes of new sessions come from a registry.

Where the registry is away, the pool balances by what it knows itself. Knows the registry by its protocol alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runtime.rollouter.balanced import HealthChecks
from runtime.rollouter.balancer import blocks_of
from runtime.rollouter.engine import Replica, WeightIdentity
from runtime.rollouter.pool import ReplicaPool
from runtime.rollouter.session_registry import Leases, Report

log = logging.getLogger(__name__)

REPORT_SEC = 1.0
_ANSWER_SEC = 5.0


class LeasedPool(ReplicaPool):
    """``name``: of this pool, nobody else's. See ``ReplicaPool`` for the rest."""

    def __init__(
        self,
        replicas: Mapping[str, Replica],
        *,
        name: str,
        leases: Leases,
        config: Mapping[str, Any] | None = None,
        checks: HealthChecks | None = None,
        waits: Path | None = None,
    ) -> None:
        super().__init__(replicas, config=config, checks=checks, waits=waits)
        self._name, self._leases = name, leases
        self._leased: dict[str, str] = {}
        self._ended: list[str] = []
        self._heard = 0
        self._joined = False
        self._joining = asyncio.Lock()
        self._reporting: asyncio.Task[None] | None = None
        self._worried: set[str] = set()
        self._looking: set[asyncio.Task[None]] = set()

    def end_session(self, session: str) -> None:
        super().end_session(session)
        if self._leased.pop(session, None) is not None:
            self._ended.append(session)

    async def close(self) -> None:
        tasks = [*self._looking, *([] if self._reporting is None else [self._reporting])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await super().close()

    def expect(self, identity: WeightIdentity) -> None:
        """What replicas must serve: those that health checks find with older weights, or others of the same version,
        are kept out. Newer ones have them from a sync of which the news is still on its way."""
        if identity != self._expected:
            self._expected = identity
            self._epoch += 1

    async def report(self) -> None:
        """One report to the registry, and what comes back. Raises when it is away."""
        ended, self._ended = self._ended, []
        lost = [name for name, missed in self._missed.items() if missed]
        try:
            if not self._joined:
                await self._join()
            news = await self._leases.report(self._name, Report(self._heard, self._balancer.loads(), ended, lost))
        except BaseException:
            self._ended = ended + self._ended
            raise
        if not news.known:
            self._joined = False
        if news.expected is not None:
            self.expect(news.expected)
        for name in news.lost:
            if name in self._replicas and name not in self._worried:
                self._worried.add(name)
                task = asyncio.create_task(self._look(name))
                self._looking.add(task)
                task.add_done_callback(self._looking.discard)

    async def _find_home(self, session: str, tokens: int, avoid: Sequence[str]) -> None:
        if self._balancer.home(session, avoid) is not None:
            return
        if self._reporting is None:
            self._reporting = asyncio.create_task(self._report(), name="session-reports")
        able = self._balancer.available_servers()
        if not set(able) - set(avoid):
            return  # nobody can say one
        shunned = {*avoid, *(self._replicas.keys() - able)}
        ended, self._ended = self._ended, []
        try:
            async with asyncio.timeout(_ANSWER_SEC):
                if not self._joined:
                    await self._join()
                lease = await self._leases.lease(
                    self._name, session, blocks=blocks_of(tokens), avoid=shunned, ended=ended
                )
        except Exception as error:
            self._ended = ended + self._ended
            self._joined = False
            log.warning("the registry of sessions does not answer; balanced by this process alone: %r", error)
            return
        if lease is None:
            self._joined = False
            return
        self._heard = max(self._heard, lease.number)
        self._leased[session] = lease.server
        self._balancer.assign(session, lease.server)

    async def _look(self, name: str) -> None:
        """Another pool cannot reach this replica. Can this one?"""
        try:
            if name in self._replicas:
                await self._check(name)
        finally:
            self._worried.discard(name)

    async def _join(self) -> None:
        async with self._joining:
            if not self._joined:
                await self._leases.join(self._name, list(self._replicas), dict(self._leased))
                self._heard, self._joined = 0, True

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(REPORT_SEC)
            try:
                async with asyncio.timeout(_ANSWER_SEC):
                    await self.report()
            except Exception as error:
                self._joined = False
                log.debug("the registry of sessions does not answer: %r", error)

    def _place(self, name: str, answer: WeightIdentity) -> None:
        expected = self._expected
        if expected is not None and answer.version > expected.version:
            answer = expected
        super()._place(name, answer)
