"""The proxy's HTTP surface as a raw ASGI application: routes, authentication, bodies, streams, disconnects.

A reply is never streamed from the engine: it is finished and committed first, then sent, as one body or replayed as
events. Knows nothing of tokens or of what a session does with a request.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import orjson

from runtime.config import Proxy as ProxyConfig
from runtime.proxy import volatile
from runtime.proxy.base_session import BaseSession
from runtime.proxy.chat import ChatRequest, Reply
from runtime.proxy.dialects import MODELS, ROUTES, dialect_of
from runtime.proxy.dialects.base import Action, Dialect
from runtime.proxy.metrics import ProxyMetrics
from runtime.proxy.refusal import Kind, Refusal

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

CLIENT_CLOSED = 499
_JSON = b"application/json"
_KEEPALIVE = b": keepalive\n"
"""A comment without the empty line that would end an event: some clients parse empty events as JSON."""

log = logging.getLogger(__name__)


class Sessions(Protocol):
    """Where the application finds sessions; ``secret_of_closed`` keeps the keys of finished ones for a while."""

    def find(self, session_id: str) -> BaseSession | None: ...

    def secret_of_closed(self, session_id: str) -> str | None: ...


class ClientGone(Exception):
    """The agent closed its connection before it had the reply."""


class ProxyApp:
    """See https://asgi.readthedocs.io/en/latest/specs/www.html for the calling convention."""

    def __init__(
        self,
        sessions: Sessions,
        metrics: ProxyMetrics,
        config: ProxyConfig,
        *,
        operator_key: Callable[[], bytes],
        render_metrics: Callable[[], bytes],
    ) -> None:
        """``operator_key`` gives the key that ``/metrics`` asks for (empty: nobody has it), ``render_metrics`` what it
        answers.
        """
        self._sessions = sessions
        self._metrics = metrics
        self._operator_key = operator_key
        self._render_metrics = render_metrics
        self._max_body = config.max_body_mib << 20
        self._unfinished = Unfinished(config.max_unfinished_mib << 20, per_session=self._max_body)
        self.keepalive_sec = config.keepalive_sec
        self.max_in_flight = config.max_in_flight
        self.body_sec = config.body_timeout_sec
        self._retry_after = str(config.retry_after_sec).encode()
        self._volatile_rules = frozenset[str](config.volatile_rules)
        self._working = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        volatile.applied.set(self._volatile_rules)
        path: str = scope["path"]
        session_id, rest = _split(path)
        dialect = dialect_of(rest)
        try:
            if session_id is None:
                status = await self._public(scope, send)
            else:
                status = await self._session_route(scope, receive, send, session_id, rest)
        except Refusal as refusal:
            await self._refuse(send, dialect, refusal)
            status = refusal.status
        except ClientGone:
            status = CLIENT_CLOSED
        except Exception:
            log.exception("%s %s failed", scope["method"], rest or path)
            fault = Refusal(Kind.INTERNAL, "the proxy failed on this request; its log has the cause")
            await self._refuse(send, dialect, fault)
            status = fault.status
        self._metrics.requests[(dialect.name, status)] += 1

    async def _public(self, scope: Scope, send: Send) -> int:
        method, path = scope["method"], scope["path"]
        if method not in ("GET", "HEAD") or path not in ("/healthz", "/metrics"):
            raise Refusal(Kind.NOT_FOUND, f"nothing answers {method} {path[:200]}")
        if path == "/healthz":
            await send_body(send, 200, b'{"status":"ok"}')
            return 200
        key = self._operator_key()
        if not key or not hmac.compare_digest(_presented(scope["headers"]), key):
            raise Refusal(Kind.UNAUTHENTICATED, "the operator's key is needed: Authorization: Bearer KEY")
        await send_body(send, 200, self._render_metrics(), content_type=b"text/plain; version=0.0.4; charset=utf-8")
        return 200

    async def _session_route(self, scope: Scope, receive: Receive, send: Send, session_id: str, rest: str) -> int:
        method = scope["method"]
        if method == "HEAD":
            # Agents probe the base URL without a key before they start; the answer says nothing about any session.
            await send_body(send, 200, b"")
            return 200
        session = self._authenticated(session_id, scope["headers"])
        methods = ROUTES.get(rest, {})
        if method not in methods:
            raise Refusal(Kind.METHOD if methods else Kind.NOT_FOUND, f"nothing answers {method} {rest[:200]}")
        dialect, action = methods[method]
        match action:
            case Action.CHAT:
                return await self._chat(receive, send, session, dialect, retry=_is_retry(scope["headers"]))
            case Action.COUNT_TOKENS:
                request = dialect.parse(await self._body(receive, session, dialect))
                await send_body(send, 200, orjson.dumps({"input_tokens": await session.count_tokens(request)}))
            case Action.MODELS:
                await send_body(send, 200, MODELS)
        return 200

    def _authenticated(self, session_id: str, headers: Iterable[tuple[bytes, bytes]]) -> BaseSession:
        """The session whose secret the request carries. Raises the same refusal for an unknown session and for a wrong
        secret.
        """
        presented = _presented(headers)
        session = self._sessions.find(session_id)
        secret = session.secret if session is not None else self._sessions.secret_of_closed(session_id)
        if not hmac.compare_digest(presented, (secret or "").encode()) or not secret:
            raise Refusal(Kind.UNAUTHENTICATED, "no session has this id and this API key")
        if session is None or session.closing:
            raise Refusal(Kind.CLOSED, f"session {session_id} is closed")
        return session

    async def _chat(self, receive: Receive, send: Send, session: BaseSession, dialect: Dialect, *, retry: bool) -> int:
        request = dialect.parse(await self._body(receive, session, dialect))
        began = time.monotonic()
        metrics = self._metrics
        metrics.in_flight += 1
        try:
            reply = await self._reply(receive, send, session, dialect, request, retry=retry)
        finally:
            metrics.in_flight -= 1
        if isinstance(reply, Refusal):
            return reply.status
        metrics.reply_seconds += time.monotonic() - began
        metrics.prompt_tokens += reply.prompt_tokens
        metrics.completion_tokens += reply.completion_tokens
        metrics.cached_tokens += reply.cached_tokens
        return 200

    async def _reply(
        self, receive: Receive, send: Send, session: BaseSession, dialect: Dialect, request: ChatRequest, *, retry: bool
    ) -> Reply | Refusal:
        """Send one reply. A stream's headers go out only when the reply is late, so that early failures keep their HTTP
        status.
        """
        if self._working >= self.max_in_flight:
            raise Refusal(Kind.BUSY, f"{self._working} replies are in work already; come back later")
        work = asyncio.ensure_future(session.complete(request, retry=retry))
        # Free again when the reply is there, not when it has been read: a slow reader holds no place.
        self._working += 1
        work.add_done_callback(self._worked)
        gone = asyncio.ensure_future(_disconnected(receive))
        started = False
        try:
            while not await _done(work, gone, timeout=self.keepalive_sec if request.stream else None):
                if not started:
                    await send(_start(200, b"text/event-stream"))
                    started = True
                await send({"type": "http.response.body", "body": _KEEPALIVE, "more_body": True})
            result = await self._deliver(send, session, dialect, request, work, gone, started=started)
        finally:
            gone.cancel()
            if not work.done():
                work.cancel()
                # The engine must be free of this request before the agent can ask for the next one.
                await asyncio.wait([work])
                if not work.cancelled():
                    work.exception()  # the agent is gone: nobody else will look at it
        return result

    def _worked(self, work: asyncio.Future[Reply]) -> None:
        self._working -= 1

    async def _deliver(
        self,
        send: Send,
        session: BaseSession,
        dialect: Dialect,
        request: ChatRequest,
        work: asyncio.Future[Reply],
        gone: asyncio.Future[None],
        *,
        started: bool,
    ) -> Reply | Refusal:
        """The finished ``work`` on its way to the agent."""
        if work.cancelled():
            raise Refusal(Kind.CLOSED, f"session {session.id} was closed while the reply was generated")
        try:
            reply = work.result()
        except Refusal as refusal:
            if not started:
                raise
            await send({"type": "http.response.body", "body": dialect.stream_error(refusal)})
            return refusal
        try:
            if not request.stream:
                await send_body(send, 200, dialect.reply(reply, request))
            else:
                if not started:
                    await send(_start(200, b"text/event-stream"))
                await send({"type": "http.response.body", "body": dialect.stream(reply, request)})
        except (OSError, asyncio.CancelledError):
            session.undelivered(reply)
            raise
        (session.undelivered if gone.done() else session.delivered)(reply)
        return reply

    async def _refuse(self, send: Send, dialect: Dialect, refusal: Refusal) -> None:
        more: list[tuple[bytes, bytes]] = []
        if refusal.kind in (Kind.UNAVAILABLE, Kind.BUSY, Kind.CROWDED):
            more.append((b"retry-after", self._retry_after))
        elif refusal.kind is Kind.CLOSED:
            # The official clients repeat a 409 by default; nothing will ever come of that here.
            more.append((b"x-should-retry", b"false"))
        elif refusal.kind in (Kind.TOO_LARGE, Kind.TOO_SLOW):
            more.append((b"connection", b"close"))
        await send_body(send, refusal.status, dialect.error(refusal), *more)

    async def _body(self, receive: Receive, session: BaseSession, dialect: Dialect) -> dict[str, Any]:
        try:
            async with asyncio.timeout(self.body_sec):
                with self._unfinished.body_of(session.id) as held:
                    raw = await read_body(receive, limit=self._max_body, held=held)
        except TimeoutError:
            raise Refusal(Kind.TOO_SLOW, f"the body took longer than {self.body_sec:g} seconds") from None
        try:
            body = session.bodies.parse(raw, dialect.messages_field)
        except orjson.JSONDecodeError as error:
            raise Refusal(Kind.INVALID, f"the body is not JSON: {error}") from None
        if not isinstance(body, dict):
            raise Refusal(Kind.INVALID, "the body must be a JSON object")
        return body


class Unfinished:
    """How much of bodies that are still coming in is held, over all connections; so that many slow ones, each within
    its own limit, cannot fill the memory, and those of one session not the room of all.
    """

    def __init__(self, limit: int, *, per_session: int) -> None:
        self._limit = limit
        self._per_session = per_session
        self._total = 0
        self._by_session: Counter[str] = Counter()

    @contextmanager
    def body_of(self, session_id: str) -> Iterator[Callable[[int], None]]:
        """What takes the size of each piece of one body. It raises ``Refusal`` when there is no room for it."""
        size = 0

        def held(more: int) -> None:
            nonlocal size
            if self._total + more > self._limit or self._by_session[session_id] + more > self._per_session:
                raise Refusal(Kind.CROWDED, "too many bodies are still coming in; come back later")
            size += more
            self._total += more
            self._by_session[session_id] += more

        try:
            yield held
        finally:
            self._total -= size
            self._by_session[session_id] -= size
            if not self._by_session[session_id]:
                del self._by_session[session_id]


async def read_body(receive: Receive, *, limit: int, held: Callable[[int], None] | None = None) -> bytes:
    """The request's body. Raises ``Refusal`` above ``limit`` bytes and ``ClientGone``. ``held`` is called with the size
    of each piece of it.
    """
    chunks: list[bytes] = []
    size = 0
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise ClientGone
        chunk: bytes = event.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise Refusal(Kind.TOO_LARGE, f"the body has more than {limit} bytes")
        if held is not None:
            held(len(chunk))
        chunks.append(chunk)
        if not event.get("more_body"):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _presented(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The key of a request; empty without one."""
    presented = b""
    for name, value in headers:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].strip()
        if name == b"x-api-key":
            presented = value
    return presented


def _is_retry(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """The official client libraries count the repetitions of a request in a header of their own."""
    return any(name == b"x-stainless-retry-count" and value.strip() not in (b"", b"0") for name, value in headers)


def _split(path: str) -> tuple[str | None, str]:
    """``/s/<session>/rest`` as (session, ``/rest``)."""
    if not path.startswith("/s/"):
        return None, path
    session_id, slash, rest = path[3:].partition("/")
    return session_id, slash + rest


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _done(work: asyncio.Future[Reply], gone: asyncio.Future[None], *, timeout: float | None) -> bool:
    """Whether the reply is there; False after ``timeout`` seconds. Raises ``ClientGone``."""
    await asyncio.wait((work, gone), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    if work.done():
        return True
    if gone.done():
        raise ClientGone
    return False


def _start(status: int, content_type: bytes, *more: tuple[bytes, bytes]) -> dict[str, Any]:
    headers = [(b"content-type", content_type), (b"cache-control", b"no-store"), *more]
    return {"type": "http.response.start", "status": status, "headers": headers}


async def send_body(
    send: Send, status: int, body: bytes, *more: tuple[bytes, bytes], content_type: bytes = _JSON
) -> None:
    await send(_start(status, content_type, (b"content-length", str(len(body)).encode()), *more))
    await send({"type": "http.response.body", "body": body})
