"""A command that says nothing for long says that it lives; one that speaks is left alone."""

from __future__ import annotations

import time

import pytest

from liverl import still_there


def test_silence_is_broken_and_speech_is_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(still_there, "QUIET_SEC", 0.2)
    done: list[int] = []
    with still_there.still_there("judging", lambda: f"{len(done)} of 9"):
        done.append(1)
        while not (said := capsys.readouterr().err):
            time.sleep(0.02)
    assert said == "judging, for 0:00  1 of 9\n"
    monkeypatch.setattr(still_there, "QUIET_SEC", 60.0)
    with still_there.still_there("judging"):
        still_there.say("one more")
    assert capsys.readouterr().err == "one more\n"
