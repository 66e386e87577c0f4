"""The pages of docs/reference/ are what their generator writes, and say something about everything."""

from __future__ import annotations

import re

import pytest

from liverl.cli import EPILOG
from runtime.errors import HANDLING
from scripts import reference
from tests.docs import shell


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return reference.pages()


def test_the_pages_are_fresh(made: dict[str, str]) -> None:
    assert {path.name for path in reference.FOLDER.iterdir()} == made.keys()
    for name, text in made.items():
        written = (reference.FOLDER / name).read_text(encoding="utf-8")
        assert written == text, f"docs/reference/{name} is stale: `make golden`"


def test_every_command_and_option_is_on_its_page(made: dict[str, str]) -> None:
    text = made["cli.md"]
    for name, command in reference._commands(shell.tree(), "liverl"):
        section = text.partition(f"## {name}\n")[2].partition("\n## ")[0]
        assert section, name
        for one in command.params:
            assert all(option in section for option in one.opts if option.startswith("-")), (name, one.opts)


def test_every_exit_code_and_every_end_is_on_its_page() -> None:
    assert list(reference.EXITS) == [int(code) for code in re.findall(r"(\d+) [a-z]", EPILOG)]
    assert reference.MEANINGS.keys() == HANDLING.keys()


def test_metrics_are_found_where_they_are_written(made: dict[str, str]) -> None:
    names = set(re.findall(r"`([^`]+)`", made["metrics.md"]))
    assert {"groups/mixed", "proxy_tokens/<fate>", "weights/sync_s", "termination/<reason>", "actor/grad_norm"} <= names
