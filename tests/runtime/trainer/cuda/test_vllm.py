"""The gate and the fingerprint in front of vLLM's real engine, on CPUs: fused and padded matrices, cut over two
processes; weights that arrive, or not; adapters; what is aborted."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import TrialError
from runtime.rollouter.engine import Generation, SamplingParams
from runtime.trainer.cuda.engine import GatedEngine
from tests.vllm_cpu import ENGINE, vllm_cpu

pytestmark = [pytest.mark.consumers, pytest.mark.timeout(1800)]

PROGRAM = Path(__file__).with_name("vllm_program.py")


@pytest.fixture(scope="module")
def python() -> Path:
    return vllm_cpu(ENGINE)


def model(folder: Path, *, seed: int) -> Path:
    """A Qwen2 with tied embeddings, one head of keys for two of queries, and a vocabulary that vLLM pads."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        eos_token_id=1,
    )
    torch.manual_seed(seed)
    made = Qwen2ForCausalLM(config)
    for parameter in made.parameters():  # biases and norms begin as zeros and ones
        torch.nn.init.normal_(parameter, std=0.05)
    made.to(torch.bfloat16).save_pretrained(folder)
    words = {"<pad>": 0, "<eos>": 1, **{letter: i + 2 for i, letter in enumerate(pre_tokenizers.ByteLevel.alphabet())}}
    words |= {f"<{number}>": number for number in range(len(words), 300)}
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[]))
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>").save_pretrained(folder)
    return folder


def adapter(folder: Path) -> Path:
    """On every kind of layer: alone and fused with others, cut by columns, by rows, and a head that two ranks share."""
    import torch
    from safetensors.torch import save_file

    shapes = {"self_attn.q_proj": (64, 64), "self_attn.o_proj": (64, 64), "mlp.down_proj": (64, 128)}
    shapes |= {"self_attn.k_proj": (32, 64), "mlp.up_proj": (128, 64)}
    state = {}
    for layer in range(2):
        for name, (out, into) in shapes.items():
            place = f"base_model.model.model.layers.{layer}.{name}"
            state[f"{place}.lora_A.weight"] = torch.randn(4, into)
            state[f"{place}.lora_B.weight"] = torch.randn(out, 4)
    folder.mkdir()
    save_file(state, folder / "adapter_model.safetensors")
    modules = [name.rpartition(".")[2] for name in shapes]
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 12, "target_modules": modules, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


class Told:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                found: dict[str, Any] = json.loads(line)
                return found
        raise AssertionError("vLLM ended")

    def do(self, what: str, **arguments: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": what, **arguments}) + "\n")
        self._process.stdin.flush()
        return self.answer()


@contextmanager
def running(python: Path, folder: Path, *, ranks: int = 1, adapters: bool = False) -> Iterator[tuple[Told, str]]:
    environment = {
        **os.environ,
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(PROGRAM.parent),
    }
    command = [str(python), str(PROGRAM), str(folder), str(ranks), "adapters" if adapters else "none"]
    log = folder.with_suffix(".log").open("wb")
    with (
        log,
        subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        told = Told(process)
        try:
            yield told, told.answer()["url"]
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


def ask(url: str, prompts: Sequence[Sequence[int]], *, max_tokens: int = 8) -> list[Generation]:
    async def main() -> list[Generation]:
        client = GatedEngine(url, api_key="the word")
        params = SamplingParams(max_tokens=max_tokens, stop_token_ids=(1,))
        try:
            return await asyncio.gather(*(client.generate(prompt, params, session="s") for prompt in prompts))
        finally:
            await client.close()

    return asyncio.run(main())


def test_weights_of_a_replica_on_two_ranks_are_verified_and_served(python: Path, tmp_path: Path) -> None:
    first, second = model(tmp_path / "first", seed=0), model(tmp_path / "second", seed=1)
    with running(python, first, ranks=2, adapters=True) as (told, url):
        assert told.do("load", folder=str(first), version=1, take=True) == {"same": True, "shares": 2}
        found = ask(url, [[3, 20, 30], [4, 5, 6, 7]])
        for one in found:
            assert len(one.token_ids) == len(one.logprobs) == len(one.weight_versions) and set(one.weight_versions) == {
                1
            }
            assert (one.finish_reason == "length") is (len(one.token_ids) == 8 and one.token_ids[-1] != 1)
            assert all(value < 0 for value in one.logprobs)
        with pytest.raises(ValueError, match="maximum context length"):
            ask(url, [[5] * 300])
        # Every kind of tensor that an update may lose: cut by rows, by columns, fused, a vector, the padded vocabulary.
        for version, lost in enumerate(
            [
                "model.layers.1.self_attn.o_proj.weight",
                "model.layers.0.mlp.down_proj.weight",
                "model.layers.1.self_attn.k_proj.weight",
                "model.layers.0.self_attn.q_proj.bias",
                "model.layers.1.input_layernorm.weight",
                "model.embed_tokens.weight",
            ],
            start=2,
        ):
            told.do("load", folder=str(first), version=version, take=True)
            assert not told.do("load", folder=str(second), version=version, take=True, left_out=lost)["same"], lost
            with pytest.raises(TrialError, match=f"weight version {version}: serves"):
                ask(url, [[3]])
        assert not told.do("load", folder=str(first), version=9, take=False)["same"]
        assert told.do("load", folder=str(second), version=10, take=True)["same"]
        assert ask(url, [[3, 20, 30]])[0].weight_versions[0] == 10
        prints = told.do("adapter", folder=str(adapter(tmp_path / "adapter")))
        assert prints["sent"] == prints["served"], "an adapter cut over two ranks"


def test_an_adapter_is_compared_where_the_kernels_read_it_and_aborted_calls_keep_their_tokens(
    python: Path, tmp_path: Path
) -> None:
    folder = model(tmp_path / "model", seed=0)
    with running(python, folder, adapters=True) as (told, url):
        assert told.do("load", folder=str(folder), version=1, take=True)["same"]
        prints = told.do("adapter", folder=str(adapter(tmp_path / "adapter")))
        assert prints["sent"] == prints["served"]

        async def main() -> None:
            client = GatedEngine(url, api_key="the word")
            params = SamplingParams(max_tokens=250)
            calls = [asyncio.create_task(client.generate([3, 4], params, session=str(n))) for n in range(3)]
            while (await asyncio.to_thread(told.do, "count"))["requests"] < 3:
                await asyncio.sleep(0.05)
            calls[0].cancel()
            while (await asyncio.to_thread(told.do, "count"))["requests"] > 2:
                await asyncio.sleep(0.05)
            await asyncio.to_thread(told.do, "abort")
            for generation in await asyncio.gather(*calls[1:]):
                assert generation.finish_reason in ("abort", "length")
                assert len(generation.token_ids) == len(generation.logprobs)
            await client.close()

        asyncio.run(main())
