"""A cluster in the test's own event loop, and a provider that talks to it through the official client."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("kubernetes.aio", reason="pip install 'kubernetes>=37'")

from runtime.config import KubernetesCluster
from runtime.sandboxes.kubernetes import KubernetesProvider

from ..conftest import needs_bubblewrap as needs_bubblewrap
from .cluster import IMAGE, Cluster

Body = Callable[[], Coroutine[Any, Any, Any]]


class Stage:
    """``play`` runs a coroutine with ``cluster`` up and ``provider`` connected; afterwards nothing may be left."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.cluster = Cluster()
        self.changes: dict[str, Any] = {}
        self.provider: KubernetesProvider
        self.settings: KubernetesCluster

    def play(self, body: Body) -> Any:
        async def main() -> Any:
            await self.cluster.start()
            self.settings = KubernetesCluster(
                image=self.changes.pop("image", IMAGE),
                kubeconfig=str(self.cluster.kubeconfig(self._folder / "kubeconfig")),
                proxy_host="127.0.0.1",
                **self.changes,
            )
            self.provider = KubernetesProvider(self.settings, run="run-1")
            try:
                async with asyncio.timeout(280):
                    return await body()
            finally:
                await self.provider.close()
                await asyncio.sleep(0)
                left = [name for name, pod in self.cluster.pods.items() if not pod["metadata"].get("deletionTimestamp")]
                await self.cluster.close()
                self.left = left

        return asyncio.run(main())


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    assert made.left == [], "pods that nobody deleted"
