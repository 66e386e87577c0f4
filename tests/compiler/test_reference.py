"""docs/spec.md is what its generator writes, and says something about every field."""

from __future__ import annotations

import re

from compiler.reference import page
from compiler.schema import reachable
from compiler.spec.experiment import ExperimentSpec
from tests.compiler.golden_cases import REPOSITORY


def test_the_page_is_fresh() -> None:
    written = (REPOSITORY / "docs" / "spec.md").read_text(encoding="utf-8")
    assert written == page(), "docs/spec.md is stale: python -m compiler.reference > docs/spec.md"


def test_every_field_of_every_model_is_on_the_page() -> None:
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", page(), re.M | re.S))
    assert set(sections) == {model.__name__ for model in reachable(ExperimentSpec)}
    for model in reachable(ExperimentSpec):
        for field in model.model_fields:
            assert f"| `{field}` |" in sections[model.__name__]


def test_links_lead_somewhere() -> None:
    text = page()
    anchors = {name.lower() for name in re.findall(r"^## (\w+)", text, re.M)}
    assert set(re.findall(r"\]\(#(\w+)\)", text)) <= anchors
