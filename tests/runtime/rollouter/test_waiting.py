"""Calls that no replica takes wait for one that may have the weights: random faults under the real pool, in virtual
time.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runtime.errors import Termination, TrialError
from runtime.rollouter.balanced import HealthChecks
from runtime.rollouter.engine import Generation, SamplingParams, WeightIdentity
from runtime.rollouter.pool import ReplicaPool
from runtime.telemetry.waits import read_waits
from tests.runtime.agent_loop.virtual_time import run_virtual

PARAMS = SamplingParams(max_tokens=4)
CHECKS = HealthChecks(interval_sec=2.0, timeout_sec=3.0, misses=2, patience_sec=20.0)
LONGEST_SEC = CHECKS.attempts * 90.0 + CHECKS.patience_sec
"""No call may take longer: replies, what a hung replica is given, and one patience."""


class Replica:
    """``version`` and ``policy``: what it holds. ``failing``: so many of its next calls get a 500."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self.served = WeightIdentity(1, "policy-1")
        self.failing = self.calls = self.asked = 0
        self.hung = self.dead = False
        self._died = asyncio.Event()

    async def generate(self, prompt_ids: Sequence[int], params: SamplingParams, *, session: str) -> Generation:
        self.calls += 1
        await self._reachable()
        if self.failing:
            self.failing -= 1
            raise TrialError(Termination.MODEL_UNAVAILABLE, "it answered 500")
        held, died = self.served, self._died
        try:
            await asyncio.wait_for(died.wait(), self._dice.choice((0.1, 1.0, 8.0)))
        except TimeoutError:
            await self._reachable()
            return Generation([9] * 2, [-1.0] * 2, [held.version] * 2, "stop", extra={"policy": held.fingerprint})
        raise TrialError(Termination.MODEL_UNAVAILABLE, "it died: connection reset")

    async def identity(self) -> WeightIdentity:
        self.asked += 1
        await self._reachable()
        return self.served

    def restart(self) -> None:
        """With what it had at the very start."""
        self.dead = self.hung = False
        self.failing, self.served = 0, WeightIdentity(0, "policy-0")

    def die(self) -> None:
        self.dead = True
        self._died.set()
        self._died = asyncio.Event()

    async def abort_all(self) -> int:
        return 0

    async def close(self) -> None: ...

    async def _reachable(self) -> None:
        if self.dead:
            raise TrialError(Termination.MODEL_UNAVAILABLE, "connection refused")
        while self.hung:
            await asyncio.sleep(0.5)


@dataclass
class Play:
    """``faults``: (seconds after the one before, replica, what)."""

    replicas: int
    sessions: int
    faults: list[tuple[float, int, str]]
    seed: int
    waits: Path
    failures: list[str] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)

    async def run(self) -> None:
        loop, dice = asyncio.get_running_loop(), random.Random(self.seed)
        self.all = [Replica(dice) for _ in range(self.replicas)]
        named = {f"r{number}": one for number, one in enumerate(self.all)}
        self.pool = ReplicaPool(named, checks=CHECKS, waits=self.waits, clock=loop.time)
        self.version = 1
        await self.pool.verify(WeightIdentity(1, "policy-1"))
        talking = [asyncio.create_task(self._talk(f"s{one}", dice)) for one in range(self.sessions)]
        for pause, number, what in self.faults:
            await asyncio.sleep(pause)
            await self._befall(self.all[number % self.replicas], what)
        await asyncio.gather(*talking)
        assert self.pool.status()["total_inflight"] == 0 and not read_waits(self.waits)
        await self.pool.close()

    async def _befall(self, replica: Replica, what: str) -> None:
        self.seen |= {wait.what for wait in read_waits(self.waits)}
        match what:
            case "fails":
                replica.failing += 4
            case "dies":
                replica.die()
            case "restarts":  # in no time: nobody may have noticed
                replica.die()
                replica.restart()
            case "returns":
                replica.restart()
            case "hangs":
                replica.hung = True
            case "goes on":
                replica.hung = False
            case "sync":  # each in its time, those that are gone or hang not at all; then all are compared
                self.version += 1
                for one in self.all:
                    if not one.dead and not one.hung:
                        one.served = WeightIdentity(self.version, f"policy-{self.version}")
                        await asyncio.sleep(0.3)
                await self.pool.verify(WeightIdentity(self.version, f"policy-{self.version}"))

    async def _talk(self, session: str, dice: random.Random) -> None:
        loop, newest = asyncio.get_running_loop(), 0
        for _ in range(6):
            await asyncio.sleep(dice.choice((0.0, 0.5, 6.0)))
            began, due = loop.time(), self.pool._expected
            assert due is not None
            try:
                reply = await self.pool.generate([1, 2], PARAMS, session=session)
            except TrialError as error:
                assert error.termination is Termination.MODEL_UNAVAILABLE
                self.failures.append(str(error))
                await asyncio.sleep(1.0)
            else:
                assert min(reply.weight_versions) >= max(newest, due.version), "weights go back"
                assert reply.extra["policy"] == f"policy-{reply.weight_versions[0]}"
                newest = max(reply.weight_versions)
            assert loop.time() - began <= LONGEST_SEC
        self.pool.end_session(session)


def play(replicas: int, sessions: int, faults: list[tuple[float, int, str]], seed: int = 0) -> Play:
    with tempfile.TemporaryDirectory() as folder:
        one = Play(replicas, sessions, faults, seed, Path(folder))
        run_virtual(one.run())
    return one


KINDS = ("fails", "dies", "restarts", "returns", "hangs", "goes on", "sync", "sync")


@settings(max_examples=60, deadline=None)
@example(replicas=1, sessions=1, faults=[(0.0, 0, "dies"), (0.0, 0, "sync")], seed=0)
@given(
    replicas=st.integers(1, 3),
    sessions=st.integers(1, 8),
    faults=st.lists(
        st.tuples(st.sampled_from((0.0, 0.4, 3.0, 15.0)), st.integers(0, 2), st.sampled_from(KINDS)), max_size=12
    ),
    seed=st.integers(0, 1 << 16),
)
def test_only_proved_weights_answer_and_every_call_ends(
    replicas: int, sessions: int, faults: list[tuple[float, int, str]], seed: int
) -> None:
    one = play(replicas, sessions, faults, seed)
    calls = sum(replica.calls for replica in one.all)
    assert calls <= 6 * sessions * CHECKS.attempts
    for said in one.failures:
        assert any(cause in said for cause in ("500", "refused", "reset", "lost while", "serves", "older", "no answer"))


def test_an_only_replica_that_fails_a_few_calls_costs_nobody_else_one() -> None:
    """Four calls get a 500, and the replica is closed for a second; all others wait for that second."""
    one = play(1, 40, [(2.0, 0, "fails"), (0.2, 0, "sync")])
    assert len(one.failures) <= 4 and all("it answered 500" in said for said in one.failures)


def test_the_wait_has_a_name_and_what_is_gone_is_waited_for_once() -> None:
    faults = [(1.0, 0, "dies"), (3.0, 0, "nothing"), (200.0, 0, "nothing")]
    one = play(1, 4, faults)
    assert one.seen == {"r0 to take calls again"}
    assert all("connection re" in said for said in one.failures), one.failures
    # Its loss, and then only what is left of its patience: nobody asks it in a loop.
    assert one.all[0].calls <= 4 * 3


@pytest.mark.parametrize("seconds", [3.0, 12.0])
def test_an_only_replica_that_hangs_for_a_while_is_waited_for(seconds: float) -> None:
    one = play(1, 4, [(1.0, 0, "hangs"), (seconds, 0, "goes on")])
    assert all("lost while it worked" in said for said in one.failures), one.failures


def test_a_long_attempt_lets_others_try() -> None:
    """The first reply after a failure takes minutes: all others need not wait for its end."""

    async def scenario() -> float:
        loop = asyncio.get_running_loop()
        replica = Replica(random.Random(0))
        slow: list[Any] = []
        quick = replica.generate

        async def generate(prompt_ids: Sequence[int], params: SamplingParams, *, session: str) -> Generation:
            if session == "long":
                slow.append(session)
                await asyncio.sleep(300.0)
            return await quick(prompt_ids, params, session=session)

        replica.generate = generate  # type: ignore[method-assign]
        pool = ReplicaPool({"r0": replica}, checks=CHECKS, clock=loop.time)
        replica.failing = 3
        failed = [pool.generate([1], PARAMS, session=f"f{one}") for one in range(3)]
        assert all(isinstance(one, TrialError) for one in await asyncio.gather(*failed, return_exceptions=True))
        long = asyncio.create_task(pool.generate([1], PARAMS, session="long"))
        while not slow:
            await asyncio.sleep(0.1)
        began = loop.time()
        await asyncio.gather(*(pool.generate([1], PARAMS, session=f"s{one}") for one in range(50)))
        took = loop.time() - began
        long.cancel()
        await pool.close()
        return took

    assert run_virtual(scenario()) < 20.0


def test_before_it_is_tried_again_a_replica_says_what_it_holds() -> None:
    """Its version alone would pass: it was started again with other weights under the same number."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        replicas = {"r0": Replica(random.Random(0)), "r1": Replica(random.Random(1))}
        checks = HealthChecks(interval_sec=500.0, patience_sec=20.0)
        pool = ReplicaPool(replicas, checks=checks, clock=loop.time)
        await pool.verify(WeightIdentity(1, "policy-1"))
        for replica in replicas.values():
            replica.failing = 3
        failed = [pool.generate([1], PARAMS, session=f"f{one}") for one in range(3)]
        assert all(isinstance(one, TrialError) for one in await asyncio.gather(*failed, return_exceptions=True))
        replicas["r0"].served = WeightIdentity(1, "others")
        replies = await asyncio.gather(*(pool.generate([1], PARAMS, session=f"s{one}") for one in range(6)))
        assert {reply.extra["policy"] for reply in replies} == {"policy-1"} and set(pool.quarantined) == {"r0"}
        await pool.close()

    run_virtual(scenario())


def test_who_gives_up_a_held_call_is_told_why_it_was_held() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        replica = Replica(random.Random(0))
        replica.failing = 3
        pool = ReplicaPool({"r0": replica}, checks=CHECKS, clock=loop.time)
        failed = [pool.generate([1], PARAMS, session=f"f{one}") for one in range(3)]
        assert all(isinstance(one, TrialError) for one in await asyncio.gather(*failed, return_exceptions=True))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await pool.generate([1], PARAMS, session="held")
        assert pool.given_up("held") == "no replica takes calls: r0 is open (it answered 500)"
        assert pool.given_up("held") is None and pool.given_up("f0") is None
        await pool.close()

    run_virtual(scenario())


def test_a_replica_that_has_the_next_weights_already_stays_in_rotation() -> None:
    async def scenario() -> None:
        replica = Replica(random.Random(0))
        pool = ReplicaPool({"r0": replica}, checks=CHECKS, clock=asyncio.get_running_loop().time)
        await pool.verify(WeightIdentity(1, "policy-1"))
        replica.served = WeightIdentity(2, "policy-2")
        await pool.check()
        assert (await pool.generate([1], PARAMS, session="s")).weight_versions == [2, 2]
        assert set(await pool.verify(WeightIdentity(2, "other"))) == {"r0"}, "compared, when all should have them"
        await pool.close()

    run_virtual(scenario())
