"""Several engines as one ``Engine``: balanced, failing over, watched by health checks.

Replies are handed out whole, so nobody has seen a token of one that was lost, and the call can go to another replica.
Knows replicas by their protocol alone, and nothing of weights: see ``runtime.rollouter.pool``.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from runtime.errors import Termination, TrialError
from runtime.rollouter.balancer import LoadBalancer
from runtime.rollouter.breaker import Health
from runtime.rollouter.engine import Engine, Generation, SamplingParams, WeightIdentity

log = logging.getLogger(__name__)


class Watched(Engine, Protocol):
    """An engine that says whether it is alive."""

    async def identity(self) -> WeightIdentity:
        """Raises ``TrialError(MODEL_UNAVAILABLE)`` when it is gone."""


@dataclass(frozen=True)
class HealthChecks:
    """Every replica is asked every ``interval_sec`` who it is. One that refuses is gone, and so is one that leaves
    ``misses`` checks in a row without an answer within ``timeout_sec``: its calls in flight are cut and asked of
    another replica, its sessions get a new home, until it answers again. ``attempts``: on how many replicas one call is
    tried before it fails. ``patience_sec``: so long a call that no replica takes waits for one to come back; for one
    that is gone only until it has been gone for so long.
    """

    interval_sec: float = 5.0
    timeout_sec: float = 10.0
    misses: int = 3
    attempts: int = 3
    patience_sec: float = 60.0


Member = TypeVar("Member", bound=Watched)


class BalancedEngine(Generic[Member]):
    """``replicas``: name -> replica; ``config`` goes to ``LoadBalancer``. Belongs to one event loop, that of its first
    call.
    """

    def __init__(
        self,
        replicas: Mapping[str, Member],
        *,
        config: Mapping[str, Any] | None = None,
        checks: HealthChecks | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._replicas = dict(replicas)
        self._clock = clock
        self._balancer = LoadBalancer(self._replicas, config, clock=clock)
        self._checks = checks or HealthChecks()
        self._calls: dict[str, set[asyncio.Task[Generation]]] = {}
        self._cut: set[asyncio.Task[Generation]] = set()
        self._missed: dict[str, int] = {}
        self._failures: dict[str, str] = {}
        """What each replica's last failure was, of a call or a check, until it has answered a call."""
        self._lost_at: dict[str, float] = {}
        self._waiting = 0
        """Calls that no replica takes."""
        self._shown = ExitStack()
        self._given_up: dict[str, str] = {}
        self._news = asyncio.Event()
        """Set when a replica may have begun to take calls, where calls wait for that."""
        self._epoch = 0
        """Counts changes of what is expected of replicas: an answer from before one says nothing after it."""
        self._open = asyncio.Event()
        self._open.set()
        self._idle: dict[str, asyncio.Event] = {}
        self._watching: asyncio.Task[None] | None = None

    def status(self) -> dict[str, Any]:
        return self._balancer.get_status()

    async def generate(self, prompt_ids: Sequence[int], params: SamplingParams, *, session: str) -> Generation:
        """See ``Engine.generate``. Raises the last replica's failure when ``HealthChecks.attempts`` of them have failed
        or none is left, and none comes back in time."""
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch(), name="replica-health")
        tried: list[str] = []
        failure: TrialError | None = None
        until: float | None = None
        waits = False
        with ExitStack() as held:
            while len(tried) < self._checks.attempts:
                while not self._open.is_set():
                    await self._open.wait()
                await self._find_home(session, len(prompt_ids), tried)
                try:
                    name, _ = self._balancer.acquire_server(session, tokens=len(prompt_ids), avoid=tried)
                except RuntimeError:
                    # From here on: how long weights were under way before is another's affair.
                    until = until or self._clock() + self._checks.patience_sec
                    if (pause := self._pause_sec(tried, until)) is None:
                        break
                    if not waits:
                        waits = True
                        held.enter_context(self._held(tried))
                    try:
                        await self._listen(pause)
                    except asyncio.CancelledError:
                        self._given_up[session] = self._why_empty()
                        raise
                    continue
                held.close()
                waits = False
                try:
                    if self._balancer.health(name) is not Health.CLOSED and not await self._proves(name):
                        continue
                    oldest = self._oldest_version(session)
                    work = self._replicas[name].generate(prompt_ids, params, session=session)
                    generation = await self._call(name, work)
                    _refuse_older(name, generation, oldest)
                except TrialError as error:
                    if error.termination is not Termination.MODEL_UNAVAILABLE:
                        raise
                    failure = error
                    tried.append(name)
                    self._failures[name] = str(error)
                    await self._after_failure(name)
                else:
                    self._failures.pop(name, None)
                    self._balancer.succeeded(name)
                    self._answered_call(session, generation)
                    return generation
                finally:
                    self._release(name, session)
        if failure is None:
            raise TrialError(Termination.MODEL_UNAVAILABLE, self._why_empty())
        raise TrialError(failure.termination, f"{failure} (tried: {', '.join(tried)})") from failure

    def end_session(self, session: str) -> None:
        """The session makes no further call."""
        self._balancer.forget_session(session)
        self._given_up.pop(session, None)

    def given_up(self, session: str) -> str | None:
        """See ``HoldsCalls``."""
        return self._given_up.pop(session, None)

    def remove(self, name: str) -> Member | None:
        """Send nothing more to this replica and forget it: it is the caller's to close. Its calls in flight may end;
        its sessions are re-homed."""
        self._balancer.remove_servers([name])
        self._missed.pop(name, None)
        self._failures.pop(name, None)
        self._lost_at.pop(name, None)
        return self._replicas.pop(name, None)

    async def drain(self, name: str) -> None:
        """Let this replica end the calls it holds, give it no new ones, and return once it holds none. It stays known:
        ``remove`` forgets it. Raises ``KeyError`` for an unknown one."""
        if name not in self._replicas:
            raise KeyError(name)
        self._balancer.drain_servers([name])
        if self._balancer.get_inflight_count(name):
            await self._idle.setdefault(name, asyncio.Event()).wait()

    async def identity(self) -> WeightIdentity:
        """Of the replicas in rotation (they agree once verified). Raises ``TrialError(MODEL_UNAVAILABLE)`` when there
        is none."""
        for name in self._balancer.available_servers():
            return await self._replicas[name].identity()
        raise TrialError(Termination.MODEL_UNAVAILABLE, self._why_empty())

    async def check(self) -> None:
        """One round of health checks."""
        await asyncio.gather(*(self._check(name) for name in list(self._replicas)))

    async def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        await asyncio.gather(*(replica.close() for replica in self._replicas.values()))

    # -- one call

    async def _find_home(self, session: str, tokens: int, avoid: Sequence[str]) -> None:
        """Before a call is placed: who balances together with others asks them here."""

    def _oldest_version(self, session: str) -> float:
        """No token of the next reply to this session may be of older weights."""
        return -math.inf

    def _answered_call(self, session: str, generation: Generation) -> None:
        """The session gets this reply."""

    def _pause_sec(self, avoid: Sequence[str], until: float) -> float | None:
        """How long to wait for a replica that is not to be avoided; None when none may take a call by ``until``."""
        pauses = self._balancer.admits_in(avoid)
        now, patience = self._clock(), self._checks.patience_sec
        gone = {name: self._lost_at.get(name, now - patience) + patience for name in pauses}
        hopes = [until if pause < math.inf else min(until, gone[name]) for name, pause in pauses.items()]
        if not hopes or now >= max(hopes):
            return None
        return min(*pauses.values(), max(hopes) - now)

    async def _listen(self, pause: float) -> None:
        """Until there is news of a replica, ``pause`` seconds at most."""
        self._news.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._news.wait()

    @contextmanager
    def _held(self, avoid: Collection[str]) -> Iterator[None]:
        """One more call waits for a replica; all of them are one wait to those who look."""
        self._waiting += 1
        if self._waiting == 1:
            names = [name for name in self._replicas if name not in avoid]
            self._shown.enter_context(self._named_wait(names))
        try:
            yield
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._shown.close()

    def _named_wait(self, names: Sequence[str]) -> AbstractContextManager[None]:
        """Inside, calls wait for one of these replicas."""
        return nullcontext()

    async def _proves(self, name: str) -> bool:
        """Whether a replica that has failed calls, and is to be tried again, answers and is one that may."""
        if await self._check(name) and name in self._balancer.get_all_servers():
            return True
        self._balancer.failed(name)
        return False

    async def _call(self, name: str, work: Coroutine[Any, Any, Generation]) -> Generation:
        """Await ``work``, which may be cut from outside when the replica turns out to be lost."""
        task = asyncio.ensure_future(work)
        calls = self._calls.setdefault(name, set())
        calls.add(task)
        try:
            return await task
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if task not in self._cut or (current is not None and current.cancelling()):
                raise
            raise TrialError(Termination.MODEL_UNAVAILABLE, f"{name} was lost while it worked on a reply") from None
        finally:
            calls.discard(task)
            self._cut.discard(task)

    def _release(self, name: str, session: str) -> None:
        self._balancer.release_server(name, session)
        if self._waiting:
            self._news.set()
        if name in self._idle and not self._balancer.get_inflight_count(name):
            self._idle.pop(name).set()

    # -- health

    async def _watch(self) -> None:
        while True:
            began = self._clock()
            await self._open.wait()
            await self.check()
            await asyncio.sleep(max(0.0, self._checks.interval_sec - (self._clock() - began)))

    async def _after_failure(self, name: str) -> None:
        """A call on this replica has failed. Is it gone, or does it only fail calls (which its breaker counts)?"""
        if name in self._replicas and await self._check(name):
            self._balancer.failed(name)

    async def _check(self, name: str) -> bool:
        """Whether the replica answers. One that was lost comes back by that; the failures of one that answers and yet
        fails calls are for its next call to make good."""
        replica, epoch, certain = self._replicas[name], self._epoch, False
        try:
            async with asyncio.timeout(self._checks.timeout_sec):
                answer = await replica.identity()
        except TimeoutError:
            why = f"no answer within {self._checks.timeout_sec:g} s"
        except Exception as error:
            # Whatever it raises, it cannot say who it is; and nothing may end the watch over the others.
            why = str(error) or type(error).__name__
            if not isinstance(error, TrialError):
                log.exception("replica %s: its health check failed", name)
            certain = True
        else:
            if self._replicas.get(name) is replica and self._epoch == epoch:
                self._answered(name, answer)
            return True
        if self._replicas.get(name) is replica:
            self._failures[name] = why
            self._missed_check(name, certain=certain)
        return False

    def _answered(self, name: str, answer: WeightIdentity) -> None:
        self._missed.pop(name, None)
        self._lost_at.pop(name, None)
        if self._balancer.answered(name):
            log.warning("replica %s is back", name)
        self._news.set()

    def _missed_check(self, name: str, *, certain: bool) -> None:
        """``certain``: it refused; else it was silent, which a busy replica may be once."""
        self._missed[name] = self._missed.get(name, 0) + 1
        if not certain and self._missed[name] < self._checks.misses:
            return
        self._lost_at.setdefault(name, self._clock())
        if self._balancer.failed(name, certain=True):
            log.warning("replica %s does not answer; its calls go to others", name)
        for task in self._calls.get(name, ()):
            self._cut.add(task)
            task.cancel()

    def _why_empty(self) -> str:
        health = self._balancer.get_status()["health"]
        if not health:
            return "no replica is left"
        return "no replica takes calls: " + ", ".join(
            f"{name} is {state}" + (f" ({self._failures[name]})" if name in self._failures else "")
            for name, state in sorted(health.items())
        )


def _refuse_older(name: str, generation: Generation, oldest: float) -> None:
    """Raises ``TrialError(MODEL_UNAVAILABLE)``: whose weights these are, its health check will tell."""
    if generation.weight_versions and (found := min(generation.weight_versions)) < oldest:
        said = f"{name} sampled with weights of version {found}, older than {oldest:.0f}"
        raise TrialError(Termination.MODEL_UNAVAILABLE, said)
