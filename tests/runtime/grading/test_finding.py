"""In one process with the code under test: no installed release stands in for a module that an agent has taken away."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from runtime.grading.testkit.finding import Precedence


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository, and a release of its module ``calc`` that is installed elsewhere."""
    (tmp_path / "site/calc").mkdir(parents=True)
    (tmp_path / "site/calc/__init__.py").touch()
    made = tmp_path / "app"
    (made / "src").mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [str(made), *sys.path, str(tmp_path / "site")])
    return made


def found(root: Path, name: str = "calc") -> object:
    return Precedence(str(root), [str(root)], ["calc"], ["calc"]).find_spec(name)


@pytest.mark.parametrize("left", ["", "calc.txt", "calc.pyi", "calculator.py"])
def test_what_is_gone_is_nowhere(root: Path, left: str) -> None:
    if left:
        (root / left).touch()
    with pytest.raises(ModuleNotFoundError, match="No module named 'calc'"):
        found(root)


def test_a_folder_without_modules_is_no_reason_for_the_release(root: Path) -> None:
    (root / "calc").mkdir()
    spec = found(root)
    assert getattr(spec, "loader", "none") is None
    assert list(getattr(spec, "submodule_search_locations", ())) == [str(root / "calc")]


@pytest.mark.parametrize("place", ["calc.py", "calc/__init__.py", "src/calc.py"])
def test_what_is_there_is_found_as_ever(root: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in a folder that the tests themselves put on the path."""
    (root / place).parent.mkdir(exist_ok=True)
    (root / place).touch()
    if place.startswith("src"):
        monkeypatch.setattr(sys, "path", [str(root / "src"), *sys.path])
    assert found(root) is None and found(root, "json") is not None
