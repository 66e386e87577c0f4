"""Rows of metrics.jsonl: newest value per step and name, whatever state the file is in."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from runtime.telemetry.metrics import Follower, read_rows, series
from tests.runtime.rows import append_row

names = st.sampled_from(["critic/score/mean", "val-core/held-out/reward/mean@1", "timing_s/step"])
numbers = st.floats(allow_nan=False, allow_infinity=False, width=32)


def test_missing_file_has_no_rows(tmp_path: Path) -> None:
    assert read_rows(tmp_path / "metrics.jsonl") == []


@given(written=st.lists(st.tuples(st.integers(0, 5), st.dictionaries(names, numbers, max_size=3)), max_size=12))
def test_newest_value_of_each_name_wins(written: list[tuple[int, dict[str, float]]], tmp_path_factory) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path_factory.mktemp("metrics") / "metrics.jsonl"
    expected: dict[int, dict[str, float]] = {}
    for step, data in written:
        append_row(path, step, data)
        expected.setdefault(step, {}).update(data)
    assert {row.step: dict(row.data) for row in read_rows(path)} == expected
    assert [row.step for row in read_rows(path)] == sorted(expected)


def test_cut_off_and_foreign_lines_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    append_row(path, 1, {"a": 0.5, "not a number": float("nan")})
    with path.open("a") as stream:
        stream.write('[]\n{"step": 2}\nnonsense\n{"step": 3, "data": {"a": 1')
    assert [(row.step, dict(row.data)) for row in read_rows(path)] == [(1, {"a": 0.5})]


def test_follower_takes_a_line_when_it_is_complete_and_notices_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    follower = Follower(path)
    assert not follower.poll()
    path.write_text('{"step": 1, "data": {"a"')
    assert not follower.poll()
    with path.open("a") as stream:
        stream.write(": 1}}\n")
    assert follower.poll()
    assert series(follower.rows, "a") == [(1, 1.0)]
    replacement = tmp_path / "new"
    replacement.write_text('{"step": 1, "data": {"a": 2}}\n')
    replacement.replace(path)
    assert follower.poll()
    assert series(follower.rows, "a") == [(1, 2.0)]
