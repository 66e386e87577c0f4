"""``vllm serve`` processes of this machine, one per replica: for evaluation, where no trainer owns any.

Knows how they are started and stopped; how they are spoken to is ``runtime.proxy.upstream``'s.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp

from runtime.errors import RunError

_START_SEC = 900.0
"""Reading a large model and compiling its kernels takes minutes."""
_POLL_SEC = 0.5


@asynccontextmanager
async def vllm_servers(
    settings: Path,
    model: Path,
    *,
    replicas: int,
    gpus_per_replica: int,
    logs: Path,
    environment: Mapping[str, str],
    command: Sequence[str] = (sys.executable, "-P", "-m", "vllm.entrypoints.cli.main"),
) -> AsyncIterator[Sequence[str]]:
    """URLs of ``replicas`` servers of ``model`` that answer. ``settings``: the bundle's ``vllm.yaml``. Raises
    ``RunError`` when one ends or takes too long; all are ended on the way out."""
    logs.mkdir(parents=True, exist_ok=True)
    given = {**os.environ, **environment}
    servers: dict[str, asyncio.subprocess.Process] = {}
    try:
        for index in range(replicas):
            port = _free_port()
            with (logs / f"vllm-{index}.log").open("ab") as output:
                servers[f"http://127.0.0.1:{port}"] = await asyncio.create_subprocess_exec(
                    *(*command, "serve", str(model), "--config", str(settings)),
                    *("--host", "127.0.0.1", "--port", str(port)),
                    cwd=logs,
                    env={**given, "CUDA_VISIBLE_DEVICES": _share(index, gpus_per_replica, given)},
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=asyncio.subprocess.STDOUT,
                    start_new_session=True,
                )
        try:
            async with asyncio.timeout(_START_SEC), aiohttp.ClientSession() as client:
                for url, process in servers.items():
                    await _ready(client, url, process, logs=logs)
        except TimeoutError:
            raise RunError(f"vLLM was not ready after {_START_SEC:.0f} s (logs: {logs})") from None
        yield list(servers)
    finally:
        for process in servers.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        await asyncio.gather(*(process.wait() for process in servers.values()))


async def _ready(client: aiohttp.ClientSession, url: str, process: asyncio.subprocess.Process, *, logs: Path) -> None:
    while process.returncode is None:
        with suppress(aiohttp.ClientError, OSError):
            async with client.get(f"{url}/health") as response:
                if response.status == 200:
                    return
        await asyncio.sleep(_POLL_SEC)
    raise RunError(f"vLLM ended with exit code {process.returncode} before it answered (logs: {logs})")


def _share(index: int, each: int, given: Mapping[str, str]) -> str:
    """The ``index``-th share of the GPUs that these variables leave."""
    mine = given.get("CUDA_VISIBLE_DEVICES")
    places = range(index * each, (index + 1) * each)
    return ",".join(mine.split(",")[place] if mine else str(place) for place in places)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
