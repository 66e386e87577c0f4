"""What an edit means whose text is not exactly where it says: slips in real texts, and what stays refused."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.scaffolds.shell.free_tools import DONE, SAME, FreeTools
from runtime.scaffolds.shell.meant import meant

SOURCES = Path(__file__).parents[3] / "runtime" / "proxy"
FILES = {path.name: path.read_text() for path in sorted(SOURCES.glob("*.py"))[:12]}
LINES = [
    (name, number, line.strip())
    for name, text in FILES.items()
    for number, line in enumerate(text.split("\n"), 1)
    if len(line.strip()) > 25
]


def others(path: str) -> list[tuple[str, str]]:
    return [(name, text) for name, text in FILES.items() if name != path]


def slipped(text: str, rng: random.Random) -> str:
    """One slip of those that were seen: spaces, a letter, a bracket, the end left out."""
    at = rng.randrange(1, len(text) - 1)
    return rng.choice(
        (
            text[:at] + " " + text[at:],
            text.replace(" ", "", 1),
            text[:at] + text[at + 1 :],
            text[:at] + rng.choice("abz_") + text[at:],
            text[: -len(text) // 4],
            text + ")",
        )
    )


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(LINES), st.integers())
def test_a_slip_in_the_line_that_is_named(chosen: tuple[str, int, str], seed: int) -> None:
    name, number, text = chosen
    old = slipped(text, random.Random(seed))
    if old in FILES[name] or any(old in there for _, there in others(name)):
        return
    found = meant(name, FILES[name], old, "pass", number, others(name))
    assert found is not None
    path, exact, line = found
    assert (path, line) == (name, number) and exact in FILES[name].split("\n")[number - 1]


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(LINES), st.sampled_from(sorted(FILES)))
def test_the_file_beside_the_one_that_is_named(chosen: tuple[str, int, str], named: str) -> None:
    name, number, text = chosen
    if text in FILES[named]:
        return
    also = [other for other, there in others(name) if text in "".join(there.split("\n")[number - 1 : number])]
    if also:
        assert meant(named, FILES[named], text, "pass", number, others(named)) is None, "nobody can tell"
        return
    assert meant(named, FILES[named], text, "pass", number, others(named)) == (name, text, number)
    assert meant("no/such.py", None, text, "pass", number, FILES.items()) == (name, text, number)


def test_the_nearest_of_several() -> None:
    text = "a = 1\nb\nc\na = 1\nd\n"
    assert meant("m.py", text, "a = 1", "a = 2", 3, []) == ("m.py", "a = 1", 4)
    assert meant("m.py", text, "a = 1", "a = 2", None, []) is None, "nobody can tell"
    assert meant("m.py", text, "b", "e", 4, []) == ("m.py", "b", 2), "the only one, whatever the number"


def test_a_part_of_a_line_is_taken_where_the_whole_cannot_be_replaced() -> None:
    text = "def f(a):\n    return g(a.b, other(a))\n"
    assert meant("m.py", text, "return g(a .b, other(", "return g(b.c, other(", 2, []) == (
        "m.py",
        "return g(a.b, other(",
        2,
    )
    assert meant("m.py", text, "return g(a .b", "return g(a.b)", 2, []) == ("m.py", "return g(a.b, other(a))", 2)
    assert meant("m.py", text, "return g(a .b, other(a))", "return 1", 2, []) == (
        "m.py",
        text.split("\n")[1].strip(),
        2,
    )


@pytest.mark.parametrize(
    ("old", "line"), [("", 1), ("\n \n", 1), ("x = llib45", 2), ("zzzzzzzzzzzz", None), ("return 1", 400), ("x", -3)]
)
def test_what_means_nothing_here(old: str, line: int | None) -> None:
    assert meant("m.py", "def f(a):\n    return g(a)\n", old, "y", line, [("n.py", "import os\n")]) is None


def edited(folder: Path, match: str, **arguments: object) -> str:
    tools = {"max_edits": 9, "max_observation": 4000, "first_look": None, "test_after_edit": False, "ids": None}
    call = FreeTools(str(folder), {**tools, "sources": ["m.py", "n.py"], "edit_match": match})
    return call.call("edit_file", json.dumps(arguments))


def test_the_tool_does_it_only_where_that_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text("a = 1\n")
    (tmp_path / "n.py").write_bytes(b"def f(a):\r\n    return a - 1\r\n")
    call = {"path": "m.py", "line": 2, "old": "return  a - 1", "new": "return a + 1"}
    assert edited(tmp_path, "exact", **call).startswith("error: m.py: the old text occurs 0 times")
    assert edited(tmp_path, "closest", **call) == f"{DONE}n.py"
    assert (tmp_path / "n.py").read_bytes() == b"def f(a):\r\n    return a + 1\r\n"
    assert edited(tmp_path, "closest", **{**call, "new": call["old"]}) == SAME
    for odd in ({"path": "\0"}, {"path": 3}, {"line": "x"}, {"line": [1]}, {"path": "."}, {"old": "\ud800"}):
        assert edited(tmp_path, "closest", **{**call, **odd}).startswith("error: ")
