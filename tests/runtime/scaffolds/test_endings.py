"""How the closing words of published agents become terminations."""

from __future__ import annotations

import json

import pytest

from runtime.errors import Termination
from runtime.scaffolds import claude_code
from runtime.scaffolds.base import AgentFailure
from runtime.scaffolds.command import Ended

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
