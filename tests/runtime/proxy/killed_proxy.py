"""A proxy to be killed: serves one session around a scripted engine, prints where, and goes on until it dies.

``python -m tests.runtime.proxy.killed_proxy MODEL JOURNAL``
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from pathlib import Path

from runtime.config import Proxy
from runtime.proxy.codec import load_codec
from runtime.proxy.server import ProxyServer
from runtime.proxy.types import SessionLimits
from tests.runtime.proxy.scripted_engine import Call, ScriptedEngine


async def main(model: Path, journal: Path) -> None:
    chance = random.Random(0)

    async def script(call: Call) -> str:
        await asyncio.sleep(chance.random() * 0.004)
        return "word " * chance.randrange(1, 60)

    codec = load_codec(model, "compact")
    server = ProxyServer(Proxy(), codec, ScriptedEngine(codec, script), journal=journal)
    await server.start()
    limits = SessionLimits(prompt_length=5000, response_length=1_000_000, max_tokens_per_turn=400)
    session = server.open_session("s", limits)
    print(
        json.dumps({"url": f"http://{server.host}:{server.port}{session.base_path}", "key": session.secret}), flush=True
    )
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
