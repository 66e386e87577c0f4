"""Where the agent loop meets coding agents: a ``Scaffold`` runs one agent in a sandbox against one model endpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any, Protocol

from runtime.config import Needs as Needs
from runtime.errors import Termination, TrialError
from runtime.sandboxes.base import AGENT, Mount, Sandbox


@dataclass(frozen=True)
class ModelEndpoint:
    """The policy as the agent sees it: its ``base_url`` ends in ``/s/<session>``."""

    base_url: str
    secret: str
    model: str = "policy"


@dataclass(frozen=True)
class AgentOutcome:
    """How the agent ended (a valid end; failures are raised as ``TrialError``), its logs by file name, and numbers to
    record."""

    termination: Termination
    logs: Mapping[str, bytes] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)


class AgentFailure(TrialError):
    """A ``TrialError`` of an agent that left logs."""

    def __init__(self, termination: Termination, message: str, *, logs: Mapping[str, bytes] | None = None) -> None:
        super().__init__(termination, message)
        self.logs = dict(logs or {})


@dataclass(frozen=True)
class Rehearsal:
    """What a scripted policy says to this agent in the probe before a run: calls of its tools, (name, arguments), that
    leave the work directory as it is and show that the tools work. ``tools``: their schemas, in OpenAI's form."""

    tools: Sequence[Mapping[str, Any]] = ()
    calls: tuple[tuple[str, Mapping[str, str]], ...] = ()


class Scaffold(Protocol):
    """One coding agent. Instances hold settings only and are shared by all trials.

    A scaffold may also have the properties ``needs`` (``Needs``; see ``needs_of``) and ``rehearsal`` (``Rehearsal``).
    """

    @property
    def mounts(self) -> tuple[Mount, ...]:
        """What the sandbox must show read-only for this agent."""

    async def run(self, task: Any, sandbox: Sandbox, endpoint: ModelEndpoint, *, timeout_sec: float) -> AgentOutcome:
        """Run the agent on ``task`` (a ``runtime.task.Task``) to its end. Raises ``TrialError`` at the agent
        boundary."""


def mounts_of(scaffold: Scaffold, *, image: str | None) -> tuple[Mount, ...]:
    """What the sandbox must show; of the agent itself it is said that ``image`` holds it too."""
    return tuple(
        replace(mount, image=image) if PurePosixPath(mount.target).is_relative_to(AGENT) else mount
        for mount in scaffold.mounts
    )


def needs_of(scaffold: Scaffold) -> Needs:
    """What ``scaffold`` declares; nothing if it declares nothing."""
    needs = getattr(scaffold, "needs", None)
    return needs if isinstance(needs, Needs) else Needs()


def rehearsal_of(scaffold: Scaffold) -> Rehearsal:
    """What ``scaffold`` declares; nothing if it declares nothing: then the policy says a closing word at once."""
    rehearsal = getattr(scaffold, "rehearsal", None)
    return rehearsal if isinstance(rehearsal, Rehearsal) else Rehearsal()
