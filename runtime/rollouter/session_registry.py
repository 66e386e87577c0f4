"""Which replica serves which session, over the pools of several processes: new sessions go to the least loaded one.

Every pool keeps its sessions where they are and asks only for a new one's home, or when a home is lost; so the registry
hears of sessions, not of calls. What it grants is a lease: a pool that is silent for too long no longer counts. Pools
report the calls that they have in flight and what they have noticed of replicas, and hear what the others have, and
which weights replicas must serve. Knows names and counts only; not thread-safe: one event loop, or one actor.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from runtime.rollouter.engine import WeightIdentity

LEASE_SEC = 30.0


@dataclass(frozen=True)
class Report:
    """What a pool says about once a second. ``blocks``: of its calls in flight, by replica. ``heard``: the newest lease
    that it knows of; those up to it are among the blocks, or have no call in flight. ``ended``: sessions."""

    heard: int
    blocks: Mapping[str, int]
    ended: Sequence[str] = ()
    lost: Sequence[str] = ()


@dataclass(frozen=True)
class News:
    """``lost``: replicas that other pools cannot reach. ``known``: False to a pool whose leases have run out."""

    lost: Sequence[str] = ()
    expected: WeightIdentity | None = None
    known: bool = True


@dataclass(frozen=True)
class Lease:
    server: str
    number: int
    """Counts those of one pool."""


class Leases(Protocol):
    """The registry as a pool reaches it; every method may raise when it is away."""

    async def lease(
        self, pool: str, session: str, *, blocks: int, avoid: Collection[str], ended: Sequence[str]
    ) -> Lease | None: ...

    async def report(self, pool: str, report: Report) -> News: ...

    async def join(self, pool: str, servers: Sequence[str], homes: Mapping[str, str]) -> None: ...


@dataclass
class _Pool:
    heard: float
    homes: dict[str, str] = field(default_factory=dict)
    granted: dict[int, tuple[str, int]] = field(default_factory=dict)
    """Leases that its reports do not cover yet: number -> replica, blocks."""
    blocks: Mapping[str, int] = field(default_factory=dict)
    lost: frozenset[str] = frozenset()
    number: int = 0


class SessionRegistry:
    """``lease_sec``: how long a silent pool is counted."""

    def __init__(self, *, lease_sec: float = LEASE_SEC, clock: Callable[[], float] = time.monotonic) -> None:
        self._lease_sec, self._clock = lease_sec, clock
        self._pools: dict[str, _Pool] = {}
        self._blocks: Counter[str] = Counter()
        self._sessions: dict[str, int] = {}
        """Of every replica that any pool has named."""
        self._expected: WeightIdentity | None = None
        self._looked = clock()

    def join(self, pool: str, servers: Sequence[str], homes: Mapping[str, str]) -> None:
        """A pool begins, or one that was forgotten comes back with the homes of its sessions."""
        self.leave(pool)
        for server in servers:
            self._sessions.setdefault(server, 0)
        self._pools[pool] = _Pool(self._clock(), homes=dict(homes))
        for server in homes.values():
            self._sessions[server] = self._sessions.get(server, 0) + 1

    def leave(self, pool: str) -> None:
        """Nothing of it counts any more. Unknown names are not an error."""
        gone = self._pools.pop(pool, None)
        if gone is None:
            return
        for server in gone.homes.values():
            self._sessions[server] -= 1
        self._blocks.subtract(gone.blocks)
        for server, blocks in gone.granted.values():
            self._blocks[server] -= blocks

    def lease(
        self, pool: str, session: str, *, blocks: int, avoid: Collection[str] = (), ended: Sequence[str] = ()
    ) -> Lease | None:
        """The least loaded replica that is not to be avoided becomes the session's home. None: there is none, or the
        pool is not known."""
        self._expire()
        mine = self._pools.get(pool)
        if mine is None:
            return None
        mine.heard = self._clock()
        self._end(mine, (*ended, session))
        lost = frozenset().union(*(one.lost for one in self._pools.values() if one.lost))
        blocks_of, sessions_of = self._blocks, self._sessions
        able = [name for name in sessions_of if name not in avoid] if avoid else sessions_of
        if not able:
            return None
        # What some pool has lost comes last: it may be that pool's way that is broken, or the replica.
        server = min(able, key=lambda name: (name in lost, blocks_of[name], sessions_of[name]))
        mine.number += 1
        mine.homes[session] = server
        mine.granted[mine.number] = (server, blocks)
        self._sessions[server] += 1
        self._blocks[server] += blocks
        return Lease(server, mine.number)

    def report(self, pool: str, report: Report) -> News:
        self._expire()
        mine = self._pools.get(pool)
        if mine is None:
            return News(known=False)
        mine.heard = self._clock()
        self._end(mine, report.ended)
        for number in [number for number in mine.granted if number <= report.heard]:
            server, blocks = mine.granted.pop(number)
            self._blocks[server] -= blocks
        self._blocks.subtract(mine.blocks)
        self._blocks.update(report.blocks)
        mine.blocks, mine.lost = dict(report.blocks), frozenset(report.lost)
        others = frozenset().union(*(one.lost for name, one in self._pools.items() if name != pool))
        return News(sorted(others - mine.lost), self._expected)

    def expect(self, identity: WeightIdentity) -> None:
        """What replicas must serve from now on. Older news than what is known is not heeded."""
        if self._expected is None or identity.version >= self._expected.version:
            self._expected = identity

    def _end(self, pool: _Pool, sessions: Sequence[str]) -> None:
        for session in sessions:
            if (server := pool.homes.pop(session, None)) is not None:
                self._sessions[server] -= 1

    def _expire(self) -> None:
        now = self._clock()
        if now - self._looked < self._lease_sec / 10:
            return
        self._looked = now
        for name in [name for name, pool in self._pools.items() if now - pool.heard > self._lease_sec]:
            self.leave(name)
