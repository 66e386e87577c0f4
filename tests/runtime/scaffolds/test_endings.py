"""How the closing words of published agents become terminations."""

from __future__ import annotations

import json

import httpx
import openai
import pytest

from runtime.errors import Termination
from runtime.scaffolds import claude_code, driver, mini_swe_agent, opencode
from runtime.scaffolds.base import AgentFailure
from runtime.scaffolds.command import Ended
from runtime.scaffolds.drivers import report

T = Termination


def ended(*lines: object, exit_code: int = 0, stderr: bytes = b"") -> Ended:
    stdout = b"\n".join(json.dumps(line).encode() for line in lines)
    return Ended(exit_code, {"stdout.txt": stdout, "stderr.txt": stderr})


def result(**fields: object) -> dict[str, object]:
    return {"type": "result", "subtype": "success", "is_error": False, "num_turns": 4, "duration_ms": 1500, **fields}


def test_claude_code_ends_well_or_at_its_limit() -> None:
    good = claude_code.outcome(ended({"type": "system"}, result(result="Done.")))
    assert good.termination is T.COMPLETED and good.metrics == {"turns": 4.0, "total_sec": 1.5}
    assert claude_code.outcome(ended(result(subtype="error_max_turns", is_error=True))).termination is T.MAX_TURNS
    said = "API Error: Claude's response exceeded the 32000 output token maximum. To configure this behavior, set"
    assert claude_code.outcome(ended(result(is_error=True, result=said), exit_code=1)).termination is T.OVERLONG


@pytest.mark.parametrize(
    ("given", "termination"),
    [
        (ended(result(is_error=True, result="API Error: Unable to connect to API (ECONNRESET)")), T.MODEL_UNAVAILABLE),
        (ended(result(is_error=True, result="API Error: 529 overloaded"), exit_code=1), T.MODEL_UNAVAILABLE),
        (ended(result(is_error=True, result="API Error: 400 messages: bad")), T.AGENT_CRASHED),
        (ended(result(subtype="error_during_execution", is_error=True)), T.AGENT_CRASHED),
        (ended({"type": "system"}, exit_code=139, stderr=b"Segmentation fault"), T.AGENT_CRASHED),
        (Ended(0, {}), T.AGENT_CRASHED),
    ],
)
def test_claude_code_ends_badly(given: Ended, termination: Termination) -> None:
    with pytest.raises(AgentFailure) as caught:
        claude_code.outcome(given)
    assert caught.value.termination is termination and caught.value.logs == given.logs


def end(termination: str, **fields: object) -> dict[str, object]:
    return {
        "type": "end",
        "termination": termination,
        "turns": 3,
        "detail": "said",
        "metrics": {"stuck": 0.0},
        **fields,
    }


@pytest.mark.parametrize("termination", [T.COMPLETED, T.MAX_TURNS, T.NO_TOOL, T.OVERLONG])
def test_a_driver_tells_how_its_agent_ended(termination: Termination) -> None:
    outcome = driver.outcome(ended({"kind": "ActionEvent"}, end(termination)))
    assert outcome.termination is termination and outcome.metrics == {"turns": 3.0, "stuck": 0.0}


@pytest.mark.parametrize(
    ("given", "termination"),
    [
        (ended(end("model_unavailable", detail="APIConnectionError")), T.MODEL_UNAVAILABLE),
        (ended(end("agent_crashed", detail="KeyError")), T.AGENT_CRASHED),
        (ended({"type": "event"}, exit_code=-9), T.AGENT_CRASHED),
        (ended(end("agent_completed"), {"type": "event"}, exit_code=1), T.AGENT_CRASHED),  # it is not the last line
        (Ended(1, {"stdout.txt": b"", "stderr.txt": b"ModuleNotFoundError"}), T.AGENT_CRASHED),
        (ended(end("env_setup_failed")), T.AGENT_CRASHED),  # a word that is not the agent's to say
        (ended(end("happy")), T.AGENT_CRASHED),
        (ended(end("agent_completed", metrics={"stuck": "very"})), T.AGENT_CRASHED),
        (ended(end("agent_completed", metrics=None)), T.AGENT_CRASHED),
        (ended({"type": "end"}), T.AGENT_CRASHED),
    ],
)
def test_a_driver_that_ends_badly(given: Ended, termination: Termination) -> None:
    with pytest.raises(AgentFailure) as caught:
        driver.outcome(given)
    assert caught.value.termination is termination and caught.value.logs == given.logs


def test_drivers_speak_the_runtime_s_words() -> None:
    words = [report.COMPLETED, report.MAX_TURNS, report.NO_TOOL, report.OVERLONG, report.NO_MODEL, report.CRASHED]
    assert [Termination(word) for word in words] == [
        T.COMPLETED,
        T.MAX_TURNS,
        T.NO_TOOL,
        T.OVERLONG,
        T.MODEL_UNAVAILABLE,
        T.AGENT_CRASHED,
    ]


def wrapped(error: Exception) -> Exception:
    outer = RuntimeError("conversation failed")
    outer.__cause__ = error
    return outer


def answered(status: int) -> openai.APIStatusError:
    response = httpx.Response(status, request=httpx.Request("POST", "http://proxy"))
    return openai.APIStatusError("no", response=response, body=None)


class ContextWindowExceededError(openai.APIStatusError):
    """As litellm calls it."""


@pytest.mark.parametrize(
    ("error", "termination"),
    [
        (wrapped(openai.APIConnectionError(request=httpx.Request("POST", "http://proxy"))), report.NO_MODEL),
        (wrapped(answered(503)), report.NO_MODEL),
        (answered(429), report.NO_MODEL),
        (answered(401), report.CRASHED),
        (wrapped(ContextWindowExceededError("long", response=answered(400).response, body=None)), report.OVERLONG),
        (wrapped(KeyError("x")), report.CRASHED),
    ],
)
def test_failures_of_a_driver_s_agent(error: Exception, termination: str) -> None:
    assert report.termination_of(error) == termination
    assert type(error).__name__ in report.describe(error)


def step(at_ms: int, reason: str = "tool-calls") -> dict[str, object]:
    return {"type": "step_finish", "timestamp": at_ms, "part": {"reason": reason}}


ERROR: dict[str, object] = {"type": "error", "timestamp": 4000, "error": {"name": "APIError"}}


def test_opencode_ends_well_or_at_its_limit() -> None:
    good = opencode.outcome(ended(step(1000), {"type": "text"}, step(3500, "stop")), max_turns=9)
    assert good.termination is T.COMPLETED and good.metrics == {"turns": 2.0, "total_sec": 2.5}
    recovered = opencode.outcome(ended(step(1000), ERROR, step(5000, "length"), exit_code=1), max_turns=9)
    assert recovered.termination is T.COMPLETED
    limit = opencode.outcome(ended(step(1000), step(2000), ERROR, exit_code=1), max_turns=2)
    assert limit.termination is T.MAX_TURNS


@pytest.mark.parametrize(
    "given",
    [
        ended(step(1000), ERROR),
        ended(ERROR, exit_code=1),
        ended(step(1000, "stop"), exit_code=137),
        ended(step(1000)),
        ended({"type": "step_finish"}, ERROR),
        ended({"type": "step_start"}),
        Ended(0, {"stdout.txt": b"not json\n[1]\n{}"}),
        Ended(0, {}),
    ],
)
def test_opencode_ends_badly(given: Ended) -> None:
    with pytest.raises(AgentFailure) as caught:
        opencode.outcome(given, max_turns=2)
    assert caught.value.termination is T.AGENT_CRASHED and caught.value.logs == given.logs


@pytest.mark.parametrize(
    ("status", "termination"),
    [("Submitted", T.COMPLETED), ("LimitsExceeded", T.MAX_TURNS), ("RepeatedFormatError", T.NO_TOOL)],
)
def test_mini_swe_agent_ends_well(status: str, termination: Termination) -> None:
    good = mini_swe_agent.outcome(ended({"type": "result", "exit_status": status, "turns": 3, "total_sec": 1.5}))
    assert good.termination is termination and good.metrics == {"turns": 3.0, "total_sec": 1.5}


@pytest.mark.parametrize(
    "given",
    [
        ended({"type": "result", "exit_status": "InternalServerError", "error": "Connection error."}),
        ended({"type": "result", "exit_status": None}),
        ended(exit_code=1, stderr=b"ModuleNotFoundError"),
    ],
)
def test_mini_swe_agent_ends_badly(given: Ended) -> None:
    with pytest.raises(AgentFailure) as caught:
        mini_swe_agent.outcome(given)
    assert caught.value.termination is T.AGENT_CRASHED


@pytest.mark.parametrize("tokens", [12_000, 60_000, 100_000, 300_000])
def test_claude_code_compacts_at_the_size_that_is_set(tokens: int) -> None:
    """By the program's own rule: a share of the window less 20,000, and at least 13,000 below that."""
    variables = claude_code.compaction(tokens)
    window = int(variables["CLAUDE_CODE_AUTO_COMPACT_WINDOW"])
    usable = window - 20_000
    share = int(usable * float(variables["CLAUDE_AUTOCOMPACT_PCT_OVERRIDE"]) / 100)
    assert window >= 100_000 and abs(min(share, usable - 13_000) - tokens) <= 1
    assert variables["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == str(window)
