"""Which of vLLM's two endpoints an engine is asked by: found out once, from what the server says of them."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from runtime.proxy.upstream import COMPLETIONS, GENERATE, VLLMEngine
from runtime.rollouter.engine import SamplingParams
from tests.runtime.proxy.fake_vllm import FakeVLLM


@pytest.mark.parametrize(("closed", "path"), [(None, GENERATE), (403, COMPLETIONS), (404, COMPLETIONS)])
def test_an_endpoint_that_is_switched_off_is_as_good_as_none(closed: int | None, path: str) -> None:
    fake = FakeVLLM(lambda prompt: [7, 8], generate=closed is None)

    async def refuse(request: web.Request) -> web.Response:
        return web.json_response({"error": "not served"}, status=closed or 500)

    if closed is not None:
        fake.app.router.add_post(GENERATE, refuse)

    async def main() -> None:
        async with fake.serve() as url:
            engine = VLLMEngine(url)
            assert (await engine.connect()).path == path
            found = await engine.generate([1, 2], SamplingParams(max_tokens=2), session="s")
            assert list(found.token_ids) == [7, 8] and len(found.logprobs) == 2
            await engine.close()

    asyncio.run(main())
