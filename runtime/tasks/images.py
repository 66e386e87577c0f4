"""The images of tasks, fetched or built before anything is played; a task whose image is not to be had is named and
left out. It does not know how boxes are made of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from runtime.config import Environment
from runtime.errors import ImageError, Termination, TrialError, UserError
from runtime.oci.store import BUILT, ImageStore
from runtime.oci.types import Image
from runtime.task import Task, load_task
from runtime.task_format.task_image import ImageSource
from runtime.tasks.directories import OnProblem

WITH_IMAGES = ("bubblewrap", "docker", "kubernetes", "ecs")
"""Kinds of environment whose boxes can be made of an image of the task."""
ELSEWHERE = ("kubernetes", "ecs")
"""Those of them whose boxes lie on machines that fetch images themselves, so that what was built here is not there."""

_KEPT: dict[Path, ImageStore] = {}
"""By their roots: what was built is nowhere else, so it is held until this process ends."""


def with_images(
    tasks: Sequence[Task],
    *,
    environment: Environment,
    on_problem: OnProblem,
    say: Callable[[str], None],
    pins: Mapping[Path, str] = MappingProxyType({}),
) -> list[Task]:
    """The tasks, those with an image of their own loaded anew once that is here. pins: directory -> reference by digest
    that its image must be, whatever its tag means today. Raises ``MachineError`` for what all images lack (disk)."""
    if not any(task.work.source for task in tasks):
        return list(tasks)
    usable = []
    store = ImageStore.of(environment.images)
    try:
        for task in tasks:
            source = task.work.source
            if source is not None and environment.type not in WITH_IMAGES:
                on_problem(
                    f"{task.path}: needs the image {source}, of which environment.type {environment.type} makes no "
                    f"boxes; use {' or '.join(WITH_IMAGES)}"
                )
                continue
            if source is not None and source.reference is None and environment.type in ELSEWHERE:
                on_problem(
                    f"{task.path}: {source.dockerfile} is built for boxes of bubblewrap and docker only: what is "
                    f"built on this machine is in no registry; push an image and name it in environment.docker_image"
                )
                continue
            missing = task.image_missing
            if missing is not None and missing.dockerfile is not None and not environment.images.build:
                on_problem(
                    f"{task.path}: {missing.dockerfile} must be built, and its instructions would run on this machine "
                    "as root; if you trust its author, environment.images.build: true (`tasks verify --build`) builds "
                    "it; else name an image in environment.docker_image"
                )
                continue
            try:
                made = _with_image(task, store, environment, say, pins.get(task.path.resolve()))
                usable.append(made)
                _keep(made.work.image, store)
            except (ImageError, UserError) as error:
                on_problem(f"{task.path}: {error}")
            except TrialError as error:
                if error.termination is not Termination.TASK_INVALID:
                    raise
                on_problem(str(error))
    finally:
        store.close()
    return usable


def _with_image(
    task: Task, store: ImageStore, environment: Environment, say: Callable[[str], None], pin: str | None
) -> Task:
    source, here = task.work.source, task.work.image
    if source is None or (here is not None and pin in (None, here.reference)):
        return task
    if pin is not None and source.reference is not None:
        say(f"fetching {pin}")
        return load_task(task.path, image=store.pull(pin).digest)  # other runs' tags mean what they meant
    _obtain(source, store, environment, timeout_sec=task.config.environment.build_timeout_sec, say=say)
    return load_task(task.path)


def _keep(image: Image | None, store: ImageStore) -> None:
    """Raises ``ImageError`` where it was removed just now."""
    if image is not None and image.reference.startswith(BUILT):
        _KEPT.setdefault(store.root, ImageStore(store.root)).hold(image)


def _obtain(
    source: ImageSource, store: ImageStore, environment: Environment, *, timeout_sec: float, say: Callable[[str], None]
) -> None:
    if source.reference is not None:
        say(f"fetching {source.reference}")
        store.pull(source.reference)
        return
    from runtime.oci.build import build

    assert source.dockerfile is not None and source.context is not None
    say(f"building {source.dockerfile}")
    build(
        source.dockerfile,
        source.context,
        store=store,
        key=source.key,
        network=environment.images.build_network,
        timeout_sec=timeout_sec,
    )
