"""An engine server seen from the agent loop: a ``Replica`` over its Unix socket, or over TCP from another machine.

One connection carries all calls of the process. Weights are the trainer's business: they reach the server by another
way. Knows nothing of Ray or verl.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from runtime.errors import Termination, TrialError
from runtime.files import write_whole
from runtime.laptop.engine import frames
from runtime.rollouter.engine import Generation, SamplingParams, WeightIdentity
from runtime.run_paths import RAY_DIR

_TCP = ".tcp"


def engine_socket(name: str) -> Path:
    """Where an engine server of this run listens; in Ray's folder, because a Unix socket's path must be short."""
    return Path(os.environ[RAY_DIR]) / f"{name}.sock"


def engine_sockets() -> dict[str, Path]:
    """Name -> socket of every engine server of this run that listens."""
    return {path.stem: path for path in sorted(Path(os.environ[RAY_DIR]).glob("*.sock"))}


def write_address(engines: Path, name: str, *, host: str, port: int) -> None:
    """Tell other machines where an engine server of this run listens. ``engines``: the run's folder of that."""
    write_whole(engines / f"{name}{_TCP}", f"{host} {port}".encode())


def engine_addresses(engines: Path) -> dict[str, tuple[str, int]]:
    """Name -> host and port of every engine server that other machines reach."""
    found = {path.stem: path.read_text(encoding="ascii").split() for path in sorted(engines.glob(f"*{_TCP}"))}
    return {name: (host, int(port)) for name, (host, port) in found.items()}


class SocketReplica:
    """Implements ``Replica``. Connects at the first call; all calls belong to one event loop.

    ``address``: a Unix socket, or host and port, where the server wants to hear the run's ``key`` first."""

    def __init__(self, address: Path | tuple[str, int], *, key: str = "") -> None:
        self._address, self._key = address, key
        self._name = address.stem if isinstance(address, Path) else f"{address[0]}:{address[1]}"
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._connecting = asyncio.Lock()
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None

    async def generate(self, prompt_ids: Sequence[int], params: SamplingParams, *, session: str) -> Generation:
        """See ``Engine.generate``. Cancelling the call cancels it on the server."""
        request = {"do": "generate", "prompt_ids": list(prompt_ids), "params": asdict(params), "session": session}
        answer = await self._call(request)
        routing = answer.pop("routing")
        return Generation(**answer, routing=None if routing is None else frames.routing_in(routing))

    async def identity(self) -> WeightIdentity:
        answer = await self._call({"do": "identity"})
        return WeightIdentity(version=answer["version"], fingerprint=answer["fingerprint"])

    async def abort_all(self) -> int:
        answer = await self._call({"do": "abort"})
        return int(answer["aborted"])

    async def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reading
        self._lose()

    async def _call(self, request: dict[str, Any]) -> dict[str, Any]:
        writer = await self._connect()
        number = next(self._numbers)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            writer.write(frames.encode({"id": number, **request}))
            await writer.drain()
            reply = await answer
        except asyncio.CancelledError:
            with contextlib.suppress(ConnectionError):
                writer.write(frames.encode({"id": number, "do": "cancel"}))
            raise
        except ConnectionError as error:
            raise TrialError(Termination.MODEL_UNAVAILABLE, f"{self._name}: {error}") from error
        finally:
            self._waiting.pop(number, None)
        if "failed" in reply:
            raise TrialError(Termination(reply["failed"]), reply["message"])
        if "refused" in reply:
            raise ValueError(reply["refused"])
        found: dict[str, Any] = reply["answer"]
        return found

    async def _connect(self) -> asyncio.StreamWriter:
        async with self._connecting:
            if self._writer is None:
                try:
                    reader, self._writer = await self._open()
                except OSError as error:
                    raise TrialError(Termination.MODEL_UNAVAILABLE, f"{self._name}: {error}") from error
                self._reading = asyncio.create_task(self._read(reader))
            return self._writer

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._address, Path):
            return await asyncio.open_unix_connection(str(self._address))
        reader, writer = await asyncio.open_connection(*self._address)
        writer.write(frames.encode({"key": self._key}))
        return reader, writer

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while (reply := await frames.read(reader)) is not None:
            waiting = self._waiting.get(reply["id"])
            if waiting is not None and not waiting.done():
                waiting.set_result(reply)
        self._lose()

    def _lose(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        gone = TrialError(Termination.MODEL_UNAVAILABLE, f"{self._name}: the engine server is gone")
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(gone)
