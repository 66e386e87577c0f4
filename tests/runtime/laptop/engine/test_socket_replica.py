"""The agent loop's way to an engine server, with the real server class and the real engine, without Ray."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import MachineError, Termination, TrialError, UserError
from runtime.laptop.cpu_platform import CPU
from runtime.laptop.engine.server import EngineServer
from runtime.laptop.engine.socket_replica import SocketReplica, engine_addresses, write_address
from runtime.rollouter.engine import Generation, Routing, SamplingParams, WeightIdentity
from runtime.rollouter.pool import ReplicaPool
from runtime.run_paths import RAY_DIR, RUN_DIR, RunPaths

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


def test_an_engine_of_ones_own_serves_in_place_of_ours(model: Path, socket: Path) -> None:
    """Named by the spec; nothing but ``Replica`` is asked of it."""

    async def run() -> None:
        path = f"{__name__}:OwnEngine"
        server = EngineServer(str(model), slots=4, max_len=200, seed=1, import_path=path, kwargs={"word": 7})
        await server.open_gate()
        said = await server.generate("x", [1, 2], {"max_tokens": 3})
        assert (said.token_ids, said.extra_fields["global_steps"]) == ([7, 7, 7], 4)
        assert (await server.status())["fingerprint"] == f"of {model}"
        await server.listen(str(socket))
        replica = SocketReplica(socket)
        routing = (await replica.generate([1, 2], PARAMS, session="s")).routing
        assert routing == Routing(2, bytes(range(8)), (2, 2), 1), "the experts of a mixture pass as they are"
        await replica.close()
        assert await server.load_weights({}, version=5) == "new"
        await server.close()

    asyncio.run(run())
    with pytest.raises(UserError, match=r"rollout\.import_path: .*unexpected keyword"):
        EngineServer(str(model), slots=4, max_len=200, seed=1, import_path=f"{__name__}:OwnEngine", kwargs={"x": 1})
    with pytest.raises(UserError, match=r"rollout\.import_path: 'no\.such:Engine'"):
        EngineServer(str(model), slots=4, max_len=200, seed=1, import_path="no.such:Engine")


class OwnEngine:
    """Says one word."""

    def __init__(self, folder: Path, *, slots: int, max_len: int, seed: int, word: int) -> None:
        self._folder, self._word = folder, word

    async def generate(self, prompt_ids: Sequence[int], params: SamplingParams, *, session: str) -> Generation:
        count = params.max_tokens
        routing = Routing(2, bytes(range(8)), (2, 2), 1)
        return Generation([self._word] * count, [0.0] * count, [4] * count, "length", routing=routing)

    async def identity(self) -> WeightIdentity:
        return WeightIdentity(4, f"of {self._folder}")

    async def update_weights(self, state: Mapping[str, Any], *, version: int) -> str:
        return "new"

    async def abort_all(self) -> int:
        return 0

    async def close(self) -> None:
        return None


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


def test_from_another_machine_the_key_comes_first(model: Path, tmp_path: Path) -> None:
    async def run() -> None:
        server = EngineServer(str(model), slots=4, max_len=200, seed=1)
        port = await server.listen_tcp("127.0.0.1", "right")
        write_address(tmp_path, "liverl_engine_0_0", host="127.0.0.1", port=port)
        await server.open_gate()
        (address,) = engine_addresses(tmp_path).values()
        right, wrong = SocketReplica(address, key="right"), SocketReplica(address, key="wrong")
        assert len((await right.generate([1], PARAMS, session="s")).token_ids) == 6
        with pytest.raises(TrialError, match=rf"127.0.0.1:{port}: the engine server is gone"):
            await wrong.generate([1], PARAMS, session="s")
        await right.close()
        await wrong.close()
        await server.close()

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


def test_a_machine_that_joined_after_the_engines_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUN_DIR, str(tmp_path))
    monkeypatch.setenv(RAY_DIR, str(tmp_path / "of another machine"))
    CPU.prepare(RunPaths(tmp_path))
    with pytest.raises(MachineError, match="no engine of the run is reached from"):
        CPU.replicas()
    write_address(RunPaths(tmp_path).engines, "one", host="10.0.0.1", port=1)
    assert list(CPU.replicas()) == ["one"]
