"""What a person sees while a run goes on, on a terminal and in a log."""

from __future__ import annotations

import io
import time
from pathlib import Path

import orjson
import pytest
from rich.console import Console

from runtime.telemetry import progress as progress_module
from runtime.telemetry.metrics import Row
from runtime.telemetry.progress import Progress, time_left
from tests.runtime.rows import append_row


def _run(tmp_path: Path, *, terminal: bool) -> str:
    page = io.StringIO()
    console = Console(file=page, width=120, force_terminal=terminal, force_interactive=terminal)
    with Progress("quickstart 1", console=console) as progress:
        with progress.phase("tasks"):
            progress.update("512 train", 1.0)
            progress.problem("tasks/broken: no tests/test.sh")
        with progress.phase("train"), progress.follow(tmp_path / "m", tmp_path / "s", total_steps=4):
            (tmp_path / "s").write_bytes(orjson.dumps({"step": 2, "phase": "rollout", "sandboxes": 16}))
            append_row(tmp_path / "m", 0, {"val-core/held-out/reward/mean@1": 0.3})
            append_row(
                tmp_path / "m", 1, {"critic/score/mean": 0.25, "timing_s/step": 3.0, "perf/total_num_tokens": 900}
            )
            time.sleep(0.1)
    return page.getvalue()


def test_a_log_gets_plain_lines(tmp_path: Path) -> None:
    text = _run(tmp_path, terminal=False)
    assert "\x1b" not in text
    for expected in (
        "tasks done in 0:00  512 train",
        "problem: tasks/broken",
        "step 0/4  held-out 30.0%",
        "300 tokens/s",
    ):
        assert expected in text
    assert "step 1/4  solved 25%  3.0 s  300 tokens/s  about 0:09 left" in text


def test_a_log_hears_of_a_long_phase_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    page, now = io.StringIO(), [0.0]
    monkeypatch.setattr("runtime.telemetry.progress.time.monotonic", lambda: now[0])
    progress = Progress("real-repos 1", console=Console(file=page, width=120))
    with progress.phase("tasks"):
        for now[0] in range(0, 100, 10):
            progress.update(f"toolz: {now[0]} mutants tried")
    assert [line.split("]")[1] for line in page.getvalue().splitlines()[1:-1]] == [
        " toolz: 30 mutants tried",
        " toolz: 60 mutants tried",
        " toolz: 90 mutants tried",
    ]


def test_a_terminal_gets_a_live_display(tmp_path: Path) -> None:
    text = _run(tmp_path, terminal=True)
    for expected in ("quickstart 1", "512 train", "2 of 4", "sandboxes in flight", "16", "1 problem(s)"):
        assert expected in text


def test_time_left_follows_the_newest_steps() -> None:
    rows = [Row(step, {"timing_s/step": 100.0 if step < 5 else 2.0}) for step in range(1, 16)]
    assert time_left(rows, 20) == 10.0
    assert time_left(rows, 0) is None
    assert time_left([], 20) is None


def test_a_log_never_falls_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal, a phase that says nothing by itself is named from time to time."""
    monkeypatch.setattr(progress_module, "QUIET_SEC", 0.0)
    page = io.StringIO()
    deadline = time.monotonic() + 30
    with (
        Progress("x", console=Console(file=page, width=200)) as progress,
        progress.phase("train"),
        progress.follow(tmp_path / "metrics.jsonl", tmp_path / "status.json", total_steps=9),
    ):
        while "starting Ray and verl" not in page.getvalue():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        (tmp_path / "status.json").write_text('{"phase": "rollout", "step": 3, "trials": 8, "done": 5}')
        while "step 3/9  rollout  5 of 8 trials" not in page.getvalue():
            assert time.monotonic() < deadline
            time.sleep(0.05)
