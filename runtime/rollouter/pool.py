"""Several replicas as one ``Engine``: balanced, failing over, and closed to any replica whose weights are not the
expected ones.

Knows replicas by their protocol alone. A replica is in rotation, quarantined (alive, other weights) or lost. Under verl
this part is played by verl's own client around the same ``LoadBalancer``; the pool serves evaluation, inference and
engines behind HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from runtime.balancer import LoadBalancer
from runtime.errors import Termination, TrialError
from runtime.rollouter.engine import Generation, Replica, SamplingParams, WeightIdentity


class ReplicaPool:
    """``replicas``: name -> replica, all taken into rotation as they are; ``config`` goes to ``LoadBalancer``.

    Itself a ``Replica``: pools can be nested and passed wherever one engine is wanted.
    """

    def __init__(self, replicas: Mapping[str, Replica], *, config: Mapping[str, Any] | None = None) -> None:
        self._replicas = dict(replicas)
        self._balancer = LoadBalancer(self._replicas, config)
        self._quarantined: dict[str, WeightIdentity] = {}
        self._expected: WeightIdentity | None = None
        self._open = asyncio.Event()
        self._open.set()
        self._syncing = asyncio.Lock()

    @property
    def quarantined(self) -> Mapping[str, WeightIdentity]:
        """Replicas kept out of rotation, with what they serve."""
        return dict(self._quarantined)

    def status(self) -> dict[str, Any]:
        return {**self._balancer.get_status(), "quarantined": sorted(self._quarantined)}

    async def generate(self, prompt_ids: Sequence[int], params: SamplingParams, *, session: str) -> Generation:
        """See ``Engine.generate``. A replica that dies is dropped and the call goes to another one: replies are handed
        out whole, so nobody has seen a token of the lost one. Waits while weights are being replaced."""
        while True:
            await self._open.wait()
            try:
                name, _ = self._balancer.acquire_server(session)
            except RuntimeError:
                raise TrialError(Termination.MODEL_UNAVAILABLE, self._why_empty()) from None
            replica = self._replicas[name]
            try:
                return await replica.generate(prompt_ids, params, session=session)
            except TrialError as error:
                if error.termination is not Termination.MODEL_UNAVAILABLE or await self._alive(replica):
                    raise
                self.remove(name)
            finally:
                self._balancer.release_server(name, session)

    def end_session(self, session: str) -> None:
        """The session makes no further call."""
        self._balancer.forget_session(session)

    async def add(self, name: str, replica: Replica) -> None:
        """Take a replica in; into quarantine if it serves other weights than the last ``verify`` or ``update_weights``
        asked for."""
        self._replicas[name] = replica
        if self._expected is None:
            self._balancer.add_servers({name: replica})
        else:
            await self.verify(self._expected)

    def remove(self, name: str) -> None:
        """Send nothing more to this replica and forget it. Its calls in flight may end; its sessions are re-homed."""
        self._balancer.remove_servers([name])
        self._replicas.pop(name, None)
        self._quarantined.pop(name, None)

    async def update_weights(self, state: Mapping[str, Any], *, version: int, expected: str | None = None) -> str:
        """Replace the weights of every replica, quarantined ones included, then ``verify``; no call starts in between.

        ``expected`` is the sender's fingerprint of what it sent; None takes that of the first replica that answers,
        which shows disagreement between replicas but not a common loss. Returns the fingerprint. Raises ``ValueError``
        when the tensors do not fit, ``TrialError(MODEL_UNAVAILABLE)`` when no replica ends up with the expected
        weights.
        """
        async with self._closed_to_calls():
            replicas = dict(self._replicas)
            updates = (replica.update_weights(state, version=version) for replica in replicas.values())
            answers = await asyncio.gather(*updates, return_exceptions=True)
            for name, answer in zip(replicas, answers, strict=True):
                if isinstance(answer, TrialError):
                    self.remove(name)
                elif isinstance(answer, BaseException):
                    raise answer
            prints = [answer for answer in answers if isinstance(answer, str)]
            if not prints:
                raise TrialError(Termination.MODEL_UNAVAILABLE, "no replica took the weights: all are gone")
            wanted = WeightIdentity(version, expected or prints[0])
            await self._sort(wanted)
            if not self._balancer.get_all_servers():
                raise TrialError(Termination.MODEL_UNAVAILABLE, self._why_empty())
            return wanted.fingerprint

    async def verify(self, expected: WeightIdentity) -> Mapping[str, WeightIdentity]:
        """Ask every replica what it serves: equal ones go (back) into rotation, others into quarantine, silent ones are
        dropped. Returns the quarantined ones; no call starts meanwhile."""
        async with self._closed_to_calls():
            await self._sort(expected)
        return self.quarantined

    async def identity(self) -> WeightIdentity:
        """Of the replicas in rotation (they agree once verified). Raises ``TrialError(MODEL_UNAVAILABLE)`` when there
        is none."""
        for name in self._balancer.get_all_servers():
            return await self._replicas[name].identity()
        raise TrialError(Termination.MODEL_UNAVAILABLE, self._why_empty())

    async def abort_all(self) -> int:
        return sum(await asyncio.gather(*(replica.abort_all() for replica in self._replicas.values())))

    async def close(self) -> None:
        await asyncio.gather(*(replica.close() for replica in self._replicas.values()))

    async def _sort(self, expected: WeightIdentity) -> None:
        self._expected = expected
        replicas = dict(self._replicas)
        answers = await asyncio.gather(*(one.identity() for one in replicas.values()), return_exceptions=True)
        for (name, replica), answer in zip(replicas.items(), answers, strict=True):
            if isinstance(answer, TrialError):
                self.remove(name)
            elif isinstance(answer, BaseException):
                raise answer
            elif answer == expected:
                self._quarantined.pop(name, None)
                if name not in self._balancer.get_all_servers():
                    self._balancer.add_servers({name: replica})
            else:
                self._balancer.remove_servers([name])
                self._quarantined[name] = answer

    @asynccontextmanager
    async def _closed_to_calls(self) -> AsyncIterator[None]:
        async with self._syncing:
            self._open.clear()
            try:
                yield
            finally:
                self._open.set()

    @staticmethod
    async def _alive(replica: Replica) -> bool:
        try:
            await replica.identity()
        except TrialError:
            return False
        return True

    def _why_empty(self) -> str:
        held = ", ".join(f"{name} serves {one}" for name, one in sorted(self._quarantined.items()))
        return f"no replica in rotation; quarantined: {held}" if held else "no replica is left"
