"""The agents of the proxy's benchmark, in a process of their own: conversations that grow turn by turn.

Reads one line of JSON from stdin ({"load": ..., "sessions": [[base URL, key], ...]}), gives each conversation its
history, says ``ready``, waits for a line, runs the measured turns, and says ``done`` with the seconds that each took.
What a turn adds does not depend on the history, so that loads differ in nothing else.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import aiohttp
import orjson
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

VOCABULARY = 16_000
SUFFIX_TOKENS = 1000
REPLY_TOKENS = 800
CHARACTERS_PER_TOKEN = 4.1
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Load:
    """One measurement: ``sessions`` conversations that start with ``history`` tokens, then ``turns`` measured turns
    each, one after the other; ``parallel``: every session at its own pace; ``stagger_sec``: they begin within that
    time. ``delay_sec`` is how long the engine takes, ``tools`` how many a request brings.
    """

    name: str
    sessions: int
    turns: int
    history: int
    suffix: int = SUFFIX_TOKENS
    reply: int = REPLY_TOKENS
    stream: bool = False
    parallel: bool = False
    stagger_sec: float = 0.0
    delay_sec: float = 0.0
    tools: int = 0
    dialect: Literal["openai", "anthropic"] = "openai"


def corpus() -> list[str]:
    """Python source of the standard library: what coding agents read."""
    return [path.read_text(errors="replace") for path in sorted(Path(json.__file__).parent.parent.glob("*.py"))]


def model_folder(folder: Path, texts: list[str]) -> Path:
    """A tokenizer and a template, without weights."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in ("<|im_start|>", "<|im_end|>")])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|im_end|>"}')
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def text_of(tokens: int, texts: list[str], chance: random.Random) -> str:
    size = int(tokens * CHARACTERS_PER_TOKEN)
    whole = texts[chance.randrange(len(texts))]
    while len(whole) < size:
        whole += texts[chance.randrange(len(texts))]
    start = chance.randrange(len(whole) - size + 1)
    return whole[start : start + size]


class Agents:
    """All conversations of one load."""

    def __init__(self, load: Load, sessions: list[list[str]]) -> None:
        self.load, self.sessions = load, sessions
        self.texts = [text for text in corpus() if len(text) > 20_000]
        chance = random.Random(0)
        self.conversations = [self._history(chance) for _ in sessions]
        self.chance = random.Random(1)
        self.seconds: list[float] = []
        self.tools = [self._tool(number) for number in range(load.tools)]

    def _history(self, chance: random.Random) -> list[dict[str, Any]]:
        load = self.load
        messages: list[dict[str, Any]] = []
        for number in range(2 * (load.history // (2 * SUFFIX_TOKENS)) or (load.history > 0)):
            role = ("user", "assistant")[number % 2]
            messages.append({"role": role, "content": text_of(min(load.history, SUFFIX_TOKENS), self.texts, chance)})
        if messages and messages[-1]["role"] == "user":
            messages.append({"role": "assistant", "content": "Yes."})
        messages.append({"role": "user", "content": "Go."})
        return messages

    def _tool(self, number: int) -> dict[str, Any]:
        description = text_of(60, self.texts, self.chance)
        schema = {"type": "object", "properties": {"path": {"type": "string", "description": description}}}
        if self.load.dialect == "anthropic":
            return {"name": f"tool_{number}", "description": description, "input_schema": schema}
        function = {"name": f"tool_{number}", "description": description, "parameters": schema}
        return {"type": "function", "function": function}

    async def turn(self, http: aiohttp.ClientSession, number: int) -> float:
        """One request of conversation ``number``; its reply is put in. Seconds that it took."""
        load, messages = self.load, self.conversations[number]
        base, key = self.sessions[number]
        body: dict[str, Any] = {"model": "policy", "messages": messages, "stream": load.stream, "max_tokens": 4096}
        system = "You repair code."
        if load.dialect == "anthropic":
            url, body["system"] = base + "/v1/messages", system
        else:
            url = base + "/v1/chat/completions"
            body["messages"] = [{"role": "system", "content": system}, *messages]
        if self.tools:
            body["tools"] = self.tools
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", "Accept-Encoding": "identity"}
        raw = orjson.dumps(body)
        began = time.perf_counter()
        async with http.post(url, data=raw, headers=headers) as response:
            answer = await response.read()
            if response.status != 200:
                raise RuntimeError(answer.decode())
        took = time.perf_counter() - began
        messages.append({"role": "assistant", "content": self._content(answer)})
        return took

    def _content(self, answer: bytes) -> Any:
        if not self.load.stream:
            reply = orjson.loads(answer)
            return reply["content"] if "content" in reply else reply["choices"][0]["message"]["content"]
        events = [orjson.loads(line[6:]) for line in answer.split(b"\n") if line.startswith(b"data: {")]
        if self.load.dialect == "anthropic":
            text = "".join(event["delta"].get("text", "") for event in events if event["type"] == "content_block_delta")
            return [{"type": "text", "text": text}]
        return "".join(event["choices"][0]["delta"].get("content") or "" for event in events if event["choices"])

    async def begin(self, http: aiohttp.ClientSession) -> None:
        for number in range(len(self.sessions)):
            await self.turn(http, number)

    async def run(self, http: aiohttp.ClientSession) -> None:
        load = self.load
        added = [
            [text_of(load.suffix, self.texts, self.chance) for _ in range(load.turns)]
            for _ in range(len(self.sessions))
        ]

        async def one(number: int) -> None:
            if load.stagger_sec:
                await asyncio.sleep(load.stagger_sec * number / len(self.sessions))
            for text in added[number]:
                self.conversations[number].append({"role": "user", "content": text})
                self.seconds.append(await self.turn(http, number))

        if load.parallel:
            await asyncio.gather(*(one(number) for number in range(len(self.sessions))))
            return
        for turn in range(load.turns):
            for number in range(len(self.sessions)):
                self.conversations[number].append({"role": "user", "content": added[number][turn]})
                self.seconds.append(await self.turn(http, number))


async def main() -> None:
    if len(cores := os.sched_getaffinity(0) ^ set(range(os.cpu_count() or 1))):
        os.sched_setaffinity(0, cores)  # whoever started us has a core of its own
    work = json.loads(sys.stdin.readline())
    agents = Agents(Load(**work["load"]), work["sessions"])
    connector, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(auto_decompress=False, connector=connector, timeout=timeout) as http:
        await agents.begin(http)
        print("ready", flush=True)
        sys.stdin.readline()
        await agents.run(http)
    print("done", json.dumps(agents.seconds), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
