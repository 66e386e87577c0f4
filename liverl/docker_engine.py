"""What ``liverl run --target docker`` asks the engine before it starts Compose, tells Compose of LiveRL's source, and
asks how the container ended.

Speaks through the ``docker`` program alone. The bundle names no path: it may lie anywhere.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import liverl
from runtime.errors import MachineError, RunError

OLDEST = (20, 10)
"""The first engine whose builder is BuildKit; Debian 11's and 12's."""
SOURCE, DOCKERFILE = "LIVERL_SOURCE", "LIVERL_DOCKERFILE"


def prepare(folder: Path, resolved: Mapping[str, Any]) -> dict[str, str]:
    """Variables for Compose. Raises ``MachineError`` where the bundle in ``folder`` could not be started here.

    ``resolved``: the bundle's ``resolved.json``."""
    told = _docker("info", "--format", "{{.ServerVersion}} {{.NCPU}}")
    if told.returncode != 0:
        said = (told.stderr.strip().splitlines() or ["no words"])[-1]
        raise MachineError(f"no Docker engine answers: {said}", fix="sudo systemctl start docker, or set DOCKER_HOST")
    if (version := re.match(r"(\d+)\.(\d+)", told.stdout)) and (int(version[1]), int(version[2])) < OLDEST:
        raise MachineError(f"the Docker engine is {version[0]}; 20.10 builds the image", fix="install a newer engine")
    if _docker("compose", "version").returncode != 0:
        raise MachineError(
            "docker has no plug-in compose, version 2", fix="https://docs.docker.com/compose/install/linux/"
        )
    _check_cores(told.stdout.split()[-1:], resolved)
    root = Path(os.environ.get(SOURCE) or Path(liverl.__file__).parents[1]).absolute()
    if (root / "pyproject.toml").is_file():
        return {SOURCE: str(root), DOCKERFILE: str((folder / "Dockerfile").absolute())}
    image = resolved["cluster"]["image"]
    if _docker("image", "inspect", image).returncode != 0:
        raise MachineError(
            f"the engine has no image {image}, and {root} is not LiveRL's source, of which it is built",
            fix=f"docker pull {image}\nexport {SOURCE}=DIRECTORY",
        )
    return {}


def finish(folder: Path) -> None:
    """Raise ``RunError`` where the container of the bundle in ``folder`` failed: Compose itself is content when it has
    ended."""
    told = subprocess.run(
        ["docker", "compose", "ps", "--all", "--format", "json"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    # One list, or, of newer ones, a line for each container.
    read = [json.loads(line) for line in told.stdout.splitlines() if line.strip()]
    containers = [one for each in read for one in (each if isinstance(each, list) else [each])]
    if failed := [one for one in containers if one.get("ExitCode")]:
        raise RunError(f"{failed[0].get('Name')} ended with code {failed[0]['ExitCode']}; its words are above")


def _check_cores(said: list[str], resolved: Mapping[str, Any]) -> None:
    machine = resolved["cluster"]["docker"]["machine"]
    if machine is not None and said and said[0].isdigit() and int(said[0]) < machine["cpus"]:
        raise MachineError(
            f"cluster.docker.machine.cpus: {machine['cpus']}, but the engine's machine has {said[0]}",
            fix=f"--set cluster.docker.machine.cpus={said[0]}",
        )


def _docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
