"""Volumes of the trainer's machines beside the one for runs, and where a pretrained policy's weights come from. Which
target mounts which kind is ``targets.volumes``'s."""

from typing import Annotated, Literal

from pydantic import Field

from compiler.spec.places import AbsolutePath, Bucket
from runtime.config.base import Count, Host, Model, ObjectName


class Claim(Model):
    """A volume claim of the trainer's namespace. Target: ``k8s``."""

    type: Literal["claim"]
    name: ObjectName


class HostFolder(Model):
    """A folder of the machine itself. Targets: ``docker``, and ``k8s``, where the namespace must then be labelled
    privileged."""

    type: Literal["host"]
    path: AbsolutePath


class Nfs(Model):
    """A folder that a server exports by NFS. Targets: ``docker``, ``k8s``."""

    type: Literal["nfs"]
    server: Host
    path: AbsolutePath


class ConfigMapFiles(Model):
    """A ConfigMap of the trainer's namespace, a file for each key. Target: ``k8s``."""

    type: Literal["config_map"]
    name: ObjectName


class SecretFiles(Model):
    """A Secret of the trainer's namespace, a file for each key. Target: ``k8s``."""

    type: Literal["secret"]
    name: ObjectName


class BucketFolder(Model):
    """A bucket, or for weights, which are copied, a folder of one. Target: ``skypilot``."""

    type: Literal["bucket"]
    url: Bucket


VolumeSource = Annotated[
    Claim | HostFolder | Nfs | ConfigMapFiles | SecretFiles | BucketFolder, Field(discriminator="type")
]


class Volume(Model):
    """Something that is mounted on every machine of the trainer. Sandboxes never see it."""

    source: VolumeSource
    mount_path: AbsolutePath
    read_only: bool = True


class Download(Model):
    """Fetched from the Hugging Face hub by each pod before it starts, onto its local disk. Target: ``k8s``; needs the
    layout ``hub``."""

    type: Literal["download"]
    size_gib: Count | None = None
    """What it takes; null: computed from the policy's sizes."""


class Present(Model):
    """There already: in ``cluster.image``, or on the nodes of a standing Ray. Every target."""

    type: Literal["present"]


WeightsSource = Annotated[Claim | HostFolder | Nfs | BucketFolder | Download | Present, Field(discriminator="type")]


class Weights(Model):
    """Where a pretrained policy lies. A run fetches nothing (``HF_HUB_OFFLINE``): what is not mounted is not there."""

    sources: Annotated[tuple[WeightsSource, ...], Field(min_length=1)]
    """The first that the target knows is taken, so that one list serves several platforms."""
    mount_path: AbsolutePath = "/weights"
    layout: Literal["hub", "folders"] = "hub"
    """``hub``: a cache of the Hugging Face hub, as ``hf download OWNER/NAME --cache-dir FOLDER`` fills it; every
    process finds it by HF_HUB_CACHE, and ``policy.path`` is OWNER/NAME. ``folders``: ``policy.path`` is a folder below
    ``mount_path``."""
