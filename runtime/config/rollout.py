"""How trajectories are sampled: engine, limits, concurrency; and what is kept of single trials."""

from typing import Annotated, Literal

from pydantic import Field

from runtime.config.base import PATTERNS, Count, ImportPath, Model, ToolCalls, Whole

RESOURCE = r"^[A-Za-z_][A-Za-z0-9._-]*$"
PATTERNS[RESOURCE] = "not the name of a resource of Ray's, such as sandboxes"


class AgentLoop(Model):
    """The processes that play the trials."""

    workers: Annotated[int, Field(ge=1, le=1024)] = 1
    """1: trials are played in the trainer's own process. More: by so many processes, spread over the machines of its
    Ray, each with a proxy, sandboxes and a journal of its own; ``concurrency`` and ``max_sandboxes`` are those of all
    together."""
    cpus: Annotated[float, Field(ge=0.0, le=256.0)] = 1.0
    """Cores that Ray reserves for each of several workers; their sandboxes are not counted."""
    resource: Annotated[str, Field(pattern=RESOURCE, max_length=63)] | None = None
    """A resource of Ray's, of which each of several workers takes one: they run on machines that have it. null: on any
    machine."""


class Sampling(Model):
    """What every engine has."""

    replicas: Count
    """Inference servers behind the balancer."""
    slots: Count
    """Sequences that one replica decodes at once."""
    prompt_length: Count
    """Tokens; a longer first prompt is refused, never cut."""
    response_length: Count
    """Tokens of one trajectory after its first prompt, observations included."""
    max_tokens_per_turn: Count
    """Tokens of one reply."""
    temperature: Annotated[float, Field(gt=0.0, le=2.0)] = 1.0
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    top_k: Annotated[int, Field(ge=-1, le=1 << 24)] = -1
    """-1: all tokens."""
    tool_parser: ToolCalls
    """How the model writes tool calls, by vLLM's names: ``hermes`` (Qwen 2.5 and 3), ``qwen3_coder`` (also Qwen 3.5),
    ``glm45`` (GLM 4.5 and later), ``llama3_json``, ``openai`` (gpt-oss), or ``compact`` (small policies).
    ``liverl doctor --model DIR`` says which one a model needs."""
    concurrency: Count
    """Trials in flight at once."""
    agent_loop: AgentLoop = AgentLoop.model_construct()
    routing: Literal["least_in_flight", "rendezvous"] = "least_in_flight"
    """How a new session finds its replica: the fewest tokens in flight, or a hash of its name and theirs alone, the
    same in every run. Then it stays there."""
    attempts: Annotated[int, Field(ge=1, le=10)] = 2
    """How often one trial may be started when the infrastructure fails it."""
    spare_trials: Annotated[int, Field(ge=0, le=64)] = 0
    """Begun beyond each training group's size. The group ends when as many as its size have a grade; the slowest are
    ended then. Which those are depends on the machine: with spare trials a run cannot be repeated exactly."""


class TorchRollout(Sampling):
    """LiveRL's own engine for small models on a CPU, or one of yours in its place."""

    type: Literal["torch"] = "torch"
    import_path: ImportPath | None = None
    """``package.module:Class``, implementing ``runtime.rollouter.engine.Replica``: an engine of your own that runs
    beside the trainer; made with the policy's folder, ``slots``, ``max_len`` and ``seed``. null: LiveRL's."""
    kwargs: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """Further arguments of its constructor."""


class ServedRollout(Sampling):
    """vLLM on GPUs. How it is served is in ``vllm.yaml``."""

    type: Literal["vllm"] = "vllm"


Rollout = Annotated[TorchRollout | ServedRollout, Field(discriminator="type")]


class Dumps(Model):
    """What is kept of single trials."""

    trials_every: Whole = 1
    """Keep the trial folders of every n-th step; 0: of failed trials only."""
    work_every: Whole = 1
    """In which of these steps the files that agents left are kept too, for `liverl tasks regrade`; 0: of failed trials
    only. Equal files are stored once per run."""
    work_max_mib: Annotated[int, Field(ge=1, le=256)] = 4
    """Work of one trial above this is not kept."""
