"""Facts about where an experiment runs, one part per kind of place: what a cluster's owner writes once. The local
target reads none of them."""

from typing import Annotated, Literal

from pydantic import Field

from compiler.spec.places import AbsolutePath, Bucket
from compiler.spec.volumes import Volume, Weights
from runtime.config.base import (
    LABEL,
    PATTERNS,
    PORT,
    SUBDOMAIN,
    TEXT,
    Count,
    Image,
    LabelKey,
    LabelValue,
    Model,
    Name,
    ObjectName,
    ResourceName,
    Text,
    Whole,
)
from runtime.config.variables import EnvironmentName, EnvironmentValue

Annotation = Annotated[str, Field(pattern=TEXT, max_length=4096)]
ClusterName = Annotated[str, Field(pattern=LABEL, max_length=50)]
DAEMON = rf"^tcp://[A-Za-z0-9.-]+:{PORT}$"
INFRA = r"^((aws|gcp|azure|lambda)(/[a-z0-9-]+(/[a-z0-9-]+)?)?|kubernetes(/[A-Za-z0-9@:._/-]*[A-Za-z0-9])?)$"
ACCELERATOR = r"^[A-Za-z][A-Za-z0-9.-]*$"
INSTANCE = r"^[A-Za-z][A-Za-z0-9._-]*$"
DASHBOARD = rf"^https?://[A-Za-z0-9.-]+(:{PORT})?(/[A-Za-z0-9._/-]*)?$"
PATTERNS.update(
    {
        DAEMON: "not of the form tcp://HOST:PORT",
        INFRA: "not of the form CLOUD, CLOUD/REGION or CLOUD/REGION/ZONE with aws, gcp, azure or lambda, or "
        "kubernetes/CONTEXT",
        ACCELERATOR: "not a GPU's name in SkyPilot's catalogue, such as H100",
        INSTANCE: "not the name of a machine type, such as p5.48xlarge",
        DASHBOARD: "not of the form http://HOST:PORT",
    }
)


class BucketDriver(Model):
    """A CSI driver of a Kubernetes cluster that mounts buckets. It must be able to rename files and to append to them:
    run directories are written so."""

    name: Annotated[Text, Field(pattern=SUBDOMAIN, max_length=63)]
    """As the cluster knows it, for example ``ru.yandex.s3.csi``."""
    attributes: dict[Text, str] = Field(default_factory=dict)
    """What the driver wants to know of the volume (``volumeAttributes``)."""
    mount_options: tuple[Text, ...] = ()
    secret: ObjectName | None = None
    """Secret of the trainer's namespace with which the driver mounts, by name; null: it has rights of its own."""


class Storage(Model):
    """The volume that holds run directories."""

    size_gib: Count = 20
    storage_class: ObjectName | None = None
    """null: the cluster's default class."""
    claim: ObjectName | None = None
    """An existing volume claim of the namespace, instead of one of this experiment's own. Pods on several machines
    share it: ReadWriteMany."""
    bucket: Bucket | None = None
    """Object storage for run directories, ``s3://bucket/path`` or another cloud's: on ``skypilot``, which takes whole
    buckets alone, and on ``k8s`` with a ``driver`` (``s3://``, ``gs://``).
    null: a volume claim there, the machine's own disk on ``skypilot``, lost with it."""
    driver: BucketDriver | None = None
    """What mounts the bucket on ``k8s``; null: run directories are on a volume claim."""


class Toleration(Model):
    """A taint of nodes that pods may run on all the same."""

    key: LabelKey
    value: LabelValue | None = None
    """null: any value."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """null: all effects."""


class Resources(Model):
    """What one pod, container or machine gets, and where it may run."""

    cpus: Count
    memory_gib: Count
    gpus: Annotated[int, Field(ge=0, le=16)] = 0
    shm_gib: Count = 2
    """Size of /dev/shm, part of the memory."""
    disk_gib: Annotated[int, Field(ge=4, le=1 << 20)] = 16
    """Local disk that a pod may fill on ``k8s``: Ray's session and what it spills, agents, kernels. Weights that are
    fetched onto it come on top."""
    rdma: Annotated[int, Field(ge=0, le=64)] = 0
    """Units of ``cluster.rdma_resource``: network cards with remote memory access."""
    node_selector: dict[LabelKey, LabelValue] = Field(default_factory=dict)
    """Labels that a node must have."""
    tolerations: tuple[Toleration, ...] = ()


class KueueQueue(Model):
    """Kueue starts the job when its queue has room, and may suspend it for a more urgent one."""

    type: Literal["kueue"]
    name: Name
    """A LocalQueue of the namespace."""
    cluster_queue: ObjectName | None = None
    """The ClusterQueue behind it: the LocalQueue is then made; null: the namespace has it already."""
    priority_class: Name | None = None
    """A WorkloadPriorityClass of the cluster."""


class VolcanoQueue(Model):
    """Volcano starts all pods together or none. KubeRay's operator must run with Volcano as its batch scheduler."""

    type: Literal["volcano"]
    name: Name
    """A Queue of the cluster."""


Queue = Annotated[KueueQueue | VolcanoQueue, Field(discriminator="type")]


class Sandboxes(Model):
    """Where sandbox pods run."""

    runtime_class: ObjectName | None = None
    """RuntimeClass that every sandbox pod must have (gVisor, Kata, a snapshotter that pulls lazily): the cluster then
    refuses pods without it; null: any."""
    runtime_handler: Name | None = None
    """The container runtime's name for it (runsc, kata): a RuntimeClass is made that also carries the next two fields;
    null: the cluster has the class already."""
    node_selector: dict[LabelKey, LabelValue] = Field(default_factory=dict)
    """Nodes for sandboxes, for example those that pull images lazily."""
    tolerations: tuple[Toleration, ...] = ()
    prepull: tuple[Image, ...] = ()
    """Images that every sandbox node holds before the first trial; each must have a shell (``sh``)."""


class DockerHost(Model):
    """What the target ``docker`` needs to know."""

    machine: Resources | None = None
    """What the container gets of its machine; null: as ``cluster.head``."""
    sandbox_host: Annotated[str, Field(pattern=DAEMON)] | None = None
    """Docker daemon that runs the sandboxes, ``tcp://HOST:2376``, reached with mutual TLS; null: none."""
    certificates: AbsolutePath = "/etc/docker/certs"
    """Folder on the machine that launches with ca.pem, cert.pem and key.pem for that daemon."""


class Skypilot(Model):
    """What the target ``skypilot`` needs to know."""

    infra: Annotated[str, Field(pattern=INFRA, max_length=255)] = "aws"
    """``CLOUD``, ``CLOUD/REGION`` or ``CLOUD/REGION/ZONE`` with ``aws``, ``gcp``, ``azure`` or ``lambda``;
    ``kubernetes`` or ``kubernetes/CONTEXT``: SkyPilot's own pods."""
    jobs_bucket: Bucket | None = None
    """Where SkyPilot keeps what travels to a managed job, this bundle for example; null: a bucket that it makes for
    each job, for which whoever launches needs the right."""
    accelerator: Annotated[str, Field(pattern=ACCELERATOR, max_length=40)] | None = None
    """The catalogue's name of the GPU, for example H100; needed where machines have GPUs."""
    instance_type: Annotated[str, Field(pattern=INSTANCE, max_length=40)] | None = None
    """null: the cheapest that fits."""
    nodes: Count = 1
    """Machines, the head among them; each has the resources of ``cluster.worker``."""
    spot: bool = False
    """Interruptible machines; a managed job starts again elsewhere and goes on from its newest checkpoint."""
    max_restarts_on_errors: Annotated[int, Field(ge=0, le=100)] = 2
    """How often the job may fail by its own fault before it is given up; lost machines do not count."""
    autostop_min: Annotated[int, Field(ge=1, le=1440)] = 30
    """Idle minutes after which machines are terminated."""
    disk_gib: Annotated[int, Field(ge=50, le=16384)] = 256


class RayCluster(Model):
    """What the target ``ray`` needs to know of an existing cluster."""

    address: Annotated[str, Field(pattern=DASHBOARD)] = "http://127.0.0.1:8265"
    """Its dashboard; the variable RAY_ADDRESS of the shell that submits goes before."""
    runs_dir: AbsolutePath = "/runs"
    """Folder of run directories, the same on every node."""


class Cluster(Model):
    """Where the experiment runs."""

    namespace: ClusterName = "liverl"
    """Namespace of the trainer; sandboxes live in ``<namespace>-sandboxes``."""
    image: Image = "liverl:0.1.0"
    """Container image with LiveRL and its training extras."""
    image_pull_secrets: tuple[ObjectName, ...] = ()
    """Secrets of the namespace with which ``k8s`` pulls private images, by name."""
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict)
    """Of the job and of the trainer's pods on ``k8s``, of the container on ``docker``, of the machines on
    ``skypilot``."""
    annotations: dict[LabelKey, Annotation] = Field(default_factory=dict)
    """Of the job and of the trainer's pods on ``k8s``: networks, topology, cost centres."""
    env: dict[EnvironmentName, EnvironmentValue] = Field(default_factory=dict)
    """Variables of every process of the trainer on every machine: NCCL and EFA, HF_HOME, proxies. Written out: nothing
    expands ``$NAME``. Secrets go into ``secrets``; sandboxes get none of either."""
    head: Resources = Resources.model_construct(cpus=4, memory_gib=12)
    worker: Resources = Resources.model_construct(cpus=2, memory_gib=6)
    """Machines of the trainer beside the head."""
    workers: Count = 1
    """Trainer pods beside the head."""
    rollout: Resources | None = None
    """Machines of a separate rollout pool; null: rollout runs where the trainer does."""
    rollout_workers: Whole = 0
    """Pods of the rollout pool."""
    agent_loop: Resources | None = None
    """Machines for several agent-loop workers (``rollout.agent_loop``) alone, on ``k8s``; null: they are spread over
    the others."""
    agent_loop_workers: Whole = 0
    """Pods of them; each has room for as many workers as it has ``cpus`` for."""
    queue: Queue | None = None
    """null: pods start as soon as nodes have room."""
    priority: Annotated[int, Field(ge=-1_000_000_000, le=1_000_000_000)] | None = None
    """Value of a PriorityClass of the experiment's own, for trainer and rollout pods; null: the cluster's default."""
    rdma_resource: ResourceName = "rdma/hca_shared_devices_a"
    """The device plug-in's name of network cards."""
    storage: Storage = Storage.model_construct()
    volumes: tuple[Volume, ...] = ()
    """Mounted on the trainer's machines beside the folder of runs."""
    weights: Weights | None = None
    """Where the policy's weights come from, for an existing policy; null: a folder of ``volumes`` that ``policy.path``
    names, or a cache that ``env`` names by HF_HOME."""
    sandboxes: Sandboxes = Sandboxes.model_construct()
    monitor: bool = False
    """Add a ServiceMonitor for Ray's metrics; the cluster needs the Prometheus operator."""
    retries: Annotated[int, Field(ge=0, le=20)] = 2
    """New clusters after a failed job; each goes on from the newest checkpoint. An evicted pod costs none, nor does
    what Kueue suspends: KubeRay replaces the pod within its cluster, and the run goes on from its newest checkpoint."""
    deadline_sec: Annotated[int, Field(ge=60, le=30 * 86400)] = 86400
    """The job is stopped after this time, counted anew for each retry and not retried; waiting in a queue does not
    count."""
    max_sandboxes: Count = 64
    """Quota of sandbox pods."""
    docker: DockerHost = DockerHost.model_construct()
    skypilot: Skypilot = Skypilot.model_construct()
    ray: RayCluster = RayCluster.model_construct()
