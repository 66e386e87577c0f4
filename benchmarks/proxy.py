"""What a turn costs in the model proxy: CPU, event loop, memory, start, latency; and LiteLLM's proxy on the same work.

    python benchmarks/proxy.py [--json] [--only cost,peer,...]

A turn brings a suffix of about 1,000 tokens and gets a reply of 800 tokens, not streamed and as 200 events. In the
first part the engine answers in process at once, so that nothing but the proxy is measured; for the comparison both
proxies are processes of their own in front of one fake vLLM server. Agents are always another process. CPU time and not
wall time, so that a busy machine changes little; the loads of a round take turns, and ratios are medians over rounds.
``small_turn_cpu_ms`` is a turn of the quickstart: a prompt of 300 tokens, a reply of 8.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import _litellm
import orjson
import uvloop
from _litellm import Peer
from _proxy_load import REPLY_TOKENS, Load, corpus, model_folder
from rich.console import Console
from rich.table import Table

from runtime.config import Proxy
from runtime.proxy.codec import ChatCodec, load_codec
from runtime.proxy.server import ProxyServer
from runtime.proxy.types import SessionLimits
from runtime.rollouter.engine import Generation, SamplingParams

LIMITS = SessionLimits(prompt_length=1 << 20, response_length=1 << 20, max_tokens_per_turn=1 << 16)
AGENT = [sys.executable, str(Path(__file__).with_name("_proxy_load.py"))]
ROUNDS = 7
PEER_CONNECTIONS, PEER_ROUNDS = 16, 3

COST = (
    Load("turn", sessions=8, turns=4, history=8000),
    Load("turn_sse", sessions=8, turns=4, history=8000, stream=True),
    Load("small", sessions=40, turns=4, history=250, suffix=25, reply=8),
    Load("history_10k", sessions=8, turns=3, history=10_000),
    Load("history_120k", sessions=8, turns=3, history=120_000),
)
BIG = Load("tool_result_of_400_kB", sessions=1, turns=3, history=2000, suffix=97_500)
PACED = Load("paced", sessions=256, turns=3, history=4000, stream=True, parallel=True, stagger_sec=2.5, delay_sec=2.5)
LONG = Load("memory", sessions=16, turns=60, history=1000)
"""Conversations that reach 110,000 tokens, of which 44 % were sampled."""

ASKED: dict[str, tuple[Callable[[float, float], bool], float]] = {
    "cpu_ms_per_turn": (float.__le__, 4.0),
    "cpu_ms_per_turn_sse": (float.__le__, 5.0),
    "loop_ms_per_turn": (float.__le__, 2.0),
    "history_120k_over_10k": (float.__le__, 1.2),
    "loop_stall_ms": (float.__le__, 20.0),
    "paced_256_added_p99_ms": (float.__le__, 50.0),
    "memory_over_arrays": (float.__le__, 2.0),
    "cold_start_s": (float.__le__, 1.0),
    "litellm_ratio_openai": (float.__ge__, 5.0),
    "litellm_ratio_anthropic": (float.__ge__, 7.0),
    "litellm_ratio_sse": (float.__ge__, 30.0),
}
"""What the project asks of each figure."""


class InstantEngine:
    """Replies at once, or after ``delay_sec``, with tokens that were drawn before the measurement."""

    def __init__(self, codec: ChatCodec, text: str) -> None:
        ids = codec.tokens.encode(text)
        stop = codec.stop_token_ids[0]
        self._replies = {
            count: Generation([*ids[: count - 1], stop], [-0.5] * count, [0] * count, "stop")
            for count in (8, REPLY_TOKENS)
        }
        self.reply_tokens = REPLY_TOKENS
        self.delay_sec = 0.0

    def reply(self) -> list[int]:
        return list(self._replies[REPLY_TOKENS].token_ids)

    async def generate(self, prompt_ids: Sequence[int], params: SamplingParams, *, session: str) -> Generation:
        if self.delay_sec:
            await asyncio.sleep(self.delay_sec)
        return self._replies[self.reply_tokens]

    async def close(self) -> None:
        """Nothing is held."""


@dataclass
class Measured:
    """Of one load: CPU milliseconds per turn of the whole process and of the event loop's thread, the longest time that
    the event loop did not run, and seconds per turn as the agents saw them. ``growth``: resident bytes that the turns
    added, ``arrays``: bytes of the ids, log-probabilities and versions they hold.
    """

    cpu_ms: float
    loop_ms: float
    stall_ms: float = 0.0
    seconds: list[float] = field(default_factory=list)
    growth: int = 0
    arrays: int = 0


async def measure(
    load: Load, codec: ChatCodec, engine: InstantEngine, folder: Path, *, watch: bool = False
) -> Measured:
    """``watch``: look at the event loop every millisecond, which costs CPU itself."""
    engine.reply_tokens = load.reply
    server = ProxyServer(Proxy(), codec, engine, journal=folder / "journal.jsonl")
    await server.start()
    child = await asyncio.create_subprocess_exec(
        *AGENT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 24
    )
    assert child.stdin is not None and child.stdout is not None
    try:
        sessions = [server.open_session(f"{load.name}-{number}", LIMITS) for number in range(load.sessions)]
        base = f"http://{server.host}:{server.port}"
        work = {"load": vars(load), "sessions": [[base + session.base_path, session.secret] for session in sessions]}
        child.stdin.write(orjson.dumps(work) + b"\n")
        await expect(child.stdout, b"ready")
        engine.delay_sec = load.delay_sec
        memory, arrays = resident_bytes(), sum(map(array_bytes, sessions))
        ticks: list[float] = []
        ticker = asyncio.create_task(tick(ticks)) if watch else None
        process, thread = time.process_time(), time.thread_time()
        child.stdin.write(b"go\n")
        seconds = json.loads(await expect(child.stdout, b"done"))
        process, thread = time.process_time() - process, time.thread_time() - thread
        engine.delay_sec = 0.0
        if ticker is not None:
            ticker.cancel()
        memory, arrays = resident_bytes() - memory, sum(map(array_bytes, sessions)) - arrays
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
    stall = max((after - before for before, after in pairwise(ticks)), default=0.0)
    return Measured(process / count * 1e3, thread / count * 1e3, stall * 1e3, seconds, memory, arrays)


async def expect(stream: asyncio.StreamReader, word: bytes) -> bytes:
    """What stands behind ``word`` in the agents' next line."""
    line = await stream.readline()
    said, _, rest = line.strip().partition(b" ")
    if said != word:
        raise RuntimeError(f"the agent process said {line[:200]!r} instead of {word!r}")
    return rest


async def tick(ticks: list[float]) -> None:
    while True:
        ticks.append(time.perf_counter())
        await asyncio.sleep(0.001)


def resident_bytes() -> int:
    """Without what the allocator keeps for later."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def array_bytes(session: Any) -> int:
    return sum(
        len(ids) * ids.itemsize
        for node in session._forest.nodes
        for ids in (node.context_ids, node.sampled_ids, node.logprobs, node.weight_versions)
    )


# -- the parts


@dataclass(frozen=True)
class Bench:
    folder: Path
    codec: ChatCodec
    engine: InstantEngine

    async def cost(self) -> dict[str, Any]:
        await measure(COST[0], self.codec, self.engine, self.folder)  # warms up
        rounds = [
            {load.name: await measure(load, self.codec, self.engine, self.folder) for load in COST}
            for _ in range(ROUNDS)
        ]
        ratios = [one["history_120k"].cpu_ms / one["history_10k"].cpu_ms for one in rounds]

        def least(name: str, what: str = "cpu_ms") -> float:
            # Neighbours on the machine only ever add.
            return round(min(getattr(one[name], what) for one in rounds), 2)

        return {
            "cpu_ms_per_turn": least("turn"),
            "cpu_ms_per_turn_sse": least("turn_sse"),
            "loop_ms_per_turn": least("turn", "loop_ms"),
            "small_turn_cpu_ms": least("small"),
            "history_10k_cpu_ms": least("history_10k"),
            "history_120k_cpu_ms": least("history_120k"),
            "history_120k_over_10k": round(statistics.median(ratios), 3),
        }

    async def stall(self) -> dict[str, Any]:
        stalls = [
            (await measure(BIG, self.codec, self.engine, self.folder, watch=True)).stall_ms for _ in range(ROUNDS)
        ]
        return {"loop_stall_ms": round(min(stalls), 1)}

    async def paced(self) -> dict[str, Any]:
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(cores)})
        try:
            # The threads of a new proxy inherit the core.
            measured = await measure(PACED, self.codec, self.engine, self.folder)
        finally:
            os.sched_setaffinity(0, cores)
        added = sorted((seconds - PACED.delay_sec) * 1e3 for seconds in measured.seconds)
        return {
            "paced_256_added_p50_ms": round(added[len(added) // 2], 1),
            "paced_256_added_p99_ms": round(added[int(len(added) * 0.99)], 1),
        }

    async def memory(self) -> dict[str, Any]:
        """In a process of its own, whose heap nothing has used before."""
        command = [sys.executable, __file__, "--memory", str(self.folder)]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)
        grown, arrays = json.loads(done.stdout.splitlines()[-1])
        return {"memory_over_arrays": round(grown / arrays, 2)}

    async def peer(self) -> dict[str, Any]:
        reply = self.engine.reply()
        text = self.codec.tokens.decode(reply[:-1])
        figures: dict[str, Any] = {}
        with contextlib.ExitStack() as stack:
            url = stack.enter_context(_litellm.engine(self.folder, token_ids=reply, text=text))
            starts = []
            for _ in range(3):
                began = time.perf_counter()
                with _litellm.liverl(self.folder, engine_url=url, tokenizer=self.folder, connections=0):
                    starts.append(time.perf_counter() - began)
            figures["cold_start_s"] = round(min(starts), 2)
            try:
                theirs = stack.enter_context(
                    _litellm.litellm(self.folder, engine_url=url, connections=PEER_CONNECTIONS)
                )
            except RuntimeError as why:
                return figures | dict.fromkeys(PEER_LOADS) | {"litellm_reason": str(why)}
            for name, load in PEER_LOADS.items():
                with _litellm.liverl(
                    self.folder, engine_url=url, tokenizer=self.folder, connections=PEER_CONNECTIONS
                ) as ours:
                    for peer in (theirs, ours):
                        await compare(replace(load, turns=2), peer)  # warms up
                    rounds = [
                        {peer.name: await compare(load, peer) for peer in (ours, theirs)} for _ in range(PEER_ROUNDS)
                    ]
                for who in ("liverl", "litellm"):
                    figures[f"{name}_{who}_cpu_ms"] = round(statistics.median(one[who] for one in rounds), 2)
                figures[name] = round(statistics.median(one["litellm"] / one["liverl"] for one in rounds), 1)
        return figures


PEER_LOADS = {
    f"litellm_ratio_{name}": Load(
        name, PEER_CONNECTIONS, turns, history=7000, tools=10, parallel=True, stream=stream, dialect=dialect
    )
    for name, turns, stream, dialect in (
        ("openai", 6, False, "openai"),
        ("anthropic", 6, False, "anthropic"),
        ("sse", 3, True, "openai"),
        ("anthropic_sse", 3, True, "anthropic"),
    )
}  # type: ignore[arg-type]


async def compare(load: Load, peer: Peer) -> float:
    """CPU milliseconds per turn of the peer's process."""
    child = await asyncio.create_subprocess_exec(
        *AGENT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 24
    )
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write(orjson.dumps({"load": vars(load), "sessions": peer.sessions}) + b"\n")
    await expect(child.stdout, b"ready")
    cpu = peer.cpu_sec()
    child.stdin.write(b"go\n")
    await expect(child.stdout, b"done")
    cpu = peer.cpu_sec() - cpu
    await child.wait()
    return cpu / (load.sessions * load.turns) * 1e3


PARTS = ("cost", "stall", "paced", "memory", "peer")


async def run(parts: Sequence[str]) -> dict[str, Any]:
    texts = corpus()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        codec = load_codec(model_folder(folder, texts), "hermes")
        bench = Bench(folder, codec, InstantEngine(codec, max(texts, key=len)))
        for part in parts:
            figures |= await getattr(bench, part)()
    return figures


async def use_memory(folder: Path) -> None:
    codec = load_codec(folder, "hermes")
    engine = InstantEngine(codec, max(corpus(), key=len))
    measured = await measure(LONG, codec, engine, folder)
    print(json.dumps([measured.growth, measured.arrays]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--only", help=f"some of {','.join(PARTS)}")
    parser.add_argument("--memory", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        uvloop.run(use_memory(arguments.memory))
        return
    figures = uvloop.run(run(arguments.only.split(",") if arguments.only else PARTS))
    table = Table(title="Model proxy", title_justify="left")
    for column in ("figure", "value", "asked", ""):
        table.add_column(column, justify="left" if column == "figure" else "right")
    for name, value in figures.items():
        asked, verdict = "", ""
        if name in ASKED:
            holds, bound = ASKED[name]
            asked = f"{'<=' if holds is float.__le__ else '>='} {bound:g}"
            verdict = "-" if value is None else "yes" if holds(float(value), bound) else "no"
        table.add_row(name, "-" if value is None else str(value), asked, verdict)
    Console().print(table)
    print("LiteLLM relays the engine's events as they come; LiveRL replays a finished reply: not the same work.")
    if arguments.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
