"""Sockets that whatever runs in a box may open and never use well: none costs much, none stays for ever."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import aiohttp
import pytest

from runtime.proxy import connections
from tests.runtime.proxy.conftest import Run, Running
from tests.runtime.proxy.driver import GO, chat, send

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]
KIB = 1 << 10


@contextlib.asynccontextmanager
async def sockets(it: Running):  # type: ignore[no-untyped-def]
    """``await opened(first bytes)`` opens one; all are closed in the end."""
    streams: list[Stream] = []

    async def opened(first: bytes = b"") -> Stream:
        streams.append(await asyncio.open_connection(it.server.host, it.server.port))
        streams[-1][1].write(first)
        await streams[-1][1].drain()
        return streams[-1]

    try:
        yield opened
    finally:
        for _, writer in streams:
            writer.close()


def head(it: Running, *, length: int, key: str | None = None) -> bytes:
    secret = it.session.secret if key is None else key
    lines = [f"POST {it.session.base_path}/v1/chat/completions HTTP/1.1", "host: x", f"content-length: {length}"]
    return "\r\n".join([*lines, f"x-api-key: {secret}", "", ""]).encode()


async def ending(stream: Stream) -> bytes:
    """All that comes until the server closes the connection."""
    with contextlib.suppress(ConnectionError):
        return await asyncio.wait_for(stream[0].read(), 30)
    return b""


async def answers(it: Running) -> None:
    status, body = await send(it, "/v1/chat/completions", chat([GO]))
    assert status == 200, body


def test_heads_without_end_are_closed_by_size_and_by_time(running: Run) -> None:
    async def main() -> None:
        async with running(["ok", "ok"], max_head_kib=8, head_timeout_sec=1.5) as it, sockets(it) as opened:
            start = f"GET {it.session.base_path}/v1/models HTTP/1.1\r\n".encode()
            silent, slow = await opened(), await opened(start + b"host: x\r\n")
            large = await opened(start + b"x: " + b"a" * 9 * KIB)
            many = await opened(start + b"".join(b"x%d: a\r\n" % number for number in range(2000)))
            for stream in (large, many):
                assert (await ending(stream)).startswith(b"HTTP/1.1 431 ")
            for stream in (silent, slow):
                assert (await ending(stream)).startswith(b"HTTP/1.1 408 ")
            await answers(it)
            # A second request on a kept connection has the same time, and one that is whole has all it needs.
            kept = await opened(start + b"host: x\r\nx-api-key: " + it.session.secret.encode() + b"\r\n\r\n" + start)
            assert (await ending(kept)).count(b"HTTP/1.1 ") == 2
            await answers(it)

    asyncio.run(main())


def test_trailers_of_a_chunked_body_are_a_head_too(running: Run) -> None:
    async def main() -> None:
        async with running(["ok"], max_head_kib=8) as it, sockets(it) as opened:
            begun = head(it, length=0).replace(b"content-length: 0", b"transfer-encoding: chunked")
            stream = await opened(begun + b"1\r\n{\r\n0\r\n" + b"x: " + b"a" * 20 * KIB)
            assert b"200" not in await ending(stream)
            await answers(it)

    asyncio.run(main())


def test_a_body_is_not_waited_for_without_a_key(running: Run) -> None:
    async def main() -> None:
        async with running([], head_timeout_sec=0.5) as it, sockets(it) as opened:
            for key in ("", "wrong"):
                stream = await opened(head(it, length=1 << 20, key=key) + b"{")
                assert (await ending(stream)).startswith(b"HTTP/1.1 401 ")

    asyncio.run(main())


def test_unfinished_bodies_are_bounded_together_and_free_their_room(running: Run) -> None:
    async def main() -> None:
        async with running(["ok", "ok"], max_body_mib=2, max_unfinished_mib=3) as it, sockets(it) as opened:
            other = it.server.open_session("other", it.session.limits)
            mine = [head(it, length=2 << 20) for _ in range(3)]
            theirs = head(it, length=2 << 20, key=other.secret).replace(it.session.base_path.encode(), b"/s/other")
            part = b" " * (900 * KIB)
            held: list[Stream] = []

            async def hold(begun: bytes) -> None:
                held.append(await opened(begun + part))
                while it.server.app._unfinished._total < len(held) * len(part):
                    await asyncio.sleep(0.01)

            await hold(mine[0])
            await hold(mine[1])
            third = await opened(mine[2] + part)  # with the others it is more than one body of a session may be
            answer = await third[0].readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 503 ") and b"retry-after: 1" in answer
            await hold(theirs)
            fourth = await opened(theirs + part)  # more than all may be
            assert (await fourth[0].readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 503 ")
            for _, writer in held:
                writer.close()
            while it.server.app._unfinished._total:
                await asyncio.sleep(0.01)
            await answers(it)
            assert not it.server.app._unfinished._by_session

    asyncio.run(main())


def test_connections_are_bounded_and_those_that_wait_make_room(running: Run) -> None:
    async def main() -> None:
        async with running(["ok", "ok"], max_connections=20) as it, sockets(it) as opened:
            request = f"GET {it.session.base_path}/v1/models HTTP/1.1\r\nhost: x\r\n".encode()
            request += b"x-api-key: " + it.session.secret.encode() + b"\r\n\r\n"
            idle = [await opened(request) for _ in range(10)]
            for reader, _ in idle:
                await reader.readuntil(b"\r\n\r\n")
            stuck = [await opened(request[:20]) for _ in range(20)]
            # The ten that waited were closed for the ones that came later.
            assert all([await ending(stream) for stream in idle])
            late = await opened(request)
            assert (await ending(late)).startswith(b"HTTP/1.1 503 ")
            assert b"liverl_proxy_connections_refused_total 1\n" in it.server.render_metrics()
            for _, writer in stuck:
                writer.close()
            while it.server.connections.open:
                await asyncio.sleep(0.01)
            await answers(it)

    asyncio.run(main())


def test_one_other_machine_cannot_take_all_connections(running: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_is_own", lambda address: False)

    async def main() -> None:
        async with running(["ok"], max_connections_per_address=3) as it, sockets(it) as opened:
            held = [await opened(b"GET") for _ in range(3)]
            assert (await ending(await opened(b"GET"))).startswith(b"HTTP/1.1 503 ")
            held[0][1].close()
            while it.server.connections.open > 2:
                await asyncio.sleep(0.01)
            await answers(it)

    asyncio.run(main())


def test_the_key_for_the_metrics_may_lie_in_a_file(running: Run, tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "key"
        async with running([], metrics_key_file=str(path)) as it, aiohttp.ClientSession() as client:
            it.server._own_key = b""
            url = f"http://{it.server.host}:{it.server.port}/metrics"

            async def status(key: str) -> int:
                async with client.get(url, headers={"authorization": f"Bearer {key}"}) as response:
                    return response.status

            assert await status("") == 401
            path.write_text("first\n")
            assert (await status("first"), await status("second"), await status("")) == (200, 401, 401)
            path.write_text("second")
            assert (await status("first"), await status("second")) == (401, 200)

    asyncio.run(main())
