"""The failure vocabulary of a run: every way a trial can end badly, and what follows from it.

A bad rollout is data, not a crash. A failure is typed once, at the boundary that it crossed, and everything later
(retry, grading, masking, counting) is read from the one table below. This module does not know who raises a failure or
who counts it.

Boundaries: ``sandbox`` (the box itself), ``agent`` (the scaffold's process), ``model`` (proxy and engine),
``verifier``, ``task`` (its files), ``worker`` (the process that plays the trial), ``internal`` (a bug of ours). Only
failures with ``grade=True`` may carry a reward; the others never become a silent 0."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Boundary(StrEnum):
    SANDBOX = "sandbox"
    AGENT = "agent"
    MODEL = "model"
    VERIFIER = "verifier"
    TASK = "task"
    WORKER = "worker"
    INTERNAL = "internal"


class Termination(StrEnum):
    """Why a trial ended. The first four are valid ends that the verifier grades and that stay in the loss.

    ``AGENT_CRASHED``: before the model had answered once, so the policy had no part in it. ``AGENT_DIED``: later. What
    the policy's commands can bring about (killing the agent, exhausting the box's memory or the patience of those who
    read it, forging the agent's last words) must be no way out of a bad grade, so it is graded and trained on like any
    other end; so is every failure after the first answer of which the host cannot prove that it was its own
    (``TrialError.host_fault``). Running out of time is trained on for the same reason: an agent that sees that it will
    fail could sleep.
    """

    COMPLETED = "agent_completed"
    MAX_TURNS = "max_turns_reached"
    OVERLONG = "overlong"
    NO_TOOL = "no_tool_calls"
    TIMEOUT = "timeout"
    AGENT_CRASHED = "agent_crashed"
    AGENT_DIED = "agent_died"
    ENV_SETUP_FAILED = "env_setup_failed"
    SANDBOX_LOST = "sandbox_lost"
    OUT_OF_MEMORY = "sandbox_out_of_memory"
    MODEL_UNAVAILABLE = "model_unavailable"
    VERIFIER_TIMEOUT = "verifier_timeout"
    VERIFIER_CRASHED = "verifier_crashed"
    TASK_INVALID = "task_invalid"
    WORKER_LOST = "worker_lost"
    NOT_KEPT = "not_kept"
    INTERNAL = "internal_error"


@dataclass(frozen=True)
class Handling:
    """What the system does after a failure: which boundary it crossed, run the trial again?, may it be graded? What is
    graded stays in the loss, unless the run's trajectory filter says otherwise."""

    boundary: Boundary | None
    retry: bool
    grade: bool


HANDLING: dict[Termination, Handling] = {
    Termination.COMPLETED: Handling(None, retry=False, grade=True),
    Termination.MAX_TURNS: Handling(None, retry=False, grade=True),
    Termination.OVERLONG: Handling(None, retry=False, grade=True),
    Termination.NO_TOOL: Handling(None, retry=False, grade=True),
    Termination.TIMEOUT: Handling(Boundary.AGENT, retry=False, grade=True),
    Termination.AGENT_CRASHED: Handling(Boundary.AGENT, retry=True, grade=False),
    Termination.AGENT_DIED: Handling(Boundary.AGENT, retry=False, grade=True),
    Termination.ENV_SETUP_FAILED: Handling(Boundary.SANDBOX, retry=True, grade=False),
    Termination.SANDBOX_LOST: Handling(Boundary.SANDBOX, retry=True, grade=False),
    Termination.OUT_OF_MEMORY: Handling(Boundary.SANDBOX, retry=True, grade=False),
    Termination.MODEL_UNAVAILABLE: Handling(Boundary.MODEL, retry=True, grade=False),
    Termination.VERIFIER_TIMEOUT: Handling(Boundary.VERIFIER, retry=True, grade=False),
    Termination.VERIFIER_CRASHED: Handling(Boundary.VERIFIER, retry=True, grade=False),
    Termination.TASK_INVALID: Handling(Boundary.TASK, retry=False, grade=False),
    Termination.WORKER_LOST: Handling(Boundary.WORKER, retry=True, grade=False),
    Termination.NOT_KEPT: Handling(Boundary.INTERNAL, retry=False, grade=False),
    Termination.INTERNAL: Handling(Boundary.INTERNAL, retry=False, grade=False),
}


class TrialError(Exception):
    """A typed failure of one trial. ``termination`` selects the row of ``HANDLING``; the message is for people."""

    def __init__(self, termination: Termination, message: str, host_fault: bool = False) -> None:
        """host_fault: it is proved that nothing inside the box brought this about."""
        super().__init__(message)
        self.termination = termination
        self.host_fault = host_fault

    def __reduce__(self) -> tuple[type[TrialError], tuple[Termination, str, bool]]:
        # By default an exception is rebuilt from its message alone; this one must survive the way out of a Ray actor.
        return (TrialError, (self.termination, str(self), self.host_fault))

    @property
    def handling(self) -> Handling:
        return HANDLING[self.termination]


class MachineError(Exception):
    """The machine lacks something (package, disk, port): exit code 3. ``fix`` is the command or action that cures
    it."""

    def __init__(self, message: str, *, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


class ImageError(MachineError):
    """What one image needs is not to be had: tasks of other images can go on."""


class RunError(Exception):
    """The run itself failed (exit code 4), with a message for people and where to look."""


class RunHalted(RunError):
    """The run ended by itself, as its spec's ``health`` says: going on would only repeat why."""


class UserError(Exception):
    """An argument or input file is wrong: exit code 2. One problem per line of ``problems``, each saying where, what,
    and what to do."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def each(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """``work`` of every item. What is wrong with several of them is said at once."""
    done: list[Result] = []
    problems: dict[str, None] = {}
    for item in items:
        try:
            done.append(work(item))
        except UserError as error:
            problems |= dict.fromkeys(error.problems)
    if problems:
        raise UserError(*problems)
    return done


@contextmanager
def boundary(termination: Termination, what: str) -> Iterator[None]:
    """Type every foreign exception that crosses here as ``termination``; a ``TrialError`` from deeper down passes
    unchanged.

    Cancellation and interrupts are not failures and pass as they are.
    """
    try:
        yield
    except TrialError:
        raise
    except Exception as error:
        raise TrialError(termination, f"{what}: {type(error).__name__}: {error}") from error
