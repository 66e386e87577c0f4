"""Tokens per CPU second of the CPU engine, over ``model.generate`` called one request at a time in the same run.

A random Qwen2 of two million parameters, 256-token prompts, 64 new tokens, sampling with log-probabilities, one thread.
CPU time and not wall time, so that a busy machine changes little. ``ratio_32``: 32 sequences at once, all different;
``ratio_group_32``: 32 sequences in groups of 8 that share a prompt. Nothing is cached from one measurement to the next.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.utils.logging import disable_progress_bar

from runtime.laptop.engine.torch_engine import TorchEngine
from runtime.rollouter.engine import SamplingParams

PROMPT_TOKENS = 256
NEW_TOKENS = 64
VOCABULARY = 2048


def random_policy() -> Any:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
    )
    return Qwen2ForCausalLM(config).eval()


def random_prompts(count: int, *, seed: int) -> list[list[int]]:
    stream = torch.Generator().manual_seed(seed)
    rows: list[list[int]] = torch.randint(0, VOCABULARY, (count, PROMPT_TOKENS), generator=stream).tolist()
    return rows


@torch.inference_mode()
def one_at_a_time(model: Any, prompts: list[list[int]]) -> float:
    """Tokens per CPU second of ``generate``, log-probabilities of the sampled tokens included."""
    settings = {"do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": 1.0, "max_new_tokens": NEW_TOKENS}
    started = time.process_time()
    for prompt in prompts:
        out = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            eos_token_id=None,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_logits=True,
            **settings,
        )
        logprobs = torch.log_softmax(torch.cat(out.logits), -1)
        chosen = logprobs.gather(1, out.sequences[0, len(prompt) :, None])
        assert chosen.shape == (NEW_TOKENS, 1)
    return len(prompts) * NEW_TOKENS / (time.process_time() - started)


async def batched(engine: TorchEngine, prompts: list[list[int]], *, label: str) -> float:
    """Tokens per CPU second of the whole process, event loop included."""
    params = SamplingParams(max_tokens=NEW_TOKENS)
    started = time.process_time()
    replies = await asyncio.gather(
        *(engine.generate(prompt, params, session=f"{label}-{index}") for index, prompt in enumerate(prompts))
    )
    spent = time.process_time() - started
    assert all(len(reply.logprobs) == NEW_TOKENS for reply in replies)
    return len(prompts) * NEW_TOKENS / spent


async def measure(*, repeats: int) -> dict[str, float]:
    """Medians over ``repeats`` interleaved measurements, so that a slow moment of the machine meets all alike."""
    model = random_policy()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        engine = TorchEngine(Path(folder), slots=32, max_len=PROMPT_TOKENS + NEW_TOKENS)
    one_at_a_time(model, random_prompts(1, seed=0))
    await batched(engine, random_prompts(8, seed=0), label="warm")
    rates: dict[str, list[float]] = {"generate": [], "1": [], "8": [], "32": [], "group_32": []}
    for repeat in range(repeats):
        seed = 10 * repeat
        rates["generate"].append(one_at_a_time(model, random_prompts(8, seed=seed + 1)))
        rates["1"].append(await batched(engine, random_prompts(1, seed=seed + 2), label=f"{repeat}-1"))
        rates["8"].append(await batched(engine, random_prompts(8, seed=seed + 3), label=f"{repeat}-8"))
        rates["32"].append(await batched(engine, random_prompts(32, seed=seed + 4), label=f"{repeat}-32"))
        groups = [prompt for prompt in random_prompts(4, seed=seed + 5) for _ in range(8)]
        rates["group_32"].append(await batched(engine, groups, label=f"{repeat}-group"))
    await engine.close()
    result = {f"tokens_per_cpu_s_{name}": sorted(values)[repeats // 2] for name, values in rates.items()}
    base = result["tokens_per_cpu_s_generate"]
    for name in rates:
        if name != "generate":
            result[f"ratio_{name}"] = result[f"tokens_per_cpu_s_{name}"] / base
    return {"parameters": parameters, **result}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    arguments.add_argument("--repeats", type=int, default=3, help="measurements of each kind; the median counts")
    options = arguments.parse_args()
    disable_progress_bar()
    torch.set_num_threads(1)
    result = asyncio.run(measure(repeats=options.repeats))
    names = {
        "generate": "model.generate, one request at a time",
        "1": "engine, 1 sequence",
        "8": "engine, 8 sequences",
        "32": "engine, 32 sequences",
        "group_32": "engine, 32 sequences, groups of 8 share a prompt",
    }
    table = Table(title=f"CPU engine: Qwen2, {result['parameters'] / 1e6:.1f}M parameters, 256 + 64 tokens, 1 thread")
    for column in ("way", "tokens per CPU second", "ratio"):
        table.add_column(column, justify="left" if column == "way" else "right")
    for key, name in names.items():
        ratio = result.get(f"ratio_{key}", 1.0)
        table.add_row(name, f"{result[f'tokens_per_cpu_s_{key}']:.0f}", f"{ratio:.1f}")
    Console().print(table)
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
