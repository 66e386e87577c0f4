"""Secrets by name: which variable, and what it is for. No value is ever part of a spec or a bundle."""

from typing import Annotated, Literal

from pydantic import Field

from compiler.spec.base import ENVIRONMENT_NAME, Model, Name
from compiler.spec.cluster import LabelKey

EnvironmentName = Annotated[str, Field(pattern=ENVIRONMENT_NAME, max_length=128)]
"""Name of an environment variable."""
Use = Literal["policy", "tasks", "environment", "observability", "storage"]


class SecretKey(Model):
    """Where a Kubernetes cluster keeps a secret."""

    name: Name
    """Name of the Secret in the trainer's namespace."""
    key: LabelKey
    """Key in it."""


class Secret(Model):
    """A secret of the trainer. ``local``, ``docker`` and ``skypilot`` take the value from the variable of the shell
    that launches, ``k8s`` from a Secret of the cluster, ``ray`` from the environment that the nodes were started with.
    Sandboxes get none."""

    variable: EnvironmentName
    """Environment variable of the trainer that it becomes."""
    used_by: Use
    """What it is for: fetching the policy, fetching packages, starting sandboxes elsewhere, an experiment tracker, or a
    bucket. A run does not start without it, and says what would have needed it."""
    kubernetes: SecretKey | None = None
    """Where the target ``k8s`` finds it; the other targets need none."""
