"""What is known of our pods, kept fresh by one list and one watch however many pods there are.

A cut watch goes on where it ended; a version that the server has forgotten (410) means listing again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from runtime.sandboxes.kubernetes import status
from runtime.sandboxes.kubernetes.api import Api, ApiError

log = logging.getLogger(__name__)

LOOK_SEC = 5.0
"""A waiter that hears nothing for so long asks for itself: news may have been lost."""
T = TypeVar("T")


class PodWatch:
    """Pods that carry ``selector``, by name. Use ``start`` and ``close`` on one event loop."""

    def __init__(self, api: Api, selector: str) -> None:
        self._api = api
        self._selector = selector
        self._pods: dict[str, dict[str, Any]] = {}
        self._gone: set[str] = set()
        self._news = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None
        self.lists = 0
        self.watches = 0

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._follow())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def ended(self, name: str, uid: str) -> bool:
        """Whether the pod was seen and has ended, is being deleted, or is not there any more."""
        pod = self._pods.get(name)
        if pod is None or pod["metadata"]["uid"] != uid:
            return uid in self._gone
        return status.death(pod, name) is not None

    def node(self, name: str) -> str | None:
        """Where the pod runs; None where that is not known."""
        found = (self._pods.get(name) or {}).get("spec", {}).get("nodeName")
        return str(found) if found else None

    async def wait(self, name: str, look: Callable[[dict[str, Any] | None], T | None], *, timeout_sec: float) -> T:
        """What ``look`` makes of the pod (None: gone) as soon as it makes something. Raises ``TimeoutError``."""
        deadline = time.monotonic() + timeout_sec
        pod = self._pods.get(name)
        found = look(pod) if pod is not None else None
        while found is None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            try:
                async with asyncio.timeout(min(left, LOOK_SEC)), self._news:
                    await self._news.wait_for(lambda seen=pod: self._pods.get(name) is not seen)  # type: ignore[misc]
                pod = self._pods.get(name)
            except TimeoutError:
                pod = await self._api.read(name)
            found = look(pod)
        return found

    async def _follow(self) -> None:
        while True:
            try:
                await self._list_and_watch()
            except asyncio.CancelledError:
                raise
            except Exception as error:  # a watch must outlive everything that the network and the server may do
                log.warning("watching pods: %r; listing again", error)
                await asyncio.sleep(0.5)

    async def _list_and_watch(self) -> None:
        pods, version = await self._api.list(self._selector)
        self.lists += 1
        async with self._news:
            now = {pod["metadata"]["name"]: pod for pod in pods}
            self._gone |= _uids(self._pods) - _uids(now)
            self._pods = now
            self._news.notify_all()
        while True:
            self.watches += 1
            began = time.monotonic()
            try:
                async for event in self._api.watch(self._selector, version):
                    pod = event["object"]
                    version = pod["metadata"]["resourceVersion"]
                    if event["type"] != "BOOKMARK":
                        await self._take(event["type"], pod)
            except ApiError as error:
                if error.status == 410:
                    return
                log.info("watching pods: %s", error)
            except (OSError, ValueError, TimeoutError) as error:
                log.info("watching pods: cut: %r", error)
            except Exception as error:
                import aiohttp

                if not isinstance(error, aiohttp.ClientError):
                    raise
                log.info("watching pods: cut: %r", error)
            if time.monotonic() - began < 1.0:
                await asyncio.sleep(0.5)  # a server that cuts at once is not asked in a busy loop

    async def _take(self, kind: str, pod: dict[str, Any]) -> None:
        async with self._news:
            if kind == "DELETED":
                self._gone.add(pod["metadata"]["uid"])
                self._pods.pop(pod["metadata"]["name"], None)
            else:
                self._pods[pod["metadata"]["name"]] = pod
            self._news.notify_all()


def _uids(pods: Mapping[str, dict[str, Any]]) -> set[str]:
    return {str(pod["metadata"]["uid"]) for pod in pods.values()}
