"""Folders that cannot be written are the machine's fault, said in one line with a way out, and no bug of ours."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.command import liverl

# Root writes everywhere, unless it has given that power up.
POWERLESS = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()


def _liverl(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return liverl(*arguments, cwd=cwd, env={"PATH": os.defpath, "HOME": str(cwd), **variables}, prefix=POWERLESS)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """With a folder that lacks the right to write, and a file that is no folder."""
    (tmp_path / "locked").mkdir()
    (tmp_path / "locked").chmod(0o555)
    (tmp_path / "file").touch()
    return tmp_path


@pytest.mark.parametrize("place", ["locked", "locked/deep", "file", "file/deep"])
@pytest.mark.parametrize(
    "command",
    [
        ["run", "quickstart", "--sandbox", "process", "--runs-dir"],
        ["infer", "quickstart", "--sandbox", "process", "--runs-dir"],
        ["compile", "quickstart", "-o"],
        ["init"],
        ["tasks", "synth", "-n", "1", "--seed", "1", "-o"],
    ],
    ids=" ".join,
)
def test_it_is_said_in_words(here: Path, command: list[str], place: str) -> None:
    ended = _liverl(*command, place if command[0] != "compile" or "/" in place else f"{place}/x", cwd=here)
    assert ended.returncode in (2, 3), ended.stderr
    assert place in ended.stderr and "Traceback" not in ended.stderr and "internal fault" not in ended.stderr
    assert "another folder" in ended.stderr or "name another file or folder" in ended.stderr


def test_the_variable_names_the_folder_of_runs(here: Path) -> None:
    ended = _liverl("runs", cwd=here, LIVERL_RUNS_DIR="locked")
    assert ended.returncode == 0 and ended.stdout.startswith("no runs below locked;")
    assert "--runs-dir" not in ended.stdout, "the command that is suggested takes it from the same variable"
