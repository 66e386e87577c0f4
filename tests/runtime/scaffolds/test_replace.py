"""Where an exact text is replaced, and what is said where it cannot be."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.scaffolds.shell.free_tools import SCHEMAS, FreeTools
from runtime.scaffolds.shell.replace import NoPlace, place

TEXT = "def a():\n    x = 1\n    return x\n\ndef b():\n    x = 1\n    return -x\n"
SETTINGS = {"max_edits": 9, "max_observation": 600, "first_look": None, "test_after_edit": False, "ids": None}


@given(st.lists(st.sampled_from("ab\n"), max_size=30).map("".join), st.data())
def test_it_is_where_it_occurs_once_or_where_its_line_says(text: str, data: st.DataObject) -> None:
    begin = data.draw(st.integers(0, len(text)))
    old = text[begin : begin + data.draw(st.integers(1, 4))]
    line = data.draw(st.none() | st.integers(-1, 9))
    every = [at for at in range(len(text)) if old and text.startswith(old, at)]
    there = [at for at in every if text.count("\n", 0, at) + 1 == line]
    fitting = every if len(every) == 1 else there
    if len(fitting) == 1:
        assert place(text, old, line) == fitting[0]
    else:
        with pytest.raises(NoPlace):
            place(text, old, line)


@pytest.mark.parametrize(
    ("old", "line", "said"),
    [
        ("x = 1", None, "more than once: it begins in lines 2, 6; say which one by line"),
        ("x = 1", 3, "more than once: it begins in lines 2, 6, not in line 3; say"),
        ("x", 4, "more than once: it begins in lines 2, 3, 6, 7, not in line 4"),
        ("return xx", 3, "occurs 0 times; it must occur exactly once\nMost like it:\n    3      return x"),
        ("", None, "occurs 0 times"),
        ("\n\n\n", None, "occurs 0 times"),
        ("nothing of it", None, "occurs 0 times; it must occur exactly once"),
        (" ", 2, "occurs 6 times in line 2; take more of that line"),
    ],
)
def test_what_is_said_helps_to_try_again(old: str, line: int | None, said: str) -> None:
    with pytest.raises(NoPlace) as caught:
        place(TEXT, old, line)
    assert said in str(caught.value)


def test_a_text_that_is_everywhere_names_a_few_places() -> None:
    with pytest.raises(NoPlace, match="lines 1, 2, 3, 4, 5, 6, 7, 8 and others; say"):
        place("a\n" * 100_000, "a")
    assert place("a\n" * 1000, "a", 700) == 1398
    with pytest.raises(NoPlace, match=r"8 and others, not in line 100001"):
        place("a\n" * 100_000, "a", 100_001)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (6, "wrote a.py"),
        ("6", "wrote a.py"),
        (None, "error: a.py: the old text occurs more than once"),
        ("", "error: a.py: the old text occurs more than once"),
        ("six", "error: line must be a number, not 'six'"),
        (1e400, "error: line must be a number, not inf"),
        ([6], "error: wrong arguments"),
    ],
)
def test_the_tool_takes_a_line(tmp_path: Path, line: object, said: str) -> None:
    (tmp_path / "a.py").write_text(TEXT)
    tools = FreeTools(str(tmp_path), SETTINGS)
    given = {"path": "a.py", "line": line, "old": "x = 1", "new": "x = 2"}
    assert tools.call("edit_file", json.dumps(given)).startswith(said)
    changed = said.startswith("wrote")
    assert (tmp_path / "a.py").read_text().split("\n")[5] == ("    x = 2" if changed else "    x = 1")
    assert tools.edits == int(changed)


def test_a_text_of_another_file_is_told_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(TEXT)
    (tmp_path / "b.py").write_bytes(b"import a\r\n\r\nuse = a.b\r\n")
    (tmp_path / "c.py").write_bytes(b"\xff use = a.b")
    (tmp_path / "large.py").write_text("#" * (1 << 21) + "\nuse = a.b\n")
    sources = ["c.py", "gone.py", "large.py", "a.py", "b.py"]
    tools = FreeTools(str(tmp_path), {**SETTINGS, "sources": sources})

    def said(path: str, old: str) -> str:
        return tools.call("edit_file", json.dumps({"path": path, "old": old, "new": "x"}))

    assert said("a.py", "use = a.b").endswith("must occur exactly once\nIt is in b.py, line 3.")
    assert "It is in" not in said("b.py", "x = 1\ny") and "It is in" not in said("a.py", "x = 1")
    assert "It is in" not in FreeTools(str(tmp_path), SETTINGS).call(
        "edit_file", json.dumps({"path": "a.py", "old": "use = a.b", "new": "x"})
    )


def test_a_change_of_nothing_is_no_edit(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(TEXT)
    tools = FreeTools(str(tmp_path), SETTINGS)
    said = tools.call("edit_file", json.dumps({"path": "a.py", "old": "return x", "new": "return x"}))
    assert said == "error: the new text is the old one" and tools.edits == 0


def test_only_the_line_may_be_left_out() -> None:
    (edit,) = [one["function"] for one in SCHEMAS if one["function"]["name"] == "edit_file"]
    assert edit["parameters"]["required"] == ["path", "old", "new"]
    assert list(edit["parameters"]["properties"]) == ["path", "line", "old", "new"]
