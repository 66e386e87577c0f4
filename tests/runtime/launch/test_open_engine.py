"""A spec for vLLM is scored by vLLM, on GPUs that nobody uses, and never by the engine for CPUs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from compiler import compile_in_memory
from runtime.config import load_runtime_config
from runtime.launch.rundir import create
from runtime.launch.score import open_engine
from runtime.rollouter.engine import SamplingParams
from runtime.trainer.cuda.cards import Card
from tests.compiler.golden_cases import spec_path
from tests.runtime.proxy.fake_vllm import FakeVLLM


def test_a_spec_for_vllm_is_scored_by_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = create(tmp_path / "runs", experiment="e", target="local")
    directory.bundle.mkdir()
    for name in ("verl.yaml", "vllm.yaml", "runtime.json"):
        text = compile_in_memory(spec_path("dense-8gpu"), target="local").files[name]
        (directory.bundle / name).write_text(text)
    asked: dict[str, Any] = {}

    @asynccontextmanager
    async def servers(settings: Path, model: Path, **given: Any) -> AsyncIterator[list[str]]:
        asked.update(given, settings=settings, model=model)
        async with FakeVLLM(lambda prompt: [7, 8], generate=True).serve() as url:
            yield [url]

    cards = [Card(str(number), "A", 80.0, 1.0 if number == 3 else 80.0) for number in range(9)]
    monkeypatch.setattr("runtime.rollouter.vllm_servers.vllm_servers", servers)
    monkeypatch.setattr("runtime.trainer.cuda.cards.visible", lambda: cards)
    monkeypatch.setattr("runtime.rollouter.make.make_engine", lambda *_, **__: pytest.fail("the engine for CPUs"))

    async def main() -> None:
        config = load_runtime_config(directory.runtime_json)
        async with open_engine(directory, config, tmp_path / "model") as engine:
            found = await engine.generate([1, 2], SamplingParams(max_tokens=2), session="s")
            assert list(found.token_ids) == [7, 8]

    asyncio.run(main())
    assert asked["settings"] == directory.bundle / "vllm.yaml" and asked["model"] == tmp_path / "model"
    assert (asked["replicas"], asked["gpus_per_replica"]) == (4, 2)
    assert asked["environment"]["CUDA_VISIBLE_DEVICES"] == "0,1,2,4,5,6,7,8", "the fourth is somebody's"
    assert asked["environment"]["HF_HUB_OFFLINE"] == "1"
