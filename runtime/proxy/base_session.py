"""What every session does with requests, whatever answers them: a reply is made and committed, a client library's
repetition gets the stored reply, and the end of the session ends what is in work.

Knows neither tokens nor HTTP.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from runtime.proxy.bodies import Bodies
from runtime.proxy.chat import ChatRequest, Reply
from runtime.proxy.forest import Forest, Node
from runtime.proxy.journal import Journal
from runtime.proxy.refusal import Kind, Refusal
from runtime.proxy.types import SessionLimits, Trajectory, Turn

T = TypeVar("T")

_REMEMBERED = 8
"""Replies that a session keeps ready for a client library that sends its request again."""


@dataclass(slots=True, eq=False)
class _Exchange:
    """One request and the work on its reply, which further copies of the request may wait for."""

    request: ChatRequest
    work: asyncio.Task[Reply]
    waiting: int = 0


class BaseSession(ABC):
    """All state of one agent. Opened and closed by a server; ``failure`` and ``overlong`` may be read at any time."""

    def __init__(self, session_id: str, limits: SessionLimits, *, journal: Journal | None) -> None:
        self.id = session_id
        self.limits = limits
        self.secret = secrets.token_urlsafe(24)
        self.base_path = f"/s/{session_id}"
        self.failure: str | None = None
        """The engine's last failure that no later reply has made good; the trial runner types it ``MODEL_UNAVAILABLE``.
        """
        self.overlong = False
        """A token budget ran out, and the agent has not gone on with its work since."""
        self.closing = False
        self.bodies = Bodies()
        self._journal = journal
        self._forest = Forest()
        self._opened = time.monotonic()
        self._in_flight: set[asyncio.Task[Any]] = set()
        self._exchanges: deque[_Exchange] = deque(maxlen=_REMEMBERED)

    @abstractmethod
    async def _complete(self, request: ChatRequest) -> Reply:
        """One new turn."""

    @abstractmethod
    async def _count(self, request: ChatRequest) -> int: ...

    @abstractmethod
    def trajectory(self) -> Trajectory:
        """Everything committed so far."""

    def _clocked(self, node: Node, *, started: float, began: float, finished: float) -> None:
        """Note the times of a turn: the request's, the engine's beginning and end, by the monotonic clock."""
        node.started_sec, node.finished_sec = started - self._opened, finished - self._opened
        node.generate_sec = finished - began
        if node.parent is not None:
            node.gap_sec = max(0.0, node.started_sec - node.parent.finished_sec)

    def _reply(
        self,
        request: ChatRequest,
        node: Node,
        *,
        complete: bool,
        counts: tuple[int, int, int],
        stopped_by: str | None = None,
    ) -> Reply:
        """What a dialect writes of a committed turn. ``counts``: tokens of the prompt, of the reply, and of the prompt
        those that were cached; not ``complete``: a limit of tokens cut it."""
        prompt_tokens, completion_tokens, cached_tokens = counts
        return Reply(
            id=node.reply_id,
            seq=node.seq,
            created=int(time.time()),
            model=request.model,
            parsed=node.parsed,
            finish_reason="length" if not complete else "tool_calls" if node.parsed.tool_calls else "stop",
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            cached_tokens=cached_tokens,
            stopped_by=stopped_by,
        )

    async def complete(self, request: ChatRequest, *, retry: bool = False) -> Reply:
        """Sample and commit one turn. Raises ``Refusal``; engine failures become one of kind ``UNAVAILABLE`` and set
        ``failure``.

        ``retry``: the client library says that it repeats a request. If the same one is in flight or has been answered,
        its reply is given again and nothing is sampled. An equal request without that mark is a new sample.
        """
        exchange = self._repeated(request) if retry else None
        if exchange is None:
            work = asyncio.ensure_future(self._while_open(self._complete(request)))
            exchange = _Exchange(request, work)
            self._exchanges.append(exchange)
        exchange.waiting += 1
        try:
            return await asyncio.shield(exchange.work)
        except asyncio.CancelledError:
            if exchange.waiting == 1 and not exchange.work.done():
                # The engine must be free of this request before the agent can ask for the next one.
                exchange.work.cancel()
                await asyncio.wait([exchange.work])
            raise
        finally:
            exchange.waiting -= 1

    def undelivered(self, reply: Reply) -> None:
        """The client was gone before it had all of ``reply``: it counts only if a later request continues it."""
        self._forest.nodes[reply.seq].delivered = False

    def delivered(self, reply: Reply) -> None:
        self._forest.nodes[reply.seq].delivered = True

    def _repeated(self, request: ChatRequest) -> _Exchange | None:
        for exchange in reversed(self._exchanges):
            work = exchange.work
            if work.done() and (work.cancelled() or work.exception() is not None):
                continue  # it failed: that is why it is sent again
            if exchange.request.same_as(request):
                return exchange
        return None

    async def _while_open(self, work: Coroutine[Any, Any, T]) -> T:
        if self.closing:
            work.close()
            raise Refusal(Kind.CLOSED, f"session {self.id} is closed")
        task = asyncio.current_task()
        assert task is not None
        self._in_flight.add(task)
        try:
            return await work
        finally:
            self._in_flight.discard(task)

    async def count_tokens(self, request: ChatRequest) -> int:
        """The number of prompt tokens this request would have. Nothing is recorded and no budget is applied."""
        return await self._while_open(self._count(request))

    async def close(self) -> Trajectory:
        """Refuse further requests, cancel those in flight, and return what was recorded."""
        self.closing = True
        pending = [task for task in self._in_flight if task is not asyncio.current_task()]
        for task in pending:
            task.cancel()
        if pending:
            await asyncio.wait(pending, timeout=5)
        trajectory = self.trajectory()
        if self._journal is not None:
            self._journal.closed(self.id, trajectory.accounting)
        return trajectory


def turn_of(node: Node) -> Turn:
    versions = node.weight_versions
    return Turn(
        seq=node.seq,
        parent=None if node.parent is None else node.parent.seq,
        dialect=node.dialect,
        kind="policy",
        messages=tuple(node.wire),
        text=node.parsed.content,
        tool_calls=tuple(
            {"id": call.id, "name": call.name, "arguments": call.arguments} for call in node.parsed.tool_calls
        ),
        parse_status=node.parsed.status,
        finish_reason=node.finish_reason,
        prompt_tokens=node.path_length - len(node.sampled_ids),
        completion_tokens=len(node.sampled_ids),
        cached_tokens=node.cached_tokens,
        weight_versions=(min(versions), max(versions)) if versions else None,
        started_sec=node.started_sec,
        generate_sec=node.generate_sec,
        gap_sec=node.gap_sec,
        delivery="sent" if node.delivered else "unknown",
        system=node.system,
        tools=node.tools,
    )
