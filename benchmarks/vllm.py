"""The proxy in front of a running vLLM: is every token kept, are its log-probabilities right, and what does it cost?

    vllm serve MODEL --port 8000 --max-logprobs 20 &
    python benchmarks/vllm.py --engine http://127.0.0.1:8000 --tokenizer MODEL_DIR [--json]

Sessions of several turns speak the OpenAI and the Anthropic API, half of them streaming. Then vLLM scores each kept
sequence anew (``prompt_logprobs``); the difference to the log-probabilities kept while sampling is what a trainer would
see. Last, single requests directly and through the proxy, in turn. Needs a GPU as a rule, so ``make bench`` skips it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import anthropic
import openai
from _admin import Admin, proxy

TOOL_OUTPUT = "tool output: 1+2 is 3. " * 8


class Benchmark(Admin):
    def __init__(self, arguments: argparse.Namespace, http: aiohttp.ClientSession, proxy_url: str) -> None:
        super().__init__(http, proxy_url)
        self.arguments = arguments
        self.engine: str = arguments.engine
        self.model = ""

    async def openai_session(self, name: str, *, stream: bool) -> int:
        """Tokens that the agent was told of."""
        session = await self.opened(name)
        client = openai.AsyncOpenAI(base_url=session["openai_base_url"], api_key=session["api_key"], timeout=600)
        messages: list[Any] = [{"role": "user", "content": f"what is {name}?"}]
        seen = 0
        for turn in range(self.arguments.turns):
            if stream:
                text = ""
                async for event in await client.chat.completions.create(
                    model="policy", messages=messages, stream=True, stream_options={"include_usage": True}
                ):
                    seen += event.usage.completion_tokens if event.usage else 0
                    text += "".join(choice.delta.content or "" for choice in event.choices)
            else:
                reply = await client.chat.completions.create(model="policy", messages=messages)
                seen += reply.usage.completion_tokens if reply.usage else 0
                text = reply.choices[0].message.content or ""
            messages += [{"role": "assistant", "content": text}, {"role": "user", "content": f"{turn} {TOOL_OUTPUT}"}]
        return seen

    async def anthropic_session(self, name: str, *, stream: bool) -> int:
        session = await self.opened(name)
        client = anthropic.AsyncAnthropic(
            base_url=session["anthropic_base_url"], api_key=session["api_key"], timeout=600
        )
        messages: list[Any] = [{"role": "user", "content": f"what is {name}?"}]
        seen = 0
        for turn in range(self.arguments.turns):
            request: dict[str, Any] = {"model": "policy", "max_tokens": self.arguments.max_tokens, "messages": messages}
            if stream:
                async with client.messages.stream(**request) as events:
                    reply = await events.get_final_message()
            else:
                reply = await client.messages.create(**request)
            seen += reply.usage.output_tokens
            messages += [
                {"role": "assistant", "content": [block.model_dump() for block in reply.content] or "-"},
                {"role": "user", "content": f"{turn} {TOOL_OUTPUT}"},
            ]
        return seen

    async def rescored(self, sample: dict[str, Any]) -> list[float]:
        """|log-probability kept - log-probability of the same token when vLLM reads it| of each trained token."""
        ids, start = sample["prompt_ids"] + sample["response_ids"], len(sample["prompt_ids"])
        request = {"model": self.model, "prompt": ids, "max_tokens": 1, "prompt_logprobs": 0, "temperature": 1.0}
        answer = await self.call("POST", f"{self.engine}/v1/completions", json=request)
        scores = answer["choices"][0]["prompt_logprobs"]
        kept = zip(sample["response_ids"], sample["response_mask"], sample["response_logprobs"], strict=True)
        return [
            abs(scores[start + at][str(token)]["logprob"] - logprob)
            for at, (token, trained, logprob) in enumerate(kept)
            if trained
        ]

    async def direct(self, number: int) -> int:
        request = {
            "model": self.model,
            "messages": [{"role": "user", "content": f"{number} what is 1+2?"}],
            "max_tokens": self.arguments.max_tokens,
            "temperature": 1.0,
            "logprobs": True,
            "top_logprobs": 0,
            "return_token_ids": True,
        }
        answer = await self.call("POST", f"{self.engine}/v1/chat/completions", json=request)
        return int(answer["usage"]["completion_tokens"])

    async def through(self, name: str, number: int) -> int:
        session = await self.opened(name)
        request = {"model": "policy", "messages": [{"role": "user", "content": f"{number} what is 1+2?"}]}
        url, headers = (
            f"{session['openai_base_url']}/chat/completions",
            {"Authorization": f"Bearer {session['api_key']}"},
        )
        return int((await self.call("POST", url, json=request, headers=headers))["usage"]["completion_tokens"])

    async def run(self) -> dict[str, Any]:
        self.model = (await self.call("GET", f"{self.engine}/v1/models"))["data"][0]["id"]
        began, names = time.monotonic(), [f"s{number}" for number in range(self.arguments.sessions)]
        kinds = (self.openai_session, self.anthropic_session)
        seen = await asyncio.gather(*(kinds[at % 2](name, stream=at // 2 % 2 == 1) for at, name in enumerate(names)))
        seconds = time.monotonic() - began
        trajectories = [await self.closed(name) for name in names]
        samples = [sample for trajectory in trajectories for sample in trajectory["samples"]]
        gaps = sorted(gap for gaps in await asyncio.gather(*map(self.rescored, samples)) for gap in gaps)
        ratios = []
        for repeat in range(3):
            rates = []
            for one in (self.direct, lambda number, repeat=repeat: self.through(f"t{repeat}.{number}", number)):
                start = time.monotonic()
                tokens = sum(await asyncio.gather(*map(one, range(self.arguments.at_once))))
                rates.append(tokens / (time.monotonic() - start))
            ratios.append(rates[1] / rates[0])
        return {
            "sessions": len(names),
            "tokens_seen_by_agents": sum(seen),
            "tokens_sampled": sum(trajectory["accounting"]["sampled"] for trajectory in trajectories),
            "tokens_trained": len(gaps),
            "tokens_per_s": round(sum(seen) / seconds),
            "logprob_gap_mean": round(statistics.mean(gaps), 6),
            "logprob_gap_max": round(gaps[-1], 4),
            "through_over_direct": round(statistics.median(ratios), 3),
        }


async def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as out, ExitStack() as stack:
        url = stack.enter_context(
            proxy(arguments.engine, arguments.tokenizer, Path(out), max_tokens=arguments.max_tokens)
        )
        connector, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=600)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as http:
            return await Benchmark(arguments, http, url).run()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", metavar="URL", help="a running vLLM")
    parser.add_argument("--tokenizer", metavar="DIR", type=Path, help="its model's folder")
    parser.add_argument("--sessions", type=int, default=64)
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--at-once", type=int, default=256, help="single requests at once")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    arguments = parser.parse_args()
    if not arguments.engine or not arguments.tokenizer:
        print("skipped: give --engine and --tokenizer of a running vLLM")
        return
    figures = asyncio.run(measure(arguments))
    for name, value in figures.items():
        print(f"{name:24} {value}")
    if arguments.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
