"""The contract between compiler and runtime: pydantic models of ``runtime.json``.

Torch-free and import-light: the compiler imports this module and nothing else of the runtime. Paths are relative to the
run directory unless a field says otherwise. Units are in the names."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Contract(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SynthTasks(Contract):
    """Repositories generated from a seed, each broken once (``liverl tasks synth``)."""

    type: Literal["synth"] = "synth"
    count: int
    seed: int
    split: Literal["train", "held_out", "demonstrations"]
    """Names, values and structures never cross splits, whatever the seeds."""


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
    seed: int
    split: Literal["train", "held_out", "demonstrations"]
    """Split by function name across all packages."""
    split_seed: int = 0
    """Which split a function name falls into; must be the same for all task sets of an experiment."""


class DirectoryTasks(Contract):
    """Existing Harbor task directories; ``paths`` are absolute or relative to where ``liverl run`` was called."""

    type: Literal["directories"] = "directories"
    paths: tuple[str, ...]


TaskSource = Annotated[SynthTasks | GeneratedTasks | DirectoryTasks, Field(discriminator="type")]


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


Scaffold = Annotated[ShellScaffold | ImportedScaffold, Field(discriminator="type")]


class Environment(Contract):
    type: Literal["bubblewrap", "docker", "process"] = "bubblewrap"
    require_isolation: bool = False
    """Refuse to run, instead of warning, where the machine cannot isolate."""
    required_defences: tuple[str, ...] = ()
    """Names of ``runtime/environment/defences.py`` without which the run refuses to start."""
    base_image: str | None = None
    """docker: the image that sandboxes are built on; has Python 3.11 or later as ``/usr/bin/python3``."""
    docker_host: str | None = None
    """docker: ``unix:///path/of/docker.sock``. None: ``DOCKER_HOST`` or the engine's usual socket."""
    memory_mib: int = 1024
    pids: int = 128
    agent_timeout_sec: float = 60.0
    verifier_timeout_sec: float = 30.0


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
    attempts: int = 2
    """How often one trial may be started when the infrastructure fails it."""


class Proxy(Contract):
    host: str = "127.0.0.1"
    port: int = 0
    """0: any free port."""
    max_body_mib: int = 64
    record_journal: bool = True


class Dump(Contract):
    """Which trial folders are kept: every ``trials_every``-th step's (0: none but failed ones)."""

    trials_every: int = 1


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
    proxy: Proxy = Proxy()
    dump: Dump = Dump()


def load_runtime_config(path: Path) -> RuntimeConfig:
    return RuntimeConfig.model_validate_json(path.read_bytes())
