"""The CPU engine against transformers: exact log-probabilities whatever is cached, shared, aborted or updated."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from dataclasses import replace

import pytest

from runtime.errors import Termination, TrialError, UserError
from runtime.rollouter.engine import SamplingParams

pytestmark = pytest.mark.torch
TOLERANCE = 1e-5


def prompts(count: int, *, longest: int = 120, seed: int = 0) -> list[list[int]]:
    stream = random.Random(seed)
    return [[stream.randrange(97) for _ in range(stream.randint(1, longest))] for _ in range(count)]


def engine_of(folder, **settings):
    from runtime.laptop.engine.torch_engine import TorchEngine

    return TorchEngine(folder, **{"slots": 8, "max_len": 256} | settings)


def run(engine, scenario):
    """Run ``scenario(engine)`` and close the engine whatever happens."""

    async def whole():
        try:
            return await asyncio.wait_for(scenario(engine), 60)
        finally:
            await engine.close()

    return asyncio.run(whole())


def close_to(got, wanted) -> bool:
    return len(got) == len(wanted) and max(abs(a - b) for a, b in zip(got, wanted, strict=True)) <= TOLERANCE


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "qwen3moe", "llama"])
@pytest.mark.parametrize("tied", [True, False])
def test_logprobs_equal_a_full_forward(model_folder, full_logprobs, family: str, tied: bool) -> None:
    model, folder = model_folder(family, tied=tied)
    temperatures = [0.0, 1.0, 0.6]

    async def scenario(engine):
        calls = []
        for index, prompt in enumerate(prompts(24)):
            params = SamplingParams(max_tokens=1 + index, temperature=temperatures[index % 3], seed=index)
            calls.append(engine.generate(prompt, params, session=str(index)))
        return await asyncio.gather(*calls)

    replies = run(engine_of(folder, prefill_tokens=100), scenario)
    for index, (prompt, reply) in enumerate(zip(prompts(24), replies, strict=True)):
        assert len(reply.token_ids) == 1 + index
        assert reply.finish_reason == "length"
        assert reply.weight_versions == [0] * len(reply.token_ids)
        assert close_to(reply.logprobs, full_logprobs(model, prompt, reply.token_ids, temperatures[index % 3]))


def test_greedy_equals_transformers_generate(model_folder) -> None:
    import torch

    model, folder = model_folder("qwen3")
    prompt = prompts(1, longest=40)[0]
    wanted = model.generate(
        torch.tensor([prompt]), max_new_tokens=30, do_sample=False, eos_token_id=None, pad_token_id=0
    )

    async def scenario(engine):
        return await engine.generate(prompt, SamplingParams(max_tokens=30, temperature=0), session="a")

    assert run(engine_of(folder), scenario).token_ids == wanted[0, len(prompt) :].tolist()


@pytest.mark.parametrize("length", [60, 250])
def test_turns_reuse_their_session_and_groups_their_prompt(model_folder, full_logprobs, length: int) -> None:
    """The longer prompt is long enough to be read once for all members of the group in every step."""
    model, folder = model_folder()
    prompt = [random.Random(length).randrange(97) for _ in range(length)]
    params = SamplingParams(max_tokens=8)

    async def scenario(engine):
        async def trial(member: int):
            history, turns = list(prompt), []
            for turn in range(4):
                reply = await engine.generate(history, params, session=f"member-{member}")
                turns.append((list(history), reply))
                history += [*reply.token_ids, *prompts(1, longest=30, seed=10 * member + turn)[0]]
            return turns

        return await asyncio.gather(*map(trial, range(6))), engine.stats()

    trials, stats = run(engine_of(folder, max_len=512), scenario)
    for turns in trials:
        before = 0
        for turn, (history, reply) in enumerate(turns):
            assert close_to(reply.logprobs, full_logprobs(model, history, reply.token_ids))
            # The last token of a prompt and the last one sampled are always computed.
            assert turn == 0 or reply.cached_tokens >= before - 1
            before = len(history) + len(reply.token_ids)
    firsts = sorted(turns[0][1].cached_tokens for turns in trials)
    assert firsts == [0] + [len(prompt) - 1] * 5
    assert stats["computed_tokens"] < stats["prompt_tokens"] - stats["reused_tokens"] + stats["sampled_tokens"] + 1


def test_more_sessions_than_slots_evict_but_stay_exact(model_folder, full_logprobs) -> None:
    model, folder = model_folder("qwen3", tied=False)
    starts = prompts(12, longest=60)

    async def scenario(engine):
        seen = []
        for turn in range(3):
            calls = [
                engine.generate(start * (turn + 1), SamplingParams(max_tokens=5), session=str(index))
                for index, start in enumerate(starts)
            ]
            replies = await asyncio.gather(*calls)
            seen += [(start * (turn + 1), reply) for start, reply in zip(starts, replies, strict=True)]
        return seen

    for prompt, reply in run(engine_of(folder, slots=3, kept=1), scenario):
        assert close_to(reply.logprobs, full_logprobs(model, prompt, reply.token_ids))


def test_a_seed_repeats_a_request_in_any_company(model_folder) -> None:
    _, folder = model_folder()
    prompt = prompts(1)[0]
    params = SamplingParams(max_tokens=40, temperature=0.9, top_p=0.95, top_k=50, seed=11)

    async def scenario(engine):
        alone = await engine.generate(prompt, params, session="alone")
        noise = [
            engine.generate(other, SamplingParams(max_tokens=index), session=f"noise-{index}")
            for index, other in enumerate(prompts(15, seed=3), start=3)
        ]
        crowded, *_ = await asyncio.gather(engine.generate(prompt, params, session="crowded"), *noise)
        other = await engine.generate(prompt, replace(params, seed=12), session="other")
        return alone, crowded, other

    alone, crowded, other = run(engine_of(folder), scenario)
    assert alone.token_ids == crowded.token_ids
    assert close_to(alone.logprobs, crowded.logprobs)
    assert alone.token_ids != other.token_ids


def test_engine_seed_covers_requests_without_one(model_folder) -> None:
    _, folder = model_folder()

    async def scenario(engine):
        params = SamplingParams(max_tokens=20)
        return [(await engine.generate([1, 2], params, session=str(n))).token_ids for n in range(2)]

    first, again, other = (run(engine_of(folder, seed=seed), scenario) for seed in (1, 1, 2))
    assert first == again != other
    assert first[0] != first[1]


def test_stop_token_ends_a_reply_and_belongs_to_it(model_folder) -> None:
    _, folder = model_folder()

    async def scenario(engine):
        free = await engine.generate([5, 6], SamplingParams(max_tokens=30, seed=1), session="a")
        stop = free.token_ids[12]
        params = SamplingParams(max_tokens=30, seed=1, stop_token_ids=(stop,))
        return free, stop, await engine.generate([5, 6], params, session="b")

    free, stop, stopped = run(engine_of(folder), scenario)
    assert stopped.finish_reason == "stop"
    assert stopped.token_ids == free.token_ids[: free.token_ids.index(stop) + 1]


def test_update_in_flight_recomputes_and_records_the_switch(model_folder, full_logprobs) -> None:
    old, folder = model_folder(seed=1)
    new, new_folder = model_folder(seed=2)
    prompt = [random.Random(5).randrange(97) for _ in range(360)]
    from runtime.laptop.engine.weights import Weights, state_fingerprint

    async def scenario(engine):
        calls = [
            asyncio.create_task(engine.generate(prompt, SamplingParams(max_tokens=140), session=str(n)))
            for n in range(4)
        ]
        while engine.stats()["sampled_tokens"] < 40:
            await asyncio.sleep(0.001)
        answer = await engine.update_weights(new.state_dict(), version=7)
        after = await engine.generate(prompt, SamplingParams(max_tokens=5), session="0-new")
        return answer, engine.weight_version, engine.fingerprint(), await asyncio.gather(*calls), after

    answer, version, served, replies, after = run(engine_of(folder, max_len=512), scenario)
    weights = Weights.load(new_folder)
    assert version == 7
    assert answer == served == state_fingerprint(weights.architecture, new.state_dict())
    assert after.weight_versions == [7] * 5
    assert close_to(after.logprobs, full_logprobs(new, prompt, after.token_ids))
    for reply in replies:
        switch = reply.weight_versions.index(7)
        assert switch > 0
        assert reply.weight_versions == [0] * switch + [7] * (140 - switch)
        assert close_to(reply.logprobs[:switch], full_logprobs(old, prompt, reply.token_ids)[:switch])
        assert close_to(reply.logprobs[switch:], full_logprobs(new, prompt, reply.token_ids)[switch:])


def test_update_that_does_not_fit_changes_nothing(model_folder) -> None:
    model, folder = model_folder()
    state = dict(model.state_dict())
    short = {name: tensor for name, tensor in state.items() if "layers.1.mlp" not in name}
    strange = state | {"model.layers.9.mlp.up_proj.weight": state["model.layers.1.mlp.up_proj.weight"]}
    bent = state | {"model.norm.weight": state["model.norm.weight"][:-1]}

    async def scenario(engine):
        before = await engine.identity()
        for broken, what in ((short, "missing"), (strange, "unknown"), (bent, "another shape")):
            with pytest.raises(ValueError, match=what):
                await engine.update_weights(broken, version=1)
        assert await engine.identity() == before
        return await engine.generate([1], SamplingParams(max_tokens=2), session="a")

    assert len(run(engine_of(folder), scenario).token_ids) == 2


def test_abort_returns_what_there_is_and_the_engine_goes_on(model_folder, full_logprobs) -> None:
    model, folder = model_folder()
    prompt = prompts(1)[0]

    async def scenario(engine):
        calls = [
            asyncio.create_task(engine.generate(prompt, SamplingParams(max_tokens=100), session=str(n)))
            for n in range(5)
        ]
        while engine.stats()["sampled_tokens"] < 20:
            await asyncio.sleep(0.001)
        await engine.pause()
        count = await engine.abort_all()
        partial = await asyncio.gather(*calls)
        waiting = asyncio.create_task(engine.generate(prompt, SamplingParams(max_tokens=3), session="late"))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await engine.resume()
        return count, partial, await waiting

    count, partial, late = run(engine_of(folder, slots=2), scenario)
    assert count == 5
    assert {reply.finish_reason for reply in partial} == {"abort"}
    assert sorted(len(reply.token_ids) > 0 for reply in partial) == [False] * 3 + [True] * 2
    for reply in partial:
        if reply.token_ids:
            assert close_to(reply.logprobs, full_logprobs(model, prompt, reply.token_ids))
    assert close_to(late.logprobs, full_logprobs(model, prompt, late.token_ids))


def test_cancelling_a_call_frees_its_slot(model_folder) -> None:
    _, folder = model_folder()

    async def scenario(engine):
        call = asyncio.create_task(engine.generate([1], SamplingParams(max_tokens=255), session="a"))
        await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await engine.generate([2], SamplingParams(max_tokens=1), session="b")
        return engine.in_flight

    assert run(engine_of(folder, slots=1, kept=0), scenario) == 0


def test_closing_ends_calls_with_a_typed_failure(model_folder) -> None:
    _, folder = model_folder()
    threads = threading.active_count()

    async def scenario(engine):
        call = asyncio.create_task(engine.generate([1], SamplingParams(max_tokens=255), session="a"))
        await asyncio.sleep(0.01)
        await engine.close()
        await engine.close()
        for action in (call, engine.generate([1], SamplingParams(max_tokens=1), session="b"), engine.identity()):
            with pytest.raises(TrialError) as caught:
                await action
            assert caught.value.termination is Termination.MODEL_UNAVAILABLE

    run(engine_of(folder), scenario)
    assert threading.active_count() <= threads


def test_a_broken_policy_fails_its_call_and_leaves_no_cache(model_folder, full_logprobs) -> None:
    import torch

    model, folder = model_folder()
    good = dict(model.state_dict())
    bad = good | {"model.norm.weight": torch.full_like(good["model.norm.weight"], torch.nan)}

    async def scenario(engine):
        await engine.update_weights(bad, version=1)
        with pytest.raises(TrialError, match="weight version 1"):
            await engine.generate([1, 2, 3], SamplingParams(max_tokens=4), session="a")
        await engine.update_weights(good, version=2)
        return await engine.generate([1, 2, 3], SamplingParams(max_tokens=4), session="a")

    reply = run(engine_of(folder), scenario)
    assert close_to(reply.logprobs, full_logprobs(model, [1, 2, 3], reply.token_ids))


def test_senseless_calls_are_refused_before_they_reach_the_batch(model_folder) -> None:
    _, folder = model_folder()
    params = SamplingParams(max_tokens=4)

    async def scenario(engine):
        for prompt, wrong in (
            ([], params),
            ([97], params),
            ([-1], params),
            ([1], replace(params, max_tokens=0)),
            ([1], replace(params, temperature=-1.0)),
            ([1], replace(params, top_p=0.0)),
        ):
            with pytest.raises(ValueError):
                await engine.generate(prompt, wrong, session="a")
        with pytest.raises(TrialError) as caught:
            await engine.generate([1] * 256, params, session="a")
        assert caught.value.termination is Termination.OVERLONG
        return await engine.generate([1] * 254, params, session="a")

    assert len(run(engine_of(folder), scenario).token_ids) == 2


def test_the_event_loop_stays_responsive(model_folder) -> None:
    _, folder = model_folder(hidden_size=128, intermediate_size=384, vocab_size=1024)

    async def scenario(engine):
        calls = [
            asyncio.create_task(engine.generate(prompt, SamplingParams(max_tokens=100), session=str(n)))
            for n, prompt in enumerate(prompts(16))
        ]
        lags = []
        while not all(call.done() for call in calls):
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            lags.append(time.perf_counter() - before)
        return sorted(lags)

    lags = run(engine_of(folder), scenario)
    assert lags[len(lags) // 2] < 0.02


def test_an_idle_engine_uses_no_cpu(model_folder) -> None:
    _, folder = model_folder()

    async def scenario(engine):
        await engine.generate([1], SamplingParams(max_tokens=2), session="a")
        before = time.process_time()
        await asyncio.sleep(0.3)
        return time.process_time() - before

    assert run(engine_of(folder), scenario) < 0.05


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model_type": "gemma3"},
            "model_type: 'gemma3' is not supported by the CPU engine; allowed: 'qwen2', 'qwen3', 'qwen3_moe', 'llama'",
        ),
        ({"mlp_bias": True}, "mlp_bias: True"),
        ({"hidden_act": "gelu"}, "hidden_act: 'gelu'"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_type: 'yarn'"),
        ({"use_sliding_window": True}, "use_sliding_window: True"),
        ({"num_hidden_layers": 4}, "tensors are missing"),
    ],
)
def test_models_it_cannot_serve_exactly_are_named(model_folder, tmp_path, change, message: str) -> None:
    import json
    import shutil

    _, folder = model_folder()
    copy = shutil.copytree(folder, tmp_path / "model")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError, match=message):
        engine_of(copy)


def test_a_folder_without_a_model_is_named(tmp_path) -> None:
    with pytest.raises(UserError, match=r"no config\.json"):
        engine_of(tmp_path)


def test_lengths_beyond_the_model_are_refused(model_folder) -> None:
    _, folder = model_folder()
    with pytest.raises(ValueError, match="max_len <= 512"):
        engine_of(folder, max_len=513)
