"""The experts that the CPU engine's mixtures choose, against transformers' routers: whatever is cached, shared, aborted
or updated."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.rollouter.engine import SamplingParams
from tests.runtime.laptop.engine.test_torch_engine import engine_of, prompts, run

pytestmark = pytest.mark.torch


def experts_of(model: Any, ids: list[int]) -> Any:
    """What each layer of transformers' model chooses for each token: [tokens, layers, K], by expert."""
    import torch

    found: list[Any] = []
    hooks = [
        layer.mlp.gate.register_forward_hook(lambda *args: found.append(args[2][2])) for layer in model.model.layers
    ]
    model(torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    return torch.stack(found, 1).sort(-1).values


def told(routing: Any) -> Any:
    import numpy as np
    import torch

    rows = np.frombuffer(routing.rows, dtype=f"<u{routing.item_bytes}").reshape(-1, *routing.shape)
    return torch.from_numpy(rows.astype(np.int64)).sort(-1).values


@settings(deadline=None, max_examples=4)
@given(
    turns=st.lists(st.tuples(st.integers(1, 12), st.integers(1, 9)), min_size=2, max_size=4),
    members=st.integers(1, 5),
    slots=st.integers(1, 4),
    length=st.sampled_from([5, 40, 190]),
    delta=st.booleans(),
)
def test_every_fed_token_has_its_row(
    model_folder, turns: list[tuple[int, int]], members: int, slots: int, length: int, delta: bool
) -> None:
    """Members of a group share their prompt; their later turns begin alike or not. ``delta``: only new rows."""
    model, folder = model_folder("qwen3moe")
    prompt = (prompts(1, longest=length, seed=length)[0] * length)[:length]

    async def scenario(engine):
        async def trial(member: int):
            history, known, seen = list(prompt), 0, []
            for turn, (count, added) in enumerate(turns):
                params = SamplingParams(max_tokens=count, seed=member, routing_start=known if delta else 0)
                reply = await engine.generate(history, params, session=f"member-{member}")
                history += reply.token_ids
                assert (reply.routing.start, reply.routing.end) == (known if delta else 0, len(history) - 1)
                seen.append((list(history), reply.routing))
                known = len(history) - 1
                history += [(7 * member + turn + place) % 97 for place in range(added)]
            return seen

        return await asyncio.gather(*map(trial, range(members)))

    for seen in run(engine_of(folder, slots=slots, kept=1, routed=True, prefill_tokens=50), scenario):
        for history, routing in seen:
            wanted = experts_of(model, history)[routing.start : -1]
            assert (told(routing) == wanted).all()


def test_an_update_in_flight_keeps_the_rows_under_which_tokens_were_sampled(model_folder) -> None:
    import torch

    old, folder = model_folder("qwen3moe", seed=1)
    new, new_folder = model_folder("qwen3moe", seed=2)
    from runtime.laptop.engine.weights import Weights

    prompt = prompts(1, longest=90, seed=4)[0] * 2

    async def scenario(engine):
        calls = [
            asyncio.create_task(engine.generate(prompt, SamplingParams(max_tokens=60), session=str(n)))
            for n in range(3)
        ]
        while engine.stats()["sampled_tokens"] < 15:
            await asyncio.sleep(0.001)
        await engine.pause()
        await engine.update_weights(dict(Weights.load(new_folder).named_tensors()), version=7)
        await engine.update_weights(dict(Weights.load(new_folder).named_tensors()), version=8)
        half = asyncio.create_task(engine.generate(prompt, SamplingParams(max_tokens=4), session="late"))
        await engine.resume()
        replies = await asyncio.gather(*calls)
        return replies, await half

    replies, late = run(engine_of(folder, routed=True, slots=4), scenario)
    for reply in replies:
        ids = prompt + reply.token_ids
        # A token's row is that of the pass from which the token behind it was sampled.
        switch = len(prompt) + reply.weight_versions.index(8) - 1
        wanted = torch.cat([experts_of(old, ids)[:switch], experts_of(new, ids)[switch:-1]])
        assert (told(reply.routing) == wanted).all()
    # Nobody else's old rows, even where a prefix is taken over.
    assert (told(late.routing) == experts_of(new, prompt + late.token_ids)[:-1]).all()


def test_an_aborted_reply_has_the_rows_of_what_it_has(model_folder) -> None:
    model, folder = model_folder("qwen3moe")
    prompt = prompts(1, seed=9)[0]

    async def scenario(engine):
        calls = [
            asyncio.create_task(engine.generate(prompt, SamplingParams(max_tokens=100), session=str(n)))
            for n in range(3)
        ]
        while engine.stats()["sampled_tokens"] < 8:
            await asyncio.sleep(0.001)
        await engine.abort_all()
        return await asyncio.gather(*calls)

    replies = run(engine_of(folder, slots=1, routed=True), scenario)
    assert [bool(reply.token_ids) for reply in replies].count(True) == 1
    for reply in replies:
        if reply.token_ids:
            assert (told(reply.routing) == experts_of(model, prompt + reply.token_ids)[:-1]).all()
        else:
            assert reply.routing is None


def test_experts_are_told_on_demand_alone(model_folder) -> None:
    async def scenario(engine):
        return await engine.generate([1, 2], SamplingParams(max_tokens=3), session="a")

    for family, routed in (("qwen3moe", False), ("qwen3", True)):
        assert run(engine_of(model_folder(family)[1], routed=routed), scenario).routing is None
