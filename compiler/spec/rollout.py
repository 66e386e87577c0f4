"""How trajectories are sampled: engine, limits, concurrency; and the HTTP proxy in front of it."""

from typing import Annotated, Any, Literal

from pydantic import Field

from compiler.spec.base import FLAG, Count, Host, ImportPath, Model, Text, ToolCalls, Whole

FlagName = Annotated[str, Field(pattern=FLAG, max_length=80)]
FlagValue = bool | int | float | str | list[bool | int | float | str] | dict[str, Any] | None


class _Rollout(Model):
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
    top_k: Annotated[int, Field(ge=-1)] = -1
    """-1: all tokens."""
    tool_parser: ToolCalls
    """How the model writes tool calls, by vLLM's names: ``hermes`` (Qwen 2.5 and 3), ``qwen3_coder`` (also Qwen 3.5),
    ``glm45`` (GLM 4.5 and later), ``llama3_json``, ``openai`` (gpt-oss), or ``compact`` (small policies).
    ``liverl doctor --model DIR`` says which one a model needs."""
    concurrency: Count
    """Trials in flight at once."""
    routing: Literal["least_in_flight", "rendezvous"] = "least_in_flight"
    """How a new session finds its replica: the fewest tokens in flight, or a hash of its name and theirs alone, the
    same in every run. Then it stays there."""
    attempts: Annotated[int, Field(ge=1, le=10)] = 2
    """How often one trial may be started when the infrastructure fails it."""


class TorchRollout(_Rollout):
    """LiveRL's own engine for small models on a CPU, or one of yours in its place."""

    type: Literal["torch"]
    import_path: ImportPath | None = None
    """``package.module:Class``, implementing ``runtime.rollouter.engine.Replica``: an engine of your own that runs
    beside the trainer; made with the policy's folder, ``slots``, ``max_len`` and ``seed``. null: LiveRL's."""
    kwargs: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """Further arguments of its constructor."""


class VllmRollout(_Rollout):
    """vLLM on GPUs."""

    type: Literal["vllm"]
    version: Literal["0.24.0", "0.32.0"] = "0.24.0"
    """Whose flags ``flags`` may name. 0.24.0 is the one that installs beside verl 0.9.1; training with another is
    refused."""
    tensor_parallel_size: Count = 1
    """GPUs per replica."""
    gpu_memory_utilization: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.6
    """Share of a GPU's memory that vLLM takes."""
    enforce_eager: bool = False
    """No CUDA graphs."""
    expert_parallel: bool = False
    """Spread the experts of a mixture over a replica's GPUs instead of cutting each."""
    max_batched_tokens: Count = 8192
    """Tokens that one pass of a replica processes."""
    flags: dict[FlagName, FlagValue] = Field(default_factory=dict)
    """More arguments of ``vllm serve`` by their real names without the leading dashes, for example
    ``kv-cache-dtype``; checked against the catalogue of vLLM's flags."""


Rollout = Annotated[TorchRollout | VllmRollout, Field(discriminator="type")]


class Proxy(Model):
    """The HTTP endpoint that agents talk to."""

    host: Host = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """0: any free port."""
    max_body_mib: Annotated[int, Field(ge=1, le=4096)] = 64
    """A longer request is refused (413)."""
    body_timeout_sec: Annotated[float, Field(gt=0.0, le=3600.0)] = 60.0
    """A request whose body takes longer is refused (408): it would hold its connection for nothing."""
    max_unfinished_mib: Annotated[int, Field(ge=1, le=65536)] = 256
    """All bodies together that are still coming in; the one that goes beyond is told to come back (503), and so is one
    with which those of its session are longer than one body may be."""
    max_head_kib: Annotated[int, Field(ge=1, le=1024)] = 64
    """A request line and headers that are longer are refused (431)."""
    head_timeout_sec: Annotated[float, Field(gt=0.0, le=3600.0)] = 15.0
    """A connection whose next request has begun, or whose first has not, is closed after this time (408)."""
    max_connections: Count = 8192
    """Connections open at a time, fewer where the process may not open so many files; above it those that wait for
    another request are closed, then new ones are told to come back (503)."""
    max_connections_per_address: Count = 256
    """Of these, from one other machine or pod; a box of this machine may have as many in its own way out."""
    metrics_key_file: Text | None = None
    """File whose content is the key for ``GET /metrics`` (``Authorization: Bearer KEY``); it is read anew for each.
    null: nobody has the key."""
    max_in_flight: Count = 4096
    """Replies in work at a time, over all sessions; further requests are told to come back (503)."""
    retry_after_sec: Annotated[int, Field(ge=1, le=3600)] = 1
    """What they, and those that found no replica, are told to wait."""
    max_sessions: Count = 100_000
    """Sessions open at a time."""
    keepalive_sec: Annotated[float, Field(ge=0.01, le=60.0)] = 3.0
    """Pause between the comment lines that keep a stream open until its reply is there."""
    side_call_tokens: Whole = 16
    """A conversation without tools that asks for at most this many tokens is a probe of the agent program: it is
    recorded and not trained."""
    volatile_rules: tuple[Literal["billing-header", "total-tokens", "date"], ...] = (
        "billing-header",
        "total-tokens",
        "date",
    )
    """Which spans that agents change behind the model's back do not make a request a new conversation: a billing line
    and a count of tokens in system text are dropped, a date is ignored when a history is matched."""
    record_journal: bool = True
    """Keep every turn on disk."""


class Dumps(Model):
    """What is kept of single trials."""

    trials_every: Whole = 1
    """Keep the trial folders of every n-th step; 0: of failed trials only."""
    work_every: Whole = 1
    """In which of these steps the files that agents left are kept too, for `liverl tasks regrade`; 0: of failed trials
    only. Equal files are stored once per run."""
    work_max_mib: Annotated[int, Field(ge=1, le=256)] = 4
    """Work of one trial above this is not kept."""
