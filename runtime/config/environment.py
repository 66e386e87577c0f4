"""The sandbox that every trial runs in."""

from typing import Annotated, Literal

from pydantic import Field

from runtime.config.base import (
    ADDRESS,
    PATTERNS,
    PORT,
    Host,
    Image,
    ImportPath,
    LabelKey,
    LabelValue,
    Model,
    Name,
    ObjectName,
    Positive,
    Registry,
    Text,
)

ENGINE = rf"^unix:///[^\x00-\x1f\x7f]+$|^tcp://[A-Za-z0-9.-]+:{PORT}$"
PATTERNS[ENGINE] = "not of the form unix:///PATH or tcp://HOST:PORT"

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
    "reward_file",
    "solution_user",
    "seccomp",
    "tests_restored",
    "user_namespace",
]


class Network(Model):
    """What the sandboxes of each phase of a trial may reach. A backend that cannot hold to it is refused, by the
    compiler where that is certain, else at the start of the run."""

    agent: Literal["model", "any"] | None = None
    """``model``: the model and nothing else; ``any``: whatever the backend's own network allows; null: the strictest
    that is to be had, with a warning where that is nothing."""
    verifier: Literal["none", "any"] | None = None
    """The same for the second sandbox, in which the tests run: ``none`` or ``any``."""


class VerifierSandbox(Model):
    """Limits of the second sandbox, in which the tests run, where they differ from the agent's. Its network is
    ``network.verifier``, its time ``verifier_timeout_sec``."""

    memory_mib: Annotated[int, Field(ge=16, le=1 << 20)] | None = None
    """null: ``memory_mib`` of the environment."""
    pids: Annotated[int, Field(ge=8, le=1 << 16)] | None = None
    """null: ``pids`` of the environment."""


class Images(Model):
    """Images of tasks that name one or bring a Dockerfile: where they come from and how much they may take."""

    disk_gib: Annotated[int, Field(ge=1, le=1 << 20)] | None = None
    """Disk for unpacked layers on one machine; beyond it the least recently used images go, never one in use. null: as
    much as the disk has."""
    mirrors: dict[Registry, Registry] = Field(default_factory=dict)
    """Registry (``docker.io``) to the one that is asked in its place, a pull-through cache for example."""
    ahead: Annotated[int, Field(ge=0, le=4096)] = 16
    """Images that are fetched ahead of the steps that want them, in the order in which tasks will be given out: this
    many beyond those of the present step, one at a time. 0: none; boxes fetch theirs when they start."""
    ahead_mib_per_sec: Positive | None = None
    """The most that fetching ahead takes of the line, for boxes of bubblewrap; null: all that boxes do not want."""
    plaintext_registries: tuple[Registry, ...] = ()
    """Registries (``host:port``) that are asked without TLS; everybody on the way can change what they answer, but for
    what is named by digest."""
    build: bool = False
    """Whether a task's Dockerfile is built where it must be. Its instructions run on this machine, as root and with
    little between them and it: for authors whom you trust."""
    build_network: bool = False
    """Whether the instructions of a task's Dockerfile may use the network while it is built."""


class SandboxSettings(Model):
    """What every backend has."""

    network: Network = Network.model_construct()
    required_defences: tuple[Defence, ...] = ()
    """Refuse to start where one of these cannot be had; every trial records which were in force."""
    max_sandboxes: Annotated[int, Field(ge=1, le=1 << 16)] | None = None
    """Sandboxes that may exist at once; trials beyond wait in order."""
    machine_sandboxes: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Sandboxes that all runs of one machine which name the same number may have at once; they share them evenly."""
    warm_sandboxes: Annotated[int, Field(ge=0, le=64)] = 0
    """Sandboxes made ahead for each kind that trials ask for; pays where a start takes longer than a tenth of a
    second."""
    memory_mib: Annotated[int, Field(ge=16, le=1 << 20)] = 1024
    pids: Annotated[int, Field(ge=8, le=1 << 16)] = 128
    """Most processes in one sandbox."""
    agent_timeout_sec: Positive = 60.0
    verifier_timeout_sec: Positive = 30.0
    verifier: VerifierSandbox = VerifierSandbox.model_construct()
    images: Images = Images.model_construct()
    reuse_verdicts: bool = False
    """Equal work on a task is graded once: trials that leave the same files share a verdict."""


class Bubblewrap(SandboxSettings):
    """overlayfs and namespaces on the local machine."""

    type: Literal["bubblewrap"] = "bubblewrap"
    require_isolation: bool = False
    """Refuse to run, instead of warning, where the machine cannot isolate."""


class Docker(SandboxSettings):
    """Containers of an engine, here or elsewhere, without network but the way to the model."""

    type: Literal["docker"] = "docker"
    base_image: Image
    """Image with Python 3.11 or later as ``/usr/bin/python3``; repository and tools are added per content."""
    docker_host: Annotated[str, Field(pattern=ENGINE)] | None = None
    """``unix:///path/of/docker.sock`` or ``tcp://HOST:2376``; default ``DOCKER_HOST`` or the engine's usual socket."""
    docker_certificates: Text | None = None
    """tcp: folder on the trainer's machine with ca.pem, cert.pem and key.pem; default ``DOCKER_CERT_PATH`` or
    ``~/.docker``."""
    docker_plaintext: bool = False
    """tcp without TLS: everybody who can reach the engine, or stands on the way to it, is root on its machine."""
    warm_sandboxes: Annotated[int, Field(ge=0, le=64)] = 2
    """Containers made ahead for each image that trials ask for."""


class PlainProcess(SandboxSettings):
    """No isolation at all: for machines that allow none."""

    type: Literal["process"] = "process"


class KubernetesCluster(Model):
    """Where pods run and as what."""

    image: Image
    """Container image of every box, with a tag or digest; with ``sh``, ``tar`` and ``python3``."""
    namespace: Name = "default"
    kubeconfig: Text | None = None
    """None: the service account inside a cluster, else the usual file."""
    context: Text | None = None
    proxy_host: Host | None = None
    """Host under which pods reach the model proxy; null: the trainer's own address, which the targets ``k8s`` and
    ``skypilot`` find out (``POD_IP``, ``LIVERL_PROXY_HOST``)."""
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict)
    """Further labels of every pod; the target ``k8s`` adds the experiment's."""
    service_account: ObjectName | None = None
    """Whose pods they are; none gets its token. null: on the target ``k8s`` one made for them, else the namespace's
    default."""
    image_pull_secrets: tuple[ObjectName, ...] = ()
    """Secrets of the namespace with which private images are pulled, by name."""
    image_pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    """Which images of a node's cache may be used: those that are there, none, or nothing else (with
    ``cluster.sandboxes.prepull``)."""
    runtime_class: ObjectName | None = None
    node_selector: dict[LabelKey, LabelValue] = Field(default_factory=dict)
    cpus: Annotated[float, Field(gt=0.0, le=256.0)] = 1.0
    disk_gib: Annotated[int, Field(ge=1, le=4096)] = 4
    user: Annotated[int, Field(ge=1, le=1 << 31)] | None = 10001
    """None: the image's own user and a writable root file system."""
    startup_deadline_sec: Positive = 300.0
    active_deadline_sec: Annotated[int, Field(ge=10, le=1 << 20)] = 3600
    """The cluster ends a box after this long, whoever still wants it."""
    egress_probes: tuple[Annotated[str, Field(pattern=ADDRESS)], ...] = ()
    """``host:port`` addresses that no box may reach; tried from inside the first one."""
    require_isolation: bool = False
    """Refuse to start boxes unless every probe was blocked."""


class Kubernetes(SandboxSettings):
    """One pod per sandbox."""

    type: Literal["kubernetes"] = "kubernetes"
    kubernetes: KubernetesCluster


class EcsCluster(Model):
    """Where ECS tasks run and as what."""

    cluster: Text
    image: Image
    """Container image of every box, with a tag or digest; with ``sh``, ``tar`` and ``python3``."""
    region: Name
    subnets: Annotated[tuple[Text, ...], Field(min_length=1)]
    security_groups: Annotated[tuple[Text, ...], Field(min_length=1)]
    launch_type: Literal["FARGATE", "EC2"] = "FARGATE"
    proxy_host: Host | None = None
    """Host under which tasks reach the model proxy; null on the target ``skypilot``: the trainer's own machine, whose
    address only the launch knows."""
    execution_role_arn: Text | None = None
    log_group: Text | None = None
    assign_public_ip: bool = False
    endpoint_url: Text | None = None
    cpus: Annotated[float, Field(gt=0.0, le=256.0)] = 1.0
    port: Annotated[int, Field(ge=1, le=65535)] = 7070
    startup_deadline_sec: Positive = 300.0
    ttl_sec: Annotated[int, Field(ge=10, le=1 << 20)] = 3600
    """A task ends itself after this long, whoever still wants it."""


class Ecs(SandboxSettings):
    """One ECS task per sandbox."""

    type: Literal["ecs"] = "ecs"
    ecs: EcsCluster


class HarborEnvironment(Model):
    """Which of Harbor's environments."""

    environment: Text | None = None
    """For example ``docker``, ``daytona``, ``gke``; or else ``import_path``."""
    import_path: ImportPath | None = None
    kwargs: dict[str, str | int | float | bool] = Field(default_factory=dict)
    image: Image | None = None
    proxy_host: Host | None = None
    """Host under which the environment reaches the model proxy."""


class Harbor(SandboxSettings):
    """One of Harbor's environments per sandbox; the trainer then runs on Python 3.12."""

    type: Literal["harbor"] = "harbor"
    harbor: HarborEnvironment


class ImportedProvider(Model):
    """A class of your own."""

    import_path: ImportPath
    """``package.module:Class``, implementing ``runtime.sandboxes.base.SandboxProvider``; its sandboxes also run the
    tests (``run_tests``). ``runtime.sandboxes.remote.RemoteSandbox`` does both from one call."""
    kwargs: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """Arguments of its constructor, beside ``state``, a folder for what it leaves on the trainer's machine."""


class Imported(SandboxSettings):
    """Sandboxes of your own."""

    type: Literal["import"] = "import"
    imported: ImportedProvider


Environment = Annotated[
    Bubblewrap | Docker | PlainProcess | Kubernetes | Ecs | Harbor | Imported, Field(discriminator="type")
]
