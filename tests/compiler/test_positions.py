"""Places come with visible marks, and where a spec looks at its own fields, by way of hidden ones: the same places."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from compiler import compile_all, evaluator, positions
from compiler.load import Evaluated, Evaluation
from tests.compiler.golden_cases import REPOSITORY

SPECS = sorted((REPOSITORY / "specs").glob("*.jsonnet"))
ODD = {
    "plain": ("{ a: 1, b: { c: [ { d: 2 } ] } }", 1),
    "override": ("local base = { a: 1, b: { c: 2 } }; base { a: 3, b+: { d: 4 } }", 1),
    "hidden field": ("{ a:: 1, b: self.a }", 1),
    "computed key": ("{ ['a' + 1]: 1, [null]: 2 }", 1),
    "fields": ("{ a: 1, b: std.objectFields(self.c), c: { d: 1 } }", 2),
    "length": ("{ a: { b: 1 }, n: std.length(self.a) }", 2),
    "equality": ("{ same: { a: 1 } == { a: 1 }, b: 2 }", 2),
    "text of an object": ("{ a: std.toString({ b: 1 }) }", 2),
    "comprehension": ("{ a: { ['k' + i]: i for i in [1, 2] } }", 2),
    "mapped": ("{ a: std.mapWithKey(function(k, v) v + 1, { b: 1 }) }", 1),
    "merge patch": ("{ a: std.mergePatch({ b: 1 }, { c: 2 }) }", 1),
    "assertion": ("{ assert std.length(self) == 1, a: 1 }", 2),
    "odd names": ('{ "a b": 1, "ü\\n": { \'it"s\': 2 } }', 1),
}
"""Spec and number of questions that its evaluator is asked."""


@pytest.fixture
def questions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What evaluators are asked: "visible" or "hidden" marks."""
    found: list[str] = []
    ask = evaluator.Evaluator.ask

    def counted(self: evaluator.Evaluator, parts: Sequence[str]) -> None:
        found.append(parts[-1])
        ask(self, parts)

    monkeypatch.setattr(evaluator.Evaluator, "ask", counted)
    return found


def _evaluated(spec: Path, **arguments: list[str]) -> Evaluated:
    found = Evaluation(spec, **arguments).outcome()  # type: ignore[arg-type]
    assert isinstance(found, Evaluated)
    return found


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec.name != "sweep.jsonnet"], ids=lambda spec: spec.stem)
def test_both_kinds_of_marks_give_the_same_places(
    spec: Path, questions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = {"sets": ["seed=7", "schedule.steps=9"]}
    visible = _evaluated(spec, **arguments)
    # Some examples list a library's packages by std.objectValues, which sees the marks.
    assert questions == ["visible"] or (questions == ["visible", "hidden"] and not spec.stem.startswith("quickstart"))
    assert visible.positions.exact
    questions.clear()
    monkeypatch.setattr(positions, "separate", lambda *_: False)
    assert _evaluated(spec, **arguments) == visible
    assert questions == ["visible", "hidden"]


@pytest.mark.parametrize("name", ODD)
def test_a_spec_that_looks_at_its_fields(
    tmp_path: Path, name: str, questions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text, asked = ODD[name]
    spec = tmp_path / "x.jsonnet"
    spec.write_text(text)
    found = _evaluated(spec)
    assert len(questions) == asked
    monkeypatch.setattr(positions, "separate", lambda *_: False)
    walked = _evaluated(spec)
    assert found.value == walked.value
    # Objects that the standard library built have visible marks only.
    assert walked.positions.exact.items() <= found.positions.exact.items()
    assert all(place.startswith("x.jsonnet:1:") for place in found.positions.exact.values())


def test_a_place_that_the_spec_computed_with_is_none() -> None:
    marked = {"\x01a": "x:1:1\x01", "a": 1, "\x01b": "x:1:1\x012", "b": 2, "\x01c": "x:1:1\x01x:2:2\x01", "c": 3}
    found: dict[tuple[str | int, ...], str] = {}
    assert positions.separate(marked, {"a": 1, "b": 2, "c": 3}, (), found)
    assert found == {("a",): "x:1:1"}


@pytest.mark.parametrize("marked", [{"a": 2}, {"a": True}, {}, {"a": 1, "b": 2}, {"a": 1, "\x01*": True}, [1], None])
def test_another_value_has_no_places(marked: object) -> None:
    assert not positions.separate(marked, {"a": 1}, (), {})


@pytest.mark.parametrize("points", [3, 60])
def test_a_sweep_is_evaluated_a_few_times_whatever_its_points(
    tmp_path: Path, points: int, questions: list[str]
) -> None:
    (tmp_path / "base.jsonnet").write_bytes((REPOSITORY / "specs" / "quickstart.jsonnet").read_bytes())
    spec = tmp_path / "sweep.jsonnet"
    spec.write_text(
        f"{{ sweep: {{ ['p%d' % i]: (import 'base.jsonnet') {{ seed: i }} for i in std.range(1, {points}) }} }}"
    )
    compile_all(spec, out=tmp_path / "out")
    assert questions.count("hidden") == 1  # of its outline
    assert questions.count("visible") == 1 + (1 if points <= 24 else 2)
