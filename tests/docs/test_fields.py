"""Every field of the spec that a page names is a field of the spec."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from compiler.schema import spec_schema
from tests.docs import pages

_FIELD = re.compile(r"[a-z_]+(?:(?:\.[a-z_0-9]+)|\[\])+")
ELSEWHERE = {
    "rollout.engine": "of runtime.json, before it was called rollout.type",
    "trainer.logger": "of verl",
    "trainer.rollout_data_dir": "of verl",
    "environment.workdir": "of task.toml",
    "environment.memory_mb": "of task.toml",
    "environment.docker_image": "of task.toml",
    "environment.build_timeout_sec": "of task.toml",
}
"""Names that pages mention and that are not the spec's."""
PAGES = [page for page in pages.PAGES if page != pages.DOCS / "reference" / "verl.md"]
"""All but one, which names verl's keys and is made from the code."""


@cache
def fields() -> frozenset[str]:
    """Dotted paths of all fields, whatever variant has them; of lists and tables as of what they hold."""
    schema = spec_schema()

    def below(node: Any, path: str, seen: tuple[str, ...]) -> Iterator[str]:
        if not isinstance(node, dict):
            return
        if "$ref" in node:
            name = str(node["$ref"]).rsplit("/", 1)[-1]
            if name not in seen:
                yield from below(schema["$defs"][name], path, (*seen, name))
        for option in [*node.get("anyOf", ()), *node.get("oneOf", ()), node.get("items")]:
            yield from below(option, path, seen)
        for name, child in node.get("properties", {}).items():
            here = f"{path}.{name}" if path else name
            yield here
            yield from below(child, here, seen)

    return frozenset(below(schema, "", ()))


def test_fields_are_found() -> None:
    assert {"policy.lora.rank", "tasks.train.source.paths", "environment.kubernetes.image"} <= fields()
    assert "trainer.speed" not in fields()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(pages.ROOT).as_posix())
def test_fields_that_a_page_names_exist(page: Path) -> None:
    roots = {field for field in fields() if "." not in field}
    wrong = []
    for line, text in pages.code_words(page):
        field = text.partition(":")[0].replace("[]", "")
        if not _FIELD.fullmatch(text.partition(":")[0]) or field.split(".")[0] not in roots:
            continue
        if field not in fields() | ELSEWHERE.keys() and not _opens(field) and not (pages.ROOT / text).exists():
            wrong.append(f"{page.name}:{line}: no field `{field}`")
    assert not wrong, "\n".join(wrong)


def _opens(field: str) -> bool:
    """Names of files and modules."""
    return field.rpartition(".")[2] in {"py", "json", "jsonl", "yaml", "md", "toml", "parquet", "jsonnet", "libsonnet"}
