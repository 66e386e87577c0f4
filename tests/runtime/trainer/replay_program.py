"""verl's FSDP engine in a process of its own, as a worker of verl makes it from its settings: a rollout's tokens before
and after an update, with the experts of the rollout and without. The last line that it prints is one JSON object."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import orjson
import torch
import transfer_queue  # noqa: F401  (before verl, which warns of it)
from verl.trainer.config import CheckpointConfig
from verl.utils import tensordict_utils as tu
from verl.workers.config import (
    EngineRouterReplayConfig,
    FSDPEngineConfig,
    FSDPOptimizerConfig,
    HFModelConfig,
)
from verl.workers.engine.base import EngineRegistry

from runtime.laptop.engine.torch_engine import TorchEngine
from runtime.proxy.types import Sample
from runtime.rollouter.engine import SamplingParams
from runtime.trainer.publish import as_tensordict, trajectories
from tests.runtime.agent_loop.conftest import make_key
from tests.runtime.agent_loop.test_step_metrics import trial

PROMPTS, REPLY = 8, 60


async def rollout(folder: Path) -> list[Sample]:
    engine = TorchEngine(folder, slots=4, max_len=256, routed=True, seed=1)
    samples = []
    for number in range(PROMPTS):
        # Not token 0, of padding: its embedding is zero, and the norms make something of any nothing.
        prompt = [10 + (7 * number + place) % 1400 for place in range(3 + 5 * number)]
        params = SamplingParams(max_tokens=REPLY - 4 * number)
        reply = await engine.generate(prompt, params, session=str(number))
        assert reply.routing is not None
        count = len(reply.token_ids)
        routing = reply.routing
        rows = routing.rows + bytes(routing.row_bytes)
        samples.append(
            Sample(
                prompt,
                list(reply.token_ids),
                [1] * count,
                list(reply.logprobs),
                [0] * count,
                type(routing)(0, rows, routing.shape, routing.item_bytes),
            )
        )
    await engine.close()
    return samples


def make(folder: Path, attention: str) -> Any:
    """As ``verl.workers.engine_workers`` makes it."""
    model = HFModelConfig(
        path=str(folder),
        external_lib="runtime.trainer.replay_engine",
        override_config={"attn_implementation": attention},
        use_remove_padding=attention != "sdpa",
        enable_gradient_checkpointing=True,
    )
    full = {"param_dtype": "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"}
    settings = FSDPEngineConfig(
        strategy="fsdp2",
        use_torch_compile=False,
        mixed_precision=full,
        router_replay=EngineRouterReplayConfig(mode="R3"),
    )
    optimizer = FSDPOptimizerConfig(lr=float(sys.argv[2]), clip_grad=1.0, total_training_steps=10)
    engine = EngineRegistry.new("language_model", "fsdp2", model, settings, optimizer, CheckpointConfig())
    engine.initialize()
    return engine


def measured(engine: Any, batch: Any, *, replay: bool) -> float:
    """Correlation of the engine's log-probabilities with the rollout's, over sampled tokens."""
    replayed = engine._replayed
    if not replay:
        replayed.arm(None)
        engine._replayed = None
    with engine.eval_mode():
        found = engine.infer_batch(batch)["model_output"]["log_probs"].unbind()
    engine._replayed = replayed
    counts = [len(one) for one in batch["responses"].unbind()]
    # Verl's stand one place before the token they are of.
    ours = torch.cat([one[-count - 1 : -1] for one, count in zip(found, counts, strict=True)])
    theirs = torch.cat(list(batch["rollout_log_probs"].unbind()))
    return float(torch.corrcoef(torch.stack([ours, theirs]))[0, 1])


def loss(model_output: Any, data: Any, dp_group: Any) -> Any:
    del data, dp_group
    return model_output["log_probs"].values().mean(), {}


def main() -> None:
    folder = Path(sys.argv[1])
    store = folder / "store"
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    samples = asyncio.run(rollout(folder))
    figures = {}
    for attention in ("sdpa", "liverl_varlen"):
        batch = as_tensordict(
            trajectories({"uid": "u", "global_steps": 1}, [trial(1.0, key=make_key(), samples=tuple(samples))]).fields
        )
        settings = {
            "use_dynamic_bsz": False,
            "micro_batch_size_per_gpu": 4,
            "temperature": 1.0,
            "use_remove_padding": attention != "sdpa",
            "use_fused_kernels": False,
            "calculate_entropy": False,
            "global_batch_size": PROMPTS,
        }
        tu.assign_non_tensor(batch, **settings)
        engine = make(folder, attention)
        figures[attention] = {"before": [measured(engine, batch, replay=replay) for replay in (True, False)]}
        with engine.train_mode():
            engine.train_batch(batch, loss)
        figures[attention]["after"] = [measured(engine, batch, replay=replay) for replay in (True, False)]
    print(orjson.dumps(figures).decode())


if __name__ == "__main__":
    main()
