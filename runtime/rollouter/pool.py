"""Replicas whose weights can be replaced as one ``Engine``: closed to any whose weights are not the expected ones.

A replica is in rotation, lost (until it answers again) or quarantined (alive, other weights). Both platforms make their
engine of it. Nothing calls ``verify`` or ``add`` yet: in the synchronous modes the trainer compares fingerprints before
each rollout and replicas neither come nor go.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

from runtime.errors import TrialError
from runtime.rollouter.balanced import BalancedEngine, HealthChecks
from runtime.rollouter.engine import Generation, Replica, WeightIdentity
from runtime.telemetry.waits import overdue, waiting

log = logging.getLogger(__name__)

_OWNER = "pool"
_NAMED = 3
"""Replicas that are named where there are more."""


class ReplicaPool(BalancedEngine[Replica]):
    """``replicas``: name -> replica, all taken into rotation as they are; see ``BalancedEngine`` for the rest.

    How weights reach the replicas is the trainer's business; the pool is told what they must serve now. ``waits``:
    where ``liverl status`` looks for what a run waits for; None outside of one.
    """

    def __init__(
        self,
        replicas: Mapping[str, Replica],
        *,
        config: Mapping[str, Any] | None = None,
        checks: HealthChecks | None = None,
        waits: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(replicas, config=config, checks=checks, clock=clock)
        self._waits = waits
        self._newest: dict[str, int] = {}
        """The newest weights that each session has had a token of."""
        self._quarantined: dict[str, WeightIdentity] = {}
        self._expected: WeightIdentity | None = None
        self._syncing = asyncio.Lock()

    @property
    def quarantined(self) -> Mapping[str, WeightIdentity]:
        """Replicas kept out of rotation, with what they serve."""
        return dict(self._quarantined)

    def status(self) -> dict[str, Any]:
        return {**super().status(), "quarantined": sorted(self._quarantined)}

    async def add(self, name: str, replica: Replica) -> None:
        """Take a replica in; into quarantine if it serves other weights than the last ``verify`` asked for."""
        self._replicas[name] = replica
        if self._expected is None:
            self._balancer.add_servers({name: replica})
        else:
            await self.verify(self._expected)

    def end_session(self, session: str) -> None:
        super().end_session(session)
        self._newest.pop(session, None)

    def remove(self, name: str) -> Replica | None:
        self._quarantined.pop(name, None)
        return super().remove(name)

    async def verify(self, expected: WeightIdentity) -> Mapping[str, WeightIdentity]:
        """Ask every replica what it serves: equal ones go (back) into rotation, others into quarantine, those that are
        silent for longer than a health check may take are lost until one finds them again. Returns the quarantined
        ones; no call starts meanwhile."""
        async with self._closed_to_calls():
            await self._sort(expected)
        return self.quarantined

    async def abort_all(self) -> int:
        return sum(await asyncio.gather(*(replica.abort_all() for replica in self._replicas.values())))

    async def _sort(self, expected: WeightIdentity) -> None:
        self._expected = expected
        replicas = dict(self._replicas)
        what = f"{_names(replicas)} to say that version {expected.version} is there"
        limit = self._checks.timeout_sec
        with self._seen(what, deadline_sec=limit):
            answers = await asyncio.gather(*map(self._asked, replicas.values()), return_exceptions=True)
        for name, answer in zip(replicas, answers, strict=True):
            if isinstance(answer, TrialError | TimeoutError):
                if isinstance(answer, TimeoutError):
                    log.warning("%s", overdue(f"{name} to say what it serves", owner=_OWNER, deadline_sec=limit))
                # A silent one too: nobody knows whose weights it would sample with.
                self._missed_check(name, certain=True)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                super()._answered(name, answer)
                self._place(name, answer)

    async def _asked(self, replica: Replica) -> WeightIdentity:
        """Raises ``TimeoutError`` where it accepts the question and is silent: all the others would stay closed to
        calls."""
        async with asyncio.timeout(self._checks.timeout_sec):
            return await replica.identity()

    def _seen(self, what: str, *, deadline_sec: float) -> AbstractContextManager[None]:
        if self._waits is None:
            return nullcontext()
        return waiting(self._waits, owner=_OWNER, what=what, deadline_sec=deadline_sec)

    def _answered(self, name: str, answer: WeightIdentity) -> None:
        """A replica that was started again has old weights: it stays out until it has the expected ones. Newer ones are
        those of a sync that is compared when all have them: until then it stays where it is."""
        super()._answered(name, answer)
        if self._expected is not None and (answer.version <= self._expected.version or name in self._quarantined):
            self._place(name, answer)

    def _place(self, name: str, answer: WeightIdentity) -> None:
        if answer != self._expected:
            self._balancer.remove_servers([name])
            self._quarantined[name] = answer
        elif name not in self._balancer.get_all_servers():
            self._quarantined.pop(name, None)
            self._balancer.add_servers({name: self._replicas[name]})
            self._news.set()

    def _oldest_version(self, session: str) -> float:
        """A replica that was started again between two calls, or that gets its weights later than others, answers with
        what it has: neither may be older than what all must have, or than what the session has seen."""
        expected = -math.inf if self._expected is None else self._expected.version
        return max(expected, self._newest.get(session, -math.inf))

    def _answered_call(self, session: str, generation: Generation) -> None:
        if generation.weight_versions:
            newest = max(generation.weight_versions)
            self._newest[session] = max(newest, self._newest.get(session, newest))

    def _named_wait(self, names: Sequence[str]) -> AbstractContextManager[None]:
        return self._seen(f"{_names(names)} to take calls again", deadline_sec=self._checks.patience_sec)

    @asynccontextmanager
    async def _closed_to_calls(self) -> AsyncIterator[None]:
        async with self._syncing:
            self._open.clear()
            self._epoch += 1
            self._balancer.begin_weight_sync()
            try:
                yield
            finally:
                self._balancer.end_weight_sync()
                self._epoch += 1
                self._open.set()

    def _why_empty(self) -> str:
        held = ", ".join(f"{name} serves {one}" for name, one in sorted(self._quarantined.items()))
        others = super()._why_empty() if self._balancer.get_all_servers() else "no replica in rotation"
        return f"{others}; quarantined: {held}" if held else super()._why_empty()


def _names(replicas: Iterable[str]) -> str:
    names = sorted(replicas)
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
