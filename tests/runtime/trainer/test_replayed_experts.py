"""Replayed experts, in transformers' routers one by one and in a whole policy whose weights have moved."""

from __future__ import annotations

import asyncio
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from runtime.agent_loop.trial_bytes import from_bytes, to_bytes
from runtime.config import Proxy
from runtime.proxy.codec import load_codec
from runtime.proxy.server import ProxyServer
from runtime.proxy.types import Sample, SessionLimits
from tests.runtime.agent_loop.conftest import make_key
from tests.runtime.agent_loop.test_step_metrics import trial
from tests.runtime.proxy.driver import TOOL
from tests.runtime.proxy.tiny_model import MIXTURE, write_policy

# TransferQueue warns about its own imports.
pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]
MODULES = {
    "GptOssTopKRouter": "gpt_oss",
    "MixtralTopKRouter": "mixtral",
    "OlmoeTopKRouter": "olmoe",
    "Qwen2MoeTopKRouter": "qwen2_moe",
    "Qwen3MoeTopKRouter": "qwen3_moe",
    "Qwen3NextTopKRouter": "qwen3_next",
    "Qwen3VLMoeTextTopKRouter": "qwen3_vl_moe",
    "Qwen3_5MoeTopKRouter": "qwen3_5_moe",
}
SIZES = SimpleNamespace(num_experts=6, num_local_experts=6, num_experts_per_tok=2, hidden_size=8)


def stack(kind: str, *, normed: bool) -> Any:
    """A model of two layers that are nothing but routers."""
    import torch

    router = getattr(import_module(f"transformers.models.{MODULES[kind]}.modeling_{MODULES[kind]}"), kind)
    layers = []
    for _ in range(2):
        layer = torch.nn.Module()
        layer.gate = router(SimpleNamespace(**vars(SIZES), norm_topk_prob=normed))
        for parameter in layer.gate.parameters():
            torch.nn.init.normal_(parameter)
        layers.append(layer)
    model = torch.nn.Module()
    model.layers = torch.nn.ModuleList(layers)
    return model


@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize("kind", MODULES)
def test_a_router_weighs_replayed_experts_as_it_weighs_its_own(kind: str, normed: bool) -> None:
    import torch

    from runtime.trainer.replayed_experts import SOFTMAX_ROUTERS, ReplayedExperts

    assert MODULES.keys() == SOFTMAX_ROUTERS
    torch.manual_seed(0)
    model, tokens = stack(kind, normed=normed), torch.randn(5, SIZES.hidden_size)
    gate = model.layers[1].gate
    _, weights, own = gate(tokens)
    replayed = ReplayedExperts(model)
    # Its own choice, said again in another order, changes nothing but the order.
    rows = torch.stack([torch.zeros_like(own), own.flip(-1)], 1).to(torch.int16)
    replayed.arm(rows)
    logits, again, chosen = gate(tokens)
    assert torch.equal(chosen, own.flip(-1)) and torch.allclose(again, weights.flip(-1), atol=1e-6)
    # Any other choice gets weights that rise and fall with the scores of what was chosen.
    rows[:, 1] = torch.tensor([4, 1], dtype=torch.int16)
    rows[3, 1] = 0  # nobody's choice: an expert twice
    _, other, chosen = gate(tokens)
    assert chosen[0].tolist() == [4, 1] and torch.equal(chosen[3], own[3])
    given = [0, 1, 2, 4]
    assert torch.allclose(other[given, 0] / other[given, 1], (logits[given, 4] - logits[given, 1]).exp(), rtol=1e-4)
    assert torch.allclose(other[3], weights[3])
    other[0, 0].backward()
    assert gate.weight.grad[4].abs().sum() > 0, "no gradient reaches the router of an expert that was replayed"
    replayed.arm(None)
    assert torch.equal(gate(tokens)[2], own)
    with pytest.raises(ValueError, match="experts of 1 layers; the last router is in layer 1"):
        replayed.arm(rows[:, :1])
    replayed.arm(rows[:4])
    with pytest.raises(ValueError, match=r"experts of shape \(4, 2\) where layer 1 chooses \(5, 2\)"):
        gate(tokens)


def test_models_whose_experts_cannot_be_replayed_are_refused() -> None:
    import torch
    from transformers.models.minimax_m2.modeling_minimax_m2 import MiniMaxM2TopKRouter

    from runtime.trainer.replayed_experts import ReplayedExperts

    model = stack("Qwen3MoeTopKRouter", normed=True)
    model.layers[1].gate = MiniMaxM2TopKRouter(SIZES)
    with pytest.raises(ValueError, match="Module has routers MiniMaxM2TopKRouter; experts are replayed in GptOss"):
        ReplayedExperts(model)
    with pytest.raises(ValueError, match="Linear has no router"):
        ReplayedExperts(torch.nn.Linear(2, 2))


async def conversations(folder: Path) -> tuple[Sample, ...]:
    """Two agents on one session of the proxy, each with several turns, and one that goes back and takes another way;
    the policy is the CPU engine's."""
    from runtime.laptop.engine.torch_engine import TorchEngine

    engine = TorchEngine(folder, slots=4, max_len=1024, routed=True, seed=1)
    limits = SessionLimits(prompt_length=400, response_length=600, max_tokens_per_turn=40)
    server = ProxyServer(Proxy(), load_codec(folder, "compact"), engine)
    await server.start()
    session = server.open_session("task.1.0", limits)
    url = f"http://{server.host}:{server.port}{session.base_path}/v1/chat/completions"

    async def ask(client: aiohttp.ClientSession, history: list[Any]) -> Any:
        body = {"model": "policy", "messages": history, "tools": [TOOL]}
        async with client.post(url, json=body, headers={"x-api-key": session.secret}) as response:
            answer = await response.json()
            assert response.status == 200, answer
            return answer["choices"][0]["message"]

    async def agent(client: aiohttp.ClientSession, task: str) -> None:
        history: list[Any] = [{"role": "user", "content": task}]
        for turn in range(3):
            history += [await ask(client, history), {"role": "user", "content": f"go on {turn}"}]
        await ask(client, [*history[:2], {"role": "user", "content": "another way"}])

    try:
        async with aiohttp.ClientSession() as client:
            await asyncio.gather(*(agent(client, f"Repair number {number}") for number in range(2)))
        return (await server.close_session("task.1.0")).samples
    finally:
        await server.close()


def test_what_the_rollout_saw_comes_back_when_the_weights_have_moved(tmp_path: Path) -> None:
    """From the engine by proxy, forest, journal and verl's batch to a forward pass. Moved: by noise of a hundredth of
    each matrix's spread, as some updates make."""
    import torch
    from transformers import AutoModelForCausalLM

    from runtime.trainer.publish import as_tensordict, trajectories
    from runtime.trainer.replayed_experts import ReplayedExperts

    folder = write_policy(tmp_path, family="compact", kind="Qwen3Moe", **MIXTURE)
    samples = asyncio.run(conversations(folder))
    assert len(samples) == 4
    (result,) = (from_bytes(to_bytes(one)) for one in [trial(1.0, key=make_key(), samples=samples)])
    batch = as_tensordict(trajectories({"uid": "u", "global_steps": 1}, [result]).fields)

    model = AutoModelForCausalLM.from_pretrained(folder)
    replayed = ReplayedExperts(model)

    def correlation(*, replay: bool) -> float:
        ours, theirs = [], []
        for index in range(len(batch)):
            replayed.arm(batch["routed_experts"][index] if replay else None)
            ids, mask = batch["input_ids"][index], batch["response_mask"][index].bool()
            logprobs = model(ids[None]).logits[0, :-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0]
            ours.append(logprobs[-len(mask) :][mask])
            theirs.append(batch["rollout_log_probs"][index][mask])
        return float(torch.corrcoef(torch.stack([torch.cat(ours), torch.cat(theirs)]))[0, 1])

    with torch.no_grad():
        assert correlation(replay=True) > 0.99999 and correlation(replay=False) > 0.99999
        torch.manual_seed(2)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter += 0.01 * parameter.std() * torch.randn_like(parameter)
        with_replay, without = correlation(replay=True), correlation(replay=False)
    assert with_replay >= 0.99 and without < with_replay - 0.02, (with_replay, without)
