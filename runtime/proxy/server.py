"""The proxy as a server inside a running event loop: opens and closes sessions and serves their HTTP.

Runs in the process of the agent loop: a session is opened by a method call, not by a request. Knows nothing of what a
request means.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import re
import socket
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uvicorn

from runtime.config import Proxy as ProxyConfig
from runtime.errors import MachineError
from runtime.proxy.app import Application, ProxyApp
from runtime.proxy.base_session import BaseSession
from runtime.proxy.codec import ChatCodec, Rendered
from runtime.proxy.connections import Connections
from runtime.proxy.journal import Journal
from runtime.proxy.listeners import listening_process
from runtime.proxy.metrics import ProxyMetrics
from runtime.proxy.session import Session
from runtime.proxy.types import SessionLimits, Trajectory
from runtime.rollouter.engine import Engine, KeepsSessions

log = logging.getLogger(__name__)

OFFLOAD_CHARACTERS = 6_000
"""Longer texts are encoded in a thread: the encoder leaves the GIL free, and other sessions go on. Shorter ones take
about a millisecond, and handing them over and back would cost as much CPU again under load."""
_REMEMBERED = 10_000
"""Closed sessions whose secrets are kept, so that a late request learns that its session is closed."""
_SESSION_ID = re.compile(r"[A-Za-z0-9._~-]{1,200}")


class _Server(uvicorn.Server):
    """uvicorn as a guest: the process's signals belong to its host."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class SessionTable:
    """Open sessions by id, and the secrets of recently closed ones."""

    def __init__(self) -> None:
        self._open: dict[str, BaseSession] = {}
        self._closed: OrderedDict[str, str] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def ids(self) -> list[str]:
        return list(self._open)

    def find(self, session_id: str) -> BaseSession | None:
        return self._open.get(session_id)

    def secret_of_closed(self, session_id: str) -> str | None:
        return self._closed.get(session_id)

    def add(self, session: BaseSession) -> None:
        self._open[session.id] = session
        self._closed.pop(session.id, None)

    def remove(self, session_id: str) -> None:
        session = self._open.pop(session_id)
        self._closed[session_id] = session.secret
        if len(self._closed) > _REMEMBERED:
            self._closed.popitem(last=False)


class SessionServer(ABC):
    """A server of sessions. All methods belong to one event loop, the one that ``start`` was called in."""

    def __init__(self, config: ProxyConfig, *, journal: Path | None = None, operator_key: str = "") -> None:
        """``journal`` is the file that records every committed turn, if ``config.record_journal`` asks for one;
        ``operator_key`` reads the metrics, beside the one in ``config.metrics_key_file``.
        """
        self.metrics = ProxyMetrics()
        self._config = config
        self._sessions = SessionTable()
        self._journal_path = journal if config.record_journal else None
        self._journal: Journal | None = None
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None
        self._address = (config.host, config.port)
        self._own_key = operator_key.encode()
        self.connections = Connections(config)
        self.app = ProxyApp(
            self._sessions,
            self.metrics,
            config,
            operator_key=self._operator_key,
            render_metrics=self.render_metrics,
        )
        self.application: Application = self.app
        """What is served; may be replaced before ``start`` by an application that passes requests on to ``app``."""

    @property
    def host(self) -> str:
        return self._address[0]

    @property
    def port(self) -> int:
        """The port listened on; the configured one before ``start``."""
        return self._address[1]

    async def start(self) -> None:
        """Listen. Raises ``MachineError`` when the address cannot be bound."""
        listener = self._bind()
        self._address = listener.getsockname()[:2]
        if self._journal_path is not None:
            self._journal = Journal(self._journal_path)
        config = uvicorn.Config(
            self.application,
            loop="none",
            http=self.connections.protocol(),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=2,
        )
        self._server = _Server(config)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]), name="proxy")
        while not self._server.started:
            if self._serving.done():
                await self._serving
                raise MachineError("the proxy's HTTP server ended at once", fix="look into the log above")
            await asyncio.sleep(0.002)

    def render_metrics(self) -> bytes:
        """What ``GET /metrics`` answers."""
        counted = self.connections
        return self.metrics.render(open_sessions=len(self._sessions), connections=counted.open, refused=counted.refused)

    def _operator_key(self) -> bytes:
        path = self._config.metrics_key_file
        if self._own_key or path is None:
            return self._own_key
        try:
            return Path(path).read_bytes().strip()
        except OSError as error:
            log.warning("proxy.metrics_key_file: %s: %s", path, error.strerror)
            return b""

    def _bind(self) -> socket.socket:
        host, port = self._config.host, self._config.port
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen(2048)
            listener.setblocking(False)
        except OSError as error:
            listener.close()
            owner = listening_process(port) if error.errno == errno.EADDRINUSE else None
            raise MachineError(
                f"the proxy cannot listen on {host}:{port}: {error.strerror}{f': {owner} does' if owner else ''}",
                fix=f"end {owner or 'what holds the port'}, or take another port: 0 for any free one (proxy.port in a "
                "spec, --port of liverl proxy)",
            ) from None
        return listener

    def open_session(self, session_id: str, limits: SessionLimits) -> BaseSession:
        """A new session. Raises ``ValueError`` when the id is open already or cannot stand in a URL, and when too many
        are open; a closed id may be used again.
        """
        if not _SESSION_ID.fullmatch(session_id):
            raise ValueError(f"session id {session_id!r}: use 1 to 200 letters, digits, '.', '_', '~' or '-'")
        if len(self._sessions) >= self._config.max_sessions:
            raise ValueError(f"{self._config.max_sessions} sessions are open already; close some")
        if self._sessions.find(session_id) is not None:
            raise ValueError(f"session {session_id} is open already")
        session = self._new(session_id, limits)
        if self._journal is not None:
            self._journal.opened(session_id, limits)
        self._sessions.add(session)
        return session

    def open_sessions(self) -> list[str]:
        """Their ids, oldest first."""
        return self._sessions.ids()

    async def close_session(self, session_id: str) -> Trajectory:
        """End a session and return all it did; requests in flight are cancelled. Raises ``KeyError`` when it is not
        open.
        """
        session = self._sessions.find(session_id)
        if session is None:
            raise KeyError(session_id)
        trajectory = await session.close()
        if self._sessions.find(session_id) is session:  # else another call has closed it meanwhile, and counted it
            self._sessions.remove(session_id)
            self._ended(session_id)
            self.metrics.closed(trajectory)
        return trajectory

    async def close(self) -> None:
        """Close every session and stop listening. Idempotent. What answers stays open: it belongs to the caller."""
        for session_id in self._sessions.ids():
            with contextlib.suppress(KeyError):  # its trial may end at the same time
                await self.close_session(session_id)
        if self._server is not None and self._serving is not None:
            self._server.should_exit = True
            await self._serving
        self._server = self._serving = None
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    @abstractmethod
    def _new(self, session_id: str, limits: SessionLimits) -> BaseSession: ...

    @abstractmethod
    def _ended(self, session_id: str) -> None:
        """A session is closed and gone."""


class ProxyServer(SessionServer):
    """The token-exact proxy in front of an engine."""

    def __init__(
        self,
        config: ProxyConfig,
        codec: ChatCodec,
        engine: Engine,
        *,
        journal: Path | None = None,
        operator_key: str = "",
    ) -> None:
        super().__init__(config, journal=journal, operator_key=operator_key)
        self._codec = codec
        self._engine = engine
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="proxy-encode")

    def open_session(self, session_id: str, limits: SessionLimits) -> Session:
        session = super().open_session(session_id, limits)
        assert isinstance(session, Session)
        return session

    async def close(self) -> None:
        await super().close()
        self._threads.shutdown(wait=False)

    def _new(self, session_id: str, limits: SessionLimits) -> Session:
        return Session(
            session_id,
            limits,
            codec=self._codec,
            engine=self._engine,
            encode=self._encode,
            journal=self._journal,
            probe_tokens=self._config.side_call_tokens,
        )

    def _ended(self, session_id: str) -> None:
        if isinstance(self._engine, KeepsSessions):
            self._engine.end_session(session_id)

    async def _encode(self, rendered: Rendered) -> list[int]:
        if rendered.size <= OFFLOAD_CHARACTERS:
            return rendered.encode()
        return await asyncio.get_running_loop().run_in_executor(self._threads, rendered.encode)
