"""An engine that gives every reply at once, for what measures all but the model: ``rollout.import_path`` leads here."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runtime.proxy.codec import load_codec
from runtime.rollouter.engine import Generation, SamplingParams, WeightIdentity


class ScriptedEngine:
    """``text``: every reply, after ``wait_sec``."""

    def __init__(self, folder: Path, *, text: str, wait_sec: float, **_settings: Any) -> None:
        codec = load_codec(folder, "hermes")
        self._ids = [*codec.tokens.encode(text), codec.stop_token_ids[0]]
        self._wait_sec = wait_sec

    async def generate(self, prompt_ids: Sequence[int], params: SamplingParams, *, session: str) -> Generation:
        await asyncio.sleep(self._wait_sec)
        return Generation(list(self._ids), [-0.5] * len(self._ids), [0] * len(self._ids), "stop")

    async def identity(self) -> WeightIdentity:
        return WeightIdentity(0, "scripted")

    async def abort_all(self) -> int:
        return 0

    async def update_weights(self, state: Any, *, version: int) -> str:
        return "scripted"

    async def close(self) -> None: ...
