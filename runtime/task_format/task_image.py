"""Which image a task's boxes are made of: ``docker_image``, what a Dockerfile makes that does more than copy files
(``work_directory.py`` says which do), or the service of a Compose file that has one. Fetching and building are for
whoever prepares tasks (``runtime/tasks/images.py``).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from runtime.oci.reference import parse

COMPOSE = "docker-compose.yaml"
_HARMLESS = {"command", "container_name", "entrypoint", "init", "restart", "stdin_open", "tty", "pull_policy"}
"""Of a service: of no effect on a box whose commands are started from outside."""


@dataclass(frozen=True)
class ImageSource:
    """``key``: the name under which the store knows what came of it. ``dockerfile``: to be built with ``context`` (or
    None: ``reference`` is to be fetched). ``loose``: files beside it that Harbor puts into the work directory."""

    key: str
    reference: str | None = None
    dockerfile: Path | None = None
    context: Path | None = None
    loose: Path | None = None

    def __str__(self) -> str:
        return self.reference or f"that {self.dockerfile} builds"


class NoImage(Exception):
    """What is wrong with a task's image, as ``problems``."""

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def image_source(environment: Path, docker_image: str | None) -> ImageSource | None:
    """The image that a task names, or its Compose file; None where neither does. Raises ``NoImage``."""
    compose = environment / COMPOSE
    dockerfile, context = environment / "Dockerfile", environment
    if compose.is_file():
        named, dockerfile, context = _of_service(compose)
        docker_image = docker_image or named
    if docker_image is not None:
        try:
            reference = str(parse(docker_image))
        except ValueError as error:
            raise NoImage(f"task.toml: environment.docker_image: {error}") from error
        bare = not dockerfile.exists() and not compose.exists()
        files = bare and any(environment.iterdir()) if environment.is_dir() else False
        return ImageSource(reference, reference, loose=environment if files else None)
    return built(dockerfile, context) if compose.is_file() else None


def built(dockerfile: Path, context: Path) -> ImageSource:
    """The image that a Dockerfile makes."""
    return ImageSource(f"build:{_digest(dockerfile, context)}", dockerfile=dockerfile, context=context)


def _of_service(compose: Path) -> tuple[str | None, Path, Path]:
    """Image, Dockerfile and build context of the only service of a Compose file."""
    try:
        found = yaml.safe_load(compose.read_text(encoding="utf-8"))
        services = dict(found["services"])
        ((name, service),) = services.items()
        service = dict(service or {})
    except (yaml.YAMLError, TypeError, KeyError, OSError) as error:
        raise NoImage(f"environment/{COMPOSE}: cannot be read: {error}") from error
    except ValueError:
        names = ", ".join(services)
        raise NoImage(f"environment/{COMPOSE}: a task has one box; the services {names} are not started") from None
    at = f"environment/{COMPOSE}: services.{name}"
    problems = [
        f"{at}.{key}: not done here; write it into the Dockerfile or task.toml"
        for key in service
        if key not in {"image", "build", *_HARMLESS}
    ]
    problems += [
        f"environment/{COMPOSE}: {key}: not done here" for key in found if key not in ("services", "version", "name")
    ]
    build = service.get("build")
    build = {"context": build} if isinstance(build, str) else build
    if not isinstance(build, Mapping | None):
        problems.append(f"{at}.build: neither a folder nor a table")
        build = None
    if build is None and not isinstance(service.get("image"), str):
        problems.append(f"{at}: has neither image nor build")
    fields: dict[str, Any] = dict(build or {})
    problems += [f"{at}.build.{key}: not done here" for key in fields if key not in ("context", "dockerfile")]
    root = compose.parent
    context = Path(os.path.normpath(root / str(fields.get("context", "."))))
    dockerfile = Path(os.path.normpath(context / str(fields.get("dockerfile", "Dockerfile"))))
    if not context.is_relative_to(root) or not dockerfile.is_relative_to(root):
        problems.append(f"{at}.build: leaves environment/")
    if build is not None and not problems and not dockerfile.is_file():
        problems.append(f"{at}.build: no {dockerfile.relative_to(root)} in environment/")
    if problems:
        raise NoImage(*problems)
    return (None if build is not None else str(service["image"])), dockerfile, context


def _digest(dockerfile: Path, context: Path) -> str:
    """Of everything that a build reads."""
    total = hashlib.sha256(dockerfile.read_bytes())
    for path in sorted(context.rglob("*")):
        if path.is_symlink():
            what = b"link\0" + os.fsencode(path.readlink())
        elif path.is_file():
            mode = b"%o" % (path.stat().st_mode & 0o777)
            what = b"file\0" + mode + hashlib.sha256(path.read_bytes()).digest()
        elif path.is_dir():
            what = b"folder"
        else:
            continue
        total.update(os.fsencode(path.relative_to(context)) + b"\0" + what + b"\0")
    return total.hexdigest()
