"""Serving the page until somebody ends it: address, port, the words that say where it is."""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
from collections.abc import Callable

from aiohttp import web

from runtime.errors import MachineError
from runtime.page.library import Library
from runtime.page.server import Compare, make_app


def serve(
    library: Library, *, host: str, port: int, token: str | None, compare: Compare, say: Callable[[str], None]
) -> None:
    """Serve until SIGINT or SIGTERM. Raises ``MachineError`` where the address cannot be had."""
    asyncio.run(_serve(make_app(library, token=token, compare=compare), host, port, token, say))


async def _serve(app: web.Application, host: str, port: int, token: str | None, say: Callable[[str], None]) -> None:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        listener = await asyncio.to_thread(_listen, host, port)
        await web.SockSite(runner, listener).start()
        say(f"the page is at {address(host, listener.getsockname()[1], token)}   (Ctrl-C ends it)")
        done = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, done.set)
        await done.wait()
    finally:
        await runner.cleanup()


def address(host: str, port: int, token: str | None) -> str:
    """What to open in a browser."""
    name = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
    shown = f"[{name}]" if ":" in name else name
    return f"http://{shown}:{port}/" + (f"?token={token}" if token else "")


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(place[:2], family=family, backlog=128)
    except (OSError, UnicodeError) as error:  # a name that no name of a host can be
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        why = error.strerror if isinstance(error, OSError) else None
        raise MachineError(
            f"{host} port {port}: {why or error}",
            fix="name another with --port (0: any free one)"
            if taken
            else "name an address of this machine with --host",
        ) from error
