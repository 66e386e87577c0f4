"""Debian's Chromium, driven by Playwright; and the page served from a thread beside it."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from runtime.page.library import Library
from runtime.page.server import Compare, make_app
from tests.toolbox import node_tools, python_tools, require_command

PATIENCE_MS = 120_000
"""For a machine that has other things to do: nothing is measured."""


@contextmanager
def chromium() -> Iterator[Any]:
    program = require_command("chromium", package="chromium")
    tools = python_tools("playwright")
    packages = str(next((tools.parent / "lib").glob("python3*/site-packages")))
    sys.path.append(packages)
    try:
        from playwright.sync_api import sync_playwright
    finally:
        sys.path.remove(packages)
    with sync_playwright() as playwright:
        # A container's root may not have user namespaces of Chromium's kind; the pages are our own.
        browser = playwright.chromium.launch(
            executable_path=program,
            args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
            timeout=PATIENCE_MS,
        )
        try:
            yield browser
        finally:
            browser.close()


class Watched:
    """A browser page; whatever it complains about is kept."""

    def __init__(self, browser: Any, **options: Any) -> None:
        self.page = browser.new_page(**options)
        self.page.set_default_timeout(PATIENCE_MS)
        self.complaints: list[str] = []
        self.page.on(
            "console", lambda one: self.complaints.append(one.text) if one.type in ("error", "warning") else None
        )
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))


@contextmanager
def served(runs_dir: Path, *, compare: Compare | None = None) -> Iterator[str]:
    """The address of the page over ``runs_dir``."""
    ready, address, ends = threading.Event(), [], []

    async def main() -> None:
        stop = asyncio.Event()
        runner = web.AppRunner(make_app(Library(runs_dir), compare=compare), access_log=None, shutdown_timeout=2.0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        address.append(f"http://127.0.0.1:{runner.addresses[0][1]}/")
        loop = asyncio.get_running_loop()
        ends.append(lambda: loop.call_soon_threadsafe(stop.set))
        ready.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: asyncio.run(main()), name="page")
    thread.start()
    try:
        assert ready.wait(60)
        yield address[0]
    finally:
        ends[0]()
        thread.join(30)


def until(page: Any, expression: str, argument: Any = None) -> None:
    """Wait for a function of the page to be true. Playwright's own way asks the page to make code of text, which its
    policy forbids."""
    deadline = time.monotonic() + PATIENCE_MS / 1000
    while not page.evaluate(expression, argument):
        assert time.monotonic() < deadline, expression
        page.wait_for_timeout(50)


def axe() -> str:
    """The source of axe, which finds what people with a disability cannot use."""
    folder = node_tools("axe").parent
    return (folder / "axe-core" / "axe.min.js").read_text()


def violations(page: Any, source: str) -> list[str]:
    """What axe finds on a page, in words. It is put in by the debugger, which the page's own policy does not bind."""
    page.evaluate(source + "\n;0")
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [f"{one['id']}: {one['help']}: {[node['html'] for node in one['nodes']][:3]}" for one in found["violations"]]
