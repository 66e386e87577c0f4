"""Compiled output is pinned byte for byte. ``make golden`` refreshes it; the failure message is the difference by
meaning."""

from __future__ import annotations

import difflib

import pytest

from compiler import compile_in_memory
from tests.compiler.golden_cases import CASES, GOLDEN, golden_folder, spec_path


@pytest.mark.parametrize(("name", "target"), CASES)
def test_golden_files_are_what_the_specs_compile_to(name: str, target: str) -> None:
    compiled = compile_in_memory(spec_path(name), target=target).files
    folder = golden_folder(name, target)
    pinned = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert sorted(compiled) == sorted(pinned), "run make golden"
    different = [file for file in compiled if compiled[file] != pinned[file]]
    text = "".join(
        line
        for file in different
        for line in difflib.unified_diff(
            pinned[file].splitlines(True), compiled[file].splitlines(True), f"golden/{file}", f"compiled/{file}", n=1
        )
    )
    assert not different, f"{different}; if intended: make golden\n{text[:6000]}"


def test_every_golden_folder_has_a_case() -> None:
    folders = {(folder.parent.name, folder.name) for folder in GOLDEN.glob("*/*") if folder.is_dir()}
    assert folders == set(CASES)


def test_bytes_name_no_machine() -> None:
    """No time stamps, user names or absolute paths of the machine that compiled."""
    import getpass

    for path in GOLDEN.rglob("*"):
        if path.is_file():
            text = path.read_text()
            assert str(GOLDEN.parent) not in text, path
            assert f"/home/{getpass.getuser()}/" not in text, path
