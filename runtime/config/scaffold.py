"""The coding agent that runs in the sandbox: what a spec says of it, and what its program needs there."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from runtime.config.base import TOOL, VERSION, Count, Image, ImportPath, Model


@dataclass(frozen=True)
class Needs:
    """What the agent's own program takes in the sandbox on top of the task's work: MiB of memory, and processes.

    ``address_space``: it reserves far more addresses than memory (JavaScript engines do), so a limit on addresses must
    not stand in for one on memory.
    """

    memory_mib: int = 0
    pids: int = 0
    address_space: bool = False


class _Agent(Model):
    needs: ClassVar[Needs] = Needs()
    needs_tool_calls: ClassVar[bool] = True
    """It acts by tool calls of the wire API alone, so the policy's chat template must show tools and write calls."""


class FirstLook(Model):
    """What the agent sees before its first turn: what the first failing test says, and the source of the functions that
    it executed last."""

    functions: Annotated[int, Field(ge=1, le=50)] = 3
    """Functions of the code under repair, the one executed last first."""
    max_chars: Annotated[int, Field(ge=500, le=200_000)] = 6000
    """Most characters of all of it; whole functions only."""


class ShellScaffold(_Agent):
    """The built-in agent: reads, edits, runs tests, submits."""

    type: Literal["shell"] = "shell"
    tools: Literal["free", "repair"]
    """``free``: free text edits; ``repair``: structured repairs whose arguments are a line label."""
    max_turns: Annotated[int, Field(ge=1, le=1000)]
    """Model calls per trial."""
    max_edits: Count
    """Edits per trial; the last one ends it."""
    first_look: FirstLook | None = None
    """Of ``tools: free``: run the tests before the first turn and show where they fail; null: no."""
    test_after_edit: bool = False
    """Of ``tools: free``: run the tests after each edit and say how they end."""
    undo_failed_edits: bool = False
    """Of ``test_after_edit``: put an edit back after which the tests fail, so that each starts from the code as it was:
    several attempts, none of which spoils the next."""
    edit_match: Literal["exact", "closest"] = "exact"
    """Of ``tools: free``, what ``edit_file`` replaces where the old text is not exactly there. ``exact``: nothing;
    ``closest``: what was most probably meant, in that line with a slip in it, or in the file beside the one named. For
    small models, which most often repeat an edit that was refused."""
    max_refusals: Count | None = None
    """End the trial when the same call has been refused so many times in a row; null: never."""
    max_observation: Annotated[int, Field(ge=200, le=1_000_000)] = 16_000
    """Of ``tools: free``: most characters of what one tool call shows; of a longer text both ends."""


class ImportedScaffold(_Agent):
    """A scaffold of your own."""

    needs_tool_calls: ClassVar[bool] = False
    """Nobody knows."""

    type: Literal["import"] = "import"
    import_path: ImportPath
    """``package.module:Class``, implementing ``runtime.scaffolds.base.Scaffold``."""
    kwargs: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """Arguments of its constructor."""


class InstalledScaffold(_Agent):
    """A published coding agent, installed once per machine and shown read-only in every sandbox."""

    version: Annotated[str, Field(pattern=VERSION)]
    """Exactly this release; nothing is updated later."""
    max_turns: Annotated[int, Field(ge=1, le=1000)]
    """Model calls of the main conversation."""
    runtime_image: Image | None = None
    """Sandboxes that are pods: the image that brings the agent, made with the bundle's ``agent.Dockerfile``; null: the
    trainer uploads the agent, hundreds of megabytes, into every pod."""


class ClaudeCodeScaffold(InstalledScaffold):
    """npm ``@anthropic-ai/claude-code``; speaks the Anthropic API."""

    needs: ClassVar[Needs] = Needs(memory_mib=1024, pids=64, address_space=True)

    type: Literal["claude-code"] = "claude-code"
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


class LibraryScaffold(InstalledScaffold):
    """An agent that is a Python library, driven in the sandbox by a program of LiveRL's."""

    max_replies_without_tool: Annotated[int, Field(ge=1, le=1000)] = 3
    """Consecutive replies without a tool call after which the trial ends; before that it is asked to go on."""
    compact_tokens: Annotated[int, Field(ge=10_000, le=1 << 24)] | None = None
    """Context size at which it summarises the conversation and goes on; null: never."""


class OpenHandsSdkScaffold(LibraryScaffold):
    """PyPI ``openhands-sdk`` and ``openhands-tools``, with their own prompt and tools; speaks the OpenAI API."""

    needs: ClassVar[Needs] = Needs(memory_mib=1024, pids=64)

    type: Literal["openhands-sdk"] = "openhands-sdk"
    tools: Annotated[
        tuple[Literal["terminal", "file_editor", "task_tracker", "glob", "grep"], ...], Field(min_length=1)
    ] = ("terminal", "file_editor", "task_tracker")
    """Tools it has besides ``finish`` and ``think``."""


class Terminus2Scaffold(LibraryScaffold):
    """Terminus 2 of PyPI ``harbor`` (``version`` is Harbor's), which types into a terminal; speaks the OpenAI API, with
    its commands in the text of its replies: a reply that types nothing is one without a tool call."""

    needs: ClassVar[Needs] = Needs(memory_mib=768, pids=64)
    needs_tool_calls: ClassVar[bool] = False

    type: Literal["terminus-2"] = "terminus-2"
    parser: Literal["json", "xml"] = "json"
    """The form in which it is asked to reply."""


class OpenCodeScaffold(InstalledScaffold):
    """npm ``opencode-ai``; speaks OpenAI chat completions."""

    needs: ClassVar[Needs] = Needs(memory_mib=1024, pids=64, address_space=True)

    type: Literal["opencode"] = "opencode"
    tools: tuple[Annotated[str, Field(pattern=TOOL)], ...] | None = None
    """Built-in tools it may use, for example ``['bash', 'read', 'edit']``; null: all but those that need a network."""
    compact_tokens: Annotated[int, Field(ge=10_000, le=1 << 24)] | None = None
    """Context size at which it summarises the conversation and goes on; null: only when a request is refused for its
    length."""


class MiniSweAgentScaffold(InstalledScaffold):
    """PyPI ``mini-swe-agent``; speaks OpenAI chat completions, and has one tool, bash."""

    needs: ClassVar[Needs] = Needs(memory_mib=512, pids=32, address_space=True)

    type: Literal["mini-swe-agent"] = "mini-swe-agent"
    max_replies_without_tool: Annotated[int, Field(ge=1, le=1000)]
    """Replies in a row without a valid call of the tool, after which it ends."""
    command_timeout_sec: Annotated[int, Field(ge=1, le=86_400)]
    """Seconds that one command may take."""


AgentScaffold = ClaudeCodeScaffold | OpenCodeScaffold | MiniSweAgentScaffold | OpenHandsSdkScaffold | Terminus2Scaffold
Scaffold = Annotated[ShellScaffold | ImportedScaffold | AgentScaffold, Field(discriminator="type")]
