"""Every kind of failure has its exit code and its words, and none shows a traceback unasked."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from compiler.errors import Problem, SpecError
from liverl.exits import exit_codes, explain, resume_hint
from runtime.errors import MachineError, RunError, Termination, TrialError, UserError
from runtime.launch import TRACEBACK_NOTE


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UserError("a.jsonnet:1:2: x: y", "second"), 2, ["a.jsonnet:1:2: x: y\nsecond"]),
        (SpecError([Problem(path=("seed",), what="is wrong")]), 2, ["seed: is wrong"]),
        (
            MachineError("bubblewrap: not installed", fix="apt-get install -y bubblewrap"),
            3,
            ["fix: apt-get install -y"],
        ),
        (OSError(errno.ENOSPC, "No space left", "/data/x"), 3, ["/data/x", "No space left", "fix: free some space"]),
        (RunError("the trainer ended"), 4, ["the run failed: the trainer ended"]),
        (TrialError(Termination.TASK_INVALID, "no tests"), 4, ["task_invalid: no tests"]),
        (KeyboardInterrupt(), 130, ["interrupted"]),
        (BaseExceptionGroup("g", [ValueError("x"), UserError("u")]), 2, ["u"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_code_and_words(error: BaseException, code: int, words: list[str]) -> None:
    found, message = explain(error)
    assert found == code
    assert all(word in message for word in words) and "Traceback" not in message


def test_an_unforeseen_error_goes_to_a_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    with pytest.raises(SystemExit) as end, exit_codes():
        raise ZeroDivisionError("surprise")
    shown = capsys.readouterr().err
    assert end.value.code == 1
    assert "internal fault: ZeroDivisionError: surprise" in shown and "a bug: please report" in shown
    assert "Traceback" not in shown
    (file,) = tmp_path.iterdir()
    assert str(file) in shown and "Traceback" in file.read_text()


def test_a_run_that_kept_its_traceback_is_pointed_to(capsys: pytest.CaptureFixture[str]) -> None:
    error = ValueError("x")
    error.add_note(f"{TRACEBACK_NOTE}/runs/1/logs/traceback.txt")
    with pytest.raises(SystemExit), exit_codes():
        raise error
    assert "please report, with /runs/1/logs/traceback.txt" in capsys.readouterr().err


def test_a_developer_may_ask_for_the_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIVERL_TRACEBACK", "1")
    with pytest.raises(SystemExit), exit_codes():
        raise UserError("wrong")
    assert "Traceback" in capsys.readouterr().err


def test_codes_chosen_by_a_command_pass() -> None:
    with pytest.raises(SystemExit) as end, exit_codes():
        raise SystemExit(3)
    assert end.value.code == 3


@pytest.mark.parametrize(
    ("error", "goes_on"),
    [
        (UserError("rollout.prompt_length: too short"), False),
        (RunError("the trainer ended"), True),
        (MachineError("the disk is full", fix="free some space"), True),
        (KeyboardInterrupt(), True),
        (ZeroDivisionError(), True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_what_can_end_otherwise_is_worth_another_start(
    error: BaseException, goes_on: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(type(error)), resume_hint("liverl run --resume runs/x/1"):
        raise error
    assert ("go on with: liverl run --resume runs/x/1" in capsys.readouterr().err) == goes_on
