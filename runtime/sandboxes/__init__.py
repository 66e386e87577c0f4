"""Sandboxes: makes the provider that a run's settings ask for.

Callers elsewhere need only this and the protocols of ``base.py``; what a box is used for is their business.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.errors import MachineError
from runtime.sandboxes import images
from runtime.sandboxes.ahead import Announced, FetchAhead, Shelf, Wanted
from runtime.sandboxes.defences import check_network, check_provider
from runtime.sandboxes.state import reap

if TYPE_CHECKING:
    from runtime.config import Bubblewrap, Docker, Ecs, Environment, Harbor, Images, Imported, Kubernetes, PlainProcess
    from runtime.sandboxes.base import SandboxProvider
    from runtime.sandboxes.docker.connection import Connection
    from runtime.sandboxes.fair_queue import FairQueue

log = logging.getLogger(__name__)

IMAGE_ORDER = "data/image-order.json"
"""Below the run directory."""
IDLE_KINDS = 4
"""Boxes are kept ready for this many kinds of request: the agents' and the verifier's of two tasks."""


def make_provider(config: Environment, *, state: Path, queue: FairQueue | None = None) -> SandboxProvider:
    """The provider of ``config.type``, or plain processes with a loud warning where the machine cannot isolate.

    state: folder for what sandboxes leave on the host; what dead owners left there is removed now. queue: shared with
    other runs of this process, in place of ``max_sandboxes`` for this one alone. Raises ``MachineError`` when isolation
    or a required defence is not to be had, or the folder cannot be made.
    """
    provider = _make(config, state)
    bounds = (config.max_sandboxes, config.machine_sandboxes, queue)
    if not config.warm_sandboxes and all(bound is None for bound in bounds):
        return provider
    from runtime.sandboxes.fair_queue import FairQueue
    from runtime.sandboxes.machine_semaphore import MachineSemaphore
    from runtime.sandboxes.pool import PooledProvider

    count = config.machine_sandboxes
    folder = images.default_cache().parent / "places"
    return PooledProvider(
        provider,
        warm=config.warm_sandboxes,
        max_idle=IDLE_KINDS * config.warm_sandboxes,
        queue=queue or FairQueue(config.max_sandboxes),
        run=run_label(),
        shared=MachineSemaphore(folder, count) if count is not None else None,
    )


def _make(config: Environment, state: Path) -> SandboxProvider:
    if config.type == "bubblewrap" or config.type == "process":
        return _local(config, state)
    if config.type == "docker":
        return _docker(config, state)
    remote = _remote(config, state)
    check_provider(config.required_defences, remote.capabilities)
    check_network(config.network, remote.capabilities)
    return remote


def _local(config: Bubblewrap | PlainProcess, state: Path) -> SandboxProvider:
    from runtime.oci.store import ImageStore
    from runtime.sandboxes import bwrap
    from runtime.sandboxes.bubblewrap import BubblewrapProvider, StoreShelf
    from runtime.sandboxes.process import ProcessProvider

    why = "environment.type is 'process'" if config.type == "process" else bwrap.why_impossible()
    if why is not None and config.type == "bubblewrap" and config.require_isolation:
        raise MachineError(f"sandboxes are not isolated: {why}", fix=bwrap.INSTALL)
    provider: SandboxProvider
    try:
        if why is None:
            store = ImageStore.of(config.images, coming=coming_images)
            provider = BubblewrapProvider(state=state, store=store, ahead=_ahead(StoreShelf(store), config.images))
            check_provider(config.required_defences, provider.capabilities)
            return provider
        log.warning(
            "NO ISOLATION: agents and tests run as plain processes with your rights and your network (%s); cure: %s",
            why,
            bwrap.INSTALL,
        )
        provider = ProcessProvider(state=state)
        check_provider(config.required_defences, provider.capabilities)
        check_network(config.network, provider.capabilities)
        return provider
    except OSError as error:
        fix = f"free space below {state}, or make it writable"
        raise MachineError(f"{state}: {error.strerror}", fix=fix) from error


def _ahead(shelf: Shelf, settings: Images) -> FetchAhead:
    return FetchAhead(shelf, announced_images, images=settings.ahead, mib_per_sec=settings.ahead_mib_per_sec)


def _remote(config: Kubernetes | Ecs | Harbor | Imported, state: Path) -> SandboxProvider:
    if config.type == "kubernetes":
        from runtime.sandboxes.kubernetes import KubernetesProvider

        found = config.images
        more: dict[str, Any] = {"mirrors": found.mirrors, "announced": announced_images, "ahead": found.ahead}
        return KubernetesProvider(config.kubernetes, run=run_label(), **more)
    if config.type == "ecs":
        from runtime.sandboxes.ecs import EcsProvider

        return EcsProvider(config.ecs, run=run_label(), mirrors=config.images.mirrors)
    if config.type == "harbor":
        from runtime.sandboxes.harbor.provider import HarborProvider

        return HarborProvider(config.harbor)
    from runtime.imported import make, refused

    settings, field = config.imported, "environment.imported.import_path"
    made: SandboxProvider = make(settings.import_path, field=field, kwargs=settings.kwargs, state=state)
    if lacking := [name for name in ("capabilities", "counts", "start", "close") if not hasattr(made, name)]:
        why = f"has no {', '.join(lacking)} (runtime.sandboxes.base.SandboxProvider)"
        raise refused(settings.import_path, TypeError(why), field=field)
    return made


def coming_images() -> list[str]:
    """Digests of the images that this run will want, in that order, as its trainer last announced them."""
    said = announced_images()
    return [one.digest for one in (*said.now, *said.coming)]


def announced_images() -> Announced:
    """What the trainer of this run last announced; empty outside of one."""
    folder = os.environ.get("LIVERL_RUN_DIR")
    try:
        found = json.loads((Path(folder) / IMAGE_ORDER).read_bytes()) if folder else {}
        return Announced(*(tuple(Wanted(*one) for one in found.get(name, ())) for name in ("now", "coming")))
    except (OSError, ValueError, TypeError, AttributeError):
        return Announced()


def run_label() -> str:
    """Names what belongs to this run on other people's machines; without a run, to this process."""
    folder = os.environ.get("LIVERL_RUN_DIR")
    # Several agent-loop workers of a run have boxes of their own, which their successors remove.
    number = os.environ.get("LIVERL_AGENT_LOOP_WORKER", "").partition(".")[0]
    own = f"worker-{number}-" if number else ""
    return f"{own}{Path(folder).name}" if folder else f"process-{os.getpid()}-{secrets.token_hex(4)}"


def _docker(config: Docker, state: Path) -> SandboxProvider:
    from runtime.sandboxes.docker.provider import DockerProvider

    check_provider(config.required_defences, DockerProvider.capabilities)
    return DockerProvider(
        _engine(config), state=state, base=config.base_image, images=config.images, announced=announced_images
    )


def _engine(config: Docker) -> Connection:
    from runtime.sandboxes.docker.connection import connection

    return connection(config.docker_host, certificates=config.docker_certificates, plaintext=config.docker_plaintext)


_LOCK_SEC = 10.0


def clear_up(config: Environment | None, states: Sequence[Path]) -> bool:
    """Remove what owners below ``states``, all of them dead, left: on this host, and their containers, which nobody
    would know of any more. config: None where a run's is not to be had. Blocks. False when some of it still stands;
    the folder that names it does too, then."""
    owners = [owner for state in states for owner in reap(state, patience_sec=_LOCK_SEC)]
    if owners and config is not None and config.type == "docker":
        from runtime.sandboxes.docker.provider import remove_left

        try:
            remove_left(owners, _engine(config))
        except (MachineError, OSError) as error:
            log.warning("containers of %d dead owners may be left: %s", len(owners), error)
    left = [str(folder) for state in states for folder in state.glob("owner-*")]
    if left:
        log.warning("not all of it could be removed; the next start of the run tries again: %s", ", ".join(left))
    return not left
