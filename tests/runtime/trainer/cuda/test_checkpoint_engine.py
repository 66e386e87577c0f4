"""Weights from a trainer to engines on other GPUs, with gloo in NCCL's place: everything arrives, and the trainer's own
fingerprint with it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from runtime import run_paths

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]  # verl's imports


def engines(*, receivers: int, bucket: int) -> list[Any]:
    """One sender and its receivers, each as if it were a process of its own."""
    from tests.runtime.trainer.cuda.gloo_engine import OverGloo

    return [OverGloo(bucket, is_master=rank == 0) for rank in range(1 + receivers)]


def meet(found: list[Any], pool: ThreadPoolExecutor) -> None:
    """What verl's manager does before each version."""
    places = [engine.prepare() for engine in found]
    sender, receivers = type(found[0]).build_topology(1, len(found) - 1, places)
    settings = [{name: values[0] for name, values in sender.items()}]
    settings += [{name: values[at] for name, values in receivers.items()} for at in range(len(found) - 1)]
    list(pool.map(lambda engine, keywords: engine.init_process_group(**keywords), found, settings))


def pass_on(found: list[Any], state: dict[str, Any], pool: ThreadPoolExecutor, *, version: int) -> list[Any]:
    """(tensors, the trainer's fingerprint) of every receiver."""

    async def receive(engine: Any) -> tuple[dict[str, Any], str]:
        arriving = engine.receive_weights(global_steps=version)
        tensors = {name: tensor.clone() async for name, tensor in arriving}
        return tensors, arriving.fingerprint

    sending = pool.submit(lambda: asyncio.run(found[0].send_weights(iter(state.items()), global_steps=version)))
    received = list(pool.map(lambda engine: asyncio.run(receive(engine)), found[1:]))
    sending.result(60)
    for engine in found:
        engine.finalize()
    return received


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The run directory of both sides: what its engines hold is said in its bundle and by its policy."""
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "verl.yaml").write_text("actor_rollout_ref: {rollout: {dtype: bfloat16}}")
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "config.json").write_text(json.dumps({"model_type": "qwen2", "tie_word_embeddings": True}))
    monkeypatch.setenv(run_paths.RUN_DIR, str(tmp_path))
    yield tmp_path


def test_every_version_arrives_whole_with_the_fingerprint_that_the_trainer_worked_out(run: Path) -> None:
    import torch

    from runtime.rollouter.fingerprint import RowFingerprint, combined

    found = engines(receivers=2, bucket=1024)
    with ThreadPoolExecutor(4) as pool:
        for version in (0, 1):  # the group is made once
            state = {
                "embed.weight": torch.randn(100, 33),  # of several buckets
                "norm.weight": torch.randn(3),  # stays in full precision, and lies behind an odd number of bytes
                "odd.weight": torch.randn(3, 5).bfloat16(),
                "scalar": torch.tensor(2.5),
                "across.weight": torch.randn(6, 8).T,
                "lm_head.weight": torch.randn(100, 33),  # the embedding's second name
            }
            meet(found, pool)
            for tensors, fingerprint in pass_on(found, state, pool, version=version):
                assert set(tensors) == set(state) - {"lm_head.weight"}
                held = RowFingerprint(torch.bfloat16)
                for name, tensor in tensors.items():
                    wanted = state[name].bfloat16() if state[name].dim() > 1 else state[name]
                    assert tensor.dtype is wanted.dtype and torch.equal(tensor, wanted), name
                    held.add(tensor)
                assert fingerprint == combined([held.value()])


def test_what_is_lost_on_the_way_shows_in_the_trainers_fingerprint(run: Path) -> None:
    """The link is not asked whether it delivered: what arrives is compared with what the trainer has."""
    import torch

    from runtime.rollouter.fingerprint import RowFingerprint, combined

    found = engines(receivers=1, bucket=1 << 20)
    sender = found[0]
    whole = sender._broadcast
    with ThreadPoolExecutor(4) as pool:
        meet(found, pool)
        sender._broadcast = lambda tensor: whole(torch.cat([tensor[:-2], torch.ones(2, dtype=torch.uint8)]))
        ((tensors, fingerprint),) = pass_on(found, {"a.weight": torch.randn(4, 4)}, pool, version=3)
    held = RowFingerprint(torch.bfloat16)
    held.add(tensors["a.weight"])
    assert fingerprint != combined([held.value()])


def test_ranks_of_the_trainer_that_send_nothing_make_their_share_of_the_tensors(run: Path) -> None:
    import torch

    (engine,) = engines(receivers=0, bucket=1024)
    sender, receivers = type(engine).build_topology(3, 2, [{"host": "h", "port": 1}, {}, {}, {}, {}])
    assert sender["rank"] == [0, -1, -1] and receivers["rank"] == [1, 2]
    assert {*sender["size"], *receivers["size"]} == {3}
    second = engines(receivers=1, bucket=1024)[1]
    second.init_process_group(-1, 3, {"host": "h", "port": 1})
    made = []

    def tensors() -> Iterator[tuple[str, Any]]:
        for name in ("a", "b"):
            made.append(name)
            yield name, torch.zeros(2)

    asyncio.run(second.send_weights(tensors()))
    assert made == ["a", "b"]
