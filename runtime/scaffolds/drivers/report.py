"""What a driver is told (one JSON object on its standard input) and what it says at the end (the last line of its
standard output). Knows no agent.

The secret of the model's endpoint comes this way too: in the environment, every command of the agent would see it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from resource import RUSAGE_SELF, getrusage
from typing import Any

COMPLETED, MAX_TURNS, NO_TOOL, OVERLONG = "agent_completed", "max_turns_reached", "no_tool_calls", "overlong"
NO_MODEL, CRASHED = "model_unavailable", "agent_crashed"
"""Values of ``runtime.errors.Termination``, which is not there in the box."""


@dataclass
class Order:
    """The task and the limits. ``options`` are the agent's own settings."""

    instruction: str
    base_url: str
    """OpenAI's API: ends in ``/v1``."""
    secret: str
    model: str
    max_turns: int
    max_replies_without_tool: int
    timeout_sec: float
    options: dict[str, Any]


def read_order() -> Order:
    return Order(**json.load(sys.stdin))


def turn(number: int, typed: Sequence[str], *, wrong: str = "") -> None:
    """One line of the log per reply, so that it tells what was done also where no closing line comes."""
    line = {"type": "turn", "turn": number, "typed": [text[:500] for text in typed], "wrong": wrong[:500]}
    print(json.dumps(line), flush=True)


def end(termination: str, *, turns: int, detail: str = "", **metrics: float) -> None:
    """The closing line; ``detail`` is for people. Its metrics have the driver's own cost too, CPU seconds and MiB."""
    cost = {"agent_cpu_sec": time.process_time(), "agent_memory_mib": getrusage(RUSAGE_SELF).ru_maxrss / 1024}
    line = {"type": "end", "termination": termination, "turns": turns, "detail": detail[-2000:]}
    line["metrics"] = {**cost, **metrics}
    print(f"\n{json.dumps(line)}", flush=True)


def termination_of(error: BaseException) -> str:
    """Which boundary a failure crossed. The agents speak through litellm, whose errors are those of the package openai:
    no answer, or one that tells of the server's trouble, is an outage; too long a conversation is the budget's end.
    """
    from openai import APIConnectionError, APIStatusError

    for cause in _causes(error):
        if "ContextWindow" in type(cause).__name__ or "ContextLength" in type(cause).__name__:
            return OVERLONG
        if isinstance(cause, APIConnectionError):
            return NO_MODEL
        if isinstance(cause, APIStatusError) and (cause.status_code >= 500 or cause.status_code in (408, 429)):
            return NO_MODEL
    return CRASHED


def describe(error: BaseException) -> str:
    return " <- ".join(f"{type(cause).__name__}: {str(cause)[:500]}" for cause in _causes(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__
