"""Rows of several starts of the trainer become one row per step, whatever was killed in between."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from runtime.trainer.rows import RowWriter, merge_rows, read_rows, write_metrics


def write(folder: Path, source: str, attempt: int, rows: list[tuple[int, dict[str, Any]]]) -> Path:
    path = folder / f"{source}-{attempt:03d}.jsonl"
    writer = RowWriter(path)
    for step, data in rows:
        writer.write(step, data)
    writer.close()
    return path


def trained(step: int, mark: str) -> tuple[int, dict[str, Any]]:
    return step, {"training/global_step": step, "mark": mark}


def test_our_numbers_stand_beside_verls_and_make_no_row_alone(tmp_path: Path) -> None:
    write(tmp_path, "verl", 0, [(0, {"val-core/held-out/reward/mean@1": 0.2}), trained(1, "a")])
    write(tmp_path, "loop", 0, [(0, {"val-aux/x": 1}), (1, {"groups/mixed": 3}), (2, {"groups/mixed": 4})])
    write(tmp_path, "weights", 0, [(0, {"weights/version": 0}), (1, {"weights/version": 1})])
    merged = merge_rows(tmp_path)
    assert list(merged) == [0, 1]
    assert merged[0] == {"val-core/held-out/reward/mean@1": 0.2, "val-aux/x": 1, "weights/version": 0}
    assert merged[1] == {"training/global_step": 1, "mark": "a", "groups/mixed": 3, "weights/version": 1}


def test_a_resumed_start_has_the_word_on_what_it_trained_again(tmp_path: Path) -> None:
    write(tmp_path, "verl", 0, [trained(1, "old"), trained(2, "old"), trained(3, "old"), trained(4, "old")])
    write(tmp_path, "verl", 1, [(2, {"val-core/held-out/reward/mean@1": 0.5}), trained(3, "new")])
    merged = merge_rows(tmp_path)
    assert [(step, data["mark"]) for step, data in merged.items()] == [(1, "old"), (2, "old"), (3, "new"), (4, "old")]
    assert merged[2]["val-core/held-out/reward/mean@1"] == 0.5


def test_a_torn_last_line_and_foreign_files_are_left_out(tmp_path: Path) -> None:
    path = write(tmp_path, "verl", 0, [trained(1, "a")])
    with path.open("ab") as file:
        file.write(b'{"step": 2, "data": {"training/glo')
    (tmp_path / "notes.jsonl").write_text('{"step": 9, "data": {}}\n')
    assert list(merge_rows(tmp_path)) == [1]
    assert list(read_rows(tmp_path / "missing.jsonl")) == []


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 6)), min_size=1, max_size=4), st.integers(0, 40))
def test_every_step_is_reported_once_by_the_newest_start_that_finished_it(
    history: list[tuple[int, int]], cut: int
) -> None:
    """``history``: (steps lost at the kill, steps trained) per start; the last file may be cut anywhere."""
    with tempfile.TemporaryDirectory() as name:
        folder, at, expected = Path(name), 0, {}
        for attempt, (lost, count) in enumerate(history):
            at = max(0, at - lost)
            rows = [trained(step, f"{attempt}") for step in range(at + 1, at + count + 1)]
            path = write(folder, "verl", attempt, rows)
            content = path.read_bytes()
            if attempt == len(history) - 1:
                path.write_bytes(content[: max(0, len(content) - cut)])
            whole = path.read_bytes().count(b"\n")
            expected |= {step: data["mark"] for step, data in rows[:whole]}
            at += whole
        assert {step: data["mark"] for step, data in merge_rows(folder).items()} == expected
        target = folder / "metrics.jsonl"
        assert write_metrics(folder, target) == len(expected)
        once = target.read_bytes()
        write_metrics(folder, target)
        assert target.read_bytes() == once
        assert [orjson.loads(line)["step"] for line in once.splitlines()] == sorted(expected)
