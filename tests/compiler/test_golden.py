"""Compiled output is pinned byte for byte. ``make golden`` refreshes it; the failure message is the difference by
meaning."""

from __future__ import annotations

import difflib
import hashlib
import json
from pathlib import Path

import pytest

from compiler import Sweep, compile_all, compile_in_memory
from tests.compiler.golden_cases import CASES, GOLDEN, PINNED_OF_SWEEPS, SWEEPS, golden_folder, spec_path


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
    assert folders == {*CASES, *SWEEPS}


@pytest.mark.parametrize(("name", "target"), SWEEPS)
def test_every_byte_of_every_point_is_pinned(name: str, target: str, tmp_path: Path) -> None:
    compiled = compile_all(spec_path(name), target=target, out=tmp_path / "sweep")
    assert isinstance(compiled, Sweep) and len(compiled.points) == 12
    for file in PINNED_OF_SWEEPS:
        assert (tmp_path / "sweep" / file).read_text() == (golden_folder(name, target) / file).read_text(), (
            "run make golden"
        )
    # The chain from the pinned lock to the bytes has no gap.
    lock = json.loads((golden_folder(name, target) / "liverl.lock").read_text())
    assert set(lock["points"]) == set(compiled.points)
    point = tmp_path / "sweep" / compiled.points[-1]
    own = (point / "liverl.lock").read_bytes()
    assert hashlib.sha256(own).hexdigest() == lock["points"][compiled.points[-1]]
    for file, digest in json.loads(own)["files"].items():
        assert hashlib.sha256((point / file).read_bytes()).hexdigest() == digest


def test_bytes_name_no_machine() -> None:
    """No time stamps, user names or absolute paths of the machine that compiled."""
    import getpass

    for path in GOLDEN.rglob("*"):
        if path.is_file():
            text = path.read_text()
            assert str(GOLDEN.parent) not in text, path
            assert f"/home/{getpass.getuser()}/" not in text, path
