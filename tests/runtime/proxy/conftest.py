"""Codecs of the two small models, built once, and a running proxy around a scripted engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from runtime.config import Proxy
from runtime.proxy.codec import ChatCodec, load_codec
from runtime.proxy.server import ProxyServer
from runtime.proxy.session import Session
from runtime.proxy.types import SessionLimits
from tests.runtime.proxy.scripted_engine import ScriptedEngine
from tests.runtime.proxy.tiny_model import write_model


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {family: write_model(root / family, family=family) for family in ("chatml", "compact")}


@pytest.fixture(scope="session")
def codecs(folders: dict[str, Path]) -> dict[str, ChatCodec]:
    return {"chatml": load_codec(folders["chatml"], "hermes"), "compact": load_codec(folders["compact"], "compact")}


class Running:
    """A proxy, its engine, one open session, and real clients for it."""

    def __init__(self, server: ProxyServer, engine: ScriptedEngine, session: Session) -> None:
        self.server, self.engine, self.session = server, engine, session
        self.url = f"http://{server.host}:{server.port}{session.base_path}"

    @cached_property
    def openai(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=self.url + "/v1", api_key=self.session.secret, max_retries=0)

    @cached_property
    def anthropic(self) -> anthropic.AsyncAnthropic:
        return anthropic.AsyncAnthropic(base_url=self.url, api_key=self.session.secret, max_retries=0)

    async def close(self) -> None:
        """Close the clients that were used."""
        for client in ("openai", "anthropic"):
            if client in self.__dict__:
                await self.__dict__[client].close()


Run = Callable[..., AbstractAsyncContextManager[Running]]
OPERATOR = "operator-key"
LIMITS = SessionLimits(prompt_length=2000, response_length=4000, max_tokens_per_turn=400)


@pytest.fixture
def running(codecs: dict[str, ChatCodec]) -> Run:
    """``running(script, family=..., limits=..., journal=..., **proxy settings)``."""

    @asynccontextmanager
    async def run(
        script: Any,
        *,
        family: str = "chatml",
        limits: SessionLimits = LIMITS,
        journal: Path | None = None,
        **settings: Any,
    ) -> AsyncIterator[Running]:
        engine = ScriptedEngine(codecs[family], script)
        server = ProxyServer(Proxy(**settings), codecs[family], engine, journal=journal, operator_key=OPERATOR)
        await server.start()
        try:
            it = Running(server, engine, server.open_session("task.1.0", limits))
            try:
                yield it
            finally:
                await it.close()
        finally:
            await server.close()

    return run
