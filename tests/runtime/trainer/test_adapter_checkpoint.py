"""Adapters of several ranks become whole again; and nothing else is touched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.models import adapters
from runtime.run_paths import RUN_DIR
from runtime.trainer.adapter_checkpoint import complete

pytestmark = pytest.mark.torch

NAMES = [f"base_model.model.model.layers.0.self_attn.q_proj.lora_{one}.default.weight" for one in "AB"]


@pytest.fixture
def actor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What verl leaves of two ranks that share every tensor by its rows, in a mesh that repeats them twice."""
    import torch
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor, Replicate, Shard
    from torch.testing._internal.distributed.fake_pg import FakeStore

    run = tmp_path / "run"
    folder = run / "checkpoints" / "global_step_1" / "actor"
    (folder / "huggingface").mkdir(parents=True)
    (run / "bundle").mkdir()
    (run / "policy").mkdir()
    (run / "policy" / "model.safetensors").write_bytes(b"weights")
    golden = Path(__file__).parents[3] / "golden" / "quickstart" / "runtime.json"
    (run / "bundle" / "runtime.json").write_bytes(golden.read_bytes())
    monkeypatch.setenv(RUN_DIR, str(run))
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
    try:
        mesh = DeviceMesh("cpu", [[0, 1], [2, 3]], mesh_dim_names=("ddp", "fsdp"))
        for rank in range(4):
            rows = [torch.full((2, 3), 1.0 + rank % 2), torch.full((3, 2), 5.0 + rank % 2)]
            shares = {
                name: DTensor.from_local(part, mesh, [Replicate(), Shard(0)], run_check=False)
                for name, part in zip(NAMES, rows, strict=True)
            }
            torch.save(shares, folder / f"model_world_size_4_rank_{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()
    (folder / "fsdp_config.json").write_text(json.dumps({"FSDP_version": 2, "world_size": 4}))
    (folder / adapters.META).write_text(json.dumps({"r": 4, "lora_alpha": 6}))
    yield folder


def test_every_rank_has_its_rows(actor: Path) -> None:
    from safetensors.torch import load_file

    complete(actor)
    found = load_file(actor / "huggingface" / adapters.WEIGHTS)
    first, second = found[NAMES[0].replace(".default", "")], found[NAMES[1].replace(".default", "")]
    assert first.tolist() == [[1.0] * 3] * 2 + [[2.0] * 3] * 2
    assert second.tolist() == [[5.0] * 2] * 3 + [[6.0] * 2] * 3
    settings = json.loads((actor / "huggingface" / adapters.CONFIG).read_bytes())
    assert (settings["r"], settings["lora_alpha"], settings["target_modules"]) == (4, 6, ["q_proj"])
    assert adapters.base_of(actor / "huggingface")[0] == "the policy that run run began with"
    assert adapters.belongs(actor / "huggingface", actor.parents[2] / "policy")
    (actor.parents[2] / "policy" / "model.safetensors").write_bytes(b"weightz")
    assert not adapters.belongs(actor / "huggingface", actor.parents[2] / "policy")


def test_a_whole_model_is_left_alone(actor: Path) -> None:
    (actor / "huggingface" / "model.safetensors").write_bytes(b"")
    complete(actor)
    assert [path.name for path in (actor / "huggingface").iterdir()] == ["model.safetensors"]
