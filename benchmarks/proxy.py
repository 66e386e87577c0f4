"""CPU milliseconds per turn of the model proxy: authentication, JSON, matching, rendering, encoding, decoding, journal.

A turn brings a suffix of about 1,000 tokens and gets a reply of 800 tokens, not streamed and as 200 events. The engine
answers in process at once, so that nothing but the proxy is measured; the agent is another process. CPU time and not
wall time, so that a busy machine changes little. ``small_turn_cpu_ms`` is a turn of the quickstart: a prompt of 300
tokens, a reply of 8.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import uvloop
from rich.console import Console
from rich.table import Table
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from runtime.config import Proxy
from runtime.proxy.codec import ChatCodec, load_codec
from runtime.proxy.server import ProxyServer
from runtime.proxy.types import SessionLimits
from runtime.rollouter.engine import Generation, SamplingParams

VOCABULARY = 16_000
SUFFIX_TOKENS = 1000
REPLY_TOKENS = 800
CHARACTERS_PER_TOKEN = 4.1
LIMITS = SessionLimits(prompt_length=1 << 20, response_length=1 << 20, max_tokens_per_turn=1 << 16)
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PEER_IS_MISSING = "the LiteLLM peer on the same engine is not built yet"


@dataclass(frozen=True)
class Load:
    """One measurement: ``sessions`` conversations that start with ``history`` tokens, then ``turns`` measured turns
    each.
    """

    name: str
    sessions: int
    turns: int
    history: int
    suffix: int
    reply: int
    stream: bool = False


class InstantEngine:
    """Replies at once with tokens that were drawn before the measurement."""

    def __init__(self, codec: ChatCodec, text: str) -> None:
        ids = codec.tokens.encode(text)
        stop = codec.stop_token_ids[0]
        self._replies = {
            count: Generation([*ids[: count - 1], stop], [-0.5] * count, [0] * count, "stop")
            for count in (8, REPLY_TOKENS)
        }
        self.reply_tokens = REPLY_TOKENS

    async def generate(self, prompt_ids: Sequence[int], params: SamplingParams, *, session: str) -> Generation:
        return self._replies[self.reply_tokens]

    async def close(self) -> None:
        """Nothing is held."""


def corpus() -> list[str]:
    """Python source of the standard library: what coding agents read."""
    return [path.read_text(errors="replace") for path in sorted(Path(json.__file__).parent.parent.glob("*.py"))]


def model_folder(folder: Path, texts: list[str]) -> Path:
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


# -- the agent: a process of its own


def text_of(tokens: int, texts: list[str], chance: random.Random) -> str:
    size = int(tokens * CHARACTERS_PER_TOKEN)
    whole = texts[chance.randrange(len(texts))]
    while len(whole) < size:
        whole += texts[chance.randrange(len(texts))]
    start = chance.randrange(len(whole) - size + 1)
    return whole[start : start + size]


async def agent() -> None:
    """Read the work from stdin, give each conversation its history, say ``ready``, wait for a line, run the turns."""
    work = json.loads(sys.stdin.readline())
    load = Load(**work["load"])
    texts = [text for text in corpus() if len(text) > 20_000]
    chance = random.Random(0)
    async with aiohttp.ClientSession(auto_decompress=False) as http:
        conversations: list[list[dict[str, Any]]] = []
        for url, secret in work["sessions"]:
            messages = [{"role": "system", "content": "You repair code."}]
            for number in range(max(1, load.history // SUFFIX_TOKENS)):
                role = ("user", "assistant")[number % 2]
                messages.append({"role": role, "content": text_of(min(load.history, SUFFIX_TOKENS), texts, chance)})
            messages.append({"role": "user", "content": "Go."})
            conversations.append(messages)
            await turn(http, url, secret, messages, load)
        print("ready", flush=True)
        sys.stdin.readline()
        for _ in range(load.turns):
            for (url, secret), messages in zip(work["sessions"], conversations, strict=True):
                messages.append({"role": "user", "content": text_of(load.suffix, texts, chance)})
                await turn(http, url, secret, messages, load)
        print("done", flush=True)


async def turn(http: aiohttp.ClientSession, url: str, secret: str, messages: list[dict[str, Any]], load: Load) -> None:
    body = orjson.dumps({"model": "policy", "messages": messages, "stream": load.stream})
    headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"}
    async with http.post(url, data=body, headers=headers) as response:
        answer = await response.read()
        if response.status != 200:
            raise RuntimeError(answer.decode())
    if load.stream:
        events = [orjson.loads(line[6:]) for line in answer.split(b"\n\n") if line.startswith(b"data: {")]
        content = "".join(event["choices"][0]["delta"].get("content", "") for event in events)
    else:
        content = orjson.loads(answer)["choices"][0]["message"]["content"]
    messages.append({"role": "assistant", "content": content})


# -- the proxy and the clock


async def measure(load: Load, codec: ChatCodec, engine: InstantEngine, folder: Path) -> tuple[float, float]:
    """CPU milliseconds per turn: of the whole process, and of the event loop's thread alone."""
    engine.reply_tokens = load.reply
    server = ProxyServer(Proxy(), codec, engine, journal=folder / "journal.jsonl")
    await server.start()
    child = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--agent", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert child.stdin is not None and child.stdout is not None
    try:
        sessions = [server.open_session(f"{load.name}-{number}", LIMITS) for number in range(load.sessions)]
        base = f"http://{server.host}:{server.port}"
        work = [[f"{base}{session.base_path}/v1/chat/completions", session.secret] for session in sessions]
        child.stdin.write(orjson.dumps({"load": vars(load), "sessions": work}) + b"\n")
        await expect(child.stdout, b"ready")
        process, thread = time.process_time(), time.thread_time()
        child.stdin.write(b"go\n")
        await expect(child.stdout, b"done")
        process, thread = time.process_time() - process, time.thread_time() - thread
        await child.wait()
        trajectory = await server.close_session(sessions[0].id)
        if len(trajectory.samples) != 1 or trajectory.num_turns != load.turns + 1:  # matching must have worked
            raise RuntimeError(f"{load.name}: the conversation did not stay in one piece")
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
        await server.close()
    count = load.sessions * load.turns
    return process / count * 1e3, thread / count * 1e3


async def expect(stream: asyncio.StreamReader, word: bytes) -> None:
    line = await stream.readline()
    if line.strip() != word:
        raise RuntimeError(f"the agent process said {line!r} instead of {word!r}")


LOADS = (
    Load("warm_up", sessions=2, turns=2, history=2000, suffix=SUFFIX_TOKENS, reply=REPLY_TOKENS),
    Load("turn", sessions=8, turns=4, history=8000, suffix=SUFFIX_TOKENS, reply=REPLY_TOKENS),
    Load("turn_sse", sessions=8, turns=4, history=8000, suffix=SUFFIX_TOKENS, reply=REPLY_TOKENS, stream=True),
    Load("small", sessions=40, turns=4, history=250, suffix=25, reply=8),
    Load("history_10k", sessions=8, turns=3, history=10_000, suffix=SUFFIX_TOKENS, reply=REPLY_TOKENS),
    Load("history_120k", sessions=8, turns=3, history=120_000, suffix=SUFFIX_TOKENS, reply=REPLY_TOKENS),
)

ROUNDS = 5


async def run() -> dict[str, Any]:
    texts = corpus()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        codec = load_codec(model_folder(folder, texts), "hermes")
        engine = InstantEngine(codec, max(texts, key=len))
        rounds = [{load.name: await measure(load, codec, engine, folder) for load in LOADS} for _ in range(ROUNDS)]
    # The least of several rounds, each with all loads: neighbours on the machine only ever add.
    cost = {load.name: min(measured[load.name] for measured in rounds) for load in LOADS}
    return {
        "cpu_ms_per_turn": round(cost["turn"][0], 2),
        "cpu_ms_per_turn_sse": round(cost["turn_sse"][0], 2),
        "loop_ms_per_turn": round(cost["turn"][1], 2),
        "small_turn_cpu_ms": round(cost["small"][0], 2),
        "history_10k_cpu_ms": round(cost["history_10k"][0], 2),
        "history_120k_cpu_ms": round(cost["history_120k"][0], 2),
        "history_120k_over_10k": round(cost["history_120k"][0] / cost["history_10k"][0], 3),
        "litellm_ratio_openai": None,
        "litellm_ratio_anthropic": None,
        "litellm_ratio_sse": None,
        "litellm_reason": PEER_IS_MISSING,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--agent", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.agent:
        asyncio.run(agent())
        return
    figures = uvloop.run(run())
    table = Table(title="Model proxy: CPU milliseconds per turn", title_justify="left")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in figures.items():
        table.add_row(name, "-" if value is None else str(value))
    Console().print(table)
    if arguments.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
