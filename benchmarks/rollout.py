"""Tokens per second of many sessions through the proxy against the same requests to vLLM itself, and how far the
probabilities that were kept are from a recomputation in full precision.

    .venv-gpu/bin/python benchmarks/rollout.py --model MODEL_DIR|SHAPE [--json] [-- FURTHER ARGUMENTS OF vllm serve]

Every session asks `--calls` times, one after the other, with a prompt of `--prompt` characters each time (of a shape:
tokens), and all sessions at once: by chat completions through the proxy, by chat completions from vLLM, and with token
ids from vLLM (/inference/v1/generate: what the proxy itself asks). Sessions are opened before. Then the trajectories of
some sessions are read again by transformers in fp32, with the weights that vLLM has in bf16. Needs a GPU, so ``make
bench`` skips it.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

# Or the benchmark vllm.py, which lies beside this one, would be vLLM.
HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parent), *(place for place in sys.path if Path(place or ".").resolve() != HERE)]

import aiohttp  # noqa: E402

from benchmarks._admin import Admin, proxy  # noqa: E402
from benchmarks._models import SHAPES, make_model  # noqa: E402
from benchmarks.gate import serving  # noqa: E402


class Benchmark(Admin):
    def __init__(self, arguments: argparse.Namespace, http: aiohttp.ClientSession, engine: str, proxy_url: str) -> None:
        super().__init__(http, proxy_url)
        self.arguments, self.engine = arguments, engine
        self.model = ""
        self.round = 0

    def text(self, number: int, call: int) -> str:
        """Another beginning each time, so that no prompt is found in a cache."""
        return f"{self.round} {number} {call} ".ljust(self.arguments.prompt, "abcdefghij"[number % 10])

    def messages(self, number: int, call: int) -> list[dict[str, str]]:
        return [{"role": "user", "content": self.text(number, call)}]

    async def through(self, session: dict[str, str], number: int, call: int) -> int:
        request = {"model": "policy", "messages": self.messages(number, call)}
        url, key = f"{session['openai_base_url']}/chat/completions", {"Authorization": f"Bearer {session['api_key']}"}
        return int((await self.call("POST", url, json=request, headers=key))["usage"]["completion_tokens"])

    async def chat(self, number: int, call: int) -> int:
        request = {"model": self.model, "messages": self.messages(number, call), "temperature": 1.0}
        request |= {"max_tokens": self.arguments.max_tokens, "logprobs": True, "top_logprobs": 0}
        request["return_token_ids"] = True
        found = await self.call("POST", f"{self.engine}/v1/chat/completions", json=request)
        return int(found["usage"]["completion_tokens"])

    async def ids(self, number: int, call: int) -> int:
        sampling = {"max_tokens": self.arguments.max_tokens, "temperature": 1.0, "logprobs": 0}
        prompt = [2 + byte for byte in self.text(number, call).encode()]
        request = {"token_ids": prompt, "sampling_params": sampling, "model": self.model}
        found = await self.call("POST", f"{self.engine}/inference/v1/generate", json=request)
        return len(found["choices"][0]["token_ids"])

    async def rate(self, one: Callable[[int, int], Awaitable[int]]) -> float:
        """Tokens of replies in a second."""
        self.round += 1

        async def session(number: int) -> int:
            return sum([await one(number, call) for call in range(self.arguments.calls)])

        began = time.monotonic()
        tokens = sum(await asyncio.gather(*map(session, range(self.arguments.sessions))))
        return tokens / (time.monotonic() - began)

    async def run(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        self.model = (await self.call("GET", f"{self.engine}/v1/models"))["data"][0]["id"]
        rates: dict[str, list[float]] = {"proxy": [], "chat": [], "ids": []}
        samples: list[dict[str, Any]] = []
        await self.rate(self.chat)  # kernels are compiled
        for repeat in range(self.arguments.repeats):
            names = [f"r{repeat}-{number}" for number in range(self.arguments.sessions)]
            opened = [await self.opened(name) for name in names]

            async def through(number: int, call: int, opened: list[Any] = opened) -> int:
                return await self.through(opened[number], number, call)

            for name, one in (("proxy", through), ("chat", self.chat), ("ids", self.ids)):
                rates[name].append(await self.rate(one))
            for name in names:
                closed = await self.closed(name)
                samples += closed["samples"][: self.arguments.rescored - len(samples)]
        middle = {name: statistics.median(found) for name, found in rates.items()}
        return {
            **{f"{name}_tokens_per_s": round(value) for name, value in middle.items()},
            "proxy_over_chat": _ratio(rates["proxy"], rates["chat"]),
            "proxy_over_ids": _ratio(rates["proxy"], rates["ids"]),
        }, samples


def _ratio(above: list[float], below: list[float]) -> float:
    return round(statistics.median(one / other for one, other in zip(above, below, strict=True)), 3)


def rescored(model: Path, samples: list[dict[str, Any]], device: str) -> dict[str, Any]:
    import torch
    from transformers import AutoModelForCausalLM

    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).to(device).eval()
    kept, again = [], []
    with torch.no_grad():
        for sample in samples:
            start = len(sample["prompt_ids"])
            ids = torch.tensor([sample["prompt_ids"] + sample["response_ids"]], device=device)
            scores = policy(ids).logits[0, start - 1 : -1].float().log_softmax(-1)
            again.append(scores.gather(1, ids[0, start:].unsqueeze(1)).squeeze(1).cpu())
            kept.append(torch.tensor(sample["response_logprobs"]))
    logprobs, wanted = torch.cat(kept), torch.cat(again)
    gap, apart = (logprobs.exp() - wanted.exp()).abs(), (logprobs - wanted).abs()
    return {
        "tokens_rescored": len(logprobs),
        "probability": round(float(wanted.exp().mean()), 4),
        "probability_gap_mean": float(f"{gap.mean():.3g}"),
        "probability_gap_max": float(f"{gap.max():.3g}"),
        "logprob_gap_mean": float(f"{apart.mean():.3g}"),
        "logprob_gap_max": float(f"{apart.max():.3g}"),
    }


async def measure(
    arguments: argparse.Namespace, engine: str, model: Path
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    with tempfile.TemporaryDirectory() as out, ExitStack() as stack:
        url = stack.enter_context(proxy(engine, model, Path(out), max_tokens=arguments.max_tokens))
        connector, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=600)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as http:
            return await Benchmark(arguments, http, engine, url).run()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help=f"a folder, or a shape with random weights: {', '.join(SHAPES)}")
    parser.add_argument("--engine", metavar="URL", help="a running server instead of one that is started")
    parser.add_argument("--sessions", type=int, default=256)
    parser.add_argument("--calls", type=int, default=2, help="of a session")
    parser.add_argument("--prompt", type=int, default=1000, help="characters of a prompt")
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rescored", type=int, default=32, help="replies that are read again in fp32")
    parser.add_argument("--models", type=Path, default=Path(tempfile.gettempdir()) / "liverl-shapes")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("further", nargs="*")
    arguments = parser.parse_args()
    if arguments.model is None or (arguments.engine is None and importlib.util.find_spec("vllm") is None):
        print("skipped: give --model, in an environment with vLLM (make install-gpu)")
        return
    os.environ["HF_HUB_OFFLINE"] = "1"
    model = Path(arguments.model)
    if arguments.model in SHAPES:
        model = make_model(arguments.models / arguments.model, arguments.model, length=32768)
    with ExitStack() as stack:
        engine = arguments.engine or stack.enter_context(serving(str(model), arguments.further))[1]
        figures, samples = asyncio.run(measure(arguments, engine, model))
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    figures = {"model": arguments.model, "sessions": arguments.sessions, **figures, **rescored(model, samples, device)}
    if arguments.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:24} {value}")


if __name__ == "__main__":
    main()
