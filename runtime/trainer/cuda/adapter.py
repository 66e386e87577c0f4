"""The way of new weights into vLLM, on top of verl's: what the servers hold afterwards is compared with what was sent.

Upstream: ``verl/workers/rollout/vllm_rollout/vllm_rollout.py`` (``ServerAdapter``), 0.9.1.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import torch
from verl.utils.torch_dtypes import PrecisionType
from verl.workers.rollout.utils import ensure_async_iterator
from verl.workers.rollout.vllm_rollout.vllm_rollout import ServerAdapter

from runtime.rollouter.fingerprint import combined
from runtime.run_paths import RunPaths
from runtime.trainer.cuda.arriving import Arriving
from runtime.trainer.cuda.places import in_run
from runtime.trainer.cuda.sent import Sent
from runtime.trainer.rows import RowWriter
from runtime.trainer.sessions import WeightNews
from runtime.trainer.startup import reached
from runtime.trainer.trained import keep_trained

_Weights = Iterator[tuple[str, torch.Tensor]] | AsyncIterator[tuple[str, torch.Tensor]] | Arriving


class WeightMismatch(RuntimeError):
    """A replica serves other weights than the trainer sent: going on would train on a policy nobody has."""


class VllmServerAdapter(ServerAdapter):  # type: ignore[misc]
    """Next to the trainer, or to an engine with GPUs of its own, one per rank; that of a replica's first rank speaks to
    its server."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        reached("the trainer's model")
        self.zmq_handle: str = in_run(self.zmq_handle)
        self._version = 0
        self._news = WeightNews()
        self._base = 0
        self._rows = (
            RowWriter(RunPaths.of_process().rows_file("weights"))
            if self.replica_rank == self.rollout_rank == 0
            else None
        )

    async def update_weights(
        self,
        weights: _Weights,
        global_steps: int | None = None,
        wire_format: str = "named_tensors",
        **keywords: Any,
    ) -> None:
        """Bring version ``global_steps`` to the server, which answers no call before it is known to hold it. Raises
        ``WeightMismatch`` when it then holds something else. Where adapters are trained, verl sends the base once, then
        the adapter alone; compared is always the policy that both make."""
        if wire_format != "named_tensors":
            raise ValueError(f"the GPU adapter takes named tensors, not {wire_format}: they could not be compared")
        began = time.monotonic()
        self._news.next()
        self._version = self._version if global_steps is None else global_steps
        sent = Sent(
            PrecisionType.to_dtype(self.config.dtype),
            tied=self.model_config.hf_config.tie_word_embeddings,
            adapter=(keywords.get("peft_config") or None) if keywords.get("base_sync_done") else None,
        )
        speaks = self._ensure_server_handle()
        if speaks:
            await self.server_handle.begin_weights.remote()
        told = isinstance(weights, Arriving)  # by the trainer itself, what they must be
        passing = sent.passing(ensure_async_iterator(weights), compare=speaks and not told)
        await super().update_weights(passing, global_steps=global_steps, wire_format=wire_format, **keywords)
        if not speaks:
            return
        arrived = time.monotonic()
        if isinstance(weights, Arriving):
            wanted = weights.fingerprint
        elif keywords.get("peft_config") and not sent.is_adapter:
            self._base = sent.fingerprint.value()
            return  # half a policy: no call is answered before the adapter has come
        else:
            wanted = combined([self._base if sent.is_adapter else 0, sent.fingerprint.value()])
        same, served = await self.server_handle.settle_weights.remote(
            self._version, sent=wanted, adapter=sent.is_adapter
        )
        if not same:
            raise WeightMismatch(
                f"weight version {self._version}: replica {self.replica_rank} serves {served}, not the trainer's "
                f"{wanted}"
            )
        if served is not None:
            self._news.settled(self._version, served)
        if self._rows is not None and global_steps is not None:
            self._rows.write(
                global_steps,
                {
                    "weights/version": global_steps,
                    "weights/replicas_verified": 1,
                    "weights/sync_s": arrived - began,
                    "weights/verify_s": time.monotonic() - arrived,
                    "weights/gb": sent.bytes / 1e9,
                    "weights/gb_per_s": sent.bytes / 1e9 / (arrived - began),
                    "weights/fingerprint": wanted,
                },
            )
            await keep_trained(global_steps)
