"""The two ways into one vLLM engine: the gate of a run on GPUs and vLLM's own HTTP server, with the same client.

    .venv-gpu/bin/python benchmarks/gate.py --model MODEL_DIR [--json] [-- FURTHER ARGUMENTS OF vllm serve]

Engine and both servers are a process of their own. Needs vLLM (``make install-gpu``), so ``make bench`` skips it.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runtime.proxy.upstream import VLLMEngine
from runtime.rollouter.engine import SamplingParams
from runtime.trainer.cuda.engine import GatedEngine

# Or the benchmark vllm.py, which lies beside this one, would be vLLM.
sys.path[:] = [place for place in sys.path if Path(place).resolve() != Path(__file__).resolve().parent]

KEY = "benchmark"
LOADS = ((1, 200, 1, 60), (1, 100, 8, 60), (64, 1200, 8, 200))
"""Calls at a time, calls, tokens of a reply, tokens of a prompt."""
SERVE = ("--served-model-name", "policy", "--generation-config", "vllm", "--logprobs-mode", "processed_logprobs")


class Server:
    """Implements ``runtime.trainer.cuda.gate.Server``: always open."""

    def __init__(self, engine: Any) -> None:
        from runtime.trainer.cuda.gate import ServedWeights

        self.engine, self.key, self.weights = engine, KEY, ServedWeights()
        self.weights.settle(0, sent="", served=None)

    def why_dead(self) -> str:
        return ""

    async def admit(self, request: str) -> bool:
        return True

    def landed(self) -> None:
        pass

    async def start(self, request: Any) -> Any:
        from runtime.trainer.cuda import calls

        return await calls.start(self.engine, request, adapter=None)


async def serve(model: str, further: list[str]) -> None:
    """Print the two addresses, then answer for ever."""
    import uvicorn
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.entrypoints.openai.api_server import build_app, init_app_state
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    from vllm.v1.engine.async_llm import AsyncLLM

    from runtime.trainer.cuda import gate

    parser = FlexibleArgumentParser()
    ServeSubcommand().subparser_init(parser.add_subparsers(dest="subparser"))
    arguments = parser.parse_args(["serve", model, *SERVE, *further])
    arguments.model = arguments.model_tag
    engine = AsyncLLM.from_vllm_config(AsyncEngineArgs.from_cli_args(arguments).create_engine_config())
    tasks = await engine.get_supported_tasks()
    own = build_app(arguments, supported_tasks=tasks, model_config=engine.model_config)
    await init_app_state(engine, own.state, arguments, tasks)
    gate.stand_before(Server(engine))
    running, urls = [], []
    for application in (gate.Gate(own), own):
        server = uvicorn.Server(uvicorn.Config(application, port=0, log_level="warning", lifespan="off"))
        running.append(asyncio.create_task(server.serve()))
        while not server.started:
            await asyncio.sleep(0.02)
        urls.append(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}")
    print("URLS", *urls, flush=True)
    await asyncio.gather(*running)


@contextmanager
def serving(model: str, further: list[str]) -> Iterator[tuple[str, str]]:
    command = [sys.executable, __file__, "--serve", "--model", model, "--", *further]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("URLS"):
                    _, ours, theirs = line.split()
                    yield ours, theirs
                    return
            raise SystemExit("vLLM did not start")
        finally:
            os.killpg(process.pid, signal.SIGTERM)  # the engine's own processes too
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


async def load(engine: VLLMEngine, at_a_time: int, calls: int, tokens: int, prompt: int) -> dict[str, float]:
    gate, seconds, sampled = asyncio.Semaphore(at_a_time), list[float](), 0

    async def one(number: int) -> None:
        nonlocal sampled
        ids = [3 + (number * 7 + place * 13) % 400 for place in range(prompt)]
        async with gate:
            began = time.perf_counter()
            found = await engine.generate(ids, SamplingParams(max_tokens=tokens), session=str(number))
            seconds.append(time.perf_counter() - began)
            sampled += len(found.token_ids)

    began = time.perf_counter()
    await asyncio.gather(*(one(number) for number in range(calls)))
    wall = time.perf_counter() - began
    return {"median_ms": round(sorted(seconds)[calls // 2] * 1e3, 2), "tokens_per_sec": round(sampled / wall)}


async def measure(ours: str, theirs: str) -> list[dict[str, Any]]:
    engines = {"gate": GatedEngine(ours, api_key=KEY), "vllm": VLLMEngine(theirs)}
    for engine in engines.values():
        await engine.connect()
        await load(engine, 32, 64, 8, 60)
    rows = []
    for at_a_time, calls, tokens, prompt in LOADS:
        for turn in range(2):
            for name, engine in engines.items():
                found = await load(engine, at_a_time, calls, tokens, prompt)
                rows.append({"way": name, "round": turn, "at_a_time": at_a_time, "tokens": tokens, **found})
    for engine in engines.values():
        await engine.close()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="A folder.")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("further", nargs="*")
    arguments = parser.parse_args()
    if arguments.model is None or importlib.util.find_spec("vllm") is None:
        print("skipped: give --model, in an environment with vLLM (make install-gpu)")
        return
    if arguments.serve:
        asyncio.run(serve(arguments.model, arguments.further))
        return
    with serving(arguments.model, arguments.further) as (ours, theirs):
        rows = asyncio.run(measure(ours, theirs))
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        print(*(f"{name} {value}" for name, value in row.items()), sep="  ")


if __name__ == "__main__":
    main()
