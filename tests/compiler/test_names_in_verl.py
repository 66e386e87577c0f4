"""Modules of the runtime that ``verl.yaml`` names are there: nothing imports them before the trainer starts."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from compiler import compile_in_memory

NAME = re.compile(r"\bruntime(?:\.[a-z_]+)+(?:[.:][A-Z]\w+)?")


def _exists(name: str) -> bool:
    parts = re.split(r"[.:]", name)
    attribute = parts.pop() if parts[-1][0].isupper() else ""
    found = importlib.util.find_spec(".".join(parts))
    if found is None or found.origin is None:
        return False
    return not attribute or f"class {attribute}" in Path(found.origin).read_text(encoding="utf-8")


@pytest.mark.parametrize("spec", ["quickstart", "ppo-8gpu", "moe-async", "moe-megatron"])
def test_every_module_that_is_named_is_there(spec: str) -> None:
    text = compile_in_memory(spec).files["verl.yaml"]
    named = {found.group() for found in NAME.finditer(text) if not found.group().endswith(".json")}
    assert named, "the agent loop's manager is ours"
    assert [name for name in sorted(named) if not _exists(name)] == []
