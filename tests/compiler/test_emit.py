"""What is written quickly is what the libraries would have written."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.emit import _dumper, to_json, to_yaml
from tests.compiler.golden_cases import REPOSITORY

TEXTS = st.one_of(
    st.text(max_size=20),
    st.text(alphabet="aZ09 :#-?.,[]{}&*!|>%@`'\"/$_~=<\n\t\x01\u00e9\u2028", max_size=12),
    st.sampled_from(
        [
            "null",
            "y",
            "N",
            "0_x1",
            "No",
            "on",
            "TRUE",
            "~",
            "1e3",
            "0x1f",
            "1:30",
            "2020-01-01",
            "${oc.env:X}/y",
            "a: b",
        ]
    ),
)
FLOATS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([1e-4, 9.9e-5, 1e-6, 1e16, 1e15, 123456789012345680.0, 5e-324, 1.0, -0.0, 4e-4, 1e22]),
)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), FLOATS, TEXTS)


def _inside(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4)


VALUES = st.dictionaries(TEXTS, st.recursive(SCALARS, _inside, max_leaves=20), max_size=5)


def by_library(value: Any) -> str:
    text: str = yaml.dump(
        value, Dumper=_dumper(), sort_keys=False, width=1000, allow_unicode=True, default_flow_style=False
    )
    return text


@settings(max_examples=150, deadline=None)
@given(VALUES)
def test_yaml_is_pyyaml_s(value: dict[str, Any]) -> None:
    assert to_yaml(value) == by_library(value)


@settings(max_examples=150, deadline=None)
@given(VALUES)
def test_json_is_the_standard_library_s(value: dict[str, Any]) -> None:
    assert to_json(value) == json.dumps(value, indent=2, ensure_ascii=False) + "\n"


shared, empty = ["a"], {}  # type: ignore[var-annotated]


@pytest.mark.parametrize(
    "value",
    [
        {"a": shared, "b": shared},
        {"a": empty, "b": empty},
        {"a": (1, (2, [3, {}])), "b": ()},
        {"a": [[], {}, [[1], {"b": [2], "c": {"d": None}}]]},
        {"a" * 200: "b" * 2000, "c": "d " * 900},
        {"a": float("inf"), "b": 1 << 70},
        {},
    ],
    ids=str,
)
def test_the_unusual_too(value: Any) -> None:
    assert to_yaml(value) == by_library(value)


def test_plain_configurations_need_no_yaml_library() -> None:
    code = "import sys, compiler; compiler.compile_in_memory('specs/quickstart.jsonnet'); print('yaml' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
