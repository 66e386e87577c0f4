"""The whole experiment: what a spec file evaluates to."""

from typing import Annotated, Literal

from pydantic import Field

from compiler.spec.algorithm import Algorithm
from compiler.spec.cluster import Cluster
from compiler.spec.mode import Mode
from compiler.spec.policy import Policy
from compiler.spec.rollout import Rollout
from compiler.spec.secrets import Secret
from compiler.spec.tasks import Tasks
from compiler.spec.trainer import Trainer
from runtime.config.base import IPV4, Count, Model, Name, Seed, Whole
from runtime.config.environment import Environment
from runtime.config.health import Health
from runtime.config.notify import Notify
from runtime.config.proxy import Proxy
from runtime.config.rollout import Dumps
from runtime.config.scaffold import Scaffold
from runtime.config.upload import Upload

RoutingReplay = Literal["off", "R2", "R3"]


class Schedule(Model):
    """How long, in which batches, and when to measure and save. Batches count prompts; each is rolled out
    ``algorithm.group_size`` times."""

    steps: Whole
    """Training steps; 0: no reinforcement, only what comes before it, measured once."""
    train_batch_size: Count
    """Prompts per step."""
    mini_batch_size: Count
    """Prompts per optimizer step; divides ``train_batch_size``."""
    validate_before: bool = True
    """Measure before the first update."""
    validate_every: Whole
    """Steps between validations; 0: none (the last step is always measured)."""
    save_every: Whole
    """Steps between checkpoints; 0: only the last step."""
    keep_checkpoints: Count = 3
    """Older ones are removed."""
    upload: Upload | None = None
    """A bucket that gets the newest and the best checkpoint, and what ``liverl runs --from`` lists."""


class Dashboard(Model):
    """Ray's dashboard: processes, memory, logs and stacks of the trainer. Whoever reaches it can run programs as the
    trainer does, unless Ray asks for its token (``ray get-auth-token`` shows it where one was made). On the targets
    ``k8s`` and ``ray`` the cluster has one anyway, at an address of its own."""

    host: Annotated[str, Field(pattern=IPV4)] = "127.0.0.1"
    """Address of the trainer's machine that it listens on. From elsewhere: ``ssh -L 8265:localhost:8265 MACHINE``."""
    port: Annotated[int, Field(ge=1024, le=65535)] = 8265


class Observability(Model):
    """What a run reports."""

    loggers: Annotated[
        tuple[Literal["console", "file", "tensorboard", "wandb", "swanlab", "mlflow", "trackio"], ...],
        Field(min_length=1),
    ] = ("console", "file")
    """verl's logger backends; ``file`` writes metrics.jsonl."""
    dumps: Dumps = Dumps.model_construct()
    dashboard: Dashboard | None = None
    """Ray's dashboard; null: none is started."""
    notify: tuple[Notify, ...] = ()
    """Who is told when a run ends or halts: commands and web addresses. No message holds a secret."""


class ExperimentSpec(Model):
    """One experiment."""

    name: Annotated[Name, Field(max_length=50)]
    """Lower-case letters, digits and "-", at most 50: names of cluster objects add a suffix and must stay within 63."""
    seed: Seed
    """Everything random follows from it."""
    policy: Policy
    algorithm: Algorithm
    mode: Mode
    trainer: Trainer
    routing_replay: RoutingReplay = "off"
    """For mixtures of experts: train with the experts chosen when the trainer computed the old log-probabilities (R2)
    or when the rollout sampled (R3). With FSDP only R3."""
    rollout: Rollout
    scaffold: Scaffold
    environment: Environment
    tasks: Tasks
    schedule: Schedule
    proxy: Proxy = Proxy.model_construct()
    observability: Observability = Observability.model_construct()
    health: Health = Health.model_construct()
    secrets: tuple[Secret, ...] = ()
    """What the trainer needs and no file may hold, by name."""
    cluster: Cluster = Cluster.model_construct()
