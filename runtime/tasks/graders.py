"""Sandboxes and a verifier for making and proving tasks, and an event loop to do so in from anywhere.

It does not know what is proven.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from runtime.config import Environment
from runtime.grading.base import Verifier
from runtime.sandboxes.base import SandboxProvider

_T = TypeVar("_T")


@asynccontextmanager
async def graders(environment: Environment, *, state: Path) -> AsyncIterator[tuple[SandboxProvider, Verifier]]:
    """A provider and a verifier, closed in the end. A proof, or a later verdict, is never an earlier one again."""
    from runtime.grading.make import make_verifier
    from runtime.sandboxes import make_provider

    environment = environment.model_copy(update={"reuse_verdicts": False})
    provider = make_provider(environment, state=state)
    try:
        verifier = make_verifier(environment, provider)
        try:
            yield provider, verifier
        finally:
            await verifier.close()
    finally:
        await provider.close()


def in_own_loop(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine to its end in a loop and thread of its own, so that callers may have a running loop.

    An interrupt of the caller (Ctrl-C) cancels the work and waits for its clean-up.
    """
    started = threading.Event()
    running: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any] | None]] = []

    async def main() -> _T:
        running.append((asyncio.get_running_loop(), asyncio.current_task()))
        started.set()
        return await work

    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(asyncio.run, main())
        try:
            return future.result()
        except BaseException:
            if not future.done():
                started.wait()
                loop, task = running[0]
                if task is not None:
                    loop.call_soon_threadsafe(task.cancel)
            raise
