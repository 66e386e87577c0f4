"""Facts about where a cluster target runs: names, images, sizes. The local target reads none of them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from compiler.spec.base import LABEL, Count, Model, Name, Text

ClusterName = Annotated[str, Field(pattern=LABEL, max_length=50)]


class Storage(Model):
    """The volume that holds run directories."""

    size_gib: Count = 20
    storage_class: Name | None = None
    """null: the cluster's default class."""


class Resources(Model):
    """What one pod gets."""

    cpus: Count
    memory_gib: Count
    gpus: Annotated[int, Field(ge=0, le=16)] = 0
    shm_gib: Count = 2
    """Size of /dev/shm, part of the pod's memory."""


class Cluster(Model):
    """A Kubernetes cluster with KubeRay."""

    namespace: ClusterName = "liverl"
    """Namespace of the trainer; sandboxes live in ``<namespace>-sandboxes``."""
    image: Text = "liverl:0.1.0"
    """Container image with LiveRL and its training extras."""
    head: Resources = Resources(cpus=4, memory_gib=12)
    worker: Resources = Resources(cpus=2, memory_gib=6)
    workers: Count = 1
    """Pods beside the head."""
    storage: Storage = Storage()
    deadline_sec: Annotated[int, Field(ge=60, le=30 * 86400)] = 86400
    """The job is stopped after this time."""
    max_sandboxes: Count = 64
    """Quota of sandbox pods."""
