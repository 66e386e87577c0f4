"""The coding agent that runs in the sandbox."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from compiler.spec.base import TOOL, VERSION, Count, Image, ImportPath, Model


class ShellScaffold(Model):
    """The built-in agent: reads, edits, runs tests, submits."""

    type: Literal["shell"]
    tools: Literal["free", "repair"]
    """``free``: free text edits; ``repair``: structured repairs whose arguments are a line label."""
    max_turns: Annotated[int, Field(ge=1, le=1000)]
    """Model calls per trial."""
    max_edits: Count
    """Edits per trial."""


class ImportedScaffold(Model):
    """A scaffold of your own."""

    type: Literal["import"]
    import_path: ImportPath
    """``package.module:Class``, implementing ``runtime.scaffolds.base.Scaffold``."""
    kwargs: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """Arguments of its constructor."""


class _Installed(Model):
    """A published coding agent, installed once per machine and shown read-only in every sandbox."""

    own_memory_mib: ClassVar[int] = 0
    """What the agent itself needs in the box, beyond the task's memory (its class's ``needs``)."""

    version: Annotated[str, Field(pattern=VERSION)]
    """Exactly this release; nothing is updated later."""
    max_turns: Annotated[int, Field(ge=1, le=1000)]
    """Model calls of the main conversation."""
    runtime_image: Image | None = None
    """Sandboxes that are pods: the image that brings the agent, made with the bundle's ``agent.Dockerfile``; null: the
    trainer uploads the agent, hundreds of megabytes, into every pod."""


class ClaudeCodeScaffold(_Installed):
    """npm ``@anthropic-ai/claude-code``; speaks the Anthropic API."""

    own_memory_mib: ClassVar[int] = 1024

    type: Literal["claude-code"]
    tools: tuple[Annotated[str, Field(pattern=TOOL)], ...] | None = None
    """Built-in tools it may use, for example ``['Bash', 'Read', 'Edit']``; null: all but those that need a network."""
    compact_tokens: Annotated[int, Field(ge=10_000, le=1 << 24)] | None = None
    """Context size at which it summarises the conversation and goes on; null: its own rule."""


SIMILAR = {
    "openhands": "it is a terminal interface around an agent of the OpenHands SDK; use openhands-sdk, the agent itself",
    "openhands-ai": "it is a server around an agent of the OpenHands SDK; use openhands-sdk, the agent itself",
    "terminus": "use terminus-2, its successor",
    "terminus-1": "use terminus-2, its successor",
}
"""Names of programs that are no scaffold of their own, and what to take in their place."""


class _Library(_Installed):
    """An agent that is a Python library, driven in the sandbox by a program of LiveRL's."""

    max_replies_without_tool: Annotated[int, Field(ge=1, le=1000)] = 3
    """Consecutive replies without a tool call after which the trial ends; before that it is asked to go on."""
    compact_tokens: Annotated[int, Field(ge=10_000, le=1 << 24)] | None = None
    """Context size at which it summarises the conversation and goes on; null: never."""


class OpenHandsSdkScaffold(_Library):
    """PyPI ``openhands-sdk`` and ``openhands-tools``, with their own prompt and tools; speaks the OpenAI API."""

    own_memory_mib: ClassVar[int] = 1024

    type: Literal["openhands-sdk"]
    tools: Annotated[
        tuple[Literal["terminal", "file_editor", "task_tracker", "glob", "grep"], ...], Field(min_length=1)
    ] = ("terminal", "file_editor", "task_tracker")
    """Tools it has besides ``finish`` and ``think``."""


class Terminus2Scaffold(_Library):
    """Terminus 2 of PyPI ``harbor`` (``version`` is Harbor's), which types into a terminal; speaks the OpenAI API, with
    its commands in the text of its replies: a reply that types nothing is one without a tool call."""

    own_memory_mib: ClassVar[int] = 768

    type: Literal["terminus-2"]
    parser: Literal["json", "xml"] = "json"
    """The form in which it is asked to reply."""


class OpenCodeScaffold(_Installed):
    """npm ``opencode-ai``; speaks OpenAI chat completions."""

    own_memory_mib: ClassVar[int] = 1024

    type: Literal["opencode"]
    tools: tuple[Annotated[str, Field(pattern=TOOL)], ...] | None = None
    """Built-in tools it may use, for example ``['bash', 'read', 'edit']``; null: all but those that need a network."""
    compact_tokens: Annotated[int, Field(ge=10_000, le=1 << 24)] | None = None
    """Context size at which it summarises the conversation and goes on; null: only when a request is refused for its
    length."""


class MiniSweAgentScaffold(_Installed):
    """PyPI ``mini-swe-agent``; speaks OpenAI chat completions, and has one tool, bash."""

    own_memory_mib: ClassVar[int] = 512

    type: Literal["mini-swe-agent"]
    max_replies_without_tool: Annotated[int, Field(ge=1, le=1000)]
    """Replies in a row without a valid call of the tool, after which it ends."""
    command_timeout_sec: Annotated[int, Field(ge=1, le=86_400)]
    """Seconds that one command may take."""


Scaffold = Annotated[
    ShellScaffold
    | ImportedScaffold
    | ClaudeCodeScaffold
    | OpenCodeScaffold
    | MiniSweAgentScaffold
    | OpenHandsSdkScaffold
    | Terminus2Scaffold,
    Field(discriminator="type"),
]
