"""What a target changes in the files that all share, written as a unified diff and applied again."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.compiler.golden_diff import applied, difference
from tests.toolbox import require_command

LINES = st.lists(st.sampled_from(["a: 1", "  b: 2", "  - c", "-- d", "++ e", "@@ -1 +1 @@", "", "--- f", "\x0c\u2028"]))
TEXTS = st.dictionaries(st.sampled_from(["x.yaml", "y.json"]), st.tuples(LINES, LINES), min_size=1)


@given(TEXTS)
def test_applied_to_the_old_texts_it_gives_the_new_ones(texts: dict[str, tuple[list[str], list[str]]]) -> None:
    old, new = ({name: "".join(f"{line}\n" for line in pair[side]) for name, pair in texts.items()} for side in (0, 1))
    diff = difference(old, new, folder="k8s")
    assert applied(old, diff) == new
    assert (diff == "") == (old == new)


OLD = {"a.yaml": "x:\n  y: 1\n  z:\n  - 2\nend: 3\n", "b.yaml": "one\n"}
NEW = {"a.yaml": "x:\n  y: 4\n  z:\n  - 2\nmore: 5\n", "b.yaml": "one\n"}
DIFF = """--- a.yaml
+++ ray/a.yaml
@@ -2 +2 @@ x:
-  y: 1
+  y: 4
@@ -5 +5 @@
-end: 3
+more: 5
"""


def test_hunks_have_no_context_but_name_what_they_stand_below() -> None:
    assert difference(OLD, NEW, folder="ray") == DIFF
    assert difference({**OLD, "a.yaml": OLD["a.yaml"].replace("- 2", "- 9")},
                      {**NEW, "a.yaml": NEW["a.yaml"].replace("- 2", "- 9")}, folder="ray") == DIFF  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        DIFF.replace("-  y: 1", "-  y: 7"),
        DIFF.replace("@@ -2 ", "@@ -3 "),
        DIFF.replace("--- a.yaml", "--- c.yaml"),
        DIFF.removesuffix("+more: 5\n"),
        f"<<<<<<< HEAD\n{DIFF}",
        DIFF.removesuffix("\n"),
    ],
)
def test_a_difference_that_was_not_made_from_these_texts_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError):
        applied(OLD, wrong)


def test_patch_reads_it_too(tmp_path: Path) -> None:
    for name, text in OLD.items():
        (tmp_path / name).write_text(text)
    patch = require_command("patch", package="patch")
    subprocess.run([patch, "-s", "-p0"], cwd=tmp_path, input=difference(OLD, NEW, folder="ray"), text=True, check=True)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == NEW
