"""Secrets by name: which variable, and what it is for. No value is ever part of a spec or a bundle."""

from runtime.config.base import ConfigKey, Model, ObjectName
from runtime.config.run import SecretName


class SecretKey(Model):
    """Where a Kubernetes cluster keeps a secret."""

    name: ObjectName
    """Name of the Secret in the trainer's namespace."""
    key: ConfigKey
    """Key in it."""


class Secret(SecretName):
    """A secret of the trainer. ``local``, ``docker`` and ``skypilot`` take the value from the variable of the shell
    that launches, ``k8s`` from a Secret of the cluster, ``ray`` from the environment that the nodes were started with.
    Sandboxes get none."""

    kubernetes: SecretKey | None = None
    """Where the target ``k8s`` finds it; the other targets need none."""
