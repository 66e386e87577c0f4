"""Relatives of published rows: the same rows in every file that people keep them in, and every column as one edition of
a set or another writes it. What is meant is read, and what is not is named by file and row."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runtime.errors import RunError, UserError
from runtime.grading import swebench_log
from runtime.task import load_task
from runtime.tasks.sets.files import read_rows
from runtime.tasks.sets.load import Wanted, import_rows
from runtime.tasks.sets.patches import directives, there_before, touched
from tests.runtime.sets.published import FILES, ROWS, TOYS

Rows = list[dict[str, Any]]


@pytest.fixture(autouse=True)
def _parsers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swebench_log, "why_missing", lambda parser: None)


def rows_of(kind: str) -> Rows:
    return [dict(row) for _, row in read_rows(ROWS / FILES[kind]) if isinstance(row, dict)]


def imported(kind: str, rows: Path, out: Path) -> tuple[list[Path], list[str]]:
    problems: list[str] = []
    made = import_rows(kind, Wanted(rows=rows), out, cache=out, on_problem=problems.append)
    return made, problems


def _lines(rows: Rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _csv(rows: Rows, delimiter: str = ",") -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _stream(rows: Rows) -> bytes:
    table, kept = pa.Table.from_pylist(rows), io.BytesIO()
    with pa.ipc.new_stream(kept, table.schema) as writer:
        writer.write_table(table)
    return kept.getvalue()


def _arrow(rows: Rows) -> bytes:
    table, kept = pa.Table.from_pylist(rows), io.BytesIO()
    with pa.ipc.new_file(kept, table.schema) as writer:
        writer.write_table(table)
    return kept.getvalue()


def _parquet(rows: Rows) -> bytes:
    table, kept = pa.Table.from_pylist(rows), io.BytesIO()
    columns = {
        name: table[name].dictionary_encode() if name == "repo" else table[name].cast(pa.large_string())
        for name in table.column_names
    }
    pq.write_table(pa.table(columns), kept, compression="zstd", row_group_size=1)
    return kept.getvalue()


def _served(rows: Rows, cut: int = 0) -> bytes:
    listed = [{"row_idx": at, "row": row, "truncated_cells": ["patch"][:cut]} for at, row in enumerate(rows)]
    return json.dumps({"features": [], "rows": listed, "num_rows_total": 4}).encode()


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("x.json", _lines),  # as pandas and datasets write it
        ("x.json", lambda rows: json.dumps(rows, indent=1).encode()),
        ("x.json", lambda rows: b"\xef\xbb\xbf" + json.dumps(rows).encode()),
        ("x.json", lambda rows: json.dumps({row["instance_id"]: row for row in rows}).encode()),
        ("x.json", _served),
        ("x.ndjson", _lines),
        ("X.JSONL", lambda rows: b"\xef\xbb\xbf" + _lines(rows).replace(b"\n", b"\r\n\r\n")),
        ("x.jsonl.gz", lambda rows: gzip.compress(_lines(rows))),
        ("x.json.gz", lambda rows: gzip.compress(json.dumps(rows).encode())),
        ("x.csv", _csv),
        ("x.csv.gz", lambda rows: gzip.compress(b"\xef\xbb\xbf" + _csv(rows))),
        ("x.tsv", lambda rows: _csv(rows, "\t")),
        ("data-00000-of-00001.arrow", _stream),
        ("x.arrow", _arrow),
        ("x.parquet", _parquet),
    ],
)
def test_rows_are_the_same_in_every_file(name: str, written: Callable[[Rows], bytes], tmp_path: Path) -> None:
    rows = rows_of("swe-bench")
    (tmp_path / "rows" / "deep").mkdir(parents=True)
    (tmp_path / "rows" / "deep" / name).write_bytes(written(rows))
    (tmp_path / "rows" / "dataset_info.json").write_text('{"features": {}}')  # beside what save_to_disk writes
    made, problems = imported("swe-bench", tmp_path / "rows", tmp_path / "out")
    assert [path.name for path in made] == [row["instance_id"] for row in rows] and not problems
    here, there = load_task(made[0]), tmp_path / "there"
    (again,), _ = imported_first("swe-bench", rows, there)
    assert here.liverl.fail_to_pass == load_task(again).liverl.fail_to_pass
    assert (made[0] / "tests/eval.sh").read_bytes() == (again / "tests/eval.sh").read_bytes()


def imported_first(kind: str, rows: Rows, folder: Path) -> tuple[list[Path], list[str]]:
    folder.mkdir()
    (folder / "rows.json").write_text(json.dumps(rows[:1]))
    return imported(kind, folder / "rows.json", folder / "out")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 3\n", "pointer of Git LFS"),
        ("x.json", _served(rows_of("swe-bench"), cut=1), "has cut long columns"),
        ("x.json", json.dumps({name: [1] for name in ("repo", "instance_id")}).encode(), "columns with a list each"),
        ("x.json", b'{"data": [1]}', "neither a list nor a table"),
        ("x.jsonl.gz", gzip.compress(b'{"a": 1}\n', mtime=0)[:-9], "Compressed file ended"),
        ("x.parquet.gz", b"x", "its name says no form"),
        ("x.csv", b"instance_id\nx\n", "does not name the columns"),
        ("x.csv", b"a,b,a\n1,2,3\n", "does not name the columns"),
        ("x.csv", b'a,b\n1,"2"x\n', "no CSV at line 2"),
        ("x.csv", b"a,b\n1,\xff\n", "can't decode"),
        ("x.arrow", b"ARROW1\0\0", "no rows can be read"),
        ("x.xlsx", b"PK", "its name says no form"),
    ],
)
def test_what_holds_no_rows_is_named(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match="no rows can be read") as caught:
        imported("swe-bench", tmp_path / name, tmp_path / "out")
    assert said in str(caught.value) and str(caught.value).startswith(f"{tmp_path}/{name}: ")


def test_a_row_of_csv_with_a_quote_astray_is_named_by_its_line(tmp_path: Path) -> None:
    rows = rows_of("swe-bench")
    whole = _csv(rows).decode().split("\r\n")
    (tmp_path / "x.csv").write_text("\r\n".join([whole[0], "a,b", *whole[1:]]), newline="")
    made, problems = imported("swe-bench", tmp_path / "x.csv", tmp_path / "out")
    assert len(made) == len(TOYS)
    assert problems == [f"{tmp_path}/x.csv:2: 2 values for {len(rows[0])} columns"]


SHOWN = json.loads(rows_of("swe-bench")[0]["FAIL_TO_PASS"])
INSTALL = rows_of("swe-rebench")[0]["install_config"]
SECOND = {"docker_specs": {}, "log_parser": "parse_log_gotest", "test_cmd": ["go test -v ./..."]}
COMMIT = json.loads(rows_of("r2e")[0]["parsed_commit_content"])
REMOVED = {**COMMIT["file_diffs"][0], "new_file_content": None, "plus_file": {"path": "/dev/null"}}


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("swe-bench", {"FAIL_TO_PASS": SHOWN}),
        ("swe-bench", {"FAIL_TO_PASS": repr(SHOWN)}),  # as a list becomes in a table of text
        ("swe-bench", {"PASS_TO_PASS": None}),
        ("swe-bench", {"PASS_TO_PASS": ""}),
        ("swe-bench", {"base_commit": "ABCDEF" * 6 + "0123"}),
        ("swe-bench", {"image": None, "image_name": f"swebench/x@sha256:{'0' * 64}"}),
        ("swe-bench", {"image_assets": "{}"}),
        ("swe-gym", {"FAIL_TO_PASS": json.dumps(SHOWN)}),
        ("swe-rebench", {"install_config": json.dumps(INSTALL)}),
        ("swe-rebench", {"install_config": repr(INSTALL)}),
        ("swe-rebench", {"install_config": {**INSTALL, "test_cmd": [INSTALL["test_cmd"]]}}),
        ("swe-rebench", {"docker_image": None, "image_name": "swerebench/x"}),
        ("swe-rebench", {"meta": None}),
        ("swe-rebench", {"meta": {"llm_score": None}}),
        ("swe-rebench", {"meta": json.dumps({"llm_score": {"difficulty_score": 3}})}),
        ("swe-smith", {"FAIL_TO_PASS": json.dumps(SHOWN)}),
        ("swe-smith", {"image_name": "swebench/swesmith.x86_64.a_1776_b.01234567:latest"}),
        ("swe-smith", {"image_name": "docker.io/jyangballin/swesmith.x86_64.a_1776_b.01234567"}),
        ("r2e", {"expected_output_json": json.loads(rows_of("r2e")[0]["expected_output_json"])}),
        ("r2e", {"parsed_commit_content": COMMIT}),
        ("r2e", {"problem_statement": "No marks."}),
    ],
)
def test_a_column_as_another_edition_writes_it(kind: str, changes: dict[str, Any], tmp_path: Path) -> None:
    (made,), problems = imported_first(kind, [rows_of(kind)[0] | changes], tmp_path / "x")
    assert not problems and load_task(made).liverl.published is not None


def test_what_an_edition_says_decides_how_its_tests_are_run(tmp_path: Path) -> None:
    """A column without a value is no column, and a command alone a list of one."""
    row = rows_of("swe-rebench")[0]
    install = {**INSTALL, "eval_commands": "export A=1"}
    scripts = []
    for name, changes in (
        ("first", {"language": None, "install_config": install}),
        ("second", {"language": "go", "install_config": SECOND, "docker_image": "a/b"}),
    ):
        (made,), _ = imported_first("swe-rebench", [row | changes], tmp_path / name)
        scripts.append((made / "tests/eval.sh").read_text())
    assert "cd /testbed" in scripts[0] and "conda activate testbed\nexport A=1\n" in scripts[0]
    assert "cd /clamp" in scripts[1] and "conda" not in scripts[1]


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        ("swe-bench", {"FAIL_TO_PASS": None}, "column FAIL_TO_PASS is empty"),
        ("swe-bench", {"FAIL_TO_PASS": "tests/x.py::test_y"}, "column FAIL_TO_PASS is no list of tests: "),
        ("swe-bench", {"FAIL_TO_PASS": "['" + "[" * 100_000}, "column FAIL_TO_PASS is no list of tests: "),
        ("swe-bench", {"FAIL_TO_PASS": json.dumps(json.dumps(SHOWN))}, "column FAIL_TO_PASS is no list of tests"),
        ("swe-bench", {"base_commit": "0123abc"}, "column base_commit is no commit of 40 hexadecimal digits"),
        ("swe-bench", {"instance_id": 12}, "column instance_id is no text but int"),
        ("swe-bench", {"eval_script": ["cd /testbed"]}, "column eval_script is no text but list"),
        ("swe-bench", {"patch": b"x"}, "column patch is no text but bytes"),
        ("swe-bench", {"image": "No Image"}, "column image: image 'No Image': not of the form"),
        ("swe-bench", {"problem_statement": "a\0b"}, "its issue holds a NUL"),
        ("swe-bench", {"patch": 'diff --git "a/\\377" "b/\\377"\n'}, "a file whose name is no UTF-8"),
        ("swe-rebench", {"install_config": "[1]"}, "column install_config is no table"),
        ("swe-rebench", {"install_config": {**INSTALL, "eval_commands": {"a": 1}}}, "eval_commands is neither a"),
        ("swe-rebench", {"docker_image": "a b"}, "column docker_image: image 'a b'"),
        ("r2e", {"parsed_commit_content": None}, "column parsed_commit_content is empty"),
        (
            "r2e",
            {"parsed_commit_content": {"file_diffs": [REMOVED]}},
            "its commit removes clamp.py",
        ),
    ],
)
def test_a_column_that_says_nothing_is_named(kind: str, changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    first, second, *_ = rows_of(kind)
    kept = tmp_path / ("rows.parquet" if b"x" in changes.values() else "rows.json")
    if kept.suffix == ".json":
        kept.write_text(json.dumps([first | changes, second]))
    else:  # which alone has a kind for bytes
        pq.write_table(pa.Table.from_pylist([first | changes, second | {"patch": second["patch"].encode()}]), kept)
        second = {}
    problems: list[str] = []
    wanted = Wanted(rows=kept)
    if second:
        assert len(import_rows(kind, wanted, tmp_path / "out", cache=tmp_path, on_problem=problems.append)) == 1
    else:
        with pytest.raises(RunError):
            import_rows(kind, wanted, tmp_path / "out", cache=tmp_path, on_problem=problems.append)
    assert said in problems[0] and problems[0].startswith(f"{kept}[0]: ")


def _without(row: dict[str, Any], *columns: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in columns}


_PLAIN = _without(rows_of("swe-bench")[0], "eval_script", "log_parser", "image", "eval_type")


@pytest.mark.parametrize(
    ("given", "row", "said"),
    [
        ("swe-bench", _PLAIN, "no column eval_script: rows of before swebench 5"),
        ("swe-bench", rows_of("swe-rebench")[0], "rows of this form are those of swe-rebench"),
        ("swe-gym", rows_of("swe-bench")[0], "rows of this form are those of swe-bench"),
        ("swe-rebench", rows_of("swe-smith")[0], "rows of this form are those of swe-smith"),
        ("swe-smith", rows_of("r2e")[0], "rows of this form are those of r2e"),
        ("swe-bench", {"instance_id": "a", "fix_patch": "x", "f2p_tests": {}}, "Multi-SWE-bench's, a set that is not"),
        ("swe-bench", _PLAIN | {"dockerhub_tag": "x", "selected_test_files_to_run": "[]"}, "SWE-bench Pro's"),
        ("swe-rebench", _PLAIN | {"test_cmds": ["pytest"]}, "SWE-bench-Live's"),
    ],
)
def test_rows_of_another_set_are_called_so(given: str, row: dict[str, Any], said: str, tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(json.dumps([row]))
    problems: list[str] = []
    with pytest.raises(RunError):
        import_rows(
            given, Wanted(rows=tmp_path / "rows.json"), tmp_path / "o", cache=tmp_path, on_problem=problems.append
        )
    assert said in problems[0]


def test_names_that_git_quotes_are_those_of_the_files() -> None:
    """Else a test of such a name would be an agent's to change, and not be put back before the tests."""
    patch = (
        'diff --git "a/tests/test_\\303\\244 \\"x\\".py" "b/tests/test_\\303\\244 \\"x\\".py"\n--- "a/x"\n+++ "b/x"\n'
        'diff --git "a/tests/\\tnew.py" "b/tests/\\tnew.py"\nnew file mode 100644\n'
        "diff --git a/tests/plain b.py b/tests/plain b.py\n"
    )
    quoted, new, plain = 'tests/test_ä "x".py', "tests/\tnew.py", "tests/plain b.py"
    assert touched(patch) == (quoted, new, plain)
    assert there_before(patch) == (quoted, plain)
    assert directives(patch, "a/b") == [quoted, new, plain]
    assert touched('--- "a/\\303\\244"\n+++ "b/\\303\\244"\n') == ("ä",)
