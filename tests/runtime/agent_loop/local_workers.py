"""Workers of this process in the place of those of others: they die and fall silent as told."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from runtime.agent_loop.remote_result import RemoteResult
from runtime.agent_loop.worker import Beat, Order, Settled, TrialWorker
from runtime.agent_loop.worker_pool import WorkerLost

Answer = TypeVar("Answer")


class LocalWorker:
    """Implements ``worker_pool.Worker`` around a ``TrialWorker``."""

    node = "here"

    def __init__(self, inside: TrialWorker) -> None:
        self.inside = inside
        self.name = inside.name
        self.trials: Any = inside._runner
        self.gone = self.stopped = False
        self._calls: set[asyncio.Task[Any]] = set()

    def kill(self) -> None:
        """As kill -9: what is in work ends where it is."""
        self.gone = True
        for call in self._calls:
            call.cancel()

    async def play(self, order: Order) -> RemoteResult | None:
        return await self._call(self.inside.play(order))

    async def cancel(self, slot: str) -> None:
        await self._call(self.inside.cancel(slot))

    async def settle(self, settled: Settled) -> None:
        await self._call(self.inside.settle(settled))

    async def beat(self) -> Beat:
        return await self._call(self.inside.beat())

    async def end(self) -> None:
        self.kill()

    async def _call(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        if self.gone:
            work.close()
            raise WorkerLost("killed")
        call = asyncio.ensure_future(work)
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        try:
            # As over a network: who asked no longer waits, the work goes on.
            answer = await asyncio.shield(call)
            while self.stopped and not self.gone:
                await asyncio.sleep(0.5)
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if self.gone and not (current is not None and current.cancelling()):
                raise WorkerLost("killed") from None
            raise
        if self.gone:
            raise WorkerLost("killed")
        return answer
