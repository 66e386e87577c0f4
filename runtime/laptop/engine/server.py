"""One inference replica as a Ray actor: an engine (``runtime.rollouter.make``) behind the server interface that verl's
client and managers call.

Deliberately free of verl imports: the actor's process starts in a fraction of the time. Upstream interface: the
``server`` of ``verl/workers/rollout/llm_server.py`` (``generate``) and of ``verl/workers/rollout/replica.py`` (control
calls), verl 0.9.1. Knows nothing of tasks or training.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.errors import Termination, TrialError
from runtime.laptop.engine import frames
from runtime.rollouter.engine import Generation, SamplingParams

_KEY_SEC = 10.0


@dataclass
class TokenOutput:
    """Same attributes as ``verl.workers.rollout.replica.TokenOutput``, without importing verl."""

    token_ids: list[int]
    log_probs: list[float]
    stop_reason: str
    routed_experts: Any = None
    num_preempted: int | None = None
    extra_fields: dict[str, Any] = field(default_factory=dict)


class EngineServer:
    """Generation is held at a gate while weights change: ``close_gate`` ... ``load_weights`` ... ``open_gate``.

    A request that arrives while the gate is closed waits; one that is running is aborted and returns what it has.
    """

    def __init__(
        self,
        model_folder: str,
        *,
        slots: int,
        max_len: int,
        seed: int,
        threads: int = 1,
        import_path: str | None = None,
        kwargs: Mapping[str, Any] | None = None,
        routed: bool = False,
    ) -> None:
        # Before torch is imported by the engine: spinning OpenMP threads cost more than they give on shared cores.
        os.environ["OMP_NUM_THREADS"] = str(threads)
        import torch

        from runtime.rollouter.make import make_engine

        torch.set_num_threads(threads)
        self._engine = make_engine(
            Path(model_folder),
            slots=slots,
            max_len=max_len,
            seed=seed,
            import_path=import_path,
            kwargs=kwargs,
            routed=routed,
        )
        self._gate = asyncio.Event()
        self._rejecting = False
        self._server: asyncio.Server | None = None
        self._far: asyncio.Server | None = None

    async def generate(
        self,
        request_id: str,
        prompt_ids: list[int],
        sampling_params: dict[str, Any],
        image_data: Any = None,
        video_data: Any = None,
        session: str | None = None,
        **_ignored: Any,
    ) -> TokenOutput:
        """Token ids in, token ids and log-probabilities out. ``session``: LiveRL's session id (verl renames
        ``request_id`` per turn)."""
        if image_data or video_data:
            raise ValueError("the CPU engine takes text only")
        params = SamplingParams(
            max_tokens=int(sampling_params["max_tokens"]),
            temperature=float(sampling_params.get("temperature", 1.0)),
            top_p=float(sampling_params.get("top_p", 1.0)),
            top_k=int(sampling_params.get("top_k", -1)),
            stop_token_ids=tuple(sampling_params.get("stop_token_ids", ())),
            seed=sampling_params.get("seed"),
        )
        generation = await self._generate(prompt_ids, params, session=session or request_id)
        versions = list(generation.weight_versions)
        return TokenOutput(
            token_ids=list(generation.token_ids),
            log_probs=list(generation.logprobs),
            stop_reason={"stop": "completed", "length": "length", "abort": "aborted"}[generation.finish_reason],
            extra_fields={
                "global_steps": versions[-1] if versions else (await self._engine.identity()).version,
                "weight_versions": versions,
                "num_cached_tokens": generation.cached_tokens,
            },
        )

    async def _generate(self, prompt_ids: list[int], params: SamplingParams, *, session: str) -> Generation:
        if not self._gate.is_set():
            if self._rejecting:
                raise TrialError(Termination.MODEL_UNAVAILABLE, "this replica takes no requests: it is being removed")
            await self._gate.wait()
        return await self._engine.generate(prompt_ids, params, session=session)

    async def listen(self, path: str) -> None:
        """Serve the agent loop's calls (``runtime.laptop.engine.socket_replica``) on a Unix socket."""
        # On a Ray that was running before, nobody has made the run's folder on this node.
        Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._server = await asyncio.start_unix_server(self._converse, path)

    async def listen_tcp(self, host: str, key: str) -> int:
        """Serve agent loops on other machines too, on any free port of ``host``, which is returned: those that say the
        run's ``key`` first."""

        async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                said = await asyncio.wait_for(frames.read(reader), _KEY_SEC)
            except (TimeoutError, ValueError):
                said = None
            if said is None or not secrets.compare_digest(str(said.get("key")).encode(), key.encode()):
                writer.close()
                return
            await self._converse(reader, writer)

        self._far = await asyncio.start_server(converse, host, 0)
        port: int = self._far.sockets[0].getsockname()[1]
        return port

    async def close(self) -> None:
        """Stop listening and end the engine."""
        for server in (self._server, self._far):
            if server is not None:
                server.close()
        await self._engine.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        running: dict[int, asyncio.Task[None]] = {}
        try:
            while (request := await frames.read(reader)) is not None:
                number = int(request["id"])
                if request["do"] == "cancel":
                    if (task := running.get(number)) is not None:
                        task.cancel()
                    continue
                task = asyncio.create_task(self._answer(number, request, writer))
                running[number] = task
                task.add_done_callback(functools.partial(_forget, running, number))
        finally:
            # The agent loop is gone: nobody waits for what it asked.
            for task in list(running.values()):
                task.cancel()
            writer.close()

    async def _answer(self, number: int, request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        try:
            reply: dict[str, Any] = {"answer": await self._do(request)}
        except TrialError as error:
            reply = {"failed": error.termination.value, "message": str(error)}
        except ValueError as error:
            reply = {"refused": str(error)}
        except Exception as error:
            reply = {"failed": Termination.MODEL_UNAVAILABLE.value, "message": f"{type(error).__name__}: {error}"}
        with contextlib.suppress(ConnectionError):
            writer.write(frames.encode({"id": number, **reply}))
            await writer.drain()

    async def _do(self, request: dict[str, Any]) -> dict[str, Any]:
        if request["do"] == "generate":
            settings = request["params"]
            params = SamplingParams(**{**settings, "stop_token_ids": tuple(settings["stop_token_ids"])})
            generation = await self._generate(request["prompt_ids"], params, session=request["session"])
            return {
                "token_ids": list(generation.token_ids),
                "logprobs": list(generation.logprobs),
                "weight_versions": list(generation.weight_versions),
                "finish_reason": generation.finish_reason,
                "cached_tokens": generation.cached_tokens,
                "routing": None if generation.routing is None else frames.routing_out(generation.routing),
            }
        if request["do"] == "identity":
            served = await self._engine.identity()
            return {"version": served.version, "fingerprint": served.fingerprint}
        if request["do"] == "abort":
            return {"aborted": await self._engine.abort_all()}
        raise ValueError(f"unknown request {request['do']!r}")

    async def load_weights(self, state: dict[str, Any], *, version: int) -> str:
        """Take new weights (name -> tensor) as ``version``; returns the fingerprint of what this replica now serves."""
        return await self._engine.update_weights(state, version=version)

    async def open_gate(self) -> None:
        self._rejecting = False
        self._gate.set()

    async def close_gate(self, *, reject: bool = False) -> None:
        """Hold (or refuse) new requests and abort the running ones."""
        self._rejecting = reject
        self._gate.clear()
        await self._engine.abort_all()

    async def status(self) -> dict[str, Any]:
        served = await self._engine.identity()
        return {
            "version": served.version,
            "fingerprint": served.fingerprint,
            "open": self._gate.is_set(),
            "pid": os.getpid(),
        }

    # Control calls of verl's replica, by verl's names. Weights and KV cache live in the same memory here: giving one of
    # them up alone
    # has no meaning on CPU, and the engine drops every cached prefix when weights change.

    async def sleep(self) -> None:
        await self.close_gate()

    async def wake_up(self, tags: Any = None) -> None:
        await self.open_gate()

    async def abort_all_requests(self, reject_request: bool = False) -> None:
        await self.close_gate(reject=reject_request)

    async def resume_generation(self) -> None:
        await self.open_gate()

    async def clear_kv_cache(self) -> None:
        return None

    async def release_kv_cache(self) -> None:
        return None

    async def resume_kv_cache(self) -> None:
        return None

    async def set_global_steps(self, global_steps: int) -> None:
        return None

    async def start_profile(self, **_ignored: Any) -> None:
        return None

    async def stop_profile(self) -> None:
        return None


def _forget(running: dict[int, asyncio.Task[None]], number: int, _: asyncio.Task[None]) -> None:
    running.pop(number, None)
