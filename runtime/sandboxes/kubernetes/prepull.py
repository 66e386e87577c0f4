"""Images of tasks onto the nodes of a cluster before the steps that want them: a pod for each image and node.

Nodes are those that boxes of this run have been on, so that no right beyond the namespace's is needed. Such a pod asks
for next to nothing and its container names a program that no image has: when the node has pulled the image it has done
what it is for, and is deleted. An image needs no shell for that. What cannot be pulled is left to who wants it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from runtime.config import KubernetesCluster
from runtime.oci.reference import mirrored
from runtime.sandboxes.ahead import BUILT, LOOK_SEC, Announced
from runtime.sandboxes.kubernetes import pods, status
from runtime.sandboxes.kubernetes.api import Api, ApiError
from runtime.sandboxes.kubernetes.watch import PodWatch
from runtime.sandboxes.leaving import Leaving

log = logging.getLogger(__name__)

AT_ONCE = 2
"""Images that one node pulls ahead at the same time."""
PULL_SEC = 1800.0
NOTHING = "/.liverl-nothing"


class Prepull:
    """images: so many beyond those of the tasks that were given out. Use on one event loop."""

    def __init__(
        self,
        settings: KubernetesCluster,
        *,
        run: str,
        owner: str,
        mirrors: Mapping[str, str],
        announced: Callable[[], Announced],
        images: int,
    ) -> None:
        self._settings, self._run, self._owner = settings, run, owner
        self._mirrors, self._announced = dict(mirrors), announced
        self._images = images if settings.image_pull_policy != "Never" else 0
        self._there: dict[str, set[str]] = {}
        """Node -> names of the images that it has, as far as this run knows."""
        self._tried: set[tuple[str, str]] = set()
        self._pulling: dict[str, set[asyncio.Task[None]]] = {}
        self._leaving = Leaving()
        self._task: asyncio.Task[None] | None = None
        self.counts: dict[str, float] = {}

    def start(self, api: Api, watch: PodWatch) -> None:
        if self._images and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._follow(api, watch))

    async def close(self) -> None:
        tasks = [one for of_node in self._pulling.values() for one in of_node]
        tasks += [self._task] if self._task is not None else []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._leaving.close()

    def started(self, node: str, image: str, *, seconds: float) -> None:
        """A box of a task's image runs on a node, so many seconds after it was asked for."""
        known = self._there.setdefault(node, set())
        name = mirrored(image, self._mirrors)
        more = {"image_hits": 1.0} if name in known else {"image_misses": 1.0, "image_fetch_sec": seconds}
        self._count(**more)
        known.add(name)

    def _count(self, **more: float) -> None:
        zero = dict.fromkeys(("image_hits", "image_misses", "image_fetch_sec", "images_ahead"), 0.0)
        self.counts = {name: value + more.get(name, 0.0) for name, value in {**zero, **self.counts}.items()}

    async def _follow(self, api: Api, watch: PodWatch) -> None:
        while True:
            await asyncio.sleep(LOOK_SEC)
            try:
                said = await asyncio.to_thread(self._announced)
                wanted = [*said.now, *said.coming[: self._images]]
                references = [one.reference for one in wanted if not one.reference.startswith(BUILT)]
                names = [mirrored(one, self._mirrors) for one in references]
                for node in self._there:
                    self._order(api, watch, node, names)
            except Exception:  # boxes pull what they need, whatever happens here
                log.exception("pulling images ahead")

    def _order(self, api: Api, watch: PodWatch, node: str, names: list[str]) -> None:
        """Let a node pull the next of these that it lacks."""
        running = self._pulling.setdefault(node, set())
        for name in names:
            if len(running) >= AT_ONCE:
                return
            if name in self._there[node] or (node, name) in self._tried:
                continue
            self._tried.add((node, name))
            task = asyncio.get_running_loop().create_task(self._pull(api, watch, node, name))
            running.add(task)
            task.add_done_callback(running.discard)

    async def _pull(self, api: Api, watch: PodWatch, node: str, image: str) -> None:
        pod = manifest(image, node, self._settings, run=self._run, owner=self._owner)
        name = pod["metadata"]["name"]
        began = time.monotonic()
        made = asyncio.ensure_future(api.create(pod, patience_sec=0.0))
        try:
            await asyncio.shield(made)
            done = await watch.wait(name, lambda one: status.pulled(one, image), timeout_sec=PULL_SEC)
            if done is True:
                self._there[node].add(image)
                self._count(images_ahead=1.0)
                log.info("node %s has %s, %.1f s", node, image, time.monotonic() - began)
            else:
                log.warning("image %s: not pulled ahead by node %s: %s", image, node, done)
        except (ApiError, TimeoutError) as error:
            if isinstance(error, ApiError) and "exceeded quota" in str(error):
                self._tried.discard((node, image))  # boxes have the quota; there may be room later
                return
            log.warning("image %s: not pulled ahead by node %s: %s", image, node, error or "too slow")
        finally:
            await self._leaving.await_(self._take_away(api, name, made))

    @staticmethod
    async def _take_away(api: Api, name: str, made: asyncio.Future[Any]) -> None:
        """Not before the pod is there: a request that is cancelled may still arrive."""
        await asyncio.wait({made})
        with contextlib.suppress(ApiError):
            await api.delete(name)


def manifest(image: str, node: str, settings: KubernetesCluster, *, run: str, owner: str) -> dict[str, Any]:
    """The pod that makes ``node`` pull ``image`` as its boxes would."""
    security: dict[str, Any] = {"seccompProfile": {"type": "RuntimeDefault"}}
    if settings.user is not None:
        security |= {"runAsNonRoot": True, "runAsUser": settings.user, "runAsGroup": settings.user}
    small = {"cpu": "10m", "memory": "16Mi", "ephemeral-storage": "16Mi"}
    here = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": int(PULL_SEC),
        "terminationGracePeriodSeconds": 1,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": security,
        # Not nodeName: the scheduler's own checks (taints, resources) are to hold here as for boxes.
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [here]}}},
        "containers": [
            {
                "name": pods.CONTAINER,
                "image": image,
                "imagePullPolicy": settings.image_pull_policy,
                "command": [NOTHING],
                "resources": {"limits": small, "requests": small},
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                    **({"readOnlyRootFilesystem": True} if settings.user is not None else {}),
                },
            }
        ],
    }
    pods.placed(spec, settings)
    labels = pods.labels(settings, run=run, owner=owner, ttl_sec=int(PULL_SEC), phase="prepull")
    metadata = {"name": pods.pod_name("pull"), "namespace": settings.namespace, "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
