"""``--set`` and ``--tla``: what they change, and what is said about those that cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compiler import SpecError
from compiler.load import evaluate
from compiler.overrides import parse_tlas

SPEC = "{ a: { b: 1, c: self.b + 1 }, list: [{ x: 1 }, { x: 2 }], none: null, n: 3 }"


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "x.jsonnet"
    path.write_text(SPEC)
    return path


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("a.b=5", "a", {"b": 5, "c": 6}),
        ("list[1].x=7", "list", [{"x": 1}, {"x": 7}]),
        ("list.0.x=7", "list", [{"x": 7}, {"x": 2}]),
        ("list[0]=null", "list", [None, {"x": 2}]),
        ("none.port=8", "none", {"port": 8}),
        ("new.deep.er=true", "new", {"deep": {"er": True}}),
        ("n=word", "n", "word"),
        ("n=NaN", "n", "NaN"),
        ("n=", "n", ""),
    ],
)
def test_one_value_changes(spec: Path, override: str, path: str, value: object) -> None:
    assert evaluate(spec, sets=[override]).value[path] == value


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("n.x=1", "--set n.x: n is no object"),
        ("list[2].x=1", "--set list[2].x: list has no element 2"),
        ("a[0]=1", "--set a[0]: a has no element 0"),
        ("list[-1].x=1", "--set list[-1].x=1; allowed: --set path.to.field=JSON"),
        ("list[x].y=1", "--set list[x].y=1; allowed: --set path.to.field=JSON"),
        ("a..b=1", "--set a..b=1; allowed:"),
        ("=1", "--set =1; allowed:"),
        ("a", "--set a; allowed:"),
        ("n=" + "[" * 100_000, "nested too deeply"),
        ("n=1e400", "--set n: 1e400: too large for a number; allowed: up to 1.7e308; write a smaller number"),
        ('a.b={"x": [-1e400]}', "--set a.b: -1e400: too large for a number"),
        ("n=" + "9" * 400, "too large for a number"),
    ],
)
def test_what_cannot_be_set(spec: Path, override: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        evaluate(spec, sets=[override])
    assert said in str(caught.value)


def test_arguments_of_a_spec_that_is_a_function(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonnet"
    path.write_text("function(steps) { steps: steps }")
    assert evaluate(path, tlas={"steps": "3"}).value == {"steps": 3}
    with pytest.raises(SpecError, match="Missing argument: steps; give it as --tla steps=VALUE"):
        evaluate(path)
    with pytest.raises(SpecError, match="--tla stepz: the spec's function has no such parameter"):
        evaluate(path, tlas={"steps": "1", "stepz": "3"})
    with pytest.raises(SpecError, match="allowed: --tla name=value"):
        parse_tlas(["é=1"])
    assert parse_tlas(["a=b=c"]) == {"a": "b=c"}


def test_positions_of_a_linked_spec_are_where_its_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "r.jsonnet").write_text("{\n a: 1 }")
    (tmp_path / "x.jsonnet").symlink_to("real/r.jsonnet")
    monkeypatch.chdir(tmp_path)
    assert evaluate(Path("x.jsonnet")).positions.display(("a",)) == "real/r.jsonnet:2:2"
    assert json.dumps(evaluate(Path("x.jsonnet")).value) == '{"a": 1}'
