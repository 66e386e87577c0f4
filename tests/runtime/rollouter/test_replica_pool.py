"""Several real engines behind one: spread, failover, quarantine after a weight sync that did not arrive whole."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from runtime.errors import Termination, TrialError
from runtime.rollouter.balanced import HealthChecks
from runtime.rollouter.engine import SamplingParams, WeightIdentity
from runtime.rollouter.pool import ReplicaPool

pytestmark = pytest.mark.torch
SHORT = SamplingParams(max_tokens=3, seed=1)


def run(folder, scenario: Callable, *, count: int = 3, kind=None):
    from runtime.laptop.engine.torch_engine import TorchEngine

    async def whole():
        engines = {f"r{n}": (kind or TorchEngine)(folder, slots=4, max_len=128) for n in range(count)}
        pool = ReplicaPool(engines, checks=HealthChecks(patience_sec=0.2))
        try:
            return await asyncio.wait_for(scenario(pool, engines), 60)
        finally:
            await asyncio.gather(pool.close(), *(engine.close() for engine in engines.values()))

    return asyncio.run(whole())


async def sync(pool, engines, state, *, version: int) -> WeightIdentity:
    """Every replica's weights by whatever way, then what the pool is told of them."""
    prints = {await engine.update_weights(state, version=version) for engine in engines.values()}
    expected = WeightIdentity(version, *prints)
    await pool.verify(expected)
    return expected


def test_sessions_spread_and_stay(model_folder) -> None:
    async def scenario(pool, engines):
        for _ in range(3):
            await asyncio.gather(*(pool.generate([1, 2], SHORT, session=str(n)) for n in range(30)))
        sessions = pool.status()["sessions"]
        pool.end_session("0")
        return sessions, sum(pool.status()["sessions"].values()), pool.status()["total_inflight"]

    assert run(model_folder()[1], scenario) == ({"r0": 10, "r1": 10, "r2": 10}, 29, 0)


def test_a_dead_replica_costs_nobody_a_reply(model_folder) -> None:
    _, folder = model_folder()

    async def scenario(pool, engines):
        params = SamplingParams(max_tokens=100, seed=4)
        calls = [asyncio.create_task(pool.generate([1, 2], params, session=str(n))) for n in range(9)]
        while engines["r1"].stats()["sampled_tokens"] < 9:
            await asyncio.sleep(0.001)
        await engines["r1"].close()
        replies = await asyncio.gather(*calls)
        return replies, pool.status()

    replies, status = run(folder, scenario)
    assert len({tuple(reply.token_ids) for reply in replies}) == 1
    assert status["health"] == {"r0": "closed", "r1": "open", "r2": "closed"}
    assert status["total_inflight"] == 0


def test_no_replica_left_is_a_typed_failure(model_folder) -> None:
    async def scenario(pool, engines):
        for engine in engines.values():
            await engine.close()
        for why in (r"\(tried: r0", "r0 is open.*, r1 is open.*, r2 is open"):
            with pytest.raises(TrialError, match=why) as caught:
                await pool.generate([1], SHORT, session="a")
            assert caught.value.termination is Termination.MODEL_UNAVAILABLE
        for name in engines:
            pool.remove(name)
        with pytest.raises(TrialError, match="no replica is left"):
            await pool.generate([1], SHORT, session="a")

    run(model_folder()[1], scenario)


def test_a_bad_call_does_not_cost_a_replica(model_folder) -> None:
    async def scenario(pool, engines):
        with pytest.raises(ValueError):
            await pool.generate([10_000], SHORT, session="a")
        with pytest.raises(TrialError):
            await pool.generate([1] * 128, SHORT, session="a")
        return pool.status()

    status = run(model_folder()[1], scenario)
    assert set(status["health"].values()) == {"closed"}
    assert status["total_inflight"] == 0


def test_a_replica_with_other_weights_waits_in_quarantine_until_equal(model_folder) -> None:
    old, folder = model_folder(seed=1)
    new, _ = model_folder(seed=2)

    async def scenario(pool, engines):
        expected = await sync(pool, engines, new.state_dict(), version=1)
        assert not pool.quarantined
        # Behind the pool's back one replica falls back, and another one has the tensors under another version.
        await engines["r0"].update_weights(old.state_dict(), version=1)
        await engines["r2"].update_weights(new.state_dict(), version=2)
        assert set(await pool.verify(expected)) == {"r0", "r2"}
        replies = await asyncio.gather(*(pool.generate([1, 2], SHORT, session=str(n)) for n in range(12)))
        assert {version for reply in replies for version in reply.weight_versions} == {1}
        assert set(pool.status()["servers"]) == {"r1"}
        await engines["r0"].update_weights(new.state_dict(), version=1)
        assert set(await pool.verify(expected)) == {"r2"}
        # A late replica is held against the same expectation.
        pool.remove("r2")
        await pool.add("late", engines["r2"])
        assert set(pool.quarantined) == {"late"}
        await sync(pool, engines, old.state_dict(), version=3)
        assert not pool.quarantined
        assert set(pool.status()["servers"]) == {"r0", "r1", "late"}

    run(folder, scenario)


def test_rollouts_do_not_go_on_when_no_replica_has_what_was_sent(model_folder) -> None:
    _, folder = model_folder(seed=1)
    new, _ = model_folder(seed=2)

    async def scenario(pool, engines):
        assert set(await pool.verify(WeightIdentity(1, "0" * 32))) == {"r0", "r1", "r2"}
        with pytest.raises(TrialError, match="quarantined: r0 serves"):
            await pool.generate([1], SHORT, session="a")
        await sync(pool, engines, new.state_dict(), version=2)
        return await pool.generate([1], SHORT, session="a")

    assert run(folder, scenario).weight_versions == [2, 2, 2]


def test_a_replica_that_comes_back_with_old_weights_is_kept_out(model_folder) -> None:
    from runtime.laptop.engine.torch_engine import TorchEngine

    _, folder = model_folder(seed=1)
    new, _ = model_folder(seed=2)

    class Restarted(TorchEngine):
        dead = False

        async def identity(self):
            if self.dead:
                raise TrialError(Termination.MODEL_UNAVAILABLE, "connection refused")
            return await super().identity()

    async def scenario(pool, engines):
        engines["r1"].dead = True
        await pool.check()
        live = {name: engine for name, engine in engines.items() if name != "r1"}
        await sync(pool, live, new.state_dict(), version=1)
        await engines["r1"].update_weights(new.state_dict(), version=0)
        assert pool.status()["health"]["r1"] == "open"
        engines["r1"].dead = False
        await pool.check()
        assert set(pool.quarantined) == {"r1"}
        replies = await asyncio.gather(*(pool.generate([1, 2], SHORT, session=str(n)) for n in range(6)))
        assert {version for reply in replies for version in reply.weight_versions} == {1}
        await engines["r1"].update_weights(new.state_dict(), version=1)
        await pool.check()
        assert not pool.quarantined and set(pool.status()["servers"]) == {"r0", "r1", "r2"}

    run(folder, scenario, kind=Restarted)


def test_no_call_starts_while_weights_are_compared(model_folder) -> None:
    from runtime.laptop.engine.torch_engine import TorchEngine

    _, folder = model_folder(seed=1)
    new, _ = model_folder(seed=2)

    class Slow(TorchEngine):
        async def identity(self):
            found = await super().identity()
            await asyncio.sleep(0.05)
            return found

    async def scenario(pool, engines):
        prints = {await engine.update_weights(new.state_dict(), version=1) for engine in engines.values()}
        behind = await engines["r1"].update_weights(new.state_dict(), version=0)
        assert {behind} == prints
        comparing = asyncio.create_task(pool.verify(WeightIdentity(1, *prints)))
        await asyncio.sleep(0.01)
        replies = await asyncio.gather(*(pool.generate([1], SHORT, session=str(n)) for n in range(6)))
        assert set(await comparing) == {"r1"}
        return {tuple(reply.weight_versions) for reply in replies}

    assert run(folder, scenario, kind=Slow) == {(1, 1, 1)}
