from __future__ import annotations

import json
from typing import Any

import pytest

from compiler.load import evaluate
from tests.compiler.golden_cases import LAB


@pytest.fixture(scope="session")
def _quickstart_text() -> str:
    return json.dumps(evaluate(LAB).value)


@pytest.fixture
def quickstart(_quickstart_text: str) -> Any:
    """The quickstart's plain value, a fresh copy that a test may change."""
    return json.loads(_quickstart_text)
