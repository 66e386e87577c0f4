"""Sandboxes made ahead of their trials, and trials that wait in a fair order for theirs; over any provider.

A box is made ahead for what the last requests asked for, given to one trial, and never to another: what one trial did
to its box no other can see. What nobody asks for any more makes room for what is. It does not know how boxes are made.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from runtime.errors import TrialError
from runtime.sandboxes.base import Capabilities, ExecResult, Sandbox, SandboxProvider, SandboxRequest
from runtime.sandboxes.entries import Entry
from runtime.sandboxes.fair_queue import FairQueue
from runtime.sandboxes.machine_semaphore import MachineSemaphore
from runtime.sandboxes.waiting import has_waited

log = logging.getLogger(__name__)

MAX_AGE_SEC = 600.0
"""A box that has waited this long is thrown away: a backend may be about to end it."""


@dataclass
class PoolCounts:
    """hits: starts that found a box made ahead; misses: that did not. ahead: boxes made ahead; failed: that could not
    be; discarded: that nobody took (too old, dead, no longer asked for, or left at the end). peak: most boxes with
    trials at once. waited_max_sec: the longest wait for a place.
    """

    hits: int = 0
    misses: int = 0
    ahead: int = 0
    failed: int = 0
    discarded: int = 0
    peak: int = 0
    waited_max_sec: float = 0.0


@dataclass
class _Idle:
    sandbox: Sandbox
    since: float


class PooledProvider:
    """Implements ``SandboxProvider`` over ``inner``, which it closes.

    warm: boxes kept ready per kind of request; max_idle: of all kinds together. queue, run: where, and in whose name,
    this provider's trials wait; shared: where they then wait for runs of other processes. The machine carries as many
    boxes at once as there are places, and ``max_idle``.
    """

    def __init__(
        self,
        inner: SandboxProvider,
        *,
        warm: int,
        max_idle: int,
        queue: FairQueue,
        run: str,
        shared: MachineSemaphore | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.pool = PoolCounts()
        self._inner = inner
        self._warm = warm
        self._max_idle = max_idle
        self._queue = queue
        self._run = run
        self._shared = shared
        self._clock = clock
        self._idle: OrderedDict[Any, deque[_Idle]] = OrderedDict()  # the kind asked for last comes last
        self._making: dict[Any, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._lent: set[PooledSandbox] = set()
        self._names = itertools.count()
        self._closed = False

    @property
    def capabilities(self) -> Capabilities:
        return self._inner.capabilities

    @property
    def counts(self) -> Mapping[str, float]:
        """Of this provider (``PoolCounts``) and of the one below."""
        return {**asdict(self.pool), **self._inner.counts}

    async def start(self, request: SandboxRequest) -> Sandbox:
        began = self._clock()
        await self._queue.acquire(self._run)
        placed = False
        try:
            if self._shared is not None:
                await self._shared.acquire()
                placed = True
            waited = self._clock() - began
            has_waited(waited)
            self.pool.waited_max_sec = max(self.pool.waited_max_sec, waited)
            kind = _kind(request)
            sandbox = self._take(kind)
            self._refill(kind, request)
            if sandbox is None:
                self.pool.misses += 1
                sandbox = await self._inner.start(request)
            else:
                self.pool.hits += 1
            lent = PooledSandbox(sandbox, self._give_back)
            self._lent.add(lent)
            self.pool.peak = max(self.pool.peak, len(self._lent))
            return lent
        except BaseException:
            if self._shared is not None and placed:
                self._shared.release()
            self._queue.release(self._run)
            raise

    async def close(self) -> None:
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        left = [idle for waiting in self._idle.values() for idle in waiting]
        self._idle.clear()
        self.pool.discarded += len(left)
        await asyncio.gather(*(idle.sandbox.stop() for idle in left), *(lent.stop() for lent in list(self._lent)))
        if self._shared is not None:
            self._shared.close()
        await self._inner.close()

    def _give_back(self, lent: PooledSandbox) -> None:
        self._lent.discard(lent)
        if self._shared is not None:
            self._shared.release()
        self._queue.release(self._run)

    def _take(self, kind: Any) -> Sandbox | None:
        waiting = self._idle.get(kind)
        while waiting:
            idle = waiting.popleft()
            if idle.sandbox.alive and self._clock() - idle.since < MAX_AGE_SEC:
                return idle.sandbox
            self._discard(idle)
        return None

    def _refill(self, kind: Any, request: SandboxRequest) -> None:
        """Begin to make what this kind lacks; boxes of the kind that was asked for longest ago make room."""
        if self._closed or not self._warm:
            return
        waiting = self._idle.setdefault(kind, deque())
        self._idle.move_to_end(kind)
        while len(waiting) + self._making.get(kind, 0) < self._warm:
            instead = self._evict(kind) if self._count() >= self._max_idle else None
            if instead is None and self._count() >= self._max_idle:
                return
            self._making[kind] = self._making.get(kind, 0) + 1
            ahead = replace(request, name=f"ahead-{next(self._names)}")
            task = asyncio.get_running_loop().create_task(self._make(kind, ahead, instead))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _make(self, kind: Any, request: SandboxRequest, instead: _Idle | None) -> None:
        try:
            if instead is not None:
                self.pool.discarded += 1
                await instead.sandbox.stop()
            sandbox = await self._inner.start(request)
        except TrialError as error:
            self.pool.failed += 1  # the next trial tries for itself and says why it cannot
            log.info("no sandbox ahead: %s", error)
            return
        finally:
            self._making[kind] -= 1
            if not self._making[kind]:
                del self._making[kind]
        self.pool.ahead += 1
        idle = _Idle(sandbox, self._clock())
        if self._closed or kind not in self._idle:
            self._discard(idle)
        else:
            self._idle[kind].append(idle)

    def _count(self) -> int:
        return sum(map(len, self._idle.values())) + sum(self._making.values())

    def _evict(self, kind: Any) -> _Idle | None:
        """A box of another kind, to be stopped; kinds that have none are forgotten on the way to it."""
        for other in list(self._idle):
            if other == kind:
                continue
            if self._idle[other]:
                return self._idle[other].popleft()
            if not self._making.get(other):
                del self._idle[other]
        return None

    def _discard(self, idle: _Idle) -> None:
        self.pool.discarded += 1
        task = asyncio.get_running_loop().create_task(idle.sandbox.stop())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class PooledSandbox:
    """Implements ``Sandbox``: one of the provider below; its end gives the place back."""

    def __init__(self, sandbox: Sandbox, on_stop: Callable[[PooledSandbox], None]) -> None:
        self._sandbox = sandbox
        self._on_stop = on_stop
        self._stopping: asyncio.Task[None] | None = None

    @property
    def proxy_url(self) -> str | None:
        return self._sandbox.proxy_url

    @property
    def alive(self) -> bool:
        return self._sandbox.alive

    async def exec(
        self,
        argv: Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        timeout_sec: float,
        max_output: int = 1 << 20,
    ) -> ExecResult:
        return await self._sandbox.exec(
            argv, cwd=cwd, env=env, stdin=stdin, timeout_sec=timeout_sec, max_output=max_output
        )

    async def upload(self, files: Mapping[str, bytes], *, mode: int = 0o644) -> None:
        await self._sandbox.upload(files, mode=mode)

    async def download(self, paths: Sequence[str], *, max_bytes: int = 16 << 20) -> dict[str, bytes]:
        return await self._sandbox.download(paths, max_bytes=max_bytes)

    async def tree(
        self, paths: Sequence[str], *, max_bytes: int, known: Mapping[str, str] | None = None
    ) -> dict[str, Entry]:
        return await self._sandbox.tree(paths, max_bytes=max_bytes, known=known)

    async def run_tests(self, runner: str, *, timeout_sec: float, **arguments: Any) -> dict[str, Any]:
        return await self._sandbox.run_tests(runner, timeout_sec=timeout_sec, **arguments)

    async def stop(self) -> None:
        if self._stopping is None:
            self._stopping = asyncio.ensure_future(self._stop())
        await asyncio.shield(self._stopping)  # a cancelled caller must not keep the place

    async def _stop(self) -> None:
        try:
            await self._sandbox.stop()
        finally:
            self._on_stop(self)


def _kind(request: SandboxRequest) -> Any:
    """All that a box is made of: two requests that differ in their name alone can have each other's."""
    values = {**vars(request), "name": "", "env": tuple(sorted(request.env.items()))}
    return tuple(values.values())
