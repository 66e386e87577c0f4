"""The agent loop's way to an engine server, with the real server class and the real engine, without Ray."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from runtime.errors import Termination, TrialError
from runtime.rollouter.engine import SamplingParams
from runtime.rollouter.pool import ReplicaPool
from runtime.trainer.engine_server import EngineServer
from runtime.trainer.socket_replica import SocketReplica

pytestmark = pytest.mark.torch
PARAMS = SamplingParams(max_tokens=6, temperature=1.0, seed=5)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        tie_word_embeddings=True,
    )
    folder = tmp_path_factory.mktemp("model")
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def socket() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder) / "e.sock"


@asynccontextmanager
async def serving(model: Path, socket: Path) -> AsyncIterator[tuple[EngineServer, SocketReplica]]:
    server = EngineServer(str(model), slots=4, max_len=200, seed=1)
    await server.listen(str(socket))
    replica = SocketReplica(socket)
    try:
        yield server, replica
    finally:
        await replica.close()
        await server.close()


def test_calls_wait_at_the_gate_and_answer_what_the_engine_answers(model: Path, socket: Path) -> None:
    async def run() -> None:
        async with serving(model, socket) as (server, replica):
            calls = [asyncio.create_task(replica.generate([1, 2, i], PARAMS, session=f"s{i}")) for i in range(8)]
            await asyncio.sleep(0.1)
            assert not any(call.done() for call in calls)
            await server.open_gate()
            replies = await asyncio.gather(*calls)
            direct = await server.generate("x", [1, 2, 3], {"max_tokens": 6, "temperature": 1.0, "seed": 5})
            assert list(replies[3].token_ids) == direct.token_ids
            assert replies[3].logprobs == pytest.approx(direct.log_probs, abs=1e-6)
            assert set(replies[3].weight_versions) == {0} and direct.extra_fields["global_steps"] == 0
            assert (await replica.identity()).fingerprint == (await server.status())["fingerprint"]

    asyncio.run(run())


def test_failures_keep_their_type(model: Path, socket: Path) -> None:
    async def run() -> None:
        async with serving(model, socket) as (server, replica):
            await server.open_gate()
            with pytest.raises(TrialError) as caught:
                await replica.generate([1] * 250, PARAMS, session="s")
            assert caught.value.termination is Termination.OVERLONG
            with pytest.raises(ValueError, match=r"vocabulary|64"):
                await replica.generate([1000], PARAMS, session="s")
            with pytest.raises(ValueError, match="agent loop"):
                await replica.update_weights({}, version=1)

    asyncio.run(run())


def test_closing_the_gate_aborts_what_runs_and_cancelling_a_call_frees_its_slot(model: Path, socket: Path) -> None:
    async def run() -> None:
        async with serving(model, socket) as (server, replica):
            await server.open_gate()
            long = SamplingParams(max_tokens=180, temperature=1.0, seed=5)
            cancelled = asyncio.create_task(replica.generate([1], long, session="a"))
            running = asyncio.create_task(replica.generate([2], long, session="b"))
            await asyncio.sleep(0.02)
            cancelled.cancel()
            await server.sleep()
            assert (await running).finish_reason == "abort"
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            await server.abort_all_requests(reject_request=True)
            with pytest.raises(TrialError, match="being removed"):
                await replica.generate([1], PARAMS, session="c")
            await server.resume_generation()
            assert len((await replica.generate([1], PARAMS, session="c")).token_ids) == 6

    asyncio.run(run())


def test_a_server_that_is_gone_is_the_models_failure_and_another_one_takes_over(model: Path, socket: Path) -> None:
    async def run() -> None:
        async with serving(model, socket) as (server, replica):
            await server.open_gate()
            pool = ReplicaPool({"gone": SocketReplica(socket.with_name("none.sock")), "here": replica})
            replies = [await pool.generate([1], PARAMS, session=f"s{i}") for i in range(4)]
            assert all(len(reply.token_ids) == 6 for reply in replies)
            with pytest.raises(TrialError) as caught:
                await SocketReplica(socket.with_name("none.sock")).generate([1], PARAMS, session="s")
            assert caught.value.termination is Termination.MODEL_UNAVAILABLE

    asyncio.run(run())
