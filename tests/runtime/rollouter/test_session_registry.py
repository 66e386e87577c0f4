"""Pools of several processes over the same replicas: homes of sessions are balanced over all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pytest

from runtime.errors import Termination, TrialError
from runtime.rollouter.balanced import HealthChecks
from runtime.rollouter.balancer import BLOCK_TOKENS
from runtime.rollouter.engine import Generation, SamplingParams, WeightIdentity
from runtime.rollouter.leased import LeasedPool
from runtime.rollouter.session_registry import Lease, News, Report, SessionRegistry
from tests.runtime.agent_loop.virtual_time import run_virtual

PARAMS = SamplingParams(max_tokens=1)
POOLS, REPLICAS = 4, 8


class Inference:
    """One replica, whoever calls it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.served: list[str] = []
        self.dead = False
        self.identity_ = WeightIdentity(1, "one")
        self.seconds = 1.0

    async def generate(self, prompt_ids: Sequence[int], params: SamplingParams, *, session: str) -> Generation:
        if self.dead:
            raise TrialError(Termination.MODEL_UNAVAILABLE, self.name)
        self.served.append(session)
        await asyncio.sleep(self.seconds)
        return Generation([1], [0.0], [1], "stop")

    async def identity(self) -> WeightIdentity:
        if self.dead:
            raise TrialError(Termination.MODEL_UNAVAILABLE, self.name)
        return self.identity_

    async def abort_all(self) -> int:
        return 0

    async def close(self) -> None: ...


class NearbyLeases:
    """The registry with a way to it that takes time, and may be cut."""

    def __init__(self, registry: SessionRegistry) -> None:
        self.registry = registry
        self.cut = False

    async def lease(
        self, pool: str, session: str, *, blocks: int, avoid: Collection[str], ended: Sequence[str]
    ) -> Lease | None:
        await self._way()
        return self.registry.lease(pool, session, blocks=blocks, avoid=avoid, ended=ended)

    async def report(self, pool: str, report: Report) -> News:
        await self._way()
        return self.registry.report(pool, report)

    async def join(self, pool: str, servers: Sequence[str], homes: Mapping[str, str]) -> None:
        await self._way()
        self.registry.join(pool, servers, homes)

    async def _way(self) -> None:
        await asyncio.sleep(0.003)
        if self.cut:
            raise ConnectionError("the registry is away")


class Fleet:
    def __init__(self, *, pools: int = POOLS, replicas: int = REPLICAS) -> None:
        clock = asyncio.get_running_loop().time
        self.registry = SessionRegistry(clock=clock)
        self.leases = NearbyLeases(self.registry)
        self.replicas = {f"r{number}": Inference(f"r{number}") for number in range(replicas)}
        checks = HealthChecks(interval_sec=500.0)
        config = {"routing": "least_in_flight"}
        self.pools: list[LeasedPool] = [
            LeasedPool(dict(self.replicas), name=f"p{n}", leases=self.leases, config=config, checks=checks)
            for n in range(pools)
        ]

    async def session(self, pool: int, name: str, *, calls: int = 1, tokens: int = 10) -> None:
        for _ in range(calls):
            await self.pools[pool].generate(range(tokens), PARAMS, session=name)
            await asyncio.sleep(0.5)

    def sessions(self) -> list[int]:
        return list(self.registry._sessions.values())

    async def close(self) -> None:
        await asyncio.gather(*(pool.close() for pool in self.pools))


def spread(counts: Sequence[int]) -> int:
    return max(counts) - min(counts)


def test_sessions_of_all_pools_spread_evenly_and_stay() -> None:
    async def play() -> None:
        fleet = Fleet()
        work = [fleet.session(pool, f"{pool}-{n}", calls=5) for pool in range(POOLS) for n in range(13)]
        async with asyncio.TaskGroup() as tasks:
            for one in work:
                tasks.create_task(one)
            await asyncio.sleep(0.5)
            assert sum(fleet.sessions()) == 52 and spread(fleet.sessions()) <= 1
            in_flight = [len(one.served) for one in fleet.replicas.values()]
            assert sum(in_flight) == 52 and spread(in_flight) <= 1
        homes: dict[str, set[str]] = {}
        for name, one in fleet.replicas.items():
            for session in one.served:
                homes.setdefault(session, set()).add(name)
        assert len(homes) == 52 and all(len(home) == 1 for home in homes.values()), "a session has moved"
        for pool in range(POOLS):
            for n in range(13):
                fleet.pools[pool].end_session(f"{pool}-{n}")
        await asyncio.sleep(2)
        assert fleet.sessions() == [0] * REPLICAS and not +fleet.registry._blocks
        await fleet.close()

    run_virtual(play())


def test_each_pool_alone_would_not_spread_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the registry is for: the same without its answers."""

    async def play() -> None:
        fleet = Fleet()
        fleet.leases.cut = True
        work = [fleet.session(pool, f"{pool}-{n}") for pool in range(POOLS) for n in range(13)]
        await asyncio.gather(*work)
        counts = [len(one.served) for one in fleet.replicas.values()]
        assert sum(counts) == 52 and spread(counts) == POOLS
        fleet.leases.cut = False
        await fleet.session(0, "after")
        assert sum(fleet.sessions()) == 1, "the registry is asked again"
        await fleet.close()

    run_virtual(play())


def test_long_calls_of_one_pool_keep_the_others_new_sessions_away() -> None:
    async def play() -> None:
        fleet = Fleet(pools=2, replicas=2)
        fleet.replicas["r0"].seconds = fleet.replicas["r1"].seconds = 60.0
        long = asyncio.create_task(fleet.session(0, "long", tokens=6 * BLOCK_TOKENS))
        await asyncio.sleep(5)  # by now it is a report, no longer a fresh lease
        short = [asyncio.create_task(fleet.session(1, f"s{n}")) for n in range(5)]
        await asyncio.sleep(5)
        assert sorted(len(one.served) for one in fleet.replicas.values()) == [1, 5]
        for task in (long, *short):
            task.cancel()
        await asyncio.gather(long, *short, return_exceptions=True)
        await fleet.close()

    run_virtual(play())


def test_a_dead_pools_leases_run_out() -> None:
    async def play() -> None:
        fleet = Fleet(pools=2, replicas=2)
        await asyncio.gather(*(fleet.session(pool, f"{pool}-{n}") for pool in range(2) for n in range(4)))
        assert sum(fleet.sessions()) == 8
        await fleet.pools[1].close()  # as if killed: it says nothing more
        await asyncio.sleep(60)
        assert sum(fleet.sessions()) == 4 and list(fleet.registry._pools) == ["p0"]
        # It was only away, and comes back.
        await fleet.pools[1].report()
        await fleet.pools[1].report()
        assert sum(fleet.sessions()) == 8
        await fleet.close()

    run_virtual(play())


def test_what_one_pool_notices_of_a_replica_reaches_the_others() -> None:
    async def play() -> None:
        fleet = Fleet(pools=2, replicas=2)
        await asyncio.gather(*(fleet.session(pool, f"{pool}-{n}") for pool in range(2) for n in range(2)))
        fleet.replicas["r0"].dead = True
        await fleet.pools[0].generate([1], PARAMS, session="0-0")
        await fleet.pools[0].generate([1], PARAMS, session="0-1")
        await asyncio.sleep(3)
        health = [pool.status()["health"]["r0"] for pool in fleet.pools]
        assert health == ["open", "open"], "its own health checks are far between"
        await fleet.close()

    run_virtual(play())


def test_expected_weights_reach_every_pool() -> None:
    async def play() -> None:
        fleet = Fleet(pools=2, replicas=3)
        await asyncio.gather(*(fleet.session(pool, f"{pool}-{n}") for pool in range(2) for n in range(2)))
        fleet.replicas["r0"].identity_ = WeightIdentity(2, "two")
        fleet.replicas["r1"].identity_ = WeightIdentity(3, "three")  # its news is on its way
        fleet.registry.expect(WeightIdentity(2, "two"))
        fleet.registry.expect(WeightIdentity(1, "one"))  # late news of before
        await asyncio.sleep(3)
        for pool in fleet.pools:
            await pool.check()
            assert sorted(pool.quarantined) == ["r2"]
        fleet.replicas["r2"].identity_ = WeightIdentity(2, "two")
        for pool in fleet.pools:
            await pool.check()
            assert not pool.quarantined
        await fleet.close()

    run_virtual(play())


def any_of(**changes: Any) -> Report:
    return Report(**{"heard": 0, "blocks": {}, **changes})


def test_an_unknown_pool_is_told_so() -> None:
    registry = SessionRegistry()
    assert registry.lease("nobody", "s", blocks=1) is None
    assert not registry.report("nobody", any_of()).known
    registry.join("p", ["r"], {})
    assert registry.lease("p", "s", blocks=1, avoid=["r"]) is None
    assert registry.lease("p", "s", blocks=1) == Lease("r", 2 - 1)
