"""What is known of a tree stays in the box, and nobody makes the box's own program hold more than may travel."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from runtime.sandboxes.entries import mark
from runtime.sandboxes.guest import files

HUGE = 1 << 40


def sparse(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(HUGE)


def test_what_changed_comes_and_what_is_gone_is_named(tmp_path: Path) -> None:
    for name, text in (("same", "1"), ("changed", "new"), ("added", "2")):
        (tmp_path / name).write_text(text)
    (tmp_path / "link").symlink_to("same")
    known = {
        f"{tmp_path}/{name}": mark("f", text) for name, text in (("same", b"1"), ("changed", b"old"), ("gone", b""))
    }
    known |= {str(tmp_path): mark("d", b""), f"{tmp_path}/link": mark("l", b"same")}
    found = files.tree([str(tmp_path)], 100, known)
    expected = {"changed": ("f", b"new"), "added": ("f", b"2"), "gone": ("-", b"")}
    assert found == {f"{tmp_path}/{name}": entry for name, entry in expected.items()}


@pytest.mark.parametrize("name", ["known", "new"])
def test_a_huge_file_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """As larger than what may travel, not as the end of the box for lack of memory, which would be tried again."""
    monkeypatch.setattr(files, "MAX_KNOWN", 256 << 20)
    sparse(tmp_path / name)
    tracemalloc.start()
    try:
        with pytest.raises(files.Refused, match=name):
            files.tree([str(tmp_path)], 1 << 10, {f"{tmp_path}/known": mark("f", b"")})
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
