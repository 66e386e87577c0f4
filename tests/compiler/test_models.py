"""The models of a spec cost nothing until a spec is there, and the table of known models says what its models allow."""

from __future__ import annotations

import subprocess
import sys

import pytest

from compiler.models import TABLE
from compiler.spec.policy import ModelFacts
from tests.compiler.golden_cases import REPOSITORY


@pytest.mark.parametrize("name", TABLE)
def test_the_table_holds_valid_facts(name: str) -> None:
    assert ModelFacts.model_validate(TABLE[name].model_dump()) == TABLE[name]


def test_importing_the_models_builds_no_validator() -> None:
    """A default written ``Part()`` would: write ``Part.model_construct()``."""
    code = (
        "import compiler.assemble; from runtime.config import Model\n"
        "def below(model): return [model, *(found for one in model.__subclasses__() for found in below(one))]\n"
        "models = below(Model)\n"
        "print(len(models) > 70, [model.__name__ for model in models if model.__pydantic_complete__])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True []"
