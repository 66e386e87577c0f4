"""The live page over HTTP: static files from a fixed list, answers as JSON, news as server-sent events.

Knows routes and formats; what a run says comes from ``library``, who may ask from ``access``."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.resources import files
from typing import Any

import orjson
from aiohttp import web

from runtime.errors import UserError
from runtime.page.access import HEADERS, guard
from runtime.page.library import Library, Run
from runtime.page.prometheus import render
from runtime.report.panels import as_data

ASSETS: Mapping[str, str] = {
    "page.css": "text/css",
    "uPlot.min.css": "text/css",
    "uPlot.iife.min.js": "text/javascript",
    **{
        f"{name}.js": "text/javascript"
        for name in ("base", "plots", "overview", "groups", "trials", "trial", "tokens", "diagnosis", "main")
    },
    "icon.svg": "image/svg+xml",
}
"""Every file of the page but ``index.html``. What is not here is not served."""
NEWS_SEC = 1.0
Compare = Callable[[Sequence[Run]], list[dict[str, Any]]]
"""Differences of the specs of several runs, each held against the first."""
_LIBRARY: web.AppKey[Library] = web.AppKey("library", Library)
_COMPARE: web.AppKey[Compare] = web.AppKey("compare")
_NEWS: web.AppKey[News] = web.AppKey("news")


def asset(name: str) -> bytes:
    return (files("runtime.page") / "assets" / name).read_bytes()


class News:
    """What changed below the runs folder: looked for once a second while anybody listens."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._listeners: set[asyncio.Queue[list[str] | None]] = set()
        self._task: asyncio.Task[None] | None = None

    def listen(self) -> asyncio.Queue[list[str] | None]:
        queue: asyncio.Queue[list[str] | None] = asyncio.Queue(maxsize=100)
        self._listeners.add(queue)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._watch())
        return queue

    def leave(self, queue: asyncio.Queue[list[str] | None]) -> None:
        self._listeners.discard(queue)

    async def close(self) -> None:
        """End every stream, or the server would wait for them."""
        for queue in self._listeners:
            with suppress(asyncio.QueueFull):
                queue.put_nowait(None)
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _watch(self) -> None:
        known = await asyncio.to_thread(self._stamps)
        while self._listeners:
            await asyncio.sleep(NEWS_SEC)
            now = await asyncio.to_thread(self._stamps)
            changed = [name for name in {**known, **now} if known.get(name) != now.get(name)]
            known = now
            for queue in [*self._listeners] if changed else ():
                with suppress(asyncio.QueueFull):  # one that does not read learns of the next change
                    queue.put_nowait(changed)

    def _stamps(self) -> dict[str, Any]:
        return {run.name: run.stamp() for run in self._library.runs()}


def make_app(library: Library, *, token: str | None = None, compare: Compare | None = None) -> web.Application:
    """``token``: asked of everybody; None: of nobody, and only this machine is answered. ``compare``: how specs are
    held against each other, where somebody can."""
    app = web.Application(middlewares=[guard(token)])
    app[_LIBRARY] = library
    app[_COMPARE] = compare or (lambda runs: [])
    app[_NEWS] = News(library)
    app.router.add_get("/", _index)
    app.router.add_get("/assets/{name}", _asset)
    app.router.add_get("/events", _events)
    app.router.add_get("/metrics", _metrics)
    app.router.add_get("/api/runs", _runs)
    app.router.add_get("/api/panels", _panels)
    app.router.add_get("/api/differences", _differences)
    for name, answer in _VIEWS.items():
        app.router.add_get("/api/run/{experiment}/{run}/" + name, _view(answer))

    async def close(_: web.Application) -> None:
        await app[_NEWS].close()
        library.close()

    app.on_shutdown.append(close)
    return app


def as_json(value: Any) -> bytes:
    """Numbers that JSON does not know become null; text that no encoding holds is escaped."""
    try:
        return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
    except orjson.JSONEncodeError:
        import json

        # The other library alone escapes such text, and knows no null for such numbers.
        return json.dumps(_without_nan(value), allow_nan=False).encode()


def _without_nan(value: Any) -> Any:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {key: _without_nan(one) for key, one in value.items()}
        case list() | tuple():
            return [_without_nan(one) for one in value]
    return value


def _json(value: Any) -> web.Response:
    return web.Response(body=as_json(value), content_type="application/json")


async def _index(request: web.Request) -> web.Response:
    return web.Response(body=asset("index.html"), content_type="text/html", charset="utf-8")


async def _asset(request: web.Request) -> web.Response:
    name = request.match_info["name"]
    if name not in ASSETS:
        raise web.HTTPNotFound
    return web.Response(body=asset(name), content_type=ASSETS[name], charset="utf-8")


async def _runs(request: web.Request) -> web.Response:
    """All of them, or those that are named: what a page that has the others asks for when they changed."""
    return _json(await asyncio.to_thread(request.app[_LIBRARY].briefs, request.query.getall("run", [])))


async def _metrics(request: web.Request) -> web.Response:
    text = await asyncio.to_thread(lambda: render(request.app[_LIBRARY].runs()))
    return web.Response(text=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


async def _panels(request: web.Request) -> web.Response:
    return _json(as_data())


async def _differences(request: web.Request) -> web.Response:
    chosen = [_known(request, name) for name in request.query.getall("run", [])]
    return _json(await asyncio.to_thread(request.app[_COMPARE], chosen))


def _known(request: web.Request, name: str) -> Run:
    run = request.app[_LIBRARY].run(name)
    if run is None:
        raise web.HTTPNotFound(text="no such run\n")
    return run


def _number(request: web.Request, name: str, default: int) -> int:
    try:
        return int(request.query.get(name, default))
    except ValueError:
        raise web.HTTPBadRequest(text=f"{name}: not a number\n") from None


_VIEWS: Mapping[str, Callable[[Run, web.Request], Any]] = {
    "overview": lambda run, request: run.overview(),
    "curves": lambda run, request: run.curves(since=_number(request, "since", -1)),
    "supervised": lambda run, request: run.supervised(),
    "groups": lambda run, request: run.groups(),
    "diagnosis": lambda run, request: run.diagnosis(),
    "trials": lambda run, request: run.trials(request.query),
    "trial": lambda run, request: run.trial(request.query.get("step", ""), request.query.get("id", "")),
    "tokens": lambda run, request: run.tokens(
        request.query.get("step", ""), request.query.get("id", ""), _number(request, "sample", 0)
    ),
}
"""What can be asked of one run."""


def _view(answer: Callable[[Run, web.Request], Any]) -> Callable[[web.Request], Any]:
    async def handler(request: web.Request) -> web.Response:
        run = _known(request, f"{request.match_info['experiment']}/{request.match_info['run']}")
        try:
            found = await asyncio.to_thread(answer, run, request)
        except UserError as error:  # a record that cannot be read: the page says what is wrong with it
            raise web.HTTPUnprocessableEntity(text=f"{error}\n") from None
        if found is None:
            raise web.HTTPNotFound(text="no such trial\n")
        return _json(found)

    return handler


async def _events(request: web.Request) -> web.StreamResponse:
    """An event ``change`` with the names of the runs that changed."""
    response = web.StreamResponse(headers={**HEADERS, "Content-Type": "text/event-stream"})
    await response.prepare(request)
    news = request.app[_NEWS]
    queue = news.listen()
    try:
        await response.write(b"retry: 2000\n\n")
        while True:
            try:
                changed = await asyncio.wait_for(queue.get(), 15.0)
                if changed is None:
                    return response
                await response.write(b"event: change\ndata: " + as_json(changed) + b"\n\n")
            except TimeoutError:
                await response.write(b": still here\n\n")
    except (ConnectionError, asyncio.CancelledError):
        return response
    finally:
        news.leave(queue)
