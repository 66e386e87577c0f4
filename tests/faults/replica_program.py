"""A replica of the soak: a process behind a real socket that can be killed, stopped and made to fail.

Spoken to as ``runtime.trainer.cuda.gate`` is, and it takes weights: ``POST /load`` with a version and a policy's
number. ``POST /fail``: so many of the next calls get a status. Each sampled token has a log-probability of its own,
over all replicas and all their lives, and before a reply leaves, the file ``log`` says which policy said which tokens
to whom. Started by ``soak.py`` with one argument, a ``Life`` in JSON; knows nothing of trials.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from dataclasses import dataclass
from typing import Any

from aiohttp import web

SCALE = 1024
"""Of a token's number in its log-probability, which has 24 bits for it."""


@dataclass(frozen=True)
class Life:
    """``words``: token ids of every word, in several ways, without the token that ends a reply; ``first_ends``: how
    many of those the first prompt of a session holds; ``numbered``: tokens are numbered from here on."""

    port: int
    log: str
    words: dict[str, list[list[int]]]
    end: int
    first_ends: int
    numbered: int
    parent: int


class ReplicaProcess:
    def __init__(self, life: Life) -> None:
        self._life = life
        self._log = os.open(life.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._next = life.numbered
        self._version, self._policy = 0, -1
        self._changed = asyncio.Event()
        self._failing: list[int] = []
        self.app = web.Application()
        self.app.router.add_post("/inference/v1/generate", self._generate)
        self.app.router.add_get("/liverl/identity", self._identity)
        self.app.router.add_post("/load", self._load)
        self.app.router.add_post("/fail", self._fail)

    async def _identity(self, _: web.Request) -> web.Response:
        return web.json_response({"version": self._version, "fingerprint": str(self._policy)})

    async def _load(self, request: web.Request) -> web.Response:
        body = await request.json()
        self._version, self._policy = body["version"], body["policy"]
        self._changed.set()
        self._changed = asyncio.Event()
        return web.json_response({})

    async def _fail(self, request: web.Request) -> web.Response:
        body = await request.json()
        self._failing += [body["status"]] * body["count"]
        return web.json_response({})

    async def _generate(self, request: web.Request) -> web.Response:
        body, session = await request.json(), request.headers["X-Session-ID"]
        if self._failing:
            return web.json_response({"error": "so it was told"}, status=self._failing.pop())
        prompt: list[int] = body["token_ids"]
        version, policy, changed = self._version, self._policy, self._changed
        dice = int.from_bytes(hashlib.sha256(session.encode()).digest()[:8], "big")
        first = prompt.count(self._life.end) <= self._life.first_ends
        word = "look" if first else "SOLVE" if dice % 100 < 55 else "BREAK" if dice % 100 < 90 else "CRASH"
        ways = self._life.words[word]
        ids = [*ways[(dice >> 8) % len(ways)], self._life.end]
        finish = "stop"
        try:
            await asyncio.wait_for(changed.wait(), (dice >> 16) % 30 / 1000)
        except TimeoutError:
            pass
        else:  # new weights cut it
            ids, finish = ids[: max(1, len(ids) // 2)], "abort"
        numbers = list(range(self._next, self._next + len(ids)))
        self._next += len(ids)
        said = {"session": session, "word": word, "policy": policy, "version": version}
        os.write(self._log, json.dumps({**said, "first": numbers[0], "count": len(numbers)}).encode() + b"\n")
        content = [{"logprob": -number / SCALE} for number in numbers]
        choice = {"token_ids": ids, "finish_reason": finish, "logprobs": {"content": content}}
        return web.json_response({"choices": [choice], "weight_version": version})

    async def live(self) -> None:
        runner = web.AppRunner(self.app, access_log=None, handler_cancellation=True, shutdown_timeout=0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self._life.port).start()
        while os.getppid() == self._life.parent:
            await asyncio.sleep(0.5)


async def main(said: dict[str, Any]) -> None:
    await ReplicaProcess(Life(**said)).live()


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
