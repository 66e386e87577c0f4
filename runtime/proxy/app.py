"""The proxy's HTTP surface as a raw ASGI application: routes, authentication, bodies, streams, disconnects.

A reply is never streamed from the engine: it is finished and committed first, then sent, as one body or replayed as
events. Knows nothing of tokens or of what a session does with a request.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol

import orjson

from runtime.config import Proxy as ProxyConfig
from runtime.proxy import volatile
from runtime.proxy.chat import ChatRequest, Reply
from runtime.proxy.dialects import ANTHROPIC, DIALECTS, OPENAI
from runtime.proxy.dialects.base import Dialect
from runtime.proxy.metrics import ProxyMetrics
from runtime.proxy.refusal import Kind, Refusal
from runtime.proxy.session import Session

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

    def find(self, session_id: str) -> Session | None: ...

    def secret_of_closed(self, session_id: str) -> str | None: ...

    def __len__(self) -> int: ...


class ClientGone(Exception):
    """The agent closed its connection before it had the reply."""


class ProxyApp:
    """See https://asgi.readthedocs.io/en/latest/specs/www.html for the calling convention."""

    def __init__(self, sessions: Sessions, metrics: ProxyMetrics, config: ProxyConfig) -> None:
        self._sessions = sessions
        self._metrics = metrics
        self._max_body = config.max_body_mib << 20
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
        dialect = DIALECTS.get(rest) or (ANTHROPIC if rest.startswith("/v1/messages") else OPENAI)
        try:
            if session_id is None:
                status = await self._public(scope["method"], path, send)
            else:
                status = await self._session_route(scope, receive, send, session_id, rest, dialect)
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

    async def _public(self, method: str, path: str, send: Send) -> int:
        if method not in ("GET", "HEAD"):
            raise Refusal(Kind.NOT_FOUND, f"nothing answers {method} {path[:200]}")
        if path == "/healthz":
            await send_body(send, 200, b'{"status":"ok"}')
        elif path == "/metrics":
            body = self._metrics.render(open_sessions=len(self._sessions))
            await send_body(send, 200, body, content_type=b"text/plain; version=0.0.4; charset=utf-8")
        else:
            raise Refusal(Kind.NOT_FOUND, f"nothing answers {method} {path[:200]}")
        return 200

    async def _session_route(
        self, scope: Scope, receive: Receive, send: Send, session_id: str, rest: str, dialect: Dialect
    ) -> int:
        method = scope["method"]
        if method == "HEAD":
            # Agents probe the base URL without a key before they start; the answer says nothing about any session.
            await send_body(send, 200, b"")
            return 200
        session = self._authenticated(session_id, scope["headers"])
        if method == "POST" and rest in DIALECTS:
            return await self._chat(receive, send, session, dialect, retry=_is_retry(scope["headers"]))
        if method == "POST" and rest == "/v1/messages/count_tokens":
            request = dialect.parse(await self._body(receive, session, dialect))
            await send_body(send, 200, orjson.dumps({"input_tokens": await session.count_tokens(request)}))
            return 200
        if method == "GET" and rest == "/v1/models":
            await send_body(send, 200, _MODELS)
            return 200
        known = rest in DIALECTS or rest in ("/v1/messages/count_tokens", "/v1/models")
        raise Refusal(Kind.METHOD if known else Kind.NOT_FOUND, f"nothing answers {method} {rest[:200]}")

    def _authenticated(self, session_id: str, headers: Iterable[tuple[bytes, bytes]]) -> Session:
        """The session whose secret the request carries. Raises the same refusal for an unknown session and for a wrong
        secret.
        """
        presented = b""
        for name, value in headers:
            if name == b"authorization" and value[:7].lower() == b"bearer ":
                presented = value[7:].strip()
                break
            if name == b"x-api-key":
                presented = value
        session = self._sessions.find(session_id)
        secret = session.secret if session is not None else self._sessions.secret_of_closed(session_id)
        if not hmac.compare_digest(presented, (secret or "").encode()) or not secret:
            raise Refusal(Kind.UNAUTHENTICATED, "no session has this id and this API key")
        if session is None or session.closing:
            raise Refusal(Kind.CLOSED, f"session {session_id} is closed")
        return session

    async def _chat(self, receive: Receive, send: Send, session: Session, dialect: Dialect, *, retry: bool) -> int:
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
        self, receive: Receive, send: Send, session: Session, dialect: Dialect, request: ChatRequest, *, retry: bool
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
        session: Session,
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
        if refusal.kind in (Kind.UNAVAILABLE, Kind.BUSY):
            more.append((b"retry-after", self._retry_after))
        elif refusal.kind is Kind.CLOSED:
            # The official clients repeat a 409 by default; nothing will ever come of that here.
            more.append((b"x-should-retry", b"false"))
        elif refusal.kind in (Kind.TOO_LARGE, Kind.TOO_SLOW):
            more.append((b"connection", b"close"))
        await send_body(send, refusal.status, dialect.error(refusal), *more)

    async def _body(self, receive: Receive, session: Session, dialect: Dialect) -> dict[str, Any]:
        try:
            async with asyncio.timeout(self.body_sec):
                raw = await read_body(receive, limit=self._max_body)
        except TimeoutError:
            raise Refusal(Kind.TOO_SLOW, f"the body took longer than {self.body_sec:g} seconds") from None
        try:
            body = session.bodies.parse(raw, dialect.messages_field)
        except orjson.JSONDecodeError as error:
            raise Refusal(Kind.INVALID, f"the body is not JSON: {error}") from None
        if not isinstance(body, dict):
            raise Refusal(Kind.INVALID, "the body must be a JSON object")
        return body


async def read_body(receive: Receive, *, limit: int) -> bytes:
    """The request's body. Raises ``Refusal`` above ``limit`` bytes and ``ClientGone``."""
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
        chunks.append(chunk)
        if not event.get("more_body"):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


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


_MODEL_NAME = "policy"
_MODELS = orjson.dumps(
    {
        "object": "list",
        "data": [
            {
                "id": _MODEL_NAME,
                "object": "model",
                "type": "model",
                "created": 0,
                "created_at": "1970-01-01T00:00:00Z",
                "owned_by": "liverl",
                "display_name": _MODEL_NAME,
            }
        ],
        "has_more": False,
        "first_id": _MODEL_NAME,
        "last_id": _MODEL_NAME,
    }
)
"""Both dialects' shapes at once: clients look only at the keys they know."""
