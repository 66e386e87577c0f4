"""The contract between compiler and runtime: pydantic models of ``runtime.json``.

Torch-free and import-light: the compiler imports this module and nothing else of the runtime. Paths are relative to the
run directory unless a field says otherwise. Units are in the names."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Contract(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class SynthTasks(Contract):
    """Repositories generated from a seed, each broken once (``liverl tasks synth``)."""

    type: Literal["synth"] = "synth"
    count: int
    seed: int
    split: Literal["train", "held_out", "demonstrations"]
    """Names, values and structures never cross splits, whatever the seeds."""
    families: dict[str, float] = Field(default_factory=dict)
    """Family of bugs -> how many times as often as usual; 1 for those not named."""


class PackagePin(Contract):
    name: str
    version: str
    sha256: str


class GeneratedTasks(Contract):
    """Verified bugs injected into published source distributions (``liverl tasks generate``)."""

    type: Literal["generate"] = "generate"
    packages: tuple[PackagePin, ...]
    per_package: int
    per_kind_fraction: float = 0.25
    bugs: int = 1
    """Bugs per task, each of another function."""
    requirements: tuple[str, ...] = ()
    """Further packages that the tests need, ``NAME==VERSION``."""
    seed: int
    split: Literal["train", "held_out", "demonstrations"]
    """Split by function name across all packages."""
    split_seed: int = 0
    """Which split a function name falls into; must be the same for all task sets of an experiment."""


class CommitTasks(Contract):
    """A repository's own commits that change code and tests; ``repository`` as ``paths`` of ``DirectoryTasks``."""

    type: Literal["history"] = "history"
    repository: str
    revision: str = "HEAD"
    """Newest commit that is looked at."""
    after: str | None = None
    """Only commits that this one does not contain."""
    count: int
    max_commits: int
    requirements: tuple[str, ...] = ()
    """As of ``GeneratedTasks``."""


class HarborTasks(Contract):
    """A dataset of a Harbor registry; ``registry`` is an address, or a file as ``paths`` of ``DirectoryTasks``."""

    type: Literal["harbor"] = "harbor"
    dataset: str
    version: str
    registry: str
    task_names: tuple[str, ...] = ()
    """Shell patterns; empty: all."""
    exclude_task_names: tuple[str, ...] = ()


class DirectoryTasks(Contract):
    """Existing Harbor task directories; ``paths`` are absolute or relative to where ``liverl run`` was called."""

    type: Literal["directories"] = "directories"
    paths: tuple[str, ...]


class PassRate(Contract):
    """Closed interval of the mean reward of earlier graded trials."""

    least: float
    most: float


class IndexTasks(Contract):
    """Task directories that an index points at; ``path`` as in ``DirectoryTasks``."""

    type: Literal["index"] = "index"
    path: str
    pass_rate: PassRate | None = None
    """Only tasks whose known pass rate lies in it; None: all."""


TaskSource = Annotated[
    SynthTasks | GeneratedTasks | CommitTasks | HarborTasks | DirectoryTasks | IndexTasks, Field(discriminator="type")
]


class TaskSet(Contract):
    name: str
    """Score name: ``val-core/<name>/reward/mean@1``."""
    source: TaskSource
    temperature: float | None = None
    """Validation only: sampling temperature for this set (0 = greedy); None takes the rollout's."""


class WarmStart(Contract):
    """The supervised phase in miniature that makes a policy from nothing."""

    demonstrations: TaskSource
    steps: int
    batch_size: int
    learning_rate: float
    informed_fraction: float
    """Share of demonstrators who read the code where they know the family of the bug; the rest search."""
    informed_families: tuple[str, ...] = ()
    """Families of bugs that demonstrators know how to read; the others are left to reinforcement. Empty: all."""
    observation_loss: float
    """Weight of the loss on tokens the model did not write (what tools answer)."""


class PolicyArchitecture(Contract):
    """A Qwen2 of random initialisation and the byte-level BPE that is trained for it."""

    vocabulary_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_key_value_heads: int
    max_position: int


class NewPolicy(Contract):
    type: Literal["new"] = "new"
    architecture: PolicyArchitecture
    warm_start: WarmStart


class PretrainedPolicy(Contract):
    type: Literal["pretrained"] = "pretrained"
    path: str
    """Hugging Face model folder or name."""


Policy = Annotated[NewPolicy | PretrainedPolicy, Field(discriminator="type")]


class ShellScaffold(Contract):
    type: Literal["shell"] = "shell"
    tools: Literal["free", "repair"]
    """``free``: read, edit, run, submit with free text; ``repair``: structured repairs whose arguments are a line
    label."""
    max_turns: int
    max_edits: int


class ImportedScaffold(Contract):
    type: Literal["import"] = "import"
    import_path: str
    """``package.module:Class``"""
    kwargs: dict[str, str | int | float | bool] = {}


class InstalledScaffold(Contract):
    """A published coding agent, installed once per machine at exactly this version."""

    version: str
    max_turns: int
    """Model calls of the main conversation."""
    runtime_image: str | None = None
    """kubernetes: the image that brings the agent into pods (``runtime/scaffolds/image.py`` fills it); None: it is
    uploaded into each."""


class ClaudeCodeScaffold(InstalledScaffold):
    """npm ``@anthropic-ai/claude-code``; speaks the Anthropic API."""

    type: Literal["claude-code"] = "claude-code"
    tools: tuple[str, ...] | None = None
    """Built-in tools it may use; None: all but those that need a network."""
    compact_tokens: int | None = None
    """Context size at which it summarises the conversation and goes on; None: its own rule."""


class LibraryScaffold(InstalledScaffold):
    """An agent that is a Python library, driven by a program of ours in the sandbox."""

    max_replies_without_tool: int
    """Consecutive replies without a tool call that end the trial."""
    compact_tokens: int | None = None
    """Context size at which it summarises the conversation and goes on; None: never."""


class OpenHandsSdkScaffold(LibraryScaffold):
    """PyPI ``openhands-sdk`` and ``openhands-tools``; speaks the OpenAI API."""

    type: Literal["openhands-sdk"] = "openhands-sdk"
    tools: tuple[str, ...]


class Terminus2Scaffold(LibraryScaffold):
    """Terminus 2 of PyPI ``harbor`` (``version`` is Harbor's); speaks the OpenAI API, without its tool calls."""

    type: Literal["terminus-2"] = "terminus-2"
    parser: Literal["json", "xml"]


class OpenCodeScaffold(InstalledScaffold):
    """npm ``opencode-ai``; speaks OpenAI chat completions."""

    type: Literal["opencode"] = "opencode"
    tools: tuple[str, ...] | None = None
    """Built-in tools it may use; None: all but those that need a network."""
    compact_tokens: int | None = None
    """Context size at which it summarises the conversation and goes on; None: only when the proxy refuses a request for
    its length."""


class MiniSweAgentScaffold(InstalledScaffold):
    """PyPI ``mini-swe-agent``; speaks OpenAI chat completions, and has one tool, bash."""

    type: Literal["mini-swe-agent"] = "mini-swe-agent"
    max_replies_without_tool: int
    """Replies in a row without a valid call of the tool."""
    command_timeout_sec: int
    """Seconds that one command may take."""


AgentScaffold = ClaudeCodeScaffold | OpenCodeScaffold | MiniSweAgentScaffold | OpenHandsSdkScaffold | Terminus2Scaffold
Scaffold = Annotated[ShellScaffold | ImportedScaffold | AgentScaffold, Field(discriminator="type")]


class KubernetesSettings(Contract):
    """What the kubernetes backend must know of a cluster.

    ``user``: a number runs boxes as that user with a read-only root and scratch volumes, which the ``restricted`` pod
    security standard admits; None runs the image as it is, with a writable root (the namespace must admit that).
    """

    image: str
    """Container image of every box; with ``sh``, ``tar`` and, for LiveRL's own test runners, ``python3``."""
    namespace: str = "default"
    kubeconfig: str | None = None
    """None: the service account inside a cluster, else the usual file."""
    context: str | None = None
    proxy_host: str | None = None
    """Host under which pods reach the model proxy (this pod's IP or a service); the NetworkPolicy must allow it. None:
    the environment variable ``POD_IP`` or ``LIVERL_PROXY_HOST``."""
    labels: dict[str, str] = {}
    """Further labels of every pod."""
    service_account: str | None = None
    """Whose pods they are, by name; no token of it is mounted. None: the namespace's default."""
    image_pull_secrets: tuple[str, ...] = ()
    image_pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    """Which images of a node's cache may be used: those that are there, none, or nothing else."""
    runtime_class: str | None = None
    """For example ``gvisor``."""
    node_selector: dict[str, str] = {}
    cpus: float = 1.0
    disk_gib: int = 4
    user: int | None = 10001
    startup_deadline_sec: float = 300.0
    active_deadline_sec: int = 3600
    """The cluster ends a box after this long, whoever still wants it: also when we have died."""
    egress_probes: tuple[str, ...] = ()
    """``host:port`` addresses that no box may reach; tried from inside the first one. A NetworkPolicy is accepted by
    every cluster and enforced by some."""
    require_isolation: bool = False
    """Refuse to start boxes unless every probe was blocked."""


class EcsSettings(Contract):
    """What the ECS backend must know of a cluster. Its tasks are spoken to at their private addresses."""

    cluster: str
    image: str
    """Container image of every box; with ``sh``, ``tar`` and ``python3``."""
    region: str
    subnets: tuple[str, ...]
    security_groups: tuple[str, ...]
    """They must let us reach ``port``, and let tasks reach the model proxy and nothing else."""
    launch_type: Literal["FARGATE", "EC2"] = "FARGATE"
    proxy_host: str | None = None
    """Host under which tasks reach the model proxy; None: the environment variable ``LIVERL_PROXY_HOST``."""
    execution_role_arn: str | None = None
    """For private images and logs."""
    log_group: str | None = None
    assign_public_ip: bool = False
    endpoint_url: str | None = None
    cpus: float = 1.0
    port: int = 7070
    """Of the agent in each task."""
    startup_deadline_sec: float = 300.0
    ttl_sec: int = 3600
    """A task ends itself after this long, whoever still wants it."""


class HarborSettings(Contract):
    """One of Harbor's environments, by its name or by an import path (Python >= 3.12)."""

    environment: str | None = None
    """For example ``docker``, ``daytona``, ``gke``."""
    import_path: str | None = None
    """``package.module:Class``"""
    kwargs: dict[str, str | int | float | bool] = {}
    image: str | None = None
    """Container image of every box; with ``sh``, ``tar``, ``base64`` and ``python3``."""
    proxy_host: str | None = None
    """Host under which the environment reaches the model proxy."""


class ImportedSettings(Contract):
    """A provider of sandboxes of one's own; made with ``state`` (a folder for what it leaves on this machine) and
    ``kwargs``."""

    import_path: str
    """``package.module:Class``"""
    kwargs: dict[str, str | int | float | bool] = {}


class Network(Contract):
    """What sandboxes of a phase must be held to; None: as strictly as the backend can."""

    agent: Literal["model", "any"] | None = None
    verifier: Literal["none", "any"] | None = None


class VerifierSandbox(Contract):
    """Limits of the sandbox in which tests run; None: as the environment's."""

    memory_mib: int | None = None
    pids: int | None = None
    test_timeout_sec: float = 5.0
    """For one test, on a machine that has a processor to spare for it."""


class Environment(Contract):
    type: Literal["bubblewrap", "docker", "process", "kubernetes", "ecs", "harbor", "import"] = "bubblewrap"
    imported: ImportedSettings | None = None
    kubernetes: KubernetesSettings | None = None
    ecs: EcsSettings | None = None
    harbor: HarborSettings | None = None
    network: Network = Network.model_construct()
    require_isolation: bool = False
    """Refuse to run, instead of warning, where the machine cannot isolate."""
    required_defences: tuple[str, ...] = ()
    """Names of ``runtime/sandboxes/defences.py`` without which the run refuses to start."""
    base_image: str | None = None
    """docker: the image that sandboxes are built on; has Python 3.11 or later as ``/usr/bin/python3``."""
    docker_host: str | None = None
    """docker: ``unix:///path/of/docker.sock`` or ``tcp://HOST:PORT``. None: ``DOCKER_HOST`` or the usual socket."""
    docker_certificates: str | None = None
    """docker over tcp: folder with ca.pem, cert.pem and key.pem. None: ``DOCKER_CERT_PATH`` or ``~/.docker``."""
    docker_plaintext: bool = False
    """docker over tcp: without TLS, which makes everybody on the way root on the engine's machine."""
    max_sandboxes: int | None = None
    """Sandboxes of this run that may exist at once; trials beyond wait in order. None: as many as are wanted."""
    machine_sandboxes: int | None = None
    """Sandboxes that all runs of this machine which name the same number may have at once, shared evenly."""
    warm_sandboxes: int = 0
    """Sandboxes made ahead for each kind that trials ask for; each serves one trial."""
    memory_mib: int = 1024
    pids: int = 128
    agent_timeout_sec: float = 60.0
    verifier_timeout_sec: float = 30.0
    verifier: VerifierSandbox = VerifierSandbox.model_construct()
    reuse_verdicts: bool = False
    """Equal work on a task is graded once."""


class Rollout(Contract):
    engine: Literal["torch", "vllm"]
    replicas: int
    slots: int
    """Sequences that one CPU replica decodes at once."""
    prompt_length: int
    """Tokens; a longer prompt is refused, never truncated."""
    response_length: int
    """Tokens of one trajectory after its first prompt, observations included."""
    max_tokens_per_turn: int
    temperature: float
    top_p: float = 1.0
    top_k: int = -1
    tool_parser: str
    group_size: int
    concurrency: int
    """Trials in flight at once."""
    routing: Literal["least_in_flight", "rendezvous"] = "least_in_flight"
    """How a new session finds its replica (``runtime/rollouter/balancer.py``)."""
    attempts: int = 2
    """How often one trial may be started when the infrastructure fails it."""
    import_path: str | None = None
    """``package.module:Class`` of an engine (``runtime.rollouter.engine.Replica``) in place of LiveRL's own; made with
    the policy's folder, ``slots``, ``max_len``, ``seed`` and ``kwargs``."""
    kwargs: dict[str, str | int | float | bool] = {}


class Proxy(Contract):
    host: str = "127.0.0.1"
    port: int = 0
    """0: any free port."""
    max_body_mib: int = 64
    """A longer request is refused (413)."""
    body_timeout_sec: float = 60.0
    """A request whose body takes longer is refused (408): it would hold its connection for nothing."""
    max_in_flight: int = 4096
    """Replies in work at a time, over all sessions; further requests are told to come back (503)."""
    retry_after_sec: int = 1
    """What they, and those that found no replica, are told to wait."""
    max_sessions: int = 100_000
    """Sessions open at a time."""
    keepalive_sec: float = 3.0
    """Pause between the comment lines that keep a stream open until its reply is there."""
    side_call_tokens: int = 16
    """A conversation without tools that asks for at most this many tokens is a probe of the agent program: it is
    recorded and not trained."""
    volatile_rules: tuple[Literal["billing-header", "total-tokens", "date"], ...] = (
        "billing-header",
        "total-tokens",
        "date",
    )
    """Which of the spans that agents change behind the model's back are dropped or ignored
    (``runtime/proxy/volatile.py``)."""
    record_journal: bool = True


class Dump(Contract):
    """Which trial folders are kept: every ``trials_every``-th step's (0: none but failed ones)."""

    trials_every: int = 1
    work_every: int = 1
    """Of these, in which steps the agents' work is kept too, so that ``liverl tasks regrade`` can judge it again."""
    work_max_mib: int = 4
    """Work of one trial above this is not kept."""


class TrajectoryFilter(Contract):
    """Ends (``runtime.errors.Termination``) whose graded trajectories stay out of the loss; ungraded ones always do."""

    drop: tuple[str, ...] = ()


class Secret(Contract):
    """A variable that must be set where the run is, and what would miss it."""

    variable: str
    used_by: str


class RuntimeConfig(Contract):
    """``runtime.json``: everything the runtime must know, fully resolved."""

    schema_version: Literal[1] = 1
    experiment: str
    seed: int
    target: str
    policy: Policy
    train: tuple[TaskSet, ...]
    validation: tuple[TaskSet, ...]
    baselines: bool
    """Score the scripted baselines on the validation tasks under the same budget of actions."""
    scaffold: Scaffold
    environment: Environment
    rollout: Rollout
    proxy: Proxy = Proxy.model_construct()
    dump: Dump = Dump.model_construct()
    trajectory_filter: TrajectoryFilter = TrajectoryFilter.model_construct()
    secrets: tuple[Secret, ...] = ()
    """Names alone; the values stay in the environment."""
    loggers: tuple[str, ...] = ("console", "file")
    """verl's logger backends."""


def load_runtime_config(path: Path) -> RuntimeConfig:
    return RuntimeConfig.model_validate_json(path.read_bytes())
