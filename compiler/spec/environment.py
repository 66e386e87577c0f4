"""The sandbox that every trial runs in."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from compiler.spec.base import Model, Positive

Defence = Literal[
    "agent_killed",
    "canary",
    "declared_artifacts",
    "fresh_sandbox",
    "host_verdict",
    "memory_limit",
    "network_off",
    "no_capabilities",
    "no_new_privileges",
    "process_limit",
    "report_nonce",
    "seccomp",
    "tests_restored",
    "user_namespace",
]


class _Sandbox(Model):
    required_defences: tuple[Defence, ...] = ()
    """Refuse to start where one of these cannot be had; every trial records which were in force."""
    memory_mib: Annotated[int, Field(ge=16, le=1 << 20)] = 1024
    pids: Annotated[int, Field(ge=8, le=1 << 16)] = 128
    """Most processes in one sandbox."""
    agent_timeout_sec: Positive = 60.0
    verifier_timeout_sec: Positive = 30.0


class Bubblewrap(_Sandbox):
    """overlayfs and namespaces on the local machine."""

    type: Literal["bubblewrap"]
    require_isolation: bool = False
    """Refuse to run, instead of warning, where the machine cannot isolate."""


class Docker(_Sandbox):
    """Containers of an engine on this machine, without network but the way to the model."""

    type: Literal["docker"]
    base_image: str
    """Image with Python 3.11 or later as ``/usr/bin/python3``; repository and tools are added per content."""
    docker_host: Annotated[str, Field(pattern=r"^unix://")] | None = None
    """``unix:///path/of/docker.sock``; default ``DOCKER_HOST`` or the engine's usual socket."""


class PlainProcess(_Sandbox):
    """No isolation at all: for machines that allow none."""

    type: Literal["process"]


Environment = Annotated[Bubblewrap | Docker | PlainProcess, Field(discriminator="type")]
