"""``runtime.json``: everything the runtime must know of one run, fully resolved."""

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from runtime.config.base import Model
from runtime.config.environment import Environment
from runtime.config.health import Health
from runtime.config.notify import Notify
from runtime.config.policy import Policy
from runtime.config.proxy import Proxy
from runtime.config.rollout import Dumps, Rollout
from runtime.config.scaffold import Scaffold
from runtime.config.tasks import Curriculum, TaskSet
from runtime.config.upload import Upload
from runtime.config.variables import EnvironmentName, EnvironmentValue
from runtime.errors import UserError

Use = Literal["policy", "tasks", "environment", "observability", "storage"]


GradedEnd = Literal["agent_completed", "max_turns_reached", "overlong", "no_tool_calls", "timeout", "agent_died"]


class TrajectoryFilter(Model):
    """Which trajectories stay out of the loss, by how they ended. What is left out counts neither as good nor as bad:
    its group's advantages are computed without it. Trajectories that no verifier could grade are always left out."""

    drop: tuple[GradedEnd, ...] = ()
    """Whatever stands here is a way out of a bad grade, for a policy that finds out how to end so.
    ``timeout``: the agent was stopped by the clock, which measures the machine too; ``overlong``: it ran out of
    tokens; ``max_turns_reached``: out of turns; ``no_tool_calls``: it answered without a tool;
    ``agent_died``: its process or its box ended after the model had answered."""


class SecretName(Model):
    """A variable that must be set where the run is, and what would miss it."""

    variable: EnvironmentName
    """Environment variable of the trainer that it becomes."""
    used_by: Use
    """What it is for: fetching the policy, fetching packages, starting sandboxes elsewhere, an experiment tracker, or a
    bucket. A run does not start without it, and says what would have needed it."""


class RuntimeConfig(Model):
    """``runtime.json``: everything the runtime must know, fully resolved."""

    schema_version: Literal[1] = 1
    experiment: str
    seed: int
    target: str
    policy: Policy
    train: tuple[TaskSet, ...]
    validation: tuple[TaskSet, ...]
    curriculum: Curriculum | None = None
    """By what the training tasks are given out; null: each as often as its set's weight asks for."""
    baselines: bool
    """Score the scripted baselines on the validation tasks under the same budget of actions."""
    scaffold: Scaffold
    environment: Environment
    rollout: Rollout
    proxy: Proxy = Proxy.model_construct()
    dump: Dumps = Dumps.model_construct()
    trajectory_filter: TrajectoryFilter = TrajectoryFilter.model_construct()
    health: Health = Health.model_construct()
    secrets: tuple[SecretName, ...] = ()
    """Names alone; the values stay in the environment."""
    env: dict[EnvironmentName, EnvironmentValue] = Field(default_factory=dict)
    """Variables of the trainer and of all its processes, on every machine. Sandboxes get none of them."""
    loggers: tuple[str, ...] = ("console", "file")
    """verl's logger backends."""
    notify: tuple[Notify, ...] = ()
    """Who is told when the run ends."""
    upload: Upload | None = None
    """Where the run is copied while it goes on."""


def load_runtime_config(path: Path) -> RuntimeConfig:
    """Raises ``UserError`` for a file that is not there or damaged."""
    try:
        return RuntimeConfig.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; name a run or bundle that is whole") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        why = f"damaged, or of another version of LiveRL ({where}: {first['msg']})"
        raise UserError(f"{path}: {why}; name a run or bundle that is whole, or compile it anew") from None
