"""What docs/troubleshooting.md quotes is there: messages in the code, metrics and ends by their names."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest

from runtime.errors import Termination
from scripts import reference
from tests.docs import pages

PAGE = pages.DOCS / "troubleshooting.md"
VERL = {"training", "rollout_corr", "actor", "critic", "response_length", "num_turns", "timing_s"}
"""Metrics of these families are verl's; where a plot shows one, its name was checked there."""


@cache
def sources() -> dict[str, str]:
    """The product's files."""
    rooms = ("compiler", "runtime", "liverl", "targets")
    return {str(path): path.read_text(encoding="utf-8") for room in rooms for path in (pages.ROOT / room).rglob("*.py")}


@cache
def texts(path: str) -> str:
    """Every string that this file's code can print, a line each; what an f-string fills in is a line's end."""
    nodes = ast.walk(ast.parse(sources()[path]))
    return "\n".join(node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))


def is_said(part: str) -> bool:
    """Only files that have all its words are parsed: a text may be written in pieces, a word is not."""
    words = re.findall(r"\w+", part)
    return any(part in texts(path) for path, source in sources().items() if all(word in source for word in words))


def cells(heading: str) -> list[str]:
    """The first column of the tables whose first heading it is."""
    rows, inside = [], False
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        first = line.split("|")[1].strip() if line.startswith("|") else None
        inside = first is not None and (inside or first == heading)
        if inside and first not in (heading, "---"):
            rows.append(str(first))
    return rows


@pytest.mark.parametrize("message", cells("message"))
def test_messages_are_those_of_the_code(message: str) -> None:
    for part in message.strip("`").split("…"):
        assert is_said(part.strip()), f"no code says {part.strip()!r}"


def test_every_bad_end_is_there() -> None:
    named = {name for cell in cells("termination") for name in re.findall(r"`(\w+)`", cell)}
    fine = {Termination.COMPLETED, Termination.MAX_TURNS, Termination.INTERNAL}
    assert named == {end.value for end in Termination if end not in fine}


def test_metrics_are_those_of_the_reference() -> None:
    known = set(re.findall(r"`([^`]+)`", reference.metrics()))
    families = {name.partition("/")[0] for name in known} | VERL
    for _, name in pages.code_words(PAGE):
        if re.fullmatch(r"[\w<>]+(/[\w<>]+)+", name) and name.partition("/")[0] in families:
            pattern = re.sub(r"<\w+>", "<reason>", name)
            assert name in known or pattern in known or name in OF_VERL, name


OF_VERL = {"rollout_corr/rollout_is_eff_sample_size"}
"""Not plotted; verl 0.9.1 writes it where a correction is on."""
