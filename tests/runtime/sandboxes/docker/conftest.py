"""A Docker engine for the session, and our provider on it."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.sandboxes.docker.connection import connection
from runtime.sandboxes.docker.provider import DockerProvider
from tests.docker_engine import BASE, Engine, free_port


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    with Engine.temporary(port=free_port()) as engine:
        yield engine


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(params=["socket", "tls"])
def containers(
    request: pytest.FixtureRequest, engine: Engine, tmp_path: Path, loop: asyncio.Runner
) -> Iterator[DockerProvider]:
    """An engine of this machine, and the same one as if it were another's."""
    made = provider(engine, tmp_path / "state", tls=request.param == "tls")
    yield made
    loop.run(made.close())
    assert engine.docker("ps", "-aq") == ""
    assert list((tmp_path / "state").iterdir()) == []


def provider(engine: Engine, state: Path, *, tls: bool = False, base: str = BASE, **more: Any) -> DockerProvider:
    to = connection(engine.tls, certificates=str(engine.root / "certs")) if tls else connection(engine.url)
    return DockerProvider(to, state=state, base=base, **more)
