"""The ``Engine`` for small models on CPU: continuous batching on a thread of its own, weights replaced between steps.

Knows neither HTTP nor verl; it serves tests, evaluation and, inside one process each, verl's CPU rollout replicas.
torch runs on one thread (more threads spin against the rest of the machine), and an idle engine sleeps on a condition.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from runtime.errors import Termination, TrialError
from runtime.laptop.engine.slots import Request, SlotBatch
from runtime.laptop.engine.weights import Weights
from runtime.rollouter.engine import Generation, SamplingParams, WeightIdentity
from runtime.rollouter.fingerprint import fingerprint

Result = TypeVar("Result")


class TorchEngine:
    """A replica in this process. ``generate`` may be called from any event loop; all other calls too.

    ``model``: a Hugging Face folder (Qwen2, Qwen3 and its mixtures, Llama) or loaded ``Weights``.
    ``slots``: sequences decoded at once; more calls wait in order. ``max_len``: tokens of prompt plus reply, at most
    the model's positions. ``kept``: further cache slots for sessions between two turns (None: as many as ``slots``).
    ``prefill_tokens``: most prompt tokens computed in one step. ``seed`` feeds requests that bring none. ``routed``:
    replies of a mixture say which experts were chosen (``Generation.routing``). Raises ``UserError`` when the model
    cannot be served.

    Generations in flight at a weight update go on under the new weights: their keys and values are recomputed, and
    ``Generation.weight_versions`` shows the switch. Call ``abort_all`` first where a reply must come from one version
    alone.
    """

    def __init__(
        self,
        model: Path | Weights,
        *,
        slots: int = 32,
        max_len: int = 1024,
        kept: int | None = None,
        prefill_tokens: int = 2048,
        seed: int = 0,
        version: int = 0,
        routed: bool = False,
    ) -> None:
        weights = model if isinstance(model, Weights) else Weights.load(model)
        if slots < 1 or not 2 <= max_len <= weights.architecture.max_position:
            limit = weights.architecture.max_position
            raise ValueError(f"slots {slots}, max_len {max_len}: slots >= 1 and 2 <= max_len <= {limit} are needed")
        self._batch = SlotBatch(
            weights,
            version=version,
            slots=slots,
            max_len=max_len,
            kept=slots if kept is None else kept,
            prefill_tokens=prefill_tokens,
            seed=seed,
            routed=routed,
        )
        self._identity = WeightIdentity(version, fingerprint(weights.named_tensors()))
        self._changed = threading.Condition()
        self._commands: deque[Callable[[], None]] = deque()
        self._paused = False
        self._closed = False
        self._death: TrialError | None = None
        self._thread = threading.Thread(target=self._run, name="torch-engine", daemon=True)
        self._thread.start()

    @property
    def weight_version(self) -> int:
        return self._identity.version

    @property
    def in_flight(self) -> int:
        """Calls admitted or waiting."""
        return self._batch.in_flight

    def fingerprint(self) -> str:
        """Fingerprint of the tensors that are being served."""
        return self._identity.fingerprint

    def stats(self) -> dict[str, int]:
        """Running totals: steps, computed_tokens, sampled_tokens, prompt_tokens, reused_tokens."""
        return asdict(self._batch.counters)

    async def identity(self) -> WeightIdentity:
        self._check_alive()
        return self._identity

    async def generate(self, prompt_ids: Sequence[int], params: SamplingParams, *, session: str) -> Generation:
        """See ``Engine.generate``. Raises ``ValueError`` on ids outside the vocabulary or senseless parameters,
        ``TrialError(OVERLONG)`` when the prompt fills ``max_len``. Cancelling the call frees its slot."""
        done: Future[Generation] = Future()
        request = self._batch.make_request(prompt_ids, params, session=session, on_done=lambda end: _settle(done, end))
        self._enqueue(lambda: self._batch.submit(request), on_death=lambda error: _settle(done, error))
        try:
            return await asyncio.wrap_future(done)
        except asyncio.CancelledError:
            self._abandon(request)
            raise

    async def update_weights(self, state: Mapping[str, Tensor], *, version: int) -> str:
        """Copy ``state`` (any float type), then switch between two steps. See ``LocalReplica.update_weights``."""
        weights = Weights.pack(self._batch.weights.architecture, state)
        identity = WeightIdentity(version, fingerprint(weights.named_tensors()))

        def switch() -> str:
            self._batch.set_weights(weights, version=version)
            self._identity = identity
            return identity.fingerprint

        return await self._call(switch)

    async def abort_all(self) -> int:
        return await self._call(self._batch.abort)

    async def pause(self) -> None:
        """Returns when no step is running; calls are still accepted and wait. Updates and aborts work while paused."""
        await self._call(lambda: setattr(self, "_paused", True))

    async def resume(self) -> None:
        await self._call(lambda: setattr(self, "_paused", False))

    async def close(self) -> None:
        """End everything in flight with ``TrialError(MODEL_UNAVAILABLE)`` and stop the thread. Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        await asyncio.to_thread(self._thread.join)

    def _check_alive(self) -> None:
        if self._death is not None:
            raise TrialError(self._death.termination, str(self._death))

    def _enqueue(self, command: Callable[[], None], *, on_death: Callable[[TrialError], None]) -> None:
        with self._changed:
            if self._death is None and not self._closed:
                self._commands.append(command)
                self._changed.notify()
                return
        on_death(self._death or TrialError(Termination.MODEL_UNAVAILABLE, "the engine is closed"))

    async def _call(self, function: Callable[[], Result]) -> Result:
        """Run ``function`` on the engine's thread between two steps."""
        done: Future[Result] = Future()

        def command() -> None:
            try:
                done.set_result(function())
            except Exception as error:
                done.set_exception(error)

        self._enqueue(command, on_death=done.set_exception)
        # Shielded: a command that was sent takes effect, whether or not its caller still waits.
        return await asyncio.shield(asyncio.wrap_future(done))

    def _abandon(self, request: Request) -> None:
        self._enqueue(lambda: _ignore(self._batch.abort([request])), on_death=_ignore)

    def _run(self) -> None:
        torch.set_num_threads(1)
        death = TrialError(Termination.MODEL_UNAVAILABLE, "the engine is closed")
        try:
            with torch.inference_mode():
                self._loop()
        except Exception as error:
            death = TrialError(Termination.MODEL_UNAVAILABLE, f"the engine died: {type(error).__name__}: {error}")
        with self._changed:
            self._death = death
            commands = list(self._commands)
            self._commands.clear()
        # Late commands run once more, so that their callers hear of the end.
        for command in commands:
            command()
        self._batch.fail(death)

    def _loop(self) -> None:
        while True:
            with self._changed:
                while not (self._closed or self._commands or (self._batch.busy and not self._paused)):
                    self._changed.wait()
                if self._closed:
                    return
                commands = list(self._commands)
                self._commands.clear()
            for command in commands:
                command()
            if not self._paused:
                self._batch.step()


def _settle(done: Future[Generation], end: Generation | TrialError) -> None:
    if not done.set_running_or_notify_cancel():
        return
    if isinstance(end, TrialError):
        done.set_exception(end)
    else:
        done.set_result(end)


def _ignore(_: Any) -> None:
    return None
