"""Everything a trial runs on, built from ``RuntimeConfig`` in one place: codec, proxy, sandbox provider, verifier,
scaffold.

Used by the manager inside verl and by the in-process loop alike; they differ only in the ``Engine`` they bring. Knows
nothing of trials.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from runtime.config import ImportedScaffold, RuntimeConfig, ShellScaffold
from runtime.config import Scaffold as ScaffoldSettings
from runtime.grading.base import Verifier
from runtime.grading.make import make_verifier
from runtime.imported import make
from runtime.proxy.chat_endpoint import ChatEndpoint
from runtime.proxy.codec import load_codec
from runtime.proxy.relay import RelayServer
from runtime.proxy.server import ProxyServer, SessionServer
from runtime.rollouter.engine import Engine
from runtime.sandboxes import make_provider
from runtime.sandboxes.base import SandboxProvider
from runtime.scaffolds.base import Scaffold


@dataclass(frozen=True)
class Services:
    """Running services, shared by all trials of one process. Whoever opened them closes them."""

    proxy: SessionServer
    provider: SandboxProvider
    verifier: Verifier
    scaffold: Scaffold


def make_scaffold(config: ScaffoldSettings) -> Scaffold:
    """The configured agent, installed if need be. Raises ``UserError`` when an import path does not lead to a class,
    ``MachineError`` when an agent cannot be installed.
    """
    if isinstance(config, ShellScaffold):
        from runtime.scaffolds.shell import ShellScaffold as Shell

        return Shell(config)
    if not isinstance(config, ImportedScaffold):
        from runtime.scaffolds.agents import make_agent

        return make_agent(config)
    scaffold: Scaffold = make(config.import_path, field="scaffold.import_path", kwargs=config.kwargs)
    return scaffold


@asynccontextmanager
async def open_services(
    config: RuntimeConfig,
    *,
    engine: Engine | ChatEndpoint,
    model_folder: Path | None,
    state: Path,
    journal: Path | None = None,
) -> AsyncIterator[Services]:
    """Start what trials need and take it all down again, whatever happens in between.

    ``engine`` and its ``model_folder``, or an endpoint of texts alone, which has none; ``state`` is a folder below the
    run directory for sandboxes and test servers, ``journal`` the proxy's log of turns; the engine stays the caller's.
    """
    proxy = _proxy(config, engine, model_folder, journal)
    scaffold = make_scaffold(config.scaffold)
    async with AsyncExitStack() as stack:
        state.mkdir(parents=True, exist_ok=True)
        provider = make_provider(config.environment, state=state)
        stack.push_async_callback(provider.close)
        verifier = make_verifier(config.environment, provider)
        stack.push_async_callback(verifier.close)
        if journal is not None:
            journal.parent.mkdir(parents=True, exist_ok=True)
        stack.push_async_callback(proxy.close)
        await proxy.start()
        yield Services(proxy=proxy, provider=provider, verifier=verifier, scaffold=scaffold)


def _proxy(
    config: RuntimeConfig, engine: Engine | ChatEndpoint, model_folder: Path | None, journal: Path | None
) -> SessionServer:
    if isinstance(engine, ChatEndpoint):
        return RelayServer(config.proxy, engine, journal=journal)
    assert model_folder is not None
    codec = load_codec(model_folder, config.rollout.tool_parser, needs_tools=config.scaffold.needs_tool_calls)
    return ProxyServer(config.proxy, codec, engine, journal=journal)
