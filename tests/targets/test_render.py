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

from compiler.load import evaluate
from compiler.plan import Plan, make_plan
from compiler.validate import validate
from targets import render as rendering
from targets.render import quote, render, render_text
from tests.compiler.golden_cases import LAB

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


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(validate(evaluate(LAB).value))


def test_values_know_their_origins(folder: Path, plan: Plan) -> None:
    one = "a:\n- b: {{ spec.seed | q }}\n  {{ spec.name | q }}: 1\n"
    (folder / "t.j2").write_text(f"{one}---\nc: {{{{ (spec.name ~ spec.mode.type) | q }}}}\nd: {{{{ 1 | q }}}}\n")
    rendered = render("t.j2", {"spec": plan.spec}, plan.reads)
    assert rendered.objects == [{"a": [{"b": 0, "quickstart": 1}]}, {"c": "quickstartsync", "d": 1}]
    assert rendered.origins == {
        "[0].a[0].b": ("seed",),
        "[0].a[0].quickstart": ("name",),
        "[1].c": ("name", "mode.type"),
    }


CONDITIONS = """a:
{% if spec.mode.type == "sync" %}
  b: 1
{% if spec.seed == 5 %}
  c: 1
{% elif spec.schedule.steps %}
  d: {{ spec.name | q }}
{% else %}
  e: 1
{% endif %}
{% endif %}
  f: 1
{% for one in spec.tasks.train %}
  - g: {{ one.name | q }}
    h: 1
{% else %}
  - i
{% endfor %}
"""


def test_lines_know_why_they_are_there(folder: Path, plan: Plan) -> None:
    (folder / "t.j2").write_text(CONDITIONS.replace("  - g", "  g").replace("    h", "  h"))
    rendered = render("t.j2", {"spec": plan.spec}, plan.reads)
    assert rendered.origins == {
        "a.b": ("mode.type",),
        "a.d": ("name", "mode.type", "seed", "schedule.steps"),
        "a.g": ("tasks.train[0].name",),
        "a.h": ("tasks.train",),
    }


def test_macros_are_indented_as_without_marks(folder: Path, plan: Plan) -> None:
    macro = "{% macro part(mode) %}\n{% if mode.type == 'sync' %}\nb: 1\n{% endif %}\n{% endmacro %}"
    (folder / "t.j2").write_text(macro + "\na:\n  {{ part(spec.mode) | trim | indent(2) }}\nc: 1\n")
    rendered = render("t.j2", {"spec": plan.spec}, plan.reads)
    assert rendered.text.lstrip("\n") == "a:\n  b: 1\nc: 1\n"
    assert rendered.origins == {"a.b": ("mode.type",)}


def test_lines_of_a_text_know_their_origins(folder: Path, plan: Plan) -> None:
    first = "x {{ spec.seed | sh }}{% if spec.name %} y{% endif %} v"
    (folder / "t.j2").write_text(f"{first}\n{{% if spec.mode.type %}}\nz\n{{% endif %}}\nw")
    rendered = render_text("t.j2", {"spec": plan.spec}, plan.reads)
    assert rendered.text == "x 0 y v\nz\nw"
    assert rendered.origins == {"line 1": ("seed", "name"), "line 2": ("mode.type",)}


@pytest.mark.parametrize("value", NASTY)
def test_an_injecting_value_stays_a_value(folder: Path, plan: Plan, value: str) -> None:
    (folder / "t.j2").write_text("metadata:\n  name: {{ x | q }}\n  {{ x | q }}: 1\nrest: [{{ x | q }}]\n")
    assert render("t.j2", {"x": value}, plan.reads).objects == [
        {"metadata": {"name": value, value: 1}, "rest": [value]}
    ]


def test_a_template_that_forgets_the_filter_is_caught(folder: Path, plan: Plan) -> None:
    (folder / "t.j2").write_text("a: {{ x }}-{{ y | q }}\n")
    with pytest.raises(AssertionError):
        render("t.j2", {"x": "v", "y": "w"}, plan.reads)


def test_a_template_that_names_nothing_is_caught(folder: Path, plan: Plan) -> None:
    (folder / "t.j2").write_text("a: {{ nothing | q }}\n")
    with pytest.raises((AssertionError, jinja2.UndefinedError)):
        render("t.j2", {}, plan.reads)


def test_every_expression_of_every_template_is_quoted() -> None:
    """But for the constant header and macros, whose own expressions are."""
    for path in TEMPLATES.rglob("*.j2"):
        for expression in re.findall(r"\{\{(.*?)\}\}", path.read_text()):
            text = expression.strip()
            macro = re.match(r"[a-z_]+\(.*\) \| trim \| indent\(\d+\)$", text)
            assert text == "header" or macro or re.search(r"\| (q(\(indent=\d\))?|sh)$", text), f"{path.name}: {text}"
