"""No value can change the structure of a manifest, whatever it holds; and every value says which spec field it came
from."""

from __future__ import annotations

import re
from pathlib import Path

import jinja2
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from targets import render as rendering
from targets.render import quote, render

TEMPLATES = Path(__file__).parents[2] / "templates"
NASTY = [
    "a: b", "- x", "x\n- y", '"', "'", "#", "{{ 1 }}", "{% raw %}", "null", "yes", "1", "1e3", "~", "", " ",
    "\t", "a\u2028b", "\ufeff",
    "!!python/object/apply:os.system [id]", "&a *a", "|", ">", "---", "...", "%YAML", "\x00", "\x7f", "\x85",
    "é", "\U0001f600", "[", "}", "a\\nb",
]  # fmt: skip


@given(
    st.one_of(
        st.text(alphabet=st.characters(exclude_categories=["Cs"])),
        st.sampled_from(NASTY),
        st.integers(),
        st.booleans(),
        st.none(),
    )
)
def test_a_quoted_value_reads_back(value: object) -> None:
    assert yaml.safe_load(f"key: {quote(value)}\n") == {"key": value}


@given(st.lists(st.sampled_from([*NASTY, "line", "  indented"])).map("\n".join))
def test_a_block_reads_back(text: str) -> None:
    assert yaml.safe_load(f"key: {quote(text, indent=2)}\nnext: 1\n") == {"key": text, "next": 1}
    assert yaml.safe_load(f"key: {quote(text + chr(10), indent=2)}\nnext: 1\n") == {"key": text + "\n", "next": 1}


def test_texts_of_several_lines_are_readable() -> None:
    assert quote("a\nb\n", indent=2) == "|\n  a\n  b"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Templates of the test's own."""
    rendering._environment.cache_clear()
    monkeypatch.setattr("targets.render.resources.files", lambda _name: tmp_path)
    yield tmp_path
    rendering._environment.cache_clear()


def test_values_know_their_origins(folder: Path) -> None:
    (folder / "t.j2").write_text("a:\n- b: {{ x | q('spec.x') }}\n---\nc: {{ y | q('spec.y', 'spec.z') }}\n")
    rendered = render("t.j2", {"x": 1, "y": "two"})
    assert rendered.objects == [{"a": [{"b": 1}]}, {"c": "two"}]
    assert rendered.origins == {"[0].a[0].b": ("spec.x",), "[1].c": ("spec.y", "spec.z")}


@pytest.mark.parametrize("value", NASTY)
def test_an_injecting_value_stays_a_value(folder: Path, value: str) -> None:
    (folder / "t.j2").write_text("metadata:\n  name: {{ x | q }}\n  {{ x | q }}: 1\nrest: [{{ x | q }}]\n")
    assert render("t.j2", {"x": value}).objects == [{"metadata": {"name": value, value: 1}, "rest": [value]}]


def test_a_template_that_forgets_the_filter_is_caught(folder: Path) -> None:
    (folder / "t.j2").write_text("a: {{ x }}-{{ y | q }}\n")
    with pytest.raises(AssertionError):
        render("t.j2", {"x": "v", "y": "w"})


def test_a_template_that_names_nothing_is_caught(folder: Path) -> None:
    (folder / "t.j2").write_text("a: {{ nothing | q }}\n")
    with pytest.raises((AssertionError, jinja2.UndefinedError)):
        render("t.j2", {})


def test_every_expression_of_every_template_is_quoted() -> None:
    """But for the constant header and macros, whose own expressions are."""
    for path in TEMPLATES.rglob("*.j2"):
        for expression in re.findall(r"\{\{(.*?)\}\}", path.read_text()):
            text = expression.strip()
            macro = text.startswith(("pod(", "amounts(", "placement("))
            assert text == "header" or macro or re.search(r"\| (q|sh)(\([^|]*\))?$", text), f"{path.name}: {text}"
