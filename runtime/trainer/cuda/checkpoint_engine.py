"""verl's checkpoint engine ``liverl_nccl``: weights pass from the trainer's GPUs to those of the rollouts, with the
fingerprint that the trainer itself worked out.

Needed by trainer mode ``separate_async``. verl's own engine ``nccl`` is not used: it needs CuPy, sends full precision,
and what it delivers can only be compared with itself. Upstream: ``verl/checkpoint_engine/base.py``, 0.9.1;
``torch.distributed`` (its backends, used without the group of the process, which is another one).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from functools import cached_property
from typing import Any

import msgspec
import ray
import torch
import yaml
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]
from verl.checkpoint_engine import CheckpointEngine, CheckpointEngineRegistry
from verl.checkpoint_engine.base import TensorMeta, merge_weight_chunks, split_weight_chunks
from verl.utils.torch_dtypes import PrecisionType
from verl.workers.rollout.utils import ensure_async_iterator

from runtime.rollouter.fingerprint import combined
from runtime.run_paths import RunPaths
from runtime.trainer.cuda.arriving import Arriving
from runtime.trainer.cuda.sent import Sent

_BUCKET_BYTES = 256 << 20
"""One broadcast: long enough for a link's full rate, and two of them fit beside every model."""
_ALIGNED = 16
"""Where a piece begins, so that it can be read as numbers of any type."""
_PATIENCE = timedelta(minutes=10)
_Weights = Iterator[tuple[str, torch.Tensor]] | AsyncIterator[tuple[str, torch.Tensor]]


class _Piece(msgspec.Struct):
    """Bytes of a tensor: from ``begin`` on, ``at`` in the bucket."""

    name: str
    shape: list[int]
    dtype: str
    begin: int
    size: int
    at: int


class _Bucket(msgspec.Struct):
    """What is said of one broadcast before it. The last has no pieces and says the fingerprint of all."""

    pieces: list[_Piece]
    fingerprint: str | None = None


_BUCKET = msgspec.json.Decoder(_Bucket)


@CheckpointEngineRegistry.register("liverl_nccl")
class TorchCheckpointEngine(CheckpointEngine):  # type: ignore[misc]
    """One sender, the trainer's first rank, and every rank of the rollouts. The group is made once."""

    device = "cuda"

    def __init__(self, bucket_size: int = _BUCKET_BYTES, is_master: bool = False, **_ignored: Any) -> None:
        self._is_master = is_master
        self._bytes = min(bucket_size, _BUCKET_BYTES)
        self._store: Any = None
        self._group: Any = None
        self._rank = -1
        self._sync = 0

    def prepare(self) -> dict[str, Any]:
        """Where the ranks meet, from the one that waits there."""
        if not self._is_master:
            return {}
        if self._store is None:
            host = self._host()
            self._store = TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=_PATIENCE)
            self._place = {"host": host, "port": self._store.port}
        return self._place

    def _host(self) -> str:
        return str(ray.util.get_node_ip_address()).strip("[]")

    @classmethod
    def build_topology(
        cls, actor_wg_world_size: int, rollout_world_size: int, metadata: list[dict[str, Any]]
    ) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
        size = 1 + rollout_world_size
        senders: dict[str, list[Any]] = {
            "rank": [0] + [-1] * (actor_wg_world_size - 1),
            "size": [size] * actor_wg_world_size,
        }
        receivers: dict[str, list[Any]] = {"rank": list(range(1, size)), "size": [size] * rollout_world_size}
        for side in (senders, receivers):
            side["place"] = [metadata[0]] * len(side["rank"])
        return senders, receivers

    def init_process_group(self, rank: int, size: int, place: dict[str, Any]) -> None:
        """Waits for all ranks. A rank of the trainer that sends nothing has rank -1."""
        if self._group is not None or rank < 0:
            return
        self._rank = rank
        if self._store is None:
            self._store = TCPStore(place["host"], place["port"], is_master=False, timeout=_PATIENCE)
        self._group = self._backend(PrefixStore("group", self._store), rank, size)
        self._broadcast(torch.zeros(1, dtype=torch.uint8, device=self.device)).wait()

    def _backend(self, store: Any, rank: int, size: int) -> Any:
        from torch.distributed import ProcessGroupNCCL

        return ProcessGroupNCCL(store, rank, size, ProcessGroupNCCL.Options())

    def finalize(self) -> None:
        """The group is kept for the next version."""

    @torch.no_grad()
    async def send_weights(self, weights: _Weights, global_steps: int | None = None) -> dict[str, Any]:
        if self._rank < 0:  # making each full tensor takes all ranks of the trainer
            async for _ in ensure_async_iterator(weights):
                pass
            return {}
        sent = self._sent()
        buffers = [torch.empty(self._bytes, dtype=torch.uint8, device=self.device) for _ in range(2)]
        running: list[Any] = [None, None]
        number, used, pieces = 0, 0, list[_Piece]()

        def send() -> None:
            nonlocal number, used, pieces
            self._say(number, _Bucket(pieces))
            running[number % 2] = self._broadcast(buffers[number % 2][:used])
            number, used, pieces = number + 1, 0, []
            if (earlier := running[number % 2]) is not None:
                earlier.wait()  # before that buffer is written again

        passing = sent.passing(ensure_async_iterator(weights), compare=True)
        async for meta, chunk in split_weight_chunks(_contiguous(passing), self._bytes):
            at = -(-used // _ALIGNED) * _ALIGNED
            if at + meta.chunk_size > self._bytes:
                send()
                at = 0
            used = at + meta.chunk_size
            buffers[number % 2][at:used].copy_(chunk, non_blocking=True)
            dtype = str(meta.dtype).removeprefix("torch.")
            pieces.append(_Piece(meta.name, list(meta.shape), dtype, meta.chunk_offset, meta.chunk_size, at))
        if pieces:
            send()
        for work in running:
            if work is not None:
                work.wait()
        self._say(number, _Bucket([], combined([sent.fingerprint.value()])))
        self._sync += 1
        return {}

    def receive_weights(self, global_steps: int | None = None) -> Arriving:
        return Arriving(self._receive)

    async def _receive(self, arriving: Arriving) -> AsyncIterator[tuple[str, torch.Tensor]]:
        async def chunks() -> AsyncIterator[tuple[TensorMeta, torch.Tensor]]:
            buffer = torch.empty(self._bytes, dtype=torch.uint8, device=self.device)
            number = 0
            while True:
                said = await asyncio.to_thread(self._heard, number)
                if not said.pieces:
                    arriving.fingerprint = said.fingerprint
                    self._sync += 1
                    return
                used = said.pieces[-1].at + said.pieces[-1].size
                self._broadcast(buffer[:used]).wait()
                for piece in said.pieces:
                    shape, dtype = torch.Size(piece.shape), getattr(torch, piece.dtype)
                    meta = TensorMeta(piece.name, shape, dtype, piece.begin, piece.size, piece.at)
                    yield meta, buffer[piece.at : piece.at + piece.size]
                number += 1

        async for name, tensor in merge_weight_chunks(chunks(), self._bytes):
            yield name, tensor

    def _broadcast(self, tensor: torch.Tensor) -> Any:
        return self._group.broadcast(tensor, 0)

    def _say(self, number: int, bucket: _Bucket) -> None:
        self._store.set(f"{self._sync}/{number}", msgspec.json.encode(bucket))

    def _heard(self, number: int) -> _Bucket:
        return _BUCKET.decode(bytes(self._store.get(f"{self._sync}/{number}")))

    def _sent(self) -> Sent:
        """As the adapter next to the engine would send them on."""
        dtype, tied = self._form
        return Sent(dtype, tied=tied)

    @cached_property
    def _form(self) -> tuple[torch.dtype, bool]:
        """What the engine computes in, and whether its last matrix is its first."""
        from transformers import AutoConfig

        paths = RunPaths.of_process()
        rollout = yaml.safe_load(paths.verl_yaml.read_text(encoding="utf-8"))["actor_rollout_ref"]["rollout"]
        config = AutoConfig.from_pretrained(paths.policy)
        return PrecisionType.to_dtype(rollout["dtype"]), bool(config.tie_word_embeddings)


async def _contiguous(
    weights: AsyncIterator[tuple[str, torch.Tensor]],
) -> AsyncIterator[tuple[str, torch.Tensor]]:
    async for name, tensor in weights:
        yield name, tensor.contiguous()
